"""Corpus BLEU (Papineni et al., 2002) by sacreBLEU (Post, 2018), with its signature."""

import datasets
import evaluate
import numpy as np
import sacrebleu


class Bleu(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str])` gives `{"bleu": 0…100, "signature": str}`.

    `statistics` gives what sacreBLEU counts in each row, `(rows, 10)`, and `from_totals` the score of their sum, so
    that rows can be resampled without counting again.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Corpus BLEU with sacreBLEU's 13a tokenization, lower-cased.",
            citation="Matt Post. 2018. A Call for Clarity in Reporting BLEU Scores.",
            inputs_description="predictions and references: one string a row, one reference a prediction.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        # A list of reference streams, not of references a row: the transposed shape would score the first row alone.
        score = self.sacrebleu_metric().corpus_score(predictions, [references])
        return {"bleu": score.score, "signature": self.signature()}

    def signature(self) -> str:
        metric = self.sacrebleu_metric()
        metric.corpus_score([""], [[""]])  # the signature states the number of references, known after the first score
        return str(metric.get_signature())

    @staticmethod
    def sacrebleu_metric() -> sacrebleu.BLEU:
        # 13a splits punctuation on both sides, so that with lower case tokenized references and prose are comparable.
        return sacrebleu.BLEU(tokenize="13a", lowercase=True)

    def statistics(self, predictions: list[str], references: list[str]) -> np.ndarray:
        return np.array(self.sacrebleu_metric()._extract_corpus_statistics(predictions, [references]))

    def from_totals(self, totals: np.ndarray) -> dict[str, float]:
        return {"bleu": self.sacrebleu_metric()._compute_score_from_stats(totals.tolist()).score}
