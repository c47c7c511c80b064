"""A new pair rule is one function and one line of PAIR_RULES: all else reads the table."""

import pytest
from conftest import make_abstract, write_jsonl
from datasets import load_dataset

from approach.data.pair_rules import PAIR_RULES, Pair, PairRule
from approach.errors import UserError
from approach.storage import read_json
from prepare_dataset import PrepareArguments, main, parse_arguments


def make_last_sentence_pair(abstract, sentences, args):
    if sentences[-1] == "Nothing.":
        return Pair(reason="nothing_last")
    return Pair(sentences[-1], " ".join(sentences[:-1]), columns={"num_sentences": len(sentences)})


@pytest.fixture
def last_sentence(monkeypatch):
    rule = PairRule(
        make_last_sentence_pair,
        "the last sentence is the problem.",
        min_approach_words=7,
        drop_reasons=("nothing_last",),
        columns={"num_sentences": "int64"},
        summarize=lambda rows: {"longest": max(rows["num_sentences"]), "warnings": ["the last is not the first"]},
    )
    monkeypatch.setitem(PAIR_RULES, "last_sentence", rule)


def test_a_rule_is_added_by_one_line(last_sentence, tmp_path, capsys):
    import random

    rows = [{"id": str(i), "abstract": make_abstract(random.Random(i))} for i in range(20)]
    rows.append({"id": "nothing", "abstract": "We try.\nNothing."})
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    words = ["--dataset_name", str(path), "--output_dir", str(tmp_path / "pairs"), "--pair_rule", "last_sentence"]
    words += ["--min_problem_words", "1"]
    main(parse_arguments(words))
    train = load_dataset(str(tmp_path / "pairs"))["train"]
    assert train.column_names == ["id", "problem", "approach", "prompt", "completion", "num_sentences"]
    *approach, problem = rows[int(train[0]["id"])]["abstract"].split("\n")
    assert (train[0]["problem"], train[0]["approach"]) == (problem, " ".join(approach))
    assert train[0]["num_sentences"] == len(approach) + 1
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert report["funnel"]["nothing_last"] == 1 and report["funnel"]["kept"] == 20
    assert report["arguments"]["pair_rule"] == "last_sentence" and report["arguments"]["min_approach_words"] == 7
    assert report["last_sentence"]["longest"] == max(len(row["abstract"].split("\n")) for row in rows)
    card = (tmp_path / "pairs" / "README.md").read_text(encoding="utf-8")
    assert "cut from abstracts: the last sentence is the problem;" in card
    assert "- name: num_sentences\n    dtype: int64" in card and "| nothing last | 1 |" in card
    printed = capsys.readouterr()
    assert "--pair_rule last_sentence: approaches of 7 words or more are kept" in printed.out
    assert "warning: --pair_rule last_sentence: the last is not the first" in printed.err


def test_a_rule_that_is_not_in_the_table_is_refused_with_those_that_are(last_sentence, capsys):
    with pytest.raises((UserError, SystemExit)):
        parse_arguments(["--output_dir", "pairs", "--pair_rule", "guess"])
    assert "'first_sentence', 'roles', 'labels', 'last_sentence'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--keep_findings needs --pair_rule roles"):
        PrepareArguments(output_dir="pairs", pair_rule="last_sentence", keep_findings=True)
