"""What drafts claim: results and numbers that nobody has measured yet. And how a draft ranks its own reference."""

import numpy as np
import pytest

from approach.metrics import load_metric

METHOD = "We train a small model on graphs of words."
RESULT = "Experiments show that our model outperforms all baselines by a large margin."
PROBLEM = "Parsing of long sentences is slow."


def test_the_words_of_result_sentences_are_counted():
    metric = load_metric("result_words")
    rows = metric.statistics([f"{METHOD} {RESULT}", METHOD, ""], [PROBLEM] * 3)
    assert rows.tolist() == [[12, 21], [0, 9], [0, 0]]
    found = metric.compute(predictions=[f"{METHOD} {RESULT}", METHOD, ""], problems=[PROBLEM] * 3)
    assert found == {"result_words": pytest.approx(12 / 30)}
    assert metric.from_totals(np.zeros(2)) == {"result_words": None}


@pytest.mark.parametrize(
    ("draft", "has_own"),
    [
        ("It gains 3.5 points.", True),
        ("It gains 40% on 12,000 rows, more.", True),
        ("In 2019, we did.", True),
        ("We use 5 languages.", False),  # the problem says 5
        ("We use five to ten languages.", False),
        ("We tune GPT-2, BERT-12, T5, F1 and 3D.", False),
        ("", False),
    ],
)
def test_numbers_that_the_problem_does_not_state_are_a_drafts_own(draft, has_own):
    rows = load_metric("own_numbers").statistics([draft], ["There are 5 languages."])
    assert rows.tolist() == [[has_own, 1]]


def test_the_share_of_drafts_with_numbers_of_their_own():
    metric = load_metric("own_numbers")
    assert metric.compute(predictions=["A 7.", "B."], problems=["p", "p"]) == {"own_numbers": 0.5}
    assert metric.from_totals(np.zeros(2)) == {"own_numbers": None}


def test_own_reference_rank_by_hand():
    """Row 0 is above both others, row 1 above none and level with one, row 2 above one of two."""
    pairs = np.array([[0, 0.2, 0.1], [-0.3, 0, 0], [0.4, -0.1, 0]])
    texts = ["a", "b", "c"]
    found = load_metric("reference_rank").compute(
        predictions=texts, references=texts, pairs=pairs, neighbours=[[1], [2], []]
    )
    assert found == {
        "own_rank": pytest.approx((2 + 0.5 + 1) / 6),
        "own_rank_hardest": pytest.approx((1 + 0.5 + 0.5) / 3),
    }
    [alone] = load_metric("reference_rank").from_wins(np.zeros((1, 1)), np.ones((1, 1)))
    assert alone is None
