"""How far each machine score agrees with people: which of one problem's drafts is better, controls left out."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import kendalltau

from approach.review.candidates import DRAFT
from approach.review.questions import USE
from approach.review.ratings import Ratings
from approach.review.resampling import Draws, describe, mean_of

SCORES = {
    "specificity": "specificity",
    "rougeL": "ROUGE-L",
    "bertscore_f1": "BERTScore F1",
    "words": "length in words",
}


def compare_scores(ratings: Ratings, predictions: Sequence[Mapping], draws: Draws) -> list[dict]:
    """
    For each machine score its Kendall's tau with the raters' 1 to 5 within problems, and how many pairs it foresees.

    The length in words stands among them as what any score should beat.
    """
    judged = [place for place, system in enumerate(ratings.systems) if system.role == DRAFT]
    use, found = average_use(ratings, draws, judged), []
    for name, label in SCORES.items():
        scores = np.array([[read_score(predictions[row[place]], name) for place in judged] for row in ratings.lines])
        tau, pairs = compare_ranks(scores, use, draws), compare_pairs(scores, ratings, judged, draws)
        found.append({"score": label, "tau": tau, "pairs": pairs})
    return found


def read_score(prediction: Mapping, name: str) -> float:
    """A draft's score by its row in predictions.jsonl; NaN where it was not measured."""
    value = len(prediction["prediction"].split()) if name == "words" else prediction[name]
    return float("nan") if value is None else float(value)


def average_use(ratings: Ratings, draws: Draws, judged: Sequence[int]) -> np.ndarray:
    """
    How far the raters of each different draw of raters would use the drafts, `(raters' draws, problems, systems)`.

    Each rater's answers are taken from that rater's mean, for some are milder than others; NaN where nobody rated.
    """
    rated = [row for row in ratings.drafts if USE.name in row.answers]
    said = np.full((len(draws.names), len(ratings.lines), len(judged)), np.nan)
    for place, rater in enumerate(draws.names):
        own = [row for row in rated if row.rater == rater]
        mean = np.mean([row.answers[USE.name] for row in own]) if own else 0.0
        for row in own:
            if row.system in judged:
                said[place, row.problem, judged.index(row.system)] = row.answers[USE.name] - mean
    different = np.unique(draws.raters, axis=0)
    # Rounded, so that what is equal stays equal, whatever the order of the sum.
    return mean_of(said, different[:, :, None, None]).round(9)


def compare_ranks(scores: np.ndarray, use: np.ndarray, draws: Draws) -> dict:
    """Kendall's tau-b of scores and use within each problem, averaged over the problems that have one."""
    taus = np.array([[tau_of(scores[row], average[row]) for row in range(len(scores))] for average in use])
    _, drawn = np.unique(draws.raters, axis=0, return_inverse=True)
    by_draw = taus[drawn.reshape(-1)]
    return describe(mean_of(by_draw, draws.problems), int(np.isfinite(by_draw[0]).sum()))


def tau_of(scores: np.ndarray, use: np.ndarray) -> float:
    """Tau-b of the drafts that have both; NaN where fewer than two have, or all are equal in one of them."""
    both = np.isfinite(scores) & np.isfinite(use)
    one, other = scores[both], use[both]
    if len(one) < 2 or (one == one[0]).all() or (other == other[0]).all():
        return float("nan")
    return float(kendalltau(one, other).statistic)


def compare_pairs(scores: np.ndarray, ratings: Ratings, judged: Sequence[int], draws: Draws) -> dict:
    """The share of pairs of drafts in which the score prefers what the rater prefers; ties of either left out."""
    rated = [row for row in ratings.pairs if row.preferred and set(row.systems) <= set(judged)]
    sides = [[scores[row.problem, judged.index(system)] for system in row.systems] for row in rated]
    differences = np.array([one - other for one, other in sides])
    told = [place for place, difference in enumerate(differences) if np.isfinite(difference) and difference]
    if not told:
        return describe(np.full(2, np.nan), 0)
    kept = [rated[place] for place in told]
    same = np.sign(differences[told]) == [row.preferred for row in kept]
    return describe(mean_of(same.astype(float), draws.weights(kept)), len(kept))
