"""Ctrl-C at every moment of every script: one line, exit status 130, whatever a library makes of it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, run_script

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
# What a library does whose module catches a KeyboardInterrupt while it is imported.
SWALLOWS = "try:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\nexcept BaseException:\n    "
# What `main` first asks of a library: its parser.
PARSER = "def press(*arguments, **named):\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
PARSER += "HfArgumentParser = TrlParser = ModelConfig = ScriptArguments = SFTConfig = press\n"
MOMENTS = {
    "first import": (["dataclasses"], SWALLOWS + "raise ImportError('half imported')\n"),
    "heavy import": (["transformers", "trl"], SWALLOWS + "raise ImportError('half imported')\n"),
    "parser": (["transformers", "trl"], PARSER),
}
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a child alone")


def assert_stopped(result) -> None:
    assert result.returncode == 130 and "Traceback" not in result.stderr, result.stderr
    assert result.stderr.count("Stopped") == 1 and result.stderr.splitlines()[-1].startswith("Stopped")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_begins_ends_in_one_line(script, moment, tmp_path):
    """Modules of ours, in which Ctrl-C is pressed, stand for those that the script imports."""
    modules, pressed = MOMENTS[moment]
    for module in modules:
        (tmp_path / f"{module}.py").write_text(f"import os, signal, time\n{pressed}", encoding="utf-8")
    assert_stopped(run_script(ROOT / script, PYTHONPATH=str(tmp_path)))


def run_code(code: str) -> subprocess.CompletedProcess:
    start = "import os, signal, sys, time\nfrom approach.errors import UserError, install_sigint_handler, run_script\n"
    start += "install_sigint_handler('Stopped: told.')\n"
    press = "def press():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(1)\n"
    command = [sys.executable, "-c", f"{start}{press}{code}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "code",
    [
        "press()",  # before main
        "run_script(press)",
        "def main():\n    try: press()\n    except BaseException: raise ValueError('another')\nrun_script(main)",
        "def main():\n    try: press()\n    except BaseException: raise UserError('another')\nrun_script(main)",
        "class A:\n    def __del__(self): press()\ndef main():\n    A()\n    time.sleep(2)\nrun_script(main)",
        "run_script(print)\npress()",  # while Python ends
        "import atexit\natexit.register(press)\nrun_script(press)",
    ],
)
def test_ctrl_c_at_other_moments_ends_in_one_line(code):
    result = run_code(code)
    assert result.stderr.strip().splitlines()[-1] == "Stopped: told."
    assert_stopped(result)


def test_clean_up_is_done_and_other_errors_are_shown(tmp_path):
    cleaned = f"def main():\n    try: press()\n    finally: open({str(tmp_path / 'done')!r}, 'w')\nrun_script(main)"
    assert_stopped(run_code(cleaned))
    assert (tmp_path / "done").exists()
    other = run_code("def main(): raise UserError('one line')\nrun_script(main)")
    assert (other.returncode, other.stderr) == (1, "one line\n")
    assert "ValueError: shown" in run_code("def main(): raise ValueError('shown')\nrun_script(main)").stderr


def test_a_job_in_the_background_takes_no_ctrl_c():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "from approach.errors import install_sigint_handler, run_script\ninstall_sigint_handler()\n"
    code += "run_script(lambda: signal.raise_signal(signal.SIGINT))\n"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def press_after(seconds: float, *command: str, cwd: Path = ROOT) -> tuple[subprocess.CompletedProcess, float]:
    """Runs a command in a group of its own and sends the whole group Ctrl-C, as a terminal does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **pipes)
    try:
        output, errors = process.communicate(timeout=seconds)
        pressed = time.monotonic()
    except subprocess.TimeoutExpired:
        pressed = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, output, errors), time.monotonic() - pressed


def prepare_in_two_processes(abstracts, tmp_path, num_rows: int) -> list[str]:
    """A command that does most of its work in two processes."""
    row = abstracts.read_text(encoding="utf-8").splitlines()[0]
    many = tmp_path / "many.jsonl"
    many.write_text(f"{row}\n" * num_rows, encoding="utf-8")
    places = ["--dataset_name", str(many), "--output_dir", str(tmp_path / "pairs"), "--num_proc", "2"]
    return [sys.executable, "prepare_dataset.py", *places, "--sentence_rule", "punctuation"]


def measure(*command: str, cwd: Path = ROOT) -> float:
    """The seconds that a command takes, undisturbed."""
    started = time.monotonic()
    press_after(600, *command, cwd=cwd)
    return time.monotonic() - started


@pytest.mark.slow
def test_ctrl_c_in_prepare_with_two_processes_at_28_moments(abstracts, tmp_path):
    command, rng = [*prepare_in_two_processes(abstracts, tmp_path, 40_000), "--overwrite"], random.Random(0)
    begin = 2 * measure(sys.executable, "-c", "import dataclasses")  # Python's own start is Python's
    measure(*command)
    seconds = measure(*command)
    before = {path: path.read_bytes() for path in (tmp_path / "pairs").rglob("*") if path.is_file()}
    for _ in range(28):
        result, took = press_after(rng.uniform(begin, seconds), *command)
        assert took < 10
        if result.returncode:
            assert_stopped(result)
        assert before == {path: path.read_bytes() for path in (tmp_path / "pairs").rglob("*") if path.is_file()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.jsonl", "pairs"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["draft_approach.py", "evaluate_model.py", "app.py", "merge_and_push.py"])
def test_ctrl_c_at_15_moments_of_the_imports(script, tmp_path):
    """The model is not there, so that nothing but imports takes time."""
    none = str(tmp_path / "none")
    more = {
        "draft_approach.py": ["--model", none, "A problem."],
        "app.py": ["--model", none],
        "merge_and_push.py": ["--adapter_path", none, "--output_dir", str(tmp_path / "model")],
        "evaluate_model.py": [
            *("--model_name_or_path", none, "--base_model_name_or_path", none, "--dataset_name", none),
            *("--output_dir", str(tmp_path / "scores")),
        ],
    }[script]
    begin = 2 * measure(sys.executable, "-c", "import dataclasses")
    command, rng = [sys.executable, script, *more], random.Random(0)
    seconds = measure(*command)
    for _ in range(15):
        result, took = press_after(rng.uniform(begin, seconds), *command)
        assert took < 5
        if none not in result.stderr:  # it came to its end before
            assert_stopped(result)


def test_ctrl_c_while_two_processes_work_stops_both(abstracts, tmp_path):
    command = prepare_in_two_processes(abstracts, tmp_path, 10_000)
    environment = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "0"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as process:
        for part in iter(lambda: process.stderr.read(20), ""):
            if "%|" in part or "Cutting" in part:  # one of the two shows how far it is
                break
        os.killpg(process.pid, signal.SIGINT)
        pressed = time.monotonic()
        errors = process.stderr.read()  # ends when all processes have, which share it
        took = time.monotonic() - pressed
    assert_stopped(subprocess.CompletedProcess(command, process.returncode, "", errors))
    assert took < 5
    assert [path.name for path in tmp_path.iterdir()] == ["many.jsonl"]


@pytest.mark.parametrize("encoding", ["cp1251", "cp1252", "ascii"])
def test_what_a_redirected_output_cannot_show_stops_no_script(encoding):
    """On Windows a finished merge was thrown away at the arrow of its last line."""
    code = "from approach.errors import UserError, run_script\n"
    code += "def main():\n    print('a → b, 数据')\n    raise UserError('no → way')\nrun_script(main)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert result.stdout.split() == [b"a", b"?", b"b,", b"??"] and result.stderr.split() == [b"no", b"?", b"way"]
    assert result.returncode == 1
