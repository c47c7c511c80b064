"""A finished run that is made longer: new rows first, the longer schedule, and exact resuming of what was added."""

import json
import shutil

import pytest
from conftest import training_arguments
from datasets import load_dataset
from training_runs import assert_same, weights

import train_sft
from approach.errors import UserError
from approach.training.trainer import ExtendedRunSampler

SAVED = ("--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1", "--warmup_steps", "0")
EXTEND = ("--resume_from_checkpoint", "true", "--extend", "true")


def read_run(folder) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(base, dataset, tmp_path_factory):
    """A run of four steps of four rows."""
    folder = tmp_path_factory.mktemp("finished") / "adapter"
    train_sft.main(*training_arguments(base, dataset, folder, *SAVED))
    return folder


def extend(base, dataset, folder, *more: str) -> dict:
    train_sft.main(*training_arguments(base, dataset, folder, *SAVED, *EXTEND, *more))
    return read_run(folder)


def test_added_steps_read_new_rows_by_the_longer_schedule(base, dataset, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "adapter")
    run = extend(base, dataset, folder, "--max_steps", "8")
    said = capsys.readouterr().out
    assert "Extends the run of 4 steps to 8: 16 rows come next that it has not seen." in said
    assert "The learning rate was 0 at its end and continues at 0.0005, by the linear schedule over 8 steps." in said
    assert run["extensions"] == [{"step": 4, "rows": 16, "max_steps": 8, "learning_rate": 0.0005}]
    shuffled = load_dataset(str(dataset), split="train").shuffle(seed=42)
    assert run["steps"] == 8 and run["dataset"]["ids"] == shuffled.select(range(32))["id"][:]
    rates = {entry["step"]: entry["learning_rate"] for entry in run["losses"] if "learning_rate" in entry}
    assert rates[5] == pytest.approx(0.0005) and rates[8] == pytest.approx(0.000125)
    assert [entry["loss"] for entry in run["losses"]][:4] == [entry["loss"] for entry in read_run(finished)["losses"]]

    again = tmp_path / "interrupted"  # after the sixth step, and resumed without asking again for more steps
    shutil.copytree(folder / "checkpoint-6", again / "checkpoint-6")
    resume = ["--resume_from_checkpoint", "true", "--max_steps", "8"]
    train_sft.main(*training_arguments(base, dataset, again, *SAVED, *resume))
    assert_same(weights(again), weights(folder))
    assert read_run(again)["extensions"] == run["extensions"]
    run = extend(base, dataset, folder, "--max_steps", "10")
    assert [part["step"] for part in run["extensions"]] == [4, 8] and run["dataset"]["rows"] == 40


def test_more_epochs_read_every_row_again(base, dataset, tmp_path):
    epochs = ["--max_steps", "-1", "--train_fraction", "0.1", "--num_train_epochs"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "a", *SAVED, *epochs, "1"))
    run = extend(base, dataset, tmp_path / "a", *epochs, "2")
    assert run["steps"] == 6 and run["extensions"][0]["step"] == 3 and run["dataset"]["rows"] == 10


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max_steps", "8", "--seed", "7"], "is of another run: .*seed 7, there 42"),
        (["--max_steps", "2"], "is of another run: dataset rows .*; max_steps 2, there 4"),
    ],
)
def test_nothing_but_the_length_may_differ(base, dataset, finished, tmp_path, more, said):
    folder = shutil.copytree(finished, tmp_path / "adapter")
    with pytest.raises(UserError, match=said):
        extend(base, dataset, folder, *more)


def test_what_cannot_be_extended_is_named(base, dataset, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "adapter")
    longer = [*SAVED, "--max_steps", "8"]
    with pytest.raises(UserError, match="max_steps 8, there 4. A finished run can be made longer by --extend true"):
        train_sft.main(*training_arguments(base, dataset, folder, *longer, "--resume_from_checkpoint", "true"))
    shutil.rmtree(folder / "checkpoint-4")
    with pytest.raises(UserError, match="is of a run that is not finished, 2 of 4 steps: resume it as it was first"):
        train_sft.main(*training_arguments(base, dataset, folder, *longer, *EXTEND))
    shutil.rmtree(folder / "checkpoint-2")
    with pytest.raises(UserError, match="--extend: no complete checkpoint in"):
        train_sft.main(*training_arguments(base, dataset, folder, *longer, *EXTEND))
    with pytest.raises(SystemExit):
        training_arguments(base, dataset, folder, "--extend", "true")
    assert "--extend true needs --resume_from_checkpoint true" in capsys.readouterr().err


@pytest.mark.parametrize("lengths", [None, [7, 3, 9, 1, 8, 2, 6, 4, 5, 9]])
def test_the_first_epoch_takes_the_parts_in_their_order_and_later_ones_all_rows(lengths):
    sampler = ExtendedRunSampler([0, 4, 10], lengths, step_rows=2, seed=1)
    first = list(sampler)
    assert sorted(first[:4]) == [0, 1, 2, 3] and sorted(first[4:]) == [4, 5, 6, 7, 8, 9] and len(sampler) == 10
    sampler.set_epoch(1)
    later = list(sampler)
    assert sorted(later) == list(range(10)) and later == list(sampler) and sorted(later[:4]) != [0, 1, 2, 3]
