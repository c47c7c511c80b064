# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bitsandbytes==0.50.2",
#     "datasets==5.2.0",
#     "matplotlib==3.11.2",
#     "peft==0.21.2",
#     "torch==2.13.0",
#     "transformers==5.23.0",
#     "trl==1.16.0",
#     "wandb==0.31.0",
# ]
# ///
"""
Fine-tune a causal language model to continue `<problem>…</problem><approach>` with an approach, with TRL and LoRA.

Reads the dataset that `prepare_dataset.py` wrote (columns `id`, `prompt`, `completion`) and writes an adapter folder
that opens with plain PEFT: adapter weights, tokenizer with tags and chat template, `run.json`, the loss curve.

    accelerate launch --config_file accelerate_configs/cpu.yaml train_sft.py \
        --config recipes/small_base_lora_fp32.yaml --model_name_or_path BASE \
        --dataset_name outputs/pairs --output_dir outputs/adapter
    accelerate launch --config_file accelerate_configs/single_gpu_fp32.yaml train_sft.py \
        --config recipes/tinyllama_lora_fp32.yaml --dataset_name outputs/arxiv_pairs --output_dir outputs/adapter
"""

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

from transformers import TrainerCallback

TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
END_TAG = TAGS[-1]
# What a tag means in words the base knows: its new rows start as the mean of these words' rows. The end tag starts as
# the base's own end-of-text row, which already means "stop".
TAG_MEANINGS = {"<problem>": "problem", "</problem>": "problem.", "<approach>": "approach:"}

# The last user message is the problem, an assistant message after it its approach. A system message and earlier turns
# are left out: training saw neither. A tag in the text becomes a space, so that no text can close the problem early.
CHAT_TEMPLATE = """\
{%- set turn = namespace(problem='', approach='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{%- set turn.problem = message['content'] -%}{%- set turn.approach = '' -%}
{%- elif message['role'] == 'assistant' -%}{%- set turn.approach = message['content'] -%}
{%- endif -%}
{%- endfor -%}
{{- BOS + '<problem>' + (turn.problem STRIP | trim) + '</problem><approach>' -}}
{%- if turn.approach -%}{{- ' ' + (turn.approach STRIP | trim) + '</approach>' -}}{%- endif -%}
"""
# A sentence's last mark: set off by spaces, as in tokenized corpora, or before a space and no lower-case letter.
SENTENCE_END = re.compile(r"(?<=\s)[.!?](?=\s)|(?<=\S)[.!?](?=\s+[^\sa-z])")


@dataclass
class RunArguments:
    """What TRL's own arguments do not say."""

    train_fraction: float = field(default=1.0, metadata={"help": "Share of the training split to use, in (0, 1]."})
    num_eval_rows: int = field(default=100, metadata={"help": "Validation rows for the evaluation loss, at most."})
    long_examples: str = field(
        default="shorten",
        metadata={
            "help": "Rows longer than --max_length: 'shorten' at the last whole sentence that fits, or 'drop'.",
            "choices": ["shorten", "drop"],
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Write into an output folder that is not empty."})

    def __post_init__(self):
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"--train_fraction must lie in (0, 1], got {self.train_fraction}")
        if self.num_eval_rows < 1:
            raise ValueError(f"--num_eval_rows must be at least 1, got {self.num_eval_rows}")


def check_machine(training_args) -> None:
    """Ends with one line where the run would silently use the wrong device or a precision the card lacks."""
    import torch

    if training_args.device.type == "cpu" and training_args.world_size == 1:
        # `accelerate launch` exports OMP_NUM_THREADS=1 unless its file says use_cpu: half the speed on two cores.
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    if training_args.use_cpu:
        return
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        sys.exit(
            f"This machine has an NVIDIA card, but torch {torch.__version__} is a build for the CPU. Install the CUDA "
            "build (README, Windows), or add --use_cpu true to train on the CPU all the same."
        )
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        # torch.cuda.is_bf16_supported() is no help: it is true where bfloat16 is only emulated.
        if training_args.bf16 and torch.cuda.get_device_capability() < (8, 0):
            sys.exit(f"{name} has no bfloat16 arithmetic: set bf16: false in the recipe.")
        if training_args.fp16 and "GTX 16" in name:
            sys.exit(f"{name} gives NaN in FP16 (pytorch#77955): set fp16: false in the recipe.")


def load_split(script_args, split: str):
    """One split of the dataset. Ends with one line where there is none, or where its columns are not ours."""
    from datasets import load_dataset

    name = script_args.dataset_name
    if name is None:
        sys.exit("--dataset_name is missing: a folder that prepare_dataset.py wrote, or a dataset's Hub id")
    try:
        rows = load_dataset(name, script_args.dataset_config, split=split)
    except (ValueError, OSError) as error:
        sys.exit(f"--dataset_name {name}: {str(error).splitlines()[0]}")
    missing = {"id", "prompt", "completion"} - set(rows.column_names)
    if missing:
        sys.exit(f"--dataset_name {name}: no column {', '.join(sorted(missing))}; build it with prepare_dataset.py")
    return rows


def add_tags(tokenizer) -> None:
    """Adds the four tags as special tokens and the chat template, which renders exactly what training saw."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # before the end tag becomes eos: padding must differ from it
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)}, replace_extra_special_tokens=False)
    begins_with_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    strip = "".join(f" | replace('{tag}', ' ')" for tag in TAGS)
    template = CHAT_TEMPLATE.replace("STRIP", strip)
    tokenizer.chat_template = template.replace("BOS", "bos_token" if begins_with_bos else "''")


def add_tag_rows(model, tokenizer, old_eos_id: int) -> list[int]:
    """
    Gives the input and the output matrix a row for each tag and returns the tags' ids.

    The rows start as means of known rows, the same on every machine; `resize_token_embeddings` would draw them at
    random. A base that already has rows for the ids is not resized.
    """
    import torch

    tag_ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    sources = [tokenizer(TAG_MEANINGS[tag], add_special_tokens=False)["input_ids"] for tag in TAGS[:-1]]
    with torch.no_grad():
        for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            for tag_id, source in zip(tag_ids, [*sources, [old_eos_id]], strict=True):
                matrix[tag_id] = matrix[source].mean(dim=0)
    return tag_ids


def build_peft_config(model, model_args, tag_ids: list[int]):
    """
    TRL's LoRA configuration, with the tags' rows of both matrices as trainable tokens.

    All four rows of both matrices must be stored ones: PEFT's loader gives the base random rows of its own. The price
    is a copy of the output matrix and its gradient a step, 0.3 to 0.5 GiB for TinyLlama in FP32; training both
    matrices whole (`modules_to_save`) would be 134.7 M parameters, which a 6 GB card cannot hold.
    """
    from trl import get_peft_config

    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    linear = {names[id(m)] for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D", "Linear4bit")}
    targets = model_args.lora_target_modules
    missing = sorted(set(targets) - linear) if isinstance(targets, list) else []
    if missing:
        have = ", ".join(sorted(linear))
        sys.exit(f"lora_target_modules: the base has no {', '.join(missing)}; its linear layers are {have}")
    config = get_peft_config(model_args)
    if isinstance(targets, list):
        config.target_modules = sorted(targets)  # PEFT keeps a set, whose order would differ from run to run
    config.revision = model_args.model_revision
    config.trainable_token_indices = {names[id(model.get_input_embeddings())]: tag_ids}
    if not model.config.get_text_config().tie_word_embeddings:
        config.trainable_token_indices[names[id(model.get_output_embeddings())]] = tag_ids
    return config


def shorten(prompt: str, completion: str, tokenizer, max_length: int) -> list[int]:
    """Token ids of `prompt` and the whole sentences of `completion` that fit, closed; empty where not one fits."""
    text = completion.removesuffix(END_TAG)
    for end in reversed([match.end() for match in SENTENCE_END.finditer(text)]):
        ids = tokenizer(prompt + text[:end] + END_TAG)["input_ids"]
        if len(ids) <= max_length:
            return ids
    return []


def tokenize(batch: dict[str, list], tokenizer, max_length: int, long_examples: str) -> dict[str, list]:
    """
    Turns `prompt` and `completion` into `input_ids` and `labels`; a row that is dropped comes out empty.

    Labels are -100 on the prompt and the token ids on the completion, its end tag included. TRL would build the same
    labels row by row, but would cut the end tag off long rows and train on what is left.
    """
    rows = {"input_ids": [], "labels": [], "length": [], "fate": []}
    prompts = tokenizer(batch["prompt"])["input_ids"]
    texts = [prompt + completion for prompt, completion in zip(batch["prompt"], batch["completion"], strict=True)]
    for i, ids in enumerate(tokenizer(texts)["input_ids"]):
        fate, prompt = "whole", prompts[i]
        if len(ids) > max_length:
            pair = batch["prompt"][i], batch["completion"][i]
            ids = shorten(*pair, tokenizer, max_length) if long_examples == "shorten" else []
            fate = "shortened" if ids else "dropped"
        if ids and ids[: len(prompt)] != prompt:
            sys.exit(f"row {batch['id'][i]}: the tokens of its prompt do not begin those of prompt + completion")
        labels = [-100] * len(prompt) + ids[len(prompt) :] if ids else []
        for name, value in zip(rows, (ids, labels, len(ids), fate), strict=True):
            rows[name].append(value)
    return rows


def build_rows(split, num_rows: int, **tokenize_arguments):
    """The first `num_rows` usable rows of `split`, tokenized, and the fates of the rows that this took."""
    from datasets import concatenate_datasets

    parts, fates, start, missing = [], {"whole": 0, "shortened": 0, "dropped": 0}, 0, num_rows
    while missing and start < len(split):
        stop = min(len(split), start + missing)
        part = split.select(range(start, stop)).map(
            tokenize, batched=True, fn_kwargs=tokenize_arguments, remove_columns=split.column_names, desc="Tokenizing"
        )
        for fate in part["fate"]:
            fates[fate] += 1
        parts.append(part.filter(lambda fate: fate != "dropped", input_columns="fate"))
        start, missing = stop, missing - len(parts[-1])
    return concatenate_datasets(parts).remove_columns("fate"), fates


class RunRecorder(TrainerCallback):
    """Checks in the first step what must be true of a run, and keeps what `run.json` tells of it."""

    def __init__(self, model):
        self.losses: list[dict] = []
        self.activation_dtype: str | None = None
        adapted_layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
        self.hook = adapted_layer.register_forward_hook(self.record_precision)

    def record_precision(self, module, inputs, output) -> None:
        """The precision in force, which is not always the one asked for."""
        self.activation_dtype = str(output.dtype).removeprefix("torch.")
        self.hook.remove()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """A `lora_B` that gets no gradient in the first step would stay zero, and its layer untrained."""
        for name, parameter in model.named_parameters() if state.global_step == 0 else ():
            if "lora_B" in name and (parameter.grad is None or not parameter.grad.any()):
                sys.exit(f"{name} got no gradient in the first step: the adapter would not be trained")

    def on_log(self, args, state, control, logs=None, **kwargs):
        kept = ("loss", "eval_loss", "mean_token_accuracy", "grad_norm", "learning_rate")
        if entry := {key: logs[key] for key in kept if key in logs}:
            self.losses.append({"step": state.global_step, **entry})


def plot_losses(losses: list[dict], path: Path) -> None:
    """The loss curve of a run as a PNG: training, and validation where it was measured."""
    from matplotlib.figure import Figure  # pyplot would look for a display

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label, marker in (("loss", "training", ""), ("eval_loss", "validation", "o")):
        if points := [(entry["step"], entry[key]) for entry in losses if key in entry]:
            axes.plot(*zip(*points, strict=True), label=label, marker=marker)
    axes.set(xlabel="step", ylabel="loss a token of the approach (nats)")
    axes.legend()
    figure.savefig(path, dpi=150)


def public_name(name: str) -> str:
    """A Hub id as it is, a local folder by its last name alone: what is written here may be published."""
    return Path(name).resolve().name if Path(name).exists() else name


def describe_run(arguments: tuple, rows: dict, trainer, recorder: RunRecorder, metrics: dict) -> dict:
    """What `run.json` holds: the arguments that differ from their defaults, versions, data, speed, memory, losses."""
    import torch

    private = {"output_dir", "overwrite", "run_name", "hub_token", "model_name_or_path", "dataset_name", "use_cpu"}
    values = [(f, getattr(group, f.name)) for group in arguments for f in fields(group) if f.name not in private]
    libraries = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    on_gpu = trainer.args.device.type == "cuda"
    cpu = f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"
    script_args, _, model_args, _ = arguments
    revision = getattr(trainer.model.config, "_commit_hash", None)
    return {
        "base": {"name": public_name(model_args.model_name_or_path), "revision": revision},
        "dataset": {"name": public_name(script_args.dataset_name), **rows},
        "arguments": {f.name: v for f, v in values if v != f.default and isinstance(v, str | int | float | list)},
        "versions": {name: version(name) for name in libraries},
        "device": torch.cuda.get_device_name() if on_gpu else cpu,
        "activation_dtype": recorder.activation_dtype,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
        "seconds": round(metrics["train_runtime"], 1),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "losses": recorder.losses,
    }


def save_adapter(trainer, run: dict, output_dir: Path) -> None:
    """Writes adapter, tokenizer, `run.json` and loss curve beside, then moves them in, the weights last."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output_dir) as folder:
        partial = Path(folder)
        trainer.save_model(folder)
        if not trainer.is_world_process_zero():
            return
        (partial / "training_args.bin").unlink()  # it pickles every argument, the Hub token included
        (partial / "README.md").unlink()  # PEFT's card, mostly blanks to fill in; TRL's is written below
        (partial / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        plot_losses(run["losses"], partial / "loss_curve.png")
        for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
            path.replace(output_dir / path.name)
    trainer.create_model_card(model_name=output_dir.name, dataset_name=run["dataset"]["name"])


def load_base(model_args):
    """The base model, in the precision asked for, and its tokenizer. Ends with one line where there is none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import get_quantization_config

    name, revision = model_args.model_name_or_path, model_args.model_revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=model_args.dtype,
            attn_implementation=model_args.attn_implementation,
            quantization_config=get_quantization_config(model_args),
        )
    except (OSError, ValueError) as error:
        sys.exit(f"--model_name_or_path {name}: {str(error).splitlines()[0]}")
    return model, tokenizer


def build_trainer(script_args, training_args, model_args, run_args: RunArguments):
    """TRL's trainer with tags, rows and adapter in place, and what `run.json` says of the rows."""
    from trl import SFTTrainer

    model, tokenizer = load_base(model_args)
    old_eos_id = tokenizer.eos_token_id
    add_tags(tokenizer)
    peft_config = build_peft_config(model, model_args, add_tag_rows(model, tokenizer, old_eos_id))

    split = load_split(script_args, script_args.dataset_train_split).shuffle(seed=training_args.seed)
    batch_rows = training_args.per_device_train_batch_size * training_args.world_size
    step_rows = batch_rows * training_args.gradient_accumulation_steps
    num_rows = int(len(split) * run_args.train_fraction)
    if training_args.max_steps > 0:
        num_rows = min(num_rows, training_args.max_steps * step_rows)
    options = {"tokenizer": tokenizer, "max_length": training_args.max_length, "long_examples": run_args.long_examples}
    eval_rows = None
    with training_args.main_process_first(desc="tokenizing"):
        train_rows, fates = build_rows(split, num_rows, **options)
        if training_args.eval_strategy != "no":
            eval_split = load_split(script_args, script_args.dataset_test_split)
            eval_rows, _ = build_rows(eval_split, run_args.num_eval_rows, **options)
    if not len(train_rows):
        sys.exit(f"no row to train on: of {num_rows:,}, {fates['dropped']:,} do not fit in {training_args.max_length}")

    training_args.eos_token = END_TAG  # TRL gives it to the tokenizer, the configuration and the generation defaults
    trainer = SFTTrainer(
        model=model,
        args=training_args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    # TRL 1.16 reads `lm_head.bias`, which PEFT's wrapper of trained rows does not have where the base has no bias.
    head = trainer.model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)
    # PEFT would add both whole matrices to every checkpoint because they were resized; the tags' rows are enough.
    trainer.model.save_pretrained = functools.partial(trainer.model.save_pretrained, save_embedding_layers=False)
    trainer.accelerator.print(
        f"{batch_rows} × {training_args.gradient_accumulation_steps} = {step_rows} rows a step, {len(train_rows):,} "
        f"rows in all, {len(train_rows) / len(split):.1%} of an epoch of {len(split):,}; "
        f"{fates['shortened']:,} shortened, {fates['dropped']:,} dropped at {training_args.max_length} tokens\n"
        f"{trainer.model.get_nb_trainable_parameters()[0]:,} trainable parameters"
    )
    digest = hashlib.sha256(json.dumps(train_rows["input_ids"][:]).encode()).hexdigest()[:16]
    return trainer, {"sha256": digest, "split_rows": len(split), "rows": len(train_rows), **fates}


def main(script_args, training_args, model_args, run_args: RunArguments) -> None:
    check_machine(training_args)
    output_dir = Path(training_args.output_dir)
    if output_dir.is_dir() and any(output_dir.iterdir()) and not run_args.overwrite:
        sys.exit(f"--output_dir {output_dir} is not empty: choose another or add --overwrite")
    trainer, rows = build_trainer(script_args, training_args, model_args, run_args)
    recorder = RunRecorder(trainer.model)
    trainer.add_callback(recorder)
    metrics = trainer.train().metrics
    run = describe_run((script_args, training_args, model_args, run_args), rows, trainer, recorder, metrics)
    save_adapter(trainer, run, output_dir)
    trainer.accelerator.print(
        f"Wrote the adapter to {output_dir}. Next: python merge_and_push.py --adapter_path {output_dir} --output_dir …"
    )
    trainer.end()


def parse_arguments(argv: list[str] | None = None) -> tuple:
    from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser

    usage = "accelerate launch %(prog)s --config RECIPE --ARGUMENT VALUE … (all of them: --help)"
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, RunArguments), usage=usage)
    try:
        script_args, training_args, model_args, run_args = parser.parse_args_and_config(argv)
        if model_args.model_name_or_path is None:
            raise ValueError("--model_name_or_path is missing: the base model's folder or Hub id")
        if not model_args.use_peft:
            raise ValueError("this script trains LoRA adapters: add use_peft: true to the recipe")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return script_args, training_args, model_args, run_args


if __name__ == "__main__":
    main(*parse_arguments())
