"""Ctrl-C at any moment of a run: what it says is saved is saved, and going on ends with the same weights."""

import os
import re
import signal

import pytest
from conftest import training_arguments

import train_sft
from approach.errors import UserError
from approach.training import record
from approach.training.callbacks import CheckpointCallback, DraftSamplesCallback
from approach.training.trainer import ApproachTrainer

WEIGHTS = "adapter_model.safetensors"
EVALUATED = (
    *("--max_steps", "3", "--eval_strategy", "steps", "--eval_steps", "2", "--num_samples", "1"),
    *("--num_eval_rows", "6", "--per_device_eval_batch_size", "1"),
)
SAVED = ("--save_strategy", "steps", "--save_steps", "2")
BEST = ("--save_strategy", "best", "--load_best_model_at_end", "true", "--metric_for_best_model", "eval_loss")
HARMFUL = ("--learning_rate", "0.3", "--lr_scheduler_type", "constant")  # the second evaluation is not the best
MOMENTS = {
    "step": (ApproachTrainer, "training_step"),
    "evaluation": (ApproachTrainer, "prediction_step"),
    "drafting": (DraftSamplesCallback, "on_evaluate"),
    "checkpoint": (CheckpointCallback, "on_save"),
    "result": (record, "plot_losses"),
}


def press_at(patch, moment, step):
    """Presses Ctrl-C at the first such moment after `step` steps; returns the list of all such moments' steps."""
    owner, name = MOMENTS[moment]
    work, steps = getattr(owner, name), []

    def press(*args, **named):
        state = named.get("state") or getattr(args[0], "state", None) or (args[2] if len(args) > 2 else None)
        done = state.global_step if state else step
        if done == step and step not in steps:
            os.kill(os.getpid(), signal.SIGINT)
        steps.append(done)
        return work(*args, **named)

    patch.setattr(owner, name, press)
    return steps


@pytest.fixture(autouse=True, scope="module")
def short_drafts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("approach.training.callbacks.SAMPLE_TOKENS", 8)
        yield


@pytest.fixture(scope="module")
def undisturbed(base, dataset, tmp_path_factory):
    """The weights of the run that is never stopped; whether it saves checkpoints changes nothing."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train_sft.main(*training_arguments(base, dataset, folder / "adapter", *EVALUATED))
    return (folder / "adapter" / WEIGHTS).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process instead")
@pytest.mark.parametrize(
    ("moment", "step", "saves"),
    [
        ("step", 1, ()),
        ("evaluation", 3, ()),
        ("result", 3, ()),
        pytest.param("evaluation", 0, ("--eval_on_start", "true"), marks=pytest.mark.slow),
        pytest.param("evaluation", 2, (), marks=pytest.mark.slow),
        pytest.param("drafting", 3, (), marks=pytest.mark.slow),
        pytest.param("drafting", 2, SAVED, marks=pytest.mark.slow),
        pytest.param("checkpoint", 3, SAVED, marks=pytest.mark.slow),
    ],
)
def test_what_a_stop_says_is_saved_is_saved(moment, step, saves, base, dataset, undisturbed, tmp_path):
    folder = tmp_path / "adapter"
    arguments = [*EVALUATED, *saves]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as stopped:
        steps = press_at(patch, moment, step)
        train_sft.main(*training_arguments(base, dataset, folder, *arguments))
    assert stopped.value.status == 130
    last_line = str(stopped.value)
    if moment == "evaluation":
        assert steps.count(step) < 6, "the evaluation went on to its end"
    if found := re.match(
        r"Stopped after step (\d), which is saved: continue with --resume_from_checkpoint", last_line
    ):
        assert (folder / f"checkpoint-{found[1]}" / "progress.json").is_file() and not (folder / WEIGHTS).exists()
        train_sft.main(*training_arguments(base, dataset, folder, *arguments, "--resume_from_checkpoint", "true"))
    else:
        assert last_line == f"Stopped after the last step: the result in {folder} is complete"
    assert (folder / WEIGHTS).read_bytes() == undisturbed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process instead")
def test_a_stop_is_saved_where_only_the_best_is(base, dataset, tmp_path):
    """The Trainer takes back the save that a callback asks for where the evaluation found no better model."""
    folder, arguments = tmp_path / "adapter", [*EVALUATED, "--eval_steps", "1", *BEST, *HARMFUL]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="Stopped after step 2, which is saved"):
        press_at(patch, "step", 1)
        train_sft.main(*training_arguments(base, dataset, folder, *arguments))
    assert (folder / "checkpoint-2" / "progress.json").is_file()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process instead")
def test_a_second_ctrl_c_stops_at_once_in_one_line(base, dataset, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        press_at(patch, "step", 1)
        press_at(patch, "step", 1)
        train_sft.main(*training_arguments(base, dataset, tmp_path / "adapter", *EVALUATED))
    assert stopped.value.code == 130
    assert capsys.readouterr().err.strip().endswith("Stopped at once: the complete checkpoints are as they were.")
