"""What libraries print when they start that no user of ours can act on, kept back."""

import logging
import warnings


def hide_notices() -> None:
    """
    Keeps back three notices of pinned versions; before the libraries are imported.

    - bitsandbytes 0.50, which PEFT imports wherever it is installed, warns on CPUs with AVX-512 BF16 that a kernel for
      4-bit bases is not to be had; no other base would use it.
    - transformers 5.23 warns of names that trl 1.16 and peft 0.21 still use, whatever the recipe says.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
        lambda record: "Failed to load CPU gemm_4bit_forward" not in record.getMessage()
    )
    for name in ("gradient_checkpointing", "is_gradient_checkpointing"):
        warnings.filterwarnings("ignore", f"`{name}` is deprecated", FutureWarning)
