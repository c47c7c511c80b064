import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, assert_one_clear_line, make_base, run_script, training_arguments
from hub_server import HubServer
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import train_sft
from merge_and_push import MAX_LOGIT_DIFFERENCE, TAGS, MergeArguments, main


def merge(adapter, output_dir, **arguments):
    main(MergeArguments(adapter_path=str(adapter), output_dir=str(output_dir), **arguments))


def copy_adapter(trained, folder):
    folder.mkdir()
    for path in trained.adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_merged_model_says_what_the_adapter_says(trained, merged):
    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = tokenizer("<problem>We study noise.</problem><approach>", return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    adapter = AutoPeftModelForCausalLM.from_pretrained(trained.adapter, dtype=torch.float32)
    with torch.inference_mode():
        assert (model(ids).logits - adapter(ids).logits).abs().max() <= MAX_LOGIT_DIFFERENCE
    assert len(tokenizer) == model.config.vocab_size == len(model.get_output_embeddings().weight)
    report = json.loads((merged / "merge.json").read_text(encoding="utf-8"))
    assert report["difference_to_adapter"] <= MAX_LOGIT_DIFFERENCE and report["difference_reloaded"] == 0
    assert report["difference_to_base"] > MAX_LOGIT_DIFFERENCE


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
        if path.suffix != ".safetensors":
            assert str(tmp_path_factory.getbasetemp()) not in path.read_text(encoding="utf-8"), path.name


def test_pipeline_answers_a_chat_message_with_an_approach(merged):
    draft = pipeline("text-generation", model=str(merged))
    answer = draft([{"role": "user", "content": "We study noise."}], max_new_tokens=20)[0]["generated_text"]
    assert [turn["role"] for turn in answer] == ["user", "assistant"]
    assert answer[-1]["content"] and not any(tag in answer[-1]["content"] for tag in TAGS)


def test_the_end_tag_stops_a_draft(merged):
    """Made to score highest wherever the first drafted token would: the draft is over before it begins."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    end = tokenizer.convert_tokens_to_ids("</approach>")
    assert model.generation_config.eos_token_id == [end, tokenizer.pad_token_id]
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


def test_tied_embeddings_train_and_merge(dataset, tmp_path):
    base = make_base(tmp_path / "base", tied=True)
    train_sft.main(*training_arguments(base, dataset, tmp_path / "adapter", "--max_steps", "2"))
    merge(tmp_path / "adapter", tmp_path / "model")
    report = json.loads((tmp_path / "model" / "merge.json").read_text(encoding="utf-8"))
    assert report["difference_to_adapter"] <= MAX_LOGIT_DIFFERENCE


def test_an_adapter_that_changes_nothing_is_refused(trained, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    for name, weight in weights.items():
        if "lora_B" in name:
            weight.zero_()
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(SystemExit, match="changes nothing"):
        merge(adapter, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [adapter]


def test_adapter_of_another_base_is_refused_by_name(trained, tmp_path):
    other = make_base(tmp_path / "other", model_type="gpt_neox")
    with pytest.raises(SystemExit, match="does not fit base"):
        merge(trained.adapter, tmp_path / "model", base_model_name_or_path=str(other))


def test_mistakes_end_in_one_clear_line(trained, dataset, tmp_path):
    none = run_script(ROOT / "merge_and_push.py", "--adapter_path", dataset, "--output_dir", tmp_path / "model")
    assert_one_clear_line(none, 1, "pairs is no adapter of train_sft.py")
    occupied = run_script(ROOT / "merge_and_push.py", "--adapter_path", trained.adapter, "--output_dir", dataset)
    assert_one_clear_line(occupied, 2, "pairs is not empty", "--overwrite")


def test_a_tokenizer_without_the_tags_is_refused(trained, base, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_bytes((base / name).read_bytes())
    with pytest.raises(SystemExit, match="its tokenizer lacks <problem>"):
        merge(adapter, tmp_path / "model")


def push(hub, trained, tmp_path, hub_model_id: str):
    places = ["--adapter_path", str(trained.adapter), "--output_dir", str(tmp_path / "model")]
    command = [sys.executable, "merge_and_push.py", *places, "--push_to_hub", "--hub_model_id", hub_model_id]
    environment = {**hub.environment(token="write-token", home=tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_model_reaches_the_hub_whole_and_private_in_one_commit(trained, tmp_path):
    with HubServer(users={"write-token": "alice"}) as hub:
        result = push(hub, trained, tmp_path, "alice/model")
        assert result.returncode == 0, result.stderr
        repository = hub.repo("model", "alice/model")
        assert repository.private and len(repository.commits) == 2  # the repository's first, and ours
        local = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
        uploaded = repository.files("main")
        assert {name: uploaded[name] for name in local} == local


def test_a_name_of_somebody_else_ends_in_one_line_and_keeps_the_model(trained, tmp_path):
    with HubServer(users={"write-token": "alice"}) as hub:
        result = push(hub, trained, tmp_path, "bob/model")
    assert_one_clear_line(result, 1, "Not published to bob/model", "is whole")
    assert (tmp_path / "model" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="needs --hub_model_id user/name"):
        MergeArguments(adapter_path="a", output_dir=str(tmp_path / "b"), push_to_hub=True, hub_model_id="my model")
