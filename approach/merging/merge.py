"""Merges an adapter into its base in FP32, casts the result if asked, and saves it so that it reads back the same."""

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from approach.dataset import load_split
from approach.errors import UserError, first_line
from approach.merging.parity import (
    REFERENCE_PROMPTS,
    ModelOutputs,
    check_same_outputs,
    compute_logits,
    measure_adapter_effect,
    rounding_tolerance,
    run_reference_prompts,
)
from approach.models import cast_parameters, load_weights, model_eos_ids
from approach.prompt import MAX_NEW_TOKENS, REPETITION_PENALTY, load_tokenizer
from approach.storage import format_size, hash_file

SHARD_SIZE = "2GB"  # saving holds one shard in memory beside the model
VALIDATION_ROWS = 50  # what a cast costs is measured on


def merge_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[PreTrainedModel, ModelOutputs, dict[str, float]]:
    """
    Merges an adapter into its base, in place, and checks that the merged model computes the same.

    Returns the merged model with our generation defaults, its outputs on the reference prompts, and two differences:
    the largest one between its logits and the adapter's, and between the adapter's and the base's.

    Raises:
        UserError: where merging changed the outputs, or where the adapter `name` changes nothing.
    """
    set_generation_defaults(model.get_base_model(), tokenizer)
    with_adapter = run_reference_prompts(model, tokenizer)
    effect = measure_adapter_effect(model, tokenizer)
    merged = model.merge_and_unload(safe_merge=True)
    check_vocabulary_sizes(merged, tokenizer)
    outputs = run_reference_prompts(merged, tokenizer)
    difference = check_same_outputs(with_adapter, outputs, "merged and adapter on base")
    if not effect > rounding_tolerance(with_adapter.logits):
        raise UserError(f"{name}: the adapter changes nothing: nothing written")
    return merged, outputs, {"difference_to_adapter": difference, "difference_to_base": effect}


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Sets what every client does by default: greedy drafts of at most 448 tokens, with a penalty against loops.

    A draft ends at either of two kinds of tokens: the end tag, and the base's own end of text.
    """
    stops = [tokenizer.eos_token_id, *model_eos_ids(model)]
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys(stops)),
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,  # written out, because transformers' pipeline samples where it is missing
        repetition_penalty=REPETITION_PENALTY,
    )


def check_vocabulary_sizes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError where tokenizer, configuration and matrices do not have the same number of tokens."""
    sizes = {
        "tokenizer": len(tokenizer),
        "config": model.config.get_text_config().vocab_size,
        "input matrix": model.get_input_embeddings().weight.shape[0],
        "output matrix": model.get_output_embeddings().weight.shape[0],
    }
    if len(set(sizes.values())) > 1:
        raise UserError(f"the sizes of the vocabulary differ: {sizes}: nothing written")


def load_validation_rows(dataset_name: str, revision: str | None) -> list[dict]:
    """The first 50 validation rows by id, with `prompt` and `completion`; raises UserError if there are none."""
    rows = load_split(dataset_name, "validation", ("id", "prompt", "completion"), revision)
    return sorted(rows, key=lambda row: row["id"])[:VALIDATION_ROWS]


def cast_and_measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, rows: list[dict], max_change: float
) -> dict[str, float]:
    """
    Casts a model's parameters in place and measures what that costs.

    Returns the loss on `rows` before and after, in nats a token, and how many of the most likely tokens changed.

    Raises:
        UserError: where the loss changes by more than `max_change`.
    """
    loss_before, tokens_before = completion_loss(model, tokenizer, rows), most_likely_tokens(model, tokenizer)
    cast_parameters(model, getattr(torch, dtype))
    loss_after, tokens_after = completion_loss(model, tokenizer, rows), most_likely_tokens(model, tokenizer)
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
    """The most likely next token at every position of the reference prompts, shape `(tokens,)`."""
    return torch.cat([logits.argmax(-1) for logits in compute_logits(model, tokenizer, REFERENCE_PROMPTS)])


def completion_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> float:
    """The loss on the rows' completions, in nats a token."""
    total, count = 0.0, 0
    for row in rows:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"]
        ids = ids[:, : getattr(model.config.get_text_config(), "max_position_embeddings", None)]  # Bloom has none
        with torch.inference_mode():
            logits = model(ids).logits[0, start - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum").item()
        count += ids.shape[1] - start
    return total / count


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, str]:
    """Saves weights and tokenizer; returns the SHA-256 of each file of weights. Raises OSError on a full disk."""
    size, free = model.get_memory_footprint(), shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f"{format_size(size)} are needed, {format_size(free)} are free")
    try:
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    except SafetensorError as error:
        raise OSError(first_line(error)) from error
    tokenizer.save_pretrained(folder)
    return {path.name: hash_file(path) for path in sorted(folder.glob("*.safetensors"))}


def compare_with_saved(outputs: ModelOutputs, folder: Path, dtype: str) -> float:
    """
    The largest difference between the logits in `outputs` and those of the model in `folder`, read back from disk.

    The saved model is released before this returns: it maps its files, and Windows renames no folder with open files.

    Raises:
        UserError: where the difference is more than rounding.
    """
    saved = load_weights(str(folder), "the model read back from", dtype=getattr(torch, dtype))
    read_back = run_reference_prompts(saved, load_tokenizer(str(folder), "the tokenizer read back from"))
    return check_same_outputs(outputs, read_back, "the model read back from disk and the merged one")
