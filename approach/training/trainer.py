"""What is trained and how: the base, its LoRA configuration, and TRL's trainer with what the tags' rows need."""

import shutil
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_pt_utils import DistributedLengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput
from trl import ModelConfig, SFTTrainer, get_peft_config, get_quantization_config

from approach.embeddings import train_tag_rows
from approach.errors import UserError, first_line, user_errors
from approach.models import check_no_adapter, load_weights
from approach.prompt import load_tokenizer
from approach.training import patches
from approach.training.publishing import PROGRESS

COMPLETE_MATRICES = ("NO", "MULTI_CPU", "MULTI_GPU")  # FSDP and DeepSpeed may keep a part of a matrix on each device


class EvaluationStopped(Exception):
    """A callback raises it to leave an evaluation unfinished."""


def load_base(model_args: ModelConfig, weights: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    The base model, in the precision asked for, and its tokenizer.

    Without `weights` the model has its shape alone and takes no memory.

    Raises:
        UserError: where there is no such model, or it is an adapter.
    """
    argument, name, revision = "--model_name_or_path", model_args.model_name_or_path, model_args.model_revision
    tokenizer = load_tokenizer(name, argument, revision)
    with user_errors(argument, name):
        quantization = get_quantization_config(model_args)
        if not weights:
            check_no_adapter(name, revision)
            with torch.device("meta"):
                config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
                dtype = getattr(torch, model_args.dtype)
                return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False), tokenizer
    model = load_weights(
        name,
        argument,
        revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization,
    )
    return model, tokenizer


def build_lora_config(model: PreTrainedModel, model_args: ModelConfig, tag_ids: list[int]) -> LoraConfig | None:
    """The LoRA configuration of the arguments, which also trains the tags' rows; None without `--use_peft`."""
    lora = get_peft_config(model_args)
    if lora:
        lora.revision = model_args.model_revision
        train_tag_rows(lora, model, tag_ids)
    return lora


class ApproachTrainer(SFTTrainer):
    """
    `SFTTrainer` whose order of rows depends on seed and epoch alone, and whose checkpoints hold no secret.

    With a LoRA configuration the tags' rows are looked up and scored beside the matrices (`patches`, `embeddings`).

    `run_ends` are the numbers of rows after which the run had ended before it was extended, if it was.
    """

    def __init__(self, **named):
        patches.score_in_small_tiles()
        super().__init__(**named)
        self.run_ends: list[int] = []
        self.eval_loss_sum, self.num_eval_labels = 0.0, 0
        patches.give_head_a_bias(self.model)
        has_rows = hasattr(self.model.get_input_embeddings(), "token_adapter")
        if has_rows and self.accelerator.distributed_type.value in COMPLETE_MATRICES:
            patches.score_tag_rows_apart(self.model)
            patches.embed_tag_rows_apart(self.model)

    def add_metrics_callback(self, callback: TrainerCallback) -> None:
        """Adds a callback before the reporters, so that what it adds to the logs reaches them all."""
        self.callback_handler.callbacks.insert(1, callback)  # the first is the Trainer's own flow

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """As TRL's; raises UserError where the GPU's memory is full."""
        if resume_from_checkpoint:  # a second evaluation here would count towards early stopping
            self.args.eval_on_start = False
        try:
            super().train(resume_from_checkpoint=resume_from_checkpoint)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "The card's memory is full: take recipes/tinyllama_lora_fp32_small.yaml, or a smaller --max_length"
            ) from error

    def list_seen_rows(self) -> list[int] | None:
        """The numbers of the training rows that the steps so far have read; None where they have read them all."""
        args = self.args
        num_seen = self.state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if num_seen >= len(self.train_dataset):
            return None
        batches = self.callback_handler.train_dataloader.batch_sampler
        while hasattr(batches, "batch_sampler"):  # Accelerate's, which deals the batches out to the processes
            batches = batches.batch_sampler
        if hasattr(batches.sampler, "set_epoch"):
            batches.sampler.set_epoch(0)
        return sorted(islice(batches.sampler, num_seen))

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """
        As the Trainer's, but the loss is a mean over all labelled tokens of all processes.

        The Trainer's is a mean of the batches' means, which depends on the batch size.
        """
        self.eval_loss_sum, self.num_eval_labels = 0.0, 0
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        totals = [self.eval_loss_sum, self.num_eval_labels]
        if self.args.world_size > 1:
            totals = self.accelerator.reduce(torch.tensor(totals, device=self.args.device)).tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = totals[0] / max(totals[1], 1)
        return output

    def prediction_step(self, model: torch.nn.Module, inputs: dict, *arguments, **named) -> tuple:
        """As TRL's, and adds up the loss of the batch's labels."""
        inputs = {**inputs, "labels": self.mask_repeated_rows(inputs["labels"])}
        loss, *outputs = super().prediction_step(model, inputs, *arguments, **named)
        num_labels = int((inputs["labels"][:, 1:] != -100).sum())
        self.eval_loss_sum += loss.item() * num_labels
        self.num_eval_labels += num_labels
        return loss, *outputs

    def mask_repeated_rows(self, labels: torch.Tensor) -> torch.Tensor:
        """The labels of a batch, without those of rows that Accelerate repeats so that all processes have a batch."""
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or self.padding_free or not state.end_of_dataloader or state.remainder < 1:
            return labels
        labels = labels.clone()
        labels[max(0, state.remainder - self.args.process_index * len(labels)) :] = -100
        return labels

    def _evaluate(self, *arguments, **named) -> dict[str, float]:
        """
        As the Trainer's; without metrics where a signal stopped it.

        It draws from random states of its own, so that the steps after it are the same with and without it.
        """
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                return super()._evaluate(*arguments, **named)
        except EvaluationStopped:
            return {}

    def _determine_best_metric(self, metrics: dict, trial: object) -> bool:
        """As the Trainer's, but keeps the save that a stop asked for, which `save_strategy: best` would cancel."""
        is_asked_for = self.control.should_save
        return super()._determine_best_metric(metrics=metrics, trial=trial) or is_asked_for

    def _save_checkpoint(self, *arguments, **named) -> None:
        """As the Trainer's; raises UserError where the disk is full, and leaves no incomplete checkpoint."""
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
        not. Here it is asked for a single process, since Accelerate deals the batches out to the processes.
        """
        args, rows = self.args, self.train_dataset  # the argument `train_dataset` has lost its lengths
        if args.train_sampling_strategy != "group_by_length" and not self.run_ends:
            return super()._get_train_sampler(train_dataset)
        step_rows = args.train_batch_size * args.gradient_accumulation_steps
        lengths = rows["length"][:] if "length" in rows.column_names else None  # packing drops the column
        if self.run_ends:
            is_grouped = args.train_sampling_strategy == "group_by_length"
            return ExtendedRunSampler(
                [0, *self.run_ends, len(rows)], lengths if is_grouped else None, step_rows, args.seed
            )
        return DistributedLengthGroupedSampler(
            step_rows, rows, num_replicas=1, rank=0, seed=args.seed, lengths=lengths
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """
        Writes weights and tokenizer, of an adapter without the two complete matrices, and nothing private.

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


class ExtendedRunSampler(Sampler[int]):
    """
    The order of rows of a run that was extended: in the first epoch each part's rows after those of the part before.

    `ends` are the numbers of rows at which the parts end, from 0 on. With `lengths` the rows of a part are grouped by
    length; without, a part's first epoch keeps the order of the rows, which are shuffled already. Later epochs take
    all rows together.
    """

    def __init__(self, ends: list[int], lengths: list[int] | None, step_rows: int, seed: int):
        self.ends, self.lengths, self.step_rows, self.seed, self.epoch = ends, lengths, step_rows, seed, 0

    def __len__(self) -> int:
        return self.ends[-1]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        ends = self.ends if self.epoch == 0 else [0, self.ends[-1]]
        for start, end in pairwise(ends):
            yield from (start + row for row in self.order_rows(start, end))

    def order_rows(self, start: int, end: int) -> list[int]:
        """The order of the rows from `start` to `end`, counted from `start`."""
        if self.lengths is not None:
            options = {"num_replicas": 1, "rank": 0, "seed": self.seed, "lengths": self.lengths[start:end]}
            sampler = DistributedLengthGroupedSampler(self.step_rows, **options)
            sampler.set_epoch(self.epoch)
            return list(sampler)
        if self.epoch == 0:
            return list(range(end - start))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(end - start, generator=generator).tolist()
