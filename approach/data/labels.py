"""Structured abstracts: the labels that authors gave to the parts, such as `BACKGROUND: … METHODS: …`."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of an abstract; without a label it is what stands before the first one."""

    label: str
    kind: str  # "problem", "approach", "mixed" (problem, then approach), "other" (results), "keywords", or empty
    text: str


def list_words(text: str) -> frozenset[str]:
    """The words of a label or of a list below, in lower case."""
    return frozenset(re.findall(r"[a-z]+", text.lower()))


PROBLEM_WORDS = list_words("""
    background backgrounds objective objectives introduction aim aims purpose purposes context rationale
    rationales hypothesis hypotheses problem problems motivation motivations importance question questions
    object goal goals intent
""")
APPROACH_WORDS = list_words("""
    method methods material materials methodology methodologies design designs setting settings participant
    participants patients subject subjects population populations sample samples sampling intervention
    interventions measure measures measured measurement measurements procedure procedures approach approaches
    location probands exposure exposures eligibility sources selection extraction collection analysis analyses
    endpoint endpoints point points variables instruments technique techniques cohort animals protocol
    volunteers strategy
""")
# Results, conclusions, and what is neither problem nor approach: a section with one of these words is never used.
OTHER_WORDS = list_words("""
    result results finding findings conclusion conclusions concluding discussion discussions interpretation
    interpretations implication implications limitation limitations significance observation observations
    synthesis recommendation recommendations relevance registration funding keywords availability contact
    supplementary abbreviations advances novelty improvement applications case cases report reports presentation
    description comment comments lessons value originality findings contribution contributions perspective
    perspectives impact
""")
OUTCOME_WORDS = list_words("outcome outcomes")  # of measures: approach; alone: results
NEUTRAL_WORDS = list_words("""
    and of the study studies main primary secondary research data key patient clinical trial principal general
    overall statistical review to for in with a this search social practical theoretical experimental end brief
    major investigation information number or summary unlabelled unlabeled words outcome outcomes specific
    current type paper
""")
STRONG_WORDS = PROBLEM_WORDS | APPROACH_WORDS | OTHER_WORDS | OUTCOME_WORDS
LABEL_WORDS = STRONG_WORDS | NEUTRAL_WORDS
FUNCTION_WORDS = list_words("and of the to for in with a this or")  # no label begins or ends with one
LABEL_STARTS = LABEL_WORDS - FUNCTION_WORDS
# How a label's word may stand in a text of one line; most abstracts have none of these, which is quickly seen.
CAPITALISED = frozenset(
    form + mark
    for word in STRONG_WORDS
    for form in (word.capitalize(), word.upper())
    for mark in ("", ":", ".", ",", "—", "–")
)
SUMMARY_LABELS = ("summary", "unlabelled", "unlabeled")
NUMBERING = r"(?:\(?\d{1,2}[.)]\s*)?"  # "(1) Background: " or "1. Introduction"
# Where a label may stand: at the beginning of the text, of a line, or of a sentence.
START = re.compile(rf"(?:^\s*|\s*[\r\n]\s*|(?<=[.!?])\s+|(?<=[.!?][\"”)\]])\s+){NUMBERING}")
LINE_START = re.compile(rf"[\r\n]\s*{NUMBERING}([A-Za-z]+)")
WORD = re.compile(r"[A-Za-z]+")
# A label with a mark after it: "Methods: ", "METHODS. ", "Purpose – ", or alone on its line.
MARKED_LABEL = re.compile(
    r"(?P<label>[A-Za-z][A-Za-z,/&'’() -]{2,70}?)(?P<mark>\s?:|\s?[—–]|\.(?=\s)|\s-(?=\s)|[ \t]*(?=[\r\n]))"
)
UNKNOWN_LABEL = re.compile(r"(?P<label>[A-Z][A-Z0-9,/&() -]{3,70}):")  # "ICU LOS: ", beside known labels
HEADLINE_CASE = re.compile(r"[A-Z, /&-]+|[A-Z][a-z]*(?:[ ,/&-]+[a-z]+)*|(?:[A-Z][a-z]*|and|of|the|in|[ ,/&-])+")
# A word of a label that has only a space after it: "Methods We train …". Two labels of different kinds are needed.
BARE_WORD = re.compile(r"[\s,/&-]*[A-Za-z]+")


def find_kind(label: str) -> str:
    """What a section with this label says: "problem", "approach", "mixed" or "other"."""
    words = list_words(label)
    if "keywords" in words or {"key", "words"} <= words or "index terms" in label.lower():
        return "keywords"
    if words & OTHER_WORDS:
        return "other"
    if words & OUTCOME_WORDS and words <= OUTCOME_WORDS | {"and"}:
        return "other"
    is_problem, is_approach = bool(words & PROBLEM_WORDS), bool(words & (APPROACH_WORDS | OUTCOME_WORDS))
    if is_problem and is_approach:
        return "mixed" if words & {"methods", "method", "design", "materials", "methodology"} else "problem"
    return "problem" if is_problem else "approach" if is_approach else "other"


def is_label(text: str) -> bool:
    """Whether a text is a label in one of the usual forms, of known words alone."""
    if text.lower() in SUMMARY_LABELS:
        return True
    words, ordered = list_words(text), WORD.findall(text.lower())
    if not ordered or ordered[0] in FUNCTION_WORDS or ordered[-1] in FUNCTION_WORDS:
        return False
    return bool(words & STRONG_WORDS) and words <= LABEL_WORDS


def find_labels(text: str) -> list[tuple[int, int, str]]:
    """Begin, end and label of each label in a text, in their order."""
    # Most abstracts have none, which is quickly seen: a label in lower case begins a line and has its colon.
    has_no_capital = text.islower() or CAPITALISED.isdisjoint(text.replace("/", " ").split())
    if has_no_capital and (":" not in text or LABEL_STARTS.isdisjoint(map(str.lower, LINE_START.findall(text)))):
        return []
    known, bare, unknown = [], [], []
    for start in START.finditer(text):
        begin = start.end()
        at_line_start = not start.start() or "\n" in start[0] or "\r" in start[0]
        first = WORD.match(text, begin)
        if first and first[0].lower() in LABEL_WORDS:
            if end := find_marked_label(text, begin, at_line_start):
                known.append((start.start(), *end))
                continue
            if end := find_bare_label(text, begin):
                bare.append((start.start(), end, text[begin:end]))
                continue
        if at_line_start and (match := UNKNOWN_LABEL.match(text, begin)):
            unknown.append((start.start(), match.end(), match["label"]))
    if not known and bare and len({find_kind(label) for _, _, label in bare}) > 1 and not text[: bare[0][0]].strip():
        known = bare
    return sorted(known + unknown) if known else []


def find_marked_label(text: str, begin: int, at_line_start: bool) -> tuple[int, str] | None:
    """End and name of a label with a mark after it."""
    match = MARKED_LABEL.match(text, begin)
    if not match or not is_label(match["label"]):
        return None
    label, mark = match["label"], match["mark"].strip()
    if not mark:
        is_right = at_line_start and label[0].isupper()
    elif label[0].islower():
        is_right = at_line_start and mark == ":"
    else:
        is_right = mark != "." or bool(HEADLINE_CASE.fullmatch(label))
    return (match.end(), label.strip()) if is_right else None


def find_bare_label(text: str, begin: int) -> int | None:
    """The end of the longest label that has only a space after it, and then a capital or a number."""
    end, longest = begin, None
    while text[begin].isupper() and end - begin < 60 and (word := BARE_WORD.match(text, end)):
        end = word.end()
        if WORD.search(word[0])[0].lower() not in LABEL_WORDS:
            break
        if is_label(text[begin:end]) and re.match(r"\s+[A-Z0-9“\"(]", text[end : end + 3]):
            longest = end
    return longest


def parse_sections(text: str) -> list[Section]:
    """The sections of an abstract; one without a label where it has none."""
    labels = find_labels(text)
    begins = [begin for begin, _, _ in labels]
    sections = [Section("", "", text[: begins[0] if begins else None].strip())]
    for (_, begin, label), end in zip(labels, [*begins[1:], None], strict=False):
        sections.append(Section(label, find_kind(label), text[begin:end].strip()))
    return [section for section in sections if section.text]
