import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_clear_line
from huggingface_hub import ModelCard
from merging_inputs import make_scores, merge
from publishing import contents

from approach.cards import dataset_card, escape_html, model_card, summarize_run, write_model_card
from approach.errors import UserError
from approach.merging.model_folder import stage_adapter
from approach.prompt import TAGS
from merge_and_push import MergeArguments


def test_a_card_from_the_merge_alone_parses_and_claims_no_score(merged, base):
    card = ModelCard.load(merged / "README.md")
    assert card.data.eval_results is None and "Not scored yet." in card.text
    assert card.data.get("license") is None and card.data.get("base_model") is None, "nothing states them"
    assert f"# Research approach drafts, from {base.name}" in card.text
    assert "| steps | 4 |" in card.text and "![The loss curve](loss_curve.png)" in card.text
    assert "it invents" in card.text.lower() and "novelty" in card.text


def test_a_card_tells_the_scores_with_intervals_baselines_and_samples(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    write_model_card(folder, "alice/model", str(make_scores(tmp_path / "scores")))
    card = ModelCard.load(folder / "README.md")
    for line in (
        "| system | decoding | specificity | BLEU | ROUGE-L | problem gain | bits a byte | ended by itself |",
        "| fine-tuned | greedy | 0.0123 [0.0100, 0.0151] | 3.08 [2.50, 3.75] | – | 0.0211 [0.0200, 0.0300] "
        "| 1.234 [1.200, 1.300] | 92 % |",
        "| fine-tuned | sampled | – | 2.50 | 0.157 [0.150, 0.160] | 0.0211 [0.0200, 0.0300] "
        "| 1.234 [1.200, 1.300] | – |",
        "| copy | none | – | 0.40 | – | – | – | – |",
        "| fine-tuned − base | – | problem gain | 0.0700 [-0.1000, 0.2500] | 0.0400 |",
        "- bleu: `nrefs:1|case:lc`",
        "> **fine-tuned.** We measure {{ noise }}. Twice.",
        "> **base.** (nothing)",
    ):
        assert line in card.text.splitlines(), line
    results = [(r.metric_type, r.metric_name, r.metric_value, r.dataset_revision) for r in card.data.eval_results]
    assert results == [
        ("specificity", "specificity, greedy", 0.0123, "c0ffee"),
        ("bleu", "BLEU, greedy", 3.08, "c0ffee"),
        ("bleu", "BLEU, sampled", 2.5, "c0ffee"),
        ("rougeL", "ROUGE-L, sampled", 0.1567, "c0ffee"),
    ]
    assert (card.data.model_name, card.data.library_name) == ("model", "transformers")
    before = (folder / "README.md").read_bytes()
    write_model_card(folder, "alice/model", None)  # the scores are in the folder now
    assert (folder / "README.md").read_bytes() == before
    assert {path.name for path in folder.iterdir()} - {path.name for path in merged.iterdir()} == {"scores.json"}


@pytest.mark.parametrize(("best_step", "shown"), [(None, "3.500 → 3.300"), (4, "3.500 → 3.100")])
def test_a_card_shows_the_loss_of_the_checkpoint_that_was_kept(best_step, shown):
    """With early stopping the last evaluation is always a worse one."""
    losses = [{"step": step, "eval_loss": loss} for step, loss in ((0, 3.5), (4, 3.1), (8, 3.3))]
    recipe = summarize_run({"losses": losses, "best_step": best_step})
    assert recipe["validation loss, nats a token"] == shown


def test_a_card_states_names_and_licences_that_its_records_state(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    report = {"source": {"name": "bob/abstracts", "license": "cc0-1.0"}, "hub": {"dataset": "alice/pairs"}}
    (folder / "build_report.json").write_text(json.dumps(report), encoding="utf-8")
    merge_report = json.loads((folder / "merge.json").read_text(encoding="utf-8"))
    merge_report |= {"base": "alice/base", "base_license": "apache-2.0"}
    (folder / "merge.json").write_text(json.dumps(merge_report), encoding="utf-8")
    write_model_card(folder, "alice/model", None)
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "apache-2.0",
        "alice/base",
        ["alice/pairs"],
    )
    assert "under the licence that this source states: cc0-1.0" in card.text


def test_a_card_tells_the_gguf_files_beside_the_model(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    assert "GGUF" not in (folder / "README.md").read_text(encoding="utf-8")
    found = {"model-Q4_K_M.gguf": {"bytes": 3 << 20, "argmax_changes": 8, "positions": 54}}
    (folder / "gguf.json").write_text(json.dumps({"files": {}, "found": found}), encoding="utf-8")
    write_model_card(folder, "alice/model", None)
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    assert "| model-Q4_K_M.gguf | 3.0 | 8 of 54 |" in lines and "llama-server -m model-Q4_K_M.gguf" in lines


def test_the_merge_takes_the_licences_from_base_and_dataset(trained, base, dataset, tmp_path):
    other, pairs = shutil.copytree(base, tmp_path / "other"), shutil.copytree(dataset, tmp_path / "pairs")
    (other / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    report = json.loads((pairs / "build_report.json").read_text(encoding="utf-8"))
    report["source"]["license"] = "cc0-1.0"
    (pairs / "build_report.json").write_text(json.dumps(report), encoding="utf-8")
    merge(trained.adapter, tmp_path / "model", base_model_name_or_path=str(other), dataset_name=str(pairs))
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "apache-2.0" and "licence that this source states: cc0-1.0" in card.text


def test_records_that_are_not_ours_end_in_one_line(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    (tmp_path / "scores.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="scores.json cannot be read as JSON"):
        write_model_card(folder, "alice/model", str(tmp_path))
    (tmp_path / "scores.json").write_text('{"systems": {"a": {"bleu": 1}}}', encoding="utf-8")
    with pytest.raises(UserError, match="its records are not as our scripts write them"):
        write_model_card(folder, "alice/model", str(tmp_path))
    assert contents(folder) == contents(merged)
    with pytest.raises(ValueError, match="--scores .*model holds no scores.json"):
        MergeArguments(push_only=str(folder), hub_model_id="alice/model", scores=str(merged))


def test_a_full_disk_while_the_card_is_written_leaves_the_model_as_it_was(merged, tmp_path):
    folder, scores = shutil.copytree(merged, tmp_path / "model"), make_scores(tmp_path / "scores")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"
    program = f"{limited}; import pathlib; from approach.cards import write_model_card as write"
    program += "; from approach.errors import run_script"
    program += f"; run_script(lambda: write(pathlib.Path({str(folder)!r}), 'a/b', {str(scores)!r}))"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_one_clear_line(result, 1, f"{folder / 'scores.json'} cannot be written", "The folder is as it was")
    assert contents(folder) == contents(merged)


def run_snippet(card: str, name: str, folder, capsys) -> str:
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert f'"{name}"' in snippet
    exec(snippet.replace(f'"{name}"', repr(str(folder))), {})
    return capsys.readouterr().out.strip()


def test_the_snippet_of_the_card_drafts(merged, capsys):
    draft = run_snippet((merged / "README.md").read_text(encoding="utf-8"), merged.name, merged, capsys)
    assert len(draft) > 10 and not any(tag in draft for tag in TAGS)


def test_the_snippet_of_the_adapters_card_drafts_the_same_and_names_no_path(trained, merged, base, tmp_path, capsys):
    stage_adapter(trained.adapter, "alice/adapter", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == base.name
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "peft" and card.data.get("base_model") is None
    content = card.content.replace(f'from_pretrained("{base.name}"', f"from_pretrained({str(base)!r}")
    draft = run_snippet(content, "alice/adapter", tmp_path, capsys)
    assert draft == run_snippet((merged / "README.md").read_text(encoding="utf-8"), merged.name, merged, capsys)


HTML = "a <script>alert(1)</script> <IMG SRC=x onerror=alert(1)> <!-- c --> </td> <?php?> &lt;b&gt; &#60;i&#62; <a"
ESCAPED = (
    "a &lt;script>alert(1)&lt;/script> &lt;IMG SRC=x onerror=alert(1)> &lt;!-- c --> &lt;/td> &lt;?php?> "
    "&amp;lt;b&amp;gt; &amp;#60;i&amp;#62; &lt;a"
)
PROSE = "p < 0.05, 3 <4, R&D, A & B, x > y, x->y, → “quotes” 'single' \"double\" − – é `code` *stars* [1] $a_1<_2$"


def test_a_value_becomes_text_and_prose_stays_as_it_is():
    assert escape_html(HTML) == ESCAPED and escape_html(PROSE) == PROSE
    assert escape_html(escape_html(HTML)) == ESCAPED, "what is escaped stays"
    assert escape_html(3) == "3" and escape_html(None) == "None"


def make_report(**changes):
    """What prepare_dataset.py counts of a small dataset."""
    return {
        "source": {"name": "alice/abstracts", "config": None, "split": "train", "license": "cc0-1.0"},
        "arguments": {"near_duplicate_threshold": 0.7, "tokenizer_name": "alice/base"},
        "command": "python prepare_dataset.py --dataset_name alice/abstracts --output_dir DIR",
        "near_duplicates": {"clusters": 2, "rows": 1234, "where": "all of them in train"},
        "funnel": {"read": 1300, "no_text": 0, "kept": 1234},
        "splits": {"train": 1100, "test": 134},
        "words": {"problem": {"mean": 19.4, "p5": 16}, "approach": {"mean": 115.4, "p99": 1330}},
        **changes,
    }


FILES = {
    "train": {"path": "data/train-00000-of-00001-ab.parquet", "num_bytes": 12345},
    "test": {"path": "data/test-00000-of-00001-cd.parquet", "num_bytes": 678},
}
SAMPLES = [{"id": i, "problem": f"Noise {i} → loud.", "approach": "We listen, “p < 0.05” & so on."} for i in "12"]
DATASET_CARD = """\
---
language: en
license: cc0-1.0
size_categories: 1K<n<10K
task_categories:
- text-generation
pretty_name: Problem–approach pairs
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-00000-of-00001-ab.parquet
  - split: test
    path: data/test-00000-of-00001-cd.parquet
dataset_info:
  features:
  - name: id
    dtype: string
  - name: problem
    dtype: string
  - name: approach
    dtype: string
  - name: prompt
    dtype: string
  - name: completion
    dtype: string
  splits:
  - name: train
    num_bytes: 12345
    num_examples: 1100
  - name: test
    num_bytes: 678
    num_examples: 134
---

# Problem–approach pairs

One-sentence research problems and the approaches that followed them, cut from abstracts: the first
sentence is the `problem`, the rest is the `approach`; a model is trained on `prompt` and `completion`.

Source: name alice/abstracts, split train. Licence, as the source states it: cc0-1.0; SOURCE_ENDS

| rows | |
|---|---|
| train | 1,100 |
| test | 134 |

## What was dropped

In this order, each row under one reason. Control characters became spaces.

| funnel | |
|---|---|
| read | 1,300 |
| no text | 0 |
| kept | 1,234 |

![The funnel](funnel.png)

## Near duplicates

1,234 rows in 2 clusters are near duplicates: they share 70% or more of their
word 5-grams with another row; all of them in train.

| highest similarity left | |
|---|---|
| train/test | 0.69 |

## Lengths

| words in train | |
|---|---|
| problem, mean | 19.4 |
| problem, p5 | 16 |
| approach, mean | 115.4 |
| approach, p99 | 1,330 |

| tokens in train, alice/base | |
|---|---|
| mean | 150.5 |
| share over 512 | 0.01 |

## Three rows

> **Problem.** Noise 1 → loud.
>
> **Approach.** We listen, “p < 0.05” & so on.

> **Problem.** Noise 2 → loud.
>
> **Approach.** We listen, “p < 0.05” & so on.

## What it is not

- Clean labels. By human labels on 1,963 computer-science abstracts, 96 % of a first sentence is background
  or objective; of the rest 50 % is method or objective and 25 % result (`benchmarks/README.md`).
- A test of memory. Models pre-trained on arXiv, TinyLlama among them, may have seen the test abstracts; to
  test on newer ones, split in time with `--year_column` and `--test_from_year`.

## How it was built

```
python prepare_dataset.py --dataset_name alice/abstracts --output_dir DIR
```
""".replace("SOURCE_ENDS", "the abstracts remain their authors'.")


def test_a_datasets_card_has_these_bytes():
    counts = {"highest_similarity": {"train/test": 0.69}, "tokens": {"mean": 150.5, "share over 512": 0.01}}
    assert dataset_card(SAMPLES, make_report(**counts), FILES) == DATASET_CARD


def test_a_datasets_card_says_what_was_not_done():
    report = make_report(splits={"train": 900, "test": 99})
    del report["near_duplicates"], report["source"]["license"]
    card = dataset_card(SAMPLES, report, FILES)
    assert "size_categories: n<1K\n" in card and "license: unknown\n" in card and "states it: not stated;" in card
    assert "\n\nNot looked for: a row of test may stand in train under another id.\n\n## Lengths\n" in card
    assert "highest similarity" not in card and "tokens in train" not in card and "\n\n\n" not in card


@pytest.mark.parametrize(
    "rows, size", [(999, "n<1K"), (1000, "1K<n<10K"), (203037, "100K<n<1M"), (10**7, "10M<n<100M")]
)
def test_a_datasets_size_is_told_as_the_hub_names_it(rows, size):
    assert f"size_categories: {size}\n" in dataset_card([], make_report(splits={"train": rows}), {})


def test_no_record_reaches_a_card_as_html(merged, tmp_path):
    rows = [{"problem": HTML, "approach": HTML}]
    names = make_report(source={"name": HTML, "license": "mit"}, splits={HTML: 3}, funnel={HTML: 1})
    body = dataset_card(rows, names, {}).partition("\n---\n\n")[2]
    assert body.count(ESCAPED) == 5 and not re.search(r"<[a-zA-Z/!?]", body)

    folder, scores = shutil.copytree(merged, tmp_path / "model"), make_scores(tmp_path / "scores")
    told = json.loads((scores / "scores.json").read_text(encoding="utf-8"))
    told["samples"] = [{"problem": HTML, "reference": HTML, "drafts": {"fine-tuned": HTML, HTML: PROSE}}]
    run = {**json.loads((folder / "run.json").read_text(encoding="utf-8")), "device": HTML}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    text = ModelCard(model_card(folder, "alice/model", told)).text
    assert text.count(ESCAPED) == 5 and f"**{ESCAPED}.** {PROSE}" in text
    assert not re.search(r"<[a-zA-Z/!?]", text)
