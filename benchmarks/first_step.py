"""
How long a run of 100 steps on 103,663 rows waits for its first step, beside TRL's own preparation of the same rows.

The rows are made of random words, of the report's number and mean length (266 TinyLlama tokens); the model is tiny, so
that what is timed is the data. From the model being loaded to the first step.

    python benchmarks/first_step.py --model MODEL --tokenizer TINYLLAMA_FOLDER [--stock]
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SENTENCE = "the energy of a model on structured data depends on how the network was trained and we show when it fails"


def make_rows(folder: Path, number: int) -> None:
    from datasets import Dataset

    rng = random.Random(0)
    rows = []
    for i in range(number):
        problem, approach = (" ".join(rng.choices(SENTENCE.split(), k=k)) for k in (22, rng.randint(95, 280)))
        prompt, completion = f"<problem>{problem}</problem><approach>", f" {approach}</approach>"
        rows.append({"id": str(i), "problem": problem, "prompt": prompt, "completion": completion})
    split = Dataset.from_list(rows)
    for name, part in (("train", split), ("validation", split.select(range(100)))):
        part.to_parquet(folder / f"{name}.parquet")


def main(args: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    class FirstStep(TrainerCallback):
        def on_step_begin(self, arguments, state, control, **kwargs):
            print(f"{args.rows:,} rows: first step after {time.monotonic() - self.started:.1f} s")
            sys.exit()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rows(folder, args.rows)
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=False)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=False)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        first = FirstStep()
        if args.stock:
            from datasets import load_dataset
            from trl import SFTConfig, SFTTrainer

            first.started = time.monotonic()
            rows = load_dataset(str(folder), split="train").select_columns(["prompt", "completion"])
            config = SFTConfig(str(folder / "out"), max_steps=100, max_length=512, bf16=False, use_cpu=True)
            trainer = SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
        else:
            import train_sft
            from approach.embeddings import add_tag_tokens
            from approach.training.data import load_pairs
            from approach.training.trainer import ApproachTrainer, build_lora_config

            recipe = ["--config", str(ROOT / "recipes/small_base_lora_fp32.yaml"), "--use_cpu", "true"]
            places = [
                "--model_name_or_path",
                args.model,
                "--dataset_name",
                str(folder),
                "--output_dir",
                str(folder / "o"),
            ]
            more = ["--eval_on_start", "false"]
            arguments = train_sft.parse_arguments([*recipe, *places, *more])
            script_args, training_args, model_args, run_args = arguments
            first.started = time.monotonic()
            lora = build_lora_config(model, model_args, add_tag_tokens(model, tokenizer))
            pairs = load_pairs(script_args, training_args, run_args, tokenizer)
            trainer = ApproachTrainer(
                model=model,
                args=training_args,
                processing_class=tokenizer,
                train_dataset=pairs.train,
                eval_dataset=pairs.validation,
                peft_config=lora,
            )
        trainer.add_callback(first)
        trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="A small model.")
    parser.add_argument("--tokenizer", required=True, help="Folder of the tokenizer to time.")
    parser.add_argument("--rows", type=int, default=103_663, help="Rows of the training split.")
    parser.add_argument("--stock", action="store_true", help="TRL's own preparation instead of ours.")
    main(parser.parse_args())
