"""The report's tables, as plain texts: the template escapes them and lays them out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# Columns of the tables of scores: where a value stands in scores.json, its name, its digits.
SCORES = [
    ("specificity", "specificity", 4),
    ("specificity_at_30_terms", "of the first 30 new terms", 4),
    ("new_term_f1", "new-term F1", 3),
    ("found_first", "finds its own reference", 2),
]
GAINS = [
    ("problem_gain", "problem gain, bits a byte", 4),
    ("gain_over_empty", "gain over an empty problem", 4),
    ("bits_per_byte", "bits a byte", 3),
]
OVERLAP = [
    ("bleu", "BLEU", 2),
    ("chrf", "chrF", 1),
    ("rouge1", "ROUGE-1", 3),
    ("rouge2", "ROUGE-2", 3),
    ("rougeL", "ROUGE-L", 3),
    ("bertscore_f1", "BERTScore F1", 3),
]
NAMES = {key: name for key, name, _ in (*SCORES, *GAINS, *OVERLAP)}
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
    ("new_terms", "new terms", "{:.0f}"),
]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and smaller lines beneath."""

    text: str
    beneath: Sequence[str] = ()
    style: str = ""  # "better" and "worse" have a colour, "whole" stays on one line


GATES = {True: Cell("passes", style="better"), False: Cell("fails", style="worse"), None: Cell("")}


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
    """The table of the scores that the page is about, and of the gates."""
    columns = [name for _, name, _ in (*SCORES, *GAINS)]
    table = Table(["system, decoding", *columns, "endings and repetition"])
    for label, _, about, found in each_decoding(systems):
        cells = [
            Cell(label),
            *(format_score(found["scores"][key], digits) for key, _, digits in SCORES),
            *(format_score(about[key], digits) for key, _, digits in GAINS),
            GATES[found["passes_gates"]],
        ]
        table.rows.append(Row(cells, about["kind"] == "fine-tuned"))
    return table


def list_overlap(systems: dict) -> Table:
    """The table of scores that compare a draft with its reference alone."""
    table = Table(["system, decoding", *(name for _, name, _ in OVERLAP)])
    for label, _, about, found in each_decoding(systems):
        cells = [Cell(label), *(format_score(found["scores"][key], digits) for key, _, digits in OVERLAP)]
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


def list_comparisons(comparisons: list[dict]) -> Table:
    """The planned comparisons and how they came out."""
    table = Table(["systems", "score", "difference", "95 % interval", "p (Holm)", "each run", ""])
    for row in comparisons:
        pair = [Cell(f"{row['system']} to {row['baseline']}"), Cell(NAMES[row["metric"]])]
        if row["difference"] is None:
            table.rows.append(Row([*pair, Cell("not measured"), *[Cell("")] * 4]))
            continue
        verdict = "better" if row["difference"] > 0 else "worse"
        cells = [
            Cell(f"{row['difference']:+.4f}"),
            Cell(f"{row['low']:+.4f} to {row['high']:+.4f}", style="whole"),
            Cell(f"{row['p_holm']:.4f}"),
            Cell(", ".join(f"{run:+.4f}" for run in row["runs"])),
            Cell(verdict, style=verdict) if row["holds"] else Cell("not told apart"),
        ]
        table.rows.append(Row([*pair, *cells]))
    return table


def list_power(power: dict) -> Table:
    """The smallest difference that each comparison would find with so many rows."""
    numbers = list(power["comparisons"][0]["smallest_difference_by_rows"])
    table = Table(["systems", "score", *(f"{number} rows" for number in numbers)])
    for row in power["comparisons"]:
        smallest = row["smallest_difference_by_rows"].values()
        cells = [Cell("not measured") if value is None else Cell(f"{value:.4f}") for value in smallest]
        table.rows.append(Row([Cell(f"{row['system']} to {row['baseline']}"), Cell(NAMES[row["metric"]]), *cells]))
    return table


def list_choice(choice: dict) -> Table:
    """What was measured on validation rows of every system and decoding, and what was chosen."""
    table = Table(
        ["system, decoding", "specificity", "ended by itself", "repeated 4-grams", "gates", "problem gain", ""]
    )
    for system, about in choice["systems"].items():
        for decoding, found in about["decodings"].items():
            is_chosen = decoding == about["chosen"]
            values = [(found["specificity"], "{:.4f}"), (found["share_ended"], "{:.0%}")]
            values += [(found["repeated_4grams"], "{:.1%}")]
            cells = [Cell("" if value is None else text.format(value)) for value, text in values]
            gain = about.get("problem_gain") if is_chosen else None
            cells += [GATES[found["passes_gates"]], Cell("" if gain is None else f"{gain:.4f}")]
            table.rows.append(
                Row([Cell(f"{system}, {decoding}"), *cells, Cell("chosen" if is_chosen else "")], is_chosen)
            )
    return table


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
