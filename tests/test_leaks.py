"""What must not be published is found in every kind of file, and prose is left alone."""

import gzip
import json
import re
from pathlib import Path

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from approach import leaks
from approach.leaks import find_leaks

HEX = "0123456789abcdef0123456789abcdef01234567"  # 40 digits: a commit, or a key of W&B
SECRETS = {
    "a Hub token": ["hf_" + "a" * 34, "HF_TOKEN=hf_" + "A1" * 17, "my_hf_" + "a" * 34, "api_org_" + "a" * 34],
    "a GitHub token": ["ghp_" + "a1" * 18, "github_pat_" + "a1" * 20, "https://ghs_" + "a1" * 18],
    "a GitLab token": ["glpat-" + "a1" * 10],
    "an API key": ["sk-" + "a1" * 24, "sk-proj-" + "a-_1" * 10, "sk-ant-api03-" + "a1" * 20],
    "an AWS key": ["AKIA" + "A1" * 8, "aws_secret_access_key = " + "aB/1" * 10],
    "a Google key": ["AIza" + "a-_1a" * 7, "ya29." + "a1" * 20],
    "a Slack token": ["xoxb-1234567890-abcdef", "https://hooks.slack.com/services/T0/B0/abc"],
    "a W&B key": [f"WANDB_API_KEY={HEX}", f'"wandb_api_key": "{HEX}"', f"password {HEX}", "wandb_v1_" + "a1" * 20],
    "a private key": ["-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"],
    "a password in an address": [
        "https://alice:secret@example.org/x",
        "redis://:secret@example.org",
        f"https://{HEX}@example.org/x",
        "https://example.org/x?access_token=0123456789abcdef",
    ],
    "a password in a request": ["Authorization: Bearer abcdefghijklmnop"],
}
PATHS = [
    "/home/alice",
    "/root/base",
    "/Users/alice/base",
    "/mnt/c/Users/alice",
    "/var/home/alice",
    r"C:\Users\alice\base",
    r"d:\\Users\\alice",
    "C:/Users/alice",
    r"C:\Documents and Settings\alice",
    r"\\host\Users\alice",
    r"\\wsl$\Ubuntu\home\alice",
    "/home/j\\u00f6rg",
    "/workspace/base",
    "/kaggle/input/base",
    "/scratch/alice",
    "/mnt/disk",
    "/data/alice/base",
    "/app/models/base",
    "/tmp/pytest-of-alice/base",
]
PROSE = [
    "Records live under /data, and patients at /home or in /tmp; the I/O of read/write loads, and/or both.",
    "See https://example.org/home/page, docs/home/page, ./data/a/b and http://localhost:7860/home/a.",
    "A sk-learn-based-something-long-enough method; hf_short; task-specific-sk-features; ask-me-anything-about-this.",
    f"The commit is {HEX}; the revision {HEX}.",
    "Write to alice@example.org or see https://example.org/@alice, mailto:alice@example.org.",
    "We set <problem>x</problem><approach> y</approach> and a ratio 3/4/5, p:/=q, //comment and /* both */.",
    "token: the key is passed as key=value, secret: none",
]


@pytest.mark.parametrize("what, text", [(what, text) for what, texts in SECRETS.items() for text in texts])
def test_a_secret_is_found_in_any_text_and_not_told(tmp_path, what, text):
    for name in ("README.md", "run.json", "samples.jsonl", "chat_template.jinja", "vocab.json", "notes"):
        (tmp_path / name).write_text(f"# A model\nwith ({text}).\n", encoding="utf-8")
        found = find_leaks(tmp_path / name, ["/"])
        assert re.fullmatch(rf"holds {re.escape(what)}.* in line 2", found), name
        assert text[8:] not in found


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_found_however_it_is_written_and_may_be_allowed(tmp_path, path):
    (tmp_path / "card.md").write_text(f"# A model\nfrom {path}.\n", encoding="utf-8")
    assert f"holds a path on this machine ({path}) in line 2 (if that is meant: --allow_paths " in find_leaks(
        tmp_path / "card.md"
    )
    file = ("file://", "file://host", "/") if path[0] == "/" else ("file:///", "file://host/")
    for front in (*file, "host:", "'", "=", "\t"):
        (tmp_path / "card.md").write_text(f"# A model\nfrom {front}{path}", encoding="utf-8")
        assert path.lstrip("/") in find_leaks(tmp_path / "card.md"), front
    (tmp_path / "card.md").write_text(f"# A model\nfrom {path}", encoding="utf-8")
    assert find_leaks(tmp_path / "card.md", ["/other", path.replace("\\\\", "\\")]) == ""
    parent = path.rpartition("/" if "/" in path else "\\")[0].rstrip("\\")
    assert find_leaks(tmp_path / "card.md", [parent + "/"]) == "" and find_leaks(tmp_path / "card.md", [parent[:-1]])


# One of each kind that an audit tried, put together here so that no scanner takes this file for a leak.
MORE_SECRETS = [
    "eyJ" + "hbGciOiJI" + ".eyJ" + "zdWIiOiIx" + ".c2lnbmF0dXJl",
    "npm_" + "a1B2" * 9,
    "pypi-" + "AgEIcHlwaS5vcmc" * 4,
    "pass" + "word=correct-horse-7",
    '"api' + '_key": "a1b2c3d4e5f6g7h8"',
    "Account" + "Key=" + "aB3/" * 15,
    "SG." + "a1B2c3D4" * 3 + "." + "a1B2c3D4" * 5,
    "sk_" + "live_" + "a1B2" * 6,
    "r8_" + "a1B2" * 9,
    "123456789:" + "A1b2C" * 7,
    '"private_key' + f'_id": "{HEX}"',
    "AC" + "0123456789abcdef" * 2,
]
MORE_PATHS = [
    "/home/алиса/run",
    "/home/ålice/run",
    r"C:\Users\Алиса\run",
    "/Users/李明/models",
    "/mnt/数据/模型",
    r"D:\runs\model",
    "~/runs/model",
    "/raid/alice/run",
    "/var/alice/run",
    "/content/alice/run",
    "/net/alice/run",
    "/gscratch/alice/run",
    "/p/alice/run",
    "/homes/alice/run",
    "/u/alice/run",
]


@pytest.mark.parametrize("text", [*MORE_SECRETS, *MORE_PATHS])
def test_what_an_audit_found_missing_is_found_in_every_kind_of_file(tmp_path, text):
    shown = text.replace("\\\\", "\\")
    for name in ("run.json", "README.md", "card.yaml", "samples.jsonl"):
        is_json = "json" in name
        line = json.dumps({"text": f"see {shown} here"}) if is_json else f"see {shown} here"
        (tmp_path / name).write_text(line + "\n", encoding="utf-8")
        assert find_leaks(tmp_path / name).startswith("holds a"), name
    pq.write_table(pa.table({"id": ["a"], "approach": [f"see {shown} here"]}), tmp_path / "rows.parquet")
    assert find_leaks(tmp_path / "rows.parquet").startswith("holds a")


@pytest.mark.slow
def test_no_shared_abstract_is_taken_for_a_leak(real_data):
    for path in sorted((real_data / "data").glob("*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = json.dumps(json.loads(line), ensure_ascii=False)
                assert not list(leaks.find_secrets(text)) and not re.search(leaks.path_pattern(), text), text


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_let_pass(tmp_path, text):
    for name in ("README.md", "run.json", "samples.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": text}), encoding="utf-8")
        assert find_leaks(tmp_path / name) == ""
    pq.write_table(pa.table({"id": ["a"], "approach": [text]}), tmp_path / "rows.parquet")
    assert find_leaks(tmp_path / "rows.parquet") == ""


def test_in_a_record_a_value_that_is_a_path_is_one_wherever_it_leads(tmp_path):
    (tmp_path / "run.json").write_text('{"base": {"name": "/fsx/team/base"}}', encoding="utf-8")
    assert "(/fsx/team/base) in line 1" in find_leaks(tmp_path / "run.json")
    assert find_leaks(tmp_path / "run.json", ["/fsx"]) == ""
    for line in ("base_model: /fsx/team/base", "- base_model:adapter:/fsx/team/base", 'name: "/fsx/team/base"'):
        (tmp_path / "README.md").write_text(f"---\ntags:\n{line}\n---\n", encoding="utf-8")
        assert "(/fsx/team/base) in line 3" in find_leaks(tmp_path / "README.md"), line
    (tmp_path / "README.md").write_text("---\na: b\n---\nSee `/fsx/team/base`.\n", encoding="utf-8")
    assert find_leaks(tmp_path / "README.md") == "", "prose may say so"


def test_a_vocabulary_may_hold_any_word_but_no_secret(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"/home/alice": 3, "/data/a/b": 4}', encoding="utf-8")
    assert find_leaks(tmp_path / "tokenizer.json") == ""


def test_a_text_in_which_nothing_would_be_found_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("hf_" + "a" * 34, encoding="utf-16")
    assert find_leaks(tmp_path / "README.md") == "is no text in UTF-8"
    (tmp_path / "README.md").write_bytes(b"\xff /home/alice")
    assert "/home/alice" in find_leaks(tmp_path / "README.md"), "Latin-1 is looked through"


def test_the_header_of_weights_is_read_too(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"from": "/home/alice/base"})
    assert "(/home/alice/base) in line 1" in find_leaks(tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert find_leaks(tmp_path / "model.safetensors") == ""


def write_gguf(path: Path, values: dict) -> Path:
    """A GGUF file with this metadata and one small tensor."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in values.items():
        add = {str: writer.add_string, list: writer.add_array, float: writer.add_float32}[type(value)]
        add(name, value)
    writer.add_tensor("a", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_metadata_of_a_gguf_file_are_read_too(tmp_path):
    path, words = tmp_path / "model-F16.gguf", ["/home/alice", "hello"]
    good = {"general.name": "model", "llama.rope": 1e4, "general.tags": ["a"], "tokenizer.ggml.tokens": words}
    assert find_leaks(write_gguf(path, good)) == "", "a vocabulary may hold any word"
    assert find_leaks(write_gguf(path, good | {"general.tags": ["a", "/home/alice/base"]})) == (
        "holds a path on this machine (/home/alice/base) in general.tags "
        "(if that is meant: --allow_paths /home/alice/base)"
    )
    assert find_leaks(path, ["/home/alice"]) == ""
    secret = good | {"tokenizer.ggml.tokens": ["hf_" + "a" * 34]}
    assert find_leaks(write_gguf(path, secret)) == "holds a Hub token (hf_a…) in tokenizer.ggml.tokens"
    for data in (b"", b"GGML" + path.read_bytes()[4:], path.read_bytes()[:-1], path.read_bytes()[:16] + b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="model-F16.gguf is no complete GGUF file"):
            find_leaks(path)


def test_rows_are_named_by_id_with_column_and_pattern(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/fsx/a. b-ü"))
    path, token = tmp_path / "rows.parquet", "We use hf_" + "a" * 34 + "."
    texts = ["We.", None, token, "At /home/bob/x", "In /fsx/a. b-ü/x", "On /mnt/x", "By /root/x", "At /home and /data"]
    pq.write_table(pa.table({"id": list("abcdefgh"), "n": range(8), "approach": texts}), path, row_group_size=2)
    assert find_leaks(path) == (
        "holds a Hub token (hf_a…) in the approach of row c, a path on this machine (/home/bob/x) in the approach of "
        "row d, a path on this machine (/fsx/a. b-ü/x) in the approach of row e, and more in 2 other rows "
        "(if that is meant: --allow_paths '/fsx/a. b-ü/x' /home/bob/x /mnt/x /root/x)"
    )
    allowed = ["/fsx/a. b-ü", "/home/bob", "/mnt", "/root"]
    assert find_leaks(path, allowed) == "holds a Hub token (hf_a…) in the approach of row c"
    pq.write_table(pa.table({"lists": [["a"], ["b", "/root/x"]]}), path)
    assert find_leaks(path).startswith("holds a path on this machine (/root/x) in the lists of row 1")
    pq.write_table(pa.table({"a": ["b"]}).replace_schema_metadata({"from": "/root/x"}), path)
    assert find_leaks(path).startswith("holds a path on this machine (/root/x) in its metadata")


def test_what_the_sieve_lets_through_is_nothing_that_python_would_find(tmp_path):
    """Arrow knows no look-around: its patterns must find at least what Python's do."""
    texts = [*(text for texts in SECRETS.values() for text in texts), *PATHS]
    batch = pa.record_batch({"a": [f"in ({text})" for text in texts]})
    assert [row for row, _ in leaks.find_candidates(batch)] == list(range(len(texts)))
