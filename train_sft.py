# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bitsandbytes==0.50.2",
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
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
import math
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

from transformers import TrainerCallback

TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
END_TAG = TAGS[-1]
# What a tag means in words the base knows: its new rows start as the mean of these words' rows. The end tag starts as
# the base's own end-of-text row, which already means "stop".
TAG_MEANINGS = {"<problem>": "problem", "</problem>": "problem.", "<approach>": "approach:"}

CUDA_CONTEXT_BYTES = 2**29
HEAD_COLUMNS = 4096  # of the vocabulary, scored at a time

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
# A sentence's last mark: set off by spaces, as in tokenized corpora, or before a space and a capital or a bracket, but
# not in an abbreviation that such things follow.
SENTENCE_END = re.compile(
    r"(?<=\s)[.!?](?=\s)|(?<=\S)[.!?](?=\s+[A-Z(“\"])(?<!et al\.)(?<!\b[A-Za-z]\.)(?<!\b(?:Fig|Eqs|Sec|Tab|vol)\.)"
    r"(?<!\b(?:Eq|vs|cf|No|pp)\.)"
)


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
    preflight: bool = field(
        default=False, metadata={"help": "Load no weights; show what the run would do and need, and stop."}
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

    on_cpu = training_args.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if training_args.device.type == "cpu" and not on_cpu and training_args.world_size == 1:
        # `accelerate launch` exports OMP_NUM_THREADS=1 unless its file says use_cpu: half the speed on two cores.
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    if on_cpu:
        return
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        sys.exit(
            f"This machine has an NVIDIA card, but torch {torch.__version__} is a build for the CPU. Install the CUDA "
            "build (README, Windows), or add --use_cpu true to train on the CPU all the same."
        )
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        # Past this Windows would spill into system memory without a word, at a thirtieth of the speed.
        memory = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(1 - CUDA_CONTEXT_BYTES / memory)
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


def add_tag_rows(model, tokenizer, old_eos_id: int, new_tags: set[str]) -> list[int]:
    """
    Gives the input and the output matrix a row for each tag and returns the tags' ids.

    The rows start as means of known rows, the same on every machine; `resize_token_embeddings` would draw them at
    random. A base that already has rows for the ids is not resized, and the rows of tags that it knows are kept.
    """
    import torch

    tag_ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    sources = {tag: tokenizer(words, add_special_tokens=False)["input_ids"] for tag, words in TAG_MEANINGS.items()}
    sources[END_TAG] = [old_eos_id]
    with torch.no_grad():
        for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            for tag, tag_id in zip(TAGS, tag_ids, strict=True):
                if tag in new_tags:
                    matrix[tag_id] = matrix[sources[tag]].mean(dim=0)
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
    linear = {
        names[id(m)] for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
    }
    targets = model_args.lora_target_modules
    if isinstance(targets, str) and targets != "all-linear":
        targets = [targets]  # TRL makes a string of a list of one, which PEFT would take for a regular expression
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


def describe_identity(training_args, model_args, rows: dict) -> dict:
    """What two parts of one run must have in common for the second to go on exactly where the first was stopped."""
    named = ("seed", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "max_length")
    named += ("max_steps", "num_train_epochs", "learning_rate", "warmup_steps", "weight_decay", "max_grad_norm")
    values = {name: getattr(training_args, name) for name in named}
    values |= {name: str(getattr(training_args, name)) for name in ("optim", "lr_scheduler_type", "bf16", "fp16")}
    lora = {name: value for name, value in vars(model_args).items() if name.startswith("lora_") or name == "dtype"}
    base = {"base": public_name(model_args.model_name_or_path), "base_revision": model_args.model_revision}
    return {**values, **lora, **base, "dataset rows": rows["sha256"]}


def list_checkpoints(folder: Path) -> list[Path]:
    """The Trainer's checkpoints in a folder, the last step first; a user's `checkpoint-best` is none of them."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def find_checkpoint(training_args, identity: dict) -> str | None:
    """
    The checkpoint to go on from: the one named, or for `true` the last complete one, if any.

    Ends with one line where the checkpoint is of another run: bit for bit the same result needs the same rows, order
    and steps. `identity.json` is written when all else of a checkpoint is; without it, the writing was interrupted.
    """
    wanted = training_args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() == "false":
        return None
    folder = Path(training_args.output_dir)
    for checkpoint in list_checkpoints(folder) if str(wanted).lower() == "true" else [Path(wanted)]:
        try:
            theirs = json.loads((checkpoint / "identity.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            print(f"{checkpoint} is not complete: passed over")
            continue
        names = identity.keys() | theirs.keys()
        changed = sorted(name for name in names if identity.get(name) != theirs.get(name))
        changed = [f"{name} {identity.get(name)}, there {theirs.get(name)}" for name in changed]
        if changed:
            sys.exit(f"--resume_from_checkpoint {checkpoint} is of another run: {'; '.join(changed)}")
        return str(checkpoint)
    if str(wanted).lower() != "true":
        sys.exit(f"--resume_from_checkpoint {wanted}: no complete checkpoint")
    print(f"No complete checkpoint in {folder}: starting from the beginning")
    return None


def push_folder(training_args, token: str | None, folder: Path, message: str, **upload) -> str:
    """Uploads a folder, to a repository that is private unless `--hub_private_repo false`; returns what went wrong."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api, private = HfApi(token=token), training_args.hub_private_repo is not False
    name = training_args.hub_model_id or Path(training_args.output_dir).resolve().name
    try:
        repo_id = api.create_repo(name, private=private, exist_ok=True).repo_id
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, **upload)
    except (OSError, HTTPError, RuntimeError) as error:
        return f"Not pushed to {name}: {str(error.__cause__ or error).splitlines()[0]}"
    return ""


class RunGuard(TrainerCallback):
    """Stops a run that goes wrong or is asked to stop, and makes each checkpoint whole and free of secrets."""

    def __init__(self, model, identity: dict, token: str | None, epoch_steps: float, push_strategy: str | None):
        self.identity, self.token = identity, token
        self.epoch_steps, self.push_strategy = epoch_steps, push_strategy
        self.activation_dtype: str | None = None
        self.signal: int | None = None
        self.clock: tuple[int, float] | None = None
        adapted_layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
        self.hook = adapted_layer.register_forward_hook(self.record_precision)
        self.tokens = self.positions = 0
        model.register_forward_pre_hook(self.count_tokens, with_kwargs=True)
        self.highest_loss = 2 * math.log(model.config.get_text_config().vocab_size)  # twice that of guessing blindly

    def record_precision(self, module, inputs, output) -> None:
        """The precision in force, which is not always the one asked for."""
        self.activation_dtype = str(output.dtype).removeprefix("torch.")
        self.hook.remove()

    def count_tokens(self, model, inputs, named_inputs) -> None:
        """What the model computes in training, and how much of it is no padding."""
        if model.training:
            self.tokens = self.tokens + named_inputs["attention_mask"].sum()
            self.positions += named_inputs["attention_mask"].numel()

    def request_stop(self, number: int, frame) -> None:
        """A first signal lets the step end and saves, so that resuming is exact; a second one stops at once."""
        if self.signal is not None:
            sys.exit(128 + number)
        self.signal = number

    def on_train_begin(self, args, state, control, **kwargs):
        self.parent = os.getppid()
        self.handlers = {
            number: signal.signal(number, self.request_stop) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def on_step_begin(self, args, state, control, **kwargs):
        self.clock = self.clock or (state.global_step, time.monotonic())

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Before the weights change: every gradient is a number, and in the first step no `lora_B` is without one."""
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        step = state.global_step + 1
        # FP16's scaler meets overflow on purpose, and skips such steps by itself.
        if not args.fp16 and not sum(gradient.abs().sum() for gradient in gradients.values()).isfinite():
            sys.exit(f"step {step}: the loss or a gradient is not a number. The last checkpoint is as it was.")
        for name, parameter in model.named_parameters() if step == 1 else ():
            if "lora_B" in name and (name not in gradients or not parameter.grad.any()):
                sys.exit(f"{name} got no gradient in the first step: the adapter would not be trained")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs.get("loss", 0) > self.highest_loss:
            limit = f"{self.highest_loss:.1f}, twice that of guessing blindly"
            sys.exit(f"step {state.global_step}: a loss of {logs['loss']:.1f} is past {limit}: lower --learning_rate")

    def on_step_end(self, args, state, control, **kwargs):
        # `accelerate launch` dies of a SIGTERM without passing it on: then this process has another parent.
        orphaned = "ACCELERATE_MIXED_PRECISION" in os.environ and os.getppid() != self.parent
        stop = self.signal is not None or orphaned
        if args.world_size > 1:  # a signal may reach one process a step before the others
            import torch

            flag = torch.tensor(float(stop), device=args.device)
            torch.distributed.all_reduce(flag)
            stop = bool(flag)
        if stop:
            self.signal = self.signal or signal.SIGTERM
            control.should_save = control.should_training_stop = True
        if state.global_step == self.clock[0] + 5 and state.is_world_process_zero:
            seconds = (time.monotonic() - self.clock[1]) / 5
            left, epoch = seconds * (state.max_steps - state.global_step), seconds * self.epoch_steps
            print(f"{seconds:.1f} s a step: {left / 60:.0f} minutes left, {epoch / 3600:.1f} hours for an epoch")

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            # The one pickles every argument, the other is PEFT's card, with the base's local path.
            for name in ("training_args.bin", "README.md"):
                (checkpoint / name).unlink(missing_ok=True)
            (checkpoint / "identity.json").write_text(json.dumps(self.identity, indent=2) + "\n", encoding="utf-8")
            places = {"checkpoint": "last-checkpoint", "all_checkpoints": checkpoint.name}
            uploads = []
            if self.push_strategy in ("every_save", *places):
                uploads.append({"allow_patterns": ["adapter_*", "tokenizer*", "chat_template*"]})
            if self.push_strategy in places:
                uploads.append({"path_in_repo": places[self.push_strategy]})
            for upload in uploads:
                if problem := push_folder(args, self.token, checkpoint, f"Step {state.global_step}", **upload):
                    print(problem, file=sys.stderr)  # a failed upload is no reason to lose the run


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


def describe_run(arguments: tuple, rows: dict, trainer, guard: RunGuard, metrics: dict) -> dict:
    """What `run.json` holds: the arguments that differ from their defaults, versions, data, speed, memory, losses."""
    import torch

    private = {"output_dir", "overwrite", "run_name", "hub_token", "model_name_or_path", "dataset_name", "use_cpu"}
    private |= {"resume_from_checkpoint", "chat_template_path"}
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
        "distributed_type": trainer.accelerator.distributed_type.value,
        "processes": trainer.args.world_size,
        "device": torch.cuda.get_device_name() if on_gpu else cpu,
        "activation_dtype": guard.activation_dtype,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
        "seconds": round(metrics["train_runtime"], 1),
        "tokens_a_second": round(int(guard.tokens) / metrics["train_runtime"], 1),
        # Of a run that was killed between its last step and its end, there is none to count.
        "padding_share": round(1 - int(guard.tokens) / guard.positions, 4) if guard.positions else None,
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "losses": [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry],
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


def load_base(model_args, load_weights: bool = True):
    """The base model, in the precision asked for, and its tokenizer; without weights it takes no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import get_quantization_config

    name, revision = model_args.model_name_or_path, model_args.model_revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        if not load_weights:
            with torch.device("meta"):
                config = AutoConfig.from_pretrained(name, revision=revision)
                return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, model_args.dtype)), tokenizer
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


def build_inputs(script_args, training_args, model_args, run_args: RunArguments, load_weights: bool = True) -> dict:
    """Model, tokenizer, adapter configuration, tokenized rows, and what `run.json` says of the rows."""
    model, tokenizer = load_base(model_args, load_weights)
    old_eos_id, new_tags = tokenizer.eos_token_id, set(TAGS) - tokenizer.get_vocab().keys()
    add_tags(tokenizer)
    tag_ids = add_tag_rows(model, tokenizer, old_eos_id, new_tags)
    peft_config = build_peft_config(model, model_args, tag_ids)
    split = load_split(script_args, script_args.dataset_train_split).shuffle(seed=training_args.seed)
    batch_rows = training_args.per_device_train_batch_size * training_args.world_size
    step_rows = batch_rows * training_args.gradient_accumulation_steps
    num_rows = max(1, int(len(split) * run_args.train_fraction))
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
    if training_args.process_index == 0:
        epochs, accumulation = training_args.num_train_epochs, training_args.gradient_accumulation_steps
        if training_args.max_steps > 0:
            epochs = training_args.max_steps * step_rows / len(split)
        print(f"{batch_rows} × {accumulation} = {step_rows} rows a step")
        print(f"{len(train_rows):,} different rows of {len(split):,}, {epochs:.2f} epochs")
        print(f"of the rows read, at {training_args.max_length} tokens: {fates}")
    digest = hashlib.sha256()
    for batch in train_rows.with_format("arrow").iter(1000):
        digest.update(repr(batch["input_ids"].to_pylist()).encode())
    rows = {"sha256": digest.hexdigest()[:16], "split_rows": len(split), "rows": len(train_rows), **fates}
    models = {"model": model, "processing_class": tokenizer, "peft_config": peft_config}
    return {**models, "train_dataset": train_rows, "eval_dataset": eval_rows, "rows": rows, "step_rows": step_rows}


def build_trainer(inputs: dict, training_args):
    """TRL's trainer, with what PEFT's trained rows need that TRL 1.16 does not give them."""
    import trl.trainer.utils
    from trl import SFTTrainer

    # TRL scores the vocabulary in tiles of 32,768 columns, which TinyLlama's fits into whole: 0.8 GiB more at 2 × 512.
    trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = HEAD_COLUMNS
    training_args.eos_token = END_TAG  # TRL gives it to the tokenizer, the configuration and the generation defaults
    parts = ("model", "processing_class", "peft_config", "train_dataset", "eval_dataset")
    trainer = SFTTrainer(args=training_args, **{name: inputs[name] for name in parts})
    # TRL reads `lm_head.bias`, which PEFT's wrapper of trained rows does not have where the base has no bias.
    head = trainer.model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)
    # PEFT would add both whole matrices to every checkpoint because they were resized; the tags' rows are enough.
    trainer.model.save_pretrained = functools.partial(trainer.model.save_pretrained, save_embedding_layers=False)
    return trainer


def estimate_memory(model, trainable: int, training_args) -> dict[str, float]:
    """Peak memory of a training step in GiB, by part, from sizes alone; the CUDA context comes on top."""
    config = model.config.get_text_config()
    tokens = training_args.per_device_train_batch_size * training_args.max_length
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    size = model.dtype.itemsize if not (training_args.bf16 or training_args.fp16) else 2
    rows = model.get_input_embeddings().weight.shape[0]
    layer = tokens * size * (14 * width + 5 * inner)  # what one layer keeps for its backward pass
    kept = layers * tokens * width * size + layer if training_args.activation_checkpointing else layers * layer
    parts = {
        "weights": model.num_parameters() * model.dtype.itemsize,
        "adapter, gradients, AdamW": trainable * 16,
        "copy and gradient of the output matrix": 2 * rows * width * model.dtype.itemsize,
        "activations": kept,
        "scores of the vocabulary": 3 * tokens * min(HEAD_COLUMNS, rows) * 4,
    }
    return {name: value / 2**30 for name, value in parts.items()}


def preflight(inputs: dict, training_args) -> None:
    """Prints one row as the model sees it, how long rows are, what is trained, and the memory that it will take."""
    import numpy as np
    from peft import get_peft_model

    tokenizer, rows = inputs["processing_class"], inputs["train_dataset"]
    ids, labels = rows[0]["input_ids"], rows[0]["labels"]
    start = sum(label == -100 for label in labels)
    print(f"\nRead, not trained on:\n  {tokenizer.decode(ids[:start])}")
    print(f"Trained on:\n  {tokenizer.decode(ids[start:])}\n")
    shares = " ".join(f"p{q} {np.percentile(rows['length'], q):.0f}" for q in (5, 50, 95, 100))
    print(f"tokens a row: mean {np.mean(rows['length']):.0f} {shares} (max_length {training_args.max_length})")
    model = get_peft_model(inputs["model"], inputs["peft_config"])
    trainable, total = model.get_nb_trainable_parameters()
    print(f"trained: {trainable:,} of {total:,} parameters ({trainable / total:.2%})")
    parts = estimate_memory(inputs["model"], trainable, training_args)
    for name, gib in parts.items():
        print(f"{gib:8.2f} GiB  {name}")
    print(f"{sum(parts.values()):8.2f} GiB  at the peak, estimated; on a GPU the CUDA context needs about 0.5 more")


def main(script_args, training_args, model_args, run_args: RunArguments) -> None:
    import torch

    check_machine(training_args)
    arguments = (script_args, training_args, model_args, run_args)
    output_dir, resume = Path(training_args.output_dir), training_args.resume_from_checkpoint
    resume = None if str(resume).lower() == "false" else resume
    if run_args.preflight:
        return preflight(build_inputs(*arguments, load_weights=False), training_args)
    if output_dir.is_dir() and any(output_dir.iterdir()) and not run_args.overwrite and resume is None:
        sys.exit(f"--output_dir {output_dir} is not empty: add --resume_from_checkpoint true, or --overwrite")
    if run_args.overwrite and resume is None and training_args.process_index == 0:
        for checkpoint in list_checkpoints(output_dir):  # or a later resume would take them for this run's
            shutil.rmtree(checkpoint)
    # The Trainer would push `training_args.bin` with every checkpoint, and publicly: we push instead.
    push_strategy = str(training_args.hub_strategy.value) if training_args.push_to_hub else None
    training_args.push_to_hub, token = False, training_args.hub_token
    training_args.hub_token = None  # nor may a kill leave it in a `training_args.bin`
    inputs = build_inputs(*arguments)
    trainer = build_trainer(inputs, training_args)
    identity = describe_identity(training_args, model_args, inputs["rows"])
    checkpoint = find_checkpoint(training_args, identity)
    guard = RunGuard(trainer.model, identity, token, inputs["rows"]["split_rows"] / inputs["step_rows"], push_strategy)
    trainer.add_callback(guard)
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    except torch.OutOfMemoryError:
        sys.exit("The card's memory is full: take recipes/tinyllama_lora_fp32_small.yaml, or a smaller --max_length")
    if guard.signal is not None:
        step = trainer.state.global_step
        print(
            f"\nStopped after step {step}, which is saved: go on with --resume_from_checkpoint true", file=sys.stderr
        )
        sys.exit(128 + guard.signal)
    save_adapter(trainer, describe_run(arguments, inputs["rows"], trainer, guard, metrics), output_dir)
    trainer.accelerator.print(
        f"Wrote the adapter to {output_dir}. Next: python merge_and_push.py --adapter_path {output_dir} --output_dir …"
    )
    trainer.end()
    if push_strategy and trainer.is_world_process_zero():
        if problem := push_folder(
            training_args, token, output_dir, "The adapter", ignore_patterns=["checkpoint-*", ".*"]
        ):
            sys.exit(f"{problem}. {output_dir} is whole; push it later with: hf upload --private NAME {output_dir}")
        print("Pushed to the Hub")


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
