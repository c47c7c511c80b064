"""What the page says of a draft's origin."""

import pytest

from approach.errors import UserError
from approach.page.provenance import TrainingPairs


def test_provenance_names_rows_and_runs(dataset):
    pairs = TrainingPairs(str(dataset))
    copied = " ".join(pairs.rows[3]["approach"].split()[5:20])
    text = f"Zzz {copied} (Smith et al., 2019)"
    [found] = pairs.trace([text])
    [(start, end)] = found.citations
    assert text[start:end] == "(Smith et al., 2019)"
    start, end = found.longest_run.span
    assert text[start:end] == copied
    assert (found.longest_run.num_words, found.longest_run.row_id) == (15, pairs.rows[3]["id"])
    assert found.compared and len(found.nearest) == 3
    assert found.ngram_share == 8 / 13, "15 words that are shared have 8 runs of 8 words, all 20 have 13"
    [whole] = pairs.trace([pairs.rows[3]["approach"]])
    assert whole.nearest[0] == pairs.rows[3]


def test_without_training_pairs_citations_alone_are_looked_for():
    pairs = TrainingPairs(None)
    [found] = pairs.trace(["As in (Smith et al., 2019)."])
    assert pairs.rows is None and found.citations == [(6, 26)] and not found.compared and found.nearest == []


def test_a_dataset_that_is_not_there_ends_in_one_line(tmp_path):
    with pytest.raises(UserError, match="--dataset_name"):
        TrainingPairs(str(tmp_path / "none"))
