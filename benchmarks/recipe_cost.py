"""
Seconds a step and peak memory of recipes on the shape of a real base, with random weights.

What a step costs does not depend on what the weights are, so the base's configuration and tokenizer are enough; they
are saved with random weights to a temporary folder (4.4 GB for TinyLlama). Each recipe then trains a few steps as a
user would start it. On a GPU the peak is what CUDA tensors took; on a CPU it is the process's resident memory, Python
and libraries (0.6 GiB) included. `estimated` is what `--preflight` says.

    python benchmarks/recipe_cost.py --model_name_or_path ../shared/models/tinyllama_tokenizer \
        --dataset_name outputs/arxiv_pairs --steps 2
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def save_random(source: str, folder: Path) -> None:
    """A model of `source`'s shape with random weights, in FP32, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    config = AutoConfig.from_pretrained(source)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def run(command: list[str]) -> tuple[str, float]:
    """Runs a command; returns what it printed, and its peak resident memory in GiB, file-backed pages left out."""
    import psutil

    peak, process = 0, psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.1):
            if process.is_running():
                memory = process.memory_info()
                peak = max(peak, memory.rss - memory.shared)

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed = process.communicate()[0]
    ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(printed)
    return printed, peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="folder with the base's config.json and tokenizer")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--recipes", nargs="+", default=["tinyllama_lora_fp32", "tinyllama_lora_fp32_small"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as temporary:
        base, folder = Path(temporary) / "base", Path(temporary)
        save_random(args.model_name_or_path, base)
        for recipe in args.recipes:
            places = ["--model_name_or_path", str(base), "--dataset_name", args.dataset_name]
            places += ["--output_dir", str(folder / recipe), "--max_steps", str(args.steps)]
            quiet = ["--eval_strategy", "no", "--eval_on_start", "false", "--save_strategy", "no"]
            command = [sys.executable, "train_sft.py", "--config", f"recipes/{recipe}.yaml", *places, *quiet]
            estimate, _ = run([*command, "--preflight", "true"])
            _, resident = run(command)
            result = json.loads((folder / recipe / "run.json").read_text(encoding="utf-8"))
            rows.append(
                {
                    "recipe": recipe,
                    "device": result["device"],
                    "seconds_a_step": round(result["seconds"] / result["steps"], 1),
                    "tokens_a_second": result["tokens_a_second"],
                    "padding_share": result["padding_share"],
                    "peak_gib": result["peak_memory_gib"] or round(resident, 2),
                    "estimated_gib": float(re.search(r"([\d.]+) GiB  at the peak", estimate)[1]),
                    "adapter_mb": round(os.path.getsize(folder / recipe / "adapter_model.safetensors") / 1e6, 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
