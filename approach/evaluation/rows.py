"""The dataset's rows that an evaluation is about: those to draft for, and those that a system may look at."""

import random
from dataclasses import dataclass

from approach.dataset import load_split

NUM_EXAMPLES_SHOWN = 2
COLUMNS = ("id", "problem", "approach", "prompt")


@dataclass(frozen=True)
class Problems:
    """The rows to draft for, the rows on which a base is chosen, and the training rows with two draws from them."""

    rows: list[dict]
    validation: list[dict]
    train: list[dict]
    examples: list[dict]  # two training rows, shown to a base that is asked with examples
    random_train: list[dict]  # a training row, drawn for each row


def load_problems(
    dataset_name: str, revision: str | None, split: str, num_examples: int, num_validation: int
) -> Problems:
    """The first `num_examples` rows of `split` by id, and what goes with them; ends with one line on failure."""
    rows = load_first_rows(dataset_name, revision, split, num_examples)
    train = load_rows(dataset_name, revision, "train")
    rng = random.Random(0)
    return Problems(
        rows=rows,
        validation=load_first_rows(dataset_name, revision, "validation", num_validation),
        train=train,
        examples=rng.sample(train, min(NUM_EXAMPLES_SHOWN, len(train))),
        random_train=[rng.choice(train) for _ in rows],
    )


def load_first_rows(dataset_name: str, revision: str | None, split: str, number: int) -> list[dict]:
    """The first rows of a split by id: the same for every system and in every run, whatever the file's order."""
    return sorted(load_rows(dataset_name, revision, split), key=lambda row: row["id"])[:number]


def load_rows(dataset_name: str, revision: str | None, split: str) -> list[dict]:
    """All rows of a split in the dataset's order; ends with one line where it is no dataset of pairs."""
    return load_split(dataset_name, split, COLUMNS, revision).to_list()
