"""
A learning curve: what a base has learned after so many examples, each point trained with a decay of its own.

Every point is a run of the recipe for a number of steps, scored on validation rows alone: loss, specificity and its
standard error, own reference rank, problem gain, result words, numbers of its own, and 8-grams of the rows it saw.
Runs are kept in the output folder, and the same command goes on where it was stopped. Prints a row of JSON a point.

    python benchmarks/learning_curve.py --base BASE --dataset_name PAIRS --examples 300 1200 4800 \
        --output_dir outputs/curve
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STEP_ROWS = 4  # of the recipe
ROW_METRICS = ("specificity", "reference_rank", "result_words", "own_numbers", "behaviour", "provenance")


def train(args: argparse.Namespace, num_examples: int) -> Path:
    """Trains a point of the curve, or continues it; returns its folder."""
    folder, steps = args.output_dir / f"{num_examples}_seed{args.seed}", num_examples // STEP_ROWS
    if (folder / "run.json").exists():
        return folder
    command = [sys.executable, "train_sft.py", "--config", args.recipe, "--model_name_or_path", args.base]
    command += ["--dataset_name", args.dataset_name, "--output_dir", folder.resolve(), "--max_steps", steps]
    command += ["--seed", args.seed, "--eval_steps", steps, "--eval_on_start", "false", "--num_samples", 0]
    command += ["--save_steps", 100, "--save_total_limit", 1, "--resume_from_checkpoint", "true", *args.more]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
    return folder


def score(args: argparse.Namespace, folder: Path) -> dict:
    """The scores of a run's drafts for validation rows."""
    import numpy as np

    from approach.evaluation.choice import summarize_behaviour
    from approach.evaluation.copying import find_rows_seen, summarize_overlap
    from approach.evaluation.reference_nll import measure_reference_nll
    from approach.evaluation.scores import find_neighbours
    from approach.evaluation.systems import Selection, build_recipes, load_problems
    from approach.generation.engine import Drafter
    from approach.generation.partial import PartialDrafts
    from approach.metrics import load_metric

    problems = load_problems(args.dataset_name, None, Selection("validation", args.num_rows, draw_seed=0), 1)
    rows = problems.rows
    asked, references = ([row[name] for row in rows] for name in ("problem", "approach"))
    metrics = {name: load_metric(name) for name in ROW_METRICS}
    partial, started = PartialDrafts(folder / "drafts"), time.monotonic()
    drafter = Drafter(str(folder), args.max_new_tokens, base=args.base)
    drafts = drafter.draft([row["prompt"] for row in rows], partial, args.decoding)
    seconds = time.monotonic() - started
    nll = measure_reference_nll(drafter, [row["prompt"] for row in rows], references, partial, permuted=True)
    texts, terms = (
        [draft["prediction"] for draft in drafts],
        metrics["specificity"].weigh([row["approach"] for row in problems.train]),
    )
    pairs, _ = metrics["specificity"].statistics(texts, references, asked, terms)
    by_row, wins = pairs.sum(axis=1) / (len(rows) - 1), metrics["reference_rank"].statistics(pairs)
    seen = find_rows_seen(build_recipes([str(folder)], [])[0], problems.train).seen
    provenance = metrics["provenance"]
    copied = summarize_overlap(provenance, provenance.corpus([row["approach"] for row in seen]), texts, rows, seen)
    behaviour = summarize_behaviour(metrics["behaviour"], [drafts], rows)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    found = {
        "examples": run["dataset"]["rows"],
        "seed": args.seed,
        "train_minutes": round(run["seconds"] / 60, 1),
        "eval_loss": [entry["eval_loss"] for entry in run["losses"] if "eval_loss" in entry][-1],
        "specificity": float(by_row.mean()),
        "standard_error": float(by_row.std(ddof=1) / np.sqrt(len(rows))),
        "own_rank": float(wins.sum() / (len(rows) * (len(rows) - 1))),
        "own_rank_hardest": float(metrics["reference_rank"].against(wins, find_neighbours(asked)).mean()),
        "problem_gain": nll.problem_gain,
        **metrics["result_words"].compute(predictions=texts, problems=asked),
        **metrics["own_numbers"].compute(predictions=texts, problems=asked),
        "words": behaviour["mean_words"],
        "share_ended": behaviour["share_ended"],
        "share_of_8grams": copied["share_of_8grams"],
        "draft_seconds": round(seconds, 1),
    }
    with (folder / "drafts.jsonl").open("w", encoding="utf-8") as file:
        for row, text, value in zip(rows, texts, by_row, strict=True):
            file.write(json.dumps({"id": row["id"], "draft": text, "specificity": value}) + "\n")
    return found


def main(args: argparse.Namespace) -> None:
    for num_examples in args.examples:
        print(json.dumps(score(args, train(args, num_examples))), flush=True)


if __name__ == "__main__":
    from approach.runtime import set_up_torch

    set_up_torch()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="The base's folder.")
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--examples", type=int, nargs="+", required=True, help="How many, one run each.")
    parser.add_argument("--recipe", default="recipes/smollm2_135m_cpu.yaml", help="The recipe.")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="More arguments of train_sft.py; last.")
    parser.add_argument("--seed", type=int, default=42, help="Of the training.")
    parser.add_argument("--num_rows", type=int, default=200, help="Validation rows.")
    parser.add_argument("--decoding", default="greedy, penalty 1.15", help="One of approach.generation.sampling's.")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="Longest draft, in tokens.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for the runs.")
    main(parser.parse_args())
