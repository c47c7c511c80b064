"""The dataset's folder: Parquet splits, the card, the funnel as a plot, and `build_report.json`."""

import shlex
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path

from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure  # pyplot would look for a display
from pyarrow.parquet import read_metadata

from approach.cards import dataset_card
from approach.data.arguments import DatasetArguments
from approach.data.pair_rules import PAIR_RULES
from approach.data.pairs import COLUMNS
from approach.data.sources import Source
from approach.storage import Output, hash_file, public_name, write_json

# Left out of the report: the same dataset gets the same bytes wherever it is written or published.
NOT_REPORTED = (
    "output_dir",
    "num_proc",
    "overwrite",
    "push_to_hub",
    "hub_dataset_id",
    "public",
    "hub_overwrite",
    "allow_paths",
)

# Not reported either, because there were datasets before these arguments: their report stays the same, byte by byte.
DEFAULTS = {"pair_rule": "first_sentence", "prompt_context": "problem", "unlabelled": "drop"}


def build_report(args: DatasetArguments, source: Source, statistics: dict) -> dict:
    """`build_report.json`: source, arguments that were set, the exact command, and the statistics of the splits."""
    given = {**asdict(args), "dataset_revision": source.revision, "abstract_column": source.columns.abstract}
    defaults = {
        **DEFAULTS,
        "clean": args.sentence_rule != "report",
        "min_problem_words": args.default_min_problem_words,
    }
    arguments = {
        name: public_name(value) if name in ("dataset_name", "tokenizer_name") else value
        for name, value in given.items()
        if name not in NOT_REPORTED
        and value is not None
        and (value is not False or name == "clean")
        and value != defaults.get(name)
    }
    options = shlex.join(part for name, value in arguments.items() for part in (f"--{name}", str(value)))
    place = {name.removeprefix("dataset_"): value for name, value in arguments.items() if name.startswith("dataset_")}
    return {
        "source": {**place, **({"license": source.licence} if source.licence else {})},
        "arguments": arguments,
        "command": f"python prepare_dataset.py {options} --output_dir DIR",
        **({"csv": asdict(source.csv_lines)} if source.csv_lines else {}),
        **statistics,
    }


def write_dataset(splits: DatasetDict, report: dict, args: DatasetArguments, output: Output) -> None:
    """Writes the complete folder or nothing; raises UserError on a full disk."""
    rule = PAIR_RULES[args.pair_rule]
    with output.staging() as folder:
        (folder / "data").mkdir()
        columns = [*COLUMNS, *rule.columns]
        files = {name: write_split(name, split.select_columns(columns), folder) for name, split in splits.items()}
        plot_funnel(report["funnel"], folder / "funnel.png")
        samples = [splits["train"][i] for i in range(min(rule.num_card_rows, len(splits["train"])))]
        card = dataset_card(samples, report, files, rule.columns, rule.card_template, rule.help)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_json(folder / "build_report.json", report)


def write_split(name: str, split: Dataset, folder: Path) -> dict[str, str | int]:
    """Writes one split as Parquet; returns its `path` in the folder and its size in memory, `num_bytes`."""
    path = folder / "data" / f"{name}.parquet"
    split.to_parquet(path)
    size = sum(map(itemgetter("total_byte_size"), read_metadata(path).to_dict()["row_groups"]))
    # datasets 5.2 finds a folder in its cache by its name and its card. With a hash of the content in the card, a
    # dataset that was built again in its place is not read as the old one.
    place = f"data/{name}-00000-of-00001-{hash_file(path)[:16]}.parquet"
    path.rename(folder / place)
    return {"path": place, "num_bytes": size}


def plot_funnel(funnel: dict[str, int], path: Path) -> None:
    """The funnel as horizontal bars, for the card."""
    counts = {reason.replace("_", " "): count for reason, count in funnel.items() if count}
    figure = Figure(figsize=(7, 0.5 + 0.4 * len(counts)), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if name in ("read", "kept") else "tab:orange" for name in counts]
    axes.bar_label(axes.barh(list(counts), list(counts.values()), color=colours), fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="rows", xlim=(0, 1.15 * funnel["read"]))
    figure.savefig(path, dpi=150)
