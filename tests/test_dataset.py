"""A dataset that later stages cannot use is named in one line, whatever is wrong with it."""

import shutil

import pyarrow as pa
import pyarrow.parquet
import pytest

from approach.dataset import load_split
from approach.errors import UserError

COLUMNS = ("id", "problem", "prompt", "completion")
ROWS = [{name: f"{name} {i}" for name in COLUMNS} for i in range(3)]


def write(folder, rows: list[dict] | pa.Table, split: str = "train"):
    folder.mkdir(exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pa.parquet.write_table(table, folder / f"{split}.parquet")
    return folder


def fails(folder, split: str = "train") -> str:
    with pytest.raises(UserError) as ended:
        load_split(str(folder), split, COLUMNS)
    assert str(ended.value).startswith(f"--dataset_name {folder}") and "\n" not in str(ended.value)
    return str(ended.value)


def test_a_split_is_loaded_with_its_ids_as_texts(tmp_path):
    folder = write(tmp_path / "a", [{**row, "id": 2**53 + i} for i, row in enumerate(ROWS)])
    assert load_split(str(folder), "train", COLUMNS)["id"][:] == [str(2**53 + i) for i in range(3)]


def test_a_split_without_rows_is_named(tmp_path):
    empty = pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
    assert "its split train has no row" in fails(write(tmp_path / "a", empty))
    write(tmp_path / "b", ROWS)
    assert "its split test has no row" in fails(write(tmp_path / "b", empty, "test"), "test")


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    message = fails(write(tmp_path / "a", ROWS), "test")
    assert "test" in message and "train" in message


def test_damaged_files_and_empty_folders_are_named(tmp_path):
    folder = write(tmp_path / "a", ROWS)
    data = (folder / "train.parquet").read_bytes()
    for number, damaged in enumerate((b"", data[:-30], data[:60] + b"\0" * 100 + data[160:])):
        copy = shutil.copytree(folder, tmp_path / f"damaged-{number}")
        (copy / "train.parquet").write_bytes(damaged)
        fails(copy)
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty")


def test_columns_that_are_missing_hold_no_texts_or_have_gaps_are_named(tmp_path):
    few = write(tmp_path / "few", [{"id": "a", "problem": "b"}])
    assert "no column completion, prompt; build it with prepare_dataset.py" in fails(few)
    lists = write(tmp_path / "lists", [{**row, "problem": ["a", "b"]} for row in ROWS])
    assert "the column problem holds no texts" in fails(lists)
    gaps = write(tmp_path / "gaps", [ROWS[0], {**ROWS[1], "prompt": None}])
    assert "row 1 has no prompt" in fails(gaps)
