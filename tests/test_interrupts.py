"""Ctrl-C at 15 moments of a whole run of each script, in a process of its own: one line, in time, and nothing lost."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hostile.tries import OUTPUT, WHOLE, command, look
from test_errors import assert_stopped, measure, press_after

NUM_MOMENTS = 15
SECONDS = 5
STEP_AND_SAVE = 1  # more, of a training: of the tiny base both take a tenth of it
SAVED = {"--max_steps": "40", "--save_strategy": "steps", "--save_steps": "10"}
OPTIONS = {
    "prepare_dataset": {},
    "train_sft": SAVED,
    "merge_and_push": {},
    "evaluate_model": {},
    "write_report": {},
    "draft_approach": {"--max_new_tokens": "200"},
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a child alone"),
]


@pytest.mark.parametrize("script", OPTIONS)
def test_ctrl_c_at_15_moments_of_a_whole_run(script, kit, tmp_path):
    words, rng = [sys.executable, str(ROOT / f"{script}.py"), *command(script, OPTIONS[script])], random.Random(0)
    output = words[words.index(OUTPUT[script]) + 1]
    begin = 2 * measure(sys.executable, "-c", "import dataclasses")  # Python's own start is Python's
    for name in ("warm", "measured"):
        here = shutil.copytree(kit, tmp_path / name)
        seconds = measure(*words, cwd=here)
        assert (here / output).exists()
    allowed = SECONDS + (STEP_AND_SAVE if script == "train_sft" else 0)
    num_stopped = 0
    for number in range(NUM_MOMENTS):
        here = shutil.copytree(kit, tmp_path / str(number))
        before = look(here)
        result, took = press_after(rng.uniform(begin, seconds), *words, cwd=here)
        assert took < allowed, result.stderr
        after = look(here)
        assert {name: after.get(name) for name in before} == before
        check_output(script, here, output, result, after.keys() - before.keys())
        num_stopped += result.returncode == 130
    assert num_stopped >= NUM_MOMENTS // 2, "most moments came after the run"


def check_output(script: str, here: Path, output: str, result: subprocess.CompletedProcess, new: set[str]) -> None:
    """
    A run that ended has its output whole; one that was stopped has none, or the step that it says is saved.

    Where it was stopped after its output had been put in place, that is whole, too.
    """
    if result.returncode == 0 or "is complete" in result.stderr:
        assert WHOLE[script](here / output) == ""
        return
    assert_stopped(result)
    if found := re.search(r"Stopped after step (\d+), which is saved", result.stderr):
        assert (here / output / f"checkpoint-{found[1]}" / "progress.json").is_file()
    if script == "train_sft":
        assert not (here / output / "adapter_model.safetensors").exists()
        assert not [name for name in new if ".partial-" in name or ".staged-" in name]
        return
    if (here / output).exists():
        assert WHOLE[script](here / output) == ""
    kept = f".{output}.partial" if script == "evaluate_model" else output  # its drafts, to go on from them
    assert not [name for name in new if Path(name).parts[0] not in (kept, output)]


def test_ctrl_c_at_15_moments_of_the_page(kit, tmp_path):
    """It serves until it is stopped: moments until it says where it is, and some after."""
    words, here = [sys.executable, str(ROOT / "app.py"), *command("app")], shutil.copytree(kit, tmp_path / "kit")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def start() -> subprocess.Popen:
        return subprocess.Popen(words, cwd=here, env=environment, start_new_session=True, **pipes)

    begin = 2 * measure(sys.executable, "-c", "import dataclasses")
    for _ in range(2):
        begun, process = time.monotonic(), start()
        assert "The page is at" in process.stdout.readline()
        seconds = time.monotonic() - begun
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    rng = random.Random(0)
    for _ in range(NUM_MOMENTS):
        process = start()
        time.sleep(rng.uniform(begin, seconds + 2))
        pressed = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert time.monotonic() < pressed + SECONDS
        assert "Traceback" not in errors and (output + errors).count("Stopped") == 1
        assert process.returncode in (0, 130)
