"""Tiny bases of the kinds that people take today, with what sets their tokenizers and matrices apart."""

import json
from pathlib import Path

import torch
from conftest import WORDS, make_base
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

CHAT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_smollm2(folder: Path) -> Path:
    """As SmolLM2: tied matrices, a beginning token that begins no text, and padding equal to the end token."""
    names = {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "pad_token": "<|im_end|>"}
    return make_chat_base(folder, "llama", names, {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})


def make_qwen3(folder: Path) -> Path:
    """As Qwen3: tied matrices with rows that no token has, heads wider than the model, and no beginning token."""
    names, settings = {"pad_token": "<|endoftext|>"}, {"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0}
    return make_chat_base(folder, "qwen3", names, settings, vocabulary_padding=20, head_dim=16)


def make_chat_base(
    folder: Path, model_type: str, names: dict, settings: dict, vocabulary_padding: int = 0, **sizes: int
) -> Path:
    """A tied base whose tokenizer has the chat format's tokens, begins no text with any, and has its own template."""
    make_base(folder, model_type, tied=True, vocabulary_padding=vocabulary_padding, **sizes)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = tokenizer.to_str().replace("<unk>", "<|endoftext|>").replace("</s>", "<|im_end|>")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text.replace("<s>", "<|im_start|>")), eos_token="<|im_end|>", **names
    )
    fast._tokenizer.post_processor = None
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    GenerationConfig(**settings).save_pretrained(folder)
    return folder


def make_tinyllama(folder: Path) -> Path:
    """As TinyLlama: its tokenizer joins pieces in the order of its merges, `▁` for a space, bytes for what is left."""
    make_base(folder)
    space = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    letters = [chr(number) for number in range(33, 127)]
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256)), *trained["vocab"]]
    merges = [tuple(merge) for merge in trained["merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = space
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, vocab_size=len(tokens))
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


BASES = {"smollm2": make_smollm2, "qwen3": make_qwen3}
