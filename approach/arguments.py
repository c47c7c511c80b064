"""The command line of every script: one parser, so that a flag is written the same way everywhere."""

import argparse
from collections.abc import Sequence
from typing import TypeVar

Arguments = TypeVar("Arguments")


def parse(
    kind: type[Arguments],
    argv: Sequence[str] | None = None,
    usage: str = "python %(prog)s --ARGUMENT VALUE … (all of them: --help)",
    positional: str | None = None,
) -> Arguments:
    """
    The command line as a dataclass of `kind`; ends with one line and status 2 where it does not fit.

    Names may be written with `_` or `-`, flags as `--overwrite` or `--overwrite true`. `positional` names one field
    that may be given by its place, too.
    """
    from transformers import HfArgumentParser  # half a second, after the script has begun

    parser = HfArgumentParser(kind, usage=usage)
    if positional:
        text = kind.__dataclass_fields__[positional].metadata["help"]
        parser.add_argument(positional, nargs="?", default=argparse.SUPPRESS, help=text)
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))
