"""The tagger that ships, on abstracts written for these tests."""

import random
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from conftest import ROOT

from approach.data.pair_rules import SENTENCE_RULES
from approach.roles import MODEL, PREFIXES, ROLES, RoleTagger, load_tagger, most_likely_role

ABSTRACTS = [
    [
        ("background", "Speech recognition has become an important part of many mobile devices in recent years."),
        ("background", "However, existing systems are too slow for long recordings."),
        ("objective", "The aim of this paper is to investigate how recordings can be recognised faster."),
        ("method", "We use a neural network with two layers that reads the recording in short windows."),
        ("method", "The network is trained on 300 hours of speech."),
        ("result", "Experimental results show that our system is 20% faster than the baseline."),
    ],
    [
        ("background", "Wireless sensor networks are widely used in agriculture."),
        ("objective", "In this paper, we propose a new routing protocol that is based on the energy of the nodes."),
        ("method", "Each node selects its neighbour by a fuzzy rule."),
        ("result", "The simulation results show that the protocol outperforms the others in terms of lifetime."),
    ],
]


@pytest.mark.parametrize("abstract", ABSTRACTS)
def test_each_sentence_of_a_plain_abstract_gets_its_role(abstract):
    tagged = load_tagger().tag([sentence for _, sentence in abstract])
    assert [most_likely_role(roles) for roles in tagged] == [role for role, _ in abstract]
    for roles in tagged:
        assert list(roles) == list(ROLES) and sum(roles.values()) == pytest.approx(1)


def test_the_model_is_small_and_read_from_its_bytes_alone():
    assert MODEL.stat().st_size <= 1_500_000
    other = RoleTagger(MODEL.read_bytes())
    sentences = [sentence for _, sentence in ABSTRACTS[0]]
    assert other.tag(sentences) == load_tagger().tag(sentences)


def test_no_sentence_no_role():
    assert load_tagger().tag([]) == []


PIECES = [
    *(
        "we propose",
        "results",
        "\x00",
        "\x85",
        "\u2028",
        "\ud800",
        "\ufffd",
        "é",
        "İ",
        "ß",
        "𝔘",
        "🙂",
        "\n",
        "\t",
        " ",
    ),
    *(
        "=",
        "<",
        ">",
        "^",
        "#first 0",
        ":",
        "%",
        "(",
        ")",
        "@xmath0",
        "-->",
        "}",
        "0",
        "1,000.5",
        "\\",
        '"',
        "</s>",
        "a" * 300,
    ),
]


def test_ten_thousand_hostile_abstracts_are_tagged():
    """Sentences of control characters, half characters, the model's own marks, and none: each gets probabilities."""
    rng, tagger = random.Random(0), load_tagger()
    for _ in range(10_000):
        sentences = [
            rng.choice(("", " ")).join(rng.choices(PIECES, k=rng.randint(0, 4))) for _ in range(rng.randint(0, 4))
        ]
        tagged = tagger.tag(sentences)
        assert len(tagged) == len(sentences)
        assert all(abs(sum(roles.values()) - 1) < 1e-6 for roles in tagged)


def test_a_very_long_sentence_and_very_many_are_tagged():
    assert len(load_tagger().tag(["we " * 100_000])) == 1
    assert len(load_tagger().tag(["We propose a method."] * 3000)) == 3000


def test_sentences_as_the_script_cuts_them_get_the_same_roles():
    for abstract in ABSTRACTS:
        sentences = SENTENCE_RULES["auto"](" ".join(sentence for _, sentence in abstract))
        assert [most_likely_role(roles) for roles in load_tagger().tag(sentences)] == [role for role, _ in abstract]


def test_training_twice_on_the_same_abstracts_gives_the_same_bytes(monkeypatch):
    spec = spec_from_file_location("train_roles", ROOT / "benchmarks" / "train_roles.py")
    train_roles = module_from_spec(spec)
    spec.loader.exec_module(train_roles)
    monkeypatch.setattr(train_roles, "MIN_SENTENCES", dict.fromkeys(PREFIXES, 1))
    rows = [{"sentences": [text for _, text in rows], "labels": [role for role, _ in rows]} for rows in ABSTRACTS]
    rows.append({"sentences": ["Thanks."], "labels": ["other"]})
    model = train_roles.train(rows)
    assert model == train_roles.train(rows)
    assert [most_likely_role(roles) for roles in RoleTagger(model).tag(rows[0]["sentences"])] == rows[0]["labels"]
