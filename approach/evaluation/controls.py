"""Systems without a model: what a score gives to a copy, to chance, to a look-up, to words without order."""

import random
from collections import Counter
from dataclasses import replace

import evaluate

from approach.evaluation.rows import Problems
from approach.evaluation.systems import SystemDrafts, without_model
from approach.generation.engine import Draft
from approach.retrieval import BM25Index

NEAREST = "nearest training approach"
RANDOM = "random training approach"
WORD_LIST = "terms of the five nearest"
REFERENCE = "reference"
NUM_NEAREST = 5


def draft_without_model(problems: Problems, specificity: evaluate.Metric) -> list[SystemDrafts]:
    """The problem itself, a random and the nearest training approach, a list of terms, and the reference."""
    asked = [row["problem"] for row in problems.rows]
    train = [row["approach"] for row in problems.train]
    near = [
        [train[row] for row, _ in hits]
        for hits in BM25Index([row["problem"] for row in problems.train]).nearest(asked, k=NUM_NEAREST)
    ]
    texts_by_system = {
        "problem copied": asked,
        RANDOM: [row["approach"] for row in problems.random_train],
        NEAREST: [texts[0] if texts else "" for texts in near],
        WORD_LIST: list_terms(problems, near, specificity),
        REFERENCE: [row["approach"] for row in problems.rows],
    }
    return [
        SystemDrafts(system, "no model", [], "none", [[without_model(text) for text in texts]])
        for system, texts in texts_by_system.items()
    ]


def list_terms(problems: Problems, near: list[list[str]], specificity: evaluate.Metric) -> list[str]:
    """
    The weightiest new terms of each row's five nearest training approaches, in descending weight.

    A term's weight is its inverse document frequency times the number of the five that have it. A row gets as many
    terms as references have new ones on average.
    """
    weights = specificity.weigh([row["approach"] for row in problems.train])
    asked, references = ([row[name] for row in problems.rows] for name in ("problem", "approach"))
    _, about_references = specificity.statistics(references, references, asked, weights)
    number, lists = round(float(about_references[:, 1].mean())), []
    for problem, texts in zip(asked, near, strict=True):
        counts = Counter(term for text in texts for term in specificity.terms(text))
        given = set(specificity.terms(problem))
        ranked = sorted(counts.keys() - given, key=lambda term: (-counts[term] * weights[term], term))
        lists.append(" ".join(ranked[:number]))
    return lists


def shuffle_words(entry: SystemDrafts) -> SystemDrafts:
    """A system's drafts with the words of each in random order: what specificity does not see."""

    def shuffle(draft: Draft, seed: int) -> Draft:
        words = draft["prediction"].split()
        random.Random(seed).shuffle(words)
        return without_model(" ".join(words))

    runs = [[shuffle(draft, seed) for seed, draft in enumerate(run)] for run in entry.runs]
    return replace(entry, system=f"{entry.system}, words shuffled", kind="no model", runs=runs)
