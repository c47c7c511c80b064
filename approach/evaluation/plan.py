"""What will be tested, written down before the first draft that is tested."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState

from approach.errors import UserError
from approach.evaluation.choice import Choice
from approach.evaluation.controls import NEAREST
from approach.evaluation.systems import TUNED, Drafting
from approach.storage import read_json, write_json

ALPHA = 0.01
PLAN = "plan.json"


def make_plan(
    choice: Choice, dataset: Mapping[str, str | None], rows: list[dict], drafting: Drafting, num_resamples: int
) -> dict:
    """The three confirmatory comparisons and all that decides their outcome but the drafts."""
    ours = {"system": TUNED, "decoding": choice.decodings[TUNED]}
    base, other = choice.base_for_drafts, choice.base_for_gain
    return {
        "comparisons": [
            {"metric": "specificity", **ours, "baseline": base, "baseline_decoding": choice.decodings[base]},
            {"metric": "specificity", **ours, "baseline": NEAREST, "baseline_decoding": "none"},
            # Nothing is decoded for a problem gain.
            {
                "metric": "problem_gain",
                "system": TUNED,
                "decoding": None,
                "baseline": other,
                "baseline_decoding": None,
            },
        ],
        "alpha": ALPHA,
        "test": "paired resampling of rows, two-sided, Holm's correction for these three",
        "rows": len(rows),
        "ids": hashlib.sha256("\n".join(str(row["id"]) for row in rows).encode()).hexdigest(),
        "dataset": dict(dataset),
        "max_new_tokens": drafting.max_new_tokens,
        "seeds": drafting.num_seeds,
        "dtype": str(drafting.dtype).removeprefix("torch."),
        "resamples": num_resamples,
        "weights": choice.weights,
    }


def keep_plan(plan: dict, folder: Path) -> None:
    """
    Writes the plan beside the drafts to come, on the main process.

    Raises UserError where a run that was stopped had left drafts there that were made under another plan.
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
