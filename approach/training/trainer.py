"""What is trained and how: the base, its LoRA configuration, and TRL's trainer with what the tags' rows need."""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from torch.utils.data import Dataset, Sampler
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_pt_utils import DistributedLengthGroupedSampler
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
    """

    def __init__(self, **named):
        patches.score_in_small_tiles()
        super().__init__(**named)
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
        if args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        step_rows = args.train_batch_size * args.gradient_accumulation_steps
        lengths = rows["length"][:] if "length" in rows.column_names else None  # packing drops the column
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
