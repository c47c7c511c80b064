# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "gguf==0.19.0",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "pyarrow==26.0.1",
#     "safetensors==0.8.0",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""
Merge an adapter into its base in FP32, check that the outputs stay the same, and publish the model if asked.

Reads an adapter (folder or Hub id) that `train_sft.py` wrote, and its base. Writes weights, tokenizer, generation
defaults, a model card and `merge.json`, which records how far the merged model is from the adapter on its base.
`--gguf` adds files for llama.cpp and Ollama, `--convert_only` does so later. `--push_only` publishes a folder later,
with the scores of `evaluate_model.py` in its card.

    python merge_and_push.py --adapter_path outputs/adapter --output_dir outputs/model
    python merge_and_push.py --convert_only outputs/model --gguf f16 q4_k_m
    python merge_and_push.py --push_only outputs/model --scores outputs/scores --hub_model_id user/model
"""

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler("Stopped: nothing is half written. The same command finishes it.")

import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from approach.arguments import PublishArguments, check_ranges, parse
from approach.errors import UserError, run_script
from approach.merging.arguments import ConversionArguments
from approach.runtime import set_up_torch
from approach.storage import Output, contains_files, is_hub_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from approach.merging.parity import ModelOutputs
    from approach.models import Adapter


@dataclass
class MergeArguments(PublishArguments, ConversionArguments):
    """Which adapter to merge or which model to publish, where to write it, and where to publish it."""

    adapter_path: str | None = field(
        default=None, metadata={"help": "Adapter folder that train_sft.py wrote, or its Hub id."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write the model to. It appears complete or not at all."}
    )
    base_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "The base, where it is not at the place that the adapter names, or is quantised there."},
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the adapter on the Hub."}
    )
    base_model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the base on the Hub; training's if not named."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision of the weights that are written; the merge itself is always in float32.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "The training dataset, folder or Hub id: for its licence, and for the loss around a cast."},
    )
    max_cast_loss: float = field(
        # 25 times what bfloat16 costs the 9 M base, and a fifth of the smallest gain that our runs have had.
        default=0.01,
        metadata={"help": "Largest change of the validation loss, in nats a token, that --dtype may cause."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Merge and check, or list what would be published."})
    overwrite: bool = field(
        default=False, metadata={"help": "Replace an output folder that is not empty, or GGUF files that exist."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the model once it is written and checked."})
    push_only: str | None = field(
        default=None, metadata={"help": "Merge nothing, publish this folder; its card is written anew."}
    )
    scores: str | None = field(
        default=None, metadata={"help": "Folder that evaluate_model.py wrote, whose scores.json goes into the card."}
    )
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository to publish to: user/name."})
    hub_adapter_id: str | None = field(
        default=None, metadata={"help": "Repository for the adapter of --adapter_path by itself: user/name."}
    )

    def __post_init__(self):
        if self.is_merge and not (self.adapter_path and self.output_dir):
            raise ValueError("name --adapter_path and --output_dir to merge, or --push_only to publish a model")
        if self.dtype != "float32" and self.dataset_name is None and self.is_merge:
            raise ValueError(f"--dtype {self.dtype} needs --dataset_name: what the cast costs is measured on its rows")
        check_ranges(self, max_cast_loss="[0, inf)")
        self.check_conversion(self.push_only, self.dry_run, self.overwrite)
        self.check_publishing()

    @property
    def is_merge(self) -> bool:
        """Whether there is something to merge."""
        return self.push_only is None and self.convert_only is None

    @property
    def output(self) -> Output:
        """The merged model's folder."""
        inputs = {
            "--adapter_path": self.adapter_path,
            "--base_model_name_or_path": self.base_model_name_or_path,
            "--dataset_name": self.dataset_name,
            "--scores": self.scores,
        }
        is_ours = contains_files("merge.json", "config.json")
        return Output(self.output_dir, "model", self.overwrite, is_ours, inputs, save_beside=True)

    def check_publishing(self):
        """Raises ValueError where it is not clear what to publish, or where to."""
        publishes = self.push_to_hub or self.push_only is not None
        if publishes and not is_hub_id(self.hub_model_id):
            raise ValueError(f"publishing needs --hub_model_id user/name, got {self.hub_model_id}")
        if self.scores is not None and not (Path(self.scores) / "scores.json").is_file():
            raise ValueError(f"--scores {self.scores} holds no scores.json: name a folder of evaluate_model.py")
        if self.hub_adapter_id is not None:
            if not is_hub_id(self.hub_adapter_id) or self.hub_adapter_id == self.hub_model_id:
                raise ValueError(f"--hub_adapter_id must be another user/name, got {self.hub_adapter_id}")
            if not (publishes and self.adapter_path):
                raise ValueError("--hub_adapter_id needs --adapter_path, and --push_to_hub or --push_only")


def main(args: MergeArguments) -> None:
    set_up_torch()
    from approach.cards import write_model_card
    from approach.merging.model_folder import check_model, list_published

    model_dir = Path(args.push_only or args.convert_only or args.output_dir)
    if args.is_merge:
        args.output.check()
        merge(args)
    else:
        check_model("--push_only" if args.push_only else "--convert_only", model_dir)
    if args.gguf and not args.dry_run:
        from approach.merging.gguf import add_gguf

        add_gguf(model_dir, args.gguf)
        write_model_card(model_dir, args.hub_model_id or model_dir.name, args.scores)
    if args.push_only and args.dry_run:
        for path in list_published(model_dir):
            print(f"{path.stat().st_size:>14,} {path.name}")
        print(f"Dry run: nothing published to {args.hub_model_id}")
    elif (args.push_to_hub or args.push_only) and not args.dry_run:
        write_model_card(model_dir, args.hub_model_id, args.scores)
        publish(model_dir, args.hub_model_id, args)
        if args.hub_adapter_id:
            publish_adapter(args)


def merge(args: MergeArguments) -> None:
    """Merges, checks, and writes the folder; with `--dry_run` it writes nothing."""
    from approach.artifacts import RECORDS
    from approach.cards import write_model_card
    from approach.hub import list_files
    from approach.merging.merge import compare_with_saved, save_model
    from approach.merging.model_folder import check_no_links, find_dataset_revision, read_build_report, write_records
    from approach.models import find_adapter

    base = args.base_model_name_or_path, args.base_model_revision
    adapter = find_adapter(args.adapter_path, "--adapter_path", args.model_revision, *base)
    check_no_links("--adapter_path", adapter.folder, list_files(adapter.folder, RECORDS))  # copied, and published
    output_dir = Path(args.output_dir)
    dataset_revision = find_dataset_revision(adapter.run, args.dataset_name)
    build_report = read_build_report(args.dataset_name, dataset_revision)
    model, tokenizer, outputs, record = merge_and_measure(args, adapter, dataset_revision)
    if args.dry_run:
        print(f"Dry run: {output_dir} not written")
        return
    with args.output.staging() as staging_dir:
        record["files"] = save_model(model, tokenizer, staging_dir)
        del model  # there may be memory for one model only
        record["difference_reloaded"] = compare_with_saved(outputs, staging_dir, args.dtype)
        write_records(staging_dir, adapter.folder, record, build_report)
        write_model_card(staging_dir, args.hub_model_id or output_dir.name, args.scores)
    print(f"Wrote {output_dir}. Next: python evaluate_model.py --model_name_or_path {output_dir} …")


def merge_and_measure(
    args: MergeArguments, adapter: "Adapter", dataset_revision: str | None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, ModelOutputs, dict]":
    """The merged model in its final precision, its tokenizer, its outputs on the reference prompts, its record."""
    from approach.merging.merge import cast_and_measure, load_validation_rows, merge_adapter
    from approach.merging.model_folder import build_merge_record
    from approach.merging.parity import run_reference_prompts
    from approach.models import load_adapter

    rows = load_validation_rows(args.dataset_name, dataset_revision) if args.dtype != "float32" else []
    model, tokenizer = load_adapter(adapter)
    model, outputs, differences = merge_adapter(model, tokenizer, args.adapter_path)
    print(
        "Largest logit difference: merged to adapter {difference_to_adapter:.1e}, adapter to base "
        "{difference_to_base:.1f}; greedy drafts the same".format(**differences)
    )
    record = build_merge_record(adapter, model, tokenizer, args.dtype, differences)
    if args.dtype != "float32":
        record["cast"] = cast_and_measure(model, tokenizer, args.dtype, rows, args.max_cast_loss)
        outputs = run_reference_prompts(model, tokenizer)
        print(
            "{dtype}: {argmax_changes} of {positions} most likely tokens changed, loss on {rows} validation rows "
            "{loss_before:.4f} → {loss_after:.4f}".format(dtype=args.dtype, **record["cast"])
        )
    return model, tokenizer, outputs, record


def publish_adapter(args: MergeArguments) -> None:
    """Publishes a copy of the adapter that names no place on this machine."""
    from approach.merging.model_folder import stage_adapter
    from approach.models import find_adapter_folder

    adapter = find_adapter_folder(args.adapter_path, "--adapter_path", args.model_revision)
    with tempfile.TemporaryDirectory() as folder:
        stage_adapter(adapter, args.hub_adapter_id, Path(folder))
        publish(Path(folder), args.hub_adapter_id, args)


def publish(folder: Path, repo_id: str, args: MergeArguments) -> None:
    """Publishes a folder; raises UserError that says why it cannot be, and how to finish later."""
    from approach import hub
    from approach.merging.model_folder import PUBLISHED, list_published

    repository, files = hub.Repository(repo_id, **args.hub_options()), list_published(folder)
    try:
        published = hub.publish(folder, files, repository, "Publish the model", replaces=PUBLISHED, tag=True)
    except hub.PublishError as error:
        model = args.push_only or args.output_dir
        later = format_publish_command(model, args, repository.list_flags())
        failed = f"Not published to {repo_id}: {error}"
        raise UserError(f"{failed}. {model} is complete. To publish it later: {later}") from error
    print(f"Published {published.url}")


def format_publish_command(model: str, args: MergeArguments, flags: list[str]) -> str:
    """The command that publishes a merged model, and the adapter with it if that was asked for."""
    options = {"--push_only": model, "--scores": args.scores, "--hub_model_id": args.hub_model_id}
    if args.hub_adapter_id:
        options |= {"--adapter_path": args.adapter_path, "--hub_adapter_id": args.hub_adapter_id}
    words = [word for option, value in options.items() if value for word in (option, value)]
    return shlex.join(["python", "merge_and_push.py", *words, *flags])


def parse_arguments(argv: list[str] | None = None) -> MergeArguments:
    return parse(MergeArguments, argv)


if __name__ == "__main__":
    run_script(lambda: main(parse_arguments()))
