"""Numbers that no run can use, names of nothing, and recipes that are none."""

import importlib
import os
from dataclasses import fields
from pathlib import Path

import yaml
from hypothesis import strategies as st

from approach.training.arguments import MODEL_RANGES, TRAINING_RANGES
from hostile.drawing import BYTES, DAMAGES, LOADED_WELL, READ_WELL, VALUES, serve_nobody, spoil
from hostile.tries import OPTIONS, RECIPE, REPO, Case, Result, command


def list_numbers(script: str) -> list[str]:
    """The arguments of a script that take a number."""
    if script == "train_sft":
        return [*TRAINING_RANGES, *MODEL_RANGES, "max_steps", "train_fraction", "num_eval_rows", "num_samples"]
    module = importlib.import_module(script)
    kinds = [kind for name, kind in vars(module).items() if name.endswith("Arguments") and name != "PublishArguments"]
    numbers = (int, float, int | None, float | None)
    return [field.name for kind in kinds for field in fields(kind) if field.type in numbers]


@st.composite
def numbers(draw) -> Case:
    """Numbers that no run can use, and words in place of numbers."""
    script = draw(st.sampled_from([name for name in OPTIONS if name != "write_report"]))
    name = draw(st.sampled_from(list_numbers(script)))
    small = ["-1", "0", "nan", "inf", "-inf", "1e400", "", "abc", "1.5", "0x10", "½", "1,5", "None", "-0.0", "\0", "-"]
    large = [] if name in ("num_drafts", "max_steps") else [str(2**31), str(2**63), str(10**30)]
    value = draw(st.sampled_from([*small, *large]))
    more = {"--preflight": "true"} if script == "train_sft" else {}

    def judge(result: Result) -> str | None:
        is_taken = result.ended_well or result.code in (READ_WELL, LOADED_WELL)
        is_wrong = value in ("-1", "nan", "inf", "-inf", "1e400") and name not in ("max_steps", "draw_seed")
        return f"wrong: --{name} {value} was taken" if is_taken and is_wrong else None

    return Case(script, command(script, {**more, f"--{name}": value}), serve_nobody, judge)


NAMES = ["", "none", "no/such", "a/b/c", "\0", "a" * 300, "x" * 5000, "-", "~", "user/na me", "http://x/y", "C:\\x"]
NAMES += ["[", "*", "😀", "\udcff", "notes.txt", "notes.txt/x", "scores", "base", "pairs", "adapter", "model", "."]
NAME_OPTIONS = {
    "prepare_dataset": ("--dataset_name", "--tokenizer_name", "--abstract_column", "--id_column", "--problem_column"),
    "train_sft": ("--model_name_or_path", "--dataset_name", "--dataset_config", "--config", "--dataset_train_split"),
    "merge_and_push": ("--adapter_path", "--base_model_name_or_path", "--dataset_name", "--scores", "--push_only"),
    "evaluate_model": ("--model_name_or_path", "--base_model_name_or_path", "--dataset_name", "--dataset_split")
    + ("--predictions", "--compared_model_name_or_path", "--dataset_revision"),
    "write_report": ("", "--run"),
    "draft_approach": ("--model_name_or_path", "--base_model_name_or_path", "--problems"),
    "app": ("--model_name_or_path", "--base_model_name_or_path", "--dataset_name"),
}


@st.composite
def names(draw) -> Case:
    """Names of nothing, or of something else than what is asked for."""
    script = draw(st.sampled_from(list(OPTIONS)))
    option, name = draw(st.sampled_from(NAME_OPTIONS[script])), draw(st.sampled_from(NAMES))
    more = {"--preflight": "true"} if script == "train_sft" else {}
    if option == "--tokenizer_name":
        more = {"--max_length": "100"}
    flags = ("--dry_run", "--hub_model_id", REPO) if option == "--push_only" else ()
    words = command(script, {**more, option: name}, *flags)
    return Case(script, words, serve_nobody, may_change=("model/README.md",) if flags else ())


@st.composite
def recipes(draw) -> Case:
    """Recipes that are no YAML, or of which one value is another."""
    recipe = yaml.safe_load(Path(RECIPE).read_text(encoding="utf-8"))
    name = draw(st.sampled_from([*recipe, "seed", "output_dir", "lernrate", "env", "max_grad_norm", "num_samples", 1]))
    text = yaml.safe_dump({**recipe, name: draw(st.sampled_from(VALUES))}).encode()
    how, place, byte = draw(st.sampled_from([None, None, None, *DAMAGES])), draw(st.floats(0, 1)), draw(BYTES)
    if how:
        text = spoil(text, how, place, byte)

    def harm(patch) -> None:
        patch.setattr(os, "environ", dict(os.environ))  # a recipe may set some of it
        Path("recipe.yaml").write_bytes(text)

    return Case("train_sft", command("train_sft", {"--config": "recipe.yaml", "--preflight": "true"}), harm)
