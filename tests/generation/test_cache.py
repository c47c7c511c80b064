"""The cache of drafts holds what transformers' own holds, and one token reads the same from it in every way."""

import pytest
import torch
from transformers import DynamicCache, DynamicLayer, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from approach.generation.cache import ROOM, RoomyLayer, attend, attend_fast, make_cache


def test_a_roomy_cache_holds_what_a_plain_one_holds():
    roomy, plain = RoomyLayer(), DynamicLayer()
    torch.manual_seed(0)

    def add(layers, rows, tokens):
        states = [torch.randn(rows, 2, tokens, 4) for _ in range(2)]
        for layer in layers:
            found = layer.update(*states)
            assert all(map(torch.equal, found, (layer.keys, layer.values)))

    for tokens in (5, *[1] * (ROOM + 10)):
        add((roomy, plain), 3, tokens)
    for layer in (roomy, plain):
        layer.batch_select_indices(torch.tensor([2, 0]))
    add((roomy, plain), 2, 1)
    assert torch.equal(roomy.keys, plain.keys) and torch.equal(roomy.values, plain.values)
    other = RoomyLayer()
    add([other], 1, 4)
    roomy.cut(70)
    roomy.join(other)
    left = plain.get_seq_length() - 70
    assert torch.equal(roomy.keys[:2], plain.keys[:, :, 70:])
    assert torch.equal(roomy.keys[2:, :, left - 4 :], other.keys) and not roomy.keys[2:, :, : left - 4].any()
    add([roomy], 3, 1)
    assert roomy.get_seq_length() == left + 1


@pytest.fixture(scope="module", params=[2, 6])
def llama(request) -> LlamaForCausalLM:
    """A small Llama, of whose six heads three share keys and values, or none."""
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 6}
    shape["num_key_value_heads"] = request.param
    config = LlamaConfig(vocab_size=50, num_hidden_layers=2, initializer_range=0.2, **shape)
    return LlamaForCausalLM(config).eval()


def read(model: LlamaForCausalLM, cache: DynamicCache, rows: int, padding: int) -> torch.Tensor:
    """The logits of `ROOM + 5` tokens, each read alone after seven, of rows of which the first is padded."""
    ids = torch.randint(50, (rows, ROOM + 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    logits, begin = [], 0
    with torch.inference_mode():
        for end in range(7, ids.shape[1] + 1):
            options = {"attention_mask": mask[:, :end], "past_key_values": cache, "use_cache": True}
            logits.append(model(ids[:, begin:end], **options).logits[:, -1].float())
            begin = end
    return torch.stack(logits[1:])


@pytest.mark.parametrize(("rows", "padding"), [(1, 0), (1, 4), (2, 4), (3, 0), (3, 4)])
def test_a_token_read_by_attend_is_as_near_the_truth_as_by_sdpa(llama, rows, padding):
    truth = read(llama, DynamicCache(), rows, padding)
    torch.testing.assert_close(read(llama, make_cache(), rows, padding), truth, atol=1e-5, rtol=1e-5)
    model = LlamaForCausalLM(llama.config).eval()
    model.load_state_dict(llama.state_dict())
    model.to(torch.bfloat16)
    by_sdpa = (read(model, DynamicCache(), rows, padding) - truth).square().mean().sqrt()
    attend_fast(model)
    by_attend = (read(model, make_cache(), rows, padding) - truth).square().mean().sqrt()
    assert 0 < by_attend < 1.2 * by_sdpa < 0.05 * truth.std()


@pytest.mark.parametrize("rows", [1, 3])
def test_values_of_another_width_than_keys_are_left_to_sdpa(llama, rows):
    attention = llama.model.layers[0].self_attn
    shared = llama.config.num_key_value_heads
    query, key, value = torch.randn(rows, 6, 1, 16), torch.randn(rows, shared, 9, 16), torch.randn(rows, shared, 9, 8)
    found, expected = (read(attention, query, key, value, None)[0] for read in (attend, sdpa_attention_forward))
    assert found.shape == (rows, 1, 6, 8) and torch.equal(found, expected)


def test_only_what_gains_by_it_reads_by_attend(llama):
    chosen = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for attention in ("sdpa", "eager"):
            model = LlamaForCausalLM(llama.config).to(dtype)
            model.set_attn_implementation(attention)
            attend_fast(model)
            chosen[dtype, attention] = model.config._attn_implementation
            model.set_attn_implementation("sdpa")  # models share their configuration
    assert {key for key, name in chosen.items() if name == "one_token"} == {(torch.bfloat16, "sdpa")}
