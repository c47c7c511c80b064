"""The demo's inputs are the same everywhere, and the demo says so where it did not come out as it should."""

import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "demo"))
from make_inputs import write_abstracts
from run_demo import report


def write_scores(folder, held: bool = True, ended: bool = True) -> None:
    interval = {"value": 0.4, "low": 0.3, "high": 0.5}
    found = {"scores": {"specificity": interval}, "behaviour": {"share_ended": 0.99}, "passes_gates": ended}
    row = {"decoding": "sampled", "difference": 0.25, "p_holm": 0.001, "holds": True}
    scores = {
        "num_examples": 2,
        "systems": {"fine-tuned": {"decodings": {"sampled": found}, "problem_gain": interval}},
        "comparisons": [
            {**row, "metric": "specificity", "holds": held},
            {**row, "metric": "specificity", "holds": False},
            {**row, "metric": "problem_gain"},
        ],
        "samples": [{"problem": "A problem.", "drafts": {"fine-tuned": "A draft."}}],
    }
    (folder / "scores").mkdir()
    (folder / "scores" / "scores.json").write_text(json.dumps(scores), encoding="utf-8")


def test_the_report_tells_what_came_out(tmp_path, capsys):
    write_scores(tmp_path)
    report(tmp_path, 61.4)
    said = capsys.readouterr().out
    assert "On 2 new problems" in said and "A draft." in said and "61 s" in said
    assert [line.split()[-3:] for line in said.splitlines() if line.startswith("specificity")] == [
        ["0.1500", "0.4000", "0.0010"]
    ]


@pytest.mark.parametrize(
    ("outcome", "said"), [({"held": False}, "not better in specificity"), ({"ended": False}, "ending its drafts")]
)
def test_a_demo_that_shows_nothing_ends_with_an_error(tmp_path, outcome, said):
    write_scores(tmp_path, **outcome)
    with pytest.raises(SystemExit, match=said):
        report(tmp_path, 1.0)


def test_abstracts_are_the_same_each_time_and_no_problem_comes_twice():
    first, again, other = (write_abstracts(50, seed, fitting=True) for seed in (42, 42, 43))
    assert first == again != other
    assert len({abstract[0] for abstract in first}) == 50
    taken = {abstract[0] for abstract in first}
    assert not taken & {abstract[0] for abstract in write_abstracts(50, 42, fitting=False, taken=taken)}
