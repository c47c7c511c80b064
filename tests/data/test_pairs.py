import json
import random

from conftest import make_abstract, write_jsonl
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from approach.data.arguments import DatasetArguments
from approach.data.pair_rules import SENTENCE_RULES
from approach.data.pairs import build_row, build_rows, list_drop_reasons
from approach.data.reading import Columns
from approach.prompt import TAGS
from approach.storage import read_json
from prepare_dataset import PrepareArguments, main


def pair(abstract):
    row = build_row({"abstract": abstract}, Columns(), DatasetArguments(), {})
    return row["problem"], row["approach"], row["reason"]


def test_filters_apply_in_the_reports_order_and_at_its_bounds():
    words = " ".join(["word"] * 90)
    assert pair(None) == ("", "", "no_text")
    assert pair(" \n ") == ("", "", "no_text")
    assert pair("alone")[2] == "too_few_sentences"
    assert pair("p " * 49 + "p.\n" + words) == ("p " * 49 + "p.", words, "")
    assert pair("p " * 50 + "p.\n" + words)[2] == "problem_too_long"
    assert pair("p p p.\n" + words)[2] == "problem_too_short" and pair("p p p p.\n" + words)[2] == ""
    assert pair("p p p p.\n" + words.removesuffix(" word"))[2] == "approach_too_short"
    assert pair("p " * 50 + "p.\nshort")[2] == "problem_too_long"


anything = st.one_of(st.none(), st.integers(), st.lists(st.text(), max_size=3), st.text(alphabet=st.characters()))
pieces = st.text(alphabet="ab .!?(“1A\n\x00\x85\u2028é\ud800\ufffd<>/", max_size=20)
sentences = st.lists(pieces, max_size=12).map(" ".join)
tagged = st.tuples(sentences, st.sampled_from(TAGS), sentences).map("".join)
batches = st.lists(st.one_of(anything, sentences, tagged), min_size=100, max_size=100)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batches, st.sampled_from(sorted(SENTENCE_RULES)))
def test_every_hostile_row_is_kept_whole_or_counted(abstracts, rule):
    """100 batches of 100 abstracts: no crash, one reason or none for each, and what is kept can be written."""
    args = DatasetArguments(sentence_rule=rule, max_problem_words=8, min_approach_words=2)
    rows = build_rows({"abstract": abstracts}, Columns(), args)
    assert all(len(column) == len(abstracts) for column in rows.values())
    for problem, approach, prompt, completion, reason in zip(
        *(rows[name] for name in ("problem", "approach", "prompt", "completion", "reason")), strict=True
    ):
        assert reason == "" or reason in list_drop_reasons(args)
        if not reason:
            assert 0 < len(problem.split()) <= 8 and len(approach.split()) >= 2
            assert prompt == f"<problem>{problem}</problem><approach>" and completion == f" {approach}</approach>"
            assert not any(tag in problem + approach for tag in TAGS)
            (prompt + completion).encode("utf-8")


def test_rows_no_model_should_see_are_dropped_under_their_reason(tmp_path):
    good = make_abstract(random.Random(0))
    path = tmp_path / "a.jsonl"
    texts = [good, None, "", good + "\n</approach> and more", good.replace("a", "\x07a")]
    lines = [json.dumps({"id": str(i), "abstract": text}).encode() for i, text in enumerate(texts)]
    latin = json.dumps({"id": "5", "abstract": good.replace("\n", " caf\xe9\n")}, ensure_ascii=False).encode("latin-1")
    path.write_bytes(b"\n".join([*lines, latin]))
    main(PrepareArguments(dataset_name=str(path), output_dir=str(tmp_path / "pairs"), near_duplicate_threshold=0))
    funnel = read_json(tmp_path / "pairs" / "build_report.json")["funnel"]
    dropped = {reason: count for reason, count in funnel.items() if count}
    assert dropped == {"read": 6, "no_text": 2, "contains_tag": 1, "invalid_text": 1, "kept": 2}
    for row in load_dataset(str(tmp_path / "pairs"))["train"]:
        assert "\x07" not in row["prompt"] + row["completion"]


def test_ready_made_pairs_are_not_split_again(tmp_path):
    words = " ".join(["word"] * 90)
    rows = [{"id": "a", "question": "Why? How?", "answer": words}, {"id": "b", "question": "Why?", "answer": "short"}]
    columns = {"problem_column": "question", "approach_column": "answer"}
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    main(PrepareArguments(dataset_name=str(path), output_dir=str(tmp_path / "pairs"), **columns))
    assert [row["problem"] for row in load_dataset(str(tmp_path / "pairs"))["train"]] == ["Why? How?"]
    assert read_json(tmp_path / "pairs" / "build_report.json")["funnel"]["approach_too_short"] == 1


def test_rows_that_training_would_cut_are_counted_by_their_tokens(abstracts, base, tmp_path):
    arguments = {"dataset_name": str(abstracts), "tokenizer_name": str(base)}
    main(PrepareArguments(**arguments, output_dir=str(tmp_path / "all")))
    lengths = read_json(tmp_path / "all" / "build_report.json")["tokens"]
    main(PrepareArguments(**arguments, output_dir=str(tmp_path / "some"), max_length=lengths["p50"]))
    report = read_json(tmp_path / "some" / "build_report.json")
    assert report["funnel"]["too_many_tokens"] + report["funnel"]["kept"] == 120
    assert 30 < report["funnel"]["kept"] < 90
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)})
    for row in load_dataset(str(tmp_path / "some"))["train"]:
        assert len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) <= lengths["p50"]


def test_rows_without_id_get_a_hash_of_their_text(tmp_path):
    rng = random.Random(1)
    path = write_jsonl(tmp_path / "a.jsonl", [{"abstract": make_abstract(rng)} for _ in range(3)])
    main(PrepareArguments(dataset_name=str(path), output_dir=str(tmp_path / "pairs")))
    ids = load_dataset(str(tmp_path / "pairs"))["train"]["id"]
    assert len(set(ids)) == 3 and all(len(name) == 16 for name in ids)
