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
        metric = sacrebleu.CHRF(lowercase=True)
        score = metric.corpus_score(predictions, [references])
        return {"chrf": score.score, "signature": str(metric.get_signature())}

    def statistics(self, predictions: list[str], references: list[str]) -> np.ndarray:
        return np.array(sacrebleu.CHRF(lowercase=True)._extract_corpus_statistics(predictions, [references]))

    def from_totals(self, totals: np.ndarray) -> dict[str, float]:
        return {"chrf": sacrebleu.CHRF(lowercase=True)._compute_score_from_stats(totals.tolist()).score}
