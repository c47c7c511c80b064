"""Files of problems and of drafts."""

import io
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

    tokenizer = None

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


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        (
            "a.txt",
            "\ufeffOne\u2028line.\r\n\nTwo\x0clines.\n",
            [("line 1", "One\u2028line."), ("line 3", "Two\x0clines.")],
        ),
        (
            "a.jsonl",
            '{"id": 1, "problem": "One.\\nLine"}\n\n{"problem": "Two\u2028."}\n',
            [("line 1", "One.\nLine"), ("line 3", "Two\u2028.")],
        ),
        ("a.NDJSON", '{"problem": "One."}', [("line 1", "One.")]),
        (
            "a.csv",
            'id,problem\r\n1,"One, two."\r\n2,"Three\r\nfour."\r\n',
            [("line 2", "One, two."), ("line 4", "Three\r\nfour.")],
        ),
        ("a.csv", "id;problem\n1;One, two.\n", [("line 2", "One, two.")]),
        ("a.tsv", "problem\tid\nOne.\t1\n\t2\n", [("line 2", "One.")]),
    ],
)
def test_problems_are_read_as_the_files_name_says(tmp_path, name, text, found):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert terminal.read_problems(str(path)) == found


def test_stdin_may_be_json_lines(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"question": "One."}\n')))
    assert terminal.read_problems("-", "question") == [("line 1", "One.")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "{", "a.jsonl, line 1 is no JSON"),
        ("a.jsonl", '{"problem": "One."}\n["Two."]', "line 2: a row is .*--problem_column"),
        ("a.jsonl", '{"text": "One."}', "line 1: a row is"),
        ("a.csv", "id,text\n1,One.\n", "has no column 'problem', but id, text: name one with --problem_column"),
        ("a.csv", "problem\n", "holds no problem"),
    ],
)
def test_a_file_of_problems_that_cannot_be_read_ends_in_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as ending:
        terminal.read_problems(str(tmp_path / name))
    assert "\n" not in str(ending.value)
