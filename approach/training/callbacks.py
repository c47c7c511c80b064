"""What the Trainer calls while a run goes on: metrics, draft samples, stops by a signal, checks, checkpoints."""

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from approach.errors import UserError, exit_on_signal
from approach.storage import write_atomically, write_json
from approach.training.checkpoints import SAMPLES, Progress, list_checkpoints
from approach.training.data import Pairs
from approach.training.publishing import PROGRESS, Publisher
from approach.training.record import log_samples
from approach.training.trainer import ApproachTrainer, EvaluationStopped

SAMPLE_TOKENS = 256  # the longest draft for samples.jsonl


def add_callbacks(
    trainer: ApproachTrainer,
    pairs: Pairs,
    resume_key: dict,
    progress: Progress,
    publisher: Publisher | None,
    patience: int | None,
) -> "SignalCallback":
    """
    Adds all callbacks of a run in the order in which they must be called, and returns the one that handles signals.

    `patience` is that of early stopping, in evaluations; None for no early stopping.
    """
    trainer.add_metrics_callback(ThroughputCallback(trainer.model, progress, pairs.epoch_steps))
    if pairs.problems and not trainer.is_fsdp_enabled:  # with FSDP a process cannot draft with its part of the model
        trainer.add_callback(DraftSamplesCallback(trainer.processing_class, pairs.problems))
    signals = SignalCallback()
    trainer.add_callback(signals)
    trainer.add_callback(SanityCheckCallback(trainer.model.config.get_text_config().vocab_size))
    trainer.add_callback(CheckpointCallback(resume_key, progress, publisher))  # after the step has been counted
    if patience:
        trainer.add_callback(EarlyStoppingCallback(patience))
    return signals


class ReplaceRunCallback(TrainerCallback):
    """
    Deletes the draft samples and checkpoints of an earlier run in the same folder, which a later resume would take.

    The checkpoints are deleted when the first step of the new run is done: until then it may fail by its inputs or
    for lack of memory.
    """

    def __init__(self, output_dir: Path, with_checkpoints: bool):
        self.samples = output_dir / SAMPLES
        self.checkpoints = list_checkpoints(output_dir) if with_checkpoints else []

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.samples.unlink(missing_ok=True)

    def on_step_end(self, args, state, control, **kwargs):
        while self.checkpoints and state.is_world_process_zero:
            shutil.rmtree(self.checkpoints.pop())


class ThroughputCallback(TrainerCallback):
    """Adds speed, padding, perplexity and memory to the Trainer's log, and counts them in `progress`."""

    def __init__(self, model: PreTrainedModel, progress: Progress, epoch_steps: float):
        self.progress, self.epoch_steps = progress, epoch_steps
        self.tokens = self.positions = self.tokens_a_second = 0
        self.step_started: float | None = None
        self.first_step: tuple[int, float] | None = None  # its number, and when it began
        layer = next(m for m in model.modules() if hasattr(m, "lora_A") or type(m).__name__ == "Linear")
        self.hook = layer.register_forward_hook(self.record_precision)
        model.register_forward_pre_hook(self.count_tokens, with_kwargs=True)

    def record_precision(self, module, inputs, output) -> None:
        """Records the precision in force, which is not always the one asked for."""
        self.progress.activation_dtype = str(output.dtype).removeprefix("torch.")
        self.hook.remove()

    def count_tokens(self, model, inputs, named_inputs) -> None:
        """Counts the positions that the model computes in training, and how many of them are no padding."""
        if model.training:
            mask = named_inputs.get("attention_mask")  # a packed batch has none, and no padding
            self.tokens = self.tokens + (named_inputs["input_ids"].numel() if mask is None else mask.sum())
            self.positions += named_inputs["input_ids"].numel()

    def add_elapsed(self, args) -> None:
        """Adds the steps since the last call to `progress`; time between steps does not count."""
        if self.step_started is None:
            return
        counts = torch.tensor([int(self.tokens), self.positions], device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(counts)
        seconds, (tokens, positions) = time.monotonic() - self.step_started, counts.tolist()
        self.progress.seconds += seconds
        self.progress.tokens += tokens
        self.progress.positions += positions
        self.tokens_a_second, self.tokens, self.positions, self.step_started = tokens / seconds, 0, 0, None

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_started = self.step_started or time.monotonic()
        self.first_step = self.first_step or (state.global_step, time.monotonic())

    def on_step_end(self, args, state, control, **kwargs):
        number, started = self.first_step
        if state.global_step == number + 5 and state.is_world_process_zero:
            seconds = (time.monotonic() - started) / 5
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
        added = {}
        if "eval_loss" in logs:
            added = {"eval_perplexity": round(math.exp(logs["eval_loss"]), 4)}
        elif "loss" in logs:
            padding = 1 - self.progress.tokens / self.progress.positions
            added = {"tokens_a_second": round(self.tokens_a_second, 1), "padding_share": round(padding, 4)}
            if args.device.type == "cuda":
                added["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        logs.update(added)
        state.log_history[-1].update(added)


class DraftSamplesCallback(TrainerCallback):
    """Drafts greedily for the same validation problems at each evaluation, into `samples.jsonl`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, problems: list[dict]):
        self.tokenizer, self.problems = tokenizer, problems

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        """TRL's own callback for this leaves dropout on and changes the tokenizer's padding side."""
        if not state.is_world_process_zero:
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
            log_samples(samples, state.global_step)


def read_samples(path: Path) -> list[dict]:
    """The draft samples of earlier evaluations; a damaged line is skipped, since it is no reason to end a run."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


class SignalCallback(TrainerCallback):
    """Saves a checkpoint and stops the run after a Ctrl-C, a SIGTERM, or the end of `accelerate launch`."""

    def __init__(self):
        self.signal: int | None = None
        self.is_stopped = False  # before its last step, which is saved

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Lets the step end at the first signal, so that resuming is exact; stops at once at the second."""
        if self.signal is not None:
            exit_on_signal(number, "Stopped at once: the complete checkpoints are as they were.")
        self.signal = number

    @contextmanager
    def delaying_signals(self) -> Iterator[None]:
        """Within the block Ctrl-C and SIGTERM wait for the step that runs, or for the result that is saved."""
        handlers = {number: signal.signal(number, self.request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def raise_if_stopped(self, step: int) -> None:
        """After training: raises UserError where a signal stopped it after `step`."""
        if self.is_stopped:
            message = f"Stopped after step {step}, which is saved: continue with --resume_from_checkpoint true"
            raise UserError(message, status=128 + self.signal)

    def raise_if_signalled(self, output_dir: Path) -> None:
        """After saving: raises UserError where a signal came too late to stop the training."""
        if self.signal is not None:
            message = f"Stopped after the last step: the result in {output_dir} is complete"
            raise UserError(message, status=128 + self.signal)

    def stop_if_signalled(self, args, control) -> bool:
        """Whether any process got a signal; the Trainer then saves the last step and stops."""
        # `accelerate launch` dies of a SIGTERM without passing it on: then this process has another parent.
        is_orphaned = "ACCELERATE_MIXED_PRECISION" in os.environ and os.getppid() != self.parent
        stop = self.signal is not None or is_orphaned
        if args.world_size > 1:  # a signal may reach one process a step before the others
            flag = torch.tensor(float(stop), device=args.device)
            torch.distributed.all_reduce(flag)
            stop = bool(flag)
        if stop:
            self.signal, self.is_stopped = self.signal or signal.SIGTERM, True
            control.should_save = control.should_training_stop = True
        return stop

    def on_train_begin(self, args, state, control, **kwargs):
        self.parent = os.getppid()

    def on_step_end(self, args, state, control, **kwargs):
        self.stop_if_signalled(args, control)

    def on_prediction_step(self, args, state, control, **kwargs):
        # An evaluation that chooses the best checkpoint is not left: a resumed run would choose without it.
        if args.metric_for_best_model is None and self.stop_if_signalled(args, control):
            raise EvaluationStopped

    def on_evaluate(self, args, state, control, **kwargs):
        self.stop_if_signalled(args, control)


class SanityCheckCallback(TrainerCallback):
    """
    Ends a run that cannot become any good.

    Raises:
        UserError: where a gradient is not a number, a layer is not trained, or the loss diverges.
    """

    def __init__(self, vocab_size: int):
        self.highest_loss = 2 * math.log(vocab_size)  # twice that of a uniform guess

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Before the weights change: every gradient is a number, and in the first step no `lora_B` is without one."""
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        if not gradients:  # DeepSpeed's ZeRO keeps them apart from the parameters
            return
        step = state.global_step + 1
        # FP16's scaler meets overflow on purpose, and skips such steps by itself.
        if not args.fp16 and not sum(gradient.abs().sum() for gradient in gradients.values()).isfinite():
            raise UserError(f"step {step}: the loss or a gradient is not a number. The last checkpoint is as it was.")
        for name, parameter in model.named_parameters() if step == 1 else ():
            if "lora_B" in name and (name not in gradients or not parameter.grad.any()):
                raise UserError(f"{name} got no gradient in the first step: the adapter would not be trained")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs.get("loss", 0) > self.highest_loss:
            limit = f"{self.highest_loss:.1f}, twice that of a uniform guess"
            raise UserError(
                f"step {state.global_step}: a loss of {logs['loss']:.1f} is above {limit}: lower --learning_rate"
            )


class CheckpointCallback(TrainerCallback):
    """Completes each checkpoint with the run's resume key and progress, and publishes it where that was asked for."""

    def __init__(self, resume_key: dict, progress: Progress, publisher: Publisher | None):
        self.resume_key, self.progress, self.publisher = resume_key, progress, publisher

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        progress = {name: value for name, value in asdict(self.progress).items() if value is not None}
        write_json(checkpoint / PROGRESS, {"resume_key": self.resume_key, **progress})
        if self.publisher:
            self.publisher.publish_checkpoint(checkpoint, state.global_step)
