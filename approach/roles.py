"""The role of each sentence of an abstract: background, objective, method, result or other (docs/roles.md)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pycrfsuite

ROLES = ("background", "objective", "method", "result", "other")
MODEL = Path(__file__).with_name("roles.crfsuite")  # trained by benchmarks/train_roles.py

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
WORD = re.compile(r"@?\w+|[%?:;()]")  # `@xmath` is one word
LONGEST_OPENING = 4  # words that a sentence begins with
NEIGHBOUR_WEIGHT = 0.5
PREFIXES = ("=", "<", ">")  # of a feature from the sentence itself, from the one before it, from the one after it

Roles = dict[str, float]  # the probability of each role
Known = Mapping[str, Sequence[str]]  # the terms that are features, with a feature's name for each of PREFIXES


class RoleTagger:
    """A linear-chain conditional random field that was trained on labelled abstracts of computer science."""

    def __init__(self, model: bytes):
        self.model = model  # is read where it lies
        self.crf = pycrfsuite.Tagger()
        self.crf.open_inmemory(model)
        names = self.crf.info().attributes
        # Most terms of a text are none of the model's: those that are not are left out before it is asked.
        self.known = join_known([name[1:] for name in names if name[0] == prefix] for prefix in PREFIXES)

    def tag(self, sentences: Sequence[str]) -> list[Roles]:
        """The probabilities of the roles of each sentence of one abstract, in their order."""
        if not sentences:
            return []
        self.crf.set(pycrfsuite.ItemSequence(list_features(sentences, self.known)))
        return [{role: self.crf.marginal(role, i) for role in ROLES} for i in range(len(sentences))]


@cache
def load_tagger() -> RoleTagger:
    """The tagger that ships with this package."""
    return RoleTagger(MODEL.read_bytes())


def name_role(roles: Roles) -> str:
    """The likeliest role; of equally likely ones the first in ROLES."""
    return max(roles, key=roles.__getitem__)


def describe_confidence(tagged: Sequence[Roles]) -> float:
    """How sure the tagger is of an abstract's labels: the mean probability of each sentence's likeliest role."""
    return sum(max(roles.values()) for roles in tagged) / len(tagged) if tagged else 0.0


def join_known(parts: Iterable[Iterable[str]]) -> Known:
    """The features' names by term, one for each of PREFIXES, of the terms that each of them has; empty where none."""
    known: dict[str, list[str]] = {}
    for place, (prefix, terms) in enumerate(zip(PREFIXES, parts, strict=True)):
        for term in terms:
            known.setdefault(term, [""] * len(PREFIXES))[place] = prefix + term
    return known


def list_features(sentences: Sequence[str], known: Known) -> list[dict[str, float]]:
    """
    The features of each sentence, by name, with their values.

    They are the sentence's terms, those of its neighbours at half the weight, its place and its length; of terms those
    that are known.
    """
    words = [list_words(sentence) for sentence in sentences]
    # Each term is looked up once: most of the time goes here.
    found = [[known[term] for term in list_terms(row) if term in known] for row in words]
    own, before, after = ([[names[i] for names in row if names[i]] for row in found] for i in range(len(PREFIXES)))
    rows = []
    for i, names in enumerate(own):
        features = dict.fromkeys(names, 1.0)
        if i:
            features |= dict.fromkeys(before[i - 1], NEIGHBOUR_WEIGHT)
        if i + 1 < len(found):
            features |= dict.fromkeys(after[i + 1], NEIGHBOUR_WEIGHT)
        features |= dict.fromkeys(describe_place(i, len(found), len(words[i])), 1.0)
        rows.append(features)
    return rows


def list_words(sentence: str) -> list[str]:
    """A sentence's words in lower case, with every number as 0, and the few marks that tell of a role."""
    return WORD.findall(NUMBER.sub("0", sentence.lower()))


def list_terms(words: Sequence[str]) -> list[str]:
    """A sentence's words and pairs of words, and its first words as one term each."""
    pairs = [f"{one} {other}" for one, other in zip(words, words[1:], strict=False)]
    openings = ["^" + " ".join(words[:size]) for size in range(1, min(LONGEST_OPENING, len(words)) + 1)]
    return [*words, *pairs, *openings]


def describe_place(i: int, num_sentences: int, num_words: int) -> list[str]:
    """Where sentence `i` stands, from the start, from the end and of the whole, and how long text and sentence are."""
    first, last = min(i, 5), min(num_sentences - 1 - i, 5)
    return [
        f"#first {first}",
        f"#last {last}",
        f"#first {first} last {last}",
        f"#tenth {10 * i // num_sentences}",
        f"#sentences {min(num_sentences, 16)}",
        f"#words {min(num_words // 8, 6)}",
    ]
