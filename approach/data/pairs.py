"""From a source's rows to problem–approach pairs: cut, counted, and each kept or dropped for one reason."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from datasets import Dataset, Features, List, Value

from approach.data.arguments import DatasetArguments
from approach.data.cleaning import clean_text, detect_language, is_withdrawn
from approach.data.labels import parse_sections
from approach.data.pair_rules import PAIR_RULES, SENTENCE_RULES, Dtype, Pair
from approach.data.processes import map_rows
from approach.data.reading import Columns, parse_year
from approach.data.sources import Source
from approach.errors import UserError, first_line
from approach.prompt import TAGS, add_special_tokens, load_tokenizer, make_completion, make_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("id", "problem", "approach", "prompt", "completion")  # of the dataset; a pair rule may add more
ROW_COLUMNS: dict[str, Dtype] = {
    **dict.fromkeys([*COLUMNS, "reason", "category", "cleaned"], "string"),  # `cleaned`: steps, a space between
    **dict.fromkeys(["year", "problem_words", "approach_words", "tokens"], "int64"),
}
# Of a rule's columns, where a row was dropped before the rule.
EMPTY: dict[str, str | int | float] = {"string": "", "int64": 0, "float64": 0.0}
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
INVALID = re.compile("[\ufffd\ud800-\udfff]")  # what decoders leave for bytes that are not UTF-8


def list_drop_reasons(args: DatasetArguments) -> list[str]:
    """
    Why rows may be dropped, in the order of the checks.

    The three filters (too_few_sentences, problem_too_long, approach_too_short) are the original report's.
    """
    return [
        *(["other_category"] if args.category_names else []),
        "no_text",
        "invalid_text",
        "contains_tag",
        *(["withdrawn"] if args.clean else []),
        *(["other_language"] if args.language else []),
        "no_year",
        "too_few_sentences",
        *PAIR_RULES[args.pair_rule].drop_reasons,
        *(["problem_too_short"] if args.min_problem_words > 1 else []),
        "problem_too_long",
        "approach_too_short",
        "too_many_tokens",
        "exact_copy",
        "near_copy_of_earlier_year",
    ]


def build_pairs(source: Source, args: DatasetArguments) -> Dataset:
    """
    A pair for each row of the source, with the `reason` of those that are to be dropped.

    Raises:
        UserError: where a row has an id that cannot be used, or there is no such tokenizer.
    """
    features = {name: make_feature(dtype) for name, dtype in {**ROW_COLUMNS, **list_rule_columns(args)}.items()}
    options = {"columns": source.columns, "args": args, "tokenizer": load_tokenizer_with_tags(args.tokenizer_name)}
    try:
        return map_rows(
            source.rows, build_rows, args.num_proc, "Cutting abstracts into pairs", Features(features), **options
        )
    except ValueError as error:
        raise UserError(f"--dataset_name {source.name}: {first_line(error)}") from error


def list_rule_columns(args: DatasetArguments) -> dict[str, Dtype]:
    """The columns that the pair rule adds, for the dataset or for statistics."""
    rule = PAIR_RULES[args.pair_rule]
    return {**rule.columns, **rule.statistics_columns}


def make_feature(dtype: Dtype) -> List | Value:
    """A column's type, as datasets names it."""
    return List(Value(dtype[0])) if isinstance(dtype, list) else Value(dtype)


def build_rows(
    batch: dict[str, list],
    columns: Columns,
    args: DatasetArguments,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, list]:
    """
    Turns a batch of source rows into as many dataset rows, with columns to filter and describe them by.

    `tokens` counts prompt and completion together; without a tokenizer it is 0.
    """
    rule_columns = list_rule_columns(args)
    rows = {name: [] for name in (*ROW_COLUMNS, *rule_columns) if name != "tokens"}
    for values in zip(*batch.values(), strict=True):
        for name, value in build_row(dict(zip(batch, values, strict=True)), columns, args, rule_columns).items():
            rows[name].append(value)
    if tokenizer is None:
        return {**rows, "tokens": [0] * len(rows["id"])}
    texts = [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
    tokens = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    limit = args.max_length or sys.maxsize
    reasons = [
        reason or ("too_many_tokens" if count > limit else "")
        for reason, count in zip(rows["reason"], tokens, strict=True)
    ]
    return {**rows, "reason": reasons, "tokens": tokens}


def build_row(row: dict, columns: Columns, args: DatasetArguments, rule_columns: Mapping[str, Dtype]) -> dict:
    """One dataset row: its texts, why it is dropped (empty where it is not), its year (0 for none) and its words."""
    year = parse_year(row[columns.year]) if columns.year else None
    categories = (row[columns.category] if columns.category else None) or []
    if args.category_names and args.category_names.isdisjoint(categories):
        pair = Pair(reason="other_category")
    else:
        pair = build_pair(row, columns, args, has_year=year is not None)
    problem_words, approach_words = count_words(pair.problem), count_words(pair.approach)
    return {
        "id": make_id(row, columns),
        "problem": pair.problem,
        "approach": pair.approach,
        "prompt": make_prompt(pair.problem, pair.background),
        "completion": make_completion(pair.approach),
        "reason": pair.reason or find_length_reason(problem_words, approach_words, args),
        "cleaned": " ".join(pair.cleaned),
        "category": categories[0] if categories else "",
        "year": year or 0,
        "problem_words": problem_words,
        "approach_words": approach_words,
        **{
            name: pair.columns.get(name, [] if isinstance(dtype, list) else EMPTY[dtype])
            for name, dtype in rule_columns.items()
        },
    }


def build_pair(row: dict, columns: Columns, args: DatasetArguments, has_year: bool) -> Pair:
    """The pair of a row, or the reason why it has none; the lengths of the pair are not checked here."""
    texts = [to_text(row[column]) for column in columns.texts]
    cleaned: list[str] = []
    if args.clean:
        for i, text in enumerate(texts):
            texts[i], steps = clean_text(text)
            cleaned += [step for step in steps if step not in cleaned]
    reasons = [find_text_reason(text, args) for text in texts]
    if columns.year and not has_year:
        reasons.append("no_year")
    if reason := next(filter(None, reasons), ""):
        return Pair(reason=reason, cleaned=cleaned)
    if columns.problem:
        return Pair(*texts, cleaned=cleaned)
    is_list = isinstance(row[columns.abstract], list)
    sentences, is_labelled = cut_sentences(texts[0], "lines" if is_list else args.sentence_rule, args)
    if is_labelled:
        cleaned.append("labels")
    if len(sentences) < args.min_sentences:
        return Pair(reason="too_few_sentences", cleaned=cleaned)
    return replace(PAIR_RULES[args.pair_rule].make_pair(texts[0], sentences, args), cleaned=cleaned)


def find_text_reason(text: str, args: DatasetArguments) -> str:
    """Why no pair can be made of a text; empty where one can."""
    if not text:
        return "no_text"
    if not text.isascii() and INVALID.search(text):
        return "invalid_text"
    if "<" in text and any(tag in text for tag in TAGS):
        return "contains_tag"  # `</approach>` in an abstract would end its approach
    if args.clean and is_withdrawn(text):
        return "withdrawn"
    if args.language and detect_language(text) != args.language:
        return "other_language"
    return ""


def cut_sentences(text: str, sentence_rule: str, args: DatasetArguments) -> tuple[list[str], bool]:
    """The sentences of an abstract, without its authors' labels where texts are cleaned, and whether it has any."""
    sections = parse_sections(text) if args.clean else []
    if not any(section.label for section in sections):
        return SENTENCE_RULES[sentence_rule](text), False
    # A labelled part is prose, whether its line holds one sentence or several.
    cut = SENTENCE_RULES["punctuation" if sentence_rule == "auto" else sentence_rule]
    return [sentence for section in sections if section.kind != "keywords" for sentence in cut(section.text)], True


def find_length_reason(problem_words: int, approach_words: int, args: DatasetArguments) -> str:
    """Why a pair is dropped for the number of its words; empty where it is not."""
    if problem_words < args.min_problem_words:
        return "problem_too_short"
    if problem_words > args.max_problem_words:
        return "problem_too_long"
    return "approach_too_short" if approach_words < args.min_approach_words else ""


def make_id(row: dict, columns: Columns) -> str:
    """The source's id of a row, or a hash of what the row holds; raises ValueError for an id that is no id."""
    source_id = row[columns.id] if columns.id else None
    if isinstance(source_id, list | dict | bytes):
        raise ValueError(f"{columns.id} {source_id!r:.80} is no id: a text or a number was expected")
    if source_id is None or source_id == "":
        values = [value for name, value in row.items() if name != columns.category]
        return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]
    return str(source_id)


def to_text(value: object) -> str:
    """
    A text with control characters as spaces; a list of sentences, in `<S> … </S>` or not, becomes lines.

    What is neither, such as a number or lists within a list, is an empty text.
    """
    if isinstance(value, list):
        sentences = [sentence for sentence in value if sentence is not None]
        if not all(isinstance(sentence, str) for sentence in sentences):
            return ""
        value = "\n".join(re.sub(r"^\s*<S>|</S>\s*$", "", sentence) for sentence in sentences)
    return CONTROL.sub(" ", value).strip() if isinstance(value, str) else ""


def count_words(text: str) -> int:
    """White-space-separated words, as the report's filters count them, not a tokenizer's tokens."""
    return len(text.split())


def load_tokenizer_with_tags(name: str | None) -> "PreTrainedTokenizerBase | None":
    """
    The tokenizer to count lengths with, tags added as training adds them; None where none is named.

    Raises:
        UserError: where there is no such tokenizer.
    """
    if name is None:
        return None
    tokenizer = load_tokenizer(name, "--tokenizer_name")
    add_special_tokens(tokenizer)
    return tokenizer
