"""What exports add to abstracts is taken out, and what only looks like it stays."""

import random

import pytest
from conftest import make_abstract, write_jsonl

from approach.data.cleaning import clean_text, detect_language, is_withdrawn
from approach.data.pair_rules import split_auto
from approach.data.splits import normalize_words
from approach.storage import read_json
from approach.text import fold_words
from prepare_dataset import main, parse_arguments

PROBLEM, APPROACH = "Inspectors cannot tell old cracks from new ones.", "We compare two photographs. It works."
TEXT = f"{PROBLEM} {APPROACH}"


@pytest.fixture
def rng():
    return random.Random(0)


@pytest.mark.parametrize(
    ("dirty", "steps"),
    [
        (f"<jats:title>Abstract</jats:title><jats:p>{TEXT}</jats:p>", ["markup", "heading"]),
        (f"<p>{PROBLEM}</p> <p>{APPROACH}</p>", ["markup"]),
        (f"<div class='a'><b>{PROBLEM}</b><br/>{APPROACH}</div>", ["markup"]),
        (f"<!-- x --><![CDATA[{TEXT}]]>", ["markup"]),
        (TEXT.replace("two", "&lt;i&gt;two&lt;/i&gt;"), ["entities"]),
        (TEXT.replace("old", "o\u00adld"), ["invisible_characters"]),
        ("\ufeff" + TEXT, ["invisible_characters"]),
        *(
            (TEXT.replace("tell old", f"tell{mark}old"), ["separators"])
            for mark in "\u2028\u2029\x0b\x0c\x85\xa0\u3000\t"
        ),
        (TEXT.replace("It works", "It </s> works"), ["special_tokens"]),
        (TEXT.replace("It works", "It <|im_end|> works"), ["special_tokens"]),
        *((f"{heading}{TEXT}", ["heading"]) for heading in ("Abstract\n", "ABSTRACT. ", "Abstract: ", "Summary\n")),
        *(
            (f"{heading}{TEXT}", ["heading"])
            for heading in ("Abstract ", "ABSTRACT ", "**Abstract** ", "# Abstract\n")
        ),
        *((f"{heading}{TEXT}", ["heading"]) for heading in ("Abstract—", "1. Introduction ", "SUMMARY: ")),
        *(
            (f"{TEXT} {notice}", ["copyright"])
            for notice in (
                "© 2023 Exemplar Publishing Ltd. All rights reserved.",
                "Copyright (C) 2020 The Authors.",
                "(c) 2021 IEEE.",
                "2021 IEEE.",
                "Copyright © 2019 John Wiley & Sons, Ltd.",
                "© The Author(s) 2022. Published by Elsevier B.V. This is an open access article under a CC license.",
            )
        ),
        (f"© 2023 Exemplar Publishing Ltd. {TEXT}", ["copyright"]),
        (f"Copyright 2023 by the authors.\n{TEXT}", ["copyright"]),
    ],
)
def test_what_an_export_added_is_taken_out_and_counted(dirty, steps):
    found, changed = clean_text(dirty)
    assert (" ".join(found.split()), changed) == (TEXT, steps)


@pytest.mark.parametrize(
    "text",
    [
        "Each <subject, predicate> pair has a score a < b and x > y.",
        "We use List<String> and the tags <title> of pages.",
        "Copyright law is hard to formalise for machines.",
        "Abstract Meaning Representation is a graph. Summary statistics are shared.",
        "Abstractive summaries are short. Background noise is not.",
        "R&D costs rise, see http://a.b/?a=1&copy=2.",
        "The Open Access movement grows. It was licensed by the state.",
        "Open access articles are cited more often.",
        "We study 2020 elections. In 2021 the IEEE published a standard on it.",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert clean_text(text) == (text, [])


@pytest.mark.parametrize("text", ["[Abstract not available]", "No abstract available.", "N/A", "Abstract unavailable"])
def test_a_notice_in_place_of_an_abstract_is_no_text(text):
    assert clean_text(text)[0] == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This paper has been withdrawn by the author due to an error in Lemma 3.", True),
        ("WITHDRAWN: Because of an error in the proof.", True),
        ("[Retracted] We measure noise.", True),
        ("This arXiv submission was withdrawn.", True),
        ("The drug was withdrawn from the market. We ask why.", False),
        ("Retracted articles are cited for years.", False),
        ("Withdrawal symptoms are common.", False),
    ],
)
def test_withdrawn_papers_are_known(text, expected):
    assert is_withdrawn(text) is expected


def test_copies_are_found_whatever_was_done_to_their_characters():
    plain = normalize_words("We fix the coefficient of flow.", "A naive model of Muller.")
    for problem, approach in [
        ("We \ufb01x the coe\ufb03cient of \ufb02ow.", "A naïve model of Müller."),  # ligatures and accents
        ("We fix the coef\u00adficient of flow.", "A na\u200bive model of Mu\u0308ller."),
        ("<i>We</i> fix the <b>coefficient</b> of flow.", "A ｎaive model of MULLER."),
    ]:
        assert normalize_words(problem, approach) == plain
    assert fold_words("Coe\ufb03cient of <i>ﬂow</i> &amp; Ångström") == ["coefficient", "of", "flow", "&", "angstrom"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (f"{PROBLEM} They are small.\n\n{APPROACH}", [PROBLEM, "They are small.", *APPROACH.split(". ", 1)]),
        (f"{PROBLEM}\nWe compare.\nIt works.", [PROBLEM, "We compare.", "It works."]),
        (f"{TEXT.replace('tell old', chr(10).join(('tell', 'old')))}", [PROBLEM, *APPROACH.split(". ", 1)]),
        ("It is one of the first of e.g. Smith et al. (2020).\nWe test it.", 2),
    ],
)
def test_paragraphs_and_broken_lines_are_cut_into_sentences(text, sentences):
    found = split_auto(text)
    if isinstance(sentences, int):
        assert len(found) == sentences
    else:
        assert [sentence.removesuffix(".") for sentence in found] == [each.removesuffix(".") for each in sentences]


def prepare(tmp_path, texts, *flags):
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": str(i), "abstract": text} for i, text in enumerate(texts)])
    words = ["--dataset_name", str(path), "--output_dir", str(tmp_path / "pairs"), "--overwrite", "--num_proc", "1"]
    main(parse_arguments([*words, "--min_approach_words", "3", *flags]))
    return read_json(tmp_path / "pairs" / "build_report.json")


def test_every_step_and_every_dropped_row_is_counted(tmp_path, rng, capsys):
    good = make_abstract(rng)
    french = "Les inspecteurs ne distinguent pas les fissures. Nous comparons deux photographies du même pont."
    texts = [
        good,
        "© 2023 X Ltd.\n" + make_abstract(rng),
        "Too short. " + good[5:],
        "This paper is withdrawn.",
        french,
        "N/A",
    ]
    report = prepare(tmp_path, texts, "--language", "en")
    funnel, cleaning = report["funnel"], report["cleaning"]
    assert funnel["withdrawn"] == funnel["other_language"] == funnel["no_text"] == 1, funnel
    assert cleaning["copyright"] == cleaning["missing_abstract"] == 1 and sum(cleaning.values()) == 2
    assert "Cleaned: missing abstract in 1 rows, copyright in 1 rows" in capsys.readouterr().out
    assert "clean" not in report["arguments"] and report["arguments"]["language"] == "en"


def test_the_reports_rule_cleans_nothing_and_keeps_its_counts(tmp_path, rng):
    good = make_abstract(rng)
    report = prepare(tmp_path, [good, "Abstract\n" + good[3:]], "--sentence_rule", "report")
    assert "cleaning" not in report and report["funnel"]["kept"] == 2
    assert not {"withdrawn", "problem_too_short", "other_language"} & report["funnel"].keys()
    report = prepare(tmp_path, [good, "Abstract\n" + good[3:]], "--clean", "false")
    assert "cleaning" not in report and report["arguments"]["clean"] is False
    with pytest.raises(SystemExit):
        parse_arguments(["--output_dir", "o", "--sentence_rule", "report", "--clean", "true"])


def test_languages_are_told_apart():
    assert detect_language("We train a small network on pairs of photographs of the same bridge.") == "en"
    assert detect_language("Wir trainieren ein kleines Netz auf Paaren von Bildern derselben Brücke.") == "de"
