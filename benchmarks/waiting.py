"""
How torch's threads should wait for one another: training and drafting with each setting, on quiet and on busy cores.

Threads of OpenMP that wait for the next piece of work either spin, which is fast and takes the core from others, or
sleep, which costs a wake-up. GNU's runtime, which torch's Linux wheels bring, spins GOMP_SPINCOUNT times before it
sleeps: about 300,000 by default, none with OMP_WAIT_POLICY=PASSIVE. A model of SmolLM2-135M's shape with random
weights is trained with LoRA (4 rows of 215 tokens, BF16 autocast) and drafts greedily, 32 at once in BF16 and one
alone in FP32. "Busy" means that one other process computes on one core all the time.

    python benchmarks/waiting.py                   # 9 minutes on 2 cores
    python benchmarks/waiting.py --output benchmarks/results/waiting.json
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = {
    "spinning, the default": {},
    "waiting, OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
}


def build_model():
    """SmolLM2-135M's shape, random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def time_training(steps: int = 6) -> float:
    """Tokens a second of the median training step."""
    import torch
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]
    model = get_peft_model(build_model(), LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(3, 49000, (4, 215))
    seconds = []
    for _ in range(steps):
        started = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - started)
    return ids.numel() / statistics.median(seconds[1:])


def time_drafting(rows: int, tokens: int, dtype: str) -> float:
    """Tokens a second of greedy drafts, `rows` at once."""
    import torch

    model = build_model().to(getattr(torch, dtype)).eval()
    ids = torch.randint(3, 49000, (rows, 32))
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.inference_mode():
        model.generate(ids, **options, max_new_tokens=4)
        started = time.monotonic()
        model.generate(ids, **options, max_new_tokens=tokens, min_new_tokens=tokens)
    return rows * tokens / (time.monotonic() - started)


def measure() -> dict[str, float]:
    """What one process measures, in tokens a second."""
    return {
        "training": time_training(),
        "drafting 32 at once, BF16": time_drafting(32, 48, "bfloat16"),
        "drafting one, FP32": time_drafting(1, 48, "float32"),
    }


def compute_forever() -> None:
    while True:
        pass


def run_child(setting: dict[str, str], busy: bool) -> dict[str, float]:
    """Measures in a process of its own, since the runtime reads its settings when torch is loaded."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    other = multiprocessing.Process(target=compute_forever, daemon=True)
    if busy:
        other.start()
    try:
        command = [sys.executable, __file__, "--child"]
        done = subprocess.run(command, env={**inherited, **setting}, check=True, capture_output=True, text=True)
    finally:
        if busy:
            other.terminate()
    return json.loads(done.stdout.splitlines()[-1])


def main(args: argparse.Namespace) -> None:
    if args.child:
        print(json.dumps(measure()))
        return
    rows = []
    for round_number in range(args.rounds):
        for name, setting in SETTINGS.items():
            for load in ("quiet", "busy"):
                row = {"setting": name, "cores": load, "round": round_number, **run_child(setting, load == "busy")}
                rows.append(row)
                figures = "  ".join(f"{key} {value:6.0f}" for key, value in list(row.items())[3:])
                print(f"{name:34} {load:6} {figures}", flush=True)
    if args.output:
        args.output.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="How often to measure each setting.")
    parser.add_argument("--output", type=Path, help="JSON file for the figures.")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    main(parser.parse_args())
