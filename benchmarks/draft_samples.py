"""
Drafts of an evaluation to be read, as Markdown: problems drawn with a seed, and what each system drafted for them.

A draft's new terms that its reference has, too, and that fewer than every tenth training approach has, are in bold.
The problem's own text is left out, for it is its authors': the paper is linked. Of a draft that did not end, only the
first words are shown.

    python benchmarks/draft_samples.py outputs/guided --systems "base, two examples" tuned "tuned, guidance 2"
"""

import argparse
import json
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SHOWN = 60  # words of a draft that was cut off


def mark(draft: str, hits: list[str]) -> str:
    """The draft as one paragraph of Markdown with its hits in bold."""
    text = " ".join(re.sub(r"([*_<`\[\]])", r"\\\1", draft).split())
    for term in hits:
        text = re.sub(rf"(?i)(?<![^\W\d_]){re.escape(term)}(?![^\W\d_])", r"**\g<0>**", text)
    return text


def main(args: argparse.Namespace) -> None:
    from approach.page.html import find_url

    lines = (args.scores / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    first = {}  # by problem and system: of several runs or seeds the first
    for row in rows:
        first.setdefault((row["id"], row["system"]), row)
    problems = sorted({row["id"] for row in rows})
    for number, row_id in enumerate(sorted(random.Random(args.seed).sample(problems, args.num)), 1):
        print(f"## {number}. [{row_id}]({find_url(row_id)})\n")
        for system in args.systems:
            row = first[row_id, system]
            end = "" if row["ended"] else ", cut off"
            about = "" if row["ended"] is None else f", {row['num_tokens']} tokens{end}"
            text = row["prediction"]
            if row["ended"] is False:
                text = " ".join([*text.split()[:SHOWN], "…"])
            draft = mark(text, row["hits"])
            print(f"**{system}** (specificity {row['specificity']:.3f}{about}): {draft}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, help="A folder that evaluate_model.py wrote.")
    parser.add_argument("--systems", nargs="+", required=True, help="Whose drafts, by their names in scores.json.")
    parser.add_argument("--num", type=int, default=10, help="Problems.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draw.")
    main(parser.parse_args())
