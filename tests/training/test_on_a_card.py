"""
The forward pass of a training step as a card would run it, on a machine that has none.

Under `FakeTensorMode` tensors have shapes and devices and no values; an operation on tensors of two devices raises.
Autograd's own backward pass cannot be tried so: a CPU build of torch aborts in it. Ours is called by hand.
"""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from approach import embeddings
from approach.embeddings import TagRowScores
from approach.training import patches

NUM_LABELS = 9
TAG_IDS = [5, 6, 7, 8]
LORA = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", "lora_dropout": 0.05}


class Unguarded(TorchFunctionMode):
    """
    What asks for the card before it asks `FakeTensorMode`, by operations that do not: most of all, indexing.

    A mask chooses NUM_LABELS places: without values it cannot tell how many.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.__getitem__:
            tensor, index = args
            return get_items(tensor, index if isinstance(index, tuple) else (index,))
        if function is torch.Tensor.__setitem__:
            tensor, index, value = args
            assert not isinstance(value, torch.Tensor) or value.device == tensor.device
            return None
        if function is torch.Tensor.contiguous:
            return args[0].clone(memory_format=torch.contiguous_format)
        return function(*args, **(kwargs or {}))


def get_items(tensor: torch.Tensor, index: tuple) -> torch.Tensor:
    """`tensor[index]`, of the kinds of index that a training step uses."""
    if all(isinstance(part, torch.Tensor) and part.dtype != torch.bool for part in index):
        return torch.ops.aten.index.Tensor(tensor, list(index))
    dim = 0
    for number, part in enumerate(index):
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif part is Ellipsis:
            dim = tensor.dim() - len([other for other in index[number + 1 :] if other is not None]) - 1
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, *part.indices(tensor.shape[dim]))
        elif isinstance(part, int):
            tensor, dim = tensor.select(dim, part), dim - 1
        elif isinstance(part, list):
            tensor = tensor.index_select(dim, torch.zeros(len(part), dtype=torch.long, device=tensor.device))
        else:
            assert part.dtype == torch.bool and part.device == tensor.device
            tensor = tensor.flatten(dim, dim + part.dim() - 1).narrow(dim, 0, NUM_LABELS)
        dim += 1
    return tensor


def put_on_card(model: torch.nn.Module) -> None:
    """Replaces every weight and buffer by one on a card: `to` would copy, for which a CPU build has no code."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

    for module in model.modules():
        for name, weight in module._parameters.items():
            module._parameters[name] = (
                None if weight is None else torch.nn.Parameter(move(weight), weight.requires_grad)
            )
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else move(buffer)


class Context(SimpleNamespace):
    """What autograd hands to a function of ours, where gradients are wanted."""

    needs_input_grad = (True, False, True, False, False)

    def save_for_backward(self, *tensors: torch.Tensor) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: torch.Tensor) -> None:
        """Nothing to mark."""


def score_both_ways(*inputs) -> tuple[torch.Tensor, ...]:
    """`TagRowScores` forwards and backwards, by hand: autograd's own graph is what a CPU build cannot make."""
    context = Context()
    found = TagRowScores.forward(context, *inputs)
    hidden, _, rows, _, _ = TagRowScores.backward(context, found[0], None, None)
    assert hidden.device == rows.device == inputs[0].device
    assert (hidden.shape, rows.shape) == (inputs[0].shape, inputs[2].shape)
    return found


def step_forward(base, monkeypatch, dtype=torch.float32) -> torch.Tensor:
    """The loss of two rows with the base, its LoRA and the tags' rows on a card."""
    monkeypatch.setattr(TagRowScores, "apply", score_both_ways)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, trust_remote_code=False)
    indices = {"embed_tokens": TAG_IDS, "lm_head": TAG_IDS}
    model = get_peft_model(model, LoraConfig(trainable_token_indices=indices, **LORA)).train()
    patches.score_in_small_tiles()
    add_fused_lm_head(model.get_base_model())
    patches.give_head_a_bias(model)
    patches.score_tag_rows_apart(model)
    patches.embed_tag_rows_apart(model)
    with torch.no_grad(), FakeTensorMode(), Unguarded():
        put_on_card(model)
        ids = torch.zeros(2, 12, dtype=torch.long, device="cuda")
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True)
        return -found.log_probs.sum() / NUM_LABELS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_of_a_training_step_is_on_the_card(base, dtype, monkeypatch):
    loss = step_forward(base, monkeypatch, dtype)
    assert loss.device.type == "cuda" and loss.shape == ()


def test_a_tensor_that_is_not_on_the_card_is_seen(base, monkeypatch):
    def embed_with_tag_rows(ids, embedding, rows, tag_ids):
        return embeddings.embed_with_tag_rows(ids, embedding, rows.to("cpu"), tag_ids)

    monkeypatch.setattr(patches, "embed_with_tag_rows", embed_with_tag_rows)
    with pytest.raises(RuntimeError, match="on the same device|Device Propagation"):
        step_forward(base, monkeypatch)
