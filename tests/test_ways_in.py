"""Every way in to the Hub, each with what must not pass: nothing of it is uploaded, and one line says why."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import training_arguments
from huggingface_hub import HfApi
from merging_inputs import change_run, copy_adapter
from publishing import serve_hub, uploads

import merge_and_push
import prepare_dataset
import train_sft
from approach.errors import UserError
from approach.models import find_adapter_folder
from approach.training.publishing import split_hub_arguments
from approach.training.record import build_setup_record

TOKEN = "hf_" + "a" * 34
REPO = "alice/target"
STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


class Inputs:
    """Fresh copies of what the stages wrote, for one test to spoil."""

    def __init__(self, abstracts, dataset, trained, merged, base, folder):
        self.folder, self.base, self.dataset = folder, base, dataset
        self.abstracts = shutil.copy(abstracts, folder / "abstracts.jsonl")
        self.pairs = shutil.copytree(dataset, folder / "pairs")
        self.adapter = copy_adapter(trained, folder / "adapter")
        self.model = shutil.copytree(merged, folder / "model")

    def spoil_records(self) -> None:
        """A token in a record of each, and in a row of the abstracts."""
        for record in (self.pairs / "build_report.json", self.model / "run.json", self.adapter / "run.json"):
            change_run(record.parent, device=TOKEN) if record.name == "run.json" else None
            record.write_text(
                record.read_text(encoding="utf-8").replace("{", f'{{"x": "{TOKEN}", ', 1), encoding="utf-8"
            )
        rows = Path(self.abstracts).read_text(encoding="utf-8")
        Path(self.abstracts).write_text(rows.replace(".", f" {TOKEN}."), encoding="utf-8")

    def spoil_with_links(self) -> None:
        """In place of a file that our scripts write, a link to something private."""
        (self.folder / "private.json").write_text("{}", encoding="utf-8")
        for path in (self.pairs / "funnel.png", self.model / "loss_curve.png", self.adapter / "loss_curve.png"):
            path.unlink()
            path.symlink_to(self.folder / "private.json")


@pytest.fixture
def inputs(abstracts, dataset, trained, merged, base, tmp_path):
    return Inputs(abstracts, dataset, trained, merged, base, tmp_path)


@pytest.fixture
def hub(monkeypatch):
    with serve_hub(monkeypatch) as hub:
        yield hub


def prepare(inputs, *words):
    prepare_dataset.main(prepare_dataset.parse_arguments([*words, "--hub_dataset_id", REPO, "--num_proc", "1"]))


def build_pairs(inputs, *flags):
    words = ["--dataset_name", str(inputs.abstracts), "--output_dir", str(inputs.folder / "new"), "--push_to_hub"]
    prepare(inputs, *words, *flags)


def push_pairs(inputs, *flags):
    prepare(inputs, "--push_only", str(inputs.pairs), *flags)


def merge(*words):
    merge_and_push.main(merge_and_push.parse_arguments(list(map(str, words))))


def build_model(inputs, *flags):
    places = ["--adapter_path", inputs.adapter, "--output_dir", inputs.folder / "new"]
    merge(*places, "--push_to_hub", "--hub_model_id", REPO, *flags)


def push_model(inputs, *flags):
    merge("--push_only", inputs.model, "--hub_model_id", REPO, *flags)


def push_adapter(inputs, *flags):
    """The model goes to a repository of its own, from a folder that nobody spoiled."""
    model = shutil.copytree(inputs.untouched_model, inputs.folder / "untouched")
    places = ["--push_only", model, "--hub_model_id", "alice/other", "--adapter_path", inputs.adapter]
    merge(*places, "--hub_adapter_id", REPO, *flags)


def push_trained(inputs, *flags):
    words = ["--push_only", str(inputs.adapter), "--hub_model_id", REPO, *flags]
    train_sft.main(*train_sft.parse_arguments(words))


def train_and_push(strategy):
    """What a run does of publishing, without its steps: a checkpoint, then the result."""

    def push(inputs, *flags):
        words = ("--push_to_hub", "true", "--hub_model_id", REPO, "--hub_strategy", strategy, *flags)
        _, training_args, _, run_args = training_arguments(inputs.base, inputs.dataset, inputs.adapter, *words)
        publisher, _ = split_hub_arguments(training_args, **run_args.hub_options())
        checkpoint = shutil.copytree(inputs.adapter, inputs.folder / "checkpoint-4", symlinks=True)
        (checkpoint / "progress.json").write_text("{}", encoding="utf-8")
        publisher.publish_checkpoint(checkpoint, 4)
        publisher.publish_result(inputs.adapter, "The adapter")

    return push


WAYS = {
    "prepare": build_pairs,
    "prepare --push_only": push_pairs,
    "merge": build_model,
    "merge --push_only": push_model,
    "adapter": push_adapter,
    "train --push_only": push_trained,
    **{f"train, {strategy}": train_and_push(strategy) for strategy in STRATEGIES},
}


def make_target(hub, way: str, private: bool):
    kind = "dataset" if way.startswith("prepare") else "model"
    api = HfApi(endpoint=hub.endpoint, token="write-token")
    api.create_repo(REPO, repo_type=kind, private=private)
    return api, kind, hub.repo(kind, REPO)


@pytest.fixture(autouse=True)
def untouched_model(merged):
    Inputs.untouched_model = merged


@pytest.mark.parametrize("way", WAYS)
@uploads
def test_no_way_leads_to_a_public_repository_unasked(hub, inputs, way, capsys):
    _, _, repository = make_target(hub, way, private=False)
    with pytest.raises(UserError, match="the repository is public: add --public to publish there all the same"):
        WAYS[way](inputs)
    assert len(repository.commits) == 1 and not repository.uploads


@pytest.mark.parametrize("way", [name for name in WAYS if name not in ("prepare", "merge")])
@uploads
def test_no_way_leads_to_a_repository_of_others_unasked(hub, inputs, way):
    api, kind, repository = make_target(hub, way, private=True)
    theirs = {"repo_id": REPO, "repo_type": kind, "path_or_fileobj": b"theirs"}
    api.upload_file(path_in_repo="README.md", **theirs)
    api.upload_file(path_in_repo="data/rows.csv", **theirs)
    with pytest.raises(
        UserError, match=r"holds files that none of these scripts published \(README.md, data/rows.csv"
    ):
        WAYS[way](inputs)
    assert len(repository.commits) == 3 and not repository.uploads
    shutil.rmtree(inputs.folder / "checkpoint-4", ignore_errors=True)
    shutil.rmtree(inputs.folder / "untouched", ignore_errors=True)
    WAYS[way](inputs, "--hub_overwrite")
    assert repository.files()["data/rows.csv"] == b"theirs" and repository.files()["README.md"] != b"theirs"


@pytest.mark.parametrize("way", WAYS)
@uploads
def test_no_way_lets_a_secret_out(hub, inputs, way, capsys):
    inputs.spoil_records()
    with pytest.raises(UserError, match=r"holds a Hub token \(hf_a…\)"):
        WAYS[way](inputs)
    assert all(len(repository.commits) == 1 for key, repository in hub.repos.items() if REPO in key)


@pytest.mark.parametrize("way", [name for name in WAYS if name != "prepare"])
@uploads
def test_no_way_follows_a_link(hub, inputs, way, capsys):
    inputs.spoil_with_links()
    with pytest.raises(
        UserError, match=r"(funnel|loss_curve).png is a symbolic link: put what it points to in its place"
    ):
        WAYS[way](inputs)
    assert not (inputs.folder / "new").exists(), "merging does not copy what the link points to"
    assert all(len(repository.commits) == 1 for key, repository in hub.repos.items() if REPO in key)


@pytest.mark.parametrize("name", ["loss_curve.png", "adapter_config.json"])
@uploads
def test_a_link_is_not_followed_on_a_file_system_without_links(hub, inputs, name, monkeypatch):
    """There a run's files are copied before they are published, and one is written anew on every system."""

    def refuse(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    (inputs.adapter / name).rename(inputs.folder / name)
    (inputs.adapter / name).symlink_to(inputs.folder / name)
    with pytest.raises(UserError, match=f"{name} is a symbolic link"):
        push_trained(inputs)
    assert hub.repos == {}


@uploads
def test_what_the_user_allows_is_not_published_itself(hub, inputs):
    build_pairs(inputs, "--allow_paths", "/mnt/shared", "--hub_overwrite")
    files = hub.repo("dataset", REPO).files()
    assert not any(b"/mnt/shared" in data or b"hub_overwrite" in data for data in files.values())
    words = ("--allow_paths", "/mnt/shared", "--hub_overwrite", "true")
    setup = build_setup_record(training_arguments(inputs.base, inputs.dataset, inputs.folder / "new", *words), {}, {})
    assert not setup["arguments"].keys() & {"allow_paths", "hub_overwrite", "public", "push_only"}


@pytest.mark.parametrize("way", WAYS)
@uploads
def test_every_way_is_private_and_sends_our_own_files_alone(hub, inputs, way):
    for folder in (inputs.pairs, inputs.pairs / "data", inputs.model, inputs.adapter):
        for name in ("env.txt", "secrets.json", "rows.parquet", "old.safetensors", "optimizer.bin", "id_rsa"):
            (folder / name).write_text(TOKEN, encoding="utf-8")
        (folder / "private").mkdir()
        (folder / "private" / "config.json").write_text(TOKEN, encoding="utf-8")
    WAYS[way](inputs)
    repositories = [repository for key, repository in hub.repos.items() if REPO in key]
    assert [repository.private for repository in repositories] == [True]
    for commit in repositories[0].commits:
        files = repositories[0].files(commit)
        assert not any(TOKEN.encode() in data for data in files.values())


@pytest.mark.parametrize(
    "status, words", [(401, "does not accept the token"), (403, "the token may not"), (404, "no such repo")]
)
def test_a_hub_that_keeps_an_adapter_back_is_told_in_plain_words(monkeypatch, status, words):
    class Refusal(OSError):
        response = SimpleNamespace(status_code=status)

    def refuse(*arguments, **options):
        raise Refusal(f"{status} Client Error. (Request ID: Root=1)")

    monkeypatch.setattr("approach.models.snapshot_download", refuse)
    with pytest.raises(UserError, match=f"--adapter_path alice/adapter: .*: .*{words}"):
        find_adapter_folder("alice/adapter", "--adapter_path")
