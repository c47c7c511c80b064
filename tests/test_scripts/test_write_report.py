"""The page is whole, needs no network, and says what the records say."""

import copy
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line, run_script

from approach.errors import UserError
from approach.evaluation import report
from approach.metrics import METRICS
from write_report import main, parse_arguments

CHROMIUM = shutil.which("chromium")
SCORES = [name for name, score in METRICS.items() if score.table != "gain"]
INTERVAL = {"value": 0.25, "low": 0.2, "high": 0.3}
HOSTILE = "<script>document.title = 'taken'</script><img src=http://example.org/x.png>"


def build_system(kind: str, decodings: tuple, gain: dict | None) -> dict:
    found = {
        "scores": dict.fromkeys(SCORES, INTERVAL),
        "passes_gates": True if kind == "fine-tuned" else None,
        "behaviour": {"share_ended": 0.98, "mean_words": 100.0, "repeated_4grams": None, "new_terms": 30.0},
    }
    spread = {"scores": dict.fromkeys(SCORES, {**INTERVAL, "spread": 0.01})}
    decodings = {name: found | (spread if name == "sampled" else {}) for name in decodings}
    gains = {"bits_per_byte": gain, "problem_gain": gain, "gain_over_empty": gain}
    models = [] if kind == "no model" else ["tiny"]
    return {"kind": kind, "models": models, "decodings": decodings, **gains}


def make_comparison(metric: str, baseline: str, difference: float | None, holds: bool = True) -> dict:
    row = {"metric": metric, "system": "fine-tuned", "decoding": "sampled", "baseline": baseline, "alpha": 0.01}
    if difference is None:
        nothing = {"difference": None, "low": None, "high": None, "runs": []}
        return {**row, **nothing, "p": 1.0, "p_holm": 1.0, "holds": False, "same_sign": False}
    interval = {"difference": difference, "low": difference - 0.1, "high": difference + 0.1, "runs": [difference]}
    return {**row, **interval, "p": 0.001, "p_holm": 0.003 if holds else 0.5, "holds": holds, "same_sign": True}


def make_scores() -> dict:
    """What evaluate_model.py writes."""
    systems = {
        "fine-tuned": build_system("fine-tuned", ("sampled", "greedy"), INTERVAL),
        "base": build_system("base", ("greedy",), INTERVAL),
        "nearest training approach": build_system("no model", ("none",), None),
        "problem copied": build_system("no model", ("none",), None),
    }
    not_measured = {"value": None, "low": None, "high": None}
    systems["base"]["decodings"]["greedy"] = {
        **systems["base"]["decodings"]["greedy"],
        "scores": dict.fromkeys(SCORES, not_measured),
    }
    group = {"mean_longest_run": 4.5, "longest_run": 9, "share_of_8grams": 0.01, "citations_a_text": {"number": 0.5}}
    group["worst"] = [{"id": "row-1", "words": 9, "training_id": "row-77"}]
    decoding = {"specificity": 0.1, "share_ended": 0.97, "repeated_4grams": 0.01, "passes_gates": True}
    words = {"metric": "specificity", "system": "fine-tuned", "decoding": "sampled", "baseline": "terms"}
    smallest = {"100": 0.03, "200": 0.02, "500": None}
    return {
        "num_examples": 8,
        "dataset": {"name": "pairs", "split": "test"},
        "bertscore_model": "model",
        "references_repeated_4grams": 0.01,
        "signatures": {"bleu": "nrefs:1|case:lc"},
        "resamples": 10_000,
        "systems": systems,
        "choice": {
            "rows": 5,
            "systems": {
                "fine-tuned": {"kind": "fine-tuned", "decodings": {"sampled": decoding}, "chosen": "sampled"},
                "base": {"kind": "base", "decodings": {"greedy": decoding}, "chosen": "greedy", "problem_gain": 0.01},
            },
            "base_for_drafts": "base",
        },
        "comparisons": [
            make_comparison("specificity", "base", 0.5),
            make_comparison("specificity", "nearest training approach", -0.25),
            make_comparison("problem_gain", "base", 0.125, holds=False),
        ],
        "against_word_list": [{**words, "difference": 0.3, "low": 0.2, "high": 0.4, "runs": [0.3]}],
        "power": {
            "comparisons": [
                {
                    "metric": "specificity",
                    "system": "fine-tuned",
                    "baseline": "base",
                    "smallest_difference_by_rows": smallest,
                }
            ]
        },
        "copying": {"fine-tuned": {"sampled": {"rows_seen": 16, "record_of_the_run": True} | {"drafts": group}}},
    }


@pytest.fixture
def records(tmp_path) -> Path:
    """What evaluate_model.py and train_sft.py write, with drafts that try to break out of the page."""
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps(make_scores()), encoding="utf-8")
    lines = []
    for i in range(8):
        row = {"id": f"row-{i}", "problem": f"Problem {i} {HOSTILE}", "reference": f"Reference {i}. Noisy fins."}
        for system, decoding in (("fine-tuned", "sampled"), ("fine-tuned", "greedy"), ("base", "greedy")):
            text = f"Draft {i} of Fins {HOSTILE}" * (i % 3)
            about = {"system": system, "decoding": decoding, "prediction": text, "specificity": i / 10}
            lines.append({**row, **about, "hits": ["fins"] if text else []})
    (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    losses = [{"step": step, "loss": 4.0 - step / 10} for step in range(1, 6)] + [{"step": 5, "eval_loss": 3.9}]
    run = {"steps": 5, "dataset": {"name": "pairs", "rows": 16}, "device": "CPU", "seconds": 90, "losses": losses}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return tmp_path


def write(records: Path, *more: str) -> str:
    main(parse_arguments([str(records / "scores"), "--run", str(records), *more]))
    return (records / "scores" / "report.html").read_text(encoding="utf-8")


def test_the_page_says_what_the_records_say_and_the_same_each_time(records):
    page = write(records)
    for text in ("0.250", "0.200 to 0.300", "± 0.010", "not measured", "0.0030", "not told apart", "0.0300"):
        assert text in page, text
    for text in ("Most specific <small>row-7", "Least specific <small>row-0", "9 words of row-77", "may have read"):
        assert text in page, text
    assert page.count("<svg") == 4 and HOSTILE not in page
    assert "<mark>Fins</mark>" in page and "Noisy <mark>fins</mark>" in page and "<em>(empty)</em>" in page
    assert write(records, "--overwrite") == page


def test_flags_are_written_as_in_every_script(records):
    page = write(records)
    assert write(records, "--overwrite", "true") == page
    main(parse_arguments(["--scores", str(records / "scores"), "--output", str(records / "new" / "page.html")]))
    assert "The run" not in (records / "new" / "page.html").read_text(encoding="utf-8")


def find_scalars(value, path: tuple = ()) -> Iterator[tuple]:
    """The paths to everything in a record that is no list and no object."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_scalars(part, (*path, key))
    else:
        yield path


def replace_at(record: dict, path: tuple, text: str) -> dict:
    """The record with a text at the end of the path."""
    record = copy.deepcopy(record)
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = text
    return record


def add_markup(value, path: tuple = ()):
    """Markup at the end of every text and of every name by which a record lists things, but not of its own words."""
    lists = ("systems", "decodings", "signatures", "citations_a_text")
    if isinstance(value, list):
        return [add_markup(part, (*path, i)) for i, part in enumerate(value)]
    if isinstance(value, dict):
        names_things = path and path[-1] in lists
        fixed = ("sampled", "fine-tuned", "base")  # by which the page finds what it shows
        keys = {key: key + HOSTILE if names_things and key not in fixed else key for key in value}
        return {keys[key]: add_markup(part, (*path, key)) for key, part in value.items()}
    is_word = path[-1] in ("metric", "kind", "system", "decoding", "chosen", "base_for_drafts")
    return value + HOSTILE if isinstance(value, str) and not is_word else value


class Tags(HTMLParser):
    """The elements of a page, and what it says."""

    def __init__(self, page: str):
        super().__init__()
        self.names, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)

    def handle_data(self, data):
        self.text += data


def test_markup_in_any_text_of_the_records_is_shown_as_text(records):
    scores_file, lines_file = records / "scores" / "scores.json", records / "scores" / "predictions.jsonl"
    for path in (scores_file, records / "run.json"):
        path.write_text(json.dumps(add_markup(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    rows = [add_markup(json.loads(line)) for line in lines_file.read_text(encoding="utf-8").splitlines()]
    lines_file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    page = write(records)
    tags = Tags(page)
    assert HOSTILE not in page and not {"script", "img"} & tags.names
    for text in (
        "row-77",
        "pairs",
        "nrefs:1|case:lc",
        "CPU",
        "number",
        "tiny",
        "nearest training approach",
        "test",
    ):
        assert f"{text}{HOSTILE}" in tags.text, f"{text}: not shown, so the test proves nothing"


def test_markup_in_place_of_any_value_is_never_live(records, monkeypatch):
    """Numbers and flags, too: what should be a number is shown as text, or raises UserError."""
    monkeypatch.setattr(report, "plot_lengths", lambda texts: "<svg></svg>")
    monkeypatch.setattr(report, "plot_dots", lambda title, dots: "<svg></svg>")
    monkeypatch.setattr(report, "plot_losses", lambda losses: "<svg></svg>")
    num_pages = 0
    for path in (records / "scores" / "scores.json", records / "run.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        places = {tuple(key for key in place if isinstance(key, str)): place for place in find_scalars(record)}
        for place in places.values():
            path.write_text(json.dumps(replace_at(record, place, HOSTILE)), encoding="utf-8")
            try:
                page = write(records, "--overwrite")
            except UserError as ended:
                assert str(ended).startswith((str(path), str(records / "scores" / "predictions.jsonl"))), place
            else:
                num_pages += 1
                assert HOSTILE not in page and not {"script", "img"} & Tags(page).names, place
        path.write_text(json.dumps(record), encoding="utf-8")
    assert num_pages > 20


def test_a_page_that_is_there_is_not_overwritten(records, capsys):
    write(records)
    with pytest.raises(UserError, match="report.html is there already") as ended:
        write(records)
    assert ended.value.status == 2


def test_mistakes_end_in_one_clear_line(records, tmp_path):
    assert_one_clear_line(run_script("write_report.py", tmp_path / "none"), 1, "scores.json", "evaluate_model.py")
    assert_one_clear_line(run_script("write_report.py"), 2, "name the folder that evaluate_model.py wrote")
    (records / "scores" / "predictions.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="predictions.jsonl: it is no JSON"):
        write(records)
    assert not list((records / "scores").glob("*report*"))


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("scores/scores.json", "evaluate_model.py"),
        ("scores/predictions.jsonl", "evaluate_model.py"),
        ("run.json", "train_sft.py"),
    ],
)
@pytest.mark.parametrize(
    "content", [None, b"{", b"{}", b"[]", b"3", b"\xff\xfe", pytest.param(b"[" * 100_000, id="deep")]
)
def test_a_damaged_file_is_named_with_the_script_that_writes_it(records, name, script, content):
    path = records / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as ended:
        write(records)
    said = str(ended.value)
    assert said.startswith(str(path)) and script in said and "\n" not in said
    assert not list((records / "scores").glob("*report*"))


def test_a_separator_of_lines_within_a_text_is_text(records):
    path = records / "scores" / "predictions.jsonl"
    text = path.read_text(encoding="utf-8").replace("Noisy fins.", "Noisy\u2028fins\x85.")
    path.write_text(text, encoding="utf-8")
    assert "Noisy" in write(records)


def test_patterns_of_ratings_are_expanded_where_the_shell_does_not(records, tmp_path, monkeypatch):
    """As Windows' shells leave them."""
    for name in ("ratings-2.csv", "ratings-1.csv", "other.txt", "[odd].csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    arguments = parse_arguments([str(records / "scores"), "--ratings", "ratings-*.csv", "[odd].csv", "none-*.csv"])
    assert arguments.ratings == ["ratings-1.csv", "ratings-2.csv", "[odd].csv", "none-*.csv"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browser_shows_it_whole_and_fetches_nothing(records):
    from playwright.sync_api import sync_playwright

    write(records)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        for width, scheme in ((1200, "light"), (390, "dark")):
            page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            requests, errors = [], []
            page.on("request", lambda request, kept=requests: kept.append(request.url))
            page.on("pageerror", lambda error, kept=errors: kept.append(error))
            page.goto((records / "scores" / "report.html").as_uri())
            assert len(requests) == 1 and not errors, "the page itself and nothing else"
            assert page.title() == "Drafts of approaches, scored", "a draft's script ran"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
            assert page.locator(".drafts").count() == 6 and page.locator("svg").first.is_visible()
            assert page.locator(".answer").is_visible() and page.get_by_text("not told apart").first.is_visible()
            table = page.get_by_text("Finds its own reference", exact=False).first
            assert not table.is_visible(), "long tables are folded"
            page.get_by_text("Specificity and problem gain of every system").click()
            assert table.is_visible()
        browser.close()


def test_help_is_quick_and_names_the_arguments():
    result = run_script(ROOT / "write_report.py", "--help")
    assert result.returncode == 0 and all(
        name in result.stdout for name in ("scores", "--run", "--output", "--overwrite")
    )
