"""
The planned comparisons: written down before the first draft, then tested by resampling rows, with Holm's correction.

Also 95 % intervals, and how small a difference a test would find.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState
from scipy.stats import t as t_distribution

from approach.errors import UserError
from approach.evaluation.choice import ChosenDecodings, DraftSettings
from approach.evaluation.systems import NEAREST, TUNED, WORD_LIST
from approach.metrics import METRICS
from approach.storage import read_json, write_json

ALPHA = 0.01
PLAN = "plan.json"
INTERVAL = (2.5, 97.5)  # percentiles: 95 %
MIN_MODELS_RESAMPLED = 8  # fewer runs of a recipe say too little of how runs differ
NUM_SIMULATIONS = 2000
POWER = 0.8
NUM_ROWS = (100, 200, 500)  # for which the smallest difference is stated


@dataclass(frozen=True)
class Estimate:
    """
    A score of all rows, `(runs, 1)`, and of resampled rows, `(runs, resamples)`; NaN for not measured.

    The runs are all seeds of the first of `num_models` models, then all of the second, and so on. `by_row` is each
    row's part in the score, `(runs, rows)`, whose mean is the score; None for scores that are not tested.
    """

    values: np.ndarray
    resampled: np.ndarray
    num_models: int = 1
    by_row: np.ndarray | None = None

    @property
    def is_measured(self) -> bool:
        return bool(np.isfinite(self.values).all() and np.isfinite(self.averages).any())

    @property
    def value(self) -> float:
        """The mean of all runs."""
        return float(self.values.mean())

    @property
    def by_model(self) -> np.ndarray:
        """Each model's mean over its seeds, `(models,)`."""
        return self.values.reshape(self.num_models, -1).mean(axis=1)

    @property
    def averages(self) -> np.ndarray:
        """The mean over runs of each resample, `(resamples,)`; from eight models on they are drawn anew, too."""
        num_resamples = self.resampled.shape[1]
        by_model = self.resampled.reshape(self.num_models, -1, num_resamples).mean(axis=1)
        if self.num_models < MIN_MODELS_RESAMPLED:
            return by_model.mean(axis=0)
        chances = np.full(self.num_models, 1 / self.num_models)
        drawn = np.random.default_rng(1).multinomial(self.num_models, chances, size=num_resamples)
        return (by_model.T * drawn).sum(axis=1) / self.num_models


Estimates = dict[tuple[str, str | None], dict[str, Estimate]]  # by system and decoding, None for what needs no draft
NOT_MEASURED = Estimate(np.full((1, 1), np.nan), np.full((1, 1), np.nan))


# The plan


def build_plan(
    chosen: ChosenDecodings,
    dataset: Mapping[str, str | None],
    rows: list[dict],
    settings: DraftSettings,
    num_resamples: int,
) -> dict:
    """
    The comparisons that will be tested, and all that decides their outcome but the drafts.

    Drafts are compared with the base's in its best way to be asked and with the nearest training approach; a gain,
    for which nothing is decoded, with the base's in its best way for that.
    """
    comparisons = []
    for metric in (name for name, score in METRICS.items() if score.is_tested):
        is_gain = METRICS[metric].table == "gain"
        for baseline in [chosen.base_for_gain] if is_gain else [chosen.base_for_drafts, NEAREST]:
            comparisons.append(
                {
                    "metric": metric,
                    "system": TUNED,
                    "decoding": None if is_gain else chosen.decodings[TUNED],
                    "baseline": baseline,
                    "baseline_decoding": None if is_gain else chosen.decodings.get(baseline, "none"),
                }
            )
    return {
        "comparisons": comparisons,
        "alpha": ALPHA,
        "test": "paired resampling of rows, two-sided, Holm's correction for these three",
        "rows": len(rows),
        "ids": hashlib.sha256("\n".join(str(row["id"]) for row in rows).encode()).hexdigest(),
        "dataset": dict(dataset),
        "max_new_tokens": settings.max_new_tokens,
        "seeds": settings.num_seeds,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "resamples": num_resamples,
        "weights": chosen.weights,
    }


def write_plan(plan: dict, folder: Path) -> None:
    """
    Writes the plan beside the drafts to come, on the main process.

    Raises:
        UserError: where a stopped run has left drafts there that were made under another plan.
    """
    state, path = PartialState(), folder / PLAN
    if state.is_main_process and not path.exists():
        write_json(path, plan)
    state.wait_for_everyone()
    kept = read_json(path)
    if changed := [name for name in plan if kept.get(name) != json.loads(json.dumps(plan[name]))]:
        raise UserError(
            f"{path} says what a stopped run was to test, and this run differs in {', '.join(changed)}: give the same "
            f"arguments, or remove {folder} to start anew"
        )


# Intervals and tests


def draw_rows(num_rows: int, num_resamples: int) -> np.ndarray:
    """How often each row is drawn, `(resamples, rows)`; the same draws every time, so that differences are paired."""
    rng = np.random.default_rng(0)
    return rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=num_resamples)


def summarize_estimate(estimate: Estimate) -> dict:
    """
    A score's value and the 95 % interval of its resamples.

    `spread` is the standard deviation over a recipe's runs where there are several, else over the seeds of sampled
    drafts.
    """
    if not estimate.is_measured:
        return {"value": None, "low": None, "high": None}
    low, high = np.nanpercentile(estimate.averages, INTERVAL)
    result = {"value": estimate.value, "low": float(low), "high": float(high)}
    values = estimate.by_model if estimate.num_models > 1 else estimate.values
    return result | ({"spread": float(values.std(ddof=1))} if len(values) > 1 else {})


def compare(ours: Estimate, theirs: Estimate) -> dict:
    """
    A paired difference with its 95 % interval and two-sided p = (1 + #{|d* - d| ≥ |d|}) / (n + 1).

    Both must come from the same draws of rows. A system against itself gives p = 1. `runs` are each run's own
    difference, and `same_sign` says whether all share a sign. None, and p = 1, where one of the two was not measured.
    """
    if not (ours.is_measured and theirs.is_measured):
        return {"difference": None, "low": None, "high": None, "p": 1.0, "runs": [], "same_sign": False}
    difference = ours.value - theirs.value
    resampled = ours.averages - theirs.averages
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.percentile(resampled, INTERVAL)
    extreme = int((np.abs(resampled - difference) >= abs(difference)).sum())
    runs = [float(value - theirs.value) for value in ours.by_model]
    return {
        "difference": difference,
        "low": float(low),
        "high": float(high),
        "p": (1 + extreme) / (len(resampled) + 1),
        "runs": runs,
        "same_sign": all(np.sign(run) == np.sign(difference) for run in runs),
    }


def correct_holm(comparisons: Sequence[dict]) -> list[dict]:
    """The comparisons in their order, each with Holm's correction for their number, as `p_holm`."""
    corrected, largest = {}, 0.0
    ranked = sorted(range(len(comparisons)), key=lambda i: comparisons[i]["p"])
    for rank, i in enumerate(ranked):
        largest = max(largest, min(1.0, comparisons[i]["p"] * (len(comparisons) - rank)))
        corrected[i] = largest
    return [{**row, "p_holm": corrected[i]} for i, row in enumerate(comparisons)]


def smallest_difference(differences: np.ndarray, num_rows: int, alpha: float) -> float:
    """
    The smallest difference that 8 of 10 simulated tests of `num_rows` rows find.

    Each draws centred paired differences of the measured rows and shifts them; for speed it is a t-test on the rows'
    means, not the resampling by which the comparisons are tested.
    """
    centred = differences - differences.mean()
    drawn = np.random.default_rng(0).choice(centred, size=(NUM_SIMULATIONS, num_rows))
    means, errors = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / np.sqrt(num_rows)
    needed = t_distribution.ppf(1 - alpha / 2, num_rows - 1) * errors
    low, high = 0.0, float(np.abs(means).max() + needed.max())  # at the upper end every test finds it
    for _ in range(50):
        middle = (low + high) / 2
        found = (np.abs(means + middle) > needed).mean()
        low, high = (low, middle) if found >= POWER else (middle, high)
    return high


# The comparisons


def compare_planned(plan: dict, estimates: Estimates) -> list[dict]:
    """The outcome of each planned comparison, corrected for their number."""
    found = []
    for planned in plan["comparisons"]:
        ours, theirs = find_estimates(planned, estimates)
        found.append({**planned, **compare(ours, theirs), "alpha": plan["alpha"]})
    # A difference holds for these runs only where each of them shows it.
    return [{**row, "holds": row["p_holm"] < row["alpha"] and row["same_sign"]} for row in correct_holm(found)]


def find_estimates(planned: dict, estimates: Estimates) -> tuple[Estimate, Estimate]:
    """The estimates of the two systems that a planned comparison names."""
    ours = estimates.get((planned["system"], planned["decoding"]), {})
    theirs = estimates.get((planned["baseline"], planned["baseline_decoding"]), {})
    return ours.get(planned["metric"], NOT_MEASURED), theirs.get(planned["metric"], NOT_MEASURED)


def compare_with_word_list(systems: Mapping[str, dict], estimates: Estimates) -> list[dict]:
    """How much more specific each model's drafts are than a list of terms, with intervals; not tested."""
    found = []
    for system, entry in systems.items():
        for decoding in entry["decodings"] if entry["models"] and entry["kind"] != "no model" else ():
            ours, theirs = (estimates[key]["specificity"] for key in ((system, decoding), (WORD_LIST, "none")))
            difference = compare(ours, theirs)
            pair = {"metric": "specificity", "system": system, "decoding": decoding, "baseline": WORD_LIST}
            found.append(pair | {name: difference[name] for name in ("difference", "low", "high", "runs")})
    return found


def measure_power(plan: dict, estimates: Estimates) -> dict:
    """For each planned comparison the smallest difference that 100, 200 and 500 rows like these would show."""
    found = []
    for planned in plan["comparisons"]:
        parts = [estimate.by_row for estimate in find_estimates(planned, estimates)]
        smallest: dict[str, float | None] = {str(number): None for number in NUM_ROWS}
        if all(part is not None and np.isfinite(part).all() for part in parts):
            differences = parts[0].mean(axis=0) - parts[1].mean(axis=0)
            smallest = {str(n): smallest_difference(differences, n, plan["alpha"]) for n in NUM_ROWS}
        pair = {name: planned[name] for name in ("metric", "system", "baseline")}
        found.append({**pair, "smallest_difference_by_rows": smallest})
    return {
        "test": "t-test on the rows' means, two-sided, one comparison",
        "alpha": plan["alpha"],
        "found_in": "8 of 10 simulated tests",
        "comparisons": found,
    }
