"""Which rater judges which drafts, in which order: balanced incomplete blocks, balanced sides, hidden repeats."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

from approach.errors import UserError

SHARE_REPEATED = 0.05
MIN_CONTROLS = 20  # drafts a rater: on fewer, one who does not read cannot be told


@dataclass(frozen=True)
class Size:
    """How large a sheet is: how many raters and problems, and what a rater judges of each problem."""

    raters: int
    problems: int
    systems: int
    drafts_per_problem: int
    pairs_per_problem: int


@dataclass(frozen=True)
class Item:
    """What a rater judges at once: one draft for a problem, or a pair of drafts, A before B."""

    problem: int
    systems: tuple[int, ...]  # one, or two
    repeats: int | None = None  # the place in the rater's list of the item that this one repeats


def require_possible(size: Size, num_controls: int) -> None:
    """Raises UserError where so many drafts or pairs do not exist, or a rater would see too few controls."""
    if size.drafts_per_problem > size.systems:
        raise UserError(
            f"--drafts_per_problem {size.drafts_per_problem}: there are {size.systems} systems with the controls"
        )
    if size.pairs_per_problem > (num_pairs := comb(size.systems, 2)):
        raise UserError(f"--pairs_per_problem {size.pairs_per_problem}: {size.systems} systems make {num_pairs} pairs")
    shown = size.problems * size.drafts_per_problem * num_controls // size.systems
    if shown < MIN_CONTROLS:
        raise UserError(
            f"--num_problems {size.problems}: a rater would see {shown} controls of at least {MIN_CONTROLS}: "
            "raise it, or --drafts_per_problem"
        )


def design_sheet(size: Size, rng: random.Random) -> list[list[Item]]:
    """For each rater the items in their order: drafts one by one, then pairs; the same for the same `rng`."""
    drafts = draw_blocks(size, size.drafts_per_problem, 1, rng)
    pairs = draw_blocks(size, 2, size.pairs_per_problem, rng)
    sheets = []
    for rater in range(size.raters):
        blocks = [[(system,) for system in block] for [block] in drafts[rater]]
        single = [Item(problem, systems) for problem, systems in spread_over_rounds(blocks, rng)]
        double = [Item(problem, systems) for problem, systems in spread_over_rounds(pairs[rater], rng)]
        parts = [add_repeats(single, rng), add_repeats(choose_sides(double, rng), rng)]
        later = [
            item if item.repeats is None else replace(item, repeats=item.repeats + len(parts[0])) for item in parts[1]
        ]
        sheets.append(parts[0] + later)
    return sheets


def draw_blocks(size: Size, block_size: int, num_blocks: int, rng: random.Random) -> list[list[list[tuple]]]:
    """
    For each rater and problem `num_blocks` different blocks: sets of `block_size` systems, `(raters, problems)`.

    Each block is the one that a rater has had least of so far, counted by pairs of systems and then by systems; of
    those that are equal, one that another rater has for this problem, because agreement needs two who judge the same.
    """
    blocks = list(combinations(range(size.systems), block_size))
    drawn: list[list[list[tuple]]] = [[[] for _ in range(size.problems)] for _ in range(size.raters)]
    overall = Counter()
    for rater in range(size.raters):
        own, problems = Counter(), shuffled(range(size.problems), rng)
        for problem in problems * num_blocks:
            others = Counter(block for row in drawn[:rater] for block in row[problem])

            def cost(block: tuple, own: Counter = own, others: Counter = others) -> tuple:
                parts = list(combinations(block, 2))
                used = sum(own[part] for part in parts), sum(own[system] for system in block)
                return *used, sum(overall[part] for part in parts), -others[block], rng.random()

            block = min((block for block in blocks if block not in drawn[rater][problem]), key=cost)
            drawn[rater][problem].append(block)
            for counted in (*combinations(block, 2), *block):
                own[counted] += 1
                overall[counted] += 1
    return drawn


def spread_over_rounds(blocks: Sequence[Sequence[tuple]], rng: random.Random) -> list[tuple[int, tuple]]:
    """
    The members of each problem's block in an order: `(problem, member)`, every problem once a round.

    Each member comes about equally often in every round, and half of the other problems lie between two items of one
    problem.
    """
    counts, rounds = Counter(), [{} for _ in blocks[0]]
    for problem in shuffled(range(len(blocks)), rng):
        members = shuffled(blocks[problem], rng)
        rotations = [members[i:] + members[:i] for i in range(len(members))]
        best = min(rotations, key=lambda order: sum(counts[place, member] for place, member in enumerate(order)))
        for place, member in enumerate(best):
            counts[place, member] += 1
            rounds[place][problem] = member
    order, half = shuffled(range(len(blocks)), rng), len(blocks) // 2
    items = []
    for members in rounds:
        items += [(problem, members[problem]) for problem in order]
        order = shuffled(order[:half], rng) + shuffled(order[half:], rng)
    return items


def choose_sides(items: list[Item], rng: random.Random) -> list[Item]:
    """The pairs with their sides: of two systems, and of all, each is A about half of the time."""
    as_a, turned = Counter(), []
    for item in items:
        one, other = shuffled(item.systems, rng)
        if (as_a[one, other], as_a[one]) > (as_a[other, one], as_a[other]):
            one, other = other, one
        as_a.update([(one, other), one])
        as_a.subtract([other])
        turned.append(replace(item, systems=(one, other)))
    return turned


def add_repeats(items: list[Item], rng: random.Random) -> list[Item]:
    """The items; one in twenty, of the first half, comes again in the last quarter, a pair with its sides changed."""
    middle, late = (len(items) + 1) // 2, len(items) - len(items) // 4
    chosen = rng.sample(range(middle), max(1, round(SHARE_REPEATED * len(items))))
    rest = items[late:]
    for place in chosen:
        again = replace(items[place], systems=items[place].systems[::-1], repeats=place)
        rest.insert(rng.randrange(len(rest) + 1), again)
    return items[:late] + rest


def shuffled(values: Sequence, rng: random.Random) -> list:
    """The values in a random order."""
    return rng.sample(list(values), len(values))
