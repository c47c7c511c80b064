"""
Files of abstracts as rows: each value as it is written, and the file and line of what cannot be read.

Dates and categories are parsed here, those of arXiv's metadata included. A snapshot of it
(https://www.kaggle.com/datasets/Cornell-University/arxiv) has `categories` as "cs.CL cs.LG" and `versions` as
`[{"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"}, …]`; its `update_date` is that of the last version.
"""

import csv
import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from email.utils import parsedate
from itertools import chain, islice
from pathlib import Path
from typing import IO, NoReturn

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import get_temporary_cache_files_directory
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from approach.data.exports import decode_text, is_inverted_index, read_bibtex, read_ris
from approach.errors import first_line

SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no file can hold
OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 and UTF-32 begin
BATCH_ROWS = 1000
MAX_NAMES = 5  # of an object that are named in a message
# By a file's ending, which may be followed by ".gz".
FILE_FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".ris": "ris",
    ".bib": "bibtex",
}
MAX_CELL = 2**31 - 1  # characters; more than csv's own 131,072, and what it can take on Windows

Rows = Iterator[tuple[str, dict]]  # where a row stands, for messages ("a.csv, line 3"), and its values


@dataclass(frozen=True)
class Columns:
    """Which columns of a source hold what."""

    abstract: str = "abstract"
    problem: str | None = None  # with `approach`: ready-made pairs, and no abstract to cut
    approach: str | None = None
    id: str | None = None
    year: str | None = None
    category: str | None = None  # arXiv's categories

    @property
    def texts(self) -> list[str]:
        """The columns that problem and approach come from."""
        return [self.problem, self.approach] if self.problem else [self.abstract]

    @property
    def wanted(self) -> list[str]:
        """All columns to read, each once."""
        return list(dict.fromkeys(name for name in (*self.texts, self.id, self.year, self.category) if name))


@dataclass(frozen=True)
class CsvLines:
    """How the lines of CSV files became rows, which shows a stray quotation mark that joins rows."""

    lines: int
    rows: int
    rows_of_several_lines: int


def file_format(path: str) -> str | None:
    """How `path` is read, by its ending; None for an ending that we do not read."""
    return FILE_FORMATS.get(Path(path.lower().removesuffix(".gz")).suffix)


def build_dataset(paths: Sequence[str], columns: Columns) -> Dataset:
    """
    The wanted columns of all rows: texts or lists of sentences, lists of categories, the others as they are written.

    What is no text in a column of texts is None. Raises ValueError and OSError with file and line where a row cannot
    be read.
    """
    lists = {columns.category, *(name for name in columns.texts if holds_lists(paths, name))}
    types = {name: List(Value("string")) if name in lists else Value("string") for name in columns.wanted}
    # Tuples, because datasets would make shards of lists.
    options = {"paths": tuple(paths), "columns": columns, "lists": tuple(lists)}
    try:
        # In a folder of its own: datasets would take the rows of files that have changed since for these.
        folder = tempfile.mkdtemp(dir=get_temporary_cache_files_directory())
        return Dataset.from_generator(generate_rows, features=Features(types), gen_kwargs=options, cache_dir=folder)
    except DatasetGenerationError as error:
        raise ValueError(first_line(error.__cause__ or error)) from error


def find_names(paths: Sequence[str]) -> list[str]:
    """The names of the columns, by the first thousand rows of each format; raises ValueError where there is no row."""
    names: list[str] = []
    for kind in dict.fromkeys(map(file_format, paths)):
        of_kind = [path for path in paths if file_format(path) == kind]
        if kind == "parquet":
            tables = [read_schema(path) for path in of_kind]
            names += [name for columns, num_rows in tables if num_rows for name in columns]
        else:
            rows = (row for path in of_kind for _, row in read_file(path))
            names += [name for row in islice(rows, BATCH_ROWS) for name in row]
    if not names:
        raise ValueError("there is no row in it")
    return list(dict.fromkeys(names))


def holds_lists(paths: Sequence[str], name: str) -> bool:
    """Whether the first row that has a value in a column has a list of sentences there."""
    values = (decode_text(row.get(name)) for path in paths for _, row in read_file(path, [name]))
    return isinstance(next((value for value in values if value not in (None, "")), None), list)


def generate_rows(paths: Sequence[str], columns: Columns, lists: Sequence[str]) -> Iterator[dict]:
    """The rows of all files as `build_dataset` stores them."""
    for path in paths:
        for place, row in read_file(path, columns.wanted):
            values = {}
            for name in columns.wanted:
                value = row.get(name)
                if name in columns.texts:
                    values[name] = parse_text(value, place, name, name in lists)
                elif name == columns.category:
                    values[name] = [replace_surrogates(category) for category in parse_categories(value)]
                else:
                    values[name] = parse_scalar(value, place, name)
            yield values


def parse_text(value: object, place: str, name: str, as_list: bool) -> str | list[str | None] | None:
    """A text, or a list of sentences where the column holds those; None for what is neither."""
    value = decode_text(value)
    if isinstance(value, list) and not all(part is None or isinstance(part, str) for part in value):
        return None  # lists within a list, say
    if not isinstance(value, str | list) or value == "":
        return None
    if isinstance(value, list) != as_list:
        kinds = ("a list", "texts") if isinstance(value, list) else ("a text", "lists")
        raise ValueError(f"{place}: {name} is {kinds[0]}, where the rows before have {kinds[1]}")
    return [part and replace_surrogates(part) for part in value] if as_list else replace_surrogates(value)


def parse_scalar(value: object, place: str, name: str) -> str | None:
    """An id, a year or a date as it is written; raises ValueError where it is something else."""
    value = first_version_date(value)
    if is_inverted_index(value):
        raise ValueError(f"{place}: {name} is an inverted index of an abstract: name it with --abstract_column {name}")
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"{place}: {name} is {name_kind(value)}, where a text or a number was expected")
    return None if value is None or value == "" else replace_surrogates(str(value))


def first_version_date(value: object) -> object:
    """The date of the first of arXiv's versions, as it is written there; any other value as it is."""
    first = value[0] if isinstance(value, list) and value else None
    return first["created"] if isinstance(first, dict) and "created" in first else value


def parse_year(value: object) -> int | None:
    """
    The year in `2023`, `"2023-05-01"`, `Mon, 1 May 2023 10:00:00 GMT`, or the `2023.0` of a CSV column with gaps.

    None where there is no year.
    """
    match = re.match(r"\d{4}(?!\d)", str(value))
    date = None if match else parsedate(str(value))
    return int(match[0]) if match else date and date[0]


def parse_categories(value: object) -> list[str]:
    """An abstract's arXiv categories, the primary one first, from a text or a list of names."""
    names = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return [str(name) for name in names if name]


def replace_surrogates(text: str) -> str:
    """A text with U+FFFD for halves of characters, so that `build_pair` drops the row as invalid text."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def name_kind(value: object) -> str:
    """The kind of a JSON value in words."""
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "no text"


def read_file(path: str, names: Sequence[str] = ()) -> Rows:
    """The rows of one file, of Parquet these columns alone; raises ValueError and OSError that say where it fails."""
    name, kind = Path(path).name, file_format(path)
    with damaged_file_errors(name):
        if kind == "parquet":
            yield from read_parquet(path, name, names)
            return
        with open_text(path) as file:
            if kind == "csv":
                yield from read_csv(file, name, names)
            elif kind == "json":
                yield from read_json_rows(file, name)
            else:
                yield from read_references(file, name, read_ris if kind == "ris" else read_bibtex)


def read_references(file: IO[str], name: str, read: Callable[[IO[str]], Iterator[dict]]) -> Rows:
    """The rows of a file of references; raises ValueError that names it where it cannot be read."""
    try:
        for number, row in enumerate(read(file), start=1):
            yield f"{name}, reference {number}", row
    except ValueError as error:
        raise ValueError(f"{name} {first_line(error)}") from error


@contextmanager
def damaged_file_errors(name: str) -> Iterator[None]:
    """Turns the errors of a damaged archive or Parquet file into a ValueError that names it."""
    try:
        yield
    except (EOFError, zlib.error, OSError, ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the system, which names the file
        raise ValueError(f"{name} is damaged, fetch it or pack it again: {first_line(error)}") from error


def open_text(path: str) -> IO[str]:
    """A file, packed or not, as text in UTF-8; raises ValueError where it begins as UTF-16 does."""
    opened = gzip.open if path.lower().endswith(".gz") else open
    with opened(path, "rb") as file:
        begin = file.read(4)
    if begin.startswith(OTHER_ENCODINGS) or b"\0" in begin:
        raise ValueError(f"{Path(path).name} is in UTF-16 or UTF-32: save it as UTF-8")
    # What is not UTF-8 becomes U+FFFD, so that build_pair drops the row as invalid text.
    return opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="")


def read_json_rows(file: IO[str], name: str) -> Rows:
    """
    JSON lines, or one list of objects; numbers stay as they are written (`0704.0270` would lose its zero).

    Raises:
        ValueError: where a row is no object, or the file is one object and not a list of rows.
    """
    first = True
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            rows = parse_json(line + file.read(), name)
            places = (f"{name}, row {number}" for number in range(1, len(rows) + 1))
            yield from ((place, check_object(row, place)) for place, row in zip(places, rows, strict=True))
            return
        place = f"{name}, line {number}"
        try:
            row = parse_json(line, place)
        except ValueError:
            if not first or not line.lstrip().startswith("{"):
                raise
            raise_no_rows(parse_json(line + file.read(), name), name)  # one object over several lines
        first = False
        yield place, check_object(row, place)


def raise_no_rows(value: object, name: str) -> NoReturn:
    """Raises ValueError that says what a file is that is one object over several lines."""
    names = ", ".join(list(value)[:MAX_NAMES]) if isinstance(value, dict) else ""
    raise ValueError(
        f"{name} is one object ({names}) and no list of rows: save the list of rows alone, or a row a line"
    )


def parse_json(text: str, place: str) -> object:
    """A JSON value; raises ValueError that says where it is none."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} cannot be read as JSON: {first_line(error)}") from error


def check_object(value: object, place: str) -> dict:
    """A row of JSON; raises ValueError where it is no object."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: an object with names and values was expected")
    return value


def open_csv(file: IO[str], strict: bool) -> tuple[Iterator[list[str]], int]:
    """
    A reader of CSV whose header is split by commas, semicolons or tabs, and how many lines were read before it.

    A first line such as `sep=;`, which Excel writes, is skipped.
    """
    csv.field_size_limit(MAX_CELL)
    first, skipped, delimiters = file.readline(), 0, ",;\t"
    if match := re.fullmatch(r"\"?sep=(.)\"?", first.strip("\r\n")):
        first, skipped, delimiters = file.readline(), 1, match[1]
    # The first of those that give the most cells.
    delimiter = max(delimiters, key=lambda each: len(next(csv.reader([first], delimiter=each), [])))
    return csv.reader(chain([first], file), delimiter=delimiter, strict=strict), skipped


def read_csv(file: IO[str], name: str, names: Sequence[str]) -> Rows:
    """
    Rows of CSV with a header.

    Raises:
        ValueError: at a stray quotation mark, a row too long or too short, or a wanted column that is there twice.
    """
    (reader, skipped), header = open_csv(file, strict=True), None
    while True:
        begin = reader.line_num + skipped + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{name}: in the row that begins in line {begin}, a quotation mark is not closed or not doubled "
                f"({error})"
            ) from error
        if cells is None:
            return
        if header is None:
            header = cells
            if twice := [column for column in names if header.count(column) > 1]:
                raise ValueError(f"{name}: {header.count(twice[0])} columns are called {twice[0]}: rename all but one")
        elif cells and len(cells) != len(header):
            raise ValueError(f"{name}, line {begin}: {len(cells)} cells, where the header has {len(header)}")
        elif cells:
            yield f"{name}, line {begin}", dict(zip(header, cells, strict=True))


def read_schema(path: str) -> tuple[list[str], int]:
    """The columns of a Parquet file and the number of its rows; raises ValueError where it is damaged."""
    with damaged_file_errors(Path(path).name), ParquetFile(path) as file:
        return file.schema_arrow.names, file.metadata.num_rows


def read_parquet(path: str, name: str, names: Sequence[str]) -> Rows:
    """The rows of a Parquet file, of those columns that it has."""
    with ParquetFile(path) as file:
        columns = [column for column in names if column in file.schema_arrow.names]
        rows = (row for batch in file.iter_batches(BATCH_ROWS, columns=columns) for row in batch.to_pylist())
        yield from ((f"{name}, row {number}", row) for number, row in enumerate(rows, start=1))


def count_csv_lines(paths: Sequence[str]) -> CsvLines:
    """Lines and rows of CSV files, and how many rows take several lines."""
    lines = rows = several = 0
    for path in paths:
        with open_text(path) as file:
            reader, _ = open_csv(file, strict=False)
            next(reader, None)  # the header
            before = reader.line_num
            for _ in reader:
                rows, several = rows + 1, several + (reader.line_num > before + 1)
                lines, before = lines + reader.line_num - before, reader.line_num
    return CsvLines(lines, rows, several)
