"""A model that writes one draft at a time: how it multiplies its weights by the one token that it reads at a step."""

import functools
import types
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from approach.generation.cache import FEW_ROWS


def read_single_rows_fast(model: PreTrainedModel) -> None:
    """
    Lets a model in bfloat16 on a processor do without oneDNN in a pass that reads one token of one row or two.

    torch's own product of a matrix and a vector (pytorch/pytorch#139220) reads the weights about twice as fast as
    oneDNN's (benchmarks/README.md, "Drafting beside llama.cpp"); of a prompt, and of the weights of GPT-2's kind,
    which lie the other way round, it is far slower. Which of them multiplies is a setting of the process: so this is
    for a model beside which no other drafts, or the order of their threads would decide the last digits of both.
    """
    has_gpt2s = any(isinstance(module, Conv1D) for module in model.modules())
    if (model.device.type, model.dtype) != ("cpu", torch.bfloat16) or has_gpt2s:
        return

    @functools.wraps(type(model).forward)  # transformers reads the names of its arguments
    def forward(self: PreTrainedModel, *inputs: Any, **named_inputs: Any) -> Any:
        ids = inputs[0] if inputs else named_inputs.get("input_ids")
        is_few = ids is not None and ids.shape[1] == 1 and len(ids) <= FEW_ROWS
        torch.backends.mkldnn.enabled = not is_few
        try:
            return type(self).forward(self, *inputs, **named_inputs)
        finally:
            torch.backends.mkldnn.enabled = True

    model.forward = types.MethodType(forward, model)  # bound, so that a deep copy gets its own
