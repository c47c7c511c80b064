"""Guidance: what a draft's problem makes likelier counts more, and what would follow an empty problem, too, less."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer


class Guided(LogitsProcessor):
    """
    Mixes each draft's scores with those of the same draft after an empty problem, g · own + (1 − g) · empty, and lets
    `processors` go on with the result (Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance").

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


class OwnRows(BaseStreamer):
    """Hands a streamer the drafts' own rows of a guided batch, without those of the empty problem."""

    def __init__(self, streamer: BaseStreamer):
        self.streamer = streamer

    def put(self, value: torch.Tensor) -> None:
        self.streamer.put(value[::2])

    def end(self) -> None:
        self.streamer.end()


def pair(prompts: Sequence[list[int]], empty: list[int]) -> list[list[int]]:
    """The rows of a guided batch: each prompt, and after it that of the empty problem."""
    return [ids for prompt in prompts for ids in (prompt, empty)]
