"""The dataset's card, until `approach/cards.py` makes it from a template."""

from huggingface_hub import DatasetCardData

from approach.data.pairs import COLUMNS


def dataset_card(samples: list[dict], report: dict, files: dict[str, dict]) -> str:
    """The dataset's card: where it comes from, what was dropped, how long its rows are, and what it is not."""
    size = sum(report["splits"].values())
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    data = DatasetCardData(
        language="en",
        license=report["source"].get("license", "unknown"),
        task_categories=["text-generation"],
        pretty_name="Problem–approach pairs",
        size_categories="n<1K" if size < 1000 else "{}<n<{}".format(*bounds[len(str(size)) - 4 : len(str(size)) - 2]),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": file["path"]} for name, file in files.items()],
            }
        ],
        dataset_info={
            "features": [{"name": name, "dtype": "string"} for name in COLUMNS],
            "splits": [
                {"name": name, "num_bytes": file["num_bytes"], "num_examples": report["splits"][name]}
                for name, file in files.items()
            ],
        },
    )
    lengths = {f"{name}, {key}": value for name, row in report["words"].items() for key, value in row.items()}
    shown = "\n\n".join(f"> **Problem.** {row['problem']}\n>\n> **Approach.** {row['approach']}" for row in samples)
    source = ", ".join(f"{name} {value}" for name, value in report["source"].items() if name != "license" and value)
    if "near_duplicates" in report:
        duplicates = (
            "{rows:,} rows in {clusters:,} clusters are near duplicates: they share {threshold:.0%} or more of their\n"
            "word 5-grams with another row; {where}."
        ).format(**report["near_duplicates"], threshold=report["arguments"]["near_duplicate_threshold"])
    else:
        duplicates = "Not looked for: a row of test may stand in train under another id."
    licence = report["source"].get("license", "not stated")
    sections = [
        "# Problem–approach pairs",
        "One-sentence research problems and the approaches that followed them, cut from abstracts: the first\n"
        "sentence is the `problem`, the rest is the `approach`; a model is trained on `prompt` and `completion`.",
        f"Source: {source}. Licence, as the source states it: {licence}; the abstracts remain their authors'.",
        table("rows", report["splits"]),
        "## What was dropped\n\nIn this order, each row under one reason. Control characters became spaces.",
        table("funnel", report["funnel"]),
        "![The funnel](funnel.png)",
        f"## Near duplicates\n\n{duplicates}",
        *([table("highest similarity left", report["highest_similarity"])] if "highest_similarity" in report else []),
        "## Lengths",
        table("words in train", lengths),
        *(
            [table(f"tokens in train, {report['arguments']['tokenizer_name']}", report["tokens"])]
            if "tokens" in report
            else []
        ),
        f"## Three rows\n\n{shown}",
        "## What it is not",
        "- Clean labels. By human labels on 1,963 computer-science abstracts, 96 % of a first sentence is background\n"
        "  or objective; of the rest 50 % is method or objective and 25 % result (`benchmarks/README.md`).\n"
        "- A test of memory. Models pre-trained on arXiv, TinyLlama among them, may have seen the test abstracts; to\n"
        "  test on newer ones, split in time with `--year_column` and `--test_from_year`.",
        f"## How it was built\n\n```\n{report['command']}\n```",
    ]
    return f"---\n{data}\n---\n\n" + "\n\n".join(sections) + "\n"


def table(title: str, values: dict) -> str:
    """A two-column Markdown table."""
    lines = [f"| {title} | |", "|---|---|"]
    shown = {name.replace("_", " "): f"{v:,}" if isinstance(v, int | float) else v for name, v in values.items()}
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in shown.items())])
