"""The one loader of every script: a base, a merged model, or an adapter on its base, checked as it is loaded."""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from approach.artifacts import MODEL_FILES, RECORDS, RUN_FIELDS, check_hashes, read_run
from approach.embeddings import resize_embeddings
from approach.errors import UserError, explain_error, explain_hub_error, first_line, user_errors
from approach.prompt import END_TAG, TAGS, load_tokenizer
from approach.storage import read_json, write_atomically

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

BASE_ARGUMENT = "--base_model_name_or_path"
FINGERPRINTS = "approach_fingerprints.json"  # in HF_HOME
MAX_FINGERPRINTS = 100  # remembered on this machine; the oldest are forgotten


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, training's record of it, and the base that it belongs to."""

    argument: str  # of the command line, that named it
    name: str  # as the user gave it: a folder or a Hub id
    folder: Path
    run: dict  # run.json
    config: "PeftConfig"
    base: str
    base_revision: str | None

    @property
    def place(self) -> str:
        """The adapter as messages name it."""
        return f"{self.argument} {self.name}"


def load_model(
    name: str,
    argument: str = "--model_name_or_path",
    *,
    revision: str | None = None,
    base: str | None = None,
    base_revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    is_base: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A model ready to draft, and its tokenizer. An adapter is merged in memory, in float32, and then cast to `dtype`.

    `revision` is the Hub revision of model and tokenizer. `base` and `base_revision` replace the base that an adapter
    names; other models ignore them.

    Raises:
        UserError: naming `argument`, where nothing can be loaded, where adapter and base do not fit, or where an
            adapter is named as a base (`is_base`).
    """
    if is_base or not is_adapter(name, argument, revision):
        tokenizer = load_tokenizer(name, argument, revision)
        return load_weights(name, argument, revision, dtype=dtype).eval().to(device), tokenizer
    model, tokenizer = load_adapter(find_adapter(name, argument, revision, base, base_revision))
    model = model.merge_and_unload(safe_merge=True)
    cast_parameters(model, dtype)
    return model.eval().to(device), tokenizer


def is_adapter(name: str, argument: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub id holds an adapter; raises UserError where it cannot be looked at."""
    with user_errors(argument, name):
        return bool(find_adapter_config_file(name, revision=revision))


def load_weights(name: str, argument: str, revision: str | None = None, hint: str = "", **options) -> PreTrainedModel:
    """
    A complete model: every weight is stored, and every stored tensor has a place in the model.

    transformers only warns where it draws missing weights at random or ignores tensors that it does not know.

    Raises:
        UserError: naming `argument` and ending with `hint`, where the model cannot be loaded or is an adapter.
    """
    with user_errors(argument, name, hint):
        check_no_adapter(name, revision)
        model, found = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, trust_remote_code=False, output_loading_info=True, **options
        )
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"{len(missing)} of its weights are missing, {missing[0]} for one")
        if unknown := sorted(found["unexpected_keys"]):
            raise ValueError(f"{len(unknown)} of its tensors have no place in a {type(model).__name__}: {unknown[0]}")
    return model


def check_no_adapter(name: str, revision: str | None = None) -> None:
    """Raises ValueError where a folder or Hub id that should hold a complete model holds an adapter."""
    if find_adapter_config_file(name, revision=revision):
        raise ValueError("it is an adapter and no base: merge it first (merge_and_push.py), and name the merged model")


def find_adapter(
    name: str,
    argument: str,
    revision: str | None = None,
    base: str | None = None,
    base_revision: str | None = None,
) -> Adapter:
    """
    Finds an adapter, fetched from the Hub if need be, and its base: the one that the user names, or training's.

    Of a base on the Hub it takes the commit that training saw, not the newest one.

    Raises:
        UserError: where there is no adapter, or it names no base.
    """
    from peft import PeftConfig  # three seconds, which a merged model does not need

    folder = find_adapter_folder(name, argument, revision)
    run = read_run(folder)
    with user_errors(argument, name):
        config = PeftConfig.from_pretrained(folder)
        if not config.peft_type:
            raise ValueError("its adapter_config.json does not say what kind of adapter it is")
        if base is None and not isinstance(config.base_model_name_or_path, str):
            raise ValueError(f"it names no base: add {BASE_ARGUMENT}")
    if base is None:
        base = config.base_model_name_or_path
        base_revision = base_revision or run.get("base", {}).get("revision") or config.revision
    return Adapter(argument, name, folder, run, config, base, base_revision)


def find_adapter_folder(name: str, argument: str, revision: str | None = None) -> Path:
    """The adapter's folder, fetched from the Hub if need be; raises UserError where it holds none."""
    folder = Path(name)
    if not folder.is_dir():
        try:
            patterns = [*MODEL_FILES, *RECORDS]
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*", "model*"])
            )
        except (OSError, HTTPError, ValueError) as error:
            problem = f"neither a folder nor a repository on the Hub: {explain_hub_error(error)}"
            raise UserError(f"{argument} {name}: {problem}") from error
    if not (folder / "adapter_config.json").is_file():
        if (folder / "config.json").is_file():
            raise UserError(f"{argument} {name} is already a complete model: publish it with --push_only {name}")
        raise UserError(f"{argument} {name} is no adapter of train_sft.py: it has no adapter_config.json")
    return folder


def load_adapter(adapter: Adapter) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
    """
    An adapter on its base in float32, and its tokenizer.

    Raises:
        UserError: where the adapter is not as training wrote it, or the base is not the one it was trained on.
    """
    from peft import PeftModel, get_peft_model_state_dict

    tokenizer = load_tokenizer(str(adapter.folder), adapter.argument)
    if missing := [tag for tag in TAGS if tag not in tokenizer.get_vocab()]:
        raise UserError(f"{adapter.place}: its tokenizer lacks {', '.join(missing)}")
    saved = check_adapter_weights(adapter.folder)
    model = load_adapter_base(adapter)
    misfit = f"{adapter.place} does not fit base {adapter.base}"
    check_rows_are_trained(model.get_input_embeddings().weight.shape[0], len(tokenizer), adapter.config, misfit)
    resize_embeddings(model, tokenizer)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
            model = PeftModel.from_pretrained(model, adapter.folder).eval()
    except (ValueError, RuntimeError, IndexError) as error:
        reason = first_line(error) if "size mismatch" not in str(error) else "their sizes differ"
        raise UserError(f"{misfit}: {reason}") from error
    except Exception as error:  # of a damaged configuration
        raise UserError(f"{adapter.place}: {explain_error(error)}") from error
    # PEFT loads only the part that fits, such as the first layers of a deeper model's adapter.
    if unmatched := saved ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        raise UserError(f"{misfit}: {len(unmatched)} of its tensors have no counterpart, {min(unmatched)} for one")
    return model, tokenizer


def check_adapter_weights(folder: Path) -> set[str]:
    """The names of the adapter's tensors; raises UserError where they are not as training wrote them."""
    path = folder / "adapter_model.safetensors"
    try:
        check_hashes(folder, "run.json")
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
            for name in sorted(names):
                if not tensors.get_tensor(name).isfinite().all():
                    raise UserError(f"{path}: {name} holds a value that is not a number")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    return names


def load_adapter_base(adapter: Adapter) -> PreTrainedModel:
    """The base in float32; raises UserError where it is quantised, or not the one that training saw."""
    hint = f" (name another with {BASE_ARGUMENT})"
    with user_errors("base", adapter.base, hint):
        check_no_adapter(adapter.base, adapter.base_revision)
        config = AutoConfig.from_pretrained(adapter.base, revision=adapter.base_revision, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise UserError(f"base {adapter.base} is quantised: name the unquantised one with {BASE_ARGUMENT}")
    model = load_weights(adapter.base, "base", adapter.base_revision, hint, dtype=torch.float32)
    recorded = adapter.run.get("base", {})
    with user_errors("base", adapter.base, hint):  # once the weights are there, fetched or not
        found = compute_fingerprint(adapter.base, adapter.base_revision)
    if recorded.get("fingerprint") and found not in (None, recorded["fingerprint"]):
        trained_on = " ".join(filter(None, (recorded.get("name"), recorded.get("revision"))))
        raise UserError(
            f"base {adapter.base} is not the one that {adapter.place} was trained on, {trained_on}: its weights differ"
        )
    return model


def check_rows_are_trained(base_rows: int, tokens: int, config: "PeftConfig", misfit: str) -> None:
    """
    Raises UserError where neither the base nor the adapter has a row for a token.

    Otherwise its row would be drawn at random and merged as if it had been trained.
    """
    indices = config.trainable_token_indices or {}
    for trained in indices.values() if isinstance(indices, dict) else [indices]:
        if untrained := set(range(base_rows, tokens)) - set(trained):
            problem = f"it has {base_rows:,} tokens, and token {min(untrained):,} of {tokens:,} is untrained"
            raise UserError(f"{misfit}: {problem}")


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Casts the parameters but not the buffers: transformers keeps the rotary frequencies in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def fetch_run(name: str, argument: str, revision: str | None = None) -> dict:
    """The `run.json` of a model or adapter, in its folder or on the Hub; empty where it has none."""
    with user_errors(argument, name):
        path = cached_file(name, "run.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        return read_json(Path(path), RUN_FIELDS) if path else {}


def check_trained(tokenizer: PreTrainedTokenizerBase, name: str, argument: str) -> None:
    """Raises UserError where a model was not trained to end its drafts with the end tag."""
    if tokenizer.eos_token != END_TAG or not tokenizer.chat_template:
        problem = "was not made by train_sft.py and merge_and_push.py: its drafts would not end"
        raise UserError(f"{argument} {name} {problem}")


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it: GPUs from Ampere on and processors that say so; else float32."""
    if device.type == "cuda":  # `is_bf16_supported()` is true where it is only emulated
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        instructions = {name for name, present in torch.cpu.get_capabilities().items() if present is True}
        fast = device.type == "cpu" and bool({"avx512_bf16", "amx_bf16"} & instructions)
    return torch.bfloat16 if fast else torch.float32


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """A dtype by its name, or the fastest one for "auto"."""
    return fastest_dtype(device) if name == "auto" else getattr(torch, name)


def model_eos_ids(model: PreTrainedModel) -> list[int]:
    """The token ids that end a text by the model's own generation defaults: none, one or several."""
    found = model.generation_config.eos_token_id
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The token ids that end a draft: the end tag, which an adapter's base does not know, and the model's own."""
    return {tokenizer.eos_token_id, *model_eos_ids(model)} - {None}


def context_length(model: PreTrainedModel) -> int:
    """How many tokens the model can read, prompt and draft together."""
    return model.config.get_text_config().max_position_embeddings


def compute_fingerprint(name: str, revision: str | None = None) -> str | None:
    """
    One SHA-256 over a base's tensors, however they are split into files; None where they are not in safetensors.

    Training records it, and loading an adapter refuses a base that has another. Hashes are remembered by the files'
    paths, sizes and times, so that a start does not read gigabytes twice.
    """
    folder = Path(cached_file(name, "config.json", revision=revision)).parent
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        return None
    key = json.dumps([[os.path.realpath(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths])
    remembered = read_fingerprints()
    if key not in remembered:
        remembered[key] = hash_tensors(paths)
        newest = dict(list(remembered.items())[-MAX_FINGERPRINTS:])
        with suppress(OSError):  # without a writable HF_HOME the next start reads the files again
            fingerprints_path().parent.mkdir(parents=True, exist_ok=True)
            write_atomically(fingerprints_path(), json.dumps(newest, indent=1) + "\n")
    return remembered[key]


def fingerprints_path() -> Path:
    """Where fingerprints are remembered on this machine."""
    return Path(constants.HF_HOME) / FINGERPRINTS


def read_fingerprints() -> dict[str, str]:
    """The fingerprints remembered so far; none where the file is damaged or missing."""
    try:
        found = json.loads(fingerprints_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def hash_tensors(paths: Sequence[Path]) -> str:
    """The SHA-256 over all tensors of these files, by name, type, shape and bytes."""
    shards = [safe_open(path, framework="pt") for path in paths]
    tensors = {key: shard for shard in shards for key in shard.keys()}  # noqa: SIM118 (a shard is no dict)
    digest = hashlib.sha256()
    for key in sorted(tensors):
        update_digest(digest, key, tensors[key].get_tensor(key))
    return digest.hexdigest()


def hash_weights(model: PreTrainedModel) -> str:
    """16 hexadecimal digits of the SHA-256 over a loaded model's weights: drafts on disk belong to one model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        update_digest(digest, name, tensor.cpu().contiguous())
    return digest.hexdigest()[:16]


def update_digest(digest, name: str, tensor: torch.Tensor) -> None:
    """Adds a tensor by name, type, shape and bytes."""
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy())
