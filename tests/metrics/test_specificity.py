import math
import random

import evaluate
import numpy as np
import pytest
from conftest import ROOT

ROWS = [
    {"problem": "Parsers fail on tweets.", "approach": "We train parsers with noisy spelling from forums."},
    {"problem": "Whales are hard to count.", "approach": "Drones photograph pods and a detector counts fins."},
    {"problem": "Glass breaks.", "approach": "Annealing furnaces remove stress, measured by polarimetry."},
]
PROBLEMS, REFERENCES = ([row[name] for row in ROWS] for name in ("problem", "approach"))
CORPUS = [*REFERENCES, "We train models with noisy labels.", "We measure stress with a detector."]


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(str(ROOT / "approach" / "metrics" / "specificity.py"))


def compute(metric, predictions, references=REFERENCES, problems=PROBLEMS, corpus=CORPUS, **options):
    return metric.compute(predictions=predictions, references=references, problems=problems, corpus=corpus, **options)


def by_hand(predictions, references, problems, corpus) -> float:
    """The definition, term by term and pair by pair."""
    import re

    def terms(text):
        return set(re.findall(r"[a-zà-ÿ]{3,}", text.lower()))

    def weight(some):
        return sum(math.log((1 + len(corpus)) / (1 + sum(term in terms(text) for text in corpus))) for term in some)

    def f1(draft, goal):
        return 2 * weight(draft & goal) / (weight(draft) + weight(goal)) if weight(draft) and weight(goal) else 0.0

    total, n = 0.0, len(predictions)
    for i in range(n):
        for j in range(n):
            if i != j:
                given = terms(problems[i]) | terms(problems[j])
                draft, own, other = (terms(text) - given for text in (predictions[i], references[i], references[j]))
                total += f1(draft, own) - f1(draft, other)
    return total / (n * (n - 1))


def test_it_is_the_definition_pair_by_pair(metric):
    drafts = [
        "We train parsers with tweets and a detector.",
        "A detector counts whales, fins and glass from drones.",
        "Noisy stress breaks forums.",
    ]
    found = compute(metric, drafts)
    assert found["specificity"] == pytest.approx(by_hand(drafts, REFERENCES, PROBLEMS, CORPUS), abs=1e-12)
    assert found["specificity"] != 0 and found["new_terms"] == pytest.approx((4 + 7 + 3) / 3)


def test_a_copied_problem_gets_exactly_nothing_and_the_reference_nearly_all(metric):
    copied = compute(metric, PROBLEMS)
    assert copied == {"specificity": 0.0, "new_term_f1": 0.0, "new_terms": 0.0}
    own = compute(metric, REFERENCES)
    assert own["new_term_f1"] == 1 and 0.9 < own["specificity"] <= 1


def test_what_was_given_earns_nothing_whatever_was_given(metric):
    """A system that was shown terms of the row's reference: they are given, and no longer new."""
    given = [f"{problem} {reference}" for problem, reference in zip(PROBLEMS, REFERENCES, strict=True)]
    assert compute(metric, REFERENCES, problems=given)["specificity"] == 0


def test_word_order_and_letter_case_do_not_count(metric):
    shuffled = [" ".join(random.Random(0).sample(text.upper().split(), len(text.split()))) for text in REFERENCES]
    assert compute(metric, shuffled) == compute(metric, REFERENCES)


def test_empty_drafts_score_nothing_and_one_row_is_not_measured(metric):
    assert compute(metric, ["", " ", "12 @xmath3"])["specificity"] == 0
    alone = compute(metric, REFERENCES[:1], REFERENCES[:1], PROBLEMS[:1])
    assert alone["specificity"] is None and alone["new_term_f1"] == 1


def test_other_scripts_and_marks_are_words_too(metric):
    references = ["Мы обучаем модель шума", "naïve Zählung der Wale", "ガラス を 冷やす 炉"]
    own = compute(metric, references, references, ["шум", "Wale", "ガラス"], references)
    assert own["new_term_f1"] == 1 and own["specificity"] > 0.9
    decomposed = compute(metric, ["nai\u0308ve Za\u0308hlung"], ["naïve Zählung"], [""], references)
    assert decomposed["new_term_f1"] == 1


def test_only_the_first_new_terms_count_when_asked(metric):
    drafts = [f"parsers {text} detector whales" for text in REFERENCES]
    limited = compute(metric, drafts, max_new_terms=2)
    assert limited["new_terms"] == 2 and limited["new_term_f1"] < compute(metric, drafts)["new_term_f1"]


def test_resampled_rows_are_the_rows_computed_anew(metric):
    drafts = ["We train a detector.", "Drones count whales.", "Stress and noisy glass."]
    pairs, _ = metric.statistics(drafts, REFERENCES, PROBLEMS, metric.weigh(CORPUS))
    drawn = [2, 0]
    weights = np.array([[1.0, 0.0, 1.0]])
    expected = compute(metric, *([texts[i] for i in drawn] for texts in (drafts, REFERENCES, PROBLEMS)))
    assert metric.from_pairs(pairs, weights)[0] == pytest.approx(expected["specificity"])
    assert metric.from_pairs(pairs, np.array([[0.0, 3.0, 0.0]])) == [None]


def test_unrelated_text_earns_nothing_over_two_hundred_permutations(metric):
    """Real words, and drafts that have nothing to do with their row: |mean| < 3 standard errors."""
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdfg" for b in "aeiou" for c in "lmnprst"]

    def text(length):
        return " ".join(rng.choices(words, weights=[1 / (i + 1) for i in range(len(words))], k=length))

    rows = [(text(8), text(40)) for _ in range(30)]
    unrelated, corpus = [text(40) for _ in rows], [text(40) for _ in range(100)]
    problems, references = (list(part) for part in zip(*rows, strict=True))
    weights, scores = metric.weigh(corpus), []
    for seed in range(200):
        random.Random(seed).shuffle(drafts := list(unrelated))
        pairs, _ = metric.statistics(drafts, references, problems, weights)
        scores.append(metric.from_pairs(pairs, np.ones((1, 30)))[0])
    error = np.std(scores, ddof=1) / math.sqrt(len(scores))
    assert abs(np.mean(scores)) < 3 * error and error > 0
    pairs, _ = metric.statistics(references, references, problems, weights)
    assert metric.from_pairs(pairs, np.ones((1, 30)))[0] > 100 * error, (
        "a test that could not tell would prove nothing"
    )


def test_a_lower_cased_corpus_loses_its_placeholders(metric):
    texts = ["@xmath0 and @xcite decay"], ["@xmath1 decay @xcite"], ["a"], ["decay"]
    assert compute(metric, *texts)["new_terms"] == 2, "and, decay"


def test_hits_are_the_rarer_new_terms_that_both_have(metric):
    corpus = [f"the shared{letter} drones" for letter in "abcdefghijklmnopqrst"] + ["fins"]
    weights = metric.weigh(corpus)
    found = metric.hits(
        "The Fins of sharedc drones, whales and sonar", "sharedc fins, the drones whales", "whales", weights
    )
    assert found == ["fins", "sharedc"], "not the, drones: too common; whales: of the problem; sonar: no hit"
