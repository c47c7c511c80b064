import json
import random
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, make_abstract
from datasets import load_dataset
from hub_server import HubServer
from huggingface_hub import HfApi, constants

from approach.errors import UserError
from approach.storage import read_json
from prepare_dataset import PrepareArguments, main


@pytest.fixture
def hub():
    with HubServer(users={"write-token": "alice"}, read_tokens={"read-token": "alice"}) as server:
        yield server


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


@pytest.mark.parametrize("place", ["a[1].jsonl", "d [1]/a.jsonl", "d [1]"])
def test_paths_with_brackets_and_spaces_are_paths(abstracts, tmp_path, place):
    file = tmp_path / (place if place.endswith("jsonl") else f"{place}/a.jsonl")
    file.parent.mkdir(exist_ok=True)
    shutil.copy(abstracts, file)
    main(PrepareArguments(dataset_name=str(tmp_path / place), output_dir=str(tmp_path / "pairs")))
    assert read_json(tmp_path / "pairs" / "build_report.json")["funnel"]["kept"] == 120


def test_csv_ids_and_years_are_read_as_written(tmp_path):
    rng = random.Random(8)
    lines = ["id,year,abstract"] + [f'0704.0{i}0,{2010 + i},"{make_abstract(rng)}"' for i in range(10, 30)]
    lines.append(f'0704.0990,,"{make_abstract(rng)}"')
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    years = {"year_column": "year", "test_from_year": 2038}
    main(PrepareArguments(dataset_name=str(tmp_path / "a.csv"), output_dir=str(tmp_path / "pairs"), **years))
    assert sorted(load_dataset(str(tmp_path / "pairs"), split="test")["id"]) == ["0704.0280", "0704.0290"]
    assert read_json(tmp_path / "pairs" / "build_report.json")["funnel"]["no_year"] == 1


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
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert report["funnel"]["kept"] == 120
    assert report["source"]["license"] == "mit" and len(report["source"]["revision"]) == 40
    assert "license: mit" in (tmp_path / "pairs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [r"C:\abstracts", "user/na me", "a..b", "user/" + "x" * 100])
def test_a_name_that_is_neither_a_file_nor_an_id_ends_in_one_line(name, tmp_path):
    with pytest.raises(UserError) as ended:
        main(PrepareArguments(dataset_name=name, output_dir=str(tmp_path / "pairs")))
    assert str(ended.value).startswith(f"--dataset_name {name}: ") and "\n" not in str(ended.value)
    assert list(tmp_path.iterdir()) == []
