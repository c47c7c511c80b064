import random

from conftest import make_abstract, write_jsonl
from datasets import load_dataset

from approach.storage import read_json
from prepare_dataset import PrepareArguments, main


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
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert report["funnel"]["exact_copy"] == 2 and report["splits"]["test"] == 52
    assert max(report["highest_similarity"].values()) < 0.7
    main(PrepareArguments(**arguments, output_dir=str(tmp_path / "leaky"), near_duplicate_threshold=0))
    leaky = read_json(tmp_path / "leaky" / "build_report.json")
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
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert report["splits"]["test"] == 20 and report["funnel"]["exact_copy"] == 1
    assert report["near_duplicates"]["where"] == "no cluster stands in two splits"
    assert report["funnel"]["near_copy_of_earlier_year"] == report["funnel"]["no_year"] == 1
    years = {row["id"]: row["year"] for row in rows}
    splits = load_dataset(str(tmp_path / "pairs"))
    assert min(years[name] for name in splits["test"]["id"]) == 2023
    assert max(years[name] for name in [*splits["train"]["id"], *splits["validation"]["id"]]) == 2022
