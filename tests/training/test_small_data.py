"""Datasets without a validation part, or with one that cannot be used; and recipes without their evaluations."""

import json
import shutil

import pytest
from conftest import ROOT, training_arguments

import train_sft
from approach.errors import UserError

EVALUATED = ("--eval_strategy", "steps", "--eval_steps", "2", "--eval_on_start", "true", "--save_strategy", "steps")
BEST = ("--save_steps", "2", "--load_best_model_at_end", "true", "--early_stopping_patience", "1")


@pytest.fixture
def without_validation(dataset, tmp_path):
    """What `prepare_dataset.py` writes of twelve rows."""
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    for path in folder.glob("data/*"):
        if not path.name.startswith("train"):
            path.unlink()
    (folder / "README.md").unlink()
    return folder


@pytest.mark.parametrize("best", [BEST, ("--save_strategy", "best", "--metric_for_best_model", "eval_loss")])
def test_without_a_validation_split_a_run_is_not_evaluated(base, without_validation, tmp_path, capsys, best):
    train_sft.main(*training_arguments(base, without_validation, tmp_path / "a", *EVALUATED, *best))
    said = f"--dataset_name {without_validation} has no split validation: training without evaluations"
    assert said in capsys.readouterr().out.splitlines()
    run = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == 4 and not [entry for entry in run["losses"] if "eval_loss" in entry]
    assert not (tmp_path / "a" / "samples.jsonl").exists()


def test_a_validation_split_of_which_no_row_fits_ends_in_one_line(base, dataset, tmp_path):
    arguments = training_arguments(base, dataset, tmp_path / "a", *EVALUATED, "--max_length", "28")
    with pytest.raises(UserError, match="^--max_length 28: none of 6 rows of the split validation fits: raise it$"):
        train_sft.main(*arguments)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_run_without_evaluations(recipe):
    words = ["--config", str(recipe), "--model_name_or_path", "base", "--use_cpu", "true", "--eval_strategy", "no"]
    _, training_args, _, run_args = train_sft.parse_arguments(words)
    assert training_args.eval_strategy == "no" and not training_args.eval_on_start
    assert not training_args.load_best_model_at_end and run_args.early_stopping_patience is None


def test_evaluations_that_the_command_line_both_asks_for_and_forbids_are_refused(capsys):
    recipe = ["--config", str(ROOT / "recipes/tinyllama_lora_epoch.yaml"), "--use_cpu", "true"]
    for word, value in (("--load_best_model_at_end", "true"), ("--early_stopping_patience", "2")):
        with pytest.raises(SystemExit) as ended:
            train_sft.parse_arguments([*recipe, "--eval_strategy", "no", word, value])
        assert ended.value.code == 2 and word[2:] in capsys.readouterr().err.splitlines()[-1]
