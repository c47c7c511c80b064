import http.client
import os
import socket
import subprocess
import sys

import pytest
from conftest import ROOT
from starlette.datastructures import Headers

from approach.page.hosts import HostCheckMiddleware, list_hosts


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for variable in ("SPACE_ID", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def address():
    """The page, served on loopback by a process of its own; no model is behind it."""
    program = (
        "import app, sys\nfrom approach.page.server import serve\n"
        "print(serve(app.build_page(None, None, None), None, None, []), flush=True)\n"
        "sys.stdin.read()  # until the test is done"
    )
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, **pipes) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def admits(hosts, host: str) -> bool:
    return HostCheckMiddleware(None, hosts).find_objection("GET", Headers({"host": host})) is None


@pytest.mark.parametrize(
    "address, named, inside, outside",
    [
        (None, [], ["localhost:7860", "127.0.0.1:7860", "[::1]:7860"], ["10.0.0.1:7860", "evil.example", "0.0.0.0"]),
        ("Box.lan", [], ["box.lan:7860", "BOX.LAN", "localhost"], ["evil.example", "lan", "10.0.0.1"]),
        ("10.0.0.1", ["drafts.example.org"], ["10.0.0.1", "drafts.example.org"], ["10.0.0.2", "example.org"]),
        ("[::1]", [], ["[::1]:7860"], ["[::2]:7860"]),
        # Who listens on all addresses is asked for by any of them, but not by any name.
        (
            "0.0.0.0",
            [],
            ["10.0.0.1:7860", "[fe80::1]", socket.gethostname()],
            ["evil.example", "10.0.0.1.evil.example"],
        ),
        ("::", [], ["10.0.0.1:7860", f"{socket.gethostname()}.local"], ["evil.example"]),
    ],
)
def test_a_page_is_asked_for_by_the_names_that_it_was_started_for(address, named, inside, outside):
    hosts = list_hosts(address, named)
    assert [host for host in inside if not admits(hosts, host)] == []
    assert [host for host in outside if admits(hosts, host)] == []


def test_an_address_that_only_begins_like_ours_is_none():
    keeper = HostCheckMiddleware(None, list_hosts(None, []))
    for origin in ("http://127.0.0.1:7860.evil.example", "http://127.0.0.1@evil.example", "http://[::1", "http://"):
        assert keeper.find_objection("GET", Headers({"host": "localhost:7860", "origin": origin})), origin


def test_gradios_own_setting_counts_and_in_a_space_the_hub_decides(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert admits(list_hosts(None, []), "10.0.0.1") and not admits(list_hosts(None, []), "evil.example")
    monkeypatch.setenv("SPACE_ID", "alice/drafts")
    assert admits(list_hosts(None, []), "alice-drafts.hf.space")


def ask(address, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, str | None]:
    """The status and the text of an answer over HTTP, and the origin whose pages may read it."""
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace"), answer.headers["Access-Control-Allow-Origin"]
    finally:
        connection.close()


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    + b"a" * 100
    + b"\r\n--x--\r\n"
)


def test_the_page_answers_for_its_own_hosts_alone(address):
    port = address.rstrip("/").rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}"):
        assert ask(address, "GET", "/config", Host=host)[0] == 200, host
    for host in (f"evil.example:{port}", "192.0.2.1", "127.0.0.1.evil.example", "localhost@evil.example", "[::", ""):
        for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/queue/join")):
            status, text, _ = ask(address, method, path, b"{}" if method == "POST" else None, Host=host)
            assert status == 421 and text == "This page was not started for that host (--allowed_hosts).\n", host


def test_no_other_page_may_ask_this_one(address):
    own = address.rstrip("/")
    join = {"content_type": "application/json"}
    for origin in ("http://evil.example", "https://127.0.0.1.evil.example", "null", "file://"):
        for method, path in (("GET", "/config"), ("POST", "/gradio_api/queue/join")):
            status, _, readable = ask(address, method, path, b"{}", origin=origin, **join)
            assert status == 403 and readable is None, origin
    assert ask(address, "GET", "/config", origin=own) == (200, ask(address, "GET", "/config")[1], own)


def test_the_page_takes_no_files_and_no_endless_texts(address):
    form = {"content_type": "multipart/form-data; boundary=x"}
    for path in ("upload", "component_server", "process_recording"):
        assert ask(address, "POST", f"/gradio_api/{path}", FORM, **form)[:2] == (403, "This page takes no files.\n")
    assert ask(address, "POST", "/gradio_api/queue/join", b"a" * 2**20 + b"a")[0] == 413
    assert ask(address, "POST", "/gradio_api/queue/join", iter([b"{}"]))[0] == 411, "in pieces, without a length"
