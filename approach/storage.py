"""Files and folders: JSON, hashes, public names, and outputs that appear whole or not at all."""

import errno
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import BinaryIO

from approach.errors import UserError, clean_up_on_sigterm, explain_os_error, first_line

if os.name == "nt":
    import msvcrt
else:
    import fcntl

LOCK, OLD = "lock", "old"  # in a temporary folder, beside what its user puts there
Inputs = Mapping[str, str | Sequence[str] | None]


def format_size(num_bytes: float) -> str:
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

    `fields` are those that the caller uses, by their dotted names, and their types. Raises UserError where the file
    is damaged, or where one of them is there and of another type.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} cannot be read: a JSON object was expected")
    for name, kind in fields.items():
        *outer, last = name.split(".")
        found = value
        for part in outer:
            found = found.get(part, {})
        if last in found and not isinstance(found[last], kind):
            raise UserError(f"{path} is not as our scripts write it: {name} is {json.dumps(found[last])[:40]}")
    return value


def read_json_lines(path: Path, argument: str = "") -> list[tuple[int, dict]]:
    """
    The objects of a file of JSON lines, each with the number of its line; empty lines are passed over.

    Raises UserError that names `argument`, file and line where one cannot be read.
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
        raise UserError(f"{place}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}{f', line {number}' if number else ''}: {first_line(error)}") from error
    return rows


def write_json(path: Path, value: dict) -> None:
    """Writes a record whole, indented for people, with a final newline; raises OSError."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
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


@dataclass(frozen=True)
class Output:
    """
    The file or folder that a script writes, and may replace where `overwrite` is set.

    `what` is what the script writes there, for messages ("dataset"); `is_ours` tells by its content whether a script
    of ours wrote what is there; `inputs` are the names that the script reads by their arguments: a replaced output
    must not hold them; a name that is no file or folder on this machine is skipped. `save_beside` says whether an
    output whose place was taken meanwhile goes to NAME-2: what took hours is never thrown away.
    """

    name: str
    what: str
    overwrite: bool
    is_ours: Callable[[Path], bool]
    inputs: Inputs
    argument: str = "--output_dir"
    is_file: bool = False
    save_beside: bool = False

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def place(self) -> str:
        return f"{self.argument} {self.name}"

    def check(self) -> None:
        """
        A script's first act: removes what a killed run left, and checks that the output may be written.

        Raises:
            UserError: where the output cannot be written, or something is there that must not be replaced.
        """
        try:
            check_replaceable(self.place, self.path, self.is_file)
            check_writable(self.path)
            remove_leftovers(self.path.parent, f".{self.path.name}.partial-", put_back=self.path)
            self.check_free()
        except (OSError, ValueError) as error:  # ValueError: of a name that holds the character NUL
            raise UserError(f"{self.place} cannot be written: {explain_os_error(error)}", status=2) from error

    def check_free(self) -> None:
        """Raises UserError where something is there that must not be replaced."""
        check_replaceable(self.place, self.path, self.is_file)
        check_no_input(self.place, self.path, self.inputs)
        if not os.path.lexists(self.path) or (not self.is_file and not any(self.path.iterdir())):
            return
        found = "is there already" if self.is_file else "is not empty"
        if not self.is_ours(self.path):
            problem = f"{found} and holds no {self.what} of this script: not overwritten, choose another"
            raise UserError(f"{self.place} {problem}", status=2)
        if not self.overwrite:
            raise UserError(f"{self.place} {found}: choose another or add --overwrite", status=2)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """
        A new folder, or the path of a new file, that takes the output's place when the block ends well.

        The old output stays until then and is deleted last: whenever the run is stopped, the old one or the new one is
        there, complete.

        Raises:
            UserError: on a full disk; and where the place was taken meanwhile: what is there stays, and the message
                says where the new output is, if it was kept.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(self.path.parent, f".{self.path.name}.partial-", put_back=self.path) as folder:
                new = folder / "new"
                if not self.is_file:
                    new.mkdir()
                yield new
                if new.exists():
                    self.move_into_place(new, folder / OLD)
        except OSError as error:
            raise UserError(
                f"{self.place}: {explain_os_error(error)}: nothing written. Run the same command again"
            ) from error

    def move_into_place(self, new: Path, aside: Path) -> None:
        """Moves the old output aside and the new one into its place; beside it where that cannot be."""
        try:
            self.check_free()
            if self.is_file:
                os.replace(new, self.path)
                return
            if self.path.exists():
                self.path.rename(aside)
            new.rename(self.path)  # fails on a folder that another run has put there since
        except (UserError, OSError) as error:
            if aside.exists() and not os.path.lexists(self.path):
                aside.rename(self.path)
            cause = explain_os_error(error) if isinstance(error, OSError) else "it has changed since this run began"
            result = "nothing written"
            if self.save_beside:
                beside = next_free_name(self.path)
                new.rename(beside)
                result = f"the {self.what} of this run is in {beside}"
            raise UserError(f"{self.place} is left as it is ({cause}): {result}") from error


def contains_files(*names: str) -> Callable[[Path], bool]:
    """Whether a folder holds all these files or folders, by which a script knows what it wrote: for `is_ours`."""
    return lambda folder: all((folder / name).exists() for name in names)


def contains_text(text: str) -> Callable[[Path], bool]:
    """Whether a file is empty or has this text near its beginning: for `is_ours`."""

    def is_ours(path: Path) -> bool:
        with path.open(encoding="utf-8", errors="replace") as file:
            beginning = file.read(5000)
        return not beginning or text in beginning

    return is_ours


def check_replaceable(place: str, path: Path, is_file: bool) -> None:
    """Raises UserError for what cannot be renamed, or would be replaced by something of another kind."""
    kind = "file" if is_file else "folder"
    if path.is_symlink():
        raise UserError(f"{place} is a symbolic link: name the {kind} that it points to", status=2)
    if os.path.ismount(path):
        raise UserError(f"{place} is a mount point, which cannot be replaced: name a {kind} inside it", status=2)
    if not path.exists():
        return
    if is_file != path.is_file() or is_file == path.is_dir():
        found = "folder" if path.is_dir() else "file" if path.is_file() else "device"
        raise UserError(f"{place} is a {found}: name a {kind}", status=2)
    if any(is_same_file(path, folder) for folder in (Path.cwd(), *Path.cwd().parents)):
        raise UserError(f"{place} is the current folder or holds it: name a folder inside it", status=2)


def check_writable(path: Path) -> None:
    """Raises OSError where nothing can be made beside `path`, or where it will be once its folders are there."""
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=folder))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def check_no_input(place: str, path: Path, inputs: Inputs) -> None:
    """Raises UserError where `path` is or holds something that the script reads."""
    for argument, names in inputs.items():
        for name in [names] if isinstance(names, str) else names or ():
            for found in resolve_inputs(name):
                if any(is_same_file(path, folder) for folder in (found, *found.parents)):
                    problem = f"is or holds {argument} {name}, which this run reads: choose another"
                    raise UserError(f"{place} {problem}", status=2)


def resolve_inputs(name: str) -> list[Path]:
    """The files and folders that an argument names, itself or by a glob; with an adapter the base that it names."""
    found = [Path(name)] if os.path.lexists(name) else list(map(Path, glob.glob(name)))
    configs = [path / "adapter_config.json" for path in found]
    bases = [str(read_json(path).get("base_model_name_or_path")) for path in configs if path.is_file()]
    found += [Path(base) for base in bases if os.path.lexists(base)]
    return [Path(os.path.realpath(path)) for path in found]


def expand_globs(names: Sequence[str]) -> list[str]:
    """File names with patterns such as `*.csv` replaced by what they match, in order: Windows' shells expand none."""
    expanded = []
    for name in names:
        found = [] if os.path.lexists(name) else sorted(glob.glob(name))
        expanded += found or [name]
    return expanded


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file or folder, whatever their case; not where one is missing."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def next_free_name(path: Path) -> Path:
    """The first of NAME-2, NAME-3 … that is not there."""
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(name for name in names if not os.path.lexists(name))


@contextmanager
def temporary_folder(parent: Path, prefix: str, put_back: Path | None = None) -> Iterator[Path]:
    """
    A folder in `parent` for what is not whole yet. It goes when the block ends, by SIGTERM, too.

    An old output that `put_back` names may wait in it under the name OLD until the new one stands in its place.
    A lock in it, which the system takes back when the process ends, tells `remove_leftovers` whether it is in use.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with (folder / LOCK).open("wb") as lock, clean_up_on_sigterm():
            try_lock(lock)
            yield folder
    finally:
        clear(folder, put_back)


def remove_leftovers(parent: Path, prefix: str, put_back: Path | None = None) -> None:
    """Removes the temporary folders of killed runs from `parent`; what a living run uses stays."""
    for folder in parent.glob(glob.escape(prefix) + "*"):
        try:
            with (folder / LOCK).open("r+b") as lock:
                is_left_over = try_lock(lock)
        except OSError:  # no lock in it: made by something else
            continue
        if is_left_over:
            clear(folder, put_back)


def clear(folder: Path, put_back: Path | None) -> None:
    """Deletes a temporary folder, but first puts back an old output where no new one has taken its place."""
    if put_back and (folder / OLD).exists() and not os.path.lexists(put_back):
        (folder / OLD).rename(put_back)
    shutil.rmtree(folder, ignore_errors=True)


def try_lock(file: BinaryIO) -> bool | None:
    """Locks an open file until it is closed; False where somebody else has done so, None where files have no locks."""
    try:
        if os.name == "nt":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK) else None
    return True
