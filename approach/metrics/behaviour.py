"""How drafts behave, whatever they say: how they end, how long and how varied they are, what they repeat."""

from collections import Counter

import datasets
import evaluate


def ngrams(words: list[str], n: int) -> list[tuple]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: list[list[str]], n: int) -> float | None:
    """Different n-grams to all n-grams of all texts (Li et al., 2016); falls as the number of texts grows."""
    grams = [gram for words in texts for gram in ngrams(words, n)]
    return len(set(grams)) / len(grams) if grams else None


def repeated(words: list[str], n: int = 4) -> float | None:
    """The share of a text's n-grams that stood in it before; None for a text shorter than n words."""
    grams = ngrams(words, n)
    return sum(count - 1 for count in Counter(grams).values()) / len(grams) if grams else None


def overlap(words: list[str], problem: list[str]) -> float | None:
    """The share of a text's different words that its problem has, too; None for an empty text."""
    return len(set(words) & set(problem)) / len(set(words)) if words else None


def mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Behaviour(evaluate.Metric):
    """
    `compute(predictions=[str], references=[str], problems=[str])` gives `share_empty`, `mean_words`, `length_ratio`
    (all words to all of the references'), `distinct_1`, `distinct_2`, `repeated_4grams` (mean share in a draft) and
    `problem_overlap` (mean share of a draft's different words that its problem has). Words are lower-cased and split
    at white space. None where there is nothing to measure.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Lengths, variety and repetition of drafts.",
            citation="Jiwei Li et al. 2016. A Diversity-Promoting Objective Function for Neural Conversation Models.",
            inputs_description="predictions, references and problems: one string a row each.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, problems):
        drafts, goals, questions = ([text.lower().split() for text in t] for t in (predictions, references, problems))
        total, goal = sum(map(len, drafts)), sum(map(len, goals))
        return {
            "share_empty": sum(not words for words in drafts) / len(drafts),
            "mean_words": total / len(drafts),
            "length_ratio": total / goal if goal else None,
            "distinct_1": distinct(drafts, 1),
            "distinct_2": distinct(drafts, 2),
            "repeated_4grams": mean([repeated(words) for words in drafts]),
            "problem_overlap": mean([overlap(*pair) for pair in zip(drafts, questions, strict=True)]),
        }
