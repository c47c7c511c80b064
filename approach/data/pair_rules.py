"""
From an abstract to its problem and its approach.

SENTENCE_RULES say how an abstract is cut into sentences, PAIR_RULES which of the sentences make a pair. To add a rule,
write its function and add a line to the table: command line, build report and card read the tables.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

# Boundary F1 0.989 on CSAbstruct, 13,000 abstracts a second (benchmarks/README.md).
from nupunkt import sentences as find_sentences

from approach.data.labels import parse_sections
from approach.roles import (
    Roles,
    detect_domain_shift,
    load_tagger,
    mean_confidence,
    most_likely_role,
    summarize_tagging,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from approach.data.arguments import DatasetArguments

Dtype = str | list[str]  # of a column, as dataset cards write it: "string", "float64", ["string"] for lists of strings

# White space after a stop and before a capital, digit, quote or bracket, unless "e.g." or "Dr." stands before it.
REPORT_BOUNDARY = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=[.!?])\s+(?=[A-Z0-9“(])")
STOP_INSIDE = re.compile(r"[.!?][\"”’)\]]*[ \t]+[\"“‘(\[]*[A-Z0-9]")  # where a line may hold several sentences
# Roles: the probability of method or objective of a sentence that is always taken, and of one that may be added.
SURE, POSSIBLE = 0.8, 0.5
SURE_PROBLEM = 0.7  # probability of background or objective, of a problem that is not the first possible one
ENOUGH_WORDS = 40  # an approach of so many words gets no further sentences
MAX_BACKGROUND_WORDS = 80
# A problem that tells what was done about it. No label shows that: it may well be the abstract's objective.
AUTHORS = r"(?:we|(?:this|the(?: present)?|our) (?:paper|work|article|study|thesis|report))"
PROPOSING = (
    r"(?:propos|present|introduc|develop|describ|design|devis|construct|buil[dt]|creat|implement|releas|provid|offer)"
)
TELLS_APPROACH = re.compile(
    rf"\b{AUTHORS}(?: \w+ly| also| first| then| will| have| thus| therefore| hence| here)? {PROPOSING}\w*"
    rf"|\b(?:is|are) (?:proposed|presented|introduced)\b",
    re.IGNORECASE,
)
# A result that the tagger takes for method: "Finally, we also show that …".
FINDING = re.compile(
    r"\s*(?:[a-z]+(?: [a-z]+)?\s?, )?we (?:\w+ly |also |further |then )?(?:find|found|show|showed|observed?) that\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    """What a pair rule makes of an abstract: the texts, or the reason why there are none."""

    problem: str = ""
    approach: str = ""
    reason: str = ""  # one of the rule's `drop_reasons`; empty for a pair that is kept
    background: str = ""  # follows the problem in the prompt
    columns: dict = field(default_factory=dict)  # values of the rule's `columns` and `statistics_columns`
    cleaned: Sequence[str] = ()  # the cleaning steps that changed the row's texts


@dataclass(frozen=True)
class PairRule:
    """An entry of PAIR_RULES: how a pair is made, and what the rule adds to dataset, build report and card."""

    make_pair: Callable[[str, list[str], "DatasetArguments"], Pair]  # of an abstract, its sentences, the arguments
    help: str  # one sentence, for --help and for a card without a template of its own
    min_approach_words: int = 90  # the default of --min_approach_words
    arguments: tuple[str, ...] = ()  # fields of DatasetArguments that only this rule reads
    drop_reasons: tuple[str, ...] = ()
    columns: Mapping[str, Dtype] = field(default_factory=dict)  # further columns of the dataset
    statistics_columns: Mapping[str, Dtype] = field(default_factory=dict)  # for `summarize` and the card alone
    summarize: Callable[["Dataset"], dict] | None = None  # of all rows, for the build report
    card_template: str = "dataset_card.md.jinja"
    num_card_rows: int = 3


def split_lines(abstract: str) -> list[str]:
    """One sentence a line, with single spaces; empty lines are no sentences."""
    return [" ".join(line.split()) for line in abstract.splitlines() if line.strip()]


def split_punctuation(abstract: str) -> list[str]:
    """Sentences of prose as its authors wrote it. Line breaks become spaces first, because they mean nothing there."""
    return [sentence.strip() for sentence in find_sentences(" ".join(abstract.split()))]


def split_auto(abstract: str) -> list[str]:
    """
    Lines where there are several, else punctuation.

    Lines that mostly end in mid-sentence, and are short or mostly go on in lower case, are hard-wrapped prose, which
    punctuation cuts. A single line that ends in mid-sentence goes on in the next one where that begins in lower case.
    Lines of which half or more hold several sentences are paragraphs: punctuation cuts each of them.
    """
    lines = split_lines(abstract)
    unfinished = [line[-1] not in ".?!" for line in lines[:-1]]
    continued = [is_cut and after[0].islower() for is_cut, after in zip(unfinished, lines[1:], strict=True)]
    if any(continued) and not any(line[0].isupper() for line in lines):  # a lower-cased corpus
        continued = [False] * len(continued)
    is_short = max(map(len, lines), default=0) <= 80
    is_wrapped = sum(unfinished) > len(unfinished) / 2 and (is_short or sum(continued) >= sum(unfinished) / 2)
    if len(lines) < 2 or is_wrapped:
        return split_punctuation(abstract)
    for i in reversed([i for i, goes_on in enumerate(continued) if goes_on]):
        lines[i : i + 2] = [f"{lines[i]} {lines[i + 1]}"]
    if not STOP_INSIDE.search(abstract):
        return lines
    num_paragraphs = sum(bool(STOP_INSIDE.search(line)) and len(split_punctuation(line)) > 1 for line in lines)
    if num_paragraphs < len(lines) / 2:
        return lines
    return [sentence for line in lines for sentence in split_punctuation(line)]


def split_report(abstract: str) -> list[str]:
    """The original report's rule, exactly, to reproduce its counts: at white space between a stop and a capital."""
    sentences = REPORT_BOUNDARY.split(abstract.strip())
    if len(sentences) < 2:
        sentences = [line.strip() for line in abstract.splitlines() if line.strip()]
    return sentences


SENTENCE_RULES = {"auto": split_auto, "lines": split_lines, "punctuation": split_punctuation, "report": split_report}


def make_first_sentence_pair(abstract: str, sentences: list[str], args: "DatasetArguments") -> Pair:
    """The first sentence is the problem and the rest the approach, as in the original report."""
    return Pair(sentences[0].strip(), " ".join(sentences[1:]))


def make_roles_pair(abstract: str, sentences: list[str], args: "DatasetArguments") -> Pair:
    """The pair of an abstract by the roles of its sentences (`select_sentences`)."""
    tagged = load_tagger().tag(sentences)
    selection = select_sentences(sentences, tagged, args.keep_telling_problems, args.keep_findings)
    columns = {
        "roles": [most_likely_role(roles) for roles in tagged],
        "role_confidence": round(mean_confidence(tagged), 4),
        "sentences": sentences,
        "uses": [selection.use_of(i) for i in range(len(sentences))],
        "domain_shift": detect_domain_shift(abstract, tagged),
        "num_findings": selection.num_findings,
    }
    problem = "" if selection.problem is None else sentences[selection.problem].strip()
    approach = " ".join(sentences[i] for i in selection.approach)
    background = " ".join(sentences[i] for i in selection.background if args.prompt_context == "background")
    return Pair(problem, approach, selection.reason, background, columns)


def make_labels_pair(abstract: str, sentences: list[str], args: "DatasetArguments") -> Pair:
    """
    The pair of an abstract by its authors' labels, without results and conclusions.

    The problem is the first sentence of background or objective that does not tell the approach; the approach is all
    of methods, design, setting, participants, interventions and outcome measures, in their order. Of a part that is
    labelled as both, the first sentence is the problem's and the others are the approach's.
    """
    sections = parse_sections(abstract)
    if not any(section.label for section in sections):
        if args.unlabelled == "drop":
            return Pair(reason="no_labels")
        pair = PAIR_RULES[args.unlabelled].make_pair(abstract, sentences, args)
        return replace(pair, columns={"labelled": 0}, reason=pair.reason and "no_labels")
    problems, approach = [], []
    for section in sections:
        found = split_punctuation(section.text)
        if section.kind == "mixed":
            problems, approach = [*problems, *found[:1]], [*approach, *found[1:]]
        elif section.kind in ("problem", ""):  # what stands before the first label is background
            problems += found
        elif section.kind == "approach":
            approach += found
    stated = [sentence for sentence in problems if not TELLS_APPROACH.search(sentence)]
    reason = "" if stated and approach else "no_approach" if stated else "no_problem"
    return Pair("".join(stated[:1]), " ".join(approach), reason, columns={"labelled": 1})


def summarize_labels(rows: "Dataset") -> dict:
    """What `build_report.json` says of all abstracts: how many have labels, and how many pairs the labels gave."""
    labelled = rows.data.column("labelled").to_numpy().astype(bool)
    kept = rows.data.column("reason").to_numpy() == ""
    return {"abstracts": len(rows), "labelled": int(labelled.sum()), "pairs_by_labels": int((labelled & kept).sum())}


@dataclass(frozen=True)
class SentenceSelection:
    """Sentence numbers of problem, approach and background, and why there is no pair (empty where there is one)."""

    reason: str = ""
    problem: int | None = None
    approach: list[int] = field(default_factory=list)
    background: list[int] = field(default_factory=list)
    num_findings: int = 0  # sentences left out of the approach

    def use_of(self, i: int) -> str:
        """What sentence `i` is used as; empty where it is not used."""
        uses = {"approach": self.approach, "background": self.background}
        return "problem" if i == self.problem else next((name for name, use in uses.items() if i in use), "")


def select_sentences(
    sentences: Sequence[str], tagged: Sequence[Roles], keep_telling_problems: bool = False, keep_findings: bool = False
) -> SentenceSelection:
    """
    The problem is the first background or objective sentence, method and objective sentences after it the approach.

    Where the first tells its own approach, the problem is the next sure one that does not. The other background
    sentences follow the problem in the prompt, where that is asked for. A sentence is used once.
    """
    roles = [most_likely_role(probabilities) for probabilities in tagged]
    first, *later = [i for i, role in enumerate(roles) if role in ("background", "objective")] or [None]
    if first is None:
        return SentenceSelection("no_problem")
    sure = [i for i in later if tagged[i]["background"] + tagged[i]["objective"] >= SURE_PROBLEM]
    candidates = (i for i in (first, *sure) if keep_telling_problems or not TELLS_APPROACH.search(sentences[i]))
    problem = next(candidates, None)
    if problem is None:
        return SentenceSelection("problem_tells_approach", first)
    after = range(problem + 1, len(sentences))
    probabilities = {i: tagged[i]["method"] + tagged[i]["objective"] for i in after}
    possible = [i for i in after if probabilities[i] >= POSSIBLE]
    findings = [] if keep_findings else [i for i in possible if FINDING.match(sentences[i])]
    approach = select_approach(sentences, {i: probabilities[i] for i in possible if i not in findings})
    rest = [i for i in after if roles[i] == "background" and i not in approach]
    background = select_background(sentences, rest)
    return SentenceSelection("" if approach else "no_approach", problem, approach, background, len(findings))


def select_approach(sentences: Sequence[str], possible: dict[int, float]) -> list[int]:
    """All sure sentences of `possible`, a probability by number, and the most probable others up to ENOUGH_WORDS."""
    selected = [i for i in possible if possible[i] >= SURE]
    num_words = sum(len(sentences[i].split()) for i in selected)
    for i in sorted(possible, key=lambda i: -possible[i])[len(selected) :]:
        if num_words >= ENOUGH_WORDS:
            break
        selected.append(i)
        num_words += len(sentences[i].split())
    return sorted(selected)


def select_background(sentences: Sequence[str], candidates: Sequence[int]) -> list[int]:
    """The first candidates that have at most MAX_BACKGROUND_WORDS together and do not tell the approach."""
    selected, num_words = [], 0
    for i in candidates:
        if TELLS_APPROACH.search(sentences[i]):
            continue
        num_words += len(sentences[i].split())
        if num_words > MAX_BACKGROUND_WORDS:
            break
        selected.append(i)
    return selected


PAIR_RULES = {
    "first_sentence": PairRule(
        make_first_sentence_pair,
        "the first sentence is the problem, the rest the approach, as in the report.",
        card_template="dataset_card_first_sentence.md.jinja",
    ),
    "roles": PairRule(
        make_roles_pair,
        "a small tagger tells background, objective, method and result apart (docs/roles.md).",
        min_approach_words=30,  # without background and results an approach is shorter
        arguments=("prompt_context", "keep_telling_problems", "keep_findings"),
        drop_reasons=("no_problem", "problem_tells_approach", "no_approach"),
        columns={"roles": ["string"], "role_confidence": "float64"},  # `roles`: one a sentence
        statistics_columns={
            "sentences": ["string"],
            "uses": ["string"],  # one a sentence: problem, approach, background, or empty
            "domain_shift": "string",
            "num_findings": "int64",
        },
        summarize=summarize_tagging,
        card_template="dataset_card_roles.md.jinja",
        num_card_rows=10,
    ),
    "labels": PairRule(
        make_labels_pair,
        "the authors' own labels (BACKGROUND: … METHODS: …) say what each part is; results are left out.",
        min_approach_words=30,
        arguments=("unlabelled",),
        drop_reasons=("no_labels", "no_problem", "no_approach"),
        statistics_columns={"labelled": "int64"},
        summarize=summarize_labels,
        card_template="dataset_card_labels.md.jinja",
    ),
}
