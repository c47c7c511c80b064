"""
What a term should be in `approach/metrics/specificity.py`: which normalisation tells own from near approaches best.

Every second sentence of a validation row's approach is a draft for the other sentences; the approach of the nearest
training problem is another draft for them. Printed: both specificities, and their paired difference over its standard
error. Stems need the package nltk, which rouge-score brings.

    python benchmarks/terms.py --dataset_name outputs/pairs          # a minute
"""

import argparse
import re
import sys
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def load_metric():
    """The metric's module, whose `list_terms` is replaced."""
    spec = spec_from_file_location("specificity", ROOT / "approach" / "metrics" / "specificity.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_terms(placeholder: re.Pattern, stem, keeps_hyphens: bool, with_pairs: bool):
    """A function that lists the terms of a text, each once."""
    pattern = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*" if keeps_hyphens else r"[^\W\d_]{3,}")
    cached = lru_cache(None)(stem)

    def list_terms(text: str) -> list[str]:
        words = [cached(word) for word in pattern.findall(placeholder.sub(" ", text).lower()) if len(word) >= 3]
        pairs = [f"{one} {two}" for one, two in zip(words, words[1:], strict=False)] if with_pairs else []
        return list(dict.fromkeys([*words, *pairs]))

    return list_terms


def main(args: argparse.Namespace) -> None:
    from nltk.stem import PorterStemmer
    from nltk.stem.snowball import SnowballStemmer
    from nupunkt import sent_tokenize

    from approach.evaluation.systems import Selection, load_rows
    from approach.retrieval import BM25Index

    metric = load_metric()
    train, rows = (
        load_rows(args.dataset_name, None, "train"),
        Selection("validation", 300).take(load_rows(args.dataset_name, None, "validation")),
    )
    problems, corpus = [row["problem"] for row in rows], [row["approach"] for row in train]
    hits = BM25Index([row["problem"] for row in train]).nearest(problems, 1)
    nearest = [corpus[hit[0][0]] if hit else "" for hit in hits]
    sentences = [sent_tokenize(row["approach"]) for row in rows]
    own, references = ([" ".join(parts[start::2]) for parts in sentences] for start in (0, 1))
    stems = {"no stems": str, "Porter": PorterStemmer().stem, "Snowball": SnowballStemmer("english").stem}
    for name, stem in stems.items():
        for keeps_hyphens in (False, True):
            for with_pairs in (False, True):
                metric.list_terms = make_terms(metric.PLACEHOLDER, stem, keeps_hyphens, with_pairs)
                weights, found = metric.TermWeights(corpus), []
                for drafts in (own, nearest):
                    pairs, _ = metric.Specificity.statistics(drafts, references, problems, weights)
                    found.append(pairs.sum(axis=1) / (len(rows) - 1))
                difference = found[0] - found[1]
                t = difference.mean() / (difference.std(ddof=1) / len(rows) ** 0.5)
                print(
                    f"{name:9} hyphens {'kept' if keeps_hyphens else 'split':6} pairs {with_pairs!s:6} "
                    f"own half {found[0].mean():.4f}  nearest {found[1].mean():.4f}  t {t:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    main(parser.parse_args())
