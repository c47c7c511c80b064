"""Where a draft comes from: the training rows near to it, the words that it shares with them, what it cites."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from approach.dataset import load_split
from approach.metrics import load_metric
from approach.retrieval import BM25Index

NUM_NEAREST = 3  # training rows shown with a draft


@dataclass(frozen=True)
class SharedRun:
    """The longest run of words that a draft shares with a training approach; `span` is its characters in the draft."""

    num_words: int
    span: tuple[int, int]
    row_id: str


@dataclass(frozen=True)
class Provenance:
    """Where one draft comes from. Of a page without training pairs only the citations are known."""

    citations: list[tuple[int, int]]  # characters of the draft that look like a citation or a link
    compared: bool = False  # with the training pairs
    longest_run: SharedRun | None = None
    ngram_share: float | None = None  # of the draft's runs of 8 words; None for a draft that has none
    nearest: list[dict] = field(default_factory=list)  # training rows, the nearest first


class TrainingPairs:
    """The pairs that the model was trained on, indexed once. Without a dataset only citations are looked for."""

    def __init__(self, dataset_name: str | None):
        """Reads the split `train` of a folder or Hub id; raises UserError where it cannot be had."""
        self.metric, self.rows = load_metric("provenance"), None
        if dataset_name is None:
            return
        self.rows = load_split(dataset_name, "train", ("id", "problem", "approach"))
        approaches = self.rows["approach"][:]
        self.neighbours, self.corpus = BM25Index(approaches), self.metric.corpus(approaches)

    def trace(self, texts: Sequence[str]) -> list[Provenance]:
        """Where each of these drafts comes from."""
        citations = [[(start, end) for start, end, _ in self.metric.find_citations(text)] for text in texts]
        if self.rows is None:
            return [Provenance(found) for found in citations]
        overlaps = self.corpus.overlap(list(texts))
        nearest = self.neighbours.nearest(list(texts), k=NUM_NEAREST)
        return [
            Provenance(
                citations=cited,
                compared=True,
                longest_run=self.find_run(overlap),
                ngram_share=overlap["ngram_share"],
                nearest=[self.rows[row] for row, _ in near],
            )
            for cited, overlap, near in zip(citations, overlaps, nearest, strict=True)
        ]

    def find_run(self, overlap: dict) -> SharedRun | None:
        """The longest shared run of what the metric found for one draft."""
        if not overlap["longest_run"]:
            return None
        return SharedRun(overlap["longest_run"], overlap["run_span"], str(self.rows[overlap["run_row"]]["id"]))
