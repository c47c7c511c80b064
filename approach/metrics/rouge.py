"""ROUGE-1, ROUGE-2 and ROUGE-L F-measures (Lin, 2004) by the rouge_score package, averaged over rows."""

from importlib.metadata import version

import datasets
import evaluate
import numpy as np
from rouge_score import rouge_scorer, tokenizers

KINDS = ("rouge1", "rouge2", "rougeL")


class Rouge(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str])` gives `{"rouge1": 0…1, "rouge2": 0…1, "rougeL": 0…1,
    "num_not_measured": int}`.

    rouge_score drops every character but ASCII letters and digits. A row of which nothing is left, of the reference or
    of a draft that is not empty, is not measured: it counts in no mean, and where no row is measured the scores are
    None. An empty draft scores 0.

    `statistics` gives a row's three F-measures and whether it was measured, `(rows, 4)`; `from_totals` the scores of
    their sum.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Mean ROUGE F-measures without stemming, as `evaluate`'s own rouge gives them.",
            citation="Chin-Yew Lin. 2004. ROUGE: A Package for Automatic Evaluation of Summaries.",
            inputs_description="predictions and references: one string a row, one reference a prediction.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        rows = self.statistics(predictions, references)
        return {**self.from_totals(rows.sum(axis=0)), "num_not_measured": int((rows[:, -1] == 0).sum())}

    def signature(self) -> str:
        return f"rouge_score {version('rouge-score')}, no stemming, mean of rows"

    def statistics(self, predictions: list[str], references: list[str]) -> np.ndarray:
        scorer, tokenizer = rouge_scorer.RougeScorer(KINDS), tokenizers.DefaultTokenizer()
        rows = np.zeros((len(predictions), len(KINDS) + 1))
        for row, draft, reference in zip(rows, predictions, references, strict=True):
            if tokenizer.tokenize(reference) and (tokenizer.tokenize(draft) or not draft.strip()):
                scores = scorer.score(reference, draft)
                row[:] = [*(scores[kind].fmeasure for kind in KINDS), 1]
        return rows

    def from_totals(self, totals: np.ndarray) -> dict[str, float | None]:
        *sums, measured = totals.tolist()
        return {kind: value / measured if measured else None for kind, value in zip(KINDS, sums, strict=True)}
