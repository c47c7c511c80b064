"""Checkpoints: which run they are of, which one to go on from, and what makes them complete."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback
from trl import ModelConfig, SFTConfig

from approach.errors import UserError, first_line
from approach.storage import public_name, write_json
from approach.training.publishing import PROGRESS, Publisher

# What a resumed run may have otherwise, for the weights come out the same: all else is compared.
HARMLESS = {
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
    "model_name_or_path",  # the base, by its public name
    "trust_remote_code",
}
HARMLESS_PREFIXES = (
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
# Harmless as well, unless an evaluation decides which weights are kept.
CHOOSE_THE_BEST = ("eval_", "save_", "metric_for_best_model", "greater_is_better")
MAX_NAMED = 5  # of the arguments that differ
SAMPLES = "samples.jsonl"  # the drafts of the evaluations so far, which a resumed run adds to


@dataclass
class Progress:
    """What a run has counted so far, saved with each checkpoint, so that a resumed run goes on counting."""

    seconds: float = 0  # of training steps
    tokens: int = 0  # of all processes, without padding
    positions: int = 0  # with padding
    wandb_run_id: str | None = None


def describe_identity(
    training_args: SFTConfig, model_args: ModelConfig, rows_digest: str, patience: int | None = None
) -> dict:
    """
    What two parts of one run must have in common for the second to go on exactly where the first was stopped.

    `patience` is that of early stopping. Values are as JSON gives them back.
    """
    prefixes = HARMLESS_PREFIXES if training_args.load_best_model_at_end else (*HARMLESS_PREFIXES, *CHOOSE_THE_BEST)
    values = {
        field.name: without_folder(getattr(group, field.name))
        for group in (training_args, model_args)
        for field in fields(group)
        if field.name not in HARMLESS and not field.name.startswith(prefixes)
    }
    values |= {
        "world_size": training_args.world_size,
        "base": public_name(model_args.model_name_or_path),
        "dataset rows": rows_digest,
        "early_stopping_patience": patience,
    }
    return json.loads(json.dumps(values, default=str))


def without_folder(value: object) -> object:
    """An argument's value; of a file, a template say, the name alone, because checkpoints may be published."""
    return public_name(value) if isinstance(value, str) and os.path.exists(value) else value


def list_checkpoints(folder: Path) -> list[Path]:
    """The Trainer's checkpoints in a folder, the last step first; a user's `checkpoint-best` is none of them."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def find_checkpoint(output_dir: Path, wanted: str | None, identity: dict) -> tuple[str | None, Progress]:
    """
    The checkpoint to go on from, the one named or for `true` the last complete one, if any; and its progress.

    Raises UserError where the checkpoint is of another run: bit for bit the same result needs the same rows, order
    and steps. `progress.json` is written when all else of a checkpoint is; without it, the writing was interrupted.
    """
    if wanted is None:
        return None, Progress()
    takes_last = str(wanted).lower() == "true"
    for checkpoint in list_checkpoints(output_dir) if takes_last else [Path(wanted)]:
        try:
            progress = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
            theirs, progress = progress.pop("identity"), Progress(**progress)
            require_whole(checkpoint)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            print(f"{checkpoint} is not complete: passed over ({type(error).__name__}: {first_line(error)})")
            continue
        require_same_run(checkpoint, identity, theirs)
        return str(checkpoint), progress
    if not takes_last:
        raise UserError(f"--resume_from_checkpoint {wanted}: no complete checkpoint")
    print(f"No complete checkpoint in {output_dir}: starting from the beginning")
    return None, Progress()


def require_whole(checkpoint: Path) -> None:
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


def require_same_run(checkpoint: Path, ours: dict, theirs: dict) -> None:
    """Raises UserError that names what differs where a checkpoint is of another run."""
    changed = [
        f"{name} {ours.get(name)}, there {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if changed:
        more = f"; and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} is of another run: {'; '.join(changed[:MAX_NAMED])}{more}"
        )


class CheckpointKeeper(TrainerCallback):
    """Completes each checkpoint with the run's identity and progress, and publishes it where that was asked for."""

    def __init__(self, identity: dict, progress: Progress, publisher: Publisher | None):
        self.identity, self.progress, self.publisher = identity, progress, publisher

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        progress = {name: value for name, value in asdict(self.progress).items() if value is not None}
        write_json(checkpoint / PROGRESS, {"identity": self.identity, **progress})
        if self.publisher:
            self.publisher.publish_checkpoint(checkpoint, state.global_step)
