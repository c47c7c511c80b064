"""The nearest rows share rare words."""

from approach.retrieval import BM25Index

APPROACHES = [
    "We train a small transformer on parsed patents and test it on claims.",
    "A graph network reads the molecule and predicts its energy.",
    "We train a graph network on patents.",
    "",
]


def test_nearest_rows_are_those_that_share_rare_words():
    index = BM25Index(APPROACHES)
    [[first, second, third]] = index.nearest(["a graph network for patents"], k=3)
    assert [first[0], second[0], third[0]] == [2, 1, 0] and first[1] > second[1] > third[1] > 0
    assert index.nearest(["graph"], k=1) == BM25Index(APPROACHES).nearest(["graph"], k=1)
    assert index.nearest(["graph"], k=1)[0][0][0] == 2, "of two rows with the word the shorter one is nearer"


def test_ties_go_by_index_and_nothing_shared_is_nothing_near():
    index = BM25Index(["graph network", "something else", "graph network", "network graph"])
    [near] = index.nearest(["Graph NETWORK"], k=5)
    assert [row for row, _ in near] == [0, 2, 3] and len({score for _, score in near}) == 1
    assert index.nearest(["unheard of", "", "the of and"], k=3) == [[], [], []]
    assert BM25Index(["", "the"]).nearest(["graph"], k=2) == [[]] and BM25Index([]).nearest(["graph"], k=2) == [[]]
    assert index.nearest([], k=3) == []
