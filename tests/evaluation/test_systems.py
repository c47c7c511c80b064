import pytest
from conftest import write_jsonl
from datasets import load_dataset
from transformers import AutoTokenizer

from approach.evaluation.systems import INSTRUCTION, base_prompts, load_predictions, name_tuned


def test_a_base_is_asked_in_every_way_it_understands(base, dataset):
    rows = load_dataset(str(dataset), split="test").to_list()[:2]
    examples = load_dataset(str(dataset), split="train").to_list()[:2]
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = base_prompts(tokenizer, rows, examples)
    assert plain == {"base": [r["problem"] for r in rows], "base, tags as text": [r["prompt"] for r in rows]}
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = base_prompts(tokenizer, rows, examples)
    assert list(chat) == ["base", "base, tags as text", "base, instructed", "base, two examples"]
    text, instruction = chat["base, two examples"][1], INSTRUCTION
    shown = "".join(f"[user] {instruction}{e['problem']}\n[assistant] {e['approach']}\n" for e in examples)
    assert text == f"{shown}[user] {instruction}{rows[1]['problem']}\n[assistant]"
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_predictions_of_others_are_named_where_one_is_missing(tmp_path):
    rows = [{"id": "a", "approach": ""}]
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "b", "prediction": ""}])
    with pytest.raises(SystemExit, match="other.jsonl: no prediction for row 'a'"):
        load_predictions([str(other)], rows)
    with pytest.raises(SystemExit, match="--predictions .*missing.jsonl"):
        load_predictions([str(tmp_path / "missing.jsonl")], rows)


def test_several_models_go_by_their_public_names(tmp_path):
    assert name_tuned([str(tmp_path / "one")]) == {"fine-tuned": str(tmp_path / "one")}
    models = [str(tmp_path / "one"), "user/two"]
    assert name_tuned(models) == {"fine-tuned: one": models[0], "fine-tuned: user/two": models[1]}
