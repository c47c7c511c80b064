"""Krippendorff's alpha as his "Computing Krippendorff's Alpha-Reliability" (2011) has it, worked by hand."""

import pytest

from approach.review.agreement import alpha

MEG, OWEN = "0100000010", "1110010000"  # two raters, ten units, yes or no
FOUR = {"A": "123321412...", "B": "1233224125.3", "C": ".3332342251.", "D": "12332441251."}


def said(rows: dict[str, str]) -> list[tuple]:
    return [
        (number, unit, int(answer))
        for number, answers in enumerate(rows.values())
        for unit, answer in enumerate(answers)
        if answer != "."
    ]


def shared(rows: list[tuple]) -> list[tuple]:
    units = [unit for _, unit, _ in rows]
    return [row for row in rows if units.count(row[1]) > 1]


def test_two_raters_yes_or_no():
    """Of 20 answers 14 are no and 6 yes; they differ in 4 units."""
    assert alpha(said({"Meg": MEG, "Owen": OWEN}), is_ordinal=False) == pytest.approx(1 - 19 * 4 / (14 * 6))


def test_four_raters_with_gaps_equal_or_not():
    """40 answers in units of two or more; 9, 13, 10, 5 and 3 of each; coincidences of unlike ones add up to 8."""
    found = alpha(shared(said(FOUR)), is_ordinal=False)
    assert (
        found
        == pytest.approx(1 - 39 * 8 / (40**2 - 9**2 - 13**2 - 10**2 - 5**2 - 3**2))
        == pytest.approx(0.743, abs=5e-4)
    )


def test_four_raters_with_gaps_by_rank():
    """Squared distances of ranks are 121 from 1 to 2, 132.25 from 2 to 3 … weighted by their coincidences, by hand."""
    observed = 132.25 + (121 + 506.25 + 900 + 132.25 + 361 + 56.25) / 3 + 121
    expected = 9 * (13 * 121 + 10 * 506.25 + 5 * 900 + 3 * 1156) + 13 * (10 * 132.25 + 5 * 361 + 3 * 529)
    expected += 10 * (5 * 56.25 + 3 * 132.25) + 5 * 3 * 16
    found = alpha(shared(said(FOUR)), is_ordinal=True)
    assert found == pytest.approx(1 - 39 * observed / expected) == pytest.approx(0.815, abs=5e-4)


def test_what_is_never_said_otherwise_is_not_measured():
    assert alpha([(1, "a", 1), (2, "a", 1)], is_ordinal=False) is None and alpha([], is_ordinal=True) is None
