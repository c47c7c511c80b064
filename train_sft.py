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

    install_sigint_handler()  # to Ctrl-C, before all else

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from approach.arguments import PublishArguments, check_ranges, parse
from approach.errors import run_script
from approach.prompt import END_TAG
from approach.runtime import set_up_torch
from approach.storage import public_name
from approach.training.arguments import NO_BASE, NO_BFLOAT16, check_training, describe_mistake
from approach.training.help import print_help
from approach.training.notices import hide_notices

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import ModelConfig, ScriptArguments, SFTConfig

    from approach.training.pairs import Pairs
    from approach.training.publishing import Publisher
    from approach.training.trainer import ApproachTrainer

USAGE = "accelerate launch %(prog)s --config RECIPE --ARGUMENT VALUE … (the most used: --help, all: --help_all)"


@dataclass
class PushOnlyArguments(PublishArguments):
    """What publishing alone takes."""

    push_only: str = field(default="", metadata={"help": "The folder to publish."})
    hub_model_id: str | None = field(default=None, metadata={"help": "The repository to publish to."})
    hub_token: str | None = field(default=None, metadata={"help": "The token to publish with, if not the usual one."})

    def __post_init__(self):
        if not self.hub_model_id:
            raise ValueError("--push_only needs --hub_model_id user/name")


@dataclass
class RunArguments(PublishArguments):
    """What TRL's own arguments do not say."""

    push_only: str | None = field(
        default=None, metadata={"help": "Publish this folder, trained earlier, as --hub_model_id; train nothing."}
    )
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
    overwrite: bool = field(default=False, metadata={"help": "Replace the earlier run in the output folder."})

    def __post_init__(self):
        check_ranges(
            self,
            train_fraction="(0, 1]",
            num_eval_rows="[1, inf)",
            num_samples="[0, inf)",
            early_stopping_patience="[1, inf)",
        )


def main(
    script_args: "ScriptArguments", training_args: "SFTConfig", model_args: "ModelConfig", run_args: RunArguments
) -> None:
    from trl import get_peft_config

    from approach.embeddings import add_tag_tokens, train_tag_rows
    from approach.training.base import load_base
    from approach.training.callbacks import watch
    from approach.training.checkpoints import describe_identity, find_checkpoint
    from approach.training.machine import check_machine
    from approach.training.memory import print_preflight
    from approach.training.publishing import split_hub_arguments
    from approach.training.run_folder import EarlierRun, require_run_folder
    from approach.training.run_record import describe_base, describe_run, describe_setup, save_result
    from approach.training.tracking import start_wandb
    from approach.training.trainer import ApproachTrainer

    check_machine(training_args)
    output_dir, resume = Path(training_args.output_dir), training_args.resume_from_checkpoint
    publisher, training_args = split_hub_arguments(training_args, **run_args.hub_options())
    if not run_args.preflight:
        inputs = {"--model_name_or_path": model_args.model_name_or_path, "--dataset_name": script_args.dataset_name}
        require_run_folder(output_dir, inputs, run_args.overwrite, resume=resume is not None)
        if publisher and training_args.process_index == 0:
            publisher.check_access()
    model, tokenizer = load_base(model_args, weights=not run_args.preflight)
    tag_ids, lora = add_tag_tokens(model, tokenizer), get_peft_config(model_args)
    if lora:
        lora.revision = model_args.model_revision
        train_tag_rows(lora, model, tag_ids)
    pairs = load_pairs(script_args, training_args, run_args, tokenizer)
    if run_args.preflight:
        return print_preflight(model, tokenizer, pairs.train, lora, training_args, model_args)
    trainer = ApproachTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        train_dataset=pairs.train,
        eval_dataset=pairs.validation,
        peft_config=lora,
    )
    patience = run_args.early_stopping_patience
    identity = describe_identity(training_args, model_args, pairs.record["sha256"], patience)
    checkpoint, progress = find_checkpoint(output_dir, resume, identity)
    if checkpoint is None:  # before the guard is added, at which the processes wait for one another
        trainer.add_callback(EarlierRun(output_dir, with_checkpoints=resume is None))
    base = describe_base(model_args.model_name_or_path, model_args.model_revision)
    setup = describe_setup((script_args, training_args, model_args, run_args), base, pairs.record)
    if "wandb" in training_args.report_to and trainer.is_world_process_zero():
        progress.wandb_run_id = start_wandb(training_args.run_name, setup, progress.wandb_run_id)
    log, guard = watch(trainer, pairs, identity, progress, publisher, patience)
    with guard.holding_signals():
        trainer.train(resume_from_checkpoint=checkpoint)
        guard.exit_if_stopped(trainer.state.global_step)
        save_result(trainer, describe_run(setup, trainer, progress, log.activation_dtype), output_dir)
    guard.exit_if_asked(f"the result is whole in {output_dir}")
    finish(trainer, output_dir, publisher, "adapter" if model_args.use_peft else "model")


def load_pairs(
    script_args: "ScriptArguments",
    training_args: "SFTConfig",
    run_args: RunArguments,
    tokenizer: "PreTrainedTokenizerBase",
) -> "Pairs":
    """The rows that the arguments ask for, tokenized, and their record; prints how many there are."""
    from approach.dataset import load_split
    from approach.training.pairs import COLUMNS, Pairs, count_rows, describe_rows, print_arithmetic, require_rows
    from approach.training.tokenization import build_rows

    source = {"name": script_args.dataset_name, "columns": COLUMNS, "revision": run_args.dataset_revision}
    batch_rows = training_args.per_device_train_batch_size * training_args.world_size
    step_rows, max_steps = batch_rows * training_args.gradient_accumulation_steps, training_args.max_steps
    options = {"tokenizer": tokenizer, "max_length": training_args.max_length, "long_examples": run_args.long_examples}
    split = load_split(**source, config=script_args.dataset_config, split=script_args.dataset_train_split)
    num_rows = count_rows(len(split), run_args.train_fraction, max_steps, step_rows)
    validation, problems = None, []
    with training_args.main_process_first(desc="tokenizing"):
        rows = build_rows(split.shuffle(seed=training_args.seed), num_rows, **options)
        if training_args.eval_strategy != "no":
            held_out = load_split(**source, config=script_args.dataset_config, split=script_args.dataset_test_split)
            validation = build_rows(held_out, run_args.num_eval_rows, **options).dataset
            problems = held_out.select(range(min(run_args.num_samples, len(held_out)))).to_list()
    require_rows(rows, num_rows, training_args.max_length)
    if training_args.process_index == 0:
        epochs = max_steps * step_rows / len(split) if max_steps > 0 else training_args.num_train_epochs
        print_arithmetic(rows, len(split), batch_rows, step_rows, epochs, training_args.max_length)
    record = {
        "name": public_name(script_args.dataset_name),
        "revision": run_args.dataset_revision,
        **describe_rows(rows, len(split), training_args.seed),
    }
    return Pairs(rows.dataset, validation, problems, record, epoch_steps=len(split) / step_rows)


def finish(trainer: "ApproachTrainer", output_dir: Path, publisher: "Publisher | None", kind: str) -> None:
    """Says what was written and what comes next, and publishes it where that was asked for."""
    next_command = f"merge_and_push.py --adapter_path {output_dir} --output_dir …"
    if kind == "model":
        next_command = f"evaluate_model.py --model_name_or_path {output_dir} …"
    trainer.accelerator.print(f"Wrote the {kind} to {output_dir}. Next: python {next_command}")
    trainer.end()
    if publisher and trainer.is_world_process_zero():
        publisher.publish_result(output_dir, f"The {kind}")


def push_only(args: PushOnlyArguments) -> None:
    """Publishes what an earlier run wrote; raises UserError where that is not whole, or where publishing fails."""
    from approach.hub import Repository
    from approach.training.publishing import Publisher, require_result

    folder = Path(args.push_only)
    kind = require_result(folder)
    repository = Repository(args.hub_model_id, **args.hub_options())
    Publisher(repository, "end", args.hub_token).publish_result(folder, f"The {kind}")


def parse_arguments(argv: list[str] | None = None) -> "tuple[ScriptArguments, SFTConfig, ModelConfig, RunArguments]":
    words = {word.partition("=")[0].replace("-", "_") for word in (sys.argv[1:] if argv is None else argv)}
    if {"_h", "__help"} & words:
        print_help(RunArguments, USAGE)
        sys.exit()
    if "__push_only" in words:
        push_only(parse(PushOnlyArguments, argv))
        sys.exit()
    from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser

    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, RunArguments), usage=USAGE)
    parser.add_argument("--help_all", action="help", help="Show all arguments.")
    try:
        script_args, training_args, model_args, run_args = parser.parse_args_and_config(argv)
        if run_args.push_only:
            raise ValueError(f"--push_only {run_args.push_only} belongs on the command line, not into a recipe")
        check_training(training_args, model_args, run_args.public, run_args.early_stopping_patience)
    except Exception as error:  # a recipe may hold anything, and the libraries raise whatever comes of it
        message = describe_mistake(error)
        if "bf16/gpu" in message:  # transformers', which says neither what to add nor that there is no base either
            named, _ = parser.parse_known_args(argv)  # the recipe's values are the parser's defaults by now
            message = NO_BFLOAT16 if named.model_name_or_path else NO_BASE
        parser.error(message)
    training_args.eos_token = END_TAG  # TRL gives it to the tokenizer, the configuration and the generation defaults
    if str(training_args.resume_from_checkpoint).lower() == "false":
        training_args.resume_from_checkpoint = None
    return script_args, training_args, model_args, run_args


if __name__ == "__main__":
    set_up_torch()
    hide_notices()
    run_script(lambda: main(*parse_arguments()))
