import json
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line
from hub_server import HubServer, Repo
from huggingface_hub import HfApi, constants
from training_runs import assert_same, launch_command, weights

import train_sft
from approach.errors import UserError
from approach.hub import Repository
from approach.training.publishing import Publisher, list_model_files, split_hub_arguments, staging

# huggingface_hub's own, on uploading
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process's clients ask, too; `alice/adapter` is public there."""
    with HubServer(users={"write-token": "alice"}) as hub:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        HfApi(token="write-token").create_repo("alice/adapter", private=False)
        yield hub


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    """A folder like a checkpoint of the trained run, as the last of a finished one, with what a user left in it."""
    folder = shutil.copytree(trained.adapter, tmp_path / "adapter" / "checkpoint-4")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "notes.txt", ".hidden.json"):
        (folder / name).write_bytes(b"bytes")
    (folder / "progress.json").write_text("{}", encoding="utf-8")
    state = {"global_step": 4, "best_model_checkpoint": str(folder)}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    (tmp_path / "private.json").write_text("{}", encoding="utf-8")
    (folder / "link.json").symlink_to(tmp_path / "private.json")  # no name of ours
    return folder


def make_publisher(strategy: str = "end", name: str = "alice/adapter", public: bool = False) -> Publisher:
    return Publisher(Repository(name, public=public), strategy, "write-token")


def run_and_push(hub: HubServer, tmp_path: Path, base, dataset, *overrides) -> subprocess.CompletedProcess:
    """A run of four steps with a checkpoint every two, pushed as `overrides` say."""
    command = launch_command(base, dataset, tmp_path / "adapter", "--max_steps", 4, "--save_steps", 2)
    command += ["--push_to_hub", "true", *map(str, overrides)]
    environment = {**hub.environment(token="write-token", home=tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pushed(base, dataset, tmp_path_factory):
    """By a strategy, the folder of a run that was pushed with it, and its repository; each is run once."""

    @cache
    def push(strategy: str) -> tuple[Path, Repo]:
        folder = tmp_path_factory.mktemp("pushed")
        with HubServer(users={"write-token": "alice"}) as hub:
            # A name without an owner is the token's user's.
            words = ["--hub_model_id", "adapter", "--hub_strategy", strategy]
            result = run_and_push(hub, folder, base, dataset, *words)
            assert result.returncode == 0, result.stderr
            return folder, hub.repo("model", "alice/adapter")

    return push


def titles(repository) -> list[str]:
    return [commit.title for commit in repository.commits.values()]


def test_what_is_pushed_names_a_local_base_by_its_last_name(trained, base):
    told = [json.loads((trained.adapter / "adapter_config.json").read_bytes())["base_model_name_or_path"]]
    with staging({"": list_model_files(trained.adapter)}) as copy:
        told.append(json.loads((copy / "adapter_config.json").read_bytes())["base_model_name_or_path"])
        assert_same(weights(copy), weights(trained.adapter))
    assert told == [str(base), base.name] and not copy.exists()


# Two of the four run with the slow tests: what each publishes is tested below in this process, too.
@pytest.mark.parametrize(
    "strategy",
    ["end", "all_checkpoints", *(pytest.param(name, marks=pytest.mark.slow) for name in ("every_save", "checkpoint"))],
)
def test_what_is_pushed_is_private_and_holds_no_arguments(pushed, strategy):
    folder, repository = pushed(strategy)
    files = repository.files("main")
    assert repository.private
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "run.json"} <= files.keys()
    assert ("last-checkpoint/optimizer.pt" in files) == (strategy == "checkpoint")
    assert ("checkpoint-2/optimizer.pt" in files) == (strategy == "all_checkpoints")
    assert "trainer_state.json" not in files
    published = [content for commit in repository.commits for content in repository.files(commit).values()]
    assert not any(b"write-token" in content or str(folder).encode() in content for content in published)
    assert not any(name.endswith("training_args.bin") for name in files)
    steps = [] if strategy == "end" else ["Step 2", "Step 4"]
    assert titles(repository) == ["initial commit", *steps, "The adapter"]


def test_a_checkpoint_from_the_hub_is_gone_on_with(pushed, base, dataset, tmp_path):
    """What is published of a checkpoint is all that resuming needs."""
    trained, repository = pushed("all_checkpoints")
    folder = tmp_path / "fetched" / "checkpoint-2"
    folder.mkdir(parents=True)
    for name, content in repository.files().items():
        if name.startswith("checkpoint-2/"):
            (folder / Path(name).name).write_bytes(content)
    command = launch_command(base, dataset, tmp_path / "again", "--max_steps", 4, "--save_steps", 2)
    train_sft.main(*train_sft.parse_arguments([*command[2:], "--resume_from_checkpoint", str(folder)]))
    assert_same(weights(tmp_path / "again"), weights(trained / "adapter"))


def test_only_our_own_files_go_out_and_no_path_of_this_machine(hub, checkpoint, tmp_path):
    make_publisher("checkpoint", "alice/private").publish_checkpoint(checkpoint, 4)
    files = hub.repo("model", "alice/private").files()
    root = {name for name in files if "/" not in name}
    own = {path.name for path in list_model_files(checkpoint)}
    assert root == own | {".gitattributes", "progress.json"}
    assert own >= {"adapter_model.safetensors", "run.json", "README.md"}
    resume = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "progress.json"}
    assert {name.partition("/")[2] for name in files if "/" in name} == own | resume
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert json.loads(files["last-checkpoint/trainer_state.json"])["best_model_checkpoint"] == "checkpoint-4"
    assert not list(checkpoint.glob(".staged-*"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_goes_to_a_public_repository_unasked(hub, checkpoint, strategy, capsys):
    make_publisher(strategy).publish_checkpoint(checkpoint, 4)
    said = capsys.readouterr().err
    refused = "Not pushed to alice/adapter: the repository is public: add --public to publish there all the same"
    assert said == ("" if strategy == "end" else f"{refused}\n")
    with pytest.raises(UserError) as ended:
        make_publisher(strategy).publish_result(checkpoint, "The adapter")
    later = f"python train_sft.py --push_only {checkpoint} --hub_model_id alice/adapter"
    assert str(ended.value) == f"{refused}. {checkpoint} is complete. To push it later: {later}"
    assert titles(hub.repo("model", "alice/adapter")) == ["initial commit"]
    assert not hub.repo("model", "alice/adapter").uploads


@pytest.mark.parametrize("flag", [["--public"], ["--hub_private_repo", "false"]])
def test_asked_for_it_goes_to_a_public_repository(hub, checkpoint, base, dataset, flag):
    command = launch_command(base, dataset, checkpoint.parent, "--push_to_hub", "true", *flag)
    _, training_args, _, run_args = train_sft.parse_arguments([*command[2:], "--hub_token", "write-token"])
    publisher, others = split_hub_arguments(training_args, **run_args.hub_options())
    assert publisher.repository == Repository("adapter", public=True)
    assert not others.push_to_hub and others.hub_token is None and training_args.push_to_hub
    publisher.publish_result(checkpoint, "The adapter")
    assert titles(hub.repo("model", "alice/adapter")) == ["initial commit", "The adapter"]


@pytest.mark.parametrize("public", [False, True])
def test_a_trackio_space_is_private_unless_the_run_is_public(public, base, dataset, tmp_path):
    """transformers hands `hub_private_repo` on to Trackio, where None leaves it to the account's default."""
    command = launch_command(base, dataset, tmp_path / "adapter", "--trackio_space_id", "alice/runs")
    _, training_args, _, run_args = train_sft.parse_arguments([*command[2:], *(["--public"] if public else [])])
    _, others = split_hub_arguments(training_args, **run_args.hub_options())
    assert others.hub_private_repo is not public


def test_a_file_that_cannot_be_read_loses_no_run(hub, checkpoint, capsys, monkeypatch):
    def fail(path, **named):
        raise OSError(f"{path.name}: the disk does not answer")

    monkeypatch.setattr(Path, "read_text", fail)
    make_publisher("every_save", public=True).publish_checkpoint(checkpoint, 4)
    assert "Not pushed to alice/adapter: " in capsys.readouterr().err


def test_a_secret_in_any_text_is_refused_by_file_name(hub, checkpoint, capsys):
    for name, secret, said in (
        ("samples.jsonl", "hf_" + "a" * 34, "samples.jsonl holds a Hub token"),
        ("README.md", "/home/someone/secret", "README.md holds a path on this machine"),
    ):
        kept = (checkpoint / name).read_text(encoding="utf-8") if (checkpoint / name).is_file() else ""
        (checkpoint / name).write_text(f"{kept}{secret}", encoding="utf-8")
        with pytest.raises(UserError, match=f"Not pushed to alice/adapter: {said}"):
            make_publisher(public=True).publish_result(checkpoint, "The adapter")
        make_publisher("every_save", public=True).publish_checkpoint(checkpoint, 4)
        assert f"Not pushed to alice/adapter: {said}" in capsys.readouterr().err
        (checkpoint / name).write_text(kept, encoding="utf-8")
    assert titles(hub.repo("model", "alice/adapter")) == ["initial commit"]


@pytest.mark.parametrize(
    "name, said", [("alice/adapter", "is public: add --public"), ("bob/adapter", "is not yours: you are alice")]
)
def test_what_would_be_refused_at_the_end_is_refused_before_training(hub, base, dataset, tmp_path, name, said):
    words = ["--push_to_hub", "true", "--hub_model_id", name, "--hub_token", "write-token"]
    arguments = train_sft.parse_arguments(launch_command(base, dataset, tmp_path / "adapter", *words)[2:])
    with pytest.raises(UserError, match=f"^Not pushed to {name}.* {said}.*Nothing was trained"):
        train_sft.main(*arguments)
    assert not (tmp_path / "adapter").exists()
    assert titles(hub.repo("model", "alice/adapter")) == ["initial commit"]


def test_a_hub_that_cannot_be_asked_before_training_is_a_warning(base, dataset, tmp_path):
    with HubServer(users={"write-token": "alice"}) as hub:
        hub.fail(500, path="whoami")
        options = ["--hub_model_id", "alice/adapter", "--hub_strategy", "end"]
        result = run_and_push(hub, tmp_path, base, dataset, *options)
        assert result.returncode == 0, result.stderr
        warning = "Whether alice/adapter may be pushed to cannot be asked now (the Hub failed (500)): training all the"
        assert warning in result.stderr
        assert titles(hub.repo("model", "alice/adapter")) == ["initial commit", "The adapter"]


def test_a_push_that_fails_ends_in_one_line_and_keeps_the_adapter(base, dataset, tmp_path):
    """And the command that it names finishes the push when typed: looked through, private, our own files alone."""
    with HubServer(users={"write-token": "alice"}) as hub:
        hub.fail(500, method="POST", path="/commit/", times=100)
        options = ["--hub_model_id", "alice/adapter", "--save_strategy", "no"]
        result = run_and_push(hub, tmp_path, base, dataset, *options)
        assert_one_clear_line(
            result, 1, "Not pushed to alice/adapter", "is complete. To push it later: python train_sft.py"
        )
        assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
        hub.recover()
        (tmp_path / "adapter" / "notes.txt").write_text("mine", encoding="utf-8")
        _, *typed = shlex.split(result.stderr.strip().splitlines()[-1].partition("To push it later: ")[2])
        environment = hub.environment(token="write-token", home=tmp_path / "home")
        subprocess.run([sys.executable, *typed], cwd=ROOT, env=environment, check=True, capture_output=True)
        repository = hub.repo("model", "alice/adapter")
        assert repository.private
        own = {path.name for path in list_model_files(tmp_path / "adapter")}
        assert repository.files().keys() == own | {".gitattributes"}


def test_parsing_publishes_nothing(hub, trained):
    named = ["--hub_model_id", "alice/fresh", "--hub_token", "write-token"]
    (arguments,) = train_sft.parse_arguments(["--push_only", str(trained.adapter), *named])
    assert arguments.push_only == str(trained.adapter) and ("model", "alice/fresh") not in hub.repos


def test_pushing_alone_takes_a_complete_run_and_a_name(hub, trained, checkpoint, capsys):
    def push(*words) -> str:
        with pytest.raises((SystemExit, UserError)) as ended:
            train_sft.main(*train_sft.parse_arguments(["--push_only", *map(str, words)]))
        return str(ended.value) if ended.type is UserError else capsys.readouterr().err or str(ended.value.code)

    assert "--push_only needs --hub_model_id user/name" in push(checkpoint)
    named = ("--hub_model_id", "alice/fresh", "--hub_token", "write-token")
    assert "holds no finished run of train_sft.py" in push(checkpoint.parent / "none", *named)
    weights = (checkpoint / "adapter_model.safetensors").read_bytes()
    (checkpoint / "adapter_model.safetensors").write_bytes(weights[:-1] + b"#")
    assert "adapter_model.safetensors is not the file that was written" in push(checkpoint, *named)
    (checkpoint / "adapter_model.safetensors").unlink()
    assert "the weights are missing" in push(checkpoint, *named)
    (checkpoint / "run.json").unlink()
    assert "its run.json or its model is missing" in push(checkpoint, *named)
    assert ("model", "alice/fresh") not in hub.repos
    train_sft.main(*train_sft.parse_arguments(["--push_only", str(trained.adapter), *named]))
    assert titles(hub.repo("model", "alice/fresh")) == ["initial commit", "The adapter"]


def test_the_result_takes_the_progress_of_the_last_checkpoint_away(hub, checkpoint):
    make_publisher("every_save", "alice/private").publish_checkpoint(checkpoint, 4)
    assert "progress.json" in hub.repo("model", "alice/private").files()
    make_publisher("every_save", "alice/private").publish_result(checkpoint, "The adapter")
    assert "progress.json" not in hub.repo("model", "alice/private").files()
