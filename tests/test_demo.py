"""The demo's inputs are the same everywhere, and the demo says so where it did not come out as it should."""

import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "demo"))
from make_inputs import write_abstracts
from run_demo import report


def write_scores(folder, held: bool) -> None:
    def decoding(value):
        scores = {name: {"value": value} for name in ("bleu", "rougeL", "bertscore_f1")}
        return {"greedy": {"scores": scores, "own_minus_permuted": scores, "behaviour": {"share_ended": 1.0}}}

    pair = {"baseline": "base", "decoding": "greedy", "difference": 0.2, "p_holm": 0.001}
    names = ["bleu", "rougeL", "bertscore_f1", "gap_bleu", "gap_rougeL", "gap_bertscore_f1"]
    rows = [{**pair, "metric": name} for name in names] if held else [{**pair, "metric": name} for name in names[1:]]
    scores = {
        "num_examples": 2,
        "best_base": {"drafts": "base"},
        "systems": {"fine-tuned": {"decodings": decoding(0.4)}, "base": {"decodings": decoding(0.2)}},
        "comparisons": rows,
        "samples": [{"problem": "A problem.", "drafts": {"fine-tuned": "A draft."}}],
    }
    (folder / "scores").mkdir()
    (folder / "scores" / "scores.json").write_text(json.dumps(scores), encoding="utf-8")


def test_the_report_tells_what_came_out(tmp_path, capsys):
    write_scores(tmp_path, held=True)
    report(tmp_path, 61.4)
    said = capsys.readouterr().out
    assert "On 2 problems" in said and "A draft." in said and "61 s" in said
    assert [line.split()[-3:] for line in said.splitlines() if line.startswith("BLEU  ")] == [
        ["0.2000", "0.4000", "0.0010"]
    ]


def test_a_demo_that_shows_nothing_ends_with_an_error(tmp_path):
    write_scores(tmp_path, held=False)
    with pytest.raises(SystemExit, match="not better in BLEU"):
        report(tmp_path, 1.0)


def test_abstracts_are_the_same_each_time_and_no_problem_comes_twice():
    first, again, other = (write_abstracts(50, seed, fitting=True) for seed in (42, 42, 43))
    assert first == again != other
    assert len({abstract[0] for abstract in first}) == 50
    taken = {abstract[0] for abstract in first}
    assert not taken & {abstract[0] for abstract in write_abstracts(50, 42, fitting=False, taken=taken)}
