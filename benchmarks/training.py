"""
Training on TinyLlama's shape, random weights, the report's batch of 2 × 2 rows: tokens a second, peak memory.

Each row of the table is a process of its own. It takes some of the 100 steps, evenly spaced, since a length-grouped
order goes from long rows to short ones every 25 steps: one to warm up, then the median of the others' tokens a second.
"Original" pads to 512 with labels on the padding and keeps all activations; "stock" is TRL's trainer with the same
LoRA, its own defaults and no more; ours are the recipes. The limit is arithmetic: 4 × 1.03 G floating-point
operations a token (forward, and backward to activations; weights are frozen), 6 × with activation checkpointing and
5 × with half of it, at the rate of a plain matrix product in the same process. Our head does not score twice, nor
prompts, so that it needs 3 % less than this counts.

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
from statistics import median

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# What each row adds to the report's recipe on the command line.
OURS = {
    "recipe": [],
    "recipe, small": ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"],
    "recipe, every second layer": ["--activation_checkpointing_kwargs", '{"every_n_layers": 2}'],
    "recipe, no checkpointing": ["--activation_checkpointing", "false"],
    "recipe, no checkpointing, no dropout": ["--activation_checkpointing", "false", "--lora_dropout", "0"],
    "recipe, bf16": ["--bf16", "true", "--dtype", "bfloat16"],
    "recipe, bf16, no checkpointing": ["--bf16", "true", "--dtype", "bfloat16", "--activation_checkpointing", "false"],
}
if torch.cuda.is_available():
    OURS["recipe, TF32"] = ["--tf32", "true"]
KINDS = ("original", "stock", *OURS)
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05}
STEP_ROWS = 4
SIZES = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 100}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]


class Meter(TrainerCallback):
    """Each step's real tokens, positions with padding, and seconds."""

    def __init__(self):
        self.steps: list[list[float]] = []

    def count(self, model, inputs, named_inputs) -> None:
        mask = named_inputs["attention_mask"]
        self.steps[-1][0] += int(mask.sum())
        self.steps[-1][1] += mask.numel()

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps.append([0, 0, time.monotonic()])

    def on_step_end(self, args, state, control, **kwargs):
        self.steps[-1][2] = time.monotonic() - self.steps[-1][2]


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


def first_rows(name: str):
    """The rows that `train_sft.py` takes for 100 steps."""
    from datasets import load_dataset

    return load_dataset(name, split="train").shuffle(seed=42).select(range(100 * STEP_ROWS))


def space_steps(trainer, steps: int) -> None:
    """Leaves `steps` of the 100 steps in the trainer's order, evenly spaced."""
    order = list(trainer._get_train_sampler())
    starts = [step * 100 // steps * STEP_ROWS for step in range(steps)]
    chosen = [row for start in starts for row in order[start : start + STEP_ROWS]]
    trainer._get_train_sampler = lambda *arguments: chosen
    trainer.args.max_steps = steps


def random_base(folder: str, dtype: torch.dtype, **changes):
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, **changes, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=dtype)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model, tokenizer


def build_original(args, output_dir: str):
    """As the report did, with a public library's plain trainer."""
    from peft import LoraConfig, get_peft_model

    from approach.prompt import add_tags

    model, tokenizer = random_base(args.model, torch.float32)
    add_tags(tokenizer)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    def pad(row):
        ids = tokenizer(row["prompt"] + row["completion"], padding="max_length", truncation=True, max_length=512)
        return {**ids, "labels": ids["input_ids"]}

    rows = first_rows(args.dataset_name)
    rows = rows.map(pad, remove_columns=rows.column_names)
    model = get_peft_model(model, LoraConfig(**LORA, target_modules=TARGETS, task_type="CAUSAL_LM"))
    more = {"learning_rate": 1e-4, "use_cpu": not torch.cuda.is_available(), "save_strategy": "no", "bf16": False}
    return Trainer(model, TrainingArguments(output_dir, **SIZES, **more), train_dataset=rows)


def build_stock(args, output_dir: str):
    """TRL's trainer on the same columns, with the report's figures and otherwise its defaults."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = random_base(args.model, torch.float32)
    more = {"learning_rate": 1e-4, "use_cpu": not torch.cuda.is_available(), "save_strategy": "no", "bf16": False}
    return SFTTrainer(
        model,
        SFTConfig(output_dir, **SIZES, **more, max_length=512),
        train_dataset=first_rows(args.dataset_name).select_columns(["prompt", "completion"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA, target_modules=TARGETS, task_type="CAUSAL_LM"),
    )


def build_ours(args, output_dir: str, **changes):
    """The report's recipe with what the kind adds to it; `changes` are of the model's shape."""
    import train_sft
    from approach.training.lora import lora_with_tag_rows
    from approach.training.tag_rows import add_tags_with_rows
    from approach.training.trainer import ApproachTrainer

    places = ["--model_name_or_path", args.model, "--dataset_name", args.dataset_name, "--output_dir", output_dir]
    cpu = [] if torch.cuda.is_available() else ["--use_cpu", "true", "--dataloader_pin_memory", "false"]
    quiet = ["--eval_strategy", "no", "--eval_on_start", "false", "--save_strategy", "no"]
    recipe = ["--config", str(ROOT / "recipes/tinyllama_lora_fp32.yaml")]
    arguments = train_sft.parse_arguments([*recipe, *places, *cpu, *quiet, *OURS[args.child]])
    script_args, training_args, model_args, run_args = arguments
    model, tokenizer = random_base(args.model, getattr(torch, model_args.dtype), **changes)
    lora = lora_with_tag_rows(model, model_args, add_tags_with_rows(model, tokenizer))
    pairs = train_sft.load_pairs(script_args, training_args, run_args, tokenizer)
    return ApproachTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        train_dataset=pairs.train,
        eval_dataset=pairs.validation,
        peft_config=lora,
    )


def run_child(args) -> None:
    """One row, in this process; prints it as JSON."""
    if args.memory_gib and torch.cuda.is_available():  # of which the CUDA context takes half a GiB
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((args.memory_gib - 0.5) * 2**30 / total)
    dtype = torch.bfloat16 if "bf16" in args.child else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = "TF32" in args.child
    rate = measure_rate(dtype)
    with tempfile.TemporaryDirectory() as output_dir:
        build = {"original": build_original, "stock": build_stock}.get(args.child, build_ours)
        trainer = build(args, output_dir)
        meter = Meter()
        trainer.model.register_forward_pre_hook(meter.count, with_kwargs=True)
        trainer.add_callback(meter)
        space_steps(trainer, args.steps + 1)
        row = {"kind": args.child}
        if args.accounting:
            with Accounting(trainer.model) as accounting:
                trainer.train()
            row["allocated_gib"] = accounting.peak / 2**30
        else:
            trainer.train()
    rate = (rate + measure_rate(dtype)) / 2  # before and after: the machine is shared
    row["gflops"] = rate / 1e9
    tokens, positions, seconds = zip(*meter.steps[1:], strict=True)
    row["tokens_a_second"] = median(t / s for t, s in zip(tokens, seconds, strict=True))
    row["seconds_a_step"], row["padding"] = median(seconds), 1 - sum(tokens) / sum(positions)
    if torch.cuda.is_available():
        row["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    row["resident_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    units = 4 if "no checkpointing" in args.child or args.child == "original" else 6
    units -= "every second layer" in args.child
    row["of_limit"] = row["tokens_a_second"] / (rate / (units * 1.03e9))
    print(json.dumps(row))


def measure_rate(dtype: torch.dtype) -> float:
    """Operations a second of the products that training is made of."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((1024, 2048), (2048, 5632)))
    rates, products = [], 100 if device == "cuda" else 1  # at a time: there a product ends before Python asks for it
    for _ in range(30):
        started = time.monotonic()
        for _ in range(products):
            c = a @ b
        c.sum().item()
        rates.append(products * 2 * 1024 * 2048 * 5632 / (time.monotonic() - started))
    return median(rates)


def main(args) -> None:
    if args.child:
        return run_child(args)
    rows = []
    for kind in args.kinds.split("; "):
        command = [sys.executable, __file__, "--dataset_name", args.dataset_name, "--model", args.model]
        command += ["--steps", str(args.steps), "--memory_gib", str(args.memory_gib), "--child", kind]
        result = subprocess.run(command + ["--accounting"] * args.accounting, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"{kind}: {result.stderr[-2000:]}")
        rows.append(json.loads(result.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    stock = next((row["tokens_a_second"] for row in rows if row["kind"] == "stock"), None)
    print(
        f"\n{'':38}{'GFLOP/s':>9}{'tokens/s':>9}{'s/step':>8}{'padding':>9}{'GiB':>7}{'of limit':>10}{'to stock':>10}"
    )
    for row in rows:
        row["to_stock"] = row["tokens_a_second"] / stock if stock else None
        memory = row.get("allocated_gib", row["resident_gib"])
        ratio = f"{row['to_stock']:10.2f}" if stock else ""
        cells = f"{row['gflops']:9.0f}{row['tokens_a_second']:9.1f}{row['seconds_a_step']:8.1f}{row['padding']:9.1%}"
        print(f"{row['kind']:38}{cells}{memory:7.2f}{row['of_limit']:10.2f}{ratio}")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    found = {"machine": machine, "threads": torch.get_num_threads(), "steps": args.steps, "rows": rows}
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--model", required=True, help="Folder with TinyLlama's config and tokenizer; no weights.")
    parser.add_argument("--kinds", default="; ".join(KINDS), help="Rows to measure, separated by '; '.")
    parser.add_argument("--steps", type=int, default=6, help="Steps to time, after one to warm up.")
    parser.add_argument("--memory_gib", type=float, default=0, help="Pretend that the GPU has so much memory.")
    parser.add_argument("--accounting", action="store_true", help="Count tensors instead of timing.")
    parser.add_argument("--output", help="Also write the rows as JSON.")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    main(parser.parse_args())
