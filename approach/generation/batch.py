"""Drafts that are written together: they leave when they have ended, and the next prompts take their places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from transformers import Cache, PreTrainedModel, StoppingCriteria

from approach.generation.cache import repeat_rows
from approach.generation.guidance import pair
from approach.generation.sampling import make_generator, make_processors

LEAVING = 8  # once one in so many places of a batch is free, the ended drafts leave and others join


class EnoughFree(StoppingCriteria):
    """Interrupts a batch once one in `LEAVING` of its drafts has ended, so that the ended ones can leave it."""

    def __init__(self, num_rows: int, stops: set[int], device: torch.device):
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.stops = torch.tensor(sorted(stops), device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        self.ended |= torch.isin(input_ids[:, -1], self.stops)
        return torch.full_like(self.ended, self.ended.sum() * LEAVING >= len(self.ended))


@dataclass
class Place:
    """A draft in the batch: its prompt's number and tokens, how many the draft may have, and its random numbers."""

    number: int
    prompt: int
    budget: int
    random: torch.Generator


class DraftBatch:
    """
    What stands of the drafts that are written together, and what the model has cached of them.

    Rows are aligned on the right. On the left a row is filled with its own first token, masked: a repetition penalty
    counts what is masked, too, and a padding token that also ends drafts would end the padded ones more rarely.

    `beginning` is the cache of the tokens with which all prompts begin, which are read once for them all. Where the
    prompt of an `empty` problem is given the drafts are guided: each has a second row, which begins with it.
    """

    def __init__(self, model: PreTrainedModel, stops: set[int], beginning: Cache, empty: list[int] | None = None):
        self.model, self.stops, self.beginning, self.empty = model, stops, beginning, empty
        self.rows_per_draft = 1 if empty is None else 2  # its own first
        self.places: list[Place] = []
        self.ids = self.mask = torch.empty(0, 0, dtype=torch.long, device=model.device)
        self.cache: Cache | None = None

    def join(self, prompts: Mapping[int, list[int]], budgets: Sequence[int], seeds: Sequence[int]) -> None:
        """Reads prompts, all but their last tokens, and adds them, each with its draft's budget of tokens and seed."""
        texts = list(prompts.values()) if self.empty is None else pair(prompts.values(), self.empty)
        shared, cache = self.beginning.get_seq_length(), repeat_rows(self.beginning, len(texts))
        ids, mask = align(texts, self.model.device, shared)
        self.model.base_model(
            input_ids=ids[:, shared:-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, shared:-1],
            past_key_values=cache,
            use_cache=True,
        )
        for number, prompt in prompts.items():
            random = make_generator(seeds[number], self.model.device)
            self.places.append(Place(number, len(prompt), budgets[number], random))
        if self.cache is None:
            self.ids, self.mask, self.cache = ids, mask, cache
            return
        width = max(ids.shape[1], self.ids.shape[1])
        self.ids = torch.cat([widen(part, width) for part in (self.ids, ids)])
        self.mask = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (self.mask, mask)])
        for layer, other in zip(self.cache.layers, cache.layers, strict=True):
            layer.join(other)

    def go_on(self, decoding: dict) -> dict[int, list[int]]:
        """Writes until enough drafts have ended; those leave: their new tokens, by their prompts' numbers."""
        budget = min(place.budget - new for place, new in zip(self.places, self.count_new(), strict=True))
        processors = make_processors(
            guidance=decoding["guidance"] if self.empty else 1,
            repetition_penalty=decoding.get("repetition_penalty", 1.0),
            temperature=decoding["temperature"] if decoding["do_sample"] else 0,
            top_p=decoding.get("top_p", 1.0),
            generators=[place.random for place in self.places],
        )
        output = self.model.generate(
            input_ids=self.ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            do_sample=False,  # RowSampler leaves one token to choose
            logits_processor=processors,
            max_new_tokens=budget,
            eos_token_id=sorted(self.stops) or None,
            pad_token_id=min(self.stops, default=0),
            stopping_criteria=[EnoughFree(len(self.ids), self.stops, self.ids.device)],
        )
        self.mask = pad(self.mask, (0, output.shape[1] - self.ids.shape[1]), value=1)
        self.ids = output
        left, staying = {}, []
        own = output[:: self.rows_per_draft].tolist()
        for i, (place, ids, number) in enumerate(zip(self.places, own, self.count_new(), strict=True)):
            new = ids[len(ids) - number :]
            if len(new) == place.budget or not self.stops.isdisjoint(new):
                left[place.number] = new
            else:
                staying.append(i)
        self.keep(staying)
        return left

    def count_new(self) -> list[int]:
        """How many tokens of each draft there are."""
        read = self.mask[:: self.rows_per_draft].sum(dim=1).tolist()
        return [tokens - place.prompt for tokens, place in zip(read, self.places, strict=True)]

    def keep(self, staying: list[int]) -> None:
        """Lets all other drafts leave, and the columns in which none of these has a token."""
        self.places = [self.places[number] for number in staying]
        if not staying:
            self.cache = None
            return
        rows = [number * self.rows_per_draft + row for number in staying for row in range(self.rows_per_draft)]
        kept = torch.tensor(rows, device=self.ids.device)
        first = int(self.mask[kept].argmax(dim=1).min())
        self.ids, self.mask = self.ids[kept, first:], self.mask[kept, first:]
        self.cache.batch_select_indices(kept)
        for layer in self.cache.layers:
            layer.cut(first)


def align(texts: Sequence[list[int]], device: torch.device, shared: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Ids and mask of texts, aligned on the right, of at least two columns so that there is something to read.

    The first `shared` tokens of all are one and stand on the left, before what fills a row.
    """
    width = max(2, *map(len, texts))
    fills = [width - len(text) for text in texts]
    ids = [text[:shared] + text[:1] * fill + text[shared:] for text, fill in zip(texts, fills, strict=True)]
    mask = [[1] * shared + [0] * fill + [1] * (width - shared - fill) for fill in fills]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def widen(ids: torch.Tensor, width: int) -> torch.Tensor:
    """`ids` filled to `width` columns with each row's own first token on the left."""
    return torch.cat([ids[:, :1].expand(-1, width - ids.shape[1]), ids], dim=1)
