"""Corpus chrF2 (Popović, 2015), of characters rather than words, by sacreBLEU, with its signature."""

import datasets
import evaluate
import numpy as np
import sacrebleu


class Chrf(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str])` gives `{"chrf": 0…100, "signature": str}`.

    `statistics` gives what sacreBLEU counts in each row, `(rows, 18)`, and `from_totals` the score of their sum.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Corpus chrF2, lower-cased.",
            citation="Maja Popović. 2015. chrF: character n-gram F-score for automatic MT evaluation.",
            inputs_description="predictions and references: one string a row, one reference a prediction.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        score = sacrebleu.CHRF(lowercase=True).corpus_score(predictions, [references])
        return {"chrf": score.score, "signature": self.signature()}

    def signature(self) -> str:
        metric = sacrebleu.CHRF(lowercase=True)
        metric.corpus_score([""], [[""]])  # the signature states the number of references, known after the first score
        return str(metric.get_signature())

    def statistics(self, predictions: list[str], references: list[str]) -> np.ndarray:
        return np.array(sacrebleu.CHRF(lowercase=True)._extract_corpus_statistics(predictions, [references]))

    def from_totals(self, totals: np.ndarray) -> dict[str, float]:
        return {"chrf": sacrebleu.CHRF(lowercase=True)._compute_score_from_stats(totals.tolist()).score}
