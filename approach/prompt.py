"""The prompt: its four tags, how problem and approach become text, and the chat template that says the same."""

import re
from typing import TYPE_CHECKING

from approach.errors import first_line, user_errors

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
END_TAG = TAGS[-1]  # ends generation
MAX_PROBLEM_WORDS = 50  # the report's filter: training sees no longer problem
# What keeps small models from looping, which greedy drafts do without it; chosen on validation rows
# (benchmarks/README.md, "Decoding").
REPETITION_PENALTY = 1.15
EXAMPLE_PROBLEM = "Summaries of long documents often leave out the main result."  # of the next command to type
MAX_NEW_TOKENS = 448  # of a draft: the report's 512 tokens of prompt and approach, less a prompt

# The last user message is the problem, an assistant message after it its approach. A system message and earlier turns
# are left out: training saw neither. A tag or another special token in the text becomes a space, so that no text can
# close the problem early; line breaks and runs of spaces in the problem become one space, as in training.
CHAT_TEMPLATE = """\
{%- set turn = namespace(problem='', approach='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{%- set turn.problem = message['content'] -%}{%- set turn.approach = '' -%}
{%- elif message['role'] == 'assistant' -%}{%- set turn.approach = message['content'] -%}
{%- endif -%}
{%- endfor -%}
{{- BOS + '<problem>' + (turn.problem STRIP FOLD | trim) + '</problem><approach>' -}}
{%- if turn.approach -%}{{- ' ' + (turn.approach STRIP | trim) + '</approach>' -}}{%- endif -%}
"""

# White space in filters that every client knows: runs of up to 16 spaces become one.
FOLD = r"| replace('\n', ' ') | replace('\t', ' ')" + " | replace('  ', ' ')" * 4


def make_prompt(problem: str, background: str = "") -> str:
    """What the model reads: the problem, and after it the background where a dataset has one."""
    return f"<problem>{f'{problem} {background}' if background else problem}</problem><approach>"


def make_completion(approach: str) -> str:
    """What the model learns to write: a space, the approach, and the tag that ends it."""
    return f" {approach}{END_TAG}"


def add_special_tokens(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Adds the four tags to those special tokens that the tokenizer has."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)}, replace_extra_special_tokens=False)


def add_tags(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Adds the four tags as special tokens and the chat template, which renders exactly what training sees."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # before the end tag becomes eos: padding must differ from it
    add_special_tokens(tokenizer)
    begins_with_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    strip = "".join(f" | replace({quote(token)}, ' ')" for token in special_tokens(tokenizer))
    template = CHAT_TEMPLATE.replace("BOS", "bos_token" if begins_with_bos else "''").replace("FOLD", FOLD)
    tokenizer.chat_template = template.replace("STRIP", strip)  # last: a token may hold the letters BOS


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The texts that the tokenizer would read as special tokens, the tags first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [*TAGS, *sorted(set(added) - set(TAGS))]


def special_token_pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern:
    """Matches the text of a special token with the white space around it."""
    longest_first = sorted(special_tokens(tokenizer), key=len, reverse=True)
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, longest_first))})\s*")


def normalize_whitespace(text: str) -> str:
    """The text with every run of white space, line breaks included, as one space, and none at its ends."""
    return " ".join(text.split())


def clean_text(text: str, special: re.Pattern) -> str:
    """A text without special tokens, by which it could close the problem or end, and with normalized white space."""
    return normalize_whitespace(special.sub(" ", text))


def clean_prompt(prompt: str, special: re.Pattern) -> str:
    """A dataset's prompt with its problem cleaned as it is in drafting; other texts are left as they are."""
    beginning, end = make_prompt("\0").split("\0")
    problem = prompt.removeprefix(beginning).removesuffix(end)
    is_ours = prompt == f"{beginning}{problem}{end}"
    return make_prompt(clean_text(problem, special)) if is_ours else prompt


def clean_completion(completion: str, special: re.Pattern) -> str:
    """A dataset's completion without special tokens in its approach; other texts are left as they are."""
    approach = completion.removesuffix(END_TAG)
    is_ours = approach != completion
    return make_completion(special.sub(" ", approach).strip()) if is_ours and special.search(approach) else completion


def quote(text: str) -> str:
    """A text as a string of Jinja."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def encode_problem(tokenizer: "PreTrainedTokenizerBase", problem: str) -> "BatchEncoding":
    """
    The ids `(1, tokens)` of exactly the prompt that training saw; special tokens in the text are taken out.

    The chat template says the same. It is for other clients: a model's folder may hold another.
    """
    problem = clean_text(problem, special_token_pattern(tokenizer))
    return tokenizer(make_prompt(problem), return_tensors="pt")


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """The ids of a dataset's prompt, as training reads it."""
    return tokenizer(clean_prompt(prompt, special_token_pattern(tokenizer)))["input_ids"]


def encode_chat(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> list[int]:
    """
    The token ids that a tokenizer's own chat template makes of messages, up to where the answer begins.

    Raises:
        ValueError: where the template, which may be a stranger's, fails.
    """
    return apply_template(tokenizer, messages, tokenize=True)


def render_chat(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> str:
    """
    The text that `encode_chat` tokenizes, control tokens included: a tokenizer must add none of its own.

    Raises:
        ValueError: where the template, which may be a stranger's, fails.
    """
    return apply_template(tokenizer, messages, tokenize=False)


def apply_template(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], tokenize: bool
) -> list[int] | str:
    """What the chat template makes of messages, as ids or as text; raises ValueError where it fails."""
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=tokenize, add_generation_prompt=True, return_dict=False
        )
    except Exception as error:  # a template can raise anything
        raise ValueError(f"its chat template fails: {type(error).__name__}: {first_line(error)}") from error


def encode_continuation(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """
    The token ids of a text that begins with a space, as they follow the ids of a prompt.

    It is tokenized behind a line break, as chat templates end: alone, some tokenizers would add a space of their own.
    """
    before, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("\n", f"\n{text}"))
    if ids[: len(before)] == before:
        return ids[len(before) :]
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def differences_from_training(problem: str, tokenizer: "PreTrainedTokenizerBase | None" = None) -> list[str]:
    """
    How a problem differs from those that the model learned from, a short plain sentence each.

    With the model's tokenizer special tokens other than the tags are named, too.
    """
    from nupunkt import sent_tokenize  # slow to import, and training needs none of it

    found = []
    if tokens := [token for token in (special_tokens(tokenizer) if tokenizer else TAGS) if token in problem]:
        found.append(f"{', '.join(tokens)}: taken out; the prompt brings its own tags")
    words, sentences = len(problem.split()), len(sent_tokenize(problem))
    if words > MAX_PROBLEM_WORDS:
        found.append(f"{words} words: the model learned from problems of at most {MAX_PROBLEM_WORDS}")
    if sentences > 1:
        found.append(f"{sentences} sentences: the model learned from problems of one")
    return found


def load_tokenizer(name: str, argument: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or a Hub id; raises UserError that names `argument` where there is none."""
    from transformers import AutoTokenizer  # slow to import, and most datasets are built without one

    with user_errors(argument, name):
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
