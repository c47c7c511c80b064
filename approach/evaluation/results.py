"""What an evaluation leaves behind: scores, drafts and plan as files, a table on the terminal, and a W&B run."""

import json
import os
import random
from collections.abc import Mapping, Sequence

import evaluate
import numpy as np

from approach.evaluation.plan import PLAN
from approach.evaluation.statistics import RowStatistics
from approach.evaluation.systems import SystemDrafts
from approach.storage import Output, write_json

NUM_SAMPLES = 3
TABLE = (("specificity", "specificity", 4, 27), ("new_term_f1", "new-term F1", 3, 22), ("rougeL", "ROUGE-L", 3, 22))


def list_predictions(
    drafts: Sequence[SystemDrafts],
    statistics: Sequence[RowStatistics],
    rows: list[dict],
    given: list[str],
    corpus: list[str],
    metrics: dict[str, evaluate.Metric],
) -> list[dict]:
    """
    The rows of predictions.jsonl, a draft each, with the row's own specificity, ROUGE-L and BERTScore.

    `hits` are the rarer new terms that a draft shares with the reference; `corpus` are the training approaches.
    """
    terms, predictions = metrics["specificity"].weigh(corpus), []
    for entry, counted in zip(drafts, statistics, strict=True):
        specificity = counted.specificity_by_row
        for number, run in enumerate(entry.runs):
            for i, (row, draft) in enumerate(zip(rows, run, strict=True)):
                problem = f"{row['problem']} {given[i]}"
                rouge = metrics["rouge"].from_totals(counted.own["rouge"][number, i])
                bertscore = metrics["bertscore"].from_totals(counted.own["bertscore"][number, i])
                predictions.append(
                    {
                        "system": entry.system,
                        "decoding": entry.decoding,
                        **entry.describe_run(number),
                        "id": row["id"],
                        "problem": row["problem"],
                        "reference": row["approach"],
                        **draft,
                        "specificity": None if np.isnan(specificity[number, i]) else float(specificity[number, i]),
                        "hits": metrics["specificity"].hits(draft["prediction"], row["approach"], problem, terms),
                        "rougeL": rouge["rougeL"],
                        "bertscore_f1": bertscore["bertscore_f1"],
                    }
                )
    return predictions


def choose_samples(drafts: Sequence[SystemDrafts], rows: list[dict], shown: Mapping[str, str]) -> list[dict]:
    """Three rows at random, with the first drafts of the systems and decodings that are `shown`."""
    entries = [entry for entry in drafts if shown.get(entry.system) == entry.decoding]
    chosen = sorted(random.Random(0).sample(range(len(rows)), min(NUM_SAMPLES, len(rows))))
    return [
        {
            "id": rows[i]["id"],
            "problem": rows[i]["problem"],
            "reference": rows[i]["approach"],
            "drafts": {entry.system: entry.runs[0][i]["prediction"] for entry in entries},
        }
        for i in chosen
    ]


def write_results(predictions: list[dict], scores: dict, plan: dict, output: Output) -> None:
    """Writes predictions.jsonl, scores.json and plan.json to a folder that appears whole or not at all."""
    with output.staging() as partial:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
        (partial / "predictions.jsonl").write_text(lines, encoding="utf-8")
        write_json(partial / "scores.json", scores)
        write_json(partial / PLAN, plan)


def log_to_wandb(scores: dict, predictions: list[dict]) -> None:
    """The scores as a W&B run's summary, the drafts as a table."""
    import wandb  # two seconds, which an evaluation without W&B does not need

    project = os.environ.get("WANDB_PROJECT", "huggingface")  # the Trainer's own default
    config = {name: scores[name] for name in ("dataset", "num_examples", "decoding", "versions")}
    with wandb.init(project=project, job_type="evaluation", config=config) as run:
        for system, about in scores["systems"].items():
            for decoding, found in about["decodings"].items():
                for score, value in found["scores"].items():
                    run.summary[f"{system}/{decoding}/{score}"] = value["value"]
            for score in ("bits_per_byte", "problem_gain"):
                if about[score]:
                    run.summary[f"{system}/{score}"] = about[score]["value"]
        run.log({"predictions": wandb.Table(list(predictions[0]), [list(row.values()) for row in predictions])})


def print_table(scores: dict) -> None:
    """The table of scores with intervals, and how the planned comparisons came out."""
    header = "".join(f"{name:>{width}}" for _, name, _, width in TABLE)
    print(f"\n{'':40}{header}{'problem gain':>26}{'ended':>8}{'gates':>7}")
    for system, about in scores["systems"].items():
        gain = about["problem_gain"]
        for decoding, found in about["decodings"].items():
            cells = "".join(
                f"{format_score(found['scores'][score], digits):>{width}}" for score, _, digits, width in TABLE
            )
            cells += f"{format_score(gain, 4) if gain else '':>26}"
            ended, gates = found["behaviour"].get("share_ended"), found["passes_gates"]
            cells += "" if ended is None else f"{ended:8.0%}{'passes' if gates else 'fails':>7}"
            print(f"{system if decoding == 'none' else f'{system}, {decoding}':40}{cells}")
    print("\nThe three planned comparisons (two-sided, Holm's correction, 95 % intervals):")
    for row in scores["comparisons"]:
        pair = f"{row['system']} to {row['baseline']}: {row['metric'].replace('_', ' ')}"
        if row["difference"] is None:
            print(f"  {pair} not measured")
            continue
        verdict = f"holds at {row['alpha']}" if row["holds"] else "does not hold"
        interval = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        print(f"  {pair} {interval}, p {row['p_holm']:.4f}, {verdict}")


def format_score(score: dict, digits: int) -> str:
    """A value and its interval, as the table shows them."""
    if score["value"] is None:
        return "not measured"
    return f"{score['value']:.{digits}f} ({score['low']:.{digits}f}–{score['high']:.{digits}f})"
