"""The templates of pages, in which every value is shown as text, and the scripts and styles that go in as they are."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).resolve().parent
HTML_TEMPLATES = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def read_template(name: str) -> str:
    """A file of the templates as it is: a style sheet, or a script."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
