"""
Hostile and clumsy tries of every script: one line at most, nothing lost, nothing let out.

Cases are drawn from the classes in `hostile/`. Each runs a script's own `main` in this process on a copy of a
folder with something of everything, and three things are looked at: it ends well or in one line; what it read is
byte for byte as it was; at the output there is the old result or the new one, whole. docs/reliability.md tells what
the long form found.
"""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from hostile.classes import CLASSES
from hostile.tries import Case, add_stopped_run, attempt
from hypothesis import HealthCheck, Phase, given, settings
from publishing import uploads

QUICK = 2  # cases of each class whenever the tests are run
# Cases of each class in the long form, fewest where a try takes seconds. Four classes hold no 95 different ones: they
# end with some 24 (races), 38 (links), 52 (inputs) and 60 (code), and all together are over 2,000.
LONG = {name: 95 for name in CLASSES} | {"numbers": 260, "resumes": 20, "disks": 80, "races": 60, "outputs": 150}
SLOW = ("resumes",)  # needs a run to go on from
pytestmark = [uploads, pytest.mark.skipif(os.name == "nt", reason="Windows has no fifos, and links ask for rights")]


@pytest.fixture(scope="module")
def kit_with_run(kit, tmp_path_factory) -> Path:
    """The same with a run that was stopped, to go on from."""
    copied = shutil.copytree(kit, tmp_path_factory.mktemp("stopped") / "kit")
    add_stopped_run(copied)
    return copied


def try_cases(name: str, number: int, kit: Path, folder: Path, stop_at_first: bool = False) -> tuple[int, list[str]]:
    """Draws cases of a class and tries them; returns how many, and what was wrong. The same each time."""
    tried, wrong = [], []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(CLASSES[name]())
    def try_one(case: Case) -> None:
        if wrong and stop_at_first:
            return
        place = folder / f"{name}-{len(tried)}"
        tried.append(case)
        wrong.extend(f"{name}: {case.script} {' '.join(case.words)}: {what}" for what in attempt(case, kit, place))
        shutil.rmtree(place)

    try_one()
    return len(tried), wrong


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in SLOW])
def test_a_few_tries_of_each_class(name, kit, tmp_path):
    tried, wrong = try_cases(name, QUICK, kit, tmp_path)
    assert tried == QUICK and not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_two_thousand_tries(kit_with_run, tmp_path, capsys):
    """Prints a table; HOSTILE_CASES tries fewer, and HOSTILE_REPORT names a file for all that was wrong."""
    wanted = int(os.environ.get("HOSTILE_CASES", sum(LONG.values())))
    tried, wrong = {}, []
    for name, number in LONG.items():
        tried[name], found = try_cases(name, max(1, number * wanted // sum(LONG.values())), kit_with_run, tmp_path)
        wrong += found
    kinds = Counter((text.split(": ")[0], text.split(": ")[2]) for text in wrong)
    table = [
        f"{name:12} {number:5} tried {kinds[name, 'traceback']:3} tracebacks {kinds[name, 'loss']:3} losses "
        f"{sum(count for (of, _), count in kinds.items() if of == name):3} wrong in all"
        for name, number in tried.items()
    ]
    report = os.environ.get("HOSTILE_REPORT")
    if report:
        Path(report).write_text("\n".join([*table, "", *wrong]) + "\n", encoding="utf-8")
    with capsys.disabled():
        print("", *table, sep="\n")
    assert not wrong, "\n".join(wrong[:20])
    if wanted >= 2000:
        assert sum(tried.values()) >= 2000 and min(tried.values()) >= 20


def test_every_class_has_a_number_of_tries():
    assert CLASSES.keys() == LONG.keys() and sum(LONG.values()) >= 2000 and min(LONG.values()) >= 20


def test_the_tests_that_docs_reliability_names_are_there():
    told = re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"))
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"(?m)^def (test_\w+)", text)}
    assert len(told) > 50 and set(told) <= there
