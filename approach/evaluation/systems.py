"""The systems that an evaluation compares: fine-tuned recipes, their base in several ways, and others' drafts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from approach.errors import UserError, user_errors
from approach.generation.engine import Draft, Drafter
from approach.generation.partial import PartialDrafts
from approach.generation.sampling import DECODINGS, UNGUIDED
from approach.models import check_no_adapter
from approach.prompt import encode_chat, load_tokenizer
from approach.storage import public_name, read_json_lines

TUNED = "fine-tuned"
BASE_ARGUMENT = "--base_model_name_or_path"
INSTRUCTION = "Write the approach section of a research abstract, one paragraph, for this research problem:\n"


@dataclass(frozen=True)
class SystemDrafts:
    """What one system drafted with one decoding: lists of drafts, one for each row; all seeds of each run in turn."""

    system: str
    kind: str  # "fine-tuned", "compared", "base", "no model" or "predictions"
    models: list[str]  # the runs of a recipe by their public names, one of a base, none of a system without a model
    decoding: str  # one of DECODINGS, or "none"
    runs: list[list[Draft]]

    @property
    def texts(self) -> list[list[str]]:
        """The drafts' texts, a list for each run and seed."""
        return [[draft["prediction"] for draft in run] for run in self.runs]

    @property
    def num_models(self) -> int:
        """How many runs of a recipe were averaged."""
        return max(1, len(self.models))

    def describe_run(self, number: int) -> dict:
        """The model and the seed of a list of drafts; None where there is none."""
        num_seeds = len(self.runs) // self.num_models
        is_sampled = DECODINGS.get(self.decoding, {}).get("do_sample", False)
        return {
            "model": self.models[number // num_seeds] if self.models else None,
            "seed": number % num_seeds if is_sampled else None,
        }


@dataclass(frozen=True)
class Recipe:
    """Fine-tuned models that count as one system: runs of one recipe that differ in their training seed."""

    system: str
    kind: str  # "fine-tuned" or "compared"
    models: list[str]  # folders or Hub ids
    names: list[str]  # their public names, no two the same
    argument: str


@dataclass(frozen=True)
class Drafting:
    """How all models draft, and where their drafts are kept as they come."""

    partial: PartialDrafts
    num_seeds: int
    max_new_tokens: int
    batch_size: int
    dtype: torch.dtype
    guided: bool = False  # whether the recipe that is judged tries guidance, too

    def list_decodings(self, recipe: Recipe) -> list[str]:
        """The decodings that a recipe tries on validation rows."""
        return list(DECODINGS) if self.guided and recipe.kind == TUNED else UNGUIDED

    def load(self, name: str, argument: str) -> Drafter:
        """A model that drafts in this way; raises UserError that names `argument` where there is none."""
        return Drafter(name, self.max_new_tokens, self.batch_size, argument, self.dtype)

    def load_runs(self, recipe: Recipe) -> Iterator[Drafter]:
        """The models of a recipe, one at a time."""
        for model in recipe.models:
            yield self.load(model, recipe.argument)

    def draft(
        self, drafter: Drafter, prompts: Sequence[str | list[int]], decoding: str, num_seeds: int = 1
    ) -> list[list[Draft]]:
        """A list of drafts for each seed: one where the decoding draws nothing."""
        if not DECODINGS[decoding]["do_sample"]:
            return [drafter.draft(prompts, self.partial, decoding)]
        return [drafter.draft(prompts, self.partial, decoding, seed) for seed in range(num_seeds)]


def unique_names(models: Sequence[str]) -> list[str]:
    """The models' public names; a second one of the same name gets " (2)", and never a name that another has."""
    public, names = [public_name(name) for name in models], []
    for name in public:
        others = (f"{name} ({number})" for number in count(2))
        names.append(name if name not in names else next(n for n in others if n not in [*names, *public]))
    return names


def name_recipes(models: Sequence[str], compared: Sequence[str]) -> list[Recipe]:
    """The recipe that is judged, all of its runs together, and each other model as a recipe of one run."""
    recipes = [Recipe(TUNED, TUNED, list(models), unique_names(models), "--model_name_or_path")]
    for model, name in zip(compared, unique_names(compared), strict=True):
        recipes.append(Recipe(f"compared: {name}", "compared", [model], [name], "--compared_model_name_or_path"))
    return recipes


def base_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict], examples: list[dict]
) -> dict[str, list[str] | list[list[int]]]:
    """
    The base's prompts, by system: it has never seen the tags, so it may be asked in several ways.

    Where its tokenizer has a chat template, also with an instruction, and with training rows as examples: as token
    ids, because the template brings its own control tokens.

    Raises:
        ValueError: where that template fails.
    """
    systems = {"base": [row["problem"] for row in rows], "base, tags as text": [row["prompt"] for row in rows]}
    if tokenizer.chat_template is None:
        return systems

    def ask(turns: list[dict], problem: str) -> list[int]:
        return encode_chat(tokenizer, [*turns, {"role": "user", "content": INSTRUCTION + problem}])

    shown = []
    for row in examples:
        shown.append({"role": "user", "content": INSTRUCTION + row["problem"]})
        shown.append({"role": "assistant", "content": row["approach"]})
    systems["base, instructed"] = [ask([], row["problem"]) for row in rows]
    systems["base, two examples"] = [ask(shown, row["problem"]) for row in rows]
    return systems


def check_base(name: str) -> None:
    """Before hours of drafting: raises UserError where the base is an adapter, or its chat template fails."""
    row = {"problem": "A problem.", "prompt": "", "approach": "A draft."}
    tokenizer = load_tokenizer(name, BASE_ARGUMENT)
    with user_errors(BASE_ARGUMENT, name):
        check_no_adapter(name)
        base_prompts(tokenizer, [row], [row, row])


def load_predictions(paths: Sequence[str], rows: list[dict]) -> tuple[list[SystemDrafts], list[str]]:
    """
    Other systems' drafts for `rows`, one system a file, and all that any of them was shown beyond each problem.

    Raises UserError that names file and row where something is missing.
    """
    systems, given = [], [""] * len(rows)
    for path, name in zip(paths, unique_names([Path(path).stem for path in paths]), strict=True):
        entries = read_predictions(path, rows)
        drafts = [without_model(entry["prediction"].strip()) for entry in entries]
        systems.append(SystemDrafts(f"predictions: {name}", "predictions", [], "none", [drafts]))
        given = [f"{text} {entry.get('given') or ''}".strip() for text, entry in zip(given, entries, strict=True)]
    return systems, given


def read_predictions(path: str, rows: list[dict]) -> list[dict]:
    """
    The entries for `rows` in a file of JSON lines.

    Raises UserError that names the line of an entry that is not as it should be, or the row that has none or two.
    """
    entries: dict[str, dict] = {}
    for number, entry in read_json_lines(Path(path), "--predictions"):
        row_id, prediction, given = entry.get("id"), entry.get("prediction"), entry.get("given")
        if not isinstance(row_id, str | int) or not isinstance(prediction, str) or not isinstance(given, str | None):
            form = "{'id': …, 'prediction': a text, 'given': a text or nothing}"
            raise UserError(f"--predictions {path}, line {number}: a row is {form}")
        if str(row_id) in entries:
            raise UserError(f"--predictions {path}, line {number}: a second prediction for row {row_id!r}")
        entries[str(row_id)] = entry
    if missing := [row["id"] for row in rows if row["id"] not in entries]:
        raise UserError(
            f"--predictions {path}: no prediction for row {missing[0]!r}; a row is {{'id': …, 'prediction': …}}"
        )
    return [entries[row["id"]] for row in rows]


def without_model(text: str) -> Draft:
    """A text that no model of ours wrote as a draft."""
    return {"prediction": text, "ended": None, "num_tokens": None}
