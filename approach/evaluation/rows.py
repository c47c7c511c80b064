"""The dataset's rows that an evaluation is about: those to draft for, and those that a system may look at."""

import random
from dataclasses import dataclass

from approach.dataset import load_split
from approach.errors import UserError

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


@dataclass(frozen=True)
class Selection:
    """Which rows of a split are scored: of a part of it by id, the first ones or a draw."""

    split: str
    num_examples: int
    id_range: tuple[float, float] = (0.0, 1.0)  # the part of the split, in the order of the ids
    draw_seed: int | None = None  # None: the first by id

    def take(self, rows: list[dict]) -> list[dict]:
        """The chosen ones of a split's rows, by id: the same for every system, whatever the file's order."""
        begin, end = (round(share * len(rows)) for share in self.id_range)
        part = sorted(rows, key=lambda row: row["id"])[begin:end]
        if self.draw_seed is None:
            return part[: self.num_examples]
        drawn = random.Random(self.draw_seed).sample(range(len(part)), min(self.num_examples, len(part)))
        return [part[i] for i in sorted(drawn)]


def load_problems(dataset_name: str, revision: str | None, selection: Selection, num_validation: int) -> Problems:
    """The selected rows, and what goes with them; raises UserError on failure."""
    rows = selection.take(load_rows(dataset_name, revision, selection.split))
    if not rows:
        raise UserError(
            f"--dataset_name {dataset_name}: its {selection.split} split has no row in that part of its ids"
        )
    train = load_rows(dataset_name, revision, "train")
    chosen_on = Selection("validation", num_validation, draw_seed=selection.draw_seed)
    rng = random.Random(0)
    return Problems(
        rows=rows,
        validation=chosen_on.take(load_rows(dataset_name, revision, chosen_on.split)),
        train=train,
        examples=rng.sample(train, min(NUM_EXAMPLES_SHOWN, len(train))),
        random_train=[rng.choice(train) for _ in rows],
    )


def load_rows(dataset_name: str, revision: str | None, split: str) -> list[dict]:
    """All rows of a split in the dataset's order; raises UserError where it is no dataset of pairs."""
    return load_split(dataset_name, split, COLUMNS, revision).to_list()
