"""The page is whole, needs no network, and says what the records say."""

import copy
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line, run_script

from approach.evaluation import report
from approach.evaluation.tables import NAMES, SCORES
from write_report import main, parse_arguments

CHROMIUM = shutil.which("chromium")
INTERVAL = {"value": 0.25, "low": 0.2, "high": 0.3}
HOSTILE = "<script>document.title = 'taken'</script><img src=http://example.org/x.png>"


def describe_system(kind: str, decodings: dict, bits: dict | None) -> dict:
    found = {
        "scores": {key: INTERVAL for key, _, _ in SCORES},
        "own_minus_permuted": {key: INTERVAL for key, _, _ in SCORES},
        "found_first": INTERVAL,
        "behaviour": {"share_ended": 0.5, "mean_words": 100.0, "repeated_4grams": None},
    }
    spread = {"scores": {key: {**INTERVAL, "spread": 0.01} for key, _, _ in SCORES}}
    decodings = {name: found | (spread if name == "sampled" else {}) for name in decodings}
    return {"kind": kind, "model": "tiny", "decodings": decodings, "bits_per_byte": bits}


@pytest.fixture
def records(tmp_path) -> Path:
    """What evaluate_model.py and train_sft.py write, with drafts that try to break out of the page."""
    systems = {
        "fine-tuned": describe_system("fine-tuned", ("greedy", "sampled"), INTERVAL),
        "base": describe_system("base", ("greedy",), INTERVAL),
        "problem copied": describe_system("no model", ("none",), None),
    }
    not_measured = {"value": None, "low": None, "high": None}
    systems["base"]["decodings"]["greedy"] = {
        **systems["base"]["decodings"]["greedy"],
        "scores": {key: not_measured for key, _, _ in SCORES},
    }
    pair = {"system": "fine-tuned", "baseline": "base", "decoding": "greedy", "low": -1.0, "high": 2.0, "p": 0.001}
    comparisons = [
        {**pair, "metric": name, "difference": 1.0, "p_holm": 0.01 if name in ("bleu", "bits_per_byte") else 0.5}
        for name in NAMES
    ]
    group = {"mean_longest_run": 4.5, "longest_run": 9, "share_of_8grams": 0.01, "citations_a_text": {"number": 0.5}}
    group["worst"] = [{"id": "row-1", "words": 9, "training_id": "row-77"}]
    copying = {"rows_seen": 16, "record_of_the_run": True, "drafts": group, "references": group}
    scores = {
        "num_examples": 8,
        "dataset": {"name": "pairs", "split": "test"},
        "bertscore_model": "model",
        "signatures": {"bleu": "nrefs:1|case:lc"},
        "resamples": 10_000,
        "systems": systems,
        "best_base": {"drafts": "base", "bits_per_byte": "base"},
        "comparisons": comparisons,
        "copying": {"fine-tuned": {"greedy": copying}},
        "training_spread": {"greedy": {"rougeL": {"mean": 0.2, "spread": 0.01, "models": 3}}},
    }
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    lines = []
    for i in range(8):
        row = {
            "id": f"row-{i}",
            "problem": f"Problem {i} {HOSTILE}",
            "reference": f"Reference {i}.",
            "decoding": "greedy",
        }
        for system in ("fine-tuned", "base"):
            lines.append({**row, "system": system, "prediction": f"Draft {i} {HOSTILE}" * (i % 3), "rougeL": i / 10})
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
    for text in ("0.250", "0.200 to 0.300", "± 0.010", "not measured", "2 of 13 declared differences"):
        assert text in page, text
    for text in ("Best <small>row-7", "Worst <small>row-0", "9 words of row-77", "over 3 models", "may have read"):
        assert text in page, text
    assert page.count("<svg") == 2 and HOSTILE not in page
    bits = page[page.index("bits per byte</td>") :].partition("</tr>")[0]
    assert "worse" in bits, "more bits are worse"
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
    lists = ("systems", "decodings", "copying", "signatures", "citations_a_text", "training_spread")
    if isinstance(value, list):
        return [add_markup(part, (*path, i)) for i, part in enumerate(value)]
    if isinstance(value, dict):
        names_things = path and (path[-1] in lists or path[:-1] == ("copying",))
        fixed = ("greedy",) if path and path[-1] == "decodings" else ()
        keys = {key: key + HOSTILE if names_things and key not in fixed else key for key in value}
        return {keys[key]: add_markup(part, (*path, key)) for key, part in value.items()}
    is_word = path[-1] == "metric" or (path[-1] == "kind" and value == "fine-tuned") or path == ("decoding",)
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
        "sampled",
        "row-77",
        "pairs",
        "nrefs:1|case:lc",
        "CPU",
        "greedy",
        "number",
        "tiny",
        "fine-tuned",
        "test",
    ):
        assert f"{text}{HOSTILE}" in tags.text, f"{text}: not shown, so the test proves nothing"


def test_markup_in_place_of_any_value_is_never_live(records, monkeypatch):
    """Numbers and flags, too: what should be a number is shown as text, or ends with one line."""
    monkeypatch.setattr(report, "plot_lengths", lambda texts: "<svg></svg>")
    monkeypatch.setattr(report, "plot_losses", lambda losses: "<svg></svg>")
    num_pages = 0
    for path in (records / "scores" / "scores.json", records / "run.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        places = {tuple(key for key in place if isinstance(key, str)): place for place in find_scalars(record)}
        for place in places.values():
            path.write_text(json.dumps(replace_at(record, place, HOSTILE)), encoding="utf-8")
            try:
                page = write(records, "--overwrite")
            except SystemExit as ended:
                assert str(ended).startswith((str(path), str(records / "scores" / "predictions.jsonl"))), place
            else:
                num_pages += 1
                assert HOSTILE not in page and not {"script", "img"} & Tags(page).names, place
        path.write_text(json.dumps(record), encoding="utf-8")
    assert num_pages > 20


def test_a_page_that_is_there_is_not_overwritten(records, capsys):
    write(records)
    with pytest.raises(SystemExit) as ended:
        write(records)
    assert ended.value.code == 2 and "report.html is there already" in capsys.readouterr().err


def test_mistakes_end_in_one_clear_line(records, tmp_path):
    assert_one_clear_line(run_script("write_report.py", tmp_path / "none"), 1, "scores.json", "evaluate_model.py")
    assert_one_clear_line(run_script("write_report.py"), 2, "name the folder that evaluate_model.py wrote")
    (records / "scores" / "predictions.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit, match="predictions.jsonl: no JSON"):
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
@pytest.mark.parametrize("content", [None, b"{", b"{}", b"[]", b"3", b"\xff\xfe"])
def test_a_damaged_file_is_named_with_the_script_that_writes_it(records, name, script, content):
    path = records / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        write(records)
    said = str(ended.value)
    assert said.startswith(str(path)) and script in said and "\n" not in said
    assert not list((records / "scores").glob("*report*"))


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
            page.get_by_text("that do not").click()
            assert page.get_by_text("not told apart").first.is_visible()
        browser.close()


def test_help_is_quick_and_names_the_arguments():
    result = run_script(ROOT / "write_report.py", "--help")
    assert result.returncode == 0 and all(
        name in result.stdout for name in ("scores", "--run", "--output", "--overwrite")
    )
