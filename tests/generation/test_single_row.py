"""One token of one row or two is read without oneDNN, in bfloat16 on a processor, and nothing else is."""

import copy
import inspect

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from approach.generation import generation, streaming
from approach.generation.generation import Drafter
from approach.generation.single_row import read_single_rows_fast
from approach.generation.streaming import Sampling, load_drafting_model, write_draft


def load(base, dtype=torch.bfloat16):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
    read_single_rows_fast(model)
    return model


def watch(model) -> list[tuple[tuple[int, int], bool]]:
    """Rows and tokens of each product's input in a pass, and whether oneDNN was on."""
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda module, inputs: seen.append((tuple(inputs[0].shape[:2]), torch.backends.mkldnn.enabled))
            )
    return seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_token_of_few_rows_alone_is_read_without_onednn(base, dtype):
    model, plain = load(base, dtype), dtype == torch.float32
    for each in (model, copy.deepcopy(model)):
        seen = watch(each)
        with torch.inference_mode():
            for shape in ((1, 1), (2, 1), (3, 1), (1, 5), (2, 2)):
                each(torch.ones(shape, dtype=torch.long))
                assert torch.backends.mkldnn.enabled
        assert set(seen) == {((1, 1), plain), ((2, 1), plain), ((3, 1), True), ((1, 5), True), ((2, 2), True)}
    assert inspect.signature(model.forward) == inspect.signature(type(model)(model.config).forward)


def test_a_model_whose_matrices_lie_the_other_way_keeps_onednn():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9)).to(torch.bfloat16)
    read_single_rows_fast(model)
    assert "forward" not in vars(model)


def test_what_it_says_of_the_next_token_stays(base):
    model, plain = load(base), AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        caches = [each(input_ids=ids, use_cache=True).past_key_values for each in (model, plain)]
        logits = [
            each(input_ids=ids[:, :1], past_key_values=cache).logits
            for each, cache in zip((model, plain), caches, strict=True)
        ]
    assert logits[0].std() > 0 and (logits[0] - logits[1]).abs().max() < 0.05 * logits[1].std()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_pass_that_fails_leaves_onednn_on(base, error):
    model = load(base)

    def fail(module, inputs):
        raise error

    model.get_output_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(error):
        model(input_ids=torch.ones(1, 1, dtype=torch.long))
    assert torch.backends.mkldnn.enabled


def test_models_that_draft_alone_and_no_others_do_so(merged, monkeypatch):
    for room in (generation, streaming):
        monkeypatch.setattr(room, "fastest_dtype", lambda device: torch.bfloat16)
    alone, beside = (load_drafting_model(str(merged), "--model_name_or_path", alone=alone) for alone in (True, False))
    drafter = Drafter(str(merged), max_new_tokens=4)
    seen = [watch(model) for model in (alone.model, drafter.model, beside.model)]
    for each in (alone, beside):
        write_draft(each, "We study noise.", 0, Sampling(1, temperature=0, top_p=1, seed=0, max_new_tokens=4))
    drafter.draft_part(["We study noise."], {"do_sample": False})
    for products, is_alone in zip(seen, (True, True, False), strict=True):
        assert (((1, 1), False) in products) == is_alone
        assert all(enabled for (_, tokens), enabled in products if tokens > 1)
