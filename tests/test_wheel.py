"""The package as `pip install git+…` and `hf jobs` get it: a script alone, in a folder that is no clone."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed into; what it depends on is installed already."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building in the clone would leave build folders there
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in tracked.stdout.splitlines():
        if name.startswith("approach/") or name in ("pyproject.toml", "requirements.txt", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", folder / "site", source], check=True)
    return folder / "site"


def test_a_script_runs_from_an_installed_wheel_outside_the_clone(installed, abstracts, tmp_path):
    script = tmp_path / "prepare_dataset.py"
    script.write_bytes((ROOT / script.name).read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, script.name, "--dataset_name", str(abstracts), "--output_dir", "pairs"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "# Problem–approach pairs" in (tmp_path / "pairs" / "README.md").read_text(encoding="utf-8")


def test_the_tagger_of_roles_opens_from_an_installed_wheel(installed, tmp_path):
    code = "from approach.roles import MODEL, load_tagger; print(MODEL, len(load_tagger().tag(['We listen.'])))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout.split() == [str(installed / "approach" / "roles.crfsuite"), "1"], result.stderr


def test_the_wheel_holds_rooms_templates_and_metrics(installed):
    for folder, pattern in (
        ("approach", "**/*.py"),
        ("approach", "templates/*.*"),
        ("approach", "*.crfsuite"),
    ):
        names = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern)}
        assert names and not [name for name in names if not (installed / name).is_file()]
