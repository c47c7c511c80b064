"""
Guidance on test rows: what tuned models draft with and without it, beside their base and systems without a model.

Several models are runs of one recipe: every row's scores are averaged over them. Intervals and p are of resampled rows
(`approach/evaluation/significance.py`). Guidance changes neither bits a byte nor the problem gain, which are of the
weights. Writes `predictions.jsonl` for `draft_samples.py`; drafts are kept as they come, as in `evaluate_model.py`.

    python benchmarks/guided.py --models M42 M43 M44 --base BASE --dataset_name PAIRS --output_dir outputs/guided
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PLAIN, GUIDED = "greedy, penalty 1.15", "greedy, penalty 1.15, guidance 2"
NUM_RESAMPLES = 10_000


def draft_all(args: argparse.Namespace, problems, partial) -> tuple[list, dict[str, float]]:
    """The drafts of base and tuned models, and the seconds a draft; those of drafts found on disk mean nothing."""
    from approach.evaluation.systems import SystemDrafts, base_prompts
    from approach.generation.engine import Drafter
    from approach.generation.sampling import DECODINGS

    base = Drafter(args.base, args.max_new_tokens)
    prompts = base_prompts(base.tokenizer, problems.rows, problems.examples)[args.base_way]
    seed = 0 if DECODINGS[args.base_decoding]["do_sample"] else None
    drafts = base.draft(prompts, partial, args.base_decoding, seed)
    entries = [SystemDrafts(args.base_way, "base", ["base"], args.base_decoding, [drafts])]
    runs, seconds = {PLAIN: [], GUIDED: []}, {PLAIN: 0.0, GUIDED: 0.0}
    for model in args.models:
        drafter = Drafter(model, args.max_new_tokens)
        for decoding, found in runs.items():
            started = time.monotonic()
            found.append(drafter.draft([row["prompt"] for row in problems.rows], partial, decoding))
            seconds[decoding] += (time.monotonic() - started) / len(problems.rows) / len(args.models)
    names = {PLAIN: "tuned", GUIDED: "tuned, guidance 2"}
    entries += [SystemDrafts(names[name], "fine-tuned", args.models, name, found) for name, found in runs.items()]
    return entries, seconds


def main(args: argparse.Namespace) -> None:
    import numpy as np
    from evaluate import load

    from approach.evaluation import significance
    from approach.evaluation.choice import summarize_behaviour
    from approach.evaluation.copying import summarize_overlap
    from approach.evaluation.systems import Selection, build_baselines, load_predictions, load_problems
    from approach.generation.partial import PartialDrafts

    selection = Selection("test", args.num_examples, tuple(args.id_range), args.draw_seed)
    problems = load_problems(args.dataset_name, None, selection, num_validation=1)
    names = ("specificity", "behaviour", "provenance")
    metric, behaviour, provenance = (load(str(ROOT / "approach" / "metrics" / f"{name}.py")) for name in names)
    entries, seconds = draft_all(args, problems, PartialDrafts(args.output_dir))
    entries += build_baselines(problems, metric, problems.train) + load_predictions(args.predictions, problems.rows)[0]

    rows, train = problems.rows, [row["approach"] for row in problems.train]
    weights, corpus = metric.weigh(train), provenance.corpus(train)
    references, asked = ([row[name] for row in rows] for name in ("approach", "problem"))
    draws, once = significance.draw_rows(len(rows), NUM_RESAMPLES), np.ones((1, len(rows)))
    estimates, written = {}, []
    for entry in entries:
        counted = [metric.statistics(texts, references, asked, weights) for texts in entry.texts]
        values = np.array([metric.from_pairs(pairs, once) for pairs, _ in counted])
        resampled = np.array([metric.from_pairs(pairs, draws) for pairs, _ in counted])
        estimates[entry.system] = estimate = significance.Estimate(values, resampled, entry.num_models)
        found, about = significance.summarize_estimate(estimate), summarize_behaviour(behaviour, entry.runs, rows)
        copied = summarize_overlap(provenance, corpus, entry.texts[0], rows, problems.train)["share_of_8grams"] or 0
        ended = f"{about['share_ended']:.1%}" if "share_ended" in about else ""
        print(
            f"{entry.system:28} {found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f}) each run "
            f"{np.round(values[:, 0], 4)} new-term F1 {np.mean([terms[:, 0].mean() for _, terms in counted]):.3f} "
            f"ended {ended} repeated 4-grams {about['repeated_4grams'] or 0:.2%} "
            f"8-grams of training rows {copied:.2%} seconds {seconds.get(entry.decoding, 0):.2f}",
            flush=True,
        )
        for (pairs, _), run in zip(counted, entry.runs, strict=True):
            for i, (row, draft) in enumerate(zip(rows, run, strict=True)):
                hits = metric.hits(draft["prediction"], row["approach"], row["problem"], weights)
                about_row = {"specificity": pairs[i].sum() / (len(rows) - 1), "hits": hits}
                written.append({"system": entry.system, "id": row["id"], **draft, **about_row})
    for other in estimates:
        compared = significance.compare(estimates["tuned, guidance 2"], estimates[other])
        print(f"tuned, guidance 2 to {other}: {json.dumps(compared)}")
    args.output_dir.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    (args.output_dir / "predictions.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    from approach.runtime import set_up_torch

    set_up_torch()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="Merged models: runs of one recipe.")
    parser.add_argument("--base", required=True, help="The base.")
    parser.add_argument("--base_way", default="base, two examples", help="How the base is asked.")
    parser.add_argument("--base_decoding", default="sampled", help="How the base drafts.")
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument(
        "--predictions", nargs="*", default=[], help="Other systems' drafts, as evaluate_model.py has it."
    )
    parser.add_argument("--num_examples", type=int, default=200, help="Test problems.")
    parser.add_argument("--id_range", type=float, nargs=2, default=[0, 0.5], help="The part of the test ids.")
    parser.add_argument("--draw_seed", type=int, default=0, help="Of the draw.")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="Longest draft, in tokens.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for predictions.jsonl.")
    main(parser.parse_args())
