"""What databases and reference managers export: RIS, BibTeX, OpenAlex's inverted index, PubMed's labelled sections."""

import json
import logging
from collections.abc import Iterator
from typing import IO

RIS_NAMES = {"notes_abstract": "abstract", "primary_title": "title", "publication_year": "year"}


def read_ris(file: IO[str]) -> Iterator[dict]:
    """
    The references of a RIS file as rows: `abstract`, `title`, `year` and `id` (the DOI, where there is one).

    Raises:
        ValueError: where it is no RIS.
    """
    import rispy  # only for such files

    try:
        entries = rispy.loads(file.read())
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(f"cannot be read as RIS: {error}") from error
    for entry in entries:
        row = {RIS_NAMES.get(name, name): value for name, value in entry.items() if isinstance(value, str)}
        yield {**row, "id": row.get("doi") or row.get("id")}


def read_bibtex(file: IO[str]) -> Iterator[dict]:
    """
    The entries of a BibTeX file as rows, with LaTeX's accents and braces as plain text; `id` is the entry's key.

    Raises:
        ValueError: where no entry can be read.
    """
    import bibtexparser  # only for such files
    from bibtexparser.middlewares import LatexDecodingMiddleware

    logging.getLogger("bibtexparser").setLevel(logging.ERROR)
    library = bibtexparser.parse_string(file.read(), append_middleware=[LatexDecodingMiddleware()])
    if library.failed_blocks and not library.entries:
        raise ValueError(f"cannot be read as BibTeX: line {library.failed_blocks[0].start_line + 1}")
    for entry in library.entries:
        yield {**{field.key.lower(): str(field.value) for field in entry.fields}, "id": entry.key}


def decode_text(value: object) -> object:
    """
    The text in what some exports have in its place; any other value as it is.

    OpenAlex has an index of each word's places, as an object or as JSON in a text; PubMed's sections are objects with
    `label` and `text`.
    """
    if isinstance(value, str) and value.startswith('{"') and value.endswith("]}"):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if is_inverted_index(value):
        words = {place: word for word, places in value.items() for place in places}
        return " ".join(words[place] for place in sorted(words))
    if is_section_list(value):
        sections = [(section.get("label"), section["text"]) for section in value if section["text"]]
        return "\n".join(f"{label}: {text}" if label else text for label, text in sections)
    return value


def is_inverted_index(value: object) -> bool:
    """Whether a value is OpenAlex's `{"word": [0, 7], …}`."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(places, list) and all(type(place) is int for place in places) for places in value.values())
    )


def is_section_list(value: object) -> bool:
    """Whether a value is a list of objects with a `text` and perhaps a `label`."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(section, dict) and isinstance(section.get("text"), str | None) for section in value)
        and any(section.get("text") for section in value)
    )
