"""Specificity: whether a draft shares with its own reference the terms that it does not share with other rows'."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from scipy.sparse import csr_array

WORD = re.compile(r"[^\W\d_]{3,}")
PLACEHOLDER = re.compile(r"@x(?:math|cite)\w*")  # the arXiv corpus's formulas and citations


def list_terms(text: str) -> list[str]:
    """
    The terms of a text in their order, each once: lower-cased words of at least three letters.

    A hyphen separates words, and `@xmath0` and `@xcite` are none. Stems, words with their hyphens, and pairs of words
    separated own approaches from the nearest training approaches less well (benchmarks/README.md, "Specificity").
    """
    text = unicodedata.normalize("NFKC", PLACEHOLDER.sub(" ", text)).lower()
    return list(dict.fromkeys(WORD.findall(text)))


class TermWeights:
    """Smoothed inverse document frequencies, ln((1 + N) / (1 + n)); a term of no document has the largest weight."""

    def __init__(self, corpus: Sequence[str]):
        counts = Counter(term for text in corpus for term in list_terms(text))
        self.largest = float(np.log(1 + len(corpus)))
        self.weights = {term: float(np.log((1 + len(corpus)) / (1 + count))) for term, count in counts.items()}

    def __getitem__(self, term: str) -> float:
        return self.weights.get(term, self.largest)


def f1(overlap: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Weighted F1 from the weights of the shared terms and of both sides; 0 where a side is empty."""
    total = ours + theirs
    filled = (ours > 1e-9) & (theirs > 1e-9)
    return np.where(filled, 2 * overlap / np.where(filled, total, 1.0), 0.0)


class Specificity(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str], problems=[str], corpus=[str])` gives `specificity` (-1…1; None for a
    single row), `new_term_f1` (0…1) and `new_terms`, the mean number of a draft's distinct new terms.

    `problems` is all text that a system was given about a row, `corpus` the training approaches. Terms are weighted by
    their inverse document frequency in the corpus. For each two rows i ≠ j, draft i and both references lose the terms
    of both problems; specificity is the mean over i and j of F1(draft i, reference i) − F1(draft i, reference j). A
    copied problem gets exactly 0, and so, on average, does text that has nothing to do with the row, however well it
    is written. It is a bag of terms: it sees neither their order nor whether they make sense together.

    With `max_new_terms` only so many of a draft's new terms count, its first ones: a longer draft has more chances.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Weighted term F1 with the own reference minus that with other rows' references.",
            citation="",
            inputs_description="predictions, references and problems: one string a row; corpus: training approaches.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, problems, corpus, max_new_terms=None):
        weights = TermWeights(corpus)
        pairs, rows = self.statistics(predictions, references, problems, weights, max_new_terms)
        once = np.ones((1, len(rows)))
        return {
            "specificity": self.from_pairs(pairs, once)[0],
            "new_term_f1": float(rows[:, 0].mean()),
            "new_terms": float(rows[:, 1].mean()),
        }

    def signature(self) -> str:
        return "words of at least 3 letters, no stemming, idf of the training approaches"

    @staticmethod
    def terms(text: str) -> list[str]:
        return list_terms(text)

    @staticmethod
    def hits(prediction: str, reference: str, problem: str, weights: TermWeights) -> list[str]:
        """A draft's new terms that its reference has, too, but for those of every tenth document or more; for show."""
        goal = set(list_terms(reference)) - set(list_terms(problem))
        return [term for term in list_terms(prediction) if term in goal and weights[term] > np.log(10)]

    @staticmethod
    def weigh(corpus: Sequence[str]) -> TermWeights:
        return TermWeights(corpus)

    @staticmethod
    def statistics(
        predictions: Sequence[str],
        references: Sequence[str],
        problems: Sequence[str],
        weights: TermWeights,
        max_new_terms: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        F1 with the own reference minus F1 with row j's for each row i, `(rows, rows)`, 0 on the diagonal; and each
        row's F1 of new terms and number of new terms, `(rows, 2)`.
        """
        given = [set(list_terms(text)) for text in problems]
        drafts = [[t for t in list_terms(text) if t not in own] for text, own in zip(predictions, given, strict=True)]
        drafts = [set(terms[:max_new_terms]) for terms in drafts]
        goals = [set(list_terms(text)) - own for text, own in zip(references, given, strict=True)]
        vocabulary = {term: i for i, term in enumerate(sorted(set().union(*given, *drafts, *goals)))}
        weight = np.array([weights[term] for term in vocabulary])

        def matrix(rows: list[set[str]]) -> csr_array:
            columns = [vocabulary[term] for row in rows for term in sorted(row)]
            ends = np.cumsum([0] + [len(row) for row in rows])
            return csr_array((np.ones(len(columns)), columns, ends), shape=(len(rows), len(vocabulary)))

        problem, draft, goal = matrix(given), matrix(drafts), matrix(goals)
        shared = draft * goal
        weighted = [part * weight for part in (draft, goal, shared)]
        # [i, j]: what of row i's draft, reference, or overlap is left without row j's problem.
        left = [part.sum(axis=1)[:, None] - (part @ problem.T).toarray() for part in map(csr_array, weighted)]
        own = f1(left[2], left[0], left[1])
        other = f1((csr_array(weighted[0]) @ goal.T).toarray(), left[0], left[1].T)
        pairs = own - other
        np.fill_diagonal(pairs, 0.0)
        sizes = [part.sum(axis=1) for part in weighted]
        alone = f1(sizes[2], sizes[0], sizes[1])
        return pairs, np.stack([alone, np.array([len(terms) for terms in drafts], float)], axis=1)

    @staticmethod
    def from_pairs(pairs: np.ndarray, weights: np.ndarray) -> list[float | None]:
        """
        Specificity of the rows taken `weights[k]` times, `(samples, rows)`; None where fewer than two rows are left.

        A row that is drawn twice is not compared with itself.
        """
        totals = ((weights @ pairs) * weights).sum(axis=1)
        counts = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
        return [float(total / count) if count else None for total, count in zip(totals, counts, strict=True)]
