"""
How much of a problem is a problem, and of an approach an approach: sentence rules against human labels.

CSAbstruct (Cohan et al., 2019) labels every sentence of computer-science abstracts as background, objective, method,
result or other. Each rule cuts the abstracts, sentences joined by spaces, into pairs; the table gives the share of
characters (white space aside) of each label in the problems and in the approaches, unfiltered. `human` takes the
labelled sentences themselves: the first-sentence rule with no error of splitting.

    python benchmarks/label_noise.py ../shared/data/csabstruct/train.jsonl ../shared/data/csabstruct/dev.jsonl
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from approach.data.pair_rules import SENTENCE_RULES


def letters(text: str) -> int:
    """Characters that are not white space: the measure by which a cut is placed in the labelled sentences."""
    return sum(map(len, text.split()))


def count_labels(abstract: dict, problem_letters: int) -> tuple[Counter, Counter]:
    """Letters of each label before and after the cut."""
    problem, approach, place = Counter(), Counter(), 0
    for sentence, label in zip(abstract["sentences"], abstract["labels"], strict=True):
        size = letters(sentence)
        before = min(size, max(0, problem_letters - place))
        problem[label] += before
        approach[label] += size - before
        place += size
    return problem, approach


def boundaries(sentences: list[str]) -> set[int]:
    """Where sentences end, in letters from the start, the end of the text left out."""
    places, place = set(), 0
    for sentence in sentences[:-1]:
        place += letters(sentence)
        places.add(place)
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="CSAbstruct's .jsonl files")
    files = parser.parse_args().files
    abstracts = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [" ".join(abstract["sentences"]) for abstract in abstracts]
    print(f"{len(abstracts):,} abstracts, {sum(len(a['sentences']) for a in abstracts):,} sentences")
    print(f"{'':12} {'problem is background':>24} {'approach is method':>20}")
    print(f"{'rule':12} {'or objective':>24} {'or objective':>20} {'result':>8} {'F1':>7} {'abstracts/s':>12}")
    for name in ("human", "punctuation", "report"):
        started = time.perf_counter()
        cut = (
            [abstract["sentences"] for abstract in abstracts]
            if name == "human"
            else list(map(SENTENCE_RULES[name], texts))
        )
        pace = len(texts) / (time.perf_counter() - started)
        problem, approach, found, true, both = Counter(), Counter(), 0, 0, 0
        for abstract, sentences in zip(abstracts, cut, strict=True):
            if len(sentences) > 1:
                before, after = count_labels(abstract, letters(sentences[0]))
                problem, approach = problem + before, approach + after
            ours, theirs = boundaries(sentences), boundaries(abstract["sentences"])
            found, true, both = found + len(ours), true + len(theirs), both + len(ours & theirs)
        shares = [
            (problem["background"] + problem["objective"]) / problem.total(),
            (approach["method"] + approach["objective"]) / approach.total(),
            approach["result"] / approach.total(),
        ]
        shown = "".join(f"{share:{width}.1%}" for share, width in zip(shares, (25, 21, 9), strict=True))
        print(f"{name:12}{shown} {2 * both / (found + true):7.4f} {'' if name == 'human' else f'{pace:,.0f}':>12}")


if __name__ == "__main__":
    main()
