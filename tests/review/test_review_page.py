"""The page as a rater meets it, in a headless Chromium, by the keyboard alone."""

import json
import shutil
from pathlib import Path

import pytest
from review_inputs import HOSTILE, make_sheet, read_key, read_spreadsheet, write_scores

from approach.review.ratings import read_ratings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
ANSWERS = ["fits", "approach", "tryable", "wrong", "use"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return write_scores(tmp_path_factory.mktemp("evaluation") / "scores")


@pytest.fixture(scope="module")
def sheet(scores, tmp_path_factory):
    return make_sheet(scores, tmp_path_factory.mktemp("review") / "sheet", "--num_problems", "12", "--raters", "2")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*SWITCHES.split(), "--no-first-run"])
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser):
    """A browser that has not seen the sheet. What a page asks for elsewhere, or what goes wrong in it, fails."""
    made, trouble = browser.new_context(viewport={"width": 1100, "height": 900}, accept_downloads=True), []
    made.on("request", lambda request: trouble.append(request.url))
    made.on("weberror", lambda error: trouble.append(str(error.error)))
    yield made
    made.close()
    assert [text for text in trouble if not text.startswith(("file:", "blob:"))] == []


def open_sheet(context, sheet: Path):
    """The page in a new tab."""
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto((sheet / "for_raters" / "review.html").as_uri())
    return page


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def begin(page, rater: int = 1) -> None:
    """Chooses a rater's number and begins, by the keyboard."""
    press(page, "Space", *["ArrowRight"] * (rater - 1), "Enter")


def rate_all(page, rows: list[dict]) -> list[dict]:
    """Answers every item of a rater's list, and keeps what was answered."""
    given = []
    for number, row in enumerate(rows):
        if row["draft_b"]:
            keys = ["atb"[number % 3]]
            given.append({"better": {"a": "A", "t": "tie", "b": "B"}[keys[0]]})
        else:
            keys = [*("yn"[number >> place & 1] for place in range(4)), str(1 + number % 5)]
            words = [{"y": "yes", "n": "no"}.get(key, key) for key in keys]
            given.append(dict(zip(ANSWERS, words, strict=True)))
        press(page, *keys, "Enter")
    return given


def export(page, folder: Path) -> Path:
    with page.expect_download() as waiting:
        press(page, "e")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def assert_rated_by_keys(context, sheet: Path, scores: Path, folder: Path, rater: int) -> None:
    """One tab, no reload: from the first key to the exported file, which the analysis reads."""
    rows = read_spreadsheet(sheet / "for_raters" / f"sheet-rater-{rater}.csv")
    page = open_sheet(context, sheet)
    begin(page, rater)
    given = rate_all(page, rows)
    assert "Everything is answered" in page.locator("#left").inner_text()
    path = export(page, folder)
    assert path.name == f"ratings-rater-{rater}.csv"
    for row, wrote, answers in zip(rows, read_spreadsheet(path), given, strict=True):
        assert wrote["item"] == row["item"] and {name: wrote[name] for name in answers} == answers
        assert not any(wrote[name] for name in (*ANSWERS, "better") if name not in answers)
    ratings = read_ratings([str(path)], sheet / "key.json", scores)
    assert ratings.raters == [rater] and len(ratings.repeats) > 0
    assert page.evaluate("window.harmed") is None, "a draft's script ran"


def test_a_sheet_is_rated_by_the_keyboard_alone_and_its_export_is_read(context, sheet, scores, tmp_path):
    assert_rated_by_keys(context, sheet, scores, tmp_path, rater=2)


@pytest.mark.slow
def test_fifty_problems_and_four_systems_take_no_reload(context, scores, tmp_path):
    large = make_sheet(scores, tmp_path / "sheet", "--systems", "fine-tuned", "--drafts_per_problem", "4")
    assert len(read_key(large)["systems"]) == 4
    assert_rated_by_keys(context, large, scores, tmp_path, rater=3)


def test_a_crash_of_the_tab_and_a_second_tab_lose_nothing(context, sheet, tmp_path):
    from playwright.sync_api import Error

    first, second = open_sheet(context, sheet), open_sheet(context, sheet)
    begin(first)
    press(first, *"ynyn3", "Enter", *"yy")
    begin(second)
    press(second, *"nn")
    with pytest.raises(Error):
        first.goto("chrome://crash", timeout=20_000)
    page = open_sheet(context, sheet)
    assert "goes on where you stopped" in page.locator("#found").inner_text()
    press(page, "Enter")
    assert page.locator("#heading").inner_text().startswith("Draft 2 of"), "it goes on at what is open"
    rows = read_spreadsheet(export(page, tmp_path))
    assert [rows[0][name] for name in ANSWERS] == ["yes", "no", "yes", "no", "3"]
    assert [rows[1][name] for name in ANSWERS] == ["yes", "yes", "no", "no", ""], "of both tabs"


def test_going_on_with_an_open_question_takes_two_presses_and_back_shows_what_was_said(context, sheet):
    page = open_sheet(context, sheet)
    press(page, "Enter")
    assert page.locator("#found").inner_text() == "Choose your number first."
    begin(page)
    press(page, "y", "Enter")
    assert "4 questions are open" in page.locator("#notice").inner_text()
    press(page, "Enter")
    assert page.locator("#heading").inner_text().startswith("Draft 2 of")
    assert page.locator("#progress").inner_text() == "Rater 1: 0 of 63 answered"
    press(page, "Backspace")
    assert page.locator("input[name=fits][value=yes]").is_checked() and page.locator(".question :checked").count() == 1
    press(page, "h")
    assert page.get_by_text("How to judge").is_visible() and not page.locator("#work").is_visible()


def test_letters_can_be_turned_off_for_those_who_speak_or_have_a_screen_read_to_them(context, sheet):
    page = open_sheet(context, sheet)
    begin(page)
    assert page.get_by_role("group", name="Does it fit this problem?").get_by_role("radio", name="yes").count() == 1
    assert page.get_by_role("radio").count() == 4 * 2 + 5 and page.evaluate("document.activeElement.id") == "heading"
    page.get_by_label("letter keys").uncheck()
    press(page, "y")
    assert page.locator(".question input:checked").count() == 0
    page.get_by_role("group", name="Could it be tried?").get_by_role("radio", name="no").check()
    assert page.locator("input[name=tryable][value=no]").is_checked()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_wide_and_narrow_light_and_dark(browser, sheet, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = open_sheet(context, sheet)
    begin(page)
    assert HOSTILE in page.locator("#problem").inner_text(), "a text is shown as text"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("place = items.findIndex((item) => item.drafts.length === 2); showItem()")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    one, other = (page.locator(f"#draft-{side}").bounding_box() for side in "ab")
    assert (one["y"] == other["y"]) == (width == 1200), "side by side where there is room, else one below the other"
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, colour.strip("rgb()").split(","))) for colour in (ground, ink)]
    assert abs(brightness[0] - brightness[1]) > 450 and (brightness[0] > brightness[1]) == (scheme == "light")
    context.close()


def test_nothing_leaves_the_page_and_nothing_else_runs_in_it(browser, sheet):
    context = browser.new_context()
    page = open_sheet(context, sheet)
    blocked = page.evaluate(
        """async () => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
            await fetch("https://example.org/").catch(() => 0);
            const script = document.createElement("script");
            script.textContent = "window.harmed = 1";
            document.body.append(script);
            const image = new Image();
            image.src = "https://example.org/x.png";
            await new Promise((done) => setTimeout(done, 300));
            return seen;
        }"""
    )
    assert {"connect-src", "script-src-elem", "img-src"} <= set(blocked) and page.evaluate("window.harmed") is None
    context.close()


def test_a_browser_that_keeps_nothing_says_so_and_still_exports(context, sheet, tmp_path):
    refuse = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }});"
    context.add_init_script(refuse)
    page = open_sheet(context, sheet)
    assert "keeps no answers" in page.locator("#warning").inner_text()
    begin(page)
    press(page, *"ynyn3")
    assert read_spreadsheet(export(page, tmp_path))[0]["use"] == "3"


def test_every_number_of_rater_has_a_list_of_its_own(sheet):
    text = (sheet / "for_raters" / "review.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('id="sheet">')[2].partition("</script>")[0])
    assert len(data["raters"]) == 2 and data["raters"][0] != data["raters"][1]
