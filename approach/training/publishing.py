"""Publishing a run to the Hub through `approach.hub`: its result, and its checkpoints where that was asked for."""

import copy
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from approach import hub
from approach.artifacts import MODEL_FILES, RECORDS, WEIGHTS, check_hashes
from approach.errors import UserError, first_line
from approach.storage import public_name, write_json

if TYPE_CHECKING:  # --push_only need not wait for it
    from trl import SFTConfig

PUBLISHED = (*MODEL_FILES, *RECORDS)
PROGRESS = "progress.json"  # of a checkpoint: which run it is of, and what it has counted
# What resuming from a checkpoint needs beside the model.
RESUME_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", PROGRESS)
# Where in the repository a checkpoint goes, by TRL's --hub_strategy; what opens the model goes to its root, too.
CHECKPOINT_FOLDERS = {"every_save": None, "checkpoint": "last-checkpoint", "all_checkpoints": "checkpoint-{step}"}


@dataclass(frozen=True)
class Publisher:
    """Where a run publishes and how often: `strategy` is TRL's `--hub_strategy`."""

    repository: hub.Repository
    strategy: str
    token: str | None = field(repr=False)

    def check_access(self) -> None:
        """
        Asks the Hub before hours are spent whether it will take the result, and makes the repository if need be.

        A Hub that cannot be reached now is only a warning.

        Raises:
            UserError: where the Hub would refuse the result.
        """
        try:
            hub.check_access(self.repository, self.token)
        except hub.HubUnavailable as error:
            unknown = f"Whether {self.repository.name} may be pushed to cannot be asked now"
            print(f"{unknown} ({error}): training all the same", file=sys.stderr)
        except hub.PublishError as error:
            raise UserError(f"Not pushed to {self.repository.name}: {error}. Nothing was trained.") from error

    def publish_checkpoint(self, checkpoint: Path, step: int) -> None:
        """Publishes a checkpoint as the strategy says; a failure is printed in one line and does not end the run."""
        if self.strategy not in CHECKPOINT_FOLDERS:
            return
        files = list_model_files(checkpoint)
        # Its progress.json marks the repository as ours from the first checkpoint on.
        parts = {"": [*files, *hub.list_files(checkpoint, [PROGRESS])]}
        if subfolder := CHECKPOINT_FOLDERS[self.strategy]:
            parts[subfolder.format(step=step)] = [*files, *hub.list_files(checkpoint, RESUME_FILES)]
        try:
            self.publish(parts, f"Step {step}")
        except hub.PublishError as error:
            print(f"Not pushed to {self.repository.name}: {error}", file=sys.stderr)

    def publish_result(self, output_dir: Path, message: str) -> None:
        """Publishes what the run wrote; raises UserError where that fails, with the command to finish later."""
        try:
            published = self.publish({"": list_model_files(output_dir)}, message)
        except hub.PublishError as error:
            places = ["--push_only", str(output_dir), "--hub_model_id", self.repository.name]
            later = shlex.join(["python", "train_sft.py", *places, *self.repository.list_flags()])
            failed = f"Not pushed to {self.repository.name}: {error}"
            raise UserError(f"{failed}. {output_dir} is complete. To push it later: {later}") from error
        print(f"Pushed to the Hub: {published.url}")

    def publish(self, parts: dict[str, list[Path]], message: str) -> hub.Published:
        """Publishes files by the folder of the repository that they go to, in one commit; raises PublishError."""
        for path in (path for files in parts.values() for path in files):
            hub.check_no_links(path.parent, [path])  # the staged copy would be a file
        try:
            with staging(parts) as folder:
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                return hub.publish(folder, files, self.repository, message, replaces=[PROGRESS], token=self.token)
        except hub.PublishError as error:
            raise type(error)(str(error).removeprefix(f"{folder}{os.sep}")) from error
        except (OSError, ValueError) as error:  # a full disk, a file that is not UTF-8
            raise hub.PublishError(first_line(error)) from error


def split_hub_arguments(
    training_args: "SFTConfig", public: bool, **hub_options: bool | Sequence[str]
) -> "tuple[Publisher | None, SFTConfig]":
    """
    The publisher of the run, None where publishing was not asked for, and the arguments without TRL's own publishing.

    `hub_options` are the other options of `hub.Repository`. The Trainer would publish by itself, to a public
    repository as well as to a private one, and so would Trackio.
    """
    publisher = None
    public = public or training_args.hub_private_repo is False
    if training_args.push_to_hub:
        name = training_args.hub_model_id or Path(training_args.output_dir).resolve().name
        repository = hub.Repository(name, public=public, **hub_options)
        publisher = Publisher(repository, str(training_args.hub_strategy.value), training_args.hub_token)
    others = copy.copy(training_args)
    others.push_to_hub, others.hub_token, others.hub_private_repo = False, None, not public
    return publisher, others


def list_model_files(folder: Path) -> list[Path]:
    """The weights, tokenizer and records in a folder; nothing else that lies there."""
    return hub.list_files(folder, PUBLISHED)


def check_result(folder: Path) -> str:
    """Returns what a folder of a finished run holds, "adapter" or "model"; raises UserError where it is none."""
    kinds = {"adapter": "adapter_config.json", "model": "config.json"}
    kind = next((kind for kind, name in kinds.items() if (folder / name).is_file()), None)
    if kind is None or not (folder / "run.json").is_file():
        raise UserError(
            f"--push_only {folder} holds no finished run of train_sft.py: its run.json or its model is missing"
        )
    if not any(hub.matches(path.name, WEIGHTS) for path in folder.iterdir()):
        raise UserError(f"--push_only {folder} holds no finished run of train_sft.py: the weights are missing")
    check_hashes(folder, "run.json")
    return kind


@contextmanager
def staging(parts: dict[str, list[Path]]) -> Iterator[Path]:
    """
    A folder laid out as the repository will be: files by the folder there that they go to, `""` for its root.

    It lies beside the files, so that weights are linked instead of copied. Paths of this machine are taken out of the
    files that the libraries write them to.
    """
    beside = next(path.parent for files in parts.values() for path in files)
    with tempfile.TemporaryDirectory(prefix=".staged-", dir=beside) as name:
        for subfolder, files in parts.items():
            folder = Path(name, subfolder)
            folder.mkdir(parents=True, exist_ok=True)
            for path in files:
                copy_without_paths(path, folder / path.name)
        yield Path(name)


def copy_without_paths(path: Path, target: Path) -> None:
    """Links or copies one file; writes it anew where it may name a path of this machine."""
    named = {"adapter_config.json": "base_model_name_or_path", "trainer_state.json": "best_model_checkpoint"}
    if key := named.get(path.name):
        value = json.loads(path.read_text(encoding="utf-8"))  # not read_json, whose UserError would end the run
        write_json(target, {**value, key: value.get(key) and public_name(value[key])})
        return
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
