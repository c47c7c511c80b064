"""What the Hub stores: files, commits and repositories."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from hub_server.messages import HubError

LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".pth", ".gz", ".png", ".model")
LFS_FROM_BYTES = 10 * 2**20
INITIAL_FILES = {".gitattributes": b"".join(b"*%s filter=lfs\n" % suffix.encode() for suffix in LFS_SUFFIXES)}


@dataclass(frozen=True)
class Blob:
    data: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def oid(self) -> str:
        """What git would call it: of a large file git sees only the pointer."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        content = pointer.encode() if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid

    def describe(self) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": len(self.data), "pointerSize": 130}
        return {"oid": self.oid, "blobId": self.oid, "size": len(self.data)} | ({"lfs": lfs} if self.is_lfs else {})


@dataclass(frozen=True)
class Commit:
    parent: str | None
    title: str
    message: str
    files: Mapping[str, Blob]
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))

    @cached_property
    def sha(self) -> str:
        files = sorted((path, blob.oid) for path, blob in self.files.items())
        return hashlib.sha1(json.dumps([self.parent, self.title, self.message, files]).encode()).hexdigest()

    def entries(self) -> dict[str, dict[str, Any]]:
        """Files and the folders they imply, as the tree lists them."""
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        listed = {path: {"type": "directory", "path": path, "oid": self.sha} for path in folders}
        listed |= {path: {"type": "file", "path": path} | blob.describe() for path, blob in self.files.items()}
        return dict(sorted(listed.items()))


class Repo:
    """The history of one repository. Branches move only to commits that are complete."""

    def __init__(self, kind: str, name: str, private: bool):
        self.kind, self.name, self.private = kind, name, private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}  # large files that arrived, by SHA-256, committed or not
        initial = {path: Blob(data, is_lfs=False) for path, data in INITIAL_FILES.items()}
        self.add("main", Commit(None, "initial commit", "", initial))

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    @property
    def page(self) -> str:
        return f"/datasets/{self.name}" if self.kind == "dataset" else f"/{self.name}"

    def add(self, branch: str, commit: Commit) -> None:
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha

    def at(self, revision: str = "main") -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, "Invalid rev id", "RevisionNotFound")
        return self.commits[sha]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.at(revision).files.items()}

    def apply(self, files: dict[str, Blob], key: str, path: str, content: str = "", oid: str = "", **_: Any) -> None:
        """One line of a commit, done to `files`."""
        if key == "file":
            files[path] = Blob(base64.b64decode(content), is_lfs=False)
        elif key == "lfsFile":
            if oid not in self.uploads:
                raise HubError(400, "LFS pointer pointed to a file that does not exist")
            files[path] = Blob(self.uploads[oid], is_lfs=True)
        else:
            gone = [file for file in files if file == path or file.startswith(path.rstrip("/") + "/")]
            if key not in ("deletedFile", "deletedFolder") or not gone:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            for file in gone:
                del files[file]
