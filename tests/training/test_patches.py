import inspect
from importlib.metadata import version

import pytest
import torch
import trl.trainer.utils
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import add_fused_lm_head

from approach import embeddings
from approach.embeddings import TagRowScores
from approach.training import patches


def test_peft_wrapper_without_bias_breaks_trls_fused_head(base):
    """Seen on trl 1.16.0 with peft 0.21.2; when this fails, `give_head_a_bias` may go."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [5]}, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    add_fused_lm_head(model.get_base_model())
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(AttributeError, match="bias"):
        model(ids, labels=ids, fused_lm_head=True)
    model.get_output_embeddings().register_parameter("bias", None)
    fused = model(ids, labels=ids, fused_lm_head=True).loss
    plain = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
    assert torch.allclose(fused, plain, atol=1e-6)


def test_scoring_the_tags_rows_apart_changes_neither_loss_nor_gradients(trained, monkeypatch):
    """`TagRowScores`, 7 labels at a time, the last time fewer, against the plain forward pass and cross-entropy."""
    monkeypatch.setattr(embeddings, "HEAD_TOKENS", 7)
    trainer, model = trained.trainer, trained.trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    parameters = [p for p in model.parameters() if p.requires_grad]
    calls = []
    apply = TagRowScores.apply
    monkeypatch.setattr(TagRowScores, "apply", lambda *inputs: calls.append(inputs) or apply(*inputs))
    tiled = trainer.compute_loss(model, dict(batch))
    assert len(calls) == 1 and len(calls[0][0]) == int((batch["labels"] != -100).sum()) > 21
    with torch.no_grad():
        trainer.compute_loss(model, dict(batch))
    assert not any(value.requires_grad for value in calls[1][:3]), "an evaluation computes no gradients"
    fused = model(**batch, fused_lm_head=True)
    del model.get_input_embeddings().forward  # PEFT's own look-up, and its own head
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    patches.embed_tag_rows_apart(model)
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )
    assert abs(tiled.item() - plain.item()) < 1e-5
    labelled, shares = batch["labels"][:, 1:] != -100, logits.log_softmax(-1)
    assert torch.equal(fused.is_top1, (logits.argmax(-1) == batch["labels"][:, 1:]) & labelled)
    entropy = -(shares.exp() * shares).sum(-1) * labelled
    assert torch.allclose(fused.entropy, entropy, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(tiled, parameters), torch.autograd.grad(plain, parameters), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=0) and theirs.abs().max() > 0


def test_trls_own_head_in_tiles_changes_neither_loss_nor_gradients(base, monkeypatch):
    """It still scores where all weights are trained: in tiles of 64 columns, the last one not full."""
    monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 64)
    model = AutoModelForCausalLM.from_pretrained(base)
    add_fused_lm_head(model)
    assert model.config.vocab_size % 64
    ids = torch.arange(3, 43).view(2, 20)
    tiled = model(ids, labels=ids, fused_lm_head=True).loss
    plain = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(tiled - plain) < 1e-5
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (tiled, plain)]
    assert all(torch.allclose(ours, theirs, atol=1e-5, rtol=0) for ours, theirs in zip(*gradients, strict=True))


def test_rows_that_loading_an_adapter_replaces_are_trained(trained, base):
    """PEFT 0.21 makes new parameters of rows in bfloat16, as TRL's 4-bit runs have them, when a run is resumed."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(trained.adapter)), mean_resizing=False)
    config = LoraConfig.from_pretrained(trained.adapter)
    config.inference_mode = False
    model = get_peft_model(model, config)
    add_fused_lm_head(model.get_base_model())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    patches.score_tag_rows_apart(model)
    patches.embed_tag_rows_apart(model)
    model.load_adapter(trained.adapter, "default", is_trainable=True)
    rows = {name: p for name, p in model.named_parameters() if "trainable_tokens_delta" in name}
    ids = torch.tensor([[1, *model.peft_config["default"].trainable_token_indices["embed_tokens"], 7]])
    model(ids, labels=ids, fused_lm_head=True).log_probs.sum().backward()
    assert len(rows) == 2 and all(p.grad is not None and p.grad.any() for p in rows.values())


@pytest.mark.parametrize("change", [{}, {"logit_scale": 0.5}, {"final_logit_softcapping": 5.0}])
def test_a_head_that_scales_or_caps_its_scores_keeps_trls_own(base, change):
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [5]}, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    vars(model.config).update(change)
    before = model.get_base_model().forward
    patches.score_tag_rows_apart(model)
    assert (model.get_base_model().forward == before) == bool(change)


def test_trls_tile_of_the_vocabulary_is_still_where_we_set_it():
    """A private constant of trl 1.16.0 (`score_in_small_tiles`): a new version must be read before it is taken."""
    assert version("trl") == "1.16.0"
    source = inspect.getsource(trl.trainer.utils.add_fused_lm_head)
    assert "_CHUNKED_LOGPROB_CHUNK_SIZE" in source
