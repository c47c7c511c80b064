"""What must stay true of the repository as a whole."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from dataclasses import fields, is_dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub.cli._uv_script_header import parse_uv_script_header

from approach.merging.arguments import PACKAGES

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def pinned(lines) -> dict[str, str]:
    """`name==version` lines as a dictionary, comments left out."""
    matches = (re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def script_metadata(name: str) -> dict:
    text = (ROOT / name).read_text(encoding="utf-8")
    block = re.search(r"(?m)^# /// script\n((?:# .*\n)+?)# ///\n", text)[1]
    return tomllib.loads(re.sub(r"(?m)^# ", "", block))


REQUIREMENTS = pinned((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("script", SCRIPTS)
def test_pep_723_block_agrees_with_requirements(script):
    for name, version in pinned(script_metadata(script)["dependencies"]).items():
        assert REQUIREMENTS[name] == version, f"{script}: {name}"
    assert len(pinned(script_metadata(script)["dependencies"])) == len(script_metadata(script)["dependencies"])


@pytest.mark.parametrize("script", ["train_sft.py", "evaluate_model.py"])
def test_hugging_face_jobs_finds_a_card_and_the_token_in_the_script(script):
    header = parse_uv_script_header((ROOT / script).read_text(encoding="utf-8"))
    assert (header.flavor, header.secrets) == ("t4-small", ["HF_TOKEN"]) and header.timeout


# `evaluate` loads metrics by path, so no import tells of them.
METRICS_BY_PATH = {
    "evaluate_model.py": list((ROOT / "approach" / "metrics").glob("*.py")),
    "app.py": [ROOT / "approach" / "metrics" / "provenance.py"],
}


def imported_packages(path: Path, seen: set[Path]) -> set[str]:
    """The names of all that a file imports, and that the rooms and metrics import which it imports."""
    seen.add(path)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        names |= {module.partition(".")[0] for module in modules}
        ours = [ROOT / (module.replace(".", "/") + ".py") for module in modules if module.startswith("approach.")]
        for room in ours:
            if room.is_file() and room not in seen:
                names |= imported_packages(room, seen)
    for metric in METRICS_BY_PATH.get(path.name, []):
        names |= imported_packages(metric, seen)
    return names


def required_packages(script: str) -> set[str]:
    """The requirements that a script imports, itself or by a room, by the name that pip knows."""
    distributions = packages_distributions()
    names = imported_packages(ROOT / script, set()) - set(sys.stdlib_module_names)
    found = {distribution.replace("_", "-").lower() for name in names for distribution in distributions.get(name, [])}
    return found & {name.replace("_", "-").lower() for name in REQUIREMENTS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_declares_what_it_and_its_rooms_import(script):
    declared = {name.replace("_", "-") for name in pinned(script_metadata(script)["dependencies"])}
    missing = required_packages(script) - declared
    assert not missing, f"{script} imports {', '.join(sorted(missing))} and does not declare it"


def test_requirements_name_every_package_that_the_project_imports():
    ours = {"approach", "metrics", *(script.removesuffix(".py") for script in SCRIPTS)}
    ours |= PACKAGES.keys()  # which only some want, and a script asks for where it needs them
    distributions = packages_distributions()
    pinned_names = {name.replace("_", "-").lower() for name in REQUIREMENTS}
    for script in SCRIPTS:
        for name in imported_packages(ROOT / script, set()) - set(sys.stdlib_module_names) - ours:
            found = {distribution.replace("_", "-").lower() for distribution in distributions[name]}
            assert found & pinned_names, f"{script} imports {name}, which requirements.txt does not name"


def test_every_requirement_is_needed_by_a_script_and_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert len(REQUIREMENTS) == sum(1 for line in lines if line and not line.startswith("#"))
    declared = {name for script in SCRIPTS for name in pinned(script_metadata(script)["dependencies"])}
    assert REQUIREMENTS.keys() <= declared


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_argument_and_waits_for_no_library(script):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0
    heavy = {"torch", "datasets", "trl", "peft", "gradio", "pandas"}
    assert not heavy & {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    module = importlib.import_module(script.removesuffix(".py"))
    classes = [value for name, value in vars(module).items() if name.endswith("Arguments") and is_dataclass(value)]
    names = [field.name for kind in classes for field in fields(kind) if kind.__module__ == module.__name__]
    for name in names or ["run", "output", "overwrite"]:
        assert re.search(rf"(?m)(--|^  ){name}\b", result.stdout), name


def test_no_remote_code_and_no_pickles():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("approach/metrics/*.py"), *ROOT.glob("demo/*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"trust_remote_code\s*=\s*True|torch\.load\(|pickle\.load", text), path.name


def list_loads(path: Path) -> list[ast.Call]:
    """The calls in a file by which transformers would load, or build, what may bring code of its own."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    loads = [call for call in calls if getattr(call.func, "attr", "") in ("from_pretrained", "from_config")]
    return [call for call in loads if getattr(call.func.value, "id", "").startswith("Auto")]


def test_every_load_says_that_no_code_of_the_models_own_is_run():
    """Left out, transformers asks on the terminal, and takes a piped "y" for an answer."""
    folders = ("approach", "metrics", "benchmarks")
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    loads = {f"{path.name}:{call.lineno}": call.keywords for path in paths for call in list_loads(path)}
    assert len(loads) > 15, "the loads were not found"
    for place, keywords in loads.items():
        said = [ast.unparse(keyword.value) for keyword in keywords if keyword.arg == "trust_remote_code"]
        assert said == ["False"], place


def longest(path: Path) -> tuple[int, int]:
    """Lines of a file, and of its longest function."""
    text = path.read_text(encoding="utf-8")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))
    return text.count("\n"), max((node.end_lineno - node.lineno + 1 for node in functions), default=0)


def test_scripts_are_thin_and_rooms_and_functions_small():
    limits = {path: 310 for path in ROOT.glob("*.py")} | {path: 400 for path in (ROOT / "approach").rglob("*.py")}
    found = {path.relative_to(ROOT).as_posix(): longest(path) for path in limits}
    assert len(found) > 40, "the rooms were not found"
    too_long = [name for (path, limit), name in zip(limits.items(), found, strict=True) if found[name][0] > limit]
    assert too_long == [] and [name for name, (_, function) in found.items() if function > 60] == []
    assert not [name for name in found if Path(name).stem in ("utils", "helpers", "common", "misc")]
