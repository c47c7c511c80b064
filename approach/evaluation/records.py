"""The records of an evaluation, as later stages read them: one line where a file is missing or damaged."""

import json
from pathlib import Path


def list_shown(scores: dict) -> dict[str, str]:
    """The systems whose drafts are shown, with their decoding: all fine-tuned ones and the best base."""
    choice = scores["choice"]
    tuned = [name for name, about in choice["systems"].items() if about["kind"] != "base"]
    return {name: choice["systems"][name]["chosen"] for name in [*tuned, choice["base_for_drafts"]]}


def read_predictions(path: Path) -> list[dict]:
    """The rows of predictions.jsonl."""
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would split texts at U+2028, too
    return [json.loads(line) for line in lines if line]
