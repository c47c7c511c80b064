"""The dataset's rows: how many a run takes of a split, and what its record says of them."""

import hashlib
from dataclasses import dataclass

from datasets import Dataset

from approach.errors import UserError
from approach.training.tokenization import Rows

COLUMNS = ("id", "problem", "prompt", "completion")


@dataclass(frozen=True)
class Pairs:
    """
    What a run takes of a dataset: tokenized rows, the problems to draft for, and the record of the rows.

    `epoch_steps` is how many steps an epoch of the whole split would take.
    """

    train: Dataset
    validation: Dataset | None
    problems: list[dict]
    record: dict
    epoch_steps: float


def count_rows(split_rows: int, train_fraction: float, max_steps: int, step_rows: int) -> int:
    """How many rows of the split a run takes: its share of them, and no more than its steps have room for."""
    num_rows = max(1, int(split_rows * train_fraction))
    return min(num_rows, max_steps * step_rows) if max_steps > 0 else num_rows


def require_rows(rows: Rows, num_rows: int, max_length: int) -> None:
    """Raises UserError where not one row fits."""
    if not len(rows.dataset):
        raise UserError(
            f"no row to train on: of {num_rows:,}, {rows.outcomes['dropped']:,} do not fit in {max_length}"
        )


def describe_rows(rows: Rows, split_rows: int, seed: int) -> dict:
    """
    What `run.json` says of the rows: a hash of their tokens, how many there are, and which ones.

    `ids` are those of the rows trained on, in the order of the split shuffled with `seed`; None for every row of the
    split, because a list of them all would say nothing.
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


def print_arithmetic(
    rows: Rows, split_rows: int, batch_rows: int, step_rows: int, epochs: float, max_length: int
) -> None:
    """Prints how many rows make a step, of batches of `batch_rows`, and how many there are."""
    print(f"{batch_rows} × {step_rows // batch_rows} = {step_rows} rows a step")
    print(f"{len(rows.dataset):,} different rows of {split_rows:,}, {epochs:.2f} epochs")
    print(f"of the rows read, at {max_length} tokens: {rows.outcomes}")
