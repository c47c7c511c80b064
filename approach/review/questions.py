"""What raters are asked, and which answers count: the same for the page, the spreadsheet and the analysis."""

from collections.abc import Mapping
from dataclasses import dataclass

YES_NO = {"yes": 1, "no": 0}
ONE_TO_FIVE = {str(number): number for number in range(1, 6)}
SIDES = {"A": 1, "tie": 0, "B": -1}


@dataclass(frozen=True)
class Question:
    """A question: its column, its wording, the answers by which it is filled in, and how the page explains it."""

    name: str
    text: str
    hint: str
    answers: Mapping[str, int]


FITS = Question(
    "fits",
    "Does it fit this problem?",
    "Yes if it is about this problem, even if the idea is weak. The same field or the same words are not enough.",
    YES_NO,
)
ABOUT_DRAFTS = (
    FITS,
    Question(
        "approach",
        "Is it an approach?",
        "Yes if it says what is to be done: a method, a data set, a study or a survey, after however long an "
        "introduction. No if all of it is background, results or announcements, or it is about nothing.",
        YES_NO,
    ),
    Question(
        "tryable",
        "Could it be tried?",
        "Yes if a person of the field would know from it what to do first, whatever it is for. A new name for what is "
        "not explained is not enough.",
        YES_NO,
    ),
    Question(
        "wrong",
        "Is anything wrong or invented?",
        "Yes if it contradicts itself, or states something that you know, or are nearly sure, to be false or made up. "
        "A new name, or a result that may be true, is not enough; nor is a text that states nothing.",
        YES_NO,
    ),
    Question(
        "use",
        "Would you use it as a first draft?",
        "1: I would start anew, as I must if it does not fit. 2: I would keep an idea. 3: I would keep about half. "
        "4: I would keep most. 5: I would change little.",
        ONE_TO_FIVE,
    ),
)
USE = ABOUT_DRAFTS[-1]
BETTER = Question(
    "better",
    "Which is the better approach to this problem?",
    "Only a draft that fits and is an approach can win. Tie if neither is one, or if you do not mind which you get.",
    SIDES,
)
QUESTIONS = (*ABOUT_DRAFTS, BETTER)
