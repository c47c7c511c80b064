import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from approach.models import fastest_dtype
from approach.runtime import KEPT_OPERATIONS, set_up_torch


@pytest.fixture
def no_choice(monkeypatch):
    """An environment in which the user has said nothing of it."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", *KEPT_OPERATIONS):
        monkeypatch.delenv(name, raising=False)


def test_what_the_user_has_set_stands(no_choice, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "512")
    set_up_torch()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ
    kept = [os.environ[name] for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")]
    assert kept == ["512", "64"]


GROW = """
import psutil, sys
if sys.argv[1] == "set up":
    from approach.runtime import set_up_torch
    set_up_torch()
import torch
weights, resident = [torch.randn(width, 576) for width in (300, 364, 428, 492)], []
for rows in range(300, 500, 2):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for weight in weights:
            torch.nn.functional.linear(torch.randn(rows, 576), weight)
    resident.append(psutil.Process().memory_info().rss / 2**20)
print(resident[-1] - resident[len(resident) // 2])
"""


@pytest.mark.skipif(fastest_dtype(torch.device("cpu")) != torch.bfloat16, reason="no bfloat16 on this processor")
def test_memory_stays_flat_where_every_row_has_a_length_of_its_own(no_choice):
    """In bfloat16 oneDNN prepares an operation for each shape, and kept them all."""
    grown = {}
    for told in ("set up", "not"):
        command = [sys.executable, "-c", GROW, told]
        grown[told] = float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert grown["set up"] < 20 < 50 < grown["not"], f"MiB over fifty lengths: {grown}"


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
        "        names = ('GOMP_SPINCOUNT', 'LRU_CACHE_CAPACITY')\n"
        "        print('first torch:', *map(os.environ.get, names), flush=True)\n"
        "        os._exit(0)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = look\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = [{script!r}, *{ARGUMENTS[script]!r}]\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_WAIT", "GOMP", "KMP", "LRU"))}
    command = [sys.executable, str(tmp_path / "look.py")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "first torch: 10000 64", result.stderr
