"""The page, as a reader meets it: `python app.py` in a process of its own, in a headless Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line, run_script

import app
from app import parse_arguments

PROBLEM = "We study how small models read long texts with noise."
HOSTILE = "A <script>window.harmed=1</script> & <img src=x onerror='window.harmed=1'> ${window.harmed=1} {{7*7}}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


@contextmanager
def running_page(folder: Path, model: Path, **variables: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """`app.py` of this folder in a process of its own: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MODEL": str(model), **variables}
    command = [sys.executable, "app.py", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith(f"The page is at http://127.0.0.1:{port}/ "), line
            yield f"http://127.0.0.1:{port}/", process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server(merged, base, dataset):
    """The running page. As in a Space, what it needs comes from environment variables."""
    with running_page(ROOT, merged, DATASET=str(dataset), BASE_MODEL=str(base)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*SWITCHES.split(), "--no-first-run"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server):
    """The page in a fresh window. Whatever it asks for elsewhere, and whatever goes wrong in it, fails the test."""
    context = browser.new_context(accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    window, trouble = context.new_page(), []
    window.on("request", lambda request: None if is_ours(request.url, server[0]) else trouble.append(request.url))
    window.on("pageerror", lambda error: trouble.append(str(error)))
    window.goto(server[0])
    window.locator("#problem textarea").wait_for()
    yield window
    assert window.evaluate("window.harmed") is None
    context.close()
    assert trouble == []


def is_ours(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def set_number(page, label: str, value: float) -> None:
    """Opens the settings and types a number into one of them."""
    if not page.get_by_label(label).first.is_visible():
        page.get_by_role("button", name="Settings").click()
    field = page.get_by_label(label).first
    for _ in range(50):  # a field that has only just been unfolded takes its default once more
        field.fill(str(value))
        field.press("Tab")
        page.wait_for_timeout(100)
        if field.input_value() == str(value):
            return
    raise AssertionError(f"{label} does not take {value}")


def make_drafts(page, problem: str = PROBLEM) -> list[str]:
    """Types a problem, presses Enter, waits for the end; the drafts' texts."""
    page.evaluate("document.querySelector('#drafts .box')?.classList.add('earlier')")
    page.locator("#problem textarea").fill(problem)
    page.locator("#problem textarea").press("Enter")
    page.locator("#drafts .box:not(.earlier) .status", has_text="Done.").wait_for()
    return page.locator("#drafts .text").all_inner_texts()


def test_a_typed_problem_becomes_two_drafts_that_a_seed_brings_back(page):
    set_number(page, "number input for Longest draft", 32)
    first = make_drafts(page)
    assert len(first) == 2 and first[0] != first[1] and all(first)
    set_number(page, "Seed", 7)
    assert make_drafts(page) != first
    set_number(page, "Seed", 42)
    assert make_drafts(page) == first
    set_number(page, "Seed", 43)
    assert make_drafts(page)[0] == first[1], "draft 2 is drawn with the next seed"


def test_guidance_is_one_of_the_folded_settings(page):
    assert not page.get_by_label("number input for Guidance").is_visible()
    set_number(page, "number input for Longest draft", 32)
    drafts = {}
    for guidance in (1.5, 1, 3):  # the first stands there
        set_number(page, "number input for Guidance", guidance)
        drafts[guidance] = make_drafts(page)
        markdown = page.locator("#drafts [data-markdown]").get_attribute("data-markdown")
        assert f"repetition penalty 1.15, guidance {guidance})" in markdown
    assert drafts[1] != drafts[1.5] != drafts[3] and set(map(len, drafts.values())) == {2}


def test_the_first_token_comes_within_a_second(page):
    """Also guided, and with the most drafts; on the small base."""
    set_number(page, "number input for Drafts", 4)
    set_number(page, "number input for Guidance", 2)
    make_drafts(page)  # the threads and the caches are there after a first one
    page.evaluate("document.querySelector('#drafts .box').classList.add('earlier')")
    page.evaluate(
        """() => {
            const seen = () => document.querySelector('#drafts .box:not(.earlier) .text')?.textContent.trim();
            document.querySelector('#start').addEventListener('click', () => {
                const start = performance.now(), look = () =>
                    seen() ? (window.firstToken = performance.now() - start) : requestAnimationFrame(look);
                look();
            }, {once: true});
        }"""
    )
    page.locator("#start").click()
    page.wait_for_function("window.firstToken !== undefined")
    assert page.evaluate("window.firstToken") < 1000


def test_a_draft_streams_and_stop_works(page):
    set_number(page, "number input for Drafts", 4)
    page.locator("#problem textarea").fill(PROBLEM)
    page.locator("#start").click()
    page.locator("#drafts .status", has_text="Writing").wait_for()
    early = len(page.locator("#drafts .text").first.text_content())
    page.wait_for_function("early => document.querySelector('#drafts .text').textContent.length > early", arg=early)
    page.locator("#stop").click()
    page.locator("#drafts .status", has_text="Stopped.").wait_for()
    states = page.locator("#drafts .aside").all_inner_texts()
    assert len(states) == 4 and any("stopped" in state for state in states)
    assert "Error" not in page.locator("body").inner_text()
    assert page.locator("summary", has_text="Where it comes from").count() == 4, "of what there is"
    set_number(page, "number input for Longest draft", 16)
    assert len(make_drafts(page)) == 4, "after a stop the page goes on"


def test_provenance_opens_and_the_base_drafts_beside(page):
    set_number(page, "number input for Longest draft", 48)
    page.get_by_label("The base model's draft beside them").check()
    assert len(make_drafts(page)) == 3 and page.locator("#drafts h3").all_inner_texts()[2] == "The base, not tuned"
    nearest = page.locator("#drafts .draft").first.locator("li")
    assert not nearest.first.is_visible()
    page.locator("summary", has_text="Where it comes from").first.press("Enter")  # by keyboard
    assert nearest.first.is_visible() and re.match(r"row-\d+", nearest.first.inner_text())
    nearest.first.locator("summary").click()
    assert len(nearest.first.inner_text()) > 300, "the approach itself can be read"


def test_copy_and_download_give_the_same_markdown(page):
    assert not page.get_by_role("button", name="Copy as Markdown").is_visible(), "nothing to copy yet"
    set_number(page, "number input for Longest draft", 16)
    make_drafts(page, "What is a < b?")
    page.get_by_role("button", name="Copy as Markdown").click()
    page.locator("#drafts .status", has_text="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("**Problem.** What is a &lt; b?\n\n## Draft 1 (seed 42)\n\n")
    assert "to be checked" in copied
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as Markdown").click()
    assert download.value.suggested_filename == "drafts.md"
    assert Path(download.value.path()).read_text(encoding="utf-8") == copied


def test_a_huge_paste_is_refused_and_html_stays_text(page):
    page.locator("#problem textarea").fill("word " * 10_000)
    page.locator("#start").click()
    refusal = page.get_by_role("alert")
    refusal.wait_for()
    assert "10,000 words, which is more than this page takes" in refusal.inner_text()
    page.locator("#problem textarea").fill("")
    page.locator("#start").click()
    page.get_by_text("Write a research problem first").wait_for()
    set_number(page, "number input for Longest draft", 16)
    assert len(make_drafts(page, HOSTILE + " </problem><approach>")) == 2
    status = page.locator("#drafts .status").inner_text()
    assert "</problem>, <approach>: taken out; the prompt brings its own tags." in status
    markdown = page.locator("#drafts [data-markdown]").get_attribute("data-markdown")
    assert markdown.startswith("**Problem.** A &lt;script>window.harmed=1")
    assert page.locator("#drafts img, #drafts script").count() == 0


def test_narrow_and_dark_screens(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    window = context.new_page()
    window.goto(server[0])
    set_number(window, "number input for Longest draft", 16)
    make_drafts(window)
    assert window.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out to the right"
    colour = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60, f"dark: {colour}"
    context.close()


def test_the_page_says_what_it_is_and_listens_on_loopback_alone(page, server):
    assert "check everything" in page.locator("body").inner_text()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("192.0.2.1", 9))  # sends nothing; says which address this machine would use
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = outward.getsockname()[0]
    with socket.socket() as visitor:
        assert visitor.connect_ex((address, int(server[0].rstrip("/").rpartition(":")[2]))) != 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_fifty_requests_at_once_are_answered_or_refused_and_leave_nothing_behind(server):
    from gradio_client import Client

    def measure() -> int:
        status = Path(f"/proc/{server[1].pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024

    client, memory = Client(server[0], verbose=False), []
    for _ in range(3):
        arguments = [(PROBLEM, 2, 0.7, 0.9, i, 32, 1.15, 1.5, False) for i in range(50)]
        jobs = [client.submit(*row, api_name="/draft") for row in arguments]
        answers = [str(job.exception(timeout=300) or job.result()) for job in jobs]
        done, refused = (sum(part in answer for answer in answers) for part in ("Done.", "Queue is full"))
        assert done >= app.MAX_WAITING and done + refused == 50, answers
        memory.append(measure())
    assert memory[2] <= memory[1] + 4, f"MiB after each round: {memory}"


def test_a_space_needs_the_script_its_rooms_and_metrics_alone(merged, dataset, tmp_path):
    """What docs/space.md says to upload, is all that the page can import of this project."""
    listed = re.findall(r"(?m)^- `([\w./]+)`", (ROOT / "docs" / "space.md").read_text(encoding="utf-8"))
    assert listed == ["app.py", "approach/", "requirements.txt"]
    for name in listed:
        copy = shutil.copytree if name.endswith("/") else shutil.copy
        copy(ROOT / name, tmp_path / name)
    with running_page(tmp_path, merged, DATASET=str(dataset), PYTHONPATH="") as (address, _):
        with urllib.request.urlopen(address) as answer:
            assert answer.status == 200 and "Research approach drafts" in answer.read().decode("utf-8")
        with urllib.request.urlopen(f"{address}config") as answer:
            assert "#drafts .grid" in answer.read().decode("utf-8"), "the style sheet is there, too"


def test_arguments_come_from_the_environment_where_they_are_not_given(monkeypatch, capsys):
    for variable, value in {"MODEL": "m", "DATASET": "d", "BASE_MODEL": ""}.items():
        monkeypatch.setenv(variable, value)
    args = parse_arguments([])
    assert (args.model_name_or_path, args.dataset_name, args.base_model_name_or_path) == ("m", "d", None)
    given = ["--model", "n", "--dataset-name", "e", "--base_model_name_or_path", "b"]
    args = parse_arguments(given)
    assert (args.model_name_or_path, args.dataset_name, args.base_model_name_or_path) == ("n", "e", "b")
    assert parse_arguments(["--model_name_or_path", "n", *given[2:]]) == args
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    for variable in ("MODEL", "DATASET", "BASE_MODEL"):
        assert re.search(rf"environment\s+variable\s+{variable}\b", shown), variable


def test_mistakes_end_in_one_clear_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MODEL", raising=False)
    for arguments, part in [([], "--model_name_or_path is missing"), (["--model", "x", "--port", "0"], "got 0")]:
        with pytest.raises(SystemExit) as mistake:
            parse_arguments(arguments)
        assert mistake.value.code == 2 and part in capsys.readouterr().err
    assert_one_clear_line(run_script("app.py", "--model", tmp_path / "none"), 1, "--model_name_or_path", "none")


@pytest.fixture
def on_draft(merged):
    """What the button "Draft" does, on a page of this process."""
    import gradio as gr

    from approach.page.provenance import TrainingPairs

    tuned, base = app.load_drafters(parse_arguments(["--model", str(merged)]))
    assert base is None
    handler, _ = app.make_handlers(tuned, base, TrainingPairs(None))
    request = gr.Request(session_hash="reader")
    return lambda *settings: list(handler(PROBLEM, *settings, False, request))[-1]


def test_an_emptied_field_counts_as_its_default(on_draft):
    given = list(app.DEFAULTS.values())
    given[list(app.DEFAULTS).index("max_new_tokens")] = 8
    expected = on_draft(*given)
    for name in ("seed", "num_drafts", "top_p"):
        emptied = [None if key == name else value for key, value in zip(app.DEFAULTS, given, strict=True)]
        assert on_draft(*emptied) == expected, name


def test_revisions_reach_the_loader(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "approach.generation.engine.Drafter.__init__", lambda self, *a, **named: asked.append((*a, named))
    )
    monkeypatch.setattr("approach.generation.engine.Drafter.check_trained", lambda self: None)
    command = ["--model", "user/a", "--model_revision", "v1", "--base_model_name_or_path", "user/b"]
    app.load_drafters(parse_arguments([*command, "--base_model_revision", "v2"]))
    (model, tuned), (base, untuned) = asked
    assert (model, tuned["revision"], tuned["base"], tuned["base_revision"]) == ("user/a", "v1", "user/b", "v2")
    assert (base, untuned["revision"], untuned["is_base"]) == ("user/b", "v2", True)


def test_help_loads_neither_torch_nor_gradio():
    code = "import sys, app; assert not {'torch', 'transformers', 'gradio', 'evaluate'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
