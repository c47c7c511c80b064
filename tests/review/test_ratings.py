"""Ratings as raters send them: good ones in any dress are read, bad ones end in one line with file and row."""

from pathlib import Path

import pytest
from review_inputs import fill, make_sheet, read_key, read_spreadsheet, write_ratings, write_scores

from approach.errors import UserError
from approach.review.ratings import read_ratings


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return write_scores(tmp_path_factory.mktemp("evaluation") / "scores", num_problems=14)


def answer(rater: int, problem: int, systems: list[int], rng) -> dict:
    if len(systems) == 2:
        return {"better": "first"}
    return {"fits": "yes", "approach": "no", "tryable": "yes", "wrong": "no", "use": str(1 + systems[0])}


@pytest.fixture
def sheet(scores, tmp_path):
    made = make_sheet(scores, tmp_path / "sheet", "--num_problems", "12", "--raters", "2")
    fill(made, answer)
    return made


def read(sheet: Path, scores: Path, *names: str):
    return read_ratings([str(sheet / name) for name in names or FILES], sheet / "key.json", scores)


FILES = ("ratings-rater-1.csv", "ratings-rater-2.csv")


def test_every_answer_arrives_where_it_belongs(sheet, scores):
    ratings = read(sheet, scores)
    assert ratings.raters == [1, 2] and len(ratings.lines) == 12
    assert len(ratings.drafts) == 72 and len(ratings.pairs) == 48, "repeats are not counted twice"
    for row in ratings.drafts:
        assert row.answers == {"fits": 1, "approach": 0, "tryable": 1, "wrong": 0, "use": 1 + row.system}
    assert all(pair.preferred == 1 and pair.systems[0] < pair.systems[1] for pair in ratings.pairs)
    assert len(ratings.repeats) == 2 * (2 * 5 + 1) and all(repeat.is_same for repeat in ratings.repeats)


def test_a_repeat_that_is_answered_otherwise_is_told(sheet, scores):
    key, path = read_key(sheet), sheet / FILES[0]
    rows = read_spreadsheet(path)
    for row in rows:
        if key["items"][row["item"]]["repeats"]:
            row.update({"better": "A" if row["better"] == "B" else "B"} if row["better"] else {"fits": "no"})
    write_ratings(path, rows)
    different = [(repeat.rater, repeat.question) for repeat in read(sheet, scores).repeats if not repeat.is_same]
    assert sorted(different) == [(1, "better"), (1, "fits"), (1, "fits")]


def test_half_filled_sheets_count_for_what_is_filled(sheet, scores):
    path = sheet / FILES[0]
    rows = read_spreadsheet(path)
    for row in rows[5:]:
        row.update(dict.fromkeys(("fits", "approach", "tryable", "wrong", "use", "better"), ""))
    rows[0]["fits"] = ""
    write_ratings(path, rows[:20])
    ratings = read(sheet, scores, FILES[0])
    assert ratings.raters == [1] and len(ratings.drafts) == 5 and not ratings.pairs
    assert sum("fits" in row.answers for row in ratings.drafts) == 4


@pytest.mark.parametrize(
    ("encoding", "change"),
    [
        ("utf-8-sig", lambda text: text.replace(",", ";")),
        ("utf-16", None),
        ("cp1252", lambda text: text.replace("sheet,", "remark,sheet,", 1).replace("\n", "\né,")[:-2]),
        ("utf-8", lambda text: text.replace(",", "\t").replace("yes", " YES ").replace("\n", "\n\n")),
    ],
    ids=["semicolons", "utf-16", "another encoding and a column more", "tabs, capitals and empty lines"],
)
def test_what_a_spreadsheet_makes_of_a_file(sheet, scores, encoding, change):
    path = sheet / FILES[0]
    text = path.read_text(encoding="utf-8")
    path.write_text(change(text) if change else text, encoding=encoding, newline="")
    if change is None:
        with pytest.raises(UserError, match=r"row 1: there is no column 'sheet'"):
            read(sheet, scores)
    else:
        assert len(read(sheet, scores).drafts) == 72


def spoil(path: Path, row: int, **cells: str) -> None:
    """Changes cells of a row, counted as a spreadsheet does."""
    rows = read_spreadsheet(path)
    rows[row - 2].update(cells)
    write_ratings(path, rows)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"item": "bcdfghjk"}, "item 'bcdfghjk' is not in the key"),
        ({"item": ""}, "item '' is not in the key"),
        ({"sheet": "bcdfghjk"}, "sheet is 'bcdfghjk', but the key is of sheet"),
        ({"rater": "2"}, "is rater 1's, but rater is '2'"),
        ({"fits": "maybe"}, "fits is 'maybe': it must be one of yes, no, or empty"),
        ({"use": "6"}, "use is '6': it must be one of 1, 2, 3, 4, 5, or empty"),
        ({"use": "4.5"}, "use is '4.5'"),
        ({"better": "A"}, "better is 'A', but this row asks for fits, approach, tryable, wrong, use: leave it empty"),
    ],
)
def test_a_bad_cell_is_named_with_file_and_row(sheet, scores, cells, said):
    path = sheet / FILES[0]
    spoil(path, 4, **cells)
    with pytest.raises(UserError) as ended:
        read(sheet, scores)
    assert str(ended.value).startswith(f"{path}, row 4: ") and said in str(ended.value)
    assert "\n" not in str(ended.value)


def test_an_answer_to_a_pair_must_be_a_side(sheet, scores):
    path = sheet / FILES[1]
    row = next(number for number, row in enumerate(read_spreadsheet(path), start=2) if row["better"])
    spoil(path, row, better="left")
    with pytest.raises(UserError, match=rf"{path.name}, row {row}: better is 'left': it must be one of A, tie, B"):
        read(sheet, scores)


def test_rows_and_files_that_come_twice(sheet, scores):
    path = sheet / FILES[0]
    rows = read_spreadsheet(path)
    copy = write_ratings(sheet / "copy.csv", rows)
    with pytest.raises(UserError, match=r"copy.csv, row 2: .*ratings-rater-1.csv holds ratings of rater 1, too"):
        read(sheet, scores, FILES[0], copy.name)
    write_ratings(path, [*rows, rows[3]])
    with pytest.raises(UserError, match=rf"row {len(rows) + 2}: item '{rows[3]['item']}' is in row 5, too"):
        read(sheet, scores)


def test_a_missing_column_a_missing_file_an_open_quotation_and_nothing_at_all(sheet, scores):
    path = sheet / FILES[0]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(",wrong,", ",other,"), encoding="utf-8")
    with pytest.raises(UserError, match=r"rater-1.csv, row 1: there is no column 'wrong'; the sheet's columns are"):
        read(sheet, scores)
    path.write_text(text + '"open', encoding="utf-8")
    with pytest.raises(UserError, match=rf"rater-1.csv, row {text.count(chr(10)) + 1}: unexpected end of data"):
        read(sheet, scores)
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="there is no column 'sheet'"):
        read(sheet, scores)
    path.unlink()
    with pytest.raises(UserError, match=r"--ratings .*rater-1.csv: No such file"):
        read(sheet, scores)
    empty = write_ratings(
        path, [row | {"fits": ""} for row in read_spreadsheet(sheet / "for_raters/sheet-rater-1.csv")]
    )
    with pytest.raises(UserError, match="nothing is filled in"):
        read(sheet, scores, empty.name)


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '{"systems": 3}'])
def test_a_key_that_is_none(sheet, scores, content):
    key = sheet / "key.json"
    key.unlink() if content is None else key.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as ended:
        read(sheet, scores)
    assert str(ended.value).startswith(str(key)) and "review_sheet.py" in str(ended.value)


def test_scores_of_another_evaluation_are_refused(sheet, tmp_path):
    other = write_scores(tmp_path / "other", num_problems=13)
    with pytest.raises(UserError, match=r"key.json: its sheet was made from other drafts than .*other"):
        read(sheet, other)
