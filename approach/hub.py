"""The only code that uploads: never to a public repository unasked, never a secret, whole, and read back."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HTTPError

from approach.errors import explain_hub_error
from approach.leaks import find_leaks

# By these a repository is known as one that our scripts have published to, whatever folder of it they lie in.
MARKS = {"dataset": {"build_report.json"}, "model": {"run.json", "merge.json", "progress.json"}}


class PublishError(Exception):
    """Why something was not published, in one line of plain words."""


class HubFailed(PublishError):
    """The Hub, or the way there, failed: nothing is wrong with what was to be published."""


@dataclass(frozen=True)
class Repository:
    """
    Where to publish, and what the user said of it.

    An existing public repository is only published to where `public` says so, one with files that are not ours where
    `overwrite` does. Paths that begin with one of `allow_paths` are meant to be told.
    """

    name: str
    kind: str = "model"  # or "dataset"
    public: bool = False
    overwrite: bool = False
    allow_paths: Sequence[str] = ()

    def list_flags(self) -> list[str]:
        """The words of the command line that say it again."""
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

    Hidden files are left out. Links are not: without them what is published would not be whole, so it is refused.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if (path.is_file() or path.is_symlink()) and path.name[0] != ".")


def refuse_links(folder: Path, files: Iterable[Path]) -> None:
    """
    Raises PublishError where a file, or a folder on the way to it, is a link to something that may be private.

    In the Hub's own cache every file is one, to a blob of the same repository.
    """
    for path in files:
        for part in (path, *path.parents[: len(path.relative_to(folder).parts) - 1]):
            is_cached = part.parent.parent.name == "snapshots" and part.resolve().parent == find_blobs(part)
            if part.is_symlink() and not is_cached:
                raise PublishError(f"{part} is a symbolic link: put what it points to in its place")


def find_blobs(path: Path) -> Path:
    """Where the Hub's cache keeps what a file of a snapshot links to."""
    return path.absolute().parents[2].resolve() / "blobs"


def refuse_leaks(files: Iterable[Path], allow_paths: Sequence[str]) -> None:
    """Raises PublishError where a file tells a secret or a path of this machine, with the line or the rows."""
    for path in files:
        if found := find_leaks(path, allow_paths):
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
    Publishes `files` of `folder`: large ones first, then all in one commit, read back by hash, and tagged if asked.

    Of a repository that we published to before, files that match `replaces` and are not sent again are deleted in the
    same commit: they are of an earlier time, for nobody else gives files such names.
    (`upload_folder` may spread a folder over several commits.) The tag, `content-…`, is made of the content, so that
    a second run finishes what a first one began and changes nothing else. Raises PublishError.
    """
    try:
        refuse_links(folder, files)
        refuse_leaks(files, repository.allow_paths)
        api = connect(token)
        repo_id, parent, there, is_ours = open_repository(api, repository)
        additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        hashes = {addition.path_in_repo: addition.upload_info.sha256.hex() for addition in additions}
        stale = [name for name in there if is_ours and name not in hashes and matches(name, replaces)]
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
        raise HubFailed(explain_hub_error(error).rstrip(".")) from error


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
        raise kind(explain_hub_error(error).rstrip(".")) from error


def connect(token: str | None) -> HfApi:
    """The Hub's client; raises PublishError where there is neither this token nor one of the user's."""
    if (token or get_token()) is None:
        raise PublishError("no Hub token (`hf auth login`, or HF_TOKEN)")
    return HfApi(token=token) if token else HfApi()


def open_repository(api: HfApi, repository: Repository) -> tuple[str, str, list[str], bool]:
    """
    Id, newest commit and file names of a repository, and whether our scripts have published to it before.

    It is made where there is none. Raises PublishError where it may not be published to.
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
        told = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        problem = f"the repository holds files that none of these scripts published ({told})"
        raise PublishError(f"{problem}: name another, or add --hub_overwrite to replace those of the same names")
    return repo_id, info.sha, names, is_ours


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
