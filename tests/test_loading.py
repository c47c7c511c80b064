"""Models that cannot be loaded: one line in every script that loads one, and no weight that was drawn at random."""

import json
import shutil
from functools import partial

import pytest
from conftest import make_base, training_arguments
from safetensors.torch import load_file, save_file

import train_sft
from app import AppArguments
from app import main as serve
from approach.artifacts import read_run
from approach.errors import UserError
from approach.evaluation.systems import check_base
from approach.generation.engine import Drafter
from approach.models import find_adapter, load_adapter_base, load_model, load_weights
from approach.prompt import encode_problem, load_tokenizer
from approach.storage import format_size, read_json, read_json_lines
from draft_approach import DraftArguments
from draft_approach import main as draft
from evaluate_model import EvaluationArguments
from evaluate_model import main as evaluate
from merge_and_push import MergeArguments
from merge_and_push import main as merge

DAMAGES = {
    "cut off": lambda folder: change(folder / "model.safetensors", lambda data: data[:-1000]),
    "too long": lambda folder: change(folder / "model.safetensors", lambda data: data + b"x" * 1000),
    "header too long": lambda folder: change(folder / "model.safetensors", lambda data: b"\xff" * 8 + data[8:]),
    "no bytes": lambda folder: change(folder / "model.safetensors", lambda data: b""),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "a weight is missing": lambda folder: change_weights(folder, lambda weight: None),
    "a tensor without a place": lambda folder: change_weights(folder, lambda weight: weight, "model.extra.weight"),
    "a weight of another shape": lambda folder: change_weights(folder, lambda weight: weight[:, :3].contiguous()),
    "configuration is no JSON": lambda folder: change(folder / "config.json", lambda data: b"{"),
    "configuration is a list": lambda folder: change(folder / "config.json", lambda data: b"[]"),
    "configuration of another type": lambda folder: change_config(folder, hidden_size="x"),
    "configuration of no heads": lambda folder: change_config(folder, num_attention_heads=0),
    "configuration with code": lambda folder: change_config(
        folder, model_type="foo", auto_map={"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}
    ),
    "tokenizer is no JSON": lambda folder: change(folder / "tokenizer.json", lambda data: b"{"),
    "tokenizer of nothing": lambda folder: change(folder / "tokenizer.json", lambda data: b"{}"),
    "tokenizer's configuration is a list": lambda folder: change(folder / "tokenizer_config.json", lambda data: b"[]"),
}


def change(path, edit) -> None:
    path.write_bytes(edit(path.read_bytes()))


def change_config(folder, **values) -> None:
    change(folder / "config.json", lambda data: json.dumps({**json.loads(data), **values}).encode())


def change_weights(folder, edit, copy_to: str = "") -> None:
    weights, name = load_file(folder / "model.safetensors"), "model.layers.1.mlp.down_proj.weight"
    if copy_to:
        weights[copy_to] = weights[name].clone()
    if (changed := edit(weights.pop(name))) is not None:
        weights[name] = changed
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def assert_one_line(action, *parts: str) -> None:
    with pytest.raises(UserError) as ended:
        action()
    assert "\n" not in str(ended.value)
    for part in parts:
        assert part in str(ended.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_ends_in_one_line(base, trained, damage, tmp_path):
    folder = shutil.copytree(base, tmp_path / "damaged")
    DAMAGES[damage](folder)
    assert_one_line(lambda: load_model(str(folder), "--model_name_or_path"), f"--model_name_or_path {folder}: ")
    if "tokenizer" in damage:
        assert_one_line(lambda: load_tokenizer(str(folder), "--tokenizer_name"), f"--tokenizer_name {folder}: ")
    else:
        hint = "(name another with --base_model_name_or_path)"
        adapter = find_adapter(str(trained.adapter), "--adapter_path", base=str(folder))
        assert_one_line(lambda: load_adapter_base(adapter), f"base {folder}: ", hint)


def test_a_tensor_without_a_place_is_named(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "damaged")
    DAMAGES["a tensor without a place"](folder)
    said = "1 of its tensors have no place in a LlamaForCausalLM: model.extra.weight"
    assert_one_line(lambda: load_weights(str(folder), "--model"), said)


def test_tied_weights_are_not_missing(tmp_path):
    tied = make_base(tmp_path / "tied", tied=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load_weights(str(tied), "--model_name_or_path")


def test_a_damaged_adapter_ends_in_one_line(trained, base, tmp_path):
    for number, (name, content) in enumerate(
        [
            ("adapter_config.json", b"{"),
            ("adapter_config.json", b"[]"),
            ("adapter_config.json", b"{}"),
            ("adapter_config.json", b'{"peft_type": "LORA", "base_model_name_or_path": 3}'),
            ("adapter_model.safetensors", b"\xff" * 20),
            ("tokenizer.json", b"{}"),
            ("run.json", b"{"),
            ("run.json", b'{"base": []}'),
            ("run.json", b'{"base": {"name": 3}}'),
            ("run.json", b'{"files": []}'),
        ]
    ):
        folder = shutil.copytree(trained.adapter, tmp_path / str(number))
        (folder / name).write_bytes(content)
        places = {"adapter_path": str(folder), "output_dir": str(tmp_path / "model")}
        assert_one_line(lambda places=places: merge(MergeArguments(**places)), str(folder))
        if name != "run.json" and b"LORA" not in content:
            assert_one_line(partial(load_model, str(folder), "--model", base=str(base)), str(folder))
    assert not (tmp_path / "model").exists()


def test_an_adapter_is_no_base(trained, merged, dataset, tmp_path):
    adapter = str(trained.adapter)
    said = (f"{adapter}: it is an adapter and no base: merge it first",)
    assert_one_line(lambda: Drafter(adapter, argument="--base_model_name_or_path", is_base=True), *said)
    on_itself = find_adapter(adapter, "--adapter_path", base=adapter)
    assert_one_line(lambda: load_adapter_base(on_itself), "it is an adapter and no base: merge it first")
    problem = {"problem": "A problem.", "base_model_name_or_path": adapter}
    assert_one_line(lambda: draft(DraftArguments(model_name_or_path=adapter, **problem)), f"base {said[0]}")
    page = {"model_name_or_path": str(merged), "base_model_name_or_path": adapter}
    assert_one_line(lambda: serve(AppArguments(**page)), *said)
    assert_one_line(lambda: check_base(adapter), *said)
    places = {"dataset_name": str(dataset), "output_dir": str(tmp_path / "scores")}
    arguments = {"model_name_or_path": [str(merged)], "base_model_name_or_path": adapter}
    assert_one_line(lambda: evaluate(EvaluationArguments(**arguments, **places)), *said)
    assert list(tmp_path.iterdir()) == []


def test_training_starts_from_no_adapter(trained, dataset, tmp_path):
    arguments = training_arguments(trained.adapter, dataset, tmp_path / "a")
    assert_one_line(lambda: train_sft.main(*arguments), "--model_name_or_path", "it is an adapter and no base")


def test_a_template_of_a_folder_decides_no_draft(merged, tmp_path):
    tokenizer = load_tokenizer(str(merged), "--model")
    before = encode_problem(tokenizer, "A  problem </approach> here.")["input_ids"].tolist()
    messages = [{"role": "user", "content": "A problem here."}]
    assert (
        before == tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"].tolist()
    )
    tokenizer.chat_template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert encode_problem(tokenizer, "A  problem </approach> here.")["input_ids"].tolist() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"base": 3}', "base is 3"),
        ('{"base": {"fingerprint": [1]}}', "base.fingerprint is [1]"),
        ('{"dataset": {"ids": "a"}}', 'dataset.ids is "a"'),
        ("[" * 100_000, "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
    ],
)
def test_a_record_of_a_run_that_is_not_as_training_writes_it_is_named(content, said, tmp_path):
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert_one_line(lambda: read_run(tmp_path), str(tmp_path / "run.json"), said)


def test_records_that_are_as_they_should_be_are_read(trained, tmp_path):
    assert read_run(trained.adapter) == read_json(trained.adapter / "run.json")
    assert read_run(tmp_path) == {}
    (tmp_path / "a.jsonl").write_text('{"a": "\u2028"}\n\n{"a": 2}\n', encoding="utf-8")
    assert read_json_lines(tmp_path / "a.jsonl") == [(1, {"a": "\u2028"}), (3, {"a": 2})]


def test_find_adapter_takes_what_training_wrote(trained):
    assert find_adapter(str(trained.adapter), "--adapter_path").run["dataset"]["rows"] > 0


@pytest.mark.parametrize(
    ("num_bytes", "said"), [(0, "0 bytes"), (1500, "1.5 KiB"), (5_300_000, "5.1 MiB"), (4.2e9, "3.9 GiB")]
)
def test_sizes_have_the_unit_that_suits_them(num_bytes, said):
    assert format_size(num_bytes) == said
