"""Who may ask the page, and for what: the hosts that it was started for, and nothing that brings a file."""

import os
import socket
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 2**20  # bytes; a problem of 2,000 characters and its settings are a hundredth of that
LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")


def list_hosts(address: str | None, named: Collection[str]) -> set[str] | None:
    """
    The names by which a page that listens on `address` may be asked for, with those that the user `named`.

    None for any: in a Space the Hub decides who reaches it, and by which name.
    """
    if "SPACE_ID" in os.environ:
        return None
    address = (address or os.environ.get("GRADIO_SERVER_NAME") or LOOPBACK[1]).strip("[]").lower()
    hosts = {*LOOPBACK, *(name.lower() for name in named), address}
    if address in EVERYWHERE:
        own = socket.gethostname().lower()
        hosts |= {own, f"{own}.local"}
    return hosts


class HostCheckMiddleware:
    """
    Refuses requests for other hosts, from other pages, or with files, before gradio sees them.

    Without the first, a page on the web whose name its owner points at this machine could read what is answered
    here: gradio takes any host, and lets the pages of that host read its answers.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        objection = self.find_objection(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        if objection:
            status, reason = objection
            await PlainTextResponse(f"{reason}\n", status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def find_objection(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Why a request is refused, with the status to answer; None where it is not."""
        if not self.admits(f"//{headers.get('host', '')}"):
            return 421, "This page was not started for that host (--allowed_hosts)."
        if "origin" in headers and not self.admits(headers["origin"]):
            return 403, "Another page may not ask this one."
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        if headers.get("content-type", "").lower().startswith("multipart/"):
            return 403, "This page takes no files."
        if not headers.get("content-length", "").isdecimal():
            return 411, "Say how long the request is."
        return (413, "That is too long.") if int(headers["content-length"]) > MAX_BODY else None

    def admits(self, address: str) -> bool:
        """Whether the host of an address is one that the page was started for."""
        if self.hosts is None:
            return True
        try:
            parts = urlsplit(address)
            host, _ = (parts.hostname or "").lower(), parts.port  # which raises where it is no number
        except ValueError:
            return False
        return host in self.hosts or (is_number(host) and not self.hosts.isdisjoint(EVERYWHERE))


def is_number(host: str) -> bool:
    """Whether a host is an address in numbers, which nobody can point elsewhere."""
    try:
        return bool(ip_address(host))
    except ValueError:
        return False
