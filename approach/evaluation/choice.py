"""What is chosen on validation rows: each system's decoding, and the base's best ways to be asked."""

from dataclasses import dataclass

import evaluate
import numpy as np

from approach.evaluation.bits import Bits, bits_per_byte, measure_bits
from approach.evaluation.gates import describe_behaviour, measure_repetition, passes_gates
from approach.evaluation.rows import Problems
from approach.evaluation.systems import Drafting, Recipe, base_prompts
from approach.generation.engine import Draft
from approach.generation.sampling import UNGUIDED


@dataclass(frozen=True)
class Choice:
    """The chosen decoding of every system, the base's best ways, and everything that was measured for it."""

    decodings: dict[str, str]  # by system
    base_for_drafts: str
    base_for_gain: str
    weights: dict[str, list[str]]  # digests of the models' weights, by recipe and of "base"
    record: dict


class Judge:
    """Measures decodings on validation rows."""

    def __init__(self, problems: Problems, metrics: dict[str, evaluate.Metric]):
        self.rows, self.metrics = problems.validation, metrics
        self.terms = metrics["specificity"].weigh([row["approach"] for row in problems.train])
        self.repetition = measure_repetition(metrics["behaviour"], self.rows)

    def measure(self, runs: list[list[Draft]]) -> dict:
        """Specificity, endings, repetition, and whether the drafts pass the gates; the mean of a recipe's runs."""
        metric, values = self.metrics["specificity"], []
        references, asked = ([row[name] for row in self.rows] for name in ("approach", "problem"))
        for run in runs:
            pairs, _ = metric.statistics([draft["prediction"] for draft in run], references, asked, self.terms)
            values += metric.from_pairs(pairs, np.ones((1, len(run))))
        behaviour = describe_behaviour(self.metrics["behaviour"], runs, self.rows)
        return {
            "specificity": None if None in values else float(np.mean(values)),
            "share_ended": behaviour["share_ended"],
            "repeated_4grams": behaviour["repeated_4grams"],
            "passes_gates": passes_gates(behaviour, self.repetition),
        }

    def choose(self, system: str, runs_by_decoding: dict[str, list[list[Draft]]]) -> dict:
        """What was measured of each decoding of a system, and which one is chosen."""
        found = {name: self.measure(runs) for name, runs in runs_by_decoding.items()}
        chosen = find_best(found)
        about = found[chosen]
        print(f"  {system}: {chosen}, specificity {show(about['specificity'])}, ended {about['share_ended']:.0%}")
        return {"decodings": found, "chosen": chosen, "passes_gates": about["passes_gates"]}


def show(value: float | None) -> str:
    """A value with four digits."""
    return "not measured" if value is None else f"{value:.4f}"


def find_best(found: dict[str, dict]) -> str:
    """The most specific of those that pass the gates, or of all where none does; the first of equals."""
    passing = [name for name, about in found.items() if about["passes_gates"]] or list(found)
    return max(passing, key=lambda name: -np.inf if found[name]["specificity"] is None else found[name]["specificity"])


def choose(
    recipes: list[Recipe], base_name: str, problems: Problems, metrics: dict[str, evaluate.Metric], drafting: Drafting
) -> Choice:
    """Drafts for the validation rows with every decoding, and chooses; nothing of the test rows is looked at."""
    judge, weights, systems = Judge(problems, metrics), {}, {}
    print(f"Choosing decodings on {len(problems.validation)} validation rows")
    prompts = [row["prompt"] for row in problems.validation]
    for recipe in recipes:
        runs: dict[str, list] = {name: [] for name in drafting.list_decodings(recipe)}
        weights[recipe.system] = []
        for drafter in drafting.load_runs(recipe):
            weights[recipe.system].append(drafter.weights)
            for name in runs:
                runs[name] += drafting.draft(drafter, prompts, name)
        systems[recipe.system] = {"kind": recipe.kind, **judge.choose(recipe.system, runs)}
    ways, weights["base"] = choose_for_base(base_name, problems, judge, drafting)
    best = find_best({way: about["decodings"][about["chosen"]] for way, about in ways.items()})
    systems |= ways
    gains = {way: -np.inf if about["problem_gain"] is None else about["problem_gain"] for way, about in ways.items()}
    record = {
        "rows": len(problems.validation),
        "references_repeated_4grams": judge.repetition,
        "systems": systems,
        "base_for_drafts": best,
        "base_for_gain": max(gains, key=gains.get),
    }
    decodings = {system: about["chosen"] for system, about in systems.items()}
    return Choice(decodings, best, record["base_for_gain"], weights, record)


def choose_for_base(
    name: str, problems: Problems, judge: Judge, drafting: Drafting
) -> tuple[dict[str, dict], list[str]]:
    """For each way to ask the base its decoding and its problem gain; and the digest of the base's weights."""
    base = drafting.load(name, "--base_model_name_or_path")
    if base.tokenizer.chat_template is None:
        print("  base, instructed and base, two examples: left out, the base has no chat template")
    approaches, ways = [row["approach"] for row in problems.validation], {}
    for way, prompts in base_prompts(base.tokenizer, problems.validation, problems.examples).items():
        runs = {decoding: drafting.draft(base, prompts, decoding) for decoding in UNGUIDED}
        bits = measure_bits(base, prompts, approaches, drafting.partial, permuted=True)
        ways[way] = {"kind": "base", **judge.choose(way, runs), "problem_gain": gain(bits)}
    return ways, [base.weights]


def gain(bits: Bits) -> float | None:
    """The problem gain of all rows; None where there is no other row, or no row that the model can read."""
    if bits.permuted is None or not bits.measured.any():
        return None
    once = np.ones((1, len(bits.size)))
    return float(bits_per_byte(bits.permuted - bits.own, bits.size, bits.measured, once).mean())
