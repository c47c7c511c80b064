"""The source: which files or which Hub dataset hold the abstracts, and in which columns."""

import glob
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from approach.data.reading import Lines, build_dataset, count_lines, find_names
from approach.errors import UserError, first_line

FILE_FORMATS = {".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
ID_COLUMNS = ("id", "article_id")
CATEGORY_COLUMNS = ("categories", "primary_category", "category")


@dataclass(frozen=True)
class Columns:
    """Which columns of a source hold what."""

    abstract: str = "abstract"
    problem: str | None = None  # with `approach`: ready-made pairs, and no abstract to cut
    approach: str | None = None
    id: str | None = None
    year: str | None = None
    category: str | None = None  # arXiv's; any name: look for one of CATEGORY_COLUMNS, which may be missing

    @property
    def texts(self) -> list[str]:
        """The columns that problem and approach come from."""
        return [self.problem, self.approach] if self.problem else [self.abstract]

    @property
    def wanted(self) -> list[str]:
        """All columns to read, each once."""
        return list(dict.fromkeys(name for name in (*self.texts, self.id, self.year, self.category) if name))


@dataclass(frozen=True)
class Source:
    """A source that was read: its needed columns alone, and what was found out about it."""

    name: str
    rows: Dataset
    columns: Columns
    revision: str | None  # of a Hub dataset: the commit, where the Hub could be asked
    licence: str | None
    lines: Lines | None = None  # of CSV files


def load_source(
    name: str, columns: Columns, config: str | None = None, revision: str | None = None, split: str = "train"
) -> Source:
    """
    Reads what `name` names: files, a folder or glob of them, or a Hub dataset with its config, revision and split.

    A missing id column is looked for among ID_COLUMNS. Raises UserError where the source cannot be read or lacks a
    column.
    """
    licence, files = None, find_files(name)
    if not files:
        require_hub_id(name)
        # Without network a cached copy may still be read, revision as given. What is no id is told of below.
        with suppress(OSError, HTTPError, ValueError):
            info = HfApi().dataset_info(name, revision=revision)
            revision, licence = info.sha, (info.card_data or {}).get("license")
    try:
        if files:
            return read_files(name, files, columns)
        rows, columns = read_from_hub(name, columns, {"name": config, "revision": revision, "split": split})
    except DatasetGenerationError as error:
        raise UserError(f"--dataset_name {name}: cannot be read: {first_line(error.__cause__ or error)}") from error
    except (ValueError, OSError) as error:
        raise UserError(f"--dataset_name {name}: {first_line(error)}") from error
    return Source(name, rows, columns, revision, licence)


def find_files(name: str) -> list[str]:
    """The data files that a path, folder or glob names, sorted; none where `name` must be a Hub id."""
    if Path(name).is_file():
        return [name] if file_format(name) else []
    if Path(name).is_dir():
        name = str(Path(glob.escape(name)) / "*")
    return sorted(path for path in glob.glob(name) if Path(path).is_file() and file_format(path))


def file_format(path: str) -> str | None:
    """How `path` is read, by its ending; None for an ending that we do not read."""
    return next((builder for ending, builder in FILE_FORMATS.items() if path.lower().endswith(ending)), None)


def require_hub_id(name: str) -> None:
    """Raises UserError where a name that names no data file is no Hub id either."""
    exists = Path(name).exists()
    if exists or file_format(name) or name.count("/") > 1:
        found = "no file to read: expected one of" if exists else "no such file; expected a Hub id or"
        raise UserError(f"--dataset_name {name}: {found} {', '.join(FILE_FORMATS)}")


def read_files(name: str, files: list[str], columns: Columns) -> Source:
    """The needed columns of files; raises UserError where their formats differ, raises as `build_dataset`."""
    kinds = sorted({file_format(path) for path in files})
    if len(kinds) > 1:
        raise UserError(f"--dataset_name {name}: files of several formats ({', '.join(kinds)}); name one with a glob")
    columns = find_columns(name, columns, find_names(files, kinds[0]))
    texts = [*columns.texts, columns.category] if columns.category else columns.texts  # may be lists, too
    rows = build_dataset(files, kinds[0], columns.wanted, texts)
    if not len(rows):
        raise ValueError("there is no row in it")
    return Source(name, rows, columns, None, None, count_lines(files) if kinds[0] == "csv" else None)


def read_from_hub(name: str, columns: Columns, place: dict) -> tuple[Dataset, Columns]:
    """The needed columns of a Hub dataset, and which they are; `place` is its config, revision and split."""
    source = load_dataset(name, **place, streaming=True)  # look at the columns before fetching all
    names = source.column_names or list(next(iter(source), {}))
    if not names:
        raise ValueError(f"there is no row in its split {place['split']}")
    columns = find_columns(name, columns, names)
    # The arXiv corpus's articles would be 40 times its abstracts; Parquet lets us leave them.
    selection = {"columns": columns.wanted} if source.info.builder_name == "parquet" else {}
    return load_dataset(name, **place, **selection).select_columns(columns.wanted), columns


def find_columns(name: str, columns: Columns, names: list[str]) -> Columns:
    """`columns` with what was left open found among `names`; raises UserError where a column is missing."""
    if columns.texts == ["abstract"] and "abstract" not in names and "abstract_text" in names:
        columns = replace(columns, abstract="abstract_text")  # the arXiv corpus's first format
    if columns.id is None:
        columns = replace(columns, id=next((column for column in ID_COLUMNS if column in names), None))
    if columns.category:
        columns = replace(columns, category=next((column for column in CATEGORY_COLUMNS if column in names), None))
    if missing := [column for column in columns.wanted if column not in names]:
        raise UserError(f"--dataset_name {name}: no column {', '.join(missing)}; it has {', '.join(names)}")
    return columns
