"""Drafts that grow side by side on the page."""

import threading

import pytest
import torch

from approach.errors import UserError
from approach.generation.engine import Drafter
from approach.generation.sampling import build_decoding
from approach.page.streaming import StreamedDraft, stream_drafts
from approach.prompt import REPETITION_PENALTY, encode_problem

PROBLEM = "We study how small models read long texts with noise."
GREEDY = build_decoding(0, 0.9, REPETITION_PENALTY, 1.0)
SAMPLED = build_decoding(0.7, 0.9, REPETITION_PENALTY, 1.0)


@pytest.fixture(scope="module")
def tuned(merged):
    return Drafter(str(merged))


def stream(drafters, decoding, seeds, max_new_tokens=24, stopped=None):
    return stream_drafts(drafters, PROBLEM, decoding, seeds, max_new_tokens, stopped or threading.Event())


def write(drafter, decoding, seed=42, max_new_tokens=24):
    [draft] = drafter.generate([drafter.encode_problem(PROBLEM)], decoding, [seed], max_new_tokens=max_new_tokens)
    return draft


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_the_penalty_asked_for_is_in_force_whatever_the_model_ships(tuned, merged, penalty):
    prompt = encode_problem(tuned.tokenizer, PROBLEM)
    start, options = prompt["input_ids"].shape[1], {"do_sample": False, "max_new_tokens": 24}
    shipping = type(tuned.model).from_pretrained(merged, dtype=torch.float32)
    with torch.inference_mode():
        ids = shipping.generate(**prompt, **options, repetition_penalty=penalty)[0, start:].tolist()
        shipped = shipping.generate(**prompt, **options)[0, start:].tolist()
    text = tuned.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert write(tuned, build_decoding(0, 0.9, penalty, 1.0))["prediction"] == text and ids != shipped


def test_the_end_tag_ends_a_draft(tuned):
    """The model is made to say `</approach>` first: an empty draft that ended, without the tag in its text."""
    end = tuned.tokenizer.convert_tokens_to_ids("</approach>")

    def say_end(module, inputs, logits):
        return torch.full_like(logits, -1.0).index_fill(-1, torch.tensor([end]), 1.0)

    hook = tuned.model.get_output_embeddings().register_forward_hook(say_end)
    try:
        assert write(tuned, GREEDY) == {"prediction": "", "ended": True, "num_tokens": 0}
    finally:
        hook.remove()


def test_the_page_draws_the_draft_that_is_drawn_alone(tuned):
    [*_, shown] = stream([tuned], SAMPLED, [42, 43])
    for draft, seed in zip(shown, (42, 43), strict=True):
        expected = write(tuned, SAMPLED, seed)
        assert (draft.ended, len(draft.ids)) == (expected["ended"], expected["num_tokens"])
        assert draft.text == expected["prediction"].removesuffix("\N{REPLACEMENT CHARACTER}")


def test_greedy_drafts_and_the_bases_own_prompt(tuned, base):
    untuned = Drafter(str(base), argument="--base_model_name_or_path", is_base=True)
    [*_, drafts] = stream([tuned, untuned], GREEDY, [42], max_new_tokens=8)
    for drafter, shown in zip([tuned, untuned], drafts, strict=True):
        text = PROBLEM if drafter.is_base else f"<problem>{PROBLEM}</problem><approach>"
        ids = drafter.tokenizer(text, return_tensors="pt")
        options = {"do_sample": False, "max_new_tokens": 8, "repetition_penalty": REPETITION_PENALTY}
        new = drafter.model.generate(**ids, **options)[0, ids["input_ids"].shape[1] :]
        assert shown.ids == new.tolist()
    [*_, drafts] = stream([tuned, untuned], GREEDY, [42, 43], max_new_tokens=4)
    assert [draft.seed for draft in drafts] == [42, 43, 42], "the base draws one draft, with the first seed"


def test_a_base_that_names_no_end_drafts_up_to_the_limit(base, monkeypatch):
    untuned = Drafter(str(base), is_base=True)
    monkeypatch.setattr(untuned, "eos_token_ids", set())
    assert write(untuned, GREEDY, max_new_tokens=8)["num_tokens"] == 8
    [*_, [draft]] = stream([untuned], GREEDY, [42], max_new_tokens=8)
    assert (len(draft.ids), draft.state) == (8, "cut off at the limit")


def test_when_a_reader_leaves_nothing_goes_on_beside_the_next(tuned):
    others = set(threading.enumerate())
    reader = stream([tuned], SAMPLED, range(4), max_new_tokens=448)
    drafts = next(reader)
    assert set(threading.enumerate()) - others
    reader.close()
    assert not set(threading.enumerate()) - others, "the thread has ended by the time that the next may begin"
    assert all(len(draft.ids) < 100 for draft in drafts)


def test_a_stop_ends_all_drafts_and_says_so(tuned):
    stopped = threading.Event()
    reader = stream([tuned], SAMPLED, range(4), max_new_tokens=448, stopped=stopped)
    next(reader)
    stopped.set()
    [*_, drafts] = reader
    assert {draft.state for draft in drafts} <= {"stopped", "ended by itself"}
    assert all(len(draft.ids) < 100 for draft in drafts)


def test_what_goes_wrong_while_writing_reaches_the_reader(tuned, monkeypatch):
    monkeypatch.setattr(tuned.model, "generate", lambda **arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(stream([tuned], SAMPLED, [0, 1]))


def test_drafts_that_begin_anew_where_memory_ended_are_shown_once(tuned, monkeypatch):
    generate, calls = tuned.model.generate, []

    def ends_once(input_ids, **arguments):
        calls.append(len(input_ids))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(input_ids, **arguments)

    expected = [write(tuned, SAMPLED, seed)["num_tokens"] for seed in (0, 1, 2)]
    monkeypatch.setattr(tuned.model, "generate", ends_once)
    monkeypatch.setattr(tuned, "max_batch", 2)
    [*_, drafts] = stream([tuned], SAMPLED, [0, 1, 2])
    assert [len(draft.ids) for draft in drafts] == expected and tuned.max_batch == 1


def test_a_draft_takes_nothing_after_its_end():
    draft = StreamedDraft("Draft 1", 42, None, {7})
    for position, token in enumerate([5, 6, 7, 8]):
        draft.add(position, token)
    assert (draft.ids, draft.ended) == ([5, 6], True)
    draft.add(0, 9)
    assert (draft.ids, draft.ended) == ([9], False)


def test_a_model_that_was_not_trained_to_draft_is_refused(base):
    with pytest.raises(UserError, match="--model_name_or_path .* was not made by train_sft.py"):
        Drafter(str(base)).check_trained()
