"""Scores of drafts: local `evaluate` metrics, one file each, which work offline and run no remote code."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluate import Metric


def load_metric(name: str) -> "Metric":
    """The metric in the file of this folder that is called `name`."""
    import evaluate  # two seconds, which a report or a card does not need

    return evaluate.load(str(Path(__file__).with_name(f"{name}.py")))
