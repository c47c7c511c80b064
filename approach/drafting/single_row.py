"""A model that writes one draft at a time: how it multiplies its weights by the one token that it reads at a step."""

import functools
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from approach.drafting.cache import FEW_ROWS


class Passes:
    """The forward passes that are under way, in all threads: oneDNN is a setting of the process that they share."""

    def __init__(self):
        self.number, self.lock = 0, threading.Lock()

    @contextmanager
    def count(self, is_few: bool) -> Iterator[None]:
        """Counts a pass; one of few rows that is the only one does without oneDNN, until another begins or it ends."""
        with self.lock:
            self.number += 1
            torch.backends.mkldnn.enabled = not is_few or self.number > 1
        try:
            yield
        finally:
            with self.lock:
                self.number -= 1
                torch.backends.mkldnn.enabled = True


PASSES = Passes()


def read_single_rows_fast(model: PreTrainedModel) -> None:
    """
    Lets a model in bfloat16 on a processor do without oneDNN in a pass that reads one token of one row or two.

    torch's own product of a matrix and a vector (pytorch/pytorch#139220) reads the weights about twice as fast as
    oneDNN's (benchmarks/README.md, "Drafting beside llama.cpp"); of a prompt, and of the weights of GPT-2's kind,
    which lie the other way round, it is far slower. Models that draft side by side, in threads, keep oneDNN.
    """
    has_gpt2s = any(isinstance(module, Conv1D) for module in model.modules())
    if (model.device.type, model.dtype) != ("cpu", torch.bfloat16) or has_gpt2s:
        return

    @functools.wraps(type(model).forward)  # transformers reads the names of its arguments
    def forward(self: PreTrainedModel, *inputs: Any, **named_inputs: Any) -> Any:
        ids = inputs[0] if inputs else named_inputs.get("input_ids")
        is_few = ids is not None and ids.shape[1] == 1 and len(ids) <= FEW_ROWS
        with PASSES.count(is_few):
            return type(self).forward(self, *inputs, **named_inputs)

    model.forward = types.MethodType(forward, model)  # bound, so that a deep copy gets its own
