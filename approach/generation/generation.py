"""Drafts for many problems, in batches that are kept on disk: a run that was killed goes on where it was."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TypedDict

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import GenerationConfig

from approach.errors import UserError
from approach.generation.batch import DraftBatch
from approach.generation.cache import attend_fast, count_shared, read_beginning
from approach.generation.partial import PartialDrafts
from approach.generation.single_row import read_single_rows_fast
from approach.models import context_length, eos_token_ids, fastest_dtype, hash_weights, load_model
from approach.prompt import END_TAG, MAX_NEW_TOKENS, REPETITION_PENALTY, make_prompt

GUIDANCE = 2.0  # chosen on validation rows (benchmarks/README.md, "Guidance")
DECODINGS = {
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
ROWS = 2**20  # seeds of one run of drafts; torch's generator for processors takes the lowest 32 bits of a seed
SHARE = 4  # batches' worth of problems, at most, that are drafted and kept on disk together


class Draft(TypedDict):
    """A draft, whether it ended by itself, and its tokens; the last two are None where no model wrote it."""

    prediction: str
    ended: bool | None
    num_tokens: int | None


def cut_draft(ids: list[int], stops: set[int]) -> tuple[list[int], bool]:
    """The new tokens before the first stop token, and whether there was one."""
    for position, token in enumerate(ids):
        if token in stops:
            return ids[:position], True
    return ids, False


class Drafter:
    """
    A model that drafts, in `dtype` or the fastest that the device has, and its tokenizer.

    Raises UserError that names `argument` where it cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 64,
        argument: str = "--model_name_or_path",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ):
        self.name, self.max_new_tokens, self.batch_size, self.argument = name, max_new_tokens, batch_size, argument
        self.max_batch = batch_size  # how many drafts fit into memory at once, as far as is known
        device = PartialState().device
        self.model, self.tokenizer = load_model(
            name, argument, revision=revision, dtype=dtype or fastest_dtype(device), device=device
        )
        attend_fast(self.model)
        read_single_rows_fast(self.model)
        self.stops = eos_token_ids(self.model, self.tokenizer)
        # What a model's folder sets for its users, a repetition penalty say, is no part of the decodings above.
        self.model.generation_config = GenerationConfig()

    @cached_property
    def weights(self) -> str:
        """A digest of the model's weights, to the bit."""
        return hash_weights(self.model)

    def hash_settings(self, prompts: list[str], decoding: dict, seed: int | None) -> str:
        """A hash of everything that decides the drafts: drafts on disk are taken up under the same hash only."""
        settings = [
            self.weights,
            prompts,
            decoding,
            seed,
            ROWS,
            self.max_new_tokens,
            self.batch_size,
            str(PartialState().device),
            str(self.model.dtype),
            version("torch"),
            version("transformers"),
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def draft(
        self, prompts: list[str], partial: PartialDrafts, decoding_name: str = "greedy", seed: int | None = None
    ) -> list[Draft]:
        """
        Drafts for all prompts in their order, by one of `DECODINGS`; a sampled one is drawn with a seed.

        Problems are shared out in parts, each of short prompts and long ones. Every draft has a seed of its own, so
        that it is the same whichever process writes it, in this run or in one that goes on after a kill.
        """
        state = PartialState()
        decoding = DECODINGS[decoding_name]
        key = self.hash_settings(prompts, decoding, seed)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        num_parts = -(-len(order) // (SHARE * self.batch_size))
        parts = [order[i::num_parts] for i in range(num_parts)]
        own_parts = parts[state.process_index :: state.num_processes]
        done = partial.read(key)
        for rows in tqdm(own_parts, desc="Drafting", disable=not state.is_main_process):
            if not all(row in done for row in rows):
                seeds = [ROWS * (seed or 0) + row for row in rows]
                partial.append(key, rows, self.draft_part([prompts[row] for row in rows], decoding, seeds))
        state.wait_for_everyone()
        done = partial.read(key)
        return [done[row] for row in range(len(prompts))]

    def draft_part(self, prompts: list[str], decoding: dict, seeds: Sequence[int] | None = None) -> list[Draft]:
        """
        Drafts for some prompts, fewer at once where the device's memory is too small for a whole batch.

        `decoding` has `do_sample`, then `temperature` and `top_p`, and `repetition_penalty` and `guidance` or none;
        `seeds` are the drafts' own, else their numbers.
        """
        seeds, drafts = range(len(prompts)) if seeds is None else seeds, {}
        while rows := [row for row in range(len(prompts)) if row not in drafts]:
            at_once = min(self.max_batch, len(rows))
            try:
                with torch.inference_mode():
                    for row, draft in self.draft_together(rows, prompts, decoding, seeds):
                        drafts[row] = draft
                continue
            except torch.OutOfMemoryError as error:
                if at_once == 1:
                    raise UserError(
                        f"{self.argument} {self.name}: the device's memory is too small for one draft: lower "
                        "--max_new_tokens"
                    ) from error
            # Not in the except block: there the error would keep the tensors of the failed batch in memory.
            self.max_batch = at_once // 2
            torch.cuda.empty_cache()
        return [drafts[row] for row in range(len(prompts))]

    def draft_together(
        self, rows: Sequence[int], prompts: list[str], decoding: dict, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Draft]]:
        """Drafts for some rows as they end, as many at once as fit; what ends makes room for the next."""
        texts, context = self.tokenizer(prompts)["input_ids"], context_length(self.model)
        budgets = [min(self.max_new_tokens, context - len(ids)) for ids in texts]
        if min(budgets) < 1:
            longest = max(map(len, texts))
            raise UserError(f"{self.argument} {self.name}: a prompt of {longest} tokens leaves no room for a draft")
        empty = None if decoding.get("guidance", 1) == 1 else self.tokenizer(make_prompt(""))["input_ids"]
        begun = texts if empty is None else [*texts, empty]
        shared = count_shared(begun, min(map(len, begun)) - 2)
        beginning = read_beginning(self.model, texts[0][:shared])
        batch, waiting = DraftBatch(self.model, self.stops, beginning, empty), iter(rows)
        while True:
            joining = {row: texts[row] for row in itertools.islice(waiting, self.max_batch - len(batch.places))}
            if joining:
                batch.join(joining, budgets, seeds)
            if not batch.places:
                return
            for row, new in batch.go_on(decoding).items():
                yield row, self.decode(*cut_draft(new, self.stops))

    def decode(self, ids: list[int], has_ended: bool) -> Draft:
        """
        The draft that new tokens spell; the end tag ends it, too, where a model writes it as text.

        The caller cuts the prompt off by position: tags are special tokens and vanish on decoding, so that a cut in
        the decoded text would find no tag and leave the problem in the draft.
        """
        text, tag, _ = self.tokenizer.decode(ids, skip_special_tokens=True).partition(END_TAG)
        return {"prediction": text.strip(), "ended": has_ended or bool(tag), "num_tokens": len(ids)}
