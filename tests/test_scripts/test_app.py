"""The page, as a reader meets it: `python app.py` in a process of its own, in a headless Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line, run_script

import app
import draft_approach
from app import Draft, Settings, Training, link_id, load_system, mark_up, parse_arguments, render_page, stream_drafts

PROBLEM = "We study how small models read long texts with noise."
HOSTILE = "A <script>window.harmed=1</script> & <img src=x onerror='window.harmed=1'> ${window.harmed=1} {{7*7}}"
SETTINGS = Settings(num_drafts=2, temperature=0.7, top_p=0.9, seed=42, max_new_tokens=24)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def tuned(merged):
    return load_system(str(merged), "--model", tuned=True)


@pytest.fixture(scope="module")
def server(merged, base, dataset):
    """The running page: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As in a Space: what the page needs comes from environment variables.
    environment = {**os.environ, "MODEL": str(merged), "DATASET": str(dataset), "BASE_MODEL": str(base)}
    command = [sys.executable, "app.py", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith(f"The page is at http://127.0.0.1:{port}/ "), line
        yield f"http://127.0.0.1:{port}/", process
        process.terminate()


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


def set_number(page, label: str, value: int) -> None:
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
    assert "no tags; those in it are left out" in page.locator("#drafts .status").inner_text()
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
        arguments = [(PROBLEM, 2, 0.7, 0.9, i, 32, False) for i in range(50)]
        jobs = [client.submit(*row, api_name="/draft") for row in arguments]
        answers = [str(job.exception(timeout=300) or job.result()) for job in jobs]
        done, refused = (sum(part in answer for answer in answers) for part in ("Done.", "Queue is full"))
        assert done >= app.MAX_WAITING and done + refused == 50, answers
        memory.append(measure())
    assert memory[2] <= memory[1] + 4, f"MiB after each round: {memory}"


def test_the_page_and_the_terminal_draw_the_same_draft(tuned):
    [*_, [drawn]] = stream_drafts([tuned], PROBLEM, Settings(1, 0.7, 0.9, 42, 24), threading.Event())
    args = draft_approach.DraftArguments(model="", problem=PROBLEM, max_new_tokens=24)
    prompt = draft_approach.encode_problem(tuned.tokenizer, PROBLEM)
    expected = draft_approach.draft(tuned.model, tuned.tokenizer, prompt, args, seed=42)
    assert (len(drawn.ids), drawn.ended) == (expected["num_tokens"], expected["ended"])
    assert drawn.text == expected["approach"].removesuffix("\N{REPLACEMENT CHARACTER}")


def test_greedy_drafts_and_the_bases_own_prompt(tuned, base):
    untuned = load_system(str(base), "--base_model", tuned=False)
    settings = Settings(1, 0, 0.9, 42, 8)
    [*_, drafts] = stream_drafts([tuned, untuned], PROBLEM, settings, threading.Event())
    for system, drawn in zip([tuned, untuned], drafts, strict=True):
        text = f"<problem>{PROBLEM}</problem><approach>" if system.tuned else PROBLEM
        ids = system.tokenizer(text, return_tensors="pt")
        new = system.model.generate(**ids, do_sample=False, max_new_tokens=8)[0, ids["input_ids"].shape[1] :]
        assert drawn.ids == new.tolist()


def test_nobody_goes_on_writing_for_a_reader_who_left(tuned, monkeypatch):
    steps, put = [], app.TokenStreamer.put
    monkeypatch.setattr(app.TokenStreamer, "put", lambda self, value: (steps.append(1), put(self, value)))
    others = set(threading.enumerate())
    reader = stream_drafts([tuned], PROBLEM, Settings(4, 0.7, 0.9, 42, 448), threading.Event())
    next(reader)
    [writer] = set(threading.enumerate()) - others
    reader.close()
    writer.join(timeout=30)
    assert not writer.is_alive() and len(steps) < 100


def test_what_goes_wrong_while_writing_reaches_the_reader(tuned, monkeypatch):
    monkeypatch.setattr(tuned.model, "generate", lambda **arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(stream_drafts([tuned], PROBLEM, SETTINGS, threading.Event()))


def test_text_of_a_model_is_escaped_and_marked(tuned):
    class Echo:
        def decode(self, ids, skip_special_tokens):
            return HOSTILE

    draft = Draft("Draft 1", Echo(), set(), spans=[(0, 10, "run"), (2, 20, "citation")])
    page = render_page(HOSTILE, [draft], SETTINGS, "Done.")
    assert "<script" not in page and "<img" not in page and page.count("&lt;script&gt;") == 1
    text = mark_up("abc<d>", [(0, 2, "run"), (1, 4, "citation")])
    run, citation = '<mark title="a training approach has these words">', '<span class="citation" title="[^"]*">'
    assert re.fullmatch(rf"{run}a</mark>{run}{citation}b</span></mark>{citation}c&lt;</span>d&gt;", text), text


def test_provenance_names_rows_and_marks_runs(dataset):
    training = Training(str(dataset))

    class Copy:
        def decode(self, ids, skip_special_tokens):
            return "Zzz " + " ".join(training.rows[3]["approach"].split()[5:20]) + " (Smith et al., 2019)"

    draft = Draft("Draft 1", Copy(), set())
    training.explain([draft])
    kinds = {kind: draft.text[start:end] for start, end, kind in draft.spans}
    assert kinds["citation"] == "(Smith et al., 2019)"
    assert kinds["run"] == " ".join(training.rows[3]["approach"].split()[5:20])
    assert "<mark>15 words</mark>" in draft.provenance
    assert draft.provenance.index(training.rows[3]["id"]) < draft.provenance.index("The nearest training approaches")
    assert draft.provenance.count("<li>") == 3 and Training(None).rows is None


@pytest.mark.parametrize(
    ("row_id", "url"),
    [
        ("2101.00001", "https://arxiv.org/abs/2101.00001"),
        ("hep-th/9901001v2", "https://arxiv.org/abs/hep-th/9901001v2"),
        ("2022.aacl-main.1", "https://aclanthology.org/2022.aacl-main.1/"),
        ("P19-1001", "https://aclanthology.org/P19-1001/"),
        ("row-12", None),
        ("<b>", None),
    ],
)
def test_an_id_is_a_link_where_it_is_an_arxiv_or_an_acl_one(row_id, url):
    link = link_id(row_id)
    assert f'href="{url}"' in link if url else link in ("row-12", "&lt;b&gt;")


def test_mistakes_end_in_one_clear_line(merged, base, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MODEL", raising=False)
    for arguments, part in [([], "--model is missing"), (["--model", "x", "--port", "0"], "got 0")]:
        with pytest.raises(SystemExit) as mistake:
            parse_arguments(arguments)
        assert mistake.value.code == 2 and part in capsys.readouterr().err
    assert_one_clear_line(run_script("app.py", "--model", tmp_path / "none"), 1, "--model", "none")
    with pytest.raises(SystemExit, match="was not made by train_sft.py"):
        load_system(str(base), "--model", tuned=True)
    with pytest.raises(SystemExit, match="--dataset_name"):
        Training(str(tmp_path / "none"))


def test_help_loads_neither_torch_nor_gradio():
    code = "import sys, app; assert not {'torch', 'transformers', 'gradio', 'evaluate'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
