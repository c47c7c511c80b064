"""Code that comes with a model is never run, and nobody is asked whether it should be."""

import json
import shutil

import pytest
from conftest import training_arguments
from merging_inputs import change_run, copy_adapter, merge

from approach.data.pairs import load_tokenizer_with_tags
from approach.errors import UserError
from approach.evaluation.scores import load_metrics
from approach.models import load_model
from approach.training.trainer import load_base

CODE = "import builtins\nbuiltins.harmed = True\nclass Harm:\n    pass\n"


@pytest.fixture
def hostile(base, tmp_path, monkeypatch):
    """A base whose configuration and tokenizer bring code of their own, and a user who says yes to everything."""
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    folder = shutil.copytree(base, tmp_path / "hostile")
    (folder / "harm.py").write_text(CODE, encoding="utf-8")
    for name, changes in (
        (
            "config.json",
            {"model_type": "harm", "auto_map": {"AutoConfig": "harm.Harm", "AutoModelForCausalLM": "harm.Harm"}},
        ),
        ("tokenizer_config.json", {"tokenizer_class": "Harm", "auto_map": {"AutoTokenizer": ["harm.Harm", None]}}),
    ):
        told = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**told, **changes}), encoding="utf-8")
    return folder


@pytest.fixture
def half_hostile(hostile, base):
    """The same with a tokenizer that brings none, so that loading gets as far as the model."""
    shutil.copy(base / "tokenizer_config.json", hostile)
    return hostile


def refuses(load) -> None:
    import builtins

    with pytest.raises(UserError, match="it brings code of its own, which is never run here"):
        load()
    assert not hasattr(builtins, "harmed")


def test_a_model_to_draft_with(hostile, base):
    refuses(lambda: load_model(str(hostile), "--model_name_or_path"))
    shutil.copy(base / "tokenizer_config.json", hostile)
    refuses(lambda: load_model(str(hostile), "--model_name_or_path"))


def test_an_adapter_whose_base_is_hostile(half_hostile, trained, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    refuses(lambda: load_model(str(adapter), "--model_name_or_path", base=str(half_hostile)))
    refuses(lambda: merge(adapter, tmp_path / "model", base_model_name_or_path=str(half_hostile)))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(half_hostile)
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    refuses(lambda: load_model(str(adapter), "--model_name_or_path"))


def test_an_adapter_whose_tokenizer_is_hostile(hostile, trained, tmp_path):
    adapter = copy_adapter(trained, tmp_path / "adapter")
    change_run(adapter, files={})
    for name in ("harm.py", "tokenizer_config.json"):
        shutil.copy(hostile / name, adapter)
    refuses(lambda: merge(adapter, tmp_path / "model"))


def test_a_base_to_train(hostile, base, dataset, tmp_path, capsys):
    def model_args():
        return training_arguments(hostile, dataset, tmp_path / "adapter")[2]

    refuses(lambda: load_base(model_args()))
    shutil.copy(base / "tokenizer_config.json", hostile)
    refuses(lambda: load_base(model_args()))
    refuses(lambda: load_base(model_args(), weights=False))
    with pytest.raises(SystemExit):
        training_arguments(hostile, dataset, tmp_path / "adapter", "--trust_remote_code", "true")
    assert "--trust_remote_code: the code that comes with a model is never run here" in capsys.readouterr().err


def test_a_tokenizer_to_count_with_and_an_encoder_to_score_with(hostile, base):
    refuses(lambda: load_tokenizer_with_tags(str(hostile)))
    refuses(lambda: load_metrics(str(hostile), 2))
    shutil.copy(base / "config.json", hostile)
    refuses(lambda: load_metrics(str(hostile), 2))
