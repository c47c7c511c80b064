"""Drafts token by token, one alone and several side by side."""

import threading

import pytest
import torch

from approach.errors import UserError
from approach.generation import streaming
from approach.generation.streaming import Sampling, load_drafting_model, stream_drafts, write_draft
from approach.prompt import REPETITION_PENALTY, encode_problem

PROBLEM = "We study how small models read long texts with noise."


@pytest.fixture(scope="module")
def tuned(merged):
    return load_drafting_model(str(merged), "--model_name_or_path")


def greedy(max_new_tokens: int) -> Sampling:
    return Sampling(num_drafts=1, temperature=0, top_p=0.9, seed=42, max_new_tokens=max_new_tokens)


def sampled(num_drafts: int = 1, max_new_tokens: int = 24) -> Sampling:
    return Sampling(num_drafts, temperature=0.7, top_p=0.9, seed=42, max_new_tokens=max_new_tokens)


def test_a_draft_is_the_models_continuation_up_to_its_end(tuned):
    model, tokenizer = tuned.model, tuned.tokenizer
    prompt = encode_problem(tokenizer, PROBLEM)
    with torch.inference_mode():
        ids = model.generate(**prompt, do_sample=False, max_new_tokens=10)[0, prompt["input_ids"].shape[1] :].tolist()
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    draft = write_draft(tuned, PROBLEM, 0, greedy(10))
    assert (draft.text, draft.ended, len(draft.ids)) == (text, False, 10)
    kept = model.generation_config.eos_token_id
    end = next(i for i in range(1, 10) if ids[i] not in ids[:i])
    model.generation_config.eos_token_id = ids[end]
    try:
        text = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        draft = write_draft(tuned, PROBLEM, 0, greedy(10))
    finally:
        model.generation_config.eos_token_id = kept
    assert draft.ended and len(draft.ids) == end and draft.text == text


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_the_penalty_asked_for_is_in_force_whatever_the_model_ships(tuned, penalty):
    prompt = encode_problem(tuned.tokenizer, PROBLEM)
    start, options = prompt["input_ids"].shape[1], {"do_sample": False, "max_new_tokens": 24}
    with torch.inference_mode():
        ids = tuned.model.generate(**prompt, **options, repetition_penalty=penalty)[0, start:].tolist()
        shipped = tuned.model.generate(**prompt, **options)[0, start:].tolist()
    sampling = Sampling(1, 0, 0.9, 42, max_new_tokens=24, repetition_penalty=penalty)
    assert write_draft(tuned, PROBLEM, 0, sampling).ids == ids[:24] != shipped


def test_the_end_tag_ends_a_draft(tuned):
    """The model is made to say `</approach>` first: an empty draft that ended, without the tag in its text."""
    end = tuned.tokenizer.convert_tokens_to_ids("</approach>")

    def say_end(module, inputs, logits):
        return torch.full_like(logits, -1.0).index_fill(-1, torch.tensor([end]), 1.0)

    hook = tuned.model.get_output_embeddings().register_forward_hook(say_end)
    try:
        draft = write_draft(tuned, PROBLEM, 0, greedy(10))
        assert (draft.text, draft.ended, len(draft.ids)) == ("", True, 0)
    finally:
        hook.remove()


def test_the_page_and_the_terminal_draw_the_same_draft(tuned):
    [*_, [drawn]] = stream_drafts([tuned], PROBLEM, sampled(), threading.Event())
    expected = write_draft(tuned, PROBLEM, 42, sampled())
    assert (drawn.ids, drawn.ended, drawn.text) == (expected.ids, expected.ended, expected.text)
    assert drawn.whole_text == expected.text.removesuffix("\N{REPLACEMENT CHARACTER}")


def test_greedy_drafts_and_the_bases_own_prompt(tuned, base):
    untuned = load_drafting_model(str(base), "--base_model_name_or_path", tuned=False)
    [*_, drafts] = stream_drafts([tuned, untuned], PROBLEM, greedy(8), threading.Event())
    for drafter, drawn in zip([tuned, untuned], drafts, strict=True):
        text = f"<problem>{PROBLEM}</problem><approach>" if drafter.tuned else PROBLEM
        ids = drafter.tokenizer(text, return_tensors="pt")
        options = {"do_sample": False, "max_new_tokens": 8, "repetition_penalty": REPETITION_PENALTY}
        new = drafter.model.generate(**ids, **options)[0, ids["input_ids"].shape[1] :]
        assert drawn.ids == new.tolist()
    assert [draft.seed for draft in drafts] == [42, 42], "the base draws with the first seed"


def test_a_base_that_names_no_end_drafts_up_to_the_limit(base):
    untuned = load_drafting_model(str(base), "--base_model_name_or_path", tuned=False)
    untuned.tokenizer.eos_token = None
    untuned.model.generation_config.eos_token_id = None
    assert len(write_draft(untuned, PROBLEM, 42, greedy(8)).ids) == 8


def test_nobody_goes_on_writing_for_a_reader_who_left(tuned, monkeypatch):
    steps, put = [], streaming.TokenStreamer.put
    monkeypatch.setattr(streaming.TokenStreamer, "put", lambda self, value: (steps.append(1), put(self, value)))
    others = set(threading.enumerate())
    reader = stream_drafts([tuned], PROBLEM, sampled(num_drafts=4, max_new_tokens=448), threading.Event())
    next(reader)
    [writer] = set(threading.enumerate()) - others
    reader.close()
    writer.join(timeout=30)
    assert not writer.is_alive() and len(steps) < 100


def test_what_goes_wrong_while_writing_reaches_the_reader(tuned, monkeypatch):
    monkeypatch.setattr(tuned.model, "generate", lambda **arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(stream_drafts([tuned], PROBLEM, sampled(num_drafts=2), threading.Event()))


def test_a_model_that_was_not_trained_to_draft_is_refused(base):
    with pytest.raises(UserError, match="--model_name_or_path .* was not made by train_sft.py"):
        load_drafting_model(str(base), "--model_name_or_path")
