"""
What of the libraries is changed at run time, because no subclass can: seen on trl 1.16.0 with peft 0.21.2.

A new version of either must be read before it is taken; tests/training/test_patches.py fails where one has moved.
"""

import functools

import torch
import trl.trainer.utils
from peft import PeftModel
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from approach.embeddings import TagRowScores, embed_with_tag_rows

HEAD_COLUMNS = 4096  # of the vocabulary at a time, for all tokens, where TRL scores
# What caps or scales a model's scores, or adds to its loss: TRL's own head knows how.
SPECIAL_SCORES = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
)


def score_in_small_tiles() -> None:
    """TRL's own head scores in tiles of 32,768 columns, which TinyLlama's fits into whole: 0.8 GiB more at 2 × 512."""
    trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = HEAD_COLUMNS


def give_head_a_bias(model: PreTrainedModel | PeftModel) -> None:
    """TRL reads `lm_head.bias`, which PEFT's wrapper of trained rows does not have where the base has no bias."""
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)


def score_tag_rows_apart(model: PeftModel) -> None:
    """
    Has the loss of TRL's trainer come from `TagRowScores`, where the output matrix has trained rows and no bias.

    TRL's `compute_loss` asks the model's forward pass with `fused_lm_head`, inside DDP's wrapper, so that the pass
    itself must be replaced; generation does not ask so, and keeps its own. Where a model caps or scales its scores, or
    adds the losses of a router, the loss stays TRL's.
    """
    config, adapter = model.config.get_text_config(), model.get_output_embeddings().token_adapter
    if any(getattr(config, name, None) for name in SPECIAL_SCORES) or adapter.base_layer.bias is not None:
        return
    model = model.get_base_model()
    (name,) = adapter.active_adapters
    trl_forward = model.forward

    @functools.wraps(trl_forward)
    def forward(*inputs, fused_lm_head: bool = False, labels=None, **named_inputs):
        if not fused_lm_head:
            return trl_forward(*inputs, labels=labels, **named_inputs)
        hidden = model.base_model(*inputs, **{**named_inputs, "use_cache": False}).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        rows = adapter.trainable_tokens_delta[name]  # looked up each time: loading a checkpoint may replace it
        rows = rows if torch.is_grad_enabled() else rows.detach()
        tag_ids = adapter.token_indices[name]
        found = TagRowScores.apply(hidden[mask], adapter.base_layer.weight, rows, tag_ids, labels[mask])
        log_probs, entropy, correct = (x.new_zeros(mask.shape).masked_scatter(mask, x) for x in found)
        return FusedCausalLMOutput(log_probs=log_probs, entropy=entropy, is_top1=correct, label_mask=mask)

    model.forward = forward


def embed_tag_rows_apart(model: PeftModel) -> None:
    """Looks the tags up beside the input matrix, of which PEFT makes a copy, and torch a gradient, at each look-up."""
    wrapper = model.get_input_embeddings()
    adapter = wrapper.token_adapter
    if type(adapter.base_layer) is not torch.nn.Embedding:  # Gemma's, for one, scales what it looks up
        return
    (name,) = adapter.active_adapters

    def forward(ids: torch.Tensor) -> torch.Tensor:
        return embed_with_tag_rows(
            ids, adapter.base_layer, adapter.trainable_tokens_delta[name], adapter.token_indices[name]
        )

    wrapper.forward = forward
