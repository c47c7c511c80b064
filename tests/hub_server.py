"""A Hugging Face Hub on loopback, for tests: real HTTP, real clients, faults on request.

Speaks the part of the Hub's HTTP API that huggingface_hub 2.4.0, datasets 5.2.0, transformers 5.23.0, peft 0.21.2 and
trl 1.16.0 use for model and dataset repositories: whoami, create, repository info, tree, paths-info, refs,
branches, tags, preupload, LFS batch, upload and verify (basic transfer), commit, resolve with ranges. It was
written against huggingface_hub 2.4.0, whose clients run against it unpatched.

    with HubServer(users={"tok_write": "alice"}, read_tokens={"tok_read": "alice"}) as hub:
        HfApi(endpoint=hub.endpoint, token="tok_write").create_repo("alice/x", repo_type="dataset", private=True)
        subprocess.run([...], env=hub.environment(token="tok_write", home=tmp_path))
        hub.fail(500, method="PUT", path="^/lfs/", times=2)  # the next two uploads of large files
        hub.fail("drop", skip=6)                             # whatever the seventh request from now is
        hub.repo("dataset", "alice/x").files()               # {path: bytes} of main

Not spoken: Xet (clients need HF_HUB_DISABLE_XET=1), pull requests, multipart upload, Spaces, gating, paging.
A large file is answered in place, where the real Hub redirects to its storage; cards are accepted unchecked.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# A status; or "drop": close half way through the request; "lost": do what was asked, then close without a word;
# "truncate": announce the whole reply, send half of it, close.
Fault = int | Literal["drop", "lost", "truncate"]

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


class HubError(Exception):
    """An answer with an error status. `code` is what huggingface_hub picks the exception by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | dict(headers or {})
        self.status = status

    def reply(self) -> "Reply":
        return Reply(json.dumps({"error": str(self)}).encode(), self.status, self.headers)


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


@dataclass
class Request:
    method: str
    path: str  # still quoted, so that a slash inside a revision is not a separator
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    user: str | None = None
    can_write: bool = False

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Rule:
    """Fails the requests that match, from number `skip` + 1 on, `times` of them."""

    fault: Fault
    method: str
    path: re.Pattern[str]
    times: int
    skip: int
    retry_after: int | None
    seen: int = 0

    def fires(self, method: str, path: str) -> bool:
        if (self.method and self.method != method) or not self.path.search(path):
            return False
        self.seen += 1
        return self.skip < self.seen <= self.skip + self.times

    def reply(self) -> Reply:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return HubError(int(self.fault), f"Told to fail with {self.fault}", headers=headers).reply()


class HubServer:
    """Serves from `with` to its end. `users` and `read_tokens` say whose each token is."""

    def __init__(self, users: Mapping[str, str], read_tokens: Mapping[str, str] | None = None):
        self.users, self.read_tokens = dict(users), dict(read_tokens or {})
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []  # method and path, in order of arrival
        self._rules: list[Rule] = []
        self._tickets: dict[str, Repo] = {}  # stand for the signed URLs of the real storage, which sees no token
        self._lock = threading.Lock()  # one request at a time is served: what it shows is never half of another
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, *, token: str | None, home: Path) -> dict[str, str]:
        """The environment of a client process: this one's, with this Hub in place of every other setting of a Hub."""
        others = ("HF_", "HUGGING_FACE_", "NO_PROXY")
        inherited = {key: value for key, value in os.environ.items() if not key.upper().startswith(others)}
        settings = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets otherwise counts loads on a server of its own
            "NO_PROXY": "127.0.0.1",
        }
        return inherited | settings | ({"HF_TOKEN": token} if token else {})

    def repo(self, kind: Literal["model", "dataset"], name: str) -> Repo:
        return self.repos[kind, name]

    def fail(
        self,
        fault: Fault,
        *,
        method: str = "",
        path: str = "",
        times: int = 1,
        skip: int = 0,
        retry_after: int | None = None,
    ) -> None:
        """Let `fault` befall the next `times` requests that match, after `skip` that are spared."""
        with self._lock:
            self._rules.append(Rule(fault, method, re.compile(path), times, skip, retry_after))

    def recover(self) -> None:
        """Forget every rule."""
        with self._lock:
            self._rules.clear()

    def count(self, method: str = "", path: str = "") -> int:
        return sum(asked.startswith(method) and bool(re.search(path, where)) for asked, where in self.requests)

    def log(self, method: str, path: str) -> Rule | None:
        """Note the request, and tell the first rule that it falls under; each rule counts, whichever comes first."""
        with self._lock:
            self.requests.append((method, path))
            firing = [rule for rule in self._rules if rule.fires(method, path)]
        return firing[0] if firing else None

    def answer(self, request: Request) -> Reply:
        try:
            with self._lock:
                self._authenticate(request)
                return self._route(request)
        except HubError as error:
            return error.reply()

    def _authenticate(self, request: Request) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.users and token not in self.read_tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        request.user = self.users.get(token) or self.read_tokens.get(token)
        request.can_write = token in self.users

    def _route(self, request: Request) -> Reply:
        for method, pattern, access, handler in ROUTES:
            if method != request.method.replace("HEAD", "GET") or not (match := pattern.fullmatch(request.path)):
                continue
            groups = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
            if access:
                groups["repo"] = self._allowed(request, access, groups.pop("kind", "model"), groups.pop("name"))
            reply = handler(self, request, **groups)
            return reply if isinstance(reply, Reply) else Reply(json.dumps(reply).encode())
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def _allowed(self, request: Request, access: str, kind: str, name: str) -> Repo:
        repo = self.repos.get((kind, name))
        if repo is None or (repo.private and repo.owner != request.user):  # a stranger cannot tell these apart
            raise HubError(404 if request.user else 401, "Repository not found", "RepoNotFound")
        if access == "write":
            self._check_rights(request, repo.owner)
        return repo

    def _check_rights(self, request: Request, namespace: str | None) -> None:
        if request.user is None:
            raise HubError(401, "Invalid username or password.")
        if not request.can_write or namespace != request.user:
            raise HubError(403, f'You don\'t have the rights to write under the namespace "{namespace}"')

    def whoami(self, request: Request) -> dict[str, Any]:
        if request.user is None:
            raise HubError(401, "Invalid username or password.")
        role = "write" if request.can_write else "read"
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": role}}
        return {"type": "user", "name": request.user, "fullname": request.user, "orgs": [], "auth": auth}

    def validate_yaml(self, request: Request) -> dict[str, Any]:
        return {"errors": [], "warnings": []}

    def create(self, request: Request) -> Reply:
        asked = request.json()
        kind, namespace = asked.get("type") or "model", asked.get("organization") or request.user
        self._check_rights(request, namespace)
        name = f"{namespace}/{asked['name']}"
        exists = (kind, name) in self.repos
        if not exists:
            self.repos[kind, name] = Repo(kind, name, private=asked.get("visibility") == "private")
        # create_repo(exist_ok=True) reads the address out of the 409
        told = {"name": name, "url": self.endpoint + self.repos[kind, name].page}
        error = {"error": f"You already created this {kind} repo"} if exists else {}
        return Reply(json.dumps(told | error).encode(), 409 if exists else 200)

    def info(self, request: Request, repo: Repo, revision: str = "main") -> dict[str, Any]:
        commit = repo.at(revision)
        dates = {"createdAt": next(iter(repo.commits.values())).date, "lastModified": commit.date}
        siblings = [{"rfilename": path} | blob.describe() for path, blob in sorted(commit.files.items())]
        about = {"id": repo.name, "author": repo.owner, "private": repo.private, "sha": commit.sha}
        card = commit.files["README.md"].data.decode() if "README.md" in commit.files else ""
        about["cardData"] = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None
        return about | dates | {"siblings": siblings, "tags": [], "gated": False, "downloads": 0, "likes": 0}

    def refs(self, request: Request, repo: Repo) -> dict[str, Any]:
        def listed(prefix: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": ref, "ref": f"{prefix}/{ref}", "targetCommit": sha} for ref, sha in refs.items()]

        branches, tags = listed("refs/heads", repo.branches), listed("refs/tags", repo.tags)
        return {"branches": branches, "tags": tags, "converts": [], "pullRequests": []}

    def tree(self, request: Request, repo: Repo, revision: str, folder: str = "") -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        entries = [entry for path, entry in repo.at(revision).entries().items() if path.startswith(prefix)]
        if folder and not entries:
            raise HubError(404, "Entry not found", "EntryNotFound")
        if request.query.get("recursive") == ["true"]:
            return entries
        return [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]

    def paths_info(self, request: Request, repo: Repo, revision: str) -> list[dict[str, Any]]:
        entries = repo.at(revision).entries()
        asked = parse_qs(request.body.decode())["paths"]
        return [entries[path] for path in asked if path in entries]

    def create_branch(self, request: Request, repo: Repo, branch: str) -> dict[str, Any]:
        if branch in repo.branches:
            raise HubError(409, f"Reference {branch} already exists")
        repo.branches[branch] = repo.at(request.json().get("startingPoint", "main")).sha
        return {}

    def create_tag(self, request: Request, repo: Repo, revision: str) -> dict[str, Any]:
        tag = request.json()["tag"]
        if tag in repo.tags:
            raise HubError(409, f"Tag {tag} already exists")
        repo.tags[tag] = repo.at(revision).sha
        return {}

    def delete_tag(self, request: Request, repo: Repo, tag: str) -> dict[str, Any]:
        if tag not in repo.tags:
            raise HubError(404, f"Tag {tag} does not exist", "RevisionNotFound")
        del repo.tags[tag]
        return {}

    def preupload(self, request: Request, repo: Repo, revision: str) -> dict[str, Any]:
        present = repo.at(revision).files

        def decide(file: dict[str, Any]) -> dict[str, Any]:
            is_lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_FROM_BYTES
            known = {"oid": present[file["path"]].etag} if file["path"] in present else {}
            return {"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False} | known

        return {"files": [decide(file) for file in request.json()["files"]]}

    def lfs_batch(self, request: Request, repo: Repo) -> dict[str, Any]:
        ticket = secrets.token_hex(16)
        self._tickets[ticket] = repo

        def instruct(asked: dict[str, Any]) -> dict[str, Any]:
            if asked["oid"] in repo.uploads:
                return asked  # without actions: there is nothing to send
            upload = {"href": f"{self.endpoint}/lfs/{asked['oid']}/{asked['size']}?ticket={ticket}"}
            verify = {"href": f"{self.endpoint}{repo.page}.git/info/lfs/objects/verify"}
            return asked | {"actions": {"upload": upload, "verify": verify}}

        return {"transfer": "basic", "objects": [instruct(asked) for asked in request.json()["objects"]]}

    def lfs_upload(self, request: Request, oid: str, size: str) -> Reply:
        repo = self._tickets.get(request.query.get("ticket", [""])[0])
        if repo is None:
            raise HubError(403, "Request has expired")
        if len(request.body) != int(size) or hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(400, "The content does not match its SHA-256 and size")
        repo.uploads[oid] = request.body
        return Reply()

    def lfs_verify(self, request: Request, repo: Repo) -> dict[str, Any]:
        asked = request.json()
        if asked["oid"] not in repo.uploads or len(repo.uploads[asked["oid"]]) != asked["size"]:
            raise HubError(404, f"Object {asked['oid']} does not exist")
        return {}

    def commit(self, request: Request, repo: Repo, revision: str) -> dict[str, Any]:
        if "create_pr" in request.query:
            raise HubError(400, "Pull requests are not spoken here")
        if revision not in repo.branches:
            raise HubError(404, "Invalid rev id", "RevisionNotFound")
        header, *operations = [json.loads(line) for line in request.body.splitlines()]
        asked, parent = header["value"], repo.at(revision)
        if not parent.sha.startswith(asked.get("parentCommit", "")):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for operation in operations:
            repo.apply(files, operation["key"], **operation["value"])
        commit = Commit(parent.sha, asked["summary"], asked.get("description", ""), files)
        repo.add(revision, commit)
        return {"commitOid": commit.sha, "commitUrl": f"{self.endpoint}{repo.page}/commit/{commit.sha}"}

    def resolve(self, request: Request, repo: Repo, revision: str, path: str) -> Reply:
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha}  # on a 404 too: clients remember what a commit has not
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        blob = commit.files[path]
        headers |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
        return _ranged(blob.data, request.headers.get("Range"), headers)


def _ranged(data: bytes, asked: str | None, headers: Mapping[str, str]) -> Reply:
    match = re.fullmatch(r"bytes=(?=.*\d)(\d*)-(\d*)", asked or "")
    if not match:
        return Reply(data, headers=headers)
    first, last = match.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= stop:
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(data)}"})
    return Reply(data[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


NAME = r"(?P<name>[\w.-]+/[\w.-]+?)"
API = rf"/api/(?P<kind>model|dataset)s/{NAME}"
PAGE = rf"/(?:(?P<kind>dataset)s/)?{NAME}"  # without the prefix: a model
REVISION = "(?P<revision>[^/]+)"
ROUTES: list[tuple[str, re.Pattern[str], str | None, Callable[..., Any]]] = [
    (method, re.compile(path), access, handler)
    for method, path, access, handler in [
        ("GET", "/api/whoami-v2", None, HubServer.whoami),
        ("POST", "/api/validate-yaml", None, HubServer.validate_yaml),
        ("POST", "/api/repos/create", None, HubServer.create),
        ("GET", API, "read", HubServer.info),
        ("GET", f"{API}/revision/{REVISION}", "read", HubServer.info),
        ("GET", f"{API}/refs", "read", HubServer.refs),
        ("GET", f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", "read", HubServer.tree),
        ("POST", f"{API}/paths-info/{REVISION}", "read", HubServer.paths_info),
        ("POST", f"{API}/branch/(?P<branch>[^/]+)", "write", HubServer.create_branch),
        ("POST", f"{API}/tag/{REVISION}", "write", HubServer.create_tag),
        ("DELETE", f"{API}/tag/(?P<tag>[^/]+)", "write", HubServer.delete_tag),
        ("POST", f"{API}/preupload/{REVISION}", "write", HubServer.preupload),
        ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", "write", HubServer.lfs_batch),
        ("PUT", r"/lfs/(?P<oid>\w+)/(?P<size>\d+)", None, HubServer.lfs_upload),
        ("POST", rf"{PAGE}\.git/info/lfs/objects/verify", "write", HubServer.lfs_verify),
        ("POST", f"{API}/commit/{REVISION}", "write", HubServer.commit),
        ("GET", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", "read", HubServer.resolve),
    ]
]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # snapshot_download opens many connections at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that left is no fault of the server
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Moves bytes and spoils them when told to; what they mean is the hub's business."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: 40 ms a request otherwise

    def _serve(self) -> None:
        url = urlsplit(self.path)
        rule = self.hub.log(self.command, url.path)
        fault = rule.fault if rule else None
        if fault == "drop":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            return
        body = self._read_body()
        if rule and isinstance(fault, int):
            self._send(rule.reply())
            return
        reply = self.hub.answer(Request(self.command, url.path, parse_qs(url.query), self.headers, body))
        if fault == "lost":
            self.close_connection = True
        else:
            self._send(reply, truncated=fault == "truncate")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client left in the middle of its request")
        return body

    def _send(self, reply: Reply, truncated: bool = False) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if truncated else reply.body)
        self.close_connection = self.close_connection or truncated

    def log_message(self, *_: object) -> None:
        """Silence: tests read `hub.requests`."""
