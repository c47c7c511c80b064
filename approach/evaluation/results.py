"""What an evaluation leaves behind: scores, drafts and plan as files, a table on the terminal, and a W&B run."""

import json
import os

from approach.evaluation.significance import PLAN
from approach.metrics import METRICS, list_table
from approach.storage import Output, write_json


def write_results(predictions: list[dict], scores: dict, plan: dict, output: Output) -> None:
    """Writes predictions.jsonl, scores.json and plan.json to a folder that appears complete or not at all."""
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
        for system, entry in scores["systems"].items():
            for decoding, found in entry["decodings"].items():
                for score, value in found["scores"].items():
                    run.summary[f"{system}/{decoding}/{score}"] = value["value"]
            for score in list_table("gain"):
                if entry[score]:
                    run.summary[f"{system}/{score}"] = entry[score]["value"]
        run.log({"predictions": wandb.Table(list(predictions[0]), [list(row.values()) for row in predictions])})


def print_table(scores: dict) -> None:
    """The table of scores with intervals, and how the planned comparisons came out."""
    columns = {name: score for name, score in METRICS.items() if score.in_terminal}
    widths = {name: max(len(score.label), 15 + 3 * score.digits) for name, score in columns.items()}
    header = "".join(f"{score.label:>{widths[name]}}" for name, score in columns.items())
    print(f"\n{'':40}{header}{'ended':>8}{'checks':>8}")
    for system, entry in scores["systems"].items():
        for decoding, found in entry["decodings"].items():
            values = entry | found["scores"]  # gains are the system's, whatever the decoding
            cells = "".join(
                f"{format_score(values[name], score.digits):>{widths[name]}}" for name, score in columns.items()
            )
            ended, passes = found["behaviour"].get("share_ended"), found["passes_gates"]
            cells += "" if ended is None else f"{ended:8.0%}{'pass' if passes else 'fail':>8}"
            print(f"{system if decoding == 'none' else f'{system}, {decoding}':40}{cells}")
    print("\nThe three planned comparisons (two-sided, Holm's correction, 95 % intervals):")
    for row in scores["comparisons"]:
        pair = f"{row['system']} to {row['baseline']}: {METRICS[row['metric']].label}"
        if row["difference"] is None:
            print(f"  {pair} not measured")
            continue
        verdict = f"holds at {row['alpha']}" if row["holds"] else "does not hold"
        interval = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        print(f"  {pair} {interval}, p {row['p_holm']:.4f}, {verdict}")


def format_score(score: dict | None, digits: int) -> str:
    """A value and its interval, as the table shows them."""
    if score is None:
        return ""
    if score["value"] is None:
        return "not measured"
    return f"{score['value']:.{digits}f} ({score['low']:.{digits}f}–{score['high']:.{digits}f})"
