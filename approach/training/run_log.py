"""What a run tells of itself: speed, padding, perplexity and memory in its log, and drafts at each evaluation."""

import json
import math
import time
from contextlib import suppress
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from approach.storage import write_atomically
from approach.training.checkpoints import SAMPLES, Progress
from approach.training.tracking import log_drafts

SAMPLE_TOKENS = 256  # the longest draft for samples.jsonl


class RunLog(TrainerCallback):
    """
    Adds to the Trainer's log what it does not know, and drafts for the same validation problems at each evaluation.

    What it counts goes to `progress`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        problems: list[dict],
        progress: Progress,
        epoch_steps: float,
    ):
        self.tokenizer, self.problems, self.progress, self.epoch_steps = tokenizer, problems, progress, epoch_steps
        self.activation_dtype: str | None = None
        self.tokens = self.positions = self.rate = 0
        self.clock: float | None = None
        self.start: tuple[int, float] | None = None
        layer = next(m for m in model.modules() if hasattr(m, "lora_A") or type(m).__name__ == "Linear")
        self.hook = layer.register_forward_hook(self.record_precision)
        model.register_forward_pre_hook(self.count_tokens, with_kwargs=True)

    def record_precision(self, module, inputs, output) -> None:
        """The precision in force, which is not always the one asked for."""
        self.activation_dtype = str(output.dtype).removeprefix("torch.")
        self.hook.remove()

    def count_tokens(self, model, inputs, named_inputs) -> None:
        """What the model computes in training, and how much of it is no padding."""
        if model.training:
            self.tokens = self.tokens + named_inputs["attention_mask"].sum()
            self.positions += named_inputs["attention_mask"].numel()

    def add_elapsed(self, args) -> None:
        """Adds the steps since the last call to `progress`; between steps no time is counted."""
        if self.clock is None:
            return
        counts = torch.tensor([int(self.tokens), self.positions], device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(counts)
        seconds, (tokens, positions) = time.monotonic() - self.clock, counts.tolist()
        self.progress.seconds += seconds
        self.progress.tokens += tokens
        self.progress.positions += positions
        self.rate, self.tokens, self.positions, self.clock = tokens / seconds, 0, 0, None

    def on_step_begin(self, args, state, control, **kwargs):
        self.clock = self.clock or time.monotonic()
        self.start = self.start or (state.global_step, time.monotonic())

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.start[0] + 5 and state.is_world_process_zero:
            seconds = (time.monotonic() - self.start[1]) / 5
            left, epoch = seconds * (state.max_steps - state.global_step), seconds * self.epoch_steps
            print(f"{seconds:.1f} s a step: {left / 60:.0f} minutes left, {epoch / 3600:.1f} hours for an epoch")
        if control.should_log or control.should_evaluate:
            self.add_elapsed(args)

    def on_save(self, args, state, control, **kwargs):
        self.add_elapsed(args)

    def on_train_end(self, args, state, control, **kwargs):
        self.add_elapsed(args)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Runs before the reporters, so that what it adds reaches them all."""
        more = {}
        if "eval_loss" in logs:
            more = {"eval_perplexity": round(math.exp(logs["eval_loss"]), 4)}
        elif "loss" in logs:
            padding = 1 - self.progress.tokens / self.progress.positions
            more = {"tokens_a_second": round(self.rate, 1), "padding_share": round(padding, 4)}
            if args.device.type == "cuda":
                more["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        logs.update(more)
        state.log_history[-1].update(more)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        """Greedy drafts, without dropout; TRL's own callback for this leaves dropout on and the tokenizer changed."""
        if not self.problems or not state.is_world_process_zero:
            return
        prompts = [row["prompt"] for row in self.problems]
        batch = self.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(args.device)
        model.eval()
        output = model.generate(**batch, do_sample=False, max_new_tokens=SAMPLE_TOKENS, use_cache=True)
        drafts = self.tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        path = Path(args.output_dir) / SAMPLES
        samples = [row for row in read_samples(path) if row["step"] < state.global_step]
        for row, draft in zip(self.problems, drafts, strict=True):
            sample = {"step": state.global_step, "id": row["id"], "problem": row["problem"], "draft": draft.strip()}
            samples.append(sample)
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in samples))
        if "wandb" in args.report_to:
            log_drafts(samples, state.global_step)


def read_samples(path: Path) -> list[dict]:
    """The drafts of earlier evaluations, if there are any; a damaged line is no reason to end a run."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]
