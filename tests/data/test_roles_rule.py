"""Which sentences become problem, approach and background, by probabilities given here."""

import pytest

from approach.data.pair_rules import SentenceSelection, select_sentences
from approach.roles import ROLES

WORDS_10 = "one two three four five six seven eight nine ten"


def tagged(*roles):
    """A sentence for each name of a role, `method .6` with its probability; the rest of it goes to result."""
    rows = []
    for role in roles:
        name, _, given = role.partition(" ")
        share = float(given or 0.9)
        rows.append({**dict.fromkeys(ROLES, 0.0), "result": 1 - share, name: share} if name != "result" else sure())
    return rows


def sure():
    return {**dict.fromkeys(ROLES, 0.0), "result": 1.0}


def choose(sentences, *roles, **options):
    if isinstance(sentences, int):
        sentences = [f"{WORDS_10} {i}" for i in range(sentences)]
    return select_sentences(sentences, tagged(*roles), **options)


def test_the_first_background_or_objective_is_the_problem_and_what_was_done_after_it_the_approach():
    found = choose(6, "background", "background", "objective", "method", "result", "method")
    assert found == SentenceSelection("", problem=0, approach=[2, 3, 5], background=[1])
    assert [found.use_of(i) for i in range(6)] == ["problem", "background", "approach", "approach", "", "approach"]


def test_a_sentence_is_used_once_and_the_problem_takes_it_first():
    assert choose(2, "objective", "method") == SentenceSelection("", 0, [1])
    assert choose(1, "objective") == SentenceSelection("no_approach", 0)


def test_what_was_done_before_the_problem_is_not_its_approach():
    assert choose(4, "method", "background", "method", "other") == SentenceSelection("", 1, [2])


@pytest.mark.parametrize(
    "roles, reason",
    [
        (("method", "result"), "no_problem"),
        (("other", "result"), "no_problem"),
        (("background", "result"), "no_approach"),
        (("background", "method .49"), "no_approach"),
    ],
)
def test_an_abstract_without_one_of_the_two_gives_no_pair(roles, reason):
    assert choose(2, *roles).reason == reason


def test_sure_sentences_are_all_taken_and_the_surest_others_until_it_is_enough():
    roles = ("background", *("method .8",) * 4, "method .79")
    assert choose(6, *roles).approach == [1, 2, 3, 4], "44 words of sure sentences are enough"
    roles = ("background", "method .6", "method .57", "method", "method .7", "method .49", "method .65", "method .58")
    assert choose(8, *roles).approach == [1, 3, 4, 6], "the surest up to 40 words or more, in their order"
    assert choose(3, "background", "method .6", "method .5").approach == [1, 2], "all that are possible"


@pytest.mark.parametrize(
    "problem",
    [
        "In this paper, we propose a parser for long texts.",
        "This paper presents a parser.",
        "Parsing is hard, and we therefore introduce a parser.",
        "A new parser for long texts is proposed.",
        "The present work describes a parser.",
    ],
)
def test_a_problem_that_tells_its_own_approach_is_left_out_unless_it_is_kept(problem):
    sentences = [problem, "It reads one word after the other."]
    assert choose(sentences, "objective", "method").reason == "problem_tells_approach"
    assert choose(sentences, "objective", "method", keep_telling_problems=True) == SentenceSelection("", 0, [1])


def test_the_problem_is_the_first_sentence_that_tells_no_approach():
    sentences = ["We propose a parser.", "Long texts are hard to parse.", "It reads.", "Texts are long."]
    roles = ("objective", "background", "method", "background")
    assert choose(sentences, *roles) == SentenceSelection("", 1, [2], [3])
    assert choose(sentences, *roles, keep_telling_problems=True) == SentenceSelection("", 0, [2], [1, 3])
    assert choose(sentences, "objective", "background .7", "method", "method") == SentenceSelection("", 1, [2, 3])
    assert choose(sentences, "objective", "background .69", "method", "method").reason == "problem_tells_approach"
    assert choose(sentences[1:], "background .69", "method", "method") == SentenceSelection("", 0, [1, 2]), (
        "the first may be unsure"
    )


@pytest.mark.parametrize(
    "problem",
    [
        "We study how long texts are parsed.",
        "Many parsers were proposed for long texts.",
        "Neural networks provide an accurate way to parse.",
    ],
)
def test_a_problem_that_names_a_task_or_others_work_is_kept(problem):
    assert choose([problem, "It reads."], "objective", "method").reason == ""


@pytest.mark.parametrize(
    "finding",
    [
        "We find that it is faster.",
        "we observe that it is faster.",
        "Finally, we also show that it is faster.",
        "In addition, we found that it is faster.",
    ],
)
def test_a_finding_is_left_out_of_the_approach_and_counted_unless_it_is_kept(finding):
    sentences = ["Parsing is hard.", "A parser reads one word after the other.", finding]
    found = choose(sentences, "background", "method", "method")
    assert found == SentenceSelection("", 0, [1], num_findings=1)
    kept = choose(sentences, "background", "method", "method", keep_findings=True)
    assert kept == SentenceSelection("", 0, [1, 2])


def test_a_sentence_that_only_holds_such_words_is_no_finding():
    sentences = ["Parsing is hard.", "The rule that we show that way is learned.", "We find the best of them."]
    assert choose(sentences, "background", "method", "method") == SentenceSelection("", 0, [1, 2])


def test_background_is_whole_sentences_of_80_words_at_most_and_tells_no_approach():
    sentences = ["Parsing is hard.", *(f"{WORDS_10} " * 3,) * 3, "It reads."]
    assert choose(sentences, "background", "background", "background", "background", "method").background == [1, 2]
    sentences = ["Parsing is hard.", "We propose a parser.", "Texts are long.", "It reads."]
    assert choose(sentences, "background", "background", "background", "method").background == [2]
