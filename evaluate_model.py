# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "bert-score==0.3.13",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "rouge-score==0.1.2",
#     "sacrebleu==2.6.0",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""
Draft approaches for test problems with the fine-tuned model and its base, and score both against the authors' own.

Reads a merged model, its base and the dataset that `prepare_dataset.py` wrote; writes `predictions.jsonl` (a row for
each system and problem) and `scores.json`. The metrics are the local modules in `metrics/`: nothing is fetched or run
from the Hub to score.

    python evaluate_model.py --model_name_or_path outputs/model --baseline_model_name_or_path BASE \
        --dataset_name outputs/pairs --num_examples 100 --output_dir outputs/scores
    python evaluate_model.py --model_name_or_path user/model --dataset_name user/pairs \
        --baseline_model_name_or_path TinyLlama/TinyLlama-1.1B-Chat-v1.0 --num_examples 500 --output_dir outputs/scores
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

METRICS = Path(__file__).resolve().parent / "metrics"
SCORES = ("bleu", "rouge1", "rouge2", "rougeL", "bertscore_f1")


@dataclass
class EvaluationArguments:
    """Which models to compare on which rows, how they draft, and where the scores go."""

    model_name_or_path: str = field(metadata={"help": "The fine-tuned model: a merged folder or its Hub id."})
    baseline_model_name_or_path: str = field(metadata={"help": "The base it was trained from: a folder or Hub id."})
    dataset_name: str = field(metadata={"help": "A folder that prepare_dataset.py wrote, or a dataset's Hub id."})
    output_dir: str = field(metadata={"help": "Folder for predictions.jsonl and scores.json."})
    dataset_split: str = field(default="test", metadata={"help": "Split to draft for."})
    num_examples: int = field(default=100, metadata={"help": "Rows to draft for: the first of the split, by id."})
    max_new_tokens: int = field(default=448, metadata={"help": "Longest draft, in tokens."})
    batch_size: int = field(default=16, metadata={"help": "Problems drafted for at once."})
    bertscore_model: str = field(
        default="roberta-large",
        metadata={"help": "BERTScore's encoder: roberta-large as in the report, or another folder or Hub id."},
    )
    bertscore_num_layers: int | None = field(
        default=None,
        metadata={"help": "Which layer's output to compare, for an encoder that bert-score does not know."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an output folder that is not empty."})

    def __post_init__(self):
        for name in ("num_examples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        output_dir = Path(self.output_dir)
        if output_dir.is_dir() and any(output_dir.iterdir()):
            if not self.overwrite:
                raise ValueError(f"--output_dir {self.output_dir} is not empty: choose another or add --overwrite")
            if not (output_dir / "scores.json").is_file():
                raise ValueError(f"--output_dir {self.output_dir} holds no scores of this script: not overwritten")


def load_rows(args: EvaluationArguments) -> list[dict]:
    """The rows to draft for, fixed by id: the same for every system, and in every run whatever the file's order."""
    from datasets import load_dataset

    try:
        split = load_dataset(args.dataset_name, split=args.dataset_split)
    except (ValueError, OSError) as error:
        sys.exit(f"--dataset_name {args.dataset_name}: {str(error).splitlines()[0]}")
    if missing := {"id", "problem", "approach", "prompt"} - set(split.column_names):
        sys.exit(f"--dataset_name {args.dataset_name}: no column {', '.join(sorted(missing))}")
    if not len(split):
        sys.exit(f"--dataset_name {args.dataset_name}: its {args.dataset_split} split is empty")
    return sorted(split, key=lambda row: row["id"])[: args.num_examples]


def load_model(name: str):
    """A causal model and its tokenizer, padding on the left as generation needs; ends with one line if it can't."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        sys.exit(f"model {name}: {str(error).splitlines()[0]}")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def stop_ids(model) -> set[int]:
    """Every token id that ends a draft of this model."""
    eos = model.generation_config.eos_token_id
    return set(eos if isinstance(eos, list) else [] if eos is None else [eos])


def cut_draft(ids: list[int], stops: set[int]) -> tuple[list[int], bool]:
    """The new tokens before the first stop token, and whether there was one."""
    for position, token in enumerate(ids):
        if token in stops:
            return ids[:position], True
    return ids, False


def draft(model, tokenizer, prompts: list[str], max_new_tokens: int, batch_size: int) -> list[dict]:
    """
    Greedy continuations of `prompts`, in their order, as `{"prediction", "ended", "num_tokens"}`.

    The prompt is cut off by position: tags are special tokens and vanish on decoding, so a cut in the decoded text
    would find nothing and leave the problem in the draft (specification, mistake 5).
    """
    import torch
    from tqdm import tqdm

    drafts: list[dict] = [{}] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # prompts of a length waste least on padding
    for start in tqdm(range(0, len(order), batch_size), desc="Drafting"):
        rows = order[start : start + batch_size]
        batch = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True).to(model.device)
        room = model.config.max_position_embeddings - batch["input_ids"].shape[1]
        with torch.inference_mode():
            output = model.generate(
                **batch,
                do_sample=False,
                max_new_tokens=min(max_new_tokens, room),
                pad_token_id=tokenizer.pad_token_id,
            )
        for i, ids in zip(rows, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            ids, ended = cut_draft(ids, stop_ids(model))
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            drafts[i] = {"prediction": text, "ended": ended, "num_tokens": len(ids)}
    return drafts


def score(predictions: list[str], references: list[str], args: EvaluationArguments) -> dict:
    """Every metric over one system's drafts, with signatures."""
    import evaluate

    pairs = {"predictions": predictions, "references": references}
    bleu = evaluate.load(str(METRICS / "bleu.py")).compute(**pairs)
    rouge = evaluate.load(str(METRICS / "rouge.py")).compute(**pairs)
    bertscore = evaluate.load(str(METRICS / "bertscore.py")).compute(
        **pairs, model_type=args.bertscore_model, num_layers=args.bertscore_num_layers
    )
    signatures = {"bleu": bleu.pop("signature"), "bertscore": bertscore.pop("hash")}
    return {**bleu, **rouge, **bertscore, "signatures": signatures}


def public_name(name: str) -> str:
    """A Hub id as it is, a local folder by its last name alone: `scores.json` may be published."""
    return Path(name).resolve().name if Path(name).exists() else name


def write_scores(rows: list[dict], scores: dict, output_dir: Path) -> None:
    """Writes both files beside, then renames the folder: it appears whole or not at all."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.partial-", dir=output_dir.parent))
    try:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (partial / "predictions.jsonl").write_text(lines, encoding="utf-8")
        (partial / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        os.chmod(partial, 0o755)
        if output_dir.exists():
            shutil.rmtree(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(args: EvaluationArguments) -> None:
    rows = load_rows(args)
    try:  # before hours of drafting, not after
        score(["a draft"], ["a reference"], args)
    except KeyError:
        sys.exit(f"--bertscore_model {args.bertscore_model}: bert-score does not know it; add --bertscore_num_layers")
    except (OSError, ValueError) as error:
        sys.exit(f"--bertscore_model {args.bertscore_model}: {str(error).splitlines()[0]}")
    references = [row["approach"] for row in rows]
    # The base has never seen the tags: it continues the bare problem sentence, its best chance without examples.
    systems = {
        "fine-tuned": (args.model_name_or_path, [row["prompt"] for row in rows]),
        "base": (args.baseline_model_name_or_path, [row["problem"] for row in rows]),
    }
    predictions, results = [], {}
    for system, (name, prompts) in systems.items():
        print(f"{system}: {len(prompts)} drafts by {name}")
        drafts = draft(*load_model(name), prompts, args.max_new_tokens, args.batch_size)
        for row, result in zip(rows, drafts, strict=True):
            kept = {"id": row["id"], "problem": row["problem"], "reference": row["approach"]}
            predictions.append({"system": system, **kept, **result})
        results[system] = score([result["prediction"] for result in drafts], references, args)
        results[system]["share_ended"] = sum(result["ended"] for result in drafts) / len(drafts)
        results[system]["mean_tokens"] = sum(result["num_tokens"] for result in drafts) / len(drafts)
    scores = {
        "num_examples": len(rows),
        "dataset": {"name": public_name(args.dataset_name), "split": args.dataset_split},
        "models": {system: public_name(name) for system, (name, _) in systems.items()},
        "decoding": {"do_sample": False, "max_new_tokens": args.max_new_tokens},
        "bertscore_model": public_name(args.bertscore_model),
        "versions": {
            name: version(name) for name in ("torch", "transformers", "sacrebleu", "rouge-score", "bert-score")
        },
        "systems": results,
    }
    write_scores(predictions, scores, Path(args.output_dir))
    print("\n" + " ".join(f"{name:>12}" for name in ("system", *SCORES, "ended")))
    for system, result in results.items():
        values = [f"{result[name]:12.4f}" for name in SCORES] + [f"{result['share_ended']:12.0%}"]
        print(f"{system:>12} " + " ".join(values))
    print(f"\nWrote {args.output_dir}: scores.json and predictions.jsonl")


def parse_arguments(argv: list[str] | None = None) -> EvaluationArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(EvaluationArguments, usage="python %(prog)s --ARGUMENT VALUE … (all of them: --help)")
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(parse_arguments())
