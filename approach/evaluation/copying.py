"""What drafts share with the training rows that a run saw, beside what references and unseen rows share with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import evaluate

from approach.errors import UserError
from approach.evaluation.systems import Recipe, SystemDrafts
from approach.models import fetch_run

NUM_WORST = 10


@dataclass(frozen=True)
class RowsSeen:
    """The training rows that a run saw and those that it did not, and whether its record says so."""

    seen: list[dict]
    unseen: list[dict]
    recorded: bool


def find_rows_seen(recipe: Recipe, train: list[dict]) -> RowsSeen:
    """
    The rows that a recipe's first model was trained on, by the ids in its `run.json`, in its folder or on the Hub.

    Without such a record all rows are taken as seen.

    Raises:
        UserError: where the ids are those of another dataset.
    """
    name = recipe.models[0]
    dataset = fetch_run(name, recipe.argument, recipe.revisions[0]).get("dataset", {})
    if "ids" not in dataset:
        return RowsSeen(train, [], recorded=False)
    if dataset["ids"] is None:  # every row of the split
        return RowsSeen(train, [], recorded=True)
    ids = [str(row_id) for row_id in dataset["ids"]]
    by_id = {row["id"]: row for row in train}
    if missing := [row_id for row_id in ids if row_id not in by_id]:
        raise UserError(
            f"{recipe.argument} {name}: its run.json is of another dataset: {len(missing)} of the {len(ids)} rows "
            f"trained on are not in the training split of --dataset_name ({missing[0]!r} is the first)"
        )
    seen_ids = set(ids)
    return RowsSeen([by_id[row_id] for row_id in ids], [row for row in train if row["id"] not in seen_ids], True)


def measure_copying(
    drafts: Sequence[SystemDrafts],
    rows_seen: Mapping[str, RowsSeen],
    rows: list[dict],
    provenance: evaluate.Metric,
) -> dict:
    """What the first drafts of each system in `rows_seen` share with the training rows, by system and decoding."""
    result: dict[str, dict] = {}
    for entry in drafts:
        if entry.system not in rows_seen:
            continue
        record = rows_seen[entry.system]
        unseen = record.unseen[: len(rows)]
        groups = {
            "drafts": (rows, [draft["prediction"] for draft in entry.runs[0]]),
            "references": (rows, [row["approach"] for row in rows]),
            "unseen training rows": (unseen, [row["approach"] for row in unseen]),
        }
        corpus = provenance.corpus([row["approach"] for row in record.seen])
        found = {"rows_seen": len(record.seen), "record_of_the_run": record.recorded}
        for group, (owners, texts) in groups.items():
            if texts:
                found[group] = summarize_overlap(provenance, corpus, texts, owners, record.seen)
        result.setdefault(entry.system, {})[entry.decoding] = found
    return result


def summarize_overlap(
    provenance: evaluate.Metric, corpus, texts: list[str], owners: list[dict], seen: list[dict]
) -> dict:
    """What texts share with a corpus made of `seen`: means, the longest runs with their rows, and citations."""
    overlaps = corpus.overlap(texts)
    worst = sorted(range(len(texts)), key=lambda i: -overlaps[i]["longest_run"])[:NUM_WORST]
    shares = [overlap["ngram_share"] for overlap in overlaps if overlap["ngram_share"] is not None]
    kinds = [kind for text in texts for _, _, kind in provenance.find_citations(text)]
    return {
        "mean_longest_run": sum(overlap["longest_run"] for overlap in overlaps) / len(overlaps),
        "longest_run": overlaps[worst[0]]["longest_run"],
        "share_of_8grams": sum(shares) / len(shares) if shares else None,
        "citations_a_text": {kind: kinds.count(kind) / len(texts) for kind in sorted(set(kinds))},
        "worst": [
            {"id": owners[i]["id"], "words": overlaps[i]["longest_run"], "training_id": seen[row]["id"]}
            for i in worst
            if (row := overlaps[i]["run_row"]) is not None
        ],
    }
