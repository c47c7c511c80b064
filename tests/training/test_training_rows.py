import json

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer

from approach.prompt import add_tags, make_completion, make_prompt
from approach.storage import hash_file
from approach.training import data
from approach.training.data import build_rows, build_rows_record


@pytest.fixture
def tagged(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    add_tags(tokenizer)
    return tokenizer


@pytest.fixture
def split() -> Dataset:
    """Six rows, of which the third is too long for 64 tokens."""
    approaches = ["We learn.", "We test.", "We learn " + "very " * 60 + "fast.", "We draft.", "We read.", "We end."]
    rows = [
        {"id": f"row-{i}", "problem": "noise", "prompt": make_prompt("noise"), "completion": make_completion(approach)}
        for i, approach in enumerate(approaches)
    ]
    return Dataset.from_list(rows)


def test_the_record_names_the_rows_trained_on_without_those_dropped(split, tagged):
    rows = build_rows(split, 4, tagged, 64, "drop")
    assert rows.outcomes == {"complete": 4, "shortened": 0, "dropped": 1}, "the fifth row takes the third one's place"
    record = build_rows_record(rows, len(split), seed=7)
    assert record["ids"] == ["row-0", "row-1", "row-3", "row-4"]
    assert (record["rows"], record["dropped"], record["split_rows"], record["seed"]) == (4, 1, 6, 7)


def test_the_record_of_a_whole_split_names_no_rows(split, tagged):
    assert build_rows_record(build_rows(split, 6, tagged, 1000, "drop"), 6, 7)["ids"] is None
    dropped = build_rows_record(build_rows(split, 6, tagged, 64, "drop"), 6, 7)["ids"]
    assert dropped == ["row-0", "row-1", "row-3", "row-4", "row-5"], "one was dropped: these are not all"


def test_a_run_names_its_rows_in_the_order_of_the_shuffled_split(trained, dataset):
    run = json.loads((trained.adapter / "run.json").read_text(encoding="utf-8"))
    shuffled = load_dataset(str(dataset), split="train").shuffle(seed=42)
    assert run["dataset"]["ids"] == shuffled.select(range(16))["id"][:]


def test_rows_of_an_older_code_are_not_taken_from_the_cache(dataset, tagged, monkeypatch):
    """datasets' cache sees a function of an imported module by its name, and would give the rows of its old code."""
    split = load_dataset(str(dataset), split="validation")
    names = [build_rows(split, 2, tagged, 256, "drop").dataset._fingerprint for _ in range(2)]
    monkeypatch.setattr(data, "hash_file", lambda path: hash_file(path) + "changed")
    names.append(build_rows(split, 2, tagged, 256, "drop").dataset._fingerprint)
    assert names[0] == names[1] != names[2]
