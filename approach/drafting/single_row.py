"""A model that writes one draft at a time: how it multiplies its weights by the one token that it reads at a step."""

import threading
from typing import Any

import torch
from transformers import PreTrainedModel

ROWS = 2  # up to which torch's own product is the faster; a guided draft has two
_PASS = threading.RLock()  # held by the forward pass that is under way


def read_single_rows_fast(model: PreTrainedModel) -> None:
    """
    Lets a model in bfloat16 on a processor do without oneDNN in a pass that reads one token of one row or two.

    torch's own product of a matrix and a vector (pytorch/pytorch#139220) reads the weights about twice as fast; of
    more rows, and of a prompt, oneDNN's is the faster (benchmarks/README.md, "Drafting beside llama.cpp"). Which of
    them multiplies is a setting of the process, so that the passes of models in several threads wait for one another.
    """
    if (model.device.type, model.dtype) == ("cpu", torch.bfloat16):
        model.register_forward_pre_hook(_begin, with_kwargs=True)
        model.register_forward_hook(_end, always_call=True)


def _begin(model: PreTrainedModel, inputs: tuple, named_inputs: dict[str, Any]) -> None:
    _PASS.acquire()
    ids = inputs[0] if inputs else named_inputs["input_ids"]
    torch.backends.mkldnn.enabled = ids.shape[1] > 1 or len(ids) > ROWS


def _end(model: PreTrainedModel, inputs: tuple, output: Any) -> None:
    torch.backends.mkldnn.enabled = True
    _PASS.release()
