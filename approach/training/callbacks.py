"""What is called while a run goes on: the log, the guard, the keeper of checkpoints, early stopping."""

from transformers import EarlyStoppingCallback

from approach.training.checkpoints import CheckpointKeeper, Progress
from approach.training.pairs import Pairs
from approach.training.publishing import Publisher
from approach.training.run_guard import RunGuard
from approach.training.run_log import RunLog
from approach.training.trainer import ApproachTrainer


def watch(
    trainer: ApproachTrainer,
    pairs: Pairs,
    identity: dict,
    progress: Progress,
    publisher: Publisher | None,
    patience: int | None,
) -> tuple[RunLog, RunGuard]:
    """Adds what logs, guards and saves a run; `patience` is that of early stopping, in evaluations."""
    problems = [] if trainer.is_fsdp_enabled else pairs.problems  # one process alone cannot draft with its part
    log = RunLog(trainer.model, trainer.processing_class, problems, progress, pairs.epoch_steps)
    guard = RunGuard(trainer.model)
    trainer.add_log(log)
    trainer.add_callback(guard)
    trainer.add_callback(CheckpointKeeper(identity, progress, publisher))  # after the log has counted the step
    if patience:
        trainer.add_callback(EarlyStoppingCallback(patience))
    return log, guard
