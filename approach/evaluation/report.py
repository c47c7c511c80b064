"""The page of an evaluation, from its records alone: what the template shows, as plain values."""

import json
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from approach.errors import user_errors
from approach.evaluation.plots import Dot, plot_dots, plot_lengths, plot_losses
from approach.evaluation.records import list_shown, read_predictions
from approach.evaluation.tables import (
    list_behaviour,
    list_choice,
    list_comparisons,
    list_copying,
    list_overlap,
    list_power,
    list_scores,
)
from approach.evaluation.verdict import describe_answer
from approach.templates import HTML_TEMPLATES

NUM_RANDOM_CARDS = 3
WORD = re.compile(r"[^\W\d_]+")
LINES = {  # what a score is held against: floors, and what a look-up reaches
    "random training approach": ":",
    "terms of the five nearest": "--",
    "nearest training approach": "-.",
}


def build_page(scores_dir: Path, run_dir: Path | None, people: dict | None = None) -> str:
    """
    The page of the records in both folders, and of what `people` said if any did, as `describe_people` has it.

    Raises UserError that names the file where one is damaged.
    """
    path = scores_dir / "scores.json"
    with user_errors(path, hint="; evaluate_model.py writes it"):
        scores = json.loads(path.read_text(encoding="utf-8"))
        values = describe_scores(scores)
        shown = list_shown(scores)
    path = scores_dir / "predictions.jsonl"
    with user_errors(path, hint="; evaluate_model.py writes it"):
        drafts = list_first_drafts(read_predictions(path), shown)
        values |= {"cards": choose_cards(drafts), "length_plot": plot_lengths(group_texts(drafts))}
    values |= {"run": None, "people": people}
    if run_dir is not None:
        path = run_dir / "run.json"
        with user_errors(path, hint="; train_sft.py writes it"):
            values["run"] = describe_run(json.loads(path.read_text(encoding="utf-8")))
    with user_errors(scores_dir / "scores.json", hint="; evaluate_model.py writes it"):
        return HTML_TEMPLATES.get_template("report.html.jinja").render(values)


def describe_scores(scores: dict) -> dict:
    """What the template shows of scores.json."""
    systems, choice = scores["systems"], scores["choice"]
    encoder = scores["bertscore_model"]
    tuned = systems[scores["comparisons"][0]["system"]]
    return {
        "answer": describe_answer(scores),
        "models": ", ".join(map(str, tuned["models"])),
        "num_examples": scores["num_examples"],
        "dataset": {name: scores["dataset"][name] for name in ("name", "split")},
        "base": ", ".join(map(str, systems[choice["base_for_drafts"]]["models"])),
        "encoder": encoder if encoder == "roberta-large" else f"{encoder}, a stand-in for roberta-large",
        "resamples": f"{scores['resamples']:,}",
        "specificity_plot": plot_specificity(systems),
        "gain_plot": plot_gain(systems),
        "comparisons": list_comparisons(scores["comparisons"]),
        "alpha": scores["comparisons"][0]["alpha"],
        "power": list_power(scores["power"]),
        "scores": list_scores(systems),
        "overlap": list_overlap(systems),
        "behaviour": list_behaviour(systems),
        "num_validation": choice["rows"],
        "choice": list_choice(choice),
        "copying": list_copying(scores["copying"]),
        "signatures": list(scores["signatures"].values()),
    }


def plot_specificity(systems: dict) -> str | None:
    """The picture of specificity, of every system and decoding; None where it was not measured."""
    dots = []
    for system, about in systems.items():
        for decoding, found in about["decodings"].items():
            score = found["scores"]["specificity"]
            if score["value"] is not None:
                name = system if len(about["decodings"]) == 1 else f"{system}, {decoding}"
                dots.append(make_dot(name, about["kind"], score, LINES.get(system, "")))
    return plot_dots("specificity", dots) if dots else None


def plot_gain(systems: dict) -> str | None:
    """The picture of problem gain, of every system that has one; None where it was not measured."""
    dots = [
        make_dot(system, about["kind"], about["problem_gain"])
        for system, about in systems.items()
        if about["problem_gain"] and about["problem_gain"]["value"] is not None
    ]
    return plot_dots("problem gain (bits a byte)", dots) if dots else None


def make_dot(name: str, kind: str, score: dict, line: str = "") -> Dot:
    """A score as the pictures show it; anything that is no number raises ValueError or TypeError."""
    value, low, high = (float(score[key]) for key in ("value", "low", "high"))
    return Dot(name, kind, value, min(low, value), max(high, value), line)


def describe_run(run: dict) -> dict:
    """What the template shows of run.json."""
    facts = f"{run['steps']} steps on {run['dataset']['rows']:,} rows of {run['dataset']['name']}"
    facts += f", {run['device']}, {run['seconds'] / 60:.0f} minutes of training steps"
    return {"facts": facts, "loss_curve": plot_losses(run["losses"])}


def list_first_drafts(rows: list[dict], shown: dict[str, str]) -> dict[str, dict[str, dict]]:
    """The first run's first draft of each row by each system that is shown: by row, then by system."""
    drafts: dict[str, dict[str, dict]] = {}
    for row in rows:
        if row["decoding"] == shown.get(row["system"]):
            drafts.setdefault(row["id"], {}).setdefault(row["system"], row)
    if not drafts or any(list(by_system) != list(shown) for by_system in map(sort_by(shown), drafts.values())):
        raise ValueError(f"not every row has drafts by {', '.join(shown)}")
    return {row_id: sort_by(shown)(by_system) for row_id, by_system in drafts.items()}


def sort_by(shown: dict[str, str]) -> Callable[[dict[str, dict]], dict[str, dict]]:
    """Brings the systems of a row into the order in which they are shown."""
    return lambda by_system: {name: by_system[name] for name in shown if name in by_system}


def group_texts(drafts: dict[str, dict[str, dict]]) -> dict[str, list[str]]:
    """The references and the drafts of each system that is shown."""
    by_row = list(drafts.values())
    systems = list(by_row[0])
    return {
        "references": [row[systems[0]]["reference"] for row in by_row],
        **{name: [row[name]["prediction"] for row in by_row] for name in systems},
    }


def choose_cards(drafts: dict[str, dict[str, dict]]) -> list[dict]:
    """Most, middling and least specific drafts of the first system, and three at random, beside the others'."""

    def specificity(row_id: str) -> tuple[float, str]:
        return next(iter(drafts[row_id].values()))["specificity"] or 0.0, row_id

    order = sorted(drafts, key=specificity)
    chosen = {"Most specific": order[-1], "In the middle": order[len(order) // 2], "Least specific": order[0]}
    rest = sorted(set(order) - set(chosen.values()))
    drawn = random.Random(0).sample(rest, min(NUM_RANDOM_CARDS, len(rest)))
    chosen |= {f"At random, {number}": i for number, i in enumerate(drawn, 1)}
    return [describe_card(label, drafts[i]) for label, i in chosen.items()]


def describe_card(label: str, by_system: dict[str, dict]) -> dict:
    """One problem, the authors' approach and the drafts of the systems that are shown, their hits marked."""
    ours = next(iter(by_system.values()))
    drafts = [
        {
            "system": system,
            "score": "not measured" if row["specificity"] is None else f"{row['specificity']:+.3f}",
            "parts": mark(row["prediction"], row["hits"]),
        }
        for system, row in by_system.items()
    ]
    hits = [term for row in by_system.values() for term in row["hits"]]
    about = {"id": ours["id"], "problem": ours["problem"], "reference": mark(ours["reference"], hits)}
    return {"label": label, **about, "drafts": drafts}


def mark(text: str, hits: list[str]) -> list[tuple[str, bool]]:
    """A text in parts, each with whether it is one of the terms `hits`."""
    parts, end = [], 0
    for found in WORD.finditer(text):
        if unicodedata.normalize("NFKC", found.group()).lower() in hits:
            parts += [(text[end : found.start()], False), (found.group(), True)]
            end = found.end()
    return [*parts, (text[end:], False)]
