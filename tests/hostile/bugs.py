"""Bugs that were there once, put back: for each class of tries one that they must find."""

import csv
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from approach import hub, outputs
from approach.data.reading import Lines, count_lines
from approach.outputs import Output

Patch = pytest.MonkeyPatch


@contextmanager
def unguarded(value: object = None, *_: object, **__: object) -> Iterator[object]:
    """In place of what turns errors into one line."""
    yield value


def allow(*_: object, **__: object) -> None:
    """In place of what refuses."""


def raise_again(error: Exception) -> None:
    """In place of what describes an error that was caught."""
    raise error


def forget_ranges(patch: Patch) -> None:
    for module in ("prepare_dataset", "evaluate_model", "draft_approach", "merge_and_push", "app", "train_sft"):
        patch.setattr(f"{module}.require_ranges", allow)
    patch.setattr("approach.training.arguments.require_ranges", allow)


def forget_loading_errors(patch: Patch) -> None:
    for module in ("loading", "models", "evaluation.systems", "merging.adapter", "training.base"):
        patch.setattr(f"approach.{module}.told", unguarded)


def read_csv_as_it_comes(patch: Patch) -> None:
    """Not strictly, and without a word on rows of several lines."""
    reader = csv.reader
    patch.setattr("approach.data.reading.csv.reader", lambda file, strict=False: reader(file))

    def count(paths: list[str]) -> Lines:
        return dataclasses.replace(count_lines(paths), rows_of_several_lines=0)

    patch.setattr("approach.data.sources.count_lines", count)


def forget_inputs(patch: Patch) -> None:
    patch.setattr("approach.outputs.require_no_input", allow)
    patch.setattr("approach.training.run_folder.require_no_input", allow)


def replace_links_and_mounts(patch: Patch) -> None:
    require = outputs.require_replaceable

    def require_no_device(place: str, path: Path, is_file: bool) -> None:
        if not path.is_symlink() and not os.path.ismount(path):
            require(place, path, is_file)

    patch.setattr(outputs, "require_replaceable", require_no_device)


def replace_what_is_there(patch: Patch) -> None:
    def put_in_place(output: Output, new: Path, aside: Path) -> None:
        shutil.rmtree(output.path) if output.path.is_dir() else output.path.unlink(missing_ok=True)
        new.rename(output.path)

    patch.setattr(Output, "put_in_place", put_in_place)


def write_in_place(patch: Patch) -> None:
    @contextmanager
    def written(output: Output) -> Iterator[Path]:
        if not output.is_file:
            shutil.rmtree(output.path, ignore_errors=True)
            output.path.mkdir()
        yield output.path

    patch.setattr(Output, "written_whole", written)


def run_their_code(patch: Patch) -> None:
    import transformers

    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
        kind = getattr(transformers, name)
        load = functools.partial(take_code, kind.from_pretrained)
        patch.setattr(kind, "from_pretrained", load)


def take_code(load: Callable, *places: object, **options: object) -> object:
    return load(*places, **{**options, "trust_remote_code": True})


def take_any_predictions(patch: Patch) -> None:
    def read(path: str, rows: list[dict]) -> list[dict]:
        entries = {}
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            entries[entry["id"]] = entry
        return [entries[row["id"]] for row in rows]

    patch.setattr("approach.evaluation.systems.read_predictions", read)


def take_any_problems(patch: Patch) -> None:
    def read(source: str) -> list[tuple[str, str]]:
        return [("", line) for line in Path(source).read_text(encoding="utf-8").splitlines()]

    patch.setattr("approach.drafting.terminal.read_problems", read)


def show_markup(patch: Patch) -> None:
    from approach.evaluation import report

    patch.setattr(report, "PAGES", report.PAGES.overlay(autoescape=False))


def publish_anywhere(patch: Patch) -> None:
    open_repository = hub.open_repository

    def open_any(api: object, repository: hub.Repository) -> tuple:
        return open_repository(api, dataclasses.replace(repository, public=True, overwrite=True))

    patch.setattr(hub, "open_repository", open_any)


BUGS: dict[str, Callable[[Patch], None]] = {
    "numbers": forget_ranges,
    "names": forget_loading_errors,
    "recipes": lambda patch: patch.setattr("train_sft.describe_mistake", raise_again),
    "rows": lambda patch: patch.setattr("approach.data.splits.with_unique_ids", lambda rows: (rows, 0)),
    "csv": read_csv_as_it_comes,
    "packed": lambda patch: patch.setattr("approach.data.reading.damage_told", unguarded),
    "outputs": replace_links_and_mounts,
    "inputs": forget_inputs,
    "brackets": lambda patch: patch.setattr("prepare_dataset.NOT_IN_PATHS", ()),
    "races": replace_what_is_there,
    "disks": write_in_place,
    "weights": forget_loading_errors,
    "records": lambda patch: patch.setattr("approach.evaluation.report.reading", unguarded),
    "templates": forget_loading_errors,
    "code": run_their_code,
    "predictions": take_any_predictions,
    "pairs": lambda patch: patch.setattr("approach.dataset.with_texts", lambda rows, column, place: rows),
    "problems": take_any_problems,
    "resumes": lambda patch: patch.setattr("approach.training.checkpoints.require_same_run", allow),
    "markup": show_markup,
    "secrets": lambda patch: patch.setattr(hub, "refuse_leaks", allow),
    "links": lambda patch: patch.setattr(hub, "refuse_links", allow),
    "hubs": publish_anywhere,
}
