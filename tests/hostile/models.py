"""Models and records that are damaged, that bring code, or whose templates do not end."""

import builtins
import json
from pathlib import Path

from hypothesis import strategies as st

from hostile.drawing import (
    BYTES,
    DAMAGES,
    VALUES,
    end_before_drafting,
    list_places,
    serve_nobody,
    spoil,
)
from hostile.tries import REPO, Case, Result, command


@st.composite
def weights(draw) -> Case:
    """Weights that are cut off, changed, missing, or a folder."""
    script, options, folder = draw(
        st.sampled_from(
            [
                ("draft_approach", {}, "model"),
                ("draft_approach", {"--model_name_or_path": "adapter"}, "adapter"),
                ("draft_approach", {"--model_name_or_path": "adapter", "--base_model_name_or_path": "base"}, "base"),
                ("merge_and_push", {}, "adapter"),
                ("merge_and_push", {}, "base"),
                ("train_sft", {}, "base"),
                ("app", {}, "model"),
            ]
        )
    )
    how, place, byte = draw(st.sampled_from([*DAMAGES[:6], "missing", "folder"])), draw(st.floats(0, 1)), draw(BYTES)
    forgets = folder == "adapter" and draw(st.booleans())  # of a run with other tools there is no record

    def harm(patch) -> None:
        serve_nobody(patch)
        path = Path(folder, "adapter_model.safetensors" if folder == "adapter" else "model.safetensors")
        data = path.read_bytes()
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how != "missing":
            path.write_bytes(spoil(data, how, place, byte))
        if forgets:
            Path(folder, "run.json").write_text("{}", encoding="utf-8")

    return Case(script, command(script, options), harm)


# Script, options, and the records that it reads of what these name.
RECORDS = [
    ("merge_and_push", {}, ("adapter/run.json", "adapter/adapter_config.json", "base/config.json", "base/README.md")),
    ("merge_and_push", {"--dataset_name": "pairs"}, ("pairs/build_report.json",)),
    (
        "merge_and_push",
        {"--push_only": "model", "--scores": "scores", "--hub_model_id": REPO, "--dry_run": "true"},
        (
            "model/run.json",
            "model/merge.json",
            "scores/scores.json",
            "model/config.json",
            "model/tokenizer_config.json",
        ),
    ),
    ("write_report", {}, ("scores/scores.json", "scores/predictions.jsonl", "adapter/run.json")),
    (
        "draft_approach",
        {},
        ("model/config.json", "model/generation_config.json", "model/tokenizer.json", "model/tokenizer_config.json"),
    ),
    (
        "draft_approach",
        {"--model_name_or_path": "adapter", "--base_model_name_or_path": "base"},
        ("adapter/adapter_config.json", "adapter/run.json", "adapter/tokenizer_config.json", "base/config.json"),
    ),
    ("evaluate_model", {}, ("model/run.json", "base/tokenizer.json", "base/tokenizer_config.json")),
    ("train_sft", {}, ("base/config.json", "base/tokenizer_config.json", "base/generation_config.json")),
    ("app", {}, ("model/config.json", "model/tokenizer_config.json", "pairs/README.md")),
]


def replace_one(text: str, choice: int, value: object) -> str:
    """A JSON text with one of its values replaced, or taken out."""
    record = json.loads(text)
    *outer, last = (None, *list_places(record)[choice % len(list_places(record))])
    if not outer:
        return json.dumps(value)
    part = record
    for key in outer[1:]:
        part = part[key]
    part[last] = value
    return json.dumps(record)


@st.composite
def records(draw) -> Case:
    """Records and configurations that are damaged, or of which one value is another."""
    script, options, files = draw(st.sampled_from(RECORDS))
    name, how = draw(st.sampled_from(files)), draw(st.sampled_from(["a value", "a value", "a value", *DAMAGES]))
    choice, value, place = draw(st.integers(0, 500)), draw(st.sampled_from(VALUES)), draw(st.floats(0, 1))

    def harm(patch) -> None:
        serve_nobody(patch)
        path = Path(name)
        if how == "a value" and path.suffix == ".json":
            path.write_text(replace_one(path.read_text(encoding="utf-8"), choice, value), encoding="utf-8")
        elif how == "a value" and path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            lines[choice % len(lines)] = replace_one(lines[choice % len(lines)], choice, value)
            path.write_text("\n".join(lines), encoding="utf-8")
        elif how == "a value":
            path.write_text(f"---\nlicense: {json.dumps(value)}\n---\n", encoding="utf-8")
        else:
            data = path.read_bytes() if path.exists() else b"---\nlicense: mit\n---\n"
            path.write_bytes(spoil(data, how, place, choice % 256))

    words = command(script, options)
    return Case(script, words, harm, may_change=("model/README.md",) if "--push_only" in options else ())


TEMPLATES = [
    "{{ raise_exception('no') }}",
    "{% for %}",
    "{{ messages[5].content }}",
    "{{ messages.__class__.__mro__ }}",
    "{% include 'a' %}",
    "{{ 1 // 0 }}",
    "{{ x.y.z }}",
    "{% set x = namespace(a=1) %}{{ x.b.c }}",
    "{{ messages | tojson }}",
    "",
]


@st.composite
def templates(draw) -> Case:
    """Chat templates that fail."""
    script, folder = draw(
        st.sampled_from([("evaluate_model", "base"), ("draft_approach", "model"), ("merge_and_push", "adapter")])
    )
    template = draw(st.sampled_from(TEMPLATES)) + draw(st.text("ab{}%", max_size=4))

    def harm(patch) -> None:
        end_before_drafting(patch)
        Path(folder, "chat_template.jinja").write_text(template, encoding="utf-8")

    return Case(script, command(script), harm)


@st.composite
def code(draw) -> Case:
    """Models and tokenizers that bring code of their own, to a user who says yes to everything."""
    script, folder, options = draw(
        st.sampled_from(
            [
                ("draft_approach", "model", {}),
                ("draft_approach", "base", {"--model_name_or_path": "adapter", "--base_model_name_or_path": "base"}),
                ("draft_approach", "adapter", {"--model_name_or_path": "adapter"}),
                ("merge_and_push", "base", {}),
                ("merge_and_push", "adapter", {}),
                ("train_sft", "base", {}),
                ("train_sft", "base", {"--preflight": "true"}),
                ("evaluate_model", "base", {}),
                ("prepare_dataset", "base", {"--tokenizer_name": "base", "--max_length": "100"}),
                ("app", "model", {}),
            ]
        )
    )
    brings = draw(st.sets(st.sampled_from(["config.json", "tokenizer_config.json"]), min_size=1))
    kind = draw(st.sampled_from(["harm", "llama"]))

    def harm(patch) -> None:
        serve_nobody(patch)
        patch.delattr(builtins, "harmed", raising=False)
        Path(folder, "harm.py").write_text(
            "import builtins\nbuiltins.harmed = True\nclass Harm: pass\n", encoding="utf-8"
        )
        told = {
            "config.json": {
                "model_type": kind,
                "auto_map": {"AutoConfig": "harm.Harm", "AutoModelForCausalLM": "harm.Harm"},
            },
            "tokenizer_config.json": {"tokenizer_class": "Harm", "auto_map": {"AutoTokenizer": ["harm.Harm", None]}},
        }
        for name in brings:
            path = Path(folder, name)
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            path.write_text(json.dumps({**before, **told[name]}), encoding="utf-8")

    def judge(result: Result) -> str | None:
        return "let in: its code was run" if hasattr(builtins, "harmed") else None

    return Case(script, command(script, options), harm, judge)
