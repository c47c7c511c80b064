"""
How much faster `evaluate_model.py` drafts in batches sorted by length than one problem after the other.

The same greedy drafts by the same model, in one run, the order of the batch sizes turned round at every repeat; the
median of the repeats, in tokens a second. One by one only the first `--num_single` are drafted. Also how many drafts
differ from those: near-ties fall either way.

    python benchmarks/drafting.py --model MODEL --dataset_name PAIRS --num_examples 100 --output FILE.json
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(args: argparse.Namespace) -> None:
    import torch

    from approach.evaluation.systems import Selection, load_rows
    from approach.generation.engine import Drafter
    from approach.generation.partial import PartialDrafts

    test_rows = Selection("test", args.num_examples).take(load_rows(args.dataset_name, None, "test"))
    prompts = [row["prompt"] for row in test_rows]
    sizes, seconds, drafts = [1, *args.batch_sizes], {}, {}
    for repeat in range(args.repeats):
        for size in sizes if repeat % 2 == 0 else reversed(sizes):
            drafter = Drafter(args.model, batch_size=size)
            with tempfile.TemporaryDirectory() as folder:
                chosen, started = prompts[: args.num_single] if size == 1 else prompts, time.monotonic()
                drafts[size] = drafter.draft(chosen, PartialDrafts(Path(folder) / "scores"))
                seconds.setdefault(size, []).append(time.monotonic() - started)
    rows = []
    print(f"\n{'batch':>6}{'drafts':>8}{'seconds':>10}{'tokens/s':>10}{'other drafts':>14}{'to one by one':>15}")
    for size in sizes:
        median, compared = statistics.median(seconds[size]), zip(drafts[1], drafts[size], strict=False)
        row = {
            "batch_size": size,
            "drafts": len(drafts[size]),
            "seconds": median,
            "tokens_a_second": sum(draft["num_tokens"] for draft in drafts[size]) / median,
            "differing": sum(a["prediction"] != b["prediction"] for a, b in compared),
        }
        rows.append(row)
        ratio = row["tokens_a_second"] / rows[0]["tokens_a_second"]
        cells = f"{size:6}{row['drafts']:8}{median:10.1f}{row['tokens_a_second']:10.1f}{row['differing']:14}"
        print(f"{cells}{ratio:15.2f}")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    found = {"machine": machine, "threads": torch.get_num_threads(), "rows": rows}
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="The model that drafts.")
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--num_examples", type=int, default=100, help="Problems to draft for.")
    parser.add_argument("--num_single", type=int, default=20, help="Of them, problems to draft for one by one.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 32, 64], help="Sizes beside one by one.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each.")
    parser.add_argument("--output", help="Also write the rows as JSON.")
    main(parser.parse_args())
