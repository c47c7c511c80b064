"""The arguments of pairs by the roles of sentences."""

from dataclasses import dataclass, field

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
