"""One token of one row or two is read without oneDNN, in bfloat16 on a processor, and nothing else is."""

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM

from approach.drafting.single_row import read_single_rows_fast


def load(base, dtype=torch.bfloat16):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
    read_single_rows_fast(model)
    return model


def watch(model) -> list[tuple[int, bool]]:
    """Rows × tokens of each product's input in a pass, and whether oneDNN was on."""
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda module, inputs: seen.append((inputs[0].shape[:2].numel(), torch.backends.mkldnn.enabled))
            )
    return seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_token_of_few_rows_alone_is_read_without_onednn(base, dtype):
    model = load(base, dtype)
    seen = watch(model)
    with torch.inference_mode():
        for shape in ((1, 1), (2, 1), (3, 1), (1, 5), (2, 2)):
            model(input_ids=torch.ones(shape, dtype=torch.long))
            assert torch.backends.mkldnn.enabled
    assert set(seen) == {(1, dtype != torch.bfloat16), (2, dtype != torch.bfloat16), (3, True), (5, True), (4, True)}


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


def test_a_pass_that_fails_leaves_onednn_on(base):
    model = load(base)
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[10**6]]))
    assert torch.backends.mkldnn.enabled
    other = threading.Thread(target=model, kwargs={"input_ids": torch.ones(1, 1, dtype=torch.long)}, daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive(), "it waits for a pass that is over"


def test_passes_in_two_threads_do_not_change_one_anothers_products(base):
    models = [load(base), load(base)]
    seen = [watch(model) for model in models]

    def work(model, rows):
        with torch.inference_mode():
            for _ in range(100):
                model(input_ids=torch.ones(rows, 1, dtype=torch.long))

    threads = [threading.Thread(target=work, args=job) for job in zip(models, (1, 3), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen[0]) == {(1, False)} and set(seen[1]) == {(3, True)} and torch.backends.mkldnn.enabled
