"""The HTML and the Markdown of drafts."""

import re

import pytest

from approach.page.html import render_drafts, to_markdown
from approach.page.provenance import Provenance, SharedRun, TrainingPairs
from approach.page.streaming import StreamedDraft

HOSTILE = "A <script>window.harmed=1</script> & <img src=x onerror='window.harmed=1'> ${window.harmed=1} {{7*7}}"
DECODING = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.15, "guidance": 1.0}


def make_draft(text: str) -> StreamedDraft:
    """A draft of which a model wrote this text."""

    class Echo:
        def decode(self, ids, skip_special_tokens):
            return text

    return StreamedDraft("Draft 1", 42, Echo(), set())


def render(text: str, origin: Provenance | None = None, problem: str = "A problem.", status: str = "Done.") -> str:
    return render_drafts(problem, [make_draft(text)], DECODING, status, [origin] if origin else None)


def test_text_of_a_model_is_escaped():
    run = SharedRun(2, (0, 10), HOSTILE)
    row = {"id": HOSTILE, "problem": HOSTILE, "approach": HOSTILE}
    origin = Provenance([(2, 20)], compared=True, longest_run=run, nearest=[row])
    for page in (render(HOSTILE, problem=HOSTILE), render(HOSTILE, origin, HOSTILE, HOSTILE)):
        assert "<script" not in page and "<img" not in page and "49" not in page
    assert render(HOSTILE, problem=HOSTILE).count("&lt;script&gt;") == 1


def test_marks_may_overlap_and_text_between_them_is_escaped():
    page = render("abc<d>", Provenance([(1, 4)], compared=True, longest_run=SharedRun(1, (0, 2), "row-1")))
    run, citation = '<mark title="a training approach has these words">', '<span class="citation" title="[^"]*">'
    marked = rf"{run}a</mark>{run}{citation}b</span></mark>{citation}c&lt;</span>d&gt;"
    assert re.search(rf'<p class="text">{marked}</p>', page), page


def test_provenance_can_be_opened(dataset):
    pairs = TrainingPairs(str(dataset))
    text = "Zzz " + " ".join(pairs.rows[3]["approach"].split()[5:20]) + " (Smith et al., 2019)"
    page = render(text, *pairs.trace([text]))
    assert "<mark>15 words</mark>" in page and "62% of its 8-word runs are in them." in page
    assert page.index(pairs.rows[3]["id"]) < page.index("The nearest training approaches")
    assert page.count("<li>") == 3 and "to look up: 1" in page
    assert "Where it comes from" not in render(text, *TrainingPairs(None).trace([text]))
    assert "It shares no word with the training approaches." in render("Zzz", *pairs.trace(["Zzz"]))


def test_a_character_of_which_bytes_are_missing_is_not_shown():
    page = render("naï\N{REPLACEMENT CHARACTER}")
    assert "\N{REPLACEMENT CHARACTER}" not in page and '<p class="text">naï</p>' in page


def test_markdown_states_how_drafts_were_sampled_and_holds_no_html():
    text = to_markdown("What is a < b?", [make_draft("<b>An answer.")], DECODING)
    assert text == (
        "**Problem.** What is a &lt; b?\n\n## Draft 1 (seed 42)\n\n&lt;b>An answer.\n\n"
        "Drafts by a small model (temperature 0.7, top-p 0.9, repetition penalty 1.15, guidance 1), to be checked: "
        "it invents results and citations.\n"
    )


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
    row = {"id": row_id, "problem": "A problem.", "approach": "An approach."}
    page = render("A draft.", Provenance([], compared=True, nearest=[row]))
    link = re.search("<li>(.*?)<details>", page)[1]
    assert f'href="{url}"' in link if url else link in ("row-12", "&lt;b&gt;")
