"""
The same merged model drafting in transformers, as this project uses it, and in llama.cpp: tokens a second, in one run.

Each row is a process of its own, greedy or sampled with the shipped repetition penalty, at most 448 tokens: ours in
batches, as `evaluate_model.py` drafts, ours one at a time, as the page does, plain `generate` in FP32, and llama.cpp
through llama-cpp-python, one sequence or many at once; the token is chosen here, from llama.cpp's scores. Speed is the
tokens of all drafts over the seconds from the first prompt to the last draft; loading is not counted. Rows that draft
one at a time take `--num_single` of the problems.

    pip install llama-cpp-python==0.3.36      # builds in minutes; not needed for this project
    python benchmarks/engines.py --model MERGED --dataset_name PAIRS --gguf MODEL.f16.gguf MODEL.q4_k_m.gguf \\
        --output FILE.json
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, RepetitionPenaltyLogitsProcessor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MAX_NEW_TOKENS = 448
CONTEXT = 640  # tokens of a sequence, prompt and draft
GREEDY, SAMPLED = "greedy, penalty 1.15", "sampled, penalty 1.15"


def read_prompts(args: argparse.Namespace) -> list[str]:
    from approach.evaluation.systems import Selection, load_rows

    selection = Selection("test", args.num_examples, (0.5, 1.0), 0)
    return [row["prompt"] for row in selection.take(load_rows(args.dataset_name, None, "test"))]


def draft_with_transformers(args: argparse.Namespace, dtype: str, batch_size: int, decoding: str) -> tuple[int, float]:
    """Tokens and seconds as `evaluate_model.py` drafts; with a batch of one, one problem after the other."""
    from approach.generation.engine import Drafter
    from approach.generation.partial import PartialDrafts

    drafter = Drafter(args.model, MAX_NEW_TOKENS, batch_size, dtype=getattr(torch, dtype))
    prompts = read_prompts(args)
    prompts = prompts if batch_size > 1 else prompts[: args.num_single]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        drafts = drafter.draft(prompts, PartialDrafts(Path(folder) / "scores"), decoding, seed=0)
        seconds = time.monotonic() - started
    return sum(draft["num_tokens"] for draft in drafts), seconds


def draft_with_generate(args: argparse.Namespace) -> tuple[int, float]:
    """Tokens and seconds of plain `generate` with the merged model's own settings, in FP32."""
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32", trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    prompts, count = read_prompts(args)[: args.num_single], 0
    started = time.monotonic()
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        count += output.shape[1] - inputs["input_ids"].shape[1]
    return count, time.monotonic() - started


class LlamaCpp:
    """A GGUF file in llama.cpp, `rows` sequences at once; one that ends makes room for the next prompt."""

    def __init__(self, file: str, rows: int):
        import llama_cpp

        self.library, self.rows = llama_cpp, rows
        self.silence = llama_cpp.llama_log_callback(lambda *_: None)  # kept, or it would be called when it is gone
        llama_cpp.llama_log_set(self.silence, None)
        self.llama = llama_cpp.Llama(file, vocab_only=True, verbose=False)  # its tokenizer
        self.model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch = CONTEXT * rows, rows, 2048
        params.n_threads = params.n_threads_batch = 2
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.num_tokens, self.end = llama_cpp.llama_vocab_n_tokens(vocabulary), llama_cpp.llama_vocab_eos(vocabulary)

    def draft(self, prompts: list[str], decoding: dict) -> list[list[int]]:
        """The new tokens of each prompt's draft."""
        from approach.generation.sampling import make_generator

        library = self.library
        randoms = [make_generator(seed, torch.device("cpu")) for seed in range(len(prompts))]
        waiting = [self.llama.tokenize(prompt.encode(), add_bos=False, special=True) for prompt in prompts]
        waiting = list(enumerate(waiting))[::-1]
        drafts: list[list[int]] = [[] for _ in prompts]
        running: dict[int, list] = {}  # sequence: number of the prompt, all its tokens, how many are in the cache
        while waiting or running:
            for sequence in range(self.rows):
                if sequence not in running and waiting:
                    number, ids = waiting.pop()
                    running[sequence] = [number, ids, 0]
            self.batch.n_tokens, last = 0, {}
            for sequence, (_, ids, done) in running.items():
                for position in range(done, len(ids)):
                    self.add(ids[position], position, sequence, position == len(ids) - 1)
                last[sequence] = self.batch.n_tokens - 1
                running[sequence][2] = len(ids)
            if library.llama_decode(self.context, self.batch):
                sys.exit("llama.cpp could not decode a batch")
            for sequence, place in last.items():
                number, ids, _ = running[sequence]
                scores = library.llama_get_logits_ith(self.context, place)
                token = choose(np.ctypeslib.as_array(scores, (self.num_tokens,)), ids, decoding, randoms[number])
                ids.append(token)
                drafts[number].append(token)
                if token == self.end or len(drafts[number]) == MAX_NEW_TOKENS:
                    library.llama_memory_seq_rm(library.llama_get_memory(self.context), sequence, -1, -1)
                    del running[sequence]
        return drafts

    def add(self, token: int, position: int, sequence: int, is_scored: bool) -> None:
        """Puts a token into the batch that is decoded next."""
        batch, place = self.batch, self.batch.n_tokens
        batch.token[place], batch.pos[place], batch.logits[place] = token, position, is_scored
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        batch.n_tokens += 1


def choose(scores: np.ndarray, ids: list[int], decoding: dict, random: torch.Generator) -> int:
    """The next token, chosen as `Drafter` does."""
    from approach.generation.sampling import RowSampler

    scores, ids = torch.from_numpy(scores.copy())[None], torch.tensor([ids])
    scores = RepetitionPenaltyLogitsProcessor(decoding["repetition_penalty"])(ids, scores)
    if decoding["do_sample"]:
        scores = RowSampler(decoding["temperature"], decoding["top_p"], [random])(ids, scores)
    return int(scores.argmax())


def draft_with_llama_cpp(args: argparse.Namespace, file: str, rows: int, decoding: str) -> tuple[int, float]:
    """Tokens and seconds in llama.cpp, `rows` problems at once."""
    from approach.generation.sampling import DECODINGS

    torch.set_num_threads(1)  # it only chooses tokens: more threads of its own would take the cores from llama.cpp
    prompts = read_prompts(args)
    prompts = prompts if rows > 1 else prompts[: args.num_single]
    engine = LlamaCpp(file, rows)
    started = time.monotonic()
    drafts = engine.draft(prompts, DECODINGS[decoding])
    return sum(len(draft) for draft in drafts), time.monotonic() - started


def list_rows(args: argparse.Namespace) -> dict[str, tuple]:
    """Each row's name, and the function and its arguments that measure it; no dtype that this processor emulates."""
    from approach.models import fastest_dtype

    rows: dict[str, tuple] = {"generate, one, float32": (draft_with_generate,)}
    fastest = str(fastest_dtype(torch.device("cpu"))).removeprefix("torch.")
    for dtype in dict.fromkeys(("float32", fastest)):
        for size in (1, 64):
            rows[f"ours, {size if size > 1 else 'one'}, {dtype}"] = (draft_with_transformers, dtype, size, GREEDY)
    rows[f"ours, 128, {fastest}"] = (draft_with_transformers, fastest, 128, GREEDY)
    rows[f"ours, 64, {fastest}, sampled"] = (draft_with_transformers, fastest, 64, SAMPLED)
    for file in args.gguf:
        name = "llama.cpp " + file.removesuffix(".gguf").rpartition(".")[2]
        rows[f"{name}, one"] = (draft_with_llama_cpp, file, 1, GREEDY)
        rows[f"{name}, 64"] = (draft_with_llama_cpp, file, 64, GREEDY)
        rows[f"{name}, 64, sampled"] = (draft_with_llama_cpp, file, 64, SAMPLED)
    return rows


def main(args: argparse.Namespace) -> None:
    rows = list_rows(args)
    if args.child:
        function, *arguments = rows[args.child]
        tokens, seconds = function(args, *arguments)
        print(json.dumps({"row": args.child, "tokens": tokens, "seconds": seconds}))
        return
    found = {name: [] for name in rows}
    for number in range(args.repeats):
        for name in rows if number % 2 == 0 else reversed(rows):
            command = [sys.executable, *sys.argv, "--child", name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr[-2000:]}")
            row = json.loads(done.stdout.splitlines()[-1])
            found[name].append(row["tokens"] / row["seconds"])
            print(
                f"{name:32}{row['tokens']:8} tokens{row['seconds']:8.1f} s{found[name][-1]:8.1f} tokens/s", flush=True
            )
    print(f"\n{'':32}{'median':>8}{'least':>8}{'most':>8}   tokens a second")
    for name, speeds in found.items():
        print(f"{name:32}{np.median(speeds):8.1f}{min(speeds):8.1f}{max(speeds):8.1f}")
    if args.output:
        record = {
            "machine": platform.machine(),
            "examples": args.num_examples,
            "single": args.num_single,
            "rows": found,
        }
        Path(args.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="The merged model.")
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--gguf", nargs="+", default=[], help="The same model as GGUF: NAME.PRECISION.gguf.")
    parser.add_argument("--num_examples", type=int, default=200, help="Problems to draft for, many at once.")
    parser.add_argument("--num_single", type=int, default=8, help="Of these, where one is drafted after the other.")
    parser.add_argument("--repeats", type=int, default=2, help="Runs of each row.")
    parser.add_argument("--output", help="Also write the rows as JSON.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    main(parser.parse_args())
