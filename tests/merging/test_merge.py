import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from conftest import make_base, training_arguments
from merging_inputs import copy_unrecorded, make_variant, merge
from peft import AutoPeftModelForCausalLM
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import train_sft
from approach.errors import UserError
from approach.prompt import TAGS

ROUNDING = 1e-4  # of a tiny model's logits


def test_merged_model_says_what_the_adapter_says(trained, merged):
    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = tokenizer("<problem>We study noise.</problem><approach>", return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    adapter = AutoPeftModelForCausalLM.from_pretrained(trained.adapter, dtype=torch.float32)
    with torch.inference_mode():
        assert (model(ids).logits - adapter(ids).logits).abs().max() <= ROUNDING
    assert len(tokenizer) == model.config.vocab_size == len(model.get_output_embeddings().weight)
    report = json.loads((merged / "merge.json").read_text(encoding="utf-8"))
    assert report["difference_to_adapter"] <= ROUNDING and report["difference_reloaded"] == 0
    assert report["difference_to_base"] > ROUNDING


def test_merged_folder_is_whole_and_holds_safetensors_alone(merged, tmp_path_factory):
    names = {path.name for path in merged.iterdir()}
    assert names >= {
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "README.md",
    }
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    for path in merged.iterdir():
        if path.suffix not in (".safetensors", ".png"):
            assert str(tmp_path_factory.getbasetemp()) not in path.read_text(encoding="utf-8"), path.name


def test_pipeline_answers_a_chat_message_with_an_approach(merged):
    draft = pipeline("text-generation", model=str(merged))
    answer = draft([{"role": "user", "content": "We study noise."}], max_new_tokens=20)[0]["generated_text"]
    assert [turn["role"] for turn in answer] == ["user", "assistant"]
    assert answer[-1]["content"] and not any(tag in answer[-1]["content"] for tag in TAGS)


def draft_with_template(folder, problem: str, max_new_tokens: int) -> str:
    """A draft by AutoModelForCausalLM and apply_chat_template, as the README has it."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    message = [{"role": "user", "content": problem}]
    inputs = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert inputs["input_ids"].tolist() == [tokenizer(f"<problem>{problem}</problem><approach>")["input_ids"]]
    output = model.generate(**inputs, max_new_tokens=max_new_tokens)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_every_client_drafts_the_same(merged, tmp_path):
    """pipeline, the chat template by hand, and `transformers serve`, which is asked over HTTP on loopback."""
    problem, length = "We study noise.", 20
    ours = draft_with_template(merged, problem, length)
    answer = pipeline("text-generation", model=str(merged))(
        [{"role": "user", "content": problem}], max_new_tokens=length
    )
    assert answer[0]["generated_text"][-1]["content"] == ours
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(merged), "--host", "127.0.0.1", "--port", port]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    body = {"model": str(merged), "messages": [{"role": "user", "content": problem}], "max_tokens": length}
    address = f"http://127.0.0.1:{port}"
    asked = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"{address}/health", server)
        with urllib.request.urlopen(asked, timeout=60) as reply:
            told = json.loads(reply.read())
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert told["choices"][0]["message"] == {"role": "assistant", "content": ours}


def wait_for(address: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def test_the_end_tag_stops_a_draft(merged):
    """Made to score highest wherever the first drafted token would: the draft is over before it begins."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    end = tokenizer.convert_tokens_to_ids("</approach>")
    assert model.generation_config.eos_token_id == [end, tokenizer.pad_token_id]
    assert (model.generation_config.do_sample, model.generation_config.repetition_penalty) == (False, 1.15)
    prompt = tokenizer("<problem>We study noise.</problem><approach>", return_tensors="pt")["input_ids"]

    def draft() -> list[int]:
        return model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :].tolist()

    first = draft()
    assert len(first) == 8 and end not in first
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[end] = head[first[0]] * 10
    assert draft() == [end]


def test_a_base_padded_beyond_its_tokenizer_merges_to_one_size(dataset, tmp_path):
    base = make_base(tmp_path / "base", vocabulary_padding=64)
    train_sft.main(*training_arguments(base, dataset, tmp_path / "adapter", "--max_steps", "1"))
    merge(tmp_path / "adapter", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == model.config.vocab_size


def test_an_adapter_that_changes_nothing_is_refused(trained, tmp_path):
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    for name, weight in weights.items():
        if "lora_B" in name:
            weight.zero_()
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="changes nothing"):
        merge(adapter, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [adapter]


def test_a_merge_that_goes_wrong_is_refused_and_nothing_is_written(trained, tmp_path, monkeypatch):
    right = LoraModel.merge_and_unload

    def wrong(self, **arguments):
        model = right(self, **arguments)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)
    with pytest.raises(UserError, match="merged and adapter on base differ by .*: nothing written"):
        merge(trained.adapter, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_seen_before_anything_is_written(trained, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="[KM]iB are needed, 1000 bytes are free: nothing written"):
        merge(trained.adapter, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_generation_defaults_are_ours_and_the_stops_of_both(trained, base, tmp_path):
    other = make_variant(base, tmp_path / "other")
    settings = {"eos_token_id": [2, 5], "max_length": 2048, "temperature": 0.7, "do_sample": True}
    (other / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    merge(trained.adapter, tmp_path / "model", base_model_name_or_path=str(other))
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text(encoding="utf-8"))
    saved.pop("transformers_version")
    end = AutoTokenizer.from_pretrained(tmp_path / "model").eos_token_id
    assert saved.items() >= {"bos_token_id": 1, "eos_token_id": [end, 2, 5], "pad_token_id": 2}.items()
    assert saved["max_new_tokens"] == 448 and saved["do_sample"] is False
    assert not saved.keys() & {"temperature", "max_length"}
