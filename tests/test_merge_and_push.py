import copy
import functools
import json
import os
import platform
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import ROOT, assert_one_clear_line, make_base, run_script, training_arguments
from datasets import load_dataset
from hub_server import Blob, HubServer, Repo
from huggingface_hub import HfApi, ModelCard, constants
from peft import AutoPeftModelForCausalLM
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

import train_sft
from merge_and_push import (
    MAX_LOGIT_DIFFERENCE,
    TAGS,
    MergeArguments,
    main,
    parse_arguments,
    parting_gap,
    public_name,
    stage_adapter,
    write_card,
)

# huggingface_hub 2.4.0 hands its uploads to httpx2 in a way that httpx2 deprecates
uploads = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def merge(adapter, output_dir, **arguments):
    main(MergeArguments(adapter_path=str(adapter), output_dir=str(output_dir), **arguments))


def copy_adapter(trained, folder):
    folder.mkdir()
    for path in trained.adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def copy_unrecorded(trained, folder):
    """An adapter whose record tells neither its own hash nor its base's fingerprint, as of a run with other tools."""
    adapter = copy_adapter(trained, folder)
    change_run(adapter, files={}, base={"name": "base"})
    return adapter


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
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
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
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
    with pytest.raises(SystemExit, match="does not fit base"):
        merge(adapter, tmp_path / "model", base_model_name_or_path=str(other))


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


def change_run(adapter, **changes):
    path = adapter / "run.json"
    run = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(run), encoding="utf-8")


def make_variant(base, folder, seed=0, **changes):
    """A base with the tokenizer of `base` and another configuration or other weights."""
    config = AutoConfig.from_pretrained(base)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for path in base.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"vocab_size": 300}],
    ids=["wider", "deeper", "shallower", "fewer tokens"],
)
def test_a_base_of_another_size_is_refused_by_name(trained, base, tmp_path, changes):
    other = make_variant(base, tmp_path / "other", **changes)
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
    with pytest.raises(SystemExit, match=f"does not fit base {other}"):
        merge(adapter, tmp_path / "model", base_model_name_or_path=str(other))
    assert set(tmp_path.iterdir()) == {adapter, other}


def test_a_base_of_another_revision_is_refused_by_its_fingerprint(trained, base, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    other = make_variant(base, tmp_path / "other", seed=1)
    with pytest.raises(SystemExit, match=f"base {other} is not the one that the adapter was trained on, base"):
        merge(adapter, tmp_path / "model", base_model_name_or_path=str(other))
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "split", max_shard_size="20KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    merge(adapter, tmp_path / "model", base_model_name_or_path=str(tmp_path / "split"))


def test_one_flipped_bit_of_the_adapter_is_refused(trained, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # in the mantissa of the last weight: still a number
    path.write_bytes(data)
    with pytest.raises(SystemExit, match="adapter_model.safetensors is not the file that was written: .* run.json"):
        merge(adapter, tmp_path / "model")


def test_an_adapter_that_is_no_number_or_no_file_is_refused_without_a_record_too(trained, tmp_path):
    adapter = copy_unrecorded(trained, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = min(weights)
    weights[name][0, 0] = float("inf")
    save_file(weights, path)
    with pytest.raises(SystemExit, match=f"{name} holds a value that is not a number"):
        merge(adapter, tmp_path / "model")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SystemExit, match="adapter_model.safetensors cannot be read"):
        merge(adapter, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [adapter]


def test_a_quantised_base_is_refused_with_what_to_name_instead(trained, base, tmp_path):
    other = make_variant(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        SystemExit, match="other is quantised: name the unquantised one with --base_model_name_or_path"
    ):
        merge(trained.adapter, tmp_path / "model", base_model_name_or_path=str(other))


def test_an_adapter_trained_on_a_4_bit_base_merges_into_the_full_one(dataset, tmp_path):
    base = make_base(tmp_path / "base")
    quantised = ("--load_in_4bit", "true", "--max_steps", "2")
    train_sft.main(*training_arguments(base, dataset, tmp_path / "adapter", *quantised))
    merge(tmp_path / "adapter", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config and config["dtype"] == "float32"
    merged, full = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "model", base))
    name = "model.layers.0.mlp.up_proj.weight"  # no LoRA layer: the full base's own, to the bit
    assert torch.equal(merged.get_parameter(name), full.get_parameter(name))


def test_a_whole_model_is_no_adapter_and_says_how_to_publish_it(merged, tmp_path):
    with pytest.raises(SystemExit, match=f"is already a whole model: publish it with --push_only {merged}"):
        merge(merged, tmp_path / "model")


def test_greedy_drafts_may_part_at_a_near_tie_alone():
    step = torch.tensor([1.0, 0.99995, 0.5])
    ours = [([0, 0, 2], [step, step, step])]
    assert parting_gap(ours, ours) == 0
    assert parting_gap(ours, [([0, 1, 1], [])]) == pytest.approx(5e-5, abs=1e-6)  # what follows is of no account
    assert parting_gap(ours, [([0, 2, 2], [])]) == pytest.approx(0.5)


def test_a_merge_that_goes_wrong_is_refused_and_nothing_is_written(trained, tmp_path, monkeypatch):
    right = LoraModel.merge_and_unload

    def wrong(self, **arguments):
        model = right(self, **arguments)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)
    with pytest.raises(SystemExit, match="merged and adapter on base differ by .*: nothing written"):
        merge(trained.adapter, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_is_measured_and_read_back(trained, dataset, tmp_path, dtype):
    merge(trained.adapter, tmp_path / "model", dtype=dtype, dataset_name=str(dataset))
    report = json.loads((tmp_path / "model" / "merge.json").read_text(encoding="utf-8"))
    cast = report["cast"]
    assert report["dtype"] == dtype and report["difference_reloaded"] == 0 and cast["rows"] == 6
    assert cast["loss_before"] != cast["loss_after"] and 0 <= cast["argmax_changes"] < cast["positions"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer, losses = AutoTokenizer.from_pretrained(tmp_path / "model"), []
    for row in load_dataset(str(dataset), split="validation"):
        ids = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"]
        start = len(tokenizer(row["prompt"])["input_ids"])
        with torch.inference_mode():
            scores = model(ids).logits[0].log_softmax(-1)
        losses += [-scores[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])]
    assert sum(losses) / len(losses) == pytest.approx(cast["loss_after"], abs=2e-3)  # FP32 arithmetic on cast weights
    assert model.get_parameter("lm_head.weight").to(getattr(torch, dtype)).float().equal(model.lm_head.weight)


def test_a_cast_that_costs_too_much_is_refused(trained, dataset, tmp_path):
    with pytest.raises(SystemExit, match="--dtype bfloat16 moves the loss on 6 validation rows .* nothing written"):
        merge(trained.adapter, tmp_path / "model", dtype="bfloat16", dataset_name=str(dataset), max_cast_loss=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="--dtype bfloat16 needs --dataset_name"):
        MergeArguments(adapter_path="a", output_dir=str(tmp_path / "b"), dtype="bfloat16")


def test_a_dry_run_proves_and_writes_nothing(trained, tmp_path, capsys):
    merge(trained.adapter, tmp_path / "model", dry_run=True)
    assert "Largest logit difference: merged to adapter" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(trained, tmp_path):
    """A file may not grow past 100 kB: writing the weights fails half way, as on a full disk."""
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); import merge_and_push as m"
    )
    arguments = ["--adapter_path", str(trained.adapter), "--output_dir", str(tmp_path / "model")]
    command = [sys.executable, "-c", f"{limited}; m.main(m.parse_arguments({arguments!r}))"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_one_clear_line(result, 1, f"--output_dir {tmp_path / 'model'}", "nothing written")
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_seen_before_anything_is_written(trained, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(SystemExit, match="GiB are needed, 0.0 GiB are free: nothing written"):
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


def value(number, low=None, high=None):
    return {"value": number, "low": low, "high": high}


def make_scores(folder):
    """What evaluate_model.py writes, of three systems, some of it not measured."""
    greedy = {"scores": {"bleu": value(3.08, 2.5, 3.75), "chrf": value(None)}, "behaviour": {"share_ended": 0.92}}
    sampled = {"scores": {"bleu": value(2.5), "rougeL": value(0.1567, 0.15, 0.16)}, "behaviour": {}}
    systems = {
        "fine-tuned": {"kind": "fine-tuned", "model": "model", "decodings": {"greedy": greedy, "sampled": sampled}},
        "base": {"kind": "base", "model": "base", "decodings": {"greedy": {"scores": {"bleu": value(3.01)}}}},
        "copy": {"kind": "no model", "model": None, "decodings": {"none": {"scores": {"bleu": value(0.4)}}}},
    }
    systems["fine-tuned"]["bits_per_byte"] = value(1.234, 1.2, 1.3)
    pair = {"system": "fine-tuned", "baseline": "base", "decoding": "greedy", "metric": "bleu"}
    drafts = {"fine-tuned": "We measure {{ noise }}.\nTwice.", "base": ""}
    scores = {
        "num_examples": 300,
        "dataset": {"name": "alice/pairs", "split": "test", "revision": "c0ffee"},
        "bertscore_model": "roberta-large",
        "signatures": {"bleu": "nrefs:1|case:lc"},
        "systems": systems,
        "comparisons": [{**pair, "difference": 0.07, "low": -0.1, "high": 0.25, "p": 0.01, "p_holm": 0.04}],
        "samples": [{"id": "1", "problem": "Noise is loud.", "reference": "We listen.", "drafts": drafts}],
    }
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


def test_a_card_from_the_merge_alone_parses_and_claims_no_score(merged, base):
    card = ModelCard.load(merged / "README.md")
    assert card.data.eval_results is None and "Not scored yet." in card.text
    assert card.data.get("license") is None and card.data.get("base_model") is None, "nothing states them"
    assert f"# Research approach drafts, from {base.name}" in card.text
    assert "| steps | 4 |" in card.text and "![The loss curve](loss_curve.png)" in card.text
    assert "it invents" in card.text.lower() and "novelty" in card.text


def test_a_card_tells_the_scores_with_intervals_baselines_and_samples(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    write_card(folder, "alice/model", str(make_scores(tmp_path / "scores")))
    card = ModelCard.load(folder / "README.md")
    for line in (
        "| system | decoding | BLEU | ROUGE-L | bits a byte | ended by itself |",
        "| fine-tuned | greedy | 3.08 [2.50, 3.75] | – | 1.234 [1.200, 1.300] | 92 % |",
        "| fine-tuned | sampled | 2.50 | 0.157 [0.150, 0.160] | 1.234 [1.200, 1.300] | – |",
        "| copy | none | 0.40 | – | – | – |",
        "| fine-tuned − base | greedy | BLEU | 0.070 [-0.100, 0.250] | 0.0400 |",
        "- bleu: `nrefs:1|case:lc`",
        "> **fine-tuned.** We measure {{ noise }}. Twice.",
        "> **base.** (nothing)",
    ):
        assert line in card.text.splitlines(), line
    results = [(r.metric_type, r.metric_name, r.metric_value, r.dataset_revision) for r in card.data.eval_results]
    assert results == [
        ("bleu", "BLEU, greedy", 3.08, "c0ffee"),
        ("bleu", "BLEU, sampled", 2.5, "c0ffee"),
        ("rougeL", "ROUGE-L, sampled", 0.1567, "c0ffee"),
    ]
    assert (card.data.model_name, card.data.library_name) == ("model", "transformers")
    before = (folder / "README.md").read_bytes()
    write_card(folder, "alice/model", None)  # the scores are in the folder now
    assert (folder / "README.md").read_bytes() == before
    assert {path.name for path in folder.iterdir()} - {path.name for path in merged.iterdir()} == {"scores.json"}


def test_a_card_states_names_and_licences_that_its_records_state(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    report = {"source": {"name": "bob/abstracts", "license": "cc0-1.0"}, "hub": {"dataset": "alice/pairs"}}
    (folder / "build_report.json").write_text(json.dumps(report), encoding="utf-8")
    merge_report = json.loads((folder / "merge.json").read_text(encoding="utf-8"))
    merge_report |= {"base": "alice/base", "base_license": "apache-2.0"}
    (folder / "merge.json").write_text(json.dumps(merge_report), encoding="utf-8")
    write_card(folder, "alice/model", None)
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "apache-2.0",
        "alice/base",
        ["alice/pairs"],
    )
    assert "under the licence that this source states: cc0-1.0" in card.text


def test_the_merge_takes_the_licences_from_base_and_dataset(trained, base, dataset, tmp_path):
    other, pairs = shutil.copytree(base, tmp_path / "other"), shutil.copytree(dataset, tmp_path / "pairs")
    (other / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    report = json.loads((pairs / "build_report.json").read_text(encoding="utf-8"))
    report["source"]["license"] = "cc0-1.0"
    (pairs / "build_report.json").write_text(json.dumps(report), encoding="utf-8")
    merge(trained.adapter, tmp_path / "model", base_model_name_or_path=str(other), dataset_name=str(pairs))
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "apache-2.0" and "licence that this source states: cc0-1.0" in card.text


def test_records_that_are_not_ours_end_in_one_line(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    (tmp_path / "scores.json").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit, match="scores.json is no JSON"):
        write_card(folder, "alice/model", str(tmp_path))
    (tmp_path / "scores.json").write_text('{"systems": {"a": {"bleu": 1}}}', encoding="utf-8")
    with pytest.raises(SystemExit, match="its records are not as our scripts write them"):
        write_card(folder, "alice/model", str(tmp_path))
    assert contents(folder) == contents(merged)
    with pytest.raises(ValueError, match="--scores .*model holds no scores.json"):
        MergeArguments(push_only=str(folder), hub_model_id="alice/model", scores=str(merged))


def test_a_full_disk_while_the_card_is_written_leaves_the_model_as_it_was(merged, tmp_path):
    folder, scores = shutil.copytree(merged, tmp_path / "model"), make_scores(tmp_path / "scores")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); import merge_and_push as m"
    command = [sys.executable, "-c", f"{limited}; m.write_card(m.Path({str(folder)!r}), 'a/b', {str(scores)!r})"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_one_clear_line(result, 1, f"{folder / 'scores.json'} cannot be written", "The folder is as it was")
    assert contents(folder) == contents(merged)


def run_snippet(card: str, name: str, folder, capsys) -> str:
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert f'"{name}"' in snippet
    exec(snippet.replace(f'"{name}"', repr(str(folder))), {})
    return capsys.readouterr().out.strip()


def test_the_snippet_of_the_card_drafts(merged, capsys):
    draft = run_snippet((merged / "README.md").read_text(encoding="utf-8"), merged.name, merged, capsys)
    assert len(draft) > 10 and not any(tag in draft for tag in TAGS)


def test_the_snippet_of_the_adapters_card_drafts_the_same_and_names_no_path(trained, merged, base, tmp_path, capsys):
    stage_adapter(trained.adapter, "alice/adapter", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == base.name
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "peft" and card.data.get("base_model") is None
    content = card.content.replace(f'from_pretrained("{base.name}"', f"from_pretrained({str(base)!r}")
    draft = run_snippet(content, "alice/adapter", tmp_path, capsys)
    assert draft == run_snippet((merged / "README.md").read_text(encoding="utf-8"), merged.name, merged, capsys)


@pytest.mark.parametrize(
    "name, public",
    [
        ("alice/base", "alice/base"),
        ("gpt2", "gpt2"),
        ("/home/alice/models/base", "base"),
        (r"C:\Users\alice\base", "base"),
        ("../models/base", "base"),
        ("~/models/base", "base"),
    ],
)
def test_a_name_that_is_published_is_a_hub_id_or_a_last_name(name, public):
    assert public_name(name) == public


@pytest.fixture
def hub(monkeypatch):
    """A Hub that the script's functions talk to from this process, without waiting between their clients' retries."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer(users={"write-token": "alice"}, read_tokens={"read-token": "alice"}) as hub:
        api = functools.partial(HfApi, endpoint=hub.endpoint, token="write-token")
        monkeypatch.setattr(huggingface_hub, "HfApi", api)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "write-token")
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub


def publish(folder, repo_id="alice/model", **arguments):
    main(MergeArguments(push_only=str(folder), hub_model_id=repo_id, **arguments))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shown(hub, repo_id="alice/model", revision="main") -> dict[str, bytes]:
    files = hub.repo("model", repo_id).files(revision)
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def make_sharded(merged, folder):
    """The model of before: other weights, in several files, which a reader of the new one must not meet."""
    shutil.copytree(merged, folder)
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(merged)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


@uploads
def test_publishing_is_one_commit_tagged_with_no_file_of_the_model_before(hub, merged, tmp_path, capsys):
    publish(make_sharded(merged, tmp_path / "old"))
    first = hub.repo("model", "alice/model").at()
    folder = shutil.copytree(merged, tmp_path / "new")
    (folder / "checkpoint-4").mkdir()
    for name in ("notes.txt", "optimizer.pt", "checkpoint-4/model.safetensors", ".hidden.json"):
        (folder / name).write_bytes(b"no business of the Hub")
    publish(folder)
    names = {path.name for path in merged.iterdir()}
    assert shown(hub) == {name: data for name, data in contents(merged).items() if name != "README.md"} | {
        "README.md": (folder / "README.md").read_bytes()
    }
    repository = hub.repo("model", "alice/model")
    assert len(repository.commits) == 3 and repository.private and repository.at().parent == first.sha
    assert len(repository.tags) == 2 and repository.at().sha in repository.tags.values()
    assert f"tag {list(repository.tags)[-1]}" in capsys.readouterr().out and shown(hub).keys() == names
    publish(folder)
    assert len(repository.commits) == 3 and len(repository.tags) == 2, "the same again is no commit"


@uploads
def test_scores_reach_the_card_that_is_published(hub, merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder)
    publish(folder, scores=str(make_scores(tmp_path / "scores")))
    card = ModelCard(shown(hub)["README.md"].decode())
    assert "| base | greedy | 3.01 |" in card.text and card.data.eval_results[0].metric_value == 3.08
    assert 'model="alice/model"' in card.text and "scores.json" in shown(hub)
    assert hub.count("PUT", "^/lfs/") == len({*folder.glob("*.safetensors"), *folder.glob("*.png")}), "sent once"


@uploads
def test_nothing_that_is_published_tells_of_this_machine(hub, trained, merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder, adapter_path=str(trained.adapter), hub_adapter_id="alice/adapter")
    for repository in ("alice/model", "alice/adapter"):
        for name, data in shown(hub, repository).items():
            for secret in (str(tmp_path.parent), str(Path.home()) + "/", "write-token"):
                assert secret.encode() not in data, f"{repository} {name} tells {secret}"
            if name.endswith((".json", ".md")) and name != "tokenizer.json":  # a vocabulary may hold any word
                assert not re.search(rf"\b{re.escape(platform.node())}\b", data.decode()), f"{name} tells the host"
    assert "adapter_model.safetensors" in shown(hub, "alice/adapter")
    (folder / "run.json").write_text(json.dumps({"base": {"name": "/home/alice/base"}}), encoding="utf-8")
    with pytest.raises(SystemExit, match="Not published: .*run.json holds a path on this machine"):
        publish(folder)
    (folder / "run.json").write_text(json.dumps({"token": "hf_" + "a" * 34}), encoding="utf-8")
    with pytest.raises(SystemExit, match="Not published: .*run.json holds a Hub token"):
        publish(folder)


@uploads
def test_a_public_repository_is_published_to_when_asked_alone(hub, merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder, "alice/open", public=True)
    assert not hub.repo("model", "alice/open").private
    with pytest.raises(SystemExit, match="the repository is public: add --public"):
        publish(folder, "alice/open")


@uploads
def test_what_arrives_damaged_is_noticed_and_not_tagged(hub, merged, tmp_path, monkeypatch):
    apply = Repo.apply

    def damage(self, files, key, path, **value):
        apply(self, files, key, path, **value)
        if path == "model.safetensors":
            files[path] = Blob(files[path].data[:-1] + b"#", is_lfs=True)

    monkeypatch.setattr(Repo, "apply", damage)
    with pytest.raises(SystemExit, match="read back, model.safetensors is not what was sent"):
        publish(shutil.copytree(merged, tmp_path / "model"))
    assert hub.repo("model", "alice/model").tags == {}


@pytest.mark.parametrize(
    "fault, where, words",
    [
        (401, "whoami", "the Hub does not accept the token"),
        (403, "/commit/", "the token may not write there"),
        (409, "/commit/", "the Hub is busy with another change"),
        (412, "/commit/", "somebody else changed the repository"),
        (429, "/commit/", "the Hub asks for a pause"),
        (500, "/tag/", r"the Hub failed \(500\)"),
        (403, "^/lfs/", "the token may not write there"),
        ("drop", "/commit/", "no connection to the Hub"),
    ],
)
@uploads
def test_a_failure_is_told_in_one_line_with_the_command_to_finish(hub, merged, tmp_path, fault, where, words):
    folder, scores = shutil.copytree(merged, tmp_path / "model"), make_scores(tmp_path / "scores")
    hub.fail(fault, path=where, times=9)
    with pytest.raises(SystemExit, match=f"Not published to alice/model: {words}") as caught:
        publish(folder, scores=str(scores))
    line = caught.value.code
    assert "\n" not in line and f"{folder} is whole" in line
    later = shlex.split(line.partition("later: python merge_and_push.py ")[2])
    hub.recover()
    main(parse_arguments(later))
    assert shown(hub) == contents(folder)


@pytest.mark.parametrize(
    "token, repo_id, words",
    [
        (None, "alice/model", "no Hub token (`hf auth login`, or HF_TOKEN)"),
        ("read-token", "alice/model", "the token is read-only: make one with write access"),
        ("write-token", "bob/model", "the name bob is not yours: you are alice"),
        ("unknown-token", "alice/model", "the Hub does not accept the token"),
    ],
)
def test_a_token_that_will_not_do_is_told_in_one_line(merged, tmp_path, token, repo_id, words):
    folder = shutil.copytree(merged, tmp_path / "model")
    with HubServer(users={"write-token": "alice"}, read_tokens={"read-token": "alice"}) as hub:
        result = push_only(hub.environment(token=token, home=tmp_path / "home"), folder, repo_id)
        assert hub.repos == {}
    assert_one_clear_line(result, 1, f"Not published to {repo_id}: {words}", f"--push_only {folder} --hub_model_id")
    assert (folder / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()


def test_no_network_is_told_in_one_line(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    with HubServer(users={}) as gone:
        environment = gone.environment(token="write-token", home=tmp_path / "home")
    result = push_only(environment, folder, "alice/model")
    assert_one_clear_line(result, 1, "no connection to the Hub", f"{folder} is whole")
    result = push_only({**environment, "HF_HUB_OFFLINE": "1"}, folder, "alice/model")
    assert_one_clear_line(result, 1, "offline", f"{folder} is whole")


def push_only(environment, folder, repo_id):
    command = [sys.executable, "merge_and_push.py", "--push_only", str(folder), "--hub_model_id", repo_id]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_model_that_changed_since_it_was_merged_is_not_published(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-4] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(SystemExit, match="model.safetensors is not the file that was written: .* merge.json"):
        publish(folder)


def test_what_may_be_published_is_checked_before_anything_is_sent(merged, trained, tmp_path, capsys):
    folder = shutil.copytree(merged, tmp_path / "model")
    publish(folder, dry_run=True)
    listed = capsys.readouterr().out
    assert "model.safetensors" in listed and "Dry run: nothing published to alice/model" in listed
    (folder / "merge.json").unlink()
    publish(folder, dry_run=True)  # a model that was trained whole has a run.json alone
    (folder / "run.json").unlink()
    with pytest.raises(SystemExit, match="holds no model of our scripts"):
        publish(folder)
    with pytest.raises(SystemExit, match="holds no whole model"):
        publish(trained.adapter)
    for arguments, words in (
        ({}, "name --adapter_path and --output_dir"),
        ({"push_only": "a"}, "publishing needs --hub_model_id user/name, got None"),
        ({"push_only": "a", "hub_model_id": "b/c", "hub_adapter_id": "b/c"}, "must be another user/name, got b/c"),
        ({"push_only": "a", "hub_model_id": "b/c", "hub_adapter_id": "b/d"}, "--hub_adapter_id needs --adapter_path"),
    ):
        with pytest.raises(ValueError, match=words):
            MergeArguments(**arguments)


def make_schedule(seed: int) -> list[dict]:
    """Two to four things that go wrong with a publish, somewhere among its dozen requests."""
    rng = random.Random(seed)
    faults = [401, 403, 409, 429, 500, "drop", "lost", "truncate"]
    places = ["", "", "", "^/lfs/", "/commit/", "/tag/", "/preupload/", "/objects/batch", "/tree/"]
    return [
        {
            "fault": rng.choice(faults),
            "path": (place := rng.choice(places)),
            "skip": rng.randrange(16) if not place else rng.randrange(2),
            "times": rng.choice([1, 2, 7]),
        }
        for _ in range(rng.randint(2, 4))
    ]


def survive(hub, old, new, seeds) -> None:
    """main is the old model or the new one after every schedule, and a second run finishes without sending twice."""
    publish(old)
    begun = hub.repo("model", "alice/model")
    states, failures = {"old": contents(old), "new": contents(new)}, 0
    for seed in seeds:
        repo_id = f"alice/model-{seed}"
        repository = hub.repos["model", repo_id] = copy.deepcopy(begun)
        repository.name = repo_id
        write_card(new, repo_id, None)
        states["new"] = contents(new)
        for rule in make_schedule(seed):
            hub.fail(**rule)
        try:
            publish(new, repo_id)
        except SystemExit as ended:
            failures += 1
            assert "\n" not in ended.code and "is whole. To publish it later: python merge_and_push.py" in ended.code
        hub.recover()
        assert shown(hub, repo_id) in states.values(), f"seed {seed}: main is neither the old model nor the new one"
        arrived, before = set(repository.uploads), len(hub.requests)
        publish(new, repo_id)
        assert shown(hub, repo_id) == states["new"], f"seed {seed}"
        sent = {path.split("/")[2] for method, path in hub.requests[before:] if method == "PUT"}
        assert not sent & arrived, f"seed {seed}: sent again what had arrived"
        assert repository.at().sha in repository.tags.values(), f"seed {seed}: not tagged"
        assert len(repository.commits) == len(begun.commits) + 1, f"seed {seed}: more than one commit"
    assert failures > len(seeds) / 2, "schedules that hardly ever fail prove little"


def both_models(merged, tmp_path):
    """Two models that load, so that a main which holds the files of either loads, too."""
    old, new = make_sharded(merged, tmp_path / "old"), shutil.copytree(merged, tmp_path / "new")
    for folder in (old, new):
        assert AutoModelForCausalLM.from_pretrained(folder) and AutoTokenizer.from_pretrained(folder)
    return old, new


@uploads
def test_whatever_request_fails_main_is_the_old_model_or_the_new_one(hub, merged, tmp_path):
    survive(hub, *both_models(merged, tmp_path), range(15))


@pytest.mark.slow
@uploads
def test_two_hundred_schedules_of_faults(hub, merged, tmp_path):
    survive(hub, *both_models(merged, tmp_path), range(200))


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
