"""The report's section on what people said, as tables of plain texts."""

from collections.abc import Sequence
from pathlib import Path

from approach.artifacts import read_predictions
from approach.errors import user_errors
from approach.evaluation.tables import Cell, Row, Table
from approach.review.agreement import measure_agreement
from approach.review.candidates import AUTHORS, DRAFT, OTHER
from approach.review.machine import compare_scores
from approach.review.questions import ABOUT_DRAFTS, USE
from approach.review.raters import check_raters
from approach.review.ratings import Ratings, read_ratings
from approach.review.resampling import draw, measure_shares
from approach.review.sheet import KEY
from approach.review.strengths import measure_strengths

COLUMNS = {
    "fits": "fits the problem",
    "approach": "is an approach",
    "tryable": "could be tried",
    "wrong": "something wrong or invented",
    "use": "would use, 1 to 5",
    "better": "the better of two",
}


def describe_people(paths: Sequence[str], key: str | None, scores_dir: Path) -> dict:
    """What the template shows of the ratings; `key` is beside the first file where it is not named."""
    key_path = Path(key) if key else Path(paths[0]).parent / KEY
    ratings = read_ratings(paths, key_path, scores_dir)
    path = scores_dir / "predictions.jsonl"
    with user_errors(path, hint="; evaluate_model.py writes it"):
        draws = draw(ratings)
        machine = compare_scores(ratings, read_predictions(path), draws)
    checked = check_raters(ratings)
    return {
        "num_raters": len(ratings.raters),
        "num_problems": len({row.problem for row in (*ratings.drafts, *ratings.pairs)}),
        "num_drafts": len(ratings.drafts),
        "num_pairs": len(ratings.pairs),
        "odd": [f"Rater {about['rater']} {' and '.join(about['odd'])}." for about in checked if about["odd"]],
        "shares": list_shares(ratings, measure_shares(ratings, draws), measure_strengths(ratings, draws)),
        "agreement": list_agreement(measure_agreement(ratings)),
        "raters": list_raters(checked),
        "machine": list_machine(machine),
    }


def list_shares(ratings: Ratings, shares: list[dict[str, dict]], strengths: list[dict]) -> Table:
    """What was said of each system's drafts, and its strength in the pairs."""
    names = [COLUMNS[question.name] for question in ABOUT_DRAFTS]
    table = Table(["system", *names, "pairs won", "strength (log odds)"])
    for system, about, found in zip(ratings.systems, shares, strengths, strict=True):
        cells = [
            show_number(about[question.name]) if question is USE else show_share(about[question.name])
            for question in ABOUT_DRAFTS
        ]
        cells += [show_share(found["won"]), show_number(found["strength"], "+.2f")]
        table.rows.append(Row([Cell(system.label), *cells], system.role == DRAFT))
    return table


def show_share(found: dict) -> Cell:
    """A share in percent, its interval, and of how many."""
    if found["value"] is None:
        return Cell("not rated")
    interval = f"{100 * found['low']:.0f} to {100 * found['high']:.0f} %"
    return Cell(f"{100 * found['value']:.0f} %", show_beneath(found, interval))


def show_number(found: dict, form: str = ".2f") -> Cell:
    """A number, its interval, and of how many."""
    if found["value"] is None:
        return Cell("not rated")
    interval = f"{found['low']:{form}} to {found['high']:{form}}"
    return Cell(f"{found['value']:{form}}", show_beneath(found, interval))


def show_beneath(found: dict, interval: str) -> list[str]:
    """The interval, and of how many; of judgements that are all alike every resample is the same, and says nothing."""
    return ["all alike" if found["low"] == found["high"] else interval, f"of {found['number']}"]


def list_agreement(found: dict[str, dict]) -> Table:
    """How far the raters agree on each question."""
    table = Table(["question", "Krippendorff's alpha", "items that two or more answered"])
    for name, about in found.items():
        text = "not measured" if about["alpha"] is None else f"{about['alpha']:+.2f}"
        table.rows.append(Row([Cell(COLUMNS[name]), Cell(text), Cell(str(about["items"]))]))
    return table


def list_raters(checked: list[dict]) -> Table:
    """What the controls and the repeats say of each rater."""
    header = [
        "rater",
        "drafts and pairs",
        "other problem's fits",
        "p",
        "authors' fits",
        "mean use, authors' and other",
    ]
    table = Table([*header, "p reversed", "authors' better than other", "same answer twice", ""])
    for about in checked:
        use = [about["use"][role] for role in (AUTHORS, OTHER)]
        cells = [
            f"{about['drafts']} and {about['pairs']}",
            show_of(about["other_fits"]),
            f"{about['p_accepts']:.4f}",
            show_of(about["authors_fit"]),
            " and ".join("–" if value is None else f"{value:.1f}" for value in use),
            f"{about['p_reverses']:.4f}",
            show_of(about["authors_won"]),
            show_of(about["repeats_same"]),
        ]
        verdict = Cell("look at these", style="worse") if about["odd"] else Cell("")
        table.rows.append(Row([Cell(f"rater {about['rater']}"), *map(Cell, cells), verdict]))
    return table


def show_of(pair: tuple[int, int]) -> str:
    """So many of so many."""
    return f"{pair[0]} of {pair[1]}"


def list_machine(found: list[dict]) -> Table:
    """How far each machine score agrees with people."""
    table = Table(["score", "Kendall's tau with “would use”", "pairs in which it prefers the same draft"])
    for about in found:
        table.rows.append(Row([Cell(about["score"]), show_number(about["tau"], "+.2f"), show_share(about["pairs"])]))
    return table
