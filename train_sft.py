# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bitsandbytes==0.50.2",
#     "datasets==5.2.0",
#     "gguf==0.19.0",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "pyarrow==26.0.1",
#     "safetensors==0.8.0",
#     "torch==2.13.0",
#     "transformers==5.23.0",
#     "trl==1.16.0",
#     "wandb==0.31.0",
# ]
# [tool.hf-jobs]
# flavor = "t4-small"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
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

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler()  # before the slow imports

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from approach.arguments import PublishArguments, check_ranges, format_command, parse
from approach.errors import run_script
from approach.prompt import END_TAG, EXAMPLE_PROBLEM
from approach.runtime import hide_library_notices, set_up_torch
from approach.tracking import check_wandb_login
from approach.training.arguments import (
    NO_BASE,
    NO_BFLOAT16,
    DataArguments,
    check_arguments,
    format_parse_error,
    override_evaluation,
    print_help,
)

if TYPE_CHECKING:
    from trl import ModelConfig, ScriptArguments, SFTConfig

    from approach.training.publishing import Publisher
    from approach.training.trainer import ApproachTrainer

USAGE = "accelerate launch %(prog)s --config RECIPE --ARGUMENT VALUE … (the most used: --help, all: --help_all)"


@dataclass
class PushOnlyArguments(PublishArguments):
    """The arguments of publishing an earlier run."""

    push_only: str = field(default="", metadata={"help": "The folder to publish."})
    hub_model_id: str | None = field(default=None, metadata={"help": "The repository to publish to."})
    hub_token: str | None = field(default=None, metadata={"help": "The token to publish with, if not the usual one."})

    def __post_init__(self):
        if not self.hub_model_id:
            raise ValueError("--push_only needs --hub_model_id user/name")


@dataclass
class RunArguments(PublishArguments, DataArguments):
    """The arguments of a run beside TRL's own."""

    push_only: str | None = field(
        default=None, metadata={"help": "Publish this folder, trained earlier, as --hub_model_id; train nothing."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a lower loss; needs --load_best_model_at_end."},
    )
    preflight: bool = field(
        default=False, metadata={"help": "Load no weights; show what the run would do and need, and stop."}
    )
    extend: bool = field(
        default=False,
        metadata={"help": "Continue a finished run for more --max_steps or --num_train_epochs than it had."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the earlier run in the output folder."})

    def __post_init__(self):
        check_ranges(
            self,
            train_fraction="(0, 1]",
            num_eval_rows="[1, inf)",
            num_samples="[0, inf)",
            early_stopping_patience="[1, inf)",
        )


def main(*arguments) -> None:
    """Trains, or publishes an earlier run with `--push_only`; takes what `parse_arguments` returns."""
    if isinstance(arguments[0], PushOnlyArguments):
        push_only(*arguments)
    else:
        train(*arguments)


def train(
    script_args: "ScriptArguments", training_args: "SFTConfig", model_args: "ModelConfig", run_args: RunArguments
) -> None:
    from approach.embeddings import add_tag_tokens
    from approach.training import callbacks, checkpoints, memory, publishing, record
    from approach.training.data import load_pairs
    from approach.training.trainer import ApproachTrainer, build_lora_config, load_base

    memory.check_machine(training_args)
    if "wandb" in training_args.report_to and training_args.process_index == 0 and not run_args.preflight:
        check_wandb_login()
    publisher, training_args = publishing.split_hub_arguments(training_args, **run_args.hub_options())
    output_dir, resume = Path(training_args.output_dir), training_args.resume_from_checkpoint
    if not run_args.preflight:
        inputs = {"--model_name_or_path": model_args.model_name_or_path, "--dataset_name": script_args.dataset_name}
        checkpoints.check_run_folder(output_dir, inputs, run_args.overwrite, resume=resume is not None)
        if publisher and training_args.process_index == 0:
            publisher.check_access()

    model, tokenizer = load_base(model_args, weights=not run_args.preflight)
    lora = build_lora_config(model, model_args, add_tag_tokens(model, tokenizer))
    pairs = load_pairs(script_args, training_args, run_args, tokenizer)
    if run_args.preflight:
        return memory.print_preflight(model, tokenizer, pairs.train, lora, training_args, model_args)
    trainer = ApproachTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        train_dataset=pairs.train,
        eval_dataset=pairs.validation,
        peft_config=lora,
    )

    patience = run_args.early_stopping_patience if pairs.validation else None
    resume_key = checkpoints.build_resume_key(training_args, model_args, pairs.record["sha256"], patience)
    extended = pairs if run_args.extend else None
    checkpoint, progress = checkpoints.find_checkpoint(output_dir, resume, resume_key, extended)
    if checkpoint is None:  # added before the callback at which the processes wait for one another
        trainer.add_callback(callbacks.ReplaceRunCallback(output_dir, with_checkpoints=resume is None))
    base, arguments = record.build_base_record(model_args), (script_args, training_args, model_args, run_args)
    setup = record.build_setup_record(arguments, base, pairs.record)
    if "wandb" in training_args.report_to and trainer.is_world_process_zero():
        progress.wandb_run_id = record.start_wandb(training_args.run_name, setup, progress.wandb_run_id)
    signals = callbacks.add_callbacks(trainer, pairs, resume_key, progress, publisher, patience)
    with signals.delaying_signals():
        trainer.train(resume_from_checkpoint=checkpoint)
        signals.raise_if_stopped(trainer.state.global_step)
        record.save_result(trainer, record.build_run_record(setup, trainer, pairs, progress), output_dir)
    signals.raise_if_signalled(output_dir)
    finish(trainer, output_dir, publisher, "adapter" if model_args.use_peft else "model")


def finish(trainer: "ApproachTrainer", output_dir: Path, publisher: "Publisher | None", kind: str) -> None:
    """Prints what was written and the next command, and publishes the result where that was asked for."""
    next_command = "merge_and_push.py", "--adapter_path", output_dir, "--output_dir", f"{output_dir}-merged"
    if kind == "model":
        next_command = "draft_approach.py", "--model", output_dir, EXAMPLE_PROBLEM
    trainer.accelerator.print(f"Wrote the {kind} to {output_dir}. Next: {format_command('python', *next_command)}")
    trainer.end()
    if publisher and trainer.is_world_process_zero():
        publisher.publish_result(output_dir, f"The {kind}")


def push_only(args: PushOnlyArguments) -> None:
    """Publishes what an earlier run wrote."""
    from approach.hub import Repository
    from approach.training.publishing import Publisher, check_result

    folder = Path(args.push_only)
    kind = check_result(folder)
    repository = Repository(args.hub_model_id, **args.hub_options())
    Publisher(repository, "end", args.hub_token).publish_result(folder, f"The {kind}")


def parse_arguments(argv: list[str] | None = None) -> tuple:
    """TRL's three groups of arguments and `RunArguments`; `PushOnlyArguments` alone where only publishing is asked."""
    argv = sys.argv[1:] if argv is None else argv
    words = {word.partition("=")[0].replace("-", "_") for word in argv}
    if {"_h", "__help"} & words:
        print_help(RunArguments, USAGE)
        sys.exit()
    if "__push_only" in words:
        return (parse(PushOnlyArguments, argv),)
    from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser

    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, RunArguments), usage=USAGE)
    parser.add_argument("--help_all", action="help", help="Show all arguments.")
    try:
        groups = parser.parse_args_and_config(override_evaluation(argv))
        script_args, training_args, model_args, run_args = groups
        if training_args.eval_strategy == "no" and "__early_stopping_patience" not in words:
            run_args.early_stopping_patience = None  # a recipe's
        if run_args.push_only:
            raise ValueError(f"--push_only {run_args.push_only} belongs on the command line, not into a recipe")
        if run_args.extend and not training_args.resume_from_checkpoint:
            raise ValueError("--extend true needs --resume_from_checkpoint true")
        check_arguments(script_args, training_args, model_args, run_args.public, run_args.early_stopping_patience)
    except Exception as error:  # a recipe may hold anything, and the libraries raise errors of any kind
        message = format_parse_error(error)
        if "bf16/gpu" in message:  # transformers' message, which says neither what to add nor that no base is named
            named, _ = parser.parse_known_args(argv)  # the recipe's values are the parser's defaults by now
            message = NO_BFLOAT16 if named.model_name_or_path else NO_BASE
        parser.error(message)
    training_args.eos_token = END_TAG  # TRL gives it to the tokenizer, the configuration and the generation defaults
    if str(training_args.resume_from_checkpoint).lower() == "false":
        training_args.resume_from_checkpoint = None
    return script_args, training_args, model_args, run_args


if __name__ == "__main__":
    set_up_torch()
    hide_library_notices()
    run_script(lambda: main(*parse_arguments()))
