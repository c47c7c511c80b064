"""The sufficient statistics of every row: from their totals each score follows, of all rows or of resampled ones."""

import math
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import evaluate
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from approach.files import first_line
from approach.models import context_length
from approach.neighbours import Neighbours

METRICS_FOLDER = Path(__file__).resolve().parent.parent.parent / "metrics"  # installed beside `approach`, too
TEXT_METRICS = ("bleu", "chrf", "rouge", "bertscore")  # compare a draft with a reference
SCORES = ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "bertscore_f1")
REFERENCES_SEARCHED = 100  # a draft is to find its own reference among so many, whatever the number of rows


@dataclass(frozen=True)
class RowStatistics:
    """The statistics of a system's drafts, each of shape `(runs, rows, …)`."""

    own: dict[str, np.ndarray]  # by metric, against each row's own reference
    permuted: dict[str, np.ndarray]  # by metric, against another row's reference
    found_first: np.ndarray  # 1 where the draft's nearest reference is its own, else 0


def load_metrics(bertscore_model: str, bertscore_num_layers: int | None) -> dict[str, evaluate.Metric]:
    """The local metrics by name, the encoder loaded: it should fail before hours of drafting, not after."""
    names = (*TEXT_METRICS, "behaviour", "provenance")
    metrics = {name: evaluate.load(str(METRICS_FOLDER / f"{name}.py")) for name in names}
    try:
        metrics["bertscore"].load(bertscore_model, bertscore_num_layers)
    except KeyError:
        sys.exit(f"--bertscore_model {bertscore_model}: bert-score does not know it; add --bertscore_num_layers")
    except (OSError, ValueError) as error:
        sys.exit(f"--bertscore_model {bertscore_model}: {first_line(error)}")
    return metrics


def count_bits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], approaches: list[str]
) -> np.ndarray:
    """
    Bits that the model needs for each approach after its prompt, and the approach's bytes, `(rows, 2)`.

    The space between counts, the end tag does not: the same bytes for every model and tokenizer. A row that is longer
    than the model can read is NaN.
    """
    result = np.full((len(prompts), 2), np.nan)
    for row, prompt, approach in zip(result, prompts, approaches, strict=True):
        start = tokenizer(prompt)["input_ids"]
        ids = tokenizer(f"{prompt} {approach}", return_tensors="pt")["input_ids"]
        if ids.shape[1] <= context_length(model):
            # Where a tokenizer joins the prompt's last token with the space, that token counts.
            prefix = len(os.path.commonprefix([start, ids[0].tolist()]))
            with torch.inference_mode():
                logits = model(ids.to(model.device)).logits[0, prefix - 1 : -1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, prefix:].to(logits.device), reduction="sum")
            row[:] = loss.item() / math.log(2), len(f" {approach}".encode())
    return result


def permute(references: list[str]) -> list[str]:
    """Every reference in another row's place: what is still scored has nothing to do with the problem."""
    order = list(range(len(references)))
    random.Random(0).shuffle(order)
    target = {row: order[i - 1] for i, row in enumerate(order)}
    return [references[target[row]] for row in range(len(references))]


def count_rows(
    metrics: dict[str, evaluate.Metric], runs_by_system: Sequence[list[list[str]]], references: list[str]
) -> list[RowStatistics]:
    """For each system, of which a list of drafts for each seed is given, the statistics of every row."""
    size, permuted = len(references), permute(references)
    drafts = [draft for runs in runs_by_system for run in runs for draft in run]
    num_runs = len(drafts) // size
    ends = np.cumsum([len(runs) for runs in runs_by_system])[:-1]
    by_metric = {}
    for name in TEXT_METRICS:
        # Against both references in one call: bert-score encodes each text once a call.
        rows = metrics[name].statistics(drafts * 2, references * num_runs + permuted * num_runs)
        by_metric[name] = [np.split(half, ends) for half in rows.reshape(2, num_runs, size, -1)]
    found = np.split(find_own_references([run for runs in runs_by_system for run in runs], references), ends)
    return [
        RowStatistics(
            own={name: by_metric[name][0][i] for name in TEXT_METRICS},
            permuted={name: by_metric[name][1][i] for name in TEXT_METRICS},
            found_first=found[i],
        )
        for i in range(len(runs_by_system))
    ]


def find_own_references(runs: Sequence[list[str]], references: list[str]) -> np.ndarray:
    """Whether each draft's nearest reference, by BM25 and among at most 100, is its own: `(runs, rows)` of 1 and 0."""
    found = np.zeros((len(runs), len(references)))
    for start in range(0, len(references), REFERENCES_SEARCHED):
        part = slice(start, start + REFERENCES_SEARCHED)
        index = Neighbours(references[part])
        for run, drafts in enumerate(runs):
            near = index.nearest(drafts[part], k=1)
            found[run, part] = [bool(hits) and hits[0][0] == i for i, hits in enumerate(near)]
    return found


def score_rows(
    metrics: dict[str, evaluate.Metric], statistics: RowStatistics, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """
    Every score of rows taken `weights` times, `(samples, rows)`: arrays of `(runs, samples)`, NaN for not measured.

    `permuted_…` is a score against permuted references; `gap_…`, own minus permuted, is what the score owes to the
    problem.
    """
    scores = {}
    for name in TEXT_METRICS:
        for prefix, runs in (("", statistics.own[name]), ("permuted_", statistics.permuted[name])):
            values = [[metrics[name].from_totals(totals) for totals in weights @ rows] for rows in runs]
            for score in values[0][0]:
                scores[prefix + score] = np.array([[value[score] for value in run] for run in values], dtype=float)
    for score in SCORES:
        scores[f"gap_{score}"] = scores[score] - scores[f"permuted_{score}"]
    scores["found_first"] = statistics.found_first @ weights.T / weights.sum(axis=1)
    return scores
