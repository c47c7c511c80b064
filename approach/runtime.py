"""Settings to make before torch and the libraries over it are imported: one choice for every script."""

import logging
import os
import warnings

# How often GNU's OpenMP runtime, which torch's Linux wheels bring, looks for new work before a thread sleeps. Against
# spinning on (300,000, its default) this gave 0.91 to 0.97 of the speed on two quiet cores and 2.4 to 9 times the
# speed beside another busy process; against sleeping at once, 1.3 to 1.6 times and 0.5 to 0.7 (benchmarks/waiting.py).
SPINS = "10000"
# How many prepared operations oneDNN, and torch's layer over it, keep. They would keep 1,024, one for every length of
# a row and layer, so that a training in bfloat16 takes more memory at every step (pytorch#98688).
KEPT_OPERATIONS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


def set_up_torch() -> None:
    """
    Lets threads spin briefly and then sleep, so that they leave the cores to others, and keeps memory flat.

    To be called before torch is imported. What the user has set in the environment stands. Other OpenMP runtimes
    ignore the first setting.
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
