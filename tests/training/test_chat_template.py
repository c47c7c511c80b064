import pytest
from conftest import make_base
from datasets import load_dataset
from transformers import AutoTokenizer

import prepare_dataset
from approach.prompt import TAGS, add_tags
from approach.training.data import tokenize


@pytest.fixture
def tagged(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    add_tags(tokenizer)
    return tokenizer


def render(tokenizer, *messages, **arguments) -> list[int]:
    turns = [{"role": role, "content": content} for role, content in messages]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, **arguments)


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
