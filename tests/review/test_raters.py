"""A random clicker and one who reverses the scale are named; those who read are not."""

import random

import pytest

from approach.review.candidates import AUTHORS, DRAFT, NEAREST, OTHER, System
from approach.review.design import Size, design_sheet
from approach.review.raters import ACCEPTS, REVERSES, check_raters
from approach.review.ratings import DraftRating, PairRating, Ratings

ROLES = (DRAFT, DRAFT, AUTHORS, OTHER, NEAREST)
SYSTEMS = [System(f"system {i}", "none", role) for i, role in enumerate(ROLES)]
SHARE_FITS = {DRAFT: 0.7, AUTHORS: 0.95, OTHER: 0.05, NEAREST: 0.4}
MEAN_USE = {DRAFT: 2.8, AUTHORS: 4.0, OTHER: 1.5, NEAREST: 2.2}


def read_carefully(role: str, rng: random.Random) -> dict[str, int]:
    use = round(min(5, max(1, rng.gauss(MEAN_USE[role], 0.9))))
    return {"fits": int(rng.random() < SHARE_FITS[role]), "use": use}


def click_at_random(role: str, rng: random.Random) -> dict[str, int]:
    return {"fits": rng.randrange(2), "use": rng.randint(1, 5)}


def reverse_the_scale(role: str, rng: random.Random) -> dict[str, int]:
    answers = read_carefully(role, rng)
    return answers | {"use": 6 - answers["use"]}


def rate(kinds: list, seed: int, num_problems: int = 50) -> Ratings:
    """One rater of each kind."""
    rng = random.Random(seed)
    ratings = Ratings(SYSTEMS, [[0] * 5] * num_problems, list(range(1, len(kinds) + 1)))
    design = design_sheet(Size(len(kinds), num_problems, 5, 3, 2), rng)
    for rater, (kind, items) in enumerate(zip(kinds, design, strict=True), start=1):
        for item in items:
            if item.repeats is None and len(item.systems) == 1:
                answers = kind(ROLES[item.systems[0]], rng)
                ratings.drafts.append(DraftRating(rater, item.problem, item.systems[0], answers))
            elif item.repeats is None:
                ratings.pairs.append(PairRating(rater, item.problem, tuple(sorted(item.systems)), 1))
    return ratings


def test_a_random_clicker_and_one_who_reverses_the_scale_are_named():
    clicker, careful, reverser = check_raters(rate([click_at_random, read_carefully, reverse_the_scale], 1))
    assert clicker["odd"] == [ACCEPTS] and clicker["p_accepts"] < 0.001 and clicker["other_fits"][1] == 30
    assert careful["odd"] == [] and careful["p_reverses"] > 0.9
    assert reverser["odd"] == [REVERSES] and reverser["use"][AUTHORS] < reverser["use"][OTHER]


def test_nearly_all_clickers_and_reversers_are_named_and_nearly_no_careful_rater():
    kinds, named = [click_at_random, read_carefully, reverse_the_scale], [0, 0, 0]
    for seed in range(40):
        named = [n + bool(about["odd"]) for n, about in zip(named, check_raters(rate(kinds, seed)), strict=True)]
    assert named[0] >= 38 and named[1] <= 2 and named[2] == 40, named


@pytest.mark.parametrize(("accepted", "is_odd"), [(7, False), (8, True)])
def test_the_line_is_the_binomial_ones(accepted, is_odd):
    """Of 30 that fit one time in ten, 7 or more come in .026 of times, 8 or more in .0078: by hand."""
    ratings = Ratings(SYSTEMS, [[0] * 5] * 30, [1])
    for problem in range(30):
        ratings.drafts.append(DraftRating(1, problem, ROLES.index(OTHER), {"fits": int(problem < accepted)}))
    [about] = check_raters(ratings)
    assert about["other_fits"] == (accepted, 30) and (about["odd"] == [ACCEPTS]) == is_odd
    assert about["p_accepts"] == pytest.approx(0.0078 if is_odd else 0.0258, abs=2e-4)


def test_one_who_has_rated_nothing_of_the_controls_is_not_named():
    ratings = Ratings(SYSTEMS, [[0] * 5], [1])
    ratings.drafts.append(DraftRating(1, 0, 0, {"fits": 1}))
    [about] = check_raters(ratings)
    assert about["odd"] == [] and about["use"] == {AUTHORS: None, OTHER: None} and about["repeats_same"] == (0, 0)
