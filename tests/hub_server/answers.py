"""How the Hub answers: one method for each kind of request, and the table of their addresses."""

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from hub_server.messages import HubError, Reply, Request
from hub_server.repositories import LFS_FROM_BYTES, LFS_SUFFIXES, Commit, Repo


class Answers:
    """The answers of a Hub with these users, tokens and repositories."""

    endpoint: str

    def __init__(self, users: Mapping[str, str], read_tokens: Mapping[str, str]):
        self.users, self.read_tokens = dict(users), dict(read_tokens)
        self.repos: dict[tuple[str, str], Repo] = {}
        self._tickets: dict[str, Repo] = {}  # stand for the signed URLs of the real storage, which sees no token

    def authenticate(self, request: Request) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.users and token not in self.read_tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        request.user = self.users.get(token) or self.read_tokens.get(token)
        request.can_write = token in self.users

    def route(self, request: Request) -> Reply:
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
        ("GET", "/api/whoami-v2", None, Answers.whoami),
        ("POST", "/api/validate-yaml", None, Answers.validate_yaml),
        ("POST", "/api/repos/create", None, Answers.create),
        ("GET", API, "read", Answers.info),
        ("GET", f"{API}/revision/{REVISION}", "read", Answers.info),
        ("GET", f"{API}/refs", "read", Answers.refs),
        ("GET", f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", "read", Answers.tree),
        ("POST", f"{API}/paths-info/{REVISION}", "read", Answers.paths_info),
        ("POST", f"{API}/branch/(?P<branch>[^/]+)", "write", Answers.create_branch),
        ("POST", f"{API}/tag/{REVISION}", "write", Answers.create_tag),
        ("DELETE", f"{API}/tag/(?P<tag>[^/]+)", "write", Answers.delete_tag),
        ("POST", f"{API}/preupload/{REVISION}", "write", Answers.preupload),
        ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", "write", Answers.lfs_batch),
        ("PUT", r"/lfs/(?P<oid>\w+)/(?P<size>\d+)", None, Answers.lfs_upload),
        ("POST", rf"{PAGE}\.git/info/lfs/objects/verify", "write", Answers.lfs_verify),
        ("POST", f"{API}/commit/{REVISION}", "write", Answers.commit),
        ("GET", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)", "read", Answers.resolve),
    ]
]
