"""Which sentences of an abstract are its problem, its approach and its background, by the roles that they play."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from approach.roles import Roles, name_role

SURE, POSSIBLE = 0.8, 0.5  # probability of method or objective: of what is taken, and of what may fill up
SURE_PROBLEM = 0.7  # probability of background or objective, of a problem that is not the first possible one
ENOUGH_WORDS = 40  # an approach of so many words is not filled up
MAX_BACKGROUND_WORDS = 80

# A problem that tells what was done about it. No label sees that: it may well be the abstract's objective.
AUTHORS = r"(?:we|(?:this|the(?: present)?|our) (?:paper|work|article|study|thesis|report))"
TOLD = (
    r"(?:propos|present|introduc|develop|describ|design|devis|construct|buil[dt]|creat|implement|releas|provid|offer)"
)
TELLS_APPROACH = re.compile(
    rf"\b{AUTHORS}(?: \w+ly| also| first| then| will| have| thus| therefore| hence| here)? {TOLD}\w*"
    rf"|\b(?:is|are) (?:proposed|presented|introduced)\b",
    re.IGNORECASE,
)
# A result that the labels take for method: "Finally, we also show that …".
FINDING = re.compile(
    r"\s*(?:[a-z]+(?: [a-z]+)?\s?, )?we (?:\w+ly |also |further |then )?(?:find|found|show|showed|observed?) that\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Choice:
    """Sentence numbers of problem, approach and background, and why there is no pair (empty where there is one)."""

    reason: str = ""
    problem: int | None = None
    approach: list[int] = field(default_factory=list)
    background: list[int] = field(default_factory=list)
    num_findings: int = 0  # sentences left out of the approach

    def name_use(self, i: int) -> str:
        """What sentence `i` is used as; empty where it is not used."""
        uses = {"approach": self.approach, "background": self.background}
        return "problem" if i == self.problem else next((name for name, use in uses.items() if i in use), "")


def choose_sentences(
    sentences: Sequence[str], tagged: Sequence[Roles], keep_telling_problems: bool = False, keep_findings: bool = False
) -> Choice:
    """
    The problem is the first background or objective sentence, method and objective sentences after it the approach.

    Where the first tells its own approach the next sure one that does not is the problem. The rest of the background
    follows the problem in the prompt, where that is asked for. A sentence is used once.
    """
    roles = [name_role(probabilities) for probabilities in tagged]
    first, *later = [i for i, role in enumerate(roles) if role in ("background", "objective")] or [None]
    if first is None:
        return Choice("no_problem")
    sure = [i for i in later if tagged[i]["background"] + tagged[i]["objective"] >= SURE_PROBLEM]
    told = {i for i in (first, *sure) if TELLS_APPROACH.search(sentences[i]) and not keep_telling_problems}
    problem = next((i for i in (first, *sure) if i not in told), None)
    if problem is None:
        return Choice("problem_tells_approach", first)
    after = range(problem + 1, len(sentences))
    done = {i: tagged[i]["method"] + tagged[i]["objective"] for i in after}
    possible = [i for i in after if done[i] >= POSSIBLE]
    findings = [] if keep_findings else [i for i in possible if FINDING.match(sentences[i])]
    approach = choose_approach(sentences, {i: done[i] for i in possible if i not in findings})
    rest = [i for i in after if roles[i] == "background" and i not in approach]
    background = choose_background(sentences, rest)
    return Choice("" if approach else "no_approach", problem, approach, background, len(findings))


def choose_approach(sentences: Sequence[str], possible: dict[int, float]) -> list[int]:
    """All sure ones of the possible sentences, given with their probabilities, then the surest until it is enough."""
    chosen = [i for i in possible if possible[i] >= SURE]
    num_words = count_words(sentences, chosen)
    for i in sorted(possible, key=lambda i: -possible[i])[len(chosen) :]:
        if num_words >= ENOUGH_WORDS:
            break
        chosen.append(i)
        num_words += len(sentences[i].split())
    return sorted(chosen)


def choose_background(sentences: Sequence[str], rest: list[int]) -> list[int]:
    """The first background sentences that have at most MAX_BACKGROUND_WORDS together and tell no approach."""
    chosen: list[int] = []
    for i in rest:
        if TELLS_APPROACH.search(sentences[i]):
            continue
        if count_words(sentences, [*chosen, i]) > MAX_BACKGROUND_WORDS:
            break
        chosen.append(i)
    return chosen


def count_words(sentences: Sequence[str], chosen: Sequence[int]) -> int:
    """White-space-separated words of the chosen sentences."""
    return sum(len(sentences[i].split()) for i in chosen)
