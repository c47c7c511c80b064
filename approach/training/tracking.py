"""Weights & Biases: one run for a training and what resumes it, and the drafts of each evaluation as a table."""

import json
import os
import secrets

import wandb


def start_wandb(run_name: str | None, setup: dict, run_id: str | None) -> str:
    """
    Starts a run, or goes on with the one of the checkpoint that `run_id` names; returns its id.

    Offline, where a run cannot be gone on with, the parts share a group. The ids of the rows are left to `run.json`.
    """
    run_id = run_id or secrets.token_hex(4)
    offline = wandb.setup().settings.mode in ("offline", "dryrun")
    same_run = {"group": run_id} if offline else {"id": run_id, "resume": "allow"}
    project = os.environ.get("WANDB_PROJECT", "huggingface")  # the Trainer's own default
    config = json.loads(json.dumps(setup))  # W&B would show the names of enumerations, `run.json` their values
    config["dataset"].pop("ids")
    wandb.init(project=project, name=run_name, config=config, **same_run)
    return run_id


def log_drafts(samples: list[dict], step: int) -> None:
    """Adds the drafts so far, a row each, to the run at this step."""
    table = wandb.Table(list(samples[0]), [list(row.values()) for row in samples])
    wandb.log({"drafts": table, "train/global_step": step})
