"""What an evaluation leaves behind: scores.json, predictions.jsonl, a table on the terminal and a W&B run."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import evaluate

from approach.evaluation.statistics import RowStatistics
from approach.evaluation.systems import SystemDrafts
from approach.files import folder_written_whole, write_json

NUM_SAMPLES = 3
TABLE = (("bleu", "BLEU", 2, 18), ("rougeL", "ROUGE-L", 3, 22), ("bertscore_f1", "BERTScore F1", 3, 22))


def list_predictions(
    drafts: Sequence[SystemDrafts],
    statistics: Sequence[RowStatistics],
    rows: list[dict],
    metrics: dict[str, evaluate.Metric],
) -> list[dict]:
    """The rows of predictions.jsonl, a draft each, with the row's own ROUGE-L and BERTScore."""
    predictions = []
    for entry, counted in zip(drafts, statistics, strict=True):
        for seed, run in enumerate(entry.runs):
            for i, (row, draft) in enumerate(zip(rows, run, strict=True)):
                rouge = metrics["rouge"].from_totals(counted.own["rouge"][seed, i])
                bertscore = metrics["bertscore"].from_totals(counted.own["bertscore"][seed, i])
                predictions.append(
                    {
                        "system": entry.system,
                        "decoding": entry.decoding,
                        "seed": seed if entry.decoding == "sampled" else None,
                        "id": row["id"],
                        "problem": row["problem"],
                        "reference": row["approach"],
                        **draft,
                        "rougeL": rouge["rougeL"],
                        "bertscore_f1": bertscore["bertscore_f1"],
                    }
                )
    return predictions


def choose_samples(drafts: Sequence[SystemDrafts], rows: list[dict], best_base: dict[str, str]) -> list[dict]:
    """Three rows at random, with the greedy drafts of the fine-tuned models and of the best base system."""
    shown = [
        entry
        for entry in drafts
        if entry.decoding == "greedy" and (entry.kind == "fine-tuned" or entry.system == best_base["drafts"])
    ]
    chosen = sorted(random.Random(0).sample(range(len(rows)), min(NUM_SAMPLES, len(rows))))
    return [
        {
            "id": rows[i]["id"],
            "problem": rows[i]["problem"],
            "reference": rows[i]["approach"],
            "drafts": {entry.system: entry.runs[0][i]["prediction"] for entry in shown},
        }
        for i in chosen
    ]


def write_results(predictions: list[dict], scores: dict, output_dir: Path) -> None:
    """Writes predictions.jsonl and scores.json to a folder that appears whole or not at all."""
    with folder_written_whole(output_dir) as partial:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
        (partial / "predictions.jsonl").write_text(lines, encoding="utf-8")
        write_json(partial / "scores.json", scores)


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
        run.log({"predictions": wandb.Table(list(predictions[0]), [list(row.values()) for row in predictions])})


def print_table(scores: dict) -> None:
    """The table of scores with intervals, and the comparisons that hold."""
    header = "".join(f"{name:>{width}}" for _, name, _, width in TABLE)
    print(f"\n{'':36}{header}{'bits per byte':>15}{'ended':>8}")
    for system, about in scores["systems"].items():
        for decoding, found in about["decodings"].items():
            cells = "".join(
                f"{format_score(found['scores'][score], digits):>{width}}" for score, _, digits, width in TABLE
            )
            bits, ended = about["bits_per_byte"], found["behaviour"].get("share_ended")
            cells += f"{bits['value']:15.4f}" if bits and decoding == "greedy" else f"{'':15}"
            print(f"{system + ', ' + decoding:36}{cells}" + ("" if ended is None else f"{ended:8.0%}"))
    held = [row for row in scores["comparisons"] if row["p_holm"] < 0.05]
    print(
        f"\n{len(held)} of {len(scores['comparisons'])} declared differences hold (p < 0.05 after Holm's correction):"
    )
    for row in held:
        pair = f"{row['system']} to {row['baseline']}, {row['decoding']}"
        print(f"  {pair}: {row['metric']} {row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})")


def format_score(score: dict, digits: int) -> str:
    """A value and its interval, as the table shows them."""
    if score["value"] is None:
        return "not measured"
    return f"{score['value']:.{digits}f} ({score['low']:.{digits}f}–{score['high']:.{digits}f})"
