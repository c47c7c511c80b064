"""The report's plots, as SVG that stands in the page itself."""

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which would look for a display

GREY = "#888888"  # legible on light and on dark pages
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


def draw(plot: Callable[[Axes], None]) -> str:
    """A plot as inline SVG, in which matplotlib has escaped every text: the page takes it as it is."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        plot(axes)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]  # without the XML and document type lines
