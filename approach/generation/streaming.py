"""A model that drafts, token by token: one draft at a time for the terminal, several side by side for the page."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import (
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from approach.generation.batch import align
from approach.generation.cache import attend_fast, make_cache
from approach.generation.guidance import OwnRows, pair
from approach.generation.sampling import make_generator, make_processors
from approach.generation.single_row import read_single_rows_fast
from approach.models import check_trained, context_length, default_device, eos_token_ids, fastest_dtype, load_model
from approach.prompt import REPETITION_PENALTY, encode_problem

SECONDS_BETWEEN_UPDATES = 0.1


@dataclass(frozen=True)
class Sampling:
    """How drafts are sampled. Draft i is drawn with `seed + i`; temperature 0 always takes the likeliest token."""

    num_drafts: int
    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int
    repetition_penalty: float = REPETITION_PENALTY  # 1: none
    guidance: float = 1.0  # of tuned models, against an empty problem; 1: none


@dataclass
class DraftingModel:
    """A model that drafts. The tuned one reads the prompt it was trained on; its base continues the bare problem."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tuned: bool = True

    def encode(self, problem: str) -> BatchEncoding:
        """What the model reads, ids and mask of shape `(1, tokens)`."""
        if self.tuned:
            return encode_problem(self.tokenizer, problem)
        return self.tokenizer(problem, return_tensors="pt")

    def stops(self) -> set[int]:
        """The token ids that end a draft."""
        return eos_token_ids(self.model, self.tokenizer)

    def count_free_tokens(self, problem: str) -> int:
        """How many tokens the model's context leaves for a draft."""
        return context_length(self.model) - self.encode(problem)["input_ids"].shape[1]


@dataclass
class Draft:
    """A draft as far as it is written; `state` says in words how it stands."""

    heading: str
    seed: int
    tokenizer: PreTrainedTokenizerBase
    stops: set[int]
    ids: list[int] = field(default_factory=list)
    ended: bool = False  # by itself, not by the limit
    state: str = "writing …"

    def add(self, token: int) -> None:
        """Takes the next token; whatever comes after the end is padding."""
        self.ended = self.ended or token in self.stops
        if not self.ended:
            self.ids.append(token)

    @property
    def text(self) -> str:
        """The text so far."""
        return self.tokenizer.decode(self.ids, skip_special_tokens=True).strip()

    @property
    def whole_text(self) -> str:
        """The text so far, without a last character that has not got all of its bytes yet."""
        return self.text.removesuffix("\N{REPLACEMENT CHARACTER}")


def load_drafting_model(
    name: str, argument: str, tuned: bool = True, base: str | None = None, alone: bool = True
) -> DraftingModel:
    """
    A model in the fastest precision that the device has, on the GPU where there is one; an adapter is merged into its
    base, or into `base`. `alone` says that no other model drafts beside it.

    Raises UserError that names `argument` where it cannot be loaded, or is `tuned` and was not trained to draft.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # PEFT warns that new rows are random before it loads the trained ones
    device = torch.device(default_device())
    model, tokenizer = load_model(
        name, argument, dtype=fastest_dtype(device), device=device, base=base, is_base=not tuned
    )
    if tuned:
        check_trained(tokenizer, name, argument)
    attend_fast(model)
    if alone:
        read_single_rows_fast(model)
    return DraftingModel(model, tokenizer, tuned)


class TokenStreamer(BaseStreamer):
    """Puts each step's tokens, one a row, into a queue under the number of the job; None when all is written."""

    def __init__(self, job: int, tokens: queue.Queue):
        self.job, self.tokens, self.is_prompt = job, tokens, True

    def put(self, value: torch.Tensor) -> None:
        if not self.is_prompt:
            self.tokens.put((self.job, value.tolist()))
        self.is_prompt = False

    def end(self) -> None:
        self.tokens.put((self.job, None))


@torch.inference_mode()  # 4 % more tokens a second, one draft at a time, than without gradients alone
def generate(
    drafter: DraftingModel,
    problem: str,
    seeds: Sequence[int],
    sampling: Sampling,
    streamer: BaseStreamer | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> list[list[int]]:
    """Writes one draft a seed, until all have ended or `is_stopped`; the new token ids of each, padded at the end."""
    model, stops = drafter.model, sorted(drafter.stops())
    guidance = sampling.guidance if drafter.tuned else 1
    prompts = [drafter.encode(problem)["input_ids"][0].tolist()] * len(seeds)
    if guidance != 1:
        prompts = pair(prompts, drafter.encode("")["input_ids"][0].tolist())
        streamer = streamer and OwnRows(streamer)
    ids, mask = align(prompts, model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=make_cache(),
        do_sample=False,  # RowSampler leaves one token to choose
        repetition_penalty=1.0,  # the model may ship one; the one asked for is among the processors
        logits_processor=make_processors(
            guidance=guidance,
            repetition_penalty=sampling.repetition_penalty,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            generators=[make_generator(seed, model.device) for seed in seeds],
        ),
        max_new_tokens=min(sampling.max_new_tokens, drafter.count_free_tokens(problem)),
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else None,
        streamer=streamer,
        stopping_criteria=[lambda ids, scores, **_: torch.full((len(ids),), is_stopped(), device=ids.device)],
    )
    return output[:: len(prompts) // len(seeds), ids.shape[1] :].tolist()


def write_draft(
    drafter: DraftingModel, problem: str, seed: int, sampling: Sampling, streamer: BaseStreamer | None = None
) -> Draft:
    """One finished draft; the seed alone decides what is drawn."""
    draft = Draft(f"Draft with seed {seed}", seed, drafter.tokenizer, drafter.stops())
    for token in generate(drafter, problem, [seed], sampling, streamer)[0]:
        draft.add(token)
    draft.state = describe_end(draft)
    return draft


def describe_end(draft: Draft, was_stopped: bool = False) -> str:
    """How a finished draft came to its end, in words."""
    if draft.ended:
        return "ended by itself"
    return "stopped" if was_stopped else "cut off at the limit"


def stream_drafts(
    drafters: Sequence[DraftingModel], problem: str, sampling: Sampling, stopped: threading.Event
) -> Iterator[list[Draft]]:
    """
    All drafts again and again as they grow, until all have ended or `stopped` is set: of each tuned model
    `num_drafts`, of a base one. What goes wrong while they are written is raised here.
    """
    tokens = queue.Queue()
    groups = [start_drafts(job, each, problem, sampling, tokens, stopped) for job, each in enumerate(drafters)]
    shown, running = 0.0, len(groups)
    try:
        while running:
            job, step = tokens.get()
            if isinstance(step, Exception):
                raise step
            if step is None:
                running -= 1
                for draft in groups[job]:
                    draft.state = describe_end(draft, stopped.is_set())
            else:
                for draft, token in zip(groups[job], step, strict=True):
                    draft.add(token)
            if step is None or time.monotonic() > shown + SECONDS_BETWEEN_UPDATES:
                yield [draft for group in groups for draft in group]
                shown = time.monotonic()
    finally:
        stopped.set()  # the reader may have left, and nobody waits for the rest


def start_drafts(
    job: int,
    drafter: DraftingModel,
    problem: str,
    sampling: Sampling,
    tokens: queue.Queue,
    stopped: threading.Event,
) -> list[Draft]:
    """Starts a thread that puts one model's tokens into the queue; the drafts that they belong to, still empty."""
    headings = ["The base, not tuned"]
    if drafter.tuned:
        headings = [f"Draft {i + 1}" for i in range(sampling.num_drafts)]
    seeds = [sampling.seed + i for i in range(len(headings))]

    def work() -> None:
        try:
            generate(drafter, problem, seeds, sampling, TokenStreamer(job, tokens), stopped.is_set)
        except Exception as error:  # of this thread; raised again where the tokens are read
            tokens.put((job, error))

    threading.Thread(target=work, daemon=True).start()
    return [
        Draft(heading, seed, drafter.tokenizer, drafter.stops()) for heading, seed in zip(headings, seeds, strict=True)
    ]
