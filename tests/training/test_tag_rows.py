import re

import pytest
import torch
from conftest import make_base
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from approach.embeddings import TagRowScores, initialize_tag_rows
from approach.prompt import TAGS, add_tags


@pytest.fixture
def tagged(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    add_tags(tokenizer)
    return tokenizer


def test_base_is_frozen_bit_for_bit_and_adapter_and_tag_rows_moved(trained, base):
    """Old rows of both matrices included (in the original run they were never trained)."""
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    after = dict(trained.trainer.model.named_parameters())
    plain_names = {re.sub(r"base_model\.model\.|\.base_layer|\.token_adapter", "", name): name for name in after}
    for name, weight in original.items():
        assert torch.equal(after[plain_names[name]][: len(weight)], weight), name
    moved = {name for name, parameter in after.items() if parameter.requires_grad}
    for kind in ("lora_A", "lora_B", "embed_tokens.token_adapter.", "lm_head.token_adapter."):
        assert any(kind in name for name in moved), kind
    for name, parameter in after.items():
        if name not in moved:
            assert torch.equal(parameter, trained.before[name]), name
        elif "trainable_tokens_delta" in name:
            rows_moved = (parameter != trained.before[name]).any(dim=1).tolist()
            # </approach> is the last token of every row: it is predicted, and nothing is predicted from it.
            assert rows_moved == [True, True, True, "lm_head" in name], name
        else:
            assert "lora_" in name and not torch.equal(parameter, trained.before[name]), name


def test_plain_peft_opens_the_same_model_every_time(trained, tagged):
    ids = tagged("<problem>We study noise.</problem><approach>", return_tensors="pt")["input_ids"]
    trained.trainer.model.eval()
    with torch.inference_mode():
        expected = trained.trainer.model(ids).logits
        for _ in range(2):
            reopened = AutoPeftModelForCausalLM.from_pretrained(trained.adapter, dtype=torch.float32)
            assert torch.equal(reopened(ids).logits, expected)


def test_tag_rows_start_from_the_words_they_stand_for(base):
    rows = []
    for _ in range(2):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        add_tags(tokenizer)
        ids = initialize_tag_rows(model, tokenizer, 2, set(TAGS))
        rows.append((model.get_input_embeddings().weight[ids], model.get_output_embeddings().weight[ids]))
    embeddings = model.get_input_embeddings().weight
    word = tokenizer("problem", add_special_tokens=False)["input_ids"]
    assert torch.equal(embeddings[ids[0]], embeddings[word].mean(dim=0))
    assert torch.equal(rows[0][1][3], model.get_output_embeddings().weight[2])
    assert all(torch.equal(first, second) for first, second in zip(*rows, strict=True))


def test_a_base_that_has_the_rows_is_not_resized(tmp_path):
    base = make_base(tmp_path / "padded", vocabulary_padding=64)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    rows = model.get_input_embeddings().weight.shape[0]
    for _ in range(2):
        add_tags(tokenizer)
        ids = initialize_tag_rows(model, tokenizer, 2, set(TAGS))
        assert model.get_input_embeddings().weight.shape[0] == rows
    assert len(set(ids)) == 4 and len(tokenizer) == max(ids) + 1


def test_rows_of_tags_that_the_base_knows_are_kept(merged):
    """Training goes on from a merged model with the rows that it has learned."""
    known = AutoModelForCausalLM.from_pretrained(merged).get_input_embeddings().weight
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    new_tags = set(TAGS) - tokenizer.get_vocab().keys()
    add_tags(tokenizer)
    ids = initialize_tag_rows(model, tokenizer, tokenizer.eos_token_id, new_tags)
    assert not new_tags and torch.equal(model.get_input_embeddings().weight[ids], known[ids])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_tag_rows_are_those_of_the_whole_matrix(dtype):
    """Against autograd on the matrix with the rows in it; in bfloat16 to its precision; also of no label."""
    torch.manual_seed(0)
    hidden, weight, rows = torch.randn(9, 16).to(dtype), torch.randn(40, 16).to(dtype), torch.randn(2, 16).to(dtype)
    labels, tag_ids, gradient = torch.randint(0, 40, (9,)), [38, 5], torch.randn(9)
    labels[0] = 38
    hidden.requires_grad_(), rows.requires_grad_()
    ours = TagRowScores.apply(hidden, weight, rows, tag_ids, labels)[0]
    whole = weight.index_copy(0, torch.tensor(tag_ids), rows)
    plain = (hidden @ whole.T).float().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
    limit = {"atol": 1e-5 if dtype == torch.float32 else 0.05, "rtol": 0 if dtype == torch.float32 else 0.02}
    assert torch.allclose(ours, plain, **limit)
    found, expected = (torch.autograd.grad(value, (hidden, rows), gradient) for value in (ours, plain))
    assert all(torch.allclose(a.float(), b.float(), **limit) for a, b in zip(found, expected, strict=True))
    none = TagRowScores.apply(hidden[:0], weight, rows, tag_ids, labels[:0])[0]
    assert none.shape == (0,) and not torch.autograd.grad(none.sum(), rows)[0].any()
