import sys

import torch
from safetensors.torch import load_file


def launch_command(base, dataset, output_dir, *overrides) -> list[str]:
    """A run of forty steps with dropout and a checkpoint every ten, as a user starts it."""
    return [
        *(sys.executable, "train_sft.py", "--config", "recipes/small_base_lora_fp32.yaml", "--use_cpu", "true"),
        *("--model_name_or_path", str(base), "--dataset_name", str(dataset), "--output_dir", str(output_dir)),
        *("--max_steps", "40", "--max_length", "192", "--save_steps", "10", "--eval_strategy", "no"),
        *("--eval_on_start", "false", "--per_device_train_batch_size", "2", *map(str, overrides)),
    ]


def weights(folder) -> dict:
    return load_file(folder / "adapter_model.safetensors")


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
