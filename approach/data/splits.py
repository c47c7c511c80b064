"""From a source to train, validation and test, which share no near duplicates, and the counts for the report."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from approach.data.duplicates import find_duplicates, highest_similarity
from approach.data.pairs import CATEGORY_REASON, COLUMNS, DROP_REASONS, ROLE_REASONS, PairRules, build_rows
from approach.data.processes import map_rows
from approach.data.role_fit import describe_source
from approach.data.sources import Source
from approach.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLE_FEATURES = Features(
    {
        **dict.fromkeys([*COLUMNS, "reason", "fit", "category"], Value("string")),
        **dict.fromkeys(["year", "problem_words", "approach_words", "tokens", "num_findings"], Value("int64")),
        **dict.fromkeys(["roles", "sentences", "uses"], List(Value("string"))),
        "role_confidence": Value("float64"),
    }
)


@dataclass(frozen=True)
class SplitRules:
    """How rows are shared out among the splits."""

    validation_fraction: float
    test_fraction: float  # not used where `test_from_year` is set
    near_duplicate_threshold: float  # 0: duplicates are not looked for
    test_from_year: int | None
    seed: int


def build_splits(
    source: Source,
    pair_rules: PairRules,
    split_rules: SplitRules,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    num_proc: int = 1,
    check_leakage: bool = False,
) -> tuple[DatasetDict, dict]:
    """
    Cuts, filters and splits a source; returns the splits and what `build_report.json` says of them.

    The splits have more columns than the dataset: what is known of each row, for the card. `check_leakage` measures
    the highest similarity that is left across splits. Raises UserError where no row is left for train.
    """
    findings: dict = {"csv": asdict(source.lines)} if source.lines else {}
    rows = build_pairs(source, pair_rules, tokenizer, num_proc)
    if pair_rules.by_roles:
        findings["roles"] = describe_source(rows)
    rows, funnel = drop_rows(rows)
    years, clusters = rows.with_format("numpy")["year"][:], np.arange(len(rows))
    if split_rules.near_duplicate_threshold and len(rows):
        originals, clusters = find_duplicates(rows, years, split_rules.near_duplicate_threshold, num_proc)
        funnel["exact_copy"] = len(rows) - len(originals)
        rows, years = rows.select(originals), years[originals]
        findings["near_duplicates"] = describe_clusters(clusters, split_rules.test_from_year is not None)
    rows, findings["repeated_ids"] = with_unique_ids(rows)
    chosen, dropped = choose_splits(clusters, years, split_rules)
    funnel["near_copy_of_earlier_year"] = len(dropped)
    if not len(chosen["train"]):
        counts = ", ".join(f"{funnel[reason]:,} {reason}" for reason in DROP_REASONS if funnel[reason])
        raise UserError(
            f"--dataset_name {source.name}: of {len(source.rows):,} rows none is left for train ({counts})"
        )
    kept = sum(map(len, chosen.values()))
    unasked = {*(() if pair_rules.by_roles else ROLE_REASONS), *(() if pair_rules.categories else (CATEGORY_REASON,))}
    reasons = [reason for reason in DROP_REASONS if reason not in unasked]
    counts = {reason: funnel[reason] for reason in reasons}
    findings["funnel"] = {"read": len(source.rows), **counts, "kept": kept}
    # A split of no rows cannot be opened: a twentieth of fewer than 20 rows is left out.
    splits = DatasetDict({name: rows.select(indices) for name, indices in chosen.items() if len(indices)})
    findings["splits"] = {name: len(split) for name, split in splits.items()}
    if check_leakage:
        findings["highest_similarity"] = measure_leakage(splits)
    findings |= describe_rows(splits["train"], with_tokens=tokenizer is not None)
    return splits, findings


def build_pairs(
    source: Source, rules: PairRules, tokenizer: "PreTrainedTokenizerBase | None", num_proc: int
) -> Dataset:
    """A pair for each row, those included that are to be dropped; raises UserError at an unusable id."""
    features = ROLE_FEATURES if rules.by_roles else None
    options = {"features": features, "columns": source.columns, "rules": rules, "tokenizer": tokenizer}
    try:
        return map_rows(source.rows, build_rows, num_proc, "Cutting abstracts into pairs", **options)
    except ValueError as error:
        raise UserError(f"--dataset_name {source.name}: {first_line(error)}") from error


def drop_rows(rows: Dataset) -> tuple[Dataset, Counter]:
    """The pairs that are kept, and how many rows went for each reason."""
    reasons = rows.data.column("reason").to_numpy()
    return rows.select(np.flatnonzero(reasons == "")), Counter(reasons.tolist())


def with_unique_ids(rows: Dataset) -> tuple[Dataset, int]:
    """
    The rows with "-2", "-3" behind an id that a row before has, and how many there are of these.

    Later stages find a row by its id, and two rows of one id would become one.
    """
    ids = rows["id"][:]
    if len(set(ids)) == len(ids):
        return rows, 0
    taken, unique, repeated = set(ids), [], 0
    numbers: Counter = Counter()
    for row_id in ids:
        numbers[row_id] += 1
        name = row_id
        if numbers[row_id] > 1:
            repeated += 1
            while (name := f"{row_id}-{numbers[row_id]}") in taken:
                numbers[row_id] += 1
            taken.add(name)
        unique.append(name)
    return rows.remove_columns("id").add_column("id", unique), repeated


def choose_splits(
    clusters: np.ndarray, years: np.ndarray, rules: SplitRules
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """
    Row numbers of each split, shuffled with the seed; and of the rows that belong to none.

    `clusters` and `years` are `(rows,)`. No cluster of near duplicates stands in two splits: rows that have one stay
    in train together, or in test where all of them are of `test_from_year` or later. Late rows with a near duplicate
    of an earlier year belong to no split.
    """
    order = np.random.default_rng(rules.seed).permutation(len(clusters))
    alone = (np.bincount(clusters) == 1)[clusters]
    num_validation = int(len(clusters) * rules.validation_fraction)
    if rules.test_from_year is None:
        num_test = int(len(clusters) * rules.test_fraction)
        dropped = np.empty(0, np.int64)
        test, validation = np.split(order[alone[order]][: num_test + num_validation], [num_test])
    else:
        late = years >= rules.test_from_year
        spans = np.isin(clusters, clusters[~late])[order]
        test, dropped = order[late[order] & ~spans], order[late[order] & spans]
        validation = order[(alone & ~late)[order]][:num_validation]
    train = order[~np.isin(order, np.concatenate((test, validation, dropped)))]
    return {"train": train, "validation": validation, "test": test}, dropped


def describe_clusters(clusters: np.ndarray, in_time: bool) -> dict[str, int | str]:
    """How many clusters of near duplicates there are, of how many rows, and in which split they are."""
    sizes = np.bincount(clusters)
    where = "no cluster stands in two splits" if in_time else "all of them in train"
    return {"clusters": int((sizes > 1).sum()), "rows": int(sizes[sizes > 1].sum()), "where": where}


def measure_leakage(splits: DatasetDict) -> dict[str, float]:
    """The highest similarity of a row of one split to a row of another, for each two splits."""
    pairs = [("validation", "test"), ("train", "validation"), ("train", "test")]
    return {
        f"{one} to {other}": round(highest_similarity(splits[one], splits[other]), 4)
        for one, other in pairs
        if {one, other} <= splits.keys()
    }


def describe_rows(rows: Dataset, with_tokens: bool) -> dict[str, dict]:
    """Lengths of the rows in words and, where they were counted, in tokens."""
    lengths = rows.with_format("numpy")
    found = {"words": {name: describe_lengths(lengths[f"{name}_words"][:]) for name in ("problem", "approach")}}
    if with_tokens:
        tokens = lengths["tokens"][:]
        found["tokens"] = {**describe_lengths(tokens), "share over 512": round(float((tokens > 512).mean()), 4)}
    return found


def describe_lengths(lengths: np.ndarray) -> dict[str, float]:
    """Mean and percentiles of some lengths."""
    percentiles = {f"p{q}": int(np.percentile(lengths, q)) for q in (5, 50, 95, 99)}
    return {"mean": round(float(lengths.mean()), 1), **percentiles}
