# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "transformers==5.23.0",
# ]
# ///
"""
Make one page of an evaluation: scores with intervals, which differences hold, drafts side by side, what was copied.

Reads `scores.json` and `predictions.jsonl`, which `evaluate_model.py` wrote, and the training's `run.json` if named;
writes one `report.html` that needs no network.

    python write_report.py outputs/scores
    python write_report.py outputs/scores --run outputs/adapter --output report.html
"""

if __name__ == "__main__":
    from approach.stopping import listen

    listen()  # to Ctrl-C, before all else

import sys
from dataclasses import dataclass, field
from pathlib import Path

from approach.arguments import parse
from approach.files import first_line, write_whole
from approach.stopping import run


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
    overwrite: bool = field(default=False, metadata={"help": "Replace a page that is there."})

    def __post_init__(self):
        if not self.scores:
            raise ValueError("name the folder that evaluate_model.py wrote: python write_report.py outputs/scores")
        self.output = self.output or str(Path(self.scores) / "report.html")
        if Path(self.output).is_dir():
            raise ValueError(f"--output {self.output} is a folder: name a file")
        if Path(self.output).exists() and not self.overwrite:
            raise ValueError(f"--output {self.output} is there already: choose another or add --overwrite")


def main(args: ReportArguments) -> None:
    """Makes the page and writes it."""
    from approach.evaluation.report import build_page

    page, output = build_page(Path(args.scores), Path(args.run) if args.run else None), Path(args.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, page)
    except OSError as error:
        sys.exit(f"--output {output}: {first_line(error)}: nothing written")
    print(f"Wrote {output}. Next: open it in a browser")


def parse_arguments(argv: list[str] | None = None) -> ReportArguments:
    """The command line; ends with one line and status 2 where it does not fit."""
    return parse(
        ReportArguments,
        argv,
        usage="python %(prog)s SCORES --ARGUMENT VALUE … (all of them: --help)",
        positional="scores",
    )


if __name__ == "__main__":
    run(lambda: main(parse_arguments()))
