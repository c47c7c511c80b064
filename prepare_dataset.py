# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "gguf==0.19.0",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "pyarrow==26.0.1",
#     "python-crfsuite==0.9.12",
#     "rensa==0.5.0",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""
Build the problem–approach dataset from abstracts: by their first sentences, or by the roles of all their sentences.

Reads abstracts from files or from the Hub and writes a folder that `datasets.load_dataset` opens: Parquet splits that
share no near duplicates, a card (`README.md`) and `build_report.json`, which counts every dropped row under a reason.

    python prepare_dataset.py --dataset_name abstracts.jsonl --output_dir outputs/pairs
    python prepare_dataset.py --output_dir outputs/arxiv_pairs --push_to_hub --hub_dataset_id user/arxiv-pairs
    python prepare_dataset.py --dataset_name librarian-bots/arxiv-metadata-snapshot --categories cs.CL,cs.LG \
        --test_from_year 2025 --output_dir outputs/metadata_pairs
"""

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler("Stopped: nothing is half written.")  # to Ctrl-C, before all else

import os
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from approach.arguments import PublishArguments, check_ranges, parse
from approach.artifacts import DATASET_FILES, DATASET_PARTS
from approach.data.arguments import MIN_APPROACH_WORDS, RoleArguments, SplitArguments
from approach.data.arxiv import METADATA, VERSIONS
from approach.errors import UserError, explain_os_error, run_script
from approach.prompt import MAX_PROBLEM_WORDS
from approach.storage import Output, contains_files, is_hub_id, read_json, write_json

if TYPE_CHECKING:
    from datasets import DatasetDict

    from approach.data.sources import Source

ARXIV = {
    "dataset_name": "ccdv/arxiv-summarization",
    "dataset_config": "document",
    "dataset_revision": "240aaf1a969b3f8cd0ade6986bfad0cd730ee288",
}
REPORT_NAME = "build_report.json"
NOT_IN_PATHS = ("*", "?", "[", "::")  # datasets takes them for a glob, or for an archive's inside
ARXIV_ROWS = 203_037  # of the train split, by its card and by the original report


@dataclass
class PrepareArguments(SplitArguments, RoleArguments, PublishArguments):
    """What to read, how to cut, filter and split it, and where to write and publish it."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder to write; it appears whole or not at all."})
    dataset_name: str = field(
        default=ARXIV["dataset_name"],
        metadata={"help": "A .jsonl, .jsonl.gz, .json, .csv or .parquet file, a folder or glob of them, or a Hub id."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub dataset to read."})
    categories: str | None = field(
        default=None,
        metadata={"help": "Keep abstracts of these arXiv categories alone, such as cs.CL,cs.LG."},
    )
    abstract_column: str = field(
        default="abstract",
        metadata={"help": "Column of the abstracts: text, or a list of sentences (then --sentence_rule is not used)."},
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column of the source's ids. Default: id or article_id, else a content hash."}
    )
    problem_column: str | None = field(default=None, metadata={"help": "Ready-made pairs: column of the problems."})
    approach_column: str | None = field(default=None, metadata={"help": "Ready-made pairs: column of the approaches."})
    sentence_rule: str = field(
        default="auto",
        metadata={
            "help": "'lines': one sentence a line. 'punctuation': prose, by nupunkt. 'report': the original report's "
            "rule. 'auto': lines where the abstract has several (but not hard-wrapped prose), else punctuation.",
            "choices": ["auto", "lines", "punctuation", "report"],
        },
    )
    min_sentences: int = field(default=2, metadata={"help": "Drop abstracts of fewer sentences."})
    max_problem_words: int = field(
        default=MAX_PROBLEM_WORDS, metadata={"help": "Drop pairs whose problem has more words."}
    )
    min_approach_words: int | None = field(
        default=None, metadata={"help": "Drop pairs whose approach has fewer words. Default: 90, by roles 30."}
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer to count lengths in tokens with."})
    max_length: int | None = field(
        default=None, metadata={"help": "Drop pairs of more tokens, which training would cut. Needs --tokenizer_name."}
    )
    num_proc: int = field(
        default=os.cpu_count() or 1, metadata={"help": "Processes; the result does not depend on it."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an output folder that is not empty."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the dataset once it is written."})
    push_only: str | None = field(
        default=None, metadata={"help": "Publish this folder, built earlier; build nothing."}
    )
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Repository to publish to: user/name."})

    def __post_init__(self):
        if (self.push_to_hub or self.push_only) and not is_hub_id(self.hub_dataset_id):
            raise ValueError(f"publishing needs --hub_dataset_id user/name, got {self.hub_dataset_id}")
        if self.push_only:
            return
        if self.dataset_name == ARXIV["dataset_name"]:
            self.dataset_config = self.dataset_config or ARXIV["dataset_config"]
            self.dataset_revision = self.dataset_revision or ARXIV["dataset_revision"]
        if self.dataset_name == METADATA and self.test_from_year is not None:
            self.year_column = self.year_column or VERSIONS
        if self.output_dir is None:
            raise ValueError("--output_dir is missing: the folder to write the dataset to")
        path = os.path.abspath(self.output_dir)
        if any(characters in path for characters in NOT_IN_PATHS):
            raise ValueError(
                f"--output_dir {self.output_dir}: datasets opens no folder with {' or '.join(NOT_IN_PATHS)} in its "
                f"path, which is {path}: choose another"
            )
        self.check_roles(ready_made=self.problem_column is not None)
        if self.min_approach_words is None:
            self.min_approach_words = MIN_APPROACH_WORDS[self.pair_rule]
        self.check_splits()
        check_ranges(
            self,
            min_sentences="[2, inf)",
            max_problem_words="[1, inf)",
            min_approach_words="[1, inf)",
            max_length="[1, inf)",
            num_proc="[1, inf)",
        )
        if self.categories is not None and not self.list_categories():
            raise ValueError("--categories names none: give them with commas between, such as cs.CL,cs.LG")
        for one, other in (("problem", "approach"), ("approach", "problem")):
            if getattr(self, f"{one}_column") and not getattr(self, f"{other}_column"):
                raise ValueError(f"--{one}_column needs --{other}_column")
        if self.max_length and not self.tokenizer_name:
            raise ValueError("--max_length needs --tokenizer_name to count tokens with")

    def list_categories(self) -> tuple[str, ...]:
        """The categories of `--categories`, spaces around the commas or not."""
        return tuple((self.categories or "").replace(",", " ").split())

    @property
    def output(self) -> Output:
        """The dataset's folder."""
        inputs = {"--dataset_name": self.dataset_name, "--tokenizer_name": self.tokenizer_name}
        return Output(
            self.output_dir, "dataset", self.overwrite, contains_files(REPORT_NAME, "data"), inputs, save_beside=True
        )


def main(args: PrepareArguments) -> None:
    if args.push_only:
        return push_dataset(Path(args.push_only), args)
    args.output.check()
    from datasets import disable_caching

    from approach.data.dataset_folder import make_report, write_dataset

    disable_caching()  # the product is `output_dir`; intermediate Arrow files go when the process ends
    source = read_source(args)
    splits, findings = build(source, args)
    found = {"dataset_revision": source.revision, "abstract_column": source.columns.abstract}
    report = make_report({**asdict(args), **found}, source.licence, findings)
    write_dataset(splits, report, args.output)
    print_summary(report)
    print(f"Wrote {args.output_dir}. Next: accelerate launch train_sft.py --dataset_name {args.output_dir} …")
    if args.push_to_hub:
        push_dataset(Path(args.output_dir), args)


def read_source(args: PrepareArguments) -> "Source":
    """The source's rows; raises UserError where they cannot be read, or where the arXiv corpus is not whole."""
    from approach.data.sources import CATEGORY_COLUMNS, Columns, load_source

    columns = Columns(
        abstract=args.abstract_column,
        problem=args.problem_column,
        approach=args.approach_column,
        id=args.id_column,
        year=args.year_column,
        category="categories" if args.pair_rule == "roles" or args.categories else None,
    )
    name, split = args.dataset_name, args.dataset_split
    source = load_source(name, columns, args.dataset_config, args.dataset_revision, split)
    if args.categories and source.columns.category is None:
        raise UserError(f"--categories: --dataset_name {name} has none of the columns {', '.join(CATEGORY_COLUMNS)}")
    if name == ARXIV["dataset_name"] and split == "train" and len(source.rows) != ARXIV_ROWS:
        raise UserError(f"--dataset_name {name}: {len(source.rows):,} rows where its card says {ARXIV_ROWS:,}")
    return source


def build(source: "Source", args: PrepareArguments) -> tuple["DatasetDict", dict]:
    """Cuts, filters and splits the source; returns the splits and what `build_report.json` says of them."""
    from approach.data.pairs import PairRules, load_tokenizer_with_tags
    from approach.data.splits import SplitRules, build_splits

    pair_rules = PairRules(
        sentence_rule=args.sentence_rule,
        min_sentences=args.min_sentences,
        max_problem_words=args.max_problem_words,
        min_approach_words=args.min_approach_words,
        max_length=args.max_length,
        categories=args.list_categories(),
        **args.describe_roles(),
    )
    split_rules = SplitRules(**args.describe_splits())
    tokenizer = load_tokenizer_with_tags(args.tokenizer_name)
    return build_splits(source, pair_rules, split_rules, tokenizer, args.num_proc, args.check_leakage)


def print_summary(report: dict) -> None:
    """Prints how many rows were dropped for what, and the sizes of the splits."""
    for reason, count in report["funnel"].items():
        if count or reason in ("read", "kept"):
            print(f"{reason.replace('_', ' '):>26} {count:>9,}")
    if report.get("csv", {}).get("rows_of_several_lines"):
        told = "CSV: {rows:,} rows from {lines:,} lines, {rows_of_several_lines:,} of them of several lines each"
        print(f"{told.format(**report['csv'])}. Where they should not be, look for a stray quotation mark")
    if report["repeated_ids"]:
        print(f"{report['repeated_ids']:,} rows have the id of a row before: they are called ID-2, ID-3, …")
    print(", ".join(f"{name} {size:,}" for name, size in report["splits"].items()))
    if "near_duplicates" in report:
        print("{rows:,} rows in {clusters:,} clusters of near duplicates, {where}".format(**report["near_duplicates"]))
    if "roles" in report:
        print(f"By roles, approaches of {report['arguments']['min_approach_words']} words or more are kept")
        for warning in report["roles"]["warnings"]:
            print(f"warning: --pair_rule roles: {warning}", file=sys.stderr)
    if missing := {"validation", "test"} - report["splits"].keys():
        print(f"No row for {' and '.join(sorted(missing))}: too small a share, or too few without near duplicates")


def push_dataset(folder: Path, args: PrepareArguments) -> None:
    """Publishes a dataset's folder and writes the revision to its report; raises UserError where it cannot."""
    from approach import hub

    if not (folder / REPORT_NAME).is_file():
        raise UserError(f"--push_only {folder}: no dataset that this script built")
    report = read_json(folder / REPORT_NAME)
    repository = hub.Repository(args.hub_dataset_id, "dataset", **args.hub_options())
    files = hub.list_files(folder, DATASET_FILES)
    try:
        published = hub.publish(folder, files, repository, "Build the dataset", replaces=[DATASET_PARTS])
    except hub.PublishError as error:
        options = ["--push_only", str(folder), "--hub_dataset_id", args.hub_dataset_id]
        later = shlex.join(["python", "prepare_dataset.py", *options, *repository.list_flags()])
        raise UserError(
            f"Not published to {args.hub_dataset_id}: {error}. {folder} is whole. To publish it later: {later}"
        ) from error
    print(f"Published {published.repo_id}, revision {published.revision}")
    found = {"dataset": published.repo_id, "revision": published.revision}
    try:
        write_json(folder / REPORT_NAME, {**report, "hub": found})
    except OSError as error:
        print(f"{folder / REPORT_NAME} does not say so: {explain_os_error(error)}", file=sys.stderr)


def parse_arguments(argv: list[str] | None = None) -> PrepareArguments:
    return parse(PrepareArguments, argv)


if __name__ == "__main__":
    run_script(lambda: main(parse_arguments()))
