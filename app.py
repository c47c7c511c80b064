# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "bm25s==0.3.16",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "gradio==6.31.0",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""
A page on which a problem becomes drafts of an approach, side by side, and which shows where each comes from.

Reads a model that `merge_and_push.py` wrote, or an adapter of `train_sft.py`, and, to say what a draft shares with
them, the pairs that it was trained on. As a Space it takes its model from the variables MODEL, DATASET, BASE_MODEL.

    python app.py --model outputs/model
    python app.py --model user/model --dataset_name user/pairs --base_model TinyLlama/TinyLlama-1.1B-Chat-v1.0
"""

import argparse
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from html import escape
from pathlib import Path

PROVENANCE = Path(__file__).resolve().parent / "metrics" / "provenance.py"
TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
MAX_PROBLEM_WORDS = 50  # prepare_dataset.py's filter: training saw no longer problem
MAX_PROBLEM_CHARACTERS = 2000  # beyond this it is not a sentence
MIN_ROOM = 32  # tokens that the model's context must leave for a draft
SECONDS_BETWEEN_UPDATES = 0.1
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
CSS = """
.gradio-container {max-width: 80rem !important; margin: 0 auto}
.gradio-container:not(:has(#drafts .box)) #actions {display: none}
#drafts, #drafts [data-testid="status-tracker"] {min-height: 3.5rem}
#drafts [data-testid="status-tracker"] .error {display: none}
#drafts .grid {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem;
  align-items: start}
#drafts .draft {border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 1rem 1.25rem;
  overflow-wrap: anywhere}
#drafts h3 {margin: 0; font-size: 1.05rem}
#drafts .text {line-height: 1.65; margin: .6rem 0; min-height: 5rem}
#drafts .aside, #drafts .status {color: var(--body-text-color-subdued); font-size: .9rem; margin: 0 0 .75rem}
#drafts .refused {border-left: 4px solid #d97706; padding: .5rem .9rem; background: var(--background-fill-secondary)}
#drafts mark {background: rgb(251 191 36 / 40%); color: inherit; border-radius: 3px; padding: 0 .1em}
#drafts .citation {text-decoration: underline wavy #dc2626; text-underline-offset: 3px}
#drafts details {border-top: 1px solid var(--border-color-primary); margin-top: .75rem; padding-top: .6rem}
#drafts summary {cursor: pointer; font-weight: 600}
#drafts details details {border: 0; margin: .2rem 0; padding: 0}
#drafts details details summary {font-weight: 400}
#drafts ol {margin: .4rem 0; padding-left: 1.3rem}
#drafts li {margin: .5rem 0}
#drafts a {text-decoration: underline; padding: 0; margin: 0}
"""
GET_MARKDOWN = "document.querySelector('#drafts [data-markdown]')?.dataset.markdown"
COPY = f"""async () => {{
  const text = {GET_MARKDOWN};
  if (!text) return;
  const area = Object.assign(document.createElement('textarea'), {{value: text}});
  try {{ await navigator.clipboard.writeText(text); }}
  catch {{ document.body.append(area); area.select(); document.execCommand('copy'); area.remove(); }}  // plain http
  document.querySelector('#drafts .status').textContent = 'Copied as Markdown.';
}}"""
DOWNLOAD = f"""() => {{
  const text = {GET_MARKDOWN};
  if (!text) return;
  const url = URL.createObjectURL(new Blob([text], {{type: 'text/markdown'}}));
  Object.assign(document.createElement('a'), {{href: url, download: 'drafts.md'}}).click();
  URL.revokeObjectURL(url);
}}"""


@dataclass
class AppArguments:
    """Which model drafts, what it is compared with, and who can reach the page."""

    model: str = field(metadata={"help": "A merged folder, an adapter folder, or a Hub id.", "variable": "MODEL"})
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "The training pairs: folder or Hub id. Shows where drafts come from.",
            "variable": "DATASET",
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={"help": "The base, to draft beside the tuned model on request.", "variable": "BASE_MODEL"},
    )
    host: str | None = field(
        default=None, metadata={"help": "Address to listen on: 0.0.0.0 for everybody (default: this machine alone)."}
    )
    port: int | None = field(default=None, metadata={"help": "Port to listen on (default: the first free from 7860)."})

    def __post_init__(self):
        if self.port is not None and not 0 < self.port < 2**16:
            raise ValueError(f"--port must lie between 1 and 65535, got {self.port}")


@dataclass
class System:
    """A model that drafts. The tuned one reads the prompt it was trained on; its base continues the bare problem."""

    model: object
    tokenizer: object
    tuned: bool

    def encode(self, problem: str):
        if self.tuned:
            messages = [{"role": "user", "content": problem}]
            return self.tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        return self.tokenizer(problem, return_tensors="pt")

    def stop_ids(self) -> set[int]:
        stops = self.model.generation_config.eos_token_id
        return {self.tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}

    def count_room(self, problem: str) -> int:
        """How many tokens the context leaves for a draft."""
        context = self.model.config.get_text_config().max_position_embeddings
        return context - self.encode(problem)["input_ids"].shape[1]


@dataclass
class Settings:
    """How drafts are sampled. Draft i is drawn with seed + i."""

    num_drafts: int
    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int


@dataclass
class Draft:
    """A draft as far as it is written, and in the end where it comes from."""

    heading: str
    tokenizer: object
    stops: set[int]
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    state: str = "writing …"
    provenance: str = ""
    spans: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, token: int) -> None:
        self.ended = self.ended or token in self.stops
        if not self.ended:
            self.ids.append(token)

    @property
    def text(self) -> str:
        return (
            self.tokenizer.decode(self.ids, skip_special_tokens=True).strip().removesuffix("\N{REPLACEMENT CHARACTER}")
        )


def load_system(name: str, argument: str, tuned: bool) -> System:
    """A model in FP32 and its tokenizer; ends with one line where it cannot be had or was not trained for this."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging
    from transformers.utils.peft_utils import find_adapter_config_file

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # PEFT resizes the base before it loads the rows, and is told of random ones
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if tuned and find_adapter_config_file(name):
            from peft import AutoPeftModelForCausalLM

            model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=torch.float32).merge_and_unload()
        else:
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"{argument} {name}: {str(error).splitlines()[0]}")
    if tuned and (tokenizer.eos_token != TAGS[-1] or not tokenizer.chat_template):
        sys.exit(f"{argument} {name} was not made by train_sft.py and merge_and_push.py: its drafts would not end")
    return System(model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, tuned)


class RowSampler:
    """
    Draws each row's next token with a generator of the row's own, so that a seed gives the same draft whoever else is
    served. `generate()` would draw all rows from one generator that all threads share.
    """

    def __init__(self, settings: Settings, seeds: list[int], device):
        import torch
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self.warpers = [TemperatureLogitsWarper(settings.temperature), TopPLogitsWarper(settings.top_p)]
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids, scores):
        import torch

        for warper in self.warpers:
            scores = warper(input_ids, scores)
        rows = scores.softmax(dim=-1).split(1)
        drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(rows, self.generators, strict=True)]
        return torch.full_like(scores, -torch.inf).scatter(1, torch.cat(drawn), 0)


class TokenStreamer:
    """Puts each step's tokens, one a row, into a queue under the number of the job; None when all is written."""

    def __init__(self, job: int, tokens: queue.Queue):
        self.job, self.tokens, self.is_prompt = job, tokens, True

    def put(self, value) -> None:
        if not self.is_prompt:
            self.tokens.put((self.job, value.tolist()))
        self.is_prompt = False

    def end(self) -> None:
        self.tokens.put((self.job, None))


def generate(system: System, problem: str, seeds: list[int], settings: Settings, streamer, stopped) -> None:
    """Writes one draft a seed into the streamer, until all have ended or `stopped` is set."""
    import torch

    model, prompt = system.model, system.encode(problem).to(system.model.device)
    try:
        model.generate(
            input_ids=prompt["input_ids"].repeat(len(seeds), 1),
            attention_mask=prompt["attention_mask"].repeat(len(seeds), 1),
            do_sample=False,  # RowSampler leaves one token to choose
            logits_processor=[RowSampler(settings, seeds, model.device)] if settings.temperature else [],
            max_new_tokens=min(settings.max_new_tokens, system.count_room(problem)),
            eos_token_id=sorted(system.stop_ids()),
            pad_token_id=min(system.stop_ids()),
            streamer=streamer,
            stopping_criteria=[
                lambda ids, scores, **_: torch.full((len(ids),), stopped.is_set(), device=ids.device),
            ],
        )
    except Exception as error:  # of this thread; raised again where the tokens are read
        streamer.tokens.put((streamer.job, error))


def stream_drafts(
    systems: list[System], problem: str, settings: Settings, stopped: threading.Event
) -> Iterator[list[Draft]]:
    """
    The tuned model's drafts and the base's, if it is among the systems, again and again as they grow, until all have
    ended or `stopped` is set.
    """
    tokens, drafts = queue.Queue(), []
    for job, system in enumerate(systems):
        seeds = [settings.seed + i for i in range(settings.num_drafts if system.tuned else 1)]
        headings = [f"Draft {i + 1}" for i in range(len(seeds))] if system.tuned else ["The base, not tuned"]
        drafts.append([Draft(heading, system.tokenizer, system.stop_ids()) for heading in headings])
        streamer = TokenStreamer(job, tokens)
        work = (system, problem, seeds, settings, streamer, stopped)
        threading.Thread(target=generate, args=work, daemon=True).start()
    shown, running = 0.0, len(systems)
    try:
        while running:
            job, step = tokens.get()
            if isinstance(step, Exception):
                raise step
            if step is None:
                running -= 1
                for draft in drafts[job]:
                    cut = "stopped" if stopped.is_set() else "cut off at the limit"
                    draft.state = "ended by itself" if draft.ended else cut
            else:
                for draft, token in zip(drafts[job], step, strict=True):
                    draft.add(token)
            if step is None or time.monotonic() > shown + SECONDS_BETWEEN_UPDATES:
                yield [draft for group in drafts for draft in group]
                shown = time.monotonic()
    finally:
        stopped.set()  # the reader may have left, and nobody waits for the rest


class Training:
    """The pairs that the model was trained on, indexed once. Without a dataset only citations are looked for."""

    def __init__(self, dataset_name: str | None):
        import evaluate

        self.metric, self.rows = evaluate.load(str(PROVENANCE)), None
        if dataset_name is None:
            return
        from datasets import load_dataset

        try:
            self.rows = load_dataset(dataset_name, split="train")
        except (ValueError, OSError) as error:
            sys.exit(f"--dataset_name {dataset_name}: {str(error).splitlines()[0]}")
        if missing := {"id", "problem", "approach"} - set(self.rows.column_names):
            sys.exit(f"--dataset_name {dataset_name}: no column {', '.join(sorted(missing))}")
        approaches = self.rows["approach"][:]
        self.index, self.corpus = self.metric.index(approaches), self.metric.corpus(approaches)

    def explain(self, drafts: list[Draft]) -> None:
        """Says of each draft where it comes from, and marks what it shares and what it invented."""
        texts = [draft.text for draft in drafts]
        for draft, text in zip(drafts, texts, strict=True):
            draft.spans = [(start, end, "citation") for start, end, _ in self.metric.find_citations(text)]
        if self.rows is None:
            return
        near = self.index.nearest(texts, k=3)
        for draft, overlap, found in zip(drafts, self.corpus.overlap(texts), near, strict=True):
            if overlap["longest_run"]:
                draft.spans.append((*overlap["run_span"], "run"))
            draft.provenance = render_provenance(overlap, [self.rows[row] for row, _ in found], self.rows)


def link_id(row_id: str) -> str:
    """The id, as a link where it is an arXiv or an ACL Anthology one."""
    if re.fullmatch(r"(arXiv:)?(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?", row_id):
        url = f"https://arxiv.org/abs/{row_id.removeprefix('arXiv:')}"
    elif re.fullmatch(r"\d{4}\.[a-z][a-z0-9_-]*\.\d+|[A-Z]\d\d-\d{4,5}", row_id):
        url = f"https://aclanthology.org/{row_id}/"
    else:
        return escape(row_id)
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{escape(row_id)}</a>'


def render_provenance(overlap: dict, nearest: list[dict], rows) -> str:
    """The page's part on one draft: the longest shared run, and the nearest training rows, each to be opened."""
    share = "" if overlap["ngram_share"] is None else f" {overlap['ngram_share']:.0%} of its 8-word runs are in them."
    shared = "It shares no word with the training approaches."
    if overlap["longest_run"]:
        length, row = overlap["longest_run"], rows[overlap["run_row"]]
        words = f"{length} word{'s' if length > 1 else ''}"
        shared = (
            f"The longest run it shares with a training approach: <mark>{words}</mark>, {link_id(str(row['id']))}."
        )
    items = "".join(
        f"<li>{link_id(str(row['id']))}<details><summary>{escape(row['problem'])}</summary>"
        f"{escape(row['approach'])}</details></li>"
        for row in nearest
    )
    nearest_rows = f"The nearest training approaches, by words:<ol>{items}</ol>" if items else ""
    return f"<details><summary>Where it comes from</summary><p>{shared}{share}</p>{nearest_rows}</details>"


def mark_up(text: str, spans: list[tuple[int, int, str]]) -> str:
    """The escaped text with its spans, which may overlap, as marks."""
    cuts = sorted({0, len(text), *(cut for start, end, _ in spans for cut in (start, end))})
    pieces = []
    for begin, stop in zip(cuts, cuts[1:], strict=False):
        piece, kinds = escape(text[begin:stop]), {kind for start, end, kind in spans if start <= begin < end}
        if "citation" in kinds:
            piece = f'<span class="citation" title="the model cannot look anything up: likely invented">{piece}</span>'
        pieces.append(f'<mark title="a training approach has these words">{piece}</mark>' if "run" in kinds else piece)
    return "".join(pieces)


def render_draft(draft: Draft, seed: int) -> str:
    citations = sum(kind == "citation" for _, _, kind in draft.spans)
    warning = f" · <span class='citation'>citations or links</span> to look up: {citations}" if citations else ""
    return (
        f'<section class="draft" aria-label="{escape(draft.heading)}"><h3>{escape(draft.heading)}</h3>'
        f'<p class="text">{mark_up(draft.text, draft.spans)}</p>'
        f'<p class="aside">seed {seed} · {len(draft.text.split())} words · {draft.state}{warning}</p>'
        f"{draft.provenance}</section>"
    )


def to_markdown(problem: str, drafts: list[Draft], settings: Settings) -> str:
    blocks = [f"**Problem.** {problem}"]
    blocks += [f"## {draft.heading} (seed {seed})\n\n{draft.text}" for draft, seed in pair_seeds(drafts, settings)]
    sampling = f"temperature {settings.temperature:g}, top-p {settings.top_p:g}"
    blocks.append(f"Drafts by a small model ({sampling}), to be checked: it invents results and citations.")
    return "\n\n".join(blocks).replace("<", "&lt;") + "\n"


def pair_seeds(drafts: list[Draft], settings: Settings) -> list[tuple[Draft, int]]:
    """The base, the last if there, draws with the first seed."""
    return [(draft, settings.seed + i % settings.num_drafts) for i, draft in enumerate(drafts)]


def render_page(problem: str, drafts: list[Draft], settings: Settings, status: str) -> str:
    """All that stands below the buttons. Whatever a reader or a model wrote is escaped."""
    cards = "".join(render_draft(draft, seed) for draft, seed in pair_seeds(drafts, settings))
    return (
        f'<div class="box" data-markdown="{escape(to_markdown(problem, drafts, settings))}">'
        f'<p class="status" role="status">{escape(status)}</p><div class="grid">{cards}</div></div>'
    )


def refuse(problem: str, systems: list[System]) -> str:
    """Why no draft can be made for this problem, in plain words; empty where one can."""
    if not problem:
        return "Write a research problem first, in one sentence."
    if len(problem) > MAX_PROBLEM_CHARACTERS:
        return (
            f"This text has {len(problem.split()):,} words, which is more than this page takes "
            f"({MAX_PROBLEM_CHARACTERS:,} characters). Say the problem in one sentence."
        )
    if any(system.count_room(problem) < MIN_ROOM for system in systems):
        return "This text is longer than the model can read. Say the problem in one sentence."
    return ""


def advise(problem: str) -> str:
    """How the problem differs from those of training, in plain words."""
    from nupunkt import sent_tokenize

    words, sentences = len(problem.split()), len(sent_tokenize(problem))
    advice = [f"at most {MAX_PROBLEM_WORDS} words, and this one has {words}"] if words > MAX_PROBLEM_WORDS else []
    advice += [f"one sentence, and this one has {sentences}"] if sentences > 1 else []
    advice += ["no tags; those in it are left out"] if any(tag in problem for tag in TAGS) else []
    return f"The model learned from problems of {'; of '.join(advice)}. " if advice else ""


def answer(systems: list[System], training: Training, problem: str, settings: Settings, stopped: threading.Event):
    """The page below the buttons, again and again while drafts are written."""
    problem = " ".join(problem.split())
    if reason := refuse(problem, systems):
        yield f'<p class="refused" role="alert">{escape(reason)}</p>'
        return
    advice, drafts, was_stopped = advise(problem), [], False
    for drafts in stream_drafts(systems, problem, settings, stopped):
        was_stopped = stopped.is_set()
        yield render_page(problem, drafts, settings, f"{advice}Writing …")
    training.explain(drafts)
    yield render_page(problem, drafts, settings, f"{advice}{'Stopped.' if was_stopped else 'Done.'}")


def build_page(tuned: System, base: System | None, training: Training):
    import gradio as gr

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
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            with gr.Row():
                num_drafts = gr.Slider(1, 4, value=2, step=1, label="Drafts")
                temperature = gr.Slider(
                    0, 1.5, value=0.7, step=0.05, label="Temperature", info="0: the likeliest words"
                )
                top_p = gr.Slider(0.05, 1, value=0.9, step=0.05, label="Top-p", info="1: any word may be drawn")
            with gr.Row():
                max_new_tokens = gr.Slider(16, 448, value=448, step=16, label="Longest draft, in tokens")
                seed = gr.Number(
                    42, label="Seed", info="Draft 2 takes the next", precision=0, minimum=0, maximum=2**31
                )
                other_seed = gr.Button("Another seed", scale=0, min_width=180)
            with_base = gr.Checkbox(False, label="The base model's draft beside them", visible=base is not None)
        output = gr.HTML(elem_id="drafts", js_on_load=None)
        with gr.Row(elem_id="actions"):
            copy, download = gr.Button("Copy as Markdown", size="sm"), gr.Button("Download as Markdown", size="sm")

        readers: dict[str, threading.Event] = {}  # those for whom drafts are being written, and how to stop

        def on_draft(problem, num_drafts, temperature, top_p, seed, max_new_tokens, with_base, request: gr.Request):
            settings = Settings(int(num_drafts), temperature, top_p, int(seed), int(max_new_tokens))
            stopped = readers[request.session_hash] = threading.Event()
            try:
                yield from answer(
                    [tuned, base] if base and with_base else [tuned], training, problem, settings, stopped
                )
            finally:
                readers.pop(request.session_hash, None)

        def on_stop(request: gr.Request):
            # Not gradio's own `cancels`: it would show an error, and leave the drafts without their provenance.
            if request.session_hash in readers:
                readers[request.session_hash].set()

        gr.on(
            [start.click, problem.submit],
            on_draft,
            inputs=[problem, num_drafts, temperature, top_p, seed, max_new_tokens, with_base],
            outputs=output,
            api_name="draft",
            api_visibility="undocumented",
            show_progress="minimal",
        )
        stop.click(on_stop, queue=False, api_visibility="private")
        other_seed.click(None, outputs=seed, js="() => Math.floor(Math.random() * 2 ** 31)")
        copy.click(None, js=COPY)
        download.click(None, js=DOWNLOAD)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def make_theme():
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


def main(args: AppArguments) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    # Before torch is: threads that wait then leave the cores to others. On two busy cores a draft took 1.2 s, not 8.8.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tuned = load_system(args.model, "--model", tuned=True)
    base = load_system(args.base_model, "--base_model", tuned=False) if args.base_model else None
    training = Training(args.dataset_name)
    try:
        _, url, _ = build_page(tuned, base, training).launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            css=CSS,
            theme=make_theme(),
        )
    except OSError as error:
        sys.exit(f"--host {args.host} --port {args.port}: {str(error).splitlines()[0]}")
    print(f"The page is at {url} until you press Ctrl-C.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nStopped.")


def parse_arguments(argv: list[str] | None = None) -> AppArguments:
    # Not HfArgumentParser: importing transformers would take most of --help's time.
    parser = argparse.ArgumentParser(usage="python %(prog)s --model MODEL … (all of it: --help)")
    for item in fields(AppArguments):
        variable = item.metadata.get("variable", "")
        default = os.environ.get(variable) or (None if item.default is MISSING else item.default)
        shown = f"{item.metadata['help']}" + (f" In a Space: the variable {variable}." if variable else "")
        parser.add_argument(f"--{item.name}", default=default, type=int if item.name == "port" else str, help=shown)
    values = vars(parser.parse_args(argv))
    if values["model"] is None:
        parser.error("--model is missing: a folder or Hub id (in a Space: the variable MODEL)")
    try:
        return AppArguments(**values)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(parse_arguments())
