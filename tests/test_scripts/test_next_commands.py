"""What a script says comes next can be typed as it stands, whatever the folder's name."""

import importlib
import re
import shlex

import pytest
from conftest import training_arguments

import merge_and_push
import train_sft
from approach.arguments import format_command


def parse_next(output: str):
    """The arguments that the script named after "Next:" makes of its command line."""
    [command] = re.findall(r"Next: (.*)$", output, re.MULTILINE)
    launcher, script, *words = shlex.split(command)
    assert launcher == "python" or (launcher, script) == ("accelerate", "launch")
    if script == "launch":
        script, *words = words
    return importlib.import_module(script.removesuffix(".py")).parse_arguments(words)


def test_after_training_comes_merging_and_then_a_draft(base, dataset, tmp_path, capsys):
    adapter = tmp_path / "our run" / "adapter"
    train_sft.main(*training_arguments(base, dataset, adapter, "--max_steps", "1"))
    args = parse_next(capsys.readouterr().out)
    assert args.adapter_path == str(adapter) and args.output_dir == f"{adapter}-merged"
    merge_and_push.main(args)
    args = parse_next(capsys.readouterr().out)
    assert args.model_name_or_path == f"{adapter}-merged" and args.problem


def test_after_a_training_without_lora_comes_a_draft(base, dataset, tmp_path, capsys):
    model = tmp_path / "model"
    train_sft.main(*training_arguments(base, dataset, model, "--max_steps", "1", "--use_peft", "false"))
    assert parse_next(capsys.readouterr().out).model_name_or_path == str(model)


@pytest.mark.parametrize(("name", "quoted"), [("nt", '"our run"'), ("posix", "'our run'")])
def test_a_path_with_a_space_is_quoted_for_the_systems_shell(monkeypatch, name, quoted):
    monkeypatch.setattr("approach.arguments.os.name", name)
    assert format_command("python", "x.py", "our run") == f"python x.py {quoted}"
