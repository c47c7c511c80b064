"""Guided drafts: what the formula says, in batches as alone, and mixed before the repetition penalty."""

import threading

import pytest
import torch
from datasets import load_dataset
from transformers import RepetitionPenaltyLogitsProcessor

from approach.generation.engine import Drafter, cut_at_eos
from approach.generation.sampling import ClassifierFreeGuidance
from approach.generation.terminal import TerminalStreamer
from approach.page.streaming import stream_drafts

GREEDY, PENALTY = {"do_sample": False}, 1.15
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "repetition_penalty": PENALTY}
PROBLEM = "We study how small models read long texts with noise."
EMPTY = "<problem></problem><approach>"


@pytest.fixture(scope="module")
def prompts(dataset):
    return sorted(load_dataset(str(dataset), split="test")["prompt"][:], key=len)[::-1]


@pytest.fixture(scope="module")
def drafter(merged, prompts):
    """Three drafts at once; a second token ends drafts, so that some leave while others stay."""
    drafter = Drafter(str(merged), max_new_tokens=40, batch_size=3)
    # A model of four steps hardly looks at its problem: as if its attention weighed ten times as much.
    for layer in drafter.model.model.layers:
        layer.self_attn.o_proj.weight.data *= 10
    drafter.eos_token_ids.add(follow_formula(drafter, prompts[0], 20, guidance=1.5, penalty=1)[9])
    return drafter


def follow_formula(drafter, prompt: str, num_tokens: int, guidance: float, penalty: float) -> list[int]:
    """The likeliest tokens of one draft, written with neither cache, batch nor processors."""
    own, empty = (drafter.tokenizer(text)["input_ids"] for text in (prompt, EMPTY))
    new = []
    while len(new) < num_tokens and not drafter.eos_token_ids & set(new):
        with torch.inference_mode():
            after, alone = (drafter.model(torch.tensor([ids + new])).logits[0, -1] for ids in (own, empty))
        scores = guidance * after + (1 - guidance) * alone
        for token in set(own + new):
            scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        new.append(int(scores.argmax()))
    return new


def count_rows(monkeypatch, model) -> list[int]:
    """A list that gets the number of rows of every pass of the model."""
    rows, forward = [], model.base_model.forward

    def count(input_ids, **arguments):
        rows.append(len(input_ids))
        return forward(input_ids=input_ids, **arguments)

    monkeypatch.setattr(model.base_model, "forward", count)
    return rows


@pytest.mark.parametrize("penalty", [1.0, PENALTY])
def test_drafts_that_leave_and_join_a_batch_are_those_of_the_formula(drafter, prompts, penalty):
    decoding = GREEDY | {"guidance": 1.5, "repetition_penalty": penalty}
    expected = []
    for prompt in prompts:
        new = follow_formula(drafter, prompt, 40, guidance=1.5, penalty=penalty)
        expected.append(drafter.decode(*cut_at_eos(new, drafter.eos_token_ids)))
    assert drafter.generate(prompts, decoding) == expected
    assert [drafter.generate([prompt], decoding)[0] for prompt in prompts] == expected
    assert len({draft["num_tokens"] for draft in expected}) > 1, "none leaves before the others"
    assert expected != drafter.generate(prompts, decoding | {"guidance": 1.0}), "guidance changes nothing"


def test_guidance_of_one_is_none(drafter, prompts, monkeypatch):
    plain = drafter.generate(prompts, SAMPLED)
    rows = count_rows(monkeypatch, drafter.model)
    assert drafter.generate(prompts, SAMPLED | {"guidance": 1.0}) == plain
    assert max(rows) == 3, "the empty problem is not read"
    drafter.generate(prompts, SAMPLED | {"guidance": 1.5})
    assert max(rows) == 6


def test_without_a_penalty_it_is_transformers_own_guidance(drafter, prompts):
    own, empty = (drafter.tokenizer(text, return_tensors="pt")["input_ids"] for text in (prompts[0], EMPTY))
    options = {
        "do_sample": False,
        "max_new_tokens": 40,
        "eos_token_id": sorted(drafter.eos_token_ids),
        "pad_token_id": 2,
    }
    ids = drafter.model.generate(own, **options, guidance_scale=2.5, negative_prompt_ids=empty)
    draft = drafter.decode(*cut_at_eos(ids[0, own.shape[1] :].tolist(), drafter.eos_token_ids))
    assert drafter.generate(prompts[:1], GREEDY | {"guidance": 2.5}) == [draft]


def test_a_sampled_draft_is_the_same_whoever_is_beside_it(drafter, prompts):
    seeds, decoding = list(range(7, 7 + len(prompts))), SAMPLED | {"guidance": 1.5}
    together = drafter.generate(prompts, decoding, seeds)
    assert len({draft["num_tokens"] for draft in together}) > 1, "none leaves before the others"
    alone = zip(prompts, seeds, strict=True)
    assert together == [drafter.generate([prompt], decoding, [seed])[0] for prompt, seed in alone]


def test_a_penalty_weighs_as_much_on_guided_scores_as_on_others():
    """A token that is nearly sure, as in a loop, is the likeliest no more; by its log-probability it would stay so."""
    ids, scores = torch.tensor([[0, 1], [3, 1]]), torch.tensor([[1.0, 20.0, 17.5, 3.0]] * 2)
    penalty = RepetitionPenaltyLogitsProcessor(1.2)
    plain, guided = penalty(ids[:1], scores[:1]), ClassifierFreeGuidance(1.5, [penalty])(ids, scores)
    assert torch.equal(guided, plain.expand(2, -1)) and plain.argmax() == 2
    assert penalty(ids[:1], scores[:1].log_softmax(-1)).argmax() == 1


def test_the_page_and_the_terminal_write_the_drafts_of_the_batch(drafter, capsys):
    decoding, prompt = SAMPLED | {"guidance": 1.5}, f"<problem>{PROBLEM}</problem><approach>"
    expected = drafter.generate([prompt] * 2, decoding, [42, 43])
    [*_, shown] = stream_drafts([drafter], PROBLEM, decoding, [42, 43], 40, threading.Event())
    for draft, seed, written in zip(expected, (42, 43), shown, strict=True):
        streamer = TerminalStreamer(drafter.tokenizer, skip_special_tokens=True)
        [alone] = drafter.generate([prompt], decoding, [seed], on_token=streamer.on_token)
        streamer.end()
        printed = "".join(c if c.isprintable() else " " for c in draft["prediction"])
        assert capsys.readouterr().out.strip() == printed.strip()
        assert alone == draft and (written.text, written.ended) == (draft["prediction"], draft["ended"])


def test_a_base_is_not_guided(drafter, monkeypatch):
    """It knows no empty problem."""
    rows = count_rows(monkeypatch, drafter.model)
    monkeypatch.setattr(drafter, "is_base", True)
    drafter.generate([PROBLEM], GREEDY | {"guidance": 1.5}, max_new_tokens=4)
    assert set(rows) == {1}
