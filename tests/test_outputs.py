"""Whatever happens to an output, the old one or the new one is there whole, and nothing that was read is lost."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from approach.errors import UserError, run_script
from approach.storage import Output, contains_files, contains_text


def make_output(path: Path, overwrite: bool = False, **inputs: object) -> Output:
    inputs = {f"--{name}": value for name, value in inputs.items()}
    return Output(str(path), "run", overwrite, contains_files("run.json"), inputs, save_beside=True)


def make_file(path: Path, overwrite: bool = False, **inputs: object) -> Output:
    inputs = {f"--{name}": value for name, value in inputs.items()}
    return Output(str(path), "drafts", overwrite, contains_text("ours"), inputs, argument="--output", is_file=True)


def make_run(folder: Path, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(text, encoding="utf-8")
    return folder


def write(output: Output, text: str = "new") -> None:
    with output.staging() as new:
        (new if output.is_file else new / "run.json").write_text(text, encoding="utf-8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(folder: Path) -> str:
    return (folder / "run.json").read_text(encoding="utf-8")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    output = make_output(tmp_path / "deep" / "run", overwrite=True)
    with pytest.raises(KeyboardInterrupt), output.staging() as new:
        (new / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path / "deep") == []
    for text in ("old", "new"):
        write(output, text)
        assert read(output.path) == text and names(output.path) == ["run.json"]
    assert names(tmp_path / "deep") == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_written_folder_can_be_read_by_colleagues(tmp_path):
    before = os.umask(0o022)
    write(make_output(tmp_path / "run"))
    os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


def test_a_folder_is_free_when_empty_or_ours_and_overwritten(tmp_path):
    folder = tmp_path / "output"
    make_output(folder).check()
    folder.mkdir()
    make_output(folder).check()
    (folder / "notes.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="--output_dir .*output is not empty and holds no run of this script"):
            make_output(folder, overwrite).check()
    (folder / "run.json").touch()
    with pytest.raises(UserError, match="is not empty: choose another or add --overwrite"):
        make_output(folder).check()
    make_output(folder, overwrite=True).check()
    assert names(tmp_path) == ["output"] and names(folder) == ["notes.txt", "run.json"]


def test_a_file_is_free_when_absent_or_ours_and_overwritten(tmp_path):
    path = tmp_path / "drafts.jsonl"
    make_file(path).check()
    for text, message in (("thesis", "holds no drafts of this script"), ("ours", "is there already: .*--overwrite")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            make_file(path).check()
    write(make_file(path, overwrite=True))
    assert path.read_text(encoding="utf-8") == "new" and names(tmp_path) == ["drafts.jsonl"]
    path.write_bytes(b"\xff thesis")
    with pytest.raises(UserError, match="holds no drafts of this script"):
        make_file(path, overwrite=True).check()


@pytest.mark.parametrize("make", [make_output, make_file])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "the current folder|a folder: name a file"),
        ("", "the current folder|a folder: name a file"),
        ("..", "the current folder|a folder: name a file"),
        ("link", "a symbolic link: name the"),
        ("nowhere", "a symbolic link: name the"),
        ("mount", "a mount point"),
        ("fifo", "is a device: name a"),
        ("other kind", "name a f"),
        ("a file/under", "cannot be written: Not a directory|cannot be written: No such file"),
        ("x" * 300, "name too long"),
        ("null\0byte", "null"),
    ],
)
def test_what_cannot_be_replaced_is_refused_before_the_work(make, name, message, tmp_path, monkeypatch):
    if name == "fifo" and not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no such files")
    here = tmp_path / "here"
    make_run(here / "mount")
    (here / "a file").touch()
    make_run(here / "other kind") if make is make_file else (here / "other kind").touch()
    (here / "link").symlink_to(here / "mount")
    (here / "nowhere").symlink_to(here / "missing")
    if name == "fifo":
        os.mkfifo(here / "fifo")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mount")
    monkeypatch.chdir(here)
    before = names(here)
    with pytest.raises(UserError, match=message):
        make(name, overwrite=True).check()
    assert names(here) == before


@pytest.mark.parametrize("make", [make_output, make_file])
def test_a_read_only_folder_is_refused_before_the_work(make, tmp_path, monkeypatch):
    def refuse(*args, **named):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match=r"--output\w* .*out cannot be written: Read-only file system \("):
        make(tmp_path / "deep" / "out").check()
    assert names(tmp_path) == [], "no folder was made only to ask"


def test_an_output_that_holds_an_input_is_refused(tmp_path):
    """Itself, deeper, by a glob, by another spelling, or as the base that an adapter names."""
    run = make_run(tmp_path / "run")
    (run / "part[1]").mkdir()
    (run / "part[1]" / "a.jsonl").touch()
    (tmp_path / "link").symlink_to(run / "part[1]")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        f'{{"base_model_name_or_path": "{(run / "part[1]").as_posix()}"}}', encoding="utf-8"
    )
    for name in (
        str(run),
        str(run / "part[1]" / "a.jsonl"),
        str(run / "*" / "*.jsonl"),
        f"{tmp_path}/adapter/../run/part[1]",
        str(tmp_path / "link"),
        str(adapter),
        ["user/name", str(run / "part[1]")],
    ):
        with pytest.raises(UserError, match=r"run is or holds --source .*, which this run reads: choose another"):
            make_output(run, overwrite=True, source=name).check()
    for name in (None, "user/name", str(tmp_path), str(tmp_path / "*.jsonl"), []):
        make_output(run, overwrite=True, source=name).check()
    problems = tmp_path / "problems.txt"
    problems.write_text("ours", encoding="utf-8")
    with pytest.raises(UserError, match=r"problems.txt is or holds --problems"):
        make_file(problems, overwrite=True, problems=str(problems)).check()


def test_two_runs_into_one_new_folder_both_keep_their_result(tmp_path, capsys):
    """Each found the folder free, and the first of them is not replaced unasked."""
    first, second = make_output(tmp_path / "run"), make_output(tmp_path / "run")
    first.check()
    second.check()
    write(first, "first")
    with pytest.raises(
        UserError, match=r"run is left as it is \(it has changed .*: the run of this run is in .*run-2"
    ):
        write(second, "second")
    assert names(tmp_path) == ["run", "run-2"]
    assert (read(tmp_path / "run"), read(tmp_path / "run-2")) == ("first", "second")
    with pytest.raises(UserError, match="run-3"):
        write(second, "third")


def test_what_takes_no_hours_is_not_kept_beside(tmp_path):
    write(make_file(tmp_path / "drafts.jsonl"), "first")
    with pytest.raises(UserError, match=r"drafts.jsonl is left as it is \(it has changed .*\): nothing written"):
        write(make_file(tmp_path / "drafts.jsonl"), "second")
    assert (tmp_path / "drafts.jsonl").read_text(encoding="utf-8") == "first" and names(tmp_path) == ["drafts.jsonl"]


@pytest.mark.parametrize("fails", ["moving the old one aside", "moving the new one in"])
def test_a_place_that_cannot_be_given_away_keeps_the_old_and_the_new(fails, tmp_path, monkeypatch):
    """As a mount of the same disk, which no program can tell from a folder before it is renamed."""
    run, rename = make_run(tmp_path / "run"), Path.rename

    def refuse(path, target):
        if (path if fails.startswith("moving the old") else target) == run and path.name != "old":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"run is left as it is \(Device or resource busy\): .* is in .*run-2"):
        write(make_output(run, overwrite=True))
    assert names(tmp_path) == ["run", "run-2"] and (read(run), read(tmp_path / "run-2")) == ("old", "new")


@pytest.mark.parametrize("moment", range(1, 4))
def test_ctrl_c_at_every_move_leaves_the_old_or_the_new(moment, tmp_path, monkeypatch):
    run, rename, moves = make_run(tmp_path / "run"), Path.rename, []

    def press(path, target):
        moves.append(path)
        if len(moves) == moment:
            raise KeyboardInterrupt
        rename(path, target)
        if len(moves) == moment - 1 and moment == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", press)
    with pytest.raises(KeyboardInterrupt):
        write(make_output(run, overwrite=True))
    assert read(run) == ("new" if moment == 3 else "old") and names(tmp_path) == ["run"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("make", [make_output, make_file])
def test_a_disk_error_ends_in_one_line_and_keeps_what_was_there(make, number, tmp_path):
    path = tmp_path / "output"
    if make is make_output:
        make_run(path)
    else:
        path.write_text("ours", encoding="utf-8")
    message = f"output: {os.strerror(number)}: nothing written. Run the same command again"
    with pytest.raises(UserError, match=message), make(path, overwrite=True).staging() as new:
        (new if new.is_dir() else new.parent).joinpath("half").touch()
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == ["output"]
    assert (read(path) if path.is_dir() else path.read_text(encoding="utf-8")) in ("old", "ours")


def test_other_disk_errors_of_a_script_end_in_one_line_and_bugs_do_not(capsys):
    def fail(number):
        raise OSError(number, os.strerror(number), "shard-1")

    with pytest.raises(SystemExit, match=r"No space left on device \(shard-1\): stopped"):
        run_script(lambda: fail(errno.ENOSPC))
    with pytest.raises(FileNotFoundError):
        run_script(lambda: fail(errno.ENOENT))


WRITER = """
import os, sys, time
from pathlib import Path
from approach.storage import Output, contains_files
output = Output(sys.argv[1], "run", True, contains_files("run.json"), {})
output.check()
if sys.argv[2] == "between":
    rename = Path.rename
    def stop(path, target):
        if path.name == "new":
            print("writing", flush=True); time.sleep(60)
        return rename(path, target)
    Path.rename = stop
with output.staging() as new:
    (new / "run.json").write_text("new", encoding="utf-8")
    if sys.argv[2] == "within":
        print("writing", flush=True); time.sleep(60)
"""


def start_writer(path: Path, moment: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), moment], cwd=ROOT, **pipes)
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
def test_sigterm_leaves_nothing_behind(tmp_path):
    run = make_run(tmp_path / "run")
    for moment in ("within", "between"):
        process = start_writer(run, moment)
        process.terminate()
        _, errors = process.communicate()
        assert process.returncode == 128 + signal.SIGTERM
        assert errors.strip() == "Stopped: nothing is half written."
        assert names(tmp_path) == ["run"] and read(run) == "old"


def test_what_a_kill_leaves_is_removed_at_the_next_start_and_a_living_run_is_left_alone(tmp_path):
    run = make_run(tmp_path / "run")
    living, killed = start_writer(run, "within"), start_writer(run, "within")
    for folder in (".run.partial-backup", ".other.partial-1"):  # somebody else's
        make_run(tmp_path / folder)
    killed.kill()
    killed.communicate()
    assert len(names(tmp_path)) == 5
    make_output(run, overwrite=True).check()
    assert len(names(tmp_path)) == 4
    living.kill()
    living.communicate()
    make_output(run, overwrite=True).check()
    assert names(tmp_path) == [".other.partial-1", ".run.partial-backup", "run"] and read(run) == "old"


def test_an_old_output_that_a_kill_left_aside_is_put_back(tmp_path):
    run = make_run(tmp_path / "[run]*")  # no glob
    killed = start_writer(run, "between")
    killed.kill()
    killed.communicate()
    assert not run.exists()
    with pytest.raises(UserError, match="is not empty: choose another or add --overwrite"):
        make_output(run).check()
    assert names(tmp_path) == ["[run]*"] and read(run) == "old"
