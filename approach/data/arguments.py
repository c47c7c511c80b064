"""The arguments of the splits, and of pairs by the roles of sentences."""

from dataclasses import dataclass, field

from approach.arguments import check_ranges

MIN_APPROACH_WORDS = {"first_sentence": 90, "roles": 30}  # without background and results an approach is shorter


@dataclass
class RoleArguments:
    """What makes problem and approach, and what goes into the prompt."""

    pair_rule: str = field(
        default="first_sentence",
        metadata={
            "help": "'first_sentence': the first is the problem, the rest the approach, as in the report. 'roles': a "
            "small tagger tells background, objective, method and result apart (docs/roles.md).",
            "choices": ["first_sentence", "roles"],
        },
    )
    prompt_context: str = field(
        default="problem",
        metadata={
            "help": "What the prompt holds: 'problem', or 'background': the other background sentences after it, at "
            "most 80 words. Needs --pair_rule roles.",
            "choices": ["problem", "background"],
        },
    )
    keep_telling_problems: bool = field(
        default=False, metadata={"help": "By roles: a problem may tell its own approach ('we propose …')."}
    )
    keep_findings: bool = field(
        default=False, metadata={"help": "By roles: keep sentences such as 'We find that …' in the approach."}
    )

    def describe_roles(self) -> dict:
        """The same as `approach.data.pairs.PairRules` has it."""
        return {
            "by_roles": self.pair_rule == "roles",
            "with_background": self.prompt_context == "background",
            "keep_telling_problems": self.keep_telling_problems,
            "keep_findings": self.keep_findings,
        }

    def check_roles(self, ready_made: bool) -> None:
        """Raises ValueError where the arguments do not go together; `ready_made` pairs have no sentences to choose."""
        by_roles = self.pair_rule == "roles"
        if by_roles and ready_made:
            raise ValueError("--pair_rule roles cuts abstracts: with --problem_column leave it out")
        asked = {
            "--prompt_context background": self.prompt_context == "background",
            "--keep_telling_problems": self.keep_telling_problems,
            "--keep_findings": self.keep_findings,
        }
        if not by_roles and any(asked.values()):
            raise ValueError(f"{next(name for name in asked if asked[name])} needs --pair_rule roles")


@dataclass
class SplitArguments:
    """Which rows are for training, for choosing and for the test."""

    near_duplicate_threshold: float = field(
        default=0.7,
        metadata={"help": "Jaccard similarity of word 5-grams from which rows may not be in two splits; 0: no check."},
    )
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    test_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    year_column: str | None = field(
        default=None,
        metadata={"help": "Column of the years or dates, for --test_from_year; of arXiv's versions the first counts."},
    )
    test_from_year: int | None = field(default=None, metadata={"help": "Test on rows of this year and later only."})
    check_leakage: bool = field(default=False, metadata={"help": "Measure the highest similarity left across splits."})
    seed: int = field(default=42, metadata={"help": "Seed of the shuffle before the split."})

    def describe_splits(self) -> dict:
        """The same as `approach.data.splits.SplitRules` has it."""
        return {
            "validation_fraction": self.validation_fraction,
            "test_fraction": self.test_fraction,
            "near_duplicate_threshold": self.near_duplicate_threshold,
            "test_from_year": self.test_from_year,
            "seed": self.seed,
        }

    def check_splits(self) -> None:
        """Raises ValueError where an argument is out of its range, or one is missing."""
        check_ranges(
            self,
            validation_fraction="[0, 0.5)",
            test_fraction="[0, 0.5)",
            near_duplicate_threshold="[0.3, 1]" if self.near_duplicate_threshold else "[0, 1]",  # 0: no check
            seed="[0, inf)",
        )
        if (self.year_column is None) != (self.test_from_year is None):
            raise ValueError("--year_column and --test_from_year go together")
