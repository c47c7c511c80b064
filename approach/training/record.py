"""The record of a run: `run.json` and the loss curve beside the weights, and Weights & Biases."""

import json
import os
import platform
import secrets
from collections.abc import Iterable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import torch
import wandb
from matplotlib.figure import Figure  # pyplot would look for a display
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash
from trl import ModelConfig

from approach.errors import UserError, first_line
from approach.models import compute_fingerprint
from approach.storage import hash_file, public_name, temporary_folder, write_json
from approach.training.checkpoints import PARTIAL, Progress
from approach.training.trainer import ApproachTrainer

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
# Arguments of one machine or of one start of the run, or recorded elsewhere.
UNRECORDED = {
    "output_dir",
    "overwrite",
    "public",
    "hub_overwrite",
    "allow_paths",
    "run_name",
    "hub_token",
    "model_name_or_path",
    "dataset_name",
    "use_cpu",
    "resume_from_checkpoint",
    "chat_template_path",
    "dataset_revision",
}


def build_setup_record(arguments: Iterable, base: dict, dataset: dict) -> dict:
    """What is known before the first step: base, data, the arguments that are not their defaults, versions."""
    values = [(f, getattr(group, f.name)) for group in arguments for f in fields(group) if f.name not in UNRECORDED]
    return {
        "base": base,
        "dataset": dataset,
        "arguments": {
            f.name: v for f, v in values if v not in (f.default, []) and isinstance(v, str | int | float | list)
        },
        "versions": {name: version(name) for name in LIBRARIES},
    }


def build_base_record(model_args: ModelConfig) -> dict:
    """
    The base by name, commit and weights.

    A base stored in 4 bits has no fingerprint, since merging takes the one in full precision.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    commit = extract_commit_hash(cached_file(name, "config.json", revision=revision), None)
    is_quantized = bool(getattr(config, "quantization_config", None))
    fingerprint = None if is_quantized else compute_fingerprint(name, revision)
    return {"name": public_name(name), "revision": commit, "fingerprint": fingerprint}


def build_run_record(setup: dict, trainer: ApproachTrainer, progress: Progress) -> dict:
    """What `run.json` holds: the setup, and what training found: device, speed, memory, losses."""
    on_gpu, state, seconds = trainer.args.device.type == "cuda", trainer.state, progress.seconds
    threads = torch.get_num_threads()
    cpu = f"CPU, {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"
    return {
        **setup,
        "distributed_type": trainer.accelerator.distributed_type.value,
        "processes": trainer.args.world_size,
        "device": torch.cuda.get_device_name() if on_gpu else cpu,
        "activation_dtype": progress.activation_dtype,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": state.global_step,
        "best_step": state.best_global_step if trainer.args.load_best_model_at_end else None,
        "seconds": round(seconds, 1),
        "tokens_a_second": round(progress.tokens / seconds, 1) if seconds else None,
        "padding_share": round(1 - progress.tokens / progress.positions, 4) if seconds else None,
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "losses": [entry for entry in state.log_history if "loss" in entry or "eval_loss" in entry],
    }


def save_result(trainer: ApproachTrainer, run: dict, output_dir: Path) -> None:
    """
    Writes adapter (or model), tokenizer, `run.json` and loss curve to a folder beside, then moves them in.

    The weights are moved last. An earlier result stays as it was where writing fails.

    Raises:
        UserError: on a full disk.
    """
    try:
        with temporary_folder(output_dir, PARTIAL) as folder:
            partial = folder / "new"
            trainer.save_model(str(partial))
            if not trainer.is_world_process_zero():
                return
            # Merging refuses weights that are not these.
            digests = {path.name: hash_file(path) for path in partial.glob("*.safetensors")}
            write_json(partial / "run.json", {**run, "files": digests})
            plot_losses(run["losses"], partial / "loss_curve.png")
            for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
                path.replace(output_dir / path.name)
        trainer.create_model_card(model_name=output_dir.name, dataset_name=run["dataset"]["name"])
    except (OSError, SafetensorError) as error:
        problem = f"{first_line(error)}: the result is not saved"
        later = "once there is room, --resume_from_checkpoint true continues from the last checkpoint, if there is one"
        raise UserError(f"--output_dir {output_dir}: {problem}; {later}") from error


def plot_losses(losses: list[dict], path: Path) -> None:
    """The loss curve of a run as a PNG: training, and validation where it was measured."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label, marker in (("loss", "training", ""), ("eval_loss", "validation", "o")):
        if points := [(entry["step"], entry[key]) for entry in losses if key in entry]:
            axes.plot(*zip(*points, strict=True), label=label, marker=marker)
    axes.set(xlabel="step", ylabel="loss a token of the approach (nats)")
    axes.legend()
    figure.savefig(path, dpi=150)


def start_wandb(run_name: str | None, setup: dict, run_id: str | None) -> str:
    """
    Starts a W&B run, or continues the one of the checkpoint that `run_id` names; returns its id.

    Offline, where a run cannot be continued, the parts share a group. The ids of the rows are left to `run.json`.
    """
    run_id = run_id or secrets.token_hex(4)
    offline = wandb.setup().settings.mode in ("offline", "dryrun")
    same_run = {"group": run_id} if offline else {"id": run_id, "resume": "allow"}
    project = os.environ.get("WANDB_PROJECT", "huggingface")  # the Trainer's own default
    config = json.loads(json.dumps(setup))  # W&B would show the names of enumerations, `run.json` their values
    config["dataset"].pop("ids")
    wandb.init(project=project, name=run_name, config=config, **same_run)
    return run_id


def log_samples(samples: list[dict], step: int) -> None:
    """Adds the draft samples so far, a row each, to the W&B run at this step."""
    table = wandb.Table(list(samples[0]), [list(row.values()) for row in samples])
    wandb.log({"drafts": table, "train/global_step": step})
