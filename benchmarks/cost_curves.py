"""
What a training step costs in time and memory against rows, length, batch and model size, fitted; and what an epoch of
the report's data would take on other machines: an estimate.

Steps of the report's FP32 recipe, LoRA with activation checkpointing, on random weights and rows of one length each.
For every model size, by least squares:

    seconds = a + operations / r      GiB = w + k × tokens

A token costs 6 operations a parameter of the layers (2 forward, 2 again for the backward pass, 2 backward to
activations), a labelled one 4 a parameter of the head, which does nothing twice. Attention costs a token
18 × layers × width × length: 4 forward, 4 again, and 10 backward, where its kernel computes its scores anew. Against
rows: whole runs of the smallest model. For other machines: their makers' published rate, of which training reaches
the share that the largest model reached of a plain matrix product here; for bfloat16 the share that `training.py`
measured.

    python benchmarks/cost_curves.py --dataset_name PAIRS --small SMALL_MODEL_FOLDER --model TINYLLAMA_CONFIG_FOLDER \\
        --training benchmarks/results/training_epyc_2_cores.json --output FILE.json
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import training
from datasets import Dataset

EPOCH_ROWS = 103_663
MEDIUM = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
MEDIUM |= {"num_key_value_heads": 12, "head_dim": 64, "tie_word_embeddings": True}
CASES = ((128, 1), (128, 4), (256, 2), (512, 1), (512, 2))  # tokens a row, rows
RUN_ROWS = (48, 100, 200, 400)
# TFLOP/s as published: FP32, and BF16 on tensor cores where the card has it (dense, FP32 accumulation).
CARDS = {
    "GTX 1660 Ti, 6 GB": (5.4, None),
    "T4, 16 GB": (8.1, None),
    "RTX 3060, 12 GB": (12.7, 25.5),
    "H200": (67.0, 989.0),
}


def train(trainer, length: int, rows: int, steps: int, watch=None) -> list[float]:
    """Seconds of each of some steps of `rows` rows of `length` tokens."""
    ids = np.random.default_rng(0).integers(3, 8000, (rows * steps, length)).tolist()
    labels = [[-100] * (length // 4) + row[length // 4 :] for row in ids]
    trainer.train_dataset = Dataset.from_dict({"input_ids": ids, "labels": labels, "length": [length] * len(ids)})
    trainer._train_batch_size, trainer.args.gradient_accumulation_steps = rows, 1
    trainer.args.max_steps, trainer.args.logging_strategy = steps, "no"
    meter = training.Meter()
    hook = trainer.model.register_forward_pre_hook(meter.count, with_kwargs=True)
    trainer.add_callback(meter)
    with watch or contextlib.nullcontext():
        trainer.train()
    trainer.remove_callback(meter)
    hook.remove()
    assert {positions for _, positions, _ in meter.steps} == {length * rows}
    return [seconds for _, _, seconds in meter.steps]


def count_operations(model, length: int, rows: int) -> float:
    """Of a step; an input matrix is looked up, which costs nothing. Three quarters of the tokens have a label."""
    config, tokens = model.config, rows * length
    matrix = config.vocab_size * config.hidden_size
    layers = model.num_parameters() - (1 if config.tie_word_embeddings else 2) * matrix
    attention = 18 * config.num_hidden_layers * config.hidden_size * length
    return tokens * (6 * layers + 4 * 0.75 * matrix + attention)


def measure(trainer) -> list[dict]:
    """Each case's operations, seconds (the better of two steps) and peak of live tensors in GiB."""
    model, found = trainer.model.get_base_model(), []
    train(trainer, *CASES[0], 1)  # to warm up
    for length, rows in CASES:
        seconds, accounting = min(train(trainer, length, rows, 2)), training.Accounting(trainer.model)
        train(trainer, length, rows, 1, accounting)
        case = {"length": length, "rows": rows, "operations": count_operations(model, length, rows)}
        found.append({**case, "seconds": seconds, "gib": accounting.peak / 2**30})
        print(json.dumps(found[-1]), flush=True)
    return found


def fit(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """`y` as a + b × `x`, each point weighted by 1 / y: a, b, and the largest relative error."""
    x, y = np.array(x), np.array(y)
    a, b = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(len(y)), rcond=None)[0]
    return float(a), float(b), float(np.abs((a + b * x) / y - 1).max())


def main(args: argparse.Namespace) -> None:
    shapes = {"9 M": (args.small, {}), "110 M": (args.model, MEDIUM), "1.1 B": (args.model, {})}
    found = {"sizes": {}}
    for name, (folder, changes) in shapes.items():
        before = training.measure_rate(2048, 5632, torch.float32)
        run = {"recipe": str(training.TINYLLAMA_RECIPE), "child": "recipe", "of_steps": 100}
        options = argparse.Namespace(model=folder, dataset_name=args.dataset_name, **run)
        with tempfile.TemporaryDirectory() as output_dir:
            trainer = training.build_ours(options, output_dir, **changes)
            lengths = np.array(trainer.train_dataset["length"])
            model = trainer.model.get_base_model()
            print(f"{name}: {model.num_parameters():,} parameters")
            # A row of the report's data: the mean over rows of their own lengths.
            row = np.mean([count_operations(model, int(length), 1) for length in lengths])
            cases = measure(trainer)
            if name == "9 M":
                runs = []
                for rows in RUN_ROWS:
                    started = time.monotonic()
                    train(trainer, 256, 4, rows // 4)
                    runs.append(time.monotonic() - started)
                a, b, error = fit(RUN_ROWS, runs)
                found["rows"] = {"rows": RUN_ROWS, "seconds": runs, "a": a, "a_row": b, "error": error}
        rate = (before + training.measure_rate(2048, 5632, torch.float32)) / 2
        tokens = [case["length"] * case["rows"] for case in cases]
        a, b, error = fit([case["operations"] for case in cases], [case["seconds"] for case in cases])
        w, k, memory_error = fit(tokens, [case["gib"] for case in cases])
        size = {"gflops": rate / 1e9, "a": a, "r": 1 / b, "share": 1 / b / rate, "error": error, "w": w, "k": k}
        found["sizes"][name] = {**size, "memory_error": memory_error, "cases": cases}
    print(f"\n{'model':8}{'a, s':>8}{'r, GFLOP/s':>12}{'of matrix rate':>16}{'error':>8}", end="")
    print(f"{'w, GiB':>9}{'k, MiB a token':>16}{'error':>8}")
    for name, size in found["sizes"].items():
        print(f"{name:8}{size['a']:8.3f}{size['r'] / 1e9:12.0f}{size['share']:16.2f}{size['error']:8.1%}", end="")
        print(f"{size['w']:9.2f}{size['k'] * 1024:16.3f}{size['memory_error']:8.1%}")
    rows = found["rows"]
    print(f"9 M against rows: {rows['a']:.2f} s + {rows['a_row'] * 1000:.1f} ms a row, error {rows['error']:.1%}")
    large, measured = found["sizes"]["1.1 B"], json.loads(Path(args.training).read_text(encoding="utf-8"))["rows"]
    measured = {row["kind"]: row for row in measured}
    speed = lengths.mean() / (large["a"] / 2 + row / large["r"])  # two rows share a pass
    print(f"tokens a second: {speed:.1f} by the fit, {measured['recipe']['tokens_a_second']:.1f} in training.py")
    shares = {"FP32": large["share"], "BF16": measured["recipe, bf16"]["of_limit"]}
    print(f"\n{'hours for an epoch, estimated':36}{'FP32':>10}{'BF16':>10}")
    epoch = EPOCH_ROWS * lengths.mean() / 3600
    here = [epoch / measured[kind]["tokens_a_second"] for kind in ("recipe", "recipe, bf16")]
    print(f"{'this machine, from training.py':36}{here[0]:10.0f}{here[1]:10.0f}")
    found["hours"] = {"this machine": here}
    for card, rates in CARDS.items():
        hours = [
            EPOCH_ROWS * row / (rate * 1e12 * share) / 3600 if rate else None
            for rate, share in zip(rates, shares.values(), strict=True)
        ]
        print(f"{card:36}" + "".join(f"{value:10.1f}" if value else f"{'none':>10}" for value in hours))
        found["hours"][card] = hours
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--small", required=True, help="Folder with a small model's config and tokenizer: '9 M'.")
    parser.add_argument("--model", required=True, help="Folder with TinyLlama's config and tokenizer: '1.1 B'.")
    parser.add_argument("--training", required=True, help="What training.py wrote with --output.")
    parser.add_argument("--output", help="Also write what was found as JSON.")
    main(parser.parse_args())
