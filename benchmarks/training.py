"""
A step of training: tokens a second and peak memory of a recipe, beside the original's way and TRL's defaults.

Each row of the table is a process of its own. It takes some of the run's steps, evenly spaced, since a length-grouped
order goes from long rows to short ones every 25 steps: one to warm up, then the median of the others' tokens a second.
Of several repeats the medians are told, and of the ratios to the stock row of the same repeat.
"Original" pads to 512 with labels on the padding and keeps all activations; "stock" is TRL's trainer with the recipe's
LoRA, rows and precision, its own defaults and no more; ours are the recipe and what could be changed in it. A base
without weights in its folder gets random ones of its shape. The limit is arithmetic: 4 floating-point operations a
token and weight of the base's linear layers (forward, and backward to activations; they are frozen), 6 with activation
checkpointing and 5 with half of it, at the rate of plain matrix products of this model's shapes in the same process.
Our head does not score twice, nor prompts, so that it needs less than this counts, and LoRA's own products more.

    python benchmarks/training.py --dataset_name PAIRS --model TINYLLAMA_CONFIG_FOLDER --output FILE.json
    python benchmarks/training.py --dataset_name PAIRS --model SMOLLM2 --recipe recipes/smollm2_135m_cpu.yaml
    python benchmarks/training.py … --kinds "stock; recipe" --repeats 3
    python benchmarks/training.py … --kinds "recipe" --steps 1 --accounting
    python benchmarks/training.py … --kinds "recipe" --steps 99 --evaluate    # all of the 100: loss, growth of memory
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from statistics import median

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# What each row adds to the recipe on the command line.
NO_CHECKPOINTS = ["--activation_checkpointing", "false"]
BF16_BASE = ["--bf16", "true", "--dtype", "bfloat16"]
OURS = {
    "recipe": [],
    "recipe, small": ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"],
    "recipe, every second layer": ["--activation_checkpointing_kwargs", '{"every_n_layers": 2}'],
    "recipe, no checkpointing": NO_CHECKPOINTS,
    "recipe, no checkpointing, no dropout": [*NO_CHECKPOINTS, "--lora_dropout", "0"],
    "recipe, bf16": BF16_BASE,
    "recipe, bf16, no checkpointing": [*BF16_BASE, *NO_CHECKPOINTS],
    "recipe, fp32, no checkpointing": ["--bf16", "false", *NO_CHECKPOINTS],
    "recipe, TF32": ["--tf32", "true"],
}
STOCK = {"stock": {}, "stock, no checkpointing": {"gradient_checkpointing": False}}
KINDS = ("original", *STOCK, *OURS)
TINYLLAMA_RECIPE = ROOT / "recipes/tinyllama_lora_fp32.yaml"
TINYLLAMA = "original; stock; recipe; recipe, small; recipe, every second layer; recipe, no checkpointing; "
TINYLLAMA += "recipe, no checkpointing, no dropout; recipe, bf16; recipe, bf16, no checkpointing"
TINYLLAMA += "; recipe, TF32" if torch.cuda.is_available() else ""


class Meter(TrainerCallback):
    """Each step's real tokens, positions with padding, and seconds; and what is resident after it, in GiB."""

    def __init__(self):
        self.steps: list[list[float]] = []
        self.resident: list[float] = []

    def count(self, model, inputs, named_inputs) -> None:
        mask = named_inputs["attention_mask"]
        self.steps[-1][0] += int(mask.sum())
        self.steps[-1][1] += mask.numel()

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps.append([0, 0, time.monotonic()])

    def on_step_end(self, args, state, control, **kwargs):
        self.steps[-1][2] = time.monotonic() - self.steps[-1][2]
        self.resident.append(psutil.Process().memory_info().rss / 2**30)
        control.should_evaluate = False  # transformers would, after the last step, and its tokens would count
        return control


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


def read_recipe(args, output_dir: str, added: list[str]):
    """The recipe with what a row adds to it, as `train_sft.py` reads it: its four groups of arguments."""
    import train_sft

    places = ["--model_name_or_path", args.model, "--dataset_name", args.dataset_name, "--output_dir", output_dir]
    cpu = ["--use_cpu", "true", "--dataloader_pin_memory", "false"]
    machine = ["--use_cpu", "false"] if torch.cuda.is_available() else cpu
    steps = ["--max_steps", str(args.of_steps)]
    quiet = ["--eval_strategy", "steps", "--eval_on_start", "false", "--save_strategy", "no", "--num_samples", "0"]
    quiet += ["--eval_steps", str(10 * args.of_steps)]  # rows for the loss are read, none is taken on the way
    return train_sft.parse_arguments(["--config", args.recipe, *places, *machine, *steps, *quiet, *added])


def first_rows(name: str, training_args):
    """The rows that `train_sft.py` takes for these steps."""
    from datasets import load_dataset

    rows = training_args.max_steps * step_rows(training_args)
    return load_dataset(name, split="train").shuffle(seed=training_args.seed).select(range(rows))


def step_rows(training_args) -> int:
    return training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps


def space_steps(trainer, steps: int) -> None:
    """Leaves `steps` of the run's steps in the trainer's order, evenly spaced."""
    order, rows, all_steps = list(trainer._get_train_sampler()), step_rows(trainer.args), trainer.args.max_steps
    starts = [step * all_steps // steps * rows for step in range(steps)]
    chosen = [row for start in starts for row in order[start : start + rows]]
    trainer._get_train_sampler = lambda *arguments: chosen
    trainer.args.max_steps = steps


def make_base(folder: str, dtype: torch.dtype, **changes):
    """The base in `folder`, or one of its shape with random weights where it has none; and its tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, **changes, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if list(Path(folder).glob("*.safetensors")) and not changes:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    else:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model, tokenizer


def plain_arguments(training_args) -> dict:
    """What the rows that are not ours take over from the recipe."""
    names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_steps",
        "learning_rate",
        "bf16",
        "use_cpu",
    )
    return {**{name: getattr(training_args, name) for name in names}, "save_strategy": "no"}


def plain_lora(model_args):
    from peft import LoraConfig

    shape = {"r": model_args.lora_r, "lora_alpha": model_args.lora_alpha, "lora_dropout": model_args.lora_dropout}
    return LoraConfig(**shape, target_modules=model_args.lora_target_modules, task_type="CAUSAL_LM")


def build_original(args, output_dir: str):
    """As the report did, with a public library's plain trainer."""
    from peft import get_peft_model

    from approach.prompt import add_tags

    _, training_args, model_args, _ = read_recipe(args, output_dir, [])
    model, tokenizer = make_base(args.model, torch.float32)
    add_tags(tokenizer)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    def pad(row):
        ids = tokenizer(row["prompt"] + row["completion"], padding="max_length", truncation=True, max_length=512)
        return {**ids, "labels": ids["input_ids"]}

    rows = first_rows(args.dataset_name, training_args)
    rows = rows.map(pad, remove_columns=rows.column_names)
    model = get_peft_model(model, plain_lora(model_args))
    return Trainer(model, TrainingArguments(output_dir, **plain_arguments(training_args)), train_dataset=rows)


def build_stock(args, output_dir: str):
    """TRL's trainer on the same columns, with the recipe's figures and otherwise its defaults."""
    from trl import SFTConfig, SFTTrainer

    _, training_args, model_args, _ = read_recipe(args, output_dir, [])
    model, tokenizer = make_base(args.model, torch.float32)
    return SFTTrainer(
        model,
        SFTConfig(output_dir, **plain_arguments(training_args), **STOCK[args.child], max_length=512),
        train_dataset=first_rows(args.dataset_name, training_args).select_columns(["prompt", "completion"]),
        processing_class=tokenizer,
        peft_config=plain_lora(model_args),
    )


def build_ours(args, output_dir: str, **changes):
    """The recipe with what the kind adds to it; `changes` are of the model's shape."""
    from approach.embeddings import add_tag_tokens
    from approach.training.data import load_pairs
    from approach.training.trainer import ApproachTrainer, build_lora_config

    script_args, training_args, model_args, run_args = read_recipe(args, output_dir, OURS[args.child])
    model, tokenizer = make_base(args.model, getattr(torch, model_args.dtype), **changes)
    lora = build_lora_config(model, model_args, add_tag_tokens(model, tokenizer))
    pairs = load_pairs(script_args, training_args, run_args, tokenizer)
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
    torch.backends.cuda.matmul.allow_tf32 = "TF32" in args.child
    with tempfile.TemporaryDirectory() as output_dir:
        build = build_original if args.child == "original" else build_stock if args.child in STOCK else build_ours
        trainer = build(args, output_dir)
        config, dtype = trainer.model.config, torch.bfloat16 if trainer.args.bf16 else torch.float32
        product = config.hidden_size, config.intermediate_size, dtype
        rate = measure_rate(*product)
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
        tokens, positions, seconds = zip(*meter.steps[1:], strict=True)
        if args.evaluate and args.child in OURS:
            row["validation_loss"] = trainer.evaluate()["eval_loss"]
    rate = (rate + measure_rate(*product)) / 2  # before and after: the machine is shared
    row["gflops"] = rate / 1e9
    speeds = [t / s for t, s in zip(tokens, seconds, strict=True)]
    row["tokens_a_second"], row["slowest"], row["fastest"] = median(speeds), min(speeds), max(speeds)
    row["seconds_a_step"], row["padding"] = median(seconds), 1 - sum(tokens) / sum(positions)
    if torch.cuda.is_available():
        row["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    row["resident_gib"], row["resident_by_step"] = max(meter.resident), [round(gib, 2) for gib in meter.resident]
    checkpointing = getattr(trainer.args, "activation_checkpointing", False) and args.child != "original"
    units = 6 - ("every second layer" in args.child) if checkpointing else 4
    weights = sum(m.weight.numel() for n, m in trainer.model.named_modules() if is_base_product(n, m))
    row["of_limit"] = row["tokens_a_second"] / (rate / (units * weights))
    print(json.dumps(row))


def is_base_product(name: str, module: torch.nn.Module) -> bool:
    """Whether a module multiplies by a matrix of the base: a linear layer, the head among them, but none of LoRA's."""
    return isinstance(module, torch.nn.Linear) and "lora_" not in name


def measure_rate(width: int, inner: int, dtype: torch.dtype) -> float:
    """Operations a second of a feed-forward layer's product with 1,024 tokens, of which most of training is made."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((1024, width), (width, inner)))
    rates, products = [], 100 if device == "cuda" else 1  # at a time: there a product ends before Python asks for it
    for _ in range(30):
        started = time.monotonic()
        for _ in range(products):
            c = a @ b
        c.sum().item()
        rates.append(products * 2 * 1024 * b.numel() / (time.monotonic() - started))
    return median(rates)


def run_row(args, kind: str) -> dict | None:
    """A row, in a process of its own; None where the GPU's memory is too small for it."""
    from approach.runtime import KEPT_OPERATIONS

    command = [sys.executable, __file__, "--dataset_name", args.dataset_name, "--model", args.model]
    command += ["--recipe", args.recipe, "--steps", str(args.steps), "--of_steps", str(args.of_steps)]
    command += ["--memory_gib", str(args.memory_gib), "--child", kind]
    command += ["--accounting"] * args.accounting + ["--evaluate"] * args.evaluate
    told = KEPT_OPERATIONS if kind in OURS else {}  # as train_sft.py does
    result = subprocess.run(command, capture_output=True, text=True, env={**told, **os.environ})
    if "OutOfMemoryError" in result.stderr:
        print(f"{kind}: out of memory", flush=True)
        return None
    if result.returncode:
        sys.exit(f"{kind}: {result.stderr[-2000:]}")
    print(result.stdout.splitlines()[-1], flush=True)
    return json.loads(result.stdout.splitlines()[-1])


def run_repeats(args) -> dict[str, list[dict]]:
    """All rows again and again, each time in the opposite order; those that fit into memory, by their kinds."""
    found: dict[str, list[dict]] = {kind: [] for kind in args.kinds.split("; ")}
    for repeat in range(args.repeats):
        for kind in list(found)[:: -1 if repeat % 2 else 1]:
            row = run_row(args, kind)
            if row is None:
                del found[kind]
            else:
                found[kind].append(row)
    for repeat, stock in enumerate(found.get("stock", [])):
        for rows in found.values():
            rows[repeat]["to_stock"] = rows[repeat]["tokens_a_second"] / stock["tokens_a_second"]
    return found


def describe(rows: list[dict]) -> str:
    """A line of the table: medians of a row's repeats, the slowest and the fastest of all steps, the most memory."""

    def middle(key: str) -> float:
        return median(row[key] for row in rows)

    speeds = f"{min(row['slowest'] for row in rows):.0f}–{max(row['fastest'] for row in rows):.0f}"
    memory = max(row.get("allocated_gib", row["resident_gib"]) for row in rows)
    cells = f"{middle('gflops'):9.0f}{middle('tokens_a_second'):9.1f}{speeds:>13}{middle('seconds_a_step'):8.2f}"
    line = f"{rows[0]['kind']:38}{cells}{middle('padding'):9.1%}{memory:7.2f}{middle('of_limit'):10.2f}"
    ratios = [row["to_stock"] for row in rows if "to_stock" in row]
    return line + (f"{median(ratios):10.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "")


def main(args) -> None:
    if args.child:
        return run_child(args)
    found = run_repeats(args)
    units = f"{'':38}{'GFLOP/s':>9}{'tokens/s':>9}{'range':>13}{'s/step':>8}"
    print(f"\n{units}{'padding':>9}{'GiB':>7}{'of limit':>10}{'to stock':>10}")
    for rows in found.values():
        print(describe(rows))
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    record = {"machine": machine, "threads": torch.get_num_threads(), "steps": args.steps}
    record["rows"] = [row for rows in found.values() for row in rows]
    record["out_of_memory"] = [kind for kind in args.kinds.split("; ") if kind not in found]
    if args.output:
        Path(args.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--model", required=True, help="Folder of the base: config, tokenizer, weights or none.")
    parser.add_argument("--recipe", default=str(TINYLLAMA_RECIPE), help="Of `recipes/`.")
    parser.add_argument("--kinds", default=TINYLLAMA, help="Rows to measure, separated by '; '.")
    parser.add_argument("--steps", type=int, default=6, help="Steps to time, after one to warm up.")
    parser.add_argument("--of_steps", type=int, default=100, help="Steps of the run that they are taken from.")
    parser.add_argument("--repeats", type=int, default=1, help="Runs of each row.")
    parser.add_argument("--evaluate", action="store_true", help="Validation loss after the steps, of ours.")
    parser.add_argument("--memory_gib", type=float, default=0, help="Pretend that the GPU has so much memory.")
    parser.add_argument("--accounting", action="store_true", help="Count tensors instead of timing.")
    parser.add_argument("--output", help="Also write the rows as JSON.")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    main(parser.parse_args())
