"""The comparisons that were planned, and how small a difference they would find."""

from collections.abc import Mapping, Sequence

import numpy as np

from approach.evaluation.bits import Bits
from approach.evaluation.controls import WORD_LIST
from approach.evaluation.scores import Estimates, find_measured_rows
from approach.evaluation.significance import Estimate, compare, correct, smallest_difference
from approach.evaluation.statistics import RowStatistics
from approach.evaluation.systems import SystemDrafts

NUM_ROWS = (100, 200, 500)
NOT_MEASURED = Estimate(np.full((1, 1), np.nan), np.full((1, 1), np.nan))


def compare_planned(plan: dict, estimates: Estimates) -> list[dict]:
    """The outcome of each planned comparison, corrected for their number."""
    found = []
    for planned in plan["comparisons"]:
        ours, theirs = (
            estimates.get((planned[system], planned[decoding]), {}).get(planned["metric"], NOT_MEASURED)
            for system, decoding in (("system", "decoding"), ("baseline", "baseline_decoding"))
        )
        found.append({**planned, **compare(ours, theirs), "alpha": plan["alpha"]})
    # A difference holds for these runs only where each of them shows it.
    return [{**row, "holds": row["p_holm"] < row["alpha"] and row["same_sign"]} for row in correct(found)]


def describe_against_word_list(systems: Mapping[str, dict], estimates: Estimates) -> list[dict]:
    """What each model's drafts have over a list of terms in specificity, with intervals; not tested."""
    found = []
    for system, about in systems.items():
        for decoding in about["decodings"] if about["models"] and about["kind"] != "no model" else ():
            ours, theirs = (estimates[key]["specificity"] for key in ((system, decoding), (WORD_LIST, "none")))
            difference = compare(ours, theirs)
            about_pair = {"metric": "specificity", "system": system, "decoding": decoding, "baseline": WORD_LIST}
            found.append(about_pair | {name: difference[name] for name in ("difference", "low", "high", "runs")})
    return found


def measure_power(
    plan: dict,
    drafts: Sequence[SystemDrafts],
    statistics: Sequence[RowStatistics],
    bits_by_system: Mapping[str, Bits],
) -> dict:
    """For each planned comparison the smallest difference that 100, 200 and 500 rows like these would show."""
    num_rows = statistics[0].pairs.shape[1]
    kept = find_measured_rows(bits_by_system, num_rows)
    by_system = {(e.system, e.decoding): s.specificity_by_row for e, s in zip(drafts, statistics, strict=True)}

    def by_row(system: str, decoding: str | None) -> np.ndarray:
        """A system's part in each row, the mean of its runs; of a problem gain, a ratio, its linear part."""
        if decoding is not None:
            return by_system[system, decoding].mean(axis=0)
        bits = bits_by_system[system]
        if bits.permuted is None or not kept.any():
            return np.full(num_rows, np.nan)
        gains, size = (bits.permuted - bits.own).mean(axis=0)[kept], bits.size[kept]
        ratio = gains.sum() / size.sum()
        return ratio + (gains - ratio * size) / size.mean()

    found = []
    for planned in plan["comparisons"]:
        ours = by_row(planned["system"], planned["decoding"])
        differences = ours - by_row(planned["baseline"], planned["baseline_decoding"])
        measured = bool(np.isfinite(differences).all())
        smallest = {
            str(number): smallest_difference(differences, number, plan["alpha"]) if measured else None
            for number in NUM_ROWS
        }
        about = {name: planned[name] for name in ("metric", "system", "baseline")}
        found.append({**about, "smallest_difference_by_rows": smallest})
    return {
        "test": "t-test on the rows' means, two-sided, one comparison",
        "alpha": plan["alpha"],
        "found_in": "8 of 10 simulated tests",
        "comparisons": found,
    }
