"""Numbers that no run can use: one line before anything is loaded."""

from types import SimpleNamespace

import pytest
from conftest import ROOT

import draft_approach
import evaluate_model
import merge_and_push
import prepare_dataset
import train_sft
import write_report
from app import AppArguments
from approach.arguments import check_ranges
from approach.errors import run_script
from draft_approach import DraftArguments
from evaluate_model import EvaluationArguments
from merge_and_push import MergeArguments
from prepare_dataset import PrepareArguments

BASE_AND_PAIRS = ["--base_model_name_or_path", "b", "--dataset_name", "c", "--output_dir", "none"]
PLACES = {
    PrepareArguments: {"dataset_name": "a.jsonl", "output_dir": "none"},
    EvaluationArguments: {
        "model_name_or_path": ["a"],
        "base_model_name_or_path": "b",
        "dataset_name": "c",
        "output_dir": "none",
    },
    DraftArguments: {"model_name_or_path": "a", "problem": "A problem."},
    MergeArguments: {"adapter_path": "a", "output_dir": "none"},
    AppArguments: {"model_name_or_path": "a"},
}


@pytest.mark.parametrize(
    ("text", "inside", "outside", "said"),
    [
        ("[1, inf)", (1, 5, None), (0, -1, float("nan"), float("inf")), "--n must be at least 1, got"),
        ("(0, inf)", (1e-9,), (0, 0.0, -1, float("nan")), "--n must be more than 0, got"),
        ("[0, 0.5)", (0, 0.49), (0.5, -0.1, float("nan")), "--n must lie in [0, 0.5), got"),
        ("(0, 1]", (1, 0.1), (0, 1.1), "--n must lie in (0, 1], got"),
    ],
)
def test_a_range_holds_what_it_says(text, inside, outside, said):
    for value in inside:
        check_ranges(SimpleNamespace(n=value), n=text)
    for value in outside:
        with pytest.raises(ValueError) as raised:
            check_ranges(SimpleNamespace(n=value), n=text)
        assert str(raised.value) == f"{said} {value}"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (PrepareArguments, "seed", -1),
        (PrepareArguments, "num_proc", 0),
        (PrepareArguments, "max_problem_words", 0),
        (PrepareArguments, "test_fraction", float("nan")),
        (PrepareArguments, "near_duplicate_threshold", 0.1),
        (EvaluationArguments, "batch_size", 0),
        (EvaluationArguments, "bertscore_num_layers", 0),
        (EvaluationArguments, "num_validation", -3),
        (DraftArguments, "seed", -1),
        (DraftArguments, "temperature", float("nan")),
        (DraftArguments, "top_p", 0.0),
        (MergeArguments, "max_cast_loss", -0.1),
        (AppArguments, "port", 0),
    ],
)
def test_a_number_out_of_range_is_named(kind, name, value):
    with pytest.raises(ValueError, match=f"--{name} must .*, got {value}"):
        kind(**PLACES[kind], **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "-1"),
        ("learning_rate", "0"),
        ("learning_rate", "nan"),
        ("per_device_train_batch_size", "0"),
        ("per_device_eval_batch_size", "-1"),
        ("gradient_accumulation_steps", "0"),
        ("max_steps", "0"),
        ("num_train_epochs", "-1"),
        ("max_length", "0"),
        ("lora_r", "0"),
        ("lora_alpha", "0"),
        ("lora_dropout", "1.5"),
        ("adam_beta1", "1"),
        ("label_smoothing_factor", "2"),
        ("weight_decay", "-0.1"),
        ("seed", "-1"),
        ("num_samples", "-1"),
        ("early_stopping_patience", "0"),
    ],
)
def test_a_training_argument_out_of_range_is_named(name, value, capsys):
    recipe = ["--config", str(ROOT / "recipes/small_base_lora_fp32.yaml"), "--use_cpu", "true"]
    with pytest.raises(SystemExit) as ended:
        train_sft.parse_arguments([*recipe, "--model_name_or_path", "base", f"--{name}", value])
    assert ended.value.code == 2 and f"--{name} must" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("value", ["x" * 5000, "a/" + "x" * 300])
@pytest.mark.parametrize(
    ("script", "words"),
    [
        (evaluate_model, ["--model_name_or_path", "{}", *BASE_AND_PAIRS]),
        (evaluate_model, ["--model_name_or_path", "a", *BASE_AND_PAIRS, "--predictions", "{}"]),
        (merge_and_push, ["--adapter_path", "a", "--output_dir", "none", "--scores", "{}"]),
        (prepare_dataset, ["--dataset_name", "{}", "--output_dir", "none"]),
        (draft_approach, ["--model", "a", "--problems", "{}"]),
        (write_report, ["{}"]),
    ],
)
def test_a_name_that_is_too_long_to_be_looked_for_ends_in_one_line(
    script, words, value, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: script.main(script.parse_arguments([word.format(value) for word in words])))
    said = capsys.readouterr().err if isinstance(ended.value.code, int) else ended.value.code
    assert said.strip() and "\n" not in said.removeprefix("usage: ").partition("\n")[2].strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", "mapping values are not allowed here in"),
        ("- a", "must contain a YAML mapping"),
        ("1: 2", "the recipe cannot be used"),
        ("learning_rate: [1]", "--learning_rate must be a number, got [1]"),
        ("per_device_train_batch_size: 1.5", "--per_device_train_batch_size must be a whole number, got 1.5"),
        ("gradient_accumulation_steps: true", "--gradient_accumulation_steps must be a whole number, got True"),
        ("lora_dropout: []", "--lora_dropout must be a number, got []"),
        ("learning_rate: fast", "invalid float value: 'fast'"),
        ("lernrate: 1", "lernrate"),
        ("env: 3", "should be a dict"),
        (b"\xff\xfe\x00", "decode"),
        (None, "--config: name a recipe"),
    ],
)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # TRL's own default
def test_a_recipe_that_cannot_be_used_ends_in_one_line(text, said, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(text if isinstance(text, bytes) else str(text).encode())
    words = ["--model_name_or_path", "base", "--use_cpu", "true", "--config", *([str(recipe)] if text else [])]
    with pytest.raises(SystemExit) as ended:
        train_sft.parse_arguments(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
