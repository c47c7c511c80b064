"""
Train, validation and test, which share no near duplicates, and the counts for the report.

Near duplicates are rows that share most of their word 5-grams. MinHash finds candidates, exact similarity joins them.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from datasets import Dataset, DatasetDict
from rensa import RMinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from approach.data.arguments import DatasetArguments
from approach.data.cleaning import CLEANING_STEPS
from approach.data.pair_rules import PAIR_RULES
from approach.data.pairs import list_drop_reasons
from approach.data.processes import map_rows
from approach.errors import UserError
from approach.text import find_words


def build_splits(rows: Dataset, args: DatasetArguments) -> tuple[DatasetDict, dict]:
    """
    Filters and splits the rows of `build_pairs`; returns the splits and the statistics for `build_report.json`.

    The splits have more columns than the dataset, for the card.

    Raises:
        UserError: where no row is left for train.
    """
    statistics, num_read, rule = {}, len(rows), PAIR_RULES[args.pair_rule]
    if rule.summarize:
        statistics[args.pair_rule] = rule.summarize(rows)
    if args.clean:
        counts = Counter(step for steps in rows.data.column("cleaned").to_pylist() for step in steps.split())
        statistics["cleaning"] = {step: counts[step] for step in CLEANING_STEPS}
    rows, funnel = drop_rows(rows)
    years, clusters = rows.with_format("numpy")["year"][:], np.arange(len(rows))
    if args.near_duplicate_threshold and len(rows):
        originals, clusters = find_duplicates(rows, years, args.near_duplicate_threshold, args.num_proc)
        funnel["exact_copy"] = len(rows) - len(originals)
        rows, years = rows.select(originals), years[originals]
        statistics["near_duplicates"] = summarize_clusters(clusters, args.test_from_year is not None)
    rows, statistics["repeated_ids"] = make_ids_unique(rows)
    indices, dropped = choose_splits(clusters, years, args)
    funnel["near_copy_of_earlier_year"] = len(dropped)
    counts = {reason: funnel[reason] for reason in list_drop_reasons(args)}
    if not len(indices["train"]):
        shown = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
        raise UserError(f"--dataset_name {args.dataset_name}: of {num_read:,} rows none is left for train ({shown})")
    statistics["funnel"] = {"read": num_read, **counts, "kept": sum(map(len, indices.values()))}
    # A split without rows cannot be opened, so that it is left out: a twentieth of fewer than 20 rows, say.
    splits = DatasetDict({name: rows.select(numbers) for name, numbers in indices.items() if len(numbers)})
    statistics["splits"] = {name: len(split) for name, split in splits.items()}
    if args.check_leakage:
        statistics["highest_similarity"] = measure_leakage(splits)
    return splits, {**statistics, **summarize_lengths(splits["train"], with_tokens=args.tokenizer_name is not None)}


def drop_rows(rows: Dataset) -> tuple[Dataset, Counter]:
    """The pairs that are kept, and how many rows were dropped for each reason."""
    reasons = rows.data.column("reason").to_numpy()
    return rows.select(np.flatnonzero(reasons == "")), Counter(reasons.tolist())


def make_ids_unique(rows: Dataset) -> tuple[Dataset, int]:
    """
    The rows with "-2", "-3" after an id that an earlier row has, and how many such rows there are.

    Later stages find a row by its id, so that two rows of one id would become one.
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
    clusters: np.ndarray, years: np.ndarray, args: DatasetArguments
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """
    Row numbers of each split, shuffled with the seed, and of the rows that belong to none.

    `clusters` and `years` are `(rows,)`. No cluster of near duplicates is spread over two splits: its rows stay
    together in train, or in test where all of them are of `test_from_year` or later. Rows of these years with a near
    duplicate of an earlier year belong to no split.
    """
    order = np.random.default_rng(args.seed).permutation(len(clusters))
    alone = (np.bincount(clusters) == 1)[clusters]
    num_validation = int(len(clusters) * args.validation_fraction)
    if args.test_from_year is None:
        num_test = int(len(clusters) * args.test_fraction)
        dropped = np.empty(0, np.int64)
        test, validation = np.split(order[alone[order]][: num_test + num_validation], [num_test])
    else:
        late = years >= args.test_from_year
        spans = np.isin(clusters, clusters[~late])[order]
        test, dropped = order[late[order] & ~spans], order[late[order] & spans]
        validation = order[(alone & ~late)[order]][:num_validation]
    train = order[~np.isin(order, np.concatenate((test, validation, dropped)))]
    return {"train": train, "validation": validation, "test": test}, dropped


def summarize_clusters(clusters: np.ndarray, in_time: bool) -> dict[str, int | str]:
    """How many clusters of near duplicates there are, how many rows they have, and in which split they are."""
    sizes = np.bincount(clusters)
    where = "no cluster stands in two splits" if in_time else "all of them in train"
    return {"clusters": int((sizes > 1).sum()), "rows": int(sizes[sizes > 1].sum()), "where": where}


def summarize_lengths(rows: Dataset, with_tokens: bool) -> dict[str, dict]:
    """Lengths of the rows in words and, where they were counted, in tokens."""
    lengths = rows.with_format("numpy")
    summary = {"words": {name: summarize_percentiles(lengths[f"{name}_words"][:]) for name in ("problem", "approach")}}
    if with_tokens:
        tokens = lengths["tokens"][:]
        summary["tokens"] = {**summarize_percentiles(tokens), "share over 512": round(float((tokens > 512).mean()), 4)}
    return summary


def summarize_percentiles(lengths: np.ndarray) -> dict[str, float]:
    """Mean and percentiles of some lengths."""
    percentiles = {f"p{q}": int(np.percentile(lengths, q)) for q in (5, 50, 95, 99)}
    return {"mean": round(float(lengths.mean()), 1), **percentiles}


def measure_leakage(splits: DatasetDict) -> dict[str, float]:
    """The highest similarity of a row of one split to a row of another, for each two splits."""
    pairs = [("validation", "test"), ("train", "validation"), ("train", "test")]
    return {
        f"{one} to {other}": round(highest_similarity(splits[one], splits[other]), 4)
        for one, other in pairs
        if {one, other} <= splits.keys()
    }


def highest_similarity(train: Iterable[dict], held_out: Iterable[dict]) -> float:
    """The highest exact similarity of a row of `train` to one of `held_out`, by an inverted index of all shingles."""
    sets = [shingles(normalize_words(row["problem"], row["approach"])) for row in held_out]
    index = defaultdict(list)
    for number, row in enumerate(sets):
        for shingle in row:
            index[shingle].append(number)
    highest = 0.0
    for row in train:
        mine = shingles(normalize_words(row["problem"], row["approach"]))
        shared = Counter(number for shingle in mine if shingle in index for number in index[shingle])
        highest = max([highest, *(n / (len(mine) + len(sets[number]) - n) for number, n in shared.items())])
    return highest


def find_duplicates(
    rows: Dataset, years: np.ndarray, threshold: float, num_proc: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """
    Row numbers of the originals, `(originals,)`, and the near-duplicate cluster of each, `(originals,)`.

    An original is a row that is no exact copy of another; of several copies it is the one of the earliest year.
    """
    shape, texts = choose_bands(threshold), rows.select_columns(["problem", "approach"])
    signatures = map_rows(texts, minhash, num_proc, "Hashing pairs", shape=shape)
    earliest = np.argsort(years, kind="stable")
    digests = signatures.data.column("digest").to_numpy()[earliest]
    originals = np.sort(earliest[np.unique(digests, return_index=True)[1]])
    bands = signatures.data.column("bands").combine_chunks().flatten().to_numpy().reshape(-1, shape[0])[originals]
    return originals, find_clusters(rows.select(originals), bands, threshold)


def minhash(batch: dict[str, list], shape: tuple[int, int]) -> dict[str, list]:
    """
    For each row the `bands` of its MinHash signature, each as one 64-bit hash, and a `digest` that exact copies share.

    `shape` is bands and rows per band, as choose_bands returns them.
    """
    words = [normalize_words(*pair) for pair in zip(batch["problem"], batch["approach"], strict=True)]
    digests = [hashlib.blake2b(" ".join(row).encode(), digest_size=8).hexdigest() for row in words]
    matrix = RMinHash.digest_matrix_from_token_sets([shingles(row) for row in words], shape[0] * shape[1], 1)
    signatures = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(words), *shape)
    multipliers = np.random.default_rng(0).integers(2**63, size=shape[1], dtype=np.uint64) * 2 + 1
    return {"bands": list((signatures * multipliers).sum(axis=2)), "digest": digests}


def choose_bands(threshold: float, num_perm: int = 128) -> tuple[int, int]:
    """Bands and rows per band: the longest bands with which 99.8 % of pairs at the threshold agree in two or more."""
    for rows in range(num_perm // 2, 0, -1):
        bands, agree = num_perm // rows, threshold**rows
        if (1 - agree) ** bands + bands * agree * (1 - agree) ** (bands - 1) <= 0.002:
            break
    return bands, rows


def find_clusters(rows: Dataset, bands: np.ndarray, threshold: float) -> np.ndarray:
    """
    Cluster numbers of `rows`, `(n,)`: two rows share one if a chain of pairs at or above the threshold joins them.

    `bands` is `(n, bands)`. Rows with the same hash in a band form a bucket. Each row is compared with the four before
    it in its bucket and with the first, so that the cost is linear in rows however large a bucket is. The exact
    similarity decides whether two rows are joined, so that no row is joined by a chance agreement of hashes.
    """
    n = len(rows)
    places, clusters = np.arange(n), np.arange(n)
    joined, rejected = np.empty(0, np.int64), np.empty(0, np.int64)  # pairs (i, j), i < j, as the number i · n + j
    for band in range(bands.shape[1]):
        # Another band as the second key: in a bucket, true duplicates then stand side by side.
        order = np.lexsort((bands[:, band - 1], bands[:, band]))
        begins = np.diff(bands[order, band], prepend=~bands[order[:1], band]) != 0
        first = np.maximum.accumulate(np.where(begins, places, 0))
        partners = [first, *(np.maximum(places - gap, first) for gap in range(1, 5))]
        pairs = np.concatenate([np.stack((order[partner], order)) for partner in partners], axis=1)
        pairs = np.sort(pairs[:, clusters[pairs[0]] != clusters[pairs[1]]], axis=0)
        pairs = pairs[:, (bands[pairs[0]] == bands[pairs[1]]).sum(axis=1) >= 2]  # one band alone is mostly chance
        codes = np.setdiff1d(pairs[0] * n + pairs[1], rejected)
        similar = np.fromiter(compare_pairs(rows, codes // n, codes % n, threshold), bool, len(codes))
        rejected = np.union1d(rejected, codes[~similar])
        joined = np.concatenate((joined, codes[similar]))
        graph = coo_array((np.ones(len(joined)), (joined // n, joined % n)), shape=(n, n))
        clusters = connected_components(graph, directed=False)[1]
    return clusters


def compare_pairs(
    rows: Dataset, left: np.ndarray, right: np.ndarray, threshold: float, batch_size: int = 1000
) -> Iterator[bool]:
    """For each pair `(left[i], right[i])` whether its rows are at least as similar as the threshold, exactly."""
    for start in range(0, len(left), batch_size):
        pairs = list(zip(left[start : start + batch_size], right[start : start + batch_size], strict=True))
        members = sorted({index for pair in pairs for index in pair})
        texts = rows[members]
        words = map(normalize_words, texts["problem"], texts["approach"])
        sets = {member: shingles(row) for member, row in zip(members, words, strict=True)}
        yield from (similarity(sets[i], sets[j]) >= threshold for i, j in pairs)


def normalize_words(problem: str, approach: str) -> list[str]:
    """A pair's words as rows are compared by them."""
    return find_words(f"{problem} {approach}")


def shingles(words: list[str], width: int = 5) -> set[str]:
    """The set of word 5-grams, of which near duplicates share most."""
    return {" ".join(words[i : i + width]) for i in range(max(1, len(words) - width + 1))}


def similarity(one: set[str], other: set[str]) -> float:
    """The Jaccard similarity of two sets of shingles."""
    return len(one & other) / len(one | other)
