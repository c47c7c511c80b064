"""BERTScore (Zhang et al., 2020) by the bert-score package, averaged over rows, with the settings' hash."""

import zlib
from pathlib import Path

import datasets
import evaluate
import numpy as np
import torch
from bert_score import BERTScorer
from transformers import AutoConfig, AutoTokenizer


class StableText(str):
    """
    A text with the same hash in every process.

    bert-score batches the texts of a set in the set's order, and a score's last digits depend on the batch.
    """

    def __hash__(self) -> int:
        return zlib.crc32(self.encode("utf-8", "surrogatepass"))


class BertScore(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str], model_type="roberta-large", num_layers=None, device=None)` gives
    `{"bertscore_f1": about 0…1, "bertscore_f1_rescaled": about 0…1 or None, "hash": str, "num_empty": int,
    "num_truncated": int}`; `num_layers` is needed for an encoder that bert-score does not know.

    Rescaled is (F1 - b) / (1 - b), b being what bert-score's authors measured between unrelated English sentences with
    this encoder; None where they published none. An empty prediction scores 0 before rescaling. `num_truncated` counts
    the texts longer than the encoder reads, whose ends are left out.

    `statistics` gives a row's F1 and 1, `(rows, 2)`, and `from_totals` the scores of their sum.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Mean BERTScore F1, raw and rescaled.",
            citation="Tianyi Zhang et al. 2020. BERTScore: Evaluating Text Generation with BERT.",
            inputs_description="predictions and references: one string a row, one reference a prediction.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, model_type="roberta-large", num_layers=None, device=None):
        rows = self.load(model_type, num_layers, device).statistics(predictions, references)
        counts = {"num_empty": sum(not text.strip() for text in predictions)}
        counts["num_truncated"] = self.count_truncated([*predictions, *references])
        return {**self.from_totals(rows.sum(axis=0)), "hash": self.hash, **counts}

    def load(self, model_type: str = "roberta-large", num_layers: int | None = None, device: str | None = None):
        """Loads the encoder; raises KeyError where bert-score does not know it and `num_layers` is None."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # bert-score 0.3.13 builds a tokenizer that ignores add_prefix_space on transformers 5, and one without a
        # maximum length where the encoder's folder names none. It would ask whether to run code of the encoder's own:
        # loaded before, configuration and tokenizer refuse that.
        config = AutoConfig.from_pretrained(model_type, trust_remote_code=False)
        prefix = {"add_prefix_space": True} if config.model_type == "roberta" else {}
        positions = config.max_position_embeddings - (2 if config.model_type == "roberta" else 0)
        tokenizer = AutoTokenizer.from_pretrained(model_type, trust_remote_code=False, **prefix)
        self.scorer = BERTScorer(model_type=model_type, num_layers=num_layers, device=device, lang="en")
        self.scorer._tokenizer = tokenizer
        self.scorer._tokenizer.model_max_length = min(self.scorer._tokenizer.model_max_length, positions)
        name = model_type.replace("\\", "/").rstrip("/").rpartition("/")[2]
        self.hash = self.scorer.hash.replace(model_type, name)
        self.baseline = self.read_baseline(Path(self.scorer.baseline_path), self.scorer.num_layers)
        return self

    def signature(self) -> str:
        return self.hash

    @staticmethod
    def read_baseline(path: Path, layer: int) -> float | None:
        """The published baseline of F1 at a layer; bert-score's own reader warns on pandas 3."""
        if not path.is_file():
            return None
        rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
        return next(float(f1) for number, _, _, f1 in rows if number == str(layer))

    def statistics(self, predictions: list[str], references: list[str]) -> np.ndarray:
        rows = np.stack([np.zeros(len(predictions)), np.ones(len(predictions))], axis=1)
        filled = [i for i, text in enumerate(predictions) if text.strip()]  # bert-score crashes on empty ones
        if filled:
            drafts, goals = ([StableText(texts[i]) for i in filled] for texts in (predictions, references))
            _, _, f1 = self.scorer.score(drafts, goals)
            rows[filled, 0] = f1.double().numpy()
        return rows

    def from_totals(self, totals: np.ndarray) -> dict[str, float | None]:
        f1 = float(totals[0] / totals[1])
        rescaled = None if self.baseline is None else (f1 - self.baseline) / (1 - self.baseline)
        return {"bertscore_f1": f1, "bertscore_f1_rescaled": rescaled}

    def count_truncated(self, texts: list[str]) -> int:
        tokenizer = self.scorer._tokenizer
        lengths = tokenizer(texts, truncation=False, verbose=False, return_length=True)["length"]
        return sum(length > tokenizer.model_max_length for length in lengths)
