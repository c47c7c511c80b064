"""The Hub as an HTTP server on loopback, which fails when a test asks for it."""

import os
import re
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from hub_server.answers import Answers
from hub_server.messages import Fault, HubError, Reply, Request, Rule
from hub_server.repositories import Repo


class HubServer(Answers):
    """Serves from `with` to its end. `users` and `read_tokens` say whose each token is."""

    def __init__(self, users: Mapping[str, str], read_tokens: Mapping[str, str] | None = None):
        super().__init__(users, read_tokens or {})
        self.requests: list[tuple[str, str]] = []  # method and path, in order of arrival
        self._rules: list[Rule] = []
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
                self.authenticate(request)
                return self.route(request)
        except HubError as error:
            return error.reply()


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
