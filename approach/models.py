"""One loader for what can draft: an adapter, a merged model, or the Hub id of either; and what ends a draft."""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from approach.files import first_line, read_run
from approach.loading import explain_failure, load_tokenizer, told
from approach.prompt import END_TAG


def load_model(
    name: str,
    argument: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    base: str | None = None,
    is_base: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A model ready to draft, and its tokenizer; an adapter is merged in memory into its base.

    `base` names that base where it is not at the place that the adapter names; other models have no use for it. Ends
    with one line that names `argument` where there is none to load, where adapter and base do not fit, or where the
    model should be a base and is an adapter.
    """
    tokenizer = load_tokenizer(name, argument)
    with told(argument, name):
        is_adapter = bool(find_adapter_config_file(name))
    if is_base or not is_adapter:
        model = load_weights(name, argument, dtype=dtype)
    elif base:
        model = merge_into_base(name, argument, tokenizer, base, dtype)
    else:
        from peft import AutoPeftModelForCausalLM  # three seconds, which a merged model does not need

        with told(argument, name):
            model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=False)
            model = model.merge_and_unload()
    return model.eval().to(device), tokenizer


def load_weights(name: str, argument: str, revision: str | None = None, hint: str = "", **options) -> PreTrainedModel:
    """
    A whole model, of which every weight is stored: transformers would draw those that are missing at random.

    Ends with one line that names `argument`, with `hint` behind it, where it cannot be loaded or is an adapter.
    """
    with told(argument, name, hint):
        require_no_adapter(name)
        model, found = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, trust_remote_code=False, output_loading_info=True, **options
        )
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"{len(missing)} of its weights are missing, {missing[0]} for one")
    return model


def require_no_adapter(name: str) -> None:
    """Raises ValueError where a folder or Hub id that should be a whole model holds an adapter."""
    if find_adapter_config_file(name):
        raise ValueError("it is an adapter and no base: name the model that it was trained from")


def merge_into_base(
    name: str, argument: str, tokenizer: PreTrainedTokenizerBase, base: str, dtype: torch.dtype
) -> PreTrainedModel:
    """An adapter merged into the base `base`; ends with one line where that is not the one it was trained on."""
    from peft import PeftModel  # three seconds, which a merged model does not need

    misfit = f"{argument} {name} was not trained on --base_model_name_or_path {base}"
    model = load_weights(base, "--base_model_name_or_path", dtype=dtype)
    with told("--base_model_name_or_path", base):
        run = cached_file(name, "run.json", _raise_exceptions_for_missing_entries=False)
        expected = read_run(Path(run).parent).get("base", {}).get("fingerprint") if run else None
        if expected and fingerprint(base, None) not in (None, expected):
            sys.exit(f"{misfit}: its weights differ")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    try:
        return PeftModel.from_pretrained(model, name).merge_and_unload()
    except (ValueError, RuntimeError, IndexError) as error:
        sys.exit(f"{misfit}: {first_line(error) if 'size mismatch' not in str(error) else 'their sizes differ'}")
    except Exception as error:  # damaged weights
        sys.exit(f"{argument} {name}: {explain_failure(error)}")


def require_trained(tokenizer: PreTrainedTokenizerBase, name: str, argument: str) -> None:
    """Ends with one line where a model was not trained to end its drafts with the end tag."""
    if tokenizer.eos_token != END_TAG or not tokenizer.chat_template:
        sys.exit(f"{argument} {name} was not made by train_sft.py and merge_and_push.py: its drafts would not end")


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it: GPUs from Ampere on and processors that say so; else float32."""
    if device.type == "cuda":  # `is_bf16_supported()` is true where it is only emulated
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and bool({"avx512_bf16", "amx_bf16"} & find_instructions())
    return torch.bfloat16 if fast else torch.float32


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """A dtype by its name, or the fastest one for "auto"."""
    return fastest_dtype(device) if name == "auto" else getattr(torch, name)


def find_instructions() -> set[str]:
    """The names of the processor's instruction sets, as torch has them."""
    return {name for name, present in torch.cpu.get_capabilities().items() if present is True}


def list_stops(model: PreTrainedModel) -> list[int]:
    """The token ids that end a text by the model's own generation defaults; none, one or several there."""
    stops = model.generation_config.eos_token_id
    if stops is None:
        return []
    return stops if isinstance(stops, list) else [stops]


def find_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The token ids that end a draft: an adapter opened with plain PEFT has its base's, which lack the end tag."""
    return {tokenizer.eos_token_id, *list_stops(model)} - {None}


def context_length(model: PreTrainedModel) -> int:
    """How many tokens the model can read, prompt and draft together."""
    return model.config.get_text_config().max_position_embeddings


def fingerprint(name: str, revision: str | None) -> str | None:
    """
    One SHA-256 over a base's tensors, whatever files they are split into; None where they are not in safetensors.

    Training records it, and merging refuses a base that has another.
    """
    folder = Path(cached_file(name, "config.json", revision=revision)).parent
    shards = [safe_open(path, framework="pt") for path in sorted(folder.glob("model*.safetensors"))]
    tensors = {key: shard for shard in shards for key in shard.keys()}  # noqa: SIM118 (a shard is no dict)
    digest = hashlib.sha256()
    for key in sorted(tensors):
        update_digest(digest, key, tensors[key].get_tensor(key))
    return digest.hexdigest() if tensors else None


def weights_digest(model: PreTrainedModel) -> str:
    """What makes a loaded model's drafts its own: its weights, to the bit; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        update_digest(digest, name, tensor.cpu().contiguous())
    return digest.hexdigest()[:16]


def update_digest(digest, name: str, tensor: torch.Tensor) -> None:
    """Adds a tensor by name, type, shape and bytes."""
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy())
