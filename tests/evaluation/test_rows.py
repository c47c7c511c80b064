"""Which rows are scored: the first by id, or a draw from a part of the ids."""

from approach.evaluation.rows import Selection

ROWS = [{"id": f"{number:02}"} for number in (7, 3, 9, 0, 5, 1, 8, 2, 6, 4)]


def take(*arguments, **named) -> list[str]:
    return [row["id"] for row in Selection("test", *arguments, **named).take(ROWS)]


def test_without_a_seed_the_first_by_id_are_taken():
    assert take(3) == ["00", "01", "02"]
    assert take(3, (0.5, 1.0)) == ["05", "06", "07"]
    assert take(30) == sorted(row["id"] for row in ROWS)


def test_a_seed_draws_from_the_part_and_from_nothing_else():
    drawn = take(3, (0.5, 1.0), draw_seed=0)
    assert drawn == take(3, (0.5, 1.0), draw_seed=0) == sorted(drawn) and min(drawn) >= "05"
    assert len({tuple(take(3, (0.5, 1.0), draw_seed=seed)) for seed in range(20)}) > 1
    assert not set(take(5, (0.0, 0.5), draw_seed=0)) & set(take(5, (0.5, 1.0), draw_seed=0)), "the halves are apart"
    assert take(30, (0.5, 1.0), draw_seed=0) == ["05", "06", "07", "08", "09"]
