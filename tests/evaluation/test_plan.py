"""What is tested is written down first, and nothing else is tested."""

import json

import numpy as np
import pytest
import torch

from approach.errors import UserError
from approach.evaluation.choice import ChosenDecodings, DraftSettings
from approach.evaluation.reference_nll import ReferenceNLL
from approach.evaluation.scores import estimate_nll
from approach.evaluation.significance import (
    Estimate,
    build_plan,
    compare_planned,
    draw_rows,
    measure_power,
    write_plan,
)

ROWS = [{"id": f"row-{i}"} for i in range(30)]
NEAREST = "nearest training approach"


@pytest.fixture
def plan() -> dict:
    decodings = {"fine-tuned": "sampled", "base": "greedy", "base, instructed": "sampled, penalty 1.15"}
    chosen = ChosenDecodings(decodings, "base, instructed", "base", {"fine-tuned": ["0a"], "base": ["0b"]}, {})
    return build_plan(
        chosen,
        {"name": "pairs", "split": "test", "revision": None},
        ROWS,
        DraftSettings(None, 3, 448, 8, torch.float32),
        1000,
    )


def estimate(centre: float, num_models: int = 1) -> Estimate:
    """Runs of 30 rows with noise that the systems share but for a little."""
    rng = np.random.default_rng(int(1000 * centre) + num_models)
    rows = np.random.default_rng(0).normal(size=30) + rng.normal(centre, 0.1, size=(num_models, 30))
    weights = draw_rows(30, 1000)
    return Estimate(rows.mean(axis=1, keepdims=True), rows @ weights.T / 30, num_models)


def test_the_plan_names_three_comparisons_and_the_rows(plan):
    named = [
        (row["metric"], row["decoding"], row["baseline"], row["baseline_decoding"]) for row in plan["comparisons"]
    ]
    assert named == [
        ("specificity", "sampled", "base, instructed", "sampled, penalty 1.15"),
        ("specificity", "sampled", NEAREST, "none"),
        ("problem_gain", None, "base", None),
    ]
    assert (plan["max_new_tokens"], plan["seeds"]) == (448, 3)
    assert (plan["alpha"], plan["rows"], plan["resamples"], len(plan["ids"])) == (0.01, 30, 1000, 64)


def test_a_run_that_goes_on_under_another_plan_is_refused_in_one_line(plan, tmp_path):
    write_plan(plan, tmp_path)
    write_plan(plan, tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")) == plan
    changed = {**plan, "rows": 20, "weights": {"base": []}}
    with pytest.raises(UserError, match="this run differs in rows, weights") as ended:
        write_plan(changed, tmp_path)
    assert "\n" not in str(ended.value)
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")) == plan


def test_three_outcomes_with_holm_and_every_run_listed(plan):
    estimates = {
        ("fine-tuned", "sampled"): {"specificity": estimate(0.5, 3)},
        ("base, instructed", "sampled, penalty 1.15"): {"specificity": estimate(0.1)},
        (NEAREST, "none"): {"specificity": estimate(0.49)},
        ("fine-tuned", None): {"problem_gain": estimate(0.2, 3)},
        ("base", None): {"problem_gain": estimate(0.1)},
    }
    first, second, third = compare_planned(plan, estimates)
    assert first["holds"] and first["p_holm"] == pytest.approx(3 / 1001) and len(first["runs"]) == 3
    assert first["same_sign"] and 0.3 < first["low"] < first["difference"] < first["high"] < 0.5
    assert not second["holds"] and third["metric"] == "problem_gain"
    mixed = Estimate(np.array([[1.0], [1.0], [-0.1]]), np.ones((3, 1000)), 3)
    estimates["fine-tuned", "sampled"] = {"specificity": mixed}
    assert not compare_planned(plan, estimates)[0]["holds"], "one run has the other sign"


def test_what_was_not_measured_counts_among_the_three_and_does_not_hold(plan):
    rows = compare_planned(plan, {})
    assert [(row["difference"], row["p_holm"], row["holds"]) for row in rows] == [(None, 1.0, False)] * 3


def test_power_is_stated_for_each_comparison(plan):
    rng, num_rows = np.random.default_rng(0), 12
    once, kept = np.ones((1, num_rows)), np.ones(num_rows, bool)

    def specificity() -> dict:
        by_row = rng.normal(size=(2, num_rows))
        values = by_row.mean(axis=1, keepdims=True)
        return {"specificity": Estimate(values, values, by_row=by_row)}

    names = [("fine-tuned", "sampled"), ("base, instructed", "sampled, penalty 1.15"), (NEAREST, "none")]
    estimates = {name: specificity() for name in names}
    size, own = rng.normal(10, 1, size=num_rows), rng.normal(20, 1, size=(1, num_rows))
    for name in ("fine-tuned", "base"):
        nll = ReferenceNLL(size, own, own + rng.normal(1, 1, size=own.shape))
        estimates[name, None] = found = estimate_nll(nll, kept, once, once)
        gain = found["problem_gain"]
        assert gain.by_row.mean() == pytest.approx(gain.value), "the parts of the rows make the ratio"
    for row in measure_power(plan, estimates)["comparisons"]:
        small, middle, large = row["smallest_difference_by_rows"].values()
        assert small > middle > large > 0
    estimates["base", None] = estimate_nll(ReferenceNLL(size, own), kept, once, once)
    last = measure_power(plan, estimates)["comparisons"][2]
    assert last["smallest_difference_by_rows"] == {"100": None, "200": None, "500": None}
