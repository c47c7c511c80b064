"""The report's tables, as plain texts: the template escapes them and lays them out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# Columns of the table of scores: where a value stands in scores.json, its name, its digits.
SCORES = [
    ("bleu", "BLEU", 2),
    ("chrf", "chrF", 1),
    ("rouge1", "ROUGE-1", 3),
    ("rouge2", "ROUGE-2", 3),
    ("rougeL", "ROUGE-L", 3),
    ("bertscore_f1", "BERTScore F1", 3),
]
NAMES = {
    **{key: name for key, name, _ in SCORES},
    "bits_per_byte": "bits per byte",
    **{f"gap_{key}": f"{name}, own − permuted" for key, name, _ in SCORES},
}
TWO_DIGITS = ("bleu", "chrf", "gap_bleu", "gap_chrf")  # scores from 0 to 100
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


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and smaller lines beneath."""

    text: str
    beneath: Sequence[str] = ()
    style: str = ""  # "better" and "worse" have a colour, "whole" stays on one line


@dataclass(frozen=True)
class Row:
    """A row of a table; a fine-tuned model's is set off."""

    cells: list[Cell]
    is_ours: bool = False


@dataclass(frozen=True)
class Table:
    """A table's header and rows."""

    header: list[str]
    rows: list[Row] = field(default_factory=list)


def list_scores(systems: dict) -> Table:
    """The table of scores."""
    table = Table(
        [
            "system, decoding",
            *(name for _, name, _ in SCORES),
            "ROUGE-L, own − permuted",
            "finds its own reference",
            "bits per byte",
        ]
    )
    for label, decoding, about, found in each_decoding(systems):
        bits = about["bits_per_byte"] if decoding == "greedy" else None
        cells = [
            Cell(label),
            *(format_score(found["scores"][key], digits) for key, _, digits in SCORES),
            format_score(found["own_minus_permuted"]["rougeL"], 4),
            format_score(found["found_first"], 2),
            format_score(bits, 3),
        ]
        table.rows.append(Row(cells, about["kind"] == "fine-tuned"))
    return table


def list_behaviour(systems: dict) -> Table:
    """The table of how drafts behave."""
    table = Table(["system, decoding", *(name for _, name, _ in BEHAVIOUR)])
    for label, _, about, found in each_decoding(systems):
        values = [(found["behaviour"].get(key), text) for key, _, text in BEHAVIOUR]
        cells = [Cell("" if value is None else text.format(value)) for value, text in values]
        table.rows.append(Row([Cell(label), *cells], about["kind"] == "fine-tuned"))
    return table


def each_decoding(systems: dict) -> Iterator[tuple[str, str, dict, dict]]:
    """Label, decoding, system and scores of everything that was scored."""
    for system, about in systems.items():
        for decoding, found in about["decodings"].items():
            yield system if decoding == "none" else f"{system}, {decoding}", decoding, about, found


def format_score(score: dict | None, digits: int) -> Cell:
    """A value with its interval beneath, and its spread over seeds."""
    if score is None:
        return Cell("")
    if score["value"] is None:
        return Cell("not measured")
    beneath = [f"{score['low']:.{digits}f} to {score['high']:.{digits}f}"]
    if "spread" in score:
        beneath.append(f"± {score['spread']:.{digits}f}")
    return Cell(f"{score['value']:.{digits}f}", beneath)


def list_comparisons(comparisons: list[dict]) -> tuple[Table, Table]:
    """The differences that hold, and those that do not."""
    header = ["systems", "decoding", "score", "difference", "95 % interval", "p", "p (Holm)", ""]
    held, not_held = Table(header), Table(header)
    for row in comparisons:
        digits = 2 if row["metric"] in TWO_DIGITS else 4
        lower_is_better = row["metric"] == "bits_per_byte"
        verdict = "better" if (row["difference"] > 0) != lower_is_better else "worse"
        holds = row["p_holm"] < 0.05
        cells = [
            Cell(f"{row['system']} to {row['baseline']}"),
            Cell(row["decoding"]),
            Cell(NAMES[row["metric"]]),
            Cell(f"{row['difference']:+.{digits}f}"),
            Cell(f"{row['low']:+.{digits}f} to {row['high']:+.{digits}f}", style="whole"),
            Cell(f"{row['p']:.4f}"),
            Cell(f"{row['p_holm']:.4f}"),
            Cell(verdict, style=verdict) if holds else Cell("not told apart"),
        ]
        (held if holds else not_held).rows.append(Row(cells))
    return held, not_held


def list_spreads(training_spread: dict) -> list[str]:
    """The spread of each score over several trainings, a line each."""
    return [
        f"{decoding}, {NAMES[score]}: {value['mean']:.4f} ± {value['spread']:.4f} over {value['models']} models"
        for decoding, found in training_spread.items()
        for score, value in found.items()
    ]


def list_copying(copying: dict) -> list[dict]:
    """What each system's drafts share with the training rows, beside references and unseen rows."""
    parts = []
    for system, decodings in copying.items():
        for decoding, found in decodings.items():
            groups = [name for name in ("drafts", "references", "unseen training rows") if name in found]
            rows = [Row([Cell(name), *map(Cell, format_overlap(found[name]))]) for name in groups]
            header = ["", "shared run, mean words", "longest of all", "shared 8-grams", "citation-like, a text"]
            parts.append(
                {
                    "system": system,
                    "decoding": decoding,
                    "rows_seen": f"{found['rows_seen']:,}",
                    "recorded": found["record_of_the_run"],
                    "table": Table(header, rows),
                    "worst": [
                        {name: row[name] for name in ("id", "words", "training_id")}
                        for row in found["drafts"]["worst"]
                    ],
                }
            )
    return parts


def format_overlap(values: dict) -> list[str]:
    """What a group of texts shares with the training rows, as the table shows it."""
    share = values["share_of_8grams"]
    citations = ", ".join(f"{kind} {number:.2f}" for kind, number in values["citations_a_text"].items())
    return [
        f"{values['mean_longest_run']:.1f}",
        str(values["longest_run"]),
        "" if share is None else f"{share:.1%}",
        citations or "none",
    ]
