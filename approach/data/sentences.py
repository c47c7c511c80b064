"""How an abstract is cut into sentences: one rule for each way in which abstracts come."""

import re

# Boundary F1 0.989 on CSAbstruct, 13,000 abstracts a second (benchmarks/README.md).
from nupunkt import sentences as find_sentences

# White space after a stop and before a capital, digit, quote or bracket, unless "e.g." or "Dr." stands before it.
REPORT_BOUNDARY = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=[.!?])\s+(?=[A-Z0-9“(])")


def split_lines(abstract: str) -> list[str]:
    """One sentence a line, white space folded; empty lines are no sentences."""
    return [" ".join(line.split()) for line in abstract.splitlines() if line.strip()]


def split_punctuation(abstract: str) -> list[str]:
    """Sentences of prose as authors wrote it, white space folded first: a line break there means nothing."""
    return [sentence.strip() for sentence in find_sentences(" ".join(abstract.split()))]


def split_auto(abstract: str) -> list[str]:
    """
    Lines where there are several, else punctuation.

    Lines of at most 80 characters that mostly end in mid-sentence are hard-wrapped prose: there punctuation decides.
    """
    lines = split_lines(abstract)
    cut_off = sum(line[-1] not in ".?!" for line in lines[:-1])
    is_wrapped = cut_off > (len(lines) - 1) / 2 and max(map(len, lines), default=0) <= 80
    return split_punctuation(abstract) if len(lines) < 2 or is_wrapped else lines


def split_report(abstract: str) -> list[str]:
    """The original report's rule, exactly, to reproduce its counts: at white space between a stop and a capital."""
    sentences = REPORT_BOUNDARY.split(abstract.strip())
    if len(sentences) < 2:
        sentences = [line.strip() for line in abstract.splitlines() if line.strip()]
    return sentences


SENTENCE_RULES = {"auto": split_auto, "lines": split_lines, "punctuation": split_punctuation, "report": split_report}
