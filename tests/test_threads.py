import os
import subprocess
import sys

import pytest
from conftest import ROOT

from approach.threads import choose_waiting


@pytest.fixture
def no_choice(monkeypatch):
    """An environment in which the user has said nothing of threads."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)


def test_what_the_user_has_set_stands(no_choice, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    choose_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ


PLACES = ["--base_model_name_or_path", "b", "--dataset_name", "d", "--output_dir", "o"]
ARGUMENTS = {
    "train_sft.py": ["--output_dir", "o"],
    "merge_and_push.py": ["--adapter_path", "a", "--output_dir", "o"],
    "evaluate_model.py": ["--model_name_or_path", "m", *PLACES],
    "draft_approach.py": ["--model", "m", "A problem."],
    "app.py": ["--model", "m"],
}


@pytest.mark.parametrize("script", ARGUMENTS)
def test_every_script_that_computes_chooses_before_torch_is_imported(script, tmp_path):
    """The script runs up to its first use of torch; what stands in the environment then is what the runtime reads."""
    (tmp_path / "look.py").write_text(
        "import builtins, os, runpy, sys\n"
        "real = builtins.__import__\n"
        "def look(name, *rest, **named):\n"
        "    if name == 'torch' or name.startswith('torch.'):\n"
        "        print('first torch:', os.environ.get('GOMP_SPINCOUNT'), flush=True)\n"
        "        os._exit(0)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = look\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = [{script!r}, *{ARGUMENTS[script]!r}]\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_WAIT", "GOMP", "KMP"))}
    command = [sys.executable, str(tmp_path / "look.py")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "first torch: 10000", result.stderr
