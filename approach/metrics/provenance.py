"""Where a draft comes from: the words that it shares with training rows, and the citations that it invented."""

import re
from collections import defaultdict
from itertools import count

import datasets
import evaluate
import numpy as np

from approach.text import fold_words

NGRAM = 8  # words; shorter ones are common property ("in this paper we propose a new method")
CHUNK_WORDS = 2**20  # of the corpus, compared at a time: memory does not grow with the corpus

NAME = r"[A-ZÀ-ÖØ-Þ][\w'’-]*[^\W\d_A-Z]"  # an upper-case word alone is a conference or a method
MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
YEAR = r"(?:19|20)\d\d[a-z]?"
AUTHORS = rf"{NAME}(?:\s+(?:and|&)\s+{NAME}|\s+et\s+al\s?\.?)"
WORK = rf"(?:{AUTHORS}\s?,?\s|(?!{MONTH}){NAME}\s?,\s){YEAR}"
CITATION = re.compile(
    rf"""
      (?P<placeholder>@x(?:cite|math)\w*)                                   # of the arXiv corpus: @xcite, @xmath12
    | (?P<latex>\\[Cc]ite\w*\*?(?:\[[^\]\n]*\])*\{{[^}}\n]*\}})             # \cite{{x}}, \citep[see][]{{x}}
    | (?P<number>(?<!\w)\[\s?[1-9]\d{{0,2}}(?:\s?[,;–-]\s?[1-9]\d{{0,2}})*\s?\])  # [12], [3, 7]; not [0, 1]
    | (?P<author_year>
          \(\s?(?:(?:see|cf\.|e\.g\.),?\s)?{WORK}(?:\s?[;,]\s(?:{WORK}|{YEAR}))*\s?\)  # (Smith et al., 2019; Wu, 2020)
        | \b{AUTHORS}\s\(\s?{YEAR}\s?\)                                     # Smith and Jones (2020)
        | \b[^\W\d_][\w'’-]*\s+et\s+al\b(?:\s?\.)?(?:\s?,?\s?\(?\s?{YEAR}\s?\)?)?)  # smith et al ., in lower case too
    | (?P<arxiv>(?i:arxiv\s?:\s?)(?:\d{{4}}\.\d{{4,5}}|[a-z-]+(?:\.[A-Z]{{2}})?/\d{{7}})(?:v\d+)?
        | \b\d\d(?:0[1-9]|1[0-2])\.\d{{5}}(?:v\d+)?\b)                      # arXiv:hep-th/9901001, 2101.00001
    | (?P<link>https?://\S*[^\s.,;:!?)\]])
    """,
    re.VERBOSE,
)


class Corpus:
    """Texts as one array of word ids, built once, against which drafts are compared word by word."""

    def __init__(self, documents: list[str]):
        # Words are split at white space and folded. Id 0 ends every row, so that no run goes on into the next.
        self.vocabulary = defaultdict(count(1).__next__)
        rows = [np.fromiter(map(self.vocabulary.__getitem__, fold_words(text)), np.int32) for text in documents]
        self.vocabulary.default_factory = None
        self.ends = np.cumsum([len(row) + 1 for row in rows], dtype=np.int64)
        self.ids = np.zeros(self.ends[-1] if rows else 0, np.int32)
        for row, end in zip(rows, self.ends.tolist(), strict=True):
            self.ids[end - 1 - len(row) : end - 1] = row

    def overlap(self, drafts: list[str]) -> list[dict]:
        """
        For each draft its longest run of words that the corpus has too, and the share of its 8-grams that it has.

        `longest_run` counts words; `run_start` is the run's first word in the draft, `run_span` its characters and
        `run_row` the corpus row (of several runs the first in the draft, of several rows the first); None where no
        word is shared. `ngram_share` is None, not measured, for a draft of fewer than 8 words.
        """
        texts = [[self.vocabulary.get(word, -1) for word in fold_words(draft)] for draft in drafts]
        words = np.array([word for text in texts for word in [*text, -1]], np.int64)  # -1: a word the corpus lacks
        starts = np.cumsum([0] + [len(text) + 1 for text in texts])
        best, has_ngram = self._find_runs(words, starts)
        results = []
        for i, (draft, text) in enumerate(zip(drafts, texts, strict=True)):
            length, start, row = best[i][0], -best[i][1], best[i][2]
            spans = [match.span() for match in re.finditer(r"\S+", draft)]
            ngrams = len(text) - NGRAM + 1
            found = int(has_ngram[starts[i] : starts[i + 1]].sum())
            results.append(
                {
                    "longest_run": length,
                    "run_start": start if length else None,
                    "run_span": (spans[start][0], spans[start + length - 1][1]) if length else None,
                    "run_row": row if length else None,
                    "ngram_share": found / ngrams if ngrams > 0 else None,
                }
            )
        return results

    def _find_runs(self, words: np.ndarray, starts: np.ndarray) -> tuple[list[tuple[int, int, int]], np.ndarray]:
        """
        For each draft its longest run as `(length, -start, row)`, and for each word whether a shared 8-gram begins.

        `words` holds the ids of all drafts' words, -1 for a word that the corpus lacks and after each draft; `starts`
        where each draft begins, and the end.

        Level by level: of the positions in corpus and drafts at which the same n words begin, only those are kept at
        which the same n + 1 begin. Exact, and in time linear in the corpus.
        """
        known = np.unique(words[words >= 0])
        local = np.full(len(self.vocabulary) + 1, -1, np.int64)  # ids of the drafts' words, from 0
        local[known] = np.arange(len(known))
        ours = np.where(words >= 0, local[words], -1)
        best = [(0, 0, -1)] * (len(starts) - 1)  # length, start negated so that the first is the largest, row
        has_ngram = np.zeros(len(words), bool)
        for begin, end in self._chunks():
            theirs = local[self.ids[begin:end]]
            here, there = np.flatnonzero(ours >= 0), np.flatnonzero(theirs >= 0)
            gram_here, gram_there, level = ours[here], theirs[there], 1
            while len(here) and len(there):
                first = np.full(max(gram_here.max(), gram_there.max()) + 1, -1)
                first[gram_there[::-1]] = there[::-1]  # the last assignment stays: the first position of each gram
                shared = first[gram_here] >= 0
                here, gram_here = here[shared], gram_here[shared]
                if level == NGRAM:
                    has_ngram[here] = True
                owners, at = np.unique(np.searchsorted(starts, here, side="right") - 1, return_index=True)
                for draft, i in zip(owners.tolist(), at.tolist(), strict=True):
                    start = int(here[i] - starts[draft])
                    if (level, -start) > best[draft][:2]:
                        row = np.searchsorted(self.ends, begin + first[gram_here[i]], side="right")
                        best[draft] = (level, -start, int(row))
                here, gram_here = self._extend(here, gram_here, ours, level, len(known))
                there, gram_there = self._extend(there, gram_there, theirs, level, len(known))
                grams = np.unique(gram_here)
                gram_here = np.searchsorted(grams, gram_here)
                at = np.searchsorted(grams, gram_there)
                kept = at < len(grams)
                kept[kept] = grams[at[kept]] == gram_there[kept]
                there, gram_there = there[kept], at[kept]
                level += 1
        return best, has_ngram

    def _chunks(self):
        """Slices of whole rows, of about CHUNK_WORDS words each."""
        begin = 0
        while begin < len(self.ids):
            end = int(self.ends[min(np.searchsorted(self.ends, begin + CHUNK_WORDS), len(self.ends) - 1)])
            yield begin, end
            begin = end

    @staticmethod
    def _extend(positions, grams, words, level: int, num_words: int):
        """The positions at which one more known word follows, and the gram and that word as one number."""
        inside = positions + level < len(words)
        following = words[positions[inside] + level]
        known = following >= 0
        return positions[inside][known], grams[inside][known] * num_words + following[known]


class Provenance(evaluate.Metric):
    """
    `compute(predictions=[str], corpus=[str])` gives the means over drafts `longest_run` (words) and `ngram_share`
    (0…1, None if no draft has 8 words), the longest run of all, `max_longest_run`, and the citation-like strings a
    draft, `citations`. (`references` would have to be as many as the drafts.) The methods below look at single drafts.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="What drafts share with a corpus, and citation-like strings in them.",
            citation="",
            inputs_description="predictions: one string a row; corpus: the texts to compare with, any number.",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions, corpus):
        rows = Corpus(corpus).overlap(predictions)
        shares = [row["ngram_share"] for row in rows if row["ngram_share"] is not None]
        return {
            "longest_run": sum(row["longest_run"] for row in rows) / len(rows),
            "max_longest_run": max(row["longest_run"] for row in rows),
            "ngram_share": sum(shares) / len(shares) if shares else None,
            "citations": sum(len(self.find_citations(text)) for text in predictions) / len(rows),
        }

    def corpus(self, documents: list[str]) -> Corpus:
        return Corpus(documents)

    def find_citations(self, text: str) -> list[tuple[int, int, str]]:
        """
        The citation-like strings of `text` as `(start, end, kind)`, kind being one of the groups of CITATION.

        A year alone, `(see Section 3)`, `[0, 1]` or `Germany (2017)` is none; `[1, 2]` and `(Paris, 2019)` are,
        whatever was meant.
        """
        return [(*match.span(), match.lastgroup) for match in CITATION.finditer(text)]
