"""The run's folder and its checkpoints: whether a run may be written there, and which checkpoint it resumes from."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from trl import ModelConfig, SFTConfig

from approach.errors import UserError, explain_os_error, first_line
from approach.storage import Inputs, check_no_input, check_writable, public_name, remove_leftovers
from approach.training.publishing import PROGRESS

# A resumed run may have other values of these: the weights come out the same. All other arguments are compared.
IGNORED_ARGUMENTS = {
    "output_dir",
    "run_name",
    "project",
    "report_to",
    "resume_from_checkpoint",
    "use_cpu",
    "disable_tqdm",
    "local_rank",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "activation_offloading",
    "torch_empty_cache_steps",
    "skip_memory_metrics",
    "include_for_metrics",
    "include_num_input_tokens_seen",
    "prediction_loss_only",
    "batch_eval_metrics",
    "per_device_eval_batch_size",
    "eval_on_start",
    "model_name_or_path",  # the base, which is compared by its public name
    "trust_remote_code",
}
IGNORED_PREFIXES = (
    "log",
    "hub_",
    "push_to_hub",
    "ddp_",
    "dataset_num_proc",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "do_",
    "trackio_",
)
# Ignored as well, unless an evaluation decides which weights are kept.
SELECTION_PREFIXES = ("eval_", "save_", "metric_for_best_model", "greater_is_better")
MAX_NAMED = 5  # of the arguments that differ
SAMPLES = "samples.jsonl"  # the drafts of the evaluations so far, which a resumed run adds to
PARTIAL = ".partial-"  # the result while it is written, in the run's folder
# What a run that was killed before its first checkpoint may have left.
UNFINISHED = (SAMPLES, "checkpoint-", PARTIAL, ".staged-", "runs", "wandb")


@dataclass
class Progress:
    """What a run has counted so far. It is saved with each checkpoint, so that a resumed run continues counting."""

    seconds: float = 0  # of training steps
    tokens: int = 0  # of all processes, without padding
    positions: int = 0  # with padding
    wandb_run_id: str | None = None
    activation_dtype: str | None = None  # the precision in force


def check_run_folder(output_dir: Path, inputs: Inputs, overwrite: bool, resume: bool) -> None:
    """
    Checks that a run may be written to `output_dir`, and removes what a killed run left half written there.

    A folder with content must hold a training run, and the user must have asked to resume or to replace it. It must
    hold nothing that is trained on: checkpoints are deleted, and the tokenizer and the card are written anew.

    Raises:
        UserError: where the folder cannot be written, or holds something that a run must not replace.
    """
    place = f"--output_dir {output_dir}"
    try:
        if output_dir.exists() and not output_dir.is_dir():
            raise UserError(f"{place} is a file: name a folder")
        check_writable(output_dir / "adapter")
        check_no_input(place, output_dir, inputs)
    except (OSError, ValueError) as error:
        raise UserError(f"{place} cannot be written: {explain_os_error(error)}") from error
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return
    if not contains_run(output_dir):
        raise UserError(f"{place} is not empty and holds no training run: choose another folder")
    if not overwrite and not resume:
        raise UserError(f"{place} is not empty: add --resume_from_checkpoint true, or --overwrite")
    remove_leftovers(output_dir, PARTIAL)


def contains_run(folder: Path) -> bool:
    """Whether a folder holds a run's result or checkpoints, or nothing but what an unfinished run leaves."""
    if (folder / "merge.json").is_file():  # a merged model, with the training's run.json beside it
        return False
    if (folder / "run.json").is_file() or any((path / PROGRESS).is_file() for path in list_checkpoints(folder)):
        return True
    return all(path.name.startswith(UNFINISHED) for path in folder.iterdir())


def list_checkpoints(folder: Path) -> list[Path]:
    """The Trainer's checkpoints in a folder, the last step first; a user's `checkpoint-best` is none of them."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def build_resume_key(
    training_args: SFTConfig, model_args: ModelConfig, rows_sha256: str, patience: int | None = None
) -> dict:
    """
    What must be equal in two parts of a run, so that the second continues exactly where the first was stopped.

    `rows_sha256` is the hash of the tokenized rows, `patience` that of early stopping. Values are as JSON gives them
    back, since they are compared with those that a checkpoint holds.
    """
    prefixes = IGNORED_PREFIXES if training_args.load_best_model_at_end else (*IGNORED_PREFIXES, *SELECTION_PREFIXES)
    values = {
        field.name: hide_folder(getattr(group, field.name))
        for group in (training_args, model_args)
        for field in fields(group)
        if field.name not in IGNORED_ARGUMENTS and not field.name.startswith(prefixes)
    }
    values |= {
        "world_size": training_args.world_size,
        "base": public_name(model_args.model_name_or_path),
        "dataset rows": rows_sha256,
        "early_stopping_patience": patience,
    }
    return json.loads(json.dumps(values, default=str))


def hide_folder(value: object) -> object:
    """An argument's value; of the path of a file the name alone, because checkpoints may be published."""
    return public_name(value) if isinstance(value, str) and os.path.exists(value) else value


def find_checkpoint(output_dir: Path, wanted: str | None, resume_key: dict) -> tuple[str | None, Progress]:
    """
    The checkpoint to resume from and its progress: the one named, or for `true` the last complete one, if any.

    `progress.json` is written last of a checkpoint: without it, the writing was interrupted.

    Raises:
        UserError: where the checkpoint is of another run: the same result bit for bit needs the same rows, order and
            steps.
    """
    if wanted is None:
        return None, Progress()
    takes_last = str(wanted).lower() == "true"
    for checkpoint in list_checkpoints(output_dir) if takes_last else [Path(wanted)]:
        try:
            progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
            saved_key = progress.pop("identity" if "identity" in progress else "resume_key")  # an earlier name of it
            progress = Progress(**progress)
            check_complete(checkpoint)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            print(f"{checkpoint} is not complete: skipped ({type(error).__name__}: {first_line(error)})")
            continue
        check_same_run(checkpoint, resume_key, saved_key)
        return str(checkpoint), progress
    if not takes_last:
        raise UserError(f"--resume_from_checkpoint {wanted}: no complete checkpoint")
    print(f"No complete checkpoint in {output_dir}: starting from the beginning")
    return None, Progress()


def check_complete(checkpoint: Path) -> None:
    """Raises ValueError or OSError where a file that the Trainer would read is damaged."""
    json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    for path in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path.name}: {first_line(error)}") from error
    for path in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
        if not is_zipfile(path):
            raise ValueError(f"{path.name} is cut off")


def check_same_run(checkpoint: Path, resume_key: dict, saved_key: dict) -> None:
    """Raises UserError that names what differs where a checkpoint is of another run."""
    changed = [
        f"{name} {resume_key.get(name)}, there {saved_key.get(name)}"
        for name in sorted(resume_key.keys() | saved_key.keys())
        if resume_key.get(name) != saved_key.get(name)
    ]
    if changed:
        more = f"; and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} is of another run: {'; '.join(changed[:MAX_NAMED])}{more}"
        )
