"""The base model that training starts from, and its tokenizer."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig, get_quantization_config

from approach.errors import user_errors
from approach.models import check_no_adapter, load_weights
from approach.prompt import load_tokenizer


def load_base(model_args: ModelConfig, weights: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    The base model, in the precision asked for, and its tokenizer.

    Without `weights` the model has its shape alone and takes no memory. Raises UserError where there is no base.
    """
    argument, name, revision = "--model_name_or_path", model_args.model_name_or_path, model_args.model_revision
    tokenizer = load_tokenizer(name, argument, revision)
    with user_errors(argument, name):
        check_no_adapter(name)
        quantization = get_quantization_config(model_args)
        if not weights:
            with torch.device("meta"):
                config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
                dtype = getattr(torch, model_args.dtype)
                return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False), tokenizer
    model = load_weights(
        name,
        argument,
        revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization,
    )
    return model, tokenizer
