"""The Hub for tests, proven with the clients that it stands in for; and what those clients retry by themselves."""

import hashlib
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import httpx2
import pytest
from hub_server import HubServer
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# huggingface_hub 2.4.0 hands its uploads to httpx2 in a way that httpx2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

OLD = {"config.json": b'{"version": 1}', "one.safetensors": b"1" * 200_000, "two.safetensors": b"1" * 100_000}
NEW = {"config.json": b'{"version": 2}', "one.safetensors": b"2" * 200_000, "two.safetensors": b"2" * 100_000}


@pytest.fixture
def hub(monkeypatch):
    # The environment sets these for a client process; this one may have read other settings at import.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer(users={"tok_write": "alice", "tok_bob": "bob"}, read_tokens={"tok_read": "alice"}) as hub:
        yield hub


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token="tok_write")


def publish(api: HfApi, files: dict[str, bytes], parent: str | None = None) -> CommitInfo:
    """As the project publishes: large files first, then one commit on a known parent."""
    api.create_repo("alice/m", private=True, exist_ok=True)
    parent = parent or api.model_info("alice/m").sha
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    api.preupload_lfs_files("alice/m", operations)
    return api.create_commit("alice/m", operations, commit_message="publish", parent_commit=parent)


def shown(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    return {path: data for path, data in hub.repo("model", "alice/m").files(revision).items() if path in OLD}


def run_client(hub: HubServer, home: Path, script: str) -> str:
    environment = hub.environment(token="tok_write", home=home)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(hub: HubServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict]:
    request = urllib.request.Request(hub.endpoint + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.read(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_publish_then_read_back(hub, api, tmp_path):
    commit = publish(api, OLD)
    assert commit.oid == api.model_info("alice/m").sha
    assert {*api.list_repo_files("alice/m")} == {*OLD, ".gitattributes"}
    for path, data in OLD.items():
        local = hf_hub_download("alice/m", path, endpoint=hub.endpoint, token="tok_write", cache_dir=tmp_path)
        assert Path(local).read_bytes() == data
    [info] = api.get_paths_info("alice/m", ["one.safetensors", "absent"])
    assert info.lfs.sha256 == hashlib.sha256(OLD["one.safetensors"]).hexdigest()
    assert hub.repo("model", "alice/m").private


def test_stale_parent_is_refused(hub, api):
    first = publish(api, OLD)
    second = publish(api, NEW)
    with pytest.raises(HfHubHTTPError, match="412"):
        publish(api, OLD, parent=first.oid)
    assert hub.repo("model", "alice/m").branches["main"] == second.oid


def test_upload_folder_and_no_commit_without_a_change(hub, api, tmp_path):
    for path, data in (OLD | {"sub/inner/notes.txt": b"notes"}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    api.create_repo("alice/m")
    first = api.upload_folder(repo_id="alice/m", folder_path=tmp_path)
    assert hub.repo("model", "alice/m").files()["sub/inner/notes.txt"] == b"notes"
    assert [entry.path for entry in api.list_repo_tree("alice/m", "sub")] == ["sub/inner"]
    assert api.upload_folder(repo_id="alice/m", folder_path=tmp_path).oid == first.oid
    (tmp_path / "two.safetensors").unlink()
    api.upload_folder(repo_id="alice/m", folder_path=tmp_path, delete_patterns="*.safetensors")
    assert {*shown(hub)} == {"config.json", "one.safetensors"}
    assert {*shown(hub, first.oid)} == {*OLD}


def test_tag_and_branch(hub, api, tmp_path):
    old = publish(api, OLD)
    api.create_tag("alice/m", tag="v1.0", revision=old.oid)
    api.create_branch("alice/m", branch="refs-with/slash", revision="v1.0")
    publish(api, NEW)
    for revision in ("v1.0", "refs-with/slash", old.oid):
        folder = snapshot_download(
            "alice/m", revision=revision, endpoint=hub.endpoint, token="tok_write", cache_dir=tmp_path
        )
        assert {path: Path(folder, path).read_bytes() for path in OLD} == OLD
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("alice/m", tag="v1.0")
    api.create_tag("alice/m", tag="v1.0", exist_ok=True)
    assert {ref.name: ref.target_commit for ref in api.list_repo_refs("alice/m").tags} == {"v1.0": old.oid}
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/m", revision="v2.0")
    assert (
        ask(hub, "HEAD", "/alice/m/resolve/v1.0/absent", Authorization="Bearer tok_read")[2]["X-Repo-Commit"]
        == old.oid
    )
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("alice/m", "absent", endpoint=hub.endpoint, token="tok_write", cache_dir=tmp_path)


def test_datasets_loads_a_card_with_configs_and_pushes(hub, tmp_path):
    script = """
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfApi
from pathlib import Path

splits = {name: [{"id": f"{name}{i}", "n": i} for i in range(3)] for name in ("train", "validation")}
for name, rows in splits.items():
    Dataset.from_list(rows).to_parquet(f"folder/{name}.parquet")
configs = "".join(f"\\n  - split: {name}\\n    path: {name}.parquet" for name in splits)
card = f"---\\nconfigs:\\n- config_name: default\\n  data_files:{configs}\\n---\\n# Card\\n"
Path("folder/README.md").write_text(card)
api = HfApi()
api.create_repo("alice/x", repo_type="dataset", private=True)
first = api.upload_folder(repo_id="alice/x", repo_type="dataset", folder_path="folder")
api.delete_file("train.parquet", "alice/x", repo_type="dataset")
loaded = load_dataset("alice/x", revision=first.oid)
assert {name: loaded[name].to_list() for name in loaded} == splits

pushed = DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()}).push_to_hub("alice/y")
loaded = load_dataset("alice/y", revision=pushed.oid)
assert {name: loaded[name].to_list() for name in loaded} == splits
"""
    run_client(hub, tmp_path, script)
    assert hub.repo("dataset", "alice/x").private and not hub.repo("dataset", "alice/y").private
    assert len(hub.repo("dataset", "alice/y").commits) == 2, "the data and the card arrive in one commit"


def test_transformers_and_peft_load_and_push(hub, tmp_path):
    script = """
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").push_to_hub("alice/m", private=True)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
))
model.push_to_hub("alice/m")

ids = AutoTokenizer.from_pretrained("alice/m")("a b c", return_tensors="pt").input_ids
assert ids.tolist() == [[1, 2, 0]]
loaded = AutoModelForCausalLM.from_pretrained("alice/m")
assert torch.equal(loaded(ids).logits, model(ids).logits)
adapted = get_peft_model(loaded, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
adapted.push_to_hub("alice/adapter", private=True)
again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("alice/m"), "alice/adapter").eval()
assert torch.equal(again(ids).logits, adapted.eval()(ids).logits)
assert not torch.equal(again(ids).logits, model(ids).logits)
"""
    run_client(hub, tmp_path, script)
    assert "model.safetensors" in hub.repo("model", "alice/m").files()
    assert hub.repo("model", "alice/adapter").private


def test_private_repositories_hide_and_public_ones_show(hub, api):
    api.create_repo("alice/hidden", private=True)
    api.create_repo("alice/open", private=False)
    for token, status in ((False, 401), ("tok_bob", 404)):
        reader = HfApi(endpoint=hub.endpoint, token=token)
        assert reader.model_info("alice/open").private is False
        with pytest.raises(RepositoryNotFoundError, match=str(status)):
            reader.model_info("alice/hidden")
    assert HfApi(endpoint=hub.endpoint, token="tok_read").model_info("alice/hidden").private is True


def test_tokens_are_checked(hub, api):
    publish(api, OLD)
    api.create_repo("alice/open", private=False)
    unknown = HfApi(endpoint=hub.endpoint, token="tok_unknown")
    for call in (unknown.whoami, lambda: unknown.model_info("alice/open")):
        with pytest.raises(HfHubHTTPError) as caught:
            call()
        assert caught.value.response.status_code == 401 and not isinstance(caught.value, RepositoryNotFoundError)

    reading = HfApi(endpoint=hub.endpoint, token="tok_read")
    assert reading.whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError, match="403"):
        reading.create_repo("alice/another")
    with pytest.raises(HfHubHTTPError, match="403"):
        reading.upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id="alice/m")
    assert shown(hub) == OLD

    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("bob/m", exist_ok=True)
    assert ("model", "bob/m") not in hub.repos
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("alice/m")


def test_truncated_download_is_resumed_by_the_client(hub, api, tmp_path):
    publish(api, OLD)
    hub.fail("truncate", method="GET", path="resolve/.*/one.safetensors")
    folder = snapshot_download("alice/m", endpoint=hub.endpoint, token="tok_write", cache_dir=tmp_path)
    assert {path: Path(folder, path).read_bytes() for path in OLD} == OLD
    assert hub.count("GET", "resolve/.*/one.safetensors") == 2


@pytest.mark.parametrize(
    "fault, path, times",
    [(500, "^/lfs/", 2), ("drop", "^/lfs/", 1), (503, "/objects/batch$", 1), (429, "/preupload/", 1)],
)
def test_what_the_client_retries(hub, api, fault, path, times):
    hub.fail(fault, path=path, times=times, retry_after=0 if fault == 429 else None)
    publish(api, {"one.safetensors": OLD["one.safetensors"]})
    assert shown(hub) == {"one.safetensors": OLD["one.safetensors"]}
    assert hub.count(path=path) == times + 1


@pytest.mark.parametrize("fault", [429, 500, 503, 409, "drop"])
@pytest.mark.parametrize("path", ["/api/models/alice/m$", "/commit/"])
def test_what_the_client_does_not_retry(hub, api, fault, path):
    publish(api, OLD)
    before = hub.count(path=path)
    hub.fail(fault, path=path)
    with pytest.raises((HfHubHTTPError, httpx2.RemoteProtocolError)):
        publish(api, NEW)
    assert hub.count(path=path) == before + 1
    assert shown(hub) == OLD


def test_interrupted_upload_sends_only_what_is_missing(hub, api):
    hub.fail(403, method="PUT", skip=1)
    with pytest.raises(RuntimeError) as caught:  # whatever befell the upload of a large file
        publish(api, OLD)
    assert isinstance(caught.value.__cause__, HfHubHTTPError)
    assert shown(hub) == {}
    publish(api, OLD)
    assert shown(hub) == OLD
    assert hub.count(path="^/lfs/") == 3, "two large files and the one that failed"


def test_commit_whose_answer_was_lost_is_not_made_twice(hub, api):
    hub.fail("lost", path="/commit/")
    with pytest.raises(httpx2.RemoteProtocolError):
        publish(api, OLD)
    assert shown(hub) == OLD
    head = hub.repo("model", "alice/m").branches["main"]
    assert publish(api, OLD).oid == head
    assert hub.count(path="/commit/") == 1


def test_failing_at_every_request_of_a_publish(hub, api):
    publish(api, OLD)
    before = len(hub.requests)
    publish(api, NEW)
    steps = len(hub.requests) - before
    assert steps >= 6, "create, info, preupload, batch, preupload, commit at least"
    for number in range(steps):
        files = {path: data + str(number).encode() for path, data in OLD.items()}
        last = shown(hub)
        hub.fail(500 if number < 2 else 403, skip=number)  # 403 on creating is forgiven, 500 on later ones is retried
        with pytest.raises((HfHubHTTPError, RuntimeError)):
            publish(api, files)
        assert shown(hub) == last
        publish(api, files)
        assert shown(hub) == files


def test_main_never_shows_half_a_commit(hub, api):
    old = publish(api, OLD)
    pairs, done = set(), threading.Event()

    def watch():
        reader = HfApi(endpoint=hub.endpoint, token="tok_read")
        while not done.is_set():
            entries = {entry.path: entry for entry in reader.list_repo_tree("alice/m")}
            pairs.add((entries["config.json"].blob_id, entries["one.safetensors"].lfs.sha256))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        publish(api, NEW)
        publish(api, OLD)
    done.set()
    watcher.join()
    states = [hub.repo("model", "alice/m").at(sha).files for sha in hub.repo("model", "alice/m").commits]
    whole = {(files["config.json"].oid, files["one.safetensors"].sha256) for files in states if "config.json" in files}
    assert len(whole) == 2 and pairs and pairs <= whole

    good = {"key": "file", "value": {"path": "config.json", "content": "e30=", "encoding": "base64"}}
    unknown = {"key": "lfsFile", "value": {"path": "one.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 1}}
    lines = [{"key": "header", "value": {"summary": "half"}}, good, unknown]
    body = "\n".join(map(json.dumps, lines)).encode()
    status, told, _ = ask(hub, "POST", "/api/models/alice/m/commit/main", body, Authorization="Bearer tok_write")
    assert status == 400 and b"does not exist" in told
    assert shown(hub) == OLD
    assert old.oid != hub.repo("model", "alice/m").branches["main"]


def test_large_files_are_checked_on_arrival(hub, api):
    api.create_repo("alice/m")
    data = b"some weights"
    oid = hashlib.sha256(data).hexdigest()
    asked = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}).encode()
    _, told, _ = ask(hub, "POST", "/alice/m.git/info/lfs/objects/batch", asked, Authorization="Bearer tok_write")
    url = json.loads(told)["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.endpoint)
    assert ask(hub, "PUT", url, data[::-1])[0] == 400
    assert ask(hub, "PUT", url.replace(f"/{len(data)}?", "/99?"), data)[0] == 400
    assert ask(hub, "PUT", url.split("?")[0], data)[0] == 403
    assert hub.repo("model", "alice/m").uploads == {}
    assert ask(hub, "PUT", url, data)[0] == 200
    assert hub.repo("model", "alice/m").uploads == {oid: data}


def test_ranges(hub, api):
    api.create_repo("alice/m")
    commit = api.upload_file(path_or_fileobj=b"0123456789", path_in_repo="sub/digits.bin", repo_id="alice/m")
    url = "/alice/m/resolve/main/sub/digits.bin"
    for asked, expected, told in (
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ):
        status, body, headers = ask(hub, "GET", url, Range=asked)
        assert (status, body, headers["Content-Range"]) == (206, expected, told)
    assert ask(hub, "GET", url, Range="bytes=10-")[0] == 416

    status, body, headers = ask(hub, "HEAD", url)
    assert (status, body, headers["Content-Length"], headers["X-Linked-Size"]) == (200, b"", "10", "10")
    assert headers["X-Linked-Etag"] == headers["ETag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    assert (headers["X-Repo-Commit"], headers["Accept-Ranges"]) == (commit.oid, "bytes")


def test_unknown_pages_and_pull_requests_are_refused(hub, api):
    assert ask(hub, "GET", "/api/spaces/alice/m")[0] == 404
    api.create_repo("alice/m")
    with pytest.raises(BadRequestError):
        api.create_commit("alice/m", [CommitOperationAdd("a.txt", b"a")], commit_message="x", create_pr=True)
    assert list(hub.repo("model", "alice/m").files()) == [".gitattributes"]


def test_environment_replaces_every_setting_of_another_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "a real one")
    environment = hub.environment(token=None, home=tmp_path)
    assert environment["HF_ENDPOINT"] == hub.endpoint and environment["HF_HOME"] == str(tmp_path)
    assert "HF_HUB_OFFLINE" not in environment and "HF_TOKEN" not in environment
    assert hub.environment(token="tok_read", home=tmp_path)["HF_TOKEN"] == "tok_read"
