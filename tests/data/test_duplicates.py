import random

import numpy as np
import pytest
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from approach.data.splits import choose_bands, find_clusters, minhash, normalize_words, shingles, similarity


def cluster(texts: list[str], threshold: float):
    rows = Dataset.from_dict({"problem": texts, "approach": [""] * len(texts)})
    signatures = minhash(rows[:], choose_bands(threshold))
    return signatures["digest"], find_clusters(rows, np.stack(signatures["bands"]), threshold)


def plant(texts: list[str], number: int, rng: random.Random) -> list[str]:
    """Twins of the first texts: a word changed, some words changed, a sentence dropped, case and spacing changed."""
    twins = []
    for index in range(number):
        words = texts[index].split(" ")
        for _ in range((1, 4, 0, 0)[index % 4]):
            words[rng.randrange(len(words))] = "changed"
        if index % 4 == 2:
            start = rng.randrange(len(words) - 15)
            del words[start : start + 12]
        twins.append(" ".join(words) if index % 4 < 3 else "  ".join(words).upper())
    return twins


def make_texts(number: int, rng: random.Random) -> list[str]:
    return [" ".join(f"w{rng.randrange(3000)}" for _ in range(rng.randrange(100, 200))) for _ in range(number)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_clusters_are_those_of_comparing_all_with_all(threshold):
    rng = random.Random(3)
    texts = make_texts(300, rng)
    texts += plant(texts, 100, rng)
    texts += plant(texts[300:], 50, rng)
    _, clusters = cluster(texts, threshold)
    sets = [shingles(normalize_words(text, "")) for text in texts]
    close = [(i, j) for i in range(450) for j in range(i) if similarity(sets[i], sets[j]) >= threshold]
    graph = coo_array((np.ones(len(close)), np.array(close).T), shape=(450, 450))
    exact = connected_components(graph, directed=False)[1]
    assert len(close) > 30
    assert len(set(zip(clusters.tolist(), exact.tolist(), strict=True))) == len(set(exact)) == len(set(clusters))


def test_a_thousand_planted_twins_in_twenty_thousand_rows():
    rng = random.Random(4)
    texts = make_texts(20_000, rng)
    twins = plant(texts, 1000, rng)
    digests, clusters = cluster([*texts, *twins], threshold=0.7)
    found = above = 0
    for index, twin in enumerate(twins):
        if index % 4 == 3:
            assert digests[index] == digests[20_000 + index], "a copy but for case and spacing was missed"
        if similarity(shingles(normalize_words(texts[index], "")), shingles(normalize_words(twin, ""))) >= 0.7:
            above += 1
            found += clusters[index] == clusters[20_000 + index]
    assert above > 800 and found / above >= 0.995
    together = np.bincount(clusters[:20_000])
    assert (together > 1).sum() == 0, "texts that share nothing were merged"


def test_a_template_filled_in_thousands_of_times_is_one_cluster_at_linear_cost():
    template = " ".join(f"word{i}" for i in range(100))
    _, clusters = cluster([f"{template} and {i}" for i in range(2000)], threshold=0.7)
    assert len(set(clusters)) == 1
