"""Settings of torch and the libraries over it, made before they are imported; and how a CPU reads single tokens."""

import functools
import logging
import os
import types
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How often GNU's OpenMP runtime, which torch's Linux wheels bring, looks for new work before a thread sleeps. Against
# spinning on (300,000, its default) this gave 0.91 to 0.97 of the speed on two quiet cores and 2.4 to 9 times the
# speed beside another busy process; against sleeping at once, 1.3 to 1.6 times and 0.5 to 0.7 (benchmarks/waiting.py).
SPINS = "10000"
# How many prepared operations oneDNN, and torch's layer over it, keep. They would keep 1,024, one for every length of
# a row and layer, so that a training in bfloat16 takes more memory at every step (pytorch#98688).
KEPT_OPERATIONS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
MAX_SINGLE_ROWS = 2  # of a model that writes one draft at a time: a guided draft has two


def set_up_torch() -> None:
    """
    Lets threads spin briefly and then sleep, so that they leave the cores to others, and keeps memory flat.

    Call it before torch is imported. What the user has set in the environment stays. Other OpenMP runtimes ignore the
    first setting.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    for name, number in KEPT_OPERATIONS.items():
        os.environ.setdefault(name, number)


def hide_library_notices() -> None:
    """
    Hides three notices of pinned libraries that no user of ours can act on; call it before they are imported.

    - bitsandbytes 0.50, which PEFT imports wherever it is installed, warns on CPUs with AVX-512 BF16 that a kernel for
      4-bit bases cannot be loaded, whatever the base.
    - transformers 5.23 warns of two names that trl 1.16 and peft 0.21 still use, whatever the recipe says.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
        lambda record: "Failed to load CPU gemm_4bit_forward" not in record.getMessage()
    )
    for name in ("gradient_checkpointing", "is_gradient_checkpointing"):
        warnings.filterwarnings("ignore", f"`{name}` is deprecated", FutureWarning)


def silence_loading() -> None:
    """
    Hides transformers' progress bars and warnings while models load.

    PEFT warns that new rows are random before it loads the trained ones.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def bypass_onednn_for_single_tokens(model: "PreTrainedModel") -> None:
    """
    Lets a bfloat16 model on a CPU do without oneDNN in a pass that reads one token of one row or two.

    torch 2.13's own product of a matrix and a vector (pytorch/pytorch#139220) makes one draft at a time 1.75 times as
    fast (benchmarks/README.md, "What the engine keeps"); oneDNN#5297 may make this unnecessary. For a prompt it is far
    slower, and so it is for GPT-2's weights, which lie the other way round. The setting is the whole process's: use
    this only where no other model drafts, or the order of the threads would decide the last digits of both.
    """
    import torch  # not before `set_up_torch`
    from transformers.pytorch_utils import Conv1D

    has_conv1d = any(isinstance(module, Conv1D) for module in model.modules())
    if (model.device.type, model.dtype) != ("cpu", torch.bfloat16) or has_conv1d:
        return

    @functools.wraps(type(model).forward)  # transformers reads the names of its arguments
    def forward(self: "PreTrainedModel", *inputs: Any, **named_inputs: Any) -> Any:
        ids = inputs[0] if inputs else named_inputs.get("input_ids")
        is_single = ids is not None and ids.shape[1] == 1 and len(ids) <= MAX_SINGLE_ROWS
        was_enabled = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = was_enabled and not is_single
        try:
            return type(self).forward(self, *inputs, **named_inputs)
        finally:
            torch.backends.mkldnn.enabled = was_enabled

    model.forward = types.MethodType(forward, model)  # bound, so that a deep copy gets its own
