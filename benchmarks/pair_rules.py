"""
What models learn from several pair rules: drafts for the same problems, against the full rest and human labels.

Reads what `same_abstracts.py` wrote, a folder for each rule, and the models that were trained on each, for as many
steps as see equally many tokens of approaches. Every model drafts for the same test problems, whose references are all
that follows the first sentence, and for the problems of labelled abstracts, whose references are the sentences that
people called method or objective. A rule whose prompts hold more is also asked with the problem alone.
With `given` all that any prompt holds counts as given for every system. `tagged` is the share of a draft's words that
the tagger calls method or objective: it chose the training rows of some, so that it says what a draft is made of, and
not how good it is. What was drafted stays in a folder beside `--output`: the same command goes on from there.

    python benchmarks/pair_rules.py first=A1,A2,A3 roles=B1,B2,B3 --datasets first=same/first roles=same/roles \\
        --labelled csabstruct/train.jsonl csabstruct/dev.jsonl --output FILE.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import evaluate
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NUM_RESAMPLES = 10_000
NUM_ROWS = 200
MIN_WORDS = 20  # of a reference by human labels
MAX_PROBLEM_WORDS = 50
DECODING = "greedy, penalty 1.15"


def read_labelled(paths: Sequence[Path]) -> list[dict]:
    """Problems and references by the last file's labels: the first background or objective sentence, what was done."""
    from train_roles import read_parts

    from approach.prompt import make_prompt

    rows = []
    for number, abstract in enumerate(read_parts(paths)[-1]):
        sentences, labels = abstract["sentences"], abstract["labels"]
        first = next((i for i, label in enumerate(labels) if label in ("background", "objective")), None)
        if first is None:
            continue
        kept = [text for i, text in enumerate(sentences) if i > first and labels[i] in ("method", "objective")]
        problem, approach = (" ".join(text.split()) for text in (sentences[first], " ".join(kept)))
        if len(approach.split()) >= MIN_WORDS and len(problem.split()) <= MAX_PROBLEM_WORDS:
            rows.append({"id": number, "problem": problem, "approach": approach, "prompt": make_prompt(problem)})
    return rows


def tagged_share(texts: Sequence[str]) -> float:
    """The share of the texts' words that the tagger calls method or objective."""
    from approach.data.pair_rules import split_punctuation
    from approach.roles import load_tagger, most_likely_role

    good, total, tagger = 0, 0, load_tagger()
    for text in texts:
        sentences = split_punctuation(text)
        for sentence, roles in zip(sentences, tagger.tag(sentences), strict=True):
            total += len(sentence.split())
            good += len(sentence.split()) * (most_likely_role(roles) in ("method", "objective"))
    return good / max(1, total)


def describe(values: np.ndarray, resampled: np.ndarray) -> dict:
    """A score of several models: the mean, its interval of 95 % over rows, and each model's own."""
    low, high = np.percentile(resampled.mean(axis=0), (2.5, 97.5))
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "models": values.tolist()}


def compare(ours: np.ndarray, theirs: np.ndarray, ours_drawn: np.ndarray, theirs_drawn: np.ndarray) -> dict:
    """A paired difference of two systems' means, its interval, and p as in `approach/evaluation/significance.py`."""
    difference = float(ours.mean() - theirs.mean())
    drawn = ours_drawn.mean(axis=0) - theirs_drawn.mean(axis=0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    p = (1 + int((np.abs(drawn - difference) >= abs(difference)).sum())) / (len(drawn) + 1)
    return {"difference": difference, "low": float(low), "high": float(high), "p": p}


class Scorer:
    """Scores drafts and bits of the models of one system on one list of rows."""

    def __init__(self, corpus: list[str]):
        names = ("specificity", "behaviour")
        self.specificity, self.behaviour = (
            evaluate.load(str(ROOT / "approach/metrics" / f"{name}.py")) for name in names
        )
        self.terms = self.specificity.weigh(corpus)

    def score(self, drafts: list[list[dict]], bits: list, rows: list[dict], given: list[str]) -> tuple[dict, dict]:
        """What is shown, and for comparisons the values and the resampled values by score."""
        from approach.evaluation.significance import draw_rows

        references, draws = [row["approach"] for row in rows], draw_rows(len(rows), NUM_RESAMPLES)
        weights = np.concatenate([np.ones((1, len(rows)), int), draws])
        values: dict[str, list] = {"specificity": [], "problem_gain": [], "bits_per_byte": []}
        for run, part in zip(drafts, bits, strict=True):
            texts = [draft["prediction"] for draft in run]
            pairs, _ = self.specificity.statistics(texts, references, given, self.terms)
            values["specificity"].append(self.specificity.from_pairs(pairs, weights))
            gained = np.nan_to_num(part.permuted[0] - part.own[0]), np.where(part.measured, part.size, 0)
            values["problem_gain"].append((weights @ gained[0]) / (weights @ gained[1]))
            values["bits_per_byte"].append((weights @ np.nan_to_num(part.own[0])) / (weights @ gained[1]))
        arrays = {name: np.array(found, dtype=float) for name, found in values.items()}
        texts = [draft["prediction"] for run in drafts for draft in run]
        problems = [row["problem"] for row in rows] * len(drafts)
        behaviour = self.behaviour.compute(predictions=texts, references=references * len(drafts), problems=problems)
        shown = {name: describe(array[:, 0], array[:, 1:]) for name, array in arrays.items()}
        shown |= {
            "ended": float(np.mean([draft["ended"] for run in drafts for draft in run])),
            "repeated_4grams": behaviour["repeated_4grams"],
            "words": float(np.mean([len(text.split()) for text in texts])),
            "tagged": tagged_share(texts),
        }
        return shown, {name: (array[:, 0], array[:, 1:]) for name, array in arrays.items()}


def main(args: argparse.Namespace) -> None:
    from approach.evaluation.reference_nll import measure_reference_nll
    from approach.evaluation.systems import Selection, load_rows
    from approach.generation.engine import Drafter
    from approach.generation.partial import PartialDrafts
    from approach.prompt import make_prompt

    models, folders = (dict(pair.split("=", 1) for pair in pairs) for pairs in (args.models, args.datasets))
    first = next(iter(folders))
    take = Selection("test", args.num_examples, (0.5, 1.0), 0).take
    asked = {name: take(load_rows(folder, None, "test")) for name, folder in folders.items()}
    rows, labelled = asked[first], read_labelled(args.labelled)
    shown_prompts = [" ".join({row["prompt"] for row in each}) for each in zip(*asked.values(), strict=True)]
    scorer = Scorer([row["approach"] for row in load_rows(folders[first], None, "train")])
    found, numbers = {}, {}
    with PartialDrafts(args.output.with_suffix("")) as partial:
        for name, paths in models.items():
            sets = {"full rest": (asked[name], [row["problem"] for row in rows])}
            if asked[name] != rows and [row["prompt"] for row in asked[name]] != [row["prompt"] for row in rows]:
                sets["full rest, problem alone"] = (rows, [row["problem"] for row in rows])
            sets["full rest, given"] = (asked[name], shown_prompts)
            sets["human labels"] = (labelled, [row["problem"] for row in labelled])
            drafters = [Drafter(path) for path in paths.split(",")]
            for about, (chosen, given) in sets.items():
                prompts, references = ([row[key] for row in chosen] for key in ("prompt", "approach"))
                drafts = [drafter.draft(prompts, partial, DECODING) for drafter in drafters]
                options = {"permuted": True, "empty_prompt": make_prompt("")}
                bits = [
                    measure_reference_nll(drafter, prompts, references, partial, **options) for drafter in drafters
                ]
                found[f"{name}, {about}"], numbers[name, about] = scorer.score(drafts, bits, chosen, given)
    comparisons = {}
    for name, about in numbers:
        beside = (first, about if (first, about) in numbers else "full rest")
        if name != first:
            both = numbers[name, about], numbers[beside]
            comparisons[f"{name} to {first}, {about}"] = {
                score: compare(both[0][score][0], both[1][score][0], both[0][score][1], both[1][score][1])
                for score in both[0]
            }
    human = tagged_share([row["approach"] for row in labelled])
    result = {"rows": len(rows), "labelled": len(labelled), "tagged_of_human": human}
    result |= {"systems": found, "comparisons": comparisons}
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, scores in found.items():
        cells = (f"{scores[key]['value']:8.4f}" for key in ("specificity", "problem_gain", "bits_per_byte"))
        print(f"{name:36}{''.join(cells)}{scores['words']:6.0f} words, tagged {scores['tagged']:.1%}")
    for name, scores in comparisons.items():
        for score, about in scores.items():
            interval = f"({about['low']:+.4f} to {about['high']:+.4f})"
            print(f"{name:44}{score:14}{about['difference']:+8.4f} {interval} p {about['p']:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="RULE=MODEL,MODEL", help="the models of each rule")
    parser.add_argument(
        "--datasets", nargs="+", required=True, metavar="RULE=FOLDER", help="the first to compare with"
    )
    parser.add_argument("--labelled", type=Path, nargs="+", required=True, help="CSAbstruct's train.jsonl, dev.jsonl")
    parser.add_argument("--num_examples", type=int, default=NUM_ROWS, help="Test problems.")
    parser.add_argument("--output", type=Path, required=True, help="JSON of all scores and comparisons.")
    main(parser.parse_args())
