import pytest
import torch

from approach.errors import UserError
from approach.merging.parity import GreedyDraft, ModelOutputs, check_same_outputs, largest_difference, largest_gap


def test_greedy_drafts_may_part_at_a_near_tie_alone():
    step = torch.tensor([1.0, 0.99995, 0.5])
    ours = [GreedyDraft([0, 0, 2], [step, step, step])]
    assert largest_gap(ours, ours) == 0
    assert largest_gap(ours, [GreedyDraft([0, 1, 1], [])]) == pytest.approx(
        5e-5, abs=1e-6
    )  # what follows is of no account
    assert largest_gap(ours, [GreedyDraft([0, 2, 2], [])]) == pytest.approx(0.5)


def test_outputs_that_differ_end_in_one_line_and_numbers_that_are_none_differ():
    step = torch.tensor([1.0, 0.5])
    ours = ModelOutputs([step.expand(3, 2)], [GreedyDraft([0], [step])])
    assert check_same_outputs(ours, ours, "a and b") == 0
    assert largest_difference(ours.logits, [torch.zeros(3, 3)]) == float("inf"), "of another vocabulary"
    for logits in (ours.logits[0] + 2e-4, ours.logits[0] * float("nan")):
        with pytest.raises(UserError, match="a and b differ by .*, where 1.4e-04 would be rounding: nothing written"):
            check_same_outputs(ours, ours._replace(logits=[logits]), "a and b")
    with pytest.raises(UserError, match="a and b draft different texts, at no near tie .*: nothing written"):
        check_same_outputs(ours, ours._replace(drafts=[GreedyDraft([1], [step])]), "a and b")


def test_rounding_is_measured_by_the_spread_of_the_logits():
    """An adapter of SmolLM2-135M, trained for half an hour, was refused for 2.4e-4 on logits that spread by 5.3."""
    logits = 5.3 * torch.randn(20, 300, generator=torch.Generator().manual_seed(0))
    ours = ModelOutputs([logits], [])
    assert check_same_outputs(ours, ours._replace(logits=[logits + 2.4e-4]), "a and b") == pytest.approx(
        2.4e-4, rel=0.01
    )
    with pytest.raises(UserError, match="a and b differ by 1.0e-02"):
        check_same_outputs(ours, ours._replace(logits=[logits + 1e-2]), "a and b")
