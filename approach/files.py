"""Files: written whole or not at all, read with one clear line on failure, and named without the user's folders."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, UnionType

# The fields of run.json that later stages use.
RUN_FIELDS = {
    "base": dict,
    "base.name": str,
    "base.revision": str | None,
    "base.fingerprint": str | None,
    "dataset": dict,
    "dataset.name": str,
    "dataset.revision": str | None,
    "dataset.ids": list | None,
    "files": dict,
}


def first_line(error: BaseException) -> str:
    """An exception's first line, for a message; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def describe_size(num_bytes: float) -> str:
    """A number of bytes with the unit that suits it: "3.4 MiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}" if unit != "bytes" else f"{num_bytes:.0f} bytes"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def public_name(name: str) -> str:
    """
    A Hub id as it is; of a path only the last name, because what is written may be published.

    A path may be of any system, end in a slash, or name nothing that is there. The current folder goes by its own
    name, and a folder `owner/name` that is not there cannot be told from a Hub id.
    """
    is_hub_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) and not Path(name).exists()
    if is_hub_id:
        return name
    return re.split(r"[\\/]", os.path.abspath(name).rstrip("\\/"))[-1] or "root"


def is_hub_id(name: str | None) -> bool:
    """Whether a name has the form `user/name`."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name or ""))


def read_json(path: Path, fields: Mapping[str, type | UnionType] = MappingProxyType({})) -> dict:
    """
    A JSON object, empty where there is no such file.

    `fields` are those that the caller uses, by their dotted names, and their types. Ends with one line where the file
    is damaged, or where one of them is there and of another type.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        sys.exit(f"{path} cannot be read as JSON: {first_line(error)}")
    if not isinstance(value, dict):
        sys.exit(f"{path} cannot be read: a JSON object was expected")
    for name, kind in fields.items():
        *outer, last = name.split(".")
        found = value
        for part in outer:
            found = found.get(part, {})
        if last in found and not isinstance(found[last], kind):
            sys.exit(f"{path} is not as our scripts write it: {name} is {json.dumps(found[last])[:40]}")
    return value


def read_json_lines(path: Path, argument: str = "") -> list[tuple[int, dict]]:
    """
    The objects of a file of JSON lines, each with the number of its line; empty lines are passed over.

    Ends with one line that names `argument`, file and line where one cannot be read.
    """
    place, number, rows = f"{argument} {path}".strip(), 0, []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append((number, json.loads(line)))
                if not isinstance(rows[-1][1], dict):
                    raise ValueError("a JSON object was expected")
    except OSError as error:
        sys.exit(f"{place}: {error.strerror}")
    except (ValueError, RecursionError) as error:
        sys.exit(f"{place}{f', line {number}' if number else ''}: {first_line(error)}")
    return rows


def read_run(folder: Path) -> dict:
    """A training's `run.json`, empty where there is none; ends with one line where it is not as training writes it."""
    return read_json(folder / "run.json", RUN_FIELDS)


def write_json(path: Path, value: dict) -> None:
    """Writes a record whole, indented for people, with a final newline; raises OSError."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes beside `path` and renames, so that a kill leaves the old text or the new one; raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hashes(folder: Path, record: str) -> None:
    """Ends with one line where a file in `folder` differs from the SHA-256 that its record states under `files`."""
    for name, digest in read_json(folder / record, {"files": dict}).get("files", {}).items():
        if (folder / name).is_file() and hash_file(folder / name) != digest:
            sys.exit(f"{folder / name} is not the file that was written: its SHA-256 is not the one in {record}")
