"""
What an epoch of the report's data would take on several machines: an estimate, from what was measured on this one.

An epoch is 103,663 rows of 266 tokens on average. A token costs 4 × 1.03 G operations (forward, and backward to
activations: weights are frozen), with activation checkpointing 6 ×. Of a machine's rate for plain matrix products
training reaches the share that `training.py` measured; for cards, their makers' published rates and the same share.

    python benchmarks/epoch_estimate.py benchmarks/results/training_epyc_2_cores.json
"""

import argparse
import json
from pathlib import Path

TOKENS = 103_663 * 266
OPERATIONS = 1.03e9
# TFLOP/s as published: FP32, and BF16 on tensor cores where the card has it (dense, FP32 accumulation).
CARDS = {
    "GTX 1660 Ti, 6 GB": (5.4, None),
    "T4, 16 GB": (8.1, None),
    "RTX 3060, 12 GB": (12.7, 51.0),
    "H200": (67.0, 989.0),
}


def hours(rate: float, units: int, share: float) -> float:
    """Hours for an epoch at `rate` operations a second, of which training reaches `share`."""
    return TOKENS * units * OPERATIONS / (rate * share) / 3600


def main(args: argparse.Namespace) -> None:
    found = json.loads(Path(args.results).read_text(encoding="utf-8"))
    rows = {row["kind"]: row for row in found["rows"]}
    share = {"FP32": rows["recipe"]["of_limit"], "BF16": rows["recipe, bf16"]["of_limit"]}
    print(f"share of the matrix rate reached here: FP32 {share['FP32']:.2f}, BF16 {share['BF16']:.2f}\n")
    print(f"{'hours for an epoch, checkpointing':36}{'FP32':>10}{'BF16':>10}")
    measured = [TOKENS / rows[kind]["tokens_a_second"] / 3600 for kind in ("recipe", "recipe, bf16")]
    print(f"{'this machine, as measured':36}{measured[0]:10.0f}{measured[1]:10.0f}")
    for card, (full, half) in CARDS.items():
        cells = f"{hours(full * 1e12, 6, share['FP32']):10.1f}"
        cells += f"{hours(half * 1e12, 6, share['BF16']):10.1f}" if half else f"{'none':>10}"
        print(f"{card + ', estimate':36}{cells}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="What training.py wrote with --output.")
    main(parser.parse_args())
