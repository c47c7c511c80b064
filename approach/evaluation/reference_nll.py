"""
The negative log-likelihood (NLL), in bits, that a model gives the references: after their own problem, after another
row's, and after none.
"""

import hashlib
import json
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from approach.generation.cache import build_prefix_cache, common_prefix_length, repeat_rows
from approach.generation.engine import Drafter
from approach.generation.partial import PartialDrafts
from approach.models import context_length

NUM_PERMUTATIONS = 5
LOGITS_BYTES = 2**28  # of one batch, in FP32; with eight times as many a batch took 1.4 times as long on a CPU


@dataclass(frozen=True)
class ReferenceNLL:
    """The NLL in bits of each reference by each model, `(models, rows)`; NaN for texts beyond the model's context."""

    size: np.ndarray  # UTF-8 bytes of each reference with the space before it, `(rows,)`
    own: np.ndarray  # given its own problem
    permuted: np.ndarray | None = None  # given another row's problem, the mean of five; None where not measured
    empty: np.ndarray | None = None  # given an empty problem; None where not measured

    @property
    def measured(self) -> np.ndarray:
        """The rows of which all was measured that should be, `(rows,)` of booleans."""
        parts = [part for part in (self.own, self.permuted, self.empty) if part is not None]
        return np.all([~np.isnan(part).any(axis=0) for part in parts], axis=0)

    @property
    def problem_gain(self) -> float | None:
        """The bits a byte that the own problem saves; None without another row, or a row that the model can read."""
        if self.permuted is None or not self.measured.any():
            return None
        once = np.ones((1, len(self.size)))
        return float(bits_per_byte(self.permuted - self.own, self.size, self.measured, once).mean())


def permute_rows(num_rows: int) -> list[list[int]]:
    """Five fixed permutations that leave no row in its place; none of a single row."""
    permutations = []
    for seed in range(NUM_PERMUTATIONS if num_rows > 1 else 0):
        order = list(range(num_rows))
        random.Random(seed).shuffle(order)
        target = {row: order[i - 1] for i, row in enumerate(order)}
        permutations.append([target[row] for row in range(num_rows)])
    return permutations


def measure_reference_nll(
    drafter: Drafter,
    prompts: list[str],
    approaches: list[str],
    partial: PartialDrafts,
    permuted: bool = False,
    empty_prompt: str | None = None,
) -> ReferenceNLL:
    """A model's NLL of each approach after its own prompt, the prompts of five other rows, and an empty one."""
    size = np.array([len(f" {approach}".encode()) for approach in approaches])
    permutations = permute_rows(len(prompts)) if permuted else []
    groups = [prompts, *([prompts[row] for row in order] for order in permutations)]
    if empty_prompt is not None:
        groups.append([empty_prompt] * len(prompts))
    flat = [prompt for group in groups for prompt in group]
    nll = compute_nll(drafter, flat, approaches * len(groups), partial).reshape(len(groups), 1, len(prompts))
    others = nll[1 : 1 + len(permutations)].mean(axis=0) if permutations else None
    return ReferenceNLL(size, nll[0], others, None if empty_prompt is None else nll[-1])


def join_models(parts: Sequence[ReferenceNLL]) -> ReferenceNLL:
    """The NLL of the same references by several models."""

    def stack(arrays: list[np.ndarray | None]) -> np.ndarray | None:
        return None if arrays[0] is None else np.concatenate(arrays)

    own, permuted, empty = ([getattr(part, name) for part in parts] for name in ("own", "permuted", "empty"))
    return ReferenceNLL(parts[0].size, stack(own), stack(permuted), stack(empty))


def bits_per_byte(nll: np.ndarray, size: np.ndarray, kept: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """All bits to all bytes of the rows that are kept, taken `weights` times: `(models, samples)`, NaN for no row."""
    totals = np.where(kept, nll, 0.0) @ weights.T
    sizes = np.where(kept, size, 0.0) @ weights.T
    return np.where(sizes > 0, totals / np.where(sizes > 0, sizes, 1.0), np.nan)


def compute_nll(drafter: Drafter, prompts: list[str], approaches: list[str], partial: PartialDrafts) -> np.ndarray:
    """
    The NLL in bits of each approach after its prompt, `(rows,)`; NaN for a text beyond the model's context.

    The space between them counts, the end tag does not, so that the bytes are the same for every model and tokenizer.
    Results stay on disk, where other processes and a run that resumes after a kill find them. In bfloat16 a real
    base's gain of 0.044 bits a byte came out 0.0001 higher than in float32.
    """
    state = PartialState()
    settings = [drafter.weights, prompts, approaches, "reference NLL", str(state.device)]
    settings += [version("torch"), version("transformers")]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    texts = [encode(drafter.tokenizer, *pair) for pair in zip(prompts, approaches, strict=True)]
    shared = common_prefix_length([ids for ids, _ in texts], min((begin for _, begin in texts), default=1) - 1)
    batches = make_batches([len(ids) for ids, _ in texts], shared, drafter.model)
    done = partial.read(key)
    own_batches = batches[state.process_index :: state.num_processes]
    missing = [rows for rows in own_batches if not all(row in done for row in rows)]
    prefix_cache = build_prefix_cache(drafter.model, texts[0][0][:shared] if missing else [])
    for rows in tqdm(missing, desc="Reference NLL", disable=not state.is_main_process):
        nll = compute_batch_nll(drafter.model, [texts[row] for row in rows], prefix_cache)
        partial.append(key, rows, [{"nll": value} for value in nll])
    state.wait_for_everyone()
    done = partial.read(key)
    return np.array([done[row]["nll"] if row in done else np.nan for row in range(len(prompts))])


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, approach: str) -> tuple[list[int], int]:
    """The ids of prompt and approach together, and where the approach begins in them."""
    start, ids = tokenizer(prompt)["input_ids"], tokenizer(f"{prompt} {approach}")["input_ids"]
    # Where a tokenizer joins the prompt's last token with the space, that token counts.
    begin = len(os.path.commonprefix([start, ids]))
    if not begin:  # an empty prompt, and a tokenizer that adds no beginning token
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return [first, *ids], 1
    return ids, begin


def make_batches(lengths: list[int], shared: int, model: PreTrainedModel) -> list[list[int]]:
    """The rows that the model can read, those of similar length together, as many as `LOGITS_BYTES` allow."""
    vocabulary, batches = model.get_output_embeddings().weight.shape[0], []
    limit = context_length(model)
    for row in sorted((row for row, length in enumerate(lengths) if length <= limit), key=lambda row: -lengths[row]):
        # The first row of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * (lengths[batches[-1][0]] - shared) * vocabulary * 4 <= LOGITS_BYTES:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def compute_batch_nll(model: PreTrainedModel, texts: list[tuple[list[int], int]], prefix_cache: Cache) -> list[float]:
    """The NLL in bits of each text from where its approach begins; padding is on the right, and not attended to."""
    shared = prefix_cache.get_seq_length()
    width, first = max(len(ids) for ids, _ in texts), min(begin for _, begin in texts) - 1
    rows = torch.tensor([ids[shared:] + [0] * (width - len(ids)) for ids, _ in texts], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in texts], device=model.device)
    with torch.inference_mode():
        cache = repeat_rows(prefix_cache, len(texts)) if shared else None
        options = {"past_key_values": cache, "use_cache": bool(shared), "logits_to_keep": width - first}
        logits = model(input_ids=rows, attention_mask=mask, **options).logits
        losses = [
            torch.nn.functional.cross_entropy(
                logits[i, begin - 1 - first : len(ids) - 1 - first].float(),
                torch.tensor(ids[begin:], device=model.device),
                reduction="sum",
            )
            for i, (ids, begin) in enumerate(texts)
        ]
    return [loss.item() / math.log(2) for loss in losses]
