"""What people judge: the drafts of some systems and the hidden controls, on problems drawn from an evaluation."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from approach.artifacts import list_shown, read_predictions
from approach.errors import UserError, user_errors

DRAFT, AUTHORS, OTHER, NEAREST = "draft", "authors", "another problem's", "nearest"
CONTROLS = {  # by the names that evaluate_model.py gives them
    "reference": AUTHORS,
    "random training approach": OTHER,
    "nearest training approach": NEAREST,
}


@dataclass(frozen=True)
class System:
    """A system whose drafts are judged, and its role: DRAFT, or which of the controls it is."""

    name: str
    decoding: str
    role: str

    @property
    def label(self) -> str:
        """As people read it."""
        if self.role == DRAFT:
            return self.name if self.decoding == "none" else f"{self.name}, {self.decoding}"
        return {AUTHORS: "the authors' approach", OTHER: "another problem's approach"}.get(self.role, self.name)

    def record(self) -> dict[str, str]:
        """As key.json holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Problem:
    """A problem with a draft of each system: its text, and its line in predictions.jsonl, counted from 0."""

    id: str
    text: str
    drafts: list[str]
    lines: list[int]


def choose_systems(scores_dir: Path, names: Sequence[str] | None) -> list[System]:
    """The systems to judge, with their chosen decodings, and the controls; raises UserError where one is missing."""
    path = scores_dir / "scores.json"
    with user_errors(path, hint="; evaluate_model.py writes it"):
        scores = json.loads(path.read_text(encoding="utf-8"))
        systems, chosen = scores["systems"], list_shown(scores)
        for name, about in scores["choice"]["systems"].items():
            chosen.setdefault(name, about["chosen"])
        others = [name for name, about in systems.items() if about["kind"] == "predictions"]
        wanted = list(names or [*list_shown(scores), *others])
    known = [name for name in systems if name not in CONTROLS]
    for name in wanted:
        if name not in known:
            raise UserError(f"--systems {name}: {scores_dir} has no such system; it has {'; '.join(known)}")
    drafts = [System(name, chosen.get(name, "none"), DRAFT) for name in dict.fromkeys(wanted)]
    return drafts + [System(name, "none", role) for name, role in CONTROLS.items()]


def draw_problems(scores_dir: Path, systems: Sequence[System], number: int, rng: random.Random) -> list[Problem]:
    """
    Problems at random, each with one draft of every system, of a random run and seed where there are several.

    Left out are those whose controls are not what they should be: empty, or the same text twice. Raises UserError
    where too few remain.
    """
    path = scores_dir / "predictions.jsonl"
    with user_errors(path, hint="; evaluate_model.py writes it"):
        places = {(system.name, system.decoding): place for place, system in enumerate(systems)}
        texts, found = {}, {}
        for line, row in enumerate(read_predictions(path)):
            place = places.get((row["system"], row["decoding"]))
            if place is not None:
                texts[row["id"]] = clean(row["problem"])
                by_system = found.setdefault(row["id"], [[] for _ in systems])
                by_system[place].append((line, clean(row["prediction"])))
    fit = [row_id for row_id, by_system in sorted(found.items()) if is_fit(by_system, systems)]
    if len(fit) < number:
        raise UserError(f"--num_problems {number}: {scores_dir} has {len(fit)} problems that can be judged")
    problems = []
    for row_id in rng.sample(fit, number):
        drawn = [rng.choice(drafts) for drafts in found[row_id]]
        lines, drafts = [line for line, _ in drawn], [text for _, text in drawn]
        problems.append(Problem(row_id, texts[row_id], drafts, lines))
    return problems


def clean(text: str) -> str:
    """A text on one line, spaces single: the layout of a draft would tell a chat model from authors."""
    return " ".join(text.split())


def is_fit(by_system: list[list], systems: Sequence[System]) -> bool:
    """Whether every system has a draft, and the controls are three different texts."""
    if not all(by_system):
        return False
    controls = [drafts[0][1] for drafts, system in zip(by_system, systems, strict=True) if system.role != DRAFT]
    return all(controls) and len(set(controls)) == len(controls)
