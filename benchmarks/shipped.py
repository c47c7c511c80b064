"""
How drafts behave in clients that are given no setting: whether they end by themselves, and what they repeat.

`pipeline` drafts for all rows, in batches; `transformers serve` for the first few, over HTTP on loopback.

    python benchmarks/shipped.py --model outputs/model --dataset_name outputs/pairs    # 8 minutes, 135 M parameters
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SERVE = "import sys; from transformers.cli.transformers import main; sys.exit(main())"


def draft_in_pipeline(model: str, problems: list[str], batch_size: int, dtype: str) -> list[tuple[str, bool]]:
    """Each draft, and whether it ended by itself."""
    from transformers import pipeline

    from approach.prompt import TAGS

    pipe = pipeline("text-generation", model=model, dtype=dtype)
    pipe.tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": problem}] for problem in problems]
    stops, begin = set(pipe.model.generation_config.eos_token_id), pipe.tokenizer.convert_tokens_to_ids(TAGS[2])
    drafts = []
    for (found,) in pipe(chats, batch_size=batch_size, return_tensors=True):
        ids = list(found["generated_token_ids"])
        new = ids[ids.index(begin) + 1 :]
        drafts.append((pipe.tokenizer.decode(new, skip_special_tokens=True).strip(), bool(stops & set(new))))
    return drafts


def draft_over_http(model: str, problems: list[str]) -> list[tuple[str, bool]]:
    """Each draft, and whether the server says that it ended by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SERVE, "serve", model, "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        return [ask(f"http://127.0.0.1:{port}/v1/chat/completions", model, problem) for problem in problems]
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(address: str) -> None:
    """Returns once the server answers; raises TimeoutError after five minutes."""
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{address} does not answer")


def ask(address: str, model: str, problem: str, **settings: float) -> tuple[str, bool]:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": problem}], **settings}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        choice = json.loads(reply.read())["choices"][0]
    return choice["message"]["content"].strip(), choice["finish_reason"] == "stop"


def main(args: argparse.Namespace) -> None:
    import evaluate

    from approach.evaluation.systems import Selection, load_rows

    selection = Selection("test", args.num_examples, tuple(args.id_range), args.draw_seed)
    rows = selection.take(load_rows(args.dataset_name, None, "test"))
    behaviour = evaluate.load(str(ROOT / "approach" / "metrics" / "behaviour.py"))
    problems = [row["problem"] for row in rows]

    def show(name: str, drafts: list[tuple[str, bool]]) -> None:
        references = [row["approach"] for row in rows[: len(drafts)]]
        texts = [text for text, _ in drafts]
        named = {"references": references, "problems": problems[: len(drafts)]}
        repeated, floor = (
            behaviour.compute(predictions=found, **named)["repeated_4grams"] or 0.0 for found in (texts, references)
        )
        ended = sum(has_ended for _, has_ended in drafts) / len(drafts)
        print(f"{name}: {len(drafts)} drafts, {ended:.1%} ended, {repeated:.2%} of 4-grams repeated")
        print(f"  (references {floor:.2%})")

    show("pipeline", draft_in_pipeline(args.model, problems, args.batch_size, args.dtype))
    show("transformers serve", draft_over_http(args.model, problems[: args.num_served]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="A merged model.")
    parser.add_argument("--dataset_name", required=True, help="Pairs that prepare_dataset.py wrote.")
    parser.add_argument("--num_examples", type=int, default=200, help="Test rows for the pipeline.")
    parser.add_argument("--num_served", type=int, default=20, help="Of them, how many are asked over HTTP.")
    parser.add_argument("--id_range", type=float, nargs=2, default=[0.5, 1.0], help="As of evaluate_model.py.")
    parser.add_argument("--draw_seed", type=int, default=0, help="As of evaluate_model.py.")
    parser.add_argument("--batch_size", type=int, default=32, help="Of the pipeline.")
    parser.add_argument("--dtype", default="auto", help="Of the pipeline's weights.")
    main(parser.parse_args())
