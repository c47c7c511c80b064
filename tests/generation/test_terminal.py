"""Files of problems and of drafts."""

import json

import pytest

from approach.errors import UserError
from approach.generation import terminal
from approach.storage import Output, contains_text

HOW = ({"do_sample": False}, (42, 43))


def make_output(path):
    return Output(str(path), "drafts", False, contains_text("draft"), {}, argument="--output", is_file=True)


class OneToken:
    """Stands for a model that can read every problem but those of `long`."""

    def encode_problem(self, problem):
        return [0] * 9 if "long" in problem else [0]

    def count_free_tokens(self, prompt):
        return 8 - len(prompt)

    def generate(self, prompts, decoding, seeds):
        return [{"prediction": "a draft", "ended": True, "num_tokens": 1}] * len(prompts)


@pytest.fixture
def drafter():
    return OneToken()


def test_each_draft_is_a_line_and_a_problem_that_is_too_long_is_skipped(drafter, tmp_path, capsys):
    output = tmp_path / "new" / "drafts.jsonl"
    problems = [("line 1", "First."), ("line 3", "Too long.")]
    assert terminal.write_drafts(drafter, problems, *HOW, make_output(output)) == 2
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"problem": "First.", "draft": i, "seed": 42 + i, "approach": "a draft", "ended": True, "num_tokens": 1}
        for i in range(2)
    ]
    assert "line 3 is longer than the model can read" in capsys.readouterr().err


def test_no_file_is_written_for_no_draft_and_a_bad_place_ends_in_one_line(drafter, tmp_path):
    output = tmp_path / "drafts.jsonl"
    assert terminal.write_drafts(drafter, [("line 1", "Too long.")], *HOW, make_output(output)) == 0
    assert list(tmp_path.iterdir()) == []
    output.write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(UserError, match="--output .*nothing written") as ending:
        terminal.write_drafts(drafter, [("line 1", "First.")], *HOW, make_output(output / "drafts.jsonl"))
    assert "\n" not in str(ending.value)


def test_a_source_without_problems_ends_in_one_line(tmp_path, capsys):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\xff")
    for source, message in [(empty, "holds no problem"), (binary, "not a text in UTF-8"), (tmp_path, "--problems")]:
        with pytest.raises(UserError, match=message):
            terminal.read_problems(str(source))
    assert "line 2 is empty: skipped" in capsys.readouterr().err
