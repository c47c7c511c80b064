"""Do two models say the same? Their logits and their greedy drafts on fixed problems are compared."""

from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from approach.errors import UserError
from approach.prompt import TAGS, make_prompt

# Every model reads them; what they say does not matter, that two models answer alike does.
PROBLEMS = (
    "Automatic summaries of long documents often repeat themselves and leave out the main result.",
    "The dependence of the critical temperature on disorder in thin films is not understood.",
    "Rare variants are missed by association studies because few patients carry them.",
)
PROMPTS = tuple(make_prompt(problem) for problem in PROBLEMS)
# Of the logits' standard deviation. Rounding in FP32 moved SmolLM2-135M's by up to 5e-5 of it, as much as between FP32
# and FP64 with the adapter alone; a wrong scale or a missing row moves them by far more.
MAX_LOGIT_SHARE = 5e-4
DRAFT_TOKENS = 16  # of each greedy draft that is compared


class Draft(NamedTuple):
    """A greedy continuation: its token ids, and for each the logits `(vocabulary,)` that it was chosen by."""

    ids: list[int]
    logits: list[torch.Tensor]


class Reading(NamedTuple):
    """All that is compared of a model: logits `(tokens, vocabulary)` and a draft for each prompt."""

    logits: list[torch.Tensor]
    drafts: list[Draft]


def read_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """What a model says to the prompts, in FP32."""
    return Reading(read_logits(model, tokenizer, PROMPTS), draft_greedily(model, tokenizer))


def require_equal(ours: Reading, theirs: Reading, names: str) -> float:
    """The largest difference of two readings' logits; raises UserError if the two models do not say the same."""
    difference, gap = largest_difference(ours.logits, theirs.logits), largest_gap(ours.drafts, theirs.drafts)
    allowed = find_tolerance(ours.logits)
    if not difference <= allowed:  # so that NaN is refused, too
        raise UserError(f"{names} differ by {difference:.1e}, where {allowed:.1e} would be rounding: nothing written")
    if gap > allowed:
        raise UserError(f"{names} draft different texts, at no near tie ({gap:.1e}): nothing written")
    return difference


def find_tolerance(logits: list[torch.Tensor]) -> float:
    """By how much the logits of two equal models may differ, in logits, for FP32's rounding alone."""
    return MAX_LOGIT_SHARE * torch.cat(logits).std().item()


def measure_effect(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """The largest difference that the adapter makes to its base's logits, the tags left out: the base has none."""
    tag_ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    words = [token_id for token_id in range(len(tokenizer)) if token_id not in tag_ids]
    with_adapter = [logits[:, words] for logits in read_logits(model, tokenizer, PROBLEMS)]
    with model.disable_adapter():
        without = [logits[:, words] for logits in read_logits(model, tokenizer, PROBLEMS)]
    return largest_difference(with_adapter, without)


def read_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]
) -> list[torch.Tensor]:
    """The model's logits on each text, FP32 tensors of shape `(tokens, vocabulary)`."""
    with torch.inference_mode():
        return [model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0].float() for text in texts]


def draft_greedily(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Draft]:
    """The first tokens of a greedy draft for each prompt."""
    drafts = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = model.generate(
            **inputs,
            do_sample=False,
            repetition_penalty=1.0,  # the plain logits are compared
            max_new_tokens=DRAFT_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        drafts.append(Draft(ids, [logits[0].float() for logits in output.logits]))
    return drafts


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest difference between two models' logits; infinite where their vocabularies differ."""
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def largest_gap(ours: list[Draft], theirs: list[Draft]) -> float:
    """
    How much our model prefers its own token to theirs where two drafts first differ, in logits; 0 where none does.

    After that token the drafts continue different texts, and say nothing about the models.
    """
    gap = 0.0
    for our_draft, their_draft in zip(ours, theirs, strict=True):
        for chosen, other, logits in zip(our_draft.ids, their_draft.ids, our_draft.logits, strict=False):
            if chosen != other:
                gap = max(gap, (logits[chosen] - logits[other]).item())
                break
    return gap
