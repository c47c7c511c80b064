# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "pyarrow==26.0.1",
#     "rensa==0.5.0",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""
Build the problem–approach dataset from abstracts: the first sentence is the problem, the rest is the approach.

Reads abstracts from files or from the Hub and writes a folder that `datasets.load_dataset` opens: Parquet splits that
share no near duplicates, a card (`README.md`) and `build_report.json`, which counts every dropped row under a reason.

    python prepare_dataset.py --dataset_name abstracts.jsonl --output_dir outputs/pairs
    python prepare_dataset.py --output_dir outputs/arxiv_pairs --push_to_hub --hub_dataset_id user/arxiv-pairs
"""

import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path

TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")  # special tokens in training (`train_sft.py`)
# Why a row is dropped, in the order of the checks; the three filters are the original report's, in its order.
DROP_REASONS = (
    *("no_text", "invalid_text", "contains_tag", "no_year"),
    *("too_few_sentences", "problem_too_long", "approach_too_short", "too_many_tokens"),
    *("exact_copy", "near_copy_of_earlier_year"),
)
COLUMNS = ("id", "problem", "approach", "prompt", "completion")
FILE_FORMATS = {".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
ID_COLUMNS = ("id", "article_id")
ARXIV = {
    "dataset_name": "ccdv/arxiv-summarization",
    "dataset_config": "document",
    "dataset_revision": "240aaf1a969b3f8cd0ade6986bfad0cd730ee288",
}
ARXIV_ROWS = 203_037  # of the train split, by its card and by the original report


@dataclass
class PrepareArguments:
    """What to read, how to cut, filter and split it, and where to write and publish it."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder to write; it appears whole or not at all."})
    dataset_name: str = field(
        default=ARXIV["dataset_name"],
        metadata={"help": "A .jsonl, .jsonl.gz, .json, .csv or .parquet file, a folder or glob of them, or a Hub id."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub dataset to read."})
    abstract_column: str = field(
        default="abstract",
        metadata={
            "help": "Column of the abstracts: text, or a list of sentences (then --sentence_rule is not asked)."
        },
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column of the source's ids. Default: id or article_id, else a content hash."}
    )
    problem_column: str | None = field(default=None, metadata={"help": "Ready-made pairs: column of the problems."})
    approach_column: str | None = field(default=None, metadata={"help": "Ready-made pairs: column of the approaches."})
    sentence_rule: str = field(
        default="auto",
        metadata={
            "help": "'lines': one sentence a line. 'punctuation': prose, by nupunkt. 'report': the original report's "
            "rule. 'auto': lines where the abstract has several (but not hard-wrapped prose), else punctuation.",
            "choices": ["auto", "lines", "punctuation", "report"],
        },
    )
    min_sentences: int = field(default=2, metadata={"help": "Drop abstracts of fewer sentences."})
    max_problem_words: int = field(default=50, metadata={"help": "Drop pairs whose problem has more words."})
    min_approach_words: int = field(default=90, metadata={"help": "Drop pairs whose approach has fewer words."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer to count lengths in tokens with."})
    max_length: int | None = field(
        default=None, metadata={"help": "Drop pairs of more tokens, which training would cut. Needs --tokenizer_name."}
    )
    near_duplicate_threshold: float = field(
        default=0.7,
        metadata={"help": "Jaccard similarity of word 5-grams from which rows may not be in two splits; 0: no check."},
    )
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    test_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    year_column: str | None = field(default=None, metadata={"help": "Column of the years, for --test_from_year."})
    test_from_year: int | None = field(default=None, metadata={"help": "Test on rows of this year and later only."})
    check_leakage: bool = field(default=False, metadata={"help": "Measure the highest similarity left across splits."})
    seed: int = field(default=42, metadata={"help": "Seed of the shuffle before the split."})
    num_proc: int = field(
        default=os.cpu_count() or 1, metadata={"help": "Processes; the result does not depend on it."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an output folder that is not empty."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the dataset once it is written."})
    push_only: str | None = field(
        default=None, metadata={"help": "Publish this folder, built earlier; build nothing."}
    )
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Repository to publish to: user/name."})
    public: bool = field(default=False, metadata={"help": "Make a repository that is created public."})

    def __post_init__(self):
        pushes = self.push_to_hub or self.push_only
        if pushes and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_dataset_id or ""):
            raise ValueError(f"publishing needs --hub_dataset_id user/name, got {self.hub_dataset_id}")
        if self.push_only:
            return
        if self.dataset_name == ARXIV["dataset_name"]:
            self.dataset_config = self.dataset_config or ARXIV["dataset_config"]
            self.dataset_revision = self.dataset_revision or ARXIV["dataset_revision"]
        if self.output_dir is None:
            raise ValueError("--output_dir is missing: the folder to write the dataset to")
        output_dir = Path(self.output_dir)
        if output_dir.is_file():
            raise ValueError(f"--output_dir {self.output_dir} is a file")
        if output_dir.is_dir() and any(output_dir.iterdir()):
            if not self.overwrite:
                raise ValueError(f"--output_dir {self.output_dir} is not empty: choose another or add --overwrite")
            if not (output_dir / "build_report.json").is_file():
                raise ValueError(f"--output_dir {self.output_dir} holds no dataset of this script: not overwritten")
            if output_dir.resolve() in [Path(self.dataset_name).resolve(), *Path(self.dataset_name).resolve().parents]:
                raise ValueError(f"--output_dir {self.output_dir} holds the source: it cannot be overwritten")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"--{name} must lie in [0, 0.5), got {getattr(self, name)}")
        if self.near_duplicate_threshold and not 0.3 <= self.near_duplicate_threshold <= 1:
            raise ValueError(
                f"--near_duplicate_threshold must be 0 or in [0.3, 1], got {self.near_duplicate_threshold}"
            )
        for name, least in (("min_sentences", 2), ("num_proc", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")
        for one, other in (("problem", "approach"), ("approach", "problem")):
            if getattr(self, f"{one}_column") and not getattr(self, f"{other}_column"):
                raise ValueError(f"--{one}_column needs --{other}_column")
        if self.max_length and not self.tokenizer_name:
            raise ValueError("--max_length needs --tokenizer_name to count tokens with")
        if (self.year_column is None) != (self.test_from_year is None):
            raise ValueError("--year_column and --test_from_year go together")


def split_lines(abstract: str) -> list[str]:
    """One sentence a line, white space folded; empty lines are no sentences."""
    return [" ".join(line.split()) for line in abstract.splitlines() if line.strip()]


def split_punctuation(abstract: str) -> list[str]:
    """Sentences of prose as authors wrote it, white space folded first: a line break there means nothing."""
    from nupunkt import sentences  # boundary F1 0.989 on CSAbstruct, 13,000 abstracts a second (benchmarks/README.md)

    return [sentence.strip() for sentence in sentences(" ".join(abstract.split()))]


def split_auto(abstract: str) -> list[str]:
    """Lines where there are several; but lines of at most 80 characters that break off in mid-sentence are prose."""
    lines = split_lines(abstract)
    unended = sum(line[-1] not in ".?!" for line in lines[:-1])
    wrapped = unended > (len(lines) - 1) / 2 and max(map(len, lines)) <= 80
    return split_punctuation(abstract) if len(lines) < 2 or wrapped else lines


# White space after a stop and before a capital, digit, quote or bracket, unless "e.g." or "Dr." stands before it.
REPORT_BOUNDARY = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=[.!?])\s+(?=[A-Z0-9“(])")


def split_report(abstract: str) -> list[str]:
    """The original report's rule, exactly, to reproduce its counts (specification, "The report's sentence rule")."""
    sentences = REPORT_BOUNDARY.split(abstract.strip())
    if len(sentences) < 2:
        sentences = [line.strip() for line in abstract.splitlines() if line.strip()]
    return sentences


SENTENCE_RULES = {"auto": split_auto, "lines": split_lines, "punctuation": split_punctuation, "report": split_report}
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
INVALID = re.compile("[\ufffd\ud800-\udfff]")  # what decoders leave for bytes that are not UTF-8


def clean(text: object) -> str:
    """`text` with control characters as spaces; a list of sentences, in `<S> … </S>` or not, becomes lines."""
    if isinstance(text, list):
        text = "\n".join(re.sub(r"^\s*<S>|</S>\s*$", "", str(sentence)) for sentence in text if sentence is not None)
    return CONTROL.sub(" ", text).strip() if isinstance(text, str) else ""


def read_year(value: object) -> int | None:
    """The year in `2023`, `"2023-05-01"`, or the `2023.0` that a CSV column with gaps gives; None without one."""
    match = re.match(r"\d{4}(?!\d)", str(value))
    return int(match[0]) if match else None


def count_words(text: str) -> int:
    """White-space-separated words, as the report's filters count them, not a tokenizer's tokens."""
    return len(text.split())


def build_pair(row: dict, args: PrepareArguments) -> tuple[str, str, str]:
    """Returns `(problem, approach, reason)`; `reason` is one of DROP_REASONS, or empty for a pair that is kept."""
    ready_made = [args.problem_column, args.approach_column] if args.problem_column else []
    texts = [clean(row[column]) for column in ready_made or [args.abstract_column]]
    if not all(texts):
        return "", "", "no_text"
    if any(INVALID.search(text) for text in texts):
        return "", "", "invalid_text"
    if any(tag in text for tag in TAGS for text in texts):
        return "", "", "contains_tag"  # `</approach>` in an abstract would end its approach
    if args.year_column and read_year(row[args.year_column]) is None:
        return "", "", "no_year"
    if ready_made:
        problem, approach = texts
    else:
        rule = "lines" if isinstance(row[args.abstract_column], list) else args.sentence_rule
        sentences = SENTENCE_RULES[rule](texts[0])
        if len(sentences) < args.min_sentences:
            return "", "", "too_few_sentences"
        problem, approach = sentences[0].strip(), " ".join(sentences[1:])
    if count_words(problem) > args.max_problem_words:
        return problem, approach, "problem_too_long"
    if count_words(approach) < args.min_approach_words:
        return problem, approach, "approach_too_short"
    return problem, approach, ""


def build_rows(batch: dict[str, list], args: PrepareArguments, id_column: str | None, tokenizer) -> dict[str, list]:
    """Turns a batch of source rows into dataset rows, with what they are filtered by; keeps its length."""
    rows = {name: [] for name in (*COLUMNS, "reason", "year", "problem_words", "approach_words")}
    for values in zip(*batch.values(), strict=True):
        row = dict(zip(batch, values, strict=True))
        problem, approach, reason = build_pair(row, args)
        source_id = row[id_column] if id_column else None
        if source_id is None:
            source_id = hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]
        year = (read_year(row[args.year_column]) if args.year_column else None) or 0
        prompt, completion = f"<problem>{problem}</problem><approach>", f" {approach}</approach>"
        pair = (str(source_id), problem, approach, prompt, completion)
        for name, value in zip(rows, (*pair, reason, year, *map(count_words, (problem, approach))), strict=True):
            rows[name].append(value)
    if tokenizer is None:
        return {**rows, "tokens": [0] * len(rows["id"])}
    texts = [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
    tokens = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    limit = args.max_length or sys.maxsize
    reasons = [
        reason or ("too_many_tokens" if n > limit else "") for reason, n in zip(rows["reason"], tokens, strict=True)
    ]
    return {**rows, "reason": reasons, "tokens": tokens}


def find_files(name: str) -> list[str]:
    """The data files that a path, folder or glob names, sorted; none where `name` must be a Hub id."""
    if Path(name).is_file():
        return [name] if file_format(name) else []
    if Path(name).is_dir():
        name = str(Path(glob.escape(name)) / "*")
    return sorted(path for path in glob.glob(name) if Path(path).is_file() and file_format(path))


def file_format(path: str) -> str | None:
    """The `datasets` builder that reads `path`, by its ending; None for an ending that none reads."""
    return next((builder for ending, builder in FILE_FORMATS.items() if path.lower().endswith(ending)), None)


def load_source(args: PrepareArguments):
    """The source, the needed columns alone, its id column and its licence. Ends with one line if it can't be read."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    name, files, licence = args.dataset_name, find_files(args.dataset_name), None
    if not files and (Path(name).exists() or file_format(name) or name.count("/") > 1):
        found = "no file to read: expected one of" if Path(name).exists() else "no such file; expected a Hub id or"
        sys.exit(f"--dataset_name {name}: {found} {', '.join(FILE_FORMATS)}")
    builders = {file_format(path) for path in files}
    if len(builders) > 1:
        sys.exit(
            f"--dataset_name {name}: files of several formats ({', '.join(sorted(builders))}); name one with a glob"
        )
    if files:
        # What is not UTF-8 becomes U+FFFD, by which build_pair knows the row. datasets 5.2 decodes JSON by itself, and
        # so leniently, only where the encoding is not spelled "utf-8".
        lenient = {} if builders == {"parquet"} else {"encoding": "utf8", "encoding_errors": "replace"}
        place = {"path": builders.pop(), "data_files": list(map(glob.escape, files)), "split": "train", **lenient}
        if place["path"] == "csv":  # or arXiv's 0704.0270 would become 704.027
            place["converters"] = {column: str for column in (*ID_COLUMNS, args.id_column) if column}
    else:
        with suppress(OSError, HTTPError):  # without network, a cached copy may still be read, revision as given
            info = HfApi().dataset_info(name, revision=args.dataset_revision)
            args.dataset_revision, licence = info.sha, (info.card_data or {}).get("license")
        place = {
            "path": name,
            "name": args.dataset_config,
            "revision": args.dataset_revision,
            "split": args.dataset_split,
        }
    wanted = [args.problem_column, args.approach_column] if args.problem_column else [args.abstract_column]
    try:
        source = load_dataset(**place, streaming=not files)  # from the Hub, look at the columns before fetching all
        names = source.column_names or list(next(iter(source), {}))
        if wanted == ["abstract"] and "abstract" not in names and "abstract_text" in names:
            args.abstract_column, wanted = "abstract_text", ["abstract_text"]  # the arXiv corpus's first format
        id_column = args.id_column or next((column for column in ID_COLUMNS if column in names), None)
        wanted = list(dict.fromkeys(filter(None, (*wanted, id_column, args.year_column))))
        if missing := [column for column in wanted if column not in names]:
            sys.exit(f"--dataset_name {name}: no column {', '.join(missing)}; it has {', '.join(names)}")
        if not files:
            # The arXiv corpus's articles would be 40 times its abstracts; Parquet lets us leave them.
            columns = {"columns": wanted} if source.info.builder_name == "parquet" else {}
            source = load_dataset(**place, **columns)
        source = source.select_columns(wanted)
    except DatasetGenerationError as error:
        sys.exit(f"--dataset_name {name}: cannot be read: {str(error.__cause__ or error).splitlines()[0]}")
    except (ValueError, OSError) as error:
        sys.exit(f"--dataset_name {name}: {str(error).splitlines()[0]}")
    if name == ARXIV["dataset_name"] and args.dataset_split == "train" and len(source) != ARXIV_ROWS:
        sys.exit(f"--dataset_name {name}: {len(source):,} rows where its card says {ARXIV_ROWS:,}")
    return source, id_column, licence


def fold(problem: str, approach: str) -> list[str]:
    """A pair's words, letter case, spacing and punctuation aside: by these rows are compared."""
    return re.findall(r"[^\W_]+", f"{problem} {approach}".lower())


def shingles(words: list[str], width: int = 5) -> set[str]:
    """The set of word 5-grams, of which near duplicates share most."""
    return {" ".join(words[i : i + width]) for i in range(max(1, len(words) - width + 1))}


def similarity(one: set[str], other: set[str]) -> float:
    """The Jaccard similarity of two sets of shingles."""
    return len(one & other) / len(one | other)


def choose_bands(threshold: float, num_perm: int = 128) -> tuple[int, int]:
    """Bands and rows a band: the longest with which 99.8 % of pairs at the threshold agree in two bands or more."""
    for rows in range(num_perm // 2, 0, -1):
        bands, agree = num_perm // rows, threshold**rows
        if (1 - agree) ** bands + bands * agree * (1 - agree) ** (bands - 1) <= 0.002:
            break
    return bands, rows


def sign(batch: dict[str, list], shape: tuple[int, int]) -> dict[str, list]:
    """A MinHash signature a row, by rensa, as a 64-bit hash a band; and a `digest` that exact copies share."""
    import numpy as np
    from rensa import RMinHash

    words = [fold(*pair) for pair in zip(batch["problem"], batch["approach"], strict=True)]
    digests = [hashlib.blake2b(" ".join(row).encode(), digest_size=8).hexdigest() for row in words]
    matrix = RMinHash.digest_matrix_from_token_sets([shingles(row) for row in words], shape[0] * shape[1], 1)
    signatures = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(words), *shape)
    multipliers = np.random.default_rng(0).integers(2**63, size=shape[1], dtype=np.uint64) * 2 + 1
    return {"bands": list((signatures * multipliers).sum(axis=2)), "digest": digests}


def find_clusters(rows, bands, threshold: float):
    """
    Cluster numbers of `rows`, `(n,)`: rows are together that a chain of pairs at or above the threshold joins.

    `bands` is `(n, bands)`. Two rows are compared where they stand close in a band's bucket: each with the four before
    it and with the bucket's first, so that the cost is linear in rows whatever the bucket. Only the exact similarity
    joins them, so that there are no false ones.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(rows)
    places, clusters = np.arange(n), np.arange(n)
    joined, rejected = np.empty(0, np.int64), np.empty(0, np.int64)  # pairs (i, j), i < j, as the number i · n + j
    for band in range(bands.shape[1]):
        # Another band as the second key: in a bucket, true duplicates then stand side by side.
        order = np.lexsort((bands[:, band - 1], bands[:, band]))
        begins = np.diff(bands[order, band], prepend=~bands[order[:1], band]) != 0
        first = np.maximum.accumulate(np.where(begins, places, 0))
        partners = [first, *(np.maximum(places - gap, first) for gap in range(1, 5))]
        pairs = np.concatenate([np.stack((order[partner], order)) for partner in partners], axis=1)
        pairs = np.sort(pairs[:, clusters[pairs[0]] != clusters[pairs[1]]], axis=0)
        pairs = pairs[:, (bands[pairs[0]] == bands[pairs[1]]).sum(axis=1) >= 2]  # one band alone is mostly chance
        codes = np.setdiff1d(pairs[0] * n + pairs[1], rejected)
        similar = np.fromiter(compare(rows, codes // n, codes % n, threshold), bool, len(codes))
        rejected = np.union1d(rejected, codes[~similar])
        joined = np.concatenate((joined, codes[similar]))
        graph = coo_array((np.ones(len(joined)), (joined // n, joined % n)), shape=(n, n))
        clusters = connected_components(graph, directed=False)[1]
    return clusters


def compare(rows, left, right, threshold: float, batch_size: int = 1000) -> Iterator[bool]:
    """Whether the rows of each pair are at least as similar as the threshold, exactly."""
    for start in range(0, len(left), batch_size):
        pairs = list(zip(left[start : start + batch_size], right[start : start + batch_size], strict=True))
        members = sorted({index for pair in pairs for index in pair})
        texts = rows[members]
        words = map(fold, texts["problem"], texts["approach"])
        sets = {member: shingles(row) for member, row in zip(members, words, strict=True)}
        yield from (similarity(sets[i], sets[j]) >= threshold for i, j in pairs)


def find_duplicates(rows, years, args: PrepareArguments):
    """The rows that are no exact copy of another, the earliest of each text, and each one's near-duplicate cluster."""
    import numpy as np

    shape, texts = choose_bands(args.near_duplicate_threshold), rows.select_columns(["problem", "approach"])
    signed = texts.map(
        sign,
        batched=True,
        fn_kwargs={"shape": shape},
        remove_columns=texts.column_names,
        num_proc=args.num_proc,
        desc="Signing pairs",
    )
    earliest = np.argsort(years, kind="stable")
    digests = signed.data.column("digest").to_numpy()[earliest]
    originals = np.sort(earliest[np.unique(digests, return_index=True)[1]])
    bands = signed.data.column("bands").combine_chunks().flatten().to_numpy().reshape(-1, shape[0])[originals]
    return originals, find_clusters(rows.select(originals), bands, args.near_duplicate_threshold)


def highest_similarity(train, held_out) -> float:
    """The highest exact similarity of a row of `train` to one of `held_out`, by an inverted index of all shingles."""
    sets = [shingles(fold(row["problem"], row["approach"])) for row in held_out]
    index = defaultdict(list)
    for number, row in enumerate(sets):
        for shingle in row:
            index[shingle].append(number)
    highest = 0.0
    for row in train:
        mine = shingles(fold(row["problem"], row["approach"]))
        shared = Counter(number for shingle in mine if shingle in index for number in index[shingle])
        highest = max([highest, *(n / (len(mine) + len(sets[number]) - n) for number, n in shared.items())])
    return highest


def load_tokenizer(args: PrepareArguments):
    """The tokenizer to count lengths with, tags added as training adds them; None where none is named."""
    if args.tokenizer_name is None:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name)
    except (OSError, ValueError) as error:
        sys.exit(f"--tokenizer_name {args.tokenizer_name}: {str(error).splitlines()[0]}")
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)}, replace_extra_special_tokens=False)
    return tokenizer


def choose_splits(clusters, years, args: PrepareArguments) -> dict:
    """
    Row numbers of each split, shuffled with the seed; `dropped` holds what `--test_from_year` cannot place.

    Rows that have a near duplicate stay in train together: what is validated or tested on resembles nothing else.
    """
    import numpy as np

    order = np.random.default_rng(args.seed).permutation(len(clusters))
    alone = (np.bincount(clusters) == 1)[clusters]
    num_validation = int(len(clusters) * args.validation_fraction)
    if args.test_from_year is None:
        num_test = int(len(clusters) * args.test_fraction)
        late, dropped = np.zeros(len(clusters), bool), np.empty(0, np.int64)
        test, validation = np.split(order[alone[order]][: num_test + num_validation], [num_test])
    else:
        late = years >= args.test_from_year
        spans = np.isin(clusters, clusters[~late])[order]
        test, dropped = order[late[order] & ~spans], order[late[order] & spans]
        validation = order[(alone & ~late)[order]][:num_validation]
    train = order[~np.isin(order, np.concatenate((test, validation, dropped)))]
    return {"train": train, "validation": validation, "test": test, "dropped": dropped}


def build_splits(source, args: PrepareArguments, id_column: str | None):
    """Cuts, filters and splits `source`; returns the splits and what `build_report.json` says of them."""
    import numpy as np
    from datasets import DatasetDict

    rows = source.map(
        build_rows,
        batched=True,
        fn_kwargs={"args": args, "id_column": id_column, "tokenizer": load_tokenizer(args)},
        remove_columns=source.column_names,
        num_proc=args.num_proc,
        desc="Cutting abstracts into pairs",
    )
    reasons = rows.data.column("reason").to_numpy()
    funnel, report = Counter(reasons.tolist()), {}
    rows = rows.select(np.flatnonzero(reasons == ""))
    years, clusters = rows.with_format("numpy")["year"][:], np.arange(len(rows))
    if args.near_duplicate_threshold and len(rows):
        originals, clusters = find_duplicates(rows, years, args)
        funnel["exact_copy"] = len(rows) - len(originals)
        rows, years, sizes = rows.select(originals), years[originals], np.bincount(clusters)
        where = "no cluster stands in two splits" if args.test_from_year else "all of them in train"
        counts = {"clusters": int((sizes > 1).sum()), "rows": int(sizes[sizes > 1].sum())}
        report["near_duplicates"] = {**counts, "where": where}
    chosen = choose_splits(clusters, years, args)
    funnel["near_copy_of_earlier_year"] = len(chosen.pop("dropped"))
    kept = sum(map(len, chosen.values()))
    report["funnel"] = {"read": len(source), **{reason: funnel[reason] for reason in DROP_REASONS}, "kept": kept}
    if not len(chosen["train"]):
        dropped = ", ".join(f"{funnel[reason]:,} {reason}" for reason in DROP_REASONS if funnel[reason])
        sys.exit(f"--dataset_name {args.dataset_name}: of {len(source):,} rows none is left for train ({dropped})")
    # A split of no rows cannot be opened: a twentieth of fewer than 20 rows is left out.
    splits = DatasetDict({name: rows.select(indices) for name, indices in chosen.items() if len(indices)})
    report["splits"] = {name: len(split) for name, split in splits.items()}
    if args.check_leakage:
        pairs = [("validation", "test"), ("train", "validation"), ("train", "test")]
        report["highest_similarity"] = {
            f"{one} to {other}": round(highest_similarity(splits[one], splits[other]), 4)
            for one, other in pairs
            if {one, other} <= splits.keys()
        }
    lengths = splits["train"].with_format("numpy")
    report["words"] = {name: describe_lengths(lengths[f"{name}_words"][:]) for name in ("problem", "approach")}
    if args.tokenizer_name:
        tokens = lengths["tokens"][:]
        report["tokens"] = {**describe_lengths(tokens), "share over 512": round(float((tokens > 512).mean()), 4)}
    return splits.select_columns(list(COLUMNS)), report


def describe_lengths(lengths) -> dict[str, float]:
    """Mean and percentiles of some lengths."""
    import numpy as np

    return {"mean": round(float(lengths.mean()), 1)} | {
        f"p{q}": int(np.percentile(lengths, q)) for q in (5, 50, 95, 99)
    }


def plot_funnel(funnel: dict[str, int], path: Path) -> None:
    """The funnel as horizontal bars, for the card."""
    from matplotlib.figure import Figure  # pyplot would look for a display

    counts = {reason.replace("_", " "): count for reason, count in funnel.items() if count}
    figure = Figure(figsize=(7, 0.5 + 0.4 * len(counts)), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if name in ("read", "kept") else "tab:orange" for name in counts]
    axes.bar_label(axes.barh(list(counts), list(counts.values()), color=colours), fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="rows", xlim=(0, 1.15 * funnel["read"]))
    figure.savefig(path, dpi=150)


def table(title: str, values: dict) -> str:
    """A two-column Markdown table."""
    lines = [f"| {title} | |", "|---|---|"]
    shown = {name.replace("_", " "): f"{v:,}" if isinstance(v, int | float) else v for name, v in values.items()}
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in shown.items())])


def make_card(splits, report: dict, files: dict[str, dict]) -> str:
    """The dataset's card: where it comes from, what was dropped, how long its rows are, and what it is not."""
    from huggingface_hub import DatasetCardData

    size = sum(report["splits"].values())
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    data = DatasetCardData(
        language="en",
        license=report["source"].get("license", "unknown"),
        task_categories=["text-generation"],
        pretty_name="Problem–approach pairs",
        size_categories="n<1K" if size < 1000 else "{}<n<{}".format(*bounds[len(str(size)) - 4 : len(str(size)) - 2]),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": file["path"]} for name, file in files.items()],
            }
        ],
        dataset_info={
            "features": [{"name": name, "dtype": "string"} for name in COLUMNS],
            "splits": [
                {"name": name, "num_bytes": file["num_bytes"], "num_examples": report["splits"][name]}
                for name, file in files.items()
            ],
        },
    )
    lengths = {f"{name}, {key}": value for name, row in report["words"].items() for key, value in row.items()}
    samples = [splits["train"][index] for index in range(min(3, len(splits["train"])))]
    shown = "\n\n".join(f"> **Problem.** {row['problem']}\n>\n> **Approach.** {row['approach']}" for row in samples)
    source = ", ".join(f"{name} {value}" for name, value in report["source"].items() if name != "license" and value)
    if "near_duplicates" in report:
        duplicates = (
            "{rows:,} rows in {clusters:,} clusters are near duplicates: they share {threshold:.0%} or more of their\n"
            "word 5-grams with another row; {where}."
        ).format(**report["near_duplicates"], threshold=report["arguments"]["near_duplicate_threshold"])
    else:
        duplicates = "Not looked for: a row of test may stand in train under another id."
    licence = report["source"].get("license", "not stated")
    sections = [
        "# Problem–approach pairs",
        "One-sentence research problems and the approaches that followed them, cut from abstracts: the first\n"
        "sentence is the `problem`, the rest is the `approach`; a model is trained on `prompt` and `completion`.",
        f"Source: {source}. Licence, as the source states it: {licence}; the abstracts remain their authors'.",
        table("rows", report["splits"]),
        "## What was dropped\n\nIn this order, each row under one reason. Control characters became spaces.",
        table("funnel", report["funnel"]),
        "![The funnel](funnel.png)",
        f"## Near duplicates\n\n{duplicates}",
        *([table("highest similarity left", report["highest_similarity"])] if "highest_similarity" in report else []),
        "## Lengths",
        table("words in train", lengths),
        *(
            [table(f"tokens in train, {report['arguments']['tokenizer_name']}", report["tokens"])]
            if "tokens" in report
            else []
        ),
        f"## Three rows\n\n{shown}",
        "## What it is not",
        "- Clean labels. By human labels on 1,963 computer-science abstracts, 96 % of a first sentence is background\n"
        "  or objective; of the rest 50 % is method or objective and 25 % result (`benchmarks/README.md`).\n"
        "- A test of memory. Models pre-trained on arXiv, TinyLlama among them, may have seen the test abstracts; to\n"
        "  test on newer ones, split in time with `--year_column` and `--test_from_year`.",
        f"## How it was built\n\n```\n{report['command']}\n```",
    ]
    return f"---\n{data}\n---\n\n" + "\n\n".join(sections) + "\n"


def public_name(name: str) -> str:
    """A Hub id as it is, local files by their last name alone: a published card must not show the user's folders."""
    return Path(name).name if find_files(name) or Path(name).exists() else name


def make_report(args: PrepareArguments, licence: str | None, report: dict) -> dict:
    """`build_report.json`: source, arguments, the exact command, and the counts."""
    arguments = {name: value for name, value in asdict(args).items() if value is not None and value is not False}
    # Where, how fast and to whom is not what: the same dataset gets the same bytes.
    for name in ("output_dir", "num_proc", "overwrite", "push_to_hub", "hub_dataset_id", "public"):
        arguments.pop(name, None)
    for name in ("dataset_name", "tokenizer_name"):
        if name in arguments:
            arguments[name] = public_name(arguments[name])
    options = shlex.join(part for name, value in arguments.items() for part in (f"--{name}", str(value)))
    place = {name.removeprefix("dataset_"): value for name, value in arguments.items() if name.startswith("dataset_")}
    stated = {"license": licence} if licence else {}
    return {
        "source": {**place, **stated},
        "arguments": arguments,
        "command": f"python prepare_dataset.py {options} --output_dir DIR",
        **report,
    }


def write_dataset(splits, report: dict, output_dir: Path) -> None:
    """Writes everything beside `output_dir`, then renames: a killed run leaves the folder absent or whole."""
    from pyarrow.parquet import read_metadata

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.partial-", dir=output_dir.parent))
    try:
        (partial / "data").mkdir()
        files = {}
        for name, split in splits.items():
            path = partial / "data" / f"{name}.parquet"
            split.to_parquet(path)
            # datasets 5.2 takes a folder for one that it has cached when name and card agree: the card has to tell the
            # content apart, or a dataset built again in its place would be read as the old one.
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            size = sum(map(itemgetter("total_byte_size"), read_metadata(path).to_dict()["row_groups"]))
            files[name] = {"path": f"data/{name}-00000-of-00001-{digest}.parquet", "num_bytes": size}
            path.rename(partial / files[name]["path"])
        plot_funnel(report["funnel"], partial / "funnel.png")
        (partial / "README.md").write_text(make_card(splits, report, files), encoding="utf-8")
        write_report(report, partial)
        os.chmod(partial, 0o755)  # mkdtemp's 0o700 would hide a shared dataset from colleagues
        if output_dir.exists():
            shutil.rmtree(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_report(report: dict, folder: Path) -> None:
    (folder / "build_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def push_dataset(folder: Path, args: PrepareArguments) -> None:
    """Publishes `folder` in one commit, card and data together, and writes the revision to its `build_report.json`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import HTTPError

    later = (
        f"To publish it later: python prepare_dataset.py --push_only {folder} --hub_dataset_id {args.hub_dataset_id}"
    )
    if not (folder / "build_report.json").is_file():
        sys.exit(f"--push_only {folder}: no dataset that this script built")
    if get_token() is None:
        sys.exit(f"Not published: no Hub token (`hf auth login`, or HF_TOKEN). {folder} is whole. {later}")
    ours = ("README.md", "build_report.json", "funnel.png", "data/*.parquet")  # and nothing else that lies there
    api, files = HfApi(), sorted(path for pattern in ours for path in folder.glob(pattern))
    additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    try:
        repo_id = api.create_repo(
            args.hub_dataset_id, repo_type="dataset", private=not args.public, exist_ok=True
        ).repo_id
        info = api.dataset_info(repo_id)
        new = {operation.path_in_repo for operation in additions}
        old = [file.rfilename for file in info.siblings if file.rfilename.startswith("data/")]
        deletions = [CommitOperationDelete(path) for path in old if path not in new]
        commit = api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message="Build the dataset",
            repo_type="dataset",
            parent_commit=info.sha,
        )
    except (OSError, HTTPError, RuntimeError, KeyError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        sys.exit(f"Not published to {args.hub_dataset_id}: {cause}. {folder} is whole. {later}")
    report = json.loads((folder / "build_report.json").read_text(encoding="utf-8"))
    write_report({**report, "hub": {"dataset": repo_id, "revision": commit.oid}}, folder)
    print(f"Published {repo_id}, revision {commit.oid}")


def main(args: PrepareArguments) -> None:
    if args.push_only:
        return push_dataset(Path(args.push_only), args)
    from datasets import disable_caching

    disable_caching()  # the product is `output_dir`; intermediate Arrow files go when the process ends
    source, id_column, licence = load_source(args)
    splits, report = build_splits(source, args, id_column)
    report = make_report(args, licence, report)
    write_dataset(splits, report, Path(args.output_dir))
    for reason, count in report["funnel"].items():
        if count or reason in ("read", "kept"):
            print(f"{reason.replace('_', ' '):>26} {count:>9,}")
    print(", ".join(f"{name} {size:,}" for name, size in report["splits"].items()))
    if "near_duplicates" in report:
        print("{rows:,} rows in {clusters:,} clusters of near duplicates, {where}".format(**report["near_duplicates"]))
    if missing := {"validation", "test"} - report["splits"].keys():
        print(f"No row for {' and '.join(sorted(missing))}: too small a share, or too few without near duplicates")
    print(f"Wrote {args.output_dir}. Next: accelerate launch train_sft.py --dataset_name {args.output_dir} …")
    if args.push_to_hub:
        push_dataset(Path(args.output_dir), args)


def parse_arguments(argv: list[str] | None = None) -> PrepareArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(PrepareArguments, usage="python %(prog)s --ARGUMENT VALUE … (all of them: --help)")
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except KeyboardInterrupt:
        print("\nStopped: nothing is half written.", file=sys.stderr)
        sys.exit(130)
