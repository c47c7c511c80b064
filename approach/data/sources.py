"""The source: which files or which Hub dataset hold the abstracts, and in which columns."""

import glob
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from approach.data.arguments import ARXIV, ARXIV_ROWS, DatasetArguments
from approach.data.reading import (
    FILE_FORMATS,
    Columns,
    CsvLines,
    build_dataset,
    count_csv_lines,
    file_format,
    find_names,
    first_version_date,
    parse_categories,
)
from approach.errors import UserError, first_line

ID_COLUMNS = ("id", "article_id")
OTHER_ABSTRACT_COLUMNS = ("abstract_inverted_index", "Abstract")  # OpenAlex's; Scopus's and Zotero's, with a capital
MAX_SKIPPED = 5  # names of files that are shown
CATEGORY_COLUMNS = ("categories", "primary_category", "category")


@dataclass(frozen=True)
class Source:
    """A source that was read: its needed columns alone, and what was found out about it."""

    name: str
    rows: Dataset
    columns: Columns
    revision: str | None  # of a Hub dataset: the commit, where the Hub could be asked
    licence: str | None
    csv_lines: CsvLines | None = None


def load_source(args: DatasetArguments) -> Source:
    """
    Reads what `--dataset_name` names: files, a folder or glob of them, or a Hub dataset.

    Raises:
        UserError: where the source cannot be read, lacks a column, or is the arXiv corpus without some of its rows.
    """
    name = args.dataset_name
    try:
        files, skipped = find_files(name)
        if files and skipped:
            shown = ", ".join(skipped[:MAX_SKIPPED]) + (", …" if len(skipped) > MAX_SKIPPED else "")
            print(f"--dataset_name {name}: {len(skipped)} files are skipped, which are no abstracts: {shown}")
        source = read_files(name, files, args) if files else read_from_hub(name, args)
    except DatasetGenerationError as error:
        raise UserError(f"--dataset_name {name}: cannot be read: {first_line(error.__cause__ or error)}") from error
    except (ValueError, OSError) as error:
        raise UserError(f"--dataset_name {name}: {first_line(error)}") from error
    if args.category_names and source.columns.category is None:
        raise UserError(f"--categories: --dataset_name {name} has none of the columns {', '.join(CATEGORY_COLUMNS)}")
    if name == ARXIV["dataset_name"] and args.dataset_split == "train" and len(source.rows) != ARXIV_ROWS:
        raise UserError(f"--dataset_name {name}: {len(source.rows):,} rows where its card says {ARXIV_ROWS:,}")
    return source


def find_files(name: str) -> tuple[list[str], list[str]]:
    """
    The data files that a path, a folder with its subfolders, or a glob names, sorted, and the names of other files.

    None where `name` must be a Hub id. Hidden files are not looked at.
    """
    if Path(name).is_file():
        return ([name] if file_format(name) else []), []
    if Path(name).is_dir():
        name = str(Path(glob.escape(name)) / "**" / "*")
    paths = sorted(path for path in glob.glob(name, recursive=True) if Path(path).is_file())
    files = [path for path in paths if file_format(path)]
    return files, [Path(path).name for path in paths if not file_format(path)]


def check_hub_id(name: str) -> None:
    """Raises UserError where a name that names no data file is no Hub id either."""
    exists = Path(name).exists()
    if exists or file_format(name) or name.count("/") > 1:
        found = "no file to read: expected one of" if exists else "no such file; expected a Hub id or"
        raise UserError(f"--dataset_name {name}: {found} {', '.join(FILE_FORMATS)}")


def read_files(name: str, files: list[str], args: DatasetArguments) -> Source:
    """The needed columns of files; raises UserError where one is missing, and as `build_dataset`."""
    columns = find_columns(args, find_names(files))
    rows = build_dataset(files, columns)
    if not len(rows):
        raise ValueError("there is no row in it")
    csv_files = [path for path in files if file_format(path) == "csv"]
    return Source(name, rows, columns, None, None, count_csv_lines(csv_files) if csv_files else None)


def read_from_hub(name: str, args: DatasetArguments) -> Source:
    """The needed columns of a Hub dataset; raises UserError, and ValueError or OSError, where it cannot be read."""
    check_hub_id(name)
    revision, licence = args.dataset_revision, None
    # Without network a cached copy may still be read, by the revision as it was given.
    with suppress(OSError, HTTPError, ValueError):
        info = HfApi().dataset_info(name, revision=revision)
        revision, licence = info.sha, (info.card_data or {}).get("license")
    options = {"name": args.dataset_config, "revision": revision, "split": args.dataset_split}
    streamed = load_dataset(name, **options, streaming=True)  # to look at the columns before all is fetched
    names = streamed.column_names or list(next(iter(streamed), {}))
    if not names:
        raise ValueError(f"there is no row in its split {args.dataset_split}")
    columns = find_columns(args, names)
    # The arXiv corpus's articles are 40 times as large as its abstracts; of Parquet files we need not fetch them.
    selection = {"columns": columns.wanted} if streamed.info.builder_name == "parquet" else {}
    rows = load_dataset(name, **options, **selection).select_columns(columns.wanted)
    return Source(name, parse_hub_columns(rows, columns), columns, revision, licence)


def parse_hub_columns(rows: Dataset, columns: Columns) -> Dataset:
    """The rows with categories and arXiv's versions parsed, as those of files are."""
    parsers = []
    if columns.year and isinstance(rows.features[columns.year], List):
        parsers.append((columns.year, first_version_date, Value("string")))
    if columns.category:
        parsers.append((columns.category, parse_categories, List(Value("string"))))
    for name, parse, feature in parsers:
        values = [parse(value) for value in rows[name]]
        rows = rows.remove_columns(name).add_column(name, values, feature=feature)
    return rows


def find_columns(args: DatasetArguments, names: list[str]) -> Columns:
    """
    Which of the columns `names` hold what: those that the arguments name, and those that can be found without.

    Raises:
        UserError: where a column is missing.
    """
    abstract = args.abstract_column
    if abstract == "abstract" and "abstract" not in names and "abstract_text" in names:
        abstract = "abstract_text"  # the arXiv corpus's first format
    if abstract == "abstract" and "abstract" not in names:
        abstract = next((name for name in OTHER_ABSTRACT_COLUMNS if name in names), abstract)
    columns = Columns(
        abstract=abstract,
        problem=args.problem_column,
        approach=args.approach_column,
        id=args.id_column or next((column for column in ID_COLUMNS if column in names), None),
        year=args.year_column,
    )
    others = [column for column in CATEGORY_COLUMNS if column in names and column not in columns.wanted]
    columns = replace(columns, category=next(iter(others), None))
    if missing := [column for column in columns.wanted if column not in names]:
        has = ", ".join(names)
        raise UserError(f"--dataset_name {args.dataset_name}: no column {', '.join(missing)}; it has {has}")
    return columns
