"""Caches of keys and values: the prefix that all prompts share, and rows that join and leave a batch."""

import copy
import os
from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import Cache, DynamicCache, PreTrainedModel

MIN_PREFIX_TOKENS = 32  # a shorter shared prefix is not worth a pass of its own


def common_prefix_length(prompts: Sequence[list[int]], longest: int) -> int:
    """
    How many tokens all prompts begin with, at most `longest`, such as the two examples that a base is shown.

    It is 0 where they are fewer than `MIN_PREFIX_TOKENS`, or where there is one prompt.
    """
    length = min(longest, len(os.path.commonprefix(prompts))) if len(prompts) > 1 else 0
    return length if length >= MIN_PREFIX_TOKENS else 0


def build_prefix_cache(model: PreTrainedModel, ids: list[int]) -> Cache:
    """The cache of one row, the tokens that all prompts begin with; an empty cache where there are none."""
    cache = DynamicCache()
    if ids:
        with torch.inference_mode():
            model.base_model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    return cache


def repeat_rows(prefix_cache: Cache, num_rows: int) -> Cache:
    """A new cache of `num_rows` rows, each a copy of the only row of `prefix_cache`."""
    cache = copy.deepcopy(prefix_cache)
    if cache.get_seq_length():
        device = cache.layers[0].keys.device
        cache.batch_select_indices(torch.zeros(num_rows, dtype=torch.long, device=device))
    return cache


def append_rows(cache: Cache, other: Cache) -> None:
    """Adds the rows of `other` below those of `cache`; the shorter ones are filled with zeros on the left."""
    width = max(cache.get_seq_length(), other.get_seq_length())
    for layer, added in zip(cache.layers, other.layers, strict=True):
        layer.keys, layer.values = (
            torch.cat([pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts])
            for parts in ((layer.keys, added.keys), (layer.values, added.values))
        )


def keep_rows(cache: Cache, rows: torch.Tensor, first_column: int) -> None:
    """Keeps these rows, and of them the tokens from `first_column` on."""
    cache.batch_select_indices(rows)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, first_column:], layer.values[:, :, first_column:]
