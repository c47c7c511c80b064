"""BERTScore (Zhang et al., 2020) by the bert-score package, averaged over rows, with the settings' hash."""

import datasets
import evaluate
from bert_score import BERTScorer
from transformers import AutoConfig, AutoTokenizer


class BertScore(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str], model_type="roberta-large", num_layers=None, device=None)` gives
    `{"bertscore_f1": about 0…1, "hash": str, "num_empty": int}`; `num_layers` is needed for an encoder that bert-score
    does not know. An empty prediction scores 0.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Mean BERTScore F1, raw (not rescaled).",
            citation="Tianyi Zhang et al. 2020. BERTScore: Evaluating Text Generation with BERT.",
            inputs_description="predictions and references: one string a row, one reference a prediction.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, model_type="roberta-large", num_layers=None, device=None):
        scorer = BERTScorer(model_type=model_type, num_layers=num_layers, device=device)
        # bert-score 0.3.13 builds a tokenizer that ignores add_prefix_space on transformers 5, and one without a
        # maximum length where the encoder's folder names none.
        config = AutoConfig.from_pretrained(model_type)
        prefix = {"add_prefix_space": True} if config.model_type == "roberta" else {}
        positions = config.max_position_embeddings - (2 if config.model_type == "roberta" else 0)
        scorer._tokenizer = AutoTokenizer.from_pretrained(model_type, **prefix)
        scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, positions)
        rows = [i for i, prediction in enumerate(predictions) if prediction.strip()]  # it crashes on empty ones
        scores = [0.0] * len(predictions)
        if rows:
            _, _, f1 = scorer.score([predictions[i] for i in rows], [references[i] for i in rows])
            for i, score in zip(rows, f1.tolist(), strict=True):
                scores[i] = score
        return {
            "bertscore_f1": sum(scores) / len(scores),
            "hash": scorer.hash.replace(model_type, model_type.replace("\\", "/").rstrip("/").rpartition("/")[2]),
            "num_empty": len(predictions) - len(rows),
        }
