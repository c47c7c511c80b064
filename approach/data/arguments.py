"""The arguments of a dataset: what to read, what makes a pair, and how the pairs are split."""

import os
import re
from dataclasses import dataclass, field
from functools import cached_property

from approach.arguments import check_ranges
from approach.data.pair_rules import PAIR_RULES, SENTENCE_RULES
from approach.prompt import MAX_PROBLEM_WORDS

ARXIV = {
    "dataset_name": "ccdv/arxiv-summarization",
    "dataset_config": "document",
    "dataset_revision": "240aaf1a969b3f8cd0ade6986bfad0cd730ee288",
}
ARXIV_ROWS = 203_037  # of the train split, by its card and by the original report
# A copy of Kaggle's Cornell-University/arxiv: a paper's dates are in `versions`, its hard-wrapped `abstract` is prose.
ARXIV_METADATA = "librarian-bots/arxiv-metadata-snapshot"
VERSIONS_COLUMN = "versions"
MIN_PROBLEM_WORDS = 4  # fewer words state no problem: "Abstract", "BACKGROUND AND PURPOSE"


@dataclass
class DatasetArguments:
    """Everything that decides which rows a dataset has; the functions of `approach.data` take it as it is."""

    # What makes a pair
    pair_rule: str = field(
        default="first_sentence",
        metadata={
            "help": " ".join(f"'{name}': {rule.help}" for name, rule in PAIR_RULES.items()),
            "choices": PAIR_RULES,
        },
    )
    prompt_context: str = field(
        default="problem",
        metadata={
            "help": "What the prompt holds: 'problem', or 'background': the other background sentences after it, at "
            "most 80 words. Needs --pair_rule roles.",
            "choices": ["problem", "background"],
        },
    )
    keep_telling_problems: bool = field(
        default=False, metadata={"help": "By roles: a problem may tell its own approach ('we propose …')."}
    )
    keep_findings: bool = field(
        default=False, metadata={"help": "By roles: keep sentences such as 'We find that …' in the approach."}
    )

    unlabelled: str = field(
        default="drop",
        metadata={
            "help": "By labels: what becomes of an abstract without labels: it is dropped, or cut by another rule.",
            "choices": ["drop", "first_sentence", "roles"],
        },
    )

    # How the pairs are split
    near_duplicate_threshold: float = field(
        default=0.7,
        metadata={"help": "Jaccard similarity of word 5-grams from which rows may not be in two splits; 0: no check."},
    )
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    test_fraction: float = field(default=0.05, metadata={"help": "Share of the kept rows, rounded down."})
    year_column: str | None = field(
        default=None,
        metadata={"help": "Column of the years or dates, for --test_from_year; of arXiv's versions the first counts."},
    )
    test_from_year: int | None = field(default=None, metadata={"help": "Test on rows of this year and later only."})
    check_leakage: bool = field(default=False, metadata={"help": "Measure the highest similarity left across splits."})
    seed: int = field(default=42, metadata={"help": "Seed of the shuffle before the split."})

    # What to read
    dataset_name: str = field(
        default=ARXIV["dataset_name"],
        metadata={
            "help": "A file of JSON lines, JSON, CSV, TSV, Parquet, RIS or BibTeX, packed by gzip or not, a folder or "
            "glob of them, or a Hub id."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub dataset to read."})
    categories: str | None = field(
        default=None,
        metadata={"help": "Keep abstracts of these arXiv categories alone, such as cs.CL,cs.LG."},
    )
    abstract_column: str = field(
        default="abstract",
        metadata={
            "help": "Column of the abstracts: text, a list of sentences (then --sentence_rule is not used), "
            "OpenAlex's inverted index, or a list of labelled sections."
        },
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column of the source's ids. Default: id or article_id, else a content hash."}
    )
    problem_column: str | None = field(default=None, metadata={"help": "Ready-made pairs: column of the problems."})
    approach_column: str | None = field(default=None, metadata={"help": "Ready-made pairs: column of the approaches."})

    # How abstracts are cleaned and cut, and which pairs are kept
    clean: bool | None = field(
        default=None,
        metadata={
            "help": "Take markup, entities, invisible characters, headings, labels and copyright lines out of the "
            "texts. Default: true, but false with --sentence_rule report."
        },
    )
    language: str | None = field(
        default=None, metadata={"help": "Drop texts that are not in this language (ISO code, such as en)."}
    )
    sentence_rule: str = field(
        default="auto",
        metadata={
            "help": "'lines': one sentence a line. 'punctuation': prose, by nupunkt. 'report': the original report's "
            "rule. 'auto': lines where the abstract has several (but not paragraphs or hard-wrapped prose), else "
            "punctuation.",
            "choices": SENTENCE_RULES,
        },
    )
    min_sentences: int = field(default=2, metadata={"help": "Drop abstracts of fewer sentences."})
    min_problem_words: int | None = field(
        default=None,
        metadata={
            "help": "Drop pairs whose problem has fewer words. Default: 4, but 1 with --sentence_rule report or "
            "--problem_column."
        },
    )
    max_problem_words: int = field(
        default=MAX_PROBLEM_WORDS, metadata={"help": "Drop pairs whose problem has more words."}
    )
    min_approach_words: int | None = field(
        default=None,
        metadata={
            "help": "Drop pairs whose approach has fewer words. Default: "
            + ", ".join(f"{rule.min_approach_words} with --pair_rule {name}" for name, rule in PAIR_RULES.items())
        },
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer to count lengths in tokens with."})
    max_length: int | None = field(
        default=None, metadata={"help": "Drop pairs of more tokens, which training would cut. Needs --tokenizer_name."}
    )
    num_proc: int = field(
        default=os.cpu_count() or 1, metadata={"help": "Processes; the result does not depend on it."}
    )

    def __post_init__(self):
        if self.dataset_name == ARXIV["dataset_name"]:
            self.dataset_config = self.dataset_config or ARXIV["dataset_config"]
            self.dataset_revision = self.dataset_revision or ARXIV["dataset_revision"]
        if self.dataset_name == ARXIV_METADATA and self.test_from_year is not None:
            self.year_column = self.year_column or VERSIONS_COLUMN
        is_report = self.sentence_rule == "report"
        if self.clean is None:
            self.clean = not is_report
        elif self.clean and is_report:
            raise ValueError("--clean true changes the report's counts: leave out --sentence_rule report")
        if self.min_problem_words is None:
            self.min_problem_words = self.default_min_problem_words
        if self.language is not None and not re.fullmatch("[a-z]{2,3}", self.language):
            raise ValueError(f"--language {self.language} is no ISO code such as en")
        if self.min_approach_words is None:
            self.min_approach_words = PAIR_RULES[self.pair_rule].min_approach_words
        self.check_pair_rule()
        check_ranges(
            self,
            validation_fraction="[0, 0.5)",
            test_fraction="[0, 0.5)",
            near_duplicate_threshold="[0.3, 1]" if self.near_duplicate_threshold else "[0, 1]",  # 0: no check
            seed="[0, inf)",
            min_sentences="[2, inf)",
            min_problem_words="[1, inf)",
            max_problem_words="[1, inf)",
            min_approach_words="[1, inf)",
            max_length="[1, inf)",
            num_proc="[1, inf)",
        )
        if (self.year_column is None) != (self.test_from_year is None):
            raise ValueError("--year_column and --test_from_year go together")
        if self.categories is not None and not self.category_names:
            raise ValueError("--categories names none: give them with commas between, such as cs.CL,cs.LG")
        for one, other in (("problem", "approach"), ("approach", "problem")):
            if getattr(self, f"{one}_column") and not getattr(self, f"{other}_column"):
                raise ValueError(f"--{one}_column needs --{other}_column")
        if self.max_length and not self.tokenizer_name:
            raise ValueError("--max_length needs --tokenizer_name to count tokens with")

    def check_pair_rule(self) -> None:
        """Raises ValueError where an argument belongs to another pair rule, or pairs are ready-made."""
        if self.problem_column and self.pair_rule != "first_sentence":
            raise ValueError(f"--pair_rule {self.pair_rule} cuts abstracts: with --problem_column leave it out")
        allowed = PAIR_RULES[self.pair_rule].arguments
        for name, rule in PAIR_RULES.items():
            for argument in rule.arguments:
                value = getattr(self, argument)
                if argument not in allowed and value != self.__dataclass_fields__[argument].default:
                    given = f"--{argument}" if value is True else f"--{argument} {value}"
                    raise ValueError(f"{given} needs --pair_rule {name}")

    @property
    def default_min_problem_words(self) -> int:
        """The default of --min_problem_words: the report's rule and ready-made pairs keep every problem."""
        return 1 if self.sentence_rule == "report" or self.problem_column else MIN_PROBLEM_WORDS

    @cached_property
    def category_names(self) -> frozenset[str]:
        """The categories of `--categories`, with or without spaces around the commas."""
        return frozenset((self.categories or "").replace(",", " ").split())
