"""The answer says what the comparisons say, and claims nothing that they do not."""

import pytest

from approach.evaluation.report import format_answer

INTERVALS = {1: 0.5, -1: -0.5, 0: 0.02}


def compare(metric: str, baseline: str, outcome: int | None, runs: int = 1) -> dict:
    row = {"metric": metric, "system": "fine-tuned", "decoding": "sampled", "baseline": baseline}
    if outcome is None:
        return {**row, "difference": None, "low": None, "high": None, "runs": [], "same_sign": False, "holds": False}
    value = INTERVALS[outcome]
    interval = {"difference": value, "low": value - 0.1, "high": value + 0.1, "runs": [value] * runs}
    return {**row, **interval, "holds": outcome != 0, "same_sign": True}


def answer(
    base: int | None, nearest: int | None, gain: int | None, checks=True, words=0.1, models=("a",)
) -> list[str]:
    behaviour = {"share_ended": 1.0 if checks else 0.4, "repeated_4grams": 0.5}
    found = {"passes_gates": checks, "behaviour": behaviour}
    difference = {"difference": words, "low": None if words is None else words - 0.05, "high": 0.4}
    return format_answer(
        {
            "num_examples": 200,
            "references_repeated_4grams": 0.01,
            "systems": {"fine-tuned": {"models": list(models), "decodings": {"sampled": found}}},
            "comparisons": [
                compare("specificity", "base, instructed", base, len(models)),
                compare("specificity", "nearest training approach", nearest, len(models)),
                compare("problem_gain", "base", gain, len(models)),
            ],
            "against_word_list": [{"system": "fine-tuned", "decoding": "sampled", **difference}],
        }
    )


def test_better_than_the_base_and_worse_than_a_look_up():
    first, second, third = answer(1, -1, 1)
    assert first == (
        "On 200 problems the tuned model's drafts are more specific to their problem than those of the base in its "
        "best way to be asked, “base, instructed” (difference +0.5000, 95 % interval +0.4000 to +0.6000), but less "
        "than the approach of the nearest training problem (difference −0.5000, 95 % interval −0.6000 to −0.4000)."
    )
    assert second.startswith(
        "The tuned model gains more from knowing the problem than the base in its best way for that, “base”, does"
    )
    assert third.startswith("The drafts end by themselves, repeat themselves little, and beat a bare list of terms")


@pytest.mark.parametrize(
    ("base", "nearest", "said"),
    [
        (1, 1, "and more than"),
        (-1, -1, "and less than"),
        (-1, 1, "but more than"),
        (0, -1, "and are less specific to their problem than the approach"),
        (1, 0, "and cannot be told from the approach"),
        (1, None, "and were not compared in specificity with the approach"),
        (None, None, "were not compared in specificity with those of the base"),
    ],
)
def test_every_outcome_has_its_sentence(base, nearest, said):
    assert said in answer(base, nearest, 0)[0]


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (1, "The tuned model gains more"),
        (-1, "The tuned model gains less"),
        (0, "cannot be told"),
        (None, "was not measured"),
    ],
)
def test_every_problem_gain_has_its_sentence(gain, said):
    assert said in answer(1, 1, gain)[1]


def test_no_quality_is_claimed_without_the_quality_checks_or_behind_a_list_of_terms():
    looping = answer(1, 1, 1, checks=False)[-1]
    assert looping.startswith("No quality is claimed") and "40 % end by themselves" in looping and "50.0 %" in looping
    behind = answer(1, 1, 1, words=0.01)[-1]
    assert (
        behind.startswith("No quality is claimed")
        and "do not beat a bare list" in behind
        and "quality checks" not in behind
    )
    both = answer(1, 1, 1, checks=False, words=-0.2)[-1]
    assert "quality checks" in both and "do not beat" in both
    assert "not compared with a bare list" in answer(None, None, None, words=None)[-1]


def test_of_several_runs_it_speaks_for_these_runs():
    assert answer(1, 1, 1, models=("a", "b", "c"))[0].startswith("On 200 problems, for these 3 runs, the tuned")
    assert "for these" not in answer(1, 1, 1)[0]
