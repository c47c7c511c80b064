"""Ollama's `Modelfile`: the prompt and the decoding, which it takes from neither chat template nor GGUF."""

import re

from approach.prompt import END_TAG, MAX_NEW_TOKENS, REPETITION_PENALTY, make_prompt

# How far back llama.cpp looks for repeated tokens: over prompt and draft, as transformers does. Its own default is 64.
PENALTY_TOKENS = 2048


def make_modelfile(file: str) -> str:
    """The text of a Modelfile for the GGUF `file` in the same folder: greedy drafts, as transformers writes them."""
    return f"""\
FROM ./{file}
TEMPLATE "{make_prompt("{{ .Prompt }}")}"
PARAMETER stop "{END_TAG}"
PARAMETER temperature 0
PARAMETER repeat_penalty {REPETITION_PENALTY}
PARAMETER repeat_last_n {PENALTY_TOKENS}
PARAMETER num_predict {MAX_NEW_TOKENS}
"""


def render_modelfile(text: str, problem: str) -> str:
    """What Ollama makes of a problem by the TEMPLATE of a Modelfile."""
    return re.search(r'^TEMPLATE "(.*)"$', text, re.MULTILINE)[1].replace("{{ .Prompt }}", problem)
