"""What stands below the page's buttons: drafts as HTML while they are written, and as Markdown to take along."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from approach.page.provenance import Provenance, TrainingPairs
from approach.page.streaming import StreamedDraft, stream_drafts
from approach.prompt import differences_from_training
from approach.templates import HTML_TEMPLATES

if TYPE_CHECKING:
    from approach.generation.engine import Drafter

MAX_PROBLEM_CHARACTERS = 2000  # beyond this it is not a sentence
MIN_FREE_TOKENS = 32  # that the model's context must leave for a draft
ARXIV_ID = r"(arXiv:)?(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?"
ANTHOLOGY_ID = r"\d{4}\.[a-z][a-z0-9_-]*\.\d+|[A-Z]\d\d-\d{4,5}"


def answer(
    drafters: "Sequence[Drafter]",
    pairs: TrainingPairs,
    problem: str,
    decoding: Mapping,
    seeds: Sequence[int],
    max_new_tokens: int,
    stopped: threading.Event,
) -> Iterator[str]:
    """The HTML below the buttons, again and again while drafts are written, in the end with where they come from."""
    problem = " ".join(problem.split())
    if reason := find_obstacle(problem, drafters):
        yield f'<p class="refused" role="alert">{escape(reason)}</p>'
        return
    advice = "".join(f"{difference}. " for difference in differences_from_training(problem))
    drafts, was_stopped = [], False
    for drafts in stream_drafts(drafters, problem, decoding, seeds, max_new_tokens, stopped):
        was_stopped = stopped.is_set()
        yield render_drafts(problem, drafts, decoding, f"{advice}Writing …")
    origins = pairs.trace([draft.text for draft in drafts])
    yield render_drafts(problem, drafts, decoding, f"{advice}{'Stopped.' if was_stopped else 'Done.'}", origins)


def find_obstacle(problem: str, drafters: "Sequence[Drafter]") -> str:
    """Why no draft can be made for this problem, in plain words; empty where one can."""
    if not problem:
        return "Write a research problem first, in one sentence."
    if len(problem) > MAX_PROBLEM_CHARACTERS:
        return (
            f"This text has {len(problem.split()):,} words, which is more than this page takes "
            f"({MAX_PROBLEM_CHARACTERS:,} characters). Say the problem in one sentence."
        )
    if any(each.count_free_tokens(each.encode_problem(problem)) < MIN_FREE_TOKENS for each in drafters):
        return "This text is longer than the model can read. Say the problem in one sentence."
    return ""


def render_drafts(
    problem: str,
    drafts: Sequence[StreamedDraft],
    decoding: Mapping,
    status: str,
    origins: Sequence[Provenance] | None = None,
) -> str:
    """The drafts as HTML, side by side; `origins` says where each comes from, once that is known."""
    cards = []
    for draft, provenance in zip(drafts, origins or [None] * len(drafts), strict=True):
        text = draft.text
        spans = list_spans(provenance) if provenance else []
        cards.append(
            {
                "draft": draft,
                "provenance": provenance,
                "pieces": cut_at_spans(text, spans),
                "num_words": len(text.split()),
                "num_citations": len(provenance.citations) if provenance else 0,
            }
        )
    markdown = to_markdown(problem, drafts, decoding)
    template = HTML_TEMPLATES.get_template("drafts.html")
    return template.render(cards=cards, status=status, markdown=markdown, find_url=find_url)


def to_markdown(problem: str, drafts: Sequence[StreamedDraft], decoding: Mapping) -> str:
    """The drafts as Markdown, in which HTML stays text."""
    blocks = [f"**Problem.** {problem}"]
    blocks += [f"## {draft.heading} (seed {draft.seed})\n\n{draft.text}" for draft in drafts]
    settings = f"temperature {decoding['temperature']:g}, top-p {decoding['top_p']:g}"
    settings += f", repetition penalty {decoding['repetition_penalty']:g}, guidance {decoding['guidance']:g}"
    blocks.append(f"Drafts by a small model ({settings}), to be checked: it invents results and citations.")
    return "\n\n".join(blocks).replace("<", "&lt;") + "\n"


def list_spans(provenance: Provenance) -> list[tuple[int, int, str]]:
    """What is marked in a draft, as `(start, end, kind)` in characters."""
    spans = [(start, end, "citation") for start, end in provenance.citations]
    if provenance.longest_run:
        spans.append((*provenance.longest_run.span, "run"))
    return spans


def cut_at_spans(text: str, spans: Sequence[tuple[int, int, str]]) -> list[tuple[str, set[str]]]:
    """The text in pieces, each with the kinds of all spans that it lies in; spans may overlap."""
    cuts = sorted({0, len(text), *(cut for start, end, _ in spans for cut in (start, end))})
    return [
        (text[begin:stop], {kind for start, end, kind in spans if start <= begin < end})
        for begin, stop in zip(cuts, cuts[1:], strict=False)
    ]


def find_url(row_id: str) -> str | None:
    """Where the paper of a training row can be read, by an id of arXiv or of the ACL Anthology."""
    if re.fullmatch(ARXIV_ID, row_id):
        return f"https://arxiv.org/abs/{row_id.removeprefix('arXiv:')}"
    if re.fullmatch(ANTHOLOGY_ID, row_id):
        return f"https://aclanthology.org/{row_id}/"
    return None
