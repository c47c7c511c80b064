"""Finds what must not be published in files: secrets, and paths of somebody's machine."""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

JSON_SUFFIXES = (".json", ".jsonl")
BINARY_SUFFIXES = (".png", ".pt", ".pth", ".model")
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")  # any word may be a token, "/home/user" too
SHOWN_ROWS, SHOWN_PATHS = 3, 20
LONGEST_HEADER = 2**27  # the most that the safetensors format allows

# The start of a key: not within a longer word.
START = r"(?<![A-Za-z0-9])"
QUOTE = r"(?:\\{0,3}[\"'])?"  # behind a backslash in a text within JSON
# What secrets look like. The package detect-secrets was tried: it knows an npm token only in an .npmrc, no Replicate
# token and no id of a Google key, and takes "password: the" in prose for a password.
SECRETS = {
    "a Hub token": rf"{START}(?:hf|api_org)_[A-Za-z0-9]{{30,}}",
    "a GitHub token": rf"{START}(?:gh[pousr]_[A-Za-z0-9]{{36,}}|github_pat_\w{{30,}})",
    "a GitLab token": rf"{START}glpat-[\w-]{{20,}}",
    "an API key (sk-…)": rf"{START}sk-(?:(?:proj|ant|svcacct|admin|or)-[\w-]{{20,}}|[A-Za-z0-9]{{20,}})",
    "an AWS key": rf"{START}(?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Za-z0-9])"
    r"|(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}",
    "a Google key": rf"{START}(?:AIza[\w-]{{35}}|ya29\.[\w-]{{20,}}|GOCSPX-[\w-]{{20,}})"
    rf"|private_key_id{QUOTE}\s{{0,3}}[:=]\s{{0,3}}{QUOTE}[0-9a-f]{{40}}",
    "a Slack token": rf"{START}xox[abeprs]-[A-Za-z0-9-]{{10,}}|hooks\.slack\.com/services/\w+/\w+/\w+",
    "a Stripe key": rf"{START}(?:[rs]k_(?:live|test)|whsec)_[A-Za-z0-9]{{16,}}",
    "a Twilio key": rf"{START}(?:AC|SK)[0-9a-f]{{32}}(?![A-Za-z0-9])",
    "a SendGrid key": rf"{START}SG\.[\w-]{{16,}}\.[\w-]{{16,}}",
    "an Azure key": r"(?i:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,}",
    "a Telegram token": rf"{START}[0-9]{{8,10}}:[A-Za-z0-9_-]{{35}}(?![\w-])",
    "a package registry's token": rf"{START}(?:npm_[A-Za-z0-9]{{30,}}|pypi-[\w-]{{40,}}|dckr_pat_[\w-]{{20,}})",
    "an API key": rf"{START}(?:(?:r8|gsk|fw|lin_api|dop_v1)_|(?:pplx|xai|nvapi)-|dapi)[\w-]{{20,}}",
    "a JSON web token": rf"{START}eyJ[\w-]{{8,}}\.eyJ[\w-]{{8,}}\.[\w-]*",
    # A commit has 40 hexadecimal digits, too: they count as a key only after a word such as "key".
    "a W&B key": r"(?i:key|password|secret)[\"']?\s{0,3}[:=\s]\s{0,3}[\"']?[0-9a-f]{40}(?![0-9A-Za-z])"
    r"|wandb_v1_\w{20,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a password in an address": r"://[^\s/:@\"'<>\\]{0,200}:[^\s/@\"'<>\\]{1,200}@[\w.-]|://[\w-]{20,200}@[\w.-]"
    r"|[?&](?i:access_token|token|api_?key|sig|x-amz-signature)=[\w.%~+-]{16,}",
    "a password in a request": r"(?i:authorization)[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?i:bearer|basic|token)"
    r"\s[\w.~+/-]{16,}",
    # Prose says "password: the", so that after a colon a password is in quotes, or long and with a digit.
    "a password": r"(?i:passw(?:or)?d|pwd|secret|(?:api|auth|access|account|client)[_-]?(?:key|token|secret))"
    rf"{QUOTE}\s{{0,3}}(?:(?:=\s{{0,3}}{QUOTE}|:\s{{0,3}}\\{{0,3}}[\"'])(?![0-9a-f]{{40}}\b)"
    r"[^\s\"'<>{}$*,;\\][^\s\"'<>]{7,}"
    r"|:\s{0,3}(?=[\w+/=.-]*[0-9])[\w+/=.-]{16,})",
}
# One name in a path; JSON may write a letter beyond ASCII as an escape.
NAME = r"(?:[\w.@%+-]|\\u[0-9a-f]{4})+"
# A path begins outside of words and addresses, or after `host:` or `file://`.
BEGIN = r"(?:(?<![\w/.~])|(?<![\w/.~:])/|(?i:file):/{0,2}[\w.-]*)"
# Not a drive but a map, as in `$f:\Omega\to\mathbb{R}$`.
NO_LATEX = r"(?!\S*[{}$^])(?!\S*\\to\b|\S*\\in\b|\S*\\times\b|\S*arrow\b|\S*\\mapsto\b)"
PATHS = "|".join(
    [
        rf"{BEGIN}(/(?:(?:[\w-]+/){{0,3}}(?:home|Users)|root)(?:/{NAME})+)",
        # Folders of containers, clusters and volumes that prose does not name otherwise …
        f"{BEGIN}(/(?:workspaces?|kaggle|scratch|gpfs|lustre|mnt|Volumes|content/drive|tmp|var/folders)(?:/{NAME})+)",
        f"{BEGIN}(/(?:gscratch|homes|raid)(?:/{NAME})+)",
        # … and some that it does: abstracts mention "/data", but none mentions "/data/alice/run".
        f"{BEGIN}(/(?:app|data|datasets|media|models|nfs|opt|outputs?|projects?|srv|storage|work)/{NAME}(?:/{NAME})+)",
        f"{BEGIN}(/(?:content|net|var)/{NAME}(?:/{NAME})+)",
        rf"{BEGIN}(/[pu]/[\w.-]{{3,}}(?:/{NAME})*)",  # and not the sounds /p/t/k
        rf"(?<![\w/.~}}])(~/{NAME}(?:/{NAME})*)",
        rf"(?<![A-Za-z])([A-Za-z]:[\\/]+(?:Users|Documents and Settings)(?:[\\/]+{NAME})+)",
        rf"(?<![\w$])([A-Z]:{NO_LATEX}\\+[\w.-]{{3,}}(?:\\+{NAME})*|[A-Za-z]:{NO_LATEX}(?:\\+{NAME}){{2,}})",
        rf"(?<![\w$])([A-Za-z]:/{NAME}(?:/{NAME})+)",
        rf"(\\\\+[\w.$-]+(?:\\+[\w.$-]+)*\\+(?:Users|home)(?:\\+{NAME})+)",
    ]
)
# In a record: a value that is an absolute path and nothing else, because a mount may have any name.
RECORDED_PATH = rf"(?:[\"']|^[ \t]*(?:-|[\w-]+:)[ \t]+|:adapter:)((?:/{NAME}){{2,}})/?(?:[\"']|[ \t]*$)"


def find_leaks(path: Path, allowed: Sequence[str] = ()) -> str:
    """
    What a file holds that must not be published, and where, in words; empty where there is nothing.

    Texts are read completely, of tables the rows, of weights the header. Paths that begin with one of `allowed` are
    no leaks. Raises OSError, and ValueError where a table or a header cannot be read.
    """
    if path.suffix == ".parquet":
        return find_leaks_in_table(path, allowed)
    if path.suffix == ".gguf":
        return find_leaks_in_gguf(path, allowed)
    if path.suffix in BINARY_SUFFIXES:
        return ""
    content = read_header(path) if path.suffix == ".safetensors" else path.read_bytes()
    text = content.decode("utf-8", errors="replace")
    if "\0" in text:  # such as UTF-16, in which the patterns would find nothing
        return "is no text in UTF-8"
    if path.suffix in JSON_SUFFIXES:  # `Q:\nWhat` is no path
        text = re.sub(r"\\[\\nrtbf]", lambda match: match[0] if match[0] == r"\\" else "  ", text)
    if path.name in VOCABULARIES:
        leaks = list(find_secrets(text))
    else:
        leaks = [*list_leaks(text, allowed), *find_paths(RECORDED_PATH, extract_record(path, text), allowed)]
    if not leaks:
        return ""
    start, what, found = min(leaks)
    return f"holds {what} in line {text.count(chr(10), 0, start) + 1}{format_advice([found])}"


def list_leaks(text: str, allowed: Sequence[str] = ()) -> list[tuple[int, str, str]]:
    """Every leak in a text: where it begins, what it is, and the path, empty where it is a secret."""
    return [*find_secrets(text), *find_paths(path_pattern(), text, allowed)]


def path_pattern() -> str:
    """The pattern of paths on somebody's machine, this user's home included, wherever that is."""
    home = Path.home()  # "/" for a user without one
    return rf"{PATHS}|({re.escape(str(home))}(?:[\\/]{NAME})+)" if len(home.parts) > 1 else PATHS


def find_secrets(text: str) -> Iterator[tuple[int, str, str]]:
    """The secrets in a text: where each begins, and what it is with its first characters."""
    for what, pattern in SECRETS.items():
        for match in re.finditer(pattern, text):
            yield match.start(), f"{what} ({match[0][:4]}…)", ""


def find_paths(pattern: str, text: str, allowed: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """The paths in a text that are not allowed: where each begins, what it is, and the path itself."""
    for match in re.finditer(pattern, text, re.MULTILINE):
        found = next(filter(None, match.groups())).rstrip(".")
        if not any(is_within(found, place) for place in allowed):
            yield match.start(), f"a path on this machine ({found})", found


def is_within(path: str, place: str) -> bool:
    """Whether a path is a place or lies in it; slashes of both kinds count as the same."""
    path, place = (re.sub(r"[\\/]+", "/", name).rstrip("/") for name in (path, place))
    return path == place or path.startswith(f"{place}/")


def format_advice(paths: Iterable[str]) -> str:
    """How the user allows these paths; empty where there is none."""
    named = shlex.join(sorted({re.sub(r"\\+", r"\\", path) for path in paths if path}))
    return f" (if that is meant: --allow_paths {named})" if named else ""


def extract_record(path: Path, text: str) -> str:
    """The part of a text that is a record and not prose: JSON, and the metadata at the head of a card."""
    if path.suffix == ".md":
        return text.split("\n---", 1)[0] if text.startswith("---") else ""
    return text if path.suffix == ".json" else ""


def read_header(path: Path) -> bytes:
    """The header of a safetensors file, which names its tensors and may hold any metadata."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(size) if size <= LONGEST_HEADER else b""


def find_leaks_in_gguf(path: Path, allowed: Sequence[str] = ()) -> str:
    """What the metadata of a GGUF file hold that must not be published, in words; empty where there is nothing."""
    from gguf import GGUFReader, GGUFValueType  # few files are of this kind

    try:
        fields = GGUFReader(path).fields.values()
    except Exception as error:  # the reader checks nothing: a damaged file can raise anything
        raise ValueError(f"{path.name} is no complete GGUF file") from error
    for field in fields:
        if GGUFValueType.STRING not in field.types:
            continue
        text = "\n".join(bytes(field.parts[index]).decode("utf-8", errors="replace") for index in field.data)
        is_vocabulary = field.name.startswith("tokenizer.ggml.")
        for _, what, found in find_secrets(text) if is_vocabulary else list_leaks(text, allowed):
            return f"holds {what} in {field.name}{format_advice([found])}"
    return ""


def find_leaks_in_table(path: Path, allowed: Sequence[str] = ()) -> str:
    """Which rows of a Parquet file must not be published, and why, in words; empty where there is none."""
    rows: dict[int, tuple[str, str, str]] = {}
    with pq.ParquetFile(path) as file:
        for value in (file.schema_arrow.metadata or {}).values():
            for _, what, found in list_leaks(value.decode("utf-8", errors="replace"), allowed):
                return f"holds {what} in its metadata{format_advice([found])}"
        ids = file.read(["id"])["id"] if "id" in file.schema_arrow.names else None
        first_row = 0
        for batch in file.iter_batches():
            for row, column in find_candidates(batch):
                for _, what, found in list_leaks(str(batch.column(column)[row].as_py()), allowed):
                    rows.setdefault(first_row + row, (what, column, found))
            first_row += len(batch)
    if not rows:
        return ""
    lines = [
        f"{what} in the {column} of row {ids[row] if ids else row}" for row, (what, column, _) in sorted(rows.items())
    ]
    more = f", and more in {len(lines) - SHOWN_ROWS:,} other rows" if len(lines) > SHOWN_ROWS else ""
    paths = [found for _, _, found in list(rows.values())[:SHOWN_PATHS]]
    return f"holds {', '.join(lines[:SHOWN_ROWS])}{more}{format_advice(paths)}"


def find_candidates(batch: pa.RecordBatch) -> Iterator[tuple[int, str]]:
    """Row and column of the values that may hold a leak."""
    patterns = to_re2("|".join(SECRETS.values()), is_ascii=True), to_re2(path_pattern())
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_null(column.type) or pa.types.is_primitive(column.type):
            continue
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            column = pa.array([str(value) for value in column.to_pylist()], pa.large_string())
        matches = pc.or_(*(pc.fill_null(pc.match_substring_regex(column, pattern), False) for pattern in patterns))
        yield from ((row, name) for row in pc.indices_nonzero(matches).to_pylist())


@cache
def to_re2(pattern: str, is_ascii: bool = False) -> str:
    r"""
    A pattern for Arrow, which searches a hundred times as fast as Python and finds at least what Python finds.

    Its engine has no look-around, which is left out, and its `\w` and `\s` are ASCII alone: for paths they become
    Unicode's. Secrets are ASCII, and their counts of characters would make a pattern of Unicode's too large for it.
    """
    pattern = re.sub(r"\(\?<?[!=](?:\[[^]]*\]|\\.|[^()\\])*\)", "", pattern)
    if is_ascii:
        return pattern
    classes, is_class, tokens = {r"\w": r"\pL\pN_", r"\s": r"\s\pZ"}, False, []
    for token in re.findall(r"\\.|.", pattern, re.DOTALL):
        if token in ("[", "]"):
            is_class = token == "["
        letters = classes.get(token, token)
        tokens.append(letters if is_class or token not in classes else f"[{letters}]")
    return "".join(tokens)
