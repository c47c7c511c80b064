"""The base model that training starts from, and its tokenizer."""

import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig, get_quantization_config

from approach.files import first_line


def load_base(model_args: ModelConfig, weights: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    The base model, in the precision asked for, and its tokenizer.

    Without `weights` the model has its shape alone and takes no memory. Ends with one line where there is no base.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        if not weights:
            with torch.device("meta"):
                config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
                dtype = getattr(torch, model_args.dtype)
                return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False), tokenizer
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=model_args.dtype,
            attn_implementation=model_args.attn_implementation,
            quantization_config=get_quantization_config(model_args),
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"--model_name_or_path {name}: {first_line(error)}")
    return model, tokenizer
