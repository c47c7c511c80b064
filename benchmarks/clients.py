"""
One merged model in the clients that people use, given no setting: do they draft what transformers does, and stop?

The measure is `generate` in this process, in FP32, one problem after the other, greedy with the penalty that ships.
Each other client is asked by chat message, one problem after the other: `pipeline` in this process, the rest over HTTP
on loopback; vLLM is given a temperature of 0. Where a draft is not the same text, its tokens are compared: how many
agree, and by how much transformers prefers its own token to the client's where they part, in logits after the penalty.
A tie parts by less than 0.1. Speed is the tokens of all drafts over the seconds of all answers, without starting.

    python benchmarks/clients.py --model outputs/model --dataset_name outputs/pairs \\
        --llama_server PATH/llama-server --gguf outputs/model/model-F16.gguf outputs/model/model-Q4_K_M.gguf \\
        --vllm "PATH/vllm" --output FILE.json
"""

import argparse
import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import shipped
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, RepetitionPenaltyLogitsProcessor, pipeline

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CONTEXT = 1024  # tokens, of prompt and draft
Ask = Callable[[str], tuple[str, bool]]  # a problem; its draft, and whether that ended by itself


class Reference:
    """What transformers drafts, and how sure it was."""

    def __init__(self, folder: str):
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        self.stops = set(self.model.generation_config.eos_token_id)

    def draft(self, problem: str) -> list[int]:
        """The ids of prompt and draft."""
        from approach.prompt import encode_problem

        return self.model.generate(**encode_problem(self.tokenizer, problem))[0].tolist()

    def ask(self, problem: str) -> tuple[str, bool]:
        ids = self.draft(problem)
        return self.decode(ids, problem), ids[-1] in self.stops

    def decode(self, ids: list[int], problem: str) -> str:
        from approach.prompt import encode_problem

        start = encode_problem(self.tokenizer, problem)["input_ids"].shape[1]
        return self.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()

    def find_parting(self, problem: str, text: str, ended: bool) -> tuple[int, float]:
        """
        How many of our tokens a client's text goes along with, and by how much ours leads where it parts; else 0.

        By text, for a model may write a word in other tokens than its tokenizer would make of it.
        A token of ours that only begins the client's next word counts as gone along with.
        """
        from approach.prompt import encode_problem, make_completion

        ours, start = self.draft(problem), encode_problem(self.tokenizer, problem)["input_ids"].shape[1]
        theirs = (make_completion(text) if ended else text).lstrip()
        prompt = self.tokenizer.decode(ours[:start])
        written = [self.tokenizer.decode(ours[:end]).removeprefix(prompt).lstrip() for end in range(start, len(ours))]
        place = max(start + new for new, own in enumerate(written) if theirs.startswith(own))
        rest = self.tokenizer(theirs[len(written[place - start]) :], add_special_tokens=False)["input_ids"]
        if not rest:
            return place - start, 0.0
        prefix = torch.tensor([ours[:place]])
        with torch.inference_mode():
            scores = self.model(prefix).logits[:, -1].float()
        penalty = self.model.generation_config.repetition_penalty
        scores = RepetitionPenaltyLogitsProcessor(penalty)(prefix, scores)[0]
        return place - start, (scores[ours[place]] - scores[rest[0]]).item()


@contextlib.contextmanager
def in_pipeline(folder: str) -> Iterator[Ask]:
    pipe = pipeline("text-generation", model=folder)
    stops, limit = set(pipe.model.generation_config.eos_token_id), pipe.model.generation_config.max_new_tokens

    def ask(problem: str) -> tuple[str, bool]:
        (found,) = pipe([{"role": "user", "content": problem}], return_tensors=True)
        ids = list(found["generated_token_ids"])
        begin = ids.index(pipe.tokenizer.convert_tokens_to_ids("<approach>")) + 1
        text = pipe.tokenizer.decode(ids[begin:], skip_special_tokens=True).strip()
        return text, ids[-1] in stops and len(ids) - begin <= limit

    yield ask


@contextlib.contextmanager
def over_http(command: list[str], model: str, **settings: float) -> Iterator[Ask]:
    """A server, on a free port in place of PORT in its command; `settings` go with every question."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [port if word == "PORT" else word for word in command]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        shipped.wait_for(f"http://127.0.0.1:{port}/health")
        yield lambda problem: shipped.ask(f"http://127.0.0.1:{port}/v1/chat/completions", model, problem, **settings)
    finally:
        server.terminate()
        server.wait(timeout=60)


def list_clients(args: argparse.Namespace) -> dict[str, contextlib.AbstractContextManager[Ask]]:
    """Every client by name, started when it is entered."""
    place = ["--host", "127.0.0.1", "--port", "PORT"]
    serve = [sys.executable, "-c", shipped.SERVE, "serve", args.model, *place]
    clients = {"pipeline": in_pipeline(args.model), "transformers serve": over_http(serve, args.model)}
    for file in args.gguf:
        options = ["-c", str(CONTEXT), "-np", "1", "-t", str(os.cpu_count())]
        name = f"llama.cpp, {Path(file).stem.rpartition('-')[2]}"
        clients[name] = over_http([args.llama_server, "-m", file, *options, *place], args.model)
    if args.vllm:
        options = ["--dtype", "float32", "--max-model-len", str(CONTEXT)]
        command = [*shlex.split(args.vllm), "serve", args.model, *options, *place]
        clients["vLLM"] = over_http(command, args.model, temperature=0)  # it samples where a model says not to
    return clients


def measure(ask: Ask, problems: list[str], reference: Reference) -> tuple[list[tuple[str, bool]], dict]:
    """A client's drafts, how many ended by themselves, and its speed."""
    started = time.monotonic()
    drafts = [ask(problem) for problem in problems]
    seconds = time.monotonic() - started
    tokens = sum(len(reference.tokenizer(text)["input_ids"]) for text, _ in drafts)
    return drafts, {"ended": sum(ended for _, ended in drafts), "tokens_a_second": tokens / seconds}


def main(args: argparse.Namespace) -> None:
    from approach.evaluation.systems import Selection, load_rows

    selection = Selection("test", args.num_examples, (0.5, 1.0), 0)
    problems = [row["problem"] for row in selection.take(load_rows(args.dataset_name, None, "test"))]
    reference = Reference(args.model)
    expected, figures = measure(reference.ask, problems, reference)
    rows = {"transformers, generate": {"equal": len(problems), **figures, "partings": []}}
    for name, client in list_clients(args).items():
        with client as ask:
            drafts, figures = measure(ask, problems, reference)
        rows[name] = {"equal": sum(ours == theirs for ours, theirs in zip(expected, drafts, strict=True)), **figures}
        rows[name]["partings"] = partings = []
        for number, (problem, ours, theirs) in enumerate(zip(problems, expected, drafts, strict=True)):
            if ours != theirs:
                agreed, lead = reference.find_parting(problem, *theirs)
                partings.append({"problem": number, "tokens_agreed": agreed, "lead": lead})
                print(f"{name}, problem {number}: {agreed} tokens agree, then transformers' own leads by {lead:.4f}")
    print(f"\n{'':28}{'equal':>8}{'ended':>8}{'tokens/s':>10}   of {len(problems)}")
    for name, row in rows.items():
        print(f"{name:28}{row['equal']:8}{row['ended']:8}{row['tokens_a_second']:10.1f}")
    if args.output:
        text = json.dumps({"examples": len(problems), "clients": rows}, indent=2) + "\n"
        Path(args.output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="The merged model.")
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--num_examples", type=int, default=20, help="Test problems to draft for.")
    parser.add_argument("--llama_server", default="llama-server", help="llama.cpp's server.")
    parser.add_argument("--gguf", nargs="+", default=[], help="The same model as GGUF files, for llama.cpp.")
    parser.add_argument("--vllm", help="The command that starts vLLM.")
    parser.add_argument("--output", help="Also write the rows as JSON.")
    main(parser.parse_args())
