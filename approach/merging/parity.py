"""Do two models compute the same? Compares their logits and greedy drafts on fixed reference prompts."""

from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from approach.errors import UserError
from approach.prompt import TAGS, make_prompt

# Any three problems would do: what counts is that two models answer them alike.
REFERENCE_PROBLEMS = (
    "Automatic summaries of long documents often repeat themselves and leave out the main result.",
    "The dependence of the critical temperature on disorder in thin films is not understood.",
    "Rare variants are missed by association studies because few patients carry them.",
)
REFERENCE_PROMPTS = tuple(make_prompt(problem) for problem in REFERENCE_PROBLEMS)
# As a share of the logits' standard deviation. Rounding in FP32 moved SmolLM2-135M's logits by up to 5e-5 of it, as
# much as the step from FP32 to FP64 with the adapter alone; a wrong scale or a missing row moves them by far more.
MAX_LOGIT_SHARE = 5e-4
DRAFT_TOKENS = 16  # the length of the greedy drafts that are compared


class GreedyDraft(NamedTuple):
    """A greedy continuation: its token ids, and the logits `(vocabulary,)` that each of them was chosen by."""

    ids: list[int]
    logits: list[torch.Tensor]


class ModelOutputs(NamedTuple):
    """What is compared of a model: for each reference prompt its logits `(tokens, vocabulary)` and a draft."""

    logits: list[torch.Tensor]
    drafts: list[GreedyDraft]


def run_reference_prompts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ModelOutputs:
    """The model's outputs on the reference prompts, in FP32."""
    return ModelOutputs(compute_logits(model, tokenizer, REFERENCE_PROMPTS), generate_greedy_drafts(model, tokenizer))


def check_same_outputs(ours: ModelOutputs, theirs: ModelOutputs, names: str) -> float:
    """
    The largest difference between the logits of two models, which `names` names in messages.

    Raises:
        UserError: where the logits differ by more than rounding, or the drafts differ where there is no near tie.
    """
    difference, gap = largest_difference(ours.logits, theirs.logits), largest_gap(ours.drafts, theirs.drafts)
    tolerance = rounding_tolerance(ours.logits)
    if not difference <= tolerance:  # written so that NaN is refused, too
        raise UserError(
            f"{names} differ by {difference:.1e}, where {tolerance:.1e} would be rounding: nothing written"
        )
    if gap > tolerance:
        raise UserError(f"{names} draft different texts, at no near tie ({gap:.1e}): nothing written")
    return difference


def rounding_tolerance(logits: list[torch.Tensor]) -> float:
    """By how much the logits of two equal models may differ through FP32 rounding alone."""
    return MAX_LOGIT_SHARE * torch.cat(logits).std().item()


def measure_adapter_effect(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """The largest difference that the adapter makes to its base's logits, without the tags: the base has none."""
    tag_ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    words = [token_id for token_id in range(len(tokenizer)) if token_id not in tag_ids]
    with_adapter = [logits[:, words] for logits in compute_logits(model, tokenizer, REFERENCE_PROBLEMS)]
    with model.disable_adapter():
        without = [logits[:, words] for logits in compute_logits(model, tokenizer, REFERENCE_PROBLEMS)]
    return largest_difference(with_adapter, without)


def compute_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]
) -> list[torch.Tensor]:
    """The model's logits on each text, FP32 tensors of shape `(tokens, vocabulary)`."""
    with torch.inference_mode():
        return [model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0].float() for text in texts]


def generate_greedy_drafts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[GreedyDraft]:
    """The first tokens of a greedy draft for each reference prompt."""
    drafts = []
    for prompt in REFERENCE_PROMPTS:
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
        drafts.append(GreedyDraft(ids, [logits[0].float() for logits in output.logits]))
    return drafts


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest difference between two models' logits; infinite where their vocabularies differ."""
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def largest_gap(ours: list[GreedyDraft], theirs: list[GreedyDraft]) -> float:
    """
    By how many logits our model prefers its own token where two drafts first differ; 0 where none does.

    The tokens after that one continue different texts, so they are not compared.
    """
    gap = 0.0
    for our_draft, their_draft in zip(ours, theirs, strict=True):
        for chosen, other, logits in zip(our_draft.ids, their_draft.ids, our_draft.logits, strict=False):
            if chosen != other:
                gap = max(gap, (logits[chosen] - logits[other]).item())
                break
    return gap
