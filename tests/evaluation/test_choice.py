"""What is chosen on validation rows, by which quality checks, and how it is recorded."""

import evaluate
import pytest
import torch
from conftest import ROOT

from approach.evaluation.choice import (
    DraftSettings,
    choose_decodings,
    find_best,
    measure_repetition,
    passes_quality_checks,
    summarize_behaviour,
)
from approach.evaluation.systems import Selection, build_base, build_recipes, load_problems
from approach.generation.partial import PartialDrafts
from approach.generation.sampling import DECODINGS, UNGUIDED


@pytest.fixture(scope="module")
def metrics() -> dict:
    names = ("specificity", "behaviour")
    return {name: evaluate.load(str(ROOT / "approach" / "metrics" / f"{name}.py")) for name in names}


def about(specificity: float | None, passes: bool) -> dict:
    return {"specificity": specificity, "passes_gates": passes}


def test_the_most_specific_that_passes_is_taken_or_of_all_where_none_does():
    assert find_best({"a": about(0.1, True), "b": about(0.3, False), "c": about(0.2, True)}) == "c"
    assert find_best({"a": about(0.1, False), "b": about(0.3, False)}) == "b"
    assert find_best({"a": about(0.2, True), "b": about(0.2, True)}) == "a", "the first of equals"
    assert find_best({"a": about(None, True), "b": about(None, True)}) == "a", "one row: nothing is measured"
    assert find_best({"a": about(None, True), "b": about(-0.1, True)}) == "b"


def test_quality_checks_are_endings_and_repetition(metrics, dataset):
    behaviour = {"share_ended": 0.95, "repeated_4grams": 0.2}
    assert passes_quality_checks(behaviour, 0.1) is True
    assert passes_quality_checks(behaviour | {"share_ended": 0.94}, 0.1) is False
    assert passes_quality_checks(behaviour | {"repeated_4grams": 0.21}, 0.1) is False
    assert passes_quality_checks(behaviour | {"repeated_4grams": None}, 0.0) is True, (
        "no draft is long enough to repeat"
    )
    assert passes_quality_checks({"repeated_4grams": 0.0}, 0.1) is None, "nothing says how they ended"
    rows = [{"problem": "a", "approach": "one two three four one two three four"}, {"problem": "b", "approach": "x"}]
    assert measure_repetition(metrics["behaviour"], rows) == pytest.approx(0.2)
    assert measure_repetition(metrics["behaviour"], rows[1:]) == 0
    drafts = [{"prediction": text, "ended": bool(text), "num_tokens": 3} for text in ("a b", "")]
    found = summarize_behaviour(metrics["behaviour"], [drafts, drafts], rows)
    assert found["share_ended"] == 0.5 and found["share_empty"] == 0.5 and found["mean_tokens"] == 3


def test_distinct_words_of_several_runs_are_those_of_one(metrics):
    """Counted together, two runs of the same drafts would be half as varied."""
    rows = [{"problem": "a", "approach": "one two three"}] * 2
    drafts = [{"prediction": text, "ended": True, "num_tokens": 3} for text in ("a b c", "a d e")]
    alone = summarize_behaviour(metrics["behaviour"], [drafts], rows)
    assert alone["distinct_1"] == 5 / 6 and alone["distinct_2"] == 1
    assert summarize_behaviour(metrics["behaviour"], [drafts] * 3, rows) == alone
    empty = [{"prediction": "", "ended": True, "num_tokens": 0}] * 2
    assert summarize_behaviour(metrics["behaviour"], [drafts, empty], rows)["distinct_1"] == 5 / 6


def test_all_that_was_measured_is_recorded_and_every_system_has_a_decoding(metrics, merged, base, dataset, tmp_path):
    problems = load_problems(str(dataset), None, Selection("test", 2), 2)
    settings = DraftSettings(PartialDrafts(tmp_path / "scores"), 1, 8, 4, torch.float32)
    recipes = build_recipes([str(merged)], [])
    choice = choose_decodings(recipes, build_base(str(base)), problems, metrics, settings)
    systems = choice.record["systems"]
    assert list(systems) == list(choice.decodings) == ["fine-tuned", "base", "base, tags as text"]
    for system, found in systems.items():
        assert list(found["decodings"]) == UNGUIDED and choice.decodings[system] == found["chosen"]
        assert found["chosen"] == find_best(found["decodings"])
        assert found["passes_gates"] == found["decodings"][found["chosen"]]["passes_gates"]
    gains = {way: systems[way]["problem_gain"] for way in ("base", "base, tags as text")}
    assert choice.base_for_gain == max(gains, key=gains.get) and "problem_gain" not in systems["fine-tuned"]
    best = {way: systems[way]["decodings"][choice.decodings[way]] for way in gains}
    assert choice.base_for_drafts == find_best(best) and choice.record["rows"] == 2
    assert list(choice.weights) == ["fine-tuned", "base"] and len(choice.weights["base"]) == 1
    assert choose_decodings(recipes, build_base(str(base)), problems, metrics, settings) == choice, (
        "the same again, from drafts on disk"
    )


def test_guidance_is_tried_by_the_main_recipe_alone_where_it_is_asked_for(
    metrics, merged, trained, base, dataset, tmp_path
):
    problems = load_problems(str(dataset), None, Selection("test", 2), 2)
    settings = DraftSettings(PartialDrafts(tmp_path / "scores"), 1, 8, 4, torch.float32, guided=True)
    choice = choose_decodings(
        build_recipes([str(merged)], [str(trained.adapter)]), build_base(str(base)), problems, metrics, settings
    )
    tried = {system: list(found["decodings"]) for system, found in choice.record["systems"].items()}
    assert tried.pop("fine-tuned") == list(DECODINGS) == [*UNGUIDED, "greedy, penalty 1.15, guidance 2"]
    assert len(tried) == 3 and all(names == UNGUIDED for names in tried.values())


def test_one_validation_row_chooses_too(metrics, merged, base, dataset, tmp_path):
    problems = load_problems(str(dataset), None, Selection("test", 2), 1)
    settings = DraftSettings(PartialDrafts(tmp_path / "scores"), 1, 4, 4, torch.float32)
    choice = choose_decodings(build_recipes([str(merged)], []), build_base(str(base)), problems, metrics, settings)
    assert choice.record["systems"]["base"]["problem_gain"] is None and choice.base_for_gain == "base"
