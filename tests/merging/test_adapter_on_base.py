import json

import pytest
import torch
from conftest import make_base, training_arguments
from merging_inputs import copy_adapter, copy_unrecorded, make_variant, merge
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import train_sft
from approach.errors import UserError


def test_adapter_of_another_base_is_refused_by_name(trained, tmp_path):
    other = make_base(tmp_path / "other", model_type="gpt_neox")
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
    with pytest.raises(UserError, match="does not fit base"):
        merge(adapter, tmp_path / "model", base_model_name_or_path=str(other))


def test_a_tokenizer_without_the_tags_is_refused(trained, base, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_bytes((base / name).read_bytes())
    with pytest.raises(UserError, match="its tokenizer lacks <problem>"):
        merge(adapter, tmp_path / "model")


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"vocab_size": 300}],
    ids=["wider", "deeper", "shallower", "fewer tokens"],
)
def test_a_base_of_another_size_is_refused_by_name(trained, base, tmp_path, changes):
    other = make_variant(base, tmp_path / "other", **changes)
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
    with pytest.raises(UserError, match=f"does not fit base {other}"):
        merge(adapter, tmp_path / "model", base_model_name_or_path=str(other))
    assert set(tmp_path.iterdir()) == {adapter, other}


def test_a_base_of_another_revision_is_refused_by_its_fingerprint(trained, base, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    other = make_variant(base, tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=f"base {other} is not the one that --adapter_path .* was trained on, base"):
        merge(adapter, tmp_path / "model", base_model_name_or_path=str(other))
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "split", max_shard_size="20KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    merge(adapter, tmp_path / "model", base_model_name_or_path=str(tmp_path / "split"))


def test_one_flipped_bit_of_the_adapter_is_refused(trained, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # in the mantissa of the last weight: still a number
    path.write_bytes(data)
    with pytest.raises(UserError, match="adapter_model.safetensors is not the file that was written: .* run.json"):
        merge(adapter, tmp_path / "model")


def test_an_adapter_that_is_no_number_or_no_file_is_refused_without_a_record_too(trained, tmp_path):
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = min(weights)
    weights[name][0, 0] = float("inf")
    save_file(weights, path)
    with pytest.raises(UserError, match=f"{name} holds a value that is not a number"):
        merge(adapter, tmp_path / "model")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="adapter_model.safetensors cannot be read"):
        merge(adapter, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [adapter]


def test_a_quantised_base_is_refused_with_what_to_name_instead(trained, base, tmp_path):
    other = make_variant(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="other is quantised: name the unquantised one with --base_model_name_or_path"):
        merge(trained.adapter, tmp_path / "model", base_model_name_or_path=str(other))


def test_an_adapter_trained_on_a_4_bit_base_merges_into_the_full_one(dataset, tmp_path):
    base = make_base(tmp_path / "base")
    quantised = ("--load_in_4bit", "true", "--max_steps", "2")
    train_sft.main(*training_arguments(base, dataset, tmp_path / "adapter", *quantised))
    merge(tmp_path / "adapter", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config and config["dtype"] == "float32"
    merged, full = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "model", base))
    name = "model.layers.0.mlp.up_proj.weight"  # no LoRA layer: the full base's own, to the bit
    assert torch.equal(merged.get_parameter(name), full.get_parameter(name))


def test_a_complete_model_is_no_adapter_and_says_how_to_publish_it(merged, tmp_path):
    with pytest.raises(UserError, match=f"is already a complete model: publish it with --push_only {merged}"):
        merge(merged, tmp_path / "model")
