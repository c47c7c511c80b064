"""How sure a score is: resampled rows, 95 % intervals, paired differences, Holm's correction, and power."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as t_distribution

INTERVAL = (2.5, 97.5)  # percentiles: 95 %
MIN_MODELS_RESAMPLED = 8  # fewer runs of a recipe say too little of how runs differ
NUM_SIMULATIONS = 2000
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """
    A score of all rows, `(runs, 1)`, and of resampled rows, `(runs, resamples)`; NaN for not measured.

    The runs are all seeds of the first of `num_models` models, then all of the second, and so on.
    """

    values: np.ndarray
    resampled: np.ndarray
    num_models: int = 1

    @property
    def is_measured(self) -> bool:
        return bool(np.isfinite(self.values).all() and np.isfinite(self.averages).any())

    @property
    def value(self) -> float:
        """The mean of all runs."""
        return float(self.values.mean())

    @property
    def by_model(self) -> np.ndarray:
        """Each model's mean over its seeds, `(models,)`."""
        return self.values.reshape(self.num_models, -1).mean(axis=1)

    @property
    def averages(self) -> np.ndarray:
        """The mean over runs of each resample, `(resamples,)`; from eight models on they are drawn anew, too."""
        num_resamples = self.resampled.shape[1]
        by_model = self.resampled.reshape(self.num_models, -1, num_resamples).mean(axis=1)
        if self.num_models < MIN_MODELS_RESAMPLED:
            return by_model.mean(axis=0)
        chances = np.full(self.num_models, 1 / self.num_models)
        drawn = np.random.default_rng(1).multinomial(self.num_models, chances, size=num_resamples)
        return (by_model.T * drawn).sum(axis=1) / self.num_models


def draw_rows(num_rows: int, num_resamples: int) -> np.ndarray:
    """How often each row is drawn, `(resamples, rows)`; the same draws every time, so that differences are paired."""
    rng = np.random.default_rng(0)
    return rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=num_resamples)


def describe(estimate: Estimate) -> dict:
    """
    A score's value and the 95 % interval of its resamples.

    And its spread: over a recipe's runs where there are several, else over the seeds of sampled drafts.
    """
    if not estimate.is_measured:
        return {"value": None, "low": None, "high": None}
    low, high = np.nanpercentile(estimate.averages, INTERVAL)
    result = {"value": estimate.value, "low": float(low), "high": float(high)}
    values = estimate.by_model if estimate.num_models > 1 else estimate.values
    return result | ({"spread": float(values.std(ddof=1))} if len(values) > 1 else {})


def compare(ours: Estimate, theirs: Estimate) -> dict:
    """
    A paired difference with its 95 % interval and two-sided p = (1 + #{|d* - d| ≥ |d|}) / (n + 1).

    Both must come from the same draws of rows. A system against itself gives p = 1. With it each run's own difference
    and whether all share its sign; None, and p = 1, where one of the two was not measured.
    """
    if not (ours.is_measured and theirs.is_measured):
        return {"difference": None, "low": None, "high": None, "p": 1.0, "runs": [], "same_sign": False}
    difference = ours.value - theirs.value
    resampled = ours.averages - theirs.averages
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.percentile(resampled, INTERVAL)
    extreme = int((np.abs(resampled - difference) >= abs(difference)).sum())
    runs = [float(value - theirs.value) for value in ours.by_model]
    return {
        "difference": difference,
        "low": float(low),
        "high": float(high),
        "p": (1 + extreme) / (len(resampled) + 1),
        "runs": runs,
        "same_sign": all(np.sign(run) == np.sign(difference) for run in runs),
    }


def correct(comparisons: Sequence[dict]) -> list[dict]:
    """The comparisons in their order, each with Holm's correction for their number, as `p_holm`."""
    corrected, largest = {}, 0.0
    ranked = sorted(range(len(comparisons)), key=lambda i: comparisons[i]["p"])
    for rank, i in enumerate(ranked):
        largest = max(largest, min(1.0, comparisons[i]["p"] * (len(comparisons) - rank)))
        corrected[i] = largest
    return [{**row, "p_holm": corrected[i]} for i, row in enumerate(comparisons)]


def smallest_difference(differences: np.ndarray, num_rows: int, alpha: float) -> float:
    """
    The smallest difference that 8 of 10 simulated tests of `num_rows` rows find.

    Each draws centred paired differences of the measured rows and shifts them; for speed it is a t-test on the rows'
    means, not the resampling that judges the comparisons.
    """
    centred = differences - differences.mean()
    drawn = np.random.default_rng(0).choice(centred, size=(NUM_SIMULATIONS, num_rows))
    means, errors = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / np.sqrt(num_rows)
    needed = t_distribution.ppf(1 - alpha / 2, num_rows - 1) * errors
    low, high = 0.0, float(np.abs(means).max() + needed.max())  # at the upper end every test finds it
    for _ in range(50):
        middle = (low + high) / 2
        found = (np.abs(means + middle) > needed).mean()
        low, high = (low, middle) if found >= POWER else (middle, high)
    return high
