"""Result words: the share of a draft's words that stand in sentences which report results."""

import datasets
import evaluate
import numpy as np
from nupunkt import sent_tokenize

from approach.roles import load_tagger, most_likely_role


class ResultWords(evaluate.Metric):
    """
    `compute(predictions=[str], problems=[str])` gives `result_words` (0…1; None without a word).

    The tagger that `--pair_rule roles` uses labels a draft's sentences, after the problem as the first of them. A
    draft's results are invented, since the work is not done yet. The tagger was trained on computer science and is
    right about nine sentences in ten there: compare with the references' own share.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of words in sentences that a tagger of sentence roles calls results.",
            citation="",
            inputs_description="predictions and problems: one string a row.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "problems": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, problems):
        return self.from_totals(self.statistics(predictions, problems).sum(axis=0))

    def signature(self) -> str:
        return "words of sentences (nupunkt) that the tagger of sentence roles calls results"

    @staticmethod
    def statistics(predictions: list[str], problems: list[str]) -> np.ndarray:
        """Words in sentences of results and all words, `(rows, 2)`."""
        tagger, rows = load_tagger(), []
        for prediction, problem in zip(predictions, problems, strict=True):
            sentences = sent_tokenize(prediction)
            roles = [most_likely_role(found) for found in tagger.tag([problem, *sentences])[1:]]
            sizes = [len(sentence.split()) for sentence in sentences]
            results = sum(size for size, role in zip(sizes, roles, strict=True) if role == "result")
            rows.append([results, sum(sizes)])
        return np.array(rows, float)

    @staticmethod
    def from_totals(totals: np.ndarray) -> dict[str, float | None]:
        results, words = totals
        return {"result_words": float(results / words) if words else None}
