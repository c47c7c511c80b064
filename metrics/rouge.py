"""ROUGE-1, ROUGE-2 and ROUGE-L F-measures (Lin, 2004) by the rouge_score package, averaged over rows."""

import datasets
import evaluate
from rouge_score import rouge_scorer


class Rouge(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` gives `{"rouge1": 0…1, "rouge2": 0…1, "rougeL": 0…1}`."""

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
        kinds = ["rouge1", "rouge2", "rougeL"]
        scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=False)
        rows = [scorer.score(reference, draft) for draft, reference in zip(predictions, references, strict=True)]
        return {kind: sum(row[kind].fmeasure for row in rows) / len(rows) for kind in kinds}
