"""The answer that the page begins with: plain sentences from the planned comparisons, and what they do not allow."""

VERB = {1: "more specific to their problem than", -1: "less specific to their problem than"}
FORESEES = "when it foresees the authors' approaches"
GAIN = {
    1: f"The tuned model gains more from knowing the problem than {{baseline}} does {FORESEES}",
    -1: f"The tuned model gains less from knowing the problem than {{baseline}} does {FORESEES}",
    0: f"Whether the tuned model gains more from knowing the problem than {{baseline}} does {FORESEES} cannot be told",
}


def describe_answer(scores: dict) -> list[str]:
    """The sentences: the drafts' specificity, the problem gain, each run, and whether quality may be claimed."""
    to_base, to_nearest, gain = scores["comparisons"]
    models = scores["systems"][to_base["system"]]["models"]
    runs = f", for these {len(models)} runs," if len(models) > 1 else ""
    head = f"On {scores['num_examples']} problems{runs} the tuned model's drafts"
    base = f"those of the base in its best way to be asked, “{to_base['baseline']}”"
    sentences = [f"{head} {say_specificity(to_base, base)}, {join(to_base, to_nearest)}."]
    name = f"the base in its best way for that, “{gain['baseline']}”,"
    if gain["difference"] is None:
        sentences.append("The problem gain was not measured.")
    else:
        sentences.append(f"{GAIN[direction(gain)].format(baseline=name)} ({show(gain, ' bits a byte')}).")
    sentences += describe_runs(scores["comparisons"]) if len(models) > 1 else []
    return [*sentences, describe_quality(scores)]


def direction(row: dict) -> int:
    """1 where a difference holds and is positive, -1 where it holds and is negative, else 0."""
    return 0 if not row["holds"] else 1 if row["difference"] > 0 else -1


def show(row: dict, unit: str = "") -> str:
    """A difference and its interval."""
    text = f"difference {row['difference']:+.4f}{unit}, 95 % interval {row['low']:+.4f} to {row['high']:+.4f}"
    return text.replace("-", "−")


def say_specificity(row: dict, baseline: str) -> str:
    """What the drafts are, compared with a baseline."""
    if row["difference"] is None:
        return f"were not compared in specificity with {baseline}"
    if not direction(row):
        return f"cannot be told from {baseline} by how specific they are to their problem ({show(row)})"
    return f"are {VERB[direction(row)]} {baseline} ({show(row)})"


def join(first: dict, second: dict) -> str:
    """The second comparison, as it follows the first in one sentence."""
    other = "the approach of the nearest training problem"
    if second["difference"] is None or not direction(second) or not direction(first):
        return f"and {say_specificity(second, other)}"
    word = "and" if direction(first) == direction(second) else "but"
    return f"{word} {'more' if direction(second) > 0 else 'less'} than {other} ({show(second)})"


def describe_runs(comparisons: list[dict]) -> list[str]:
    """Where runs disagree in sign, that they do."""
    mixed = [row for row in comparisons if row["difference"] is not None and not row["same_sign"]]
    return [
        f"The runs disagree about {row['metric'].replace('_', ' ')} against {row['baseline']}: "
        + ", ".join(f"{run:+.4f}" for run in row["runs"])
        + "."
        for row in mixed
    ]


def describe_quality(scores: dict) -> str:
    """Whether the drafts pass the gates and beat a list of terms: without both no quality is claimed."""
    system, decoding = (scores["comparisons"][0][name] for name in ("system", "decoding"))
    found = scores["systems"][system]["decodings"][decoding]
    [words] = [row for row in scores["against_word_list"] if (row["system"], row["decoding"]) == (system, decoding)]
    failures = []
    if not found["passes_gates"]:
        behaviour, references = found["behaviour"], scores["references_repeated_4grams"]
        failures.append(
            f"they fail the gates ({100 * behaviour['share_ended']:.0f} % end by themselves, of 95 % needed; "
            f"{100 * (behaviour['repeated_4grams'] or 0):.1f} % of their 4-grams are repeated, of at most "
            f"{200 * references:.1f} %)"
        )
    if words["difference"] is None:
        failures.append("they were not compared with a bare list of terms")
    elif words["low"] <= 0:
        failures.append(
            f"they do not beat a bare list of terms from the five nearest training approaches ({show(words)})"
        )
    if failures:
        return f"No quality is claimed for the tuned model's drafts: {', and '.join(failures)}."
    return (
        "The drafts end by themselves, repeat themselves little, and beat a bare list of terms from the five nearest "
        f"training approaches ({show(words)})."
    )
