"""
The systems that an evaluation compares and the rows that it compares them on: fine-tuned models, their base in several
ways to ask it, other systems' drafts, and baselines without a model.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import evaluate
from transformers import PreTrainedTokenizerBase

from approach.dataset import load_split
from approach.errors import UserError, user_errors
from approach.generation.engine import Draft
from approach.generation.sampling import DECODINGS
from approach.models import BASE_ARGUMENT, check_no_adapter
from approach.prompt import encode_chat, load_tokenizer
from approach.retrieval import BM25Index
from approach.storage import public_name, read_json_lines

COLUMNS = ("id", "problem", "approach", "prompt")
NUM_EXAMPLES_SHOWN = 2
TUNED = "fine-tuned"
INSTRUCTION = "Write the approach section of a research abstract, one paragraph, for this research problem:\n"
NEAREST = "nearest training approach"
NEAREST_SEEN = "nearest of the rows seen"
RANDOM = "random training approach"
WORD_LIST = "terms of the five nearest"
REFERENCE = "reference"
NUM_NEAREST = 5


@dataclass(frozen=True)
class Problems:
    """The rows to draft for, the rows on which decodings are chosen, and the training rows with draws from them."""

    rows: list[dict]
    validation: list[dict]
    train: list[dict]
    examples: list[dict]  # two training rows, shown to a base that is asked with examples
    random_train: list[dict]  # a training row, drawn for each row


@dataclass(frozen=True)
class Selection:
    """Which rows of a split are scored: from a part of it by id, the first ones or a random draw."""

    split: str
    num_examples: int
    id_range: tuple[float, float] = (0.0, 1.0)  # the part of the split, in the order of the ids
    draw_seed: int | None = None  # None: the first by id

    def take(self, rows: list[dict]) -> list[dict]:
        """The selected ones of a split's rows, by id: the same for every system, whatever the file's order."""
        begin, end = (round(share * len(rows)) for share in self.id_range)
        part = sorted(rows, key=lambda row: row["id"])[begin:end]
        if self.draw_seed is None:
            return part[: self.num_examples]
        drawn = random.Random(self.draw_seed).sample(range(len(part)), min(self.num_examples, len(part)))
        return [part[i] for i in sorted(drawn)]


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

    def build_run_record(self, number: int) -> dict:
        """The model and the seed of a list of drafts, as predictions.jsonl has them; None where there is none."""
        num_seeds = len(self.runs) // self.num_models
        is_sampled = DECODINGS.get(self.decoding, {}).get("do_sample", False)
        return {
            "model": self.models[number // num_seeds] if self.models else None,
            "seed": number % num_seeds if is_sampled else None,
        }


@dataclass(frozen=True)
class Recipe:
    """Models that count as one system: runs of one recipe that differ in their training seed; or the base alone."""

    system: str
    kind: str  # "fine-tuned", "compared" or "base"
    models: list[str]  # folders or Hub ids
    names: list[str]  # their public names, no two the same
    revisions: list[str | None]  # of those on the Hub
    argument: str


# The rows


def load_problems(dataset_name: str, revision: str | None, selection: Selection, num_validation: int) -> Problems:
    """
    The selected rows, and what goes with them.

    Raises:
        UserError: where a split cannot be read, or no row is selected.
    """
    rows = selection.take(load_rows(dataset_name, revision, selection.split))
    if not rows:
        raise UserError(
            f"--dataset_name {dataset_name}: its {selection.split} split has no row in that part of its ids"
        )
    train = load_rows(dataset_name, revision, "train")
    validation = Selection("validation", num_validation, draw_seed=selection.draw_seed)
    rng, scored = random.Random(0), {row["id"] for row in rows}
    not_scored = [row for row in train if row["id"] not in scored] or train  # none is left where all are scored
    return Problems(
        rows=rows,
        validation=validation.take(load_rows(dataset_name, revision, validation.split)),
        train=train,
        examples=rng.sample(not_scored, min(NUM_EXAMPLES_SHOWN, len(not_scored))),
        random_train=[draw_other(rng, train, row) for row in rows],
    )


def draw_other(rng: random.Random, train: list[dict], row: dict) -> dict:
    """A random training row other than `row`, which may be one of them."""
    drawn = rng.choice(train)
    while drawn["id"] == row["id"] and len(train) > 1:
        drawn = rng.choice(train)
    return drawn


def load_rows(dataset_name: str, revision: str | None, split: str) -> list[dict]:
    """All rows of a split in the dataset's order."""
    return load_split(dataset_name, split, COLUMNS, revision).to_list()


# Fine-tuned models and their base


def make_unique(models: Sequence[str]) -> list[str]:
    """The models' public names; a second one of the same name gets " (2)", and never a name that another has."""
    public, names = [public_name(name) for name in models], []
    for name in public:
        others = (f"{name} ({number})" for number in count(2))
        names.append(name if name not in names else next(n for n in others if n not in [*names, *public]))
    return names


def build_recipes(models: Sequence[str], compared: Sequence[str], revisions: Sequence[str] = ()) -> list[Recipe]:
    """
    The main recipe, with all of its runs, and each compared model as a recipe of one run.

    `revisions` are the Hub's, of the main recipe's runs: one for all of them, or one for each.
    """
    of_runs = list(revisions) * (len(models) if len(revisions) == 1 else 1) or [None] * len(models)
    recipes = [Recipe(TUNED, TUNED, list(models), make_unique(models), of_runs, "--model_name_or_path")]
    for model, name in zip(compared, make_unique(compared), strict=True):
        argument = "--compared_model_name_or_path"
        recipes.append(Recipe(f"compared: {name}", "compared", [model], [name], [None], argument))
    return recipes


def build_base(name: str, revision: str | None = None) -> Recipe:
    """The base as a recipe of one run."""
    return Recipe("base", "base", [name], [public_name(name)], [revision], BASE_ARGUMENT)


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


def check_base(name: str, revision: str | None = None) -> None:
    """
    Checks the base before hours of drafting.

    Raises:
        UserError: where the base is an adapter, or its chat template fails.
    """
    row = {"problem": "A problem.", "prompt": "", "approach": "A draft."}
    tokenizer = load_tokenizer(name, BASE_ARGUMENT, revision)
    with user_errors(BASE_ARGUMENT, name):
        check_no_adapter(name, revision)
        base_prompts(tokenizer, [row], [row, row])


# Other systems' drafts


def load_predictions(paths: Sequence[str], rows: list[dict]) -> tuple[list[SystemDrafts], list[str]]:
    """Other systems' drafts for `rows`, one system a file, and all that any of them was shown beyond each problem."""
    systems, given = [], [""] * len(rows)
    for path, name in zip(paths, make_unique([Path(path).stem for path in paths]), strict=True):
        entries = match_predictions(path, rows)
        drafts = [build_draft(entry["prediction"].strip()) for entry in entries]
        systems.append(SystemDrafts(f"predictions: {name}", "predictions", [], "none", [drafts]))
        given = [f"{text} {entry.get('given') or ''}".strip() for text, entry in zip(given, entries, strict=True)]
    return systems, given


def match_predictions(path: str, rows: list[dict]) -> list[dict]:
    """
    The entries for `rows` in a file of JSON lines.

    Raises:
        UserError: naming the line of an entry that is not as it should be, or the row that has none or two.
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


def build_draft(text: str) -> Draft:
    """A text that no model of ours wrote, as a draft."""
    return {"prediction": text, "ended": None, "num_tokens": None}


# Baselines without a model: what a score gives to a copy, to chance, to retrieval, and to words without order


def build_baselines(problems: Problems, specificity: evaluate.Metric, seen: list[dict]) -> list[SystemDrafts]:
    """
    The problem itself, a random and the nearest training approach, a list of terms, and the reference.

    Where the main model saw only a part of the training rows, also the nearest approach among those, `seen`: what a
    look-up in the same rows reaches.
    """
    near = find_nearest(problems.rows, problems.train)
    nearest = {NEAREST: near}
    if 0 < len(seen) < len(problems.train):
        nearest[NEAREST_SEEN] = find_nearest(problems.rows, seen)
    texts_by_system = {
        "problem copied": [row["problem"] for row in problems.rows],
        RANDOM: [row["approach"] for row in problems.random_train],
        **{system: [texts[0] if texts else "" for texts in found] for system, found in nearest.items()},
        WORD_LIST: build_word_lists(problems, near, specificity),
        REFERENCE: [row["approach"] for row in problems.rows],
    }
    return [
        SystemDrafts(system, "no model", [], "none", [[build_draft(text) for text in texts]])
        for system, texts in texts_by_system.items()
    ]


def find_nearest(rows: list[dict], train: list[dict]) -> list[list[str]]:
    """For each row the approaches of the five training rows whose problems are nearest; never its own."""
    # One more than needed: with --dataset_split train the nearest is the row itself, which is left out.
    hits = BM25Index([row["problem"] for row in train]).nearest([row["problem"] for row in rows], k=NUM_NEAREST + 1)
    near = []
    for row, found in zip(rows, hits, strict=True):
        others = [train[index] for index, _ in found if train[index]["id"] != row["id"]]
        near.append([other["approach"] for other in others[:NUM_NEAREST]])
    return near


def build_word_lists(problems: Problems, near: list[list[str]], specificity: evaluate.Metric) -> list[str]:
    """
    For each row the new terms of its five nearest training approaches `near`, the largest weight first.

    A term's weight is its inverse document frequency times the number of the five that have it. A row gets as many
    terms as references have new ones on average.
    """
    weights = specificity.weigh([row["approach"] for row in problems.train])
    asked, references = ([row[name] for row in problems.rows] for name in ("problem", "approach"))
    _, new_terms = specificity.statistics(references, references, asked, weights)
    number, lists = round(float(new_terms[:, 1].mean())), []
    for problem, texts in zip(asked, near, strict=True):
        counts = Counter(term for text in texts for term in specificity.terms(text))
        given = set(specificity.terms(problem))
        ranked = sorted(counts.keys() - given, key=lambda term: (-counts[term] * weights[term], term))
        lists.append(" ".join(ranked[:number]))
    return lists


def shuffle_words(entry: SystemDrafts) -> SystemDrafts:
    """A system's drafts with the words of each in random order, which specificity does not see."""

    def shuffle(draft: Draft, seed: int) -> Draft:
        words = draft["prediction"].split()
        random.Random(seed).shuffle(words)
        return build_draft(" ".join(words))

    runs = [[shuffle(draft, seed) for seed, draft in enumerate(run)] for run in entry.runs]
    return replace(entry, system=f"{entry.system}, words shuffled", kind="no model", runs=runs)
