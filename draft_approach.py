# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "huggingface_hub==2.4.0",
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "safetensors==0.8.0",
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

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler()  # to Ctrl-C, before all else

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from approach.arguments import check_ranges, parse
from approach.errors import UserError, run_script
from approach.prompt import MAX_NEW_TOKENS, REPETITION_PENALTY, differences_from_training
from approach.runtime import set_up_torch, silence_loading
from approach.storage import Output, contains_text

if TYPE_CHECKING:
    from approach.generation.engine import Drafter


@dataclass
class DraftArguments:
    """Which model drafts for which problems, and how it samples."""

    model_name_or_path: str = field(
        metadata={"aliases": "--model", "help": "A merged folder, an adapter folder, or the Hub id of either."}
    )
    base_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "An adapter's base, where it is not at the place that the adapter names. "
            "A merged model has no use for it."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Of a model on the Hub: branch, tag or commit."}
    )
    base_model_revision: str | None = field(
        default=None, metadata={"help": "Of an adapter's base on the Hub; without, the commit that training saw."}
    )
    problem: str | None = field(default=None, metadata={"help": "One sentence that states a research problem."})
    problems: str | None = field(default=None, metadata={"help": "A file of problems, one a line; - for stdin."})
    output: str | None = field(default=None, metadata={"help": "JSONL file for the drafts of --problems (or stdout)."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the --output file."})
    num_drafts: int = field(default=1, metadata={"help": "Drafts a problem."})
    temperature: float = field(default=0.7, metadata={"help": "0: always the likeliest word."})
    top_p: float = field(default=0.9, metadata={"help": "Sample from the likeliest words that make up this share."})
    seed: int = field(default=42, metadata={"help": "Draft i is made with seed + i, whatever the number of drafts."})
    repetition_penalty: float = field(
        default=REPETITION_PENALTY, metadata={"help": "Above 1: words that were used get less likely; 1: no penalty."}
    )
    guidance: float = field(
        default=1.0,
        metadata={
            "help": "Above 1: words that the problem makes likelier count more, at twice the time; 1: no guidance."
        },
    )
    max_new_tokens: int = field(default=MAX_NEW_TOKENS, metadata={"help": "Longest draft, in tokens."})

    def __post_init__(self):
        if (self.problem is None) == (self.problems is None):
            raise ValueError("give one problem in quotation marks, or --problems with a file of them")
        check_ranges(
            self,
            num_drafts="[1, inf)",
            max_new_tokens="[1, inf)",
            temperature="[0, inf)",
            repetition_penalty="[1, 2]",
            guidance="[1, 5]",
            top_p="(0, 1]",
            seed="[0, 4294967295]",
        )
        if self.temperature == 0 and self.num_drafts > 1:
            raise ValueError(f"--temperature 0 gives one draft, {self.num_drafts} times: raise it, or --num_drafts 1")
        if self.output and self.problems is None:
            raise ValueError(f"--output {self.output} goes with --problems; a single draft is printed")

    @property
    def file(self) -> Output:
        """The file of drafts."""
        inputs, is_ours = {"--problems": self.problems}, contains_text('"draft": 0, "seed": ')
        return Output(self.output, "drafts", self.overwrite, is_ours, inputs, argument="--output", is_file=True)


def main(args: DraftArguments) -> None:
    if args.output:
        args.file.check()
    set_up_torch()
    from approach.generation.sampling import build_decoding
    from approach.generation.terminal import draft_for_all, print_drafts, read_problems, write_drafts

    decoding = build_decoding(args.temperature, args.top_p, args.repetition_penalty, args.guidance)
    seeds = range(args.seed, args.seed + args.num_drafts)
    if args.problem is not None:
        if not args.problem.strip():
            raise UserError("the problem is empty: give one sentence")
        for difference in differences_from_training(args.problem):
            print(f"warning: {difference}", file=sys.stderr)
        print_drafts(load_drafter(args), args.problem, decoding, seeds)
        return

    problems = read_problems(args.problems)
    drafter = load_drafter(args)
    if not args.output:
        draft_for_all(drafter, problems, decoding, seeds, sys.stdout)
        return
    num_drafts = write_drafts(drafter, problems, decoding, seeds, args.file)
    if not num_drafts:
        raise UserError(f"--problems {args.problems}: no problem that the model can read; nothing written")
    print(f"Wrote {args.output}: {num_drafts} drafts")


def load_drafter(args: DraftArguments) -> "Drafter":
    """The model, ready to draft; raises UserError where it cannot be loaded or was not trained to draft."""
    from approach.generation.engine import Drafter
    from approach.models import default_device

    silence_loading()
    drafter = Drafter(
        args.model_name_or_path,
        args.max_new_tokens,
        device=default_device(),
        revision=args.model_revision,
        base=args.base_model_name_or_path,
        base_revision=args.base_model_revision,
    )
    drafter.check_trained()
    return drafter


def parse_arguments(argv: list[str] | None = None) -> DraftArguments:
    usage = 'python %(prog)s --model MODEL "PROBLEM" … (all of it: --help)'
    return parse(DraftArguments, argv, usage=usage, positional="problem")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # on Windows a pipe would have the system's own
    run_script(lambda: main(parse_arguments()))
