"""Ratings as they come back: files checked line by line against the key, and read as what was said of which draft."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from approach.errors import UserError, user_errors
from approach.review.candidates import System
from approach.review.questions import ABOUT_DRAFTS, BETTER, QUESTIONS
from approach.storage import hash_file

NEEDED = ["sheet", "rater", "item", *(question.name for question in QUESTIONS)]
ANSWERS = {question.name: {text.lower(): value for text, value in question.answers.items()} for question in QUESTIONS}


@dataclass(frozen=True)
class DraftRating:
    """What a rater said of one draft: 0 or 1, or 1 to 5, by question; a question left open is not there."""

    rater: int
    problem: int
    system: int
    answers: Mapping[str, int]


@dataclass(frozen=True)
class PairRating:
    """Which of two systems' drafts a rater found better: 1 the first, -1 the second, 0 neither; the first is lower."""

    rater: int
    problem: int
    systems: tuple[int, int]
    preferred: int


@dataclass(frozen=True)
class Repeat:
    """A question that a rater answered twice, and whether with the same answer."""

    rater: int
    question: str
    is_same: bool


@dataclass(frozen=True)
class Ratings:
    """All that the raters said; `lines` are each problem's lines in predictions.jsonl, by system."""

    systems: list[System]
    lines: list[list[int]]
    raters: list[int]
    drafts: list[DraftRating] = field(default_factory=list)
    pairs: list[PairRating] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)


@dataclass(frozen=True)
class KeyItem:
    """Of what an item was made: for whom, of which problem and systems, and which item it repeats."""

    rater: int
    problem: int
    systems: list[int]
    repeats: str | None


@dataclass(frozen=True)
class Key:
    """The key of a sheet, as `sheet.make_sheet` made it."""

    sheet: str
    predictions_sha256: str
    systems: list[System]
    lines: list[list[int]]
    items: Mapping[str, KeyItem]


def read_ratings(paths: Sequence[str], key_path: Path, scores_dir: Path) -> Ratings:
    """The ratings in these files, one a rater; raises UserError that names file and row where one is not right."""
    key = read_key(key_path)
    predictions = scores_dir / "predictions.jsonl"
    if predictions.is_file() and hash_file(predictions) != key.predictions_sha256:
        raise UserError(
            f"{key_path}: its sheet was made from other drafts than {predictions}: name the scores it is of"
        )
    files: dict[int, str] = {}
    found: dict[str, dict[str, int]] = {}
    for path in paths:
        for row, rater, item, answers in read_file(path, key):
            if files.setdefault(rater, path) != path:
                raise UserError(
                    f"{path}, row {row}: {files[rater]} holds ratings of rater {rater}, too: give one of them"
                )
            found[item] = answers
    filled = [name for name in key.items if found.get(name)]  # in the sheet's order, whatever the files' order is
    if not filled:
        raise UserError(f"--ratings {' '.join(paths)}: nothing is filled in")
    ratings = Ratings(key.systems, key.lines, sorted({key.items[name].rater for name in filled}))
    for name in filled:
        add_answers(key.items[name], found[name], found.get(key.items[name].repeats, {}), ratings)
    return ratings


def read_key(path: Path) -> Key:
    """The key; raises UserError where there is none, or it is not as `review_sheet.py` writes it."""
    if not path.is_file():
        raise UserError(f"{path}: there is no key; name the one that review_sheet.py wrote with --key")
    with user_errors(path, hint="; review_sheet.py writes it"):
        record = json.loads(path.read_text(encoding="utf-8"))
        systems = [System(**system) for system in record["systems"]]
        lines = [problem["lines"] for problem in record["problems"]]
        items = {name: KeyItem(**about) for name, about in record["items"].items()}
        for item in items.values():
            _ = [lines[item.problem][system] + item.rater for system in item.systems]  # raises where there is none
        return Key(record["sheet"], record["predictions_sha256"], systems, lines, items)


def add_answers(item: KeyItem, answers: Mapping[str, int], before: Mapping[str, int], ratings: Ratings) -> None:
    """Adds what was said of an item to the ratings; of one that repeats another, whether it was the same as before."""
    if item.repeats:
        for name in [name for name in answers if name in before]:
            expected = -before[name] if name == BETTER.name else before[name]  # a repeated pair has its sides changed
            ratings.repeats.append(Repeat(item.rater, name, answers[name] == expected))
    elif len(item.systems) == 1:
        ratings.drafts.append(DraftRating(item.rater, item.problem, item.systems[0], answers))
    else:
        one, other = item.systems
        preferred = answers[BETTER.name] * (1 if one < other else -1)
        ratings.pairs.append(PairRating(item.rater, item.problem, (min(one, other), max(one, other)), preferred))


def read_file(path: str, key: Key) -> Iterator[tuple[int, int, str, dict[str, int]]]:
    """Row, rater, item and answers of every row of a file that is filled in or not."""
    seen: dict[str, int] = {}
    for row, cells in read_rows(path):
        place = f"{path}, row {row}"
        if cells["sheet"] != key.sheet:
            raise UserError(f"{place}: sheet is {cells['sheet']!r}, but the key is of sheet {key.sheet!r}")
        item, about = cells["item"], key.items.get(cells["item"])
        if about is None:
            raise UserError(f"{place}: item {item!r} is not in the key: put back the id that the sheet had")
        if cells["rater"] != str(about.rater):
            raise UserError(f"{place}: item {item!r} is rater {about.rater}'s, but rater is {cells['rater']!r}")
        if item in seen:
            raise UserError(f"{place}: item {item!r} is in row {seen[item]}, too: remove one of them")
        seen[item] = row
        asked = [BETTER] if len(about.systems) == 2 else ABOUT_DRAFTS
        yield row, about.rater, item, read_answers(cells, [question.name for question in asked], place)


def read_answers(cells: Mapping[str, str], asked: Sequence[str], place: str) -> dict[str, int]:
    """The answers of a row to what it asks; raises UserError that names the row where one cannot be."""
    answers = {}
    for question in QUESTIONS:
        name, text = question.name, cells[question.name]
        if not text:
            continue
        if name not in asked:
            raise UserError(
                f"{place}: {name} is {text[:20]!r}, but this row asks for {', '.join(asked)}: leave it empty"
            )
        if text.lower() not in ANSWERS[name]:
            wanted = ", ".join(question.answers)
            raise UserError(f"{place}: {name} is {text[:20]!r}: it must be one of {wanted}, or empty")
        answers[name] = ANSWERS[name][text.lower()]
    return answers


def read_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """
    The rows of a CSV file as a spreadsheet counts them, the header being row 1, with what is needed of each.

    A spreadsheet may have saved it with semicolons or tabs, and the texts, which are not read, in another encoding.
    """
    row = 1
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
        header = text.partition("\n")[0]
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
        columns = [name.strip().lower() for name in next(lines, [])]
        for name in NEEDED:
            if name not in columns:
                raise UserError(
                    f"{path}, row 1: there is no column {name!r}; the sheet's columns are {', '.join(NEEDED)}"
                )
        for row, cells in enumerate(lines, start=2):
            if any(cell.strip() for cell in cells):
                filled = dict(zip(columns, cells, strict=False))
                yield row, {name: filled.get(name, "").strip() for name in NEEDED}
    except OSError as error:
        raise UserError(f"--ratings {path}: {error.strerror}") from error
    except csv.Error as error:
        raise UserError(f"{path}, row {row + 1}: {error}") from error
