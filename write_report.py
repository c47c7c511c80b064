# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "matplotlib==3.11.2",
# ]
# ///
"""
Make one page of an evaluation: scores with intervals, which differences hold, drafts side by side, what was copied.

Reads `scores.json` and `predictions.jsonl`, which `evaluate_model.py` wrote, and the run's `run.json` if named; writes
one `report.html` that needs no network.

    python write_report.py outputs/scores
    python write_report.py outputs/scores --run outputs/adapter --output report.html
"""

import argparse
import io
import json
import random
import sys
from html import escape
from pathlib import Path

# Columns of the table of scores: where a value stands in scores.json, its name, its digits.
SCORES = [
    ("bleu", "BLEU", 2),
    ("chrf", "chrF", 1),
    ("rouge1", "ROUGE-1", 3),
    ("rouge2", "ROUGE-2", 3),
    ("rougeL", "ROUGE-L", 3),
    ("bertscore_f1", "BERTScore F1", 3),
]
NAMES = {key: name for key, name, _ in SCORES} | {"bits_per_byte": "bits per byte"}
NAMES |= {f"gap_{key}": f"{name}, own − permuted" for key, name, _ in SCORES}
BEHAVIOUR = [
    ("share_ended", "ended by itself", "{:.0%}"),
    ("share_at_budget", "cut at the budget", "{:.0%}"),
    ("share_empty", "empty", "{:.0%}"),
    ("mean_words", "words", "{:.0f}"),
    ("length_ratio", "length to reference", "{:.2f}"),
    ("brevity_penalty", "brevity penalty", "{:.2f}"),
    ("distinct_1", "distinct words", "{:.3f}"),
    ("distinct_2", "distinct pairs", "{:.3f}"),
    ("repeated_4grams", "repeated 4-grams", "{:.1%}"),
    ("problem_overlap", "words of the problem", "{:.1%}"),
]
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #2a9070; --warn: #c2631d; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p, li { max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .45rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { min-width: 9rem; text-align: left; } thead th { vertical-align: bottom; }
td small { display: block; opacity: .7; } td small, .whole { white-space: nowrap; }
tr.ours { background: var(--soft); font-weight: 600; } tr.ours small { font-weight: 400; }
.better { color: var(--mark); font-weight: 600; } .worse { color: var(--warn); font-weight: 600; }
.drafts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.drafts div { border: 1px solid var(--line); border-radius: .4rem; overflow-wrap: anywhere; padding: .2rem .9rem; }
.drafts h4 { margin: .6rem 0 0; } svg { height: auto; max-width: 100%; }
summary { cursor: pointer; }
"""


def read_inputs(scores_dir: Path, run_dir: Path | None) -> tuple[dict, list[dict], dict | None]:
    """The three records; ends with one line that names the file where one cannot be read."""
    try:
        path = scores_dir / "scores.json"
        scores = json.loads(path.read_text(encoding="utf-8"))
        path = scores_dir / "predictions.jsonl"
        with path.open(encoding="utf-8") as lines:
            predictions = [json.loads(line) for line in lines]
        if run_dir is None:
            return scores, predictions, None
        path = run_dir / "run.json"
        return scores, predictions, json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error.strerror if isinstance(error, OSError) else 'no JSON'}; evaluate_model.py writes it")


def table(header: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """An HTML table of cells that are HTML already; each row comes with its class."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f'<tr class="{name}">' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>" for name, cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(score: dict | None, digits: int) -> str:
    """A value with its interval beneath."""
    if score is None:
        return ""
    if score["value"] is None:
        return "not measured"
    interval = f"{score['low']:.{digits}f} to {score['high']:.{digits}f}"
    seeds = f"<small>± {score['spread']:.{digits}f}</small>" if "spread" in score else ""
    return f"{score['value']:.{digits}f}<small>{interval}</small>{seeds}"


def score_table(scores: dict) -> str:
    header = ["system, decoding", *(name for _, name, _ in SCORES), "ROUGE-L, own − permuted"]
    header += ["finds its own reference", "bits per byte"]
    rows = []
    for system, about in scores["systems"].items():
        for decoding, found in about["decodings"].items():
            label = escape(system) + ("" if decoding == "none" else f", {decoding}")
            cells = [number(found["scores"][key], digits) for key, _, digits in SCORES]
            cells += [number(found["own_minus_permuted"]["rougeL"], 4), number(found["found_first"], 2)]
            cells.append(number(about["bits_per_byte"], 3) if decoding == "greedy" else "")
            rows.append(("ours" if about["kind"] == "fine-tuned" else "", [label, *cells]))
    return table(header, rows)


def comparison_tables(scores: dict) -> str:
    """The differences that hold, and folded away those that do not."""
    groups: dict[bool, list] = {True: [], False: []}
    for row in scores["comparisons"]:
        pair = f"{escape(row['system'])} to {escape(row['baseline'])}"
        digits = 2 if row["metric"] in ("bleu", "chrf", "gap_bleu", "gap_chrf") else 4
        interval = f'<span class="whole">{row["low"]:+.{digits}f} to {row["high"]:+.{digits}f}</span>'
        lower_is_better = row["metric"] == "bits_per_byte"
        verdict = "better" if (row["difference"] > 0) != lower_is_better else "worse"
        cells = [pair, row["decoding"], NAMES[row["metric"]], f"{row['difference']:+.{digits}f}", interval]
        cells += [f"{row['p']:.4f}", f"{row['p_holm']:.4f}"]
        holds = row["p_holm"] < 0.05
        groups[holds].append(
            ("", [*cells, f'<span class="{verdict}">{verdict}</span>' if holds else "not told apart"])
        )
    header = ["systems", "decoding", "score", "difference", "95 % interval", "p", "p (Holm)", ""]
    held = table(header, groups[True]) if groups[True] else "<p>None.</p>"
    rest = f"<details><summary>{len(groups[False])} that do not</summary>{table(header, groups[False])}</details>"
    return held + (rest if groups[False] else "")


def draw(plot) -> str:
    """A plot as inline SVG, legible on light and on dark pages."""
    import matplotlib
    from matplotlib.figure import Figure  # pyplot would look for a display

    grey = "#888888"
    style = {"svg.hashsalt": "report", "text.color": grey, "axes.labelcolor": grey, "axes.edgecolor": grey}
    style |= {"xtick.color": grey, "ytick.color": grey, "legend.frameon": False, "legend.labelcolor": grey}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        plot(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend()
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]  # without the XML and document type lines


def loss_curve(run: dict) -> str:
    def plot(axes):
        for key, label, marker in (("loss", "training", ""), ("eval_loss", "validation", "o")):
            if points := [(entry["step"], entry[key]) for entry in run["losses"] if key in entry]:
                axes.plot(*zip(*points, strict=True), label=label, marker=marker)
        axes.set(xlabel="step", ylabel="loss a token of the approach (nats)")

    return draw(plot)


def length_plot(predictions: list[dict], shown: list[str]) -> str:
    def plot(axes):
        greedy = [row for row in predictions if row["decoding"] == "greedy"]
        texts = {"references": [row["reference"] for row in greedy if row["system"] == shown[0]]}
        texts |= {name: [row["prediction"] for row in greedy if row["system"] == name] for name in shown}
        lengths = {name: [len(text.split()) for text in group] for name, group in texts.items()}
        bins = range(0, max(max(group) for group in lengths.values()) + 20, 10)
        for name, group in lengths.items():
            axes.hist(group, bins=bins, histtype="step", linewidth=1.8, label=name)
        axes.set(xlabel="words", ylabel="drafts")

    return draw(plot)


def behaviour_table(scores: dict) -> str:
    rows = []
    for system, about in scores["systems"].items():
        for decoding, found in about["decodings"].items():
            values = [found["behaviour"].get(key) for key, _, _ in BEHAVIOUR]
            formats = [text for _, _, text in BEHAVIOUR]
            cells = ["" if v is None else text.format(v) for v, text in zip(values, formats, strict=True)]
            label = escape(system) + ("" if decoding == "none" else f", {decoding}")
            rows.append(("ours" if about["kind"] == "fine-tuned" else "", [label, *cells]))
    return table(["system, decoding", *(name for _, name, _ in BEHAVIOUR)], rows)


def draft_cards(predictions: list[dict], shown: list[str]) -> str:
    """Best, median and worst greedy drafts of the first system by ROUGE-L, and three at random, beside the others'."""
    by_id: dict[str, dict] = {}
    for row in predictions:
        if row["decoding"] == "greedy" and row["system"] in shown:
            by_id.setdefault(row["id"], {})[row["system"]] = row
    order = sorted(by_id, key=lambda i: (by_id[i][shown[0]]["rougeL"] or 0.0, i))
    chosen = {"Best": order[-1], "Median": order[len(order) // 2], "Worst": order[0]}
    rest = sorted(set(order) - set(chosen.values()))
    drawn = random.Random(0).sample(rest, min(3, len(rest)))
    chosen |= {f"At random, {number}": i for number, i in enumerate(drawn, 1)}
    parts = []
    for label, i in chosen.items():
        rows = by_id[i]
        ours = rows[shown[0]]
        cells = [f"<div><h4>The authors</h4><p>{escape(ours['reference'])}</p></div>"]
        for system in shown:
            row = rows[system]
            score = "not measured" if row["rougeL"] is None else f"{row['rougeL']:.3f}"
            text = escape(row["prediction"]) or "<em>(empty)</em>"
            cells.append(f"<div><h4>{escape(system)} <small>ROUGE-L {score}</small></h4><p>{text}</p></div>")
        parts.append(
            f"<h3>{label} <small>{escape(str(i))}</small></h3>"
            f"<p><strong>Problem.</strong> {escape(ours['problem'])}</p>"
            f'<div class="drafts">{"".join(cells)}</div>'
        )
    return "".join(parts)


def copying_tables(scores: dict) -> str:
    parts = []
    for system, decodings in scores["copying"].items():
        for decoding, found in decodings.items():
            rows = []
            for group in ("drafts", "references", "unseen training rows"):
                if values := found.get(group):
                    share = values["share_of_8grams"]
                    invented = ", ".join(f"{kind} {n:.2f}" for kind, n in values["citations_a_text"].items()) or "none"
                    cells = [f"{values['mean_longest_run']:.1f}", str(values["longest_run"])]
                    rows.append(("", [group, *cells, "" if share is None else f"{share:.1%}", invented]))
            header = ["", "shared run, mean words", "longest of all", "shared 8-grams", "citation-like, a text"]
            worst = "".join(
                f"<li>{escape(str(row['id']))}: {row['words']} words of {escape(str(row['training_id']))}</li>"
                for row in found["drafts"]["worst"]
            )
            told = "" if found["record_of_the_run"] else " (no record of the run: all training rows are taken as seen)"
            parts.append(
                f"<h3>{escape(system)}, {decoding}: against the {found['rows_seen']:,} training rows it saw{told}</h3>"
                f"{table(header, rows)}<details><summary>The ten longest runs</summary><ul>{worst}</ul></details>"
            )
    return "".join(parts)


def build_page(scores: dict, predictions: list[dict], run: dict | None) -> str:
    systems, best = scores["systems"], scores["best_base"]
    tuned = [name for name, about in systems.items() if about["kind"] == "fine-tuned"]
    shown = [*tuned, best["drafts"]]
    held = sum(row["p_holm"] < 0.05 for row in scores["comparisons"])
    encoder = scores["bertscore_model"]
    if encoder != "roberta-large":
        encoder += ", a stand-in for roberta-large"
    spread = "".join(
        f"<li>{decoding}, {NAMES[score]}: {v['mean']:.4f} ± {v['spread']:.4f} over {v['models']} models</li>"
        for decoding, found in scores["training_spread"].items()
        for score, v in found.items()
    )
    data, base = scores["dataset"], str(systems[best["drafts"]]["model"])
    models = ", ".join(str(systems[name]["model"]) for name in tuned)
    training = ""
    if run:
        facts = f"{run['steps']} steps on {run['dataset']['rows']:,} rows of {escape(run['dataset']['name'])}"
        facts += f", {escape(run['device'])}, {run['seconds'] / 60:.0f} minutes of training steps"
        training = f"<h2>The run</h2><p>{facts}.</p>{loss_curve(run)}"
    signatures = "".join(f"<li><code>{escape(text)}</code></li>" for text in scores["signatures"].values())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Drafts of approaches, scored</title><style>{STYLE}</style></head><body>
<h1>{escape(models)}: drafts for {scores["num_examples"]} problems</h1>
<p>From the {escape(data["split"])} split of {escape(data["name"])}, compared with the authors' own approaches. The
base is {escape(base)}; of the ways to ask it, “{escape(best["drafts"])}” did best on validation problems, and
comparisons are with that one. BERTScore's encoder is {escape(encoder)}.</p>
<h2>Scores</h2>{score_table(scores)}
<p>Beneath each value its 95 % interval, from {scores["resamples"]:,} resamples of the problems, and of sampled drafts
the spread (±) over seeds. “Own − permuted” is
what is lost when every draft is held against another problem's approach: a writer of abstracts in general loses
nothing. “Finds its own reference”: the share of drafts nearest, by BM25, to their own reference among 100. Bits per
byte are of the authors' approaches under each model: less is better.</p>
<h2>Which differences hold</h2>
<p>{held} of {len(scores["comparisons"])} declared differences, at p &lt; 0.05 by paired resampling after Holm's
correction. Resampling problems says nothing of what another training run would give.</p>
{comparison_tables(scores)}{f"<p>Over several trainings:</p><ul>{spread}</ul>" if spread else ""}
{training}
<h2>How drafts behave</h2>{behaviour_table(scores)}{length_plot(predictions, shown)}
<h2>Drafts side by side</h2>{draft_cards(predictions, shown)}
<h2>What was copied, what was invented</h2>
<p>Shared runs of words with the training rows; the same for the authors' approaches and for training rows that the run
did not see is what a field shares without copying. Citation-like strings of a draft are invented.</p>
{copying_tables(scores)}
<h2>What these scores cannot say</h2>
<ul><li>An approach may be good and share few words with the authors': these metrics know one answer to each
problem.</li><li>None of them knows whether an approach is new, feasible or true.</li>
<li>The base may have read the test abstracts before this training: then its drafts and its bits per byte are too good,
and so are those of the model tuned from it.</li></ul>
<details><summary>Signatures</summary><ul>{signatures}</ul></details>
</body></html>
"""


def write_page(page: str, output: Path) -> None:
    """Beside, then renamed: the page appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(output)


def main(args: argparse.Namespace) -> None:
    output = args.output or args.scores / "report.html"
    if output.exists() and not args.overwrite:
        sys.exit(f"{output} is there already: choose another --output or add --overwrite")
    write_page(build_page(*read_inputs(args.scores, args.run)), output)
    print(f"Wrote {output}")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One page of an evaluation, that needs no network.")
    parser.add_argument("scores", type=Path, help="Folder that evaluate_model.py wrote.")
    parser.add_argument("--run", type=Path, help="Folder with run.json of the training, for its loss curve.")
    parser.add_argument("--output", type=Path, help="The page; SCORES/report.html unless named.")
    parser.add_argument("--overwrite", action="store_true", help="Replace a page that is there.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_arguments())
