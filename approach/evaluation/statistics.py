"""The sufficient statistics of every row: from their totals each score follows, of all rows or of resampled ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import evaluate
import numpy as np

from approach.errors import UserError, explain_error, first_line
from approach.metrics import load_metric
from approach.retrieval import BM25Index

TEXT_METRICS = ("bleu", "chrf", "rouge", "bertscore")  # compare a draft with its reference alone
NUM_TERMS = 30  # of a draft, where drafts of different lengths are compared
REFERENCES_SEARCHED = 100  # a draft is to find its own reference among so many, whatever the number of rows


@dataclass(frozen=True)
class RowStatistics:
    """The statistics of a system's drafts, each of shape `(runs, rows, …)`; a run is a list of drafts, one a row."""

    own: dict[str, np.ndarray]  # by metric, against each row's own reference
    pairs: np.ndarray  # F1 of new terms with the own reference minus that with row j's, `(runs, rows, rows)`
    pairs_at_30: np.ndarray  # the same of each draft's first 30 new terms
    new_terms: np.ndarray  # F1 of new terms, and their number, `(runs, rows, 2)`
    found_first: np.ndarray  # 1 where the draft's nearest reference is its own, else 0

    @property
    def specificity_by_row(self) -> np.ndarray:
        """Each row's mean over the other rows, `(runs, rows)`; NaN of a single row."""
        others = self.pairs.shape[-1] - 1
        return self.pairs.sum(axis=-1) / others if others else np.full(self.pairs.shape[:2], np.nan)


def load_metrics(bertscore_model: str, bertscore_num_layers: int | None) -> dict[str, evaluate.Metric]:
    """The local metrics by name, the encoder loaded: it should fail before hours of drafting, not after."""
    names = (*TEXT_METRICS, "specificity", "behaviour", "provenance")
    metrics = {name: load_metric(name) for name in names}
    try:
        metrics["bertscore"].load(bertscore_model, bertscore_num_layers)
    except KeyError as error:
        raise UserError(
            f"--bertscore_model {bertscore_model}: bert-score does not know it; add --bertscore_num_layers"
        ) from error
    except AssertionError as error:  # bert-score's, of a layer that the encoder has not
        raise UserError(f"--bertscore_num_layers {bertscore_num_layers}: {first_line(error)}") from error
    except Exception as error:  # a damaged encoder may raise anything
        raise UserError(f"--bertscore_model {bertscore_model}: {explain_error(error)}") from error
    return metrics


def count_rows(
    metrics: dict[str, evaluate.Metric],
    runs_by_system: Sequence[list[list[str]]],
    rows: list[dict],
    given: list[str],
    corpus: list[str],
) -> list[RowStatistics]:
    """
    For each system, of which lists of drafts are given, the statistics of every row.

    `given` is what any system was shown of a row beyond its problem, `corpus` the training approaches.
    """
    references = [row["approach"] for row in rows]
    problems = [f"{row['problem']} {more}" for row, more in zip(rows, given, strict=True)]
    runs = [run for runs in runs_by_system for run in runs]
    ends = np.cumsum([len(runs) for runs in runs_by_system])[:-1]
    by_metric = {}
    for name in TEXT_METRICS:
        # In one call: bert-score encodes each text once a call.
        found = metrics[name].statistics([draft for run in runs for draft in run], references * len(runs))
        by_metric[name] = np.split(found.reshape(len(runs), len(references), -1), ends)
    metric, terms = metrics["specificity"], metrics["specificity"].weigh(corpus)
    whole = [metric.statistics(run, references, problems, terms) for run in runs]
    first = [metric.statistics(run, references, problems, terms, NUM_TERMS)[0] for run in runs]
    pairs, new_terms, pairs_at_30, found_first = (
        np.split(np.array(part), ends)
        for part in ([a for a, _ in whole], [b for _, b in whole], first, find_own_references(runs, references))
    )
    return [
        RowStatistics(
            own={name: by_metric[name][i] for name in TEXT_METRICS},
            pairs=pairs[i],
            pairs_at_30=pairs_at_30[i],
            new_terms=new_terms[i],
            found_first=found_first[i],
        )
        for i in range(len(runs_by_system))
    ]


def find_own_references(runs: Sequence[list[str]], references: list[str]) -> np.ndarray:
    """Whether each draft's nearest reference, by BM25 and among at most 100, is its own: `(runs, rows)` of 1 and 0."""
    found = np.zeros((len(runs), len(references)))
    for start in range(0, len(references), REFERENCES_SEARCHED):
        part = slice(start, start + REFERENCES_SEARCHED)
        index = BM25Index(references[part])
        for run, drafts in enumerate(runs):
            near = index.nearest(drafts[part], k=1)
            found[run, part] = [bool(hits) and hits[0][0] == i for i, hits in enumerate(near)]
    return found


def score_rows(
    metrics: dict[str, evaluate.Metric], statistics: RowStatistics, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Every score of rows taken `weights` times, `(samples, rows)`: arrays of `(runs, samples)`, NaN: not measured."""
    specificity, scores = metrics["specificity"], {}
    for name, pairs in (("specificity", statistics.pairs), ("specificity_at_30_terms", statistics.pairs_at_30)):
        scores[name] = np.array([specificity.from_pairs(run, weights) for run in pairs], dtype=float)
    scores["new_term_f1"] = statistics.new_terms[:, :, 0] @ weights.T / weights.sum(axis=1)
    scores["found_first"] = statistics.found_first @ weights.T / weights.sum(axis=1)
    for name in TEXT_METRICS:
        values = [[metrics[name].from_totals(totals) for totals in weights @ rows] for rows in statistics.own[name]]
        for score in values[0][0]:
            scores[score] = np.array([[value[score] for value in run] for run in values], dtype=float)
    return scores
