import copy
import json
import os
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_one_clear_line, run_script
from hub_server import HubServer
from huggingface_hub import ModelCard
from merging_inputs import make_scores, merge
from publishing import contents, serve_hub, shown, uploads
from transformers import AutoModelForCausalLM, AutoTokenizer

from approach.cards import write_model_card
from approach.errors import UserError
from merge_and_push import MergeArguments, main, parse_arguments


@pytest.fixture
def hub(monkeypatch):
    with serve_hub(monkeypatch) as hub:
        yield hub


def test_mistakes_end_in_one_clear_line(trained, dataset, tmp_path, capsys):
    none = run_script(ROOT / "merge_and_push.py", "--adapter_path", dataset, "--output_dir", tmp_path / "model")
    assert_one_clear_line(none, 1, "pairs is no adapter of train_sft.py")
    with pytest.raises(UserError, match="pairs is not empty and holds no model of this script") as ended:
        main(parse_arguments(["--adapter_path", str(trained.adapter), "--output_dir", str(dataset)]))
    assert ended.value.status == 2


def test_a_dry_run_proves_and_writes_nothing(trained, tmp_path, capsys):
    merge(trained.adapter, tmp_path / "model", dry_run=True)
    assert "Largest logit difference: merged to adapter" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(trained, tmp_path):
    """A file may not grow past 100 kB: writing the weights fails half way, as on a full disk."""
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); import merge_and_push as m"
    )
    arguments = ["--adapter_path", str(trained.adapter), "--output_dir", str(tmp_path / "model")]
    command = [sys.executable, "-c", f"{limited}; m.run_script(lambda: m.main(m.parse_arguments({arguments!r})))"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_one_clear_line(result, 1, f"--output_dir {tmp_path / 'model'}", "nothing written")
    assert list(tmp_path.iterdir()) == []


def publish(folder, repo_id="alice/model", **arguments):
    main(MergeArguments(push_only=str(folder), hub_model_id=repo_id, **arguments))


def make_sharded(merged, folder):
    """The model of before: other weights, in several files, which a reader of the new one must not meet."""
    shutil.copytree(merged, folder)
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(merged)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


@uploads
def test_publishing_is_one_commit_tagged_with_no_file_of_the_model_before(hub, merged, tmp_path, capsys):
    publish(make_sharded(merged, tmp_path / "old"))
    first = hub.repo("model", "alice/model").at()
    folder = shutil.copytree(merged, tmp_path / "new")
    (folder / "checkpoint-4").mkdir()
    for name in ("notes.txt", "optimizer.pt", "checkpoint-4/model.safetensors", ".hidden.json"):
        (folder / name).write_bytes(b"no business of the Hub")
    publish(folder)
    names = {path.name for path in merged.iterdir()}
    assert shown(hub) == {name: data for name, data in contents(merged).items() if name != "README.md"} | {
        "README.md": (folder / "README.md").read_bytes()
    }
    repository = hub.repo("model", "alice/model")
    assert len(repository.commits) == 3 and repository.private and repository.at().parent == first.sha
    assert len(repository.tags) == 2 and repository.at().sha in repository.tags.values()
    assert f"tag {list(repository.tags)[-1]}" in capsys.readouterr().out and shown(hub).keys() == names
    publish(folder)
    assert len(repository.commits) == 3 and len(repository.tags) == 2, "the same again is no commit"


@uploads
def test_scores_reach_the_card_that_is_published(hub, merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder)
    publish(folder, scores=str(make_scores(tmp_path / "scores")))
    card = ModelCard(shown(hub)["README.md"].decode())
    assert "| base | greedy | – | 3.01 |" in card.text and card.data.eval_results[0].metric_value == 0.0123
    assert 'model="alice/model"' in card.text and "scores.json" in shown(hub)
    assert hub.count("PUT", "^/lfs/") == len({*folder.glob("*.safetensors"), *folder.glob("*.png")}), "sent once"


@uploads
def test_nothing_that_is_published_tells_of_this_machine(hub, trained, merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder, adapter_path=str(trained.adapter), hub_adapter_id="alice/adapter")
    for repository in ("alice/model", "alice/adapter"):
        for name, data in shown(hub, repository).items():
            for secret in (str(tmp_path.parent), str(Path.home()) + "/", "write-token"):
                assert secret.encode() not in data, f"{repository} {name} tells {secret}"
            if name.endswith((".json", ".md")) and name != "tokenizer.json":  # a vocabulary may hold any word
                assert not re.search(rf"\b{re.escape(platform.node())}\b", data.decode()), f"{name} tells the host"
    assert "adapter_model.safetensors" in shown(hub, "alice/adapter")
    (folder / "run.json").write_text(json.dumps({"base": {"name": "/home/alice/base"}}), encoding="utf-8")
    words = "Not published to alice/model: .*run.json holds a path on this machine"
    with pytest.raises(UserError, match=words) as ended:
        publish(folder)
    assert f"--allow_paths /home/alice/base). {folder} is complete. To publish it later: python" in str(ended.value)
    (folder / "run.json").write_text(json.dumps({"token": "hf_" + "a" * 34}), encoding="utf-8")
    with pytest.raises(UserError, match="Not published to alice/model: .*run.json holds a Hub token"):
        publish(folder)


@uploads
def test_a_public_repository_is_published_to_when_asked_alone(hub, merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder, "alice/open", public=True)
    assert not hub.repo("model", "alice/open").private
    with pytest.raises(UserError, match="the repository is public: add --public"):
        publish(folder, "alice/open")


@pytest.mark.parametrize(
    "fault, where, words",
    [
        (403, "^/lfs/", "the token may not write there"),
        (500, "/tag/", r"the Hub failed \(500\)"),
        ("drop", "/commit/", "no connection to the Hub"),
    ],
)
@uploads
def test_a_failure_is_told_in_one_line_with_the_command_to_finish(hub, merged, tmp_path, fault, where, words):
    folder, scores = shutil.copytree(merged, tmp_path / "model"), make_scores(tmp_path / "scores")
    hub.fail(fault, path=where, times=9)
    with pytest.raises(UserError, match=f"Not published to alice/model: {words}") as caught:
        publish(folder, scores=str(scores))
    line = str(caught.value)
    assert "\n" not in line and f"{folder} is complete" in line
    later = shlex.split(line.partition("later: python merge_and_push.py ")[2])
    hub.recover()
    main(parse_arguments(later))
    assert shown(hub) == contents(folder)


def test_a_token_that_will_not_do_is_told_in_one_line(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    words = "the token is read-only: make one with write access"
    with HubServer(users={"write-token": "alice"}, read_tokens={"read-token": "alice"}) as hub:
        result = push_only(hub.environment(token="read-token", home=tmp_path / "home"), folder, "alice/model")
        assert hub.repos == {}
    assert_one_clear_line(result, 1, f"Not published to alice/model: {words}", f"--push_only {folder} --hub_model_id")
    assert (folder / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()


def test_no_network_is_told_in_one_line(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    with HubServer(users={}) as gone:
        environment = gone.environment(token="write-token", home=tmp_path / "home")
    result = push_only(environment, folder, "alice/model")
    assert_one_clear_line(result, 1, "no connection to the Hub", f"{folder} is complete")
    result = push_only({**environment, "HF_HUB_OFFLINE": "1"}, folder, "alice/model")
    assert_one_clear_line(result, 1, "offline", f"{folder} is complete")


def push_only(environment, folder, repo_id):
    command = [sys.executable, "merge_and_push.py", "--push_only", str(folder), "--hub_model_id", repo_id]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_model_that_changed_since_it_was_merged_is_not_published(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-4] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="model.safetensors is not the file that was written: .* merge.json"):
        publish(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets no ordinary user make links")
def test_a_model_in_part_made_of_links_is_not_published_in_part(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(UserError, match="--push_only .*config.json is a symbolic link: put what it points to in"):
        publish(folder)


@uploads
def test_a_folder_whose_card_would_not_change_may_be_read_only(hub, merged, tmp_path, monkeypatch):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder)

    def refuse(*arguments, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr("approach.cards.write_atomically", refuse)
    publish(folder)
    with pytest.raises(UserError, match="README.md cannot be written: read-only. The folder is as it was"):
        publish(folder, "alice/other")


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(UserError, match="--output_dir .*model is a file: name a folder"):
        main(MergeArguments(adapter_path="a", output_dir=str(tmp_path / "model")))


def test_what_may_be_published_is_checked_before_anything_is_sent(merged, trained, tmp_path, capsys):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder, dry_run=True)
    listed = capsys.readouterr().out
    assert "model.safetensors" in listed and "Dry run: nothing published to alice/model" in listed
    (folder / "merge.json").unlink()
    publish(folder, dry_run=True)  # a model that was trained whole has a run.json alone
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="holds no model of our scripts"):
        publish(folder)
    with pytest.raises(UserError, match="holds no complete model"):
        publish(trained.adapter)
    for arguments, words in (
        ({}, "name --adapter_path and --output_dir"),
        ({"push_only": "a"}, "publishing needs --hub_model_id user/name, got None"),
        ({"push_only": "a", "hub_model_id": "b/c", "hub_adapter_id": "b/c"}, "must be another user/name, got b/c"),
        ({"push_only": "a", "hub_model_id": "b/c", "hub_adapter_id": "b/d"}, "--hub_adapter_id needs --adapter_path"),
    ):
        with pytest.raises(ValueError, match=words):
            MergeArguments(**arguments)


def make_schedule(seed: int) -> list[dict]:
    """Two to four things that go wrong with a publish, somewhere among its dozen requests."""
    rng = random.Random(seed)
    faults = [401, 403, 409, 429, 500, "drop", "lost", "truncate"]
    places = ["", "", "", "^/lfs/", "/commit/", "/tag/", "/preupload/", "/objects/batch", "/tree/"]
    return [
        {
            "fault": rng.choice(faults),
            "path": (place := rng.choice(places)),
            "skip": rng.randrange(16) if not place else rng.randrange(2),
            "times": rng.choice([1, 2, 7]),
        }
        for _ in range(rng.randint(2, 4))
    ]


def survive(hub, old, new, seeds) -> None:
    """main is the old model or the new one after every schedule, and a second run finishes without sending twice."""
    publish(old)
    begun = hub.repo("model", "alice/model")
    states, failures = {"old": contents(old), "new": contents(new)}, 0
    for seed in seeds:
        repo_id = f"alice/model-{seed}"
        repository = hub.repos["model", repo_id] = copy.deepcopy(begun)
        repository.name = repo_id
        write_model_card(new, repo_id, None)
        states["new"] = contents(new)
        for rule in make_schedule(seed):
            hub.fail(**rule)
        try:
            publish(new, repo_id)
        except UserError as error:
            failures += 1
            said = "is complete. To publish it later: python merge_and_push.py"
            assert "\n" not in str(error) and said in str(error)
        hub.recover()
        assert shown(hub, repo_id) in states.values(), f"seed {seed}: main is neither the old model nor the new one"
        arrived, before = set(repository.uploads), len(hub.requests)
        publish(new, repo_id)
        assert shown(hub, repo_id) == states["new"], f"seed {seed}"
        sent = {path.split("/")[2] for method, path in hub.requests[before:] if method == "PUT"}
        assert not sent & arrived, f"seed {seed}: sent again what had arrived"
        assert repository.at().sha in repository.tags.values(), f"seed {seed}: not tagged"
        assert len(repository.commits) == len(begun.commits) + 1, f"seed {seed}: more than one commit"
    assert failures > len(seeds) / 2, "schedules that hardly ever fail prove little"


def both_models(merged, tmp_path):
    """Two models that load, so that a main which holds the files of either loads, too."""
    old, new = make_sharded(merged, tmp_path / "old"), shutil.copytree(merged, tmp_path / "new")
    for folder in (old, new):
        assert AutoModelForCausalLM.from_pretrained(folder) and AutoTokenizer.from_pretrained(folder)
    return old, new


@uploads
def test_whatever_request_fails_main_is_the_old_model_or_the_new_one(hub, merged, tmp_path):
    survive(hub, *both_models(merged, tmp_path), range(15))


@pytest.mark.slow
@uploads
def test_two_hundred_schedules_of_faults(hub, merged, tmp_path):
    survive(hub, *both_models(merged, tmp_path), range(200))


def push(hub, trained, tmp_path, hub_model_id: str):
    places = ["--adapter_path", str(trained.adapter), "--output_dir", str(tmp_path / "model")]
    command = [sys.executable, "merge_and_push.py", *places, "--push_to_hub", "--hub_model_id", hub_model_id]
    environment = {**hub.environment(token="write-token", home=tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_model_reaches_the_hub_whole_and_private_in_one_commit(trained, tmp_path):
    with HubServer(users={"write-token": "alice"}) as hub:
        result = push(hub, trained, tmp_path, "alice/model")
        assert result.returncode == 0, result.stderr
        repository = hub.repo("model", "alice/model")
        assert repository.private and len(repository.commits) == 2  # the repository's first, and ours
        local = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
        uploaded = repository.files("main")
        assert {name: uploaded[name] for name in local} == local
