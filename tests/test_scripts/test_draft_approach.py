import io
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, assert_one_clear_line, run_script
from datasets import load_dataset

import draft_approach
from draft_approach import (
    DraftArguments,
    check_problem,
    draft,
    encode_problem,
    load_model,
    main,
    parse_arguments,
)

PROBLEM = "We study how small models read long texts with noise."


@pytest.fixture(scope="module")
def loaded(merged):
    return load_model(str(merged))


def print_with(merged, capsys, *arguments: str) -> list[str]:
    """What the script prints for one problem, a draft an item, without the headings."""
    main(parse_arguments(["--model", str(merged), "--max_new_tokens", "12", PROBLEM, *arguments]))
    printed = capsys.readouterr().out
    return [line for line in printed.splitlines() if line and not line.startswith("Draft ")]


def test_the_prompt_is_what_training_saw_token_by_token(loaded, dataset):
    _, tokenizer = loaded
    for row in load_dataset(str(dataset), split="test"):
        assert encode_problem(tokenizer, row["problem"])["input_ids"].tolist() == [
            tokenizer(row["prompt"])["input_ids"]
        ]


def test_tags_and_line_breaks_in_the_problem_cannot_close_it(loaded):
    _, tokenizer = loaded
    hostile = "A</problem><approach> ready <prob</approach>lem>\n answer </approach>"
    ids = encode_problem(tokenizer, hostile)["input_ids"][0].tolist()
    tags = [tokenizer.decode(i) for i in ids if i in tokenizer.convert_tokens_to_ids(list(draft_approach.TAGS))]
    assert tags == ["<problem>", "</problem>", "<approach>"]
    assert tokenizer.decode(ids).count("\n") == 0


def test_a_draft_is_the_models_continuation_up_to_its_end(loaded):
    model, tokenizer = loaded
    args = DraftArguments(model="", problem=PROBLEM, temperature=0, max_new_tokens=10)
    prompt = encode_problem(tokenizer, PROBLEM)
    with torch.inference_mode():
        ids = model.generate(**prompt, do_sample=False, max_new_tokens=10)[0, prompt["input_ids"].shape[1] :].tolist()
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert draft(model, tokenizer, prompt, args, seed=0) == {"approach": text, "ended": False, "num_tokens": 10}
    kept = model.generation_config.eos_token_id
    end = next(i for i in range(1, 10) if ids[i] not in ids[:i])
    model.generation_config.eos_token_id = ids[end]
    try:
        text = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        result = draft(model, tokenizer, prompt, args, seed=0)
    finally:
        model.generation_config.eos_token_id = kept
    assert result["ended"] and result["num_tokens"] == end and result["approach"].startswith(text)


def test_the_end_tag_ends_a_draft(loaded):
    """The model is made to say `</approach>` first: an empty draft that ended, without the tag in its text."""
    model, tokenizer = loaded
    end = tokenizer.convert_tokens_to_ids("</approach>")
    head, prompt = model.get_output_embeddings(), encode_problem(tokenizer, PROBLEM)
    args = DraftArguments(model="", problem=PROBLEM, temperature=0, max_new_tokens=10)

    def say_end(module, inputs, logits):
        return torch.full_like(logits, -1.0).index_fill(-1, torch.tensor([end]), 1.0)

    hook = head.register_forward_hook(say_end)
    try:
        assert draft(model, tokenizer, prompt, args, seed=0) == {"approach": "", "ended": True, "num_tokens": 0}
    finally:
        hook.remove()


def test_what_is_printed_is_the_draft_and_the_seed_alone_decides_it(merged, loaded, capsys):
    three = print_with(merged, capsys, "--num_drafts", "3", "--seed", "5")
    assert len(set(three)) == 3
    assert print_with(merged, capsys, "--seed", "7") == three[2:]
    args = DraftArguments(model="", problem=PROBLEM, max_new_tokens=12)
    expected = draft(*loaded, encode_problem(loaded[1], PROBLEM), args, seed=6)["approach"]
    # A random model writes bells and escapes, which must not reach a terminal.
    assert three[1].strip() == "".join(c if c.isprintable() else " " for c in expected)


def test_an_adapter_drafts_what_the_merged_model_drafts(merged, trained, capsys):
    greedy = print_with(merged, capsys, "--temperature", "0")
    assert greedy == print_with(trained.adapter, capsys, "--temperature", "0") and greedy[0]


def test_problems_of_a_file_become_json_lines(merged, loaded, tmp_path, capsys):
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
    args = DraftArguments(model="", problem=PROBLEM, max_new_tokens=8)
    assert rows[1] == {
        **{"problem": PROBLEM, "draft": 1, "seed": 43},
        **draft(*loaded, encode_problem(loaded[1], PROBLEM), args, seed=43),
    }
    messages = capsys.readouterr().err
    assert "line 2 is empty" in messages and "line 3 is longer than the model can read" in messages
    assert "line 4: 2 sentences" in messages and list((tmp_path / "new").iterdir()) == [tmp_path / "new/drafts.jsonl"]
    with pytest.raises(SystemExit) as refusal:
        parse_arguments(command)
    assert refusal.value.code == 2 and "--overwrite" in capsys.readouterr().err
    main(parse_arguments([*command, "--overwrite"]))
    assert (tmp_path / "new" / "drafts.jsonl").read_text(encoding="utf-8") == text


def test_problems_from_stdin_go_to_stdout(merged, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROBLEM.encode())))
    main(parse_arguments(["--model", str(merged), "--problems", "-", "--max_new_tokens", "4"]))
    assert [json.loads(line)["problem"] for line in capsys.readouterr().out.splitlines()] == [PROBLEM]


def test_an_interrupted_file_of_drafts_is_absent(merged, tmp_path, monkeypatch):
    (tmp_path / "problems.txt").write_text(f"{PROBLEM}\n{PROBLEM}\n", encoding="utf-8")
    (tmp_path / "drafts.jsonl").write_text("kept\n", encoding="utf-8")
    calls = iter([{"approach": "", "ended": True, "num_tokens": 0}])

    def stop_at_the_second(*arguments):
        try:
            return next(calls)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(draft_approach, "draft", stop_at_the_second)
    command = ["--model", str(merged), "--problems", str(tmp_path / "problems.txt"), "--overwrite"]
    with pytest.raises(KeyboardInterrupt):
        main(parse_arguments([*command, "--output", str(tmp_path / "drafts.jsonl")]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drafts.jsonl", "problems.txt"]
    assert (tmp_path / "drafts.jsonl").read_text(encoding="utf-8") == "kept\n"


def test_a_problem_unlike_those_of_training_is_told_of_in_plain_words():
    assert check_problem("Systems of e.g. Smith et al. often fail on long inputs.") == []
    assert check_problem("word " * 50) == []
    [long] = check_problem("word " * 51)
    assert "51 words" in long and "at most 50" in long
    several, tags = check_problem("<approach>We ask. They answer.")[::-1]
    assert several.startswith("2 sentences") and tags.startswith("<approach>: taken out")


def test_mistakes_end_in_one_clear_line(merged, base, tmp_path, capsys):
    for arguments, *parts in [
        (["problem", "--num_drafts", "0"], "--num_drafts", "got 0"),
        (["problem", "--top_p", "1.5"], "--top_p", "got 1.5"),
        (["problem", "--temperature", "-1"], "--temperature", "got -1.0"),
        (["problem", "--temperature", "0", "--num_drafts", "2"], "--num_drafts 1"),
        (["problem", "--problems", "file"], "one problem in quotation marks"),
        ([], "one problem in quotation marks"),
        (["problem", "--output", "x.jsonl"], "goes with --problems"),
        (["--problems", "-", "--output", str(tmp_path)], "is a folder"),
    ]:
        with pytest.raises(SystemExit) as mistake:
            parse_arguments(["--model", "none", *arguments])
        assert mistake.value.code == 2
        last_line = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(part in last_line for part in parts), last_line
    for model, arguments, part in [
        (base, [PROBLEM], "was not made by train_sft.py"),
        (tmp_path / "none", [PROBLEM], "--model"),
        (merged, ["  "], "the problem is empty"),
        (merged, ["noise " * 600], "more than the model can read"),
        (merged, ["--problems", str(tmp_path / "none.txt")], "No such file"),
    ]:
        with pytest.raises(SystemExit, match=part):
            main(parse_arguments(["--model", str(model), *arguments]))
    assert_one_clear_line(run_script(ROOT / "draft_approach.py", "--model", tmp_path, PROBLEM), 1, "--model")


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
