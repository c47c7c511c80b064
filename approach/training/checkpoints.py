"""Checkpoints: which run they are of, which one to go on from, and what makes them complete."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import TrainerCallback
from trl import ModelConfig, SFTConfig

from approach.files import public_name, write_json
from approach.training.publishing import Publisher

SAME_ARGUMENTS = (
    "seed",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "max_length",
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "train_sampling_strategy",
)
SAME_CHOICES = ("optim", "lr_scheduler_type", "bf16", "fp16")
SAMPLES = "samples.jsonl"  # the drafts of the evaluations so far, which a resumed run adds to
MODEL_ARGUMENTS = ("lora_", "use_", "load_in_", "bnb_", "dtype")  # how their names begin


@dataclass
class Progress:
    """What a run has counted so far, saved with each checkpoint, so that a resumed run goes on counting."""

    seconds: float = 0  # of training steps
    tokens: int = 0  # of all processes, without padding
    positions: int = 0  # with padding
    wandb_run_id: str | None = None


def describe_identity(training_args: SFTConfig, model_args: ModelConfig, rows_digest: str) -> dict:
    """What two parts of one run must have in common for the second to go on exactly where the first was stopped."""
    return {
        **{name: getattr(training_args, name) for name in SAME_ARGUMENTS},
        **{name: str(getattr(training_args, name)) for name in SAME_CHOICES},
        **{name: value for name, value in vars(model_args).items() if name.startswith(MODEL_ARGUMENTS)},
        "base": public_name(model_args.model_name_or_path),
        "base_revision": model_args.model_revision,
        "dataset rows": rows_digest,
    }


def list_checkpoints(folder: Path) -> list[Path]:
    """The Trainer's checkpoints in a folder, the last step first; a user's `checkpoint-best` is none of them."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def find_checkpoint(output_dir: Path, wanted: str | None, identity: dict) -> tuple[str | None, Progress]:
    """
    The checkpoint to go on from, the one named or for `true` the last complete one, if any; and its progress.

    Ends with one line where the checkpoint is of another run: bit for bit the same result needs the same rows, order
    and steps. `progress.json` is written when all else of a checkpoint is; without it, the writing was interrupted.
    """
    if wanted is None:
        return None, Progress()
    takes_last = str(wanted).lower() == "true"
    for checkpoint in list_checkpoints(output_dir) if takes_last else [Path(wanted)]:
        try:
            progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
            theirs = progress.pop("identity")
        except (OSError, ValueError, KeyError):
            print(f"{checkpoint} is not complete: passed over")
            continue
        require_same_run(checkpoint, identity, theirs)
        return str(checkpoint), Progress(**progress)
    if not takes_last:
        sys.exit(f"--resume_from_checkpoint {wanted}: no complete checkpoint")
    print(f"No complete checkpoint in {output_dir}: starting from the beginning")
    return None, Progress()


def require_same_run(checkpoint: Path, ours: dict, theirs: dict) -> None:
    """Ends with one line that names what differs where a checkpoint is of another run."""
    changed = [
        f"{name} {ours.get(name)}, there {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if changed:
        sys.exit(f"--resume_from_checkpoint {checkpoint} is of another run: {'; '.join(changed)}")


class CheckpointKeeper(TrainerCallback):
    """Completes each checkpoint with the run's identity and progress, and publishes it where that was asked for."""

    def __init__(self, identity: dict, progress: Progress, publisher: Publisher | None):
        self.identity, self.progress, self.publisher = identity, progress, publisher

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        progress = {name: value for name, value in asdict(self.progress).items() if value is not None}
        write_json(checkpoint / "progress.json", {"identity": self.identity, **progress})
        if self.publisher:
            self.publisher.publish_checkpoint(checkpoint, state.global_step)
