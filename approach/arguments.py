"""The command line of every script: one parser, so that a flag is written the same way everywhere."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from approach.errors import first_line

Arguments = TypeVar("Arguments")


@dataclass
class PublishArguments:
    """What the user allows of publishing, the same in every script that publishes."""

    public: bool = field(default=False, metadata={"help": "Publish to a public repository; otherwise a private one."})
    hub_overwrite: bool = field(
        default=False, metadata={"help": "Publish to a repository that holds other files than these scripts', too."}
    )
    allow_paths: list[str] | None = field(
        default=None, metadata={"help": "Paths that what is published may name: /data allows /data/alice/run."}
    )

    def hub_options(self) -> dict:
        """The same as `approach.hub.Repository` has it."""
        allowed = tuple(self.allow_paths or ())
        return {"public": self.public, "overwrite": self.hub_overwrite, "allow_paths": allowed}


def parse(
    kind: type[Arguments],
    argv: Sequence[str] | None = None,
    usage: str = "python %(prog)s --ARGUMENT VALUE … (all of them: --help)",
    positional: str | None = None,
) -> Arguments:
    """
    The command line as a dataclass of `kind`; raises UserError and status 2 where it does not fit.

    Names may be written with `_` or `-`, flags as `--overwrite` or `--overwrite true`. `positional` names one field
    that may be given by its place, too.
    """
    from transformers import HfArgumentParser  # half a second, after the script has begun

    parser = HfArgumentParser(kind, usage=usage)
    if positional:
        text = kind.__dataclass_fields__[positional].metadata["help"]
        parser.add_argument(positional, nargs="?", default=argparse.SUPPRESS, help=text)
    try:
        if any("\0" in word for word in (sys.argv[1:] if argv is None else argv)):
            raise ValueError("an argument holds the character NUL, which no name may have")
        return parser.parse_args_into_dataclasses(argv)[0]
    except (ValueError, OSError) as error:  # OSError: of a name that is too long to be looked for
        parser.error(first_line(error))


def format_command(*words: str | Path) -> str:
    """A command as one line that can be pasted into this system's shell, whatever characters a path has."""
    texts = list(map(str, words))
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def check_ranges(arguments: object, **ranges: str) -> None:
    """
    Raises ValueError where an argument lies outside its range, written as in mathematics: `lora_r="[1, inf)"`.

    Something that is no number lies in no range; None, which is no value, is left alone.
    """
    for name, text in ranges.items():
        value = getattr(arguments, name)
        low, high = map(float, text[1:-1].split(","))
        if value is None:
            continue
        is_above = value >= low if text[0] == "[" else value > low
        is_below = value <= high if text[-1] == "]" else value < high
        if not (is_above and is_below):
            wanted = f"lie in {text}" if high < float("inf") else "be at least" if text[0] == "[" else "be more than"
            number = "" if high < float("inf") else f" {low:g}"
            raise ValueError(f"--{name} must {wanted}{number}, got {value}")
