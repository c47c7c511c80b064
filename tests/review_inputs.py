"""An evaluation as people may judge it, and raters who fill its sheet by known preferences."""

import csv
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from review_sheet import main, parse_arguments

OURS, BASE, AUTHORS, OTHER, NEAREST = (
    ("fine-tuned", "sampled"),
    ("base", "greedy"),
    ("reference", "none"),
    ("random training approach", "none"),
    ("nearest training approach", "none"),
)
SYSTEMS = (OURS, BASE, AUTHORS, OTHER, NEAREST)
HOSTILE = "<script>window.harmed=1</script></script><!-- & ' \" =1+1"
NOT_RATED = {"fits": "", "approach": "", "tryable": "", "wrong": "", "use": "", "better": ""}


def write_scores(folder: Path, num_problems: int = 60, seeds: int = 2, scores: Mapping | None = None) -> Path:
    """What evaluate_model.py writes, as far as a sheet reads it where no `scores` are given."""
    folder.mkdir(parents=True)
    rng, lines = random.Random(5), []
    for i in range(num_problems):
        for system, decoding in (*SYSTEMS, ("problem copied", "none"), ("base", "sampled")):
            for seed in range(seeds if decoding == "sampled" else 1):
                words = rng.choices(["noise", "graphs", "readers", "measured", "by", "a", "filter"], k=12)
                about = {"system": system, "decoding": decoding, "model": None, "seed": seed, "id": f"row-{i}"}
                text = {"problem": f"Problem {i} of noise {HOSTILE}", "prediction": f"{' '.join(words)}\n{i} {seed}."}
                measured = {"specificity": rng.random(), "rougeL": rng.random(), "bertscore_f1": rng.random()}
                lines.append({**about, **text, "reference": "Reference.", **measured, "hits": []})
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    kinds = {"fine-tuned": "fine-tuned", "base": "base"}
    names = [*dict.fromkeys(row["system"] for row in lines)]
    chosen = {"fine-tuned": "sampled", "base": "greedy"}
    scores = scores or {
        "systems": {name: {"kind": kinds.get(name, "no model")} for name in names},
        "choice": {
            "systems": {name: {"kind": kinds[name], "chosen": chosen[name]} for name in chosen},
            "base_for_drafts": "base",
        },
    }
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


def make_sheet(scores: Path, folder: Path, *more: str) -> Path:
    """A sheet by the script, in this process."""
    main(parse_arguments([str(scores), "--output_dir", str(folder), *more]))
    return folder


def read_key(sheet: Path) -> dict:
    return json.loads((sheet / "key.json").read_text(encoding="utf-8"))


def read_spreadsheet(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_ratings(path: Path, rows: list[Mapping[str, str]]) -> Path:
    columns = ["sheet", "rater", "item", *NOT_RATED]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def fill(sheet: Path, answer: Callable[[int, int, list[int], random.Random], dict], seed: int = 0) -> list[Path]:
    """The raters' files: `answer` says what a rater answers of a problem's systems; a repeat is answered as before."""
    key, paths = read_key(sheet), []
    for rater in range(1, key["raters"] + 1):
        rows = read_spreadsheet(sheet / "for_raters" / f"sheet-rater-{rater}.csv")
        for row in rows:
            about = key["items"][row["item"]]
            systems = sorted(about["systems"])
            rng = random.Random(hashlib.sha256(f"{seed} {rater} {about['problem']} {systems}".encode()).digest())
            answers = answer(rater, about["problem"], systems, rng)
            if answers.get("better") in ("first", "second"):
                first = (answers["better"] == "first") == (about["systems"] == systems)
                answers = {"better": "A" if first else "B"}
            row.update(NOT_RATED | answers)
        paths.append(write_ratings(sheet / f"ratings-rater-{rater}.csv", rows))
    return paths
