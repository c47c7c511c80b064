"""The systems that an evaluation compares: the fine-tuned models, their base, three without a model, and others'."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from approach.drafting.generation import Draft, Drafter, PartialDrafts
from approach.evaluation.rows import Problems
from approach.evaluation.statistics import count_bits
from approach.files import first_line, public_name
from approach.neighbours import Neighbours

NEAREST = "nearest training approach"
INSTRUCTION = "Write the approach section of a research abstract, one paragraph, for this research problem:\n"


@dataclass(frozen=True)
class SystemDrafts:
    """What one system drafted with one decoding: a list of drafts, one for each row, for each seed."""

    system: str
    kind: str  # "fine-tuned", "base", "no model" or "predictions"
    model: str | None
    decoding: str  # "greedy", "sampled" or "none"
    runs: list[list[Draft]]
    bits: np.ndarray | None = None  # that the references cost after the prompts, and their bytes, `(rows, 2)`

    @property
    def texts(self) -> list[list[str]]:
        """The drafts' texts, a list for each seed."""
        return [[draft["prediction"] for draft in run] for run in self.runs]


@dataclass(frozen=True)
class Drafting:
    """How all models draft, and where their drafts are kept as they come."""

    partial: PartialDrafts
    num_seeds: int
    max_new_tokens: int
    batch_size: int

    def load(self, name: str, argument: str) -> Drafter:
        """A model that drafts in this way; ends with one line that names `argument` where there is none."""
        return Drafter(name, self.max_new_tokens, self.batch_size, argument)


def name_tuned(models: Sequence[str]) -> dict[str, str]:
    """The fine-tuned models by their system's name."""
    if len(models) == 1:
        return {"fine-tuned": models[0]}
    return {f"fine-tuned: {public_name(model)}": model for model in models}


def draft_tuned(models: dict[str, str], problems: Problems, drafting: Drafting) -> list[SystemDrafts]:
    """Greedy and sampled drafts of each fine-tuned model."""
    prompts, drafts = [row["prompt"] for row in problems.rows], []
    for system, name in models.items():
        drafter = drafting.load(name, "--model_name_or_path")
        drafts += draft_with(drafter, system, "fine-tuned", prompts, problems.rows, drafting, sampled=True)
    return drafts


def draft_base(name: str, problems: Problems, metrics: dict, drafting: Drafting) -> tuple[list[SystemDrafts], dict]:
    """
    Drafts of the base in every way to ask it, and the best way by drafts and by bits per byte.

    The best way by drafts drafts with sampling, too.
    """
    base = drafting.load(name, "--base_model_name_or_path")
    if base.tokenizer.chat_template is None:
        print("base, instructed and base, two examples: left out, the base has no chat template")
    best = find_best_base(base, problems.validation, problems.examples, metrics, drafting.partial)
    drafts = []
    for system, prompts in base_prompts(base.tokenizer, problems.rows, problems.examples).items():
        sampled = system == best["drafts"]
        drafts += draft_with(base, system, "base", prompts, problems.rows, drafting, sampled)
    return drafts, best


def draft_without_model(problems: Problems) -> list[SystemDrafts]:
    """The problem itself, a random training approach, and the approach of the nearest training problem."""
    asked = [row["problem"] for row in problems.rows]
    near = Neighbours([row["problem"] for row in problems.train]).nearest(asked, k=1)
    texts_by_system = {
        "problem copied": asked,
        "random training approach": [row["approach"] for row in problems.random_train],
        NEAREST: [problems.train[hits[0][0]]["approach"] if hits else "" for hits in near],
    }
    return [
        SystemDrafts(system, "no model", None, "none", [[without_model(text) for text in texts]])
        for system, texts in texts_by_system.items()
    ]


def load_predictions(paths: Sequence[str], rows: list[dict]) -> list[SystemDrafts]:
    """Other systems' drafts for `rows`, one system a file; ends with one line that names file and row."""
    return [
        SystemDrafts(Path(path).stem, "predictions", None, "none", [read_predictions(path, rows)]) for path in paths
    ]


def read_predictions(path: str, rows: list[dict]) -> list[Draft]:
    """The drafts for `rows` in a file of JSON lines; ends with one line that names the row where one is missing."""
    try:
        with Path(path).open(encoding="utf-8") as lines:
            texts = {row["id"]: row["prediction"] for row in map(json.loads, lines)}
        return [without_model(texts[row["id"]].strip()) for row in rows]
    except KeyError as error:
        sys.exit(f"--predictions {path}: no prediction for row {error}; a row is {{'id': …, 'prediction': …}}")
    except (OSError, ValueError) as error:
        sys.exit(f"--predictions {path}: {first_line(error)}")


def without_model(text: str) -> Draft:
    """A text that no model of ours wrote as a draft."""
    return {"prediction": text, "ended": None, "num_tokens": None}


def draft_with(
    drafter: Drafter, system: str, kind: str, prompts: list[str], rows: list[dict], drafting: Drafting, sampled: bool
) -> list[SystemDrafts]:
    """One model's greedy drafts, and its sampled ones if asked."""
    print(f"{system}: {len(prompts)} drafts by {drafter.name}")
    model = public_name(drafter.name)
    bits = count_bits(drafter.model, drafter.tokenizer, prompts, [row["approach"] for row in rows])
    drafts = [SystemDrafts(system, kind, model, "greedy", [drafter.draft(prompts, drafting.partial)], bits)]
    if sampled and drafting.num_seeds:
        runs = [drafter.draft(prompts, drafting.partial, seed) for seed in range(drafting.num_seeds)]
        drafts.append(SystemDrafts(system, kind, model, "sampled", runs))
    return drafts


def base_prompts(tokenizer: PreTrainedTokenizerBase, rows: list[dict], examples: list[dict]) -> dict[str, list[str]]:
    """
    The base's prompts, by system: it has never seen the tags, so it may be asked in several ways.

    Where its tokenizer has a chat template, also with an instruction, and with training rows as examples.
    """
    systems = {"base": [row["problem"] for row in rows], "base, tags as text": [row["prompt"] for row in rows]}
    if tokenizer.chat_template is None:
        return systems

    def ask(turns: list[dict], problem: str) -> str:
        turns = [*turns, {"role": "user", "content": INSTRUCTION + problem}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text.removeprefix(tokenizer.bos_token or "")  # the tokenizer adds it again

    shown = []
    for row in examples:
        shown.append({"role": "user", "content": INSTRUCTION + row["problem"]})
        shown.append({"role": "assistant", "content": row["approach"]})
    systems["base, instructed"] = [ask([], row["problem"]) for row in rows]
    systems["base, two examples"] = [ask(shown, row["problem"]) for row in rows]
    return systems


def find_best_base(
    drafter: Drafter, rows: list[dict], examples: list[dict], metrics: dict, partial: PartialDrafts
) -> dict[str, str]:
    """The base's best way to be asked, on validation rows: for drafts by ROUGE-L, and by bits per byte."""
    references, rouge, rates = [row["approach"] for row in rows], {}, {}
    for system, prompts in base_prompts(drafter.tokenizer, rows, examples).items():
        drafts = [draft["prediction"] for draft in drafter.draft(prompts, partial)]
        rouge[system] = metrics["rouge"].compute(predictions=drafts, references=references)["rougeL"] or 0.0
        bits, size = np.nansum(count_bits(drafter.model, drafter.tokenizer, prompts, references), axis=0)
        rates[system] = bits / size if size else math.inf
        print(
            f"  {system}, on {len(rows)} validation rows: ROUGE-L {rouge[system]:.3f}, "
            f"{rates[system]:.3f} bits per byte"
        )
    return {"drafts": max(rouge, key=rouge.get), "bits_per_byte": min(rates, key=rates.get)}
