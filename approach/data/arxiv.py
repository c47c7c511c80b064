"""
arXiv's own metadata as its snapshots have it: categories, and the date of a paper's first version.

Written by the documentation of the snapshots (https://www.kaggle.com/datasets/Cornell-University/arxiv, of which the
Hub dataset is a copy): `abstract` with hard-wrapped lines, `categories` as "cs.CL cs.LG", `versions` as
`[{"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"}, …]`, and `update_date`, that of the last version.
"""

from email.utils import parsedate

METADATA = "librarian-bots/arxiv-metadata-snapshot"
VERSIONS = "versions"


def list_categories(value: object) -> list[str]:
    """An abstract's arXiv categories, the first before those it is also listed in, of a text or a list of names."""
    return [str(name) for name in value if name] if isinstance(value, list) else str(value or "").split()


def find_first_date(value: object) -> object:
    """The date of the first of a paper's versions, as it is written there; any other value as it is."""
    first = value[0] if isinstance(value, list) and value else None
    return first["created"] if isinstance(first, dict) and "created" in first else value


def read_mail_date(text: str) -> int | None:
    """The year of a date such as `Mon, 2 Apr 2007 19:18:42 GMT`; None where it is none."""
    date = parsedate(text)
    return date[0] if date else None
