import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line, run_script, write_jsonl
from datasets import load_dataset
from huggingface_hub import DatasetCard
from publishing import serve_hub, uploads

from approach.data import processes
from approach.errors import UserError
from approach.storage import read_json
from prepare_dataset import PrepareArguments, main, parse_arguments


def fails(*words: str | Path) -> str:
    """The one line in which the script ends with status 1."""
    with pytest.raises(UserError) as ended:
        main(parse_arguments(list(map(str, words))))
    assert isinstance(str(ended.value), str) and "\n" not in str(ended.value)
    return str(ended.value)


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
    report = read_json(dataset / "build_report.json")
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


def test_same_input_and_seed_give_the_same_bytes_whatever_the_number_of_processes(abstracts, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MIN_ROWS", 60)

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


def test_mistakes_end_in_one_clear_line(abstracts, tmp_path):
    output = tmp_path / "pairs"
    places = ("--dataset_name", abstracts, "--output_dir", output)
    missing = run_script(ROOT / "prepare_dataset.py", *places, "--dataset_name", tmp_path / "none.jsonl")
    assert_one_clear_line(missing, 1, "none.jsonl", "no such file")
    column = fails(*places, "--abstract_column", "summary")
    assert "no column summary" in column and "id, abstract" in column
    empty = fails(*places, "--min_approach_words", "999")
    assert "of 120 rows none is left for train" in empty and "120 approach_too_short" in empty
    broken = write_jsonl(tmp_path / "broken.jsonl", [])
    broken.write_text('{"abstract": "cut off\n', encoding="utf-8")
    assert "broken.jsonl" in fails(*places, "--dataset_name", broken)
    assert not output.exists()


def test_a_place_that_cannot_be_written_ends_in_one_line(abstracts, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine", encoding="utf-8")
    for output, said in (
        (taken, "is not empty and holds no dataset of this script"),
        (abstracts, "is a file: name a folder"),
        (abstracts / "pairs", "cannot be written: "),
    ):
        with pytest.raises(UserError, match=f"--output_dir {output} {said}") as ended:
            main(parse_arguments(["--dataset_name", str(abstracts), "--output_dir", str(output)]))
        assert ended.value.status == 2
    assert (taken / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_overwriting_takes_no_folder_that_is_not_ours(abstracts, tmp_path):
    mine = shutil.copytree(abstracts.parent, tmp_path / "mine")
    (mine / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="holds no dataset of this script"):
        main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(mine), overwrite=True))
    (mine / "build_report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="mine is or holds --dataset_name .*abstracts.jsonl, which this run reads"):
        main(PrepareArguments(dataset_name=str(mine / "abstracts.jsonl"), output_dir=str(mine), overwrite=True))


def test_a_merged_model_with_the_datasets_report_beside_it_is_no_dataset(abstracts, tmp_path):
    for name in ("config.json", "build_report.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="holds no dataset of this script"):
        main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path), overwrite=True))


@pytest.mark.parametrize("name", ["pairs[1]", "pairs*", "pairs?", "a::b", "[x]/pairs"])
def test_a_folder_that_datasets_could_not_open_is_refused(name, abstracts, tmp_path):
    with pytest.raises(ValueError, match="datasets opens no folder with .* in its path"):
        PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path / name))


def test_the_cards_command_builds_the_same_dataset(abstracts, tmp_path):
    """Arguments of zero included, which are not defaults."""
    zeros = {"near_duplicate_threshold": 0.0, "seed": 0, "validation_fraction": 0.0}
    main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path / "one"), **zeros))
    command = shlex.split(read_json(tmp_path / "one" / "build_report.json")["command"])[1:]
    command = [str(tmp_path / "two") if part == "DIR" else part for part in command]
    result = subprocess.run(
        [sys.executable, ROOT / command[0], *command[1:]], cwd=abstracts.parent, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.*") if p.is_file()} for name in ("one", "two")
    )
    assert one == two


def test_killed_while_writing_leaves_no_half_folder(abstracts, tmp_path):
    code = (
        "import sys, time, prepare_dataset as p, approach.data.folder as folder\n"
        "card = folder.dataset_card\n"
        "def slow(*a):\n    print('writing', flush=True); time.sleep(60); return card(*a)\n"
        "folder.dataset_card = slow\n"
        "p.main(p.parse_arguments(sys.argv[1:]))\n"
    )
    arguments = ["--dataset_name", str(abstracts), "--output_dir", str(tmp_path / "pairs")]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "pairs").exists() and len(list(tmp_path.iterdir())) == 1
    main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(tmp_path / "pairs")))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"], "what the killed run had written is left"
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
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert {reason: count for reason, count in report["funnel"].items() if count and reason != "read"} == funnel
    held_out = funnel["kept"] // 20
    assert report["splits"] == {"train": funnel["kept"] - 2 * held_out, "validation": held_out, "test": held_out}


@pytest.fixture
def hub(monkeypatch):
    with serve_hub(monkeypatch) as hub:
        yield hub


def type_push(hub, home, *words):
    """Publishes as a user does, in a process of its own."""
    environment = hub.environment(token="write-token", home=home)
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)


def list_words(folder) -> list[str]:
    return ["--push_only", str(folder), "--hub_dataset_id", "alice/pairs"]


def push(folder, *flags) -> None:
    main(parse_arguments([*list_words(folder), *flags]))


def test_card_and_data_reach_the_hub_in_one_private_commit(hub, dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    built = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.fail(500, method="PUT", times=2)
    result = type_push(hub, tmp_path / "home", "prepare_dataset.py", *list_words(folder))
    assert result.returncode == 0, result.stderr
    repository = hub.repo("dataset", "alice/pairs")
    assert repository.private
    assert len(repository.commits) == 2 and hub.count(method="PUT") >= 6, "one commit on the first; both faults met"
    uploaded = repository.files("main")
    assert {name: uploaded[name] for name in built} == built
    revision = read_json(folder / "build_report.json")["hub"]["revision"]
    assert revision in result.stdout and uploaded == repository.files(revision)
    code = (
        "import sys, datasets; rows = datasets.load_dataset('alice/pairs', revision=sys.argv[1]);"
        "print({name: len(split) for name, split in rows.items()})"
    )
    environment = hub.environment(token="read-token", home=tmp_path / "home")
    loaded = subprocess.run([sys.executable, "-c", code, revision], env=environment, capture_output=True, text=True)
    assert loaded.stdout.strip() == "{'train': 108, 'validation': 6, 'test': 6}", loaded.stderr


@uploads
def test_a_second_push_leaves_no_file_of_the_first(hub, dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    push(folder, "--public")
    (removed,) = (folder / "data").glob("validation-*.parquet")
    removed.unlink()
    push(folder, "--public")
    repository = hub.repo("dataset", "alice/pairs")
    assert not repository.private
    assert f"data/{removed.name}" not in repository.files("main")


@pytest.mark.parametrize("token", [None, "read-token", "unknown-token"])
def test_a_push_that_may_not_be_ends_in_one_line_and_loses_nothing(dataset, tmp_path, token, monkeypatch):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with serve_hub(monkeypatch, token):
        said = fails(*list_words(folder))
    assert "Not published" in said and f"--push_only {folder} --hub_dataset_id alice/pairs" in said
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@uploads
def test_a_public_repository_is_published_to_only_with_public(hub, dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    push(folder, "--public")
    before, uploads = hub.repo("dataset", "alice/pairs").branches["main"], hub.count(method="PUT")
    (folder / "funnel.png").write_bytes(b"another plot")
    assert "Not published to alice/pairs: the repository is public: add --public" in fails(*list_words(folder))
    assert hub.repo("dataset", "alice/pairs").branches["main"] == before and hub.count(method="PUT") == uploads


@pytest.mark.parametrize("secret", ["hf_" + "a" * 34, "/home/alice/thesis"])
@pytest.mark.parametrize("name", ["README.md", "build_report.json"])
def test_a_secret_in_a_text_of_the_folder_is_not_published(hub, dataset, tmp_path, name, secret):
    folder = shutil.copytree(dataset, tmp_path / "pairs")
    text = (folder / name).read_text(encoding="utf-8").replace("abstracts.jsonl", secret, 1)
    (folder / name).write_text(text, encoding="utf-8")
    assert f"Not published to alice/pairs: {folder / name} holds" in fails(*list_words(folder))
    assert not hub.requests


@pytest.mark.parametrize("secret", ["hf_" + "a" * 34, f"{Path.home()}/thesis"])
def test_a_secret_in_a_row_is_not_published(hub, abstracts, tmp_path, secret):
    """A row of test, so that it does not stand in the card, too, whose three rows are of train."""
    folder = tmp_path / "pairs"
    rows = [json.loads(line) for line in abstracts.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["year"] = 2000
    rows[7].update(year=2024, abstract=f"{rows[7]['abstract']} See {secret} for more.")
    source = write_jsonl(tmp_path / "dated.jsonl", rows)
    years = {"year_column": "year", "test_from_year": 2024}
    main(PrepareArguments(dataset_name=str(source), output_dir=str(folder), **years))
    said = fails(*list_words(folder))
    (test,) = (folder / "data").glob("test-*.parquet")
    assert f"Not published to alice/pairs: {test} holds" in said and "in the approach of row row-7" in said
    assert not hub.requests


def test_the_command_to_publish_later_works_when_typed(dataset, tmp_path, monkeypatch):
    folder = shutil.copytree(dataset, tmp_path / "my pairs")
    with serve_hub(monkeypatch, None) as hub:
        failed = fails(*list_words(folder), "--public")
        assert "Not published to alice/pairs: no Hub token" in failed and f"{folder} is complete" in failed
        program, *typed = shlex.split(failed.partition("To publish it later: ")[2])
        assert program == "python"
        done = type_push(hub, tmp_path / "home", *typed)
        assert done.returncode == 0, done.stderr
        assert not hub.repo("dataset", "alice/pairs").private


def test_a_failed_push_after_a_build_leaves_the_dataset_whole(abstracts, tmp_path, monkeypatch):
    places = ["--dataset_name", abstracts, "--output_dir", tmp_path / "pairs"]
    with serve_hub(monkeypatch, "read-token") as hub:
        said = fails(*places, "--push_to_hub", "--hub_dataset_id", "alice/pairs")
    later = f"python prepare_dataset.py --push_only {tmp_path / 'pairs'} --hub_dataset_id alice/pairs"
    assert "Not published to alice/pairs: the token is read-only" in said and later in said
    assert len(load_dataset(str(tmp_path / "pairs"))["train"]) == 108
    assert ("dataset", "alice/pairs") not in hub.repos


# What a folder may be called


def test_the_current_folder_is_named_by_its_own_name(abstracts, tmp_path, monkeypatch):
    monkeypatch.chdir(abstracts.parent)
    main(PrepareArguments(dataset_name=".", output_dir=str(tmp_path / "pairs")))
    assert read_json(tmp_path / "pairs" / "build_report.json")["source"]["name"] == abstracts.parent.name
