"""An adapter: found, checked against its record, and loaded on the base that it was trained on, in FP32."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from approach.files import check_hashes, first_line, read_run
from approach.hub import MODEL_FILES, RECORDS, explain, list_files
from approach.loading import explain_failure, told
from approach.merging.publication import require_no_links
from approach.models import fingerprint, load_weights
from approach.prompt import TAGS


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, and what training wrote about it."""

    name: str  # as the user gave it: a folder or a Hub id
    folder: Path
    run: dict  # run.json
    config: PeftConfig


@dataclass(frozen=True)
class Base:
    """Where the base is, and its commit where that is known."""

    name: str
    revision: str | None


def find_adapter(name: str) -> Adapter:
    """An adapter, fetched from the Hub if need be; ends with one line where there is none."""
    folder = find_adapter_folder(name)
    require_no_links("--adapter_path", folder, list_files(folder, RECORDS))  # copied into the model, and published
    run = read_run(folder)
    with told("--adapter_path", name):
        config = PeftConfig.from_pretrained(folder)
        if not config.peft_type:
            raise ValueError("its adapter_config.json does not say what kind of adapter it is")
    return Adapter(name, folder, run, config)


def find_adapter_folder(name: str) -> Path:
    """The adapter's folder, fetched from the Hub if need be; ends with one line if it holds none."""
    folder = Path(name)
    if not folder.is_dir():
        try:
            patterns = [*MODEL_FILES, *RECORDS]
            folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*", "model*"]))
        except (OSError, HTTPError, ValueError) as error:
            sys.exit(f"--adapter_path {name}: neither a folder nor a repository on the Hub: {explain(error)}")
    if not (folder / "adapter_config.json").is_file():
        if (folder / "config.json").is_file():
            sys.exit(f"--adapter_path {name} is already a whole model: publish it with --push_only {name}")
        sys.exit(f"--adapter_path {name} is no adapter of train_sft.py: it has no adapter_config.json")
    return folder


def find_base(adapter: Adapter, name: str | None) -> Base:
    """
    The base that the user names, or else that of training: the commit it saw, not what "main" is by now.

    Ends with one line where neither names one.
    """
    if name:
        return Base(name, None)
    if not isinstance(adapter.config.base_model_name_or_path, str):
        sys.exit(f"--adapter_path {adapter.name} names no base: add --base_model_name_or_path")
    recorded = adapter.run.get("base", {}).get("revision")
    return Base(adapter.config.base_model_name_or_path, recorded or adapter.config.revision)


def load_adapter_on_base(adapter: Adapter, base: Base) -> tuple[PreTrainedTokenizerBase, PeftModel]:
    """The tokenizer, and the adapter on its FP32 base; ends with one line if they do not belong together."""
    tokenizer = load_tokenizer(adapter)
    saved = check_weights(adapter.folder)
    model = load_base(base, adapter.run)
    misfit = f"--adapter_path {adapter.name} does not fit base {base.name}"
    require_trained_rows(model.get_input_embeddings().weight.shape[0], len(tokenizer), adapter.config, misfit)
    # Down as well as up: a base padded beyond its tokenizer would leave the checkpoint with rows that no token has.
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
            model = PeftModel.from_pretrained(model, adapter.folder).eval()
    except (ValueError, RuntimeError, IndexError) as error:
        reason = first_line(error) if "size mismatch" not in str(error) else "their sizes differ"
        sys.exit(f"{misfit}: {reason}")
    except Exception as error:  # of a damaged configuration
        sys.exit(f"--adapter_path {adapter.name}: {explain_failure(error)}")
    # PEFT loads what fits: of a deeper or shallower model's adapter that is a part.
    if odd := saved ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        sys.exit(f"{misfit}: {len(odd)} of its tensors have no counterpart, {min(odd)} for one")
    return tokenizer, model


def load_tokenizer(adapter: Adapter) -> PreTrainedTokenizerBase:
    """The adapter's tokenizer; ends with one line if it has not the four tags."""
    with told("--adapter_path", adapter.name):
        tokenizer = AutoTokenizer.from_pretrained(adapter.folder, trust_remote_code=False)
    if missing := [tag for tag in TAGS if tag not in tokenizer.get_vocab()]:
        sys.exit(f"--adapter_path {adapter.name}: its tokenizer lacks {', '.join(missing)}")
    return tokenizer


def check_weights(folder: Path) -> set[str]:
    """The names of the adapter's tensors; ends with one line if they are not as training wrote them."""
    path = folder / "adapter_model.safetensors"
    try:
        check_hashes(folder, "run.json")
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
            for name in sorted(names):
                if not tensors.get_tensor(name).isfinite().all():
                    sys.exit(f"{path}: {name} holds a value that is not a number")
    except (OSError, SafetensorError) as error:
        sys.exit(f"{path} cannot be read: {first_line(error)}")
    return names


def load_base(base: Base, run: dict) -> PreTrainedModel:
    """The base in FP32; ends with one line if it is quantised, or not the one that training saw."""
    hint = " (name another with --base_model_name_or_path)"
    with told("base", base.name, hint):
        config = AutoConfig.from_pretrained(base.name, revision=base.revision, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            sys.exit(f"base {base.name} is quantised: name the unquantised one with --base_model_name_or_path")
    model = load_weights(base.name, "base", base.revision, hint, dtype=torch.float32)
    expected = run.get("base", {}).get("fingerprint")  # compared once the weights are there, fetched or not
    with told("base", base.name, hint):
        found = fingerprint(base.name, base.revision)
    if expected and found not in (None, expected):
        trained_on = " ".join(filter(None, (run["base"].get("name"), run["base"].get("revision"))))
        sys.exit(f"base {base.name} is not the one that the adapter was trained on, {trained_on}: its weights differ")
    return model


def require_trained_rows(base_rows: int, tokens: int, config: PeftConfig, misfit: str) -> None:
    """
    Ends with one line where a token has a row neither in the base nor in the adapter.

    Its row would be drawn at random, and merged as if it had been trained.
    """
    indices = config.trainable_token_indices or {}
    for trained in indices.values() if isinstance(indices, dict) else [indices]:
        if untrained := set(range(base_rows, tokens)) - set(trained):
            sys.exit(f"{misfit}: it has {base_rows:,} tokens, and token {min(untrained):,} of {tokens:,} is untrained")
