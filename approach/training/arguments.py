"""The command line of a training: its own data arguments, checks of TRL's arguments, and a `--help` that is fast."""

import argparse
import ast
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin, get_type_hints

from approach.arguments import check_ranges

if TYPE_CHECKING:
    from trl import ModelConfig, ScriptArguments, SFTConfig

NO_BASE = "--model_name_or_path is missing: the base model's folder or Hub id"
NO_BFLOAT16 = (
    "bf16: true needs a GPU with bfloat16, and there is none here: add --use_cpu true to train on the CPU in 16 bits, "
    "or --bf16 false --dtype float32 for 32 bits"
)
TRAINING_RANGES = {
    "learning_rate": "(0, inf)",
    "per_device_train_batch_size": "[1, inf)",
    "per_device_eval_batch_size": "[1, inf)",
    "gradient_accumulation_steps": "[1, inf)",
    "num_train_epochs": "(0, inf)",
    "max_length": "[1, inf)",
    "warmup_steps": "[0, inf)",
    "weight_decay": "[0, inf)",
    "max_grad_norm": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "(0, inf)",
    "label_smoothing_factor": "[0, 1)",
    "logging_steps": "(0, inf)",
    "eval_steps": "(0, inf)",
    "save_steps": "(0, inf)",
    "save_total_limit": "[1, inf)",
    "seed": "[0, 4294967295]",
    "data_seed": "[0, 4294967295]",
    "dataloader_num_workers": "[0, inf)",
}
MODEL_RANGES = {"lora_r": "[1, inf)", "lora_alpha": "(0, inf)", "lora_dropout": "[0, 1)"}
# TRL's arguments that this script cannot honour: the value that it keeps, and why. Rows are tokenized and labelled
# here, and the base is loaded here, so that TRL never looks at these.
FIXED_ARGUMENTS = {
    "assistant_only_loss": (False, "the loss is on the approach alone, and the rows are no chats"),
    "completion_only_loss": ((None, True), "the loss is on the approach alone"),
    "truncation_mode": ("keep_start", "long rows are shortened or dropped by --long_examples"),
    "eos_token": (None, "an approach ends with </approach>"),
    "model_init_kwargs": (None, "the base is loaded by --dtype, --attn_implementation and --model_revision"),
    "dataset_streaming": (False, "the rows are loaded before training"),
}
# The arguments of TRL and transformers that `--help` shows, and the files that define them.
SHOWN_ARGUMENTS = (
    *("model_name_or_path", "model_revision", "dataset_name", "output_dir", "resume_from_checkpoint"),
    *("max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length"),
    *("learning_rate", "eval_steps", "save_steps", "bf16", "load_in_4bit", "use_cpu", "seed", "report_to", "run_name"),
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"),
)
ARGUMENT_FILES = {
    "transformers": ["training_args.py"],
    "trl": ["scripts/utils.py", "trainer/model_config.py", "trainer/base_config.py", "trainer/sft_config.py"],
}


@dataclass
class DataArguments:
    """Which rows of the dataset a run takes, beside TRL's own arguments."""

    dataset_revision: str | None = field(
        default=None, metadata={"help": "The dataset's commit or tag on the Hub: what prepare_dataset.py printed."}
    )
    train_fraction: float = field(default=1.0, metadata={"help": "Share of the training split to use, in (0, 1]."})
    num_eval_rows: int = field(default=100, metadata={"help": "Validation rows for the evaluation loss, at most."})
    long_examples: str = field(
        default="shorten",
        metadata={
            "help": "Rows longer than --max_length: 'shorten' at the last complete sentence that fits, or 'drop'.",
            "choices": ["shorten", "drop"],
        },
    )
    num_samples: int = field(
        default=4, metadata={"help": "Validation problems to draft for at each evaluation, greedily; 0 for none."}
    )


def check_arguments(
    script_args: "ScriptArguments",
    training_args: "SFTConfig",
    model_args: "ModelConfig",
    public: bool,
    patience: int | None,
) -> None:
    """
    Checks TRL's arguments before anything is loaded.

    `public` says whether the run may publish to a public repository; `patience` is that of early stopping.

    Raises:
        ValueError: where an argument lies outside its range, where two do not fit together, or where this script
            cannot do what one of them asks for.
    """
    if model_args.model_name_or_path is None:
        raise ValueError(NO_BASE)
    if training_args.trust_remote_code:
        raise ValueError("--trust_remote_code: the code that comes with a model is never run here")
    for arguments in (training_args, model_args):
        check_numbers(arguments)
    check_ranges(training_args, **TRAINING_RANGES)
    check_ranges(model_args, **MODEL_RANGES)
    if training_args.max_steps == 0 or training_args.max_steps < -1:
        raise ValueError(f"--max_steps must be at least 1, or -1 for complete epochs, got {training_args.max_steps}")
    if training_args.max_length is None:
        raise ValueError("--max_length is missing: rows are shortened or dropped by it")
    if model_args.load_in_4bit and not model_args.use_peft:
        raise ValueError("a 4-bit base cannot be trained itself: add use_peft: true to the recipe")
    if patience is not None and not training_args.load_best_model_at_end:
        raise ValueError("--early_stopping_patience needs --load_best_model_at_end true: else the best is lost")
    if public and training_args.hub_private_repo:
        raise ValueError("--public contradicts --hub_private_repo true: name one of them")
    check_fixed_arguments(script_args, training_args)


def check_fixed_arguments(script_args: "ScriptArguments", training_args: "SFTConfig") -> None:
    """Raises ValueError where an argument of TRL's asks for something that this script would leave undone."""
    values = {**vars(script_args), **vars(training_args)}
    for name, (kept, reason) in FIXED_ARGUMENTS.items():
        if values[name] not in (kept if isinstance(kept, tuple) else (kept,)):
            raise ValueError(f"--{name} {values[name]} cannot be used here: {reason}")
    if training_args.padding_free and not training_args.packing:
        raise ValueError("--padding_free true cannot be used here without --packing true: add it")
    if training_args.packing and training_args.packing_strategy == "wrapped":
        raise ValueError("--packing_strategy wrapped cannot be used here: it cuts approaches in two; take bfd")


def check_numbers(arguments: object) -> None:
    """Raises ValueError where a recipe has something else for a number: parsers do not check a recipe's values."""
    hints = get_type_hints(type(arguments))
    for argument in fields(arguments):
        hint, value = hints[argument.name], getattr(arguments, argument.name)
        kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
        if not kinds <= {int, float, NoneType} or type(value) in kinds or (type(value) is int and float in kinds):
            continue
        wanted = "a number" if float in kinds else "a whole number"
        raise ValueError(f"--{argument.name} must be {wanted}, got {value}")


def format_parse_error(error: Exception) -> str:
    """An error of parsing the command line or a recipe, as one line."""
    text = " ".join(str(error).split())  # YAML says in further lines where it stopped
    if isinstance(error, ValueError | OSError):
        return text
    if isinstance(error, IndexError):  # TRL reads the word after --config without looking whether there is one
        return "--config: name a recipe"
    return f"--config: the recipe cannot be used: {text} ({type(error).__name__})"


def print_help(kind: type, usage: str) -> None:
    """Prints the arguments of the dataclass `kind` and the most used of TRL's, without importing TRL or torch."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(kind, usage=usage)
    group = parser.add_argument_group("the most used of TRL's and transformers' arguments; --help_all shows them all")
    group.add_argument("--config", help="A recipe: a YAML file of arguments. The command line overrides it.")
    texts = read_help_texts()
    for name in SHOWN_ARGUMENTS:
        group.add_argument(f"--{name}", help=texts[name].replace("%", "%%"), default=argparse.SUPPRESS)
    parser.print_help()


def read_help_texts() -> dict[str, str]:
    """
    The first sentence of each argument's help, by name, read from the source files of transformers and TRL.

    Importing the dataclasses would take seconds, since they import torch.
    """
    texts = {}
    for package, names in ARGUMENT_FILES.items():
        (folder,) = find_spec(package).submodule_search_locations
        for name in names:
            tree = ast.parse(Path(folder, name).read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
                    for text in find_help(node.value):
                        texts[node.target.id] = text
    return texts


def find_help(call: ast.Call) -> list[str]:
    """The first sentence of the help in a dataclass's `field(metadata={"help": …})`; empty where there is none."""
    metadata = [keyword.value for keyword in call.keywords if keyword.arg == "metadata"]
    return [
        ast.literal_eval(value).partition(". ")[0].rstrip(".") + "."
        for dictionary in metadata
        for key, value in zip(dictionary.keys, dictionary.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "help"
    ]
