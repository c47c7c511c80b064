"""The report's plots, as SVG that stands in the page itself."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which would look for a display

GREY = "#888888"  # legible on light and on dark pages
COLOURS = {  # legible on both, too
    "fine-tuned": "#2a9070",
    "compared": "#4f83c4",
    "base": "#c8691f",
    "no model": GREY,
    "predictions": "#9a6fc0",
}
STYLE = {
    "svg.hashsalt": "report",  # the same ids, and so the same bytes, every time
    "text.parse_math": False,  # a `$` in a system's name is a dollar
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
}


@dataclass(frozen=True)
class Dot:
    """A system's value and interval in a plot."""

    name: str
    kind: str  # one of COLOURS
    value: float
    low: float
    high: float
    line: str = ""  # a matplotlib line style


def plot_losses(losses: Sequence[Mapping]) -> str:
    """Training and validation loss by step."""

    def plot(axes: Axes) -> None:
        for key, label, marker in (("loss", "training", ""), ("eval_loss", "validation", "o")):
            if points := [(entry["step"], entry[key]) for entry in losses if key in entry]:
                axes.plot(*zip(*points, strict=True), label=label, marker=marker)
        axes.set(xlabel="step", ylabel="loss a token of the approach (nats)")

    return draw(plot)


def plot_lengths(texts: Mapping[str, Sequence[str]]) -> str:
    """How many words the texts of each group have."""
    lengths = {name: [len(text.split()) for text in group] for name, group in texts.items()}
    bins = range(0, max(max(group) for group in lengths.values()) + 20, 10)

    def plot(axes: Axes) -> None:
        for name, group in lengths.items():
            axes.hist(group, bins=bins, histtype="step", linewidth=1.8, label=name)
        axes.set(xlabel="words", ylabel="drafts")

    return draw(plot)


def plot_dots(title: str, dots: Sequence[Dot]) -> str:
    """
    A score of every system as a dot with its interval, one below the other; a dot's `line` runs through all of them.

    What lies more than twice as far from 0 as all others is written at the edge: it would press them together.
    """
    reach = sorted(max(abs(dot.low), abs(dot.high), abs(dot.value)) for dot in dots)
    limit = 2 * reach[-2] if len(reach) > 1 and reach[-1] > 2 * reach[-2] > 0 else reach[-1]

    def plot(axes: Axes) -> None:
        for place, dot in enumerate(dots):
            if abs(dot.value) > limit:
                axes.annotate(
                    f"{dot.value:.3f} →", (1, place), xycoords=("axes fraction", "data"), ha="right", va="center"
                )
                continue
            errors = [[dot.value - dot.low], [dot.high - dot.value]]
            axes.errorbar(dot.value, place, xerr=errors, fmt="o", color=COLOURS[dot.kind], markersize=6, linewidth=2)
            if dot.line:
                axes.axvline(dot.value, color=GREY, linewidth=1, linestyle=dot.line, alpha=0.7)
        axes.axvline(0, color=GREY, linewidth=0.8)
        names = ["\n".join(textwrap.wrap(dot.name, 26)) for dot in dots]
        axes.set_yticks(range(len(dots)), names)
        for text, dot in zip(axes.get_yticklabels(), dots, strict=True):
            text.set_color(COLOURS[dot.kind])
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(title)

    return draw(plot, (6.2, 0.9 + 0.42 * len(dots)))


def draw(plot: Callable[[Axes], None], size: tuple[float, float] = (8, 3.6)) -> str:
    """A plot as inline SVG, in which matplotlib has escaped every text: the page takes it as it is."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        plot(axes)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]  # without the XML and document type lines
