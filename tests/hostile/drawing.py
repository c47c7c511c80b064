"""What the classes of tries have in common: values of any kind, damaged bytes, and where a try may end early."""

import sys

from hypothesis import strategies as st

from hostile.tries import OPTIONS

SCRIPTS = [name for name in OPTIONS if name != "app"]
# What a value of JSON may be instead; no large numbers, of which a model would build as many layers.
VALUES = [None, -1, 0, 3, 1.5, True, "", "x", "../x", "\ud800", [], [[]], [None], {}, {"a": []}, "a" * 300]
BYTES = st.integers(0, 255)
PLAIN = st.sampled_from(
    [None, 7, 2**53 + 1, 2**200, 1.5, True, "", " ", "a", "2020-01-01", "\ud800", "a\x00b", "\u2028"]
)
ANY_VALUE = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.lists(st.lists(PLAIN), max_size=2), st.just({"a": 1}))


READ_WELL, LOADED_WELL = "all was read well", "the page would be built"


def end_before_drafting(patch) -> None:
    """An evaluation whose arguments and inputs are all well ends here: what follows takes long."""

    def end(*_):
        sys.exit(READ_WELL)

    patch.setattr("approach.evaluation.scores.load_metrics", end)


def serve_nobody(patch) -> None:
    """No page is built or served once all that it needs is loaded."""
    patch.setattr("app.build_page", lambda *_: sys.exit(LOADED_WELL))
    end_before_drafting(patch)


def spoil(data: bytes, how: str, place: float, byte: int) -> bytes:
    """Bytes that are cut, changed, or not in UTF-8."""
    at = int(place * len(data))
    if how.startswith("utf"):
        return data.decode("utf-8", errors="replace").encode(how)
    return {
        "cut": data[:at],
        "empty": b"",
        "zeros": data[:at] + b"\0" * 50 + data[at + 50 :],
        "flipped": data[:at] + bytes([byte]) + data[at + 1 :],
        "longer": data + bytes([byte]) * 500,
        "begun anew": bytes([byte]) * 8 + data[8:],
        "mark": b"\xef\xbb\xbf" + data,
    }[how]


DAMAGES = ["cut", "empty", "zeros", "flipped", "longer", "begun anew", "mark", "utf-16", "utf-16-le", "utf-32"]


def list_places(value: object, place: tuple = ()) -> list[tuple]:
    """Where in a JSON value there are values, itself first."""
    parts = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    return [place, *(found for key, part in parts for found in list_places(part, (*place, key)))]


def find(record: object, place: tuple) -> object:
    for key in place:
        record = record[key]
    return record
