# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bert-score==0.3.13",
#     "bm25s==0.3.16",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "numpy==2.4.6",
#     "nupunkt==0.8.0",
#     "peft==0.21.2",
#     "rouge-score==0.1.2",
#     "sacrebleu==2.6.0",
#     "safetensors==0.8.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
#     "wandb==0.31.0",
# ]
# ///
"""
Draft approaches for test problems with the fine-tuned model, its base and three systems without a model; score all.

Reads a model (merged or adapter folder, or Hub id), its base and the dataset that `prepare_dataset.py` wrote; writes
`predictions.jsonl` (a row a draft) and `scores.json` (every score with a 95 % interval, and which differences hold).
The metrics are the local modules in `metrics/`: nothing is fetched or run from the Hub to score.

    python evaluate_model.py --model_name_or_path outputs/model --base_model_name_or_path BASE \
        --dataset_name outputs/pairs --num_examples 100 --output_dir outputs/scores
    accelerate launch --num_processes 2 evaluate_model.py --model_name_or_path user/model \
        --base_model_name_or_path TinyLlama/TinyLlama-1.1B-Chat-v1.0 --dataset_name user/pairs \
        --num_examples 500 --output_dir outputs/scores
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from approach.arguments import parse
from approach.files import require_free
from approach.prompt import MAX_NEW_TOKENS
from approach.threads import choose_waiting


@dataclass
class EvaluationArguments:
    """Which models to compare on which rows, how they draft, and where the scores go."""

    model_name_or_path: list[str] = field(
        metadata={"help": "The fine-tuned model: merged or adapter folder, or Hub id. Several are compared."}
    )
    base_model_name_or_path: str = field(metadata={"help": "The base it was trained from: a folder or Hub id."})
    dataset_name: str = field(metadata={"help": "A folder that prepare_dataset.py wrote, or a dataset's Hub id."})
    output_dir: str = field(metadata={"help": "Folder for predictions.jsonl and scores.json."})
    dataset_revision: str | None = field(default=None, metadata={"help": "The dataset's commit or tag on the Hub."})
    dataset_split: str = field(default="test", metadata={"help": "Split to draft for."})
    num_examples: int = field(default=100, metadata={"help": "Rows to draft for: the first of the split, by id."})
    num_validation: int = field(
        default=50, metadata={"help": "Validation rows on which the best base system is found."}
    )
    num_seeds: int = field(
        default=3, metadata={"help": "Sampled drafts a problem, beside the greedy one; 0 for none."}
    )
    predictions: list[str] = field(
        default_factory=list, metadata={"help": "JSONL files of other systems' drafts: rows of id and prediction."}
    )
    max_new_tokens: int = field(default=MAX_NEW_TOKENS, metadata={"help": "Longest draft, in tokens."})
    batch_size: int = field(default=32, metadata={"help": "Problems drafted for at once; halved where memory ends."})
    bertscore_model: str = field(
        default="roberta-large",
        metadata={"help": "BERTScore's encoder: roberta-large as in the report, or another folder or Hub id."},
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
        for name in ("num_examples", "num_validation", "max_new_tokens", "batch_size", "num_resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.num_seeds < 0:
            raise ValueError(f"--num_seeds must be at least 0, got {self.num_seeds}")
        require_free(self.output_dir, self.overwrite, "scores.json", "scores")


def main(args: EvaluationArguments) -> None:
    """Drafts with every system, and on the main process scores and writes what they drafted."""
    choose_waiting()  # before the rooms, which import torch
    from accelerate import PartialState

    from approach.drafting.generation import PartialDrafts
    from approach.evaluation import copying, statistics, systems
    from approach.evaluation.rows import load_problems

    tuned = systems.name_tuned(args.model_name_or_path)
    problems = load_problems(
        args.dataset_name, args.dataset_revision, args.dataset_split, args.num_examples, args.num_validation
    )
    rows_seen = {system: copying.read_rows_seen(name, problems.train) for system, name in tuned.items()}
    others = systems.load_predictions(args.predictions, problems.rows)
    metrics = statistics.load_metrics(args.bertscore_model, args.bertscore_num_layers)

    partial = PartialDrafts(Path(args.output_dir))
    drafting = systems.Drafting(partial, args.num_seeds, args.max_new_tokens, args.batch_size)
    tuned_drafts = systems.draft_tuned(tuned, problems, drafting)
    base_drafts, best_base = systems.draft_base(args.base_model_name_or_path, problems, metrics, drafting)
    drafts = [*tuned_drafts, *base_drafts, *systems.draft_without_model(problems), *others]
    if PartialState().is_main_process:
        score(args, problems, drafts, best_base, rows_seen, metrics)
        shutil.rmtree(partial.folder)


def score(args: EvaluationArguments, problems, drafts, best_base, rows_seen, metrics) -> None:
    """Scores the drafts, writes scores and drafts, and prints the table."""
    from approach.evaluation import copying, results, scores, statistics

    print("Scoring")
    rows = problems.rows
    counted = statistics.count_rows(metrics, [entry.texts for entry in drafts], [row["approach"] for row in rows])
    setup = scores.describe_setup(
        dataset={"name": args.dataset_name, "split": args.dataset_split, "revision": args.dataset_revision},
        rows=rows,
        metrics=metrics,
        bertscore_model=args.bertscore_model,
        max_new_tokens=args.max_new_tokens,
        num_seeds=args.num_seeds,
        num_resamples=args.num_resamples,
    )
    scored = scores.score_systems(drafts, counted, rows, metrics, best_base, args.num_resamples)
    record = {
        **setup,
        **scored,
        "samples": results.choose_samples(drafts, rows, best_base),
        "training_spread": scores.spread_of_training(scored["systems"]),
        "copying": copying.look_for_copies(drafts, rows_seen, rows, metrics["provenance"]),
    }
    predictions = results.list_predictions(drafts, counted, rows, metrics)
    results.write_results(predictions, record, Path(args.output_dir))
    if args.report_to == "wandb":
        results.log_to_wandb(record, predictions)
    results.print_table(record)
    print(
        f"\nWrote {args.output_dir}: scores.json and predictions.jsonl. Next: python write_report.py {args.output_dir}"
    )


def parse_arguments(argv: list[str] | None = None) -> EvaluationArguments:
    """The command line; ends with one line and status 2 where it does not fit."""
    return parse(EvaluationArguments, argv)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except KeyboardInterrupt:
        print("\nStopped: the same command goes on from the drafts that there are.", file=sys.stderr)
        sys.exit(130)
