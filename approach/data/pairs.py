"""From a source's rows to problem–approach pairs: cleaned, cut, counted, and each kept or dropped for one reason."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from approach.data.arxiv import find_first_date, list_categories, read_mail_date
from approach.data.role_fit import describe_fit, read_category
from approach.data.role_pairs import choose_sentences
from approach.data.sentences import SENTENCE_RULES
from approach.data.sources import Columns
from approach.prompt import TAGS, add_special_tokens, load_tokenizer, make_completion, make_prompt
from approach.roles import describe_confidence, load_tagger, name_role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("id", "problem", "approach", "prompt", "completion")  # of the dataset
ROLE_COLUMNS = ("roles", "role_confidence")  # of a dataset by roles, behind the others
# What is known of an abstract that was tagged, for the dataset, its card and its report; here of one that was not.
NO_EVIDENCE = {
    "roles": [],  # one a sentence
    "role_confidence": 0.0,
    "sentences": [],
    "uses": [],  # of each sentence: problem, approach, background, or empty
    "fit": "",
    "num_findings": 0,
}
CATEGORY_REASON = "other_category"  # of --categories alone
# Why a row is dropped, in the order of the checks; the three filters are the original report's, in its order.
DROP_REASONS = (
    CATEGORY_REASON,
    "no_text",
    "invalid_text",
    "contains_tag",
    "no_year",
    "too_few_sentences",
    "no_problem",
    "problem_tells_approach",
    "no_approach",
    "problem_too_long",
    "approach_too_short",
    "too_many_tokens",
    "exact_copy",
    "near_copy_of_earlier_year",
)
ROLE_REASONS = ("no_problem", "problem_tells_approach", "no_approach")  # of --pair_rule roles alone
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
INVALID = re.compile("[\ufffd\ud800-\udfff]")  # what decoders leave for bytes that are not UTF-8


@dataclass(frozen=True)
class PairRules:
    """How an abstract is cut, and which pairs are kept."""

    sentence_rule: str  # a key of SENTENCE_RULES
    min_sentences: int
    max_problem_words: int
    min_approach_words: int
    max_length: int | None = None  # in tokens, prompt and completion together
    by_roles: bool = False  # instead of the first sentence and the rest
    with_background: bool = False  # in the prompt, after the problem
    keep_telling_problems: bool = False
    keep_findings: bool = False
    categories: tuple[str, ...] = ()  # keep abstracts listed in one of them; none: keep all


@dataclass(frozen=True)
class Pair:
    """What becomes of a row: its texts, why it is dropped (empty where it is not), and NO_EVIDENCE's like by roles."""

    problem: str = ""
    approach: str = ""
    reason: str = ""
    background: str = ""
    evidence: dict = field(default_factory=NO_EVIDENCE.copy)


def build_rows(
    batch: dict[str, list], columns: Columns, rules: PairRules, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> dict[str, list]:
    """
    Turns a batch of source rows into as many dataset rows, with columns to filter and describe them by.

    `tokens` counts prompt and completion together; without a tokenizer it is 0.
    """
    evidence = [*NO_EVIDENCE, "category"] if rules.by_roles else []
    rows = {name: [] for name in (*COLUMNS, "reason", "year", "problem_words", "approach_words", *evidence)}
    for values in zip(*batch.values(), strict=True):
        for name, value in build_row(dict(zip(batch, values, strict=True)), columns, rules).items():
            rows[name].append(value)
    if tokenizer is None:
        return {**rows, "tokens": [0] * len(rows["id"])}
    texts = [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
    tokens = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    limit = rules.max_length or sys.maxsize
    reasons = [
        reason or ("too_many_tokens" if count > limit else "")
        for reason, count in zip(rows["reason"], tokens, strict=True)
    ]
    return {**rows, "reason": reasons, "tokens": tokens}


def build_row(row: dict, columns: Columns, rules: PairRules) -> dict:
    """One dataset row: its texts, why it is dropped (empty where it is not), its year (0 for none) and its words."""
    pair = build_pair(row, columns, rules)
    source_id = row[columns.id] if columns.id else None
    if isinstance(source_id, list | dict | bytes):
        raise ValueError(f"{columns.id} {source_id!r:.80} is no id: a text or a number was expected")
    if source_id is None or source_id == "":
        values = [value for name, value in row.items() if name != columns.category]
        source_id = hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]
    category = read_category(row[columns.category]) if columns.category else ""
    return {
        "id": str(source_id),
        "problem": pair.problem,
        "approach": pair.approach,
        "prompt": make_prompt(pair.problem, pair.background),
        "completion": make_completion(pair.approach),
        "reason": pair.reason,
        "year": (read_year(row[columns.year]) if columns.year else None) or 0,
        "problem_words": count_words(pair.problem),
        "approach_words": count_words(pair.approach),
        **({**pair.evidence, "category": category} if rules.by_roles else {}),
    }


def build_pair(row: dict, columns: Columns, rules: PairRules) -> Pair:
    """The pair of a row; its `reason` is one of DROP_REASONS, or empty where it is kept."""
    if rules.categories and not set(rules.categories).intersection(list_categories(row[columns.category])):
        return Pair(reason=CATEGORY_REASON)
    texts = [clean(row[column]) for column in columns.texts]
    if not all(texts):
        return Pair(reason="no_text")
    if any(INVALID.search(text) for text in texts):
        return Pair(reason="invalid_text")
    if any(tag in text for tag in TAGS for text in texts):
        return Pair(reason="contains_tag")  # `</approach>` in an abstract would end its approach
    if columns.year and read_year(row[columns.year]) is None:
        return Pair(reason="no_year")
    if columns.problem:
        pair = Pair(*texts)
    else:
        rule = "lines" if isinstance(row[columns.abstract], list) else rules.sentence_rule
        sentences = SENTENCE_RULES[rule](texts[0])
        if len(sentences) < rules.min_sentences:
            return Pair(reason="too_few_sentences")
        if rules.by_roles:
            pair = pair_by_roles(texts[0], sentences, rules)
        else:
            pair = Pair(sentences[0].strip(), " ".join(sentences[1:]))
    if not pair.reason and count_words(pair.problem) > rules.max_problem_words:
        return replace(pair, reason="problem_too_long")
    if not pair.reason and count_words(pair.approach) < rules.min_approach_words:
        return replace(pair, reason="approach_too_short")
    return pair


def pair_by_roles(text: str, sentences: list[str], rules: PairRules) -> Pair:
    """The pair of an abstract by the roles of its sentences."""
    tagged = load_tagger().tag(sentences)
    choice = choose_sentences(sentences, tagged, rules.keep_telling_problems, rules.keep_findings)
    evidence = {
        "roles": [name_role(roles) for roles in tagged],
        "role_confidence": round(describe_confidence(tagged), 4),
        "sentences": sentences,
        "uses": [choice.name_use(i) for i in range(len(sentences))],
        "fit": describe_fit(text, tagged),
        "num_findings": choice.num_findings,
    }
    problem = "" if choice.problem is None else sentences[choice.problem].strip()
    approach, background = (" ".join(sentences[i] for i in part) for part in (choice.approach, choice.background))
    return Pair(problem, approach, choice.reason, background if rules.with_background else "", evidence)


def clean(text: object) -> str:
    """
    `text` with control characters as spaces; a list of sentences, in `<S> … </S>` or not, becomes lines.

    What is neither, such as a number or lists within a list, is an empty text.
    """
    if isinstance(text, list):
        sentences = [sentence for sentence in text if sentence is not None]
        if not all(isinstance(sentence, str) for sentence in sentences):
            return ""
        text = "\n".join(re.sub(r"^\s*<S>|</S>\s*$", "", sentence) for sentence in sentences)
    return CONTROL.sub(" ", text).strip() if isinstance(text, str) else ""


def read_year(value: object) -> int | None:
    """
    The year in `2023`, `"2023-05-01"`, the `2023.0` that a CSV column with gaps gives, `Mon, 1 May 2023 10:00:00 GMT`,
    or the first of arXiv's versions; None without one.
    """
    text = str(find_first_date(value))
    match = re.match(r"\d{4}(?!\d)", text)
    return int(match[0]) if match else read_mail_date(text)


def count_words(text: str) -> int:
    """White-space-separated words, as the report's filters count them, not a tokenizer's tokens."""
    return len(text.split())


def load_tokenizer_with_tags(name: str | None) -> "PreTrainedTokenizerBase | None":
    """
    The tokenizer to count lengths with, tags added as training adds them; None where none is named.

    Raises UserError where there is no such tokenizer.
    """
    if name is None:
        return None
    tokenizer = load_tokenizer(name, "--tokenizer_name")
    add_special_tokens(tokenizer)
    return tokenizer
