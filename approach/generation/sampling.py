"""Decoding: the named decodings, and how the next token is chosen, with random numbers of each draft's own."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch.nn.functional import pad
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from approach.prompt import REPETITION_PENALTY

GUIDANCE = 2.0  # chosen on validation rows (benchmarks/README.md, "Guidance")
NUM_CANDIDATES = 128  # tokens of a row that are sorted at first: nearly always more than top-p keeps


class Decoding(TypedDict, total=False):
    """How drafts are decoded; what is left out is off. Guidance is classifier-free, against an empty problem."""

    do_sample: bool
    temperature: float
    top_p: float
    repetition_penalty: float
    guidance: float


DECODINGS: dict[str, Decoding] = {
    "greedy": {"do_sample": False},
    "greedy, penalty 1.15": {"do_sample": False, "repetition_penalty": REPETITION_PENALTY},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9},  # the report's
    "sampled, penalty 1.15": {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "repetition_penalty": REPETITION_PENALTY,
    },
    "greedy, penalty 1.15, guidance 2": {
        "do_sample": False,
        "repetition_penalty": REPETITION_PENALTY,
        "guidance": GUIDANCE,
    },
}
UNGUIDED = [name for name, decoding in DECODINGS.items() if "guidance" not in decoding]  # of bases, too


def build_decoding(temperature: float, top_p: float, repetition_penalty: float, guidance: float) -> Decoding:
    """The decoding that a user asks for; a temperature of 0 always takes the likeliest token."""
    return {
        "do_sample": temperature > 0,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "guidance": guidance,
    }


class RowSampler(LogitsProcessor):
    """
    Draws each row's next token by temperature and top-p, with a generator of the row's own; all others get -inf.

    So a seed gives the same draft whoever else is in the batch: transformers' `generate` draws all rows from one
    generator. It would also sort the whole vocabulary for every token, and draw a random number for every word of it.
    """

    def __init__(self, temperature: float, top_p: float, generators: Sequence[torch.Generator]):
        self.temperature, self.top_p, self.generators = temperature, top_p, generators

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` are of shape (rows, vocabulary)."""
        p, tokens = top_p_candidates((scores / self.temperature).softmax(-1), self.top_p)
        p = p.where(p.cumsum(-1) - p < self.top_p, 0)  # a token stays where the likelier ones do not reach top_p
        sums = p.cumsum(-1)
        drawn = torch.cat([torch.rand(1, generator=own, device=p.device) for own in self.generators])
        places = torch.searchsorted(sums, drawn[:, None] * sums[:, -1:], right=True)
        last = (p > 0).sum(-1, keepdim=True) - 1
        chosen = tokens.gather(1, places.minimum(last))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0)


def top_p_candidates(p: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The largest probabilities of each row, `(rows, candidates)`, in falling order, and the ids of their tokens.

    There are at least as many as reach `top_p` together: to sort a few is much faster than to sort the vocabulary. A
    row that reaches it with fewer than another row is filled with zeros.
    """
    number, vocabulary = min(NUM_CANDIDATES, p.shape[-1]), p.shape[-1]
    values, tokens = p.topk(number)
    while number < vocabulary and (short := values.sum(-1) < top_p).any():
        values, tokens = (pad(part, (0, min(8 * number, vocabulary) - number)) for part in (values, tokens))
        number = values.shape[-1]
        values[short], tokens[short] = p[short].topk(number)
    return values, tokens


class ClassifierFreeGuidance(LogitsProcessor):
    """
    Mixes each draft's scores with those of the same draft after an empty problem, g · own + (1 − g) · empty, and hands
    the result to `processors` (Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance").

    In the batch each draft's row stands before that of its empty problem, and both get the result, so that the same
    token is chosen for both. transformers' own `guidance_scale` mixes log-probabilities: a repetition penalty after
    it, which multiplies, hardly changes one near 0, and lets the draft loop. Here it gets scores as the model makes
    them.
    """

    def __init__(self, guidance: float, processors: Sequence[LogitsProcessor]):
        self.guidance, self.processors = guidance, LogitsProcessorList(processors)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` are of shape (two rows a draft, vocabulary)."""
        own, empty = scores[::2], scores[1::2]
        guided = self.processors(input_ids[::2], empty + self.guidance * (own - empty))
        return guided.repeat_interleave(2, dim=0)


def interleave_unconditional(prompts: Sequence[list[int]], empty_prompt: list[int]) -> list[list[int]]:
    """The rows of a guided batch: each prompt, followed by the prompt of an empty problem."""
    return [ids for prompt in prompts for ids in (prompt, empty_prompt)]


def build_processors(
    decoding: Decoding, generators: Sequence[torch.Generator], is_guided: bool
) -> list[LogitsProcessor]:
    """
    What is done to the scores, in this order: guidance, the repetition penalty, drawing by temperature and top-p.

    `generators` are the drafts' own. A guided batch has two rows a draft (`ClassifierFreeGuidance`).
    """
    processors: list[LogitsProcessor] = []
    if (penalty := decoding.get("repetition_penalty", 1)) != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    if decoding["do_sample"]:
        processors.append(RowSampler(decoding["temperature"], decoding["top_p"], generators))
    return [ClassifierFreeGuidance(decoding["guidance"], processors)] if is_guided else processors


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """A source of random numbers for one draft."""
    return torch.Generator(device).manual_seed(seed)
