"""The run's folder: whether a run may be written there, and what of an earlier one is deleted for it."""

import shutil
from pathlib import Path

from transformers import TrainerCallback

from approach.errors import UserError, explain_os_error
from approach.storage import Inputs, check_no_input, check_writable, remove_leftovers
from approach.training.checkpoints import SAMPLES, list_checkpoints
from approach.training.publishing import PROGRESS

PARTIAL = ".partial-"  # the result while it is written, in the run's folder
# What a run that was killed before its first checkpoint may have left.
BEGINNINGS = (SAMPLES, "checkpoint-", PARTIAL, ".staged-", "runs", "wandb")


def require_run_folder(output_dir: Path, inputs: Inputs, overwrite: bool, resume: bool) -> None:
    """
    Raises UserError where a run must not be written to `output_dir`; removes what a kill left half written there.

    A folder with content must hold a training run, and going on with that or replacing it must have been asked for.
    It must hold nothing that is trained on: checkpoints go, and the tokenizer and the card are written anew.
    """
    place = f"--output_dir {output_dir}"
    try:
        if output_dir.exists() and not output_dir.is_dir():
            raise ValueError(f"{place} is a file: name a folder")
        check_writable(output_dir / "adapter")
        check_no_input(place, output_dir, inputs)
    except OSError as error:
        raise UserError(f"{place} cannot be written: {explain_os_error(error)}") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return
    if not holds_run(output_dir):
        raise UserError(f"{place} is not empty and holds no training run: choose another folder")
    if not overwrite and not resume:
        raise UserError(f"{place} is not empty: add --resume_from_checkpoint true, or --overwrite")
    remove_leftovers(output_dir, PARTIAL)


def holds_run(folder: Path) -> bool:
    """Whether a folder holds the result or the checkpoints of a training run, or else nothing but its beginnings."""
    if (folder / "merge.json").is_file():  # a merged model, with the training's run.json beside it
        return False
    if (folder / "run.json").is_file() or any((path / PROGRESS).is_file() for path in list_checkpoints(folder)):
        return True
    return all(path.name.startswith(BEGINNINGS) for path in folder.iterdir())


class EarlierRun(TrainerCallback):
    """
    A run that is not gone on with: deletes its drafts, and its checkpoints, which a later resume would take.

    The checkpoints go when the first step of the new run is done: until then it may fail by its inputs or by memory.
    """

    def __init__(self, output_dir: Path, with_checkpoints: bool):
        self.samples = output_dir / SAMPLES
        self.checkpoints = list_checkpoints(output_dir) if with_checkpoints else []

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.samples.unlink(missing_ok=True)

    def on_step_end(self, args, state, control, **kwargs):
        while self.checkpoints and state.is_world_process_zero:
            shutil.rmtree(self.checkpoints.pop())
