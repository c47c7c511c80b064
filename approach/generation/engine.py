"""The engine that evaluation, terminal and page draft with: a model, its tokenizer, and continuous batching."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TypedDict

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import GenerationConfig

from approach.errors import UserError
from approach.generation.batch import DraftBatch, OnToken, RunningDraft
from approach.generation.cache import build_prefix_cache, common_prefix_length
from approach.generation.partial import PartialDrafts
from approach.generation.sampling import DECODINGS, Decoding, make_generator
from approach.models import check_trained, context_length, eos_token_ids, fastest_dtype, hash_weights, load_model
from approach.prompt import END_TAG, MAX_NEW_TOKENS, encode_problem
from approach.runtime import bypass_onednn_for_single_tokens

MAX_SEEDS = 2**20  # seeds of one list of drafts; torch's generator for processors takes the lowest 32 bits of a seed
BATCHES_PER_PART = 4  # at most so many batches of problems are drafted before they are kept on disk


class Draft(TypedDict):
    """A draft, whether it ended by itself, and its tokens; the last two are None where no model wrote it."""

    prediction: str
    ended: bool | None
    num_tokens: int | None


def cut_at_eos(ids: list[int], eos_ids: set[int]) -> tuple[list[int], bool]:
    """The new tokens before the first one that ends a draft, and whether there was one."""
    for position, token in enumerate(ids):
        if token in eos_ids:
            return ids[:position], True
    return ids, False


class Drafter:
    """
    A model that drafts, and its tokenizer.

    It is loaded onto `device`, or else this process's own, in `dtype`, or else the fastest that the device has. An
    adapter is merged into its base, or into `base`. A model that `is_base` has never seen the tags: it continues the
    bare problem, without guidance. `is_alone` says that no other model drafts in this process.

    Raises:
        UserError: naming `argument`, where the model cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 64,
        argument: str = "--model_name_or_path",
        dtype: torch.dtype | None = None,
        *,
        device: str | torch.device | None = None,
        revision: str | None = None,
        base: str | None = None,
        base_revision: str | None = None,
        is_base: bool = False,
        is_alone: bool = True,
    ):
        self.name, self.max_new_tokens, self.batch_size, self.argument = name, max_new_tokens, batch_size, argument
        self.is_base = is_base
        self.max_batch = batch_size  # how many drafts fit into memory at once, as far as is known
        self.device = torch.device(device or PartialState().device)
        self.model, self.tokenizer = load_model(
            name,
            argument,
            revision=revision,
            base=base,
            base_revision=base_revision,
            dtype=dtype or fastest_dtype(self.device),
            device=self.device,
            is_base=is_base,
        )
        if is_alone:
            bypass_onednn_for_single_tokens(self.model)
        self.eos_token_ids = eos_token_ids(self.model, self.tokenizer)
        # A repetition penalty that a model's folder sets for its users is no part of the decodings here.
        self.model.generation_config = GenerationConfig()

    def check_trained(self) -> None:
        """Raises UserError where the model was not trained to end its drafts with the end tag."""
        check_trained(self.tokenizer, self.name, self.argument)

    @cached_property
    def weights(self) -> str:
        """A hash of the model's weights, to the bit."""
        return hash_weights(self.model)

    def encode_problem(self, problem: str) -> list[int]:
        """The tokens that the model reads of a person's problem."""
        if self.is_base:
            return self.tokenizer(problem)["input_ids"]
        return encode_problem(self.tokenizer, problem)["input_ids"][0].tolist()

    def count_free_tokens(self, prompt: list[int]) -> int:
        """How many tokens the model's context leaves for a draft after a prompt."""
        return context_length(self.model) - len(prompt)

    def hash_settings(self, prompts: Sequence[str | list[int]], decoding: Decoding, seed: int | None) -> str:
        """A hash of everything that decides the drafts: drafts on disk are only used under the same hash."""
        settings = [
            self.weights,
            prompts,
            decoding,
            seed,
            MAX_SEEDS,
            self.max_new_tokens,
            self.batch_size,
            str(self.device),
            str(self.model.dtype),
            version("torch"),
            version("transformers"),
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def draft(
        self,
        prompts: Sequence[str | list[int]],
        partial: PartialDrafts,
        decoding_name: str = "greedy",
        seed: int | None = None,
    ) -> list[Draft]:
        """
        Drafts for all prompts in their order by one of `DECODINGS`, kept on disk: a killed run continues from there.

        All processes share the work, in parts that hold short prompts and long ones. Every draft has a seed of its
        own, so that it is the same whichever process writes it, in this run or in one that continues it.
        """
        state = PartialState()
        decoding = DECODINGS[decoding_name]
        key = self.hash_settings(prompts, decoding, seed)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        num_parts = -(-len(order) // (BATCHES_PER_PART * self.batch_size))
        parts = [order[i::num_parts] for i in range(num_parts)]
        own_parts = parts[state.process_index :: state.num_processes]
        done = partial.read(key)
        for rows in tqdm(own_parts, desc="Drafting", disable=not state.is_main_process):
            if not all(row in done for row in rows):
                seeds = [MAX_SEEDS * (seed or 0) + row for row in rows]
                partial.append(key, rows, self.generate([prompts[row] for row in rows], decoding, seeds))
        state.wait_for_everyone()
        done = partial.read(key)
        return [done[row] for row in range(len(prompts))]

    def generate(
        self,
        prompts: Sequence[str | list[int]],
        decoding: Decoding,
        seeds: Sequence[int] | None = None,
        *,
        max_new_tokens: int | None = None,
        on_token: OnToken | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Draft]:
        """
        Drafts for prompts, texts or token ids, in their order; fewer at once where the device's memory is too small.

        `seeds` are the drafts' own, else their numbers. `on_token` gets each token as it comes: a draft's number, the
        token's position in it, and the token. After a batch that did not fit the positions begin anew. Once
        `should_stop` is true the drafts are returned as far as they are written.

        Raises:
            UserError: where a prompt leaves no room for a draft, or memory none for a single one.
        """
        ids = [self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in prompts]
        limits = [min(max_new_tokens or self.max_new_tokens, self.count_free_tokens(prompt)) for prompt in ids]
        if min(limits) < 1:
            longest = max(map(len, ids))
            raise UserError(f"{self.argument} {self.name}: a prompt of {longest} tokens leaves no room for a draft")
        seeds = range(len(ids)) if seeds is None else seeds
        drafts: dict[int, Draft] = {}
        while rows := [row for row in range(len(ids)) if row not in drafts]:
            at_once = min(self.max_batch, len(rows))
            waiting = (RunningDraft(i, ids[i], limits[i], make_generator(seeds[i], self.device)) for i in rows)
            try:
                with torch.inference_mode():
                    for row, new in self.generate_batches(ids, waiting, decoding, on_token, should_stop):
                        drafts[row] = self.decode(*cut_at_eos(new, self.eos_token_ids))
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
        return [drafts[row] for row in range(len(ids))]

    def generate_batches(
        self,
        prompts: list[list[int]],
        waiting: Iterator[RunningDraft],
        decoding: Decoding,
        on_token: OnToken | None,
        should_stop: Callable[[], bool],
    ) -> Iterator[tuple[int, list[int]]]:
        """The new tokens of drafts as these end, as many at once as fit; the next take the rows of ended ones."""
        is_guided = decoding.get("guidance", 1) != 1 and not self.is_base
        empty_prompt = self.encode_problem("") if is_guided else None
        all_prompts = [*prompts, empty_prompt] if empty_prompt else prompts
        prefix_length = common_prefix_length(all_prompts, min(map(len, all_prompts)) - 2)
        prefix_cache = build_prefix_cache(self.model, prompts[0][:prefix_length])
        batch = DraftBatch(self.model, self.eos_token_ids, prefix_cache, empty_prompt)
        while True:
            joining = list(itertools.islice(waiting, self.max_batch - len(batch.running)))
            if joining:
                batch.add(joining)
            if not batch.running:
                return
            yield from batch.generate_until_free(decoding, on_token, should_stop).items()
            if should_stop():
                numbers = [draft.number for draft in batch.running]
                yield from zip(numbers, batch.new_tokens(), strict=True)
                yield from ((draft.number, []) for draft in waiting)
                return

    def decode(self, ids: list[int], has_ended: bool) -> Draft:
        """
        The draft that new tokens spell; the end tag ends it, too, where a model writes it as text.

        The prompt was cut off by position: tags are special tokens and vanish on decoding, so that a cut in the
        decoded text would find no tag and leave the problem in the draft.
        """
        text, tag, _ = self.tokenizer.decode(ids, skip_special_tokens=True).partition(END_TAG)
        return {"prediction": text.strip(), "ended": has_ended or bool(tag), "num_tokens": len(ids)}
