"""The precision of the weights that are written: what a cast costs, measured on validation rows."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from approach.dataset import load_split
from approach.errors import UserError
from approach.merging.parity import PROMPTS, read_logits
from approach.models import cast_parameters

MAX_ROWS = 50


def load_validation_rows(dataset_name: str, revision: str | None) -> list[dict]:
    """The first 50 validation rows by id, with `prompt` and `completion`; raises UserError if there are none."""
    rows = load_split(dataset_name, "validation", ("id", "prompt", "completion"), revision)
    return sorted(rows, key=lambda row: row["id"])[:MAX_ROWS]


def cast(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, rows: list[dict], max_change: float
) -> dict[str, float]:
    """
    Casts a model's parameters in place; returns the loss before and after and how many most likely tokens changed.

    Raises UserError where the loss, in nats a token, changes by more than `max_change`.
    """
    loss_before, tokens_before = measure_loss(model, tokenizer, rows), most_likely_tokens(model, tokenizer)
    cast_parameters(model, getattr(torch, dtype))
    loss_after, tokens_after = measure_loss(model, tokenizer, rows), most_likely_tokens(model, tokenizer)
    if not abs(loss_after - loss_before) <= max_change:
        raise UserError(
            f"--dtype {dtype} moves the loss on {len(rows)} validation rows from {loss_before:.4f} to "
            f"{loss_after:.4f}, by more than --max_cast_loss {max_change}: nothing written"
        )
    return {
        "rows": len(rows),
        "loss_before": loss_before,
        "loss_after": loss_after,
        "argmax_changes": int((tokens_before != tokens_after).sum()),
        "positions": len(tokens_before),
    }


def most_likely_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The most likely next token at every position of the prompts."""
    return torch.cat([logits.argmax(-1) for logits in read_logits(model, tokenizer, PROMPTS)])


def measure_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> float:
    """The loss on the rows' completions, in nats a token."""
    total, count = 0.0, 0
    for row in rows:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"]
        ids = ids[:, : getattr(model.config.get_text_config(), "max_position_embeddings", None)]  # Bloom states none
        with torch.inference_mode():
            logits = model(ids).logits[0, start - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum").item()
        count += ids.shape[1] - start
    return total / count
