"""
The scores of all systems with intervals, as `scores.json` holds them.

Every row has sufficient statistics, and each score follows from their totals: of all rows, or of resampled ones.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import evaluate
import numpy as np

from approach.errors import UserError, explain_error, first_line
from approach.evaluation.choice import measure_repetition, passes_quality_checks, summarize_behaviour
from approach.evaluation.reference_nll import ReferenceNLL, bits_per_byte
from approach.evaluation.significance import Estimate, Estimates, draw_rows, summarize_estimate
from approach.evaluation.systems import SystemDrafts
from approach.generation.sampling import DECODINGS
from approach.metrics import list_files, list_table, load_metric
from approach.retrieval import BM25Index
from approach.storage import public_name

LIBRARIES = ("torch", "transformers", "sacrebleu", "rouge-score", "bert-score", "bm25s")
NUM_TERMS = 30  # of a draft, where drafts of different lengths are compared
REFERENCES_SEARCHED = 100  # among so many a draft is to find its own reference, or among all where there are fewer
NUM_HARDEST = 8  # other rows, of the nearest problems, among whose references a draft's own is ranked
NUM_SAMPLES = 3
NO_ENCODER = "none"  # leaves BERTScore out
GAIN_SIGNATURE = "bits a byte of the references, other rows' problems (5 permutations) minus own"


@dataclass(frozen=True)
class RowStatistics:
    """The statistics of a system's drafts, each of shape `(runs, rows, …)`; a run is a list of drafts, one a row."""

    totals: dict[str, np.ndarray]  # by metric, against each row's own reference or problem
    pairs: np.ndarray  # F1 of new terms with the own reference minus that with row j's, `(runs, rows, rows)`
    pairs_at_30: np.ndarray  # the same for each draft's first 30 new terms
    new_terms: np.ndarray  # F1 of new terms, and their number, `(runs, rows, 2)`
    found_first: np.ndarray  # 1 where the draft's nearest reference is its own, else 0
    wins: np.ndarray  # 1 where the own reference fits better than row j's, a tie 0.5, `(runs, rows, rows)`
    wins_hardest: np.ndarray  # their mean over the rows of the nearest problems, `(runs, rows)`

    @property
    def specificity_by_row(self) -> np.ndarray:
        """Each row's mean over the other rows, `(runs, rows)`; NaN for a single row."""
        others = self.pairs.shape[-1] - 1
        return self.pairs.sum(axis=-1) / others if others else np.full(self.pairs.shape[:2], np.nan)


@dataclass(frozen=True)
class Scored:
    """What scores.json says of every system, and the estimates from which comparisons are made."""

    systems: dict[str, dict]
    estimates: Estimates
    rows_beyond_context: int


def load_metrics(bertscore_model: str, bertscore_num_layers: int | None) -> dict[str, evaluate.Metric]:
    """
    The local metrics by name, with BERTScore's encoder loaded and tried: it should fail before hours of drafting.

    Raises:
        UserError: where the encoder cannot be loaded or run.
    """
    names = *list_files("overlap"), *list_files("claims"), *list_files("specificity"), "behaviour", "provenance"
    metrics = {name: load_metric(name) for name in names}
    if bertscore_model == NO_ENCODER:
        del metrics["bertscore"]
        return metrics
    try:
        encoder = metrics["bertscore"].load(bertscore_model, bertscore_num_layers)
        encoder.statistics(["We measure noise."], ["We measure it."])  # some that load cannot be run
    except KeyError as error:
        raise UserError(
            f"--bertscore_model {bertscore_model}: bert-score does not know it; add --bertscore_num_layers"
        ) from error
    except AssertionError as error:  # bert-score's, for a layer that the encoder does not have
        raise UserError(f"--bertscore_num_layers {bertscore_num_layers}: {first_line(error)}") from error
    except Exception as error:  # a damaged encoder may raise anything
        raise UserError(f"--bertscore_model {bertscore_model}: {explain_error(error)}") from error
    return metrics


def build_setup_record(
    *,
    dataset: dict,
    rows: list[dict],
    metrics: dict[str, evaluate.Metric],
    bertscore_model: str,
    max_new_tokens: int,
    num_seeds: int,
    num_resamples: int,
    dtype: str,
) -> dict:
    """Which rows were drafted for, and how drafts were made and scored; `dataset` says which rows of which split."""
    encoder = metrics.get("bertscore")
    names = [name for table in ("overlap", "specificity", "claims") for name in list_files(table) if name in metrics]
    signatures = {name: metrics[name].signature() for name in names}
    return {
        "num_examples": len(rows),
        "dataset": dataset,
        "decoding": {"max_new_tokens": max_new_tokens, "seeds": num_seeds, "decodings": DECODINGS, "dtype": dtype},
        "bertscore_model": public_name(bertscore_model) if encoder else None,
        "signatures": signatures | {"problem gain": GAIN_SIGNATURE},
        "references_repeated_4grams": measure_repetition(metrics["behaviour"], rows),
        "texts_beyond_encoder": encoder.count_truncated([row["approach"] for row in rows]) if encoder else None,
        "references_searched": min(REFERENCES_SEARCHED, len(rows)),
        "resamples": num_resamples,
        "versions": {name: version(name) for name in LIBRARIES},
    }


# Statistics of rows


def compute_statistics(
    metrics: dict[str, evaluate.Metric],
    runs_by_system: Sequence[list[list[str]]],
    rows: list[dict],
    given: list[str],
    corpus: list[str],
) -> list[RowStatistics]:
    """
    The statistics of every row for each system, whose lists of drafts are given.

    `given` is what any system was shown of a row beyond its problem, `corpus` the training approaches.
    """
    references = [row["approach"] for row in rows]
    problems = [f"{row['problem']} {more}" for row, more in zip(rows, given, strict=True)]
    runs = [run for runs in runs_by_system for run in runs]
    ends = np.cumsum([len(runs) for runs in runs_by_system])[:-1]
    by_metric = {}
    asked = [row["problem"] for row in rows]
    for table, others in (("overlap", references), ("claims", asked)):
        for name in (name for name in list_files(table) if name in metrics):
            # In one call: bert-score encodes each text once a call.
            found = metrics[name].statistics([draft for run in runs for draft in run], others * len(runs))
            by_metric[name] = np.split(found.reshape(len(runs), len(references), -1), ends)
    metric, terms = metrics["specificity"], metrics["specificity"].weigh(corpus)
    complete = [metric.statistics(run, references, problems, terms) for run in runs]
    first = [metric.statistics(run, references, problems, terms, NUM_TERMS)[0] for run in runs]
    rank, neighbours = metrics["reference_rank"], find_neighbours(asked)
    wins = [rank.statistics(pairs) for pairs, _ in complete]
    parts = (
        [pairs for pairs, _ in complete],
        [new_terms for _, new_terms in complete],
        first,
        find_own_references(runs, references),
        wins,
        [rank.against(run, neighbours) for run in wins],
    )
    pairs, new_terms, pairs_at_30, found_first, wins, wins_hardest = (np.split(np.array(part), ends) for part in parts)
    return [
        RowStatistics(
            totals={name: by_metric[name][i] for name in by_metric},
            pairs=pairs[i],
            pairs_at_30=pairs_at_30[i],
            new_terms=new_terms[i],
            found_first=found_first[i],
            wins=wins[i],
            wins_hardest=wins_hardest[i],
        )
        for i in range(len(runs_by_system))
    ]


def find_neighbours(problems: list[str]) -> list[list[int]]:
    """For each row the eight other rows of the nearest problems, by BM25; fewer where no more share a word."""
    hits = BM25Index(problems).nearest(problems, k=NUM_HARDEST + 1)
    return [[index for index, _ in found if index != i][:NUM_HARDEST] for i, found in enumerate(hits)]


def find_own_references(runs: Sequence[list[str]], references: list[str]) -> np.ndarray:
    """
    Whether each draft's nearest reference, by BM25 and among 100, is its own: `(runs, rows)` of 1 and 0.

    The last rows are searched for among the last 100: a shorter rest would be easier, down to a single reference.
    """
    found = np.zeros((len(runs), len(references)))
    for start in range(0, len(references), REFERENCES_SEARCHED):
        first = max(0, min(start, len(references) - REFERENCES_SEARCHED))
        part = slice(start, start + REFERENCES_SEARCHED)
        index = BM25Index(references[first : first + REFERENCES_SEARCHED])
        for run, drafts in enumerate(runs):
            near = index.nearest(drafts[part], k=1)
            found[run, part] = [bool(hits) and hits[0][0] == start - first + i for i, hits in enumerate(near)]
    return found


def compute_scores(
    metrics: dict[str, evaluate.Metric], statistics: RowStatistics, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Every score of rows taken `weights` times, `(samples, rows)`: arrays `(runs, samples)`, NaN for not measured."""
    specificity, scores = metrics["specificity"], {}
    for name, pairs in (("specificity", statistics.pairs), ("specificity_at_30_terms", statistics.pairs_at_30)):
        scores[name] = np.array([specificity.from_pairs(run, weights) for run in pairs], dtype=float)
    ranks = [metrics["reference_rank"].from_wins(run, weights) for run in statistics.wins]
    scores["own_rank"] = np.array(ranks, dtype=float)
    scores["own_rank_hardest"] = statistics.wins_hardest @ weights.T / weights.sum(axis=1)
    scores["specificity_median"] = weighted_median(statistics.specificity_by_row, weights)
    scores["new_term_f1"] = statistics.new_terms[:, :, 0] @ weights.T / weights.sum(axis=1)
    scores["found_first"] = statistics.found_first @ weights.T / weights.sum(axis=1)
    for name, by_run in statistics.totals.items():
        values = [[metrics[name].from_totals(totals) for totals in weights @ rows] for rows in by_run]
        for score in values[0][0]:
            scores[score] = np.array([[value[score] for value in run] for run in values], dtype=float)
    return scores


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The median of each run's values, `(runs, rows)`, taken `weights` times, `(samples, rows)`: `(runs, samples)`."""
    medians = []
    for run in values:
        order = np.argsort(run)
        reached = np.cumsum(weights[:, order], axis=1)
        half = reached[:, -1:] / 2
        low, high = (reached >= half).argmax(axis=1), (reached > half).argmax(axis=1)
        medians.append((run[order][low] + run[order][high]) / 2)
    return np.array(medians)


# Scores with intervals


def score_systems(
    drafts: Sequence[SystemDrafts],
    statistics: Sequence[RowStatistics],
    nlls: Mapping[str, ReferenceNLL],
    rows: list[dict],
    metrics: dict[str, evaluate.Metric],
    num_resamples: int,
) -> Scored:
    """Every system's scores with intervals."""
    draws, once = draw_rows(len(rows), num_resamples), np.ones((1, len(rows)))
    repetition = measure_repetition(metrics["behaviour"], rows)
    systems: dict[str, dict] = {}
    estimates: Estimates = {}
    for entry, row_statistics in zip(drafts, statistics, strict=True):
        values, resampled = (compute_scores(metrics, row_statistics, weights) for weights in (once, draws))
        others = max(1, len(rows) - 1)
        by_row = {
            "specificity": row_statistics.specificity_by_row,
            "own_rank": row_statistics.wins.sum(axis=-1) / others,
            "own_rank_hardest": row_statistics.wins_hardest,
        }
        found = {
            score: Estimate(values[score], resampled[score], entry.num_models, by_row.get(score)) for score in values
        }
        system = {"kind": entry.kind, "models": entry.models, "decodings": {}} | dict.fromkeys(list_table("gain"))
        behaviour = summarize_behaviour(metrics["behaviour"], entry.runs, rows)
        behaviour["new_terms"] = float(row_statistics.new_terms[:, :, 1].mean())
        systems.setdefault(entry.system, system)["decodings"][entry.decoding] = {
            "scores": {score: summarize_estimate(estimate) for score, estimate in found.items()},
            "passes_gates": passes_quality_checks(behaviour, repetition),
            "behaviour": behaviour,
        }
        estimates[entry.system, entry.decoding] = found
    # Systems are compared on the rows that every model can read.
    kept = np.all([np.ones(len(rows), bool), *(nll.measured for nll in nlls.values())], axis=0)
    for system, nll in nlls.items():
        found = estimate_nll(nll, kept, once, draws)
        estimates[system, None] = found
        systems[system] |= {score: summarize_estimate(estimate) for score, estimate in found.items()}
    return Scored(systems, estimates, int((~kept).sum()))


def estimate_nll(nll: ReferenceNLL, kept: np.ndarray, once: np.ndarray, draws: np.ndarray) -> dict[str, Estimate]:
    """Bits a byte, and what the own problem gains over other rows' and over none where that was measured."""
    parts = {"bits_per_byte": nll.own}
    if nll.permuted is not None:
        parts["problem_gain"] = nll.permuted - nll.own
    if nll.empty is not None:
        parts["gain_over_empty"] = nll.empty - nll.own
    estimates = {}
    for score, bits in parts.items():
        values, resampled = (bits_per_byte(bits, nll.size, kept, weights) for weights in (once, draws))
        by_row = None
        if kept.any():  # the linear part of a ratio
            size = nll.size[kept]
            by_row = values + (bits[:, kept] - values * size) / size.mean()
        estimates[score] = Estimate(values, resampled, len(values), by_row)
    return estimates


# Drafts as they are written and shown


def build_predictions(
    drafts: Sequence[SystemDrafts],
    statistics: Sequence[RowStatistics],
    rows: list[dict],
    given: list[str],
    corpus: list[str],
    metrics: dict[str, evaluate.Metric],
) -> list[dict]:
    """
    The rows of predictions.jsonl, a draft each, with the row's own specificity, ROUGE-L and BERTScore.

    `hits` are the rarer new terms that a draft shares with the reference; `corpus` are the training approaches.
    """
    terms, predictions = metrics["specificity"].weigh(corpus), []
    for entry, row_statistics in zip(drafts, statistics, strict=True):
        specificity = row_statistics.specificity_by_row
        for number, run in enumerate(entry.runs):
            for i, (row, draft) in enumerate(zip(rows, run, strict=True)):
                problem = f"{row['problem']} {given[i]}"
                rouge, bertscore = (
                    metrics[name].from_totals(row_statistics.totals[name][number, i]) if name in metrics else {}
                    for name in ("rouge", "bertscore")
                )
                predictions.append(
                    {
                        "system": entry.system,
                        "decoding": entry.decoding,
                        **entry.build_run_record(number),
                        "id": row["id"],
                        "problem": row["problem"],
                        "reference": row["approach"],
                        **draft,
                        "specificity": None if np.isnan(specificity[number, i]) else float(specificity[number, i]),
                        "hits": metrics["specificity"].hits(draft["prediction"], row["approach"], problem, terms),
                        "rougeL": rouge["rougeL"],
                        "bertscore_f1": bertscore.get("bertscore_f1"),
                    }
                )
    return predictions


def choose_samples(drafts: Sequence[SystemDrafts], rows: list[dict], shown: Mapping[str, str]) -> list[dict]:
    """Three rows at random, with the first drafts of the systems and decodings that are `shown`."""
    entries = [entry for entry in drafts if shown.get(entry.system) == entry.decoding]
    chosen = sorted(random.Random(0).sample(range(len(rows)), min(NUM_SAMPLES, len(rows))))
    return [
        {
            "id": rows[i]["id"],
            "problem": rows[i]["problem"],
            "reference": rows[i]["approach"],
            "drafts": {entry.system: entry.runs[0][i]["prediction"] for entry in entries},
        }
        for i in chosen
    ]
