"""The scores of all systems with intervals and comparisons, as `scores.json` holds them."""

import math
from collections.abc import Sequence
from importlib.metadata import version

import evaluate
import numpy as np

from approach.drafting.generation import SAMPLING, Draft
from approach.evaluation.significance import Estimate, Pair, compare_pairs, describe, draw_rows
from approach.evaluation.statistics import SCORES, RowStatistics, score_rows
from approach.evaluation.systems import NEAREST, SystemDrafts
from approach.files import public_name

LIBRARIES = ("torch", "transformers", "sacrebleu", "rouge-score", "bert-score", "bm25s")


def describe_setup(
    *,
    dataset: dict,
    rows: list[dict],
    metrics: dict[str, evaluate.Metric],
    bertscore_model: str,
    max_new_tokens: int,
    num_seeds: int,
    num_resamples: int,
) -> dict:
    """What was drafted for, and how drafts were made and scored; `dataset` says its name, split and revision."""
    return {
        "num_examples": len(rows),
        "dataset": {**dataset, "name": public_name(dataset["name"])},
        "decoding": {"max_new_tokens": max_new_tokens, "sampled": {**SAMPLING, "seeds": num_seeds}},
        "bertscore_model": public_name(bertscore_model),
        "signatures": sign_metrics(metrics),
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
    }


def score_systems(
    drafts: Sequence[SystemDrafts],
    statistics: Sequence[RowStatistics],
    rows: list[dict],
    metrics: dict[str, evaluate.Metric],
    best_base: dict[str, str],
    num_resamples: int,
) -> dict:
    """Every system's scores with intervals, and how the fine-tuned ones compare with what they should beat."""
    draws, whole = draw_rows(len(rows), num_resamples), np.ones((1, len(rows)))
    measured = np.all([~np.isnan(entry.bits[:, 0]) for entry in drafts if entry.bits is not None], axis=0)
    systems: dict[str, dict] = {}
    estimates: dict[tuple[str, str], dict[str, Estimate]] = {}
    for entry, row_statistics in zip(drafts, statistics, strict=True):
        values, resampled = (score_rows(metrics, row_statistics, weights) for weights in (whole, draws))
        found = {score: Estimate(values[score], resampled[score]) for score in values}
        about = {"kind": entry.kind, "model": entry.model, "decodings": {}, "bits_per_byte": None}
        system = systems.setdefault(entry.system, about)
        system["decodings"][entry.decoding] = {
            **describe_scores(found),
            "behaviour": describe_behaviour(metrics["behaviour"], entry.runs, rows),
        }
        estimates[entry.system, entry.decoding] = found
        if entry.bits is not None:
            kept = np.where(measured[:, None], entry.bits, 0.0)
            bits = Estimate(bits_per_byte(kept, whole), bits_per_byte(kept, draws))
            estimates[entry.system, "bits"] = {"bits_per_byte": bits}
            system["bits_per_byte"] = describe(bits)
    return {
        "systems": systems,
        "best_base": best_base,
        "comparisons": compare_pairs(declare_pairs(systems, best_base), estimates),
        "bits_rows_beyond_context": int((~measured).sum()),
    }


def bits_per_byte(bits_and_bytes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Bits per byte of rows taken `weights` times, `(1, samples)`."""
    bits, size = (weights @ bits_and_bytes).T
    return (bits / size)[None]


def describe_scores(found: dict[str, Estimate]) -> dict:
    """The scores of one system and decoding, as `scores.json` groups them."""
    named = [score for score in found if not score.startswith(("gap_", "permuted_")) and score != "found_first"]
    return {
        "scores": {score: describe(found[score]) for score in named},
        "own_minus_permuted": {score: describe(found[f"gap_{score}"]) for score in SCORES},
        "permuted": {score: describe(found[f"permuted_{score}"]) for score in SCORES},
        "found_first": describe(found["found_first"]),
    }


def describe_behaviour(metric: evaluate.Metric, runs: list[list[Draft]], rows: list[dict]) -> dict:
    """How drafts behave, of all seeds together; how they ended where a model of ours wrote them."""
    drafts = [draft for run in runs for draft in run]
    behaviour = metric.compute(
        predictions=[draft["prediction"] for draft in drafts],
        references=[row["approach"] for row in rows] * len(runs),
        problems=[row["problem"] for row in rows] * len(runs),
    )
    if drafts[0]["ended"] is not None:
        behaviour["share_ended"] = sum(draft["ended"] for draft in drafts) / len(drafts)
        behaviour["share_at_budget"] = 1 - behaviour["share_ended"]
        behaviour["mean_tokens"] = sum(draft["num_tokens"] for draft in drafts) / len(drafts)
    ratio = behaviour["length_ratio"]
    behaviour["brevity_penalty"] = min(1.0, math.exp(1 - 1 / ratio)) if ratio else 0.0
    return behaviour


def declare_pairs(systems: dict[str, dict], best_base: dict[str, str]) -> list[Pair]:
    """Which differences are tested: each fine-tuned model to the best base and to the nearest training approach."""
    scores, pairs = [*SCORES, *(f"gap_{score}" for score in SCORES)], []
    for system, about in systems.items():
        if about["kind"] == "fine-tuned":
            ours = [(system, decoding) for decoding in about["decodings"]]
            pairs += [Pair(one, (best_base["drafts"], one[1]), scores) for one in ours]
            pairs += [Pair(one, (NEAREST, "none"), scores) for one in ours]
            pairs.append(Pair((system, "bits"), (best_base["bits_per_byte"], "bits"), ["bits_per_byte"]))
    return pairs


def spread_of_training(systems: dict[str, dict]) -> dict:
    """Mean and spread of each score over several fine-tuned models: what resampling rows leaves out."""
    tuned, result = [about for about in systems.values() if about["kind"] == "fine-tuned"], {}
    for decoding in tuned[0]["decodings"] if len(tuned) > 1 else ():
        for score in SCORES:
            values = [about["decodings"][decoding]["scores"][score]["value"] for about in tuned]
            if None not in values:
                spread = {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1))}
                result.setdefault(decoding, {})[score] = {**spread, "models": len(values)}
    return result
