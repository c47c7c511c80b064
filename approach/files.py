"""Files: written whole or not at all, read with one clear line on failure, and named without the user's folders."""

import hashlib
import json
import os
import re
import sys
from pathlib import Path


def first_line(error: BaseException) -> str:
    """An exception's first line, for a message; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


def read_json(path: Path) -> dict:
    """A JSON object, empty where there is no such file; ends with one line where the file is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        sys.exit(f"{path} cannot be read as JSON: {first_line(error)}")
    if not isinstance(value, dict):
        sys.exit(f"{path} cannot be read: a JSON object was expected")
    return value


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
    for name, digest in read_json(folder / record).get("files", {}).items():
        if (folder / name).is_file() and hash_file(folder / name) != digest:
            sys.exit(f"{folder / name} is not the file that was written: its SHA-256 is not the one in {record}")
