"""Pairs as the model sees them: token ids, labels on the approach alone, and long rows shortened or dropped."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from approach.errors import UserError
from approach.prompt import END_TAG
from approach.storage import hash_file

# A sentence's last mark: set off by spaces, as in tokenized corpora, or before a space and a capital or a bracket, but
# not in an abbreviation that such things follow.
SENTENCE_END = re.compile(
    r"(?<=\s)[.!?](?=\s)|(?<=\S)[.!?](?=\s+[A-Z(“\"])(?<!et al\.)(?<!\b[A-Za-z]\.)(?<!\b(?:Fig|Eqs|Sec|Tab|vol)\.)"
    r"(?<!\b(?:Eq|vs|cf|No|pp)\.)"
)


@dataclass
class Rows:
    """Tokenized rows (`input_ids`, `labels`, `length`), their ids in order, and what became of the rows read."""

    dataset: Dataset
    ids: list
    outcomes: dict[str, int] = field(default_factory=lambda: {"whole": 0, "shortened": 0, "dropped": 0})


def build_rows(
    split: Dataset, num_rows: int, tokenizer: PreTrainedTokenizerBase, max_length: int, long_examples: str
) -> Rows:
    """The first `num_rows` usable rows of `split`, tokenized; fewer where the split has no more."""
    options = {"tokenizer": tokenizer, "max_length": max_length, "long_examples": long_examples}
    parts, found, start, missing = [], Rows(split, []), 0, num_rows
    while missing and start < len(split):
        stop = min(len(split), start + missing)
        read = split.select(range(start, stop))
        part = read.map(
            tokenize,
            batched=True,
            fn_kwargs=options,
            remove_columns=split.column_names,
            new_fingerprint=name_result(read, options),
            desc="Tokenizing",
        )
        for row_id, outcome in zip(read["id"], part["outcome"], strict=True):
            found.outcomes[outcome] += 1
            if outcome != "dropped":
                found.ids.append(row_id)
        parts.append(part.filter(lambda outcome: outcome != "dropped", input_columns="outcome"))
        start, missing = stop, missing - len(parts[-1])
    found.dataset = concatenate_datasets(parts).remove_columns("outcome")
    return found


def name_result(rows: Dataset, options: dict) -> str:
    """The key of tokenized rows in datasets' cache; made of this code, too, of which it would see only the name."""
    return Hasher.hash([rows._fingerprint, hash_file(Path(__file__)), options])


def tokenize(
    batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int, long_examples: str
) -> dict[str, list]:
    """
    Turns `prompt` and `completion` into `input_ids` and `labels`; a row that is dropped comes out empty.

    Labels are -100 on the prompt and the token ids on the completion, its end tag included. TRL would build the same
    labels row by row, but would cut the end tag off long rows and train on what is left.
    """
    rows = {"input_ids": [], "labels": [], "length": [], "outcome": []}
    prompts = tokenizer(batch["prompt"])["input_ids"]
    texts = [prompt + completion for prompt, completion in zip(batch["prompt"], batch["completion"], strict=True)]
    for i, ids in enumerate(tokenizer(texts)["input_ids"]):
        outcome, prompt = "whole", prompts[i]
        if len(ids) > max_length:
            pair = batch["prompt"][i], batch["completion"][i]
            ids = shorten(*pair, tokenizer, max_length) if long_examples == "shorten" else []
            outcome = "shortened" if ids else "dropped"
        if ids and ids[: len(prompt)] != prompt:
            raise UserError(
                f"row {batch['id'][i]}: the tokens of its prompt do not begin those of prompt + completion"
            )
        labels = [-100] * len(prompt) + ids[len(prompt) :] if ids else []
        for name, value in zip(rows, (ids, labels, len(ids), outcome), strict=True):
            rows[name].append(value)
    return rows


def shorten(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
    """Token ids of `prompt` and the whole sentences of `completion` that fit, closed; empty where not one fits."""
    text = completion.removesuffix(END_TAG)
    for end in reversed([match.end() for match in SENTENCE_END.finditer(text)]):
        ids = tokenizer(prompt + text[:end] + END_TAG)["input_ids"]
        if len(ids) <= max_length:
            return ids
    return []
