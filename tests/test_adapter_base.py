"""An adapter whose base is somewhere else, or is not the one it was trained on any more."""

import json
import shutil

import pytest
import torch
from conftest import make_base
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from approach import models
from approach.errors import UserError
from approach.models import load_model
from draft_approach import DraftArguments
from draft_approach import main as draft


@pytest.fixture
def moved(trained, tmp_path):
    """The adapter, which names a base that is not there."""
    adapter = tmp_path / "adapter"
    shutil.copytree(trained.adapter, adapter)
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gone")}), encoding="utf-8")
    return adapter


def test_a_named_base_gives_the_same_weights_as_the_adapters_own(trained, moved, base):
    own, _ = load_model(str(trained.adapter), "--model_name_or_path")
    with pytest.raises(UserError, match="gone"):
        load_model(str(moved), "--model_name_or_path")
    named, _ = load_model(str(moved), "--model_name_or_path", base=str(base))
    assert own.state_dict().keys() == named.state_dict().keys()
    for name, tensor in own.state_dict().items():
        assert torch.equal(tensor, named.state_dict()[name]), name


def test_a_merged_model_has_no_use_for_a_base(merged, tmp_path):
    load_model(str(merged), "--model_name_or_path", base=str(tmp_path / "none"))


def test_a_wrong_base_ends_in_one_line(moved, base, tmp_path):
    other = make_base(tmp_path / "other", hidden_size=16)
    cases = {
        tmp_path / "none": "base .*none: .*name another with --base_model_name_or_path",
        other: "base .*other is not the one that --model_name_or_path .* was trained on, base: its weights differ",
    }
    for wrong, message in cases.items():
        with pytest.raises(UserError, match=message) as ending:
            load_model(str(moved), "--model_name_or_path", base=str(wrong))
        assert "\n" not in str(ending.value)
    (moved / "run.json").unlink()  # an adapter of which nobody recorded what it was trained on
    with pytest.raises(UserError, match="other: their sizes differ") as ending:
        load_model(str(moved), "--model_name_or_path", base=str(other))
    assert "\n" not in str(ending.value)


def test_an_adapter_whose_base_has_changed_is_refused_wherever_it_drafts(trained, base, tmp_path):
    """The base is where the adapter names it, and somebody has trained it on."""
    changed, adapter = shutil.copytree(base, tmp_path / "base"), shutil.copytree(trained.adapter, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(changed)
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    load_model(str(adapter), "--model_name_or_path")
    weights = load_file(changed / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    message = f"base {changed} is not the one that .*{adapter} was trained on, base: its weights differ"
    with pytest.raises(UserError, match=message):
        load_model(str(adapter), "--model_name_or_path")
    with pytest.raises(UserError, match=message):
        draft(DraftArguments(model_name_or_path=str(adapter), problem="A problem."))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of its own for what is remembered of bases."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / models.FINGERPRINTS


@pytest.fixture
def read_files(monkeypatch):
    """The names of the files that are hashed."""
    names, hash_tensors = [], models.hash_tensors

    def note(paths):
        names.extend(path.name for path in paths)
        return hash_tensors(paths)

    monkeypatch.setattr(models, "hash_tensors", note)
    return names


def test_a_base_is_hashed_once_and_again_when_it_has_changed(base, tmp_path, home, read_files):
    folder = shutil.copytree(base, tmp_path / "base")
    first = models.compute_fingerprint(str(folder))
    assert models.compute_fingerprint(str(folder)) == first and read_files == ["model.safetensors"]
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert models.compute_fingerprint(str(folder)) != first and len(read_files) == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', ""])
def test_fingerprints_survive_a_damaged_or_unwritable_file(base, home, read_files, content, monkeypatch):
    home.parent.mkdir()
    home.write_text(content, encoding="utf-8")
    expected = models.hash_tensors([base / "model.safetensors"])
    assert models.compute_fingerprint(str(base)) == expected == models.compute_fingerprint(str(base))
    assert len(read_files) == 2, "the file was replaced by a readable one"
    home.unlink()
    home.mkdir()
    assert models.compute_fingerprint(str(base)) == expected == models.compute_fingerprint(str(base))
    assert len(read_files) == 4


def test_the_newest_hundred_fingerprints_are_remembered(base, home):
    home.parent.mkdir()
    home.write_text(json.dumps({str(number): "0" * 64 for number in range(300)}), encoding="utf-8")
    expected = models.compute_fingerprint(str(base))
    remembered = json.loads(home.read_text(encoding="utf-8"))
    assert len(remembered) == 100 and list(remembered.values())[-1] == expected and "299" in remembered
