import json
import random
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_clear_line, make_abstract, run_script, write_jsonl
from datasets import Dataset, load_dataset
from hub_server import HubServer
from huggingface_hub import DatasetCard, HfApi, constants
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from transformers import AutoTokenizer

from benchmarks.label_noise import boundaries
from prepare_dataset import (
    DROP_REASONS,
    SENTENCE_RULES,
    TAGS,
    PrepareArguments,
    build_pair,
    build_rows,
    choose_bands,
    find_clusters,
    fold,
    main,
    shingles,
    sign,
    similarity,
    split_auto,
    split_lines,
    split_punctuation,
    split_report,
)


def read_report(folder) -> dict:
    return json.loads((folder / "build_report.json").read_text(encoding="utf-8"))


def pair(abstract, **arguments):
    return build_pair({"abstract": abstract}, PrepareArguments(output_dir="unused", **arguments))


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
    assert pair(None) == ("", "", "no_text")
    assert pair(" \n ") == ("", "", "no_text")
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
    card = DatasetCard.load(dataset / "README.md")
    splits_told = {split["name"]: split["num_examples"] for split in card.data.dataset_info["splits"]}
    assert splits_told == report["splits"]
    for config in card.data.configs[0]["data_files"]:
        assert (dataset / config["path"]).is_file()
    for told in (
        "| kept | 120 |",
        "(funnel.png)",
        "p95",
        report["command"],
        "--test_from_year",
        splits["train"][0]["approach"],
    ):
        assert told in card.text
    assert (dataset / "funnel.png").read_bytes().startswith(b"\x89PNG")


def test_same_input_and_seed_give_the_same_bytes_whatever_the_number_of_processes(abstracts, tmp_path):
    def build(name, **arguments):
        main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path / name), **arguments))
        return {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}

    one = build("one", num_proc=1)
    assert one == build("two", num_proc=2)
    assert not {name for name in one if name.endswith(".parquet")} & build("three", seed=1).keys()


def test_a_dataset_built_again_in_its_place_is_not_read_from_the_cache(abstracts, tmp_path):
    """datasets 5.2.0 keys its cache on the folder's name and its card, and would give the rows of the first build."""
    trains = []
    for seed in (1, 2):
        output_dir = str(tmp_path / "pairs")
        main(PrepareArguments(dataset_name=str(abstracts), output_dir=output_dir, seed=seed, overwrite=True))
        trains.append(load_dataset(output_dir, split="train")["id"][:])
    assert len(trains[0]) == len(trains[1]) and trains[0] != trains[1]


def test_nothing_written_shows_where_the_user_works(dataset, tmp_path_factory):
    for path in (dataset / "README.md", dataset / "build_report.json"):
        assert str(tmp_path_factory.getbasetemp()) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("ending", [".jsonl.gz", ".json", ".csv", ".parquet"])
def test_reads_every_format_alike(abstracts, dataset, tmp_path, ending):
    source = load_dataset("json", data_files=str(abstracts), split="train")
    path = str(tmp_path / f"abstracts{ending}")
    if ending == ".jsonl.gz":
        source.to_json(path, compression="gzip")
    elif ending == ".json":
        source.to_json(path, lines=False)
    elif ending == ".csv":
        source.to_csv(path)
    else:
        source.to_parquet(path)
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
    assert_one_clear_line(column, 1, "no column summary", "id, abstract")
    empty = run_script(script, "--dataset_name", abstracts, "--output_dir", output, "--min_approach_words", "999")
    assert_one_clear_line(empty, 1, "of 120 rows none is left for train", "120 approach_too_short")
    broken = write_jsonl(tmp_path / "broken.jsonl", [])
    broken.write_text('{"abstract": "cut off\n', encoding="utf-8")
    assert_one_clear_line(run_script(script, "--dataset_name", broken, "--output_dir", output), 1, "broken.jsonl")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine", encoding="utf-8")
    taken = run_script(script, "--dataset_name", abstracts, "--output_dir", tmp_path / "taken")
    assert_one_clear_line(taken, 2, "taken is not empty", "--overwrite")
    assert (tmp_path / "taken" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    assert not output.exists()


def test_overwriting_takes_no_folder_that_is_not_ours(abstracts, tmp_path):
    mine = shutil.copytree(abstracts.parent, tmp_path / "mine")
    (mine / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no dataset of this script"):
        PrepareArguments(dataset_name=str(abstracts), output_dir=str(mine), overwrite=True)
    (mine / "build_report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="holds the source"):
        PrepareArguments(dataset_name=str(mine / "abstracts.jsonl"), output_dir=str(mine), overwrite=True)


def test_the_cards_command_builds_the_same_dataset(abstracts, tmp_path):
    """Arguments of zero included, which are not defaults."""
    zeros = {"near_duplicate_threshold": 0.0, "seed": 0, "validation_fraction": 0.0}
    main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path / "one"), **zeros))
    command = shlex.split(read_report(tmp_path / "one")["command"])[1:]
    command = [str(tmp_path / "two") if part == "DIR" else part for part in command]
    result = subprocess.run(
        [sys.executable, ROOT / command[0], *command[1:]], cwd=abstracts.parent, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.*") if p.is_file()} for name in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize("place", ["a[1].jsonl", "d [1]/a.jsonl", "d [1]"])
def test_paths_with_brackets_and_spaces_are_paths(abstracts, tmp_path, place):
    file = tmp_path / (place if place.endswith("jsonl") else f"{place}/a.jsonl")
    file.parent.mkdir(exist_ok=True)
    shutil.copy(abstracts, file)
    main(PrepareArguments(dataset_name=str(tmp_path / place), output_dir=str(tmp_path / "pairs")))
    assert read_report(tmp_path / "pairs")["funnel"]["kept"] == 120


def test_csv_ids_and_years_are_read_as_written(tmp_path):
    rng = random.Random(8)
    lines = ["id,year,abstract"] + [f'0704.0{i}0,{2010 + i},"{make_abstract(rng)}"' for i in range(10, 30)]
    lines.append(f'0704.0990,,"{make_abstract(rng)}"')
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    years = {"year_column": "year", "test_from_year": 2038}
    main(PrepareArguments(dataset_name=str(tmp_path / "a.csv"), output_dir=str(tmp_path / "pairs"), **years))
    assert sorted(load_dataset(str(tmp_path / "pairs"), split="test")["id"]) == ["0704.0280", "0704.0290"]
    assert read_report(tmp_path / "pairs")["funnel"]["no_year"] == 1


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


@pytest.mark.parametrize(
    ("name", "funnel"),
    [
        (
            "scientific_papers_arxiv_sample",
            {"too_few_sentences": 5, "problem_too_long": 224, "approach_too_short": 299, "kept": 832},
        ),
        (
            "acl_abstracts_2022_2023",
            {"too_few_sentences": 58, "problem_too_long": 135, "approach_too_short": 2510, "kept": 13020},
        ),
    ],
)
def test_report_rule_reproduces_the_counts_on_real_abstracts(real_data, tmp_path, name, funnel):
    source, the_reports_rule = (
        real_data / "data" / f"{name}.jsonl.gz",
        {"sentence_rule": "report", "near_duplicate_threshold": 0},
    )
    main(PrepareArguments(dataset_name=str(source), output_dir=str(tmp_path / "pairs"), **the_reports_rule))
    report = json.loads((tmp_path / "pairs" / "build_report.json").read_text(encoding="utf-8"))
    assert {reason: count for reason, count in report["funnel"].items() if count and reason != "read"} == funnel
    held_out = funnel["kept"] // 20
    assert report["splits"] == {"train": funnel["kept"] - 2 * held_out, "validation": held_out, "test": held_out}


# Sources


def test_the_original_format_is_a_list_of_sentences(real_data, tmp_path):
    source = real_data / "data" / "arxiv_dataset_original_format.jsonl"
    main(PrepareArguments(dataset_name=str(source), output_dir=str(tmp_path / "pairs"), min_approach_words=1))
    first = json.loads(source.read_text(encoding="utf-8").splitlines()[0])
    rows = {row["id"]: row for split in load_dataset(str(tmp_path / "pairs")).values() for row in split}
    sentences = [s.removeprefix("<S> ").removesuffix(" </S>").strip() for s in first["abstract_text"]]
    assert rows[first["article_id"]]["problem"] == sentences[0]
    assert rows[first["article_id"]]["approach"] == " ".join(sentences[1:])


def test_folders_and_globs_are_read_whole_and_in_order(abstracts, dataset, tmp_path):
    lines = abstracts.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, part in enumerate((lines[:50], lines[50:])):
        (tmp_path / f"part-{number}.jsonl").write_text("".join(part), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not data", encoding="utf-8")
    for number, place in enumerate((tmp_path, tmp_path / "part-*.jsonl")):
        output_dir = tmp_path / f"pairs-{number}"
        main(PrepareArguments(dataset_name=str(place), output_dir=str(output_dir)))
        assert load_dataset(str(output_dir))["train"][:] == load_dataset(str(dataset))["train"][:]


def test_ready_made_pairs_are_not_split_again(tmp_path):
    words = " ".join(["word"] * 90)
    rows = [{"id": "a", "question": "Why? How?", "answer": words}, {"id": "b", "question": "Why?", "answer": "short"}]
    columns = {"problem_column": "question", "approach_column": "answer"}
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    main(PrepareArguments(dataset_name=str(path), output_dir=str(tmp_path / "pairs"), **columns))
    assert [row["problem"] for row in load_dataset(str(tmp_path / "pairs"))["train"]] == ["Why? How?"]
    assert read_report(tmp_path / "pairs")["funnel"]["approach_too_short"] == 1


def test_rows_that_training_would_cut_are_counted_by_their_tokens(abstracts, base, tmp_path):
    arguments = {"dataset_name": str(abstracts), "tokenizer_name": str(base)}
    main(PrepareArguments(**arguments, output_dir=str(tmp_path / "all")))
    lengths = read_report(tmp_path / "all")["tokens"]
    main(PrepareArguments(**arguments, output_dir=str(tmp_path / "some"), max_length=lengths["p50"]))
    report = read_report(tmp_path / "some")
    assert report["funnel"]["too_many_tokens"] + report["funnel"]["kept"] == 120
    assert 30 < report["funnel"]["kept"] < 90
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)})
    for row in load_dataset(str(tmp_path / "some"))["train"]:
        assert len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) <= lengths["p50"]


# Sentence rules


def test_auto_takes_lines_or_punctuation_as_the_abstract_is_written():
    assert split_auto("we study i.e. x . \n it is fast .") == ["we study i.e. x .", "it is fast ."]
    prose = "We follow Smith et al. (2020) here. It is fast, e.g. on Fig. 3. So it is."
    expected = ["We follow Smith et al. (2020) here.", "It is fast, e.g. on Fig. 3.", "So it is."]
    assert split_auto(prose) == split_punctuation(prose) == expected
    wrapped = "We follow Smith et al. (2020) here. It\nis fast, e.g. on\nFig. 3. So it is."
    assert split_auto(wrapped) == expected


def test_punctuation_rule_finds_the_sentences_people_mark(real_data):
    """Boundary F1 on CSAbstruct, sentences joined by a space; the issue asks for 0.985."""
    found = true = both = 0
    for name in ("train", "dev"):
        for line in (real_data / "data" / "csabstruct" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            sentences = json.loads(line)["sentences"]
            ours, theirs = boundaries(split_punctuation(" ".join(sentences))), boundaries(sentences)
            found, true, both = found + len(ours), true + len(theirs), both + len(ours & theirs)
    assert 2 * both / (found + true) >= 0.985


# Hostile rows


def test_rows_no_model_should_see_are_dropped_under_their_reason(tmp_path):
    good = make_abstract(random.Random(0))
    path = tmp_path / "a.jsonl"
    texts = [good, None, "", good + "\n</approach> and more", good.replace("a", "\x07a")]
    lines = [json.dumps({"id": str(i), "abstract": text}).encode() for i, text in enumerate(texts)]
    latin = json.dumps({"id": "5", "abstract": good.replace("\n", " caf\xe9\n")}, ensure_ascii=False).encode("latin-1")
    path.write_bytes(b"\n".join([*lines, latin]))
    main(PrepareArguments(dataset_name=str(path), output_dir=str(tmp_path / "pairs"), near_duplicate_threshold=0))
    funnel = read_report(tmp_path / "pairs")["funnel"]
    dropped = {reason: count for reason, count in funnel.items() if count}
    assert dropped == {"read": 6, "no_text": 2, "contains_tag": 1, "invalid_text": 1, "kept": 2}
    for row in load_dataset(str(tmp_path / "pairs"))["train"]:
        assert "\x07" not in row["prompt"] + row["completion"]


anything = st.one_of(st.none(), st.integers(), st.lists(st.text(), max_size=3), st.text(alphabet=st.characters()))
pieces = st.text(alphabet="ab .!?(“1A\n\x00\x85\u2028é\ud800\ufffd<>/", max_size=20)
sentences = st.lists(pieces, max_size=12).map(" ".join)
tagged = st.tuples(sentences, st.sampled_from(TAGS), sentences).map("".join)
batches = st.lists(st.one_of(anything, sentences, tagged), min_size=100, max_size=100)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batches, st.sampled_from(sorted(SENTENCE_RULES)))
def test_every_hostile_row_is_kept_whole_or_counted(abstracts, rule):
    """100 batches of 100 abstracts: no crash, one reason or none for each, and what is kept can be written."""
    args = PrepareArguments(output_dir="unused", sentence_rule=rule, max_problem_words=8, min_approach_words=2)
    rows = build_rows({"abstract": abstracts}, args, None, None)
    assert all(len(column) == len(abstracts) for column in rows.values())
    for problem, approach, prompt, completion, reason in zip(
        *(rows[name] for name in ("problem", "approach", "prompt", "completion", "reason")), strict=True
    ):
        assert reason == "" or reason in DROP_REASONS
        if not reason:
            assert 0 < len(problem.split()) <= 8 and len(approach.split()) >= 2
            assert prompt == f"<problem>{problem}</problem><approach>" and completion == f" {approach}</approach>"
            assert not any(tag in problem + approach for tag in TAGS)
            (prompt + completion).encode("utf-8")


# Near duplicates


def cluster(texts: list[str], threshold: float):
    rows = Dataset.from_dict({"problem": texts, "approach": [""] * len(texts)})
    signed = sign(rows[:], choose_bands(threshold))
    return signed["digest"], find_clusters(rows, np.stack(signed["bands"]), threshold)


def plant(texts: list[str], number: int, rng: random.Random) -> list[str]:
    """Twins of the first texts: a word changed, some words changed, a sentence dropped, case and spacing changed."""
    twins = []
    for index in range(number):
        words = texts[index].split(" ")
        for _ in range((1, 4, 0, 0)[index % 4]):
            words[rng.randrange(len(words))] = "changed"
        if index % 4 == 2:
            start = rng.randrange(len(words) - 15)
            del words[start : start + 12]
        twins.append(" ".join(words) if index % 4 < 3 else "  ".join(words).upper())
    return twins


def make_texts(number: int, rng: random.Random) -> list[str]:
    return [" ".join(f"w{rng.randrange(3000)}" for _ in range(rng.randrange(100, 200))) for _ in range(number)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_clusters_are_those_of_comparing_all_with_all(threshold):
    rng = random.Random(3)
    texts = make_texts(300, rng)
    texts += plant(texts, 100, rng)
    texts += plant(texts[300:], 50, rng)
    _, clusters = cluster(texts, threshold)
    sets = [shingles(fold(text, "")) for text in texts]
    close = [(i, j) for i in range(450) for j in range(i) if similarity(sets[i], sets[j]) >= threshold]
    graph = coo_array((np.ones(len(close)), np.array(close).T), shape=(450, 450))
    exact = connected_components(graph, directed=False)[1]
    assert len(close) > 30
    assert len(set(zip(clusters.tolist(), exact.tolist(), strict=True))) == len(set(exact)) == len(set(clusters))


def test_a_thousand_planted_twins_in_twenty_thousand_rows():
    rng = random.Random(4)
    texts = make_texts(20_000, rng)
    twins = plant(texts, 1000, rng)
    digests, clusters = cluster([*texts, *twins], threshold=0.7)
    found = above = 0
    for index, twin in enumerate(twins):
        if index % 4 == 3:
            assert digests[index] == digests[20_000 + index], "a copy but for case and spacing was missed"
        if similarity(shingles(fold(texts[index], "")), shingles(fold(twin, ""))) >= 0.7:
            above += 1
            found += clusters[index] == clusters[20_000 + index]
    assert above > 800 and found / above >= 0.995
    together = np.bincount(clusters[:20_000])
    assert (together > 1).sum() == 0, "texts that share nothing were merged"


def test_a_template_filled_in_thousands_of_times_is_one_cluster_at_linear_cost():
    template = " ".join(f"word{i}" for i in range(100))
    _, clusters = cluster([f"{template} and {i}" for i in range(2000)], threshold=0.7)
    assert len(set(clusters)) == 1


def test_near_duplicates_stay_in_train_and_copies_are_dropped(tmp_path):
    rng = random.Random(5)
    texts = [make_abstract(rng) for _ in range(200)]
    texts += [text.replace("We", "They").replace("how", "why", 1) for text in texts[:60]] + [
        texts[0].upper(),
        texts[1],
    ]
    rows = [{"id": str(i), "abstract": text} for i, text in enumerate(texts)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    arguments = {"dataset_name": str(path), "check_leakage": True, "test_fraction": 0.2}
    main(PrepareArguments(**arguments, output_dir=str(tmp_path / "pairs")))
    report = read_report(tmp_path / "pairs")
    assert report["funnel"]["exact_copy"] == 2 and report["splits"]["test"] == 52
    assert max(report["highest_similarity"].values()) < 0.7
    main(PrepareArguments(**arguments, output_dir=str(tmp_path / "leaky"), near_duplicate_threshold=0))
    leaky = read_report(tmp_path / "leaky")
    assert leaky["highest_similarity"]["train to test"] > 0.7, "the measure would see a leak"
    assert leaky["funnel"]["exact_copy"] == 0 and leaky["funnel"]["kept"] == 262


def test_a_split_in_time_leaves_out_reprints_of_earlier_years(tmp_path):
    rng = random.Random(6)
    rows = [{"id": str(i), "abstract": make_abstract(rng), "year": 2015 + i % 10} for i in range(100)]
    rows.append({"id": "reprint", "abstract": rows[0]["abstract"].replace("We", "They") + "\nAgain.", "year": 2024})
    rows.insert(0, {"id": "late copy", "abstract": rows[1]["abstract"].upper(), "year": 2024})
    rows.append({"id": "undated", "abstract": make_abstract(rng), "year": None})
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    main(
        PrepareArguments(
            dataset_name=str(path), output_dir=str(tmp_path / "pairs"), year_column="year", test_from_year=2023
        )
    )
    report = read_report(tmp_path / "pairs")
    assert report["splits"]["test"] == 20 and report["funnel"]["exact_copy"] == 1
    assert report["near_duplicates"]["where"] == "no cluster stands in two splits"
    assert report["funnel"]["near_copy_of_earlier_year"] == report["funnel"]["no_year"] == 1
    years = {row["id"]: row["year"] for row in rows}
    splits = load_dataset(str(tmp_path / "pairs"))
    assert min(years[name] for name in splits["test"]["id"]) == 2023
    assert max(years[name] for name in [*splits["train"]["id"], *splits["validation"]["id"]]) == 2022


# The Hub


@pytest.fixture
def hub():
    with HubServer(users={"write-token": "alice"}, read_tokens={"read-token": "alice"}) as server:
        yield server


def push(hub, folder, home, token, *arguments):
    command = [sys.executable, "prepare_dataset.py", "--push_only", str(folder), "--hub_dataset_id", "alice/pairs"]
    environment = hub.environment(token=token, home=home)
    return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_card_and_data_reach_the_hub_in_one_private_commit(hub, dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    built = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.fail(500, method="PUT", times=2)
    result = push(hub, folder, tmp_path / "home", "write-token")
    assert result.returncode == 0, result.stderr
    repository = hub.repo("dataset", "alice/pairs")
    assert repository.private
    assert len(repository.commits) == 2 and hub.count(method="PUT") >= 6, "one commit on the first; both faults met"
    uploaded = repository.files("main")
    assert {name: uploaded[name] for name in built} == built
    revision = read_report(folder)["hub"]["revision"]
    assert revision in result.stdout and uploaded == repository.files(revision)
    code = (
        "import sys, datasets; rows = datasets.load_dataset('alice/pairs', revision=sys.argv[1]);"
        "print({name: len(split) for name, split in rows.items()})"
    )
    environment = hub.environment(token="read-token", home=tmp_path / "home")
    loaded = subprocess.run([sys.executable, "-c", code, revision], env=environment, capture_output=True, text=True)
    assert loaded.stdout.strip() == "{'train': 108, 'validation': 6, 'test': 6}", loaded.stderr


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # huggingface_hub's own, on uploading
def test_a_hub_dataset_is_read_by_its_columns_at_a_pinned_revision(hub, abstracts, tmp_path):
    """Two configurations and a column that is not wanted; revision and licence come out as the source has them."""
    source = tmp_path / "source"
    (source / "data").mkdir(parents=True)
    rows = load_dataset("json", data_files=str(abstracts), split="train").add_column("article", ["long"] * 120)
    rows.to_parquet(source / "data" / "a.parquet")
    configs = (
        "configs:\n- config_name: document\n  data_files: data/a.parquet\n- config_name: other\n  data_files: none"
    )
    (source / "README.md").write_text(f"---\nlicense: mit\n{configs}\n---\n", encoding="utf-8")
    api = HfApi(endpoint=hub.endpoint, token="write-token")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        api.create_repo("alice/source", repo_type="dataset")
        api.upload_folder(repo_id="alice/source", repo_type="dataset", folder_path=source)
    command = [sys.executable, "prepare_dataset.py", "--dataset_name", "alice/source", "--dataset_config", "document"]
    environment = hub.environment(token="read-token", home=tmp_path / "home")
    result = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "pairs")], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    report = read_report(tmp_path / "pairs")
    assert report["funnel"]["kept"] == 120
    assert report["source"]["license"] == "mit" and len(report["source"]["revision"]) == 40
    assert "license: mit" in (tmp_path / "pairs" / "README.md").read_text(encoding="utf-8")


def test_a_second_push_leaves_no_file_of_the_first(hub, dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    assert push(hub, folder, tmp_path / "home", "write-token", "--public").returncode == 0
    (removed,) = (folder / "data").glob("validation-*.parquet")
    removed.unlink()
    assert push(hub, folder, tmp_path / "home", "write-token").returncode == 0
    repository = hub.repo("dataset", "alice/pairs")
    assert not repository.private
    assert f"data/{removed.name}" not in repository.files("main")


@pytest.mark.parametrize("token", [None, "read-token", "unknown-token"])
def test_a_push_that_may_not_be_ends_in_one_line_and_loses_nothing(hub, dataset, tmp_path, token):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = push(hub, folder, tmp_path / "home", token)
    assert_one_clear_line(result, 1, "Not published", f"--push_only {folder} --hub_dataset_id alice/pairs")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
