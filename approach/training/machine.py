"""The machine: what must be right before a run starts on it."""

import os
import shutil
import sys

import torch
from trl import SFTConfig

from approach.errors import UserError
from approach.models import fastest_dtype

CUDA_CONTEXT_BYTES = 2**29
# Matrix products of 1,024 x 576 by 576 x 1,536 on an EPYC of the third generation: 1.1 GFLOP/s, 99 in float32.
EMULATED = (
    "Warning: this processor has no bfloat16 arithmetic. It is emulated, at about a hundredth of float32's speed: "
    "add --bf16 false."
)


def check_machine(training_args: SFTConfig) -> None:
    """
    Raises UserError where the run would silently use the wrong device or a precision that the card lacks.

    Warns where it would crawl, in a precision that the processor lacks.
    """
    on_cpu = training_args.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if training_args.device.type == "cpu" and not on_cpu and training_args.world_size == 1:
        # `accelerate launch` exports OMP_NUM_THREADS=1 unless its file says use_cpu: half the speed on two cores.
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    if on_cpu:
        if training_args.bf16 and fastest_dtype(torch.device("cpu")) != torch.bfloat16:
            print(EMULATED, file=sys.stderr)
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
    """Lets torch fail where the card is full: Windows would go on in system memory, at a thirtieth of the speed."""
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
