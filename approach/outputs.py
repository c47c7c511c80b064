"""Outputs: whether a script may write to a place, asked before the work, and put there whole when the work is done."""

import errno
import glob
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from approach.files import first_line, read_json
from approach.temporary import OLD, remove_left_over, temporary_folder

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
DISK_ERRORS |= {errno.ENAMETOOLONG}  # raised wherever such a name is only looked for
Inputs = Mapping[str, str | Sequence[str] | None]


@dataclass(frozen=True)
class Output:
    """
    The file or folder that a script writes, and may replace where `overwrite` is set.

    `what` is what the script writes there, for messages ("dataset"); `is_ours` tells by its content whether a script
    of ours wrote what is there; `inputs` are the names that the script reads by their arguments: a replaced output
    must not hold them. All but a file or folder on this machine is passed over there.
    """

    name: str
    what: str
    overwrite: bool
    is_ours: Callable[[Path], bool]
    inputs: Inputs
    argument: str = "--output_dir"
    is_file: bool = False

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def place(self) -> str:
        return f"{self.argument} {self.name}"

    def check(self) -> None:
        """Raises ValueError where the output cannot be written or must not be replaced; removes what a kill left."""
        try:
            require_replaceable(self.place, self.path, self.is_file)
            require_writable(self.path)
            remove_left_over(self.path.parent, f".{self.path.name}.partial-", put_back=self.path)
            self.require_free()
        except OSError as error:
            raise ValueError(f"{self.place} cannot be written: {describe_error(error)}") from error

    def require_free(self) -> None:
        """Raises ValueError where something is there that must not be replaced."""
        require_replaceable(self.place, self.path, self.is_file)
        require_no_input(self.place, self.path, self.inputs)
        if not os.path.lexists(self.path) or (not self.is_file and not any(self.path.iterdir())):
            return
        found = "is there already" if self.is_file else "is not empty"
        if not self.is_ours(self.path):
            raise ValueError(
                f"{self.place} {found} and holds no {self.what} of this script: not overwritten, choose another"
            )
        if not self.overwrite:
            raise ValueError(f"{self.place} {found}: choose another or add --overwrite")

    @contextmanager
    def written_whole(self) -> Iterator[Path]:
        """
        A new folder, or the path of a new file, that takes the output's place when the block ends well.

        The old output stands until then, and is deleted last: whenever the run is stopped, the old one or the new one
        is there whole. Ends with one line on a full disk. Where the place was taken meanwhile, what is there stays,
        and the line says where the new output is.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(self.path.parent, f".{self.path.name}.partial-", put_back=self.path) as folder:
                new = folder / "new"
                if not self.is_file:
                    new.mkdir()
                yield new
                if new.exists():
                    self.put_in_place(new, folder / OLD)
        except OSError as error:
            sys.exit(f"{self.place}: {describe_error(error)}: nothing written. Run the same command again")

    def put_in_place(self, new: Path, aside: Path) -> None:
        """Moves the old output aside and the new one in its place; or the new one beside, where that cannot be."""
        try:
            self.require_free()
            if self.is_file:
                os.replace(new, self.path)
                return
            if self.path.exists():
                self.path.rename(aside)
            new.rename(self.path)  # fails on a folder that another run has put there since
        except (ValueError, OSError) as error:
            if aside.exists() and not os.path.lexists(self.path):
                aside.rename(self.path)
            beside = next_free(self.path, self.is_file)
            new.rename(beside)
            cause = describe_error(error) if isinstance(error, OSError) else "it has changed since this run began"
            sys.exit(f"{self.place} is left as it is ({cause}): the {self.what} of this run is in {beside}")


def known_by(*names: str) -> Callable[[Path], bool]:
    """Whether a folder holds all these files or folders, by which a script knows what it wrote: for `is_ours`."""
    return lambda folder: all((folder / name).exists() for name in names)


def known_by_text(text: str) -> Callable[[Path], bool]:
    """Whether a file is empty or has this text near its beginning: for `is_ours`."""

    def is_ours(path: Path) -> bool:
        with path.open(encoding="utf-8", errors="replace") as file:
            beginning = file.read(5000)
        return not beginning or text in beginning

    return is_ours


def require_replaceable(place: str, path: Path, is_file: bool) -> None:
    """Raises ValueError for what cannot be renamed, or would be replaced by something of another kind."""
    kind = "file" if is_file else "folder"
    if path.is_symlink():
        raise ValueError(f"{place} is a symbolic link: name the {kind} that it points to")
    if os.path.ismount(path):
        raise ValueError(f"{place} is a mount point, which cannot be replaced: name a {kind} inside it")
    if not path.exists():
        return
    if is_file != path.is_file() or is_file == path.is_dir():
        found = "folder" if path.is_dir() else "file" if path.is_file() else "device"
        raise ValueError(f"{place} is a {found}: name a {kind}")
    if any(same_place(path, folder) for folder in (Path.cwd(), *Path.cwd().parents)):
        raise ValueError(f"{place} is the current folder or holds it: name a folder inside it")


def require_writable(path: Path) -> None:
    """Raises OSError where nothing can be made beside `path`, or where it will be once its folders are there."""
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=folder))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def require_no_input(place: str, path: Path, inputs: Inputs) -> None:
    """Raises ValueError where `path` is or holds something that the script reads."""
    for argument, names in inputs.items():
        for name in [names] if isinstance(names, str) else names or ():
            for found in find_places(name):
                if any(same_place(path, folder) for folder in (found, *found.parents)):
                    raise ValueError(f"{place} is or holds {argument} {name}, which this run reads: choose another")


def find_places(name: str) -> list[Path]:
    """The files and folders that an argument names, itself or by a glob; with an adapter the base that it names."""
    found = [Path(name)] if os.path.lexists(name) else list(map(Path, glob.glob(name)))
    configs = [path / "adapter_config.json" for path in found]
    bases = [str(read_json(path).get("base_model_name_or_path")) for path in configs if path.is_file()]
    found += [Path(base) for base in bases if os.path.lexists(base)]
    return [Path(os.path.realpath(path)) for path in found]


def same_place(one: Path, other: Path) -> bool:
    """Whether two names are of one file or folder, whatever their case; not where one is missing."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


@contextmanager
def disk_errors_in_one_line() -> Iterator[None]:
    """Ends with one line where a disk is full or read-only, or where a file may not be opened; decorates `main`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        sys.exit(f"{describe_error(error)}: stopped, and nothing is half written")


def next_free(path: Path, is_file: bool) -> Path:
    """The first of NAME-2, NAME-3 … that is not there."""
    stem, ending = (path.stem, path.suffix) if is_file else (path.name, "")
    return next(
        beside
        for number in itertools.count(2)
        if not os.path.lexists(beside := path.with_name(f"{stem}-{number}{ending}"))
    )


def describe_error(error: OSError | ValueError) -> str:
    """What an error of the system says, and of which file, without its number."""
    if getattr(error, "strerror", None):
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return first_line(error)
