"""An adapter whose base is not at the place that the adapter names."""

import json
import shutil

import pytest
import torch
from conftest import make_base

from approach.errors import UserError
from approach.models import load_model


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
