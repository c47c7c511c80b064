"""How sure a score is: resampled rows, 95 % intervals, paired differences and Holm's correction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

INTERVAL = (2.5, 97.5)  # percentiles: 95 %

Estimates = Mapping[tuple[str, str], Mapping[str, "Estimate"]]  # by system and decoding, then by score


@dataclass(frozen=True)
class Estimate:
    """A score of all rows, `(runs, 1)`, and of resampled rows, `(runs, resamples)`; NaN for not measured."""

    values: np.ndarray
    resampled: np.ndarray

    @property
    def is_measured(self) -> bool:
        return not (np.isnan(self.values).any() or np.isnan(self.resampled).any())


@dataclass(frozen=True)
class Pair:
    """Two systems that are compared by some scores; the decoding is that of the first."""

    ours: tuple[str, str]  # system and decoding
    theirs: tuple[str, str]
    scores: Sequence[str]


def draw_rows(num_rows: int, num_resamples: int) -> np.ndarray:
    """How often each row is drawn, `(resamples, rows)`; the same draws every time, so that differences are paired."""
    rng = np.random.default_rng(0)
    return rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=num_resamples)


def describe(estimate: Estimate) -> dict:
    """A score's value, the 95 % interval of its resamples, and its spread over seeds where there are several."""
    if not estimate.is_measured:
        return {"value": None, "low": None, "high": None}
    values = estimate.values
    low, high = np.percentile(estimate.resampled.mean(axis=0), INTERVAL)
    result = {"value": float(values.mean()), "low": float(low), "high": float(high)}
    return result | ({"spread": float(values.std(ddof=1))} if len(values) > 1 else {})


def compare(ours: Estimate, theirs: Estimate) -> dict:
    """
    A paired difference with its 95 % interval and two-sided p = (1 + #{|d* - d| ≥ |d|}) / (n + 1).

    Both must come from the same draws of rows. A system against itself gives p = 1.
    """
    difference = float(ours.values.mean() - theirs.values.mean())
    resampled = ours.resampled.mean(axis=0) - theirs.resampled.mean(axis=0)
    low, high = np.percentile(resampled, INTERVAL)
    extreme = int((np.abs(resampled - difference) >= abs(difference)).sum())
    p = (1 + extreme) / (len(resampled) + 1)
    return {"difference": difference, "low": float(low), "high": float(high), "p": p}


def correct(comparisons: Sequence[dict]) -> list[dict]:
    """The comparisons in their order, each with Holm's correction for their number, as `p_holm`."""
    corrected, largest = {}, 0.0
    ranked = sorted(range(len(comparisons)), key=lambda i: comparisons[i]["p"])
    for rank, i in enumerate(ranked):
        largest = max(largest, min(1.0, comparisons[i]["p"] * (len(comparisons) - rank)))
        corrected[i] = largest
    return [{**row, "p_holm": corrected[i]} for i, row in enumerate(comparisons)]


def compare_pairs(pairs: Sequence[Pair], estimates: Estimates) -> list[dict]:
    """Every pair by every score that both measured, corrected for their number."""
    comparisons = []
    for pair in pairs:
        for score in pair.scores:
            ours, theirs = estimates[pair.ours][score], estimates[pair.theirs][score]
            if ours.is_measured and theirs.is_measured:
                system, decoding = pair.ours
                about = {"system": system, "baseline": pair.theirs[0], "decoding": decoding, "metric": score}
                comparisons.append({**about, **compare(ours, theirs)})
    return correct(comparisons)
