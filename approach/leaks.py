"""What must not be published, found in the texts and rows that would be: secrets, and paths of somebody's machine."""

import re
import shlex
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BINARY_SUFFIXES = (".png", ".pt", ".pth", ".model")
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")  # may hold any word, "/home/user" among them
SHOWN_ROWS, SHOWN_PATHS = 3, 20
LONGEST_HEADER = 2**27  # of safetensors, by its own rules
# A GGUF file's types of values by their numbers, as struct names them; two more are a text and a list.
GGUF_TYPES = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
GGUF_TEXT, GGUF_LIST = 8, 9

SECRETS = {
    "a Hub token": r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{30,})",
    "a GitLab token": r"(?<![A-Za-z0-9])glpat-[\w-]{20,}",
    "an API key (sk-…)": r"(?<![A-Za-z0-9])sk-(?:(?:proj|ant|svcacct|admin|or)-[\w-]{20,}|[A-Za-z0-9]{20,})",
    "an AWS key": r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    r"|(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}",
    "a Google key": r"(?<![A-Za-z0-9])(?:AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,})",
    "a Slack token": r"(?<![A-Za-z0-9])xox[abeprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/\w+/\w+/\w+",
    # 40 hexadecimal digits are a commit, too: only what is called a key is one.
    "a W&B key": r"(?i:key|password|secret)[\"']?\s{0,3}[:=\s]\s{0,3}[\"']?[0-9a-f]{40}(?![0-9A-Za-z])"
    r"|wandb_v1_\w{20,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a password in an address": r"://[^\s/:@\"'<>\\]{0,200}:[^\s/@\"'<>\\]{1,200}@[\w.-]|://[\w-]{20,200}@[\w.-]"
    r"|[?&](?i:access_token|token|api_?key|sig|x-amz-signature)=[\w.%~+-]{16,}",
    "a password in a request": r"(?i:authorization)[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?i:bearer|basic|token)"
    r"\s[\w.~+/-]{16,}",
}
# A name on the way to a file; in JSON a letter beyond ASCII may be written as an escape.
NAME = r"(?:[\w.@%+-]|\\u[0-9a-f]{4})+"
# Where a path begins: not within a word or an address. `host:` may stand in front, and so may `file://`.
BEGIN = r"(?:(?<![\w/.~])|(?<![\w/.~:])/|(?i:file):/{0,2}[\w.-]*)"
PATHS = "|".join(
    [
        rf"{BEGIN}(/(?:(?:[\w-]+/){{0,3}}(?:home|Users)|root)(?:/{NAME})+)",
        # Places of containers, clusters and volumes that prose has no other use for …
        f"{BEGIN}(/(?:workspaces?|kaggle|scratch|gpfs|lustre|mnt|Volumes|content/drive|tmp|var/folders)(?:/{NAME})+)",
        # … and such that it may have: "/data" is a word of many an abstract, "/data/alice/run" of none.
        f"{BEGIN}(/(?:app|data|datasets|media|models|nfs|opt|outputs?|projects?|srv|storage|work)/{NAME}(?:/{NAME})+)",
        rf"(?<![A-Za-z])([A-Za-z]:[\\/]+(?:Users|Documents and Settings)(?:[\\/]+{NAME})+)",
        rf"(\\\\+[\w.$-]+(?:\\+[\w.$-]+)*\\+(?:Users|home)(?:\\+{NAME})+)",
    ]
)
# In a record a value that is nothing but an absolute path: a mount may have any name.
RECORDED_PATH = rf"(?:[\"']|^[ \t]*(?:-|[\w-]+:)[ \t]+|:adapter:)((?:/{NAME}){{2,}})/?(?:[\"']|[ \t]*$)"


def find_leaks(path: Path, allowed: Sequence[str] = ()) -> str:
    """
    What a file tells that must not be published, in words: where, and what; empty where there is nothing.

    Texts are read whole, of a table the rows, of weights the header. A path that begins with one of `allowed` is
    meant. Raises OSError, and ValueError where a table or a header cannot be read.
    """
    if path.suffix == ".parquet":
        return find_leaking_rows(path, allowed)
    if path.suffix == ".gguf":
        return find_leaking_values(path, allowed)
    if path.suffix in BINARY_SUFFIXES:
        return ""
    content = read_header(path) if path.suffix == ".safetensors" else path.read_bytes()
    text = content.decode("utf-8", errors="replace")
    if "\0" in text:  # UTF-16, say, in which none of the patterns would be found
        return "is no text in UTF-8"
    if path.name in VOCABULARIES:
        leaks = list(find_secrets(text))
    else:
        leaks = [*list_leaks(text, allowed), *find_paths(RECORDED_PATH, cut_records(path, text), allowed)]
    if not leaks:
        return ""
    place, what, meant = min(leaks)
    return f"holds {what} in line {text.count(chr(10), 0, place) + 1}{advise([meant])}"


def list_leaks(text: str, allowed: Sequence[str] = ()) -> list[tuple[int, str, str]]:
    """Every leak in a text: its place, what it is, and the path, empty where it is no path."""
    return [*find_secrets(text), *find_paths(list_paths(), text, allowed)]


def list_paths() -> str:
    """The pattern of the paths that tell of somebody's machine, and of this user's home wherever that is."""
    home = Path.home()  # of a user without one it is "/"
    return rf"{PATHS}|({re.escape(str(home))}(?:[\\/]{NAME})+)" if len(home.parts) > 1 else PATHS


def find_secrets(text: str) -> Iterator[tuple[int, str, str]]:
    """The secrets in a text, each by where it begins and what it is, its first characters told."""
    for what, pattern in SECRETS.items():
        for match in re.finditer(pattern, text):
            yield match.start(), f"{what} ({match[0][:4]}…)", ""


def find_paths(pattern: str, text: str, allowed: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """The paths in a text that are not allowed, each by where it begins, what it is, and itself."""
    for match in re.finditer(pattern, text, re.MULTILINE):
        found = next(filter(None, match.groups())).rstrip(".")
        if not any(is_within(found, place) for place in allowed):
            yield match.start(), f"a path on this machine ({found})", found


def is_within(path: str, place: str) -> bool:
    """Whether a path is a place or lies in it; slashes of both kinds count as the same."""
    path, place = (re.sub(r"[\\/]+", "/", name).rstrip("/") for name in (path, place))
    return path == place or path.startswith(f"{place}/")


def advise(paths: Iterable[str]) -> str:
    """How to say that these paths are meant; empty where there is none."""
    named = shlex.join(sorted({re.sub(r"\\+", r"\\", path) for path in paths if path}))
    return f" (if that is meant: --allow_paths {named})" if named else ""


def cut_records(path: Path, text: str) -> str:
    """What of a text is a record and no prose: JSON, and the metadata at the head of a card."""
    if path.suffix == ".md":
        return text.split("\n---", 1)[0] if text.startswith("---") else ""
    return text if path.suffix == ".json" else ""


def read_header(path: Path) -> bytes:
    """The header of a file of weights, which names its tensors and may hold any metadata."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(size) if size <= LONGEST_HEADER else b""


def find_leaking_values(path: Path, allowed: Sequence[str] = ()) -> str:
    """Which text in the header of a GGUF file must not be published, and why; empty where there is none."""
    try:
        with path.open("rb") as file:
            values = list(read_gguf_texts(file))
    except (ValueError, KeyError, MemoryError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path.name} is no whole GGUF file") from error
    for name, text in values:
        is_word = name.startswith("tokenizer.ggml.")  # a vocabulary may hold any word
        for _, what, meant in find_secrets(text) if is_word else list_leaks(text, allowed):
            return f"holds {what} in {name}{advise([meant])}"
    return ""


def read_gguf_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The names and the texts of the values in the header of a GGUF file, a list's texts one a line."""

    def read_bytes(count: int) -> bytes:
        data = file.read(count)
        if len(data) < count:
            raise ValueError("it ends in its header")
        return data

    def read(form: str) -> int:
        return struct.unpack(f"<{form}", read_bytes(struct.calcsize(f"<{form}")))[0]

    def read_text() -> str:
        return read_bytes(read("Q")).decode("utf-8", errors="replace")

    def read_texts(kind: int) -> list[str]:
        if kind == GGUF_TEXT:
            return [read_text()]
        if kind == GGUF_LIST:
            kind, count = read("I"), read("Q")
            return [text for _ in range(count) for text in read_texts(kind)]
        read(GGUF_TYPES[kind])
        return []

    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin as one")
    read("I"), read("Q")  # the format's version, the number of tensors
    for _ in range(read("Q")):
        name = read_text()
        yield name, "\n".join(read_texts(read("I")))


def find_leaking_rows(path: Path, allowed: Sequence[str] = ()) -> str:
    """Which rows of a table must not be published, and why, in words; empty where there is none."""
    rows: dict[int, tuple[str, str, str]] = {}
    with pq.ParquetFile(path) as file:
        for value in (file.schema_arrow.metadata or {}).values():
            for _, what, meant in list_leaks(value.decode("utf-8", errors="replace"), allowed):
                return f"holds {what} in its metadata{advise([meant])}"
        ids = file.read(["id"])["id"] if "id" in file.schema_arrow.names else None
        first_row = 0
        for batch in file.iter_batches():
            for row, name in find_candidates(batch):
                for _, what, meant in list_leaks(str(batch.column(name)[row].as_py()), allowed):
                    rows.setdefault(first_row + row, (what, name, meant))
            first_row += len(batch)
    if not rows:
        return ""
    told = [f"{what} in the {name} of row {ids[row] if ids else row}" for row, (what, name, _) in sorted(rows.items())]
    more = f", and more in {len(told) - SHOWN_ROWS:,} other rows" if len(told) > SHOWN_ROWS else ""
    meant = [meant for _, _, meant in list(rows.values())[:SHOWN_PATHS]]
    return f"holds {', '.join(told[:SHOWN_ROWS])}{more}{advise(meant)}"


def find_candidates(batch: pa.RecordBatch) -> Iterator[tuple[int, str]]:
    """Row and column of the values in which there may be a leak."""
    # Arrow's search is a hundred times as fast as Python's. It knows no look-around: without, more is found.
    sieve = re.sub(r"\(\?<?!(?:\[[^]]*\]|[^()])*\)", "", "|".join([*SECRETS.values(), list_paths()]))
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_null(column.type) or pa.types.is_primitive(column.type):
            continue
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            column = pa.array([str(value) for value in column.to_pylist()], pa.large_string())
        matches = pc.fill_null(pc.match_substring_regex(column, sieve), False)
        yield from ((row, name) for row in pc.indices_nonzero(matches).to_pylist())
