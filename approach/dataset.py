"""One loader for the splits of pairs that `prepare_dataset.py` writes, of which later stages use some columns."""

from collections.abc import Collection
from pathlib import Path

from datasets import Dataset, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from approach.errors import UserError, explain_error, first_line

# What datasets and pyarrow say of a file without rows.
NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")


def load_split(
    name: str | None, split: str, columns: Collection[str], revision: str | None = None, config: str | None = None
) -> Dataset:
    """
    One split of a dataset of pairs, a folder or a Hub id; `columns` are texts in it, ids that are numbers included.

    Raises UserError that names it where it cannot be read, or has no row, or not the columns, or a row without one.
    """
    if name is not None and Path(name).is_file():
        raise UserError(
            f"--dataset_name {name} is no dataset of pairs: run prepare_dataset.py --dataset_name {name} first"
        )
    if name is None:
        raise UserError("--dataset_name is missing: a folder that prepare_dataset.py wrote, or a dataset's Hub id")
    try:
        rows = load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # of damaged files there are many
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        has_no_row = any(words in str(cause) for words in NO_ROWS)
        reason = f"its split {split} has no row" if has_no_row else explain_error(cause)
        raise UserError(f"--dataset_name {name}: {reason}") from error
    if missing := sorted(set(columns) - set(rows.column_names)):
        raise UserError(f"--dataset_name {name}: no column {', '.join(missing)}; build it with prepare_dataset.py")
    if not len(rows):
        raise UserError(f"--dataset_name {name}: its split {split} has no row")
    for column in columns:
        rows = with_texts(rows, column, f"--dataset_name {name}: in its split {split}")
    return rows


def with_texts(rows: Dataset, column: str, place: str) -> Dataset:
    """The rows with a column as texts; raises UserError that begins with `place` where one of them has none."""
    if rows.features[column] != Value("string"):
        try:
            rows = rows.cast_column(column, Value("string"))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UserError(f"{place} the column {column} holds no texts: {first_line(error)}") from error
    values = rows.data.column(column)
    if values.null_count:
        raise UserError(f"{place} row {values.is_null().to_pylist().index(True)} has no {column}")
    return rows
