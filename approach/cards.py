"""Writes the cards of datasets, models and adapters from the records of the scripts."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from huggingface_hub import DatasetCardData, EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, TemplateError
from jinja2.filters import do_mark_safe

from approach.errors import UserError, first_line
from approach.metrics import METRICS, list_table
from approach.prompt import MAX_NEW_TOKENS, REPETITION_PENALTY
from approach.storage import read_json, write_atomically

DATASET_COLUMNS = ("id", "problem", "approach", "prompt", "completion")
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")  # the Hub's bounds of `size_categories`
# The fields of run.json that the model's card shows.
RECIPE = (
    "steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "optim",
    "max_length",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "bf16",
    "fp16",
    "trainable_parameters",
    "seconds",
    "device",
    "processes",
    "peak_memory_gib",
    "torch",
    "transformers",
    "trl",
    "peft",
)


def dataset_card(
    samples: list[dict],
    report: dict,
    files: dict[str, dict],
    rule_columns: Mapping[str, str | list[str]] = MappingProxyType({}),
    template: str = "dataset_card_first_sentence.md.jinja",
    rule_help: str = "",
) -> str:
    """
    The dataset's card: where it comes from, what was dropped, how long its rows are, and what it is not.

    `samples` are the rows to show, `report` is `build_report.json`, and `files` holds the `path` and the `num_bytes`
    of each split. A pair rule adds `rule_columns` to the dataset, and has a `template` of its own or else its
    `rule_help`.
    """
    source = ", ".join(f"{name} {value}" for name, value in report["source"].items() if name != "license" and value)
    lengths = {f"{name}, {key}": value for name, row in report["words"].items() for key, value in row.items()}
    values = {"source": source, "lengths": lengths, "report": report, "samples": samples, "rule_help": rule_help}
    metadata = build_dataset_metadata(report, files, rule_columns).to_yaml()
    return render(template, {"metadata": metadata, **values}) + "\n"


def model_card(folder: Path, name: str, scores: dict, adapter: bool = False) -> str:
    """
    The card of a model or an adapter, from the records in its folder and the content of `scores.json`.

    The card states only what the records contain. Raises UserError where they are not as our scripts write them.
    """
    run, merge, report, gguf = (
        read_json(folder / f"{stem}.json") for stem in ("run", "merge", "build_report", "gguf")
    )
    try:
        published, recorded = report.get("hub", {}), run.get("dataset", {})
        base = merge.get("base") or run.get("base", {}).get("name") or "a base model"
        dataset = published.get("dataset") or recorded.get("name") or ""
        licence = merge.get("base_license")
        values = {
            "metadata": build_model_metadata(name, base, dataset, licence, scores, adapter).to_yaml(),
            "name": name,
            "adapter": adapter,
            "base": base,
            "dataset": dataset,
            "revision": recorded.get("revision") or published.get("revision"),
            "recipe": summarize_run(run),
            "loss_curve": (folder / "loss_curve.png").is_file(),
            "run": run,
            "merge": merge,
            "report": report,
            "gguf": gguf,
            "scores": scores,
            "scored": list_scores(scores),
            "measured": list_measured_metrics(scores),
            "metrics": METRICS,
            "max_new_tokens": MAX_NEW_TOKENS,
            "repetition_penalty": REPETITION_PENALTY,
            "gains": [name for name, score in list_table("gain").items() if score.in_card],
        }
        card = render("model_card.md.jinja", values)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TemplateError) as error:
        raise UserError(
            f"{folder}: its records are not as our scripts write them: {type(error).__name__}: {error}"
        ) from error
    return str(ModelCard(re.sub(r"\n{3,}", "\n\n", card)))


def write_model_card(folder: Path, name: str, scores_dir: str | None) -> None:
    """
    Writes a model's card into its folder, with the scores of `scores_dir` or else those that lie there already.

    Copies `scores.json` beside the card. Does not write a file that would not change: the folder may be read-only.
    Raises UserError where a file cannot be written.
    """
    scores = read_json((Path(scores_dir) if scores_dir else folder) / "scores.json")
    card = model_card(folder, name, scores)
    if scores:
        write_where_changed(folder / "scores.json", json.dumps(scores, indent=2) + "\n")
    write_where_changed(folder / "README.md", card)


def write_where_changed(path: Path, text: str) -> None:
    """Writes a file whose content would change; raises UserError where that fails."""
    if path.is_file() and path.read_bytes() == text.encode("utf-8"):
        return
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {first_line(error)}. The folder is as it was") from error


def render(template: str, values: dict) -> str:
    """Fills in a template of the folder `templates`; no value reaches the card as HTML."""
    environment = Environment(loader=PackageLoader("approach"), autoescape=True, finalize=escape_html)
    return environment.get_template(template).render(values)


def escape_html(value: object) -> str:
    """
    A value as text that Markdown does not read as HTML; jinja2 calls this for everything that a template inserts.

    It changes only a `<` that would begin a tag and an `&` that would begin an entity; jinja2's own escaping would
    change every quotation mark, too.
    """
    if hasattr(value, "__html__"):  # marked as safe in the template, or escaped in a macro
        return value
    text = re.sub(r"&(?=#?\w+;)", "&amp;", str(value))
    return do_mark_safe(re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text))


def build_dataset_metadata(
    report: dict, files: dict[str, dict], rule_columns: Mapping[str, str | list[str]]
) -> DatasetCardData:
    """What the Hub and `datasets` read of the dataset's card."""
    size = sum(report["splits"].values())
    digits = len(str(size))
    return DatasetCardData(
        language="en",
        license=report["source"].get("license", "unknown"),
        task_categories=["text-generation"],
        pretty_name="Problem–approach pairs",
        size_categories="n<1K" if digits < 4 else f"{SIZES[digits - 4]}<n<{SIZES[digits - 3]}",
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": file["path"]} for name, file in files.items()],
            }
        ],
        dataset_info={
            "features": [
                *({"name": name, "dtype": "string"} for name in DATASET_COLUMNS),
                *(
                    {"name": name, "list": dtype[0]} if isinstance(dtype, list) else {"name": name, "dtype": dtype}
                    for name, dtype in rule_columns.items()
                ),
            ],
            "splits": [
                {"name": name, "num_bytes": file["num_bytes"], "num_examples": report["splits"][name]}
                for name, file in files.items()
            ],
        },
    )


def build_model_metadata(
    name: str, base: str, dataset: str, licence: str | None, scores: dict, adapter: bool
) -> ModelCardData:
    """The metadata of a model's card, which the Hub reads."""
    return ModelCardData(
        language="en",
        license=licence,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["research-approach-drafts", "trl", "sft"],
        base_model=base if "/" in base else None,  # only a Hub id
        datasets=[dataset] if "/" in dataset else None,
        model_name=name.rpartition("/")[2],
        eval_results=build_model_index(scores),
    )


def build_model_index(scores: dict) -> list[EvalResult] | None:
    """The fine-tuned systems' scores in the form of the Hub's metadata; None where there are none."""
    data = scores.get("dataset", {})
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=data.get("name", "unknown"),
            dataset_name=data.get("name", "unknown"),
            dataset_split=data.get("split"),
            dataset_revision=data.get("revision"),
            metric_type=metric,
            metric_name=f"{METRICS[metric].label}, {decoding}",
            metric_value=value["value"],
        )
        for system, decoding, result in list_scores(scores)
        if scores["systems"][system].get("kind") == "fine-tuned"
        for metric, value in result["scores"].items()
        if metric in METRICS and METRICS[metric].in_card and value and value.get("value") is not None
    ] or None


def list_scores(scores: dict) -> list[tuple[str, str, dict]]:
    """Every system and decoding, with what was measured of it."""
    systems = scores.get("systems", {}).items()
    return [(name, decoding, result) for name, system in systems for decoding, result in system["decodings"].items()]


def list_measured_metrics(scores: dict) -> list[str]:
    """The metrics of which at least one system has a value, in the card's order."""
    values = [item for _, _, result in list_scores(scores) for item in result["scores"].items()]
    measured = {metric for metric, value in values if value and value["value"] is not None}
    return [metric for metric, score in METRICS.items() if score.in_card and metric in measured]


def summarize_run(run: dict) -> dict[str, str]:
    """The rows of `run.json` that the card shows, by their labels."""
    figures = {**run.get("arguments", {}), **run, **run.get("versions", {})}
    recipe = {key.replace("_", " "): format_value(figures[key]) for key in RECIPE if figures.get(key) is not None}
    losses = [(entry["step"], entry["eval_loss"]) for entry in run.get("losses", []) if "eval_loss" in entry]
    if losses:
        # Of the checkpoint that was kept, which is not the last one where the best was chosen.
        kept = dict(losses).get(run.get("best_step"), losses[-1][1])
        recipe["validation loss, nats a token"] = f"{losses[0][1]:.3f} → {kept:.3f}"
    return recipe


def format_value(value: object) -> str:
    """A recorded value as the card shows it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
