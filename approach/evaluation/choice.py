"""
What is chosen on validation rows, each system's decoding and the base's best ways to be asked, and the drafts for the
test rows that are made with it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import evaluate
import numpy as np
import torch
from accelerate import PartialState

from approach.evaluation.reference_nll import ReferenceNLL, join_models, measure_reference_nll
from approach.evaluation.systems import TUNED, Problems, Recipe, SystemDrafts, base_prompts
from approach.generation.engine import Draft, Drafter
from approach.generation.partial import PartialDrafts
from approach.generation.sampling import DECODINGS, UNGUIDED
from approach.prompt import make_prompt

MIN_SHARE_ENDED = 0.95
MAX_REPETITION = 2.0  # times the references' share of repeated 4-grams
EMPTY_ROW = {"problem": "", "prompt": make_prompt("")}


@dataclass(frozen=True)
class DraftSettings:
    """How all models draft, and where their drafts are kept as they come."""

    partial: PartialDrafts
    num_seeds: int
    max_new_tokens: int
    batch_size: int
    dtype: torch.dtype
    guided: bool = False  # whether the main recipe tries classifier-free guidance, too

    def list_decodings(self, recipe: Recipe) -> list[str]:
        """The decodings that a recipe tries on validation rows."""
        return list(DECODINGS) if self.guided and recipe.kind == TUNED else UNGUIDED

    def load_runs(self, recipe: Recipe) -> Iterator[Drafter]:
        """The models of a recipe, one at a time."""
        for model, revision in zip(recipe.models, recipe.revisions, strict=True):
            yield Drafter(model, self.max_new_tokens, self.batch_size, recipe.argument, self.dtype, revision=revision)

    def draft(self, drafter: Drafter, prompts: list[str], decoding: str, num_seeds: int = 1) -> list[list[Draft]]:
        """A list of drafts for each seed; a single one where the decoding draws nothing."""
        if not DECODINGS[decoding]["do_sample"]:
            return [drafter.draft(prompts, self.partial, decoding)]
        return [drafter.draft(prompts, self.partial, decoding, seed) for seed in range(num_seeds)]


@dataclass(frozen=True)
class ChosenDecodings:
    """The chosen decoding of every system, the base's best ways to be asked, and all that was measured to choose."""

    decodings: dict[str, str]  # by system
    base_for_drafts: str
    base_for_gain: str
    weights: dict[str, list[str]]  # digests of the models' weights, by recipe and of "base"
    record: dict  # "choice" in scores.json


# How drafts behave, and the quality checks


def summarize_behaviour(metric: evaluate.Metric, runs: Sequence[list[Draft]], rows: list[dict]) -> dict:
    """How drafts behave, over all runs; how they ended where a model of ours wrote them."""
    drafts = [draft for run in runs for draft in run]
    references, problems = ([row[name] for row in rows] for name in ("approach", "problem"))

    def compute(texts: list[Draft], num_runs: int = 1) -> dict:
        predictions = [draft["prediction"] for draft in texts]
        return metric.compute(predictions=predictions, references=references * num_runs, problems=problems * num_runs)

    behaviour = compute(drafts, len(runs))
    # Distinct words fall as the number of texts grows, so that those of several runs together would seem less varied.
    by_run = [compute(run) for run in runs]
    for name in ("distinct_1", "distinct_2"):
        values = [found[name] for found in by_run if found[name] is not None]
        behaviour[name] = sum(values) / len(values) if values else None
    if drafts[0]["ended"] is not None:
        behaviour["share_ended"] = sum(draft["ended"] for draft in drafts) / len(drafts)
        behaviour["share_at_budget"] = 1 - behaviour["share_ended"]
        behaviour["mean_tokens"] = sum(draft["num_tokens"] for draft in drafts) / len(drafts)
    ratio = behaviour["length_ratio"]
    behaviour["brevity_penalty"] = min(1.0, math.exp(1 - 1 / ratio)) if ratio else 0.0
    return behaviour


def measure_repetition(metric: evaluate.Metric, rows: list[dict]) -> float:
    """The references' own share of repeated 4-grams; 0 where none is long enough."""
    texts = [row["approach"] for row in rows]
    found = metric.compute(predictions=texts, references=texts, problems=[row["problem"] for row in rows])
    return found["repeated_4grams"] or 0.0


def passes_quality_checks(behaviour: dict, reference_repetition: float) -> bool | None:
    """
    Whether at least 95 % of drafts end by themselves and repeat no more than twice what references do.

    None for texts that no model of ours wrote: how they ended is not known.
    """
    if "share_ended" not in behaviour:
        return None
    repeated = behaviour["repeated_4grams"] or 0.0
    return behaviour["share_ended"] >= MIN_SHARE_ENDED and repeated <= MAX_REPETITION * reference_repetition


# The choice on validation rows


class DecodingSelector:
    """Measures decodings on validation rows, and chooses one for each system."""

    def __init__(self, problems: Problems, metrics: dict[str, evaluate.Metric]):
        self.rows, self.metrics = problems.validation, metrics
        self.terms = metrics["specificity"].weigh([row["approach"] for row in problems.train])
        self.repetition = measure_repetition(metrics["behaviour"], self.rows)

    def measure(self, runs: list[list[Draft]]) -> dict:
        """Specificity, endings, repetition, and whether the quality checks are passed; the mean of a recipe's runs."""
        metric, values = self.metrics["specificity"], []
        references, asked = ([row[name] for row in self.rows] for name in ("approach", "problem"))
        for run in runs:
            pairs, _ = metric.statistics([draft["prediction"] for draft in run], references, asked, self.terms)
            values += metric.from_pairs(pairs, np.ones((1, len(run))))
        behaviour = summarize_behaviour(self.metrics["behaviour"], runs, self.rows)
        return {
            "specificity": None if None in values else float(np.mean(values)),
            "share_ended": behaviour["share_ended"],
            "repeated_4grams": behaviour["repeated_4grams"],
            "passes_gates": passes_quality_checks(behaviour, self.repetition),
        }

    def select(self, system: str, runs_by_decoding: dict[str, list[list[Draft]]]) -> dict:
        """What was measured of each decoding of a system, and which one is chosen."""
        found = {name: self.measure(runs) for name, runs in runs_by_decoding.items()}
        chosen = find_best(found)
        best = found[chosen]
        value = "not measured" if best["specificity"] is None else f"{best['specificity']:.4f}"
        PartialState().print(f"  {system}: {chosen}, specificity {value}, ended {best['share_ended']:.0%}")
        return {"decodings": found, "chosen": chosen, "passes_gates": best["passes_gates"]}


def find_best(found: dict[str, dict]) -> str:
    """The most specific of those that pass the quality checks, or of all where none does; the first of equals."""
    passing = [name for name, measured in found.items() if measured["passes_gates"]] or list(found)
    return max(passing, key=lambda name: -np.inf if found[name]["specificity"] is None else found[name]["specificity"])


def choose_decodings(
    recipes: list[Recipe],
    base: Recipe,
    problems: Problems,
    metrics: dict[str, evaluate.Metric],
    settings: DraftSettings,
) -> ChosenDecodings:
    """Drafts for the validation rows with every decoding, and chooses; the test rows are not looked at."""
    selector, weights, systems = DecodingSelector(problems, metrics), {}, {}
    PartialState().print(f"Choosing decodings on {len(problems.validation)} validation rows")
    prompts = [row["prompt"] for row in problems.validation]
    for recipe in recipes:
        runs: dict[str, list] = {name: [] for name in settings.list_decodings(recipe)}
        weights[recipe.system] = []
        for drafter in settings.load_runs(recipe):
            weights[recipe.system].append(drafter.weights)
            for name in runs:
                runs[name] += settings.draft(drafter, prompts, name)
        systems[recipe.system] = {"kind": recipe.kind, **selector.select(recipe.system, runs)}
    base_systems, weights["base"] = choose_for_base(base, problems, selector, settings)
    gains = {system: found["problem_gain"] for system, found in base_systems.items()}
    systems |= base_systems
    record = {
        "rows": len(problems.validation),
        "references_repeated_4grams": selector.repetition,
        "systems": systems,
        "base_for_drafts": find_best({name: row["decodings"][row["chosen"]] for name, row in base_systems.items()}),
        "base_for_gain": max(gains, key=lambda system: -np.inf if gains[system] is None else gains[system]),
    }
    decodings = {system: found["chosen"] for system, found in systems.items()}
    return ChosenDecodings(decodings, record["base_for_drafts"], record["base_for_gain"], weights, record)


def choose_for_base(
    base: Recipe, problems: Problems, selector: DecodingSelector, settings: DraftSettings
) -> tuple[dict[str, dict], list[str]]:
    """For each way to ask the base, its decoding and its problem gain; and the digest of the base's weights."""
    drafter = next(settings.load_runs(base))
    if drafter.tokenizer.chat_template is None:
        PartialState().print("  base, instructed and base, two examples: left out, the base has no chat template")
    approaches, systems = [row["approach"] for row in problems.validation], {}
    for system, prompts in base_prompts(drafter.tokenizer, problems.validation, problems.examples).items():
        runs = {decoding: settings.draft(drafter, prompts, decoding) for decoding in UNGUIDED}
        nll = measure_reference_nll(drafter, prompts, approaches, settings.partial, permuted=True)
        systems[system] = {"kind": "base", **selector.select(system, runs), "problem_gain": nll.problem_gain}
    return systems, [drafter.weights]


# Drafts for the test rows


def draft_for_test(
    recipes: list[Recipe], base: Recipe, problems: Problems, chosen: ChosenDecodings, settings: DraftSettings
) -> tuple[list[SystemDrafts], dict[str, ReferenceNLL]]:
    """Every model's drafts with its chosen decoding, the main recipe's first, and its NLL of the references."""
    base_drafts, nlls = draft_base(base, problems, chosen, settings)
    drafts = []
    for recipe in recipes:
        entries, nlls[recipe.system] = draft_recipe(recipe, problems, chosen, settings)
        drafts += entries
    return [*drafts, *base_drafts], nlls


def draft_recipe(
    recipe: Recipe, problems: Problems, chosen: ChosenDecodings, settings: DraftSettings
) -> tuple[list[SystemDrafts], ReferenceNLL]:
    """
    A recipe's drafts with its chosen decoding, and its NLL of the references.

    For the main recipe also greedy drafts of its first run, and the NLL after other rows' problems and after none.
    """
    decoding, first, is_main = chosen.decodings[recipe.system], recipe.names[0], recipe.kind == TUNED
    runs, greedy, nlls = [], [], []
    prompts, approaches = ([row[name] for row in problems.rows] for name in ("prompt", "approach"))
    for name, drafter in zip(recipe.names, settings.load_runs(recipe), strict=True):
        PartialState().print(f"{recipe.system}: {len(prompts)} drafts by {name}")
        runs += settings.draft(drafter, prompts, decoding, settings.num_seeds)
        if is_main and name == first and decoding != "greedy":
            greedy = settings.draft(drafter, prompts, "greedy")
        more = {"permuted": True, "empty_prompt": EMPTY_ROW["prompt"]} if is_main else {}
        nlls.append(measure_reference_nll(drafter, prompts, approaches, settings.partial, **more))
    drafts = [SystemDrafts(recipe.system, recipe.kind, recipe.names, decoding, runs)]
    if greedy:
        drafts.append(SystemDrafts(recipe.system, recipe.kind, [first], "greedy", greedy))
    return drafts, join_models(nlls)


def draft_base(
    base: Recipe, problems: Problems, chosen: ChosenDecodings, settings: DraftSettings
) -> tuple[list[SystemDrafts], dict[str, ReferenceNLL]]:
    """The base's drafts in every way to ask it, and its NLL: in its best way also after other rows' problems."""
    drafter = next(settings.load_runs(base))
    empty = base_prompts(drafter.tokenizer, [EMPTY_ROW], problems.examples)
    approaches, drafts, nlls = [row["approach"] for row in problems.rows], [], {}
    for system, prompts in base_prompts(drafter.tokenizer, problems.rows, problems.examples).items():
        decoding = chosen.decodings[system]
        PartialState().print(f"{system}: {len(prompts)} drafts by {drafter.name}")
        runs = settings.draft(drafter, prompts, decoding, settings.num_seeds)
        drafts.append(SystemDrafts(system, "base", base.names, decoding, runs))
        more = {"permuted": True, "empty_prompt": empty[system][0]} if system == chosen.base_for_gain else {}
        nlls[system] = measure_reference_nll(drafter, prompts, approaches, settings.partial, **more)
    return drafts, nlls
