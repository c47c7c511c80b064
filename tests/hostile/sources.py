"""Files of abstracts: rows of any kind, stray quotation marks, damaged and packed files."""

import gzip
import io
import json
import random
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import make_abstract, write_jsonl
from hypothesis import strategies as st

from hostile.drawing import ANY_VALUE, DAMAGES, spoil
from hostile.tries import Case, Result, command


def good_rows(number: int, **more) -> list[dict]:
    rng = random.Random(0)
    return [{"id": f"row-{i}", "abstract": make_abstract(rng), **more} for i in range(number)]


def judge_ids(result: Result) -> str | None:
    """Every row that was read is accounted for, and no two that are kept have one id."""
    if not result.ended_well:
        return None
    rows = [row for path in Path("out/data").iterdir() for row in pq.read_table(path).to_pylist()]
    ids = [row["id"] for row in rows]
    funnel = json.loads(Path("out/build_report.json").read_text(encoding="utf-8"))["funnel"]
    if not all(isinstance(row_id, str) and row_id for row_id in ids) or len(set(ids)) < len(ids):
        return f"wrong: ids {ids}"
    dropped = sum(count for reason, count in funnel.items() if reason not in ("read", "kept"))
    return None if funnel["read"] == funnel["kept"] + dropped else f"wrong: {funnel}"


def as_column(values: list) -> pa.Array:
    """A column of Parquet; as texts where Parquet holds no such values side by side."""
    try:
        column = pa.array(values)
        pq.write_table(pa.table({"a": column}), io.BytesIO())
        return column
    except (pa.ArrowException, UnicodeError, OverflowError):
        return pa.array([None if value is None else json.dumps(value) for value in values])


@st.composite
def rows(draw) -> Case:
    """Ids, years and texts that are lists, dates, numbers beyond 2^53, nothing, half characters, or come again."""
    table = good_rows(6, year=2019)
    for row in table[: draw(st.integers(1, 4))]:
        row[draw(st.sampled_from(["id", "year", "abstract"]))] = draw(ANY_VALUE)
    if draw(st.booleans()):
        table[4]["id"] = table[5]["id"]
    ending, is_dated = draw(st.sampled_from(["jsonl", "json", "parquet"])), draw(st.booleans())

    def harm(patch) -> None:
        path = Path(f"rows.{ending}")
        if ending == "parquet":
            columns = {name: as_column([row.get(name) for row in table]) for name in table[0]}
            if is_dated:
                columns["year"] = pa.array([date(2018 + i, 1, 1) for i in range(6)])
            pq.write_table(pa.table(columns), path)
        else:
            write_jsonl(path, table)
            if ending == "json":
                path.write_text(json.dumps(table), encoding="utf-8")

    by_year = draw(st.booleans())
    options = {"--dataset_name": f"rows.{ending}"}
    options |= {"--year_column": "year", "--test_from_year": "2020"} if by_year else {}
    return Case("prepare_dataset", command("prepare_dataset", options), harm, judge_ids)


def judge_csv(lines: int) -> Callable[[Result], str | None]:
    """Rows that a quotation mark made one of are told of."""

    def judge(result: Result) -> str | None:
        if not result.ended_well:
            return None
        report = json.loads(Path("out/build_report.json").read_text(encoding="utf-8"))
        told = report.get("csv", {}).get("rows_of_several_lines")
        return None if report["funnel"]["read"] == lines or told else f"wrong: {report['funnel']['read']} of {lines}"

    return judge


@st.composite
def csv(draw) -> Case:
    """CSV files with stray quotation marks, and with cells too many or too few."""
    lines = [f"{row['id']},{row['abstract']}".replace("\n", " ") for row in good_rows(12)]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.integers(0, 11))
        # Most of all where a cell begins: elsewhere a quotation mark is a character like others.
        place = draw(st.one_of(st.just(lines[row].index(",") + 1), st.just(0), st.integers(0, len(lines[row]))))
        lines[row] = lines[row][:place] + draw(st.sampled_from(['"', '"', '""', '","'])) + lines[row][place:]
    text = "\n".join(["id,abstract", *lines]) + "\n"
    return Case(
        "prepare_dataset",
        command("prepare_dataset", {"--dataset_name": "rows.csv"}),
        lambda patch: Path("rows.csv").write_text(text, encoding="utf-8"),
        judge_csv(12),
    )


@st.composite
def packed(draw) -> Case:
    """Files that are empty, cut off, damaged, or in another encoding."""
    ending = draw(st.sampled_from(["jsonl", "jsonl.gz", "json", "csv", "parquet"]))
    how, place, byte = draw(st.sampled_from(DAMAGES)), draw(st.floats(0, 1)), draw(st.integers(0, 255))

    def harm(patch) -> None:
        path, table = Path(f"rows.{ending}"), good_rows(6)
        write_jsonl(path, table)
        if ending == "json":
            path.write_text(json.dumps(table), encoding="utf-8")
        elif ending == "csv":
            lines = [f"{row['id']},{row['abstract']}".replace("\n", " ") for row in table]
            path.write_text("\n".join(["id,abstract", *lines]), encoding="utf-8")
        elif ending == "parquet":
            pq.write_table(pa.Table.from_pylist(table), path)
        elif ending == "jsonl.gz" and not how.startswith("utf"):
            path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.write_bytes(spoil(path.read_bytes(), how, place, byte))
        if ending == "jsonl.gz" and how.startswith("utf"):
            path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))

    return Case("prepare_dataset", command("prepare_dataset", {"--dataset_name": f"rows.{ending}"}), harm)
