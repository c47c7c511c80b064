"""Who judges what, in which order: every system as often, as early, and on either side."""

import random
from collections import Counter
from itertools import combinations

import pytest

from approach.errors import UserError
from approach.review.design import Item, Size, design_sheet, require_possible

SIZES = [Size(3, 50, 5, 3, 2), Size(2, 20, 4, 4, 1), Size(1, 40, 7, 3, 2)]


def part(items: list[Item], num_systems: int) -> list[Item]:
    """A part of a rater's list, repeats left out."""
    return [item for item in items if len(item.systems) == num_systems and item.repeats is None]


def spread(counts: Counter, keys) -> int:
    """How far the counts of all keys lie apart."""
    values = [counts[key] for key in keys]
    return max(values) - min(values)


@pytest.mark.parametrize("size", SIZES)
def test_systems_are_balanced_over_raters_pairs_order_and_sides(size):
    systems, pairs = range(size.systems), list(combinations(range(size.systems), 2))
    for items in design_sheet(size, random.Random(0)):
        drafts, doubles = part(items, 1), part(items, 2)
        assert len(drafts) == size.problems * size.drafts_per_problem
        assert len(doubles) == size.problems * size.pairs_per_problem
        assert spread(Counter(item.systems[0] for item in drafts), systems) <= 1
        assert spread(Counter(tuple(sorted(item.systems)) for item in doubles), pairs) <= 2
        by_problem = [[item.systems[0] for item in drafts if item.problem == i] for i in range(size.problems)]
        assert all(len(set(block)) == size.drafts_per_problem for block in by_problem), "no draft twice"
        together = Counter(tuple(pair) for block in by_problem for pair in combinations(sorted(block), 2))
        assert spread(together, pairs) <= 2, "balanced incomplete blocks"
        for begin in range(0, len(drafts), size.problems):
            one_round = drafts[begin : begin + size.problems]
            assert sorted(item.problem for item in one_round) == list(range(size.problems))
            assert spread(Counter(item.systems[0] for item in one_round), systems) <= 4
        for system in systems:
            as_a, as_b = (sum(item.systems[side] == system for item in doubles) for side in (0, 1))
            assert abs(as_a - as_b) <= 3


def test_three_raters_of_fifty_problems_are_balanced_exactly():
    for items in design_sheet(Size(3, 50, 5, 3, 2), random.Random(42)):
        assert set(Counter(item.systems[0] for item in part(items, 1)).values()) == {30}


def test_two_raters_often_judge_the_same_draft_and_the_same_pair():
    """Or their agreement could not be measured."""
    items = [item for items in design_sheet(Size(3, 50, 5, 3, 2), random.Random(0)) for item in items]
    for number, least in ((1, 100), (2, 50)):
        judged = Counter((item.problem, tuple(sorted(item.systems))) for item in part(items, number))
        assert sum(count > 1 for count in judged.values()) > least


@pytest.mark.parametrize("size", SIZES)
def test_one_item_in_twenty_comes_again_far_from_the_first_a_pair_with_its_sides_changed(size):
    for items in design_sheet(size, random.Random(0)):
        for number in (1, 2):
            places = [place for place, item in enumerate(items) if len(item.systems) == number]
            again = [place for place in places if items[place].repeats is not None]
            assert len(again) == max(1, round(0.05 * (len(places) - len(again))))
            for place in again:
                first = items[items[place].repeats]
                assert first.problem == items[place].problem and first.systems[::-1] == items[place].systems
                assert first.repeats is None and place - items[place].repeats >= len(places) // 5


def test_other_items_of_one_problem_lie_apart():
    for items in design_sheet(Size(3, 50, 5, 3, 2), random.Random(0)):
        for number in (1, 2):
            last: dict[int, int] = {}
            for place, item in enumerate(part(items, number)):
                assert place - last.get(item.problem, -100) >= 25
                last[item.problem] = place


def test_the_same_seed_gives_the_same_lists_and_another_seed_others():
    size = SIZES[0]
    assert design_sheet(size, random.Random(1)) == design_sheet(size, random.Random(1))
    assert design_sheet(size, random.Random(1)) != design_sheet(size, random.Random(2))


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (Size(1, 50, 5, 6, 2), "--drafts_per_problem 6: there are 5 systems"),
        (Size(1, 50, 5, 3, 11), "--pairs_per_problem 11: 5 systems make 10 pairs"),
        (Size(1, 11, 5, 3, 1), "--num_problems 11: a rater would see 19 controls of at least 20"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(size, said):
    with pytest.raises(UserError, match=said):
        require_possible(size, 3)
    require_possible(Size(1, 12, 5, 3, 1), 3)
