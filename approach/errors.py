"""What a user can put right, told in one line; and how every script ends: by that line, by Ctrl-C, by SIGTERM."""

import atexit
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # the exit status after Ctrl-C
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
DISK_ERRORS |= {errno.ENAMETOOLONG}  # raised wherever such a name is only looked for
PLAIN_ERRORS = (OSError, ValueError, RuntimeError)  # their texts say what is wrong

stop_message, is_running, is_stop_printed = "Stopped.", False, False


class UserError(Exception):
    """
    A mistake that the user can put right: one line that names the file, row or argument and says what to do.

    `status` is the exit status of the script: 1 for data, 2 for arguments, 128 + n where signal n stopped the run.
    """

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


@contextmanager
def user_errors(argument: str | Path, name: str | Path = "", hint: str = "") -> Iterator[None]:
    """
    Turns every error of the block into a UserError that names `argument`, its value `name`, and the cause.

    For blocks that load what others wrote: libraries raise errors of any kind at a damaged file.

    Raises:
        UserError: where the block raises an Exception. One that the block raises itself is passed on as it is.
    """
    place = f"{argument} {name}".strip()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place}: {explain_error(error, place)}{hint}") from error


def first_line(error: BaseException) -> str:
    """An exception's first line; the name of its class where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def explain_os_error(error: Exception, place: str = "") -> str:
    """What the system says, without its number, and of which file, where `place` does not name that already."""
    if not getattr(error, "strerror", None):
        return first_line(error)
    file = str(error.filename or "")
    return f"{error.strerror} ({file})" if file and file not in place else error.strerror


def explain_error(error: BaseException, place: str = "") -> str:
    """What an error of loading means, in one line; `place` is what the message names already."""
    line = first_line(error)
    if "size mismatch" in str(error) or "ignore_mismatched_sizes" in str(error):
        return "its weights have other sizes than its configuration says"
    if type(error).__name__ == "SafetensorError":  # named without importing safetensors
        return f"its weights are damaged, fetch or copy them again ({line})"
    if type(error).__name__ == "JSONDecodeError":
        return f"it is no JSON ({line})"
    if "execute" in line and "custom code" in line:
        return "it brings code of its own, which is never run here"
    if isinstance(error, OSError):
        return explain_os_error(error, place)
    return line if isinstance(error, PLAIN_ERRORS) else f"it is damaged ({type(error).__name__}: {line})"


def explain_hub_error(error: BaseException) -> str:
    """What went wrong with a request to the Hub, in plain words."""
    while isinstance(error, RuntimeError) and error.__cause__:  # whatever befell the upload of a large file
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {
        401: "the Hub does not accept the token (`hf auth login`, or HF_TOKEN)",
        403: "the token may not write there: make one with write access",
        404: "there is no such repository, or the token may not see it",
        409: "the Hub is busy with another change",
        412: "somebody else changed the repository at the same moment",
        429: "the Hub asks for a pause: too many requests",
    }
    if status in known:
        return known[status]
    if status is not None and status >= 500:
        return f"the Hub failed ({status})"
    is_transport = type(error).__module__.startswith("httpx") and status is None
    return f"no connection to the Hub ({first_line(error)})" if is_transport else first_line(error)


def install_sigint_handler(message: str = stop_message) -> None:
    """
    Ends this process with the line `message` on Ctrl-C; a script calls it before it imports anything else.

    A process that was started to ignore Ctrl-C, such as a shell's job in the background, goes on ignoring it.
    """
    global stop_message
    stop_message = message
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle_sigint)
        sys.unraisablehook = handle_unraisable
        # Registered first, so called last: what Python does after it would print a traceback.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def handle_sigint(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt in `run_script`; before it and after it there is nothing to clean up."""
    if not is_running:
        exit_at_once()
    raise KeyboardInterrupt


def handle_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ends the process where Python would only print a KeyboardInterrupt: in a destructor."""
    if unraisable.exc_type is KeyboardInterrupt:
        exit_at_once()
    sys.__unraisablehook__(unraisable)


def exit_at_once() -> NoReturn:
    """Ends the process without any clean-up."""
    try:
        sys.stdout.flush()
        print_stopped()
    finally:
        os._exit(INTERRUPTED)


def print_stopped() -> None:
    """Prints the line once, however often Ctrl-C is pressed."""
    global is_stop_printed
    if not is_stop_printed:
        is_stop_printed = True
        print(f"\n{stop_message}", file=sys.stderr, flush=True)


def caused_by_interrupt(error: BaseException | None) -> bool:
    """Whether an error is a KeyboardInterrupt, or was raised while one was handled: libraries turn it into others."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def run_script(main: Callable[[], object]) -> None:
    """
    Runs a script's `main`; a UserError, Ctrl-C or a disk that takes no more ends it in one line and an exit status.

    A character that a redirected output's encoding lacks, as Windows' cp1252 lacks →, is printed as a question mark.
    With APPROACH_TRACEBACK=1 in the environment the whole traceback is shown. Any other error is a bug of ours and
    shows its traceback always.
    """
    global is_running
    is_running = True
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        main()
    except BaseException as error:
        if os.environ.get("APPROACH_TRACEBACK") == "1":
            raise
        if caused_by_interrupt(error):
            print_stopped()
            sys.exit(INTERRUPTED)
        if isinstance(error, UserError):
            print(error, file=sys.stderr)
            sys.exit(error.status)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            sys.exit(f"{explain_os_error(error)}: stopped, and nothing is half written")
        raise
    finally:
        is_running = False


def exit_on_signal(number: int, message: str) -> NoReturn:
    """Ends the process as an exception would, from a signal's handler: clean-up is done, `except Exception` is not."""
    print(f"\n{message}", file=sys.stderr)
    sys.exit(128 + number)


@contextmanager
def clean_up_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the block as an exception would, so that its clean-up is done, unless it is handled already."""
    is_main = threading.current_thread() is threading.main_thread()  # Python takes handlers from no other
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: exit_on_signal(number, "Stopped: nothing is half written."))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
