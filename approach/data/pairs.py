"""From a source's rows to problem–approach pairs: cleaned, cut, counted, and each kept or dropped for one reason."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from approach.data.sentences import SENTENCE_RULES
from approach.data.sources import Columns
from approach.files import first_line
from approach.prompt import TAGS, add_special_tokens, make_completion, make_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("id", "problem", "approach", "prompt", "completion")  # of the dataset
# Why a row is dropped, in the order of the checks; the three filters are the original report's, in its order.
DROP_REASONS = (
    "no_text",
    "invalid_text",
    "contains_tag",
    "no_year",
    "too_few_sentences",
    "problem_too_long",
    "approach_too_short",
    "too_many_tokens",
    "exact_copy",
    "near_copy_of_earlier_year",
)
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


def build_rows(
    batch: dict[str, list], columns: Columns, rules: PairRules, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> dict[str, list]:
    """
    Turns a batch of source rows into as many dataset rows, with columns to filter and describe them by.

    `tokens` counts prompt and completion together; without a tokenizer it is 0.
    """
    rows = {name: [] for name in (*COLUMNS, "reason", "year", "problem_words", "approach_words")}
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


def build_row(row: dict, columns: Columns, rules: PairRules) -> dict[str, str | int]:
    """One dataset row: its texts, why it is dropped (empty where it is not), its year (0 for none) and its words."""
    problem, approach, reason = build_pair(row, columns, rules)
    source_id = row[columns.id] if columns.id else None
    if source_id is None:
        source_id = hashlib.sha256(json.dumps(list(row.values()), default=str).encode()).hexdigest()[:16]
    return {
        "id": str(source_id),
        "problem": problem,
        "approach": approach,
        "prompt": make_prompt(problem),
        "completion": make_completion(approach),
        "reason": reason,
        "year": (read_year(row[columns.year]) if columns.year else None) or 0,
        "problem_words": count_words(problem),
        "approach_words": count_words(approach),
    }


def build_pair(row: dict, columns: Columns, rules: PairRules) -> tuple[str, str, str]:
    """Returns `(problem, approach, reason)`; `reason` is one of DROP_REASONS, or empty for a pair that is kept."""
    texts = [clean(row[column]) for column in columns.texts]
    if not all(texts):
        return "", "", "no_text"
    if any(INVALID.search(text) for text in texts):
        return "", "", "invalid_text"
    if any(tag in text for tag in TAGS for text in texts):
        return "", "", "contains_tag"  # `</approach>` in an abstract would end its approach
    if columns.year and read_year(row[columns.year]) is None:
        return "", "", "no_year"
    if columns.problem:
        problem, approach = texts
    else:
        rule = "lines" if isinstance(row[columns.abstract], list) else rules.sentence_rule
        sentences = SENTENCE_RULES[rule](texts[0])
        if len(sentences) < rules.min_sentences:
            return "", "", "too_few_sentences"
        problem, approach = sentences[0].strip(), " ".join(sentences[1:])
    if count_words(problem) > rules.max_problem_words:
        return problem, approach, "problem_too_long"
    if count_words(approach) < rules.min_approach_words:
        return problem, approach, "approach_too_short"
    return problem, approach, ""


def clean(text: object) -> str:
    """`text` with control characters as spaces; a list of sentences, in `<S> … </S>` or not, becomes lines."""
    if isinstance(text, list):
        text = "\n".join(re.sub(r"^\s*<S>|</S>\s*$", "", str(sentence)) for sentence in text if sentence is not None)
    return CONTROL.sub(" ", text).strip() if isinstance(text, str) else ""


def read_year(value: object) -> int | None:
    """The year in `2023`, `"2023-05-01"`, or the `2023.0` that a CSV column with gaps gives; None without one."""
    match = re.match(r"\d{4}(?!\d)", str(value))
    return int(match[0]) if match else None


def count_words(text: str) -> int:
    """White-space-separated words, as the report's filters count them, not a tokenizer's tokens."""
    return len(text.split())


def load_tokenizer(name: str | None) -> "PreTrainedTokenizerBase | None":
    """
    The tokenizer to count lengths with, tags added as training adds them; None where none is named.

    Ends with one line where there is no such tokenizer.
    """
    if name is None:
        return None
    from transformers import AutoTokenizer  # slow to import, and most datasets are built without one

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        sys.exit(f"--tokenizer_name {name}: {first_line(error)}")
    add_special_tokens(tokenizer)
    return tokenizer
