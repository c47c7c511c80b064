"""Drafts on the command line: printed while they are written, or JSON lines for a file of problems."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import torch
from tqdm import tqdm
from transformers import TextStreamer

from approach.errors import UserError, first_line
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


def read_problems(source: str, column: str = "problem") -> list[tuple[str, str]]:
    """
    The problems of a file, or of stdin for `-`, each after its place for messages ("line 3").

    The file's name says what it is: JSON lines or CSV with the problem in `column`, else a text with one problem a
    line. Stdin that begins with `{` is JSON lines. Empty problems are named on stderr and skipped.

    Raises:
        UserError: where the file cannot be read, or there is no problem in it.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--problems {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--problems {source} is not a text in UTF-8") from error
    suffix = Path(source).suffix.lower()
    if suffix in (".jsonl", ".ndjson") or (source == "-" and text.lstrip().startswith("{")):
        found = read_json_problems(source, text, column)
    elif suffix in (".csv", ".tsv"):
        found = read_csv_problems(source, text, column)
    else:
        lines = text.split("\n")
        found = enumerate(lines if lines[-1] else lines[:-1], start=1)
    problems = []
    for number, problem in found:
        if problem.strip():
            problems.append((f"line {number}", problem.strip()))
        else:
            print(f"line {number} is empty: skipped", file=sys.stderr)
    if not problems:
        raise UserError(f"--problems {source} holds no problem")
    return problems


def read_json_problems(source: str, text: str, column: str) -> Iterator[tuple[int, str]]:
    """The problems of JSON lines, each after its line; raises UserError that names the line of one that has none."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--problems {source}, line {number} is no JSON: {first_line(error)}") from error
        problem = row.get(column) if isinstance(row, dict) else None
        if not isinstance(problem, str):
            raise UserError(
                f'--problems {source}, line {number}: a row is {{"{column}": "…"}}; name another key with '
                "--problem_column"
            )
        yield number, problem


def read_csv_problems(source: str, text: str, column: str) -> Iterator[tuple[int, str]]:
    """
    The problems of a CSV file, each after the line that it ends on; its header may be split by commas, `;` or tabs.

    Raises:
        UserError: where no column has that name.
    """
    header = text.partition("\n")[0].strip("\r")
    headers = {delimiter: next(csv.reader([header], delimiter=delimiter), []) for delimiter in ",;\t"}
    delimiter = next((each for each, names in headers.items() if column in names), None)
    if delimiter is None:
        names = ", ".join(max(headers.values(), key=len))
        raise UserError(f"--problems {source} has no column {column!r}, but {names}: name one with --problem_column")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in rows:
            yield rows.line_num, row[column] or ""
    except csv.Error as error:
        raise UserError(f"--problems {source}, line {rows.line_num}: {error}") from error


def draft_for_all(
    drafter: Drafter, problems: list[tuple[str, str]], decoding: Decoding, seeds: Sequence[int], file: TextIO
) -> int:
    """Writes one draft a seed for each problem to `file`, as JSON lines; returns how many."""
    num_rows = 0
    for place, problem in tqdm(problems, desc="Drafting", unit="problem"):
        for difference in differences_from_training(problem, drafter.tokenizer):
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
