"""
Ways to compute one step, taken in turns in one process: a machine's speed drifts by more than they differ.

Drafting reads four tokens of each row, after `--seen` others and those of earlier turns, in the fastest precision: of
one row to three with oneDNN's products and with torch's own (`approach/runtime.py`). Training is forward and backward
of 4 × 215 tokens, with LoRA of rank 64 on all linear layers, through SDPA and through transformers' eager attention.

    python benchmarks/turns.py --model SMOLLM2
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def take_turns(name: str, ways: Mapping[str, Callable], step: Callable, turns: int) -> None:
    """
    Prints the median and the range of each way's milliseconds, and the median of its ratios to the first's.

    What `ways` holds is called before a step, to choose the way.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way in ways if turn % 2 else reversed(ways):
            ways[way]()
            started = time.perf_counter()
            step()
            found[way].append(time.perf_counter() - started)
    timed = {way: seconds[1:] for way, seconds in found.items()}  # the first turn warms up
    first = next(iter(timed.values()))
    for way, seconds in timed.items():
        ratio = median(one / own for one, own in zip(first, seconds, strict=True))
        times = [1000 * value for value in (median(seconds), min(seconds), max(seconds))]
        print(f"{name:26}{way:14}{times[0]:8.1f} ms ({times[1]:.1f}–{times[2]:.1f}){ratio:7.2f} × as fast", flush=True)


def list_attentions(model: PreTrainedModel, *names: str) -> dict[str, Callable]:
    """Ways to choose one of transformers' attentions."""
    return {name: partial(model.set_attn_implementation, name) for name in names}


def compare_drafting(model: PreTrainedModel, rows: int, seen: int, ways: Mapping[str, Callable], turns: int) -> None:
    ids, cache = torch.randint(5, 40_000, (rows, seen)), DynamicCache()
    with torch.inference_mode():
        model.base_model(ids, past_key_values=cache, use_cache=True)

        def step() -> None:
            for _ in range(4):
                mask = torch.ones(rows, cache.get_seq_length() + 1, dtype=torch.long)
                if rows > 1:  # a draft alone is not padded
                    mask[0, : seen // 2] = 0
                model(ids[:, :1], attention_mask=mask, past_key_values=cache, use_cache=True)

        take_turns(f"drafting, {rows} after {seen}", ways, step, turns)


def compare_training(name: str, dtype: torch.dtype, turns: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
    model = get_peft_model(model, LoraConfig(r=64, lora_alpha=128, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.randint(5, 40_000, (4, 215))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        model.zero_grad()

    take_turns("training, 4 × 215", list_attentions(model.get_base_model(), "sdpa", "eager"), step, turns)


def main(args: argparse.Namespace) -> None:
    from approach.models import fastest_dtype

    dtype = fastest_dtype(torch.device("cpu"))
    print(f"{dtype}, {torch.get_num_threads()} threads")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, trust_remote_code=False).eval()
    products = {"oneDNN": partial(setattr, torch.backends.mkldnn, "enabled", True)}
    products["torch's own"] = partial(setattr, torch.backends.mkldnn, "enabled", False)
    for seen in args.seen:
        for rows in (1, 2, 3):
            compare_drafting(model, rows, seen, products, 4 * args.turns)
    products["oneDNN"]()
    compare_training(args.model, dtype, args.turns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="A base, as train_sft.py takes it.")
    parser.add_argument("--seen", type=int, nargs="*", default=[150, 450], help="Tokens before those of drafting.")
    parser.add_argument(
        "--turns", type=int, default=6, help="Turns of the training step; four times as many of others."
    )
    main(parser.parse_args())
