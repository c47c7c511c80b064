"""Numbers of its own: the share of drafts that state a number which their problem does not state."""

import re

import datasets
import evaluate
import numpy as np

# Digits that stand alone, such as "3.5", "12,000" or "40%"; not those in names such as "GPT-2", "F1" or "3D".
NUMBER = re.compile(r"(?<![\w.,-])\d+(?:[.,]\d+)*(?![\w-]|[.,]\d)")


class OwnNumbers(evaluate.Metric):
    """
    `compute(predictions=[str], problems=[str])` gives `own_numbers` (0…1; None without a row).

    A number of the draft's own is invented: nothing was measured yet. Words such as "three" are not counted.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of drafts that state a number which the problem does not state.",
            citation="",
            inputs_description="predictions and problems: one string a row.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "problems": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, problems):
        return self.from_totals(self.statistics(predictions, problems).sum(axis=0))

    def signature(self) -> str:
        return "drafts with a number in digits that the problem does not state; names such as GPT-2 are none"

    @staticmethod
    def statistics(predictions: list[str], problems: list[str]) -> np.ndarray:
        """1 where a draft states a number of its own, else 0, and 1 for the draft, `(rows, 2)`."""
        rows = [
            [bool(set(NUMBER.findall(prediction)) - set(NUMBER.findall(problem))), 1]
            for prediction, problem in zip(predictions, problems, strict=True)
        ]
        return np.array(rows, float)

    @staticmethod
    def from_totals(totals: np.ndarray) -> dict[str, float | None]:
        drafts, count = totals
        return {"own_numbers": float(drafts / count) if count else None}
