"""What texts carry besides their words, such as markup and invisible characters; and how two texts are compared."""

import re
import unicodedata
from html import unescape

NEWLINE_TAGS = r"p|br|hr|li|ul|ol|dl|dt|dd|div|tr|h[1-6]|blockquote"
INLINE_TAGS = r"i|b|em|strong|sub|sup|span|italic|bold|tt|small|big|font|td|th|img|wbr|inline-formula|tex-math|xref"
# Names that an abstract about texts may well write as <title>: they are tags where they are closed or have attributes.
AMBIGUOUS_TAGS = (
    r"a|abbr|abstract|alternatives|body|caption|center|cite|code|del|disp-formula|ext-link|fn|head|html|ins|kbd|label"
    r"|list|list-item|mark|math|monospace|pre|q|sc|sec|section|table|tbody|thead|title|u|underline|var"
)
NAMESPACE = r"(?:jats|mml|m|xhtml|html|ns\d+)"
ATTRIBUTES = r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+))"""
COMMENT = re.compile(r"<!--.*?-->|<\?xml.*?\?>|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
# PubMed's own XML: <AbstractText Label="METHODS">
LABELLED_SECTION = re.compile(r"""<AbstractText\b[^<>]*?\bLabel\s*=\s*["']([^"'<>]+)["'][^<>]*>""", re.IGNORECASE)
NEWLINE_TAG = re.compile(
    rf"</?(?:{NAMESPACE}:(?:{NEWLINE_TAGS}|title|sec|list|list-item)|{NEWLINE_TAGS}){ATTRIBUTES}*\s*/?>"
    r"|</?Abstract(?:Text)?>",
    re.IGNORECASE,
)
INLINE_TAG = re.compile(
    rf"</?(?:{NAMESPACE}:[\w-]+|{INLINE_TAGS}){ATTRIBUTES}*\s*/?>|<(?:{AMBIGUOUS_TAGS}){ATTRIBUTES}+\s*/?>",
    re.IGNORECASE,
)
CLOSING_TAG = re.compile(rf"</({AMBIGUOUS_TAGS})\s*>", re.IGNORECASE)
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def remove_markup(text: str) -> str:
    """
    A text without HTML, JATS and MathML tags, where tags of paragraphs and titles become line breaks.

    Names are looked up in lists, because a parser takes every `<subject, predicate>` for a tag.
    """
    if "<" not in text:
        return text
    text = COMMENT.sub(" ", CDATA.sub(r"\1", text))
    text = LABELLED_SECTION.sub(r"\n\1: ", text)
    text = INLINE_TAG.sub("", NEWLINE_TAG.sub("\n", text))
    for name in {match.lower() for match in CLOSING_TAG.findall(text)}:
        text = re.sub(rf"</?{name}\s*/?>", "\n" if name in ("title", "sec", "section") else "", text, flags=re.I)
    return text


def decode_entities(text: str) -> str:
    """A text with `&lt;` and its like decoded once. They must end in a semicolon, so that `?a=1&copy=2` stays."""
    return ENTITY.sub(lambda match: unescape(match[0]), text) if "&" in text else text


def remove_invisible(text: str) -> str:
    """A text without characters that nobody sees: soft hyphens, zero-width spaces, byte order marks (category Cf)."""
    if text.isascii():
        return text
    invisible = {character for character in set(text) if unicodedata.category(character) == "Cf"}
    return text.translate(dict.fromkeys(map(ord, invisible))) if invisible else text


def fold_text(text: str) -> str:
    """A text as it is compared: case, accents, ligatures, invisible characters and markup make no difference."""
    text = remove_markup(decode_entities(text) if "&" in text else text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", remove_invisible(text)).casefold()
        text = "".join(character for character in text if not unicodedata.combining(character))
    return text.lower()


def fold_words(text: str) -> list[str]:
    """The words of a text, split at white space and each folded: as many as `text.split()` gives."""
    if text.isascii() and "<" not in text and "&" not in text:
        return text.lower().split()
    return [fold_text(word) for word in text.split()]


def find_words(text: str) -> list[str]:
    """The words of a folded text, without spacing and punctuation."""
    return re.findall(r"[^\W_]+", fold_text(text))
