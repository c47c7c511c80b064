"""What a run publishes, when, and where: its result, and its checkpoints if asked; always by `approach.hub`."""

import copy
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from trl import SFTConfig

from approach import hub
from approach.files import first_line, public_name, write_json

PUBLISHED = (*hub.MODEL_FILES, *hub.RECORDS)
# What going on from a checkpoint needs beside the model.
RESUME_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", "progress.json")
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
        Before hours are spent: ends with one line where the Hub would refuse the result.

        Makes the repository where there is none. A Hub that cannot be asked now is no more than a warning.
        """
        try:
            hub.check_access(self.repository, self.token)
        except hub.HubFailed as error:
            unknown = f"Whether {self.repository.name} may be pushed to cannot be asked now"
            print(f"{unknown} ({error}): training all the same", file=sys.stderr)
        except hub.PublishError as error:
            sys.exit(f"Not pushed to {self.repository.name}: {error}. Nothing was trained.")

    def publish_checkpoint(self, checkpoint: Path, step: int) -> None:
        """Publishes a checkpoint as the strategy says; a failure is one line, and no reason to lose the run."""
        if self.strategy not in CHECKPOINT_FOLDERS:
            return
        files = list_model_files(checkpoint)
        parts = {"": files}
        if subfolder := CHECKPOINT_FOLDERS[self.strategy]:
            parts[subfolder.format(step=step)] = [*files, *hub.list_files(checkpoint, RESUME_FILES)]
        try:
            self.publish(parts, f"Step {step}")
        except hub.PublishError as error:
            print(f"Not pushed to {self.repository.name}: {error}", file=sys.stderr)

    def publish_result(self, output_dir: Path, message: str, step: int) -> None:
        """Publishes what the run wrote; ends with one line where that fails, with how to finish if the Hub did."""
        try:
            published = self.publish({"": list_model_files(output_dir)}, message)
        except hub.PublishError as error:
            later = f"; {self.describe_second_try(output_dir, step)}" if isinstance(error, hub.HubFailed) else ""
            sys.exit(f"Not pushed to {self.repository.name}: {error}. {output_dir} is whole{later}")
        print(f"Pushed to the Hub: {published.url}")

    def publish(self, parts: dict[str, list[Path]], message: str) -> hub.Published:
        """Publishes files by the folder of the repository that they go to, in one commit; raises PublishError."""
        try:
            with staged(parts) as folder:
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                return hub.publish(folder, files, self.repository, message, token=self.token)
        except hub.PublishError as error:
            raise type(error)(str(error).removeprefix(f"{folder}{os.sep}")) from error
        except (OSError, ValueError) as error:  # a disk that is full, a text that is none
            raise hub.PublishError(first_line(error)) from error

    def describe_second_try(self, output_dir: Path, step: int) -> str:
        """How to publish later what a finished run wrote: from its last checkpoint, where there is one."""
        if (output_dir / f"checkpoint-{step}" / "progress.json").is_file():
            return "push it later with the same command and --resume_from_checkpoint true"
        command = ["hf", "upload", self.repository.name, str(output_dir), "."]
        command += [] if self.repository.public else ["--private"]
        return "push it later with: " + shlex.join([*command, *(w for name in PUBLISHED for w in ("--include", name))])


def take_over_publishing(training_args: SFTConfig, public: bool) -> tuple[Publisher | None, SFTConfig]:
    """
    Who publishes the run, None where that was not asked for, and the arguments without it.

    The Trainer would publish by itself, to a public repository as gladly as to a private one.
    """
    publisher = None
    if training_args.push_to_hub:
        name = training_args.hub_model_id or Path(training_args.output_dir).resolve().name
        repository = hub.Repository(name, public=public or training_args.hub_private_repo is False)
        publisher = Publisher(repository, str(training_args.hub_strategy.value), training_args.hub_token)
    others = copy.copy(training_args)
    others.push_to_hub, others.hub_token = False, None
    return publisher, others


def list_model_files(folder: Path) -> list[Path]:
    """The weights, tokenizer and records in a folder; nothing else that lies there, and no link."""
    found = hub.list_files(folder, PUBLISHED)
    return [path for path in found if not any(fnmatch(path.name, pattern) for pattern in RESUME_FILES)]


@contextmanager
def staged(parts: dict[str, list[Path]]) -> Iterator[Path]:
    """
    A folder laid out as the repository will be: files by the folder there that they go to, `""` for its root.

    Lies beside the files, so that weights are linked instead of copied. Paths of this machine are taken out of the
    files that the libraries write them to.
    """
    beside = next(path.parent for files in parts.values() for path in files)
    with tempfile.TemporaryDirectory(prefix=".staged-", dir=beside) as name:
        for subfolder, files in parts.items():
            folder = Path(name, subfolder)
            folder.mkdir(parents=True, exist_ok=True)
            for path in files:
                place(path, folder / path.name)
        yield Path(name)


def place(path: Path, target: Path) -> None:
    """Links or copies one file, or writes it anew where it may name a path of this machine."""
    named = {"adapter_config.json": "base_model_name_or_path", "trainer_state.json": "best_model_checkpoint"}
    if key := named.get(path.name):
        value = json.loads(path.read_text(encoding="utf-8"))  # not read_json, which would end the run
        write_json(target, {**value, key: value.get(key) and public_name(value[key])})
        return
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
