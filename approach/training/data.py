"""The rows of a run: how many it takes, their token ids, labels on the approach alone, and their record."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase
from trl import ScriptArguments, SFTConfig

from approach.dataset import load_split
from approach.errors import UserError
from approach.prompt import END_TAG
from approach.storage import hash_file, public_name
from approach.training.arguments import DataArguments

COLUMNS = ("id", "problem", "prompt", "completion")
# The mark that ends a sentence: set off by spaces, as in tokenized corpora, or before a space and a capital or a
# bracket, but not in an abbreviation that such things follow.
SENTENCE_END = re.compile(
    r"(?<=\s)[.!?](?=\s)|(?<=\S)[.!?](?=\s+[A-Z(“\"])(?<!et al\.)(?<!\b[A-Za-z]\.)(?<!\b(?:Fig|Eqs|Sec|Tab|vol)\.)"
    r"(?<!\b(?:Eq|vs|cf|No|pp)\.)"
)


@dataclass
class TokenizedRows:
    """Tokenized rows (`input_ids`, `labels`, `length`), their ids in order, and what became of the rows read."""

    dataset: Dataset
    ids: list
    outcomes: dict[str, int] = field(default_factory=lambda: {"complete": 0, "shortened": 0, "dropped": 0})


@dataclass(frozen=True)
class Pairs:
    """
    What a run takes of a dataset: tokenized rows, the problems to draft for, and the record of the training rows.

    `epoch_steps` is how many steps an epoch of the complete split would take.
    """

    train: Dataset
    validation: Dataset | None
    problems: list[dict]
    record: dict
    epoch_steps: float


def load_pairs(
    script_args: ScriptArguments,
    training_args: SFTConfig,
    data_args: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> Pairs:
    """
    Loads and tokenizes the rows that the arguments ask for, and prints how many there are.

    Raises:
        UserError: where the dataset cannot be read, or none of its rows fits in `--max_length`.
    """
    source = {"name": script_args.dataset_name, "columns": COLUMNS, "revision": data_args.dataset_revision}
    source["config"] = script_args.dataset_config
    options = {"tokenizer": tokenizer, "max_length": training_args.max_length, "long_rows": data_args.long_examples}
    batch_rows = training_args.per_device_train_batch_size * training_args.world_size
    step_rows = batch_rows * training_args.gradient_accumulation_steps
    split = load_split(**source, split=script_args.dataset_train_split)
    num_rows = count_rows(len(split), data_args.train_fraction, training_args, step_rows)
    validation, problems = None, []
    with training_args.main_process_first(desc="tokenizing"):
        rows = build_rows(split.shuffle(seed=training_args.seed), num_rows, **options)
        if training_args.eval_strategy != "no":
            held_out = load_split(**source, split=script_args.dataset_test_split)
            validation = build_rows(held_out, data_args.num_eval_rows, **options).dataset
            problems = held_out.select(range(min(data_args.num_samples, len(held_out)))).to_list()
    check_not_empty(rows, num_rows, training_args.max_length)
    if training_args.process_index == 0:
        max_steps = training_args.max_steps
        epochs = max_steps * step_rows / len(split) if max_steps > 0 else training_args.num_train_epochs
        print(f"{batch_rows} × {step_rows // batch_rows} = {step_rows} rows a step")
        print(f"{len(rows.dataset):,} different rows of {len(split):,}, {epochs:.2f} epochs")
        print(f"of the rows read, at {training_args.max_length} tokens: {rows.outcomes}")
    record = {
        "name": public_name(script_args.dataset_name),
        "revision": data_args.dataset_revision,
        **build_rows_record(rows, len(split), training_args.seed),
    }
    return Pairs(rows.dataset, validation, problems, record, epoch_steps=len(split) / step_rows)


def count_rows(split_rows: int, train_fraction: float, training_args: SFTConfig, step_rows: int) -> int:
    """How many rows of the split a run takes: its share, and no more than it reads in `max_steps` steps."""
    num_rows = max(1, int(split_rows * train_fraction))
    if training_args.max_steps > 0 and not training_args.packing:  # a packed row holds several of ours
        num_rows = min(num_rows, training_args.max_steps * step_rows)
    return num_rows


def check_not_empty(rows: TokenizedRows, num_rows: int, max_length: int) -> None:
    """Raises UserError where none of the rows fits."""
    if not len(rows.dataset):
        raise UserError(
            f"no row to train on: of {num_rows:,}, {rows.outcomes['dropped']:,} do not fit in --max_length "
            f"{max_length}: raise it"
        )


def build_rows_record(rows: TokenizedRows, split_rows: int, seed: int) -> dict:
    """
    What `run.json` holds about the rows: a hash of their tokens, how many there are, and which ones.

    `ids` are those of the rows trained on, in the order of the split shuffled with `seed`; None where every row of
    the split was used, since a list of all of them would say nothing.
    """
    digest = hashlib.sha256()
    for batch in rows.dataset.with_format("arrow").iter(1000):
        digest.update(repr(batch["input_ids"].to_pylist()).encode())
    return {
        "sha256": digest.hexdigest()[:16],
        "split_rows": split_rows,
        "rows": len(rows.dataset),
        **rows.outcomes,
        "seed": seed,
        "ids": rows.ids if len(rows.ids) < split_rows else None,
    }


def build_rows(
    split: Dataset, num_rows: int, tokenizer: PreTrainedTokenizerBase, max_length: int, long_rows: str
) -> TokenizedRows:
    """The first `num_rows` usable rows of `split`, tokenized; fewer where the split has no more."""
    options = {"tokenizer": tokenizer, "max_length": max_length, "long_rows": long_rows}
    parts, rows, start, missing = [], TokenizedRows(split, []), 0, num_rows
    while missing and start < len(split):
        stop = min(len(split), start + missing)
        read = split.select(range(start, stop))
        part = read.map(
            tokenize,
            batched=True,
            fn_kwargs=options,
            remove_columns=split.column_names,
            new_fingerprint=build_cache_key(read, options),
            desc="Tokenizing",
        )
        for row_id, outcome in zip(read["id"], part["outcome"], strict=True):
            rows.outcomes[outcome] += 1
            if outcome != "dropped":
                rows.ids.append(row_id)
        parts.append(part.filter(lambda outcome: outcome != "dropped", input_columns="outcome"))
        start, missing = stop, missing - len(parts[-1])
    rows.dataset = concatenate_datasets(parts).remove_columns("outcome")
    return rows


def build_cache_key(rows: Dataset, options: dict) -> str:
    """The key of tokenized rows in datasets' cache. It covers this file, of which datasets sees only a name."""
    return Hasher.hash([rows._fingerprint, hash_file(Path(__file__)), options])


def tokenize(
    batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int, long_rows: str
) -> dict[str, list]:
    """
    Turns `prompt` and `completion` into `input_ids` and `labels`; a row that is dropped comes out empty.

    Labels are -100 on the prompt and the token ids on the completion, its end tag included. TRL would build the same
    labels row by row, but would cut the end tag off long rows and train on what is left.

    Raises:
        UserError: where the tokens of a prompt are not the first tokens of prompt and completion together.
    """
    rows = {"input_ids": [], "labels": [], "length": [], "outcome": []}
    prompts = tokenizer(batch["prompt"])["input_ids"]
    texts = [prompt + completion for prompt, completion in zip(batch["prompt"], batch["completion"], strict=True)]
    for i, ids in enumerate(tokenizer(texts)["input_ids"]):
        outcome, prompt = "complete", prompts[i]
        if len(ids) > max_length:
            pair = batch["prompt"][i], batch["completion"][i]
            ids = shorten(*pair, tokenizer, max_length) if long_rows == "shorten" else []
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
    """Token ids of `prompt`, the complete sentences of `completion` that fit, and the end tag; empty if none fits."""
    text = completion.removesuffix(END_TAG)
    for end in reversed([match.end() for match in SENTENCE_END.finditer(text)]):
        ids = tokenizer(prompt + text[:end] + END_TAG)["input_ids"]
        if len(ids) <= max_length:
            return ids
    return []
