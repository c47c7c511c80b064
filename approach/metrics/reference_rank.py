"""Own reference rank: how often a draft fits its own reference better than it fits the references of other rows."""

import datasets
import evaluate
import numpy as np

NUM_HARDEST = 8


class ReferenceRank(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str], pairs=array)` gives `own_rank` (0…1; chance is 0.5; None for a single
    row), and with `neighbours`, lists of row numbers, `own_rank_hardest`.

    `pairs[i][j]` is a draft's F1 of new terms with its own reference minus that with row j's, as specificity has it:
    the terms of both problems are left out. A draft ranks its own reference above row j's where that is positive; a
    tie counts half. The rank is the share of other rows that it is above, so that, unlike specificity, it does not
    grow with the number of terms that a draft has. `neighbours` are the rows whose problems are nearest to row i's:
    their references are the hardest to tell from its own.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of the other rows' references that fit a draft less than its own reference does.",
            citation="",
            inputs_description="predictions and references: one string a row; pairs: specificity's, (rows, rows).",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, pairs, neighbours=None):
        wins = self.statistics(np.asarray(pairs))
        result = {"own_rank": self.from_wins(wins, np.ones((1, len(wins))))[0]}
        if neighbours is not None:
            result["own_rank_hardest"] = float(np.mean(self.against(wins, neighbours)))
        return result

    def signature(self) -> str:
        return f"specificity's F1, ties half; hardest: the {NUM_HARDEST} rows of the nearest problems by BM25"

    @staticmethod
    def statistics(pairs: np.ndarray) -> np.ndarray:
        """1 where row i's draft fits its own reference better than row j's, 0.5 for a tie; 0 on the diagonal."""
        wins = (pairs > 0) + 0.5 * (pairs == 0)
        np.fill_diagonal(wins, 0.0)
        return wins

    @staticmethod
    def against(wins: np.ndarray, neighbours: list[list[int]]) -> np.ndarray:
        """Each row's mean over its neighbours, `(rows,)`; 0.5 for a row that has none."""
        return np.array([wins[i, near].mean() if near else 0.5 for i, near in enumerate(neighbours)])

    @staticmethod
    def from_wins(wins: np.ndarray, weights: np.ndarray) -> list[float | None]:
        """
        The rank of the rows taken `weights[k]` times, `(samples, rows)`; None where fewer than two rows are left.

        A row that is drawn twice is not compared with itself.
        """
        totals = ((weights @ wins) * weights).sum(axis=1)
        counts = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
        return [float(total / count) if count else None for total, count in zip(totals, counts, strict=True)]
