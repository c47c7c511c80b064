"""`prepare_dataset.py --pair_rule roles`, on abstracts written for these tests."""

import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_clear_line, run_script, write_jsonl
from datasets import load_dataset
from huggingface_hub import DatasetCard
from test_roles import ABSTRACTS
from transformers import AutoTokenizer

from approach.data import processes
from approach.prompt import encode_problem
from approach.roles import ROLES
from approach.storage import read_json
from prepare_dataset import PrepareArguments, main

SPEECH, SENSORS = ([sentence for _, sentence in abstract] for abstract in ABSTRACTS)
TELLING = "In this paper, we propose a parser for long texts."


def build(folder, rows, **arguments):
    """What the script makes of some rows, as a path; approaches may be short, and rows alike."""
    path = write_jsonl(folder / "abstracts.jsonl", rows)
    options = {"min_approach_words": 5, "near_duplicate_threshold": 0.0, "pair_rule": "roles", **arguments}
    output_dir = folder / "pairs"
    main(PrepareArguments(dataset_name=str(path), output_dir=str(output_dir), overwrite=True, **options))
    return output_dir


def row(sentences, **more):
    return {"id": "a", "abstract": " ".join(sentences), **more}


def test_pairs_by_roles_are_exactly_these_with_their_evidence(tmp_path):
    folder = build(tmp_path, [row(SPEECH, id="speech"), row(SENSORS, id="sensors")])
    rows = {row["id"]: row for row in load_dataset(str(folder))["train"]}
    assert list(rows["speech"]) == ["id", "problem", "approach", "prompt", "completion", "roles", "role_confidence"]
    assert rows["speech"]["problem"] == SPEECH[0] and rows["sensors"]["problem"] == SENSORS[0]
    assert rows["speech"]["approach"] == " ".join(SPEECH[2:5])
    assert rows["sensors"]["approach"] == " ".join(SENSORS[1:3])
    assert rows["speech"]["prompt"] == f"<problem>{SPEECH[0]}</problem><approach>"
    assert rows["speech"]["completion"] == f" {' '.join(SPEECH[2:5])}</approach>"
    for abstract, name in zip(ABSTRACTS, ("speech", "sensors"), strict=True):
        assert rows[name]["roles"] == [role for role, _ in abstract]
        assert 0.5 < rows[name]["role_confidence"] < 1


def test_each_abstract_that_gives_no_pair_is_counted_under_its_reason(tmp_path):
    rows = [
        row(SPEECH, id="kept"),
        row([TELLING, *SENSORS[1:]], id="telling"),
        row(["Results show that it is 20% faster.", "Results show that it is 10% smaller."], id="no problem"),
        row([SPEECH[0], SPEECH[1], SPEECH[5]], id="no approach"),
        row(SENSORS, id="short"),
    ]
    folder = build(tmp_path, rows, min_approach_words=35)
    dropped = {reason: count for reason, count in read_json(folder / "build_report.json")["funnel"].items() if count}
    assert dropped == {
        "read": 5,
        "no_problem": 1,
        "problem_tells_approach": 1,
        "no_approach": 1,
        "approach_too_short": 1,
        "kept": 1,
    }
    kept = read_json(build(tmp_path, rows, keep_telling_problems=True) / "build_report.json")
    assert kept["funnel"]["problem_tells_approach"] == 0 and kept["arguments"]["keep_telling_problems"] is True


class FirstIsBackground:
    """A tagger that takes every sentence but the first for method."""

    def tag(self, sentences):
        names = ["background", *["method"] * (len(sentences) - 1)]
        return [{**dict.fromkeys(ROLES, 0.0), name: 1.0} for name in names]


def test_findings_are_left_out_counted_and_kept_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("approach.data.pair_rules.load_tagger", FirstIsBackground)
    finding = "We find that the network is faster."
    sentences = [*SPEECH[:5], finding]
    report = read_json(build(tmp_path, [row(sentences)]) / "build_report.json")["roles"]
    kept = load_dataset(str(build(tmp_path, [row(sentences)], keep_findings=True)))["train"]["approach"][0]
    assert report["findings_left_out"] == int(finding in kept) == 1


def test_thirty_words_are_the_default_and_said(tmp_path, capsys):
    folder = build(tmp_path, [row(SPEECH)], min_approach_words=None)
    assert read_json(folder / "build_report.json")["arguments"]["min_approach_words"] == 30
    assert "approaches of 30 words or more" in capsys.readouterr().out


def test_background_follows_the_problem_in_the_prompt_and_drafting_takes_both(base, tmp_path):
    folder = build(tmp_path, [row(SPEECH)], prompt_context="background")
    [made] = load_dataset(str(folder))["train"]
    assert made["problem"] == SPEECH[0]
    assert made["prompt"] == f"<problem>{SPEECH[0]} {SPEECH[1]}</problem><approach>"
    tokenizer = AutoTokenizer.from_pretrained(base)
    for text, prompt in (
        (f"{SPEECH[0]} {SPEECH[1]}", made["prompt"]),
        (SPEECH[0], f"<problem>{SPEECH[0]}</problem><approach>"),
    ):
        assert encode_problem(tokenizer, text)["input_ids"].tolist() == [tokenizer(prompt)["input_ids"]]


def test_the_card_shows_the_rows_with_their_roles_marked_and_no_html(tmp_path):
    sentences = [SPEECH[0], "However, existing <svg onload=alert(1)> systems are too slow.", *SPEECH[2:]]
    folder = build(tmp_path, [row(sentences, id=str(i)) for i in range(12)])
    card = DatasetCard.load(folder / "README.md")
    assert card.data.dataset_info["features"][-2:] == [
        {"name": "roles", "list": "string"},
        {"name": "role_confidence", "dtype": "float64"},
    ]
    assert len(re.findall(r"^Row \d+:$", card.text, re.MULTILINE)) == 10
    for told in (
        f"- **problem** (background): {SPEECH[0]}",
        "existing &lt;svg onload=alert(1)> systems",
        f"- **approach** (method): {SPEECH[3]}",
        f"- not used (result): {SPEECH[5]}",
        "no person has read them",
        "| problem tells approach | 0 |",
    ):
        assert told in card.text
    assert not re.search(r"<[a-zA-Z/!?]", card.text) and "\n\n\n" not in card.text


def test_text_unlike_the_taggers_is_warned_of_with_its_share_in_report_and_card(tmp_path, capsys):
    rows = [row([sentence.lower() for sentence in SPEECH], id=str(i)) for i in range(3)]
    rows += [row(SPEECH, id="plain")]
    folder = build(tmp_path, rows)
    [warning] = read_json(folder / "build_report.json")["roles"]["warnings"]
    assert warning.startswith("75% of the abstracts are unlike") and "75% are lower-cased" in warning
    assert f"warning: --pair_rule roles: {warning}" in capsys.readouterr().err
    assert f"**Warning:** {warning}." in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("as_list", [False, True])
def test_categories_outside_computer_science_are_named_and_leave_ids_as_they_are(tmp_path, as_list):
    named = ["cs.CL stat.ML", "math.CO cs.DM", "hep-th", None]
    rows = [{"abstract": " ".join([*SPEECH, f"It is number {i}."])} for i in range(4)]
    without = load_dataset(str(build(tmp_path, rows)))["train"]["id"][:]
    for made, category in zip(rows, named, strict=True):
        made["categories"] = category.split() if as_list and category else category
    folder = build(tmp_path, rows)
    report = read_json(folder / "build_report.json")["roles"]
    assert report["categories"] == {"abstracts": 3, "other_than_cs": {"math.CO": 1, "hep-th": 1}}
    assert "2 of 3 abstracts are of other categories than cs.* (math.CO 1, hep-th 1)" in report["warnings"][-1]
    assert load_dataset(str(folder))["train"]["id"][:] == without


def test_killed_while_tagging_leaves_nothing_and_the_next_run_all_of_it(tmp_path):
    path = write_jsonl(tmp_path / "abstracts.jsonl", [row(SPEECH, id="speech"), row(SENSORS, id="sensors")])
    code = (
        "import sys, time, prepare_dataset as p, approach.data.pair_rules as pair_rules\n"
        "def slow():\n    print('tagging', flush=True); time.sleep(60)\n"
        "pair_rules.load_tagger = slow\n"
        "p.main(p.parse_arguments(sys.argv[1:]))\n"
    )
    arguments = ["--dataset_name", str(path), "--output_dir", str(tmp_path / "pairs"), "--pair_rule", "roles"]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "tagging\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [found.name for found in tmp_path.iterdir()] == ["abstracts.jsonl"]
    folder = build(tmp_path, [row(SPEECH, id="speech"), row(SENSORS, id="sensors")])
    assert sorted(found.name for found in tmp_path.iterdir()) == ["abstracts.jsonl", "pairs"]
    assert len(load_dataset(str(folder))["train"]) == 2


def test_two_processes_write_the_same_bytes_as_one(tmp_path, monkeypatch):
    """Begins with rows that have no roles, of which no type can be told."""
    monkeypatch.setattr(processes, "MIN_ROWS", 10)
    rows = [{"id": f"none {i}", "abstract": None} for i in range(10)]
    rows += [row([*SPEECH, f"It is {'very ' * i}good."], id=str(i)) for i in range(10)]
    found = []
    for num_proc in (1, 2):
        folder = build(tmp_path, rows, num_proc=num_proc)
        found.append({path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert found[0] == found[1]


def test_the_first_rule_says_and_writes_what_it_did_before_there_was_another(dataset):
    report = read_json(dataset / "build_report.json")
    assert list(report["funnel"]) == [
        *("read", "no_text", "invalid_text", "contains_tag", "withdrawn", "no_year", "too_few_sentences"),
        *("problem_too_short", "problem_too_long", "approach_too_short", "too_many_tokens", "exact_copy"),
        *("near_copy_of_earlier_year", "kept"),
    ]
    assert not {"pair_rule", "prompt_context", "keep_findings", "keep_telling_problems"} & report["arguments"].keys()
    assert report["arguments"]["min_approach_words"] == 90 and "roles" not in report
    assert "role" not in (dataset / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"prompt_context": "background"}, "--prompt_context background needs --pair_rule roles"),
        ({"keep_findings": True}, "--keep_findings needs --pair_rule roles"),
        ({"pair_rule": "roles", "problem_column": "p", "approach_column": "a"}, "--pair_rule roles cuts abstracts"),
        ({"min_approach_words": 0}, "--min_approach_words must be at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, told, tmp_path):
    with pytest.raises(ValueError, match=re.escape(told)):
        PrepareArguments(dataset_name="a.jsonl", output_dir=str(tmp_path / "pairs"), **arguments)


def test_an_unknown_rule_ends_in_one_line(tmp_path):
    result = run_script("prepare_dataset.py", "--output_dir", tmp_path / "pairs", "--pair_rule", "guess")
    assert_one_clear_line(result, 2, "--pair_rule", "guess")
