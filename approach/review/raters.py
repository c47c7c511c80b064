"""What the hidden controls and the repeats say of each rater: who seems not to have read, or reversed the scale."""

from collections.abc import Sequence

from scipy.stats import binomtest, mannwhitneyu

from approach.review.candidates import AUTHORS, OTHER
from approach.review.questions import FITS, USE
from approach.review.ratings import Ratings

CHANCE = 0.1  # another problem's approach may fit by chance one time in ten
ALPHA = 0.01
ACCEPTS = "accepts other problems' approaches"
REVERSES = "rates other problems' approaches above the authors'"


def check_raters(ratings: Ratings) -> list[dict]:
    """For each rater the controls, the repeats, and what is `odd`: nobody is left out, whoever reads may do so."""
    return [check_rater(ratings, rater) for rater in ratings.raters]


def check_rater(ratings: Ratings, rater: int) -> dict:
    """One rater's answers on the controls and on what was asked twice."""
    fits = {role: list_answers(ratings, rater, role, FITS.name) for role in (AUTHORS, OTHER)}
    use = {role: list_answers(ratings, rater, role, USE.name) for role in (AUTHORS, OTHER)}
    accepted, shown = sum(fits[OTHER]), len(fits[OTHER])
    p_accepts = binomtest(accepted, shown, CHANCE, alternative="greater").pvalue if shown else 1.0
    p_reverses = mannwhitneyu(use[AUTHORS], use[OTHER], alternative="less").pvalue if all(use.values()) else 1.0
    odd = [text for p, text in ((p_accepts, ACCEPTS), (p_reverses, REVERSES)) if p < ALPHA]
    repeats = [repeat.is_same for repeat in ratings.repeats if repeat.rater == rater]
    return {
        "rater": rater,
        "drafts": sum(row.rater == rater and bool(row.answers) for row in ratings.drafts),
        "pairs": sum(row.rater == rater for row in ratings.pairs),
        "other_fits": (accepted, shown),
        "authors_fit": (sum(fits[AUTHORS]), len(fits[AUTHORS])),
        "use": {role: mean(values) for role, values in use.items()},
        "authors_won": count_wins(ratings, rater),
        "repeats_same": (sum(repeats), len(repeats)),
        "p_accepts": float(p_accepts),
        "p_reverses": float(p_reverses),
        "odd": odd,
    }


def list_answers(ratings: Ratings, rater: int, role: str, question: str) -> list[int]:
    """A rater's answers to a question on the drafts of a control."""
    return [
        row.answers[question]
        for row in ratings.drafts
        if row.rater == rater and ratings.systems[row.system].role == role and question in row.answers
    ]


def count_wins(ratings: Ratings, rater: int) -> tuple[int, int]:
    """How often a rater found the authors' approach better than another problem's, and in how many pairs."""
    place = {system.role: number for number, system in enumerate(ratings.systems)}
    two = tuple(sorted((place[AUTHORS], place[OTHER])))
    sign = 1 if two[0] == place[AUTHORS] else -1
    preferred = [sign * row.preferred for row in ratings.pairs if row.rater == rater and row.systems == two]
    return preferred.count(1), len(preferred)


def mean(values: Sequence[int]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None
