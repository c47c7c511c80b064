"""Rows join a cache, leave it, and begin with a shared prefix."""

import torch
from transformers import DynamicCache

from approach.generation.cache import append_rows, common_prefix_length, keep_rows, repeat_rows


def make_cache(rows: int, tokens: int) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4), layer)
    return cache


def test_rows_join_on_the_right_and_leave_with_their_empty_columns():
    one, other = make_cache(2, 5), make_cache(1, 3)
    keys, added = one.layers[1].keys, other.layers[1].keys
    append_rows(one, other)
    assert one.get_seq_length() == 5
    assert torch.equal(one.layers[1].keys[:2], keys) and torch.equal(one.layers[1].keys[2:, :, 2:], added)
    assert not one.layers[1].keys[2:, :, :2].any()
    keep_rows(one, torch.tensor([2, 0]), first_column=2)
    assert torch.equal(one.layers[1].keys, torch.cat([added, keys[:1, :, 2:]]))
    append_rows(other, make_cache(1, 7))
    assert other.get_seq_length() == 7 and not other.layers[0].values[0, :, :4].any()


def test_the_prefix_is_copied_for_every_row():
    prefix = make_cache(1, 4)
    copies = repeat_rows(prefix, 3)
    assert torch.equal(copies.layers[0].keys, prefix.layers[0].keys.expand(3, -1, -1, -1))
    assert prefix.layers[0].keys.shape[0] == 1 and repeat_rows(DynamicCache(), 3).get_seq_length() == 0


def test_a_prefix_counts_where_it_is_long_enough_to_be_worth_a_pass():
    prompts = [[*range(40), 7], [*range(40), 8, 9]]
    assert common_prefix_length(prompts, 100) == 40
    assert common_prefix_length(prompts, 35) == 35
    assert common_prefix_length(prompts, 31) == 0 == common_prefix_length(prompts[:1], 100)
