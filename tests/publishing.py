"""A Hub that `approach.hub` talks to from the test's own process, and what lies on it."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi, constants

# huggingface_hub 2.4.0 hands its uploads to httpx2 in a way that httpx2 deprecates
uploads = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@contextmanager
def serve_hub(monkeypatch: pytest.MonkeyPatch, token: str | None = "write-token") -> Iterator[HubServer]:
    """The Hub of the user alice, without waiting between its client's retries."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer(users={"write-token": "alice"}, read_tokens={"read-token": "alice"}) as hub:
        monkeypatch.setattr("approach.hub.HfApi", functools.partial(HfApi, endpoint=hub.endpoint, token=token))
        monkeypatch.setattr("approach.hub.get_token", lambda: token)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shown(hub: HubServer, repo_id: str = "alice/model", kind: str = "model") -> dict[str, bytes]:
    """The files of a repository's newest commit, without the one that the Hub begins each repository with."""
    files = hub.repo(kind, repo_id).files()
    return {name: data for name, data in files.items() if name != ".gitattributes"}
