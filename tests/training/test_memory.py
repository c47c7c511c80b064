"""The estimate of `--preflight`, against what autograd keeps."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import SFTConfig

from approach.training.memory import count_activations

TOKENS = 64
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_config(model_type: str, num_layers: int, **sizes: int):
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 8, **sizes}
    return AutoConfig.for_model(model_type, vocab_size=64, num_hidden_layers=num_layers, **sizes)


def count_kept(config) -> int:
    """The bytes that autograd keeps of a forward pass in bfloat16, weights and adapter left out."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(r=2, target_modules=LAYERS, lora_dropout=0.0)).train()
    known, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # itself, or its place would be another's soon
        return tensor

    vectors = torch.randn(1, TOKENS, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model(inputs_embeds=vectors)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    "model_type, sizes",
    [
        ("llama", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 4, "head_dim": 64}),  # heads twice as wide as the model, as Qwen3-0.6B's
        ("qwen3", {"num_key_value_heads": 4, "head_dim": 32}),  # as wide as the model, as Qwen3-1.7B's
    ],
)
def test_what_a_layer_keeps_is_within_the_estimate(model_type, sizes):
    one, three = (count_kept(make_config(model_type, layers, **sizes)) for layers in (1, 3))
    args = SFTConfig(activation_checkpointing=False, use_cpu=True, bf16=True, report_to="none")
    counts = [count_activations(make_config(model_type, layers, **sizes), TOKENS, args) for layers in (1, 3)]
    assert 0.75 < (three - one) / (2 * (counts[1] - counts[0])) <= 1
