"""
Changes to the libraries at run time that no subclass can make: needed with trl 1.16.0 and peft 0.21.2.

Read a new version of either before you take it; tests/training/test_patches.py fails where one has moved.
"""

import functools

import torch
import trl.trainer.utils
from peft import PeftModel
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from approach.embeddings import TagRowScores, embed_with_tag_rows

HEAD_COLUMNS = 4096  # of the vocabulary at a time, for all tokens, where TRL scores
# Configuration that caps or scales a model's scores, or adds to its loss, which TRL's own head does.
SPECIAL_SCORES = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
)


def score_in_small_tiles() -> None:
    """
    Makes TRL's own head score 4,096 columns of the vocabulary at a time, not 32,768.

    TinyLlama's whole vocabulary fits into 32,768, which takes 0.8 GiB more for 2 × 512 tokens.
    """
    trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = HEAD_COLUMNS


def give_head_a_bias(model: PreTrainedModel | PeftModel) -> None:
    """Gives the head a bias of None: TRL reads `lm_head.bias`, which PEFT's wrapper of trained rows does not have."""
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)


def score_tag_rows_apart(model: PeftModel) -> None:
    """
    Computes the loss of TRL's trainer with `TagRowScores`, where the output matrix has trained rows and no bias.

    TRL's `compute_loss` calls the model with `fused_lm_head`, inside DDP's wrapper, so the forward pass itself is
    replaced; generation calls it without and gets the original one. Where a model caps or scales its scores, or adds
    the losses of a router, TRL's own pass stays.
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
    """
    Looks up the tags' rows beside the input matrix.

    At each look-up PEFT would copy the matrix, and torch would compute a gradient of all of it.
    """
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
