"""Which checkpoints a run goes on from: its own alone, and whole ones alone."""

import json
import shutil
from functools import cache

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

import train_sft
from approach.errors import UserError
from approach.training.checkpoints import build_resume_key, find_checkpoint

RECIPE = ["--config", str(ROOT / "recipes/small_base_lora_fp32.yaml"), "--use_cpu", "true"]
PLACES = ["--model_name_or_path", "base", "--dataset_name", "pairs"]


@cache
def identify(*more: str) -> dict:
    _, training_args, model_args, run_args = train_sft.parse_arguments([*RECIPE, *PLACES, *more])
    return build_resume_key(training_args, model_args, "rows", run_args.early_stopping_patience)


@pytest.fixture
def folder(tmp_path):
    """A run with two checkpoints, 1 and 2."""
    for step in (1, 2):
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text("{}", encoding="utf-8")
        save_file({"a": torch.zeros(9)}, checkpoint / "adapter_model.safetensors")
        torch.save([1], checkpoint / "optimizer.pt")
        torch.save([1], checkpoint / "rng_state.pth")
        progress = {"resume_key": identify(), "seconds": 1.0, "tokens": step}
        (checkpoint / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adam_beta1", "0.8"),
        ("adam_epsilon", "1e-6"),
        ("label_smoothing_factor", "0.1"),
        ("neftune_noise_alpha", "5"),
        ("lr_scheduler_kwargs", '{"num_cycles": 2}'),
        ("optim_args", "a=1"),
        ("loss_type", "dft"),
        ("packing", "true"),
        ("data_seed", "3"),
        ("average_tokens_across_devices", "false"),
        ("attn_implementation", "eager"),
        ("lora_dropout", "0.1"),
        ("use_rslora", "true"),
    ],
)
def test_another_value_of_what_changes_the_weights_is_another_run(folder, name, value):
    with pytest.raises(UserError, match=f"is of another run: {name} ") as ended:
        find_checkpoint(folder, "true", identify(f"--{name}", value))
    assert "\n" not in str(ended.value)


def test_what_does_not_change_the_weights_may_change(folder):
    more = ["--logging_steps", "3", "--save_steps", "7", "--eval_steps", "9", "--report_to", "wandb"]
    more += ["--output_dir", "elsewhere", "--dataloader_pin_memory", "false", "--num_samples", "0"]
    checkpoint, progress = find_checkpoint(folder, "true", identify(*more))
    assert checkpoint.endswith("checkpoint-2") and progress.tokens == 2


def test_how_often_is_evaluated_counts_where_the_best_weights_are_kept():
    best = ["--load_best_model_at_end", "true", "--eval_strategy", "steps", "--save_strategy", "steps"]
    often = identify(*best, "--eval_steps", "5", "--save_steps", "5", "--eval_on_start", "true")
    seldom = identify(*best, "--eval_steps", "10", "--save_steps", "10", "--eval_on_start", "false")
    assert {name for name in often if often[name] != seldom[name]} == {"eval_steps", "save_steps"}


def test_no_more_than_five_differences_are_named(folder):
    more = [f"--{name}" for name in ("adam_beta1", "adam_beta2", "learning_rate", "weight_decay", "lora_dropout")]
    changed = [word for name in more for word in (name, "0.5")] + ["--seed", "1"]
    with pytest.raises(UserError, match="and 1 more$"):
        find_checkpoint(folder, "true", identify(*changed))


def test_no_path_of_this_machine_stands_in_a_checkpoint(tmp_path):
    (tmp_path / "template.jinja").write_text("{{ messages }}", encoding="utf-8")
    resume_key = identify("--chat_template_path", str(tmp_path / "template.jinja"))
    assert resume_key["chat_template_path"] == "template.jinja" and str(tmp_path) not in json.dumps(resume_key)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("progress.json", b"{"),
        ("progress.json", b"[]"),
        ("progress.json", b'{"resume_key": {}, "unknown": 1}'),
        ("trainer_state.json", b"{"),
        ("adapter_model.safetensors", b"\xff" * 20),
        ("adapter_model.safetensors", b""),
        ("optimizer.pt", b"PK"),
        ("rng_state.pth", b""),
    ],
)
def test_a_damaged_checkpoint_is_skipped(folder, name, content, capsys):
    (folder / "checkpoint-2" / name).write_bytes(content)
    checkpoint, _ = find_checkpoint(folder, "true", identify())
    assert checkpoint.endswith("checkpoint-1") and "checkpoint-2 is not complete: skipped" in capsys.readouterr().out
    shutil.rmtree(folder / "checkpoint-1")
    with pytest.raises(UserError, match="no complete checkpoint"):
        find_checkpoint(folder, str(folder / "checkpoint-2"), identify())
