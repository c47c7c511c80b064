"""What torch's CPU libraries are told, and which of them reads single tokens."""

import copy
import inspect
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, training_arguments
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import train_sft
from approach.errors import UserError
from approach.generation.engine import Drafter
from approach.models import fastest_dtype
from approach.runtime import KEPT_OPERATIONS, bypass_onednn_for_single_tokens, set_up_torch
from approach.tracking import check_wandb_login
from evaluate_model import main, parse_arguments


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
    for choice in ("set up", "not"):
        command = [sys.executable, "-c", GROW, choice]
        grown[choice] = float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
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


def load(base, dtype=torch.bfloat16):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
    bypass_onednn_for_single_tokens(model)
    return model


def record_products(model) -> list[tuple[tuple[int, int], bool]]:
    """A list that gets the rows and tokens of each product's input, and whether oneDNN was on."""
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda module, inputs: seen.append((tuple(inputs[0].shape[:2]), torch.backends.mkldnn.enabled))
            )
    return seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_token_of_few_rows_is_read_without_onednn(base, dtype):
    model, plain = load(base, dtype), dtype == torch.float32
    for each in (model, copy.deepcopy(model)):
        seen = record_products(each)
        with torch.inference_mode():
            for shape in ((1, 1), (2, 1), (3, 1), (1, 5), (2, 2)):
                each(torch.ones(shape, dtype=torch.long))
                assert torch.backends.mkldnn.enabled
        assert set(seen) == {((1, 1), plain), ((2, 1), plain), ((3, 1), True), ((1, 5), True), ((2, 2), True)}
    assert inspect.signature(model.forward) == inspect.signature(type(model)(model.config).forward)


def test_a_user_who_has_switched_onednn_off_finds_it_off(base, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    model = load(base)
    seen = record_products(model)
    for tokens in (1, 5):
        model(input_ids=torch.ones(1, tokens, dtype=torch.long))
        assert not torch.backends.mkldnn.enabled
    assert seen and not any(enabled for _, enabled in seen)


def test_a_model_whose_matrices_lie_the_other_way_keeps_onednn():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9)).to(torch.bfloat16)
    bypass_onednn_for_single_tokens(model)
    assert "forward" not in vars(model)


def test_the_scores_of_the_next_token_stay_the_same_without_onednn(base):
    model, plain = load(base), AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        caches = [each(input_ids=ids, use_cache=True).past_key_values for each in (model, plain)]
        logits = [
            each(input_ids=ids[:, :1], past_key_values=cache).logits
            for each, cache in zip((model, plain), caches, strict=True)
        ]
    assert logits[0].std() > 0 and (logits[0] - logits[1]).abs().max() < 0.05 * logits[1].std()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_pass_that_fails_leaves_onednn_on(base, error):
    model = load(base)

    def fail(module, inputs):
        raise error

    model.get_output_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(error):
        model(input_ids=torch.ones(1, 1, dtype=torch.long))
    assert torch.backends.mkldnn.enabled


def test_only_a_model_that_drafts_alone_does_without_onednn(merged):
    for is_alone in (True, False):
        drafter = Drafter(str(merged), dtype=torch.bfloat16, is_alone=is_alone)
        seen = record_products(drafter.model)
        drafter.generate(["We study noise."], {"do_sample": False}, max_new_tokens=4)
        assert (((1, 1), False) in seen) == is_alone
        assert all(enabled for (_, tokens), enabled in seen if tokens > 1)


def mock_wandb(monkeypatch, login):
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=SimpleNamespace(mode="online")))
    monkeypatch.setattr("wandb.login", login)


def train(folder):
    train_sft.main(*training_arguments("no-base", "no-pairs", folder, "--report_to", "wandb"))


def evaluate(folder):
    words = ["--model_name_or_path", "m", "--base_model_name_or_path", "b", "--dataset_name", "d"]
    main(parse_arguments([*words, "--output_dir", str(folder), "--report_to", "wandb"]))


@pytest.mark.parametrize("run", [train, evaluate])
def test_wandb_without_a_login_ends_in_one_line_before_anything_is_loaded(run, monkeypatch, tmp_path):
    mock_wandb(monkeypatch, lambda prompt: False)
    with pytest.raises(UserError, match="^--report_to wandb: you are not logged in: run `wandb login`, or set WANDB_"):
        run(tmp_path / "out")


def test_a_wandb_server_that_cannot_be_reached_is_named(monkeypatch):
    def fail(prompt):
        raise ConnectionError("no route")

    mock_wandb(monkeypatch, fail)
    with pytest.raises(UserError, match="^--report_to wandb: no route: run `wandb login`"):
        check_wandb_login()
