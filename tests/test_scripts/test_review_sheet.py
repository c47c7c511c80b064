"""From scores to a sheet, and from ratings to the report: the two scripts as a user runs them."""

import html
import json
import re

import pytest
from conftest import assert_one_clear_line, run_script
from review_inputs import fill, make_sheet, read_key, read_spreadsheet, write_ratings, write_scores
from test_write_report import make_scores

import write_report
from approach.errors import UserError
from review_sheet import main, parse_arguments


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return write_scores(tmp_path_factory.mktemp("evaluation") / "scores", scores=make_scores())


@pytest.fixture(scope="module")
def rated(scores, tmp_path_factory):
    """A sheet of three raters, of whom the third clicks at random."""
    sheet = make_sheet(scores, tmp_path_factory.mktemp("review") / "sheet")
    roles = [system["role"] for system in read_key(sheet)["systems"]]

    def answer(rater, problem, systems, rng):
        if len(systems) == 2:
            better = systems[0] if rng.random() < 0.8 else systems[1]
            return {"better": "tie" if rng.random() < 0.1 else "first" if better == systems[0] else "second"}
        fits = rng.random() < (0.5 if rater == 3 else 0.02 if roles[systems[0]] == "another problem's" else 0.8)
        yes = {True: "yes", False: "no"}
        use = rng.randint(1, 5) if rater == 3 else max(1, 4 - systems[0])
        return {"fits": yes[fits], "approach": "yes", "tryable": yes[fits], "wrong": "no", "use": str(use)}

    return sheet, fill(sheet, answer)


def report(scores, *more: str) -> str:
    write_report.main(write_report.parse_arguments([str(scores), "--overwrite", *more]))
    return (scores / "report.html").read_text(encoding="utf-8")


def test_the_report_says_what_people_said(scores, rated, capsys):
    sheet, files = rated
    page = report(scores, "--ratings", *map(str, files))
    said = capsys.readouterr().out
    assert "Rater 3 accepts other problems&#39; approaches." in page
    assert "Rater 3 accepts other problems' approaches." in said and said.count("Rater") == 1
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "3 raters, who did not know who wrote what, judged 450 drafts and 300 pairs for 50 problems" in text
    page_text = html.unescape(page)
    for label in ("the authors' approach", "another problem's approach", "nearest training approach", "base, greedy"):
        assert f"<td>{label}</td>" in page_text, label
    for words in ("Kendall's tau with", "Krippendorff's alpha</th>", "BERTScore F1", "same answer twice", "of 90"):
        assert words in page_text, words
    assert page == report(scores, "--ratings", *map(str, files), "--key", str(sheet / "key.json"))


def test_one_rater_and_a_half_filled_file_make_a_report_too(scores, rated, tmp_path):
    sheet, files = rated
    rows = read_spreadsheet(files[0])[:30]
    path = write_ratings(tmp_path / "some.csv", rows)
    page = report(scores, "--ratings", str(path), "--key", str(sheet / "key.json"))
    assert "1 rater, who" in " ".join(page.split()) and "not measured" in page and "not rated" in page


def test_a_report_without_ratings_says_nothing_of_people(scores):
    assert "What people said" not in report(scores)


def test_the_ratings_are_never_replaced_by_the_page(scores, rated, capsys):
    sheet, files = rated
    with pytest.raises(UserError, match="which this run reads"):
        report(scores, "--ratings", str(files[0]), "--output", str(files[0]))
    with pytest.raises(SystemExit):
        report(scores, "--key", str(sheet / "key.json"))
    assert "goes with --ratings" in capsys.readouterr().err


def test_a_sheet_with_ratings_beside_its_key_is_not_overwritten(scores, rated, tmp_path, capsys):
    sheet, _ = rated
    with pytest.raises(UserError, match="holds no sheet without ratings"):
        make_sheet(scores, sheet, "--overwrite")
    fresh = make_sheet(scores, tmp_path / "sheet")
    with pytest.raises(UserError, match="add --overwrite"):
        make_sheet(scores, fresh)
    make_sheet(scores, fresh, "--overwrite", "--raters", "1")
    assert read_key(fresh)["raters"] == 1


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["--num_problems", "0"], 2, "--num_problems must be at least 1"),
        (["--num_problems", "61"], 1, "--num_problems 61: "),
        (["--num_problems", "5"], 1, "a rater would see 9 controls of at least 20"),
        (["--drafts_per_problem", "6"], 1, "--drafts_per_problem 6: there are 5 systems"),
        (["--systems", "gpt"], 1, "--systems gpt: "),
        (["--systems", "reference"], 1, "it has fine-tuned; base; "),
    ],
)
def test_mistakes_end_in_one_line(scores, tmp_path, capsys, more, status, said):
    with pytest.raises(SystemExit if status == 2 else UserError) as ended:
        main(parse_arguments([str(scores), "--output_dir", str(tmp_path / "sheet"), *more]))
    message = capsys.readouterr().err if status == 2 else str(ended.value)
    assert said in message and (status == 2 or "\n" not in message)
    assert not (tmp_path / "sheet").exists()


def test_no_scores_or_damaged_ones_end_in_one_line(scores, tmp_path):
    assert_one_clear_line(run_script("review_sheet.py"), 2, "name the folder that evaluate_model.py wrote")
    result = run_script("review_sheet.py", tmp_path / "none", "--output_dir", tmp_path / "sheet")
    assert_one_clear_line(result, 1, "scores.json", "evaluate_model.py")
    (tmp_path / "scores.json").write_text((scores / "scores.json").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "predictions.jsonl").write_text('{"system": "base"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="predictions.jsonl: it is damaged .*; evaluate_model.py writes it"):
        make_sheet(tmp_path, tmp_path / "sheet")


def test_problems_whose_controls_are_the_same_text_are_left_out(scores, tmp_path):
    lines = [json.loads(line) for line in (scores / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    by_system = {(row["system"], row["id"]): row for row in lines}
    by_system["random training approach", "row-0"]["prediction"] = by_system["reference", "row-0"]["prediction"]
    by_system["nearest training approach", "row-1"]["prediction"] = " "
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "scores.json").write_text((scores / "scores.json").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(UserError, match="has 58 problems that can be judged"):
        make_sheet(folder, tmp_path / "sheet", "--num_problems", "59")
    sheet = make_sheet(folder, tmp_path / "sheet", "--num_problems", "58")
    assert not {"row-0", "row-1"} & {problem["id"] for problem in read_key(sheet)["problems"]}


def test_the_controls_are_those_that_evaluate_model_writes():
    from approach.evaluation import systems
    from approach.review.candidates import CONTROLS

    assert list(CONTROLS) == [systems.REFERENCE, systems.RANDOM, systems.NEAREST]
