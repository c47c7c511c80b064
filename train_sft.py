# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bitsandbytes==0.50.2",
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "peft==0.21.2",
#     "safetensors==0.8.0",
#     "torch==2.13.0",
#     "transformers==5.23.0",
#     "trl==1.16.0",
#     "wandb==0.31.0",
# ]
# ///
"""
Fine-tune a causal language model to continue `<problem>…</problem><approach>` with an approach, with TRL and LoRA.

Reads the dataset that `prepare_dataset.py` wrote (columns `id`, `problem`, `prompt`, `completion`) and writes an
adapter folder that opens with plain PEFT (without LoRA, a whole model): weights, tokenizer with tags and chat
template, `run.json`, the loss curve, and `samples.jsonl`, drafts for the same validation problems at each evaluation.

    accelerate launch --config_file accelerate_configs/cpu.yaml train_sft.py \
        --config recipes/small_base_lora_fp32.yaml --model_name_or_path BASE \
        --dataset_name outputs/pairs --output_dir outputs/adapter
    accelerate launch --config_file accelerate_configs/single_gpu_fp32.yaml train_sft.py \
        --config recipes/tinyllama_lora_fp32.yaml --dataset_name outputs/arxiv_pairs --output_dir outputs/adapter
"""

import argparse
import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

USAGE = "accelerate launch %(prog)s --config RECIPE --ARGUMENT VALUE … (the most used: --help, all: --help_all)"
# For --help alone: what these are and do is TRL's and transformers' own.
LIBRARY_ARGUMENTS = {
    "config": "A recipe: a YAML file of arguments. What the command line says comes first.",
    "model_name_or_path": "The base model: a folder or a Hub id.",
    "model_revision": "The base model's commit or tag on the Hub.",
    "dataset_name": "The pairs: a folder that prepare_dataset.py wrote, or a Hub id.",
    "output_dir": "Where the adapter and its checkpoints go.",
    "resume_from_checkpoint": "true: go on from the last complete checkpoint; or a checkpoint's folder.",
    "max_steps": "How many steps; overrides --num_train_epochs.",
    "num_train_epochs": "How often to see every row.",
    "per_device_train_batch_size": "Rows at a time.",
    "gradient_accumulation_steps": "How many such batches make a step.",
    "max_length": "Tokens a row, at most.",
    "learning_rate": "The highest learning rate.",
    "eval_steps": "Steps between evaluations.",
    "save_steps": "Steps between checkpoints.",
    "bf16": "true: compute in bfloat16.",
    "load_in_4bit": "true: hold the base in 4 bits.",
    "use_cpu": "true: train on the CPU, also where there is a GPU.",
    "seed": "Of rows, dropout and initial weights.",
    "report_to": "wandb: follow the run in Weights & Biases.",
    "run_name": "The run's name there.",
    "push_to_hub": "true: upload the result; privately.",
    "hub_model_id": "The repository to upload to.",
    "hub_private_repo": "false: make a new repository public.",
}


@dataclass
class RunArguments:
    """What TRL's own arguments do not say."""

    dataset_revision: str | None = field(
        default=None, metadata={"help": "The dataset's commit or tag on the Hub: what prepare_dataset.py printed."}
    )
    train_fraction: float = field(default=1.0, metadata={"help": "Share of the training split to use, in (0, 1]."})
    num_eval_rows: int = field(default=100, metadata={"help": "Validation rows for the evaluation loss, at most."})
    long_examples: str = field(
        default="shorten",
        metadata={
            "help": "Rows longer than --max_length: 'shorten' at the last whole sentence that fits, or 'drop'.",
            "choices": ["shorten", "drop"],
        },
    )
    num_samples: int = field(
        default=4, metadata={"help": "Validation problems to draft for at each evaluation, greedily; 0 for none."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a lower loss; needs --load_best_model_at_end."},
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


def print_help() -> None:
    """This script's arguments and the most used of the libraries', without the seconds that importing TRL takes."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(RunArguments, usage=USAGE)
    group = parser.add_argument_group("the most used of TRL's and transformers' arguments; --help_all shows them all")
    for name, text in LIBRARY_ARGUMENTS.items():
        group.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS)
    parser.print_help()


if __name__ == "__main__" and {"-h", "--help"} & set(sys.argv):
    print_help()
    sys.exit()

import torch  # noqa: E402 (what follows needs it; --help does not)
from transformers import TrainerCallback  # noqa: E402

TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
END_TAG = TAGS[-1]
# What a tag means in words the base knows: its new rows start as the mean of these words' rows. The end tag starts as
# the base's own end-of-text row, which already means "stop".
TAG_MEANINGS = {"<problem>": "problem", "</problem>": "problem.", "<approach>": "approach:"}

CUDA_CONTEXT_BYTES = 2**29
HEAD_TOKENS = 256  # labels scored at a time, each against the whole vocabulary
HEAD_COLUMNS = 4096  # where TRL scores: of the vocabulary at a time, for all tokens
# What opens a checkpoint, of an adapter or of a whole model; the rest is the optimizer's and the Trainer's.
MODEL_FILES = ("adapter_*", "model*", "config.json", "generation_config.json", "tokenizer*", "chat_template*")
SAMPLE_TOKENS = 256  # the longest draft for samples.jsonl

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


def check_machine(training_args) -> None:
    """Ends with one line where the run would silently use the wrong device or a precision the card lacks."""
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


def load_split(script_args, revision: str | None, split: str):
    """One split of the dataset. Ends with one line where there is none, or where its columns are not ours."""
    from datasets import load_dataset

    name = script_args.dataset_name
    if name is None:
        sys.exit("--dataset_name is missing: a folder that prepare_dataset.py wrote, or a dataset's Hub id")
    try:
        rows = load_dataset(name, script_args.dataset_config, split=split, revision=revision)
    except (ValueError, OSError) as error:
        sys.exit(f"--dataset_name {name}: {str(error).splitlines()[0]}")
    missing = {"id", "problem", "prompt", "completion"} - set(rows.column_names)
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
    Gives the input and the output matrix a row for each tag and returns the ids of the rows to train.

    The rows start as means of known rows, the same on every machine; `resize_token_embeddings` would draw them at
    random. A base that already has rows for the ids is not resized, and the rows of tags that it knows are kept. Where
    a base's tokenizer has tokens beyond its matrices, their rows are new, too: they start as the mean of all.
    """

    tag_ids, old_rows = tokenizer.convert_tokens_to_ids(list(TAGS)), model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    sources = {tag: tokenizer(words, add_special_tokens=False)["input_ids"] for tag, words in TAG_MEANINGS.items()}
    sources[END_TAG] = [old_eos_id]
    with torch.no_grad():
        for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            matrix[old_rows:] = matrix[:old_rows].mean(dim=0)
            for tag, tag_id in zip(TAGS, tag_ids, strict=True):
                if tag in new_tags:
                    matrix[tag_id] = matrix[sources[tag]].mean(dim=0)
    return sorted({*tag_ids, *range(old_rows, len(tokenizer))})


def build_peft_config(model, model_args, tag_ids: list[int]):
    """
    TRL's LoRA configuration, with the tags' rows of both matrices as trainable tokens.

    All four rows of both matrices must be stored ones: PEFT's loader gives the base random rows of its own. Training
    both matrices whole (`modules_to_save`) would be 134.7 M parameters, which a 6 GB card cannot hold. Without LoRA
    all weights are trained, and there is nothing to configure.
    """
    from trl import get_peft_config

    if not model_args.use_peft:
        return None

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
    named += ("train_sampling_strategy",)
    values = {name: getattr(training_args, name) for name in named}
    values |= {name: str(getattr(training_args, name)) for name in ("optim", "lr_scheduler_type", "bf16", "fp16")}
    kinds = ("lora_", "use_", "load_in_", "bnb_", "dtype")
    lora = {name: value for name, value in vars(model_args).items() if name.startswith(kinds)}
    base = {"base": public_name(model_args.model_name_or_path), "base_revision": model_args.model_revision}
    return {**values, **lora, **base, "dataset rows": rows["sha256"]}


def list_checkpoints(folder: Path) -> list[Path]:
    """The Trainer's checkpoints in a folder, the last step first; a user's `checkpoint-best` is none of them."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def find_checkpoint(training_args, identity: dict) -> tuple[str | None, dict]:
    """
    The checkpoint to go on from, the one named or for `true` the last complete one, if any; and its progress.

    Ends with one line where the checkpoint is of another run: bit for bit the same result needs the same rows, order
    and steps. `progress.json` is written when all else of a checkpoint is; without it, the writing was interrupted.
    """
    wanted = training_args.resume_from_checkpoint
    if wanted is None:
        return None, {}
    folder = Path(training_args.output_dir)
    for checkpoint in list_checkpoints(folder) if str(wanted).lower() == "true" else [Path(wanted)]:
        try:
            progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
            theirs = progress.pop("identity")
        except (OSError, ValueError):
            print(f"{checkpoint} is not complete: passed over")
            continue
        names = identity.keys() | theirs.keys()
        changed = sorted(name for name in names if identity.get(name) != theirs.get(name))
        changed = [f"{name} {identity.get(name)}, there {theirs.get(name)}" for name in changed]
        if changed:
            sys.exit(f"--resume_from_checkpoint {checkpoint} is of another run: {'; '.join(changed)}")
        return str(checkpoint), progress
    if str(wanted).lower() != "true":
        sys.exit(f"--resume_from_checkpoint {wanted}: no complete checkpoint")
    print(f"No complete checkpoint in {folder}: starting from the beginning")
    return None, {}


def push_folder(training_args, token: str | None, folder: Path, message: str, **upload) -> str:
    """Uploads a folder, to a repository that is private unless `--hub_private_repo false`; returns what went wrong."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api, private = HfApi(token=token), training_args.hub_private_repo is not False
    name = training_args.hub_model_id or Path(training_args.output_dir).resolve().name
    try:
        repo_id = api.create_repo(name, private=private, exist_ok=True).repo_id
        with public_copy(folder) as copy:
            api.upload_folder(repo_id=repo_id, folder_path=copy, commit_message=message, **upload)
    except (OSError, HTTPError, RuntimeError) as error:
        return f"Not pushed to {name}: {str(error.__cause__ or error).splitlines()[0]}"
    return ""


@contextlib.contextmanager
def public_copy(folder: Path):
    """The folder itself, or where its adapter names a base on this machine, a copy that tells only the last name."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    base = config.get("base_model_name_or_path", "")
    if public_name(base) == base:
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
        text = json.dumps({**config, "base_model_name_or_path": public_name(base)}, indent=2)
        (Path(copy) / path.name).write_text(text, encoding="utf-8")
        yield copy


class RunLog(TrainerCallback):
    """
    Adds to the Trainer's log what it does not know, and drafts for the same validation problems at each evaluation.

    `progress` holds the seconds of training steps, and the real tokens and all positions that every process computed;
    it is saved with each checkpoint, so that a resumed run goes on counting.
    """

    def __init__(self, model, tokenizer, problems: list[dict], progress: dict):
        self.tokenizer, self.problems, self.progress = tokenizer, problems, progress
        self.activation_dtype: str | None = None
        self.tokens = self.positions = self.rate = 0
        self.clock: float | None = None
        layer = next(m for m in model.modules() if hasattr(m, "lora_A") or type(m).__name__ == "Linear")
        self.hook = layer.register_forward_hook(self.record_precision)
        model.register_forward_pre_hook(self.count_tokens, with_kwargs=True)

    def record_precision(self, module, inputs, output) -> None:
        """The precision in force, which is not always the one asked for."""
        self.activation_dtype = str(output.dtype).removeprefix("torch.")
        self.hook.remove()

    def count_tokens(self, model, inputs, named_inputs) -> None:
        """What the model computes in training, and how much of it is no padding."""
        if model.training:
            self.tokens = self.tokens + named_inputs["attention_mask"].sum()
            self.positions += named_inputs["attention_mask"].numel()

    def settle(self, args) -> None:
        """Adds the steps since the last call to `progress`; between steps no time is counted."""
        if self.clock is None:
            return
        counts = torch.tensor([int(self.tokens), self.positions], device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(counts)
        seconds, (tokens, positions) = time.monotonic() - self.clock, counts.tolist()
        for name, value in (("seconds", seconds), ("tokens", tokens), ("positions", positions)):
            self.progress[name] = self.progress.get(name, 0) + value
        self.rate, self.tokens, self.positions, self.clock = tokens / seconds, 0, 0, None

    def on_step_begin(self, args, state, control, **kwargs):
        self.clock = self.clock or time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_log or control.should_evaluate:
            self.settle(args)

    def on_save(self, args, state, control, **kwargs):
        self.settle(args)

    def on_train_end(self, args, state, control, **kwargs):
        self.settle(args)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Runs before the reporters, so that what it adds reaches them all."""
        more = {}
        if "eval_loss" in logs:
            more = {"eval_perplexity": round(math.exp(logs["eval_loss"]), 4)}
        elif "loss" in logs:
            padding = 1 - self.progress["tokens"] / self.progress["positions"]
            more = {"tokens_a_second": round(self.rate, 1), "padding_share": round(padding, 4)}
            if args.device.type == "cuda":
                more["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        logs.update(more)
        state.log_history[-1].update(more)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        """Greedy drafts, without dropout; TRL's own callback for this leaves dropout on and the tokenizer changed."""
        if not self.problems or not state.is_world_process_zero:
            return
        prompts = [row["prompt"] for row in self.problems]
        batch = self.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(args.device)
        model.eval()
        output = model.generate(**batch, do_sample=False, max_new_tokens=SAMPLE_TOKENS, use_cache=True)
        drafts = self.tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        path, samples = Path(args.output_dir) / "samples.jsonl", []
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                samples = [row for row in map(json.loads, file) if row["step"] < state.global_step]
        for row, draft in zip(self.problems, drafts, strict=True):
            kept = {"id": row["id"], "problem": row["problem"], "draft": draft.strip()}
            samples.append({"step": state.global_step, **kept})
        partial = path.with_name(".samples.partial")  # moved when whole: a kill leaves the old one or the new one
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in samples), encoding="utf-8")
        partial.replace(path)
        if "wandb" in args.report_to:
            import wandb

            table = wandb.Table(list(samples[0]), [list(row.values()) for row in samples])
            wandb.log({"drafts": table, "train/global_step": state.global_step})


class RunGuard(TrainerCallback):
    """Stops a run that goes wrong or is asked to stop, and makes each checkpoint whole and free of secrets."""

    def __init__(self, model, identity: dict, progress: dict, token: str | None, epoch_steps: float, push_strategy):
        self.identity, self.progress, self.token = identity, progress, token
        self.epoch_steps, self.push_strategy = epoch_steps, push_strategy
        self.signal: int | None = None
        self.clock: tuple[int, float] | None = None
        self.highest_loss = 2 * math.log(model.config.get_text_config().vocab_size)  # twice that of guessing blindly

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
            progress = {"identity": self.identity, **self.progress}
            (checkpoint / "progress.json").write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")
            places = {"checkpoint": "last-checkpoint", "all_checkpoints": checkpoint.name}
            uploads = []
            if self.push_strategy in ("every_save", *places):
                uploads.append({"allow_patterns": list(MODEL_FILES)})
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


def fingerprint(name: str, revision: str | None) -> str | None:
    """
    One SHA-256 over a base's tensors, whatever files they are split into; none where they are not in safetensors.

    `merge_and_push.py` has the same function, and merges into no other base.
    """
    from safetensors import safe_open
    from transformers.utils import cached_file

    folder = Path(cached_file(name, "config.json", revision=revision)).parent
    shards = [safe_open(path, framework="pt") for path in sorted(folder.glob("model*.safetensors"))]
    tensors = {key: shard for shard in shards for key in shard.keys()}  # noqa: SIM118 (a shard is no dict)
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].get_tensor(key)
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest() if tensors else None


def describe_base(name: str, revision: str | None) -> dict:
    """The base by name, commit and weights. One stored in 4 bits has no fingerprint: merging takes the full one."""
    from transformers import AutoConfig
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    quantised = getattr(AutoConfig.from_pretrained(name, revision=revision), "quantization_config", None)
    commit = extract_commit_hash(cached_file(name, "config.json", revision=revision), None)
    weights = None if quantised else fingerprint(name, revision)
    return {"name": public_name(name), "revision": commit, "fingerprint": weights}


def describe_setup(arguments: tuple, inputs: dict) -> dict:
    """What is known before the first step: the arguments that are not their defaults, versions, base and data."""
    private = {"output_dir", "overwrite", "run_name", "hub_token", "model_name_or_path", "dataset_name", "use_cpu"}
    private |= {"resume_from_checkpoint", "chat_template_path", "dataset_revision"}
    values = [(f, getattr(group, f.name)) for group in arguments for f in fields(group) if f.name not in private]
    libraries = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    script_args, _, model_args, run_args = arguments
    data = {"name": public_name(script_args.dataset_name), "revision": run_args.dataset_revision}
    return {
        "base": describe_base(model_args.model_name_or_path, model_args.model_revision),
        "dataset": {**data, **inputs["rows"]},
        "arguments": {
            f.name: v for f, v in values if v not in (f.default, []) and isinstance(v, str | int | float | list)
        },
        "versions": {name: version(name) for name in libraries},
    }


def describe_run(setup: dict, trainer, log: RunLog) -> dict:
    """What `run.json` holds: the setup, and what training found: device, speed, memory, losses."""
    on_gpu, state, progress = trainer.args.device.type == "cuda", trainer.state, log.progress
    threads = torch.get_num_threads()
    cpu = f"CPU, {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"
    seconds = progress.get("seconds", 0)
    return {
        **setup,
        "distributed_type": trainer.accelerator.distributed_type.value,
        "processes": trainer.args.world_size,
        "device": torch.cuda.get_device_name() if on_gpu else cpu,
        "activation_dtype": log.activation_dtype,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": state.global_step,
        "best_step": state.best_global_step if trainer.args.load_best_model_at_end else None,
        "seconds": round(seconds, 1),
        "tokens_a_second": round(progress["tokens"] / seconds, 1) if seconds else None,
        "padding_share": round(1 - progress["tokens"] / progress["positions"], 4) if seconds else None,
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "losses": [entry for entry in state.log_history if "loss" in entry or "eval_loss" in entry],
    }


def start_wandb(training_args, setup: dict, progress: dict) -> None:
    """Starts the W&B run, or goes on with the one of the checkpoint; offline, where it cannot, in the same group."""
    import wandb

    progress.setdefault("wandb_run_id", secrets.token_hex(4))
    offline = wandb.setup().settings.mode in ("offline", "dryrun")
    same_run = {"group": progress["wandb_run_id"]} if offline else {"id": progress["wandb_run_id"], "resume": "allow"}
    project = os.environ.get("WANDB_PROJECT", "huggingface")  # the Trainer's own default
    config = json.loads(json.dumps(setup))  # W&B would show the names of enumerations, `run.json` their values
    wandb.init(project=project, name=training_args.run_name, config=config, **same_run)


def save_result(trainer, run: dict, output_dir: Path) -> None:
    """Writes adapter (or model), tokenizer, `run.json` and loss curve beside, then moves them in, the weights last."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output_dir) as folder:
        partial = Path(folder)
        trainer.save_model(folder)
        if not trainer.is_world_process_zero():
            return
        (partial / "training_args.bin").unlink()  # it pickles every argument, the Hub token included
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's card, mostly blanks; TRL's is written below
        # Merging refuses weights that are not these.
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in partial.glob("*.safetensors")}
        (partial / "run.json").write_text(json.dumps({**run, "files": digests}, indent=2) + "\n", encoding="utf-8")
        plot_losses(run["losses"], partial / "loss_curve.png")
        for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
            path.replace(output_dir / path.name)
    trainer.create_model_card(model_name=output_dir.name, dataset_name=run["dataset"]["name"])


def load_base(model_args, load_weights: bool = True):
    """The base model, in the precision asked for, and its tokenizer; without weights it takes no memory."""
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
    revision = run_args.dataset_revision
    split = load_split(script_args, revision, script_args.dataset_train_split).shuffle(seed=training_args.seed)
    batch_rows = training_args.per_device_train_batch_size * training_args.world_size
    step_rows = batch_rows * training_args.gradient_accumulation_steps
    num_rows = max(1, int(len(split) * run_args.train_fraction))
    if training_args.max_steps > 0:
        num_rows = min(num_rows, training_args.max_steps * step_rows)
    options = {"tokenizer": tokenizer, "max_length": training_args.max_length, "long_examples": run_args.long_examples}
    eval_rows, problems = None, []
    with training_args.main_process_first(desc="tokenizing"):
        train_rows, fates = build_rows(split, num_rows, **options)
        if training_args.eval_strategy != "no":
            eval_split = load_split(script_args, revision, script_args.dataset_test_split)
            eval_rows, _ = build_rows(eval_split, run_args.num_eval_rows, **options)
            problems = eval_split.select(range(min(run_args.num_samples, len(eval_split)))).to_list()
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
    # Which rows: the first (whole + shortened + dropped) of the split, shuffled with the seed.
    rows = {"sha256": digest.hexdigest()[:16], "split_rows": len(split), "rows": len(train_rows), **fates}
    rows["seed"] = training_args.seed
    models = {"model": model, "processing_class": tokenizer, "peft_config": peft_config}
    data = {"train_dataset": train_rows, "eval_dataset": eval_rows, "problems": problems}
    return {**models, **data, "rows": rows, "step_rows": step_rows}


class TagRowScores(torch.autograd.Function):
    """
    Log-probability, entropy and correctness of each label under a head of which only the tags' rows are trained.

    In FP32 the numbers of TRL's function, for less: PEFT copies the whole matrix to put the rows in, and TRL computes
    the gradient of all of it, scores twice, and without Triton scores the prompts, too. Here the rows stay beside the
    matrix, and a label's gradient is taken while its scores are at hand.
    """

    @staticmethod
    def forward(ctx, hidden, weight, rows, tag_ids, labels):
        """`hidden` [tokens, width], `weight` [vocabulary, width], `rows` [tags, width], `labels` [tokens]."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        states, matrix, tags = hidden.to(dtype), weight.to(dtype), rows.to(dtype)
        log_probs, entropy = (hidden.new_empty(len(labels), dtype=torch.float32) for _ in range(2))
        correct = torch.empty_like(labels, dtype=torch.bool)
        slopes, tag_slopes = torch.empty_like(states), states.new_empty(len(labels), len(tag_ids))
        for start in range(0, len(labels), HEAD_TOKENS):
            part = slice(start, start + HEAD_TOKENS)
            scores = states[part] @ matrix.T
            scores[:, tag_ids] = states[part] @ tags.T
            log_p, label = scores.float().log_softmax(-1), labels[part, None]
            log_probs[part] = log_p.gather(1, label).squeeze(1)
            correct[part] = log_p.argmax(-1) == labels[part]
            p = log_p.exp()
            entropy[part] = -torch.linalg.vecdot(p, log_p)
            if any(ctx.needs_input_grad):
                slope = p.neg_().scatter_add_(1, label, torch.ones_like(label, dtype=p.dtype)).to(dtype)
                tag_slopes[part] = slope[:, tag_ids]
                slope[:, tag_ids] = 0
                slopes[part] = slope @ matrix + tag_slopes[part] @ tags
        ctx.save_for_backward(states, slopes, tag_slopes)
        ctx.dtypes = hidden.dtype, rows.dtype
        ctx.mark_non_differentiable(entropy, correct)
        return log_probs, entropy, correct

    @staticmethod
    def backward(ctx, gradient, *_):
        (states, slopes, tag_slopes), (hidden_dtype, rows_dtype) = ctx.saved_tensors, ctx.dtypes
        gradient = gradient[:, None]
        of_rows = (tag_slopes.float() * gradient).T @ states.float()
        return (slopes * gradient).to(hidden_dtype), None, of_rows.to(rows_dtype), None, None


def score_tag_rows_apart(model) -> None:
    """
    Has the loss of TRL's trainer come from `TagRowScores`, where the output matrix has trained rows and no bias.

    TRL's `compute_loss` asks with `fused_lm_head`; generation does not, and keeps its forward pass. Where a model caps
    or scales its scores, or adds the losses of a router, the loss stays TRL's own, too.
    """
    from trl.trainer.utils import FusedCausalLMOutput

    config, head = model.config.get_text_config(), model.get_output_embeddings()
    special = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    special += ("output_router_logits",)
    if any(getattr(config, name, None) for name in special) or head.token_adapter.base_layer.bias is not None:
        return
    model, adapter = model.get_base_model(), head.token_adapter
    (name,) = adapter.active_adapters
    trl_forward = model.forward

    @functools.wraps(trl_forward)
    def forward(*inputs, fused_lm_head: bool = False, labels=None, **named_inputs):
        if not fused_lm_head:
            return trl_forward(*inputs, labels=labels, **named_inputs)
        hidden = model.base_model(*inputs, **{**named_inputs, "use_cache": False}).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        rows = adapter.trainable_tokens_delta[name]  # looked up each time: loading a checkpoint may replace it
        rows = rows if torch.is_grad_enabled() else rows.detach()
        tag_ids = adapter.token_indices[name]
        found = TagRowScores.apply(hidden[mask], adapter.base_layer.weight, rows, tag_ids, labels[mask])
        log_probs, entropy, correct = (x.new_zeros(mask.shape).masked_scatter(mask, x) for x in found)
        return FusedCausalLMOutput(log_probs=log_probs, entropy=entropy, is_top1=correct, label_mask=mask)

    model.forward = forward


def embed_tag_rows_apart(model) -> None:
    """Looks the tags up beside the input matrix, of which PEFT makes a copy, and torch a gradient, at each look-up."""
    wrapper = model.get_input_embeddings()
    adapter = wrapper.token_adapter
    if type(adapter.base_layer) is not torch.nn.Embedding:  # Gemma's, for one, scales what it looks up
        return
    (name,) = adapter.active_adapters

    def forward(ids):
        is_tag = ids.unsqueeze(-1) == torch.tensor(adapter.token_indices[name], device=ids.device)
        found = adapter.base_layer(ids)
        rows = adapter.trainable_tokens_delta[name].to(found.dtype)
        return torch.where(is_tag.any(-1, keepdim=True), is_tag.to(found.dtype) @ rows, found)

    wrapper.forward = forward


def order_by_epoch(trainer) -> None:
    """
    Makes the order of length-grouped rows a function of seed and epoch alone, as the Trainer's other orders are.

    transformers 5.23 draws it from the global random state: a run resumed in its second epoch would take rows twice,
    and an evaluation before the first step would change the order. Its sampler for several processes does not;
    Accelerate deals the batches out to the processes, so that it is asked for one.
    """
    from transformers.trainer_pt_utils import DistributedLengthGroupedSampler

    def build_sampler(*arguments):
        args, rows = trainer.args, trainer.train_dataset
        step_rows = args.train_batch_size * args.gradient_accumulation_steps
        lengths = rows["length"][:] if "length" in rows.column_names else None  # packing drops the column
        return DistributedLengthGroupedSampler(
            step_rows, rows, num_replicas=1, rank=0, seed=args.seed, lengths=lengths
        )

    if trainer.args.train_sampling_strategy == "group_by_length":
        trainer._get_train_sampler = build_sampler


def build_trainer(inputs: dict, training_args):
    """TRL's trainer, with what PEFT's trained rows need that TRL 1.16 does not give them."""
    import trl.trainer.utils
    from trl import SFTTrainer

    # TRL's own head scores in tiles of 32,768 columns, which TinyLlama's fits into whole: 0.8 GiB more at 2 × 512.
    trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = HEAD_COLUMNS
    training_args.eos_token = END_TAG  # TRL gives it to the tokenizer, the configuration and the generation defaults
    parts = ("model", "processing_class", "peft_config", "train_dataset", "eval_dataset")
    trainer = SFTTrainer(args=training_args, **{name: inputs[name] for name in parts})
    order_by_epoch(trainer)
    # TRL reads `lm_head.bias`, which PEFT's wrapper of trained rows does not have where the base has no bias.
    head = trainer.model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)
    if inputs["peft_config"]:
        # FSDP and DeepSpeed may keep the matrix in parts.
        if trainer.accelerator.distributed_type.value in ("NO", "MULTI_CPU", "MULTI_GPU"):
            score_tag_rows_apart(trainer.model)
            embed_tag_rows_apart(trainer.model)
        # PEFT would add both whole matrices to every checkpoint, since they were resized; the tags' rows are enough.
        trainer.model.save_pretrained = functools.partial(trainer.model.save_pretrained, save_embedding_layers=False)
    return trainer


def estimate_memory(model, trainable: int, training_args, model_args) -> dict[str, float]:
    """Peak memory of a training step in GiB, by part, from sizes alone; the CUDA context comes on top."""
    config, lora = model.config.get_text_config(), model_args.use_peft
    tokens = training_args.per_device_train_batch_size * training_args.max_length
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    size = model.dtype.itemsize if not (training_args.bf16 or training_args.fp16) else 2
    rows = model.get_input_embeddings().weight.shape[0]
    layer = tokens * size * (14 * width + 5 * inner)  # what one layer keeps for its backward pass
    every = (training_args.activation_checkpointing_kwargs or {}).get("every_n_layers", 1)
    bare = -(-layers // every) if training_args.activation_checkpointing else 0  # layers that keep only their input
    whole = max(layers - bare, (bare - 1) * (every - 1) + 1)  # with the one computed again, and what is above it gone
    kept = bare * tokens * width * size + whole * layer
    matrices = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    inside = sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in matrices)
    bytes_inside = 0.56 if model_args.load_in_4bit else model.dtype.itemsize  # 4 bits and a scale for every 64 weights
    parts = {
        "weights": (model.num_parameters() - inside) * model.dtype.itemsize + inside * bytes_inside,
        # Autocast keeps a copy of each trained weight for as long as a step; frozen ones it casts anew.
        "copies of what is trained, in 16 bits": trainable * 2 * (size < model.dtype.itemsize),
        "copy of the output matrix, in 16 bits": rows * width * 2 * (lora and size < model.dtype.itemsize),
        "what is trained: gradients, AdamW" + (", the adapter" if lora else ""): trainable * (16 if lora else 12),
        "activations": kept,
        "scores of the vocabulary": 16 * HEAD_TOKENS * rows if lora else 12 * tokens * min(HEAD_COLUMNS, rows),
    }
    return {name: value / 2**30 for name, value in parts.items()}


def preflight(inputs: dict, training_args, model_args) -> None:
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
    trainable = total = inputs["model"].num_parameters()
    if model_args.use_peft:
        trainable, total = get_peft_model(inputs["model"], inputs["peft_config"]).get_nb_trainable_parameters()
    print(f"trained: {trainable:,} of {total:,} parameters ({trainable / total:.2%})")
    parts = estimate_memory(inputs["model"], trainable, training_args, model_args)
    for name, gib in parts.items():
        print(f"{gib:8.2f} GiB  {name}")
    print(f"{sum(parts.values()):8.2f} GiB  at the peak, estimated; on a GPU the CUDA context needs about 0.5 more")


def main(script_args, training_args, model_args, run_args: RunArguments) -> None:
    from transformers import EarlyStoppingCallback

    check_machine(training_args)
    arguments = (script_args, training_args, model_args, run_args)
    output_dir, resume = Path(training_args.output_dir), training_args.resume_from_checkpoint
    if run_args.preflight:
        return preflight(build_inputs(*arguments, load_weights=False), training_args, model_args)
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
    checkpoint, progress = find_checkpoint(training_args, identity)
    if checkpoint is None and training_args.process_index == 0:
        (output_dir / "samples.jsonl").unlink(missing_ok=True)  # of a run that this one does not go on with
    setup = describe_setup(arguments, inputs)
    if "wandb" in training_args.report_to and trainer.is_world_process_zero():
        start_wandb(training_args, setup, progress)
    problems = [] if trainer.is_fsdp_enabled else inputs["problems"]  # one process alone cannot draft with its part
    log = RunLog(trainer.model, trainer.processing_class, problems, progress)
    trainer.callback_handler.callbacks.insert(1, log)  # after the Trainer's own flow, before the reporters
    epoch_steps = inputs["rows"]["split_rows"] / inputs["step_rows"]
    guard = RunGuard(trainer.model, identity, progress, token, epoch_steps, push_strategy)
    trainer.add_callback(guard)
    if run_args.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(run_args.early_stopping_patience))
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except torch.OutOfMemoryError:
        sys.exit("The card's memory is full: take recipes/tinyllama_lora_fp32_small.yaml, or a smaller --max_length")
    if guard.signal is not None:
        step = trainer.state.global_step
        print(
            f"\nStopped after step {step}, which is saved: go on with --resume_from_checkpoint true", file=sys.stderr
        )
        sys.exit(128 + guard.signal)
    save_result(trainer, describe_run(setup, trainer, log), output_dir)
    wrote, next_command = "adapter", f"merge_and_push.py --adapter_path {output_dir} --output_dir …"
    if not model_args.use_peft:
        wrote, next_command = "model", f"evaluate_model.py --model_name_or_path {output_dir} …"
    trainer.accelerator.print(f"Wrote the {wrote} to {output_dir}. Next: python {next_command}")
    trainer.end()
    if push_strategy and trainer.is_world_process_zero():
        if problem := push_folder(
            training_args, token, output_dir, f"The {wrote}", ignore_patterns=["checkpoint-*", ".*"]
        ):
            sys.exit(f"{problem}. {output_dir} is whole; push it later with: hf upload --private NAME {output_dir}")
        print("Pushed to the Hub")


def parse_arguments(argv: list[str] | None = None) -> tuple:
    from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser

    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, RunArguments), usage=USAGE)
    parser.add_argument("--help_all", action="help", help="Show all arguments.")
    try:
        script_args, training_args, model_args, run_args = parser.parse_args_and_config(argv)
        if str(training_args.resume_from_checkpoint).lower() == "false":
            training_args.resume_from_checkpoint = None
        if model_args.model_name_or_path is None:
            raise ValueError("--model_name_or_path is missing: the base model's folder or Hub id")
        if model_args.load_in_4bit and not model_args.use_peft:
            raise ValueError("a 4-bit base cannot be trained itself: add use_peft: true to the recipe")
        if run_args.early_stopping_patience and not training_args.load_best_model_at_end:
            raise ValueError("--early_stopping_patience needs --load_best_model_at_end true: else the best is lost")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return script_args, training_args, model_args, run_args


if __name__ == "__main__":
    try:
        main(*parse_arguments())
    except KeyboardInterrupt:  # before or after training; within, RunGuard saves first
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
