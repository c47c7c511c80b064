"""The page of an evaluation, from its records alone: what the template shows, as plain values."""

import json
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from approach.artifacts import list_shown, read_predictions
from approach.errors import user_errors
from approach.evaluation.plots import Dot, plot_dots, plot_lengths, plot_losses
from approach.evaluation.tables import (
    build_behaviour_table,
    build_choice_table,
    build_claims_table,
    build_comparisons_table,
    build_copying_tables,
    build_overlap_table,
    build_power_table,
    build_scores_table,
)
from approach.metrics import METRICS
from approach.templates import HTML_TEMPLATES

NUM_RANDOM_CARDS = 3
WORD = re.compile(r"[^\W\d_]+")
VERB = {1: "more specific to their problem than", -1: "less specific to their problem than"}
FORESEES = "when it foresees the authors' approaches"
GAIN = {
    1: f"The tuned model gains more from knowing the problem than {{baseline}} does {FORESEES}",
    -1: f"The tuned model gains less from knowing the problem than {{baseline}} does {FORESEES}",
    0: f"Whether the tuned model gains more from knowing the problem than {{baseline}} does {FORESEES} cannot be told",
}
LINES = {  # what a score is held against: floors, and what a look-up reaches
    "random training approach": ":",
    "terms of the five nearest": "--",
    "nearest training approach": "-.",
    "nearest of the rows seen": "-.",
}


def build_page(scores_dir: Path, run_dir: Path | None, people: dict | None = None) -> str:
    """
    The page of the records in both folders, and of what `people` said if any did, as `describe_people` has it.

    Raises:
        UserError: naming the file where one is damaged.
    """
    path = scores_dir / "scores.json"
    with user_errors(path, hint="; evaluate_model.py writes it"):
        scores = json.loads(path.read_text(encoding="utf-8"))
        values = summarize_scores(scores)
        shown = list_shown(scores)
    path = scores_dir / "predictions.jsonl"
    with user_errors(path, hint="; evaluate_model.py writes it"):
        drafts = find_first_drafts(read_predictions(path), shown)
        values |= {"cards": choose_cards(drafts), "length_plot": plot_lengths(group_texts(drafts))}
    values |= {"run": None, "people": people}
    if run_dir is not None:
        path = run_dir / "run.json"
        with user_errors(path, hint="; train_sft.py writes it"):
            values["run"] = summarize_run(json.loads(path.read_text(encoding="utf-8")))
    with user_errors(scores_dir / "scores.json", hint="; evaluate_model.py writes it"):
        return HTML_TEMPLATES.get_template("report.html.jinja").render(values)


def summarize_scores(scores: dict) -> dict:
    """What the template shows of scores.json."""
    systems, choice = scores["systems"], scores["choice"]
    encoder = scores["bertscore_model"]
    tuned = systems[scores["comparisons"][0]["system"]]
    return {
        "answer": format_answer(scores),
        "models": ", ".join(map(str, tuned["models"])),
        "num_examples": scores["num_examples"],
        "dataset": {name: scores["dataset"][name] for name in ("name", "split")},
        "base": ", ".join(map(str, systems[choice["base_for_drafts"]]["models"])),
        "encoder": encoder if encoder in ("roberta-large", None) else f"{encoder}, a stand-in for roberta-large",
        "references_searched": scores.get("references_searched", min(100, scores["num_examples"])),
        "resamples": f"{scores['resamples']:,}",
        "specificity_plot": plot_specificity(systems),
        "gain_plot": plot_gain(systems),
        "comparisons": build_comparisons_table(scores["comparisons"]),
        "alpha": scores["comparisons"][0]["alpha"],
        "power": build_power_table(scores["power"]),
        "scores": build_scores_table(systems),
        "claims": build_claims_table(systems),
        "overlap": build_overlap_table(systems),
        "behaviour": build_behaviour_table(systems),
        "num_validation": choice["rows"],
        "choice": build_choice_table(choice),
        "copying": build_copying_tables(scores["copying"]),
        "signatures": list(scores["signatures"].values()),
    }


# The answer


def format_answer(scores: dict) -> list[str]:
    """The answer that the page begins with, in sentences: specificity, problem gain, each run, and quality."""
    to_base, to_nearest = (row for row in scores["comparisons"] if row["metric"] == "specificity")
    [gain] = (row for row in scores["comparisons"] if row["metric"] == "problem_gain")
    models = scores["systems"][to_base["system"]]["models"]
    runs = f", for these {len(models)} runs," if len(models) > 1 else ""
    head = f"On {scores['num_examples']} problems{runs} the tuned model's drafts"
    base = f"those of the base in its best way to be asked, “{to_base['baseline']}”"
    sentences = [f"{head} {format_specificity(to_base, base)}, {format_second(to_base, to_nearest)}."]
    name = f"the base in its best way for that, “{gain['baseline']}”,"
    if gain["difference"] is None:
        sentences.append("The problem gain was not measured.")
    else:
        sentences.append(f"{GAIN[outcome(gain)].format(baseline=name)} ({format_difference(gain, ' bits a byte')}).")
    sentences += format_run_differences(scores["comparisons"]) if len(models) > 1 else []
    return [*sentences, format_quality(scores)]


def outcome(row: dict) -> int:
    """1 where a difference holds and is positive, -1 where it holds and is negative, else 0."""
    return 0 if not row["holds"] else 1 if row["difference"] > 0 else -1


def format_difference(row: dict, unit: str = "") -> str:
    """A difference and its interval."""
    text = f"difference {row['difference']:+.4f}{unit}, 95 % interval {row['low']:+.4f} to {row['high']:+.4f}"
    return text.replace("-", "−")


def format_specificity(row: dict, baseline: str) -> str:
    """What the drafts are, compared with a baseline."""
    if row["difference"] is None:
        return f"were not compared in specificity with {baseline}"
    if not outcome(row):
        return f"cannot be told from {baseline} by how specific they are to their problem ({format_difference(row)})"
    return f"are {VERB[outcome(row)]} {baseline} ({format_difference(row)})"


def format_second(first: dict, second: dict) -> str:
    """The second comparison, as it follows the first in one sentence."""
    other = "the approach of the nearest training problem"
    if second["difference"] is None or not outcome(second) or not outcome(first):
        return f"and {format_specificity(second, other)}"
    word = "and" if outcome(first) == outcome(second) else "but"
    return f"{word} {'more' if outcome(second) > 0 else 'less'} than {other} ({format_difference(second)})"


def format_run_differences(comparisons: list[dict]) -> list[str]:
    """Where runs disagree in sign, that they do."""
    mixed = [row for row in comparisons if row["difference"] is not None and not row["same_sign"]]
    return [
        f"The runs disagree about {METRICS[row['metric']].label} against {row['baseline']}: "
        + ", ".join(f"{run:+.4f}" for run in row["runs"])
        + "."
        for row in mixed
    ]


def format_quality(scores: dict) -> str:
    """Whether the drafts pass the quality checks and beat a list of terms: without both no quality is claimed."""
    system, decoding = (scores["comparisons"][0][name] for name in ("system", "decoding"))
    found = scores["systems"][system]["decodings"][decoding]
    [words] = [row for row in scores["against_word_list"] if (row["system"], row["decoding"]) == (system, decoding)]
    failures = []
    if not found["passes_gates"]:
        behaviour, references = found["behaviour"], scores["references_repeated_4grams"]
        failures.append(
            f"they fail the quality checks ({100 * behaviour['share_ended']:.0f} % end by themselves, 95 % must; "
            f"{100 * (behaviour['repeated_4grams'] or 0):.1f} % of their 4-grams are repeated, of at most "
            f"{200 * references:.1f} %)"
        )
    if words["difference"] is None:
        failures.append("they were not compared with a bare list of terms")
    elif words["low"] <= 0:
        failures.append(
            "they do not beat a bare list of terms from the five nearest training approaches "
            f"({format_difference(words)})"
        )
    if failures:
        return f"No quality is claimed for the tuned model's drafts: {', and '.join(failures)}."
    return (
        "The drafts end by themselves, repeat themselves little, and beat a bare list of terms from the five nearest "
        f"training approaches ({format_difference(words)})."
    )


# Plots


def plot_specificity(systems: dict) -> str | None:
    """The picture of specificity, of every system and decoding; None where it was not measured."""
    dots = []
    for system, entry in systems.items():
        for decoding, found in entry["decodings"].items():
            score = found["scores"]["specificity"]
            if score["value"] is not None:
                name = system if len(entry["decodings"]) == 1 else f"{system}, {decoding}"
                dots.append(build_dot(name, entry["kind"], score, LINES.get(system, "")))
    return plot_dots("specificity", dots) if dots else None


def plot_gain(systems: dict) -> str | None:
    """The picture of problem gain, of every system that has one; None where it was not measured."""
    dots = [
        build_dot(system, entry["kind"], entry["problem_gain"])
        for system, entry in systems.items()
        if entry["problem_gain"] and entry["problem_gain"]["value"] is not None
    ]
    return plot_dots("problem gain (bits a byte)", dots) if dots else None


def build_dot(name: str, kind: str, score: dict, line: str = "") -> Dot:
    """A score as the pictures show it; anything that is no number raises ValueError or TypeError."""
    value, low, high = (float(score[key]) for key in ("value", "low", "high"))
    return Dot(name, kind, value, min(low, value), max(high, value), line)


# The training run, and drafts side by side


def summarize_run(run: dict) -> dict:
    """What the template shows of run.json."""
    facts = f"{run['steps']} steps on {run['dataset']['rows']:,} rows of {run['dataset']['name']}"
    facts += f", {run['device']}, {run['seconds'] / 60:.0f} minutes of training steps"
    return {"facts": facts, "loss_curve": plot_losses(run["losses"])}


def find_first_drafts(rows: list[dict], shown: dict[str, str]) -> dict[str, dict[str, dict]]:
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
    return [build_card(label, drafts[i]) for label, i in chosen.items()]


def build_card(label: str, by_system: dict[str, dict]) -> dict:
    """One problem, the authors' approach and the drafts of the systems that are shown, their hits marked."""
    ours = next(iter(by_system.values()))
    drafts = [
        {
            "system": system,
            "score": "not measured" if row["specificity"] is None else f"{row['specificity']:+.3f}",
            "parts": mark_terms(row["prediction"], row["hits"]),
        }
        for system, row in by_system.items()
    ]
    hits = [term for row in by_system.values() for term in row["hits"]]
    row = {"id": ours["id"], "problem": ours["problem"], "reference": mark_terms(ours["reference"], hits)}
    return {"label": label, **row, "drafts": drafts}


def mark_terms(text: str, hits: list[str]) -> list[tuple[str, bool]]:
    """A text in parts, each with whether it is one of the terms `hits`."""
    parts, end = [], 0
    for found in WORD.finditer(text):
        if unicodedata.normalize("NFKC", found.group()).lower() in hits:
            parts += [(text[end : found.start()], False), (found.group(), True)]
            end = found.end()
    return [*parts, (text[end:], False)]
