"""The labels of structured abstracts, in the forms in which they are exported."""

import pytest
from conftest import write_jsonl
from datasets import load_dataset

from approach.data.arguments import DatasetArguments
from approach.data.labels import find_kind, find_labels, parse_sections
from approach.data.pair_rules import make_labels_pair, split_auto
from approach.storage import read_json
from prepare_dataset import main, parse_arguments

SECTIONS = {
    "BACKGROUND": "Falls are common. They cost much.",
    "METHODS": "We trained 40 nurses. Each saw ten patients.",
    "RESULTS": "Falls fell by half.",
    "CONCLUSIONS": "Training helps.",
}


def arguments(**named):
    return DatasetArguments(pair_rule="labels", **named)


def join(form: str, between: str, style=str.upper) -> str:
    return between.join(
        form.format(number=i, label=style(label), text=text) for i, (label, text) in enumerate(SECTIONS.items(), 1)
    )


@pytest.mark.parametrize(
    "text",
    [
        join("{label}: {text}", " "),
        join("{label}: {text}", "\n"),
        join("{label}\n{text}", "\n"),
        join("{label}. {text}", " ", str.capitalize),
        join("{label} — {text}", " ", str.capitalize),
        join("{label} {text}", " ", str.capitalize),
        join("({number}) {label}: {text}", " ", str.capitalize),
        join("{number}. {label}\n{text}", "\n", str.capitalize),
    ],
)
def test_each_usual_form_gives_the_same_sections(text):
    found = [(section.label.upper(), section.text) for section in parse_sections(text)]
    assert found == list(SECTIONS.items())
    pair = make_labels_pair(text, split_auto(text), arguments())
    assert (pair.problem, pair.approach, pair.reason) == ("Falls are common.", SECTIONS["METHODS"], "")


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("AIMS AND OBJECTIVES", "problem"),
        ("Summary of Background Data", "problem"),
        ("DESIGN, SETTING, AND PARTICIPANTS", "approach"),
        ("Main outcome measures", "approach"),
        ("Research Design and Methods", "approach"),
        ("OBJECTIVE AND METHODS", "mixed"),
        ("METHODS AND RESULTS", "other"),
        ("OUTCOMES", "other"),
        ("Trial registration", "other"),
        ("Key words", "keywords"),
    ],
)
def test_labels_say_what_their_parts_are(label, kind):
    assert find_kind(label) == kind


@pytest.mark.parametrize(
    "text",
    [
        "Methods for long texts are slow. We test one. Results are good.",
        "Background subtraction fails in rain. We measure it.",
        "Our results: we beat them. The method: small.",
        "Conclusion and premise are parts of an argument. Objective functions differ.",
    ],
)
def test_words_of_ordinary_sentences_are_no_labels(text):
    assert find_labels(text) == []


def test_parts_keep_their_order_and_results_never_enter():
    text = (
        "OBJECTIVE: We introduce a device. Whether it helps is not known. DESIGN: A trial. RESULTS: It helped. "
        "SETTING: One clinic. PATIENTS AND METHODS: Ten people used it. CONCLUSION: Good. KEYWORDS: device, trial"
    )
    pair = make_labels_pair(text, split_auto(text), arguments())
    assert pair.problem == "Whether it helps is not known.", "the sentence before tells the approach"
    assert pair.approach == "A trial. One clinic. Ten people used it."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Falls are common. We train nurses.", "no_labels"),
        ("METHODS: We train nurses. RESULTS: Fewer falls.", "no_problem"),
        ("BACKGROUND: Falls are common. RESULTS: Fewer falls.", "no_approach"),
    ],
)
def test_what_gives_no_pair_is_counted_under_its_reason(text, reason):
    assert make_labels_pair(text, split_auto(text), arguments()).reason == reason


def test_abstracts_without_labels_may_be_cut_by_another_rule():
    text = "Falls are common. We train nurses. Fewer fell."
    pair = make_labels_pair(text, split_auto(text), arguments(unlabelled="first_sentence"))
    assert (pair.problem, pair.approach) == ("Falls are common.", "We train nurses. Fewer fell.")


def test_pubmeds_sections_and_the_card(tmp_path):
    sections = [{"label": label, "text": text} for label, text in SECTIONS.items()]
    rows = [{"id": str(i), "abstract": sections} for i in range(3)] + [
        {"id": "x", "abstract": [{"text": "No label."}]}
    ]
    rows[1]["abstract"] = [*sections[:1], {"label": "DESIGN", "text": "A trial with a control group."}, *sections[1:]]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    words = ["--dataset_name", str(path), "--output_dir", str(tmp_path / "pairs"), "--pair_rule", "labels"]
    main(parse_arguments([*words, "--min_approach_words", "5", "--min_problem_words", "2"]))
    report = read_json(tmp_path / "pairs" / "build_report.json")
    assert report["labels"] == {"abstracts": 4, "labelled": 3, "pairs_by_labels": 3}
    assert report["funnel"]["exact_copy"] == 1 and report["arguments"]["pair_rule"] == "labels"
    assert {row["approach"] for row in load_dataset(str(tmp_path / "pairs"))["train"]} == {
        SECTIONS["METHODS"],
        f"A trial with a control group. {SECTIONS['METHODS']}",
    }
    assert "own labels say what each part is" in (tmp_path / "pairs" / "README.md").read_text(encoding="utf-8")


def test_the_first_sentence_is_no_label(tmp_path):
    text = join("{label}: {text}", "\n")
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "abstract": text}])
    words = ["--dataset_name", str(path), "--output_dir", str(tmp_path / "pairs"), "--min_approach_words", "5"]
    main(parse_arguments([*words, "--min_problem_words", "2"]))
    [row] = load_dataset(str(tmp_path / "pairs"))["train"]
    assert row["problem"] == "Falls are common."
    assert (
        row["approach"]
        == "They cost much. We trained 40 nurses. Each saw ten patients. Falls fell by half. Training helps."
    )
