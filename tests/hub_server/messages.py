"""What the HTTP server and the Hub pass to each other: requests, replies, and the faults that a test asks for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# A status; or "drop": close half way through the request; "lost": do what was asked, then close without a word;
# "truncate": announce the whole reply, send half of it, close.
Fault = int | Literal["drop", "lost", "truncate"]


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


class HubError(Exception):
    """An answer with an error status. `code` is what huggingface_hub picks the exception by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | dict(headers or {})
        self.status = status

    def reply(self) -> "Reply":
        return Reply(json.dumps({"error": str(self)}).encode(), self.status, self.headers)


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
