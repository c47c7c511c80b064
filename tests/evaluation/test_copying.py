import json
from pathlib import Path

import evaluate
import pytest
from conftest import ROOT
from datasets import load_dataset

from approach.errors import UserError
from approach.evaluation.copying import find_rows_seen, measure_copying
from approach.evaluation.systems import SystemDrafts, build_recipes


@pytest.fixture
def train(dataset) -> list[dict]:
    return load_dataset(str(dataset), split="train").to_list()


def find(model: Path | str, train: list[dict], revision: str | None = None):
    return find_rows_seen(build_recipes([str(model)], [], [revision] if revision else [])[0], train)


def write_run(folder: Path, **dataset) -> Path:
    """A model's folder with the record of its training."""
    (folder / "run.json").write_text(json.dumps({"dataset": {"name": "pairs", **dataset}}), encoding="utf-8")
    return folder


def test_what_a_run_saw_is_told_from_what_it_did_not(train, dataset, tmp_path):
    """The 16 rows of a run are found by its `run.json`; a draft copied from one of them is named with its id."""
    seen, unseen = train[40:24:-1], train[:25] + train[41:]
    record = find(write_run(tmp_path, ids=[row["id"] for row in seen]), train)
    assert (record.seen, record.unseen, record.recorded) == (seen, unseen, True)
    rows = load_dataset(str(dataset), split="test").to_list()[:2]
    drafts = [{"prediction": "we show " + seen[5]["approach"][:60]}, {"prediction": unseen[0]["approach"]}]
    entry = SystemDrafts("fine-tuned", "fine-tuned", ["model"], "greedy", [drafts])
    other = SystemDrafts("base", "base", ["base"], "greedy", [drafts])
    provenance = evaluate.load(str(ROOT / "approach" / "metrics" / "provenance.py"))
    copies = measure_copying([entry, other], {"fine-tuned": record}, rows, provenance)
    assert list(copies) == ["fine-tuned"], "of the other systems nothing says what they saw"
    found = copies["fine-tuned"]["greedy"]
    assert found["rows_seen"] == 16 and found["record_of_the_run"]
    (worst, other) = found["drafts"]["worst"]
    assert worst["id"] == rows[0]["id"] and worst["training_id"] == seen[5]["id"] and worst["words"] >= 8
    assert other["words"] < worst["words"] and found["unseen training rows"]["longest_run"] < worst["words"]


def test_a_run_of_every_row_has_seen_them_all(train, tmp_path):
    record = find(write_run(tmp_path, ids=None), train)
    assert (record.seen, record.unseen, record.recorded) == (train, [], True)


@pytest.mark.parametrize("dataset_record", [{}, {"split_rows": 96, "seed": 42, "whole": 16}])
def test_without_ids_all_rows_are_taken_as_seen_and_the_record_says_so(train, tmp_path, dataset_record):
    """A model without a record, and one of an older run, whose record has a seed but no ids."""
    folder = write_run(tmp_path, **dataset_record) if dataset_record else tmp_path
    record = find(folder, train)
    assert (record.seen, record.unseen, record.recorded) == (train, [], False)


def test_a_record_of_another_dataset_ends_in_one_line(train, tmp_path):
    folder = write_run(tmp_path, ids=[train[0]["id"], "other-1", "other-2"])
    with pytest.raises(UserError, match=r"run.json is of another dataset: 2 of the 3 rows .*'other-1'"):
        find(folder, train)


def test_the_record_of_a_model_on_the_hub_is_fetched_at_its_revision(train, tmp_path, monkeypatch):
    """What was copied is the same for a folder and for its Hub id."""
    for revision, rows in (("a" * 40, train[:3]), ("b" * 40, train[:5])):
        snapshot = tmp_path / "models--alice--model" / "snapshots" / revision
        snapshot.mkdir(parents=True)
        write_run(snapshot, ids=[row["id"] for row in rows])
    (tmp_path / "models--alice--model" / "refs").mkdir()
    (tmp_path / "models--alice--model" / "refs" / "main").write_text("b" * 40, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find("alice/model", train).seen == train[:5]
    assert find("alice/model", train, revision="a" * 40).seen == train[:3]
