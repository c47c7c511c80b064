"""Whether abstracts are like those that the tagger of roles learned from, and what it costs where they are not."""

import re
from collections import Counter
from collections.abc import Sequence

from datasets import Dataset

from approach.data.arxiv import list_categories
from approach.roles import Roles, describe_confidence, name_role

# Of the abstracts of CSAbstruct, each tagged by a model that had not seen it, 5 % lie beyond each of these two
# (benchmarks/train_roles.py).
LOWEST_CONFIDENCE = 0.56
MOST_OBJECTIVES = 0.25
USUAL_SHARE = 0.08  # of those abstracts, unlike the others by one of the two

CORPUS_MARK = re.compile(r"@xmath|@xcite")
UNLIKE = {  # an abstract's `fit`, and how it is told
    "lower-cased": "are lower-cased or hold @xmath or @xcite",
    "unsure": f"have a mean confidence below {LOWEST_CONFIDENCE}",
    "objectives": f"have more than {MOST_OBJECTIVES:.0%} objective sentences",
}
COST = (
    "of the words of CSAbstruct's approaches 79% are method or objective, of its abstracts that are as unlike 68%; on "
    "the arXiv corpus the tagger gives 60% of lines the label that a reader gave, in the ACL Anthology 74%"
)


def describe_fit(text: str, tagged: Sequence[Roles]) -> str:
    """How an abstract is unlike those that the tagger learned from, as UNLIKE names it; "like" where it is not."""
    if CORPUS_MARK.search(text) or text == text.lower() != text.upper():
        return "lower-cased"
    if describe_confidence(tagged) < LOWEST_CONFIDENCE:
        return "unsure"
    objectives = sum(name_role(roles) == "objective" for roles in tagged)
    return "objectives" if objectives > MOST_OBJECTIVES * len(tagged) else "like"


def read_category(value: object) -> str:
    """An abstract's first arXiv category, in a list or among others of a text; empty where there is none."""
    return next(iter(list_categories(value)), "")


def describe_source(rows: Dataset) -> dict:
    """What `build_report.json` says of all abstracts that were tagged, those included that gave no pair."""
    fits = Counter(rows.data.column("fit").to_pylist())
    num_tagged = fits.total() - fits.pop("", 0)
    categories = Counter(rows.data.column("category").to_pylist())
    num_with_category = categories.total() - categories.pop("", 0)
    foreign = {name: count for name, count in categories.most_common() if not name.startswith("cs.")}
    confidence = rows.data.column("role_confidence").to_numpy()
    found = {
        "tagged": num_tagged,
        "mean_confidence": round(float(confidence.sum()) / max(1, num_tagged), 4),
        "unlike": {name: fits[name] for name in UNLIKE},
        "findings_left_out": int(rows.data.column("num_findings").to_numpy().sum()),
    }
    if num_with_category:
        found["categories"] = {"abstracts": num_with_category, "other_than_cs": foreign}
    return {**found, "warnings": list_warnings(found)}


def list_warnings(found: dict) -> list[str]:
    """What a user should know of a source before trusting its roles, a plain sentence each."""
    warnings, unlike = [], found["unlike"]
    if sum(unlike.values()) > 2 * USUAL_SHARE * found["tagged"]:
        parts = [f"{count / found['tagged']:.0%} {UNLIKE[name]}" for name, count in unlike.items() if count]
        warnings.append(
            f"{sum(unlike.values()) / found['tagged']:.0%} of the abstracts are unlike those that the roles were "
            f"learned from, of which {USUAL_SHARE:.0%} are ({', '.join(parts)}): {COST}"
        )
    foreign = found.get("categories", {}).get("other_than_cs", {})
    if foreign:
        shown = ", ".join(f"{name} {count:,}" for name, count in list(foreign.items())[:5])
        warnings.append(
            f"{sum(foreign.values()):,} of {found['categories']['abstracts']:,} abstracts are of other categories "
            f"than cs.* ({shown}{', …' if len(foreign) > 5 else ''}): the roles were learned from computer science"
        )
    return warnings
