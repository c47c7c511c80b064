"""The bases of today: what differs from TinyLlama, each once through training and merging."""

import json
import subprocess
import sys

import pytest
import torch
from bases import BASES
from conftest import ROOT, training_arguments
from merging_inputs import merge
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import train_sft
from approach.merging.parity import REFERENCE_PROMPTS
from approach.prompt import TAGS, make_prompt

# What another program sees of a model: the logits of a prompt by the tokenizer and the weights of the folder alone.
PROGRAM = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
inputs = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
print(json.dumps(AutoModelForCausalLM.from_pretrained(folder)(**inputs).logits[0].tolist()))
"""


class Run:
    """A base, the adapter that was trained on it, and the merged model."""

    def __init__(self, kind, dataset, folder):
        self.base, self.adapter, self.model = BASES[kind](folder / "base"), folder / "adapter", folder / "model"
        train_sft.main(*training_arguments(self.base, dataset, self.adapter))
        merge(self.adapter, self.model)


@pytest.fixture(scope="module", params=BASES)
def run(request, dataset, tmp_path_factory):
    return Run(request.param, dataset, tmp_path_factory.mktemp(request.param))


def test_the_kinds_are_what_they_stand_for(tmp_path):
    for kind, make in BASES.items():
        folder = make(tmp_path / kind)
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.tie_word_embeddings and "<|im_start|>" in tokenizer.chat_template
        assert (tokenizer.pad_token == tokenizer.eos_token) == (kind == "smollm2")
        assert (tokenizer.bos_token is None) == (kind == "qwen3") == (model.config.vocab_size > len(tokenizer) + 4)
        assert not set(tokenizer("a")["input_ids"]) & set(tokenizer.all_special_ids)


def test_another_process_reads_from_the_merged_model_what_the_adapter_says(run):
    """transformers#45127: tied matrices with new rows came apart where the model was saved and read again."""
    command = [sys.executable, "-c", PROGRAM, str(run.model), REFERENCE_PROMPTS[0]]
    read = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    tokenizer = AutoTokenizer.from_pretrained(run.adapter)
    adapter = AutoPeftModelForCausalLM.from_pretrained(run.adapter, dtype=torch.float32).eval()
    with torch.inference_mode():
        said = adapter(**tokenizer(REFERENCE_PROMPTS[0], return_tensors="pt")).logits[0, :, : len(tokenizer)]
    logits = torch.tensor(json.loads(read.stdout.splitlines()[-1]))
    assert logits.shape == said.shape and (logits - said).abs().max() <= 1e-4


def test_the_merged_model_has_one_matrix_with_trained_rows_for_the_tags(run):
    tokenizer, model = AutoTokenizer.from_pretrained(run.model), AutoModelForCausalLM.from_pretrained(run.model)
    rows = model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings and rows is model.get_output_embeddings().weight
    with safe_open(run.model / "model.safetensors", framework="pt") as tensors:
        assert "lm_head.weight" not in tensors.keys()  # noqa: SIM118 (it is no dict)
    assert len(rows) == len(tokenizer) == model.config.vocab_size, "rows that no token has are gone"
    base = AutoModelForCausalLM.from_pretrained(run.base).get_input_embeddings().weight
    words = len(tokenizer) - len(TAGS)
    assert torch.equal(rows[:words], base[:words])
    start = base[AutoTokenizer.from_pretrained(run.base).eos_token_id]  # as which `</approach>` begins
    assert not torch.allclose(rows[tokenizer.eos_token_id], start, atol=1e-4), "the end tag's row is trained"


def test_a_draft_ends_with_the_tag_and_is_padded_with_another_token(run):
    tokenizer, base = AutoTokenizer.from_pretrained(run.model), AutoTokenizer.from_pretrained(run.base)
    settings = AutoModelForCausalLM.from_pretrained(run.model).generation_config
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("</approach>", base.pad_token)
    assert settings.pad_token_id == base.pad_token_id and settings.eos_token_id[0] == tokenizer.eos_token_id
    assert {base.eos_token_id} < set(settings.eos_token_id), "what ends a text for the base stops a draft, too"


def test_our_template_takes_the_place_of_the_bases_and_begins_with_no_token(run):
    for folder in (run.adapter, run.model):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        message = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}]
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        assert text == make_prompt("How?") and "im_start" not in tokenizer.chat_template
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert ids == tokenizer(text)["input_ids"] and tokenizer.convert_ids_to_tokens(ids[0]) == "<problem>"
