"""Drawing tokens: from what top-p keeps, as often as the model says, by random numbers of each row's own."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from approach.generation import sampling
from approach.generation.sampling import RowSampler, make_generator

CPU = torch.device("cpu")


def draw(scores: torch.Tensor, temperature: float, top_p: float, times: int) -> torch.Tensor:
    """How often each token is drawn from one row of scores."""
    sampler = RowSampler(temperature, top_p, [make_generator(seed, CPU) for seed in range(times)])
    chosen = sampler(torch.zeros(times, 1), scores.expand(times, -1).clone())
    assert (chosen.isfinite().sum(-1) == 1).all()
    return torch.bincount(chosen.argmax(-1), minlength=scores.shape[-1])


@pytest.mark.parametrize("sorted_first", [1, 4, 1024])
def test_tokens_are_drawn_as_often_as_transformers_rules_say(monkeypatch, sorted_first):
    """Four tokens hold less than 0.9 of these scores: more must be sorted, once or twice."""
    monkeypatch.setattr(sampling, "NUM_CANDIDATES", sorted_first)
    torch.manual_seed(0)
    scores = torch.randn(1, 40) * 2
    warped = TopPLogitsWarper(0.9)(None, TemperatureLogitsWarper(0.7)(None, scores))
    p, times = warped.softmax(-1)[0], 20_000
    found = draw(scores[0], 0.7, 0.9, times)
    errors = (found / times - p).abs() / (p * (1 - p) / times).sqrt().clamp(min=1e-9)
    assert 5 < (p > 0).sum() < 40 and errors[p > 0].max() < 4 and not found[p == 0].any()


def test_one_token_is_left_where_it_alone_reaches_top_p():
    assert draw(torch.tensor([0.0, 9.0, 1.0]), 1.0, 0.5, 50).tolist() == [0, 50, 0]


def test_a_row_draws_the_same_whoever_is_beside_it(monkeypatch):
    """Flat rows, of which more is sorted, beside steep ones; in bfloat16 many scores are the same."""
    monkeypatch.setattr(sampling, "NUM_CANDIDATES", 8)
    torch.manual_seed(0)
    scores = (torch.randn(6, 300) * torch.tensor([0.1, 4, 1, 8, 2, 0.01])[:, None]).bfloat16().float()
    together = RowSampler(1.0, 0.95, [make_generator(seed, CPU) for seed in range(6)])(None, scores)
    for row in range(6):
        alone = RowSampler(1.0, 0.95, [make_generator(row, CPU)])(None, scores[row : row + 1])
        assert alone.equal(together[row : row + 1])
