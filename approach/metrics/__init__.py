"""
Scores of drafts: local `evaluate` metrics, one file each, which work offline and run no remote code.

METRICS lists every score of scores.json. To add one, write a file here whose metric has `statistics`, `from_totals`
and `signature`, as `bleu.py` (drafts and references) or `own_numbers.py` (drafts and problems) does, and add a line to
METRICS: report, model card, terminal and W&B read it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluate import Metric

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Score:
    """How a score is called, and where it is shown."""

    label: str
    digits: int = 3
    file: str = ""  # in this folder, without ".py"; the score's own name where none is given
    # Of the report: "overlap" compares a draft with its reference alone, "claims" with its problem alone.
    table: str = "overlap"
    in_card: bool = True
    in_terminal: bool = False
    is_tested: bool = False  # in the planned comparisons; all others are reported with intervals, not tested


METRICS = {
    "specificity": Score("specificity", 4, "specificity", "specificity", in_terminal=True, is_tested=True),
    "specificity_median": Score("of the median draft", 4, "specificity", "specificity", in_card=False),
    "specificity_at_30_terms": Score("of the first 30 new terms", 4, "specificity", "specificity", in_card=False),
    "new_term_f1": Score("new-term F1", 3, "specificity", "specificity", in_terminal=True),
    "own_rank": Score("own reference rank", 3, "reference_rank", "specificity", in_terminal=True),
    "own_rank_hardest": Score("among the hardest", 3, "reference_rank", "specificity"),
    "found_first": Score("finds its own reference", 2, "specificity", "specificity", in_card=False),
    "result_words": Score("result words", 3, table="claims", in_terminal=True),
    "own_numbers": Score("numbers of its own", 3, table="claims", in_terminal=True),
    "problem_gain": Score("problem gain", 4, "reference NLL", "gain", in_terminal=True, is_tested=True),
    "gain_over_empty": Score("gain over an empty problem", 4, "reference NLL", "gain", in_card=False),
    "bits_per_byte": Score("bits a byte", 3, "reference NLL", "gain"),
    "bleu": Score("BLEU", 2),
    "chrf": Score("chrF", 2),
    "rouge1": Score("ROUGE-1", 3, "rouge"),
    "rouge2": Score("ROUGE-2", 3, "rouge"),
    "rougeL": Score("ROUGE-L", 3, "rouge", in_terminal=True),
    "bertscore_f1": Score("BERTScore F1", 3, "bertscore"),
}


def list_table(table: str) -> dict[str, Score]:
    """The scores of one of the report's tables."""
    return {name: score for name, score in METRICS.items() if score.table == table}


def list_files(table: str) -> list[str]:
    """The files of the metrics in one of the report's tables."""
    return list(dict.fromkeys(score.file or name for name, score in list_table(table).items()))


def load_metric(name: str) -> "Metric":
    """The metric in the file of this folder that is called `name`."""
    import evaluate  # two seconds, which a report or a card does not need

    return evaluate.load(str(FOLDER / f"{name}.py"))
