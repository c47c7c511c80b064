"""The LoRA configuration: TRL's, with the tags' rows of both matrices as trainable tokens."""

import sys

from peft import PeftConfig
from transformers import PreTrainedModel
from trl import ModelConfig, get_peft_config

LINEAR_KINDS = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")


def lora_with_tag_rows(model: PreTrainedModel, model_args: ModelConfig, tag_ids: list[int]) -> PeftConfig | None:
    """
    The configuration of the adapter; None without LoRA, where all weights are trained.

    Saves all rows of `tag_ids`, of both matrices: on loading, PEFT re-initialises rows that were not saved. Training
    both matrices whole (`modules_to_save`) would be 134.7 M parameters, which a 6 GB card cannot hold. Ends with one
    line where the base has no layer of a name in `lora_target_modules`.
    """
    if not model_args.use_peft:
        return None
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    targets = model_args.lora_target_modules
    if isinstance(targets, str) and targets != "all-linear":
        targets = [targets]  # TRL makes a string of a list of one, which PEFT would take for a regular expression
    config = get_peft_config(model_args)
    if isinstance(targets, list):
        require_layers(model, targets)
        config.target_modules = sorted(targets)  # PEFT keeps a set, whose order would differ from run to run
    config.revision = model_args.model_revision
    config.trainable_token_indices = {names[id(model.get_input_embeddings())]: tag_ids}
    if not model.config.get_text_config().tie_word_embeddings:
        config.trainable_token_indices[names[id(model.get_output_embeddings())]] = tag_ids
    return config


def require_layers(model: PreTrainedModel, targets: list[str]) -> None:
    """Ends with one line that names the linear layers there are where `targets` names one that is not among them."""
    linear = {
        name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__ in LINEAR_KINDS
    }
    if missing := sorted(set(targets) - linear):
        have = ", ".join(sorted(linear))
        sys.exit(f"lora_target_modules: the base has no {', '.join(missing)}; its linear layers are {have}")
