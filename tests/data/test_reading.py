import gzip
import json
import random
from datetime import date

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import make_abstract, write_jsonl
from datasets import load_dataset

from approach.data import processes
from approach.data.arguments import DatasetArguments
from approach.data.pair_rules import SENTENCE_RULES
from approach.data.pairs import build_rows
from approach.data.reading import Columns
from approach.errors import UserError
from approach.storage import read_json
from prepare_dataset import PrepareArguments, main

COLUMNS = {"year_column": "year", "test_from_year": 2030}


def make_rows(number: int = 30, **more) -> list[dict]:
    rng = random.Random(0)
    return [{"id": f"row-{i}", "abstract": make_abstract(rng), **more} for i in range(number)]


def prepare(source, output_dir, **arguments) -> tuple[dict, dict]:
    """The rows of all splits by id, and the report."""
    main(PrepareArguments(dataset_name=str(source), output_dir=str(output_dir), num_proc=1, **arguments))
    rows = [row for split in load_dataset(str(output_dir)).values() for row in split]
    return {row["id"]: row for row in rows}, read_json(output_dir / "build_report.json")


def fails(source, tmp_path, **arguments) -> str:
    """The one line in which a source that cannot be read ends; nothing is written."""
    with pytest.raises(UserError) as ended:
        prepare(source, tmp_path / "pairs", **arguments)
    assert not (tmp_path / "pairs").exists()
    assert "\n" not in str(ended.value) and str(source) in str(ended.value)
    return str(ended.value)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "jsonl.gz"])
def test_an_empty_file_is_named(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(b"") if ending.endswith("gz") else b"")
    assert "there is no row in it" in fails(path, tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"\n\n", b"id,abstract\n"])
def test_a_file_without_rows_is_named(tmp_path, content):
    path = tmp_path / ("a.csv" if b"," in content else "a.json")
    path.write_bytes(content)
    assert "there is no row in it" in fails(path, tmp_path)


def test_a_parquet_file_without_rows_is_named(tmp_path):
    pa.parquet.write_table(pa.table({"abstract": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "there is no row in it" in fails(tmp_path / "a.parquet", tmp_path)


@pytest.mark.parametrize("cut", [20, 2000])
def test_a_packed_file_that_ends_too_early_is_named(tmp_path, cut):
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in make_rows()).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[:cut])
    assert "a.jsonl.gz is damaged" in fails(tmp_path / "a.jsonl.gz", tmp_path)
    (tmp_path / "b.jsonl.gz").write_bytes(data[:100] + b"\xff" * 100 + data[200:])
    assert "b.jsonl.gz is damaged" in fails(tmp_path / "b.jsonl.gz", tmp_path)
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip at all")
    assert "c.jsonl.gz is damaged" in fails(tmp_path / "c.jsonl.gz", tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist(make_rows()), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    for damaged in (data[:-50], b"PAR1", data[:200] + b"\0" * 400 + data[600:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        assert "a.parquet is damaged" in fails(tmp_path / "a.parquet", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-16-be"])
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_other_encodings_than_utf_8_are_named(tmp_path, ending, encoding):
    text = "id,abstract\n1,text\n" if ending == "csv" else json.dumps(make_rows(1)[0]) + "\n"
    (tmp_path / f"a.{ending}").write_bytes(text.encode(encoding))
    assert "save it as UTF-8" in fails(tmp_path / f"a.{ending}", tmp_path)


def test_the_mark_that_some_editors_put_before_utf_8_is_no_text(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", make_rows())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "row-0" in prepare(path, tmp_path / "pairs")[0]


def test_ids_and_years_are_kept_as_they_are_written(tmp_path):
    ids = ["9007199254740993", "123456789012345678901234567890", "704.0270", '"2020-01-01"', '"true"']
    years = ['"2021-05-01"', "2022", "2023.0", '"2031-01-01"', '"2032"']
    lines = [
        f'{{"id": {row_id}, "year": {year}, "abstract": {json.dumps(row["abstract"])}}}\n'
        for row, row_id, year in zip(make_rows(5), ids, years, strict=True)
    ]
    (tmp_path / "a.jsonl").write_text("".join(lines), encoding="utf-8")
    found, report = prepare(tmp_path / "a.jsonl", tmp_path / "pairs", **COLUMNS)
    assert found.keys() == {row_id.strip('"') for row_id in ids}
    assert report["splits"]["test"] == 2 and report["funnel"]["no_year"] == 0


def test_dates_and_large_numbers_of_parquet_are_ids_and_years(tmp_path):
    rows = [{**row, "id": 2**53 + 2 * i + 1, "year": date(2026 + i, 1, 1)} for i, row in enumerate(make_rows(6))]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found, report = prepare(tmp_path / "a.parquet", tmp_path / "pairs", **COLUMNS)
    assert "9007199254740993" in found and report["splits"]["test"] == 2


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_an_id_that_is_no_id_is_named_with_its_line(tmp_path, value):
    rows = make_rows()
    rows[6]["id"] = value
    assert "a.jsonl, line 7: id is a" in fails(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path)


def test_rows_without_id_among_others_get_one(tmp_path):
    rows = make_rows(4)
    rows[1]["id"], rows[2]["id"] = None, ""
    del rows[3]["id"]
    found, report = prepare(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "pairs")
    assert len(found) == 4 and "row-0" in found and report["repeated_ids"] == 0


def test_ids_that_come_again_are_counted_and_told_apart(tmp_path, capsys):
    rows = make_rows(5)
    for row, row_id in zip(rows, ["a", "a", "a-2", "a", "b"], strict=True):
        row["id"] = row_id
    found, report = prepare(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "pairs")
    assert found.keys() == {"a", "a-3", "a-2", "a-4", "b"} and report["repeated_ids"] == 2
    assert "2 rows have the id of a row before" in capsys.readouterr().out


def test_lists_within_lists_and_numbers_are_no_text(tmp_path):
    rows = make_rows(4)
    rows[1]["abstract"], rows[2]["abstract"], rows[3]["abstract"] = [["a", "b"], ["c"]], 7, {"text": "a"}
    found, report = prepare(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "pairs")
    assert len(found) == 1 and report["funnel"]["no_text"] == 3


def test_a_list_of_sentences_among_texts_is_named(tmp_path):
    rows = make_rows()
    rows[3]["abstract"] = rows[3]["abstract"].split("\n")
    assert "line 4: abstract is a list, where" in fails(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path)


def test_half_a_character_is_no_text_to_train_on(tmp_path):
    rows = make_rows(3)
    rows[1]["abstract"] += " \ud800"
    assert prepare(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "pairs")[1]["funnel"]["invalid_text"] == 1


@pytest.mark.parametrize("line", ["{", "3", "[1", '{"abstract": ' + "[" * 100_000])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = write_jsonl(tmp_path / "a.jsonl", make_rows(3))
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert "a.jsonl, line 4" in fails(path, tmp_path)


def write_csv(path, rows, quote: str = "") -> None:
    lines = [f"{row['id']},{quote}{row['abstract'].replace(chr(10), ' ')}{quote}" for row in rows]
    path.write_text("\n".join(["id,abstract", *lines]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_stray_quotation_mark_in_a_csv_swallows_no_rows(tmp_path, quote):
    path = tmp_path / "a.csv"
    write_csv(path, make_rows(), quote)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[15] = lines[15].replace(",", ',"', 1) if not quote else lines[15].replace(" ", ' " ', 1)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert "in the row that begins in line 16, a quotation mark" in fails(path, tmp_path)


def test_two_stray_quotation_marks_are_seen_in_the_count_of_lines(tmp_path, capsys):
    path = tmp_path / "a.csv"
    write_csv(path, make_rows())
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[5], lines[20] = lines[5].replace(",", ',"', 1), lines[20] + '"'
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _, report = prepare(path, tmp_path / "pairs")
    assert report["csv"] == {"lines": 30, "rows": 15, "rows_of_several_lines": 1}
    assert "15 rows from 30 lines, 1 of them of several lines each" in capsys.readouterr().out


def test_a_row_of_too_many_cells_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,abstract\n1,one\n2,one, two\n", encoding="utf-8")
    assert "a.csv, line 3: 3 cells, where the header has 2" in fails(tmp_path / "a.csv", tmp_path)


@pytest.mark.parametrize("rule", sorted(SENTENCE_RULES))
def test_an_empty_text_has_no_sentence(rule):
    assert [sentence for sentence in SENTENCE_RULES[rule](" \n ") if sentence] == []


def test_several_processes_tell_of_a_row_that_cannot_be_used_and_leave_none_running(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MIN_ROWS", 10)
    rows = [{**row, "id": [row["id"]]} for row in make_rows()]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    source = load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train")
    options = {"columns": Columns(id="id"), "args": DatasetArguments()}
    with pytest.raises(ValueError, match="is no id: a text or a number was expected"):
        processes.map_rows(source, build_rows, 2, "Cutting", **options)
