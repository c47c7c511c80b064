# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "bibtexparser==2.1.0",
#     "datasets==5.2.0",
#     "gguf==0.19.0",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "py3langid==0.4.0",
#     "pyarrow==26.0.1",
#     "python-crfsuite==0.9.12",
#     "rensa==0.5.0",
#     "rispy==0.10.0",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""
Build the problem–approach dataset from abstracts: by first sentences, sentence roles, or their authors' own labels.

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
from dataclasses import dataclass, field
from pathlib import Path

from approach.arguments import PublishArguments, format_command, parse
from approach.artifacts import DATASET_FILES, DATASET_PARTS
from approach.data.arguments import DatasetArguments
from approach.errors import UserError, explain_os_error, run_script
from approach.storage import Output, contains_files, is_hub_id, read_json, write_json

REPORT_NAME = "build_report.json"
RECIPE = "recipes/tinyllama_lora_fp32.yaml"  # of the next command to type
NOT_IN_PATHS = ("*", "?", "[", "::")  # datasets takes them for a glob, or for the inside of an archive


@dataclass
class PrepareArguments(DatasetArguments, PublishArguments):
    """What to read, how to cut, filter and split it, and where to write and publish it."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder to write; it appears whole or not at all."})
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
        if self.output_dir is None:
            raise ValueError("--output_dir is missing: the folder to write the dataset to")
        path = os.path.abspath(self.output_dir)
        if any(characters in path for characters in NOT_IN_PATHS):
            raise ValueError(
                f"--output_dir {self.output_dir}: datasets opens no folder with {' or '.join(NOT_IN_PATHS)} in its "
                f"path, which is {path}: choose another"
            )
        super().__post_init__()

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

    from approach.data.folder import build_report, write_dataset
    from approach.data.pairs import build_pairs
    from approach.data.sources import load_source
    from approach.data.splits import build_splits

    disable_caching()  # intermediate Arrow files are deleted when the process ends
    source = load_source(args)
    pairs = build_pairs(source, args)
    splits, statistics = build_splits(pairs, args)
    report = build_report(args, source, statistics)
    write_dataset(splits, report, args, args.output)
    print_summary(report, args)
    next_command = [
        "--config",
        RECIPE,
        "--dataset_name",
        args.output_dir,
        "--output_dir",
        f"{args.output_dir}-adapter",
    ]
    print(f"Wrote {args.output_dir}. Next: {format_command('accelerate', 'launch', 'train_sft.py', *next_command)}")
    if args.push_to_hub:
        push_dataset(Path(args.output_dir), args)


def print_summary(report: dict, args: PrepareArguments) -> None:
    """Prints how many rows were dropped for what, and the sizes of the splits."""
    for reason, count in report["funnel"].items():
        if count or reason in ("read", "kept"):
            print(f"{reason.replace('_', ' '):>26} {count:>9,}")
    if report.get("csv", {}).get("rows_of_several_lines"):
        counts = "CSV: {rows:,} rows from {lines:,} lines, {rows_of_several_lines:,} of them of several lines each"
        print(f"{counts.format(**report['csv'])}. If rows were joined by mistake, look for a stray quotation mark")
    if report["repeated_ids"]:
        print(f"{report['repeated_ids']:,} rows have the id of a row before: they are called ID-2, ID-3, …")
    if cleaned := {step.replace("_", " "): count for step, count in report.get("cleaning", {}).items() if count}:
        print("Cleaned: " + ", ".join(f"{step} in {count:,} rows" for step, count in cleaned.items()))
    print(", ".join(f"{name} {size:,}" for name, size in report["splits"].items()))
    if "near_duplicates" in report:
        print("{rows:,} rows in {clusters:,} clusters of near duplicates, {where}".format(**report["near_duplicates"]))
    if args.pair_rule != "first_sentence":
        print(f"--pair_rule {args.pair_rule}: approaches of {args.min_approach_words} words or more are kept")
    for warning in report.get(args.pair_rule, {}).get("warnings", ()):
        print(f"warning: --pair_rule {args.pair_rule}: {warning}", file=sys.stderr)
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
            f"Not published to {args.hub_dataset_id}: {error}. {folder} is complete. To publish it later: {later}"
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
