import json
from pathlib import Path

import pytest

from approach.artifacts import check_hashes
from approach.errors import UserError
from approach.storage import public_name, read_json, write_atomically


@pytest.mark.parametrize(
    "name, public",
    [
        ("alice/base", "alice/base"),
        ("gpt2", "gpt2"),
        ("/home/alice/models/base", "base"),
        ("/home/alice/models/base/", "base"),
        (r"C:\Users\alice\base", "base"),
        ("C:\\Users\\alice\\base\\", "base"),
        ("../models/base", "base"),
        ("~/models/base", "base"),
        ("missing/folder/base", "base"),
        ("./missing", "missing"),
        ("data/*.jsonl", "*.jsonl"),
        ("/", "root"),
        (".", "here"),
        ("..", "parent"),
        ("inside", "inside"),
        ("inside/", "inside"),
        ("inside/deep", "deep"),
        ("inside/link", "link"),
    ],
)
def test_what_is_published_names_a_hub_id_or_the_last_name_of_a_path(name, public, tmp_path, monkeypatch):
    here = tmp_path / "parent" / "here"
    (here / "inside" / "deep").mkdir(parents=True)
    (here / "inside" / "link").symlink_to(here / "inside" / "deep")
    monkeypatch.chdir(here)
    assert public_name(name) == public


def test_a_text_is_replaced_whole_or_left(tmp_path):
    path = tmp_path / "text"
    write_atomically(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_bytes() == b"old\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_a_damaged_record_ends_in_one_line(content, tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="run.json cannot be read"):
        read_json(path)
    assert read_json(tmp_path / "none.json") == {}


def test_a_file_that_changed_since_it_was_recorded_is_named(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    digest = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    (tmp_path / "run.json").write_text(json.dumps({"files": {"weights": digest, "gone": "0"}}), encoding="utf-8")
    check_hashes(tmp_path, "run.json")
    (tmp_path / "weights").write_bytes(b"2")
    with pytest.raises(UserError, match=f"weights is not the file .* {Path('run.json')}"):
        check_hashes(tmp_path, "run.json")
