"""The records of a merged model: what they tell of base and dataset, and which of them lie beside the model."""

import shutil
from pathlib import Path

from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import HTTPError
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from approach.models import Adapter
from approach.storage import public_name, read_json, write_json


def describe_base(adapter: Adapter) -> dict[str, str | None]:
    """The base's name as training recorded it or as it may be published, its commit and its licence."""
    is_recorded = adapter.base == adapter.config.base_model_name_or_path
    recorded = adapter.run.get("base", {}).get("name") if is_recorded else None
    return {
        "base": recorded or public_name(adapter.base),
        "base_revision": extract_commit_hash(
            cached_file(adapter.base, "config.json", revision=adapter.base_revision), None
        ),
        "base_license": find_base_licence(adapter.base),
    }


def find_base_licence(name: str) -> str | None:
    """The licence that the base's own card states, if it has a card and the card does."""
    try:
        licence = ModelCard.load(Path(name) / "README.md" if Path(name).is_dir() else name).data.get("license")
    except Exception:  # a card may hold anything, YAML that is none included, and the merge needs none of it
        return None
    return licence if isinstance(licence, str) else None


def find_dataset_revision(run: dict, dataset_name: str | None) -> str | None:
    """The commit of the dataset that training saw, where it is known and the same dataset is named."""
    seen = run.get("dataset", {})
    return seen["revision"] if seen.get("revision") and seen.get("name") == dataset_name else None


def read_build_report(dataset_name: str | None, revision: str | None) -> dict:
    """What `prepare_dataset.py` wrote of the training data; empty where no dataset is named or it has no report."""
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
