"""What is published of a model and of an adapter, and what is checked and changed before."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from approach import hub
from approach.artifacts import MODEL_FILES, RECORDS, check_hashes, read_run
from approach.cards import model_card
from approach.errors import UserError
from approach.storage import public_name, read_json, write_json

PUBLISHED = (*MODEL_FILES, *RECORDS)


def list_published(folder: Path) -> list[Path]:
    """The files of a folder that are published: nothing from its subfolders, and nothing that is not ours."""
    return hub.list_files(folder, PUBLISHED)


def require_model(argument: str, folder: Path) -> None:
    """Raises UserError where the folder does not hold a whole model of ours, as it was written."""
    if not (folder / "config.json").is_file() or not list(folder.glob("model*.safetensors")):
        raise UserError(f"{argument} {folder} holds no whole model: config.json or the weights are missing")
    if not (folder / "run.json").is_file() and not (folder / "merge.json").is_file():
        raise UserError(f"{argument} {folder} holds no model of our scripts: run.json and merge.json are missing")
    check_no_links(argument, folder, list_published(folder))
    for record in ("run.json", "merge.json", "gguf.json"):
        check_hashes(folder, record)


def check_no_links(argument: str, folder: Path, files: Iterable[Path]) -> None:
    """Raises UserError where one of the files would be published in place of what it links to."""
    try:
        hub.refuse_links(folder, files)
    except hub.PublishError as error:
        raise UserError(f"{argument} {folder}: {error}") from error


def stage_adapter(adapter: Path, name: str, folder: Path) -> None:
    """
    Puts the adapter into `folder` as it is published under `name`.

    Its base is named by Hub id or last name alone, and its card says how to load it.
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
