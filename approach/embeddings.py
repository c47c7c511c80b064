"""The rows of the four tags in the embedding matrices: added, initialised, trained by LoRA, looked up and scored."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from approach.errors import UserError
from approach.prompt import END_TAG, TAGS, add_tags

if TYPE_CHECKING:
    from peft import LoraConfig

LINEAR_KINDS = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
# What a tag means in words the base knows: its new rows start as the mean of these words' rows. The end tag starts as
# the base's own end-of-text row, which already means "stop".
TAG_MEANINGS = {"<problem>": "problem", "</problem>": "problem.", "<approach>": "approach:"}
HEAD_TOKENS = 256  # labels scored at a time, each against the whole vocabulary


def add_tag_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Adds tags and chat template to the tokenizer and rows to the model; returns the ids of the rows to train."""
    old_eos_id, new_tags = tokenizer.eos_token_id, set(TAGS) - tokenizer.get_vocab().keys()
    add_tags(tokenizer)
    return initialize_tag_rows(model, tokenizer, old_eos_id, new_tags)


def initialize_tag_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, old_eos_id: int, new_tags: set[str]
) -> list[int]:
    """
    Gives the input and the output matrix a row for each tag and returns the ids of the rows to train.

    The rows start as means of known rows, the same on every machine; `resize_token_embeddings` would draw them at
    random. A base that already has rows for the ids is not resized, and the rows of tags that it knows are kept. Where
    a base's tokenizer has tokens beyond its matrices, their rows are new, too: they start as the mean of all.
    """
    tag_ids, old_rows = tokenizer.convert_tokens_to_ids(list(TAGS)), model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    sources = {tag: tokenizer(words, add_special_tokens=False)["input_ids"] for tag, words in TAG_MEANINGS.items()}
    sources[END_TAG] = [old_eos_id]
    with torch.no_grad():
        for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            matrix[old_rows:] = matrix[:old_rows].mean(dim=0)
            for tag, tag_id in zip(TAGS, tag_ids, strict=True):
                if tag in new_tags:
                    matrix[tag_id] = matrix[sources[tag]].mean(dim=0)
    return sorted({*tag_ids, *range(old_rows, len(tokenizer))})


def train_tag_rows(config: "LoraConfig", model: PreTrainedModel, tag_ids: list[int]) -> "LoraConfig":
    """
    The LoRA configuration, changed in place so that it trains, and saves, the rows of `tag_ids` of both matrices.

    PEFT re-initialises rows that were not saved when it loads an adapter. Training both matrices whole
    (`modules_to_save`) would be 134.7 M parameters for TinyLlama, which a 6 GB card cannot hold.

    Raises:
        UserError: where the base has no layer of a name in the configuration's `target_modules`.
    """
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    targets = config.target_modules
    if isinstance(targets, str) and targets != "all-linear":
        targets = [targets]  # TRL makes a string of a list of one, which PEFT would take for a regular expression
    if not isinstance(targets, str):
        check_target_modules(model, targets)
        config.target_modules = sorted(targets)  # PEFT keeps a set, whose order would differ from run to run
    config.trainable_token_indices = {names[id(model.get_input_embeddings())]: tag_ids}
    if not model.config.get_text_config().tie_word_embeddings:
        config.trainable_token_indices[names[id(model.get_output_embeddings())]] = tag_ids
    return config


def check_target_modules(model: PreTrainedModel, targets: Iterable[str]) -> None:
    """Raises UserError that names the linear layers there are where `targets` names one that is not among them."""
    linear = {
        name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__ in LINEAR_KINDS
    }
    if missing := sorted(set(targets) - linear):
        have = ", ".join(sorted(linear))
        raise UserError(f"lora_target_modules: the base has no {', '.join(missing)}; its linear layers are {have}")


def resize_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Gives both matrices exactly a row for each token: new rows are to be loaded, and padding has no token.

    Where the base is padded beyond its tokenizer, a merged model would otherwise have rows that no token has.
    """
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def embed_with_tag_rows(
    ids: torch.Tensor, embedding: torch.nn.Embedding, rows: torch.Tensor, tag_ids: list[int]
) -> torch.Tensor:
    """Vectors `(batch, length, width)` of `ids`: of the trained `rows` (tags, width) for tags, else of `embedding`."""
    is_tag = ids.unsqueeze(-1) == torch.tensor(tag_ids, device=ids.device)
    found = embedding(ids)
    rows = rows.to(found.dtype)
    return torch.where(is_tag.any(-1, keepdim=True), is_tag.to(found.dtype) @ rows, found)


class TagRowScores(torch.autograd.Function):
    """
    Log-probability, entropy and correctness of each label under a head of which only the tags' rows are trained.

    In FP32 the numbers of TRL's function, for less: PEFT copies the whole matrix to put the rows in, and TRL computes
    the gradient of all of it, scores twice, and without Triton scores the prompts, too. Here the rows stay beside the
    matrix, and a label's gradient is taken while its scores are at hand.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        rows: torch.Tensor,
        tag_ids: list[int],
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`hidden` (tokens, width), `weight` (vocabulary, width), `rows` (tags, width), `labels` (tokens,)."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        states, matrix, tags = hidden.to(dtype), weight.to(dtype), rows.to(dtype)
        log_probs, entropy = (hidden.new_empty(len(labels), dtype=torch.float32) for _ in range(2))
        correct = torch.empty_like(labels, dtype=torch.bool)
        slopes, tag_slopes = torch.empty_like(states), states.new_empty(len(labels), len(tag_ids))
        for start in range(0, len(labels), HEAD_TOKENS):
            part = slice(start, start + HEAD_TOKENS)
            scores = states[part] @ matrix.T
            scores[:, tag_ids] = states[part] @ tags.T
            log_p, label = scores.float().log_softmax(-1), labels[part, None]
            log_probs[part] = log_p.gather(1, label).squeeze(1)
            correct[part] = log_p.argmax(-1) == labels[part]
            p = log_p.exp()
            entropy[part] = -torch.linalg.vecdot(p, log_p)
            if any(ctx.needs_input_grad):
                slope = p.neg_().scatter_add_(1, label, torch.ones_like(label, dtype=p.dtype)).to(dtype)
                tag_slopes[part] = slope[:, tag_ids]
                slope[:, tag_ids] = 0
                slopes[part] = slope @ matrix + tag_slopes[part] @ tags
        ctx.save_for_backward(states, slopes, tag_slopes)
        ctx.dtypes = hidden.dtype, rows.dtype
        ctx.mark_non_differentiable(entropy, correct)
        return log_probs, entropy, correct

    @staticmethod
    def backward(ctx, gradient: torch.Tensor, *_):
        """The gradients of `hidden` and `rows`; entropy and correctness have none."""
        (states, slopes, tag_slopes), (hidden_dtype, rows_dtype) = ctx.saved_tensors, ctx.dtypes
        gradient = gradient[:, None]
        of_rows = (tag_slopes.float() * gradient).T @ states.float()
        return (slopes * gradient).to(hidden_dtype), None, of_rows.to(rows_dtype), None, None
