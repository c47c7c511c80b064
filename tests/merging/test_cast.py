import json

import pytest
import torch
from datasets import load_dataset
from merging_inputs import merge
from transformers import AutoModelForCausalLM, AutoTokenizer

from approach.errors import UserError
from merge_and_push import MergeArguments


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_is_measured_and_read_back(trained, dataset, tmp_path, dtype):
    merge(trained.adapter, tmp_path / "model", dtype=dtype, dataset_name=str(dataset))
    report = json.loads((tmp_path / "model" / "merge.json").read_text(encoding="utf-8"))
    cast = report["cast"]
    assert report["dtype"] == dtype and report["difference_reloaded"] == 0 and cast["rows"] == 6
    assert cast["loss_before"] != cast["loss_after"] and 0 <= cast["argmax_changes"] < cast["positions"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer, losses = AutoTokenizer.from_pretrained(tmp_path / "model"), []
    for row in load_dataset(str(dataset), split="validation"):
        ids = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"]
        start = len(tokenizer(row["prompt"])["input_ids"])
        with torch.inference_mode():
            scores = model(ids).logits[0].log_softmax(-1)
        losses += [-scores[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])]
    assert sum(losses) / len(losses) == pytest.approx(cast["loss_after"], abs=2e-3)  # FP32 arithmetic on cast weights
    assert model.get_parameter("lm_head.weight").to(getattr(torch, dtype)).float().equal(model.lm_head.weight)


def test_a_cast_that_costs_too_much_is_refused(trained, dataset, tmp_path):
    with pytest.raises(UserError, match="--dtype bfloat16 moves the loss on 6 validation rows .* nothing written"):
        merge(trained.adapter, tmp_path / "model", dtype="bfloat16", dataset_name=str(dataset), max_cast_loss=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="--dtype bfloat16 needs --dataset_name"):
        MergeArguments(adapter_path="a", output_dir=str(tmp_path / "b"), dtype="bfloat16")
