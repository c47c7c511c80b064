"""
Train the tagger of sentence roles (`approach/roles.crfsuite`) on CSAbstruct, and say how good it is.

CSAbstruct (Cohan et al., 2019; AllenAI, Apache-2.0) labels the sentences of computer science abstracts. Abstracts that
share a sentence with another of the files are left out first. Printed, with intervals of 95 % by a bootstrap over
abstracts: how often a sentence gets its label; what the words of the pairs are that `prepare_dataset.py --pair_rule
roles` makes, and how many abstracts give one. Each abstract is tagged by a model that saw neither it nor its fold. The
last file alone, tagged by a model of the others, is told apart.

    python benchmarks/train_roles.py train.jsonl dev.jsonl                        # the figures: a minute of one core
    python benchmarks/train_roles.py train.jsonl dev.jsonl --model approach/roles.crfsuite         # and the model
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycrfsuite

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from approach.data.pair_rules import select_sentences
from approach.roles import (
    PREFIXES,
    ROLES,
    Roles,
    RoleTagger,
    extract_features,
    extract_terms,
    index_terms,
    mean_confidence,
    most_likely_role,
    tokenize,
)

MIN_SENTENCES = dict(zip(PREFIXES, (5, 20, 20), strict=True))  # of a term, for it to be one of the features
FOLDS = 5
DRAWS = 1000
PARAMETERS = {"c1": 0.7, "c2": 8.0, "max_iterations": 50, "feature.possible_transitions": True}
MAX_PROBLEM_WORDS = 50
AGREED = 0.6  # confidence of the annotators in a label, as CSAbstruct states it: for its labels differ


def read_parts(paths: Sequence[Path]) -> list[list[dict]]:
    """The abstracts of each file that share no sentence with another abstract of any of them."""
    parts = [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in paths]
    counts = Counter(text for part in parts for row in part for text in set(map(normalize_sentence, row["sentences"])))
    return [
        [row for row in part if all(counts[normalize_sentence(text)] == 1 for text in row["sentences"])]
        for part in parts
    ]


def normalize_sentence(sentence: str) -> str:
    """A sentence in lower case with single spaces, so that its copies are found."""
    return " ".join(sentence.lower().split())


def find_fold(row: dict) -> int:
    """The fold of an abstract, by a hash of its text: the same whatever the order of the rows."""
    return int(hashlib.sha256(normalize_sentence(" ".join(row["sentences"])).encode()).hexdigest(), 16) % FOLDS


def train(rows: Sequence[dict]) -> bytes:
    """The model of labelled abstracts, as the file holds it; the same rows give the same bytes."""
    counts = Counter(
        term for row in rows for text in row["sentences"] for term in dict.fromkeys(extract_terms(tokenize(text)))
    )
    term_index = index_terms(
        [term for term, count in counts.items() if count >= limit] for limit in MIN_SENTENCES.values()
    )
    trainer = pycrfsuite.Trainer(verbose=False)
    trainer.set_params(PARAMETERS)
    for row in rows:
        trainer.append(pycrfsuite.ItemSequence(extract_features(row["sentences"], term_index)), row["labels"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trainer.train(str(path))
        return path.read_bytes()


def count_words(row: dict, numbers: Sequence[int]) -> Counter:
    """Words of each label in some of a row's sentences."""
    words: Counter = Counter()
    for i in numbers:
        words[row["labels"][i]] += len(row["sentences"][i].split())
    return words


def judge(row: dict, tagged: Sequence[Roles], filters: bool) -> dict[str, float]:
    """What the rule makes of one abstract, as numbers that add up over abstracts."""
    selection = select_sentences(row["sentences"], tagged, not filters, not filters)
    chosen = selection.approach if not selection.reason else []
    approach = count_words(row, chosen)
    agreed = count_words(row, [i for i in chosen if row["confs"][i] >= AGREED])
    problem = count_words(row, [] if selection.problem is None else [selection.problem])
    gives = {limit: problem.total() <= MAX_PROBLEM_WORDS and approach.total() >= limit for limit in (20, 30, 40)}
    is_right = [label == most_likely_role(roles) for label, roles in zip(row["labels"], tagged, strict=True)]
    counted = gives[20]
    return {
        "sentences": len(is_right),
        "right": sum(is_right),
        "abstracts": 1,
        **{f"pair of {limit}": given for limit, given in gives.items()},
        "approach": approach.total() * counted,
        "approach good": (approach["method"] + approach["objective"]) * counted,
        "approach result": approach["result"] * counted,
        "agreed": agreed.total() * counted,
        "agreed good": (agreed["method"] + agreed["objective"]) * counted,
        "agreed result": agreed["result"] * counted,
        "problem": problem.total() * counted,
        "problem good": (problem["background"] + problem["objective"]) * counted,
    }


FIGURES = {
    "sentences that get their label": ("right", "sentences"),
    "approach words method or objective": ("approach good", "approach"),
    "approach words result": ("approach result", "approach"),
    "  of labels with a confidence of .6 or more": ("agreed good", "agreed"),
    "  of these, result": ("agreed result", "agreed"),
    "problem words background or objective": ("problem good", "problem"),
    "abstracts that give an approach of 20 words": ("pair of 20", "abstracts"),
    "abstracts that give an approach of 30 words": ("pair of 30", "abstracts"),
    "abstracts that give an approach of 40 words": ("pair of 40", "abstracts"),
}


def print_figures(title: str, rows: Sequence[dict], tagged: Sequence[Sequence[Roles]], filters: bool = False) -> None:
    """The figures of some abstracts, each with its interval."""
    judged = [judge(row, roles, filters) for row, roles in zip(rows, tagged, strict=True)]
    table = np.array([list(row.values()) for row in judged], dtype=float)
    names = list(judged[0])
    draws = np.random.default_rng(0).integers(len(table), size=(DRAWS, len(table)))
    drawn = np.stack([table[draw].sum(axis=0) for draw in draws])
    print(f"\n{title}: {len(rows):,} abstracts; macro F1 {macro_f1(rows, tagged):.3f}")
    for figure, (part, whole) in FIGURES.items():
        top, bottom = names.index(part), names.index(whole)
        low, high = np.percentile(drawn[:, top] / drawn[:, bottom], (2.5, 97.5))
        print(f"{figure:46} {table[:, top].sum() / table[:, bottom].sum():.3f} ({low:.3f} to {high:.3f})")


def macro_f1(rows: Sequence[dict], tagged: Sequence[Sequence[Roles]]) -> float:
    """The mean of the labels' F1 over sentences."""
    true = [label for row in rows for label in row["labels"]]
    given = [most_likely_role(roles) for row in tagged for roles in row]
    both = Counter(one for one, other in zip(true, given, strict=True) if one == other)
    return sum(2 * both[role] / max(1, true.count(role) + given.count(role)) for role in ROLES) / len(ROLES)


def print_usual(rows: Sequence[dict], tagged: Sequence[Sequence[Roles]]) -> None:
    """What is usual of abstracts that the tagger did not learn from: `approach/roles.py` has it as bounds."""
    confidence = np.array([mean_confidence(row) for row in tagged])
    objective = np.array([sum(most_likely_role(roles) == "objective" for roles in row) / len(row) for row in tagged])
    low, high = np.percentile(confidence, 5), np.percentile(objective, 95)
    unlike = np.flatnonzero((confidence < low) | (objective > high))
    print(f"\nconfidence: mean {confidence.mean():.3f}, 5 % below {low:.3f}")
    print(f"share of objective sentences: mean {objective.mean():.3f}, 5 % above {high:.3f}")
    print(f"beyond either: {len(unlike) / len(rows):.3f}")
    print_figures("cross-validation, those beyond either", [rows[i] for i in unlike], [tagged[i] for i in unlike])


def main(args: argparse.Namespace) -> None:
    parts = read_parts(args.files)
    rows = [row for part in parts for row in part]
    print(f"{' and '.join(f'{len(part):,}' for part in parts)} abstracts share no sentence with another")
    gold = [[{role: float(role == label) for role in ROLES} for label in row["labels"]] for row in rows]
    print_figures("the labels themselves", rows, gold)
    if len(parts) > 1:
        tagger = RoleTagger(train([row for part in parts[:-1] for row in part]))
        tagged = [tagger.tag(row["sentences"]) for row in parts[-1]]
        print_figures(f"{args.files[-1].name}, by a model of the others", parts[-1], tagged)
    taggers = [RoleTagger(train([row for row in rows if find_fold(row) != fold])) for fold in range(FOLDS)]
    tagged = [taggers[find_fold(row)].tag(row["sentences"]) for row in rows]
    print_figures("cross-validation", rows, tagged)
    print_figures("cross-validation, with the two filters that no label sees", rows, tagged, filters=True)
    print_usual(rows, tagged)
    if args.model:
        model = train(rows)
        args.model.write_bytes(model)
        print(f"\nWrote {args.model}: {len(model):,} bytes, SHA-256 {hashlib.sha256(model).hexdigest()[:16]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="CSAbstruct's .jsonl files, the one to hold out last")
    parser.add_argument("--model", type=Path, help="where to write a model of all the files")
    main(parser.parse_args())
