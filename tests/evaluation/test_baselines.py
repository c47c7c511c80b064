"""Controls get what they must get, whatever the rows."""

import random

import evaluate
import pytest
from conftest import ROOT

from approach.evaluation.systems import (
    Problems,
    Selection,
    SystemDrafts,
    build_baselines,
    build_draft,
    draw_other,
    load_problems,
    shuffle_words,
)

TRAIN = [
    {"id": "t0", "problem": "Whales are hard to hear.", "approach": "Hydrophones record pods, a detector listens."},
    {"id": "t1", "problem": "Whales are hard to tag.", "approach": "Drones drop tags, a detector follows pods."},
    {"id": "t2", "problem": "Glass breaks under stress.", "approach": "Furnaces anneal what polarimetry measures."},
    {"id": "t3", "problem": "Мост стареет.", "approach": "Датчики измеряют колебания."},
]
ROWS = [
    {"id": "a", "problem": "Whales are hard to count.", "approach": "A detector counts pods in drone pictures."},
    {"id": "b", "problem": "Мост шумит.", "approach": "Мы измеряем шум датчиками."},
    {"id": "c", "problem": "Quoll", "approach": "Nothing like it."},
]


@pytest.fixture(scope="module")
def specificity():
    return evaluate.load(str(ROOT / "approach" / "metrics" / "specificity.py"))


@pytest.fixture
def systems(specificity) -> dict[str, SystemDrafts]:
    problems = Problems(ROWS, [], TRAIN, [], [TRAIN[2]] * 3)
    return {entry.system: entry for entry in build_baselines(problems, specificity, problems.train)}


def compute(specificity, texts: list[str]) -> dict:
    references, problems = ([row[name] for row in ROWS] for name in ("approach", "problem"))
    corpus = [row["approach"] for row in TRAIN]
    return specificity.compute(predictions=texts, references=references, problems=problems, corpus=corpus)


def test_every_control_is_there_and_scores_as_it_must(systems, specificity):
    assert list(systems) == [
        "problem copied",
        "random training approach",
        "nearest training approach",
        "terms of the five nearest",
        "reference",
    ]
    found = {name: compute(specificity, entry.texts[0]) for name, entry in systems.items()}
    assert found["problem copied"]["specificity"] == 0 and found["problem copied"]["new_term_f1"] == 0
    assert found["reference"]["new_term_f1"] == 1
    assert all(about["specificity"] < found["reference"]["specificity"] for about in list(found.values())[:-1])


def test_the_nearest_approach_is_shown_among_the_rows_that_the_model_saw_too(specificity):
    problems = Problems(ROWS, [], TRAIN, [], [TRAIN[2]] * 3)
    found = {entry.system: entry.texts[0] for entry in build_baselines(problems, specificity, TRAIN[1:])}
    [all_rows, seen] = [found[name] for name in ("nearest training approach", "nearest of the rows seen")]
    assert all_rows[0] == TRAIN[0]["approach"] and seen[0] != TRAIN[0]["approach"] and all_rows[1:] == seen[1:]


def test_the_word_list_has_the_weightiest_new_terms_of_the_nearest(systems):
    first, second, third = systems["terms of the five nearest"].texts[0]
    words = first.split()
    assert words[0] in ("detector", "pods") and {"detector", "pods"} == set(words[:2]), "both neighbours have them"
    assert not {"whales", "hard", "count"} & set(words), "no term of the problem"
    assert len(words) == round((5 + 3 + 2) / 3), "as many as references have new ones on average"
    assert set(second.split()) <= {"датчики", "измеряют", "колебания"} and third == "", "no problem has its words"


def test_a_training_row_that_is_scored_is_no_neighbour_of_its_own(specificity, dataset):
    """With `--dataset_split train` every nearest training approach would be the reference."""
    problems = load_problems(str(dataset), None, Selection("train", 5), 2)
    systems = {entry.system: entry.texts[0] for entry in build_baselines(problems, specificity, problems.train)}
    for name in ("nearest training approach", "random training approach"):
        assert all(text != row["approach"] for text, row in zip(systems[name], problems.rows, strict=True)), name
    assert not {row["id"] for row in problems.examples} & {row["id"] for row in problems.rows}
    row = {"id": "a", "problem": "", "approach": ""}
    other = {**row, "id": "b"}
    assert all(draw_other(random.Random(seed), [row, other], row) == other for seed in range(9))


def test_shuffled_words_score_the_same_and_read_otherwise(specificity):
    texts = ["A detector counts pods from drone pictures of the sea.", "Мы измеряем шум.", ""]
    entry = SystemDrafts("fine-tuned", "fine-tuned", ["x", "y"], "sampled", [[*map(build_draft, texts)]] * 2)
    shuffled = shuffle_words(entry)
    assert (shuffled.system, shuffled.kind, shuffled.models) == ("fine-tuned, words shuffled", "no model", ["x", "y"])
    assert compute(specificity, shuffled.texts[0]) == compute(specificity, texts)
    assert shuffled.texts[0][0] != texts[0] and shuffled.texts == shuffle_words(entry).texts
