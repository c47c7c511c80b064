"""What raters get: nothing in it but the texts tells who wrote what."""

import html
import json
import random
import re
from collections import Counter, defaultdict
from html.parser import HTMLParser

import pytest
from review_inputs import HOSTILE, make_sheet, read_key, read_spreadsheet, write_scores
from scipy.stats import binom

from approach.review.candidates import CONTROLS
from approach.review.design import Item, Size, design_sheet
from approach.review.questions import QUESTIONS
from approach.review.sheet import as_text, draw_ids


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return write_scores(tmp_path_factory.mktemp("evaluation") / "scores")


@pytest.fixture(scope="module")
def sheet(scores, tmp_path_factory):
    return make_sheet(scores, tmp_path_factory.mktemp("review") / "sheet")


class Page(HTMLParser):
    """The elements of a page with their attributes, and the data that its script shows."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.data, self.inside = [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") if tag == "script" else None

    def handle_data(self, data):
        self.data += data if self.inside == "sheet" else ""


def read_page(sheet) -> Page:
    return Page((sheet / "for_raters" / "review.html").read_text(encoding="utf-8"))


def test_the_files_and_every_text_where_the_key_says(sheet, scores):
    names = ["instructions.html", "review.html", *(f"sheet-rater-{number}.csv" for number in (1, 2, 3))]
    assert sorted(path.name for path in sheet.iterdir()) == ["for_raters", "key.json"]
    assert sorted(path.name for path in (sheet / "for_raters").iterdir()) == names
    key, page = read_key(sheet), json.loads(read_page(sheet).data)
    lines = (scores / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    for number, items in enumerate(page["raters"], start=1):
        rows = read_spreadsheet(sheet / "for_raters" / f"sheet-rater-{number}.csv")
        assert [row["item"] for row in rows] == [item["id"] for item in items] and len(items) == 263
        for item, row in zip(items, rows, strict=True):
            about = key["items"][item["id"]]
            for place, (system, text) in enumerate(zip(about["systems"], item["drafts"], strict=True)):
                written = json.loads(lines[key["problems"][about["problem"]]["lines"][system]])
                assert (written["system"], written["id"]) == (
                    key["systems"][system]["name"],
                    key["problems"][about["problem"]]["id"],
                )
                assert " ".join(written["prediction"].split()) == text == row[("draft_a", "draft_b")[place]]
                assert written["problem"] == item["problem"] == row["problem"]
            assert about["rater"] == number and row["rater"] == str(number) and row["sheet"] == key["sheet"]
    assert key["items"].keys() == {item["id"] for items in page["raters"] for item in items}


def test_a_rater_sees_enough_of_each_control(sheet):
    key = read_key(sheet)
    roles = [system["role"] for system in key["systems"]]
    seen = Counter((about["rater"], roles[system]) for about in key["items"].values() for system in about["systems"])
    assert set(roles) == {"draft", *CONTROLS.values()} and min(seen.values()) >= 20


def test_same_input_and_seed_same_bytes(sheet, scores, tmp_path):
    again, other = make_sheet(scores, tmp_path / "again"), make_sheet(scores, tmp_path / "other", "--seed", "7")
    for path in (path for path in sheet.rglob("*") if path.is_file()):
        same = (again / path.relative_to(sheet)).read_bytes()
        assert path.read_bytes() == same
        assert path.name == "instructions.html" or (other / path.relative_to(sheet)).read_bytes() != same


def test_nothing_of_the_key_stands_in_what_raters_get(sheet):
    key = read_key(sheet)
    told = [system[name] for system in key["systems"] for name in ("name", "decoding", "role")]
    told += [problem["id"] for problem in key["problems"]] + [key["predictions_sha256"], "predictions", "repeats"]
    for path in (sheet / "for_raters").iterdir():
        text = path.read_text(encoding="utf-8")
        if path.name == "review.html":  # its words of explanation are the same whatever the sheet
            text = read_page(sheet).data
        assert path.name == "instructions.html" or not [name for name in set(told) - {"none", "draft"} if name in text]


def test_items_differ_in_nothing_but_id_and_texts(sheet):
    """Markup, attributes and the rest of the page are the same for every item, because there is only one form."""
    page = json.loads(read_page(sheet).data)
    assert {tuple(item) for items in page["raters"] for item in items} == {("drafts", "id", "problem")}
    assert all(re.fullmatch("[b-v]{8}", item["id"]) for items in page["raters"] for item in items)
    for number in (1, 2, 3):
        for row in read_spreadsheet(sheet / "for_raters" / f"sheet-rater-{number}.csv"):
            assert set(row.values()) - {row["item"], row["problem"], row["draft_a"], row["draft_b"]} <= {
                "",
                row["sheet"],
                str(number),
            }


def describe_places(items: list[Item], ids: list[str]) -> list[tuple[int, dict]]:
    """For every draft of a rater's list its system, and all that can be known of it without its text."""
    seen, found = Counter(), []
    for place, item in enumerate(items):
        part = [other for other in items if len(other.systems) == len(item.systems)]
        order = place if len(item.systems) == 1 else place - (len(items) - len(part))
        for side, system in enumerate(item.systems):
            clues = {
                "part and side": (len(item.systems), side),
                "place": 20 * order // len(part),
                "odd": order % 2,
                "in five": order % 5,
                "first of id": ids[place][0],
                "last of id": ids[place][-1],
                "times the problem came": seen[item.problem, len(item.systems)],
                "problem": item.problem,
            }
            found.append((system, clues))
        seen[item.problem, len(item.systems)] += 1
    return found


def guess(known: list[tuple[int, dict]], asked: list[tuple[int, dict]]) -> tuple[int, float]:
    """How often a naive Bayes of all clues, which knows the keys of other sheets, guesses right; and p by chance."""
    counts, systems = defaultdict(lambda: 0.5), Counter(system for system, _ in known)
    for system, clues in known:
        for clue in clues.items():
            counts[clue, system] += 1

    def score(clues: dict, system: int) -> float:
        chance = systems[system]
        for clue in clues.items():
            chance *= counts[clue, system] / (systems[system] + 10)
        return chance

    right = sum(max(systems, key=lambda system: score(clues, system)) == truth for truth, clues in asked)
    share = max(Counter(system for system, _ in asked).values()) / len(asked)
    return right, float(binom.sf(right - 1, len(asked), share))


def list_sheets(seeds: range, arrange=lambda items: items) -> list[tuple[int, dict]]:
    found = []
    for seed in seeds:
        rng = random.Random(seed)
        for items in design_sheet(Size(3, 50, 5, 3, 2), rng):
            items = arrange(items)
            found += describe_places(items, draw_ids(len(items), rng))
    return found


def test_the_system_cannot_be_guessed_from_everything_but_the_text():
    """By one who has other sheets with their keys, and looks at place, part, side, id, and what came before."""
    right, chance = guess(list_sheets(range(6)), list_sheets(range(100, 103)))
    assert chance > 0.01, right


@pytest.mark.parametrize(
    "leak",
    [
        lambda items: sorted(items, key=lambda item: item.systems[0] == 2),
        lambda items: [Item(item.problem, tuple(sorted(item.systems))) for item in items],
    ],
    ids=["one system comes last", "sides are not shuffled"],
)
def test_the_guesser_would_find_a_leak(leak):
    assert guess(list_sheets(range(6), leak), list_sheets(range(100, 103), leak))[1] < 1e-6


def test_who_fills_the_spreadsheet_is_told_what_each_column_asks_and_takes(sheet):
    text = html.unescape((sheet / "for_raters" / "instructions.html").read_text(encoding="utf-8"))
    for question in QUESTIONS:
        answers = ", ".join(question.answers)
        assert f"<code>{question.name}</code> ({answers}): {question.text}" in text, question.name
    assert "<code>ratings-rater-</code> and your number" in text and "<code>'</code> at the beginning" in text


def test_markup_and_formulas_in_a_text_are_text(sheet):
    page = read_page(sheet)
    text = (sheet / "for_raters" / "review.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and HOSTILE in json.loads(page.data)["raters"][0][0]["problem"]
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert as_text("=HYPERLINK(1)") == "'=HYPERLINK(1)" and as_text("") == "(empty)" and as_text("a=b") == "a=b"


def test_the_page_may_run_its_own_script_and_style_and_nothing_else(sheet):
    [policy] = [about["content"] for _, about in read_page(sheet).elements if about.get("http-equiv")]
    assert re.fullmatch(
        r"default-src 'none'; script-src 'sha256-[\w+/=]+'; style-src 'sha256-[\w+/=]+'; base-uri 'none'; "
        "form-action 'none'",
        policy,
    )
    assert not [about for _, about in read_page(sheet).elements if {"src", "href", "style", "onclick"} & about.keys()]
