"""Ctrl-C: from a script's first line to its last it ends in one line on stderr and exit status 130."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

EXIT_STATUS = 130
message, is_running, is_told = "Stopped.", False, False


def listen(text: str = message) -> None:
    """
    Ends this process with the line `text` on Ctrl-C; a script's first act, before it imports anything else.

    A process that was started to take no Ctrl-C, as a shell's job in the background is, goes on taking none.
    """
    global message
    message = text
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
        sys.unraisablehook = raise_again
        # Called last, since registered first: Python then takes itself apart, and would die of it without a word.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def run(main: Callable[[], object]) -> None:
    """Runs a script's `main`; a KeyboardInterrupt, or an error that comes of one, ends with the line of `listen`."""
    global is_running
    is_running = True
    try:
        main()
    except BaseException as error:
        if not comes_of_interrupt(error):
            raise
        tell()
        sys.exit(EXIT_STATUS)
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, stop_at_once)  # what Python does at its end has nothing to save either


def stop(number: int, frame: FrameType | None) -> None:
    """
    What Ctrl-C does: raises KeyboardInterrupt, in the midst of an import it ends the process at once.

    Nothing is being written then, and libraries turn a KeyboardInterrupt in their midst into other errors, or lose it.
    """
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            stop_at_once()
        frame = frame.f_back
    if not is_running:
        stop_at_once()
    raise KeyboardInterrupt


def stop_at_once(*signal_and_frame: object) -> None:
    """Ends the process without any clean-up."""
    try:
        sys.stdout.flush()
        tell()
    finally:
        os._exit(EXIT_STATUS)


def tell() -> None:
    """Prints the line, once however often Ctrl-C is pressed."""
    global is_told
    if not is_told:
        is_told = True
        print(f"\n{message}", file=sys.stderr, flush=True)


def comes_of_interrupt(error: BaseException | None) -> bool:
    """Whether an error is a KeyboardInterrupt, or was raised while one was handled."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Where Python could only print a KeyboardInterrupt, in a destructor, sends it again; prints all else as ever."""
    if unraisable.exc_type is KeyboardInterrupt:
        # From another thread and a moment later, or it would be lost here once more.
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(unraisable)
