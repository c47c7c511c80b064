"""The role of each sentence of an abstract: background, objective, method, result or other (docs/roles.md)."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pycrfsuite

if TYPE_CHECKING:
    from datasets import Dataset

ROLES = ("background", "objective", "method", "result", "other")
MODEL = Path(__file__).with_name("roles.crfsuite")  # trained by benchmarks/train_roles.py

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
WORD = re.compile(r"@?\w+|[%?:;()]")  # `@xmath` is one word
LONGEST_OPENING = 4  # words that a sentence begins with
NEIGHBOUR_WEIGHT = 0.5
PREFIXES = ("=", "<", ">")  # of a feature from the sentence itself, from the one before it, from the one after it

# Of the abstracts of CSAbstruct, each tagged by a model that had not seen it, 5 % lie beyond each of these two
# (benchmarks/train_roles.py).
LOWEST_CONFIDENCE = 0.56
MOST_OBJECTIVES = 0.25
USUAL_SHARE = 0.08  # of those abstracts that lie beyond one of the two
CORPUS_MARK = re.compile(r"@xmath|@xcite")
DOMAIN_SHIFTS = {  # how an abstract may differ from the tagger's training data, and how a warning says it
    "lower-cased": "are lower-cased or hold @xmath or @xcite",
    "unsure": f"have a mean confidence below {LOWEST_CONFIDENCE}",
    "objectives": f"have more than {MOST_OBJECTIVES:.0%} objective sentences",
}
COST = (
    "of the words of CSAbstruct's approaches 79% are method or objective, of its abstracts that are as unlike 68%; on "
    "the arXiv corpus the tagger gives 60% of lines the label that a reader gave, in the ACL Anthology 74%"
)

Roles = dict[str, float]  # the probability of each role
TermIndex = Mapping[str, Sequence[str]]  # of each term that is a feature, the feature's name with each of PREFIXES


class RoleTagger:
    """A linear-chain conditional random field that was trained on labelled abstracts of computer science."""

    def __init__(self, model: bytes):
        self.model = model  # kept, because the tagger reads it in place
        self.crf = pycrfsuite.Tagger()
        self.crf.open_inmemory(model)
        names = self.crf.info().attributes
        # Most terms of a text are not in the model. They are left out before the model is called, which saves time.
        self.term_index = index_terms([name[1:] for name in names if name[0] == prefix] for prefix in PREFIXES)

    def tag(self, sentences: Sequence[str]) -> list[Roles]:
        """The probabilities of the roles of each sentence of one abstract, in their order."""
        if not sentences:
            return []
        self.crf.set(pycrfsuite.ItemSequence(extract_features(sentences, self.term_index)))
        return [{role: self.crf.marginal(role, i) for role in ROLES} for i in range(len(sentences))]


@cache
def load_tagger() -> RoleTagger:
    """The tagger that ships with this package."""
    return RoleTagger(MODEL.read_bytes())


def most_likely_role(roles: Roles) -> str:
    """The likeliest role; of equally likely ones the first in ROLES."""
    return max(roles, key=roles.__getitem__)


def mean_confidence(tagged: Sequence[Roles]) -> float:
    """How sure the tagger is of an abstract's labels: the mean probability of each sentence's likeliest role."""
    return sum(max(roles.values()) for roles in tagged) / len(tagged) if tagged else 0.0


def index_terms(parts: Iterable[Iterable[str]]) -> TermIndex:
    """For each term, the names of its features in the order of PREFIXES; empty where `parts` lacks one."""
    term_index: dict[str, list[str]] = {}
    for place, (prefix, terms) in enumerate(zip(PREFIXES, parts, strict=True)):
        for term in terms:
            term_index.setdefault(term, [""] * len(PREFIXES))[place] = prefix + term
    return term_index


def extract_features(sentences: Sequence[str], term_index: TermIndex) -> list[dict[str, float]]:
    """
    The features of each sentence, by name, with their values.

    They are the sentence's terms, those of its neighbours at half the weight, its position and its length. Terms that
    are not in `term_index` are left out.
    """
    words = [tokenize(sentence) for sentence in sentences]
    # Each term is looked up once, because most of the time is spent here.
    found = [[term_index[term] for term in extract_terms(row) if term in term_index] for row in words]
    own, before, after = ([[names[i] for names in row if names[i]] for row in found] for i in range(len(PREFIXES)))
    rows = []
    for i, names in enumerate(own):
        features = dict.fromkeys(names, 1.0)
        if i:
            features |= dict.fromkeys(before[i - 1], NEIGHBOUR_WEIGHT)
        if i + 1 < len(found):
            features |= dict.fromkeys(after[i + 1], NEIGHBOUR_WEIGHT)
        features |= dict.fromkeys(list_position_features(i, len(found), len(words[i])), 1.0)
        rows.append(features)
    return rows


def tokenize(sentence: str) -> list[str]:
    """A sentence's words in lower case, with every number as 0, and the punctuation marks that hint at a role."""
    return WORD.findall(NUMBER.sub("0", sentence.lower()))


def extract_terms(words: Sequence[str]) -> list[str]:
    """A sentence's words and pairs of words, and its first words as one term each."""
    pairs = [f"{one} {other}" for one, other in zip(words, words[1:], strict=False)]
    openings = ["^" + " ".join(words[:size]) for size in range(1, min(LONGEST_OPENING, len(words)) + 1)]
    return [*words, *pairs, *openings]


def list_position_features(i: int, num_sentences: int, num_words: int) -> list[str]:
    """The position of sentence `i` from start and end and in tenths, and the lengths of text and sentence."""
    first, last = min(i, 5), min(num_sentences - 1 - i, 5)
    return [
        f"#first {first}",
        f"#last {last}",
        f"#first {first} last {last}",
        f"#tenth {10 * i // num_sentences}",
        f"#sentences {min(num_sentences, 16)}",
        f"#words {min(num_words // 8, 6)}",
    ]


def detect_domain_shift(text: str, tagged: Sequence[Roles]) -> str:
    """How an abstract differs from those that the tagger learned from: a key of DOMAIN_SHIFTS, or "none"."""
    if CORPUS_MARK.search(text) or text == text.lower() != text.upper():
        return "lower-cased"
    if mean_confidence(tagged) < LOWEST_CONFIDENCE:
        return "unsure"
    num_objectives = sum(most_likely_role(roles) == "objective" for roles in tagged)
    return "objectives" if num_objectives > MOST_OBJECTIVES * len(tagged) else "none"


def summarize_tagging(rows: "Dataset") -> dict:
    """What `build_report.json` says of all abstracts that were tagged, including those that gave no pair."""
    shifts = Counter(rows.data.column("domain_shift").to_pylist())
    num_tagged = shifts.total() - shifts[""]
    categories = Counter(rows.data.column("category").to_pylist())
    num_with_category = categories.total() - categories.pop("", 0)
    foreign = {name: count for name, count in categories.most_common() if not name.startswith("cs.")}
    confidence = rows.data.column("role_confidence").to_numpy()
    summary = {
        "tagged": num_tagged,
        "mean_confidence": round(float(confidence.sum()) / max(1, num_tagged), 4),
        "unlike": {name: shifts[name] for name in DOMAIN_SHIFTS},
        "findings_left_out": int(rows.data.column("num_findings").to_numpy().sum()),
    }
    if num_with_category:
        summary["categories"] = {"abstracts": num_with_category, "other_than_cs": foreign}
    return {**summary, "warnings": list_warnings(summary)}


def list_warnings(summary: dict) -> list[str]:
    """What a user should know of a source before trusting its roles, a plain sentence each."""
    warnings, unlike = [], summary["unlike"]
    if sum(unlike.values()) > 2 * USUAL_SHARE * summary["tagged"]:
        parts = [f"{count / summary['tagged']:.0%} {DOMAIN_SHIFTS[name]}" for name, count in unlike.items() if count]
        warnings.append(
            f"{sum(unlike.values()) / summary['tagged']:.0%} of the abstracts are unlike those that the roles were "
            f"learned from, of which {USUAL_SHARE:.0%} are ({', '.join(parts)}): {COST}"
        )
    foreign = summary.get("categories", {}).get("other_than_cs", {})
    if foreign:
        shown = ", ".join(f"{name} {count:,}" for name, count in list(foreign.items())[:5])
        warnings.append(
            f"{sum(foreign.values()):,} of {summary['categories']['abstracts']:,} abstracts are of other categories "
            f"than cs.* ({shown}{', …' if len(foreign) > 5 else ''}): the roles were learned from computer science"
        )
    return warnings
