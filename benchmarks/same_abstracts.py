"""
The abstracts that several datasets share, so that what pair rules teach can be compared on the same ones.

Reads datasets that `prepare_dataset.py` built from one source by different rules, and writes each of them again with
those abstracts alone that all have, by id, with the same problem. Each abstract is in the split that the first dataset
has it in. The test split's references are those of the first dataset in all of them; its prompts stay. Printed: how
many there are, and how many words of approaches, by which the runs' steps can be chosen to see equally many.

    python benchmarks/same_abstracts.py first=outputs/first roles=outputs/roles --output_dir outputs/same
"""

import argparse
from pathlib import Path

from datasets import Dataset, concatenate_datasets, load_dataset

COLUMNS = ("id", "problem", "approach", "prompt", "completion")


def read_rows(folder: str) -> dict[str, dict]:
    """The rows of all splits of a dataset by their ids."""
    splits = load_dataset(folder)
    rows = concatenate_datasets([split.select_columns(list(COLUMNS)) for split in splits.values()])
    return {row["id"]: row for row in rows}


def main(args: argparse.Namespace) -> None:
    folders = dict(pair.split("=", 1) for pair in args.datasets)
    tables = {name: read_rows(folder) for name, folder in folders.items()}
    first = next(iter(tables.values()))
    shared = {
        row_id
        for row_id, row in first.items()
        if all(row_id in table and table[row_id]["problem"] == row["problem"] for table in tables.values())
    }
    print(
        f"{len(shared):,} abstracts in all of {', '.join(f'{name} ({len(rows):,})' for name, rows in tables.items())}"
    )
    for split, rows in load_dataset(next(iter(folders.values()))).items():
        ids = [row_id for row_id in rows["id"] if row_id in shared]
        for name, table in tables.items():
            chosen = [table[row_id] for row_id in ids]
            if split == "test":
                texts = [{key: first[row["id"]][key] for key in ("approach", "completion")} for row in chosen]
                chosen = [{**row, **text} for row, text in zip(chosen, texts, strict=True)]
            place = args.output_dir / name / "data"
            place.mkdir(parents=True, exist_ok=True)
            Dataset.from_list(chosen).to_parquet(place / f"{split}.parquet")
            words = sum(len(row["approach"].split()) for row in chosen)
            print(f"{split:10} {name:12} {len(chosen):>8,} rows, {words:>10,} words of approaches")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "datasets", nargs="+", metavar="NAME=FOLDER", help="the datasets; the first decides the splits"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="for a folder of each")
    main(parser.parse_args())
