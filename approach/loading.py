"""What others may have written, tokenizers first: loaded without their code, and with one line where it is damaged."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from approach.files import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_ERRORS = (OSError, ValueError, RuntimeError)  # those that say in words what is wrong


@contextmanager
def told(argument: str, name: str, hint: str = "") -> Iterator[None]:
    """
    Ends with one line that names `argument` and its value `name` where the block cannot load what it names.

    Any error is meant: what the libraries raise at a damaged file may be of any kind, a ZeroDivisionError for one.
    """
    try:
        yield
    except Exception as error:
        sys.exit(f"{argument} {name}: {explain_failure(error)}{hint}")


def explain_failure(error: BaseException) -> str:
    """What an error of loading means, in one line."""
    line = first_line(error)
    if "size mismatch" in str(error) or "ignore_mismatched_sizes" in str(error):
        return "its weights have other sizes than its configuration says"
    if type(error).__name__ == "SafetensorError":  # which this room can name without importing safetensors
        return f"its weights are damaged, fetch or copy them again ({line})"
    if "execute" in line and "custom code" in line:
        return "it brings code of its own, which is never run here"
    return line if isinstance(error, PLAIN_ERRORS) else f"it is damaged ({type(error).__name__}: {line})"


def load_tokenizer(name: str, argument: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or a Hub id; ends with one line that names `argument` where there is none."""
    from transformers import AutoTokenizer  # slow to import, and most datasets are built without one

    with told(argument, name):
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
