# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""
Draft approaches to a one-sentence research problem, on the terminal as they are written, or for a file of problems.

Reads a model that `merge_and_push.py` wrote, or an adapter of `train_sft.py`; prints drafts, or writes JSON lines:
`problem`, `draft` (its number), `seed`, `approach`, `ended` (by itself, not by the limit) and `num_tokens`.

    python draft_approach.py --model outputs/model "Summaries of long documents often leave out the main result."
    python draft_approach.py --model user/model --num_drafts 3 --problems problems.txt --output outputs/drafts.jsonl
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
MAX_PROBLEM_WORDS = 50  # prepare_dataset.py's filter: training saw no longer problem


@dataclass
class DraftArguments:
    """Which model drafts for which problems, and how it samples."""

    model: str = field(metadata={"help": "A merged folder, an adapter folder, or the Hub id of either."})
    problem: str | None = field(default=None, metadata={"help": "One sentence that states a research problem."})
    problems: str | None = field(default=None, metadata={"help": "A file of problems, one a line; - for stdin."})
    output: str | None = field(default=None, metadata={"help": "JSONL file for the drafts of --problems (or stdout)."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the --output file."})
    num_drafts: int = field(default=1, metadata={"help": "Drafts a problem."})
    temperature: float = field(default=0.7, metadata={"help": "0: always the likeliest word."})
    top_p: float = field(default=0.9, metadata={"help": "Sample from the likeliest words that make up this share."})
    seed: int = field(default=42, metadata={"help": "Draft i is made with seed + i, whatever the number of drafts."})
    max_new_tokens: int = field(default=448, metadata={"help": "Longest draft, in tokens."})

    def __post_init__(self):
        if (self.problem is None) == (self.problems is None):
            raise ValueError("give one problem in quotation marks, or --problems with a file of them")
        for name in ("num_drafts", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature must be a number from 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top_p must lie in (0, 1], got {self.top_p}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must lie between 0 and 2**32, got {self.seed}")
        if self.temperature == 0 and self.num_drafts > 1:
            raise ValueError(f"--temperature 0 gives one draft, {self.num_drafts} times: raise it, or --num_drafts 1")
        if self.output:
            if self.problems is None:
                raise ValueError(f"--output {self.output} goes with --problems; a single draft is printed")
            if Path(self.output).is_dir():
                raise ValueError(f"--output {self.output} is a folder: name a file")
            if Path(self.output).exists() and not self.overwrite:
                raise ValueError(f"--output {self.output} exists: choose another or add --overwrite")


def check_problem(problem: str) -> list[str]:
    """What would have kept this problem out of the training data, in plain words."""
    from nupunkt import sent_tokenize

    warnings = []
    if found := [tag for tag in TAGS if tag in problem]:
        warnings.append(f"{', '.join(found)}: taken out; the prompt brings its own tags")
    words, sentences = len(problem.split()), len(sent_tokenize(problem))
    if words > MAX_PROBLEM_WORDS:
        warnings.append(f"{words} words: the model learned from problems of at most {MAX_PROBLEM_WORDS}")
    if sentences > 1:
        warnings.append(f"{sentences} sentences: the model learned from problems of one")
    return warnings


def load_model(name: str):
    """The model in FP32 and its tokenizer; ends with one line where it is none that was trained for this."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging
    from transformers.utils.peft_utils import find_adapter_config_file

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # PEFT resizes the base before it loads the rows, and is told of random ones
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if find_adapter_config_file(name):
            from peft import AutoPeftModelForCausalLM

            model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=torch.float32).merge_and_unload()
        else:
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"--model {name}: {str(error).splitlines()[0]}")
    if tokenizer.eos_token != TAGS[-1] or not tokenizer.chat_template:
        sys.exit(f"--model {name} was not made by train_sft.py and merge_and_push.py: its drafts would not end")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def encode_problem(tokenizer, problem: str):
    """The ids of exactly the prompt that training saw. The chat template adds the tags and takes out the user's."""
    messages = [{"role": "user", "content": " ".join(problem.split())}]
    return tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)


def count_room(model, prompt) -> int:
    """How many tokens the model's context leaves for a draft."""
    return model.config.get_text_config().max_position_embeddings - prompt["input_ids"].shape[1]


def draft(model, tokenizer, prompt, args: DraftArguments, seed: int, streamer=None) -> dict:
    """One draft as `{"approach", "ended", "num_tokens"}`; the seed alone decides what is drawn."""
    import torch

    torch.manual_seed(seed)
    stops = model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [] if stops is None else [stops])}
    # top_k=0: generate() would otherwise cut at the 50 likeliest words, which nobody asked for.
    sampling = {"temperature": args.temperature, "top_p": args.top_p, "top_k": 0} if args.temperature else {}
    prompt = prompt.to(model.device)
    with torch.inference_mode():
        output = model.generate(
            **prompt,
            do_sample=bool(sampling),
            **sampling,
            max_new_tokens=min(args.max_new_tokens, count_room(model, prompt)),
            eos_token_id=sorted(stops),
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
        )
    ids = output[0, prompt["input_ids"].shape[1] :].tolist()
    ended = ids[-1] in stops
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return {"approach": text, "ended": ended, "num_tokens": len(ids) - ended}


def read_problems(source: str) -> list[tuple[str, str]]:
    """The problems of a file or of stdin, each after its place for messages; empty lines are told of."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        sys.exit(f"--problems {source}: {error.strerror}")
    except UnicodeDecodeError:
        sys.exit(f"--problems {source} is not a text in UTF-8")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            print(f"line {number} is empty: passed over", file=sys.stderr)
    return [(f"line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def draft_for_all(model, tokenizer, problems: list[tuple[str, str]], args: DraftArguments, file) -> int:
    """Writes each problem's drafts to `file` as JSON lines; returns how many."""
    from tqdm import tqdm

    num_rows = 0
    for place, problem in tqdm(problems, desc="Drafting", unit="problem"):
        for warning in check_problem(problem):
            tqdm.write(f"{place}: {warning}", file=sys.stderr)
        prompt = encode_problem(tokenizer, problem)
        if count_room(model, prompt) < 1:
            tqdm.write(f"{place} is longer than the model can read: passed over", file=sys.stderr)
            continue
        for i in range(args.num_drafts):
            row = {"problem": problem, "draft": i, "seed": args.seed + i}
            row |= draft(model, tokenizer, prompt, args, args.seed + i)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            num_rows += 1
    return num_rows


def write_drafts(model, tokenizer, problems: list[tuple[str, str]], args: DraftArguments) -> None:
    """The file of drafts, written beside and renamed: whole or absent."""
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.partial-", dir=output.parent) as folder:
        partial = Path(folder) / output.name
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            num_rows = draft_for_all(model, tokenizer, problems, args, file)
        if not num_rows:
            sys.exit(f"--problems {args.problems}: no problem that the model can read; nothing written")
        os.replace(partial, output)
    print(f"Wrote {args.output}: {num_rows} drafts")


def print_drafts(model, tokenizer, args: DraftArguments) -> None:
    """Each draft on the terminal as it is written."""
    from transformers import TextStreamer

    class Terminal(TextStreamer):
        """Leaves out the space that every draft begins with, and what a terminal would take for a command."""

        begun = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            text = "".join(character if character.isprintable() else " " for character in text)
            super().on_finalized_text(text if self.begun else text.lstrip(), stream_end)
            self.begun |= bool(text.strip())

    prompt = encode_problem(tokenizer, args.problem)
    if count_room(model, prompt) < 1:
        sys.exit(f"the problem has {prompt['input_ids'].shape[1]} tokens, more than the model can read")
    for i in range(args.num_drafts):
        if args.num_drafts > 1:
            print(f"{chr(10) if i else ''}Draft {i + 1}, seed {args.seed + i}:", flush=True)
        streamer = Terminal(tokenizer, skip_prompt=True, skip_special_tokens=True)
        result = draft(model, tokenizer, prompt, args, args.seed + i, streamer)
        if not result["ended"]:
            print(f"[cut off after {result['num_tokens']} tokens]", file=sys.stderr)
    print("A draft by a small model: it invents, so check all of it.", file=sys.stderr)


def main(args: DraftArguments) -> None:
    # Before torch is imported: threads that wait then leave the cores to others. On two busy cores a draft took 1.2 s
    # instead of 8.8.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if args.problem is not None:
        if not args.problem.strip():
            sys.exit("the problem is empty: give one sentence")
        for warning in check_problem(args.problem):
            print(f"warning: {warning}", file=sys.stderr)
        print_drafts(*load_model(args.model), args)
        return
    problems = read_problems(args.problems)
    if not problems:
        sys.exit(f"--problems {args.problems} holds no problem")
    model, tokenizer = load_model(args.model)
    if args.output:
        write_drafts(model, tokenizer, problems, args)
    else:
        draft_for_all(model, tokenizer, problems, args, sys.stdout)


def parse_arguments(argv: list[str] | None = None) -> DraftArguments:
    # Not HfArgumentParser: importing transformers would take most of --help's time.
    parser = argparse.ArgumentParser(usage='python %(prog)s --model MODEL "PROBLEM" … (all of it: --help)')
    for item in fields(DraftArguments):
        options = {"action": "store_true"} if item.type is bool else {"default": item.default}
        if item.type in (int, float):
            options["type"] = item.type
        if item.name == "problem":
            parser.add_argument("problem", nargs="?", help=item.metadata["help"])
        elif item.default is MISSING:
            parser.add_argument(f"--{item.name}", required=True, help=item.metadata["help"])
        else:
            shown = "" if item.default in (None, False) else f" (default: {item.default})"
            parser.add_argument(f"--{item.name}", help=item.metadata["help"] + shown, **options)
    try:
        return DraftArguments(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # on Windows a pipe would have the system's own
    try:
        main(parse_arguments())
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
