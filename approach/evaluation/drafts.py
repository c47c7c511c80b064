"""Drafts for the rows that are scored, with the decodings that were chosen, and the bits of their references."""

from approach.evaluation.bits import Bits, join_models, measure_bits
from approach.evaluation.choice import Choice
from approach.evaluation.rows import Problems
from approach.evaluation.systems import TUNED, Drafting, Recipe, SystemDrafts, base_prompts
from approach.prompt import make_prompt
from approach.storage import public_name

EMPTY_ROW = {"problem": "", "prompt": make_prompt("")}


def draft_recipe(
    recipe: Recipe, problems: Problems, choice: Choice, drafting: Drafting
) -> tuple[list[SystemDrafts], Bits]:
    """
    A recipe's drafts with its chosen decoding, and its bits.

    Of the recipe that is judged also greedy drafts of its first run, and the bits after other rows' problems.
    """
    chosen, first = choice.decodings[recipe.system], recipe.names[0]
    runs, greedy, bits = [], [], []
    prompts, approaches = ([row[name] for row in problems.rows] for name in ("prompt", "approach"))
    for name, drafter in zip(recipe.names, drafting.load_runs(recipe), strict=True):
        print(f"{recipe.system}: {len(prompts)} drafts by {name}")
        runs += drafting.draft(drafter, prompts, chosen, drafting.num_seeds)
        if recipe.kind == TUNED and name == first and chosen != "greedy":
            greedy = drafting.draft(drafter, prompts, "greedy")
        more = {"permuted": True, "empty_prompt": EMPTY_ROW["prompt"]} if recipe.kind == TUNED else {}
        bits.append(measure_bits(drafter, prompts, approaches, drafting.partial, **more))
    drafts = [SystemDrafts(recipe.system, recipe.kind, recipe.names, chosen, runs)]
    if greedy:
        drafts.append(SystemDrafts(recipe.system, recipe.kind, [first], "greedy", greedy))
    return drafts, join_models(bits)


def draft_base(
    name: str, problems: Problems, choice: Choice, drafting: Drafting
) -> tuple[list[SystemDrafts], dict[str, Bits]]:
    """The base's drafts in every way to ask it, and its bits: of its best way also after other rows' problems."""
    base = drafting.load(name, "--base_model_name_or_path")
    empty = base_prompts(base.tokenizer, [EMPTY_ROW], problems.examples)
    approaches, drafts, bits = [row["approach"] for row in problems.rows], [], {}
    for way, prompts in base_prompts(base.tokenizer, problems.rows, problems.examples).items():
        decoding = choice.decodings[way]
        print(f"{way}: {len(prompts)} drafts by {base.name}")
        runs = drafting.draft(base, prompts, decoding, drafting.num_seeds)
        drafts.append(SystemDrafts(way, "base", [public_name(name)], decoding, runs))
        more = {"permuted": True, "empty_prompt": empty[way][0]} if way == choice.base_for_gain else {}
        bits[way] = measure_bits(base, prompts, approaches, drafting.partial, **more)
    return drafts, bits
