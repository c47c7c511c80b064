"""What the libraries' training arguments must be like together, checked before anything is loaded."""

from dataclasses import fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin, get_type_hints

from approach.arguments import check_ranges

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

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


def check_training(training_args: "SFTConfig", model_args: "ModelConfig", public: bool, patience: int | None) -> None:
    """
    Raises ValueError where an argument lies outside its range, or where two do not fit together.

    `public` and `patience` are the script's own: whether it may publish for all to see, and early stopping's patience.
    """
    if model_args.model_name_or_path is None:
        raise ValueError(NO_BASE)
    if training_args.trust_remote_code:
        raise ValueError("--trust_remote_code: the code that comes with a model is never run here")
    for arguments in (training_args, model_args):
        require_numbers(arguments)
    check_ranges(training_args, **TRAINING_RANGES)
    check_ranges(model_args, **MODEL_RANGES)
    if training_args.max_steps == 0 or training_args.max_steps < -1:
        raise ValueError(f"--max_steps must be at least 1, or -1 for whole epochs, got {training_args.max_steps}")
    if training_args.max_length is None:
        raise ValueError("--max_length is missing: rows are shortened or dropped by it")
    if model_args.load_in_4bit and not model_args.use_peft:
        raise ValueError("a 4-bit base cannot be trained itself: add use_peft: true to the recipe")
    if patience is not None and not training_args.load_best_model_at_end:
        raise ValueError("--early_stopping_patience needs --load_best_model_at_end true: else the best is lost")
    if public and training_args.hub_private_repo:
        raise ValueError("--public contradicts --hub_private_repo true: name one of them")


def require_numbers(arguments: object) -> None:
    """Raises ValueError where a recipe has something else for a number: what it says, no parser has looked at."""
    hints = get_type_hints(type(arguments))
    for field in fields(arguments):
        hint, value = hints[field.name], getattr(arguments, field.name)
        kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
        if not kinds <= {int, float, NoneType} or type(value) in kinds or (type(value) is int and float in kinds):
            continue
        wanted = "a number" if float in kinds else "a whole number"
        raise ValueError(f"--{field.name} must be {wanted}, got {value}")


def describe_mistake(error: Exception) -> str:
    """One line on an argument, or on a recipe, that the libraries could not take."""
    text = " ".join(str(error).split())  # YAML says in further lines where it stopped
    if isinstance(error, ValueError | OSError):
        return text
    if isinstance(error, IndexError):  # TRL's, which takes the word behind it before it looks whether there is one
        return "--config: name a recipe"
    return f"--config: the recipe cannot be used: {text} ({type(error).__name__})"
