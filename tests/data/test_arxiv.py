"""arXiv's metadata: rows of its snapshots' shape, from files and from the Hub."""

import json
import random
import subprocess
import sys

import pytest
from conftest import ROOT, make_abstract
from datasets import load_dataset
from hub_server import HubServer
from huggingface_hub import HfApi, constants

from approach.data.arguments import ARXIV_METADATA
from approach.data.reading import first_version_date, parse_categories, parse_year
from approach.errors import UserError
from approach.storage import read_json
from prepare_dataset import PrepareArguments, main

FIELDS = {"submitter": "A. Author", "comments": None, "journal-ref": None, "doi": None, "license": None}
CATEGORIES = ("cs.CL", "stat.ML cs.LG", "math.CO", "cs.CLX", None)


def make_row(number: int) -> dict:
    """A row as the snapshots have them; the last version is always of 2026."""
    words = f"  {make_abstract(random.Random(number))}".replace("\n", " ").split(" ")
    lines = "\n".join(" ".join(words[start : start + 12]) for start in range(0, len(words), 12))
    first = {"version": "v1", "created": f"Mon, 2 Apr {2020 + number % 6} 19:18:42 GMT"}
    return {
        **FIELDS,
        "id": f"0704.{number:04}",
        "title": "A title",
        "categories": CATEGORIES[number % len(CATEGORIES)],
        "abstract": f"{lines}\n",
        "versions": [first, {"version": "v2", "created": "Tue, 24 Jul 2026 20:10:27 GMT"}],
        "update_date": "2026-07-24",
        "authors_parsed": [["Author", "A.", ""]],
    }


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    path = tmp_path_factory.mktemp("snapshot") / "metadata.jsonl"
    rows = [make_row(number) for number in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_rows_of_a_snapshot_are_chosen_by_category_and_dated_by_their_first_version(snapshot, tmp_path, ending):
    path = tmp_path / f"metadata{ending}"
    load_dataset("json", data_files=str(snapshot), split="train").to_parquet(path) if ending == ".parquet" else (
        path.write_bytes(snapshot.read_bytes())
    )
    asked = {"categories": "cs.CL, cs.LG", "year_column": "versions", "test_from_year": 2025}
    main(PrepareArguments(dataset_name=str(path), output_dir=str(tmp_path / "pairs"), min_approach_words=1, **asked))
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert report["funnel"]["read"] == 120 and report["funnel"]["other_category"] == 72
    assert report["funnel"]["kept"] == 48 and report["funnel"]["no_year"] == 0
    splits = load_dataset(str(tmp_path / "pairs"))
    numbers = {name: {int(row["id"].removeprefix("0704.")) for row in split} for name, split in splits.items()}
    assert all(number % 5 < 2 for part in numbers.values() for number in part)
    assert numbers["test"] == {number for number in range(120) if number % 5 < 2 and number % 6 == 5}
    assert not any("\n" in row["approach"] for row in splits["train"]), "prose that was hard-wrapped is whole again"


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # huggingface_hub's own, on uploading
def test_the_command_of_the_docs_reads_such_rows_from_the_hub(snapshot, tmp_path, monkeypatch):
    source = tmp_path / "source"
    (source / "data").mkdir(parents=True)
    load_dataset("json", data_files=str(snapshot), split="train").to_parquet(source / "data" / "train.parquet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer(users={"token": "librarian-bots"}, read_tokens={"read": "librarian-bots"}) as hub:
        api = HfApi(endpoint=hub.endpoint, token="token")
        api.create_repo(ARXIV_METADATA, repo_type="dataset")
        api.upload_folder(repo_id=ARXIV_METADATA, repo_type="dataset", folder_path=source)
        command = [
            sys.executable,
            "prepare_dataset.py",
            "--dataset_name",
            ARXIV_METADATA,
            "--categories",
            "cs.CL,cs.LG",
        ]
        command += ["--test_from_year", "2025", "--output_dir", str(tmp_path / "pairs"), "--min_approach_words", "1"]
        environment = hub.environment(token="read", home=tmp_path / "home")
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert report["funnel"]["kept"] == 48 and report["splits"]["test"] == 8
    assert report["arguments"]["year_column"] == "versions"


def test_the_snapshot_by_its_name_is_dated_by_its_versions(tmp_path):
    output = {"output_dir": str(tmp_path / "pairs")}
    assert PrepareArguments(dataset_name=ARXIV_METADATA, test_from_year=2025, **output).year_column == "versions"
    assert PrepareArguments(dataset_name=ARXIV_METADATA, **output).year_column is None


def test_categories_that_cannot_be_asked_for_end_in_one_line(abstracts, tmp_path):
    output = {"output_dir": str(tmp_path / "pairs")}
    with pytest.raises(ValueError, match="--categories names none"):
        PrepareArguments(dataset_name=str(abstracts), categories=" , ", **output)
    with pytest.raises(UserError, match="--categories: .* has none of the columns categories, primary_category"):
        main(PrepareArguments(dataset_name=str(abstracts), categories="cs.CL", **output))
    assert not (tmp_path / "pairs").exists()


def test_a_dataset_built_without_categories_is_reported_as_before(dataset):
    assert "other_category" not in read_json(dataset / "build_report.json")["funnel"]


@pytest.mark.parametrize(
    ("value", "year"),
    [
        ([{"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"}, {"version": "v2", "created": "x"}], 2007),
        ("Mon, 2 Apr 2007 19:18:42 GMT", 2007),
        ("2023-05-01", 2023),
        (2023.0, 2023),
        ([], None),
        ([{"version": "v1"}], None),
        ("20231", None),
        ("Monday", None),
        (None, None),
    ],
)
def test_a_year_is_read_from_what_people_write(value, year):
    assert parse_year(first_version_date(value)) == year


def test_categories_are_read_from_a_text_or_a_list():
    assert parse_categories("cs.CL cs.LG") == parse_categories(["cs.CL", "cs.LG", None]) == ["cs.CL", "cs.LG"]
    assert parse_categories(None) == [] and first_version_date("2020") == "2020"
