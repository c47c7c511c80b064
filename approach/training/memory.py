"""The machine: whether it can run what was asked for, and what a step needs in memory, shown before it begins."""

import os
import shutil
import sys

import numpy as np
import torch
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig, SFTConfig

from approach.embeddings import HEAD_TOKENS
from approach.errors import UserError
from approach.models import fastest_dtype
from approach.training.patches import HEAD_COLUMNS

CUDA_CONTEXT_BYTES = 2**29
# Matrix products of 1,024 x 576 by 576 x 1,536 on an EPYC of the third generation: 1.1 GFLOP/s, 99 in float32.
EMULATED_BFLOAT16 = (
    "Warning: this processor has no bfloat16 arithmetic. It is emulated, at about a hundredth of float32's speed: "
    "add --bf16 false."
)


def check_machine(training_args: SFTConfig) -> None:
    """
    Checks the device and the precision, and warns of a precision that the processor emulates slowly.

    Raises:
        UserError: where the run would silently use the CPU beside a GPU, or the GPU lacks the precision asked for.
    """
    on_cpu = training_args.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if training_args.device.type == "cpu" and not on_cpu and training_args.world_size == 1:
        # `accelerate launch` exports OMP_NUM_THREADS=1 unless its file says use_cpu: half the speed on two cores.
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    if on_cpu:
        if training_args.bf16 and fastest_dtype(torch.device("cpu")) != torch.bfloat16:
            print(EMULATED_BFLOAT16, file=sys.stderr)
        return
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        raise UserError(
            f"This machine has an NVIDIA card, but torch {torch.__version__} is a build for the CPU. Install the CUDA "
            "build (README, Windows), or add --use_cpu true to train on the CPU all the same."
        )
    if torch.cuda.is_available():
        limit_memory_to_the_card()
        check_precision(training_args.bf16, training_args.fp16)


def limit_memory_to_the_card() -> None:
    """Lets torch fail where the card is full: Windows would use system memory, at a thirtieth of the speed."""
    memory = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1 - CUDA_CONTEXT_BYTES / memory)


def check_precision(bf16: bool, fp16: bool) -> None:
    """Raises UserError where the card cannot compute in 16 bits as asked."""
    name = torch.cuda.get_device_name()
    # torch.cuda.is_bf16_supported() is no help: it is true where bfloat16 is only emulated.
    if bf16 and torch.cuda.get_device_capability() < (8, 0):
        raise UserError(f"{name} has no bfloat16 arithmetic: set bf16: false in the recipe.")
    if fp16 and "GTX 16" in name:
        raise UserError(f"{name} gives NaN in FP16 (pytorch#77955): set fp16: false in the recipe.")


def print_preflight(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    lora: PeftConfig | None,
    training_args: SFTConfig,
    model_args: ModelConfig,
) -> None:
    """Prints one row as the model sees it, how long rows are, what is trained, and the memory that it will take."""
    ids, labels = rows[0]["input_ids"], rows[0]["labels"]
    start = sum(label == -100 for label in labels)
    print(f"\nRead, not trained on:\n  {tokenizer.decode(ids[:start])}")
    print(f"Trained on:\n  {tokenizer.decode(ids[start:])}\n")
    shares = " ".join(f"p{q} {np.percentile(rows['length'], q):.0f}" for q in (5, 50, 95, 100))
    print(f"tokens a row: mean {np.mean(rows['length']):.0f} {shares} (max_length {training_args.max_length})")
    trainable = total = model.num_parameters()
    if lora:
        trainable, total = get_peft_model(model, lora).get_nb_trainable_parameters()
    print(f"trained: {trainable:,} of {total:,} parameters ({trainable / total:.2%})")
    parts = estimate_memory(model, trainable, training_args, model_args)
    for name, gib in parts.items():
        print(f"{gib:8.2f} GiB  {name}")
    print(f"{sum(parts.values()):8.2f} GiB  at the peak, estimated; on a GPU the CUDA context needs about 0.5 more")


def estimate_memory(
    model: PreTrainedModel, trainable: int, training_args: SFTConfig, model_args: ModelConfig
) -> dict[str, float]:
    """Peak memory of a training step in GiB, by part; the CUDA context comes on top."""
    config, lora = model.config.get_text_config(), model_args.use_peft
    tokens = training_args.per_device_train_batch_size * training_args.max_length
    width, weight_bytes = config.hidden_size, model.dtype.itemsize
    size = weight_bytes if not (training_args.bf16 or training_args.fp16) else 2  # bytes of an activation
    rows = model.get_input_embeddings().weight.shape[0]
    matrices = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    inside = sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in matrices)
    bytes_inside = 0.56 if model_args.load_in_4bit else weight_bytes  # 4 bits and a scale for every 64 weights
    parts = {
        "weights": (model.num_parameters() - inside) * weight_bytes + inside * bytes_inside,
        # Autocast keeps a copy of each trained weight during a step, and casts frozen ones anew.
        "copies of what is trained, in 16 bits": trainable * 2 * (size < weight_bytes),
        "copy of the output matrix, in 16 bits": rows * width * 2 * (lora and size < weight_bytes),
        "what is trained: gradients, AdamW" + (", the adapter" if lora else ""): trainable * (16 if lora else 12),
        "activations": count_activations(config, tokens, training_args) * size,
        "scores of the vocabulary": 16 * HEAD_TOKENS * rows if lora else 12 * tokens * min(HEAD_COLUMNS, rows),
    }
    return {name: value / 2**30 for name, value in parts.items()}


def count_activations(config, tokens: int, training_args: SFTConfig) -> int:
    """The number of values that the layers keep for the backward pass of a step of `tokens` positions."""
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    attention = config.num_attention_heads * (getattr(config, "head_dim", None) or width // config.num_attention_heads)
    layer = tokens * (7 * width + 7 * attention + 5 * inner)
    every = (training_args.activation_checkpointing_kwargs or {}).get("every_n_layers", 1)
    # Checkpointed layers keep only their input; the others, and the one that is being recomputed, keep everything.
    checkpointed = -(-layers // every) if training_args.activation_checkpointing else 0
    complete = max(layers - checkpointed, (checkpointed - 1) * (every - 1) + 1)
    return checkpointed * tokens * width + complete * layer
