"""What stops a run: a signal, a launcher that is gone, a number that is none, a layer that is not trained."""

import math
import os
import signal
import sys

import torch
from transformers import PreTrainedModel, TrainerCallback


class RunGuard(TrainerCallback):
    """Stops a run that goes wrong or is asked to stop."""

    def __init__(self, model: PreTrainedModel):
        self.signal: int | None = None
        self.highest_loss = 2 * math.log(model.config.get_text_config().vocab_size)  # twice that of guessing blindly

    def request_stop(self, number: int, frame) -> None:
        """A first signal lets the step end and saves, so that resuming is exact; a second one stops at once."""
        if self.signal is not None:
            sys.exit(128 + number)
        self.signal = number

    def exit_if_stopped(self, step: int) -> None:
        """After training: ends with one line where a signal stopped it after this step."""
        if self.signal is not None:
            print(
                f"\nStopped after step {step}, which is saved: go on with --resume_from_checkpoint true",
                file=sys.stderr,
            )
            sys.exit(128 + self.signal)

    def on_train_begin(self, args, state, control, **kwargs):
        self.parent = os.getppid()
        self.handlers = {
            number: signal.signal(number, self.request_stop) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Before the weights change: every gradient is a number, and in the first step no `lora_B` is without one."""
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        step = state.global_step + 1
        # FP16's scaler meets overflow on purpose, and skips such steps by itself.
        if not args.fp16 and not sum(gradient.abs().sum() for gradient in gradients.values()).isfinite():
            sys.exit(f"step {step}: the loss or a gradient is not a number. The last checkpoint is as it was.")
        for name, parameter in model.named_parameters() if step == 1 else ():
            if "lora_B" in name and (name not in gradients or not parameter.grad.any()):
                sys.exit(f"{name} got no gradient in the first step: the adapter would not be trained")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs.get("loss", 0) > self.highest_loss:
            limit = f"{self.highest_loss:.1f}, twice that of guessing blindly"
            sys.exit(f"step {state.global_step}: a loss of {logs['loss']:.1f} is past {limit}: lower --learning_rate")

    def on_step_end(self, args, state, control, **kwargs):
        # `accelerate launch` dies of a SIGTERM without passing it on: then this process has another parent.
        orphaned = "ACCELERATE_MIXED_PRECISION" in os.environ and os.getppid() != self.parent
        stop = self.signal is not None or orphaned
        if args.world_size > 1:  # a signal may reach one process a step before the others
            flag = torch.tensor(float(stop), device=args.device)
            torch.distributed.all_reduce(flag)
            stop = bool(flag)
        if stop:
            self.signal = self.signal or signal.SIGTERM
            control.should_save = control.should_training_stop = True
