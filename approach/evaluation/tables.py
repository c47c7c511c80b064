"""The report's tables, as plain texts: the template escapes them and lays them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from approach.metrics import METRICS, Score, list_table

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
    style: str = ""  # "better" and "worse" have a colour, "unbroken" stays on one line


CHECKS = {True: Cell("passes", style="better"), False: Cell("fails", style="worse"), None: Cell("")}


@dataclass(frozen=True)
class Row:
    """A row of a table; a fine-tuned model's is set off."""

    cells: list[Cell]
    is_highlighted: bool = False


@dataclass(frozen=True)
class Table:
    """A table's header and rows."""

    header: list[str]
    rows: list[Row] = field(default_factory=list)


def build_scores_table(systems: dict) -> Table:
    """The table of the scores that the page is about, and of the quality checks."""
    columns = list_table("specificity") | list_table("gain")
    table = build_metrics_table(systems, columns)
    table.header.append("quality checks")
    for row, (_, _, found) in zip(table.rows, list_decodings(systems), strict=True):
        row.cells.append(CHECKS[found["passes_gates"]])
    return table


def build_overlap_table(systems: dict) -> Table:
    """The table of the scores that compare a draft with its reference alone."""
    return build_metrics_table(systems, list_table("overlap"))


def build_claims_table(systems: dict) -> Table:
    """The table of what drafts claim although nothing was measured yet."""
    return build_metrics_table(systems, list_table("claims"))


def build_metrics_table(systems: dict, columns: Mapping[str, Score]) -> Table:
    """A column for each of METRICS that is given, a row for each system and decoding."""
    table = Table(["system, decoding", *(score.label for score in columns.values())])
    for label, entry, found in list_decodings(systems):
        values = entry | found["scores"]  # gains are the system's, whatever the decoding
        cells = [format_cell(values.get(name), score.digits) for name, score in columns.items()]
        table.rows.append(Row([Cell(label), *cells], entry["kind"] == "fine-tuned"))
    return table


def build_behaviour_table(systems: dict) -> Table:
    """The table of how drafts behave."""
    table = Table(["system, decoding", *(name for _, name, _ in BEHAVIOUR)])
    for label, entry, found in list_decodings(systems):
        values = [(found["behaviour"].get(key), form) for key, _, form in BEHAVIOUR]
        cells = [Cell("" if value is None else form.format(value)) for value, form in values]
        table.rows.append(Row([Cell(label), *cells], entry["kind"] == "fine-tuned"))
    return table


def list_decodings(systems: dict) -> list[tuple[str, dict, dict]]:
    """Label, system and scores of everything that was scored."""
    return [
        (name if decoding == "none" else f"{name}, {decoding}", entry, found)
        for name, entry in systems.items()
        for decoding, found in entry["decodings"].items()
    ]


def format_cell(score: dict | None, digits: int) -> Cell:
    """A value with its interval beneath, and its spread over seeds."""
    if score is None:
        return Cell("")
    if score["value"] is None:
        return Cell("not measured")
    beneath = [f"{score['low']:.{digits}f} to {score['high']:.{digits}f}"]
    if "spread" in score:
        beneath.append(f"± {score['spread']:.{digits}f}")
    return Cell(f"{score['value']:.{digits}f}", beneath)


def build_comparisons_table(comparisons: list[dict]) -> Table:
    """The planned comparisons and how they came out."""
    table = Table(["systems", "score", "difference", "95 % interval", "p (Holm)", "each run", ""])
    for row in comparisons:
        pair = [Cell(f"{row['system']} to {row['baseline']}"), Cell(METRICS[row["metric"]].label)]
        if row["difference"] is None:
            table.rows.append(Row([*pair, Cell("not measured"), *[Cell("")] * 4]))
            continue
        outcome = "better" if row["difference"] > 0 else "worse"
        cells = [
            Cell(f"{row['difference']:+.4f}"),
            Cell(f"{row['low']:+.4f} to {row['high']:+.4f}", style="unbroken"),
            Cell(f"{row['p_holm']:.4f}"),
            Cell(", ".join(f"{run:+.4f}" for run in row["runs"])),
            Cell(outcome, style=outcome) if row["holds"] else Cell("not told apart"),
        ]
        table.rows.append(Row([*pair, *cells]))
    return table


def build_power_table(power: dict) -> Table:
    """The smallest difference that each comparison would find, by the number of rows."""
    numbers = list(power["comparisons"][0]["smallest_difference_by_rows"])
    table = Table(["systems", "score", *(f"{number} rows" for number in numbers)])
    for row in power["comparisons"]:
        smallest = row["smallest_difference_by_rows"].values()
        cells = [Cell("not measured") if value is None else Cell(f"{value:.4f}") for value in smallest]
        table.rows.append(
            Row([Cell(f"{row['system']} to {row['baseline']}"), Cell(METRICS[row["metric"]].label), *cells])
        )
    return table


def build_choice_table(choice: dict) -> Table:
    """What was measured on validation rows of every system and decoding, and what was chosen."""
    table = Table(
        [
            "system, decoding",
            "specificity",
            "ended by itself",
            "repeated 4-grams",
            "quality checks",
            "problem gain",
            "",
        ]
    )
    for system, entry in choice["systems"].items():
        for decoding, found in entry["decodings"].items():
            is_chosen = decoding == entry["chosen"]
            values = [(found["specificity"], "{:.4f}"), (found["share_ended"], "{:.0%}")]
            values += [(found["repeated_4grams"], "{:.1%}")]
            cells = [Cell("" if value is None else text.format(value)) for value, text in values]
            gain = entry.get("problem_gain") if is_chosen else None
            cells += [CHECKS[found["passes_gates"]], Cell("" if gain is None else f"{gain:.4f}")]
            table.rows.append(
                Row([Cell(f"{system}, {decoding}"), *cells, Cell("chosen" if is_chosen else "")], is_chosen)
            )
    return table


def build_copying_tables(copying: dict) -> list[dict]:
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
