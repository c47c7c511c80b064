"""
Roles of sentences by hand beside the tagger's: show abstracts without its labels, then compare.

`role_labels.json` holds, for some abstracts of a file, the labels that one reader gave: by id one letter a sentence
(b background, o objective, m method, r result, x other), and no text. The reader was a language model (Claude), which
read the sentences as `show` prints them before any label of the tagger's was seen. So it is a second opinion, no panel
of people.

    python benchmarks/role_labels.py show acl.jsonl.gz --rows 60               # a seeded draw, to label
    python benchmarks/role_labels.py show arxiv.jsonl.gz --rows 40 --like_cs   # of texts that talk of computing
    python benchmarks/role_labels.py compare acl=acl.jsonl.gz arxiv=arxiv.jsonl.gz
"""

import argparse
import gzip
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from approach.data.pair_rules import select_sentences, split_auto
from approach.roles import ROLES, load_tagger, most_likely_role

LABELS = Path(__file__).with_suffix(".json")
LETTERS = dict(zip("bomrx", ROLES, strict=True))
SEED = 17
SENTENCES = range(3, 16)  # of an abstract that is drawn: longer ones are mostly introductions
COMPUTING = re.compile(
    r"\b(?:algorithms?|software|databases?|machine learning|neural networks?|classifiers?|computer|computational"
    r" complexity|programming|wireless|sensor networks?|compressed sensing|coding|decod\w+|data mining|semantic\w*"
    r"|users?|queries|protocols?|image processing)\b"
)


def read_abstracts(path: Path) -> dict[str, list[str]]:
    """The sentences of each abstract by its id, as `prepare_dataset.py` cuts them."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {str(row.get("id", row.get("article_id"))): split_auto(row["abstract"]) for row in rows if row["abstract"]}


def show(path: Path, num_rows: int, like_cs: bool) -> None:
    """Prints a draw of abstracts, each sentence on a line of its own."""
    abstracts = read_abstracts(path)
    names = sorted(name for name, sentences in abstracts.items() if len(sentences) in SENTENCES)
    if like_cs:
        names = [name for name in names if len(set(COMPUTING.findall(" ".join(abstracts[name]).lower()))) >= 2]
    for name in random.Random(SEED).sample(names, num_rows):
        print(f"\n{name}")
        for i, sentence in enumerate(abstracts[name]):
            print(f"  {i} {sentence}")


def kappa(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Cohen's kappa: agreement beyond that of two readers who give each label as often, but at random."""
    agree = np.mean([one == other for one, other in zip(ours, theirs, strict=True)])
    one, other = Counter(ours), Counter(theirs)
    chance = sum(one[label] * other[label] for label in one) / len(ours) ** 2
    return float((agree - chance) / (1 - chance))


def compare(name: str, path: Path) -> None:
    """Prints how far the tagger agrees with the labels of one source, and what its pairs are by them."""
    labels, abstracts = json.loads(LABELS.read_text(encoding="utf-8"))["labels"][name], read_abstracts(path)
    hand, given, words, problems, num_pairs = [], [], Counter(), Counter(), 0
    for row_id, letters in labels.items():
        sentences, roles = abstracts[row_id], [LETTERS[letter] for letter in letters]
        if len(sentences) != len(roles):
            sys.exit(f"{row_id}: {len(sentences)} sentences, where {len(roles)} have labels")
        tagged = load_tagger().tag(sentences)
        hand += roles
        given += [most_likely_role(row) for row in tagged]
        selection = select_sentences(sentences, tagged)
        if selection.reason or sum(len(sentences[i].split()) for i in selection.approach) < 30:
            continue
        num_pairs += 1
        problems[roles[selection.problem]] += len(sentences[selection.problem].split())
        for i in selection.approach:
            words[roles[i]] += len(sentences[i].split())
    right = np.mean([one == other for one, other in zip(hand, given, strict=True)])
    print(f"\n{name}: {len(labels)} abstracts, {len(hand)} sentences")
    print(f"same label {right:.3f}, Cohen's kappa {kappa(hand, given):.3f}")
    print(f"{num_pairs} abstracts give an approach of 30 words; shares of words by hand:")
    for what, counts in (("approach", words), ("problem", problems)):
        print(f"  {what:9}" + "".join(f" {role} {counts[role] / max(1, counts.total()):.3f}" for role in ROLES))
    for role in ROLES:
        both = sum(one == other == role for one, other in zip(hand, given, strict=True))
        print(f"  {role:11} by hand {hand.count(role):4}, by the tagger {given.count(role):4}, by both {both:4}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("show")
    shown.add_argument("file", type=Path)
    shown.add_argument("--rows", type=int, default=60)
    shown.add_argument("--like_cs", action="store_true")
    compared = commands.add_parser("compare")
    compared.add_argument("files", nargs="+", metavar="SOURCE=FILE")
    arguments = parser.parse_args()
    if arguments.command == "show":
        show(arguments.file, arguments.rows, arguments.like_cs)
    else:
        for pair in arguments.files:
            source, _, place = pair.partition("=")
            compare(source, Path(place))
