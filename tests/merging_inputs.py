"""Adapters, bases and scores for the tests of merging, and the merge as a user asks for it."""

import json

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from approach.embeddings import add_tag_tokens
from approach.merging.merge import save_model, set_generation_defaults
from approach.prompt import END_TAG
from approach.storage import write_json
from merge_and_push import MergeArguments, main


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


def make_merged(base, folder):
    """A model as merging leaves it, of a base that nobody has trained, with weights that do not repeat one token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(20 if "proj" in name else 1)
    add_tag_tokens(model, tokenizer)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.eos_token = END_TAG
    set_generation_defaults(model, tokenizer)
    folder.mkdir()
    write_json(folder / "merge.json", {"files": save_model(model, tokenizer, folder), "difference_to_adapter": 0.0})
    return folder


def value(number, low=None, high=None):
    return {"value": number, "low": low, "high": high}


def make_scores(folder):
    """What evaluate_model.py writes, of three systems, some of it not measured."""
    greedy = {
        "scores": {
            "specificity": value(0.0123, 0.01, 0.0151),
            "found_first": value(0.5),
            "bleu": value(3.08, 2.5, 3.75),
            "chrf": value(None),
        },
        "behaviour": {"share_ended": 0.92},
    }
    sampled = {"scores": {"bleu": value(2.5), "rougeL": value(0.1567, 0.15, 0.16)}, "behaviour": {}}
    systems = {
        "fine-tuned": {"kind": "fine-tuned", "model": "model", "decodings": {"greedy": greedy, "sampled": sampled}},
        "base": {"kind": "base", "model": "base", "decodings": {"greedy": {"scores": {"bleu": value(3.01)}}}},
        "copy": {"kind": "no model", "model": None, "decodings": {"none": {"scores": {"bleu": value(0.4)}}}},
    }
    systems["fine-tuned"] |= {"bits_per_byte": value(1.234, 1.2, 1.3), "problem_gain": value(0.0211, 0.02, 0.03)}
    pair = {"system": "fine-tuned", "baseline": "base", "decoding": None, "metric": "problem_gain"}
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
