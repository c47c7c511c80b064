"""
Training on TinyLlama's shape, random weights, the report's batch of 2 × 2 rows: tokens a second, peak memory.

Each row of the table is a process of its own, and runs a warm-up step and a few more of the 100-step run. "Original"
pads to 512 with labels on the padding and keeps all activations; "stock" is TRL's trainer with the same LoRA, its
own defaults and no more; ours are the recipes. The limit is arithmetic: 4 × 1.03 G floating-point operations a token
(forward, and backward to activations; weights are frozen), 6 × with activation checkpointing, at the rate of a plain
matrix product in the same run.

    python benchmarks/training.py --dataset_name PAIRS --model TINYLLAMA_CONFIG_FOLDER --output FILE.json
    python benchmarks/training.py --dataset_name PAIRS --model FOLDER --kinds "recipe" --steps 1 --accounting
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# What each row adds to the report's recipe on the command line.
OURS = {
    "recipe": [],
    "recipe, small": ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"],
    "recipe, no checkpointing": ["--activation_checkpointing", "false"],
    "recipe, bf16": ["--bf16", "true", "--dtype", "bfloat16"],
    "recipe, bf16, no checkpointing": ["--bf16", "true", "--dtype", "bfloat16", "--activation_checkpointing", "false"],
}
KINDS = ("original", "stock", *OURS)
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]


class Meter(TrainerCallback):
    """Times the steps after the first, counts their real tokens, and stops the run."""

    def __init__(self, steps: int):
        self.steps, self.tokens, self.positions, self.seconds = steps, 0, 0, 0.0

    def count(self, model, inputs, named_inputs) -> None:
        mask = named_inputs["attention_mask"]
        self.tokens, self.positions = self.tokens + int(mask.sum()), self.positions + mask.numel()

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1 or self.steps == 1:
            self.tokens, self.positions, self.started = 0, 0, time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > self.steps or self.steps == 1:
            self.seconds, control.should_training_stop = time.monotonic() - self.started, True


class Accounting(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest sum of all tensors' bytes at any time, as a GPU's allocator would have to hold them."""

    def __init__(self, model):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, {}
        for parameter in model.parameters():
            self.add(parameter)

    def add(self, tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.known:
            self.known[key] = weakref.finalize(storage, self.remove, key, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def remove(self, key: int, size: int) -> None:
        self.known.pop(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return result


def random_base(folder: str, dtype: torch.dtype):
    torch.manual_seed(0)
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model, tokenizer


def build_original(args, output_dir: str):
    """As the report did, with a public library's plain trainer."""
    from datasets import load_dataset
    from peft import LoraConfig, get_peft_model

    import train_sft

    model, tokenizer = random_base(args.model, torch.float32)
    train_sft.add_tags(tokenizer)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    def pad(row):
        ids = tokenizer(row["prompt"] + row["completion"], padding="max_length", truncation=True, max_length=512)
        return {**ids, "labels": ids["input_ids"]}

    rows = load_dataset(args.dataset_name, split="train").shuffle(seed=42).select(range(400))
    rows = rows.map(pad, remove_columns=rows.column_names)
    model = get_peft_model(model, LoraConfig(**LORA, target_modules=TARGETS, task_type="CAUSAL_LM"))
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 100}
    more = {"learning_rate": 1e-4, "use_cpu": not torch.cuda.is_available(), "save_strategy": "no", "bf16": False}
    return Trainer(model, TrainingArguments(output_dir, **sizes, **more), train_dataset=rows)


def build_stock(args, output_dir: str):
    """TRL's trainer on the same columns, with the report's figures and otherwise its defaults."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = random_base(args.model, torch.float32)
    rows = load_dataset(args.dataset_name, split="train").shuffle(seed=42).select(range(400))
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 100, "max_length": 512}
    more = {"learning_rate": 1e-4, "use_cpu": not torch.cuda.is_available(), "save_strategy": "no", "bf16": False}
    return SFTTrainer(
        model,
        SFTConfig(output_dir, **sizes, **more),
        train_dataset=rows.select_columns(["prompt", "completion"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA, target_modules=TARGETS, task_type="CAUSAL_LM"),
    )


def build_ours(args, output_dir: str):
    import train_sft

    places = ["--model_name_or_path", args.model, "--dataset_name", args.dataset_name, "--output_dir", output_dir]
    cpu = [] if torch.cuda.is_available() else ["--use_cpu", "true", "--dataloader_pin_memory", "false"]
    quiet = ["--eval_strategy", "no", "--eval_on_start", "false", "--save_strategy", "no"]
    recipe = ["--config", str(ROOT / "recipes/tinyllama_lora_fp32.yaml")]
    arguments = train_sft.parse_arguments([*recipe, *places, *cpu, *quiet, *OURS[args.child]])
    train_sft.load_base = lambda model_args, load_weights: random_base(args.model, getattr(torch, model_args.dtype))
    return train_sft.build_trainer(train_sft.build_inputs(*arguments), arguments[1])


def run_child(args) -> None:
    """One row, in this process; prints it as JSON."""
    with tempfile.TemporaryDirectory() as output_dir:
        build = {"original": build_original, "stock": build_stock}.get(args.child, build_ours)
        trainer = build(args, output_dir)
        meter = Meter(args.steps)
        trainer.model.register_forward_pre_hook(meter.count, with_kwargs=True)
        trainer.add_callback(meter)
        row = {"kind": args.child}
        if args.accounting:
            with Accounting(trainer.model) as accounting:
                trainer.train()
            row["allocated_gib"] = accounting.peak / 2**30
        else:
            trainer.train()
        row |= {"tokens_a_second": meter.tokens / meter.seconds, "padding": 1 - meter.tokens / meter.positions}
        row["seconds_a_step"] = meter.seconds / args.steps
        if torch.cuda.is_available():
            row["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
            row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        row["resident_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(row))


def measure_rate(dtype: torch.dtype) -> float:
    """Operations a second of the products that training is made of."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((1024, 2048), (2048, 5632)))
    rates = []
    for _ in range(30):
        started = time.monotonic()
        (a @ b).sum().item()
        rates.append(2 * 1024 * 2048 * 5632 / (time.monotonic() - started))
    return sorted(rates)[len(rates) // 2]


def main(args) -> None:
    if args.child:
        return run_child(args)
    rates = {name: measure_rate(getattr(torch, name)) / 1e9 for name in ("float32", "bfloat16")}
    print({name: f"{rate:.0f} GFLOP/s" for name, rate in rates.items()})
    rows = []
    for kind in args.kinds.split("; "):
        command = [sys.executable, __file__, "--dataset_name", args.dataset_name, "--model", args.model]
        command += ["--steps", str(args.steps), "--child", kind, *(["--accounting"] if args.accounting else [])]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"{kind}: {result.stderr[-2000:]}")
        rows.append(json.loads(result.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    stock = next((row["tokens_a_second"] for row in rows if row["kind"] == "stock"), None)
    print(f"\n{'':34}{'tokens/s':>9}{'s/step':>8}{'padding':>9}{'GiB':>7}{'of limit':>10}{'to stock':>10}")
    for row in rows:
        dtype = "bfloat16" if "bf16" in row["kind"] else "float32"
        units = 4 if "no checkpointing" in row["kind"] or row["kind"] == "original" else 6
        row["of_limit"] = row["tokens_a_second"] / (rates[dtype] * 1e9 / (units * 1.03e9))
        row["to_stock"] = row["tokens_a_second"] / stock if stock else None
        memory = row.get("allocated_gib", row["resident_gib"])
        ratio = f"{row['to_stock']:10.2f}" if stock else ""
        cells = f"{row['tokens_a_second']:9.1f}{row['seconds_a_step']:8.1f}{row['padding']:9.1%}{memory:7.2f}"
        print(f"{row['kind']:34}{cells}{row['of_limit']:10.2f}{ratio}")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    found = {"machine": machine, "threads": torch.get_num_threads(), "gflops": rates, "rows": rows}
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--model", required=True, help="Folder with TinyLlama's config and tokenizer; no weights.")
    parser.add_argument("--kinds", default="; ".join(KINDS), help="Rows to measure, separated by '; '.")
    parser.add_argument("--steps", type=int, default=3, help="Steps to time, after one to warm up.")
    parser.add_argument("--accounting", action="store_true", help="Count tensors instead of timing.")
    parser.add_argument("--output", help="Also write the rows as JSON.")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    main(parser.parse_args())
