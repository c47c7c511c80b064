"""
How drafts behave and how specific they are, by decoding, on validation rows: the shipped defaults were chosen so.

    python benchmarks/decoding.py --model outputs/model --dataset_name outputs/pairs    # 10 minutes, 135 M parameters
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}


def main(args: argparse.Namespace) -> None:
    import evaluate
    import numpy as np
    import torch

    from approach.evaluation.systems import Selection, load_rows
    from approach.generation.engine import Drafter

    rows = Selection("validation", args.rows).take(load_rows(args.dataset_name, None, "validation"))
    specificity, behaviour = (
        evaluate.load(str(ROOT / "approach" / "metrics" / f"{name}.py")) for name in ("specificity", "behaviour")
    )
    weights = specificity.weigh([row["approach"] for row in load_rows(args.dataset_name, None, "train")])
    references, problems = ([row[name] for row in rows] for name in ("approach", "problem"))
    drafter = Drafter(args.model, args.max_new_tokens, dtype=args.dtype and getattr(torch, args.dtype))
    decodings = itertools.product(args.penalties, args.guidances, (("greedy", GREEDY), ("sampled", SAMPLED)))
    for penalty, guidance, (name, decoding) in decodings:
        started = time.monotonic()
        options = {**decoding, "repetition_penalty": penalty, "guidance": guidance}
        drafts = drafter.generate([row["prompt"] for row in rows], options)
        texts = [draft["prediction"] for draft in drafts]
        pairs, terms = specificity.statistics(texts, references, problems, weights)
        by_row = pairs.sum(axis=1) / (len(rows) - 1)
        about = behaviour.compute(predictions=texts, references=references, problems=problems)
        print(
            f"{name:8} penalty {penalty:<5} guidance {guidance:<4} specificity {by_row.mean():.4f} ± "
            f"{by_row.std(ddof=1) / len(rows) ** 0.5:.4f}  new-term F1 {terms[:, 0].mean():.3f}  "
            f"ended {np.mean([draft['ended'] for draft in drafts]):.0%}  "
            f"repeated 4-grams {about['repeated_4grams']:.2%}  "
            f"tokens {np.mean([draft['num_tokens'] for draft in drafts]):.0f}  {time.monotonic() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="A merged model or an adapter.")
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--rows", type=int, default=96, help="Validation rows, the first by id.")
    parser.add_argument("--penalties", type=float, nargs="+", default=[1.0, 1.1, 1.15], help="Repetition penalties.")
    parser.add_argument("--guidances", type=float, nargs="+", default=[1.0], help="Strengths of guidance; 1: none.")
    parser.add_argument("--max_new_tokens", type=int, default=448, help="Longest draft, in tokens.")
    parser.add_argument("--dtype", help="Precision of the weights; the fastest of the device without it.")
    main(parser.parse_args())
