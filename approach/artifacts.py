"""The files that our scripts leave for one another: their names, and how their records are read and checked."""

import json
from pathlib import Path

from approach.errors import UserError
from approach.storage import hash_file, read_json

# What our scripts write besides weights, configurations and tokenizers. Nothing else of a folder is published.
RECORDS = (
    "README.md",
    "run.json",
    "merge.json",
    "gguf.json",
    "scores.json",
    "build_report.json",
    "samples.jsonl",
    "loss_curve.png",
)
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "adapter_model.safetensors")
GGUF_FILES = {"f16": "model-F16.gguf", "q8_0": "model-Q8_0.gguf", "q4_k_m": "model-Q4_K_M.gguf"}
CONFIGS = ("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json")
TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja"),
)
MODEL_FILES = (*WEIGHTS, *CONFIGS, *TOKENIZERS, *GGUF_FILES.values(), "Modelfile")
DATASET_PARTS = f"data/*-00000-of-00001-{'[0-9a-f]' * 16}.parquet"
DATASET_FILES = ("README.md", "build_report.json", "funnel.png", DATASET_PARTS)

# The fields of run.json that later stages use.
RUN_FIELDS = {
    "base": dict,
    "base.name": str,
    "base.revision": str | None,
    "base.fingerprint": str | None,
    "dataset": dict,
    "dataset.name": str,
    "dataset.revision": str | None,
    "dataset.ids": list | None,
    "files": dict,
}


def read_run(folder: Path) -> dict:
    """Training's `run.json`, empty where there is none; raises UserError where a field has another type."""
    return read_json(folder / "run.json", RUN_FIELDS)


def check_hashes(folder: Path, record: str) -> None:
    """Raises UserError where a file in `folder` differs from the SHA-256 that its record states under `files`."""
    for name, digest in read_json(folder / record, {"files": dict}).get("files", {}).items():
        if (folder / name).is_file() and hash_file(folder / name) != digest:
            raise UserError(
                f"{folder / name} is not the file that was written: its SHA-256 is not the one in {record}"
            )


def read_predictions(path: Path) -> list[dict]:
    """The rows of an evaluation's predictions.jsonl."""
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would split texts at U+2028, too
    return [json.loads(line) for line in lines if line]


def list_shown(scores: dict) -> dict[str, str]:
    """The systems whose drafts are shown, with their decoding: all fine-tuned ones and the best base."""
    choice = scores["choice"]
    tuned = [name for name, system in choice["systems"].items() if system["kind"] != "base"]
    return {name: choice["systems"][name]["chosen"] for name in [*tuned, choice["base_for_drafts"]]}
