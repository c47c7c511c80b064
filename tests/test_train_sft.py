import inspect
import json
import math
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trl.trainer.utils
import yaml
from conftest import ROOT, assert_one_clear_line, make_base, run_script, training_arguments
from datasets import load_dataset
from hub_server import HubServer
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import add_fused_lm_head

import prepare_dataset
import train_sft
from train_sft import TAGS, add_tag_rows, add_tags, shorten, tokenize


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory):
    """As wide as a block of bitsandbytes' 4-bit weights."""
    return make_base(tmp_path_factory.mktemp("models") / "wide", hidden_size=64, intermediate_size=128)


@pytest.fixture
def tagged(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    add_tags(tokenizer)
    return tokenizer


def test_scripts_agree_on_the_tags():
    assert prepare_dataset.TAGS == TAGS


def test_labels_are_the_approach_and_its_end_tag_and_nothing_else(trained, tagged):
    """Exact, from the batches that the trainer really sees (specification, mistakes 1 and 2)."""
    batches = list(trained.trainer.get_train_dataloader())
    end, pad = tagged.convert_tokens_to_ids("</approach>"), tagged.pad_token_id
    texts = []
    for batch in batches:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            ids, labels, length = ids.tolist(), labels.tolist(), int(mask.sum())
            start = ids.index(tagged.convert_tokens_to_ids("<approach>")) + 1
            assert labels[:start] == [-100] * start
            assert labels[start:length] == ids[start:length]
            assert labels[length - 1] == end
            assert ids[length:] == [pad] * (len(ids) - length) and labels[length:] == [-100] * (len(ids) - length)
            texts.append((tagged.decode(ids[1:length]), tagged.decode(labels[start:length])))
    assert len(texts) == 16
    assert all(text.startswith("<problem>") and text.endswith(completion) for text, completion in texts)
    assert any(batch["attention_mask"].min() == 0 for batch in batches), "no padding in sight: the test proves nothing"


def test_exact_labels_of_one_row(tagged):
    prompt, completion = "<problem>We study noise.</problem><approach>", " We learn. It is fast.</approach>"
    row = tokenize({"id": ["a"], "prompt": [prompt], "completion": [completion]}, tagged, 64, "drop")
    prompt_ids = tagged(prompt)["input_ids"]
    completion_ids = tagged(completion, add_special_tokens=False)["input_ids"]
    assert prompt_ids[0] == tagged.bos_token_id and prompt_ids.count(tagged.bos_token_id) == 1
    assert row["input_ids"] == [prompt_ids + completion_ids]
    assert row["labels"] == [[-100] * len(prompt_ids) + completion_ids]
    assert tagged.convert_ids_to_tokens(completion_ids[-1]) == "</approach>"


def test_long_rows_lose_whole_sentences_never_the_end_tag(tagged):
    prompt, sentences = "<problem>p</problem><approach>", ["We learn fast.", "It is e.g. noise, as data show.", "End."]
    completion = f" {' '.join(sentences)}</approach>"
    whole = tagged(prompt + completion)["input_ids"]
    two = tagged(f"{prompt} {' '.join(sentences[:2])}</approach>")["input_ids"]
    one = tagged(f"{prompt} {sentences[0]}</approach>")["input_ids"]
    assert shorten(prompt, completion, tagged, len(whole) - 1) == two
    assert shorten(prompt, completion, tagged, len(two) - 1) == one
    assert shorten(prompt, completion, tagged, len(one) - 1) == []
    batch = {"id": ["a"], "prompt": [prompt], "completion": [completion]}
    assert tokenize(batch, tagged, len(whole), "drop")["fate"] == ["whole"]
    assert tokenize(batch, tagged, len(whole) - 1, "drop")["fate"] == ["dropped"]
    assert tokenize(batch, tagged, len(whole) - 1, "shorten")["fate"] == ["shortened"]
    assert tokenize(batch, tagged, 3, "shorten")["fate"] == ["dropped"]


@pytest.mark.parametrize("abbreviation", ["Smith et al. (2020)", "Fig. 3", "e.g. BERT", "Eq. (4)", "J. Smith"])
def test_no_abbreviation_ends_a_shortened_approach(tagged, abbreviation):
    prompt, completion = "<problem>p</problem><approach>", f" We learn. We follow {abbreviation} in this.</approach>"
    whole = tagged(prompt + completion)["input_ids"]
    assert shorten(prompt, completion, tagged, len(whole) - 1) == tagged(f"{prompt} We learn.</approach>")["input_ids"]


def test_sentences_of_a_tokenized_corpus_end_at_a_stop_set_off_by_spaces(tagged):
    prompt, completion = "<problem>p</problem><approach>", " we learn @xmath0 . it is fast .</approach>"
    expected = tagged(f"{prompt} we learn @xmath0 .</approach>")["input_ids"]
    assert shorten(prompt, completion, tagged, len(expected) + 1) == expected


def test_base_is_frozen_bit_for_bit_and_adapter_and_tag_rows_moved(trained, base):
    """Old rows of both matrices included (specification, mistake 3)."""
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    after = dict(trained.trainer.model.named_parameters())
    plain_names = {re.sub(r"base_model\.model\.|\.base_layer|\.token_adapter", "", name): name for name in after}
    for name, weight in original.items():
        assert torch.equal(after[plain_names[name]][: len(weight)], weight), name
    moved = {name for name, parameter in after.items() if parameter.requires_grad}
    for kind in ("lora_A", "lora_B", "embed_tokens.token_adapter.", "lm_head.token_adapter."):
        assert any(kind in name for name in moved), kind
    for name, parameter in after.items():
        if name not in moved:
            assert torch.equal(parameter, trained.before[name]), name
        elif "trainable_tokens_delta" in name:
            rows_moved = (parameter != trained.before[name]).any(dim=1).tolist()
            # </approach> is the last token of every row: it is predicted, and nothing is predicted from it.
            assert rows_moved == [True, True, True, "lm_head" in name], name
        else:
            assert "lora_" in name and not torch.equal(parameter, trained.before[name]), name


def test_plain_peft_opens_the_same_model_every_time(trained, tagged):
    ids = tagged("<problem>We study noise.</problem><approach>", return_tensors="pt")["input_ids"]
    trained.trainer.model.eval()
    with torch.inference_mode():
        expected = trained.trainer.model(ids).logits
        for _ in range(2):
            reopened = AutoPeftModelForCausalLM.from_pretrained(trained.adapter, dtype=torch.float32)
            assert torch.equal(reopened(ids).logits, expected)


def test_tag_rows_start_from_the_words_they_stand_for(base):
    rows = []
    for _ in range(2):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        add_tags(tokenizer)
        ids = add_tag_rows(model, tokenizer, 2, set(TAGS))
        rows.append((model.get_input_embeddings().weight[ids], model.get_output_embeddings().weight[ids]))
    embeddings = model.get_input_embeddings().weight
    word = tokenizer("problem", add_special_tokens=False)["input_ids"]
    assert torch.equal(embeddings[ids[0]], embeddings[word].mean(dim=0))
    assert torch.equal(rows[0][1][3], model.get_output_embeddings().weight[2])
    assert all(torch.equal(first, second) for first, second in zip(*rows, strict=True))


def test_a_base_that_has_the_rows_is_not_resized(tmp_path):
    base = make_base(tmp_path / "padded", vocabulary_padding=64)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    rows = model.get_input_embeddings().weight.shape[0]
    for _ in range(2):
        add_tags(tokenizer)
        ids = add_tag_rows(model, tokenizer, 2, set(TAGS))
        assert model.get_input_embeddings().weight.shape[0] == rows
    assert len(set(ids)) == 4 and len(tokenizer) == max(ids) + 1


def test_rows_of_tags_that_the_base_knows_are_kept(merged):
    """Training goes on from a merged model with the rows that it has learned."""
    known = AutoModelForCausalLM.from_pretrained(merged).get_input_embeddings().weight
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    new_tags = set(TAGS) - tokenizer.get_vocab().keys()
    add_tags(tokenizer)
    ids = add_tag_rows(model, tokenizer, tokenizer.eos_token_id, new_tags)
    assert not new_tags and torch.equal(model.get_input_embeddings().weight[ids], known[ids])


def test_peft_wrapper_without_bias_breaks_trls_fused_head(base):
    """Seen on trl 1.16.0 with peft 0.21.2; when this fails, `build_trainer` may drop its `register_parameter`."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [5]}, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    add_fused_lm_head(model.get_base_model())
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(AttributeError, match="bias"):
        model(ids, labels=ids, fused_lm_head=True)
    model.get_output_embeddings().register_parameter("bias", None)
    fused = model(ids, labels=ids, fused_lm_head=True).loss
    plain = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
    assert torch.allclose(fused, plain, atol=1e-6)


def render(tokenizer, *messages, **arguments) -> list[int]:
    turns = [{"role": role, "content": content} for role, content in messages]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, **arguments)


def test_scoring_the_tags_rows_apart_changes_neither_loss_nor_gradients(trained, monkeypatch):
    """`TagRowScores`, 7 labels at a time, the last time fewer, against the plain forward pass and cross-entropy."""
    monkeypatch.setattr(train_sft, "HEAD_TOKENS", 7)
    trainer, model = trained.trainer, trained.trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    parameters = [p for p in model.parameters() if p.requires_grad]
    calls = []
    apply = train_sft.TagRowScores.apply
    monkeypatch.setattr(train_sft.TagRowScores, "apply", lambda *inputs: calls.append(inputs) or apply(*inputs))
    tiled = trainer.compute_loss(model, dict(batch))
    assert len(calls) == 1 and len(calls[0][0]) == int((batch["labels"] != -100).sum()) > 21
    with torch.no_grad():
        trainer.compute_loss(model, dict(batch))
    assert not any(value.requires_grad for value in calls[1][:3]), "an evaluation computes no gradients"
    fused = model(**batch, fused_lm_head=True)
    del model.get_input_embeddings().forward  # PEFT's own look-up, and its own head
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    train_sft.embed_tag_rows_apart(model)
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )
    assert abs(tiled.item() - plain.item()) < 1e-5
    labelled, shares = batch["labels"][:, 1:] != -100, logits.log_softmax(-1)
    assert torch.equal(fused.is_top1, (logits.argmax(-1) == batch["labels"][:, 1:]) & labelled)
    entropy = -(shares.exp() * shares).sum(-1) * labelled
    assert torch.allclose(fused.entropy, entropy, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(tiled, parameters), torch.autograd.grad(plain, parameters), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=0) and theirs.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_tag_rows_are_those_of_the_whole_matrix(dtype):
    """Against autograd on the matrix with the rows in it; in bfloat16 to its precision; also of no label."""
    torch.manual_seed(0)
    hidden, weight, rows = torch.randn(9, 16).to(dtype), torch.randn(40, 16).to(dtype), torch.randn(2, 16).to(dtype)
    labels, tag_ids, gradient = torch.randint(0, 40, (9,)), [38, 5], torch.randn(9)
    labels[0] = 38
    hidden.requires_grad_(), rows.requires_grad_()
    ours = train_sft.TagRowScores.apply(hidden, weight, rows, tag_ids, labels)[0]
    whole = weight.index_copy(0, torch.tensor(tag_ids), rows)
    plain = (hidden @ whole.T).float().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
    limit = {"atol": 1e-5 if dtype == torch.float32 else 0.05, "rtol": 0 if dtype == torch.float32 else 0.02}
    assert torch.allclose(ours, plain, **limit)
    found, expected = (torch.autograd.grad(value, (hidden, rows), gradient) for value in (ours, plain))
    assert all(torch.allclose(a.float(), b.float(), **limit) for a, b in zip(found, expected, strict=True))
    none = train_sft.TagRowScores.apply(hidden[:0], weight, rows, tag_ids, labels[:0])[0]
    assert none.shape == (0,) and not torch.autograd.grad(none.sum(), rows)[0].any()


def test_trls_own_head_in_tiles_changes_neither_loss_nor_gradients(base, monkeypatch):
    """It still scores where all weights are trained: in tiles of 64 columns, the last one not full."""
    monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 64)
    model = AutoModelForCausalLM.from_pretrained(base)
    add_fused_lm_head(model)
    assert model.config.vocab_size % 64
    ids = torch.arange(3, 43).view(2, 20)
    tiled = model(ids, labels=ids, fused_lm_head=True).loss
    plain = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(tiled - plain) < 1e-5
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (tiled, plain)]
    assert all(torch.allclose(ours, theirs, atol=1e-5, rtol=0) for ours, theirs in zip(*gradients, strict=True))


def test_rows_that_loading_an_adapter_replaces_are_trained(trained, base):
    """PEFT 0.21 makes new parameters of rows in bfloat16, as TRL's 4-bit runs have them, when a run is resumed."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(trained.adapter)), mean_resizing=False)
    config = LoraConfig.from_pretrained(trained.adapter)
    config.inference_mode = False
    model = get_peft_model(model, config)
    add_fused_lm_head(model.get_base_model())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    train_sft.score_tag_rows_apart(model)
    train_sft.embed_tag_rows_apart(model)
    model.load_adapter(trained.adapter, "default", is_trainable=True)
    rows = {name: p for name, p in model.named_parameters() if "trainable_tokens_delta" in name}
    ids = torch.tensor([[1, *model.peft_config["default"].trainable_token_indices["embed_tokens"], 7]])
    model(ids, labels=ids, fused_lm_head=True).log_probs.sum().backward()
    assert len(rows) == 2 and all(p.grad is not None and p.grad.any() for p in rows.values())


@pytest.mark.parametrize("change", [{}, {"logit_scale": 0.5}, {"final_logit_softcapping": 5.0}])
def test_a_head_that_scales_or_caps_its_scores_keeps_trls_own(base, change):
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [5]}, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    vars(model.config).update(change)
    before = model.get_base_model().forward
    train_sft.score_tag_rows_apart(model)
    assert (model.get_base_model().forward == before) == bool(change)


def test_chat_template_gives_what_training_saw_row_by_row(dataset, tagged):
    for split in load_dataset(str(dataset)).values():
        for row in split:
            assert render(tagged, ("user", row["problem"])) == tagged(row["prompt"])["input_ids"]
            whole = tagged(row["prompt"] + row["completion"])["input_ids"]
            assert render(tagged, ("user", row["problem"]), ("assistant", row["approach"])) == whole


@pytest.mark.parametrize("folder", ["tinyllama_tokenizer", "abstracts_llama_9m"])
def test_chat_template_and_labels_hold_for_real_tokenizers_on_every_real_row(real_data, tmp_path, folder):
    source = real_data / "data" / "scientific_papers_arxiv_sample.jsonl.gz"
    prepare_dataset.main(
        prepare_dataset.PrepareArguments(dataset_name=str(source), output_dir=str(tmp_path / "pairs"))
    )
    tokenizer = AutoTokenizer.from_pretrained(real_data / "models" / folder)
    add_tags(tokenizer)
    end = tokenizer.convert_tokens_to_ids("</approach>")
    for split in load_dataset(str(tmp_path / "pairs")).values():
        rows = tokenize(split[:], tokenizer, 100_000, "drop")
        for row, ids, labels in zip(split, rows["input_ids"], rows["labels"], strict=True):
            prompt = tokenizer(row["prompt"])["input_ids"]
            assert render(tokenizer, ("user", row["problem"])) == prompt
            assert prompt.count(tokenizer.bos_token_id) == 1
            assert labels == [-100] * len(prompt) + ids[len(prompt) :] and labels[-1] == end
            assert tokenizer.decode(ids[len(prompt) : -1]) == row["approach"]


def test_chat_template_leaves_out_system_and_earlier_turns(tagged):
    plain = render(tagged, ("user", "How?"))
    assert render(tagged, ("system", "You are a poet."), ("user", "How?")) == plain
    assert render(tagged, ("user", "Why?"), ("assistant", "So."), ("user", " How? ")) == plain


@pytest.mark.parametrize(
    "text", ["a</problem><approach>b", "</approach>", "<prob</approach>lem>", "<<problem>/problem>"]
)
def test_chat_template_lets_no_text_close_the_problem(tagged, text):
    ids = render(tagged, ("user", text))
    tags = [token for token in tagged.convert_ids_to_tokens(ids) if token in TAGS]
    assert tags == ["<problem>", "</problem>", "<approach>"]


def test_tokenizers_without_a_beginning_token_get_none(tmp_path):
    from tokenizers import processors

    tokenizer = AutoTokenizer.from_pretrained(make_base(tmp_path / "base"))
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    add_tags(tokenizer)
    prompt = "<problem>How?</problem><approach>"
    assert render(tokenizer, ("user", "How?")) == tokenizer(prompt)["input_ids"]
    assert tokenizer.bos_token_id not in tokenizer(prompt)["input_ids"]


def test_run_json_tells_the_run_and_nothing_private(trained, dataset, tmp_path_factory):
    run = json.loads((trained.adapter / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == 4 and run["dataset"]["rows"] == 16 and run["dataset"]["split_rows"] == 108
    assert run["arguments"]["lora_r"] == 8 and run["arguments"]["bf16"] is False
    assert run["activation_dtype"] == "float32"
    batches = [batch["attention_mask"] for batch in trained.trainer.get_train_dataloader()]
    computed, real = sum(mask.numel() for mask in batches), sum(int(mask.sum()) for mask in batches)
    assert run["padding_share"] == pytest.approx(1 - real / computed, abs=0.05) and run["padding_share"] > 0
    assert [entry["step"] for entry in run["losses"] if "loss" in entry] == [1, 2, 3, 4]
    for path in trained.adapter.iterdir():
        assert path.suffix not in (".bin", ".pt", ".pth"), f"{path.name} is a pickle"
        if path.name in ("run.json", "README.md", "tokenizer_config.json"):
            assert str(tmp_path_factory.getbasetemp()) not in path.read_text(encoding="utf-8"), path.name


def test_fp32_is_in_force_under_accelerate_launch(base, dataset, tmp_path):
    def activations(name, *overrides):
        result = run_script(
            *("train_sft.py", "--config", "recipes/small_base_lora_fp32.yaml", "--model_name_or_path", base),
            *("--dataset_name", dataset, "--output_dir", tmp_path / name, "--max_steps", 1, "--save_strategy", "no"),
            *("--eval_strategy", "no", "--eval_on_start", "false", "--max_length", 256, *overrides),
            launch="single_gpu_fp32.yaml",
        )
        assert result.returncode == 0, result.stderr
        return json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8"))["activation_dtype"]

    assert activations("fp32") == "float32"
    assert activations("bf16", "--bf16", "true", "--use_cpu", "true") == "bfloat16", (
        "the record would not notice another precision"
    )


def test_mistakes_end_in_one_clear_line(base, dataset, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("bf16: false\nactivation_checkpointing: false\nlora_rank: 8\n", encoding="utf-8")
    good = ["--config", str(ROOT / "recipes/small_base_lora_fp32.yaml"), "--use_cpu", "true"]
    places = ["--model_name_or_path", str(base), "--dataset_name", str(dataset), "--output_dir", str(tmp_path / "a")]
    mistakes = {
        "lora_rank": ["--config", str(recipe), *places],
        "--train_fraction must lie in (0, 1], got 0.0": [*good, *places, "--train_fraction", "0"],
        "--model_name_or_path is missing": [*good, "--output_dir", str(tmp_path / "a")],
    }
    for said, arguments in mistakes.items():
        with pytest.raises(SystemExit) as ended:
            train_sft.parse_arguments(arguments)
        assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
    no_base = run_script("train_sft.py", *good, *places, "--model_name_or_path", tmp_path / "none")
    assert_one_clear_line(no_base, 1, "--model_name_or_path", "none")
    assert not (tmp_path / "a").exists()


def test_target_modules_that_match_nothing_are_named_with_what_there_is(base, dataset, tmp_path):
    arguments = training_arguments(base, dataset, tmp_path / "a", "--lora_target_modules", "q_proj", "c_attn")
    with pytest.raises(SystemExit, match="no c_attn; its linear layers are down_proj, gate_proj, k_proj, lm_head"):
        train_sft.build_inputs(*arguments)


@pytest.mark.parametrize("folder", ["missing", "without_columns"])
def test_a_folder_that_is_no_dataset_is_named(base, tmp_path, folder):
    if folder == "without_columns":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    arguments = training_arguments(base, tmp_path / folder, tmp_path / "adapter")
    with pytest.raises(SystemExit, match=folder):
        train_sft.build_inputs(*arguments)


def test_an_nvidia_card_with_a_cpu_build_of_torch_stops_the_run(base, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sft.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", None)
    arguments = training_arguments(base, dataset, tmp_path / "adapter")
    train_sft.check_machine(arguments[1])  # --use_cpu true
    monkeypatch.setattr(arguments[1], "use_cpu", False)
    with pytest.raises(SystemExit, match="build for the CPU"):
        train_sft.check_machine(arguments[1])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # as accelerate_configs/cpu.yaml sets it
    train_sft.check_machine(arguments[1])


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_trains_a_tiny_model_of_its_kind_for_two_steps(recipe, wide_base, dataset, tmp_path):
    keys = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert {"bf16", "dtype", "use_peft", "seed", "max_length"} <= keys.keys(), "what decides a run is written out"
    short = [
        "--max_steps",
        "2",
        "--eval_steps",
        "1",
        "--save_steps",
        "1",
        "--num_eval_rows",
        "2",
        "--num_samples",
        "1",
    ]
    if keys.get("load_in_4bit"):  # test_bitsandbytes_on_a_cpu_trains_nothing_once_it_has_evaluated
        short += ["--eval_strategy", "no", "--eval_on_start", "false"]
    places = [
        "--model_name_or_path",
        str(wide_base),
        "--dataset_name",
        str(dataset),
        "--output_dir",
        str(tmp_path / "a"),
    ]
    cpu = ["--use_cpu", "true", "--dataloader_pin_memory", "false"]
    arguments = train_sft.parse_arguments(["--config", str(recipe), *places, *short, *cpu])
    train_sft.main(*arguments)
    run = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == 2 and run["activation_dtype"] == ("bfloat16" if keys["bf16"] else "float32")
    assert run["trainable_parameters"] == sum(p.numel() for p in load_trained(tmp_path / "a").values())
    assert (tmp_path / "a" / "samples.jsonl").is_file() == (arguments[1].eval_strategy != "no")


def load_trained(folder) -> dict:
    """What a run has trained, by name: the adapter's tensors, or all of a model's."""
    (weights,) = folder.glob("*.safetensors")
    return load_file(weights)


def test_bitsandbytes_on_a_cpu_trains_nothing_once_it_has_evaluated(wide_base, dataset, tmp_path):
    """Seen with bitsandbytes 0.50.2: its packed weights for CPUs have no gradient. The run says so and stops."""
    arguments = train_sft.parse_arguments(
        [
            *("--config", str(ROOT / "recipes/tinyllama_qlora_4bit.yaml"), "--model_name_or_path", str(wide_base)),
            *("--dataset_name", str(dataset), "--output_dir", str(tmp_path), "--max_steps", "1", "--use_cpu", "true"),
            *("--num_samples", "0", "--dataloader_pin_memory", "false"),
        ]
    )
    with pytest.warns(UserWarning, match="an autograd kernel was not registered"), pytest.raises(SystemExit) as ended:
        train_sft.main(*arguments)
    assert "got no gradient in the first step" in str(ended.value)


def test_the_reports_recipe_has_the_reports_figures(tmp_path):
    _, training_args, model_args, _ = train_sft.parse_arguments(
        [
            "--config",
            str(ROOT / "recipes/tinyllama_lora_fp32.yaml"),
            "--output_dir",
            str(tmp_path),
            "--use_cpu",
            "true",
        ]
    )
    assert model_args.model_name_or_path == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert (model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout) == (8, 16, 0.05)
    assert model_args.lora_target_modules == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]
    assert (model_args.dtype, training_args.bf16, training_args.fp16) == ("float32", False, False)
    assert (training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps) == (2, 2)
    assert (training_args.max_length, training_args.max_steps, training_args.learning_rate) == (512, 100, 1e-4)
    assert training_args.optim == "adamw_torch"


# Watching a run


def read_wandb(file) -> list[tuple[str, dict]]:
    """The records of an offline W&B run: `(type, {key: value})`, from its log in LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, text, records = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        text, at = text + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, text = Record.FromString(text), b""
            name = record.WhichOneof("record_type")
            items = {"history": record.history.item, "run": record.run.config.update}.get(name, ())
            values = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            if name == "run":
                values |= {"id": record.run.run_id, "group": record.run.run_group}
            records.append((name, values))
    return records


def test_an_offline_wandb_run_holds_the_run_and_a_resumed_one_joins_its_group(base, dataset, tmp_path):
    folder = tmp_path / "adapter"
    command = launch_command(base, dataset, folder, "--report_to", "wandb", "--run_name", "tiny", "--save_steps", 4)
    command += ["--max_steps", "8", "--eval_strategy", "steps", "--eval_steps", "4", "--num_samples", "2"]
    environment = {**os.environ, "WANDB_DIR": str(tmp_path)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = read_wandb(file)
    (setup,) = [values for kind, values in records if kind == "run"]
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name in ("base", "dataset", "arguments", "versions"):
        assert setup[name] == run[name]
    history = [values for kind, values in records if kind == "history"]
    keys = {key for values in history for key in values}
    assert {"train/loss", "train/mean_token_accuracy", "train/tokens_a_second", "train/padding_share"} <= keys
    losses = {values["train/global_step"]: values for values in history if "eval/loss" in values}
    assert losses.keys() == {4, 8}
    for values in losses.values():
        assert values["eval/perplexity"] == pytest.approx(math.exp(values["eval/loss"]), abs=1e-4)
    assert [values["drafts/nrows"] for values in history if "drafts/nrows" in values] == [2, 4]

    for name in ("checkpoint-8", "run.json"):  # as if it had been killed after step 4
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    command += ["--resume_from_checkpoint", "true"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (again,) = set(tmp_path.glob("wandb/offline-run-*/*.wandb")) - {file}
    (resumed,) = [values for kind, values in read_wandb(again) if kind == "run"]
    assert resumed["group"] == setup["group"] != "" and resumed["id"] != setup["id"]


def test_online_a_resumed_run_is_the_same_wandb_run(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("wandb.init", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=SimpleNamespace(mode="online")))
    progress: dict = {}
    train_sft.start_wandb(SimpleNamespace(run_name="tiny"), {"base": {}}, progress)
    train_sft.start_wandb(SimpleNamespace(run_name="tiny"), {"base": {}}, json.loads(json.dumps(progress)))
    assert calls[0] == calls[1] and calls[0]["id"] == progress["wandb_run_id"] and calls[0]["resume"] == "allow"


@pytest.fixture(scope="module")
def watched(base, dataset, tmp_path_factory):
    """A run of six steps with dropout, evaluated at 0, 2, 4 and 6, of which the best checkpoint is kept."""
    folder = tmp_path_factory.mktemp("watched") / "adapter"
    steps = ["--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "2", "--eval_on_start", "true"]
    saves = ["--save_strategy", "steps", "--save_steps", "2", "--load_best_model_at_end", "true"]
    # A learning rate that soon does harm: the best checkpoint is not the last.
    arguments = training_arguments(base, dataset, folder, *steps, *saves, "--learning_rate", "0.3")
    train_sft.main(*arguments)
    return folder


def test_samples_are_greedy_drafts_without_dropout_for_the_same_problems(watched, dataset):
    rows = list(map(json.loads, (watched / "samples.jsonl").read_text(encoding="utf-8").splitlines()))
    validation = load_dataset(str(dataset), split="validation").select(range(4))
    assert [row["step"] for row in rows] == [step for step in (0, 2, 4, 6) for _ in range(4)]
    assert [row["id"] for row in rows] == list(validation["id"]) * 4
    model = AutoPeftModelForCausalLM.from_pretrained(watched / "checkpoint-4").eval()
    tokenizer = AutoTokenizer.from_pretrained(watched / "checkpoint-4")
    # All four at once, as in training: alone, a random model's near-ties may fall the other way.
    batch = tokenizer(list(validation["prompt"]), padding=True, padding_side="left", return_tensors="pt")
    stops = [tokenizer.eos_token_id, model.config.eos_token_id]  # plain PEFT opens the base with its own defaults
    output = model.generate(**batch, do_sample=False, max_new_tokens=train_sft.SAMPLE_TOKENS, eos_token_id=stops)
    drafts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [row["draft"] for row in rows if row["step"] == 4] == [draft.strip() for draft in drafts]
    assert len(set(rows[i]["draft"] for i in range(4))) > 1


def test_the_best_checkpoint_is_what_is_kept(watched):
    run = json.loads((watched / "run.json").read_text(encoding="utf-8"))
    losses = {entry["step"]: entry["eval_loss"] for entry in run["losses"] if "eval_loss" in entry and entry["step"]}
    best = min(losses, key=losses.get)
    assert run["best_step"] == best != 6, "the last is the best: the test proves nothing"
    assert_same(weights(watched), weights(watched / f"checkpoint-{best}"))


def test_a_resumed_run_goes_on_counting(watched, base, dataset, tmp_path):
    folder = tmp_path / "adapter"
    (folder / "checkpoint-2").mkdir(parents=True)
    shutil.copytree(watched / "checkpoint-2", folder / "checkpoint-2", dirs_exist_ok=True)
    shutil.copy(watched / "samples.jsonl", folder)
    steps = ["--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "2", "--learning_rate", "0.3"]
    saves = ["--save_strategy", "steps", "--save_steps", "2", "--load_best_model_at_end", "true"]
    train_sft.main(*training_arguments(base, dataset, folder, *steps, *saves, "--resume_from_checkpoint", "true"))
    assert (folder / "samples.jsonl").read_bytes() == (watched / "samples.jsonl").read_bytes()
    whole, parts = (json.loads((path / "checkpoint-6/progress.json").read_bytes()) for path in (watched, folder))
    assert (whole["tokens"], whole["positions"]) == (parts["tokens"], parts["positions"])
    assert parts["seconds"] > json.loads((watched / "checkpoint-2/progress.json").read_bytes())["seconds"]


def test_early_stopping_ends_the_run(base, dataset, tmp_path):
    steps = ["--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "1", "--learning_rate", "1.0"]
    saves = ["--save_strategy", "steps", "--save_steps", "1", "--load_best_model_at_end", "true", "--num_samples", "0"]
    patience = ["--early_stopping_patience", "1"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "a", *steps, *saves, *patience))
    run = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == run["best_step"] + 1 < 6
    with pytest.raises(SystemExit):
        training_arguments(base, dataset, tmp_path / "b", *patience)


def test_without_lora_the_run_leaves_a_whole_model_that_drafts(base, dataset, tmp_path):
    train_sft.main(*training_arguments(base, dataset, tmp_path / "model", "--use_peft", "false"))
    before, after = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    end = tokenizer.convert_tokens_to_ids("</approach>")
    assert after.generation_config.eos_token_id == [end, 2] and after.vocab_size == len(tokenizer)
    old = dict(before.named_parameters())
    moved = [name for name, p in after.named_parameters() if not torch.equal(p[: len(old[name])], old[name])]
    assert len(moved) == len(old), "every matrix is trained"


# The life of a run


def launch_command(base, dataset, output_dir, *overrides) -> list[str]:
    """A run of forty steps with dropout and a checkpoint every ten, as a user starts it."""
    return [
        *(sys.executable, "train_sft.py", "--config", "recipes/small_base_lora_fp32.yaml", "--use_cpu", "true"),
        *("--model_name_or_path", str(base), "--dataset_name", str(dataset), "--output_dir", str(output_dir)),
        *("--max_steps", "40", "--max_length", "192", "--save_steps", "10", "--eval_strategy", "no"),
        *("--eval_on_start", "false", "--per_device_train_batch_size", "2", *map(str, overrides)),
    ]


def weights(folder) -> dict:
    return load_file(folder / "adapter_model.safetensors")


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def undisturbed(base, dataset, tmp_path_factory):
    """The run that the others are compared with, never killed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "adapter"
    subprocess.run(launch_command(base, dataset, folder), cwd=ROOT, check=True, capture_output=True)
    return folder


def test_checkpoints_hold_the_adapter_and_no_secret(undisturbed):
    assert sorted(path.name for path in undisturbed.glob("checkpoint-*")) == [
        f"checkpoint-{n}" for n in (10, 20, 30, 40)
    ]
    assert not list(undisturbed.rglob("training_args.bin"))
    assert not list(undisturbed.glob("checkpoint-*/README.md")), "PEFT's card, with the base's local path"
    trained_rows = {name for name in weights(undisturbed / "checkpoint-10") if "lora_" not in name}
    assert {name.rpartition(".")[2] for name in trained_rows} == {"trainable_tokens_delta"}, "a whole matrix was saved"


def test_sigterm_saves_the_step_and_resuming_ends_with_the_same_weights(base, dataset, undisturbed, tmp_path):
    folder = tmp_path / "adapter"
    command = launch_command(base, dataset, folder)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes)
    for line in process.stdout:
        if "'loss'" in line:  # the first step is done, and SIGTERM comes in the middle of another
            process.terminate()
            break
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "go on with --resume_from_checkpoint true" in errors
    assert not (folder / "adapter_model.safetensors").exists(), "an interrupted run must leave no final adapter"
    (checkpoint,) = folder.glob("checkpoint-*")
    assert 1 <= int(checkpoint.name.partition("-")[2]) < 40

    half = folder / "checkpoint-39"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 39', encoding="utf-8")
    command += ["--resume_from_checkpoint", "true"]
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "checkpoint-39 is not complete: passed over" in resumed.stdout
    assert_same(weights(folder), weights(undisturbed))
    losses = [json.loads((path / "run.json").read_text(encoding="utf-8"))["losses"] for path in (folder, undisturbed)]
    assert [entry["loss"] for entry in losses[0]] == [entry["loss"] for entry in losses[1]]


def test_a_run_resumed_in_its_second_epoch_takes_every_row_once(base, dataset, tmp_path):
    """transformers 5.23: `LengthGroupedSampler` has no generator, and draws a resumed epoch anew."""
    epochs = ["--max_steps", "-1", "--num_train_epochs", "2", "--train_fraction", "0.3", "--save_strategy", "steps"]
    arguments = [*epochs, "--save_steps", "3", "--logging_steps", "1"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "whole", *arguments))
    checkpoints = sorted(int(path.name.partition("-")[2]) for path in (tmp_path / "whole").glob("checkpoint-*"))
    assert checkpoints == [3, 6, 9, 12, 15, 16], "8 steps an epoch"
    shutil.copytree(tmp_path / "whole" / "checkpoint-12", tmp_path / "parts" / "checkpoint-12")
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_on_start", "true", "--num_samples", "1"]
    resume = ["--resume_from_checkpoint", "true"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "parts", *arguments, *evaluated, *resume))
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_with_the_same_weights(base, dataset, undisturbed, tmp_path):
    rng, folder = random.Random(0), tmp_path / "adapter"
    command = launch_command(base, dataset, folder, "--save_steps", 1, "--resume_from_checkpoint", "true")
    started = time.monotonic()
    subprocess.run([*command[:-2], "--output_dir", str(tmp_path / "timed")], cwd=ROOT, check=True, capture_output=True)
    seconds, kills = time.monotonic() - started, 0
    while kills < 20:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=rng.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:  # it came to its end before the kill: the next one begins anew
            assert process.returncode == 0, errors
            assert_same(weights(folder), weights(undisturbed))
            shutil.rmtree(folder)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert_same(weights(folder), weights(undisturbed))


def test_a_terminated_launcher_takes_the_run_with_it(base, dataset, tmp_path):
    """`accelerate launch` dies of SIGTERM without passing it on; the run notices, saves and stops."""
    folder = tmp_path / "adapter"
    command = launch_command(base, dataset, folder, "--max_steps", 100_000, "--save_steps", 100_000)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    process = subprocess.Popen(
        [*launcher, *command[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if "'loss'" in line:
            process.terminate()
            break
    for _ in process.stdout:  # ends when the run, which has the other end, does
        pass
    process.wait()
    process.stdout.close()
    (checkpoint,) = folder.glob("checkpoint-*")
    assert (checkpoint / "progress.json").is_file() and not (folder / "adapter_model.safetensors").exists()


def test_samples_of_a_run_that_is_not_gone_on_with_are_not_kept(base, dataset, tmp_path):
    """Nothing to resume from: the run starts over, and so do its samples, also before its first evaluation's step."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "samples.jsonl").write_text('{"step": 1, "draft": "of another run"}\n', encoding="utf-8")
    more = ["--eval_strategy", "steps", "--eval_steps", "4", "--eval_on_start", "false", "--num_samples", "1"]
    train_sft.main(*training_arguments(base, dataset, folder, *more, "--resume_from_checkpoint", "true"))
    rows = list(map(json.loads, (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]))
    assert [row["step"] for row in rows] == [4]


def test_killed_after_the_last_step_it_resumes_to_the_end(base, dataset, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    resume = ["--resume_from_checkpoint", "true"]
    train_sft.main(*train_sft.parse_arguments(launch_command(base, dataset, folder, *resume)[2:]))
    assert_same(weights(folder), weights(undisturbed))


def test_another_run_is_not_resumed_by_mistake(base, dataset, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "adapter")
    resume = ["--resume_from_checkpoint", "true"]
    for change, named in (
        (["--seed", "7"], "seed 7, there 42"),
        (["--max_length", "160"], "max_length 160, there 192"),
        (["--per_device_train_batch_size", "1"], "per_device_train_batch_size 1, there 2"),
        (["--max_steps", "50"], "max_steps 50, there 40"),
        (["--train_fraction", "0.5"], "dataset rows "),
        (["--lora_alpha", "32"], "lora_alpha 32, there 16"),
    ):
        with pytest.raises(SystemExit, match=named):
            train_sft.main(*train_sft.parse_arguments(launch_command(base, dataset, folder, *resume, *change)[2:]))
    with pytest.raises(SystemExit, match="not empty: add --resume_from_checkpoint true"):
        train_sft.main(*train_sft.parse_arguments(launch_command(base, dataset, folder)[2:]))


def test_a_loss_that_is_no_number_stops_the_run_by_name(base, dataset, tmp_path):
    poisoned = shutil.copytree(base, tmp_path / "poisoned")
    tensors = load_file(poisoned / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="step 1: the loss or a gradient is not a number"):
        train_sft.main(*training_arguments(poisoned, dataset, tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_loss_past_reason_stops_the_run_by_name(base, dataset, tmp_path):
    arguments = training_arguments(
        base, dataset, tmp_path / "adapter", "--learning_rate", "1e4", "--max_grad_norm", "0"
    )
    with pytest.raises(SystemExit, match=r"step \d: (a loss of .* is past|the loss or a gradient is not a number)"):
        train_sft.main(*arguments)


@pytest.mark.parametrize("model_type", ["gpt_neox", "qwen2"])
def test_other_bases_train_and_open_with_plain_peft(model_type, dataset, tmp_path, monkeypatch):
    base = make_base(tmp_path / "base", model_type=model_type, tied=model_type == "qwen2")
    modules = {"gpt_neox": ["query_key_value", "dense"], "qwen2": ["q_proj", "v_proj"]}[model_type]
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "4", "--eval_on_start", "true", "--num_samples", "0"]
    places = [base, dataset, tmp_path / "adapter"]
    build_trainer, kept = train_sft.build_trainer, {}
    monkeypatch.setattr(train_sft, "build_trainer", lambda *a: kept.setdefault("trainer", build_trainer(*a)))
    train_sft.main(*training_arguments(*places, "--lora_target_modules", *modules, *evaluated))
    losses = json.loads((tmp_path / "adapter" / "run.json").read_text(encoding="utf-8"))["losses"]
    assert losses[-1]["eval_loss"] < losses[0]["eval_loss"]
    # Tied matrices, too: the rows of the tags in both come from the one that is stored.
    first, second = (AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval() for _ in range(2))
    ids = AutoTokenizer.from_pretrained(tmp_path / "adapter")("<problem>a</problem><approach>", return_tensors="pt")
    with torch.inference_mode():
        trained, again = first(**ids).logits, second(**ids).logits
    assert torch.equal(trained, again) and torch.equal(trained, kept["trainer"].model.eval()(**ids).logits)


def test_two_processes_give_the_losses_of_one(base, dataset, tmp_path):
    """DDP over gloo, the same rows a step, no dropout. Two runs that know nothing of each other would not pass."""
    common = ["--max_steps", 4, "--save_strategy", "no", "--lora_dropout", 0]
    common += ["--train_sampling_strategy", "sequential"]
    for name, processes, batch in (("one", 1, 4), ("two", 2, 2)):
        command = launch_command(base, dataset, tmp_path / name, *common, "--per_device_train_batch_size", batch)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        launched = subprocess.run([*launcher, *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert launched.returncode == 0, launched.stderr
    runs = [json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert [run["distributed_type"] for run in runs] == ["MULTI_CPU", "MULTI_CPU"]
    assert [run["processes"] for run in runs] == [1, 2]
    for one, two in zip(runs[0]["losses"], runs[1]["losses"], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)


def test_preflight_shows_the_run_and_loads_no_weights(base, dataset, tmp_path, capsys):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "model.safetensors").unlink()
    train_sft.main(*training_arguments(folder, dataset, tmp_path / "adapter", "--preflight", "true"))
    shown = capsys.readouterr().out
    assert "4 × 1 = 4 rows a step" in shown and "16 different rows of 108, 0.15 epochs" in shown
    read, trained = shown.partition("Read, not trained on:")[2].split("Trained on:")
    assert read.strip().endswith("</problem><approach>") and "</approach>" in trained
    assert "GiB  at the peak" in shown
    assert not (tmp_path / "adapter").exists()


def test_help_names_arguments_that_exist(capsys):
    with pytest.raises(SystemExit):
        train_sft.parse_arguments(["--help_all"])
    existing = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    assert train_sft.LIBRARY_ARGUMENTS.keys() <= existing and {"lora_r", "packing", "preflight"} <= existing


def test_trls_tile_of_the_vocabulary_is_still_where_we_set_it():
    """A private constant of trl 1.16.0, set in `build_trainer`: a new version must be read before it is taken."""
    assert version("trl") == "1.16.0"
    source = inspect.getsource(trl.trainer.utils.add_fused_lm_head)
    assert "_CHUNKED_LOGPROB_CHUNK_SIZE" in source


# The Hub


def test_what_is_pushed_names_a_local_base_by_its_last_name(trained, base):
    told = [json.loads((trained.adapter / "adapter_config.json").read_bytes())["base_model_name_or_path"]]
    with train_sft.public_copy(trained.adapter) as copy:
        told.append(json.loads((Path(copy) / "adapter_config.json").read_bytes())["base_model_name_or_path"])
        assert_same(weights(Path(copy)), weights(trained.adapter))
    assert told == [str(base), base.name] and not Path(copy).exists()


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint"])
def test_what_is_pushed_is_private_and_holds_no_arguments(base, dataset, tmp_path, strategy):
    with HubServer(users={"write-token": "alice"}) as hub:
        command = launch_command(base, dataset, tmp_path / "adapter", "--max_steps", 4, "--save_steps", 2)
        command += ["--push_to_hub", "true", "--hub_model_id", "alice/adapter", "--hub_strategy", strategy]
        environment = {**hub.environment(token="write-token", home=tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        repository = hub.repo("model", "alice/adapter")
        files = repository.files("main")
        assert repository.private
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "run.json"} <= files.keys()
        assert ("last-checkpoint/optimizer.pt" in files) == (strategy == "checkpoint")
        published = [content for commit in repository.commits for content in repository.files(commit).values()]
        assert not any(b"write-token" in content for content in published)
        assert not any(name.endswith("training_args.bin") for name in files)
        assert len(repository.commits) > {"end": 1, "every_save": 3, "checkpoint": 5}[strategy]


def test_a_push_that_fails_ends_in_one_line_and_keeps_the_adapter(base, dataset, tmp_path):
    with HubServer(users={"write-token": "alice"}) as hub:
        command = launch_command(base, dataset, tmp_path / "adapter", "--max_steps", 1, "--save_strategy", "no")
        command += ["--push_to_hub", "true", "--hub_model_id", "bob/adapter"]
        environment = {**hub.environment(token="write-token", home=tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert_one_clear_line(result, 1, "Not pushed to bob/adapter", "is whole; push it later with: hf upload")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
