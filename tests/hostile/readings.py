"""What training, evaluation and drafting read: predictions, pairs, problems and checkpoints."""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from hostile.drawing import ANY_VALUE, BYTES, DAMAGES, end_before_drafting, serve_nobody, spoil
from hostile.tries import Case, Result, command


@st.composite
def predictions(draw) -> Case:
    """Others' predictions that are no rows, of one row twice, in files of one name, or named as a system."""
    name = draw(
        st.sampled_from(["others.jsonl", "base.jsonl", "fine-tuned.jsonl", "x.y.jsonl", "none.jsonl", "pairs"])
    )
    line, key = draw(st.integers(0, 20)), draw(st.sampled_from(["id", "prediction", "given"]))
    value, how = (
        draw(ANY_VALUE),
        draw(st.sampled_from(["a value", "a key less", "twice", "no row", "no JSON", "well"])),
    )
    several = draw(st.booleans())

    def harm(patch) -> None:
        end_before_drafting(patch)
        entries = [json.loads(text) for text in Path("others.jsonl").read_text(encoding="utf-8").splitlines()]
        entry = entries[line % len(entries)]
        if how == "a value":
            entry[key] = value
        elif how == "a key less":
            entry.pop(key, None)
        elif how == "twice":
            entries.append(entry)
        lines = [json.dumps(entry) for entry in entries]
        if how in ("no row", "no JSON"):
            lines[line % len(lines)] = {"no row": "[]", "no JSON": "{"}[how]
        if name not in ("none.jsonl", "pairs"):
            Path(name).write_text("\n".join(lines), encoding="utf-8")
            Path("more").mkdir()
            Path("more", name).write_text("\n".join(lines), encoding="utf-8")

    words = command("evaluate_model") + ["--predictions", name, *([f"more/{name}"] if several else [])]
    return Case("evaluate_model", words, harm)


@st.composite
def pairs(draw) -> Case:
    """Datasets of pairs without a split, a column or a row, with gaps, lists or numbers, or damaged."""
    script = draw(st.sampled_from(["train_sft", "evaluate_model", "app", "merge_and_push"]))
    split = draw(st.sampled_from(["train", "train", "train", "validation", "test"]))
    column = draw(st.sampled_from(PAIR_COLUMNS))
    how = draw(st.sampled_from([*["a gap", "another type"] * 3, "a column less", "no row", "no split", *DAMAGES[:6]]))
    place, byte, row = draw(st.floats(0, 1)), draw(BYTES), draw(st.integers(0, 3))

    def harm(patch) -> None:
        serve_nobody(patch)
        (path,) = Path("pairs/data").glob(f"{split}-*")
        table = pq.read_table(path)
        values = table.to_pydict()
        if how == "a gap":
            values[column][row % len(table)] = None
        elif how == "another type":
            values[column] = [[1.5, 2], [[]], [{"a": 1}], [True]][row] * len(table)
            values[column] = (values[column] * len(table))[: len(table)]
        elif how == "a column less":
            del values[column]
        elif how == "no row":
            values = {name: pa.array([], pa.string()) for name in values}
        elif how == "no split":
            path.unlink()
            return
        if how in DAMAGES:
            path.write_bytes(spoil(path.read_bytes(), how, place, byte))
        else:
            pq.write_table(pa.table(values), path)

    options = {"--dtype": "bfloat16", "--dataset_name": "pairs"} if script == "merge_and_push" else {}
    return Case(script, command(script, options), harm)


PAIR_COLUMNS = ("id", "problem", "approach", "prompt", "completion")


@st.composite
def problems(draw) -> Case:
    """Files of problems that are no texts, and problems that no model can read."""
    kind = draw(st.sampled_from(["text", "bytes", "utf-16", "folder", "missing", "long", "stdin"]))
    text = draw(st.lists(st.text(max_size=20), max_size=4))
    data = draw(st.binary(max_size=20))

    def harm(patch) -> None:
        path = Path("problems.txt")
        if kind in ("folder", "missing"):
            path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "long":
            path.write_text("word " * 3000, encoding="utf-8")
        elif kind in ("bytes", "stdin"):
            path.write_bytes(data)
        elif kind != "missing":
            lines = "\n".join(text).encode("utf-16" if kind == "utf-16" else "utf-8", errors="replace")
            path.write_bytes(lines)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    options = {"--problems": "-"} if kind == "stdin" else {}
    return Case("draft_approach", command("draft_approach", options), harm)


@st.composite
def resumes(draw) -> Case:
    """Going on from a checkpoint with another argument, and from one that is damaged."""
    changes = [None, *CHANGES]
    change = draw(st.sampled_from(changes))
    damaged = draw(
        st.sampled_from([None, "trainer_state.json", "progress.json", "optimizer.pt"] if not change else [None])
    )
    how, place = draw(st.sampled_from(["cut", "empty", "longer"])), draw(st.floats(0, 1))

    def harm(patch) -> None:
        if damaged:
            path = Path("stopped/checkpoint-1", damaged)
            path.write_bytes(spoil(path.read_bytes(), how, place, 0))

    def judge(result: Result) -> str | None:
        if change and result.ended_well:
            return f"wrong: went on with another {change}"
        return None

    options = {"--output_dir": "stopped", "--max_steps": "2", "--save_strategy": "steps", "--save_steps": "1"}
    options |= {"--resume_from_checkpoint": "true"} | (CHANGES[change] if change else {})
    return Case("train_sft", command("train_sft", options), harm, judge, may_change=("stopped",) if not change else ())


CHANGES = {
    "beta": {"--adam_beta1": "0.8"},
    "smoothing": {"--label_smoothing_factor": "0.1"},
    "decay": {"--weight_decay": "0.1"},
    "rank": {"--lora_r": "4"},
    "dropout": {"--lora_dropout": "0.1"},
    "length": {"--max_length": "64"},
    "rate": {"--learning_rate": "0.002"},
    "seed": {"--seed": "1"},
    "steps": {"--max_steps": "3"},
    "batch": {"--per_device_train_batch_size": "2"},
    "rows": {"--train_fraction": "0.5"},
    "norm": {"--max_grad_norm": "0.5"},
    "optimizer": {"--optim": "adafactor"},
    "schedule": {"--lr_scheduler_type": "constant"},
}
