"""The scores of all systems with intervals, as `scores.json` holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import evaluate
import numpy as np

from approach.evaluation.bits import Bits, bits_per_byte
from approach.evaluation.gates import describe_behaviour, measure_repetition, passes_gates
from approach.evaluation.significance import Estimate, describe, draw_rows
from approach.evaluation.statistics import RowStatistics, score_rows
from approach.evaluation.systems import SystemDrafts
from approach.generation.sampling import DECODINGS
from approach.storage import public_name

LIBRARIES = ("torch", "transformers", "sacrebleu", "rouge-score", "bert-score", "bm25s")

Estimates = dict[tuple[str, str | None], dict[str, Estimate]]  # by system and decoding, None for what needs no draft


@dataclass(frozen=True)
class Scored:
    """What scores.json says of every system, and the estimates that comparisons are made of."""

    systems: dict[str, dict]
    estimates: Estimates
    rows_beyond_context: int


def describe_setup(
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
    """What was drafted for, and how drafts were made and scored; `dataset` says which rows of which split."""
    return {
        "num_examples": len(rows),
        "dataset": dataset,
        "decoding": {"max_new_tokens": max_new_tokens, "seeds": num_seeds, "decodings": DECODINGS, "dtype": dtype},
        "bertscore_model": public_name(bertscore_model),
        "signatures": sign_metrics(metrics),
        "references_repeated_4grams": measure_repetition(metrics["behaviour"], rows),
        "texts_beyond_encoder": metrics["bertscore"].count_truncated([row["approach"] for row in rows]),
        "resamples": num_resamples,
        "versions": {name: version(name) for name in LIBRARIES},
    }


def sign_metrics(metrics: dict[str, evaluate.Metric]) -> dict[str, str]:
    """What to state beside each score, so that others can compute the same."""
    bleu, chrf = (metrics[name].compute(predictions=["a"], references=["a"]) for name in ("bleu", "chrf"))
    return {
        "bleu": bleu["signature"],
        "chrf": chrf["signature"],
        "rouge": f"rouge_score {version('rouge-score')}, no stemming, mean of rows",
        "bertscore": metrics["bertscore"].hash,
        "specificity": "words of at least 3 letters, no stemming, idf of the training approaches",
        "problem gain": "bits a byte of the references, other rows' problems (5 permutations) minus own",
    }


def score_systems(
    drafts: Sequence[SystemDrafts],
    statistics: Sequence[RowStatistics],
    bits_by_system: Mapping[str, Bits],
    rows: list[dict],
    metrics: dict[str, evaluate.Metric],
    num_resamples: int,
) -> Scored:
    """Every system's scores with intervals."""
    draws, whole = draw_rows(len(rows), num_resamples), np.ones((1, len(rows)))
    repetition = measure_repetition(metrics["behaviour"], rows)
    systems: dict[str, dict] = {}
    estimates: Estimates = {}
    for entry, row_statistics in zip(drafts, statistics, strict=True):
        values, resampled = (score_rows(metrics, row_statistics, weights) for weights in (whole, draws))
        found = {score: Estimate(values[score], resampled[score], entry.num_models) for score in values}
        about = {"kind": entry.kind, "models": entry.models, "decodings": {}}
        nothing = {"bits_per_byte": None, "problem_gain": None, "gain_over_empty": None}
        behaviour = describe_behaviour(metrics["behaviour"], entry.runs, rows)
        behaviour["new_terms"] = float(row_statistics.new_terms[:, :, 1].mean())
        systems.setdefault(entry.system, about | nothing)["decodings"][entry.decoding] = {
            "scores": {score: describe(estimate) for score, estimate in found.items()},
            "passes_gates": passes_gates(behaviour, repetition),
            "behaviour": behaviour,
        }
        estimates[entry.system, entry.decoding] = found
    kept = find_measured_rows(bits_by_system, len(rows))
    for system, bits in bits_by_system.items():
        found = estimate_bits(bits, kept, whole, draws)
        estimates[system, None] = found
        systems[system] |= {score: describe(estimate) for score, estimate in found.items()}
    return Scored(systems, estimates, int((~kept).sum()))


def find_measured_rows(bits_by_system: Mapping[str, Bits], num_rows: int) -> np.ndarray:
    """The rows that every model could read, `(rows,)` of booleans: bits are compared on the same rows."""
    return np.all([np.ones(num_rows, bool), *(bits.measured for bits in bits_by_system.values())], axis=0)


def estimate_bits(bits: Bits, kept: np.ndarray, whole: np.ndarray, draws: np.ndarray) -> dict[str, Estimate]:
    """Bits per byte, and what the own problem gains over other rows' and over none where that was measured."""
    parts = {"bits_per_byte": bits.own}
    if bits.permuted is not None:
        parts["problem_gain"] = bits.permuted - bits.own
    if bits.empty is not None:
        parts["gain_over_empty"] = bits.empty - bits.own
    return {
        score: Estimate(
            *(bits_per_byte(values, bits.size, kept, weights) for weights in (whole, draws)), num_models=len(values)
        )
        for score, values in parts.items()
    }
