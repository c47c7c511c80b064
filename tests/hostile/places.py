"""Where outputs go: what cannot be replaced, what is read, what others put there, and disks that are full."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from datasets import Dataset
from hypothesis import strategies as st
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from approach.generation import terminal
from hostile.drawing import (
    SCRIPTS,
    end_before_drafting,
    serve_nobody,
)
from hostile.tries import EARLIER, OPTIONS, OUTPUT, Case, Result, command

MUST_BE_REFUSED = (
    "others",
    "other kind",
    "link",
    "dangling",
    ".",
    "..",
    "under a file",
    "mount",
    "fifo",
    "nul",
    "long",
)
STATES = (*MUST_BE_REFUSED, *("link", "mount") * 2, "absent", "empty", "ours", "deep", "read-only")


def put(state: str, script: str, patch) -> None:
    """Makes what stands at the output's place."""
    out, earlier = Path(command(script)[command(script).index(OUTPUT[script]) + 1]), Path(EARLIER[script])
    is_file = OUTPUT[script] == "--output"
    if state == "ours":
        (shutil.copy if is_file else shutil.copytree)(earlier, out)
    elif state in ("others", "empty") and not is_file:
        out.mkdir()
        if state == "others":
            shutil.copy("notes.txt", out)
    elif state in ("others", "empty"):
        out.write_bytes(Path("notes.txt").read_bytes() if state == "others" else b"")
    elif state == "other kind":
        out.mkdir() if is_file else out.touch()
    elif state in ("link", "dangling"):
        out.symlink_to(earlier if state == "link" else "missing")
    elif state == "mount":
        (shutil.copy if is_file else shutil.copytree)(earlier, out)
        patch.setattr(os.path, "ismount", lambda path: Path(path).name == out.name)
    elif state == "fifo":
        os.mkfifo(out)
    elif state == "read-only":
        patch.setattr("tempfile.mkdtemp", partial(refuse, errno.EROFS))


def refuse(number: int, *_, **__) -> None:
    raise OSError(number, os.strerror(number))


@st.composite
def outputs(draw) -> Case:
    """Outputs that are links, mounts, the current folder, of another kind, somebody's, or cannot be written."""
    script, state = draw(st.sampled_from(SCRIPTS)), draw(st.sampled_from(STATES))
    places = {".": ".", "..": "..", "under a file": "notes.txt/x", "nul": "a\0b", "long": "x" * 300, "deep": "a/b/c"}
    asked = draw(st.sampled_from([(), ("--overwrite",)]))
    if script == "train_sft" and draw(st.booleans()):
        asked = ("--resume_from_checkpoint", "true")
    runs_whole = script != "evaluate_model" or draw(st.integers(0, 9)) == 0

    def harm(patch) -> None:
        put(state, script, patch)
        if not runs_whole:
            end_before_drafting(patch)

    def judge(result: Result) -> str | None:
        return f"wrong: {state} was taken" if state in MUST_BE_REFUSED and result.ended_well else None

    if script == "train_sft" and state in ("link", "mount"):
        # A run is written into its folder, file by file, and never replaces that: a link or a mount will do.
        state = "dangling" if state == "link" else "others"
    options = {OUTPUT[script]: places[state]} if state in places else {}
    return Case(script, command(script, options, *asked), harm, judge)


@st.composite
def inputs(draw) -> Case:
    """Outputs that are or hold what is read: itself, by a glob, by a link, by another spelling, by an adapter."""
    kind = draw(st.sampled_from(sorted(HELD)))
    script, inside, options, output = HELD[kind]
    spelling = draw(st.sampled_from(["{}", "./{}", "notes/../{}", "link"]))
    flag = ("--overwrite",)
    if script == "train_sft":
        flag = draw(st.sampled_from([flag, ("--resume_from_checkpoint", "true")]))

    def harm(patch) -> None:
        end_before_drafting(patch)
        Path("notes").mkdir()
        for source, target in inside.items():
            shutil.copytree(source, target) if Path(source).is_dir() else shutil.copy(source, target)
        if spelling == "link":
            for number, name in enumerate(options.values()):
                Path(f"link-{number}").symlink_to(name)

    def spell(number: int, name: str) -> str:
        if spelling == "link":
            return name if "*" in name else f"link-{number}"
        return spelling.format(name)

    chosen = {option: spell(number, name) for number, (option, name) in enumerate(options.items())}
    words = command(script, {**chosen, OUTPUT[script]: output}, *flag)
    return Case(script, words, harm, lambda result: "wrong: it was taken" if result.ended_well else None)


# Script, what is put into the output, the options that name it, the output.
HELD = {
    "abstracts": (
        "prepare_dataset",
        {"abstracts.jsonl": "pairs/a.jsonl"},
        {"--dataset_name": "pairs/a.jsonl"},
        "pairs",
    ),
    "a glob": ("prepare_dataset", {"abstracts.jsonl": "pairs/a.jsonl"}, {"--dataset_name": "pairs/*.jsonl"}, "pairs"),
    "base": ("train_sft", {"base": "adapter/base"}, {"--model_name_or_path": "adapter/base"}, "adapter"),
    "the base itself": ("train_sft", {"adapter/run.json": "base"}, {"--model_name_or_path": "base"}, "base"),
    "pairs": ("train_sft", {"pairs": "adapter/pairs"}, {"--dataset_name": "adapter/pairs"}, "adapter"),
    "adapter": ("merge_and_push", {"adapter": "model/adapter"}, {"--adapter_path": "model/adapter"}, "model"),
    "the adapter's base": ("merge_and_push", {"model/merge.json": "base"}, {"--adapter_path": "adapter"}, "base"),
    "predictions": ("evaluate_model", {"others.jsonl": "scores"}, {"--predictions": "scores/others.jsonl"}, "scores"),
    "model": ("evaluate_model", {"model": "scores/model"}, {"--model_name_or_path": "scores/model"}, "scores"),
    "problems": ("draft_approach", {}, {"--problems": "drafts.jsonl"}, "drafts.jsonl"),
}


@st.composite
def brackets(draw) -> Case:
    """Names with [ ] * ? and ::, of outputs and of inputs."""
    script = draw(st.sampled_from(list(OPTIONS)))
    mark = draw(st.sampled_from(["[1]", "*", "?", "[a-z]", "[!a]", "::", "{a,b}", "[", "]", " ", "%20", "#", "'"]))
    option = draw(st.sampled_from([name for name, value in OPTIONS[script].items() if value in KIT_NAMES]))
    value = OPTIONS[script][option]
    marked = f"{value[:2]}{mark}{value[2:]}"
    more = {"--preflight": "true"} if script == "train_sft" else {}

    def harm(patch) -> None:
        serve_nobody(patch)
        if Path(value).exists():
            Path(value).rename(marked)

    def judge(result: Result) -> str | None:
        if script != "prepare_dataset" or not result.ended_well:
            return None
        from datasets import load_dataset

        try:
            load_dataset(marked if option == "--output_dir" else "out")
        except Exception as error:
            return f"wrong: nothing opens what was written: {error}"

    return Case(script, command(script, {**more, option: marked}), harm, judge)


KIT_NAMES = ("abstracts.jsonl", "pairs", "base", "adapter", "model", "scores", "problems.txt", "out", "out.jsonl")
KIT_NAMES += ("out.html",)


@st.composite
def races(draw) -> Case:
    """Something is put at the output's place while the script works."""
    script = draw(st.sampled_from(["prepare_dataset", "write_report", "draft_approach", "merge_and_push"]))
    begin = draw(st.sampled_from(["absent", "ours"]))
    meanwhile = draw(st.sampled_from(["others", "other kind", "ours" if begin == "absent" else "others"]))
    taken: dict[str, bytes] = {}

    def harm(patch) -> None:
        from approach.storage import Output

        put(begin, script, patch)
        move_into_place = Output.move_into_place

        def take(output: Output, *places) -> None:
            if output.path.is_dir():
                shutil.rmtree(output.path)
            output.path.unlink(missing_ok=True)
            put(meanwhile, script, patch)
            taken.update(read_all(output.path))
            move_into_place(output, *places)

        patch.setattr(Output, "move_into_place", take)

    def judge(result: Result) -> str | None:
        out = Path(command(script)[command(script).index(OUTPUT[script]) + 1])
        overwritten = meanwhile == "ours" and begin == "ours"
        return None if overwritten or read_all(out) == taken else "wrong: what was put there meanwhile is gone"

    flags = ("--overwrite",) if begin == "ours" else ()
    out = command(script)[command(script).index(OUTPUT[script]) + 1]
    return Case(script, command(script, None, *flags), harm, judge, may_change=(out,))


def read_all(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files if file.is_file()} | {str(path): bytes(path.is_dir())}


# Disks


@st.composite
def disks(draw) -> Case:
    """A disk that is full or read-only from some moment on."""
    script = draw(
        st.sampled_from(["prepare_dataset", "write_report", "draft_approach", "merge_and_push", "train_sft"])
    )
    number = draw(st.sampled_from([errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO]))
    moment, begin = draw(st.integers(1, 12)), draw(st.sampled_from(["absent", "ours"]))

    def harm(patch) -> None:
        put(begin, script, patch)
        writes = [0]

        def failing(write: Callable) -> Callable:
            def fail(*args, **named):
                writes[0] += 1
                if writes[0] >= moment:
                    place = args[0] if args and isinstance(args[0], (str, Path)) else None
                    raise OSError(number, os.strerror(number), place)
                return write(*args, **named)

            return fail

        for owner, name in (
            *((Path, name) for name in ("mkdir", "write_text", "rename")),
            *((os, "replace"), (shutil, "copy"), (tempfile, "mkdtemp"), (terminal, "draft_for_all")),
            *((Dataset, "to_parquet"), (Figure, "savefig"), (PreTrainedModel, "save_pretrained")),
        ):
            patch.setattr(owner, name, failing(getattr(owner, name)))

    asked = ("--overwrite",) if begin == "ours" else ()
    return Case(script, command(script, None, *asked), harm)
