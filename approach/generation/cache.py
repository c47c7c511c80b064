"""The keys and values of drafts that are being written: room for tokens to come, and how the next token reads them."""

import copy
import os
from collections.abc import Sequence

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicLayer, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROOM = 64  # tokens for which a layer is made larger at a time
FEW_ROWS = 2  # of a model that writes one draft at a time: a guided one has two
SHARED_TOKENS = 32  # that all texts begin with: from so many on they are read once
ONE_TOKEN = "one_token"  # the name under which transformers finds `attend`


class RoomyLayer(DynamicLayer):
    """
    The keys and values of a layer, `(rows, heads, tokens, width)`, with room for tokens to come.

    transformers' own layer copies all of them at every token.
    """

    whole: list[torch.Tensor] | None = None  # keys and values with the room behind them

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *inputs, **named_inputs):
        """Takes the keys and values of new tokens; returns those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, states = self.get_seq_length(), (key_states, value_states)
        end = start + key_states.shape[-2]
        if self.whole is None or self.whole[0].shape[-2] < end:
            self.make_room(start, end + ROOM, states)
        for whole, new in zip(self.whole, states, strict=True):
            whole[:, :, start:end] = new
        self.keys, self.values = (whole[:, :, :end] for whole in self.whole)
        return self.keys, self.values

    def make_room(self, start: int, size: int, states: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Moves what there is, the first `start` tokens, to tensors of `size` tokens."""
        old, self.whole = (self.keys, self.values), []
        for seen, new in zip(old, states, strict=True):
            whole = new.new_zeros(*new.shape[:2], size, new.shape[3])  # `attend` multiplies what is there by 0
            if start:
                whole[:, :, :start] = seen
            self.whole.append(whole)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows alone."""
        super().batch_select_indices(indices)
        self.whole = None

    def cut(self, first: int) -> None:
        """Forgets the tokens before `first`."""
        self.keys, self.values, self.whole = self.keys[:, :, first:], self.values[:, :, first:], None

    def join(self, other: "RoomyLayer") -> None:
        """Adds another layer's rows below its own, both as wide as the wider one, with nothing on the left."""
        width = max(self.get_seq_length(), other.get_seq_length())
        self.keys, self.values = (
            torch.cat([pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts])
            for parts in ((self.keys, other.keys), (self.values, other.values))
        )
        self.whole = None


def make_cache() -> Cache:
    """An empty cache of roomy layers."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def count_shared(texts: Sequence[list[int]], longest: int) -> int:
    """How many tokens several texts begin with, two examples say, at most `longest`; 0 where they are few."""
    shared = min(longest, len(os.path.commonprefix(texts))) if len(texts) > 1 else 0
    return shared if shared >= SHARED_TOKENS else 0


def read_beginning(model: PreTrainedModel, ids: list[int]) -> Cache:
    """A cache of one row, the tokens with which all texts begin; an empty one of no tokens."""
    cache = make_cache()
    if ids:
        with torch.inference_mode():
            model.base_model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    return cache


def repeat_rows(beginning: Cache, rows: int) -> Cache:
    """A cache of so many rows, each as the only one of `beginning`."""
    cache = copy.deepcopy(beginning)
    if cache.get_seq_length():
        device = cache.layers[0].keys.device
        cache.batch_select_indices(torch.zeros(rows, dtype=torch.long, device=device))
    return cache


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **named_inputs,
) -> tuple[torch.Tensor, None]:
    """
    Attention of one new token a row, `(rows, heads, 1, width)`; several tokens are left to SDPA.

    Of many rows by two products of matrices. Of few, which a model alone reads without oneDNN (`single_row.py`), by
    SDPA, which is given the heads that share keys as so many tokens of one head, as transformers does where there is a
    mask: one token a head takes its kernel for bfloat16 on processors five times as long (benchmarks/README.md,
    "Drafting beside llama.cpp"). Keys and values are a `RoomyLayer`'s.
    """
    rows, heads, tokens, width = query.shape
    if tokens > 1 or value.shape[-1] != width:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **named_inputs)
    groups = query.reshape(rows, key.shape[1], -1, width)
    if rows <= FEW_ROWS:
        mixed = scaled_dot_product_attention(groups, key, value, attention_mask, scale=scaling)
        return mixed.reshape(rows, 1, heads, width), None
    seen, (key, value) = key.shape[2], map(with_room, (key, value))
    groups = groups * (width**-0.5 if scaling is None else scaling)
    scores = (key @ groups.transpose(2, 3)).transpose(2, 3)[..., :seen]  # the other order is half as fast
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    shares = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    mixed = pad(shares, (0, value.shape[2] - seen)) @ value
    return mixed.reshape(rows, 1, heads, width), None


def with_room(part: torch.Tensor) -> torch.Tensor:
    """Keys or values with the room behind their tokens: oneDNN copies a matrix that is not dense."""
    rows, heads, tokens, width = part.shape
    return part.as_strided((rows, heads, max(tokens, part.stride(1) // width), width), part.stride())


AttentionInterface.register(ONE_TOKEN, attend)
AttentionMaskInterface.register(ONE_TOKEN, sdpa_mask)


def attend_fast(model: PreTrainedModel) -> None:
    """Lets a model that drafts in bfloat16 on a processor use `attend`, where it would use SDPA."""
    if (model.device.type, model.dtype, model.config._attn_implementation) == ("cpu", torch.bfloat16, "sdpa"):
        model.set_attn_implementation(ONE_TOKEN)
