"""The dataset's folder: Parquet splits, the card, the funnel as a plot, and `build_report.json`."""

import shlex
from operator import itemgetter
from pathlib import Path

from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure  # pyplot would look for a display
from pyarrow.parquet import read_metadata

from approach.cards import dataset_card
from approach.data.pairs import COLUMNS, ROLE_COLUMNS
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

# Not told either, for datasets were built before there was a choice: what they say stays the same, byte by byte.
DEFAULTS = {"pair_rule": "first_sentence", "prompt_context": "problem"}
SHOWN_ROWS, SHOWN_ROWS_BY_ROLES = 3, 10  # on the card


def make_report(arguments: dict, licence: str | None, findings: dict) -> dict:
    """`build_report.json`: source, arguments that were set, the exact command, and what was found of the splits."""
    arguments = {
        name: public_name(value) if name in ("dataset_name", "tokenizer_name") else value
        for name, value in arguments.items()
        if name not in NOT_REPORTED and value is not None and value is not False and value != DEFAULTS.get(name)
    }
    options = shlex.join(part for name, value in arguments.items() for part in (f"--{name}", str(value)))
    place = {name.removeprefix("dataset_"): value for name, value in arguments.items() if name.startswith("dataset_")}
    stated = {"license": licence} if licence else {}
    return {
        "source": {**place, **stated},
        "arguments": arguments,
        "command": f"python prepare_dataset.py {options} --output_dir DIR",
        **findings,
    }


def write_dataset(splits: DatasetDict, report: dict, output: Output) -> None:
    """Writes the whole folder or nothing; raises UserError on a full disk."""
    with output.staging() as folder:
        (folder / "data").mkdir()
        columns = [*COLUMNS, *(ROLE_COLUMNS if "roles" in report else ())]
        files = {name: write_split(name, split.select_columns(columns), folder) for name, split in splits.items()}
        plot_funnel(report["funnel"], folder / "funnel.png")
        num_shown = min(SHOWN_ROWS_BY_ROLES if "roles" in report else SHOWN_ROWS, len(splits["train"]))
        samples = [splits["train"][index] for index in range(num_shown)]
        (folder / "README.md").write_text(dataset_card(samples, report, files), encoding="utf-8")
        write_json(folder / "build_report.json", report)


def write_split(name: str, split: Dataset, folder: Path) -> dict[str, str | int]:
    """Writes one split as Parquet; returns its `path` in the folder and its size in memory, `num_bytes`."""
    path = folder / "data" / f"{name}.parquet"
    split.to_parquet(path)
    size = sum(map(itemgetter("total_byte_size"), read_metadata(path).to_dict()["row_groups"]))
    # datasets 5.2 takes a folder for one that it has cached when name and card agree: the card has to tell the content
    # apart, or a dataset built again in its place would be read as the old one.
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
