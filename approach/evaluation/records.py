"""The records of an evaluation, as later stages read them: one line where a file is missing or damaged."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jinja2 import TemplateError

from approach.files import first_line


@contextmanager
def reading(path: Path, script: str) -> Iterator[Path]:
    """Ends with one line that names the file and the script that writes it, where the block cannot use the file."""
    try:
        yield path
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; {script} writes it")
    except json.JSONDecodeError:
        sys.exit(f"{path}: no JSON; {script} writes it")
    except RecursionError:
        sys.exit(f"{path}: nested too deeply; {script} writes it")
    except (ArithmeticError, AttributeError, LookupError, TemplateError, TypeError, ValueError) as error:
        # A field is missing, or of another type.
        sys.exit(f"{path} is not as {script} writes it: {type(error).__name__}, {first_line(error)}")


def list_shown(scores: dict) -> dict[str, str]:
    """The systems whose drafts are shown, with their decoding: all fine-tuned ones and the best base."""
    choice = scores["choice"]
    tuned = [name for name, about in choice["systems"].items() if about["kind"] != "base"]
    return {name: choice["systems"][name]["chosen"] for name in [*tuned, choice["base_for_drafts"]]}


def read_predictions(path: Path) -> list[dict]:
    """The rows of predictions.jsonl; within `reading`."""
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would split texts at U+2028, too
    return [json.loads(line) for line in lines if line]
