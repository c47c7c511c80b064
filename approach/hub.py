"""
The only code that uploads to the Hub.

It publishes to no public repository unless asked and sends no secret. Everything goes in one commit, which is read
back and compared.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError

from approach.errors import explain_error, explain_hub_error
from approach.leaks import find_leaks

# Our scripts have published to a repository that holds one of these files, in whatever folder.
MARKS = {"dataset": {"build_report.json"}, "model": {"run.json", "merge.json", "progress.json"}}


class PublishError(Exception):
    """Why something was not published, in one line of plain words."""


class HubUnavailable(PublishError):
    """The Hub or the connection failed; what was to be published may be right."""


@dataclass(frozen=True)
class Repository:
    """
    Where to publish, and what the user allows there.

    `public` allows an existing public repository, `overwrite` one that holds files of others, and `allow_paths` the
    paths that what is published may name.
    """

    name: str
    kind: str = "model"  # or "dataset"
    public: bool = False
    overwrite: bool = False
    allow_paths: Sequence[str] = ()

    def list_flags(self) -> list[str]:
        """The flags of the command line that allow the same."""
        allowed = ["--allow_paths", *self.allow_paths] if self.allow_paths else []
        return ["--public"] * self.public + ["--hub_overwrite"] * self.overwrite + allowed


@dataclass(frozen=True)
class Published:
    """A commit on the Hub."""

    repo_id: str
    revision: str
    url: str


def list_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """
    The files of a folder that a pattern matches, sorted; a pattern without `/` matches in the folder itself.

    Hidden files are left out. Links are listed, so that `check_no_links` refuses a folder that is incomplete without.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if (path.is_file() or path.is_symlink()) and path.name[0] != ".")


def check_no_links(folder: Path, files: Iterable[Path]) -> None:
    """
    Raises PublishError where a file, or a folder above it, is a link to something that may be private.

    Links of the Hub's own cache are allowed: they point to a blob of the same repository.
    """
    for path in files:
        for part in (path, *path.parents[: len(path.relative_to(folder).parts) - 1]):
            is_cached = part.parent.parent.name == "snapshots" and part.resolve().parent == find_blobs(part)
            if part.is_symlink() and not is_cached:
                raise PublishError(f"{part} is a symbolic link: put what it points to in its place")


def find_blobs(path: Path) -> Path:
    """The folder of the Hub's cache that the files of a snapshot link to."""
    return path.absolute().parents[2].resolve() / "blobs"


def check_no_leaks(files: Iterable[Path], allow_paths: Sequence[str]) -> None:
    """Raises PublishError with the line or the rows where a file holds a secret or a path of this machine."""
    for path in files:
        try:
            found = find_leaks(path, allow_paths)
        except (OSError, ValueError) as error:
            raise PublishError(f"{path} cannot be scanned: {explain_error(error)}") from error
        if found:
            raise PublishError(f"{path} {found}")


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
    Publishes `files` of `folder`: large ones first, then all in one commit, which is read back and tagged if asked.

    In a repository that we published to before, the same commit deletes files that match `replaces` and are not sent
    again. The tag, `content-…`, depends on the content alone, so that a second run finishes what a first one began.
    (`upload_folder` may spread a folder over several commits.)

    Raises:
        PublishError: where something must not be published, or the repository may not be published to.
        HubUnavailable: where the Hub or the connection fails, or what arrived is not what was sent.
    """
    check_no_links(folder, files)
    check_no_leaks(files, repository.allow_paths)
    with hub_errors():
        api = connect(token)
        repo_id, parent, names, is_ours = open_repository(api, repository)
        additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        hashes = {addition.path_in_repo: addition.upload_info.sha256.hex() for addition in additions}
        stale = [name for name in names if is_ours and name not in hashes and matches(name, replaces)]
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


@contextmanager
def hub_errors() -> Iterator[None]:
    """
    Turns errors of the Hub, of the connection and of the disk into ours; any other is a bug of ours and passes.

    Raises:
        PublishError: where the Hub says that the user may not do this. HubUnavailable for all else.
    """
    try:
        yield
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        if not is_hub_error(error):
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        is_refusal = status in (401, 403, 404) or isinstance(error, HFValidationError)
        kind = PublishError if is_refusal else HubUnavailable
        raise kind(explain_hub_error(error).rstrip(".")) from error


def is_hub_error(error: BaseException | None) -> bool:
    """Whether the Hub, the connection or the disk caused an error that huggingface_hub raised."""
    if isinstance(error, RuntimeError):  # raised from the error that stopped the upload of a large file
        return is_hub_error(error.__cause__)
    if isinstance(error, ValueError):
        is_reply = isinstance(error, json.JSONDecodeError) or "LFS batch API returned errors" in str(error)
        return is_reply or isinstance(error, HFValidationError)
    return isinstance(error, (OSError, HTTPError))


def check_access(repository: Repository, token: str | None = None) -> None:
    """
    Asks the Hub before long work whether `publish` may publish there; makes the repository where there is none.

    Raises:
        PublishError: where the Hub would refuse. HubUnavailable where it cannot be asked now.
    """
    with hub_errors():
        open_repository(connect(token), repository)


def connect(token: str | None) -> HfApi:
    """The Hub's client; raises PublishError where there is neither this token nor a stored one."""
    if (token or get_token()) is None:
        raise PublishError("no Hub token (`hf auth login`, or HF_TOKEN)")
    return HfApi(token=token) if token else HfApi()


def open_repository(api: HfApi, repository: Repository) -> tuple[str, str, list[str], bool]:
    """
    The id, newest commit and file names of a repository, and whether our scripts have published to it before.

    Makes the repository where there is none. Raises PublishError where it may not be published to.
    """
    if problem := find_missing_right(api, repository.name):
        raise PublishError(problem)
    private = not repository.public
    repo_id = api.create_repo(repository.name, repo_type=repository.kind, private=private, exist_ok=True).repo_id
    info = api.repo_info(repo_id, repo_type=repository.kind)
    if not info.private and not repository.public:
        raise PublishError("the repository is public: add --public to publish there all the same")
    names = [file.rfilename for file in info.siblings or []]
    is_ours = any(name.rpartition("/")[2] in MARKS[repository.kind] for name in names)
    others = [name for name in names if name != ".gitattributes"]  # which the Hub puts into every repository
    if others and not is_ours and not repository.overwrite:
        listed = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        problem = f"the repository holds files that none of these scripts published ({listed})"
        raise PublishError(f"{problem}: name another, or add --hub_overwrite to replace those of the same names")
    return repo_id, info.sha, names, is_ours


def find_missing_right(api: HfApi, name: str) -> str:
    """Why the token does not allow publishing under this name, as far as the Hub says; empty where it does."""
    me = api.whoami()
    names = [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return "the token is read-only: make one with write access"
    owner, slash, _ = name.partition("/")
    return f"the name {owner} is not yours: you are {me['name']}" if slash and owner not in names else ""


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file of a repository matches; `*` stays within its folder, which fnmatch's does not."""
    # As many `/` in the name as in the pattern leave none for a `*` to match.
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def check_arrival(api: HfApi, kind: str, repo_id: str, revision: str, folder: Path, names: Iterable[str]) -> None:
    """
    Raises OSError where a file that was sent is not there, or not what was sent.

    Other files of the folder or the repository, such as checkpoints, may differ.
    """
    found = api.verify_repo_checksums(repo_id, repo_type=kind, revision=revision, local_dir=folder)
    damaged = {mismatch["path"] for mismatch in found.mismatches} | set(found.extra_paths)
    for name in sorted(damaged & set(names)):
        raise OSError(f"read back, {name} is not what was sent")
