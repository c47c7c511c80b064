"""
A merged model as GGUF, for llama.cpp and Ollama.

llama.cpp's own tools convert it. A file gets its name only after llama.cpp has opened it and computes what
transformers does. Ollama takes neither chat template nor decoding from a GGUF file, so it gets a `Modelfile`.
"""

import ctypes
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from approach.artifacts import GGUF_FILES
from approach.errors import UserError, explain_os_error, first_line
from approach.merging.arguments import PACKAGES
from approach.merging.parity import REFERENCE_PROMPTS, compute_logits, largest_difference
from approach.models import load_weights
from approach.prompt import (
    END_TAG,
    MAX_NEW_TOKENS,
    REPETITION_PENALTY,
    TAGS,
    encode_problem,
    load_tokenizer,
    make_prompt,
    render_chat,
)
from approach.storage import format_size, hash_file, read_json, remove_leftovers, temporary_folder, write_json

if TYPE_CHECKING:
    from llama_cpp import Llama

CONVERTER = (sys.executable, "-P", str(Path(__file__).with_name("converter.py")))  # -P: `gguf` is not this file
PARTIAL = ".gguf.partial-"
# Every client must turn these into the token ids of training; the second has what tokenizers cut in different ways.
TOKENIZER_PROBLEMS = (
    "Machine translation systems make errors that are hard to detect.",
    "Naïve k-means needs O(n²) steps: of 1,024 runs 37% don't end, e.g. for β≥0.05 (Poincaré's maps) in 3-D.",
)
# As a share of the logits' standard deviation. 16 bits moved SmolLM2-135M's logits by 0.008 of it; a matrix whose
# rows are in another order moves them by far more.
MAX_F16_SHARE = 0.05
# How far back llama.cpp looks for repeated tokens: over prompt and draft, as transformers does. Its default is 64.
PENALTY_TOKENS = 2048


class ConversionError(Exception):
    """Why a model was not converted, in one line of plain words."""


def add_gguf(folder: Path, kinds: Sequence[str]) -> None:
    """
    Adds GGUF files to a merged model's folder, one for each of `kinds` ("f16", "q8_0", "q4_k_m").

    `gguf.json` records what the checks found, and the `Modelfile` opens the smallest file in Ollama.

    Raises:
        UserError: where a file cannot be made or fails a check; then the folder stays as it was, and the message has
            the command that converts later.
    """
    try:
        load_llama_cpp()
        remove_leftovers(folder, PARTIAL)
        with temporary_folder(folder, PARTIAL) as temporary:
            checks = make_files(folder, kinds, temporary)
            move_into_place(folder, [temporary / name for name in checks], checks)
    except (ConversionError, OSError) as error:
        reason = explain_os_error(error) if isinstance(error, OSError) else first_line(error)
        later = shlex.join(["python", "merge_and_push.py", "--convert_only", str(folder), "--gguf", *kinds])
        raise UserError(
            f"Not converted: {reason}. {folder} is complete without it. To convert it later: {later}"
        ) from error
    for name, check in checks.items():
        size, changes = format_size(check["bytes"]), "{argmax_changes} of {positions}".format(**check)
        print(f"Wrote {folder / name}, {size}: {changes} most likely tokens are not those of transformers")


@cache
def load_llama_cpp() -> Callable:
    """
    Silences llama.cpp's own messages; returns the callback that takes them, which must live as long as llama.cpp.

    Raises ConversionError where llama.cpp is installed and does not run on this machine.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ConversionError(f"llama-cpp-python cannot be loaded: {first_line(error)}") from error
    silence = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silence, None)
    return silence


def make_files(folder: Path, kinds: Sequence[str], temporary: Path) -> dict[str, dict]:
    """Writes the files to `temporary` and checks them; returns each check by file name. Raises ConversionError."""
    tokenizer = load_tokenizer(str(folder), "the tokenizer of")
    model = load_weights(str(folder), "the model in", dtype=torch.float32)
    logits = compute_logits(model, tokenizer, REFERENCE_PROMPTS)
    del model  # there may be no memory for llama.cpp's beside it
    source, checks = convert(folder, temporary), {}
    for kind in dict.fromkeys(kinds):
        path = source if kind == "f16" else quantize(source, temporary / GGUF_FILES[kind], kind)
        checks[path.name] = check_file(path, kind, tokenizer, logits)
    return checks


def convert(folder: Path, temporary: Path) -> Path:
    """Writes the model in 16-bit floats, by llama.cpp's converter in its own process. Raises ConversionError."""
    metadata, path = temporary / "metadata.json", temporary / GGUF_FILES["f16"]
    write_json(
        metadata,
        {  # llama.cpp's programs draft with these by default, as transformers does with `generation_config.json`
            "general.sampling.temp": 0.0,
            "general.sampling.penalty_repeat": REPETITION_PENALTY,
            "general.sampling.penalty_last_n": PENALTY_TOKENS,
        },
    )
    options = ["--outtype", "f16", "--outfile", str(path), "--metadata", str(metadata)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    command = [*CONVERTER, str(folder), *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    if result.returncode or not path.is_file():
        lines = (result.stderr.strip() or f"it ended with status {result.returncode}").splitlines()
        raise ConversionError(f"llama.cpp's converter failed: {lines[-1]}")
    return path


def quantize(source: Path, path: Path, kind: str) -> Path:
    """Writes the 16-bit file with its matrices in fewer bits, by llama.cpp. Raises ConversionError."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    params.nthread = torch.get_num_threads()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)):
        raise ConversionError(f"llama.cpp could not quantize it to {kind}")
    return path


def check_file(path: Path, kind: str, tokenizer: PreTrainedTokenizerBase, logits: list[torch.Tensor]) -> dict:
    """
    Compares a file with the model in transformers, whose `logits` on the reference prompts are given.

    Raises:
        ConversionError: where llama.cpp cannot open the file, reads a prompt or ends a draft in another way than
            training did, or, for 16-bit floats, computes other logits.
    """
    llama = open_gguf(path)
    try:
        check_vocabulary(llama, tokenizer)
        check_prompts(llama, tokenizer)
        differences = compare_logits(llama, tokenizer, logits)
    finally:
        llama.close()  # or Windows could not rename the file
    share = differences["largest_difference"] / torch.cat(logits).std().item()
    if kind == "f16" and not share <= MAX_F16_SHARE:  # written so that NaN is refused, too
        raise ConversionError(f"in llama.cpp its logits differ by {share:.1e} of their standard deviation")
    return {"bytes": path.stat().st_size, **differences}


def open_gguf(path: Path) -> "Llama":
    """Opens a file in llama.cpp, with attention's keys and values in 32 bits. Raises ConversionError."""
    import llama_cpp

    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "logits_all": True}
    try:
        return llama_cpp.Llama(str(path), n_ctx=256, n_threads=torch.get_num_threads(), verbose=False, **exact)
    except (ValueError, RuntimeError) as error:
        raise ConversionError(f"llama.cpp cannot open it: {first_line(error)}") from error


def check_vocabulary(llama: "Llama", tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConversionError where a tag is no single control token, or the end tag does not end a draft."""
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    if llama.n_vocab() != len(tokenizer):
        raise ConversionError(f"it has {llama.n_vocab():,} tokens, the tokenizer {len(tokenizer):,}")
    for tag in TAGS:
        tag_id = tokenizer.convert_tokens_to_ids(tag)
        if llama.tokenize(tag.encode(), add_bos=False, special=True) != [tag_id]:
            raise ConversionError(f"{tag} is no single token in llama.cpp")
        if not llama_cpp.llama_vocab_get_attr(vocabulary, tag_id) & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL:
            raise ConversionError(f"{tag} is a word and no control token in llama.cpp")
    if not llama_cpp.llama_vocab_is_eog(vocabulary, tokenizer.convert_tokens_to_ids(END_TAG)):
        raise ConversionError(f"{END_TAG} does not end a draft in llama.cpp")


def check_prompts(llama: "Llama", tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConversionError where the file's chat template, or Ollama's, makes other token ids than training saw."""
    template = llama.metadata.get("tokenizer.chat_template")
    if template != tokenizer.chat_template:
        raise ConversionError("its chat template is not the tokenizer's")
    for problem in TOKENIZER_PROBLEMS:
        expected = encode_problem(tokenizer, problem)["input_ids"][0].tolist()
        chat = render_chat(tokenizer, [{"role": "user", "content": problem}])
        # llama.cpp adds the beginning token itself, and removes the one that a template wrote.
        chat = chat.removeprefix(tokenizer.bos_token or "")
        for name, text in (("chat template", chat), ("Modelfile", render_modelfile(format_modelfile(""), problem))):
            if llama.tokenize(text.encode(), add_bos=True, special=True) != expected:
                raise ConversionError(f"in llama.cpp its {name} gives other token ids than training saw")


def compare_logits(llama: "Llama", tokenizer: PreTrainedTokenizerBase, logits: list[torch.Tensor]) -> dict:
    """The largest difference to `logits` on the reference prompts, and how many most likely tokens differ."""
    ours = []
    for prompt in REFERENCE_PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        llama.reset()
        llama.eval(ids)
        ours.append(torch.from_numpy(llama.scores[: len(ids)].copy()))
    changes = sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in zip(ours, logits, strict=True))
    positions = sum(map(len, ours))
    return {
        "largest_difference": largest_difference(ours, logits),
        "argmax_changes": changes,
        "positions": positions,
    }


def move_into_place(folder: Path, paths: Sequence[Path], checks: dict[str, dict]) -> None:
    """
    Gives checked files their names in the model's folder, after their record and the Modelfile.

    The record also holds the hashes of the weights: beside other weights the files are refused.
    """
    record = read_json(folder / "gguf.json", {"files": dict, "found": dict})
    earlier = {name: check for name, check in record.get("found", {}).items() if (folder / name).is_file()}
    checks = {**earlier, **checks}
    smallest = min(checks, key=lambda name: checks[name]["bytes"])
    hashes = {path.name: hash_file(path) for path in (*paths, *folder.glob("model*.safetensors"))}
    packages = [package.partition("=")[0] for package in PACKAGES.values()]
    for path in paths:
        (folder / path.name).unlink(missing_ok=True)  # an old file beside the new record would count as damaged
    write_json(
        folder / "gguf.json",
        {
            "files": {**record.get("files", {}), **hashes},
            "found": checks,
            "versions": {package: version(package) for package in packages},
        },
    )
    (folder / "Modelfile").write_text(format_modelfile(smallest), encoding="utf-8", newline="\n")
    for path in paths:
        path.replace(folder / path.name)


def format_modelfile(file: str) -> str:
    """The text of a Modelfile for the GGUF `file` in the same folder: greedy drafts, as transformers writes them."""
    return f"""\
FROM ./{file}
TEMPLATE "{make_prompt("{{ .Prompt }}")}"
PARAMETER stop "{END_TAG}"
PARAMETER temperature 0
PARAMETER repeat_penalty {REPETITION_PENALTY}
PARAMETER repeat_last_n {PENALTY_TOKENS}
PARAMETER num_predict {MAX_NEW_TOKENS}
"""


def render_modelfile(text: str, problem: str) -> str:
    """The prompt that Ollama makes of a problem by the TEMPLATE of a Modelfile."""
    return re.search(r'^TEMPLATE "(.*)"$', text, re.MULTILINE)[1].replace("{{ .Prompt }}", problem)
