"""Merging an adapter into its base in FP32, and saving the merged model so that it reads back as it was."""

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from approach.errors import UserError, first_line
from approach.merging.parity import Reading, find_tolerance, measure_effect, read_model, require_equal
from approach.models import load_weights, model_eos_ids
from approach.prompt import MAX_NEW_TOKENS, REPETITION_PENALTY, load_tokenizer
from approach.storage import format_size, hash_file

SHARD_SIZE = "2GB"  # what saving holds in memory beside the model


def merge_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[PreTrainedModel, Reading, dict[str, float]]:
    """
    Merges an adapter into its base, in place, and proves that nothing changed.

    Returns the merged model with our generation defaults, what it says to the prompts, and the largest differences
    of its logits to the adapter on its base and of those to the base alone. Raises UserError where merging changed
    what the model says, or where the adapter `name` changes nothing.
    """
    set_generation_defaults(model.get_base_model(), tokenizer)
    on_base = read_model(model, tokenizer)
    effect = measure_effect(model, tokenizer)
    merged = model.merge_and_unload(safe_merge=True)
    require_one_vocabulary(merged, tokenizer)
    reading = read_model(merged, tokenizer)
    difference = require_equal(on_base, reading, "merged and adapter on base")
    if not effect > find_tolerance(on_base.logits):
        raise UserError(f"{name}: the adapter changes nothing: nothing written")
    return merged, reading, {"difference_to_adapter": difference, "difference_to_base": effect}


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    What every client does unasked: greedy drafts of at most 448 tokens, with a penalty that keeps them from looping.

    Two ends stop a draft: the tag that training taught, and what ends a text for the base.
    """
    stops = [tokenizer.eos_token_id, *model_eos_ids(model)]
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys(stops)),
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,  # said aloud, or transformers' pipeline would sample
        repetition_penalty=REPETITION_PENALTY,
    )


def require_one_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError where tokenizer, configuration and matrices do not have the same number of tokens."""
    sizes = {
        "tokenizer": len(tokenizer),
        "config": model.config.get_text_config().vocab_size,
        "input matrix": model.get_input_embeddings().weight.shape[0],
        "output matrix": model.get_output_embeddings().weight.shape[0],
    }
    if len(set(sizes.values())) > 1:
        raise UserError(f"the sizes of the vocabulary differ: {sizes}: nothing written")


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


def compare_with_saved(reading: Reading, folder: Path, dtype: str) -> float:
    """
    The largest logit difference of a saved model to the one that was saved; raises UserError where it is too large.

    The saved model is gone when this returns: it maps its files, and Windows renames no folder with an open file.
    """
    saved = load_weights(str(folder), "the model read back from", dtype=getattr(torch, dtype))
    read_back = read_model(saved, load_tokenizer(str(folder), "the tokenizer read back from"))
    return require_equal(reading, read_back, "the model read back from disk and the merged one")
