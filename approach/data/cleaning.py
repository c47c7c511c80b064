"""
The one cleaning step, before sentences are cut: what exports of databases add to an abstract is taken out and counted.

Python's own `html` decodes the entities. A parser such as BeautifulSoup takes every `<subject, predicate>` for a tag,
and ftfy also rewrites quotation marks and ligatures of texts that are right, so neither is used.
"""

import re

from approach.text import decode_entities, remove_invisible, remove_markup

WITHDRAWN = re.compile(
    r"\W*(?:withdrawn|retracted|retraction|withdrawal)\b(?:\W*$|\s*[.:\])]|\W+(?:by|due|article|paper|notice)\b)"
    r"|\W*(?:this|the|our) (?:\w+ ){0,2}?(?:paper|article|submission|manuscript|preprint|work|version|e-?print|study)"
    r" (?:has been|had been|is|was|is being) (?:\w+ ){0,2}?(?:withdrawn|retracted)\b",
    re.IGNORECASE,
)
# Tokens that end or begin a text for most bases. Those that only some bases have, such as [MASK], are left alone.
SPECIAL_TOKENS = re.compile(r"</?s>|<\|[A-Za-z_]+\|>")
SEPARATORS = re.compile(r"[^\S\r\n ]")  # white space of all kinds but line breaks and plain spaces
ASCII_SEPARATORS = dict.fromkeys(map(ord, "\t\x0b\x0c\x1c\x1d\x1e\x1f"), " ")
MISSING = re.compile(
    r"\W*(?:(?:no |an )?abstract(?: is| was)?(?: currently| yet)?(?: not)? ?"
    r"(?:available|provided|found|supplied|unavailable|missing)"
    r"|(?:this (?:article|paper) has )?no abstract|n/?a|none|null|not available)\b\W*(?:for this \w+\W*)?",
    re.IGNORECASE,
)
# "Abstract" alone, with a mark after it, in capitals, or before a sentence. "Abstract Meaning Representation" stays.
HEADING = re.compile(
    r"\s*(?:[#*_]+ ?(?i:abstract|summary|résumé)[:.]?[*_]*"
    r"|(?i:abstract|summary|résumé)(?:[ \t]*[:.—–|]|[ \t]+-(?=\s)|[ \t]*(?=[\r\n]))"
    r"|\d{1,2}\.?\s+(?i:abstract|summary|introduction)(?=\s+[A-Z])"
    r"|(?:ABSTRACT|SUMMARY)(?=\s+[A-Z][a-z]|\s+[A-Z]\s)"
    r"|Abstract(?=\s+(?:[A-Z][a-z]+|[A-Z]) [a-z]))\s*"
)
NOTICE_START = r"(?:©|\(c\)(?=\s*(?:\d{4}|copyright))|copyright\b(?=\s*(?:©|\(c\)|\d{4}|by\b|:)))"
NOTICE = re.compile(
    rf"{NOTICE_START}|all rights (?:are )?reserved|(?:this is an )?open access\b.*(?:licen[cs]e|article)"
    r"|this (?:article|work) is (?:protected by copyright|licensed|published under|distributed under)"
    r"|(?:published|licensed|licensee) (?:by|under|mdpi|elsevier)\b|(?:the )?author\(s\),? ?(?:\d{4}|under)"
    r"|(?:ltd|inc|b\.?v|llc|gmbh|co)\.?$"
    r"|(?:19|20)\d\d,? (?:by )?(?:the )?(?:author|ieee|acm|elsevier|springer|wiley|association for|published by)\b",
    re.IGNORECASE,
)
# White space after a sentence. "A. B. Smith" is none; "Elsevier B.V." may end one.
BOUNDARY = re.compile(
    r"(?:(?<=[.!?])(?<!\b[A-Z]\.)|(?<=B\.V\.)|(?<=N\.V\.)|(?<=[.!?]\)))\s+(?=[A-Z©(\d])|\s*[\r\n]+\s*"
)
TRAILING_NOTICE = re.compile(rf"(?:^|(?<=[.!?)\]])\s*|\s*[\r\n]+\s*){NOTICE_START}", re.IGNORECASE)
NOTICE_HINTS = ("©", "(c)", "copyright", "rights reserved", "published by", "open access", "licen", "author(s)")
NOTICE_HINTS += ("ieee.", "acm.", "elsevier", "springer", "wiley", "association for")
MAX_NOTICE = 300  # characters of a notice that ends a text


def clean_text(text: str) -> tuple[str, list[str]]:
    """An abstract without what exports add to it, and which of CLEANING_STEPS changed it."""
    changed = []
    for name, step in STEPS:
        before, text = text, step(text)
        if text is not before and text != before and name not in changed:
            changed.append(name)
    return text.strip(), changed


def is_withdrawn(text: str) -> bool:
    """Whether an abstract says that its paper was withdrawn or retracted."""
    return bool(WITHDRAWN.match(text))


def detect_language(text: str) -> str:
    """The ISO code of a text's language, by py3langid; an abstract is long enough for it to be right."""
    from py3langid import classify  # loads its model, which only --language needs

    return classify(text)[0]


def replace_separators(text: str) -> str:
    """A text in which U+2028, form feeds, no-break spaces and other separators are spaces; line breaks stay."""
    return text.translate(ASCII_SEPARATORS) if text.isascii() else SEPARATORS.sub(" ", text)  # `translate` is fast


def remove_special_tokens(text: str) -> str:
    """A text without tokens such as `</s>`, which a tokenizer would take for the end of a text."""
    return (
        re.sub(r" {2,}", " ", SPECIAL_TOKENS.sub(" ", text)) if "<" in text and SPECIAL_TOKENS.search(text) else text
    )


def remove_heading(text: str) -> str:
    """A text without the heading "Abstract" or "Summary"."""
    match = HEADING.match(text)
    return text[match.end() :] if match else text


def remove_copyright(text: str) -> str:
    """A text without the copyright and publisher's lines at its beginning and its end."""
    ends = (text[:MAX_NOTICE] + text[-MAX_NOTICE:]).lower()
    if not any(hint in ends for hint in NOTICE_HINTS):
        return text
    while (boundary := BOUNDARY.search(text)) and NOTICE.match(text[: boundary.start()]):
        text = text[boundary.end() :]
    for match in TRAILING_NOTICE.finditer(text):
        if match.start() and len(text) - match.start() <= MAX_NOTICE:
            text = text[: match.start()]
            break
    text = text.strip()
    sentences = list(BOUNDARY.finditer(text))
    while sentences and NOTICE.match(text[sentences[-1].end() :]) and len(text) - sentences[-1].end() <= MAX_NOTICE:
        text = text[: sentences.pop().start()]
    return text


def decode_markup(text: str) -> str:
    """A text with its entities decoded once; tags that were escaped become tags by this, and go, too."""
    return remove_markup(decode_entities(text)) if "&" in text else text


def remove_missing(text: str) -> str:
    """An empty text for a notice that there is no abstract."""
    return "" if len(text) < MAX_NOTICE and MISSING.fullmatch(text) else text


STEPS = (
    ("markup", remove_markup),
    ("entities", decode_markup),
    ("invisible_characters", remove_invisible),
    ("separators", replace_separators),
    ("special_tokens", remove_special_tokens),
    ("missing_abstract", remove_missing),
    ("heading", remove_heading),
    ("copyright", remove_copyright),
    ("heading", remove_heading),  # after a copyright line
)
CLEANING_STEPS = (*dict.fromkeys(name for name, _ in STEPS), "labels")  # as the build report counts them
