"""
How often the planned comparisons reject a null hypothesis that is true, and how often intervals hold the truth, by rows.

Rows are real abstracts, drafts are made from them: a share of a draft's words is of its own reference, the rest of another
abstract. Two systems of the same mean are compared on samples of few rows from a large population, as
`approach/evaluation/significance.py` does it and as it was done before (percentiles of resampled rows, p from the
resamples). The comparison with the nearest training approach has the approach of the nearest problem as a baseline, whose
specificity is skewed; that of problem gains has skewed gains, of references of real lengths.

    python benchmarks/few_rows.py --abstracts acl_abstracts_2022_2023.jsonl.gz
"""

import argparse
import gzip
import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NUM_RESAMPLES = 1000
ALPHAS = (0.01 / 3, 0.01, 0.05)


def load_pairs(path: Path, number: int) -> tuple[list[str], list[str]]:
    """Problems and approaches of the first abstracts: the first sentence and the rest."""
    pairs = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            problem, _, approach = json.loads(line)["abstract"].partition(". ")
            if len(approach.split()) > 30:
                pairs.append((problem, approach))
    random.Random(0).shuffle(pairs)
    problems, approaches = zip(*pairs[:number], strict=True)
    return list(problems), list(approaches)


def mix(approaches: list[str], rng: random.Random, shape: float) -> list[str]:
    """Drafts of which a share of the words, drawn for each, is of the own reference, the rest of another abstract."""
    drafts = []
    for own in approaches:
        share = rng.betavariate(shape, 9 * shape)  # 0.1 on average; the smaller the shape, the more skewed
        other, words = rng.choice(approaches).split(), own.split()
        drafts.append(" ".join(word for word in words if rng.random() < share) + " " + " ".join(other))
    return drafts


def build_populations(path: Path, number: int) -> dict:
    """For each comparison what the rows of both systems are, with the same mean."""
    import numpy as np
    from evaluate import load

    from approach.retrieval import BM25Index

    problems, approaches = load_pairs(path, 2 * number)
    train = slice(number, None)
    metric = load(str(ROOT / "approach" / "metrics" / "specificity.py"))
    weights = metric.weigh(approaches[train])
    near = BM25Index(problems[train]).nearest(problems[:number], k=1)
    nearest = [approaches[train][hits[0][0]] if hits else "" for hits in near]
    rng, references = random.Random(1), approaches[:number]

    def specificity(drafts: list[str]) -> np.ndarray:
        return metric.statistics(drafts, references, problems[:number], weights)[0]

    one, two, even = (specificity(mix(references, rng, shape)) for shape in (0.3, 0.3, 3.0))
    size = np.array([len(text.encode()) for text in references], float)
    # Differences of the gains of a base of 9 M parameters, asked in two ways, had a skewness of 0.1 and an excess
    # kurtosis of 2.0 over 500 of these rows; those of Student's t with 7 degrees of freedom have 0 and 2.
    noise = np.random.default_rng(0)
    one_gain, other_gain = (0.02 * size * (1 + noise.standard_t(7, number)) for _ in range(2))
    skewed_gain = 0.02 * size * (noise.gamma(4, 0.5, number) - 1)  # of a skewness of 1
    return {
        "specificity, to the base": ("pairs", one, two),
        "specificity, to the base, more even": ("pairs", one, even),
        "specificity, to the nearest": ("pairs", one, specificity(nearest)),
        "problem gain, to the base": ("gain", (one_gain, size), (other_gain, size)),
        "problem gain, to the base, one skewed": ("gain", (one_gain, size), (skewed_gain, size)),
    }
