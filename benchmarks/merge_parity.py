"""
How far a merged model is from its adapter on its base, and what merging takes: for a real small base with an adapter
that was trained, and for the shape of TinyLlama-1.1B with random weights and a random adapter.

    python benchmarks/merge_parity.py --small_base MODEL --dataset_name outputs/pairs --tinyllama FOLDER --work_dir DIR

FOLDER holds TinyLlama's config.json and tokenizer; DIR needs 10 GB, and the program deletes what it puts there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from approach.prompt import END_TAG, TAGS, add_tags  # noqa: E402 (the root is on the path by now)


def train_adapter(base: str, dataset: str, adapter: Path) -> None:
    options = {"config": ROOT / "recipes/small_base_lora_fp32.yaml", "model_name_or_path": base, "output_dir": adapter}
    options |= {"dataset_name": dataset, "max_length": 256, "save_strategy": "no", "eval_strategy": "no"}
    options |= {"eval_on_start": "false", "use_cpu": "true"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    subprocess.run([sys.executable, ROOT / "train_sft.py", *words], check=True, capture_output=True)


def make_random_pair(shape: str, base: Path, adapter: Path) -> None:
    """A base of this shape in bfloat16, as TinyLlama's is, and an adapter of the recipe's form, both random."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(shape, trust_remote_code=False)
    config = AutoConfig.from_pretrained(shape, trust_remote_code=False)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    add_tags(tokenizer)
    tokenizer.eos_token = END_TAG
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tag_ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"],
        trainable_token_indices={"embed_tokens": tag_ids, "lm_head": tag_ids},
        task_type="CAUSAL_LM",
    )
    model.config._name_or_path = model.name_or_path = str(base)
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    model.save_pretrained(adapter, save_embedding_layers=False)
    tokenizer.save_pretrained(adapter)


def merge(adapter: Path, output_dir: Path) -> dict:
    """Runs the script as a user does; its record, with the seconds and the peak of its memory."""
    command = [sys.executable, ROOT / "merge_and_push.py", "--adapter_path", adapter, "--output_dir", output_dir]
    start, peak = time.monotonic(), {"rss": 0, "uss": 0}
    with (output_dir.parent / "merge.log").open("w+") as log:
        process = psutil.Popen([str(word) for word in command], stdout=log, stderr=log)

        def watch() -> None:
            while process.poll() is None:
                try:
                    memory = process.memory_full_info()
                except psutil.Error:
                    return
                for name in peak:
                    peak[name] = max(peak[name], getattr(memory, name))
                time.sleep(0.1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = process.wait()
        watcher.join()
        log.seek(0)
        if status:
            sys.exit(log.read())
    report = json.loads((output_dir / "merge.json").read_text(encoding="utf-8"))
    names = ("parameters", "difference_to_adapter", "difference_reloaded", "difference_to_base")
    return {
        **{name: report[name] for name in names},
        "seconds": round(time.monotonic() - start, 1),
        "peak_gib": round(peak["rss"] / 2**30, 2),
        "peak_own_gib": round(peak["uss"] / 2**30, 2),  # without the mapped files that the system may drop
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("small_base", "dataset_name", "tinyllama", "work_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--output", help="JSON file to write the table to.")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        work = Path(folder)
        train_adapter(args.small_base, args.dataset_name, work / "adapter")
        results[Path(args.small_base).name] = merge(work / "adapter", work / "model")
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        work = Path(folder)
        # In a process of its own, or its memory would stay with this one.
        making = f"import merge_parity as m; m.make_random_pair({args.tinyllama!r}, m.Path('base'), m.Path('adapter'))"
        paths = {"PYTHONPATH": str(Path(__file__).parent)}
        subprocess.run([sys.executable, "-c", making], check=True, cwd=work, env={**os.environ, **paths})
        config = json.loads((work / "adapter/adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(work / "base")
        (work / "adapter/adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        results["TinyLlama-1.1B's shape, random"] = merge(work / "adapter", work / "model")
    columns = list(next(iter(results.values())))
    print("| base | " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for base, row in results.items():
        print(f"| {base} | " + " | ".join(f"{v:,}" if isinstance(v, int) else f"{v:.3g}" for v in row.values()) + " |")
    if args.output:
        Path(args.output).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
