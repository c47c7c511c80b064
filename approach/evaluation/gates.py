"""How drafts behave, and the gates that a system must pass before its scores may be called good."""

import math
from collections.abc import Sequence

import evaluate

from approach.generation.engine import Draft

MIN_SHARE_ENDED = 0.95
MAX_REPETITION = 2.0  # times the references' share of repeated 4-grams


def describe_behaviour(metric: evaluate.Metric, runs: Sequence[list[Draft]], rows: list[dict]) -> dict:
    """How drafts behave, of all runs together; how they ended where a model of ours wrote them."""
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


def measure_repetition(metric: evaluate.Metric, rows: list[dict]) -> float:
    """The references' own share of repeated 4-grams; 0 where none is long enough."""
    texts = [row["approach"] for row in rows]
    found = metric.compute(predictions=texts, references=texts, problems=[row["problem"] for row in rows])
    return found["repeated_4grams"] or 0.0


def passes_gates(behaviour: dict, reference_repetition: float) -> bool | None:
    """
    Whether at least 95 % of drafts end by themselves and repeat no more than twice what references do.

    None for texts that no model of ours wrote: of them nothing says how they ended.
    """
    if "share_ended" not in behaviour:
        return None
    repeated = behaviour["repeated_4grams"] or 0.0
    return behaviour["share_ended"] >= MIN_SHARE_ENDED and repeated <= MAX_REPETITION * reference_repetition
