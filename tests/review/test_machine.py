"""Shares with intervals, and how far machine scores agree with people."""

import random
import re

import numpy as np
import pytest

from approach.review import resampling
from approach.review.candidates import AUTHORS, DRAFT, OTHER, System
from approach.review.machine import compare_scores
from approach.review.ratings import DraftRating, PairRating, Ratings
from approach.review.resampling import Draws, draw, measure_shares
from approach.review.section import show_share

SYSTEMS = [System(name, "none", role) for name, role in (("a", DRAFT), ("b", DRAFT), ("c", DRAFT), ("r", AUTHORS))]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(resampling, "NUM_RESAMPLES", 200)


def make(num_problems: int, num_raters: int, seed: int = 0) -> tuple[Ratings, list[dict]]:
    """Drafts whose worth is their specificity; ROUGE-L is its contrary, BERTScore chance, one was not measured."""
    rng, lines, predictions = random.Random(seed), [], []
    for _ in range(num_problems):
        lines.append(list(range(len(predictions), len(predictions) + 4)))
        for worth in (*rng.sample([1, 2, 3], 3), 3):
            scores = {"specificity": worth / 10, "rougeL": -worth, "bertscore_f1": rng.random()}
            predictions.append(scores | {"prediction": "a word " * rng.randint(1, 9)})
    ratings = Ratings(SYSTEMS, lines, list(range(1, num_raters + 1)))
    for rater in ratings.raters:
        for problem, row in enumerate(lines):
            worths = [round(10 * predictions[line]["specificity"]) for line in row]
            for system, worth in enumerate(worths):
                use = worth + rater % 2  # one rater is milder than another
                ratings.drafts.append(DraftRating(rater, problem, system, {"use": use, "fits": worth > 1}))
            for first, second in ((0, 1), (1, 2), (0, 3)):
                preferred = int(np.sign(worths[first] - worths[second]))
                ratings.pairs.append(PairRating(rater, problem, (first, second), preferred))
    return ratings, predictions


def test_a_score_that_is_the_worth_its_contrary_and_chance():
    ratings, predictions = make(40, 3)
    found = {about["score"]: about for about in compare_scores(ratings, predictions, draw(ratings))}
    assert found["specificity"]["tau"] == {"value": 1.0, "low": 1.0, "high": 1.0, "number": 40}
    assert found["specificity"]["pairs"] == {"value": 1.0, "low": 1.0, "high": 1.0, "number": 240}
    assert found["ROUGE-L"]["tau"]["value"] == -1 and found["ROUGE-L"]["pairs"]["value"] == 0
    assert found["BERTScore F1"]["tau"]["low"] < 0 < found["BERTScore F1"]["tau"]["high"]
    assert "length in words" in found, "what any score should beat"


def test_controls_are_left_out_and_what_was_not_measured_counts_for_nothing():
    ratings, predictions = make(10, 1)
    changed = [
        row | {"specificity": 99.0 if place % 4 == 3 else row["specificity"]} for place, row in enumerate(predictions)
    ]
    draws = draw(ratings)
    assert compare_scores(ratings, changed, draws)[0] == compare_scores(ratings, predictions, draws)[0]
    unmeasured = [row | {"specificity": None} for row in predictions]
    nothing = {"value": None, "low": None, "high": None, "number": 0}
    about = compare_scores(ratings, unmeasured, draws)[0]
    assert about["tau"] == nothing and about["pairs"] == nothing


def test_a_share_is_that_of_the_answers_and_its_interval_of_problems_and_raters():
    """Two raters, of whom one says yes to all and one no: the problems alone would give no interval at all."""
    ratings = Ratings([System("a", "none", DRAFT), System("o", "none", OTHER)], [[0, 1]] * 30, [1, 2])
    for rater in (1, 2):
        ratings.drafts.extend(DraftRating(rater, problem, 0, {"fits": int(rater == 1)}) for problem in range(30))
    shares, nothing = measure_shares(ratings, draw(ratings))
    assert shares["fits"] == {"value": 0.5, "low": 0.0, "high": 1.0, "number": 60}
    assert nothing["fits"] == {"value": None, "low": None, "high": None, "number": 0} == shares["use"]


def test_judgements_that_are_all_alike_get_no_interval():
    """Ten of ten are not sure to be all: every resample of them is the same, and so its percentiles say nothing."""
    ratings = Ratings([System("a", "none", DRAFT)], [[0]] * 10, [1])
    ratings.drafts.extend(DraftRating(1, problem, 0, {"fits": 1, "wrong": problem % 2}) for problem in range(10))
    [shares] = measure_shares(ratings, draw(ratings))
    assert show_share(shares["fits"]).beneath == ["all alike", "of 10"]
    assert re.fullmatch(r"\d+ to \d+ %", show_share(shares["wrong"]).beneath[0])


def test_the_first_draw_is_all_and_the_others_are_the_same_each_time():
    ratings, _ = make(20, 4)
    one, other = draw(ratings), draw(ratings)
    assert isinstance(one, Draws) and (one.problems[0] == 1).all() and (one.raters[0] == 1).all()
    assert (one.problems == other.problems).all() and (one.problems.sum(axis=1) == 20).all()
    assert (one.weights(ratings.drafts)[0] == 1).all()
