"""Publishing, against a Hub on loopback: never to a public repository unasked, never a secret, whole, read back."""

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Blob, Repo
from publishing import serve_hub, shown, uploads

from approach import hub as room
from approach.hub import PublishError, Repository, list_files, matches

PATTERNS = (*room.MODEL_FILES, *room.RECORDS)
TOKEN = "hf_" + "a" * 34


@pytest.fixture
def hub(monkeypatch):
    with serve_hub(monkeypatch) as hub:
        yield hub


def write(folder: Path, **files: str) -> Path:
    """Writes files by name, `/` as `__`; a later one of that name takes an earlier one's place."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def make_folder(folder: Path, weights: str = "weights") -> Path:
    return write(folder, **{"README.md": "# A model\n", "run.json": "{}\n", "model.safetensors": weights})


def publish(folder: Path, name: str = "alice/model", patterns=PATTERNS, **options) -> room.Published:
    kind, public = options.pop("kind", "model"), options.pop("public", False)
    repository = Repository(name, kind, public)
    return room.publish(folder, list_files(folder, patterns), repository, "A commit", **options)


@pytest.mark.parametrize("kind", ["model", "dataset"])
@uploads
def test_a_folder_is_one_private_commit_that_replaces_what_was_there(hub, tmp_path, kind):
    folder = make_folder(tmp_path / "model")
    write(folder, **{"old.safetensors": "1", "samples.jsonl": "{}\n", "sub__kept.safetensors": "2"})
    options = {"kind": kind, "replaces": ("*.safetensors", "*.jsonl"), "tag": True}
    published = publish(folder, patterns=(*PATTERNS, "sub/*"), **options)
    repository = hub.repo(kind, "alice/model")
    assert published.repo_id == "alice/model" and published.revision == repository.at().sha and repository.private
    assert published.url.endswith(f"/commit/{published.revision}, tag {next(iter(repository.tags))}")
    for name in ("old.safetensors", "samples.jsonl", "sub/kept.safetensors"):
        (folder / name).unlink()
    write(folder, **{"notes.txt": "", "optimizer.pt": "", ".hidden.json": "", "checkpoint-4__model.safetensors": ""})
    assert publish(folder, **options).revision == repository.at().sha
    assert shown(hub, kind=kind).keys() == {"README.md", "run.json", "model.safetensors", "sub/kept.safetensors"}
    assert [commit.title for commit in repository.commits.values()] == ["initial commit", "A commit", "A commit"]
    publish(folder, **options)
    assert len(repository.commits) == 3 and len(repository.tags) == 2, "the same again is no commit"
    assert set(repository.tags.values()) == set(list(repository.commits)[1:])


@uploads
def test_a_public_repository_is_published_to_when_asked_alone(hub, tmp_path):
    folder = make_folder(tmp_path / "model")
    publish(folder, public=True)
    repository = hub.repo("model", "alice/model")
    assert not repository.private
    make_folder(folder, "others")
    asked = len(hub.requests)
    with pytest.raises(PublishError, match="^the repository is public: add --public to publish there all the same$"):
        publish(folder)
    assert len(repository.commits) == 2 and len(repository.uploads) == 1, "nothing was uploaded"
    assert not [path for method, path in hub.requests[asked:] if re.search("preupload|lfs|/commit/|/tag/", path)]
    publish(folder, public=True)
    assert shown(hub)["model.safetensors"] == b"others" and not repository.private


@uploads
def test_what_arrives_damaged_is_noticed_and_not_tagged(hub, tmp_path, monkeypatch):
    apply = Repo.apply

    def damage(self, files, key, path, **value):
        apply(self, files, key, path, **value)
        if path == damaged:
            files[path] = Blob(files[path].data[:-1] + b"#", is_lfs=files[path].is_lfs)

    monkeypatch.setattr(Repo, "apply", damage)
    folder = make_folder(tmp_path / "model")
    for damaged in ("model.safetensors", "README.md"):
        with pytest.raises(PublishError, match=f"read back, {damaged} is not what was sent"):
            publish(folder, f"alice/{damaged}", tag=True)
        assert hub.repo("model", f"alice/{damaged}").tags == {}


@uploads
def test_what_does_not_arrive_is_noticed(hub, tmp_path, monkeypatch):
    apply = Repo.apply

    def lose(self, files, key, path, **value):
        if path != "run.json":
            apply(self, files, key, path, **value)

    monkeypatch.setattr(Repo, "apply", lose)
    with pytest.raises(PublishError, match="read back, run.json is not what was sent"):
        publish(make_folder(tmp_path / "model"))


@uploads
def test_checkpoints_in_folder_and_repository_may_differ(hub, tmp_path):
    folder = write(make_folder(tmp_path / "model"), **{"checkpoint-2__model.safetensors": "one"})
    publish(folder, patterns=(*PATTERNS, "checkpoint-2/*"))
    write(folder, **{"checkpoint-2__model.safetensors": "two", "checkpoint-4__model.safetensors": "three"})
    publish(make_folder(folder, "others"), tag=True)
    assert shown(hub)["checkpoint-2/model.safetensors"] == b"one" and hub.repo("model", "alice/model").tags
    assert shown(hub)["model.safetensors"] == b"others" and "checkpoint-4/model.safetensors" not in shown(hub)


@pytest.mark.parametrize(
    "fault, where, words",
    [
        (401, "whoami", "the Hub does not accept the token"),
        (403, "/commit/", "the token may not write there"),
        (404, "^/api/models", "there is no such repository"),
        (409, "/commit/", "the Hub is busy with another change"),
        (412, "/commit/", "somebody else changed the repository"),
        (429, "/commit/", "the Hub asks for a pause"),
        (500, "/tag/", r"the Hub failed \(500\)"),
        (403, "^/lfs/", "the token may not write there"),
        ("drop", "/commit/", "no connection to the Hub"),
    ],
)
@uploads
def test_a_failure_is_told_in_one_line_and_a_second_try_finishes(hub, tmp_path, fault, where, words):
    folder = make_folder(tmp_path / "model")
    hub.fail(fault, path=where, times=9)
    with pytest.raises(PublishError, match=f"^{words}") as caught:
        publish(folder, tag=True)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")
    hub.recover()
    publish(folder, tag=True)
    repository = hub.repo("model", "alice/model")
    assert shown(hub)["model.safetensors"] == b"weights" and len(repository.commits) == 2
    assert list(repository.tags.values()) == [repository.at().sha]


@pytest.mark.parametrize(
    "token, repo_id, words",
    [
        (None, "alice/model", r"no Hub token \(`hf auth login`, or HF_TOKEN\)"),
        ("read-token", "alice/model", "the token is read-only: make one with write access"),
        ("write-token", "bob/model", "the name bob is not yours: you are alice"),
        ("unknown-token", "alice/model", "the Hub does not accept the token"),
    ],
)
def test_a_token_that_will_not_do_is_told_before_anything_is_made(tmp_path, monkeypatch, token, repo_id, words):
    with serve_hub(monkeypatch, token) as hub:
        with pytest.raises(PublishError, match=words):
            publish(make_folder(tmp_path / "model"), repo_id)
        assert hub.repos == {}


@uploads
def test_a_token_may_be_named_and_a_repository_without_its_owner(tmp_path, monkeypatch):
    with serve_hub(monkeypatch, None) as hub:
        published = publish(make_folder(tmp_path / "model"), "model", token="write-token")
        assert published.repo_id == "alice/model" and hub.repo("model", "alice/model").private


@pytest.mark.parametrize(
    "text, words",
    [
        (f"my token is {TOKEN}.", "a Hub token"),
        ('{"base": "/home/alice/base"}', r"a path on this machine \(/home/a…\)"),
        ("from /Users/alice/base", r"a path on this machine \(/Users/a…\)"),
        (r"from C:\Users\alice\base", r"a path on this machine \(C:.Users…\)"),
        (json.dumps({"base": r"d:\Users\alice"}), "a path on this machine"),
    ],
    ids=["token", "Linux", "macOS", "Windows", "Windows in JSON"],
)
@pytest.mark.parametrize("name", ["README.md", "run.json", "samples.jsonl", "merges.notes.txt", "chat_template.jinja"])
def test_a_text_with_a_secret_is_refused_before_the_hub_is_asked(hub, tmp_path, name, text, words):
    folder = write(make_folder(tmp_path / "model"), **{name: text})
    with pytest.raises(PublishError, match=f"{re.escape(str(folder / name))} holds {words}") as caught:
        publish(folder, patterns=("*",))
    assert "\n" not in str(caught.value) and hub.requests == []


@uploads
def test_prose_vocabularies_and_addresses_are_no_secrets(hub, tmp_path):
    text = "Patients at /home or in /tmp; see https://example.org/home/page, docs/home/page and hf_short"
    folder = write(make_folder(tmp_path / "model"), **{"README.md": text, "tokenizer.json": f'"/home/a {TOKEN}"'})
    (folder / "run.json").write_bytes(b'{"name": "\xff"}')  # no UTF-8: looked through all the same
    publish(folder)
    assert shown(hub)["README.md"].decode() == text


def write_rows(path: Path, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path.parent.parent


@pytest.mark.parametrize(
    "text, words",
    [(f"We use {TOKEN}.", "a Hub token"), ("We read HOME/data.", "a path on this machine")],
    ids=["token", "home"],
)
def test_a_dataset_row_with_a_secret_is_refused_by_its_id(hub, tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/a. b-ü"))
    text = text.replace("HOME", "/home/a. b-ü")
    folder = write_rows(tmp_path / "data/train.parquet", id=["a", "b", "c"], approach=["We.", None, text], n=[1, 2, 3])
    with pytest.raises(PublishError, match=f"train.parquet: row c holds {words} in its approach"):
        publish(folder, "alice/pairs", room.DATASET_FILES, kind="dataset")
    folder = write_rows(tmp_path / "data/train.parquet", approach=[text])
    with pytest.raises(PublishError, match=f"train.parquet: a row holds {words} in its approach"):
        publish(folder, "alice/pairs", room.DATASET_FILES, kind="dataset")
    assert hub.requests == []


@pytest.mark.parametrize("home", ["/home/alice", "/"])
@uploads
def test_a_dataset_row_in_prose_is_not_refused(hub, tmp_path, monkeypatch, home):
    monkeypatch.setattr(Path, "home", lambda: Path(home))
    prose = "Robots at /home and /home/bob; see /tmp/x, C:\\Users\\bob, or hf_short."
    folder = write_rows(tmp_path / "data/train.parquet", id=["a"], approach=[prose])
    publish(folder, "alice/pairs", room.DATASET_FILES, kind="dataset")
    assert shown(hub, "alice/pairs", "dataset").keys() == {"data/train.parquet"}


@pytest.mark.skipif(os.name == "nt", reason="Windows lets no ordinary user make links")
def test_a_symbolic_link_is_never_published(hub, tmp_path):
    folder = make_folder(tmp_path / "model")
    private = write(tmp_path / "private", **{"key.json": "{}"})
    (folder / "key.json").symlink_to(private / "key.json")
    (folder / "data").symlink_to(private)
    assert folder / "key.json" not in list_files(folder, PATTERNS)
    for name in ("key.json", "data/key.json"):
        with pytest.raises(PublishError, match="is a symbolic link"):
            room.publish(folder, [folder / name], Repository("alice/model"), "A commit")
    assert hub.requests == []


def test_patterns_choose_files_of_the_folder_they_name(tmp_path):
    folder = write(make_folder(tmp_path / "model"), **{".hidden.json": "", "data__a.parquet": "", "data__b.txt": ""})
    write(folder, **{"data__deep__a.parquet": "", "predictions.jsonl": "", "samples.jsonl": "", "model.bin": ""})
    (folder / "folder.json").mkdir()

    def found(*patterns):
        return [path.relative_to(folder).as_posix() for path in list_files(folder, patterns)]

    assert found(*PATTERNS) == ["README.md", "model.safetensors", "run.json", "samples.jsonl"]
    assert found(*room.DATASET_FILES) == ["README.md", "data/a.parquet"]
    assert found("*.json", "run.json", "none") == ["run.json"]


@pytest.mark.parametrize(
    "name, pattern, is_match",
    [
        ("run.json", "*.json", True),
        ("sub/run.json", "*.json", False),
        ("data/a.parquet", "data/*", True),
        ("data/deep/a.parquet", "data/*", False),
        ("a.parquet", "data/*", False),
        ("RUN.JSON", "*.json", False),
    ],
)
def test_a_star_stays_within_its_folder(name, pattern, is_match):
    assert matches(name, [pattern]) is is_match
