"""The page of an evaluation, from its records alone: what the template shows, as plain values."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from approach.evaluation.plots import plot_lengths, plot_losses
from approach.evaluation.tables import (
    list_behaviour,
    list_comparisons,
    list_copying,
    list_scores,
    list_spreads,
)
from approach.files import first_line

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
NUM_RANDOM_CARDS = 3


def build_page(scores_dir: Path, run_dir: Path | None) -> str:
    """The page of the records in both folders; ends with one line that names the file where one is damaged."""
    with reading(scores_dir / "scores.json", "evaluate_model.py") as path:
        scores = json.loads(path.read_text(encoding="utf-8"))
        values = describe_scores(scores)
        shown = list_shown(scores)
    with reading(scores_dir / "predictions.jsonl", "evaluate_model.py") as path:
        greedy = [row for line in path.read_text(encoding="utf-8").splitlines() if is_greedy(row := json.loads(line))]
        values |= {"cards": choose_cards(greedy, shown), "length_plot": plot_lengths(group_texts(greedy, shown))}
    values["run"] = None
    if run_dir is not None:
        with reading(run_dir / "run.json", "train_sft.py") as path:
            values["run"] = describe_run(json.loads(path.read_text(encoding="utf-8")))
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html.jinja").render(values)


@contextmanager
def reading(path: Path, script: str) -> Iterator[Path]:
    """Ends with one line that names the file and the script that writes it, where the block cannot use the file."""
    try:
        yield path
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; {script} writes it")
    except json.JSONDecodeError:
        sys.exit(f"{path}: no JSON; {script} writes it")
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a field is missing or of another type
        sys.exit(f"{path} is not as {script} writes it: {type(error).__name__}, {first_line(error)}")


def describe_scores(scores: dict) -> dict:
    """What the template shows of scores.json."""
    systems, best = scores["systems"], scores["best_base"]["drafts"]
    encoder = scores["bertscore_model"]
    tuned = [about for about in systems.values() if about["kind"] == "fine-tuned"]
    held, not_held = list_comparisons(scores["comparisons"])
    return {
        "models": ", ".join(str(about["model"]) for about in tuned),
        "num_examples": scores["num_examples"],
        "dataset": {name: scores["dataset"][name] for name in ("name", "split")},
        "base": systems[best]["model"],
        "best_base": best,
        "encoder": encoder if encoder == "roberta-large" else f"{encoder}, a stand-in for roberta-large",
        "resamples": f"{scores['resamples']:,}",
        "scores": list_scores(systems),
        "held": held,
        "not_held": not_held,
        "spread": list_spreads(scores["training_spread"]),
        "behaviour": list_behaviour(systems),
        "copying": list_copying(scores["copying"]),
        "signatures": list(scores["signatures"].values()),
    }


def describe_run(run: dict) -> dict:
    """What the template shows of run.json."""
    facts = f"{run['steps']} steps on {run['dataset']['rows']:,} rows of {run['dataset']['name']}"
    facts += f", {run['device']}, {run['seconds'] / 60:.0f} minutes of training steps"
    return {"facts": facts, "loss_curve": plot_losses(run["losses"])}


def list_shown(scores: dict) -> list[str]:
    """The systems whose drafts are shown: the fine-tuned ones and the best base."""
    tuned = [name for name, about in scores["systems"].items() if about["kind"] == "fine-tuned"]
    return [*tuned, scores["best_base"]["drafts"]]


def is_greedy(row: dict) -> bool:
    """Whether a row of predictions.jsonl holds a greedy draft."""
    return row["decoding"] == "greedy"


def group_texts(greedy: list[dict], shown: list[str]) -> dict[str, list[str]]:
    """The references and the drafts of each system that is shown."""
    references = [row["reference"] for row in greedy if row["system"] == shown[0]]
    return {
        "references": references,
        **{name: [row["prediction"] for row in greedy if row["system"] == name] for name in shown},
    }


def choose_cards(greedy: list[dict], shown: list[str]) -> list[dict]:
    """Best, median and worst drafts of the first system by ROUGE-L, and three at random, beside the others'."""
    by_id: dict[str, dict] = {}
    for row in greedy:
        if row["system"] in shown:
            by_id.setdefault(row["id"], {})[row["system"]] = row
    order = sorted(by_id, key=lambda i: (by_id[i][shown[0]]["rougeL"] or 0.0, i))
    chosen = {"Best": order[-1], "Median": order[len(order) // 2], "Worst": order[0]}
    rest = sorted(set(order) - set(chosen.values()))
    drawn = random.Random(0).sample(rest, min(NUM_RANDOM_CARDS, len(rest)))
    chosen |= {f"At random, {number}": i for number, i in enumerate(drawn, 1)}
    return [describe_card(label, by_id[i], shown) for label, i in chosen.items()]


def describe_card(label: str, rows: dict[str, dict], shown: list[str]) -> dict:
    """One problem, the authors' approach and the drafts of the systems that are shown."""
    ours = rows[shown[0]]
    drafts = [
        {
            "system": system,
            "score": "not measured" if rows[system]["rougeL"] is None else f"{rows[system]['rougeL']:.3f}",
            "text": rows[system]["prediction"],
        }
        for system in shown
    ]
    about = {name: ours[name] for name in ("id", "problem", "reference")}
    return {"label": label, **about, "drafts": drafts}
