import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_clear_line, run_script
from safetensors.torch import load_file, save_file

import app
from approach.errors import UserError
from approach.generation.engine import Draft, Drafter
from approach.generation.sampling import build_decoding
from approach.prompt import REPETITION_PENALTY
from draft_approach import load_drafter, main, parse_arguments

PROBLEM = "We study how small models read long texts with noise."


@pytest.fixture(scope="module")
def drafter(merged):
    return Drafter(str(merged))


def draft(drafter: Drafter, seed: int, max_new_tokens: int) -> Draft:
    """The draft that the script should make by its own defaults."""
    decoding = build_decoding(0.7, 0.9, REPETITION_PENALTY, 1.0)
    prompt = drafter.encode_problem(PROBLEM)
    return drafter.generate([prompt], decoding, [seed], max_new_tokens=max_new_tokens)[0]


def print_with(merged, capsys, *arguments: str) -> list[str]:
    """What the script prints for one problem, a draft an item, without the headings."""
    main(parse_arguments(["--model", str(merged), "--max_new_tokens", "12", PROBLEM, *arguments]))
    printed = capsys.readouterr().out
    return [line for line in printed.splitlines() if line and not line.startswith("Draft ")]


def test_what_is_printed_is_the_draft_and_the_seed_alone_decides_it(merged, drafter, capsys):
    three = print_with(merged, capsys, "--num_drafts", "3", "--seed", "5")
    assert len(set(three)) == 3
    assert print_with(merged, capsys, "--seed", "7") == three[2:]
    expected = draft(drafter, seed=6, max_new_tokens=12)["prediction"]
    # A random model writes bells and escapes, which must not reach a terminal.
    assert three[1].strip() == "".join(c if c.isprintable() else " " for c in expected)


def test_guidance_changes_the_draft_and_one_is_none(merged, drafter, capsys):
    greedy = ("--temperature", "0")
    plain, none, guided = (
        print_with(merged, capsys, *greedy, *more) for more in ([], ["--guidance", "1"], ["--guidance", "3"])
    )
    decoding = build_decoding(0, 0.9, REPETITION_PENALTY, 3.0)
    [draft] = drafter.generate([drafter.encode_problem(PROBLEM)], decoding, [42], max_new_tokens=12)
    expected = draft["prediction"]
    assert none == plain != guided
    assert guided[0].strip() == "".join(c if c.isprintable() else " " for c in expected)


def test_an_adapter_drafts_what_the_merged_model_drafts(merged, trained, capsys):
    greedy = print_with(merged, capsys, "--temperature", "0")
    assert greedy == print_with(trained.adapter, capsys, "--temperature", "0") and greedy[0]


def test_problems_of_a_file_become_json_lines(merged, drafter, tmp_path, capsys):
    problems = tmp_path / "problems.txt"
    problems.write_text(f"\ufeff{PROBLEM}\n\n{'noise ' * 600}\nWhat is “noise”? We ask.\n", encoding="utf-8")
    command = ["--model", str(merged), "--problems", str(problems), "--output", str(tmp_path / "new" / "drafts.jsonl")]
    command += ["--num_drafts", "2", "--max_new_tokens", "8"]
    main(parse_arguments(command))
    text = (tmp_path / "new" / "drafts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["problem"], row["draft"], row["seed"]) for row in rows] == [
        (problem, i, 42 + i) for problem in (PROBLEM, "What is “noise”? We ask.") for i in range(2)
    ]
    second = draft(drafter, seed=43, max_new_tokens=8)
    assert rows[1] == {
        "problem": PROBLEM,
        "draft": 1,
        "seed": 43,
        "approach": second["prediction"],
        "ended": second["ended"],
        "num_tokens": second["num_tokens"],
    }
    messages = capsys.readouterr().err
    assert "line 2 is empty" in messages and "line 3 is longer than the model can read" in messages
    assert "line 4: 2 sentences" in messages and list((tmp_path / "new").iterdir()) == [tmp_path / "new/drafts.jsonl"]
    with pytest.raises(UserError, match="--overwrite") as refusal:
        main(parse_arguments(command))
    assert refusal.value.status == 2
    main(parse_arguments([*command, "--overwrite", "true"]))
    assert (tmp_path / "new" / "drafts.jsonl").read_text(encoding="utf-8") == text


def test_problems_from_stdin_go_to_stdout(merged, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROBLEM.encode())))
    main(parse_arguments(["--model", str(merged), "--problems", "-", "--max_new_tokens", "4"]))
    assert [json.loads(line)["problem"] for line in capsys.readouterr().out.splitlines()] == [PROBLEM]


def test_an_interrupted_file_of_drafts_is_absent(merged, tmp_path, monkeypatch):
    (tmp_path / "problems.txt").write_text(f"{PROBLEM}\n{PROBLEM}\n", encoding="utf-8")
    kept = '{"problem": "Noise.", "draft": 0, "seed": 42}\n'
    (tmp_path / "drafts.jsonl").write_text(kept, encoding="utf-8")
    calls = []

    def stop_at_the_second(drafter, prompts, decoding, seeds):
        calls.append(prompts)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return [{"prediction": "", "ended": True, "num_tokens": 0}]

    monkeypatch.setattr(Drafter, "generate", stop_at_the_second)
    command = ["--model", str(merged), "--problems", str(tmp_path / "problems.txt"), "--overwrite"]
    with pytest.raises(KeyboardInterrupt):
        main(parse_arguments([*command, "--output", str(tmp_path / "drafts.jsonl")]))
    assert len(calls) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drafts.jsonl", "problems.txt"]
    assert (tmp_path / "drafts.jsonl").read_text(encoding="utf-8") == kept


def test_arguments_are_written_as_in_every_other_script():
    short = parse_arguments(["--model", "m", PROBLEM])
    assert (short.model_name_or_path, short.problem, short.overwrite) == ("m", PROBLEM, False)
    assert parse_arguments(["--model_name_or_path", "m", "--problem", PROBLEM]) == short
    long = ["--model-name-or-path", "m", "--problems", "-", "--max-new-tokens", "64"]
    for flag in (["--overwrite"], ["--overwrite", "true"]):
        args = parse_arguments([*long, *flag])
        assert (args.model_name_or_path, args.max_new_tokens, args.overwrite) == ("m", 64, True)
    args = parse_arguments(["--model", "m", "--base_model_name_or_path", "b", PROBLEM])
    assert (args.model_name_or_path, args.base_model_name_or_path) == ("m", "b")


def test_an_adapters_base_may_be_named(trained, base, tmp_path, capsys):
    """The adapter was moved to a machine where its base lies elsewhere."""
    adapter = tmp_path / "adapter"
    shutil.copytree(trained.adapter, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    named = print_with(adapter, capsys, "--base_model_name_or_path", str(base))
    assert named == print_with(trained.adapter, capsys) and named[0]
    wrong = ["--model", str(adapter), "--base-model-name-or-path", str(tmp_path / "none"), PROBLEM]
    with pytest.raises(UserError, match="^base .*none: .*--base_model_name_or_path"):
        main(parse_arguments(wrong))


def test_an_adapter_whose_base_has_changed_is_refused(trained, base, tmp_path):
    changed = shutil.copytree(base, tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    command = ["--model", str(trained.adapter), "--base_model_name_or_path", str(changed)]
    with pytest.raises(UserError, match="is not the one that .* was trained on"):
        main(parse_arguments([*command, PROBLEM]))
    with pytest.raises(UserError, match="is not the one that .* was trained on"):
        app.load_drafters(app.parse_arguments(command))


def test_revisions_reach_the_loader(monkeypatch):
    asked = []
    monkeypatch.setattr(Drafter, "__init__", lambda self, *a, **named: asked.append((*a, named)))
    monkeypatch.setattr(Drafter, "check_trained", lambda self: None)
    command = ["--model", "user/a", "--model_revision", "v1", "--base_model_revision", "v2"]
    load_drafter(parse_arguments([*command, "--max_new_tokens", "9", PROBLEM]))
    [(name, max_new_tokens, named)] = asked
    assert (name, max_new_tokens, named["revision"], named["base_revision"]) == ("user/a", 9, "v1", "v2")


def test_mistakes_end_in_one_clear_line(merged, base, tmp_path, capsys):
    for arguments, *parts in [
        (["problem", "--num_drafts", "0"], "--num_drafts", "got 0"),
        (["problem", "--top_p", "1.5"], "--top_p", "got 1.5"),
        (["problem", "--temperature", "-1"], "--temperature", "got -1.0"),
        (["problem", "--temperature", "0", "--num_drafts", "2"], "--num_drafts 1"),
        (["problem", "--problems", "file"], "one problem in quotation marks"),
        ([], "one problem in quotation marks"),
        (["problem", "--output", "x.jsonl"], "goes with --problems"),
    ]:
        with pytest.raises(SystemExit) as mistake:
            parse_arguments(["--model", "none", *arguments])
        assert mistake.value.code == 2
        last_line = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(part in last_line for part in parts), last_line
    too_long = tmp_path / "long.txt"
    too_long.write_text("noise " * 600, encoding="utf-8")
    for model, arguments, part in [
        (base, [PROBLEM], "was not made by train_sft.py"),
        (tmp_path / "none", [PROBLEM], "--model_name_or_path"),
        (merged, ["  "], "the problem is empty"),
        (merged, ["noise " * 600], "more than the model can read"),
        (merged, ["--problems", str(tmp_path / "none.txt")], "No such file"),
        (merged, ["--problems", "-", "--output", str(tmp_path)], "is a folder"),
        (
            merged,
            ["--problems", str(too_long), "--output", str(tmp_path / "o")],
            "long.txt: no problem that the model",
        ),
    ]:
        with pytest.raises(UserError, match=part):
            main(parse_arguments(["--model", str(model), *arguments]))
    result = run_script(ROOT / "draft_approach.py", "--model", tmp_path, PROBLEM)
    assert_one_clear_line(result, 1, "--model_name_or_path", str(tmp_path))


def test_help_loads_neither_torch_nor_transformers():
    code = "import sys, draft_approach; assert not {'torch', 'transformers', 'nupunkt'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_ends_politely(merged):
    command = [sys.executable, "draft_approach.py", "--model", str(merged), PROBLEM, "--num_drafts", "100000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"Draft 1, seed 42:\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors.endswith(b"Stopped.\n") and b"Traceback" not in errors
