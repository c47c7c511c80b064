"""
Time and memory of `prepare_dataset.py` against the number of rows, beside a plain row-by-row loop.

Makes corpora by recombining the sentences of real abstracts at random: repeating whole abstracts would let the search
for duplicates throw most rows away. Prints a table, seconds a 100,000 rows in the last column but one: a cost that is
linear in rows gives the same number on every line.

    python benchmarks/prepare_throughput.py --abstracts ../shared/data/scientific_papers_arxiv_sample.jsonl.gz
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_corpus(abstracts: Path, rows: int, path: Path) -> None:
    """`rows` abstracts, each of random sentences of `abstracts` and as many of them as some real abstract has."""
    with gzip.open(abstracts, "rt", encoding="utf-8") as file:
        real = [json.loads(line)["abstract"].splitlines() for line in file]
    sentences, rng = [sentence for abstract in real for sentence in abstract], random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            abstract = "\n".join(rng.choices(sentences, k=len(rng.choice(real))))
            file.write(json.dumps({"id": number, "abstract": abstract}) + "\n")


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds of a command, and the most memory that it and its children held together, in GiB."""
    import psutil

    started, peak = time.monotonic(), 0
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            # Unique memory: pages of the memory-mapped files and of the parent, which processes share, count once.
            peak = max(peak, sum(member.memory_full_info().uss for member in family))
        except psutil.Error:
            pass  # a worker ended between being listed and being asked
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return time.monotonic() - started, peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--abstracts", type=Path, required=True, help="a .jsonl.gz file of real abstracts, one sentence a line"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 203_037, 400_000])
    parser.add_argument("--loop_rows", type=int, default=50_000, help="rows for the plain loop, which is slow")
    args = parser.parse_args()
    print(f"{'rows':>10} {'program':>34} {'seconds':>9} {'GiB':>6} {'s / 100,000':>12} {'to the loop':>12}")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        script = [sys.executable, "prepare_dataset.py", "--dataset_name", str(corpus), "--overwrite"]
        loop = [sys.executable, __file__.replace("prepare_throughput", "prepare_loop"), str(corpus)]
        write_corpus(args.abstracts, args.loop_rows, corpus)
        seconds, memory = measure([*loop, str(Path(folder) / "loop")])
        pace = seconds / args.loop_rows * 1e5
        name = "plain loop, no duplicates sought"
        print(f"{args.loop_rows:10,} {name:>34} {seconds:9.1f} {memory:6.2f} {pace:12.1f} {1:12.2f}", flush=True)
        for rows in args.rows:
            write_corpus(args.abstracts, rows, corpus)
            for name, extra in (("no duplicates sought", ["--near_duplicate_threshold", "0"]), ("as shipped", [])):
                seconds, memory = measure([*script, "--output_dir", str(Path(folder) / "pairs"), *extra])
                mine = seconds / rows * 1e5
                print(
                    f"{rows:10,} {name:>34} {seconds:9.1f} {memory:6.2f} {mine:12.1f} {mine / pace:12.2f}", flush=True
                )


if __name__ == "__main__":
    main()
