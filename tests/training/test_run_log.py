import json
import math
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, training_arguments
from datasets import load_dataset
from peft import AutoPeftModelForCausalLM
from training_runs import assert_same, launch_command, weights
from transformers import AutoTokenizer

import train_sft
from approach.training.callbacks import SAMPLE_TOKENS
from approach.training.record import start_wandb
from approach.training.trainer import ApproachTrainer

EVALUATED = (
    *("--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "2", "--eval_on_start", "true"),
    *("--save_strategy", "steps", "--save_steps", "2", "--load_best_model_at_end", "true"),
    *("--learning_rate", "0.01", "--lr_scheduler_type", "constant", "--warmup_steps", "0", "--adam_beta1", "0"),
)


def train_down_and_up(base, dataset, folder, *more: str) -> None:
    """A run with dropout that after its fourth step climbs the loss: the best checkpoint is not the last."""
    compute_loss = ApproachTrainer.compute_loss

    def climb(trainer, model, *arguments, **named):
        loss = compute_loss(trainer, model, *arguments, **named)
        return -loss if model.training and trainer.state.global_step >= 4 else loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ApproachTrainer, "compute_loss", climb)
        train_sft.main(*training_arguments(base, dataset, folder, *EVALUATED, *more))


def read_wandb(file) -> list[tuple[str, dict]]:
    """The records of an offline W&B run: `(type, {key: value})`, from its log in LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, text, records = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        text, at = text + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, text = Record.FromString(text), b""
            name = record.WhichOneof("record_type")
            items = {"history": record.history.item, "run": record.run.config.update}.get(name, ())
            values = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            if name == "run":
                values |= {"id": record.run.run_id, "group": record.run.run_group}
            records.append((name, values))
    return records


def wait_for_run(file: Path) -> list[tuple[str, dict]]:
    """The records once the run's own is among them: W&B's service may write on a little after the script has ended."""
    for _ in range(200):
        records = read_wandb(file)
        if "run" in [kind for kind, _ in records]:
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file.name} holds no run")


def test_an_offline_wandb_run_holds_the_run_and_a_resumed_one_joins_its_group(base, dataset, tmp_path):
    folder = tmp_path / "adapter"
    command = launch_command(base, dataset, folder, "--report_to", "wandb", "--run_name", "tiny", "--save_steps", 4)
    command += ["--max_steps", "8", "--eval_strategy", "steps", "--eval_steps", "4", "--num_samples", "2"]
    environment = {**os.environ, "WANDB_DIR": str(tmp_path)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = wait_for_run(file)
    (setup,) = [values for kind, values in records if kind == "run"]
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert len(run["dataset"].pop("ids")) == run["dataset"]["rows"], "left to run.json: there may be 100,000"
    for name in ("base", "dataset", "arguments", "versions"):
        assert setup[name] == run[name]
    history = [values for kind, values in records if kind == "history"]
    keys = {key for values in history for key in values}
    assert {"train/loss", "train/mean_token_accuracy", "train/tokens_a_second", "train/padding_share"} <= keys
    losses = {values["train/global_step"]: values for values in history if "eval/loss" in values}
    assert losses.keys() == {4, 8}
    for values in losses.values():
        assert values["eval/perplexity"] == pytest.approx(math.exp(values["eval/loss"]), abs=1e-4)
    assert [values["drafts/nrows"] for values in history if "drafts/nrows" in values] == [2, 4]

    for name in ("checkpoint-8", "run.json"):  # as if it had been killed after step 4
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    command += ["--resume_from_checkpoint", "true"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (again,) = set(tmp_path.glob("wandb/offline-run-*/*.wandb")) - {file}
    (resumed,) = [values for kind, values in wait_for_run(again) if kind == "run"]
    assert resumed["group"] == setup["group"] != "" and resumed["id"] != setup["id"]


def test_online_a_resumed_run_is_the_same_wandb_run(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("wandb.init", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=SimpleNamespace(mode="online")))
    setup = {"dataset": {"name": "pairs", "ids": ["a"]}}
    run_id = start_wandb("tiny", setup, None)
    assert start_wandb("tiny", setup, run_id) == run_id and setup["dataset"]["ids"] == ["a"]
    assert calls[0] == calls[1] and calls[0]["id"] == run_id and calls[0]["resume"] == "allow"


@pytest.fixture(scope="module")
def watched(base, dataset, tmp_path_factory):
    """A run of six steps, evaluated at 0, 2, 4 and 6, of which the best checkpoint is kept."""
    folder = tmp_path_factory.mktemp("watched") / "adapter"
    train_down_and_up(base, dataset, folder)
    return folder


def test_samples_are_greedy_drafts_without_dropout_for_the_same_problems(watched, dataset):
    rows = list(map(json.loads, (watched / "samples.jsonl").read_text(encoding="utf-8").splitlines()))
    validation = load_dataset(str(dataset), split="validation").select(range(4))
    assert [row["step"] for row in rows] == [step for step in (0, 2, 4, 6) for _ in range(4)]
    assert [row["id"] for row in rows] == list(validation["id"]) * 4
    model = AutoPeftModelForCausalLM.from_pretrained(watched / "checkpoint-4").eval()
    tokenizer = AutoTokenizer.from_pretrained(watched / "checkpoint-4")
    # All four at once, as in training: alone, a random model's near-ties may fall the other way.
    batch = tokenizer(list(validation["prompt"]), padding=True, padding_side="left", return_tensors="pt")
    stops = [tokenizer.eos_token_id, model.config.eos_token_id]  # plain PEFT opens the base with its own defaults
    output = model.generate(**batch, do_sample=False, max_new_tokens=SAMPLE_TOKENS, eos_token_id=stops)
    drafts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [row["draft"] for row in rows if row["step"] == 4] == [draft.strip() for draft in drafts]
    assert len(set(rows[i]["draft"] for i in range(4))) > 1


def test_the_best_checkpoint_is_what_is_kept(watched):
    run = json.loads((watched / "run.json").read_text(encoding="utf-8"))
    losses = {entry["step"]: entry["eval_loss"] for entry in run["losses"] if "eval_loss" in entry and entry["step"]}
    best = min(losses, key=losses.get)
    assert run["best_step"] == best != 6, "the last is the best: the test proves nothing"
    assert_same(weights(watched), weights(watched / f"checkpoint-{best}"))


def test_a_resumed_run_goes_on_counting(watched, base, dataset, tmp_path):
    folder = tmp_path / "adapter"
    (folder / "checkpoint-2").mkdir(parents=True)
    shutil.copytree(watched / "checkpoint-2", folder / "checkpoint-2", dirs_exist_ok=True)
    shutil.copy(watched / "samples.jsonl", folder)
    train_down_and_up(base, dataset, folder, "--resume_from_checkpoint", "true")
    assert (folder / "samples.jsonl").read_bytes() == (watched / "samples.jsonl").read_bytes()
    for path in (watched, folder):
        losses = json.loads((path / "run.json").read_bytes())["losses"]
        assert [loss["step"] for loss in losses if "eval_loss" in loss] == [0, 2, 4, 6], "the second start is none"
    whole, parts = (json.loads((path / "checkpoint-6/progress.json").read_bytes()) for path in (watched, folder))
    assert (whole["tokens"], whole["positions"]) == (parts["tokens"], parts["positions"])
    assert parts["seconds"] > json.loads((watched / "checkpoint-2/progress.json").read_bytes())["seconds"]


def test_early_stopping_ends_the_run(base, dataset, tmp_path):
    steps = ["--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "1", "--learning_rate", "1.0"]
    saves = ["--save_strategy", "steps", "--save_steps", "1", "--load_best_model_at_end", "true", "--num_samples", "0"]
    patience = ["--early_stopping_patience", "1"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "a", *steps, *saves, *patience))
    run = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == run["best_step"] + 1 < 6
    with pytest.raises(SystemExit):
        training_arguments(base, dataset, tmp_path / "b", *patience)


def test_samples_of_a_run_that_is_not_gone_on_with_are_not_kept(base, dataset, tmp_path):
    """Nothing to resume from: the run starts over, and so do its samples, also before its first evaluation's step."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "samples.jsonl").write_text('{"step": 1, "draft": "of another run"}\n', encoding="utf-8")
    more = ["--eval_strategy", "steps", "--eval_steps", "4", "--eval_on_start", "false", "--num_samples", "1"]
    train_sft.main(*training_arguments(base, dataset, folder, *more, "--resume_from_checkpoint", "true"))
    rows = list(map(json.loads, (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]))
    assert [row["step"] for row in rows] == [4]
