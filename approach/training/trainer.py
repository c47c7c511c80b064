"""TRL's trainer, with what training the tags' rows needs and what may be written to a checkpoint."""

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback
from transformers.trainer_pt_utils import DistributedLengthGroupedSampler
from trl import SFTTrainer

from approach.errors import UserError, first_line
from approach.training import patches
from approach.training.publishing import PROGRESS
from approach.training.run_guard import EvaluationStopped

WHOLE_MATRICES = ("NO", "MULTI_CPU", "MULTI_GPU")  # FSDP and DeepSpeed may keep a matrix in parts


class ApproachTrainer(SFTTrainer):
    """
    `SFTTrainer` whose order of rows depends on seed and epoch alone, and whose checkpoints hold no secret.

    With a LoRA configuration the tags' rows are looked up and scored beside the matrices (`patches`, `tag_rows`).
    """

    def __init__(self, **named):
        patches.score_in_small_tiles()
        super().__init__(**named)
        patches.give_head_a_bias(self.model)
        has_rows = hasattr(self.model.get_input_embeddings(), "token_adapter")
        if has_rows and self.accelerator.distributed_type.value in WHOLE_MATRICES:
            patches.score_tag_rows_apart(self.model)
            patches.embed_tag_rows_apart(self.model)

    def add_log(self, callback: TrainerCallback) -> None:
        """Adds a callback before the reporters, so that what it adds to the logs reaches them all."""
        self.callback_handler.callbacks.insert(1, callback)  # the first is the Trainer's own flow

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """As TRL's; raises UserError where the card's memory is full."""
        if resume_from_checkpoint:  # the run began earlier; evaluated here, it would come closer to its early stop
            self.args.eval_on_start = False
        try:
            super().train(resume_from_checkpoint=resume_from_checkpoint)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "The card's memory is full: take recipes/tinyllama_lora_fp32_small.yaml, or a smaller --max_length"
            ) from error

    def _evaluate(self, *arguments, **named) -> dict[str, float]:
        """
        As the Trainer's; without metrics where a signal stopped it.

        Its random numbers are its own: evaluated, stopped or left out, the steps after it are the same.
        """
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                return super()._evaluate(*arguments, **named)
        except EvaluationStopped:
            return {}

    def _determine_best_metric(self, metrics: dict, trial: object) -> bool:
        """As the Trainer's, which with `save_strategy: best` would take back the save that a stop has asked for."""
        is_asked_for = self.control.should_save
        return super()._determine_best_metric(metrics=metrics, trial=trial) or is_asked_for

    def _save_checkpoint(self, *arguments, **named) -> None:
        """As the Trainer's; raises UserError where the disk is full, and leaves no half of a checkpoint."""
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (checkpoint / PROGRESS).unlink(missing_ok=True)  # incomplete until it is written anew
        try:
            super()._save_checkpoint(*arguments, **named)
        except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch.save on a full disk
            shutil.rmtree(checkpoint, ignore_errors=True)
            raise UserError(
                f"{checkpoint} cannot be saved: {first_line(error)}. The earlier checkpoints are as they were"
            ) from error

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """
        Makes the order of length-grouped rows a function of seed and epoch alone, as the Trainer's other orders are.

        transformers 5.23 draws it from the global random state: a run resumed in its second epoch would take rows
        twice, and an evaluation before the first step would change the order. Its sampler for several processes does
        not; Accelerate deals the batches out to the processes, so that it is asked for one.
        """
        args, rows = self.args, self.train_dataset  # the one that is handed in has lost its lengths
        if args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        step_rows = args.train_batch_size * args.gradient_accumulation_steps
        lengths = rows["length"][:] if "length" in rows.column_names else None  # packing drops the column
        return DistributedLengthGroupedSampler(
            step_rows, rows, num_replicas=1, rank=0, seed=args.seed, lengths=lengths
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """
        Writes weights and tokenizer, of an adapter without the two whole matrices, and nothing private.

        PEFT would add both matrices to every checkpoint, since they were resized; the tags' rows are enough. The
        Trainer would add `training_args.bin`, which pickles every argument, the Hub token included, and PEFT a card
        with the base's local path.
        """
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if isinstance(model, PeftModel):
            model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
            (folder / "README.md").unlink()
        else:
            model.save_pretrained(folder, state_dict=state_dict)
        self.processing_class.save_pretrained(folder)
