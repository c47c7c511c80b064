"""The sheet as files: a page and spreadsheets for the raters, and apart from them the key to who wrote what."""

import base64
import csv
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from approach.review.candidates import Problem, System
from approach.review.design import Item
from approach.review.questions import ABOUT_DRAFTS, BETTER, QUESTIONS
from approach.storage import write_json
from approach.templates import HTML_TEMPLATES, read_template

FOR_RATERS, KEY = "for_raters", "key.json"
PAGE, INSTRUCTIONS = "review.html", "instructions.html"
LETTERS = "bcdfghjkmnpqrstv"  # no digits, which a spreadsheet would read as a number or a date, and no words
COLUMNS = ["sheet", "rater", "item", "problem", "draft_a", "draft_b", *(question.name for question in QUESTIONS)]
FORMULA = ("=", "+", "-", "@")  # a cell that begins so is computed by a spreadsheet


@dataclass(frozen=True)
class Sheet:
    """A sheet: for each rater the items as `{"id", "problem", "drafts"}`, and the key."""

    name: str
    raters: list[list[dict]]
    key: dict


def make_sheet(
    problems: Sequence[Problem],
    systems: Sequence[System],
    design: Sequence[Sequence[Item]],
    source: dict,
    rng: random.Random,
) -> Sheet:
    """Fills a design with texts, gives every item an id, and keeps in the key who wrote what, and the `source`."""
    ids = draw_ids(sum(map(len, design)), rng)
    raters, items = [], {}
    for number, places in enumerate(design, start=1):
        own = [ids.pop() for _ in places]
        shown = []
        for item_id, item in zip(own, places, strict=True):
            problem = problems[item.problem]
            drafts = [problem.drafts[system] for system in item.systems]
            shown.append({"id": item_id, "problem": problem.text, "drafts": drafts})
            repeats = None if item.repeats is None else own[item.repeats]
            about = {"rater": number, "problem": item.problem, "systems": list(item.systems), "repeats": repeats}
            items[item_id] = about
        raters.append(shown)
    digest = hashlib.sha256(json.dumps(raters).encode()).hexdigest()[:8]
    key = {
        "sheet": digest.translate(str.maketrans("0123456789abcdef", LETTERS)),
        **source,
        "raters": len(design),
        "systems": [system.record() for system in systems],
        "problems": [{"id": problem.id, "lines": problem.lines} for problem in problems],
        "items": items,
    }
    return Sheet(key["sheet"], raters, key)


def draw_ids(number: int, rng: random.Random) -> list[str]:
    """Different random ids."""
    ids: dict[str, None] = {}
    while len(ids) < number:
        ids["".join(rng.choices(LETTERS, k=8))] = None
    return list(ids)


def write_sheet(sheet: Sheet, folder: Path) -> None:
    """Writes the page, its instructions and a spreadsheet a rater to `for_raters`, and the key beside that folder."""
    raters_folder = folder / FOR_RATERS
    raters_folder.mkdir()
    parts = {name: read_template(name) for name in ("review.js", "review.css")}
    values = {
        "script": parts["review.js"],
        "style": parts["review.css"],
        "script_hash": hash_of(parts["review.js"]),
        "style_hash": hash_of(parts["review.css"]),
        "about_drafts": ABOUT_DRAFTS,
        "better": BETTER,
        "questions": QUESTIONS,
        "sheet": {"id": sheet.name, "raters": sheet.raters, "columns": [question.name for question in QUESTIONS]},
    }
    for name in (PAGE, INSTRUCTIONS):
        text = HTML_TEMPLATES.get_template(f"{name}.jinja").render(values)
        (raters_folder / name).write_text(text, encoding="utf-8", newline="\n")
    for number, items in enumerate(sheet.raters, start=1):
        write_spreadsheet(sheet.name, number, items, raters_folder / f"sheet-rater-{number}.csv")
    write_json(folder / KEY, sheet.key)


def hash_of(text: str) -> str:
    """As a Content-Security-Policy names a script or a style that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_spreadsheet(name: str, rater: int, items: Sequence[dict], path: Path) -> None:
    """A rater's items with empty columns for the answers; the mark at its beginning tells Excel that it is UTF-8."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for item in items:
            texts = dict(zip(("problem", "draft_a", "draft_b"), (item["problem"], *item["drafts"]), strict=False))
            cells = {column: as_text(text) for column, text in texts.items()}
            writer.writerow({"sheet": name, "rater": rater, "item": item["id"], **cells})


def as_text(text: str) -> str:
    """A text as a spreadsheet's cell, which must not run as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text or "(empty)"
