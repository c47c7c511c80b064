"""What `--help` shows of a training: its own arguments, and the most used of the libraries'."""

import argparse

# What these are and do is TRL's and transformers' own.
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
    "seed": "Random seed for row order, dropout and new weights.",
    "report_to": "wandb: follow the run in Weights & Biases.",
    "run_name": "The run's name there.",
    "push_to_hub": "true: upload the result; privately, unless --public.",
    "hub_model_id": "The repository to upload to.",
    "hub_strategy": "end: the result alone; every_save, checkpoint or all_checkpoints: checkpoints, too.",
    "hub_token": "The token to upload with, where it is not the one of `hf auth login` or HF_TOKEN.",
    "hub_private_repo": "false: the same as --public.",
}


def print_help(kind: type, usage: str) -> None:
    """The arguments of the dataclass `kind` and the libraries', without the seconds that importing TRL takes."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(kind, usage=usage)
    group = parser.add_argument_group("the most used of TRL's and transformers' arguments; --help_all shows them all")
    for name, text in LIBRARY_ARGUMENTS.items():
        group.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS)
    parser.print_help()
