# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "choix==0.4.1",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "nltk==3.10.4",
#     "numpy==2.4.6",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""
Make one page of an evaluation: scores with intervals, which differences hold, drafts side by side, what was copied.

Reads `scores.json` and `predictions.jsonl`, which `evaluate_model.py` wrote, and the training's `run.json` if named;
writes one `report.html` that needs no network. With the ratings of a sheet by `review_sheet.py` it also says what
people found, whether they agree, and how far each score agrees with them.

    python write_report.py outputs/scores
    python write_report.py outputs/scores --run outputs/adapter --output report.html
    python write_report.py outputs/scores --ratings outputs/review/ratings-rater-*.csv --overwrite
"""

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler()  # to Ctrl-C, before all else

from dataclasses import dataclass, field
from pathlib import Path

from approach.arguments import parse
from approach.errors import run_script
from approach.storage import Output, contains_text, expand_globs

TITLE = "Drafts of approaches, scored"  # by which a page that this script wrote is recognized


@dataclass
class ReportArguments:
    """Which evaluation to show, and where the page goes."""

    scores: str = field(default="", metadata={"help": "Folder that evaluate_model.py wrote."})
    run: str | None = field(
        default=None, metadata={"help": "Folder with run.json of the training, for its loss curve."}
    )
    output: str | None = field(
        default=None, metadata={"help": "The page; report.html in the scores' folder if not named."}
    )
    ratings: list[str] = field(
        default_factory=list,
        metadata={"help": "CSV files of a sheet of review_sheet.py, one a rater; a pattern such as *.csv, too."},
    )
    key: str | None = field(
        default=None, metadata={"help": "The sheet's key.json; the one beside the first of --ratings if not named."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a page that is there."})

    def __post_init__(self):
        if not self.scores:
            raise ValueError("name the folder that evaluate_model.py wrote: python write_report.py outputs/scores")
        self.ratings = expand_globs(self.ratings)
        self.output = self.output or str(Path(self.scores) / "report.html")
        if self.key and not self.ratings:
            raise ValueError(f"--key {self.key} goes with --ratings: name the raters' files")

    @property
    def page(self) -> Output:
        """The page's file."""
        inputs = {"SCORES": self.scores, "--run": self.run, "--ratings": self.ratings, "--key": self.key}
        is_ours = contains_text(f"<title>{TITLE}</title>")
        return Output(self.output, "page", self.overwrite, is_ours, inputs, argument="--output", is_file=True)


def main(args: ReportArguments) -> None:
    """Makes the page and writes it."""
    args.page.check()
    from approach.evaluation.report import build_page

    people = None
    if args.ratings:
        from approach.review.section import describe_people  # statistics that a page without ratings does not need

        people = describe_people(args.ratings, args.key, Path(args.scores))
        print("\n".join(people["odd"]) or "No rater's answers on the controls are odd.")
    text = build_page(Path(args.scores), Path(args.run) if args.run else None, people)
    with args.page.staging() as path:
        path.write_text(text, encoding="utf-8", newline="\n")
    print(f"Wrote {args.output}. Next: open it in a browser")


def parse_arguments(argv: list[str] | None = None) -> ReportArguments:
    """The command line; raises UserError and status 2 where it does not fit."""
    return parse(
        ReportArguments,
        argv,
        usage="python %(prog)s SCORES --ARGUMENT VALUE … (all of them: --help)",
        positional="scores",
    )


if __name__ == "__main__":
    run_script(lambda: main(parse_arguments()))
