import pytest
from transformers import AutoTokenizer

from approach.prompt import add_tags
from approach.training.data import shorten, tokenize


@pytest.fixture
def tagged(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    add_tags(tokenizer)
    return tokenizer


def test_labels_are_the_approach_and_its_end_tag_and_nothing_else(trained, tagged):
    """Exact, from the batches that the trainer really sees (the original run labelled padding)."""
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
    assert tokenize(batch, tagged, len(whole), "drop")["outcome"] == ["complete"]
    assert tokenize(batch, tagged, len(whole) - 1, "drop")["outcome"] == ["dropped"]
    assert tokenize(batch, tagged, len(whole) - 1, "shorten")["outcome"] == ["shortened"]
    assert tokenize(batch, tagged, 3, "shorten")["outcome"] == ["dropped"]


@pytest.mark.parametrize("abbreviation", ["Smith et al. (2020)", "Fig. 3", "e.g. BERT", "Eq. (4)", "J. Smith"])
def test_no_abbreviation_ends_a_shortened_approach(tagged, abbreviation):
    prompt, completion = "<problem>p</problem><approach>", f" We learn. We follow {abbreviation} in this.</approach>"
    whole = tagged(prompt + completion)["input_ids"]
    assert shorten(prompt, completion, tagged, len(whole) - 1) == tagged(f"{prompt} We learn.</approach>")["input_ids"]


def test_sentences_of_a_tokenized_corpus_end_at_a_stop_set_off_by_spaces(tagged):
    prompt, completion = "<problem>p</problem><approach>", " we learn @xmath0 . it is fast .</approach>"
    expected = tagged(f"{prompt} we learn @xmath0 .</approach>")["input_ids"]
    assert shorten(prompt, completion, tagged, len(expected) + 1) == expected
