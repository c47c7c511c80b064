"""Files as databases and reference managers export them."""

import gzip
import json
import random

import pyarrow.parquet as pq
import pytest
from conftest import make_abstract, write_jsonl

from approach.dataset import load_split
from approach.errors import UserError
from prepare_dataset import main, parse_arguments


def read_pairs(folder) -> dict[str, str]:
    rows = [row for path in sorted(folder.glob("data/*")) for row in pq.read_table(path).to_pylist()]
    return {row["id"]: row["problem"] for row in rows}


def prepare(path, folder, *flags) -> dict[str, str]:
    main(parse_arguments(["--dataset_name", str(path), "--output_dir", str(folder / "pairs"), "--overwrite", *flags]))
    return read_pairs(folder / "pairs")


def fails(path, folder, *flags) -> str:
    with pytest.raises(UserError) as error:
        prepare(path, folder, *flags)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def rng():
    return random.Random(0)


@pytest.fixture
def texts(rng) -> dict[str, str]:
    return {f"t{i}": make_abstract(rng).replace("\n", " ") for i in range(4)}


def first(texts: dict[str, str]) -> dict[str, str]:
    return {name: text[: text.index(".") + 1] for name, text in texts.items()}


@pytest.mark.parametrize(
    ("name", "delimiter", "before"),
    [
        ("a.csv", ";", ""),
        ("a.csv", "\t", ""),
        ("a.tsv", "\t", ""),
        ("a.csv", ",", "\ufeff"),
        ("a.csv", ";", "sep=;\n"),
        ("a.csv", ";", '\ufeff"sep=;"\r\n'),
        ("a.tsv.gz", "\t", ""),
        ("a.CSV", ",", ""),
    ],
)
def test_csv_as_programs_write_it(tmp_path, texts, name, delimiter, before):
    lines = [delimiter.join(("id", "title", "abstract"))]
    lines += [delimiter.join((key, '"A; b, c"', f'"{text}"')) for key, text in texts.items()]
    data = (before + "\n".join(lines) + "\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert prepare(tmp_path / name, tmp_path) == first(texts)


def test_a_wrong_row_of_such_a_file_is_named_by_its_line(tmp_path, texts):
    (tmp_path / "a.csv").write_text("sep=;\nid;abstract\na;b\nc;d;e\n", encoding="utf-8")
    assert "a.csv, line 4: 3 cells, where the header has 2" in fails(tmp_path / "a.csv", tmp_path)


def test_two_columns_of_one_name_are_refused_where_they_matter(tmp_path, texts):
    (tmp_path / "a.csv").write_text("id,abstract,abstract\na,b,c\n", encoding="utf-8")
    assert "a.csv: 2 columns are called abstract: rename all but one" in fails(tmp_path / "a.csv", tmp_path)
    rows = "".join(f'{key},x,y,"{text}"\n' for key, text in texts.items())
    (tmp_path / "b.csv").write_text(f"id,note,note,abstract\n{rows}", encoding="utf-8")
    assert prepare(tmp_path / "b.csv", tmp_path) == first(texts)


def test_a_folder_is_read_with_its_subfolders_and_what_is_skipped_is_named(tmp_path, texts, capsys):
    folder = tmp_path / "in"
    (folder / "deep" / "er").mkdir(parents=True)
    parts = [[{"id": key, "abstract": text}] for key, text in texts.items()]
    write_jsonl(folder / "a.ndjson", parts[0])
    (folder / "deep" / "b.json.gz").write_bytes(gzip.compress(json.dumps(parts[1], indent=2).encode()))
    (folder / "deep" / "er" / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(parts[2][0]).encode()))
    (folder / "d.tsv").write_text(f"id\tabstract\nt3\t{texts['t3']}\n", encoding="utf-8")
    (folder / "notes.txt").write_text("nothing", encoding="utf-8")
    assert prepare(folder, tmp_path) == first(texts)
    assert "1 files are skipped, which are no abstracts: notes.txt" in capsys.readouterr().out


def test_references_in_ris(tmp_path, texts):
    entries = [
        f"TY  - JOUR\r\nTI  - A title\r\nAU  - Doe, J.\r\nPY  - 2021\r\nDO  - {key}\r\nAB  - {text}\r\nER  - \r\n"
        for key, text in texts.items()
    ]
    (tmp_path / "a.ris").write_text("\r\n".join(entries), encoding="utf-8-sig", newline="")
    assert prepare(tmp_path / "a.ris", tmp_path) == first(texts)
    (tmp_path / "a.ris").write_text("TY  - JOUR\nAB  - no end\nTY  - JOUR\n", encoding="utf-8")
    assert "a.ris" in fails(tmp_path / "a.ris", tmp_path)


def test_references_in_bibtex_with_latex_in_them(tmp_path, texts):
    entries = [
        f"@article{{{key},\n  title = {{{{A {{T}}itle}}}},\n  year = 2020,\n  Abstract = {{{text}}}\n}}\n"
        for key, text in texts.items()
    ]
    entries[0] = entries[0].replace("Abstract = {", 'abstract = {Erd\\H{o}s and M{\\"u}ller use {LSTM}s. ')
    (tmp_path / "a.bib").write_text("@comment{x}\n" + "\n".join(entries), encoding="utf-8")
    found = prepare(tmp_path / "a.bib", tmp_path)
    assert found["t0"] == "Erdős and Müller use LSTMs." and {**found, "t0": ""} == {**first(texts), "t0": ""}
    (tmp_path / "b.bib").write_text("@article{broken, title = {", encoding="utf-8")
    assert "b.bib" in fails(tmp_path / "b.bib", tmp_path)


@pytest.mark.parametrize("as_text", [False, True])
def test_openalexs_inverted_index_is_read_as_the_text_it_is_of(tmp_path, texts, as_text):
    rows = []
    for key, text in texts.items():
        index = {}
        for place, word in enumerate(text.split()):
            index.setdefault(word, []).append(place)
        rows.append({"id": key, "abstract_inverted_index": json.dumps(index) if as_text else index})
    path = write_jsonl(tmp_path / "works.jsonl", rows)
    assert prepare(path, tmp_path) == first(texts)
    assert prepare(path, tmp_path, "--abstract_column", "abstract_inverted_index") == first(texts)
    message = fails(path, tmp_path, "--abstract_column", "id", "--id_column", "abstract_inverted_index")
    assert (
        as_text
        or "abstract_inverted_index is an inverted index of an abstract: name it with --abstract_column" in message
    )


@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_of_a_web_service_is_no_list_of_rows(tmp_path, indent):
    page = {"meta": {"count": 2}, "results": [{"id": "a", "abstract": "x"}, {"id": "b", "abstract": "y"}]}
    (tmp_path / "page.json").write_text(json.dumps(page, indent=indent), encoding="utf-8")
    message = fails(tmp_path / "page.json", tmp_path)
    assert "meta, results" in message and ("no list of rows" in message or "no column abstract" in message)


def test_a_pretty_printed_list_that_holds_no_rows_is_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["a", "b"], indent=2), encoding="utf-8")
    assert "a.json, row 1: an object with names and values was expected" in fails(tmp_path / "a.json", tmp_path)


def test_a_file_of_abstracts_is_no_dataset_of_pairs(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"abstract": "a"}])
    with pytest.raises(
        UserError, match="x.jsonl is no dataset of pairs: run prepare_dataset.py --dataset_name .*first"
    ):
        load_split(str(path), "train", ["problem"])
