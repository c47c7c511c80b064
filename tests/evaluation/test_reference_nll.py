"""The NLL is of the reference alone, the same in batches, kept on disk, and compared with other rows' problems."""

import math

import numpy as np
import pytest
import torch
from datasets import load_dataset

from approach.evaluation import reference_nll
from approach.evaluation.reference_nll import (
    ReferenceNLL,
    bits_per_byte,
    compute_nll,
    join_models,
    measure_reference_nll,
    permute_rows,
)
from approach.generation import cache
from approach.generation.engine import Drafter
from approach.generation.partial import PartialDrafts


@pytest.fixture(scope="module")
def drafter(merged) -> Drafter:
    return Drafter(str(merged))


@pytest.fixture(scope="module")
def rows(dataset) -> list[dict]:
    return load_dataset(str(dataset), split="test").to_list()[:4]


def texts(rows: list[dict]) -> tuple[list[str], list[str]]:
    return [row["prompt"] for row in rows], [row["approach"] for row in rows]


def test_the_nll_is_that_of_the_approach_alone(drafter, rows, tmp_path):
    found = compute_nll(drafter, *texts(rows), PartialDrafts(tmp_path / "scores"))
    for row, value in zip(rows, found, strict=True):
        start, ids = (
            drafter.tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + row["completion"])
        )
        assert ids[-1] == drafter.tokenizer.eos_token_id
        with torch.inference_mode():
            chances = drafter.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats = -sum(chances[at - 1, ids[at]].item() for at in range(len(start), len(ids) - 1))  # the end tag excluded
        assert value == pytest.approx(nats / math.log(2), rel=1e-5)


def test_batches_give_what_one_by_one_gives(drafter, rows, tmp_path, monkeypatch):
    prompts, approaches = texts(rows)
    approaches[1] = approaches[1][:40]  # so that there is padding
    sizes, compute_batch_nll = [], reference_nll.compute_batch_nll

    def count(model, batch, beginning):
        sizes.append(len(batch))
        return compute_batch_nll(model, batch, beginning)

    monkeypatch.setattr(reference_nll, "compute_batch_nll", count)
    together = compute_nll(drafter, prompts, approaches, PartialDrafts(tmp_path / "together"))
    monkeypatch.setattr(reference_nll, "LOGITS_BYTES", 1)
    alone = compute_nll(drafter, prompts, approaches, PartialDrafts(tmp_path / "alone"))
    assert sizes == [4, 1, 1, 1, 1] and together == pytest.approx(alone, abs=1e-4)


def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(drafter, rows, tmp_path, monkeypatch):
    beginning = "<problem>We study how models read long texts.</problem>" * 6
    prompts, approaches = [beginning + row["prompt"] for row in rows], [row["approach"] for row in rows]
    read, forward = [], drafter.model.base_model.forward

    def count(input_ids, **arguments):
        read.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **arguments)

    monkeypatch.setattr(drafter.model.base_model, "forward", count)
    together = reference_nll.compute_nll(drafter, prompts, approaches, PartialDrafts(tmp_path / "together"))
    shared = read[0][1]
    assert read[0][0] == 1 and shared > cache.MIN_PREFIX_TOKENS and sum(rows for rows, _ in read[1:]) == len(rows)
    longest = max(
        len(reference_nll.encode(drafter.tokenizer, *pair)[0]) for pair in zip(prompts, approaches, strict=True)
    )
    assert max(tokens for _, tokens in read[1:]) == longest - shared
    monkeypatch.setattr(cache, "MIN_PREFIX_TOKENS", 10_000)
    alone = reference_nll.compute_nll(drafter, prompts, approaches, PartialDrafts(tmp_path / "alone"))
    assert np.allclose(together, alone, rtol=1e-5, atol=0)


def test_what_is_on_disk_is_not_computed_again(drafter, rows, tmp_path, monkeypatch):
    partial = PartialDrafts(tmp_path / "scores")
    first = compute_nll(drafter, *texts(rows), partial)
    monkeypatch.setattr(reference_nll, "compute_batch_nll", None)
    assert compute_nll(drafter, *texts(rows), partial).tolist() == first.tolist()


def test_what_another_transformers_computed_is_computed_again(drafter, rows, tmp_path, monkeypatch):
    """The drafts' key has its version, too: another version may read the same weights otherwise."""
    partial, computed, compute_batch_nll = PartialDrafts(tmp_path / "scores"), [], reference_nll.compute_batch_nll

    def compute(*arguments):
        computed.append(1)
        return compute_batch_nll(*arguments)

    monkeypatch.setattr(reference_nll, "compute_batch_nll", compute)
    compute_nll(drafter, *texts(rows), partial)
    compute_nll(drafter, *texts(rows), partial)
    assert len(computed) == 1
    monkeypatch.setattr(reference_nll, "version", lambda name: "0.0.0" if name == "transformers" else "1")
    compute_nll(drafter, *texts(rows), partial)
    assert len(computed) == 2


def test_rows_beyond_the_context_are_not_measured(drafter, tmp_path):
    partial = PartialDrafts(tmp_path / "scores")
    found = compute_nll(drafter, ["a", "a"], ["word " * 600, "short"], partial)
    assert np.isnan(found).tolist() == [True, False]


def test_an_empty_prompt_begins_with_a_token_of_its_own(base):
    """As of a tokenizer that begins texts with nothing: the first token, too, is predicted from something."""
    drafter = Drafter(str(base))
    tokenizer = drafter.tokenizer
    ids = tokenizer(" We", add_special_tokens=False)["input_ids"]

    class Bare:
        bos_token_id, eos_token_id = None, tokenizer.eos_token_id

        def __call__(self, text):
            return tokenizer(text, add_special_tokens=False)

    assert reference_nll.encode(Bare(), "", "We") == ([tokenizer.eos_token_id, *ids], 1)
    assert reference_nll.encode(tokenizer, "", "We") == ([tokenizer.bos_token_id, *ids], 1)


def test_no_row_keeps_its_own_problem():
    for size in (2, 3, 10, 101):
        permutations = permute_rows(size)
        assert len(permutations) == 5 and permutations == permute_rows(size)
        for order in permutations:
            assert sorted(order) == list(range(size)) and all(row != other for row, other in enumerate(order))
    assert permute_rows(1) == []


def test_a_gain_is_what_other_problems_and_none_cost_more(drafter, rows, tmp_path):
    partial = PartialDrafts(tmp_path / "scores")
    prompts, approaches = texts(rows)
    found = measure_reference_nll(
        drafter, prompts, approaches, partial, permuted=True, empty_prompt="<problem></problem><approach>"
    )
    expected = [
        compute_nll(drafter, [prompts[row] for row in order], approaches, partial) for order in permute_rows(len(rows))
    ]
    assert found.permuted == pytest.approx(np.mean(expected, axis=0)[None])
    assert found.size.tolist() == [len((" " + text).encode()) for text in approaches]
    assert found.own.shape == found.empty.shape == (1, 4) and found.measured.all()
    own = measure_reference_nll(drafter, prompts, approaches, partial)
    assert own.own == pytest.approx(found.own) and own.permuted is own.empty is None
    assert measure_reference_nll(drafter, prompts, approaches, partial, permuted=True).permuted == pytest.approx(
        found.permuted
    )
    both, once = join_models([found, found]), np.ones((1, 4))
    assert both.own.shape == (2, 4)
    total = (both.permuted - both.own).sum(axis=1) / both.size.sum()
    kept = both.measured
    assert bits_per_byte(both.permuted - both.own, both.size, kept, once)[:, 0] == pytest.approx(total)


def test_one_row_has_no_gain_and_no_row_has_no_bits(drafter, rows, tmp_path):
    prompts, approaches = texts(rows[:1])
    found = measure_reference_nll(
        drafter, prompts, approaches, PartialDrafts(tmp_path / "scores"), permuted=True, empty_prompt=""
    )
    assert found.permuted is None and found.empty is not None and found.measured.all()
    nothing = ReferenceNLL(np.array([3.0]), np.full((1, 1), np.nan))
    assert np.isnan(bits_per_byte(nothing.own, nothing.size, nothing.measured, np.ones((2, 1)))).all()
