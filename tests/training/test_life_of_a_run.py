import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, training_arguments
from safetensors.torch import load_file, save_file
from training_runs import assert_same, launch_command, weights

import train_sft
from approach.errors import UserError
from approach.training.callbacks import SanityCheckCallback


@pytest.fixture(scope="module")
def undisturbed(base, dataset, tmp_path_factory):
    """The run that the others are compared with, never killed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "adapter"
    train_sft.main(*train_sft.parse_arguments(launch_command(base, dataset, folder)[2:]))
    return folder


def test_checkpoints_hold_the_adapter_and_no_secret(undisturbed):
    assert sorted(path.name for path in undisturbed.glob("checkpoint-*")) == [
        f"checkpoint-{n}" for n in (10, 20, 30, 40)
    ]
    assert not list(undisturbed.rglob("training_args.bin"))
    assert not list(undisturbed.glob("checkpoint-*/README.md")), "PEFT's card, with the base's local path"
    trained_rows = {name for name in weights(undisturbed / "checkpoint-10") if "lora_" not in name}
    assert {name.rpartition(".")[2] for name in trained_rows} == {"trainable_tokens_delta"}, "a whole matrix was saved"


def test_sigterm_saves_the_step_and_resuming_ends_with_the_same_weights(base, dataset, undisturbed, tmp_path, capsys):
    folder = tmp_path / "adapter"
    command = launch_command(base, dataset, folder)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes)
    for line in process.stdout:
        if "'loss'" in line:  # the first step is done, and SIGTERM comes in the middle of another
            process.terminate()
            break
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "continue with --resume_from_checkpoint true" in errors
    assert not (folder / "adapter_model.safetensors").exists(), "an interrupted run must leave no final adapter"
    (checkpoint,) = folder.glob("checkpoint-*")
    assert 1 <= int(checkpoint.name.partition("-")[2]) < 40

    half = folder / "checkpoint-39"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 39', encoding="utf-8")
    train_sft.main(*train_sft.parse_arguments([*command[2:], "--resume_from_checkpoint", "true"]))
    assert "checkpoint-39 is not complete: skipped" in capsys.readouterr().out
    assert_same(weights(folder), weights(undisturbed))
    losses = [json.loads((path / "run.json").read_text(encoding="utf-8"))["losses"] for path in (folder, undisturbed)]
    assert [entry["loss"] for entry in losses[0]] == [entry["loss"] for entry in losses[1]]


def test_a_run_resumed_in_its_second_epoch_takes_every_row_once(base, dataset, tmp_path):
    """transformers 5.23: `LengthGroupedSampler` has no generator, and draws a resumed epoch anew."""
    epochs = ["--max_steps", "-1", "--num_train_epochs", "2", "--train_fraction", "0.3", "--save_strategy", "steps"]
    arguments = [*epochs, "--save_steps", "3", "--logging_steps", "1"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "whole", *arguments))
    checkpoints = sorted(int(path.name.partition("-")[2]) for path in (tmp_path / "whole").glob("checkpoint-*"))
    assert checkpoints == [3, 6, 9, 12, 15, 16], "8 steps an epoch"
    shutil.copytree(tmp_path / "whole" / "checkpoint-12", tmp_path / "parts" / "checkpoint-12")
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_on_start", "true", "--num_samples", "1"]
    resume = ["--resume_from_checkpoint", "true"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "parts", *arguments, *evaluated, *resume))
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_with_the_same_weights(base, dataset, undisturbed, tmp_path):
    rng, folder = random.Random(0), tmp_path / "adapter"
    command = launch_command(base, dataset, folder, "--save_steps", 1, "--resume_from_checkpoint", "true")
    started = time.monotonic()
    subprocess.run([*command[:-2], "--output_dir", str(tmp_path / "timed")], cwd=ROOT, check=True, capture_output=True)
    seconds, kills = time.monotonic() - started, 0
    while kills < 20:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=rng.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:  # it came to its end before the kill: the next one begins anew
            assert process.returncode == 0, errors
            assert_same(weights(folder), weights(undisturbed))
            shutil.rmtree(folder)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert_same(weights(folder), weights(undisturbed))


def test_a_terminated_launcher_takes_the_run_with_it(base, dataset, tmp_path):
    """`accelerate launch` dies of SIGTERM without passing it on; the run notices, saves and stops."""
    folder = tmp_path / "adapter"
    command = launch_command(base, dataset, folder, "--max_steps", 100_000, "--save_steps", 100_000)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    process = subprocess.Popen(
        [*launcher, *command[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if "'loss'" in line:
            process.terminate()
            break
    for _ in process.stdout:  # ends when the run, which has the other end, does
        pass
    process.wait()
    process.stdout.close()
    (checkpoint,) = folder.glob("checkpoint-*")
    assert (checkpoint / "progress.json").is_file() and not (folder / "adapter_model.safetensors").exists()


def test_killed_after_the_last_step_it_resumes_to_the_end(base, dataset, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    resume = ["--resume_from_checkpoint", "true"]
    train_sft.main(*train_sft.parse_arguments(launch_command(base, dataset, folder, *resume)[2:]))
    assert_same(weights(folder), weights(undisturbed))


def test_another_run_is_not_resumed_by_mistake(base, dataset, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "adapter")
    resume = ["--resume_from_checkpoint", "true"]
    for change, named in (
        (["--seed", "7"], "seed 7, there 42"),
        (["--max_length", "160"], "max_length 160, there 192"),
        (["--per_device_train_batch_size", "1"], "per_device_train_batch_size 1, there 2"),
        (["--max_steps", "50"], "max_steps 50, there 40"),
        (["--train_fraction", "0.5"], "dataset rows "),
        (["--lora_alpha", "32"], "lora_alpha 32, there 16"),
    ):
        with pytest.raises(UserError, match=named):
            train_sft.main(*train_sft.parse_arguments(launch_command(base, dataset, folder, *resume, *change)[2:]))
    with pytest.raises(UserError, match="not empty: add --resume_from_checkpoint true"):
        train_sft.main(*train_sft.parse_arguments(launch_command(base, dataset, folder)[2:]))


def test_a_loss_that_is_no_number_stops_the_run_by_name(base, dataset, tmp_path):
    poisoned = shutil.copytree(base, tmp_path / "poisoned")
    tensors = load_file(poisoned / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="step 1: the loss or a gradient is not a number"):
        train_sft.main(*training_arguments(poisoned, dataset, tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_loss_past_reason_stops_the_run_by_name(base, dataset, tmp_path):
    arguments = training_arguments(
        base, dataset, tmp_path / "adapter", "--learning_rate", "1e4", "--max_grad_norm", "0"
    )
    with pytest.raises(UserError, match=r"step \d: (a loss of .* is above|the loss or a gradient is not a number)"):
        train_sft.main(*arguments)


def test_a_process_without_any_gradient_is_left_to_the_others():
    """With DeepSpeed's ZeRO the parameters of a process may have no gradient."""
    check = SanityCheckCallback(vocab_size=400)
    args, state = SimpleNamespace(fp16=False, device="cpu"), SimpleNamespace(global_step=0)
    check.on_pre_optimizer_step(args, state, None, model=torch.nn.Linear(2, 2))


def test_two_processes_give_the_losses_of_one(base, dataset, tmp_path):
    """DDP over gloo, the same rows a step, no dropout. Two runs that know nothing of each other would not pass."""
    common = ["--max_steps", 4, "--save_strategy", "no", "--lora_dropout", 0]
    common += ["--train_sampling_strategy", "sequential"]
    for name, processes, batch in (("one", 1, 4), ("two", 2, 2)):
        command = launch_command(base, dataset, tmp_path / name, *common, "--per_device_train_batch_size", batch)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        launched = subprocess.run([*launcher, *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert launched.returncode == 0, launched.stderr
    runs = [json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert [run["distributed_type"] for run in runs] == ["MULTI_CPU", "MULTI_CPU"]
    assert [run["processes"] for run in runs] == [1, 2]
    for one, two in zip(runs[0]["losses"], runs[1]["losses"], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
