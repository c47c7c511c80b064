"""Corpus BLEU (Papineni et al., 2002) by sacreBLEU (Post, 2018), with its signature."""

import datasets
import evaluate
import sacrebleu


class Bleu(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` gives `{"bleu": 0…100, "signature": str}`."""

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
        # 13a splits punctuation on both sides, so that with lower case tokenized references and prose are comparable.
        metric = sacrebleu.BLEU(tokenize="13a", lowercase=True)
        # A list of reference streams, not of references a row: the transposed shape would score the first row alone.
        score = metric.corpus_score(predictions, [references])
        return {"bleu": score.score, "signature": str(metric.get_signature())}
