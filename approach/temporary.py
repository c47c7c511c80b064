"""Temporary folders for what is not whole yet: gone when a run ends, however it ends, or when the next one begins."""

import errno
import glob
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if os.name == "nt":
    import msvcrt
else:
    import fcntl

LOCK, OLD = "lock", "old"  # what lies in a temporary folder, beside what its user puts there


@contextmanager
def temporary_folder(parent: Path, prefix: str, put_back: Path | None = None) -> Iterator[Path]:
    """
    A folder in `parent` for what is not whole yet. It goes when the block ends, by SIGTERM, too.

    An old output that `put_back` names may wait in it under the name OLD until the new one stands in its place.
    A lock in it, which the system takes back when the process ends, tells `remove_left_over` whether it is in use.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with (folder / LOCK).open("wb") as lock, ended_by_sigterm():
            take_lock(lock)
            yield folder
    finally:
        clear(folder, put_back)


def remove_left_over(parent: Path, prefix: str, put_back: Path | None = None) -> None:
    """Removes the temporary folders of killed runs from `parent`; what a living run uses stays."""
    for folder in parent.glob(glob.escape(prefix) + "*"):
        try:
            with (folder / LOCK).open("r+b") as lock:
                is_left_over = take_lock(lock)
        except OSError:  # no lock in it: made by something else
            continue
        if is_left_over:
            clear(folder, put_back)


def clear(folder: Path, put_back: Path | None) -> None:
    """Deletes a temporary folder, but first puts back an old output where no new one has taken its place."""
    if put_back and (folder / OLD).exists() and not os.path.lexists(put_back):
        (folder / OLD).rename(put_back)
    shutil.rmtree(folder, ignore_errors=True)


def take_lock(file: BinaryIO) -> bool | None:
    """Locks an open file until it is closed; False where somebody else has done so, None where files have no locks."""
    try:
        if os.name == "nt":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK) else None
    return True


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as an exception would, so that temporary files go, unless a script handles it already."""

    def end(number: int, frame: object) -> None:
        print("\nStopped: nothing is half written.", file=sys.stderr)
        sys.exit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()  # Python takes handlers from no other
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
