"""Near duplicates: rows that share most of their word 5-grams, found by MinHash and joined by exact similarity."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from datasets import Dataset
from rensa import RMinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from approach.data.processes import map_rows


def find_duplicates(
    rows: Dataset, years: np.ndarray, threshold: float, num_proc: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """
    Row numbers of the originals, `(originals,)`, and the near-duplicate cluster of each, `(originals,)`.

    An original is a row that is no exact copy of another; of several copies it is the one of the earliest year.
    """
    shape, texts = choose_bands(threshold), rows.select_columns(["problem", "approach"])
    signed = map_rows(texts, sign, num_proc, "Signing pairs", shape=shape)
    earliest = np.argsort(years, kind="stable")
    digests = signed.data.column("digest").to_numpy()[earliest]
    originals = np.sort(earliest[np.unique(digests, return_index=True)[1]])
    bands = signed.data.column("bands").combine_chunks().flatten().to_numpy().reshape(-1, shape[0])[originals]
    return originals, find_clusters(rows.select(originals), bands, threshold)


def highest_similarity(train: Iterable[dict], held_out: Iterable[dict]) -> float:
    """The highest exact similarity of a row of `train` to one of `held_out`, by an inverted index of all shingles."""
    sets = [shingles(fold(row["problem"], row["approach"])) for row in held_out]
    index = defaultdict(list)
    for number, row in enumerate(sets):
        for shingle in row:
            index[shingle].append(number)
    highest = 0.0
    for row in train:
        mine = shingles(fold(row["problem"], row["approach"]))
        shared = Counter(number for shingle in mine if shingle in index for number in index[shingle])
        highest = max([highest, *(n / (len(mine) + len(sets[number]) - n) for number, n in shared.items())])
    return highest


def fold(problem: str, approach: str) -> list[str]:
    """A pair's words in lower case, without spacing and punctuation: rows are compared by these."""
    return re.findall(r"[^\W_]+", f"{problem} {approach}".lower())


def shingles(words: list[str], width: int = 5) -> set[str]:
    """The set of word 5-grams, of which near duplicates share most."""
    return {" ".join(words[i : i + width]) for i in range(max(1, len(words) - width + 1))}


def similarity(one: set[str], other: set[str]) -> float:
    """The Jaccard similarity of two sets of shingles."""
    return len(one & other) / len(one | other)


def choose_bands(threshold: float, num_perm: int = 128) -> tuple[int, int]:
    """Bands and rows per band: the longest bands with which 99.8 % of pairs at the threshold agree in two or more."""
    for rows in range(num_perm // 2, 0, -1):
        bands, agree = num_perm // rows, threshold**rows
        if (1 - agree) ** bands + bands * agree * (1 - agree) ** (bands - 1) <= 0.002:
            break
    return bands, rows


def sign(batch: dict[str, list], shape: tuple[int, int]) -> dict[str, list]:
    """
    For each row the `bands` of its MinHash signature, each as one 64-bit hash, and a `digest` that exact copies share.

    `shape` is bands and rows per band, as choose_bands returns them.
    """
    words = [fold(*pair) for pair in zip(batch["problem"], batch["approach"], strict=True)]
    digests = [hashlib.blake2b(" ".join(row).encode(), digest_size=8).hexdigest() for row in words]
    matrix = RMinHash.digest_matrix_from_token_sets([shingles(row) for row in words], shape[0] * shape[1], 1)
    signatures = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(words), *shape)
    multipliers = np.random.default_rng(0).integers(2**63, size=shape[1], dtype=np.uint64) * 2 + 1
    return {"bands": list((signatures * multipliers).sum(axis=2)), "digest": digests}


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
        words = map(fold, texts["problem"], texts["approach"])
        sets = {member: shingles(row) for member, row in zip(members, words, strict=True)}
        yield from (similarity(sets[i], sets[j]) >= threshold for i, j in pairs)
