"""Continuous batching: drafts that have ended leave the batch, and the next prompts take their rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from transformers import Cache, PreTrainedModel, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from approach.generation.cache import append_rows, keep_rows, repeat_rows
from approach.generation.sampling import Decoding, build_processors, interleave_unconditional

FREE_SHARE = 8  # once one in so many rows of a batch has ended, the ended drafts leave and others join

# Called with the number of a draft, the position of a new token in it, and the token.
OnToken = Callable[[int, int, int], None]


@dataclass
class RunningDraft:
    """A draft in the batch: its number, its prompt's tokens, how long it may get, and its random numbers."""

    number: int
    prompt: list[int]
    max_new_tokens: int
    generator: torch.Generator


class EnoughEnded(StoppingCriteria):
    """Interrupts `generate` once one in `FREE_SHARE` rows has ended, or as soon as `should_stop` says so."""

    def __init__(self, num_rows: int, eos_token_ids: set[int], device: torch.device, should_stop: Callable[[], bool]):
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.eos_token_ids = torch.tensor(sorted(eos_token_ids), device=device)
        self.should_stop = should_stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        self.ended |= torch.isin(input_ids[:, -1], self.eos_token_ids)
        has_enough = self.ended.sum() * FREE_SHARE >= len(self.ended)
        return torch.full_like(self.ended, has_enough | self.should_stop())


class TokenStreamer(BaseStreamer):
    """Hands each new token to `on_token`, without the prompts and without the rows of the empty problem."""

    def __init__(self, drafts: Sequence[tuple[int, int]], rows_per_draft: int, on_token: OnToken):
        """`drafts` has the number of each draft and how many tokens of it there are."""
        self.drafts, self.rows_per_draft, self.on_token = drafts, rows_per_draft, on_token
        self.steps: int | None = None  # the first call brings the prompts

    def put(self, value: torch.Tensor) -> None:
        if self.steps is None:
            self.steps = 0
            return
        tokens = value[:: self.rows_per_draft].tolist()
        for (number, start), token in zip(self.drafts, tokens, strict=True):
            self.on_token(number, start + self.steps, token)
        self.steps += 1

    def end(self) -> None:
        pass


class DraftBatch:
    """
    The drafts that are generated together, and what the model has cached of them.

    transformers' `generate_batch` (5.23) would do it, but drops the repetition penalty and has no seed a row
    (transformers#48468).

    Rows are aligned on the right. On the left a row is filled with its own first token, masked: a repetition penalty
    counts masked tokens, too, and a padding token that also ends drafts would let padded ones end more rarely.

    `prefix_cache` holds the tokens that all prompts begin with. Where the `empty_prompt`, that of an empty problem, is
    given the drafts are guided: each has a second row, which begins with it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: set[int],
        prefix_cache: Cache,
        empty_prompt: list[int] | None = None,
    ):
        self.model, self.eos_token_ids = model, eos_token_ids
        self.prefix_cache, self.empty_prompt = prefix_cache, empty_prompt
        self.rows_per_draft = 1 if empty_prompt is None else 2  # the draft's own row stands first
        self.running: list[RunningDraft] = []
        self.ids = self.mask = torch.empty(0, 0, dtype=torch.long, device=model.device)
        self.cache: Cache | None = None

    def add(self, drafts: Sequence[RunningDraft]) -> None:
        """Adds drafts, and reads their prompts, all but the last tokens, which `generate` reads."""
        prompts = [draft.prompt for draft in drafts]
        if self.empty_prompt is not None:
            prompts = interleave_unconditional(prompts, self.empty_prompt)
        prefix, cache = self.prefix_cache.get_seq_length(), repeat_rows(self.prefix_cache, len(prompts))
        ids, mask = align(prompts, self.model.device, prefix)
        self.model.base_model(
            input_ids=ids[:, prefix:-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, prefix:-1],
            past_key_values=cache,
            use_cache=True,
        )
        self.running += drafts
        if self.cache is None:
            self.ids, self.mask, self.cache = ids, mask, cache
            return
        width = max(ids.shape[1], self.ids.shape[1])
        self.ids = torch.cat([widen(part, width) for part in (self.ids, ids)])
        self.mask = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (self.mask, mask)])
        append_rows(self.cache, cache)

    def generate_until_free(
        self, decoding: Decoding, on_token: OnToken | None, should_stop: Callable[[], bool]
    ) -> dict[int, list[int]]:
        """Generates until enough drafts have ended, which leave the batch: their new tokens, by their numbers."""
        lengths = self.count_new_tokens()
        streamer = None
        if on_token:
            numbers = [draft.number for draft in self.running]
            streamer = TokenStreamer(list(zip(numbers, lengths, strict=True)), self.rows_per_draft, on_token)
        generators = [draft.generator for draft in self.running]
        output = self.model.generate(
            input_ids=self.ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            do_sample=False,  # RowSampler leaves one token to choose
            logits_processor=build_processors(decoding, generators, is_guided=self.empty_prompt is not None),
            max_new_tokens=min(
                draft.max_new_tokens - length for draft, length in zip(self.running, lengths, strict=True)
            ),
            eos_token_id=sorted(self.eos_token_ids) or None,
            pad_token_id=min(self.eos_token_ids, default=0),
            streamer=streamer,
            stopping_criteria=[EnoughEnded(len(self.ids), self.eos_token_ids, self.ids.device, should_stop)],
        )
        self.mask = pad(self.mask, (0, output.shape[1] - self.ids.shape[1]), value=1)
        self.ids = output
        ended, staying = {}, []
        for i, (draft, new) in enumerate(zip(self.running, self.new_tokens(), strict=True)):
            if len(new) == draft.max_new_tokens or not self.eos_token_ids.isdisjoint(new):
                ended[draft.number] = new
            else:
                staying.append(i)
        self.keep(staying)
        return ended

    def count_new_tokens(self) -> list[int]:
        """How many tokens of each draft there are."""
        read = self.mask[:: self.rows_per_draft].sum(dim=1).tolist()
        return [tokens - len(draft.prompt) for tokens, draft in zip(read, self.running, strict=True)]

    def new_tokens(self) -> list[list[int]]:
        """The tokens of each draft, without its prompt."""
        rows = self.ids[:: self.rows_per_draft].tolist()
        return [ids[len(ids) - length :] for ids, length in zip(rows, self.count_new_tokens(), strict=True)]

    def keep(self, staying: list[int]) -> None:
        """Lets all other drafts leave, and the columns in which none of these has a token."""
        self.running = [self.running[i] for i in staying]
        if not staying:
            self.ids = self.mask = self.ids[:0, :0]
            self.cache = None
            return
        rows = [self.rows_per_draft * i + j for i in staying for j in range(self.rows_per_draft)]
        kept = torch.tensor(rows, device=self.ids.device)
        first = int(self.mask[kept].argmax(dim=1).min())
        self.ids, self.mask = self.ids[kept, first:], self.mask[kept, first:]
        keep_rows(self.cache, kept, first)


def align(
    prompts: Sequence[list[int]], device: torch.device, prefix_length: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Ids and mask of prompts, aligned on the right, `(rows, tokens)`, of at least two columns so that one can be read.

    The shared prefix stands on the left, before what fills a row.
    """
    width = max(2, *map(len, prompts))
    fills = [width - len(ids) for ids in prompts]
    rows = [
        ids[:prefix_length] + ids[:1] * fill + ids[prefix_length:] for ids, fill in zip(prompts, fills, strict=True)
    ]
    mask = [[1] * prefix_length + [0] * fill + [1] * (width - prefix_length - fill) for fill in fills]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def widen(ids: torch.Tensor, width: int) -> torch.Tensor:
    """`ids` filled to `width` columns with each row's own first token on the left."""
    return torch.cat([ids[:, :1].expand(-1, width - ids.shape[1]), ids], dim=1)
