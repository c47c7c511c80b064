"""Drafts on the command line: printed while they are written, or JSON lines for a file of problems."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch
from tqdm import tqdm
from transformers import TextStreamer

from approach.errors import UserError
from approach.generation.engine import Drafter
from approach.generation.sampling import Decoding
from approach.prompt import differences_from_training
from approach.storage import Output


class TerminalStreamer(TextStreamer):
    """Prints a draft without the space that it begins with, and without what a terminal would take for a command."""

    has_begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = "".join(character if character.isprintable() else " " for character in text)
        super().on_finalized_text(text if self.has_begun else text.lstrip(), stream_end)
        self.has_begun |= bool(text.strip())

    def on_token(self, number: int, position: int, token: int) -> None:
        """Takes a token as `Drafter.generate` hands it on."""
        self.put(torch.tensor([token]))


def print_drafts(drafter: Drafter, problem: str, decoding: Decoding, seeds: Sequence[int]) -> None:
    """
    Prints one draft a seed while it is written.

    Raises:
        UserError: where the problem is longer than the model can read.
    """
    prompt = drafter.encode_problem(problem)
    if drafter.count_free_tokens(prompt) < 1:
        raise UserError(f"the problem has {len(prompt)} tokens, more than the model can read")
    for i, seed in enumerate(seeds):
        if len(seeds) > 1:
            print(f"{chr(10) if i else ''}Draft {i + 1}, seed {seed}:", flush=True)
        streamer = TerminalStreamer(drafter.tokenizer, skip_special_tokens=True)
        [draft] = drafter.generate([prompt], decoding, [seed], on_token=streamer.on_token)
        streamer.end()
        if not draft["ended"]:
            print(f"[cut off after {draft['num_tokens']} tokens]", file=sys.stderr)
    print("A draft by a small model: it invents, so check all of it.", file=sys.stderr)


def read_problems(source: str) -> list[tuple[str, str]]:
    """
    The problems of a file, or of stdin for `-`, one a line, each after its place for messages ("line 3").

    Empty lines are named on stderr and skipped.

    Raises:
        UserError: where there is no such text, or no problem in it.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"--problems {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--problems {source} is not a text in UTF-8") from error
    problems = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            problems.append((f"line {number}", line.strip()))
        else:
            print(f"line {number} is empty: skipped", file=sys.stderr)
    if not problems:
        raise UserError(f"--problems {source} holds no problem")
    return problems


def draft_for_all(
    drafter: Drafter, problems: list[tuple[str, str]], decoding: Decoding, seeds: Sequence[int], file: TextIO
) -> int:
    """Writes one draft a seed for each problem to `file`, as JSON lines; returns how many."""
    num_rows = 0
    for place, problem in tqdm(problems, desc="Drafting", unit="problem"):
        for difference in differences_from_training(problem):
            tqdm.write(f"{place}: {difference}", file=sys.stderr)
        prompt = drafter.encode_problem(problem)
        if drafter.count_free_tokens(prompt) < 1:
            tqdm.write(f"{place} is longer than the model can read: skipped", file=sys.stderr)
            continue
        for i, seed in enumerate(seeds):
            [draft] = drafter.generate([prompt], decoding, [seed])
            row = {
                "problem": problem,
                "draft": i,
                "seed": seed,
                "approach": draft["prediction"],
                "ended": draft["ended"],
                "num_tokens": draft["num_tokens"],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            num_rows += 1
    return num_rows


def write_drafts(
    drafter: Drafter, problems: list[tuple[str, str]], decoding: Decoding, seeds: Sequence[int], output: Output
) -> int:
    """
    Writes the complete file of drafts, or none where the run is stopped; returns how many drafts.

    Where there is no draft no file is written.
    """
    with output.staging() as path:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            num_rows = draft_for_all(drafter, problems, decoding, seeds, file)
        if not num_rows:
            path.unlink()
    return num_rows
