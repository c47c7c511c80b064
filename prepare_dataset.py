# /// script
# requires-python = ">=3.11"
# dependencies = ["datasets==5.2.0", "huggingface_hub==2.4.0", "transformers==5.23.0"]
# ///
"""
Build the problem–approach dataset from abstracts: the first sentence is the problem, the rest is the approach.

Reads abstracts from a local `.jsonl`, `.jsonl.gz`, `.json`, `.csv` or `.parquet` file or from the Hub, and writes a
folder that `datasets.load_dataset` opens: three Parquet splits, a card (`README.md`) and `build_report.json`.

    python prepare_dataset.py --dataset_name abstracts.jsonl --output_dir outputs/pairs
    python prepare_dataset.py --dataset_name ccdv/arxiv-summarization --dataset_config document \
        --dataset_revision 240aaf1a969b3f8cd0ade6986bfad0cd730ee288 --output_dir outputs/arxiv_pairs
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

# What `train_sft.py` adds to the tokenizer as special tokens; a test holds the two scripts together.
TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
# The filters of the original report, in its order (specification, "filters"), after the rows that hold no text at all.
DROP_REASONS = ("not_text", "too_few_sentences", "problem_too_long", "approach_too_short")
FILE_FORMATS = {
    ".jsonl": "json",
    ".jsonl.gz": "json",
    ".json": "json",
    ".json.gz": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
ID_COLUMNS = ("id", "article_id", "abstract_id")


@dataclass
class PrepareArguments:
    """What to read, how to cut and filter it, and where to write it."""

    output_dir: str = field(metadata={"help": "Folder to write the dataset to. It appears whole or not at all."})
    dataset_name: str = field(
        default="ccdv/arxiv-summarization",
        metadata={"help": "A local .jsonl, .jsonl.gz, .json, .csv or .parquet file, or a dataset's Hub id."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub dataset to read."})
    abstract_column: str = field(default="abstract", metadata={"help": "Column that holds the abstracts."})
    id_column: str | None = field(
        default=None,
        metadata={"help": f"Column with the source's own ids. Default: {', '.join(ID_COLUMNS)}, else a content hash."},
    )
    sentence_rule: str = field(
        default="lines",
        metadata={
            "help": "'lines': one sentence a line, as in the arXiv corpus. 'report': the original report's rule.",
            "choices": ["lines", "report"],
        },
    )
    min_sentences: int = field(default=2, metadata={"help": "Drop abstracts of fewer sentences."})
    max_problem_words: int = field(default=50, metadata={"help": "Drop pairs whose problem has more words."})
    min_approach_words: int = field(default=90, metadata={"help": "Drop pairs whose approach has fewer words."})
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    test_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    seed: int = field(default=42, metadata={"help": "Seed of the shuffle before the split."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes. The result does not depend on it."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an output folder that is not empty."})

    def __post_init__(self):
        if self.min_sentences < 2:
            raise ValueError(
                f"--min_sentences must be at least 2, a problem and an approach; got {self.min_sentences}"
            )
        for name in ("validation_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"--{name} must lie in [0, 0.5), got {getattr(self, name)}")
        output_dir = Path(self.output_dir)
        if output_dir.exists() and not output_dir.is_dir():
            raise ValueError(f"--output_dir {self.output_dir} is a file")
        if output_dir.is_dir() and any(output_dir.iterdir()) and not self.overwrite:
            raise ValueError(f"--output_dir {self.output_dir} is not empty: choose another or add --overwrite")


def split_lines(abstract: str) -> list[str]:
    """One sentence a line, white space folded; empty lines are no sentences."""
    return [" ".join(line.split()) for line in abstract.splitlines() if line.strip()]


# White space after a stop and before a capital, digit, quote or bracket, unless "e.g." or "Dr." stands before it.
REPORT_BOUNDARY = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=[.!?])\s+(?=[A-Z0-9“(])")


def split_report(abstract: str) -> list[str]:
    """The original report's rule, exactly, to reproduce its counts (specification, "The report's sentence rule")."""
    sentences = REPORT_BOUNDARY.split(abstract.strip())
    if len(sentences) < 2:
        sentences = [line.strip() for line in abstract.splitlines() if line.strip()]
    return sentences


SENTENCE_RULES: dict[str, Callable[[str], list[str]]] = {"lines": split_lines, "report": split_report}


def build_pair(abstract: object, args: PrepareArguments) -> tuple[str, str, str]:
    """Returns `(problem, approach, reason)`; `reason` is one of DROP_REASONS, or empty for a pair that is kept."""
    if not isinstance(abstract, str) or not abstract.strip():
        return "", "", "not_text"
    sentences = SENTENCE_RULES[args.sentence_rule](abstract)
    if len(sentences) < args.min_sentences:
        return "", "", "too_few_sentences"
    problem, approach = sentences[0].strip(), " ".join(sentences[1:])
    if len(problem.split()) > args.max_problem_words:
        return problem, approach, "problem_too_long"
    if len(approach.split()) < args.min_approach_words:
        return problem, approach, "approach_too_short"
    return problem, approach, ""


def build_rows(batch: dict[str, list], args: PrepareArguments, id_column: str | None) -> dict[str, list]:
    """Turns a batch of source rows into dataset rows plus their `reason`; the batch keeps its length."""
    rows = {name: [] for name in ("id", "problem", "approach", "prompt", "completion", "reason")}
    for index, abstract in enumerate(batch[args.abstract_column]):
        problem, approach, reason = build_pair(abstract, args)
        source_id = batch[id_column][index] if id_column else None
        if source_id is None:
            source_id = hashlib.sha256(str(abstract).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        values = (str(source_id), problem, approach, f"<problem>{problem}</problem><approach>")
        for name, value in zip(rows, (*values, f" {approach}</approach>", reason), strict=True):
            rows[name].append(value)
    return rows


def file_format(path: str) -> str | None:
    """The `datasets` builder that reads `path`, by its ending; None for an ending that none reads."""
    return next((builder for ending, builder in FILE_FORMATS.items() if path.lower().endswith(ending)), None)


def load_abstracts(args: PrepareArguments):
    """Opens the source. Ends the program with one line where it cannot be read or lacks the column."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    name, is_file = args.dataset_name, Path(args.dataset_name).is_file()
    builder = file_format(name)
    if is_file and builder is None:
        sys.exit(f"{name}: unknown file type; expected one of {', '.join(FILE_FORMATS)}")
    if not is_file and (builder is not None or Path(name).exists() or name.count("/") > 1):
        sys.exit(f"{name}: no such file")
    try:
        if is_file:
            source = load_dataset(builder, data_files=name, split="train")
        else:
            source = load_dataset(name, args.dataset_config, revision=args.dataset_revision, split=args.dataset_split)
    except DatasetGenerationError as error:
        sys.exit(f"{name}: cannot be read as {builder or 'a dataset'}: {error.__cause__ or error}")
    except (DatasetNotFoundError, ValueError, OSError) as error:
        sys.exit(f"{name}: {str(error).splitlines()[0]}")
    for column in filter(None, (args.abstract_column, args.id_column)):
        if column not in source.column_names:
            sys.exit(f"{name}: no column '{column}'; it has {', '.join(source.column_names)}")
    return source


def build_splits(source, args: PrepareArguments):
    """Cuts, filters, shuffles and splits `source`; returns the splits and the funnel (reason → rows)."""
    import pyarrow.compute as pc
    from datasets import DatasetDict

    id_column = args.id_column or next((name for name in ID_COLUMNS if name in source.column_names), None)
    columns = [args.abstract_column] + ([id_column] if id_column else [])
    rows = source.select_columns(columns).map(
        build_rows,
        batched=True,
        fn_kwargs={"args": args, "id_column": id_column},
        remove_columns=columns,
        num_proc=args.num_proc,
        desc="Cutting abstracts into pairs",
    )
    reasons = rows.data.column("reason")
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons).to_pylist()}
    # As int64: datasets 5.2 cannot slice by the uint64 that Arrow gives.
    kept = rows.select(pc.indices_nonzero(pc.equal(reasons, "")).to_numpy().astype("int64")).remove_columns("reason")
    funnel = {"read": len(rows), **{reason: counts.get(reason, 0) for reason in DROP_REASONS}, "kept": len(kept)}
    if not len(kept):
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in funnel.items() if reason in DROP_REASONS)
        sys.exit(f"{args.dataset_name}: no row of {len(rows):,} is left after the filters ({dropped})")
    num_validation, num_test = int(len(kept) * args.validation_fraction), int(len(kept) * args.test_fraction)
    sizes = {"train": len(kept) - num_validation - num_test, "validation": num_validation, "test": num_test}
    shuffled, splits, start = kept.shuffle(seed=args.seed), DatasetDict(), 0
    for name, size in sizes.items():
        if size:  # of fewer than 20 rows, 5 % is none, and an empty split cannot be opened
            splits[name] = shuffled.select(range(start, start + size))
        start += size
    return splits, funnel


def make_card(splits, report: dict) -> str:
    """The dataset's card: what it is, where it comes from, what was dropped, and what it is not."""
    from huggingface_hub import DatasetCard, DatasetCardData

    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits]
    data = DatasetCardData(
        language="en",
        task_categories=["text-generation"],
        pretty_name="Problem–approach pairs",
        configs=[{"config_name": "default", "data_files": files}],
    )
    funnel = "\n".join(f"| {reason.replace('_', ' ')} | {count:,} |" for reason, count in report["funnel"].items())
    sizes = "\n".join(f"| {name} | {size:,} |" for name, size in report["splits"].items())
    text = f"""# Problem–approach pairs

One-sentence research problems and the approaches that followed them, cut from abstracts: the first sentence is the
`problem`, the rest is the `approach`. `prompt` and `completion` are what a model is trained on.

Source: {report["source"]["dataset_name"]}. Sentence rule: `{report["arguments"]["sentence_rule"]}`.

| split | rows |
|---|---|
{sizes}

| funnel | rows |
|---|---|
{funnel}

Rows are dropped in the order of the table, each under one reason. The abstracts remain their authors'; their licence
is the source's. A first sentence is often background rather than a problem, and an approach often holds results.

Built with:

```
{report["command"]}
```
"""
    return str(DatasetCard(f"---\n{data}\n---\n\n{text}"))


def source_name(name: str) -> str:
    """A Hub id as it is, a local file by its name alone: a published card must not show the user's folders."""
    return Path(name).name if file_format(name) else name


def write_dataset(splits, report: dict, output_dir: Path) -> None:
    """Writes everything beside `output_dir`, then renames: a killed run leaves the folder absent or whole."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.partial-", dir=output_dir.parent))
    try:
        (partial / "data").mkdir()
        for name, split in splits.items():
            split.to_parquet(partial / "data" / f"{name}-00000-of-00001.parquet")
        (partial / "README.md").write_text(make_card(splits, report), encoding="utf-8")
        (partial / "build_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.chmod(partial, 0o755)  # mkdtemp's 0o700 would hide a shared dataset from colleagues
        if output_dir.exists():
            shutil.rmtree(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(args: PrepareArguments) -> None:
    from datasets import disable_caching

    disable_caching()  # the product is `output_dir`; intermediate Arrow files go when the process ends
    splits, funnel = build_splits(load_abstracts(args), args)
    arguments = {**asdict(args), "dataset_name": source_name(args.dataset_name)}
    for name in ("output_dir", "num_proc", "overwrite"):  # where and how fast, not what: the same bytes either way
        del arguments[name]
    options = " ".join(f"--{name} {value}" for name, value in arguments.items() if value is not None)
    report = {
        "source": {name: arguments[name] for name in arguments if name.startswith("dataset_")},
        "arguments": arguments,
        "command": f"python prepare_dataset.py {options} --output_dir DIR",
        "funnel": funnel,
        "splits": {name: len(split) for name, split in splits.items()},
    }
    write_dataset(splits, report, Path(args.output_dir))
    for reason, count in funnel.items():
        print(f"{reason:>20} {count:>9,}")
    print(", ".join(f"{name} {size:,}" for name, size in report["splits"].items()))
    print(f"Wrote {args.output_dir}. Next: accelerate launch train_sft.py --dataset_name {args.output_dir} …")


def parse_arguments(argv: list[str] | None = None) -> PrepareArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(PrepareArguments, usage="python %(prog)s --ARGUMENT VALUE … (all of them: --help)")
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(parse_arguments())
