"""
What two of the original run's mistakes cost: tags that are not trained, and labels on padding.

Trains the same base on the same rows three times, and measures each time the loss on the approach tokens of the same
validation rows at the start and after some steps. `as logged` is the training loss that each run shows of itself: with
labels on padding it looks best while the model is worst at its task. Afterwards `ours` drafts for test problems, with
sampling, to see how many drafts end by themselves.

    python benchmarks/tags_and_padding.py --model_name_or_path ../shared/models/abstracts_llama_9m \
        --dataset_name outputs/acl_pairs --steps 100 --more_steps 300
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train_sft

ROOT = Path(__file__).resolve().parent.parent
STEPS = (0, 10, 50, 100, 200, 300)


def pad_with_labels(row: dict, pad_id: int, max_length: int) -> dict:
    """The original's row: filled to the full length with end-of-text tokens that carry labels."""
    padding = [pad_id] * (max_length - len(row["input_ids"]))
    return {"input_ids": row["input_ids"] + padding, "labels": row["labels"] + padding}


def train(kind: str, args: argparse.Namespace, steps: int):
    """One run; returns the trainer and `{step: (validation loss, training loss as logged)}`."""
    from transformers import TrainerCallback

    from approach.embeddings import add_tag_tokens
    from approach.training.data import load_pairs
    from approach.training.trainer import ApproachTrainer, build_lora_config, load_base

    class EvaluateAt(TrainerCallback):
        def on_step_end(self, arguments, state, control, **kwargs):
            control.should_evaluate = state.global_step in STEPS

    with tempfile.TemporaryDirectory() as folder:
        recipe = ["--config", str(ROOT / "recipes/small_base_lora_fp32.yaml"), "--max_steps", str(steps)]
        places = ["--model_name_or_path", args.model_name_or_path, "--dataset_name", args.dataset_name]
        quiet = ["--output_dir", folder, "--save_strategy", "no", "--eval_steps", "100000", "--use_cpu", "true"]
        script_args, training_args, model_args, run_args = train_sft.parse_arguments([*recipe, *places, *quiet])
        model, tokenizer = load_base(model_args)
        lora = build_lora_config(model, model_args, add_tag_tokens(model, tokenizer))
        pairs = load_pairs(script_args, training_args, run_args, tokenizer)
        rows = pairs.train
        if kind == "labels on padding":
            padding = {"pad_id": tokenizer.pad_token_id, "max_length": training_args.max_length}
            rows = rows.map(pad_with_labels, fn_kwargs=padding)
        if kind == "tags not trained":
            lora.trainable_token_indices = None
        trainer = ApproachTrainer(
            model=model,
            args=training_args,
            processing_class=tokenizer,
            train_dataset=rows,
            eval_dataset=pairs.validation,
            peft_config=lora,
        )
        trainer.add_callback(EvaluateAt)
        trainer.train()
    logs = trainer.state.log_history
    logged = {entry["step"]: entry["loss"] for entry in logs if "loss" in entry}
    return trainer, {e["step"]: (e["eval_loss"], logged.get(max(e["step"], 1))) for e in logs if "eval_loss" in e}


def share_ended(trainer, args: argparse.Namespace, num_problems: int = 100) -> float:
    """The share of test problems whose draft, sampled at temperature 0.7 and top-p 0.9, ends within 448 tokens."""
    import torch
    from datasets import load_dataset
    from transformers import set_seed

    tokenizer, model = trainer.processing_class, trainer.model.eval()
    tokenizer.padding_side = "left"
    prompts = sorted(load_dataset(args.dataset_name, split="test"), key=lambda row: row["id"])[:num_problems]
    prompts = sorted((row["prompt"] for row in prompts), key=len)
    set_seed(42)
    ended = 0
    for start in range(0, len(prompts), 25):
        batch = tokenizer(prompts[start : start + 25], return_tensors="pt", padding=True)
        sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 448}
        with torch.inference_mode():
            drafts = model.generate(**batch, **sampling)[:, batch["input_ids"].shape[1] :]
        ended += (drafts == tokenizer.eos_token_id).any(dim=1).sum().item()
    return ended / len(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--steps", type=int, default=100, help="steps of each of the three runs")
    parser.add_argument("--more_steps", type=int, default=300, help="steps of the run that drafts")
    args = parser.parse_args()
    table = {}
    for kind in ("ours", "tags not trained", "labels on padding"):
        table[kind] = train(kind, args, args.steps)[1]
    trainer, table[f"ours, {args.more_steps} steps"] = train("ours", args, args.more_steps)
    steps = [step for step in STEPS if step <= args.more_steps]
    print("\nloss a token of the approaches, validation (training, as logged)\n")
    print(f"{'':20}" + "".join(f"{f'step {step}':>18}" for step in steps))
    for kind, losses in table.items():
        cells = (f"{losses[s][0]:.3f} ({losses[s][1]:.3f})" if s in losses else "" for s in steps)
        print(f"{kind:20}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"\ndrafts that ended by themselves after {args.more_steps} steps: {share_ended(trainer, args):.0%}")


if __name__ == "__main__":
    main()
