# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bm25s==0.3.16",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "gradio==6.31.0",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "safetensors==0.8.0",
#     "starlette==1.10.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""
A page on which a problem becomes drafts of an approach, side by side, and which shows where each comes from.

Reads a model that `merge_and_push.py` wrote, or an adapter of `train_sft.py`, and, to say what a draft shares with
them, the pairs that it was trained on. As a Space (docs/space.md) it takes them from variables.

    python app.py --model outputs/model
    python app.py --model user/model --dataset_name user/pairs --base_model_name_or_path user/base
"""

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler()  # to Ctrl-C, before all else

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from approach.arguments import check_ranges, parse
from approach.errors import run_script
from approach.prompt import MAX_NEW_TOKENS, REPETITION_PENALTY
from approach.runtime import set_up_torch, silence_loading

if TYPE_CHECKING:
    import gradio as gr

    from approach.generation.engine import Drafter
    from approach.page.provenance import TrainingPairs

MAX_WAITING = 20  # requests; the next one is refused
DEFAULTS = {  # of the page's settings, in the order in which the page sends them
    "num_drafts": 2,
    "temperature": 0.7,
    "top_p": 0.9,
    "seed": 42,
    "max_new_tokens": MAX_NEW_TOKENS,
    "repetition_penalty": REPETITION_PENALTY,
    "guidance": 1.5,  # of sampled drafts: benchmarks/README.md, "Guidance"
}

EXAMPLES = [  # of at most 60 characters: gradio cuts longer ones off
    "Summaries of long documents often miss the main result.",
    "Names are hard to find in old and badly scanned newspapers.",
    "Small language models repeat themselves in long texts.",
    "Speech recognition fails where recordings are scarce.",
]
INTRODUCTION = """
# From a research problem to a draft of an approach

A small language model writes these drafts. It has learned how approaches are written, not which ones work, and it
invents results and citations: **check everything before you use it.**
"""


def from_environment(variable: str) -> Callable[[], str | None]:
    """A default that an environment variable gives; an empty one counts as none."""
    return lambda: os.environ.get(variable) or None


@dataclass
class AppArguments:
    """Which model drafts, what it is compared with, and who can reach the page."""

    model_name_or_path: str | None = field(
        default_factory=from_environment("MODEL"),
        metadata={
            "aliases": "--model",
            "help": "A merged folder, an adapter folder, or a Hub id. Or the environment variable MODEL.",
        },
    )
    dataset_name: str | None = field(
        default_factory=from_environment("DATASET"),
        metadata={
            "help": "The training pairs, folder or Hub id: shows where drafts come from. Or the environment variable "
            "DATASET."
        },
    )
    base_model_name_or_path: str | None = field(
        default_factory=from_environment("BASE_MODEL"),
        metadata={
            "help": "The base that the model was tuned from, to draft beside it on request. An adapter is merged into "
            "it. Or the environment variable BASE_MODEL."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Of a model on the Hub: branch, tag or commit."}
    )
    base_model_revision: str | None = field(
        default=None, metadata={"help": "Of a base on the Hub; without, the commit that an adapter's training saw."}
    )
    host: str | None = field(
        default=None, metadata={"help": "Address to listen on: 0.0.0.0 for everybody; without, this machine alone."}
    )
    port: int | None = field(
        default=None, metadata={"help": "Port to listen on; without, the first free one from 7860."}
    )
    allowed_hosts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names by which the page is asked for, where they are not this machine's: drafts.example.org"
        },
    )

    def __post_init__(self):
        if not self.model_name_or_path:
            raise ValueError("--model_name_or_path is missing: a folder or Hub id (in a Space: the variable MODEL)")
        check_ranges(self, port="[1, 65535]")


def main(args: AppArguments) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    set_up_torch()
    from approach.page.provenance import TrainingPairs
    from approach.page.server import serve

    tuned, base = load_drafters(args)
    page = build_page(tuned, base, TrainingPairs(args.dataset_name))
    url = serve(page, args.host, args.port, args.allowed_hosts or [])
    print(f"The page is at {url} until you press Ctrl-C.", flush=True)
    threading.Event().wait()


def load_drafters(args: AppArguments) -> "tuple[Drafter, Drafter | None]":
    """The tuned model, and its base where one is named; raises UserError where one cannot be loaded."""
    from approach.generation.engine import Drafter
    from approach.models import default_device

    silence_loading()
    base, base_name = None, args.base_model_name_or_path
    options = {"device": default_device(), "is_alone": not base_name}
    tuned = Drafter(
        args.model_name_or_path,
        revision=args.model_revision,
        base=base_name,
        base_revision=args.base_model_revision,
        **options,
    )
    tuned.check_trained()
    if base_name:
        argument, revision = "--base_model_name_or_path", args.base_model_revision
        base = Drafter(base_name, argument=argument, revision=revision, is_base=True, **options)
    return tuned, base


def build_page(tuned: "Drafter", base: "Drafter | None", pairs: "TrainingPairs") -> "gr.Blocks":
    """The page: problem, buttons and settings above, the drafts below, and what each button does."""
    import gradio as gr

    from approach.templates import read_template

    with gr.Blocks(title="Research approach drafts", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        problem = gr.Textbox(
            label="Research problem, in one sentence",
            placeholder="What is not known, not possible, or goes wrong?",
            lines=1,
            max_lines=8,
            autofocus=True,
            elem_id="problem",
        )
        with gr.Row():
            start = gr.Button("Draft", variant="primary", elem_id="start", scale=3, min_width=160)
            stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
        gr.Examples(EXAMPLES, inputs=problem, label="For example")
        settings = add_settings(has_base=base is not None)
        output = gr.HTML(elem_id="drafts", js_on_load=None)
        with gr.Row(elem_id="actions"):
            copy, download = gr.Button("Copy as Markdown", size="sm"), gr.Button("Download as Markdown", size="sm")

        on_draft, on_stop = make_handlers(tuned, base, pairs)
        gr.on(
            [start.click, problem.submit],
            on_draft,
            inputs=[problem, *settings],
            outputs=output,
            api_name="draft",
            api_visibility="undocumented",
            show_progress="minimal",
        )
        stop.click(on_stop, queue=False, api_visibility="private")
        copy.click(None, js=read_template("copy_drafts.js"))
        download.click(None, js=read_template("download_drafts.js"))
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def add_settings(has_base: bool) -> list["gr.components.Component"]:
    """The folded settings: how drafts are sampled, how long they may be, and whether the base drafts, too."""
    import gradio as gr

    with gr.Accordion("Settings", open=False, elem_id="settings"):
        with gr.Row():
            num_drafts = gr.Slider(1, 4, value=DEFAULTS["num_drafts"], step=1, label="Drafts")
            temperature = gr.Slider(
                0, 1.5, value=DEFAULTS["temperature"], step=0.05, label="Temperature", info="0: the likeliest words"
            )
            top_p = gr.Slider(
                0.05, 1, value=DEFAULTS["top_p"], step=0.05, label="Top-p", info="1: any word may be drawn"
            )
        with gr.Row():
            max_new_tokens = gr.Slider(
                16, MAX_NEW_TOKENS, value=DEFAULTS["max_new_tokens"], step=16, label="Longest draft, in tokens"
            )
            penalty = gr.Slider(
                1,
                1.5,
                value=DEFAULTS["repetition_penalty"],
                step=0.05,
                label="Repetition penalty",
                info="1: none; loops likely",
            )
            guidance = gr.Slider(1, 3, value=DEFAULTS["guidance"], step=0.25, label="Guidance", info="1: none")
            seed = gr.Number(
                DEFAULTS["seed"], label="Seed", info="Draft 2 takes the next", precision=0, minimum=0, maximum=2**31
            )
            other_seed = gr.Button("Another seed", scale=0, min_width=180)
        with_base = gr.Checkbox(False, label="The base model's draft beside them", visible=has_base)
    other_seed.click(None, outputs=seed, js="() => Math.floor(Math.random() * 2 ** 31)")
    return [num_drafts, temperature, top_p, seed, max_new_tokens, penalty, guidance, with_base]


def make_handlers(
    tuned: "Drafter", base: "Drafter | None", pairs: "TrainingPairs"
) -> tuple[Callable[..., Iterator[str]], Callable[..., None]]:
    """What the buttons "Draft" and "Stop" do."""
    import gradio as gr

    from approach.generation.sampling import build_decoding
    from approach.page.html import answer

    readers: dict[str, threading.Event] = {}  # those for whom drafts are being written, and how to stop

    def on_draft(problem, number, temperature, top_p, seed, length, penalty, guidance, with_base, request: gr.Request):
        given = (number, temperature, top_p, seed, length, penalty, guidance)
        settings = {  # a field that the reader has emptied is None
            name: default if value is None else value
            for (name, default), value in zip(DEFAULTS.items(), given, strict=True)
        }
        decoding = build_decoding(
            settings["temperature"], settings["top_p"], settings["repetition_penalty"], settings["guidance"]
        )
        seeds = range(int(settings["seed"]), int(settings["seed"] + settings["num_drafts"]))
        drafters = [tuned, base] if base and with_base else [tuned]
        stopped = readers[request.session_hash] = threading.Event()
        try:
            yield from answer(drafters, pairs, problem, decoding, seeds, int(settings["max_new_tokens"]), stopped)
        finally:
            readers.pop(request.session_hash, None)

    def on_stop(request: gr.Request):
        # Not gradio's own `cancels`: it would show an error, and leave the drafts without their provenance.
        if request.session_hash in readers:
            readers[request.session_hash].set()

    return on_draft, on_stop


def parse_arguments(argv: list[str] | None = None) -> AppArguments:
    return parse(AppArguments, argv, usage="python %(prog)s --model MODEL … (all of it: --help)")


if __name__ == "__main__":
    run_script(lambda: main(parse_arguments()))
