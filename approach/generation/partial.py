"""Drafts on disk as they come, so that a killed run continues where it was."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from accelerate import PartialState

from approach.errors import UserError, explain_os_error
from approach.storage import try_lock


class PartialDrafts:
    """
    Drafts on disk as they come, in a folder beside the output, where several processes find each other's.

    Every row names its model, prompts and settings by a hash, so that drafts of other settings are not used. Enter it
    in a `with` block, which locks the folder.

    Raises:
        UserError: where another run uses the folder.
    """

    def __init__(self, output_dir: Path):
        self.folder = output_dir.with_name(f".{output_dir.name}.partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"drafts-{PartialState().process_index}.jsonl"
        self.lock: BinaryIO | None = None

    def __enter__(self) -> "PartialDrafts":
        if PartialState().is_main_process:
            self.lock = (self.folder / "lock").open("wb")
            if try_lock(self.lock) is False:
                self.lock.close()
                raise UserError(
                    f"another run keeps its drafts in {self.folder}: wait for it, or name another --output_dir"
                )
        return self

    def __exit__(self, *error: object) -> None:
        if self.lock:
            self.lock.close()

    def remove(self) -> None:
        """Deletes the folder, once its drafts are scored."""
        self.lock.close()  # Windows deletes no open file
        shutil.rmtree(self.folder)

    def append(self, key: str, rows: list[int], drafts: Sequence[Mapping]) -> None:
        """Adds the drafts of these rows, or what else was computed for them."""
        lines = [json.dumps({"key": key, "row": row, **draft}) for row, draft in zip(rows, drafts, strict=True)]
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(lines))  # a line that a kill cut off ends here
        except OSError as error:
            raise UserError(
                f"{self.file}: {explain_os_error(error)}: the same command continues from the drafts that there are"
            ) from error

    def read(self, key: str) -> dict[int, dict]:
        """The drafts that any process has made with these settings, by row."""
        drafts = {}
        for path in self.folder.glob("drafts-*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict) and entry.pop("key", None) == key:
                    drafts[entry.pop("row")] = entry
        return drafts
