"""The only code that uploads: never to a public repository unasked, never a secret, whole, and read back."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HTTPError

from approach.files import first_line

# What is published of a folder that one of our scripts wrote: no pickles, and nothing else that lies there.
RECORDS = ("README.md", "*.json", "samples.jsonl", "loss_curve.png")
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
DATASET_FILES = ("README.md", "build_report.json", "funnel.png", "data/*.parquet")
TEXT_SUFFIXES = (".md", ".json", ".jsonl", ".jinja", ".txt", ".yaml", ".yml")
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")  # may hold any word

TOKEN = r"hf_[A-Za-z0-9]{30,}"
HOME_PATH = r"(?<![\w/.:])/(?:home|root|Users|tmp)/[\w.-]|\b[A-Za-z]:\\\\?Users"


class PublishError(Exception):
    """Why something was not published, in one line of plain words."""


class HubFailed(PublishError):
    """The Hub, or the way there, failed: nothing is wrong with what was to be published."""


@dataclass(frozen=True)
class Repository:
    """Where to publish. An existing public repository is only published to where `public` says so."""

    name: str
    kind: str = "model"  # or "dataset"
    public: bool = False
    public_flag: str = "--public"  # how the user says so


@dataclass(frozen=True)
class Published:
    """A commit on the Hub."""

    repo_id: str
    revision: str
    url: str


def list_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """
    The files of a folder that a pattern matches, sorted; a pattern without `/` matches in the folder itself.

    Hidden files and symbolic links are left out.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if path.is_file() and not path.is_symlink() and path.name[0] != ".")


def refuse_links(folder: Path, files: Iterable[Path]) -> None:
    """Raises PublishError where a file, or a folder on the way to it, is a link to something that may be private."""
    for path in files:
        for part in (path, *path.parents[: len(path.relative_to(folder).parts) - 1]):
            if part.is_symlink():
                raise PublishError(f"{part} is a symbolic link: put what it points to in its place")


def find_secret(text: str) -> str:
    """What in a text must not be published, in words; empty where there is nothing."""
    match = re.search(f"({TOKEN})|{HOME_PATH}", text)
    if match is None:
        return ""
    return "a Hub token" if match[1] else f"a path on this machine ({match[0]}…)"


def refuse_secrets(files: Iterable[Path]) -> None:
    """Raises PublishError where a text names a Hub token or a home folder, or a dataset's row does."""
    for path in files:
        if path.suffix == ".parquet":
            refuse_secret_rows(path)
            continue
        is_text = path.suffix in TEXT_SUFFIXES and path.name not in VOCABULARIES
        if is_text and (found := find_secret(path.read_text(encoding="utf-8", errors="replace"))):
            raise PublishError(f"{path} holds {found}")


def refuse_secret_rows(path: Path) -> None:
    """Raises PublishError where a row of a Parquet file holds a Hub token or the user's home folder."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            if found := find_secret_row(batch):
                raise PublishError(f"{path}: {found}")


def find_secret_row(batch: pa.RecordBatch) -> str:
    """Which row must not be published, and why, in words; empty where there is none. Prose may say "/home"."""
    secrets = {"a Hub token": TOKEN}
    if len(Path.home().parts) > 1:  # of a user without a home folder it is "/"
        secrets["a path on this machine"] = re.escape(str(Path.home())) + r"[/\\]"
    columns = {name: batch.column(name) for name in batch.schema.names}
    texts = {name: column for name, column in columns.items() if str(column.type) in ("string", "large_string")}
    for name, column in texts.items():
        for secret, pattern in secrets.items():
            row = pc.index(pc.match_substring_regex(column, pattern), True).as_py()
            if row >= 0:
                which = f"row {columns['id'][row]}" if "id" in columns else "a row"
                return f"{which} holds {secret} in its {name}"
    return ""


def publish(
    folder: Path,
    files: Sequence[Path],
    repository: Repository,
    message: str,
    replaces: Sequence[str] = (),
    token: str | None = None,
    tag: bool = False,
) -> Published:
    """
    Publishes `files` of `folder`: large ones first, then all in one commit, read back by hash, and tagged if asked.

    Of what the repository has, files that match `replaces` and are not sent again are deleted in the same commit.
    (`upload_folder` may spread a folder over several commits.) The tag, `content-…`, is made of the content, so that
    a second run finishes what a first one began and changes nothing else. Raises PublishError.
    """
    try:
        refuse_links(folder, files)
        refuse_secrets(files)
        api = connect(token)
        repo_id, parent, there = open_repository(api, repository)
        additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        hashes = {addition.path_in_repo: addition.upload_info.sha256.hex() for addition in additions}
        stale = [name for name in there if name not in hashes and matches(name, replaces)]
        api.preupload_lfs_files(repo_id, additions, repo_type=repository.kind)
        commit = api.create_commit(
            repo_id,
            [*additions, *map(CommitOperationDelete, stale)],
            commit_message=message,
            repo_type=repository.kind,
            parent_commit=parent,
        )
        check_arrival(api, repository.kind, repo_id, commit.oid, folder, hashes)
        url = commit.commit_url
        if tag:
            digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
            name = f"content-{digest[:8]}"
            api.create_tag(repo_id, tag=name, revision=commit.oid, repo_type=repository.kind, exist_ok=True)
            url = f"{url}, tag {name}"
        return Published(repo_id, commit.oid, url)
    except (OSError, HTTPError, RuntimeError, KeyError, ValueError) as error:
        raise HubFailed(explain(error).rstrip(".")) from error


def check_access(repository: Repository, token: str | None = None) -> None:
    """
    Before long work: raises PublishError where `publish` would be refused, HubFailed where the Hub cannot say.

    Makes the repository where there is none.
    """
    try:
        open_repository(connect(token), repository)
    except (OSError, HTTPError, RuntimeError, KeyError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        kind = PublishError if status in (401, 403, 404) else HubFailed
        raise kind(explain(error).rstrip(".")) from error


def connect(token: str | None) -> HfApi:
    """The Hub's client; raises PublishError where there is neither this token nor one of the user's."""
    if (token or get_token()) is None:
        raise PublishError("no Hub token (`hf auth login`, or HF_TOKEN)")
    return HfApi(token=token) if token else HfApi()


def open_repository(api: HfApi, repository: Repository) -> tuple[str, str, list[str]]:
    """Id, newest commit and file names of a repository, made where there is none; raises PublishError."""
    if problem := find_missing_right(api, repository.name):
        raise PublishError(problem)
    private = not repository.public
    repo_id = api.create_repo(repository.name, repo_type=repository.kind, private=private, exist_ok=True).repo_id
    info = api.repo_info(repo_id, repo_type=repository.kind)
    if not info.private and not repository.public:
        raise PublishError(f"the repository is public: add {repository.public_flag} to publish there all the same")
    return repo_id, info.sha, [file.rfilename for file in info.siblings or []]


def find_missing_right(api: HfApi, name: str) -> str:
    """What stands in the way of publishing under this name, as far as the token tells; empty for nothing."""
    me = api.whoami()
    names = [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return "the token is read-only: make one with write access"
    owner, slash, _ = name.partition("/")
    return f"the name {owner} is not yours: you are {me['name']}" if slash and owner not in names else ""


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file of a repository matches; `*` stays within its folder, which fnmatch's does not."""
    # Each `/` of a pattern stands for one of the name: where the name has no other, no `*` can stand for one.
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def check_arrival(api: HfApi, kind: str, repo_id: str, revision: str, folder: Path, names: Iterable[str]) -> None:
    """
    Raises OSError where a file that was sent is not there, or not what was sent.

    What else lies in the folder or in the repository, such as checkpoints, may differ.
    """
    found = api.verify_repo_checksums(repo_id, repo_type=kind, revision=revision, local_dir=folder)
    damaged = {mismatch["path"] for mismatch in found.mismatches} | set(found.extra_paths)
    for name in sorted(damaged & set(names)):
        raise OSError(f"read back, {name} is not what was sent")


def explain(error: BaseException) -> str:
    """What befell a request, in plain words."""
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
    is_transport = isinstance(error, HTTPError) and status is None
    return f"no connection to the Hub ({first_line(error)})" if is_transport else first_line(error)
