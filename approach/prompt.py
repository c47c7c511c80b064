"""The prompt: its four tags, how problem and approach become text, and the chat template that says the same."""

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
MAX_NEW_TOKENS = 448  # of a draft: the report's 512 tokens of prompt and approach, less a prompt

# The last user message is the problem, an assistant message after it its approach. A system message and earlier turns
# are left out: training saw neither. A tag in the text becomes a space, so that no text can close the problem early.
CHAT_TEMPLATE = """\
{%- set turn = namespace(problem='', approach='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{%- set turn.problem = message['content'] -%}{%- set turn.approach = '' -%}
{%- elif message['role'] == 'assistant' -%}{%- set turn.approach = message['content'] -%}
{%- endif -%}
{%- endfor -%}
{{- BOS + '<problem>' + (turn.problem STRIP | trim) + '</problem><approach>' -}}
{%- if turn.approach -%}{{- ' ' + (turn.approach STRIP | trim) + '</approach>' -}}{%- endif -%}
"""


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
    strip = "".join(f" | replace('{tag}', ' ')" for tag in TAGS)
    template = CHAT_TEMPLATE.replace("STRIP", strip)
    tokenizer.chat_template = template.replace("BOS", "bos_token" if begins_with_bos else "''")


def encode_problem(tokenizer: "PreTrainedTokenizerBase", problem: str) -> "BatchEncoding":
    """
    The ids `(1, tokens)` of exactly the prompt that training saw; tags in the text are taken out.

    The chat template says the same. It is for other clients: a model's folder may hold another.
    """
    for tag in TAGS:
        problem = problem.replace(tag, " ")
    return tokenizer(make_prompt(" ".join(problem.split())), return_tensors="pt")


def render_chat(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> str:
    """
    What a tokenizer's own chat template makes of messages, up to where the answer begins.

    Raises:
        ValueError: where the template, which may be a stranger's, fails.
    """
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template can raise anything
        raise ValueError(f"its chat template fails: {type(error).__name__}: {first_line(error)}") from error


def differences_from_training(problem: str) -> list[str]:
    """How a problem differs from those that the model learned from, a short plain sentence each."""
    from nupunkt import sent_tokenize  # slow to import, and training needs none of it

    found = []
    if tags := [tag for tag in TAGS if tag in problem]:
        found.append(f"{', '.join(tags)}: taken out; the prompt brings its own tags")
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
