"""Choosing tokens: what is done to a model's scores, and drawing with random numbers of each draft's own."""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from approach.generation.guidance import Guided

SORTED = 128  # tokens of a row that are sorted at first: nearly always more than top-p keeps


class RowSampler(LogitsProcessor):
    """
    Draws each row's next token by temperature and top-p, with a generator of the row's own; all others get -inf.

    So a seed gives the same draft whoever else is in the batch: `generate()` itself draws all rows from one generator.
    It would also sort the whole vocabulary for every token, and draw a random number for every word of it.
    """

    def __init__(self, temperature: float, top_p: float, generators: Sequence[torch.Generator]):
        self.temperature, self.top_p, self.generators = temperature, top_p, generators

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` are of shape (rows, vocabulary)."""
        p, tokens = take_likeliest((scores / self.temperature).softmax(-1), self.top_p)
        p = p.where(p.cumsum(-1) - p < self.top_p, 0)  # a token stays where the likelier ones do not reach top_p
        sums = p.cumsum(-1)
        drawn = torch.cat([torch.rand(1, generator=own, device=p.device) for own in self.generators])
        places = torch.searchsorted(sums, drawn[:, None] * sums[:, -1:], right=True)
        last = (p > 0).sum(-1, keepdim=True) - 1
        chosen = tokens.gather(1, places.minimum(last))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0)


def take_likeliest(p: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The largest probabilities of each row, `(rows, tokens)`, in falling order, and whose they are.

    As many as reach `top_p`, or more; to sort a few is much faster. A row that reached it with fewer has zeros behind.
    """
    number, vocabulary = min(SORTED, p.shape[-1]), p.shape[-1]
    values, tokens = p.topk(number)
    while number < vocabulary and (short := values.sum(-1) < top_p).any():
        values, tokens = (pad(part, (0, min(8 * number, vocabulary) - number)) for part in (values, tokens))
        number = values.shape[-1]
        values[short], tokens[short] = p[short].topk(number)
    return values, tokens


def make_processors(
    guidance: float,
    repetition_penalty: float,
    temperature: float,
    top_p: float,
    generators: Sequence[torch.Generator],
) -> list[LogitsProcessor]:
    """
    What is done to the scores, in this order: guidance, the repetition penalty, drawing by temperature and top-p.

    Guidance of 1, a penalty of 1 and a temperature of 0 are none. A guided batch has two rows a draft (`Guided`).
    """
    processors: list[LogitsProcessor] = []
    if repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if temperature:
        processors.append(RowSampler(temperature, top_p, generators))
    return processors if guidance == 1 else [Guided(guidance, processors)]


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """A source of random numbers for one draft."""
    return torch.Generator(device).manual_seed(seed)
