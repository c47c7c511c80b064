"""What a training step needs in memory, from sizes alone; and what a run would do, shown before it is begun."""

import numpy as np
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig, SFTConfig

from approach.embeddings import HEAD_TOKENS
from approach.training.patches import HEAD_COLUMNS


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
        # Autocast keeps a copy of each trained weight for as long as a step; frozen ones it casts anew.
        "copies of what is trained, in 16 bits": trainable * 2 * (size < weight_bytes),
        "copy of the output matrix, in 16 bits": rows * width * 2 * (lora and size < weight_bytes),
        "what is trained: gradients, AdamW" + (", the adapter" if lora else ""): trainable * (16 if lora else 12),
        "activations": count_activations(config, tokens, training_args) * size,
        "scores of the vocabulary": 16 * HEAD_TOKENS * rows if lora else 12 * tokens * min(HEAD_COLUMNS, rows),
    }
    return {name: value / 2**30 for name, value in parts.items()}


def count_activations(config, tokens: int, training_args: SFTConfig) -> int:
    """How many numbers the layers keep for the backward pass of a step of `tokens` positions."""
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    attention = config.num_attention_heads * (getattr(config, "head_dim", None) or width // config.num_attention_heads)
    layer = tokens * (7 * width + 7 * attention + 5 * inner)
    every = (training_args.activation_checkpointing_kwargs or {}).get("every_n_layers", 1)
    bare = -(-layers // every) if training_args.activation_checkpointing else 0  # layers that keep only their input
    whole = max(layers - bare, (bare - 1) * (every - 1) + 1)  # with the one computed again, and what is above it gone
    return bare * tokens * width + whole * layer
