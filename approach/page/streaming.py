"""Drafts that grow side by side on the page, each model in a thread of its own."""

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from approach.generation.engine import Drafter

SECONDS_BETWEEN_UPDATES = 0.1


@dataclass
class StreamedDraft:
    """A draft as far as it is written; `state` says in words how it stands."""

    heading: str
    seed: int
    tokenizer: "PreTrainedTokenizerBase"
    eos_token_ids: set[int]
    ids: list[int] = field(default_factory=list)
    ended: bool = False  # by itself, not by the limit
    state: str = "writing …"

    def add(self, position: int, token: int) -> None:
        """Takes the token at a position; whatever comes after the end is padding."""
        if position == 0:  # after a batch that did not fit into memory a draft begins anew
            self.ids, self.ended = [], False
        self.ended = self.ended or token in self.eos_token_ids
        if not self.ended:
            self.ids.append(token)

    def close(self, was_stopped: bool) -> None:
        """Says how the draft came to its end."""
        self.state = "ended by itself" if self.ended else "stopped" if was_stopped else "cut off at the limit"

    @property
    def text(self) -> str:
        """The text so far, without a last character that has not got all of its bytes yet."""
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True).strip()
        return text.removesuffix("\N{REPLACEMENT CHARACTER}")


def stream_drafts(
    drafters: "Sequence[Drafter]",
    problem: str,
    decoding: Mapping,
    seeds: Sequence[int],
    max_new_tokens: int,
    stopped: threading.Event,
) -> Iterator[list[StreamedDraft]]:
    """
    All drafts again and again as they grow, until all have ended or `stopped` is set: one a seed of the tuned model,
    one of the base. An error while they are written is raised here.

    When the reader leaves, the threads are stopped and waited for: nothing goes on beside the next reader's drafts.
    """
    tokens: queue.Queue = queue.Queue()
    groups, threads = [], []
    for job, drafter in enumerate(drafters):
        own_seeds = seeds[:1] if drafter.is_base else seeds
        groups.append(build_empty_drafts(drafter, own_seeds))
        arguments = (job, drafter, problem, decoding, own_seeds, max_new_tokens, tokens, stopped)
        threads.append(threading.Thread(target=put_tokens, args=arguments, daemon=True))
    shown, running = 0.0, len(groups)
    try:
        for thread in threads:
            thread.start()
        while running:
            job, step = tokens.get()
            if isinstance(step, Exception):
                raise step
            if step is None:
                running -= 1
                for draft in groups[job]:
                    draft.close(stopped.is_set())
            else:
                number, position, token = step
                groups[job][number].add(position, token)
            if step is None or time.monotonic() > shown + SECONDS_BETWEEN_UPDATES:
                yield [draft for group in groups for draft in group]
                shown = time.monotonic()
    finally:
        stopped.set()
        for thread in threads:
            if thread.ident:  # it was started
                thread.join()


def put_tokens(
    job: int,
    drafter: "Drafter",
    problem: str,
    decoding: Mapping,
    seeds: Sequence[int],
    max_new_tokens: int,
    tokens: queue.Queue,
    stopped: threading.Event,
) -> None:
    """
    Puts each token of one model's drafts into the queue, as the number of the job and what `Drafter.generate` says of
    the token; None in its place when all is written, or the error that ended it.
    """
    try:
        drafter.generate(
            [drafter.encode_problem(problem)] * len(seeds),
            decoding,
            seeds,
            max_new_tokens=max_new_tokens,
            on_token=lambda *token: tokens.put((job, token)),
            should_stop=stopped.is_set,
        )
        tokens.put((job, None))
    except Exception as error:  # of this thread; it is raised again where the tokens are read
        tokens.put((job, error))


def build_empty_drafts(drafter: "Drafter", seeds: Sequence[int]) -> list[StreamedDraft]:
    """The drafts of one model before the first token."""
    headings = ["The base, not tuned"] if drafter.is_base else [f"Draft {i + 1}" for i in range(len(seeds))]
    return [
        StreamedDraft(heading, seed, drafter.tokenizer, drafter.eos_token_ids)
        for heading, seed in zip(headings, seeds, strict=True)
    ]
