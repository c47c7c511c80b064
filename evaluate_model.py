# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bert-score==0.3.13",
#     "bm25s==0.3.16",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "huggingface_hub==2.4.0",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "python-crfsuite==0.9.12",
#     "rouge-score==0.1.2",
#     "sacrebleu==2.6.0",
#     "safetensors==0.8.0",
#     "scipy==1.17.1",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
#     "wandb==0.31.0",
# ]
# [tool.hf-jobs]
# flavor = "t4-small"
# timeout = "2h"
# secrets = ["HF_TOKEN"]
# ///
"""
Draft approaches for test problems with the fine-tuned model, its base and systems without a model; score them all.

Reads a model (merged or adapter folder, or Hub id), its base and the dataset that `prepare_dataset.py` wrote. Chooses
every system's decoding and the base's best ways to be asked on validation rows, writes down what it will test, and
drafts. Writes `predictions.jsonl` (a row a draft), `scores.json` (every score with a 95 % interval, and the three
planned comparisons) and `plan.json`.
The metrics are the local files in `approach/metrics/`: no code from the Hub is fetched or run to score.

    python evaluate_model.py --model_name_or_path outputs/model --base_model_name_or_path BASE \
        --dataset_name outputs/pairs --num_examples 100 --output_dir outputs/scores
    accelerate launch --multi_gpu --num_processes 2 evaluate_model.py --model_name_or_path user/model \
        --base_model_name_or_path TinyLlama/TinyLlama-1.1B-Chat-v1.0 --dataset_name user/pairs \
        --num_examples 500 --output_dir outputs/scores
"""

if __name__ == "__main__":
    from approach.errors import install_sigint_handler

    install_sigint_handler(
        "Stopped: run the same command again to continue from the drafts written so far."
    )  # to Ctrl-C, before all else

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from approach.arguments import check_ranges, parse
from approach.errors import run_script
from approach.prompt import MAX_NEW_TOKENS
from approach.runtime import set_up_torch
from approach.storage import Output, contains_files, expand_globs, public_name
from approach.tracking import check_wandb_login

if TYPE_CHECKING:
    from accelerate import PartialState


@dataclass
class EvaluationArguments:
    """Which models to compare on which rows, how they draft, and where the scores go."""

    model_name_or_path: list[str] = field(
        metadata={
            "help": "The fine-tuned model: merged or adapter folder, or Hub id. Several are runs of one recipe "
            "(training seeds): every row's scores are averaged over them."
        }
    )
    base_model_name_or_path: str = field(metadata={"help": "The base it was trained from: a folder or Hub id."})
    dataset_name: str = field(metadata={"help": "A folder that prepare_dataset.py wrote, or a dataset's Hub id."})
    output_dir: str = field(metadata={"help": "Folder for predictions.jsonl and scores.json."})
    compared_model_name_or_path: list[str] = field(
        default_factory=list,
        metadata={"help": "Fine-tuned models of other recipes, scored beside it and not tested."},
    )
    model_revision: list[str] = field(
        default_factory=list,
        metadata={"help": "The fine-tuned model's commit, tag or branch on the Hub: one for all runs, or one each."},
    )
    base_model_revision: str | None = field(
        default=None, metadata={"help": "The base's commit, tag or branch on the Hub."}
    )
    dataset_revision: str | None = field(default=None, metadata={"help": "The dataset's commit or tag on the Hub."})
    dataset_split: str = field(default="test", metadata={"help": "Split to draft for."})
    num_examples: int = field(default=100, metadata={"help": "Rows to draft for."})
    id_range: list[float] = field(
        default_factory=lambda: [0.0, 1.0],
        metadata={"help": "The part of the split that they are from, by id: 0.5 1 is the later half."},
    )
    draw_seed: int | None = field(
        default=None,
        metadata={"help": "Draw the rows at random, with this seed; without it the first by id are taken."},
    )
    num_validation: int = field(
        default=50,
        metadata={"help": "Validation rows on which decodings and the base's best ways to be asked are chosen."},
    )
    num_seeds: int = field(
        default=3, metadata={"help": "Drafts a problem, where a system's decoding is a sampled one."}
    )
    predictions: list[str] = field(
        default_factory=list,
        metadata={"help": "JSONL files of other systems' drafts: id, prediction, given (text beyond the problem)."},
    )
    guided: bool = field(
        default=False,
        metadata={
            "help": "Let the fine-tuned model try guidance, too: words that the problem makes likelier count twice, "
            "at twice the time. Compared models and the base draft without."
        },
    )
    max_new_tokens: int = field(default=MAX_NEW_TOKENS, metadata={"help": "Longest draft, in tokens."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Of the models' weights: auto is bfloat16 where the device computes in it, else float32.",
            "choices": ["auto", "float32", "bfloat16"],
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Problems drafted for at once; halved where memory ends."})
    bertscore_model: str = field(
        default="roberta-large",
        metadata={"help": "BERTScore's encoder: roberta-large as in the report, another folder or Hub id, or none."},
    )
    bertscore_num_layers: int | None = field(
        default=None,
        metadata={"help": "Which layer's output to compare, for an encoder that bert-score does not know."},
    )
    num_resamples: int = field(default=10_000, metadata={"help": "Resamples of the rows for intervals and p-values."})
    report_to: str = field(
        default="none", metadata={"help": "Also to Weights & Biases.", "choices": ["none", "wandb"]}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an output folder that is not empty."})

    def __post_init__(self):
        names = ("num_examples", "num_validation", "num_seeds", "max_new_tokens", "batch_size", "num_resamples")
        check_ranges(self, **dict.fromkeys((*names, "bertscore_num_layers"), "[1, inf)"))
        if len(self.id_range) != 2 or not 0 <= self.id_range[0] < self.id_range[1] <= 1:
            raise ValueError(f"--id_range must be two shares, 0 ≤ A < B ≤ 1, got {self.id_range}")
        if len(self.model_revision) not in (0, 1, len(self.model_name_or_path)):
            raise ValueError(
                f"--model_revision: {len(self.model_revision)} revisions of {len(self.model_name_or_path)} models: "
                "give one for all, or one for each"
            )
        self.predictions = expand_globs(self.predictions)
        models = [*self.model_name_or_path, *self.compared_model_name_or_path]
        places = [Path(name).resolve() if Path(name).exists() else name for name in models]
        if twice := [name for name, place in zip(models, places, strict=True) if places.count(place) > 1]:
            raise ValueError(f"{twice[0]} is named twice: the same drafts would count as those of two models")

    @property
    def output(self) -> Output:
        """The folder of scores."""
        inputs = {
            "--model_name_or_path": self.model_name_or_path,
            "--compared_model_name_or_path": self.compared_model_name_or_path,
            "--base_model_name_or_path": self.base_model_name_or_path,
            "--dataset_name": self.dataset_name,
            "--predictions": self.predictions,
            "--bertscore_model": self.bertscore_model,
        }
        is_ours = contains_files("scores.json", "predictions.jsonl")
        return Output(self.output_dir, "scores", self.overwrite, is_ours, inputs, save_beside=True)


def main(args: EvaluationArguments) -> None:
    """Chooses on validation rows, writes the plan, drafts with every system, and scores on the main process."""
    args.output.check()
    set_up_torch()  # before the modules that import torch
    from approach.evaluation import systems
    from approach.evaluation.choice import DraftSettings, choose_decodings, draft_for_test
    from approach.evaluation.copying import find_rows_seen
    from approach.evaluation.scores import load_metrics
    from approach.evaluation.significance import build_plan, write_plan
    from approach.generation.partial import PartialDrafts
    from approach.models import resolve_dtype

    state = join_processes()
    if args.report_to == "wandb" and state.is_main_process:
        check_wandb_login()
    recipes = systems.build_recipes(args.model_name_or_path, args.compared_model_name_or_path, args.model_revision)
    base = systems.build_base(args.base_model_name_or_path, args.base_model_revision)
    systems.check_base(args.base_model_name_or_path, args.base_model_revision)
    selection = systems.Selection(args.dataset_split, args.num_examples, tuple(args.id_range), args.draw_seed)
    problems = systems.load_problems(args.dataset_name, args.dataset_revision, selection, args.num_validation)
    rows_seen = {recipe.system: find_rows_seen(recipe, problems.train) for recipe in recipes}
    others, given = systems.load_predictions(args.predictions, problems.rows)
    metrics = load_metrics(args.bertscore_model, args.bertscore_num_layers)

    with PartialDrafts(Path(args.output_dir)) as partial:
        dtype = resolve_dtype(args.dtype, state.device)
        settings = DraftSettings(
            partial, args.num_seeds, args.max_new_tokens, args.batch_size, dtype, guided=args.guided
        )
        chosen = choose_decodings(recipes, base, problems, metrics, settings)
        plan = build_plan(chosen, build_dataset_record(args), problems.rows, settings, args.num_resamples)
        write_plan(plan, partial.folder)
        drafts, nlls = draft_for_test(recipes, base, problems, chosen, settings)
        if state.is_main_process:
            baselines = systems.build_baselines(problems, metrics["specificity"], rows_seen[systems.TUNED].seen)
            drafts = [*drafts, *baselines, systems.shuffle_words(drafts[0]), *others]
            score(args, problems, drafts, nlls, given, chosen, plan, rows_seen, metrics)
            partial.remove()


def join_processes() -> "PartialState":
    """
    This process among those that `accelerate launch` or torchrun started.

    On a machine without a GPU accelerate has to be asked for the CPU: each process would take itself for the only one.
    """
    import torch
    from accelerate import PartialState

    device = torch.accelerator.current_accelerator()
    return PartialState(cpu="LOCAL_RANK" in os.environ and (device is None or device.type == "mps"))


def build_dataset_record(args: EvaluationArguments) -> dict[str, str | int | list[float] | None]:
    """Which rows are scored, without the user's folders."""
    rows = {"id_range": args.id_range, "draw_seed": args.draw_seed}
    name = public_name(args.dataset_name)
    return {"name": name, "split": args.dataset_split, "revision": args.dataset_revision, **rows}


def score(args: EvaluationArguments, problems, drafts, nlls, given, chosen, plan, rows_seen, metrics) -> None:
    """Scores the drafts, makes the planned comparisons, writes all that, and prints the table."""
    from approach.evaluation import copying, results, scores, significance

    print("Scoring")
    rows, corpus = problems.rows, [row["approach"] for row in problems.train]
    statistics = scores.compute_statistics(metrics, [entry.texts for entry in drafts], rows, given, corpus)
    setup = scores.build_setup_record(
        dataset=build_dataset_record(args),
        rows=rows,
        metrics=metrics,
        bertscore_model=args.bertscore_model,
        max_new_tokens=args.max_new_tokens,
        num_seeds=args.num_seeds,
        num_resamples=args.num_resamples,
        dtype=plan["dtype"],
    )
    scored = scores.score_systems(drafts, statistics, nlls, rows, metrics, args.num_resamples)
    shown = {name: chosen.decodings[name] for name in [*rows_seen, chosen.base_for_drafts]}
    record = {
        **setup,
        "choice": chosen.record,
        "systems": scored.systems,
        "comparisons": significance.compare_planned(plan, scored.estimates),
        "against_word_list": significance.compare_with_word_list(scored.systems, scored.estimates),
        "power": significance.measure_power(plan, scored.estimates),
        "bits_rows_beyond_context": scored.rows_beyond_context,
        "samples": scores.choose_samples(drafts, rows, shown),
        "copying": copying.measure_copying(drafts, rows_seen, rows, metrics["provenance"]),
    }
    predictions = scores.build_predictions(drafts, statistics, rows, given, corpus, metrics)
    results.write_results(predictions, record, plan, args.output)
    if args.report_to == "wandb":
        results.log_to_wandb(record, predictions)
    results.print_table(record)
    print(
        f"\nWrote {args.output_dir}: scores.json, predictions.jsonl and plan.json. "
        f"Next: python write_report.py {args.output_dir}"
    )


def parse_arguments(argv: list[str] | None = None) -> EvaluationArguments:
    """The command line; raises UserError and status 2 where it does not fit."""
    return parse(EvaluationArguments, argv)


if __name__ == "__main__":
    run_script(lambda: main(parse_arguments()))
