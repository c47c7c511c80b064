# /// script
# requires-python = ">=3.11"
# dependencies = [
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
from approach.errors import UserError, first_line, run_script
from approach.prompt import MAX_NEW_TOKENS, REPETITION_PENALTY
from approach.runtime import set_up_torch

if TYPE_CHECKING:
    import gradio as gr

    from approach.generation.streaming import DraftingModel
    from approach.page.provenance import TrainingPairs

GUIDANCE = 1.5  # of sampled drafts: benchmarks/README.md, "Guidance"
MAX_WAITING = 20  # requests; the next one is refused

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
    from approach.generation.streaming import load_drafting_model
    from approach.page.provenance import TrainingPairs

    base, base_name = None, args.base_model_name_or_path
    tuned = load_drafting_model(args.model_name_or_path, "--model_name_or_path", base=base_name, alone=not base_name)
    if base_name:
        base = load_drafting_model(base_name, "--base_model_name_or_path", tuned=False, alone=False)
    page = build_page(tuned, base, TrainingPairs(args.dataset_name))
    url = serve(page, args.host, args.port, args.allowed_hosts or [])
    print(f"The page is at {url} until you press Ctrl-C.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nStopped.")


def build_page(tuned: "DraftingModel", base: "DraftingModel | None", pairs: "TrainingPairs") -> "gr.Blocks":
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
            num_drafts = gr.Slider(1, 4, value=2, step=1, label="Drafts")
            temperature = gr.Slider(0, 1.5, value=0.7, step=0.05, label="Temperature", info="0: the likeliest words")
            top_p = gr.Slider(0.05, 1, value=0.9, step=0.05, label="Top-p", info="1: any word may be drawn")
        with gr.Row():
            max_new_tokens = gr.Slider(
                16, MAX_NEW_TOKENS, value=MAX_NEW_TOKENS, step=16, label="Longest draft, in tokens"
            )
            penalty = gr.Slider(
                1, 1.5, value=REPETITION_PENALTY, step=0.05, label="Repetition penalty", info="1: none; loops likely"
            )
            guidance = gr.Slider(1, 3, value=GUIDANCE, step=0.25, label="Guidance", info="1: none")
            seed = gr.Number(42, label="Seed", info="Draft 2 takes the next", precision=0, minimum=0, maximum=2**31)
            other_seed = gr.Button("Another seed", scale=0, min_width=180)
        with_base = gr.Checkbox(False, label="The base model's draft beside them", visible=has_base)
    other_seed.click(None, outputs=seed, js="() => Math.floor(Math.random() * 2 ** 31)")
    return [num_drafts, temperature, top_p, seed, max_new_tokens, penalty, guidance, with_base]


def make_handlers(
    tuned: "DraftingModel", base: "DraftingModel | None", pairs: "TrainingPairs"
) -> tuple[Callable[..., Iterator[str]], Callable[..., None]]:
    """What the buttons "Draft" and "Stop" do."""
    import gradio as gr

    from approach.generation.streaming import Sampling
    from approach.page.html import answer

    readers: dict[str, threading.Event] = {}  # those for whom drafts are being written, and how to stop

    def on_draft(problem, number, temperature, top_p, seed, length, penalty, guidance, with_base, request: gr.Request):
        sampling = Sampling(int(number), temperature, top_p, int(seed), int(length), penalty, guidance)
        drafters = [tuned, base] if base and with_base else [tuned]
        stopped = readers[request.session_hash] = threading.Event()
        try:
            yield from answer(drafters, pairs, problem, sampling, stopped)
        finally:
            readers.pop(request.session_hash, None)

    def on_stop(request: gr.Request):
        # Not gradio's own `cancels`: it would show an error, and leave the drafts without their provenance.
        if request.session_hash in readers:
            readers[request.session_hash].set()

    return on_draft, on_stop


def make_theme() -> "gr.themes.Base":
    """Gradio's own, with fonts that the reader's machine has (nothing is fetched) and enough contrast to read."""
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
    )


def serve(page: "gr.Blocks", host: str | None, port: int | None, allowed_hosts: list[str]) -> str:
    """Starts the page and returns its address; raises UserError where the address cannot be had."""
    from starlette.middleware import Middleware

    from approach.page.hosts import HostCheckMiddleware, list_hosts
    from approach.templates import read_template

    doorkeeper = Middleware(HostCheckMiddleware, hosts=list_hosts(host, allowed_hosts))
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            max_file_size=1,  # the page takes none; the doorkeeper turns them away before
            app_kwargs={"middleware": [doorkeeper]},
            css=read_template("page.css"),
            theme=make_theme(),
        )
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {first_line(error)}") from error
    return url


def parse_arguments(argv: list[str] | None = None) -> AppArguments:
    return parse(AppArguments, argv, usage="python %(prog)s --model MODEL … (all of it: --help)")


if __name__ == "__main__":
    run_script(lambda: main(parse_arguments()))
