"""
Time and memory of `prepare_dataset.py` against the number of rows, beside a plain row-by-row loop.

Makes corpora by recombining the sentences of real abstracts at random: repeating whole abstracts would let the search
for duplicates throw most rows away. Prints a table, seconds a 100,000 rows in the last column but one: a cost that is
linear in rows gives the same number on every line.

`--metadata` makes rows of the shape of arXiv's own metadata instead: hard-wrapped prose, categories, dated versions.
There one word in five is another's, so that rows have no more 5-grams in common than real ones; the plain loop takes
each line for a sentence there, and its time is no measure.

    python benchmarks/prepare_throughput.py --abstracts ../shared/data/scientific_papers_arxiv_sample.jsonl.gz
    python benchmarks/prepare_throughput.py --abstracts ../shared/data/acl_abstracts_2022_2023.jsonl.gz --metadata \\
        --rows 575000 1150000 2300000
"""

import argparse
import gzip
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
WRAPPED = re.compile(r"(.{1,76})(?: |$)")


def read_abstracts(path: Path) -> list[str]:
    """The real abstracts."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["abstract"] for line in file]


def make_lines(abstracts: list[str]) -> Iterator[dict]:
    """Rows without end: random sentences of the abstracts, a line each, as many of them as some real abstract has."""
    real = [abstract.splitlines() for abstract in abstracts]
    sentences, rng = [sentence for abstract in real for sentence in abstract], random.Random(0)
    for number in itertools.count():
        yield {"id": number, "abstract": "\n".join(rng.choices(sentences, k=len(rng.choice(real))))}


def make_metadata(abstracts: list[str]) -> Iterator[dict]:
    """Rows without end as arXiv's snapshot has them, made of the abstracts' sentences, one word in five exchanged."""
    from approach.data.pair_rules import split_punctuation

    real = [split_punctuation(abstract) for abstract in abstracts]
    sentences = [sentence.split() for abstract in real for sentence in abstract]
    words, rng = [word for sentence in sentences for word in sentence[:-1]], random.Random(0)
    for number in itertools.count():
        text = [word for sentence in rng.choices(sentences, k=len(rng.choice(real))) for word in sentence]
        inner = [place for place in range(len(text)) if not text[place].endswith((".", "?", "!"))]
        chosen = rng.sample(inner, len(inner) // 5)
        for place, word in zip(chosen, rng.choices(words, k=len(chosen)), strict=True):
            text[place] = word
        year, month = 2007 + number % 20, 1 + number % 12
        yield {
            "id": f"{year % 100:02}{month:02}.{number // 60:05}",  # 60: of as many rows no two agree in year and month
            "title": " ".join(text[:10]),
            "abstract": "  " + WRAPPED.sub(r"\1\n", " ".join(text)),
            "categories": rng.choice(["cs.CL", "cs.LG cs.CL", "hep-ph", "math.CO math.PR"]),
            "update_date": f"{year + 1}-01-26",
            "versions": [{"version": "v1", "created": f"Mon, 2 Apr {year} 19:18:42 GMT"}],
        }


def write_first(corpus: Path, rows: int, path: Path) -> None:
    """The first rows of a corpus, a line each."""
    with corpus.open("rb") as whole, path.open("wb") as part:
        part.writelines(itertools.islice(whole, rows))


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
    parser.add_argument("--metadata", action="store_true", help="rows of the shape of arXiv's metadata")
    args = parser.parse_args()
    make, cut = make_lines, []
    if args.metadata:
        make, cut = make_metadata, ["--year_column", "versions", "--test_from_year", "2025"]
    print(f"{'rows':>10} {'program':>34} {'seconds':>9} {'GiB':>6} {'s / 100,000':>12} {'to the loop':>12}")
    with tempfile.TemporaryDirectory() as folder:
        whole, corpus = Path(folder) / "whole.jsonl", Path(folder) / "corpus.jsonl"
        with whole.open("w", encoding="utf-8") as file:
            rows = itertools.islice(make(read_abstracts(args.abstracts)), max(args.loop_rows, *args.rows))
            file.writelines(json.dumps(row) + "\n" for row in rows)
        script = [sys.executable, "prepare_dataset.py", "--dataset_name", str(corpus), "--overwrite", *cut]
        loop = [sys.executable, __file__.replace("prepare_throughput", "prepare_loop"), str(corpus)]
        write_first(whole, args.loop_rows, corpus)
        seconds, memory = measure([*loop, str(Path(folder) / "loop")])
        pace = seconds / args.loop_rows * 1e5
        name = "plain loop, no duplicates sought"
        print(f"{args.loop_rows:10,} {name:>34} {seconds:9.1f} {memory:6.2f} {pace:12.1f} {1:12.2f}", flush=True)
        programs = {"no duplicates sought": ["--near_duplicate_threshold", "0"], "as shipped": []}
        if args.metadata:
            del programs["no duplicates sought"]
        for rows in args.rows:
            write_first(whole, rows, corpus)
            for name, extra in programs.items():
                seconds, memory = measure([*script, "--output_dir", str(Path(folder) / "pairs"), *extra])
                mine = seconds / rows * 1e5
                print(
                    f"{rows:10,} {name:>34} {seconds:9.1f} {memory:6.2f} {mine:12.1f} {mine / pace:12.2f}", flush=True
                )


if __name__ == "__main__":
    main()
