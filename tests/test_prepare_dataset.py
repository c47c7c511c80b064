import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_clear_line, make_abstract, run_script, write_jsonl
from datasets import Dataset, load_dataset

from prepare_dataset import PrepareArguments, build_pair, main, split_lines, split_report


def pair(abstract, **arguments):
    return build_pair(abstract, PrepareArguments(output_dir="unused", **arguments))


@pytest.mark.parametrize(
    ("abstract", "sentences"),
    [
        ("One ends here. Two starts.", ["One ends here.", "Two starts."]),
        ("Is it? Yes! It is.", ["Is it?", "Yes!", "It is."]),
        ("Sizes grow. 12 runs follow.", ["Sizes grow.", "12 runs follow."]),
        ("It said so. “Quoted” text. (In brackets.)", ["It said so.", "“Quoted” text.", "(In brackets.)"]),
        ("Some models, e.g. BERT, differ. We ask why.", ["Some models, e.g. BERT, differ.", "We ask why."]),
        ("As Dr. Smith showed, it holds. We extend it.", ["As Dr. Smith showed, it holds.", "We extend it."]),
        ("it is lower-cased . \n so lines decide .", ["it is lower-cased .", "so lines decide ."]),
        ("  Stripped first. \n\n Then split.  ", ["Stripped first.", "Then split."]),
        ("only one sentence", ["only one sentence"]),
    ],
)
def test_report_rule(abstract, sentences):
    assert split_report(abstract) == sentences


def test_lines_rule_takes_lines_and_nothing_else():
    assert split_lines(" one . two \n\n  three \t four \n") == ["one . two", "three four"]


def test_filters_apply_in_the_reports_order_and_at_its_bounds():
    words = " ".join(["word"] * 90)
    assert pair(None) == ("", "", "not_text")
    assert pair(" \n ") == ("", "", "not_text")
    assert pair("alone")[2] == "too_few_sentences"
    assert pair(" ".join(["p"] * 50) + "\n" + words) == (" ".join(["p"] * 50), words, "")
    assert pair(" ".join(["p"] * 51) + "\n" + words)[2] == "problem_too_long"
    assert pair("p\n" + words.removesuffix(" word"))[2] == "approach_too_short"
    assert pair(" ".join(["p"] * 51) + "\nshort")[2] == "problem_too_long"


def test_dataset_opens_and_says_what_it_holds(abstracts, dataset):
    splits = load_dataset(str(dataset))
    assert {name: len(split) for name, split in splits.items()} == {"train": 108, "validation": 6, "test": 6}
    assert splits["train"].column_names == ["id", "problem", "approach", "prompt", "completion"]
    lines = abstracts.read_text(encoding="utf-8").splitlines()
    source = {row["id"]: row["abstract"] for row in map(json.loads, lines)}
    seen = [row for split in splits.values() for row in split]
    assert sorted(row["id"] for row in seen) == sorted(source)
    for row in seen:
        first, *rest = source[row["id"]].split("\n")
        assert (row["problem"], row["approach"]) == (first, " ".join(rest))
        assert row["prompt"] == f"<problem>{first}</problem><approach>"
        assert row["completion"] == f" {' '.join(rest)}</approach>"
    report = json.loads((dataset / "build_report.json").read_text(encoding="utf-8"))
    assert report["funnel"]["kept"] == sum(report["splits"].values()) == 120
    assert "| kept | 120 |" in (dataset / "README.md").read_text(encoding="utf-8")


def test_same_input_and_seed_give_the_same_bytes_whatever_the_number_of_processes(abstracts, tmp_path):
    def build(name, **arguments):
        main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path / name), **arguments))
        return {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}

    one = build("one")
    assert one == build("two", num_proc=2)
    other = build("three", seed=1)
    assert one["train-00000-of-00001.parquet"] != other["train-00000-of-00001.parquet"]


def test_nothing_written_shows_where_the_user_works(dataset, tmp_path_factory):
    for path in (dataset / "README.md", dataset / "build_report.json"):
        assert str(tmp_path_factory.getbasetemp()) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("ending", [".jsonl.gz", ".csv", ".parquet"])
def test_reads_every_format_alike(abstracts, dataset, tmp_path, ending):
    source = load_dataset("json", data_files=str(abstracts), split="train")
    path = str(tmp_path / f"abstracts{ending}")
    {".jsonl.gz": lambda: source.to_json(path, compression="gzip"), ".csv": lambda: source.to_csv(path)}.get(
        ending, lambda: source.to_parquet(path)
    )()
    main(PrepareArguments(dataset_name=path, output_dir=str(tmp_path / "pairs")))
    assert load_dataset(str(tmp_path / "pairs"))["test"][:] == load_dataset(str(dataset))["test"][:]


def test_rows_without_id_get_a_hash_of_their_text(tmp_path):
    rng = random.Random(1)
    path = write_jsonl(tmp_path / "a.jsonl", [{"abstract": make_abstract(rng)} for _ in range(3)])
    main(PrepareArguments(dataset_name=str(path), output_dir=str(tmp_path / "pairs")))
    ids = load_dataset(str(tmp_path / "pairs"))["train"]["id"]
    assert len(set(ids)) == 3 and all(len(name) == 16 for name in ids)


def test_mistakes_end_in_one_clear_line(abstracts, tmp_path):
    script, output = ROOT / "prepare_dataset.py", tmp_path / "pairs"
    missing = run_script(script, "--dataset_name", tmp_path / "none.jsonl", "--output_dir", output)
    assert_one_clear_line(missing, 1, "none.jsonl", "no such file")
    column = run_script(script, "--dataset_name", abstracts, "--output_dir", output, "--abstract_column", "summary")
    assert_one_clear_line(column, 1, "no column 'summary'", "id, abstract")
    empty = run_script(script, "--dataset_name", abstracts, "--output_dir", output, "--min_approach_words", "999")
    assert_one_clear_line(empty, 1, "no row of 120 is left", "120 approach_too_short")
    broken = write_jsonl(tmp_path / "broken.jsonl", [])
    broken.write_text('{"abstract": "cut off\n', encoding="utf-8")
    assert_one_clear_line(run_script(script, "--dataset_name", broken, "--output_dir", output), 1, "broken.jsonl")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine", encoding="utf-8")
    taken = run_script(script, "--dataset_name", abstracts, "--output_dir", tmp_path / "taken")
    assert_one_clear_line(taken, 2, "taken is not empty", "--overwrite")
    assert (tmp_path / "taken" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    assert not output.exists()


def test_killed_while_writing_leaves_no_half_folder(abstracts, tmp_path):
    code = (
        "import sys, time, prepare_dataset as p\n"
        "card = p.make_card\n"
        "def slow(*a):\n    print('writing', flush=True); time.sleep(60); return card(*a)\n"
        "p.make_card = slow\n"
        "p.main(p.parse_arguments(sys.argv[1:]))\n"
    )
    arguments = ["--dataset_name", str(abstracts), "--output_dir", str(tmp_path / "pairs")]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "pairs").exists()
    main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path / "pairs")))
    assert len(load_dataset(str(tmp_path / "pairs"))["train"]) == 108


def test_datasets_cannot_select_by_unsigned_indices():
    """Seen on datasets 5.2.0; when this fails, `build_splits` may drop its conversion to int64."""
    rows = Dataset.from_dict({"a": [1, 2, 3]})
    with pytest.raises(IndexError):
        rows.select(np.arange(2, dtype="uint64"))


@pytest.mark.parametrize(
    ("name", "funnel"),
    [
        ("scientific_papers_arxiv_sample", [1360, 0, 5, 224, 299, 832]),
        ("acl_abstracts_2022_2023", [15723, 0, 58, 135, 2510, 13020]),
    ],
)
def test_report_rule_reproduces_the_counts_on_real_abstracts(real_data, tmp_path, name, funnel):
    source = real_data / "data" / f"{name}.jsonl.gz"
    main(PrepareArguments(dataset_name=str(source), output_dir=str(tmp_path / "pairs"), sentence_rule="report"))
    report = json.loads((tmp_path / "pairs" / "build_report.json").read_text(encoding="utf-8"))
    assert list(report["funnel"].values()) == funnel
