"""A merged model's folder: the records beside its weights, and which of its files are published."""

import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import HTTPError
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from approach import hub
from approach.artifacts import MODEL_FILES, RECORDS, check_hashes, read_run
from approach.cards import model_card
from approach.errors import UserError
from approach.storage import public_name, read_json, write_json

if TYPE_CHECKING:  # publishing alone need not wait for torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from approach.models import Adapter

PUBLISHED = (*MODEL_FILES, *RECORDS)


def build_merge_record(
    adapter: "Adapter",
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dtype: str,
    differences: dict[str, float],
) -> dict:
    """The content of `merge.json`: where the model comes from, and how far it is from the adapter on its base."""
    is_recorded = adapter.base == adapter.config.base_model_name_or_path
    recorded = adapter.run.get("base", {}).get("name") if is_recorded else None
    return {
        "base": recorded or public_name(adapter.base),
        "base_revision": extract_commit_hash(
            cached_file(adapter.base, "config.json", revision=adapter.base_revision), None
        ),
        "base_license": find_base_licence(adapter.base),
        "adapter": public_name(adapter.name),
        "dtype": dtype,
        "vocabulary": len(tokenizer),
        "parameters": model.num_parameters(),
        **differences,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }


def find_base_licence(name: str) -> str | None:
    """The licence in the base's own card; None where there is no card, or none in it."""
    try:
        licence = ModelCard.load(Path(name) / "README.md" if Path(name).is_dir() else name).data.get("license")
    except Exception:  # a card may hold anything, broken YAML included, and the merge does not need it
        return None
    return licence if isinstance(licence, str) else None


def find_dataset_revision(run: dict, dataset_name: str | None) -> str | None:
    """The commit of the dataset that training recorded; None where it is unknown or another dataset is named."""
    recorded = run.get("dataset", {})
    return recorded["revision"] if recorded.get("revision") and recorded.get("name") == dataset_name else None


def read_build_report(dataset_name: str | None, revision: str | None) -> dict:
    """The training data's `build_report.json`; empty where no dataset is named or it has none."""
    if dataset_name is None or Path(dataset_name).exists():
        return read_json(Path(dataset_name) / "build_report.json") if dataset_name else {}
    try:
        return read_json(
            Path(hf_hub_download(dataset_name, "build_report.json", repo_type="dataset", revision=revision))
        )
    except (OSError, HTTPError, ValueError):
        return {}


def write_records(folder: Path, adapter: Path, merge: dict, build_report: dict) -> None:
    """Puts training's record and loss curve, `merge.json` and the dataset's report beside a merged model."""
    for name in ("run.json", "loss_curve.png"):
        if (adapter / name).is_file():
            shutil.copy(adapter / name, folder)
    write_json(folder / "merge.json", merge)
    if build_report:
        write_json(folder / "build_report.json", build_report)


def list_published(folder: Path) -> list[Path]:
    """The files of a folder that are published: those that our scripts write, and nothing from subfolders."""
    return hub.list_files(folder, PUBLISHED)


def check_model(argument: str, folder: Path) -> None:
    """Raises UserError where the folder does not hold a complete model of our scripts, unchanged since."""
    if not (folder / "config.json").is_file() or not list(folder.glob("model*.safetensors")):
        raise UserError(f"{argument} {folder} holds no complete model: config.json or the weights are missing")
    if not (folder / "run.json").is_file() and not (folder / "merge.json").is_file():
        raise UserError(f"{argument} {folder} holds no model of our scripts: run.json and merge.json are missing")
    check_no_links(argument, folder, list_published(folder))
    for record in ("run.json", "merge.json", "gguf.json"):
        check_hashes(folder, record)


def check_no_links(argument: str, folder: Path, files: Iterable[Path]) -> None:
    """Raises UserError where one of the files is a link to something that may be private."""
    try:
        hub.check_no_links(folder, files)
    except hub.PublishError as error:
        raise UserError(f"{argument} {folder}: {error}") from error


def stage_adapter(adapter: Path, name: str, folder: Path) -> None:
    """
    Copies the adapter into `folder` as it is published under `name`.

    The copy names its base by Hub id or last name alone, and its card says how to load it.
    """
    files = list_published(adapter)
    check_no_links("--adapter_path", adapter, files)
    for path in files:
        shutil.copy(path, folder)
    base = read_run(adapter).get("base", {})
    config = read_json(adapter / "adapter_config.json", {"base_model_name_or_path": str})
    config["base_model_name_or_path"] = base.get("name") or public_name(config["base_model_name_or_path"])
    config["revision"] = base.get("revision") or config.get("revision")
    write_json(folder / "adapter_config.json", config)
    (folder / "README.md").write_text(model_card(folder, name, {}, adapter=True), encoding="utf-8")
