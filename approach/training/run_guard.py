"""What stops a run: a signal, a launcher that is gone, a number that is none, a layer that is not trained."""

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, TrainerCallback

from approach.errors import UserError


class EvaluationStopped(Exception):
    """An evaluation is left unfinished, because the run was asked to stop."""


class RunGuard(TrainerCallback):
    """Stops a run that goes wrong or is asked to stop."""

    def __init__(self, model: PreTrainedModel):
        self.signal: int | None = None
        self.stopped = False  # by a signal, with the last step saved
        self.highest_loss = 2 * math.log(model.config.get_text_config().vocab_size)  # twice that of guessing blindly

    def request_stop(self, number: int, frame) -> None:
        """A first signal lets the step end and saves, so that resuming is exact; a second one stops at once."""
        if self.signal is not None:
            print("\nStopped at once: the complete checkpoints are as they were.", file=sys.stderr)
            sys.exit(128 + number)
        self.signal = number

    @contextmanager
    def holding_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM wait for the step that runs, or for the result that is saved."""
        handlers = {number: signal.signal(number, self.request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def exit_if_stopped(self, step: int) -> None:
        """After training: raises UserError where a signal stopped it after this step."""
        if self.stopped:
            print(
                f"\nStopped after step {step}, which is saved: go on with --resume_from_checkpoint true",
                file=sys.stderr,
            )
            sys.exit(128 + self.signal)

    def exit_if_asked(self, result: str) -> None:
        """After saving: raises UserError where a signal came too late to stop the training."""
        if self.signal is not None:
            print(f"\nStopped after the last step: {result}", file=sys.stderr)
            sys.exit(128 + self.signal)

    def stop_if_asked(self, args, control) -> bool:
        """Whether any process was asked to stop; then the Trainer saves the last step that is done, and stops."""
        # `accelerate launch` dies of a SIGTERM without passing it on: then this process has another parent.
        orphaned = "ACCELERATE_MIXED_PRECISION" in os.environ and os.getppid() != self.parent
        stop = self.signal is not None or orphaned
        if args.world_size > 1:  # a signal may reach one process a step before the others
            flag = torch.tensor(float(stop), device=args.device)
            torch.distributed.all_reduce(flag)
            stop = bool(flag)
        if stop:
            self.signal, self.stopped = self.signal or signal.SIGTERM, True
            control.should_save = control.should_training_stop = True
        return stop

    def on_train_begin(self, args, state, control, **kwargs):
        self.parent = os.getppid()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Before the weights change: every gradient is a number, and in the first step no `lora_B` is without one."""
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        step = state.global_step + 1
        # FP16's scaler meets overflow on purpose, and skips such steps by itself.
        if not args.fp16 and not sum(gradient.abs().sum() for gradient in gradients.values()).isfinite():
            raise UserError(f"step {step}: the loss or a gradient is not a number. The last checkpoint is as it was.")
        for name, parameter in model.named_parameters() if step == 1 else ():
            if "lora_B" in name and (name not in gradients or not parameter.grad.any()):
                raise UserError(f"{name} got no gradient in the first step: the adapter would not be trained")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs.get("loss", 0) > self.highest_loss:
            limit = f"{self.highest_loss:.1f}, twice that of guessing blindly"
            raise UserError(
                f"step {state.global_step}: a loss of {logs['loss']:.1f} is past {limit}: lower --learning_rate"
            )

    def on_step_end(self, args, state, control, **kwargs):
        self.stop_if_asked(args, control)

    def on_prediction_step(self, args, state, control, **kwargs):
        # Where evaluations choose the best checkpoint, they end: a resumed run would choose without this one.
        if args.metric_for_best_model is None and self.stop_if_asked(args, control):
            raise EvaluationStopped

    def on_evaluate(self, args, state, control, **kwargs):
        self.stop_if_asked(args, control)
