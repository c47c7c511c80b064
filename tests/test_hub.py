"""Publishing, against a Hub on loopback: never to a public repository unasked, never a secret, whole, read back."""

import os
import re
from pathlib import Path

import pytest
from hub_server import Blob, Repo
from hub_server.answers import ROUTES
from hub_server.messages import Reply
from huggingface_hub import HfApi
from publishing import serve_hub, shown, uploads

from approach import artifacts
from approach import hub as hub_module
from approach.hub import PublishError, Repository, list_files, matches

PATTERNS = (*artifacts.MODEL_FILES, *artifacts.RECORDS)
TOKEN = "hf_" + "a" * 34
PART = "train-00000-of-00001-0123456789abcdef.parquet"


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
    records = {"run.json": "{}\n", "build_report.json": "{}\n"}  # of a model and of a dataset, for both kinds of tests
    return write(folder, **{"README.md": "# A model\n", **records, "model.safetensors": weights})


def publish(folder: Path, name: str = "alice/model", patterns=PATTERNS, **options) -> hub_module.Published:
    said = {key: options.pop(key) for key in ("kind", "public", "overwrite", "allow_paths") if key in options}
    repository = Repository(name, **said)
    return hub_module.publish(folder, list_files(folder, patterns), repository, "A commit", **options)


@pytest.mark.parametrize("kind", ["model", "dataset"])
@uploads
def test_a_folder_is_one_private_commit_that_replaces_what_was_there(hub, tmp_path, kind):
    folder = make_folder(tmp_path / "model")
    write(folder, **{"old.safetensors": "1", "samples.jsonl": "{}\n", "sub__kept.safetensors": "2"})
    options = {"kind": kind, "replaces": ("*.safetensors", "*.jsonl"), "tag": True}
    published = publish(folder, patterns=(*PATTERNS, "old.safetensors", "sub/*"), **options)
    repository = hub.repo(kind, "alice/model")
    assert published.repo_id == "alice/model" and published.revision == repository.at().sha and repository.private
    assert published.url.endswith(f"/commit/{published.revision}, tag {next(iter(repository.tags))}")
    for name in ("old.safetensors", "samples.jsonl", "sub/kept.safetensors"):
        (folder / name).unlink()
    write(folder, **{"notes.txt": "", "optimizer.pt": "", ".hidden.json": "", "checkpoint-4__model.safetensors": ""})
    assert publish(folder, **options).revision == repository.at().sha
    kept = {"README.md", "run.json", "build_report.json", "model.safetensors", "sub/kept.safetensors"}
    assert shown(hub, kind=kind).keys() == kept
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
    "name", ["README.md", "run.json", "samples.jsonl", "notes", "chat_template.jinja", "vocab.json"]
)
def test_a_text_with_a_secret_is_refused_before_the_hub_is_asked(hub, tmp_path, name):
    folder = write(make_folder(tmp_path / "model"), **{name: f"\n{TOKEN}"})
    with pytest.raises(
        PublishError, match=rf"^{re.escape(str(folder / name))} holds a Hub token \(hf_a…\) in line 2$"
    ):
        publish(folder, patterns=("*",))
    assert hub.requests == []


@uploads
def test_paths_that_are_meant_are_published(hub, tmp_path):
    folder = write(make_folder(tmp_path / "model"), **{"README.md": "Mounted at /mnt/shared/base."})
    with pytest.raises(
        PublishError, match=r"README.md holds .* \(if that is meant: --allow_paths /mnt/shared/base\)$"
    ):
        publish(folder)
    publish(folder, allow_paths=("/mnt/shared",))
    assert "README.md" in shown(hub)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets no ordinary user make links")
def test_a_symbolic_link_is_never_published(hub, tmp_path):
    folder = make_folder(tmp_path / "model")
    private = write(tmp_path / "private", **{"key.json": "{}"})
    (folder / "key.json").symlink_to(private / "key.json")
    (folder / "data").symlink_to(private)
    for name in ("key.json", "data/key.json"):
        with pytest.raises(PublishError, match="is a symbolic link"):
            hub_module.publish(folder, [folder / name], Repository("alice/model"), "A commit")
    (folder / "vocab.json").symlink_to(private / "key.json")
    with pytest.raises(PublishError, match="vocab.json is a symbolic link"):  # left out, the model would not be whole
        publish(folder)
    assert hub.requests == []


@pytest.mark.skipif(os.name == "nt", reason="Windows lets no ordinary user make links")
def test_the_links_of_the_hubs_own_cache_are_none(tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    write(blobs, ab="{}")
    write(tmp_path, private="{}")
    snapshot.mkdir(parents=True)
    (snapshot / "run.json").symlink_to("../../blobs/ab")
    hub_module.check_no_links(snapshot, [snapshot / "run.json"])
    (snapshot / "vocab.json").symlink_to(tmp_path / "private")
    with pytest.raises(PublishError, match="vocab.json is a symbolic link"):
        hub_module.check_no_links(snapshot, [snapshot / "vocab.json"])


def test_patterns_choose_files_of_the_folder_they_name(tmp_path):
    folder = write(
        make_folder(tmp_path / "model"), **{".run.json": "", f"data__{PART}": "", f"data__deep__{PART}": ""}
    )
    for name in ("env.txt", "secrets.json", "predictions.jsonl", "model.bin", "old.safetensors", "data__own.parquet"):
        write(folder, **{name: ""})
    write(folder, **{"samples.jsonl": "", "model-00001-of-00002.safetensors": ""})
    (folder / "merge.json").mkdir()

    def found(*patterns):
        return [path.relative_to(folder).as_posix() for path in list_files(folder, patterns)]

    weights = ["model-00001-of-00002.safetensors", "model.safetensors"]
    assert found(*PATTERNS) == ["README.md", "build_report.json", *weights, "run.json", "samples.jsonl"]
    assert found(*artifacts.DATASET_FILES) == ["README.md", "build_report.json", f"data/{PART}"]
    assert found("run.*", "run.json", "none") == ["run.json"]


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


@pytest.mark.parametrize("kind", ["model", "dataset"])
@uploads
def test_a_repository_of_others_is_refused_and_keeps_its_files_when_written_to(hub, tmp_path, kind):
    api = HfApi(endpoint=hub.endpoint, token="write-token")
    api.create_repo("alice/model", repo_type=kind, private=True)
    part = f"data/{PART}" if kind == "dataset" else "model-00001-of-00002.safetensors"
    for name in ("README.md", "data/rows.csv", part, "model.safetensors.index.json"):
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo=name, repo_id="alice/model", repo_type=kind)
    before, num_uploads = shown(hub, kind=kind), len(hub.repo(kind, "alice/model").uploads)
    folder = make_folder(tmp_path / "model")
    options = {"kind": kind, "replaces": (*PATTERNS, *artifacts.DATASET_FILES)}
    words = "^the repository holds files that none of these scripts published .*rows.csv.*or add --hub_overwrite"
    with pytest.raises(PublishError, match=words):
        publish(folder, **options)
    assert shown(hub, kind=kind) == before and len(hub.repo(kind, "alice/model").uploads) == num_uploads
    publish(folder, overwrite=True, **options)
    kept = {name: data for name, data in before.items() if name != "README.md"}
    assert shown(hub, kind=kind).items() >= kept.items() and shown(hub, kind=kind)["README.md"] == b"# A model\n"


@uploads
def test_a_checkpoint_alone_tells_that_a_repository_is_ours(hub, tmp_path):
    folder = write(tmp_path / "model", **{"model.safetensors": "weights", "checkpoint-2__progress.json": "{}"})
    publish(folder, patterns=("*.safetensors", "checkpoint-2/*"))
    publish(make_folder(folder, "others"))
    assert shown(hub)["model.safetensors"] == b"others"


@pytest.mark.parametrize("bug", [KeyError("kind"), ValueError("not ours"), RuntimeError("a bug"), TypeError("a bug")])
@uploads
def test_a_bug_of_ours_is_no_failure_of_the_hub(hub, tmp_path, monkeypatch, bug):
    def fail(*arguments):
        raise bug

    monkeypatch.setattr(hub_module, "matches", fail)
    folder = make_folder(tmp_path / "model")
    publish(folder)
    with pytest.raises(type(bug), match=bug.args[0]):
        publish(folder, replaces=("*.safetensors",), patterns=("README.md",))
    monkeypatch.setattr(hub_module, "find_missing_right", fail)
    with pytest.raises(type(bug), match=bug.args[0]):
        hub_module.check_access(Repository("alice/model"))


@uploads
def test_what_the_hub_says_of_large_files_and_names_is_told_in_one_line(hub, tmp_path, monkeypatch):
    refuse = {"error": {"code": 403, "message": "the storage is full"}}
    answer = {"transfer": "basic", "objects": [{"oid": "a" * 64, "size": 1, **refuse}]}
    routes = [
        (*route[:3], lambda *_, **__: answer) if "objects/batch" in route[1].pattern else route for route in ROUTES
    ]
    monkeypatch.setattr("hub_server.answers.ROUTES", routes)
    with pytest.raises(PublishError, match="LFS batch API returned errors"):
        publish(make_folder(tmp_path / "model"))
    with pytest.raises(PublishError, match="Cannot have -- or .. in repo_id"):
        publish(make_folder(tmp_path / "model"), "alice/a..b")
    html = Reply(b"<html>Welcome to our hotel</html>")  # what stands between user and Hub may answer, too
    routes = [(*route[:3], lambda *_: html) if "whoami" in route[1].pattern else route for route in ROUTES]
    monkeypatch.setattr("hub_server.answers.ROUTES", routes)
    with pytest.raises(hub_module.HubUnavailable):
        publish(make_folder(tmp_path / "model"))


@uploads
def test_a_file_that_cannot_be_scanned_is_not_published(hub, tmp_path):
    folder = write(make_folder(tmp_path / "model"), **{"model-F16.gguf": "GGUF, but not really"})
    with pytest.raises(PublishError, match="model-F16.gguf cannot be scanned: model-F16.gguf is no complete GGUF"):
        publish(folder)
    assert hub.requests == []
