# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jinja2==3.1.6",
#     "transformers==5.23.0",
# ]
# ///
"""
Make a blind review sheet of an evaluation's drafts, so that people judge them: a page to rate on, and spreadsheets.

Reads `scores.json` and `predictions.jsonl`, which `evaluate_model.py` wrote. Writes `for_raters/`, in which nothing
but the texts tells who wrote what, and beside it `key.json`, which does. The raters' files go to
`write_report.py --ratings`.

    python review_sheet.py outputs/scores --output_dir outputs/review --num_problems 20 --raters 1
    python review_sheet.py --scores outputs/scores --output_dir outputs/review --num_problems 50 --raters 3
"""

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler()  # to Ctrl-C, before all else

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from approach.arguments import check_ranges, parse
from approach.errors import run_script
from approach.storage import Output, contains_files


@dataclass
class ReviewArguments:
    """Which drafts people judge, how many of them, and where the sheet goes."""

    scores: str = field(default="", metadata={"help": "Folder that evaluate_model.py wrote."})
    output_dir: str = field(default="outputs/review", metadata={"help": "Folder for the sheet and its key."})
    num_problems: int = field(default=50, metadata={"help": "Problems, drawn at random."})
    raters: int = field(default=3, metadata={"help": "People who rate; each has a list of their own."})
    drafts_per_problem: int = field(
        default=3, metadata={"help": "Drafts of each problem that a rater judges one at a time, controls among them."}
    )
    pairs_per_problem: int = field(
        default=2, metadata={"help": "Pairs of drafts of each problem that a rater compares."}
    )
    systems: list[str] | None = field(
        default=None,
        metadata={
            "help": "Whose drafts are judged, by their names in scores.json; the fine-tuned models, the best base and "
            "--predictions if not named. The authors', another problem's and the nearest approach come along."
        },
    )
    seed: int = field(default=42, metadata={"help": "Random seed for problems, lists and ids."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a sheet that is there."})

    def __post_init__(self):
        if not self.scores:
            raise ValueError("name the folder that evaluate_model.py wrote: python review_sheet.py outputs/scores")
        names = ("num_problems", "raters", "drafts_per_problem", "pairs_per_problem")
        check_ranges(self, **dict.fromkeys(names, "[1, inf)"), seed="[0, 4294967295]")

    @property
    def output(self) -> Output:
        """The folder of the sheet."""
        return Output(self.output_dir, "sheet without ratings", self.overwrite, is_only_sheet, {"SCORES": self.scores})


def is_only_sheet(folder: Path) -> bool:
    """Whether a folder holds a sheet and nothing else: never ratings, whose key is not to be had again."""
    from approach.review.sheet import FOR_RATERS, KEY

    return contains_files(FOR_RATERS, KEY)(folder) and len(list(folder.iterdir())) == 2


def main(args: ReviewArguments) -> None:
    """Draws problems and drafts, deals them out to the raters, and writes the sheet and its key."""
    args.output.check()
    from approach.review.candidates import DRAFT, choose_systems, draw_problems
    from approach.review.design import Size, design_sheet, require_possible
    from approach.review.sheet import FOR_RATERS, KEY, make_sheet, write_sheet
    from approach.storage import hash_file

    scores_dir, rng = Path(args.scores), random.Random(args.seed)
    systems = choose_systems(scores_dir, args.systems)
    size = Size(args.raters, args.num_problems, len(systems), args.drafts_per_problem, args.pairs_per_problem)
    require_possible(size, sum(system.role != DRAFT for system in systems))
    problems = draw_problems(scores_dir, systems, size.problems, rng)
    design = design_sheet(size, rng)
    source = {"seed": args.seed, "predictions_sha256": hash_file(scores_dir / "predictions.jsonl")}
    sheet = make_sheet(problems, systems, design, source, rng)
    with args.output.staging() as folder:
        write_sheet(sheet, folder)

    kinds = Counter(len(item.systems) for item in design[0])
    print(f"{args.num_problems} problems, {args.raters} raters, {kinds[1]} drafts and {kinds[2]} pairs each, of:")
    for system in systems:
        print(f"  {system.label}")
    print(
        f"Wrote {args.output_dir}. Give the raters {Path(args.output_dir) / FOR_RATERS} and keep {KEY} to yourself. "
        f"Next: python write_report.py {args.scores} --ratings FILE… --key {Path(args.output_dir) / KEY}"
    )


def parse_arguments(argv: list[str] | None = None) -> ReviewArguments:
    """The command line; raises UserError and status 2 where it does not fit."""
    return parse(
        ReviewArguments,
        argv,
        usage="python %(prog)s SCORES --ARGUMENT VALUE … (all of them: --help)",
        positional="scores",
    )


if __name__ == "__main__":
    run_script(lambda: main(parse_arguments()))
