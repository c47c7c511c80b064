"""What a draft shares with a corpus, against brute force; what counts as a citation."""

import random
import time

import evaluate
import pytest
from conftest import ROOT, WORDS
from hypothesis import given, settings
from hypothesis import strategies as st

PROVENANCE = evaluate.load(str(ROOT / "approach" / "metrics" / "provenance.py"))
TEXTS = st.lists(st.text(alphabet="aAbc  \n", max_size=24), max_size=6)


def brute_force(draft: str, documents: list[str], ngram: int) -> dict:
    """The same answers from the definition alone."""
    words, rows = draft.lower().split(), [text.lower().split() for text in documents]

    def find(run: list[str]) -> int | None:
        hits = (i for i, row in enumerate(rows) for at in range(len(row)) if row[at : at + len(run)] == run)
        return next(hits, None)

    grams = [find(words[at : at + ngram]) is not None for at in range(len(words) - ngram + 1)]
    share = sum(grams) / len(grams) if grams else None
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            if (row := find(words[start : start + length])) is not None:
                return {"longest_run": length, "run_start": start, "run_row": row, "ngram_share": share}
    return {"longest_run": 0, "run_start": None, "run_row": None, "ngram_share": share}


@settings(max_examples=400, deadline=None)
@given(drafts=TEXTS, documents=TEXTS, chunk=st.sampled_from([1, 5, 2**20]), ngram=st.sampled_from([1, 2, 3, 8]))
def test_runs_and_ngrams_are_those_of_brute_force(drafts, documents, chunk, ngram):
    module = PROVENANCE.corpus.__globals__
    kept = module["CHUNK_WORDS"], module["NGRAM"]
    module["CHUNK_WORDS"], module["NGRAM"] = chunk, ngram
    try:
        results = PROVENANCE.corpus(documents).overlap(drafts)
    finally:
        module["CHUNK_WORDS"], module["NGRAM"] = kept
    for draft, result in zip(drafts, results, strict=True):
        span = result.pop("run_span")
        assert result == brute_force(draft, documents, ngram)
        if result["longest_run"]:
            start = result["run_start"]
            run = draft.lower().split()[start : start + result["longest_run"]]
            assert draft[slice(*span)].lower().split() == run and draft[slice(*span)].strip() == draft[slice(*span)]
        else:
            assert span is None


def test_a_copied_run_is_found_in_a_large_corpus():
    rng = random.Random(0)
    documents = [" ".join(rng.choices(WORDS, k=100)) for _ in range(2000)]
    copied = " ".join(documents[1234].split()[20:60])
    # 39 words of the vocabulary in this order occur in no other row by chance: 35 ** 39 of them.
    [result] = PROVENANCE.corpus(documents).overlap([f"Never seen: {copied.upper()} nor this"])
    assert (result["longest_run"], result["run_start"], result["run_row"]) == (40, 2, 1234)
    assert result["ngram_share"] == 33 / 37, "44 words have 37 8-grams; the 40 copied ones have 33"


def test_no_run_goes_on_into_the_next_row():
    [result] = PROVENANCE.corpus(["a b c", "d e f"]).overlap(["a b c d e f"])
    assert (result["longest_run"], result["run_start"], result["run_row"]) == (3, 0, 0)
    assert result["ngram_share"] is None, "fewer than 8 words: not measured, which is not nought"


@pytest.mark.slow
def test_time_grows_in_step_with_the_corpus():
    rng, seconds = random.Random(0), []
    vocabulary = [f"w{int(rng.paretovariate(1)) % 50_000}" for _ in range(200_000)]
    for rows in (10_000, 40_000):
        corpus = PROVENANCE.corpus([" ".join(rng.choices(vocabulary, k=170)) for _ in range(rows)])
        drafts = [" ".join(rng.choices(vocabulary, k=170)) for _ in range(100)]
        start = time.perf_counter()
        corpus.overlap(drafts)
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 8 * seconds[0], f"4 times the corpus took {seconds[1] / seconds[0]:.1f} times the time"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("@xcite", "placeholder"),
        ("@xmath12", "placeholder"),
        (r"\cite{smith2019}", "latex"),
        (r"\citep[see][p. 3]{a,b}", "latex"),
        ("[12]", "number"),
        ("[ 3, 7 ]", "number"),
        ("[1–4]", "number"),
        ("(Smith et al., 2019)", "author_year"),
        ("(see Müller and O’Brien, 2019a; Wu, 2020, 2021)", "author_year"),
        ("Smith and Jones (2020)", "author_year"),
        ("Devlin et al. (2019)", "author_year"),
        ("( smith et al . , 2019 )", "author_year"),
        ("arXiv:1706.03762v5", "arxiv"),
        ("arXiv: hep-th/9901001", "arxiv"),
        ("2101.00001", "arxiv"),
        ("https://github.com/someone/something", "link"),
    ],
)
def test_a_citation_is_found_where_it_stands(text, kind):
    found = PROVENANCE.find_citations(f"As shown {text} , it helps")
    # In lower case the bracket before a name is no part of it.
    start, end, found_kind = found[0]
    assert len(found) == 1 and found_kind == kind
    assert f"As shown {text} , it helps"[start:end].strip("( )") == text.strip("( )")


@pytest.mark.parametrize(
    "text",
    [
        "In 2019 and (2020) we study the corpus of 1998 (see Section 3) and Figure 2 (Table 4, left).",
        "Values lie in [0, 1], x[3] is the third, and the score rises from 12.5 to 2020.1 (p < 0.05).",
        "At SemEval 2020 (task 7), in Germany (2017), in (January, 2020) and (ACL 2022) systems were compared.",
        "We cite nobody, and et cetera. Email a@x.org, 1234.5678 metres, 9913.00001 grams.",
        "The method (GPT-4, 2023) of BERT and RoBERTa reached 91.2 (up from 90.1).",
    ],
)
def test_ordinary_prose_holds_no_citation(text):
    assert PROVENANCE.find_citations(text) == []


def test_citations_are_counted_without_overlap():
    text = "Smith et al. (2019) and [1, 2] use @xcite; see (Wu, 2020) at https://a.b/c."
    kinds = [kind for _, _, kind in PROVENANCE.find_citations(text)]
    assert kinds == ["author_year", "number", "placeholder", "author_year", "link"]
    start, end, _ = PROVENANCE.find_citations(text)[-1]
    assert text[start:end] == "https://a.b/c", "without the full stop"


def test_compute_gives_the_means_over_drafts():
    corpus = ["one two three four five six seven eight nine", "a row more than there are drafts", "and another"]
    drafts = ["One two three four five six seven eight ten [3]", "short @xcite @xcite"]
    assert PROVENANCE.compute(predictions=drafts, corpus=corpus) == {
        "longest_run": 4.0,
        "max_longest_run": 8,
        "ngram_share": 1 / 3,
        "citations": 1.5,
    }
    assert PROVENANCE.compute(predictions=["short"], corpus=corpus)["ngram_share"] is None
