"""The nearest training rows to a text, by BM25 over its words."""

import logging

import bm25s
import numpy as np

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, and would tell of every index


class BM25Index:
    """An index of documents, built once: BM25 (Lucene's variant and stop words) over lower-cased words."""

    def __init__(self, documents: list[str]):
        tokens = bm25s.tokenize(documents, show_progress=False)
        self.bm25 = None
        if tokens.vocab:  # bm25s divides by the mean length
            self.bm25 = bm25s.BM25()
            self.bm25.index(tokens, show_progress=False)

    def nearest(self, queries: list[str], k: int) -> list[list[tuple[int, float]]]:
        """
        For each query the `k` best documents as `(index, score)`, best first and ties by index.

        Only documents that share a word with the query are near: a list may be shorter than `k`, and empty.
        """
        results = []
        for words in bm25s.tokenize(queries, return_ids=False, show_progress=False):
            ids = self.bm25.get_tokens_ids(words) if self.bm25 else []
            scores = self.bm25.get_scores_from_ids(ids) if ids else np.zeros(0)
            rows = np.flatnonzero(scores)
            rows = rows[np.argsort(-scores[rows], kind="stable")[:k]]
            results.append([(int(row), float(scores[row])) for row in rows])
        return results
