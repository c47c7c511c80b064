"""Work on rows in several processes. Ctrl-C reaches only this process, which then stops the others at once."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from datasets import Dataset, Features, concatenate_datasets, disable_progress_bars
from datasets.fingerprint import get_temporary_cache_files_directory
from datasets.utils import tqdm

from approach.errors import first_line

MIN_ROWS = 2000  # of a process: fewer take less time than its start


def map_rows(
    rows: Dataset,
    function: Callable[..., dict],
    num_proc: int,
    desc: str,
    features: Features | None = None,
    **options,
) -> Dataset:
    """
    What `function(batch, **options)` makes of all rows, in their order whatever the number of processes.

    `features` are the types of its columns. Without them the first rows decide, which fails for lists that are empty
    in these rows. The pool of `Dataset.map` is not used, because after Ctrl-C it printed the tracebacks of its
    processes, or waited for ever.

    Raises:
        ValueError: where a row cannot be used.
    """
    num_parts = max(1, min(num_proc, len(rows) // MIN_ROWS))
    if num_parts == 1:
        return map_part(rows, function, options, desc, features=features)
    folder = Path(tempfile.mkdtemp(dir=get_temporary_cache_files_directory()))
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may wait for ever
    results = [folder / f"{number}.arrow" for number in range(num_parts)]
    processes = []
    try:
        for number, result in enumerate(results):
            part = rows.shard(num_parts, number, contiguous=True)
            work = (part, function, options, desc, features, result, number == 0)
            process = context.Process(target=work_on_part, args=work, daemon=True)
            with hold_back_sigint():
                process.start()
                processes.append(process)
        wait_for_all(processes, results)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return concatenate_datasets([Dataset.from_file(str(result)) for result in results])


def map_part(rows: Dataset, function: Callable[..., dict], options: dict, desc: str, **named) -> Dataset:
    """What a function makes of some rows, in this process."""
    return rows.map(function, batched=True, fn_kwargs=options, remove_columns=rows.column_names, desc=desc, **named)


def work_on_part(
    rows: Dataset,
    function: Callable[..., dict],
    options: dict,
    desc: str,
    features: Features | None,
    result: Path,
    shows_progress: bool,
) -> None:
    """What each process does: writes its part to the file `result`, or the reason why it cannot beside it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is shared by processes, and stays locked where one is killed
    if not shows_progress:
        disable_progress_bars()
    try:
        place = {"cache_file_name": str(result), "new_fingerprint": result.stem}
        map_part(rows, function, options, desc, features=features, **place)
    except Exception as error:  # whatever it is, the first process reports it
        result.with_suffix(".error").write_text(first_line(error), encoding="utf-8")
        os._exit(1)


def end_with_parent() -> None:
    """Ends this process when the first one is gone, however that was killed."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def wait_for_all(processes: list[BaseProcess], results: list[Path]) -> None:
    """Returns when all processes have done their part; raises ValueError as soon as one has failed."""
    running = dict(zip((process.sentinel for process in processes), zip(processes, results, strict=True), strict=True))
    while running:
        for sentinel in wait(list(running)):
            process, result = running.pop(sentinel)
            process.join()
            if process.exitcode:
                error = result.with_suffix(".error")
                reason = error.read_text(encoding="utf-8") if error.is_file() else "try a smaller --num_proc"
                raise ValueError(f"a process ended with status {process.exitcode}: {reason}")


@contextmanager
def hold_back_sigint() -> Iterator[None]:
    """Delays Ctrl-C until the block ends, and hides it from processes that the block starts (not on Windows)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it unblocks signals when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
