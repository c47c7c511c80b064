"""How sure the ratings are: problems and raters drawn anew together, and the shares and means of each draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from approach.review.questions import ABOUT_DRAFTS
from approach.review.ratings import Ratings

NUM_RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles: 95 %


@dataclass(frozen=True)
class Draws:
    """
    How often each problem and each rater was drawn, `(draws, problems)` and `(draws, raters)`; the first draw is all.

    A rating counts as often as its problem times its rater: what another sample of both would give (McCullagh 2000).
    """

    problems: np.ndarray
    raters: np.ndarray
    names: Sequence[int]  # the raters' numbers

    def weights(self, ratings: Sequence) -> np.ndarray:
        """How often each rating counts, `(draws, ratings)`."""
        problems = [rating.problem for rating in ratings]
        raters = [self.names.index(rating.rater) for rating in ratings]
        return (self.problems[:, problems] * self.raters[:, raters]).astype(float)


def draw(ratings: Ratings, seed: int = 0) -> Draws:
    """The draws for all that is computed of these ratings."""
    rng = np.random.default_rng(seed)

    def resample(number: int) -> np.ndarray:
        drawn = rng.multinomial(number, np.full(number, 1 / number), size=NUM_RESAMPLES)
        return np.concatenate([np.ones((1, number), dtype=drawn.dtype), drawn])

    return Draws(resample(len(ratings.lines)), resample(len(ratings.raters)), ratings.raters)


def describe(values: np.ndarray, number: int) -> dict:
    """The value of all ratings and the 95 % interval of the draws, `(draws,)`; None where it was not measured."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(drawn):
        return {"value": None, "low": None, "high": None, "number": number}
    low, high = np.percentile(drawn, INTERVAL)
    return {"value": float(values[0]), "low": float(low), "high": float(high), "number": number}


def mean_of(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    The weighted mean of each draw over the second axis, of the values that are not NaN; NaN where none counts.

    `weights` are of shape `(draws, values, …)`; `values` are of the same, or the same for every draw.
    """
    weights = weights * np.isfinite(values)
    total, sums = weights.sum(axis=1), (weights * np.nan_to_num(values)).sum(axis=1)
    return np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)


def measure_shares(ratings: Ratings, draws: Draws) -> list[dict[str, dict]]:
    """For each system the share of yes to each question, and the mean of 1 to 5, with intervals."""
    found = []
    for system in range(len(ratings.systems)):
        by_question = {}
        for question in ABOUT_DRAFTS:
            rated = [row for row in ratings.drafts if row.system == system and question.name in row.answers]
            values = np.array([row.answers[question.name] for row in rated], dtype=float)
            means = mean_of(values, draws.weights(rated)) if rated else np.full(2, np.nan)
            by_question[question.name] = describe(means, len(rated))
        found.append(by_question)
    return found
