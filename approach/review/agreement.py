"""How far raters agree: Krippendorff's alpha, by NLTK, whose licence is Apache-2.0."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

from nltk.metrics.agreement import AnnotationTask

from approach.review.questions import ABOUT_DRAFTS, BETTER, USE
from approach.review.ratings import Ratings

Said = tuple[int, Hashable, int]  # rater, what was judged, answer


def measure_agreement(ratings: Ratings) -> dict[str, dict]:
    """For each question its alpha, None where it cannot be had, and how many items two or more raters answered."""
    found = {}
    for question in ABOUT_DRAFTS:
        said = [
            (row.rater, (row.problem, row.system), row.answers[question.name])
            for row in ratings.drafts
            if question.name in row.answers
        ]
        found[question.name] = describe(said, is_ordinal=question is USE)
    said = [(row.rater, (row.problem, row.systems), row.preferred) for row in ratings.pairs]
    return found | {BETTER.name: describe(said, is_ordinal=True)}


def describe(said: Sequence[Said], is_ordinal: bool) -> dict:
    """The alpha of what was said, and the number of items that it rests on."""
    raters_of = Counter(item for _, item, _ in said)
    shared = [row for row in said if raters_of[row[1]] > 1]
    return {"alpha": alpha(shared, is_ordinal), "items": len({item for _, item, _ in shared})}


def alpha(said: Sequence[Said], is_ordinal: bool) -> float | None:
    """
    Krippendorff's alpha of items that two or more raters judged, for ranks or for answers that are equal or not.

    None where nothing was said, or always the same: agreement that chance does not explain cannot be told then.
    """
    if len({answer for *_, answer in said}) < 2:
        return None
    answers = Counter(answer for *_, answer in said)
    distance = ordinal_distance(answers) if is_ordinal else lambda one, other: float(one != other)
    return float(AnnotationTask(data=list(said), distance=distance).alpha())


def ordinal_distance(counts: Counter) -> Callable[[int, int], float]:
    """The square of the number of answers that lie between two ranks, each rank by half (Krippendorff 2011)."""
    ranks, below = sorted(counts), {}
    below[ranks[0]] = counts[ranks[0]] / 2
    for lower, upper in pairwise(ranks):
        below[upper] = below[lower] + (counts[lower] + counts[upper]) / 2
    return lambda one, other: (below[one] - below[other]) ** 2
