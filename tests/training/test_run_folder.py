"""What an earlier run or somebody else has in the output folder is deleted only when it may be."""

import errno
import json
import os
import shutil

import pytest
import torch
from conftest import training_arguments

import train_sft
from approach.errors import UserError
from approach.training import record
from approach.training.checkpoints import check_run_folder
from approach.training.trainer import ApproachTrainer


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(base, dataset, tmp_path_factory):
    """A run of two steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("finished") / "adapter"
    train_sft.main(*training_arguments(base, dataset, folder, *CHECKPOINTS))
    return folder


CHECKPOINTS = ("--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1")
RESUME = ("--resume_from_checkpoint", "true")
UNASKED = {"overwrite": False, "resume": False}


def test_the_bases_folder_and_a_projects_are_refused_without_advice_to_overwrite_them(base, dataset, tmp_path):
    own, full = shutil.copytree(base, tmp_path / "base"), shutil.copytree(base, tmp_path / "tuned")
    make_files(full, "run.json")  # a base that was fine-tuned here, without LoRA
    project = make_files(tmp_path / "project", "README.md", "checkpoint-best/notes.txt", ".git/HEAD")
    merged = make_files(tmp_path / "merged", "run.json", "merge.json", "config.json")
    before = contents(tmp_path)
    for folder, model, said in (
        (own, own, "base is or holds --model_name_or_path"),
        (full, full, "tuned is or holds --model_name_or_path"),
        (own, base, "is not empty and holds no training run: choose another folder"),
        (project, base, "is not empty and holds no training run: choose another folder"),
        (merged, base, "is not empty and holds no training run: choose another folder"),
    ):
        for asked in ({"overwrite": True}, {"resume": True}, {}):
            with pytest.raises(UserError, match=said) as refusal:
                check_run_folder(folder, {"--model_name_or_path": str(model)}, **{**UNASKED, **asked})
            assert "--overwrite" not in str(refusal.value) and "--resume" not in str(refusal.value)
    for asked in (["--overwrite"], RESUME):
        with pytest.raises(UserError, match="base is or holds --model_name_or_path"):
            train_sft.main(*training_arguments(own, dataset, own, *asked))
    assert contents(tmp_path) == before


def test_a_run_is_known_by_its_result_its_checkpoints_or_its_beginnings(tmp_path):
    for name, files in (
        ("finished", ["run.json", "notes.txt"]),
        ("stopped", ["checkpoint-3/progress.json", "notes.txt"]),
        ("begun", ["samples.jsonl", "checkpoint-1/trainer_state.json", ".partial-x/lock"]),
    ):
        folder = make_files(tmp_path / name, *files)
        with pytest.raises(UserError, match=f"{name} is not empty: add --resume_from_checkpoint true, or --overwrite"):
            check_run_folder(folder, {}, overwrite=False, resume=False)
        assert (folder / files[-1]).is_file()
        check_run_folder(folder, {}, overwrite=True, resume=False)
        check_run_folder(folder, {}, overwrite=False, resume=True)
    assert not (tmp_path / "begun" / ".partial-x").exists(), "the half result of a killed run is left"
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        check_run_folder(tmp_path / name, {}, overwrite=False, resume=False)


def test_what_cannot_be_written_is_refused_before_anything_is_loaded(base, dataset, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: name a folder"):
        train_sft.main(*training_arguments(base, dataset, tmp_path / "file"))

    def refuse(*args, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="adapter cannot be written: Read-only file system"):
        train_sft.main(*training_arguments(base, dataset, tmp_path / "adapter"))


def test_an_earlier_run_stays_until_the_new_one_has_done_a_step(base, dataset, finished, tmp_path, monkeypatch):
    """A wrong name, and a card that is full in the first step, cost none of its checkpoints."""
    folder = shutil.copytree(finished, tmp_path / "adapter")
    before = contents(folder)
    for arguments in (
        training_arguments(base, tmp_path / "none", folder, *CHECKPOINTS, "--overwrite"),
        training_arguments(tmp_path / "none", dataset, folder, *CHECKPOINTS, "--overwrite"),
    ):
        with pytest.raises(UserError, match="none"):
            train_sft.main(*arguments)
        assert contents(folder) == before

    def fill(*args, **named):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ApproachTrainer, "training_step", fill)
        with pytest.raises(UserError, match="memory is full"):
            train_sft.main(*training_arguments(base, dataset, folder, *CHECKPOINTS, "--overwrite"))
    assert contents(folder) == before
    train_sft.main(*training_arguments(base, dataset, folder, "--max_steps", "1", "--overwrite"))
    assert not list(folder.glob("checkpoint-*")), "a later resume would take them"


@pytest.mark.parametrize("fails", ["torch.save", pytest.param("safetensors", marks=pytest.mark.slow), "the result"])
def test_a_full_disk_ends_in_one_line_and_keeps_the_complete_checkpoints(
    fails, base, dataset, finished, tmp_path, monkeypatch
):
    folder, error = tmp_path / "adapter", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    target = {
        "torch.save": (ApproachTrainer, "_save_optimizer_and_scheduler"),
        "safetensors": (ApproachTrainer, "_save"),
        "the result": (record, "plot_losses"),
    }[fails]
    write = getattr(*target)
    if fails == "torch.save":
        error = RuntimeError("[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file")

    def fill(*args, **named):
        if fails == "the result" or args[0].state.global_step == 2:
            raise error
        return write(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(*target, fill)
        said = (
            "the result is not saved" if fails == "the result" else "checkpoint-2 cannot be saved: .* are as they were"
        )
        with pytest.raises(UserError, match=said):
            train_sft.main(*training_arguments(base, dataset, folder, *CHECKPOINTS))
    assert not list(folder.glob(".partial-*")) and not (folder / "adapter_model.safetensors").exists()
    assert (folder / "checkpoint-1" / "progress.json").is_file()
    assert (folder / "checkpoint-2").exists() == (fails == "the result")
    if fails == "the result":  # as after every stop, going on ends with the same result: see test_stops
        return
    train_sft.main(*training_arguments(base, dataset, folder, *CHECKPOINTS, *RESUME))
    name = "adapter_model.safetensors"
    assert (folder / name).read_bytes() == (finished / name).read_bytes()
    files = json.loads((folder / "run.json").read_text(encoding="utf-8"))["files"]
    assert files.keys() == {name}
