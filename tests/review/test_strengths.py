"""Raters with known preferences: their strengths come back, with intervals that hold them."""

import random

import numpy as np
import pytest

from approach.review import resampling
from approach.review.candidates import AUTHORS, DRAFT, NEAREST, OTHER, System
from approach.review.design import Size, design_sheet
from approach.review.ratings import PairRating, Ratings
from approach.review.strengths import fit, measure_strengths

ROLES = (DRAFT, DRAFT, AUTHORS, OTHER, NEAREST)
SYSTEMS = [System(f"system {i}", "none", role) for i, role in enumerate(ROLES)]
STRENGTHS = np.array([0.3, -0.4, 1.3, -1.4, 0.2])
SHARE_OF_TIES = 0.4  # of the pairs that a coin would decide


def rate(strengths: np.ndarray, seed: int, size: Size) -> Ratings:
    """Raters who all prefer by Bradley and Terry's model; a tie takes as much from one side as from the other."""
    rng = random.Random(seed)
    ratings = Ratings(SYSTEMS, [[0] * 5] * size.problems, list(range(1, size.raters + 1)))
    for rater, items in enumerate(design_sheet(size, rng), start=1):
        for item in items:
            if len(item.systems) == 2 and item.repeats is None:
                first, second = sorted(item.systems)
                wins = 1 / (1 + np.exp(strengths[second] - strengths[first]))
                tie = 2 * SHARE_OF_TIES * wins * (1 - wins)
                drawn = rng.random()
                preferred = 0 if drawn < tie else 1 if drawn < tie + wins - tie / 2 else -1
                ratings.pairs.append(PairRating(rater, item.problem, (first, second), preferred))
    return ratings


def test_the_strengths_come_back_and_are_ranked(monkeypatch):
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 50)
    ratings = rate(STRENGTHS, 1, Size(3, 400, 5, 3, 2))
    found = [about["strength"] for about in measure_strengths(ratings, resampling.draw(ratings))]
    assert [about["value"] for about in found] == pytest.approx(list(STRENGTHS), abs=0.15)
    assert sum(about["value"] for about in found) == pytest.approx(0) and {about["number"] for about in found} == {960}


def test_one_that_loses_every_pair_has_an_end(monkeypatch):
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 50)
    ratings = rate(np.array([0.0, 0.0, 0.0, -50.0, 0.0]), 2, Size(2, 50, 5, 3, 2))
    found = measure_strengths(ratings, resampling.draw(ratings))
    assert found[3]["won"] == {"value": 0.0, "low": 0.0, "high": 0.0, "number": 80}
    assert -12 < found[3]["strength"]["low"] <= found[3]["strength"]["high"] < -2


def test_no_pairs_are_not_rated(monkeypatch):
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 10)
    ratings = Ratings(SYSTEMS, [[0] * 5], [1])
    found = measure_strengths(ratings, resampling.draw(ratings))
    assert all(about["strength"]["value"] is None and about["won"]["value"] is None for about in found)


@pytest.mark.slow
def test_each_strength_lies_in_its_interval_in_at_least_90_of_100_runs(monkeypatch):
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 300)
    held = np.zeros(len(STRENGTHS), dtype=int)
    for seed in range(100):
        ratings = rate(STRENGTHS, seed, Size(3, 50, 5, 3, 2))
        found = [about["strength"] for about in measure_strengths(ratings, resampling.draw(ratings, seed))]
        held += [about["low"] <= true <= about["high"] for about, true in zip(found, STRENGTHS, strict=True)]
    print("runs of 100 in which each strength lies in its interval:", held)
    assert (held >= 90).all(), held


def test_the_regularisation_grows_with_the_strengths():
    """Of two systems, whose strengths' exponentials have a mean of 1, each is taken to have won 0.2 pairs more."""
    stronger, weaker = fit(np.array([[0.0, 3], [1, 0]]))
    assert stronger - weaker == pytest.approx(np.log((3 + 0.2) / (1 + 0.2)), abs=1e-5)
