"""Drafts on the command line: printed while they are written, or JSON lines for a file of problems."""

import json
import sys
from pathlib import Path
from typing import TextIO

from tqdm import tqdm
from transformers import TextStreamer

from approach.errors import UserError
from approach.generation.streaming import DraftingModel, Sampling, write_draft
from approach.prompt import differences_from_training
from approach.storage import Output


class TerminalStreamer(TextStreamer):
    """Leaves out the space that every draft begins with, and what a terminal would take for a command."""

    begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = "".join(character if character.isprintable() else " " for character in text)
        super().on_finalized_text(text if self.begun else text.lstrip(), stream_end)
        self.begun |= bool(text.strip())


def print_drafts(drafter: DraftingModel, problem: str, sampling: Sampling) -> None:
    """Prints each draft while it is written; raises UserError where the model cannot read the problem."""
    if drafter.count_free_tokens(problem) < 1:
        num_tokens = drafter.encode(problem)["input_ids"].shape[1]
        raise UserError(f"the problem has {num_tokens} tokens, more than the model can read")
    for i in range(sampling.num_drafts):
        seed = sampling.seed + i
        if sampling.num_drafts > 1:
            print(f"{chr(10) if i else ''}Draft {i + 1}, seed {seed}:", flush=True)
        streamer = TerminalStreamer(drafter.tokenizer, skip_prompt=True, skip_special_tokens=True)
        draft = write_draft(drafter, problem, seed, sampling, streamer)
        if not draft.ended:
            print(f"[cut off after {len(draft.ids)} tokens]", file=sys.stderr)
    print("A draft by a small model: it invents, so check all of it.", file=sys.stderr)


def read_problems(source: str) -> list[tuple[str, str]]:
    """
    The problems of a file, or of stdin for `-`, one a line, each after its place for messages ("line 3").

    Empty lines are told of. Raises UserError where there is no such text, or no problem in it.
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
            print(f"line {number} is empty: passed over", file=sys.stderr)
    if not problems:
        raise UserError(f"--problems {source} holds no problem")
    return problems


def draft_for_all(drafter: DraftingModel, problems: list[tuple[str, str]], sampling: Sampling, file: TextIO) -> int:
    """Writes each problem's drafts to `file` as JSON lines; returns how many."""
    num_rows = 0
    for place, problem in tqdm(problems, desc="Drafting", unit="problem"):
        for difference in differences_from_training(problem):
            tqdm.write(f"{place}: {difference}", file=sys.stderr)
        if drafter.count_free_tokens(problem) < 1:
            tqdm.write(f"{place} is longer than the model can read: passed over", file=sys.stderr)
            continue
        for i in range(sampling.num_drafts):
            draft = write_draft(drafter, problem, sampling.seed + i, sampling)
            row = {
                "problem": problem,
                "draft": i,
                "seed": draft.seed,
                "approach": draft.text,
                "ended": draft.ended,
                "num_tokens": len(draft.ids),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            num_rows += 1
    return num_rows


def write_drafts(drafter: DraftingModel, problems: list[tuple[str, str]], sampling: Sampling, output: Output) -> int:
    """
    Writes the file of drafts whole, or none where the run is stopped; returns how many drafts.

    No file is written for none. Raises UserError where it cannot be written.
    """
    with output.staging() as path:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            num_rows = draft_for_all(drafter, problems, sampling, file)
        if not num_rows:
            path.unlink()
    return num_rows
