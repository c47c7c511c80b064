"""The plain row-by-row way to the same pairs, in memory and without a search for duplicates, to be timed against."""

import json
import random
import sys
from pathlib import Path

from datasets import Dataset


def main(corpus: str, output_dir: str) -> None:
    rows = []
    with open(corpus, encoding="utf-8") as file:
        for line in file:
            abstract = json.loads(line)
            sentences = [sentence.strip() for sentence in abstract["abstract"].split("\n") if sentence.strip()]
            problem, approach = sentences[0], " ".join(sentences[1:])
            if len(sentences) > 1 and len(problem.split()) <= 50 and len(approach.split()) >= 90:
                pair = {"id": str(abstract["id"]), "problem": problem, "approach": approach}
                prompt = {"prompt": f"<problem>{problem}</problem><approach>", "completion": f" {approach}</approach>"}
                rows.append({**pair, **prompt})
    random.Random(42).shuffle(rows)
    held_out = len(rows) // 20
    splits = {"test": rows[:held_out], "validation": rows[held_out : 2 * held_out], "train": rows[2 * held_out :]}
    Path(output_dir).mkdir()
    for name, split in splits.items():
        Dataset.from_list(split).to_parquet(f"{output_dir}/{name}.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
