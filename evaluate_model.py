# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "bert-score==0.3.13",
#     "bm25s==0.3.16",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "numpy==2.4.6",
#     "peft==0.21.2",
#     "rouge-score==0.1.2",
#     "sacrebleu==2.6.0",
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

    python evaluate_model.py --model_name_or_path outputs/model --baseline_model_name_or_path BASE \
        --dataset_name outputs/pairs --num_examples 100 --output_dir outputs/scores
    accelerate launch --num_processes 2 evaluate_model.py --model_name_or_path user/model \
        --baseline_model_name_or_path TinyLlama/TinyLlama-1.1B-Chat-v1.0 --dataset_name user/pairs \
        --num_examples 500 --output_dir outputs/scores
"""

import functools
import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

METRICS = Path(__file__).resolve().parent / "metrics"
SCORES = ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "bertscore_f1")
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}  # the report's
STRETCH = 128  # tokens drafted before finished drafts leave the batch
INSTRUCTION = "Write the approach section of a research abstract, one paragraph, for this research problem:\n"


@dataclass
class EvaluationArguments:
    """Which models to compare on which rows, how they draft, and where the scores go."""

    model_name_or_path: list[str] = field(
        metadata={"help": "The fine-tuned model: merged or adapter folder, or Hub id. Several are compared."}
    )
    baseline_model_name_or_path: str = field(metadata={"help": "The base it was trained from: a folder or Hub id."})
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
    max_new_tokens: int = field(default=448, metadata={"help": "Longest draft, in tokens."})
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
        output_dir = Path(self.output_dir)
        if output_dir.is_dir() and any(output_dir.iterdir()):
            if not self.overwrite:
                raise ValueError(f"--output_dir {self.output_dir} is not empty: choose another or add --overwrite")
            if not (output_dir / "scores.json").is_file():
                raise ValueError(f"--output_dir {self.output_dir} holds no scores of this script: not overwritten")


def load_rows(args: EvaluationArguments, name: str, number: int | None = None) -> list[dict]:
    """The first rows of a split by id: the same for every system, and in every run whatever the file's order."""
    from datasets import load_dataset

    try:
        split = load_dataset(args.dataset_name, split=name, revision=args.dataset_revision)
    except (ValueError, OSError) as error:
        sys.exit(f"--dataset_name {args.dataset_name}: {str(error).splitlines()[0]}")
    if missing := {"id", "problem", "approach", "prompt"} - set(split.column_names):
        sys.exit(f"--dataset_name {args.dataset_name}: no column {', '.join(sorted(missing))}")
    if not len(split):
        sys.exit(f"--dataset_name {args.dataset_name}: its {name} split is empty")
    if number is None:
        return split.to_list()  # in the dataset's order, which training shuffles
    return sorted(split, key=lambda row: row["id"])[:number]


def load_predictions(path: str, rows: list[dict]) -> list[dict]:
    """Another system's drafts for `rows`; ends with one line that names the row where one is missing."""
    try:
        with Path(path).open(encoding="utf-8") as lines:
            drafts = {row["id"]: row["prediction"] for row in map(json.loads, lines)}
        return [{"prediction": drafts[row["id"]].strip(), "ended": None, "num_tokens": None} for row in rows]
    except KeyError as error:
        sys.exit(f"--predictions {path}: no prediction for row {error}; a row is {{'id': …, 'prediction': …}}")
    except (OSError, ValueError) as error:
        sys.exit(f"--predictions {path}: {str(error).splitlines()[0]}")


# Drafting


def cut_draft(ids: list[int], stops: set[int]) -> tuple[list[int], bool]:
    """The new tokens before the first stop token, and whether there was one."""
    for position, token in enumerate(ids):
        if token in stops:
            return ids[:position], True
    return ids, False


class Drafter:
    """A model that drafts, and its tokenizer."""

    def __init__(self, name: str, max_new_tokens: int = 448, batch_size: int = 32):
        import torch
        from accelerate import PartialState
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.peft_utils import find_adapter_config_file

        self.name, self.max_new_tokens, self.batch_size = name, max_new_tokens, batch_size
        self.room = batch_size  # drafts that fit into memory at once, as far as is known
        device = PartialState().device
        # The device's own precision: bfloat16 from Ampere on. Below, is_bf16_supported() is true by emulation.
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        dtype = torch.bfloat16 if fast else torch.float32
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            if find_adapter_config_file(name):
                model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype).merge_and_unload()
            else:
                model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError) as error:
            sys.exit(f"model {name}: {str(error).splitlines()[0]}")
        self.model = model.eval().to(device)
        # An adapter opened with plain PEFT has its base's generation defaults, which lack the end tag.
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.stops = {*ends, self.tokenizer.eos_token_id} - {None}
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @functools.cached_property
    def fingerprint(self) -> str:
        """What makes its drafts its own: the weights, to the bit."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def draft_batch(self, prompts: list[str], decoding: dict) -> list[dict]:
        """
        Continuations of `prompts` as `{"prediction", "ended", "num_tokens"}`.

        The prompt is cut off by position: tags are special tokens and vanish on decoding, so a cut in the decoded text
        would find nothing and leave the problem in the draft (specification, mistake 5). After every stretch of tokens
        the drafts that have ended leave the batch: reading the others anew takes far less than computing these on.
        """
        import torch

        if len(prompts) > self.room:
            half = self.room
            return self.draft_batch(prompts[:half], decoding) + self.draft_batch(prompts[half:], decoding)
        texts = self.tokenizer(prompts)["input_ids"]
        starts, longest = [len(ids) for ids in texts], max(len(ids) for ids in texts)
        budget = min(self.max_new_tokens, self.model.config.get_text_config().max_position_embeddings - longest)
        if budget < 1:
            sys.exit(f"model {self.name}: a prompt of {longest} tokens leaves no room for a draft")
        unfinished, ended = list(range(len(prompts))), [False] * len(prompts)
        try:
            for written in range(0, budget, STRETCH):
                new = self.continue_texts([texts[i] for i in unfinished], min(STRETCH, budget - written), decoding)
                for i, ids in zip(unfinished, new, strict=True):
                    ids, ended[i] = cut_draft(ids, self.stops)
                    texts[i] += ids
                unfinished = [i for i in unfinished if not ended[i]]
                if not unfinished:
                    break
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                sys.exit(f"model {self.name}: the device's memory is too small for one draft; --max_new_tokens less")
            self.room = len(prompts) // 2
            torch.cuda.empty_cache()
            return self.draft_batch(prompts, decoding)
        drafts = []
        for ids, start, has_ended in zip(texts, starts, ended, strict=True):
            text, tag, _ = self.tokenizer.decode(ids[start:], skip_special_tokens=True).partition("</approach>")
            drafts.append(
                {"prediction": text.strip(), "ended": has_ended or bool(tag), "num_tokens": len(ids) - start}
            )
        return drafts

    def continue_texts(self, texts: list[list[int]], num_tokens: int, decoding: dict) -> list[list[int]]:
        """At most `num_tokens` more tokens for each text, texts padded on the left."""
        import torch

        width, pad = max(len(ids) for ids in texts), self.tokenizer.pad_token_id
        rows = torch.tensor([[pad] * (width - len(ids)) + ids for ids in texts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in texts])
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=rows.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                **decoding,
                max_new_tokens=num_tokens,
                eos_token_id=sorted(self.stops),
                pad_token_id=pad,
            )
        return output[:, width:].tolist()

    def draft(self, prompts: list[str], partial: "PartialDrafts", seed: int | None = None) -> list[dict]:
        """
        Drafts for all prompts in their order: greedy, or sampled with a seed.

        Prompts of a length go together, to waste least on padding, and every batch has a seed of its own: whichever
        process takes it, in this run or in one that goes on after a kill, it is the same batch.
        """
        from accelerate import PartialState
        from tqdm import tqdm
        from transformers import set_seed

        state = PartialState()
        decoding = {"do_sample": False} if seed is None else SAMPLING
        settings = [
            self.fingerprint,
            prompts,
            decoding,
            seed,
            self.max_new_tokens,
            self.batch_size,
            str(state.device),
        ]
        settings += [str(self.model.dtype), version("torch"), version("transformers")]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        mine = list(enumerate(batches))[state.process_index :: state.num_processes]
        done = partial.read(key)
        for number, rows in tqdm(mine, desc="Drafting", disable=not state.is_main_process):
            if not all(i in done for i in rows):
                set_seed(1000 * (seed or 0) + number)
                partial.append(key, rows, self.draft_batch([prompts[i] for i in rows], decoding))
        state.wait_for_everyone()
        done = partial.read(key)
        return [done[i] for i in range(len(prompts))]

    def bits(self, prompts: list[str], approaches: list[str]):
        """
        Bits that the model needs for each approach after its prompt, and the approach's bytes, `(rows, 2)`.

        The space between counts, the end tag does not: the same bytes for every model and tokenizer. A row beyond the
        model's context is NaN.
        """
        import numpy as np
        import torch

        context = self.model.config.get_text_config().max_position_embeddings
        result = np.full((len(prompts), 2), np.nan)
        for row, prompt, approach in zip(result, prompts, approaches, strict=True):
            start = self.tokenizer(prompt)["input_ids"]
            ids = self.tokenizer(f"{prompt} {approach}", return_tensors="pt")["input_ids"]
            if ids.shape[1] <= context:
                # Where a tokenizer joins the prompt's last token with the space, that token counts.
                prefix = len(os.path.commonprefix([start, ids[0].tolist()]))
                with torch.inference_mode():
                    logits = self.model(ids.to(self.model.device)).logits[0, prefix - 1 : -1].float()
                loss = torch.nn.functional.cross_entropy(logits, ids[0, prefix:].to(logits.device), reduction="sum")
                row[:] = loss.item() / math.log(2), len(f" {approach}".encode())
        return result


class PartialDrafts:
    """
    Drafts on disk as they come, in a folder beside the output: a run that was killed goes on where it was, and several
    processes find each other's. Every row names its model, prompts and settings by a hash: of others none is taken.
    """

    def __init__(self, output_dir: Path):
        from accelerate import PartialState

        self.folder = output_dir.with_name(f".{output_dir.name}.partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"drafts-{PartialState().process_index}.jsonl"

    def append(self, key: str, rows: list[int], drafts: list[dict]) -> None:
        lines = [json.dumps({"key": key, "row": row, **draft}) for row, draft in zip(rows, drafts, strict=True)]
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines))  # a line that a kill cut off ends here

    def read(self, key: str) -> dict[int, dict]:
        drafts = {}
        for path in self.folder.glob("drafts-*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry.pop("key") == key:
                    drafts[entry.pop("row")] = entry
        return drafts


# Systems


def base_prompts(tokenizer, rows: list[dict], examples: list[dict]) -> dict[str, list[str]]:
    """
    The base's prompts, by system: it has never seen the tags, so it may be asked in several ways.

    Where its tokenizer has a chat template, also with an instruction, and with two training rows as examples.
    """
    systems = {"base": [row["problem"] for row in rows], "base, tags as text": [row["prompt"] for row in rows]}
    if tokenizer.chat_template is None:
        return systems

    def ask(turns: list[dict], problem: str) -> str:
        turns = [*turns, {"role": "user", "content": INSTRUCTION + problem}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text.removeprefix(tokenizer.bos_token or "")  # the tokenizer adds it again

    shown = []
    for row in examples:
        shown.append({"role": "user", "content": INSTRUCTION + row["problem"]})
        shown.append({"role": "assistant", "content": row["approach"]})
    systems["base, instructed"] = [ask([], row["problem"]) for row in rows]
    systems["base, two examples"] = [ask(shown, row["problem"]) for row in rows]
    return systems


def find_best_base(drafter: Drafter, rows: list[dict], examples: list[dict], metrics: dict, partial) -> dict[str, str]:
    """The base's best way to be asked, on validation rows: for drafts by ROUGE-L, and by bits per byte."""
    import numpy as np

    references, found = [row["approach"] for row in rows], {}
    for name, prompts in base_prompts(drafter.tokenizer, rows, examples).items():
        drafts = [draft["prediction"] for draft in drafter.draft(prompts, partial)]
        rouge = metrics["rouge"].compute(predictions=drafts, references=references)["rougeL"] or 0.0
        bits, size = np.nansum(drafter.bits(prompts, references), axis=0)
        rate = bits / size if size else math.inf
        found[name] = {"rougeL": rouge, "bits_per_byte": rate}
        print(f"  {name}, on {len(rows)} validation rows: ROUGE-L {rouge:.3f}, {rate:.3f} bits a byte")
    return {
        "drafts": max(found, key=lambda name: found[name]["rougeL"]),
        "bits_per_byte": min(found, key=lambda name: found[name]["bits_per_byte"]),
    }


def draft_all(
    args: EvaluationArguments, rows: list[dict], train: list[dict], metrics: dict
) -> tuple[list[dict], dict]:
    """
    Every system's drafts, `[{"system", "kind", "model", "decoding", "runs", "bits"}]` with a list of drafts for each
    seed, and the best base system. Sampled drafts are made by the fine-tuned models and the best base system.
    """
    partial = PartialDrafts(Path(args.output_dir))
    rng, sets = random.Random(0), []
    examples = rng.sample(train, min(2, len(train)))

    def add(system: str, kind: str, drafter: Drafter, prompts: list[str], sampled: bool) -> None:
        print(f"{system}: {len(prompts)} drafts by {drafter.name}")
        about = {"system": system, "kind": kind, "model": public_name(drafter.name)}
        bits = drafter.bits(prompts, [row["approach"] for row in rows])
        sets.append({**about, "decoding": "greedy", "runs": [drafter.draft(prompts, partial)], "bits": bits})
        if sampled and args.num_seeds:
            runs = [drafter.draft(prompts, partial, seed) for seed in range(args.num_seeds)]
            sets.append({**about, "decoding": "sampled", "runs": runs, "bits": None})

    sizes = {"max_new_tokens": args.max_new_tokens, "batch_size": args.batch_size}
    several = len(args.model_name_or_path) > 1
    for name in args.model_name_or_path:
        system = f"fine-tuned: {public_name(name)}" if several else "fine-tuned"
        add(system, "fine-tuned", Drafter(name, **sizes), [row["prompt"] for row in rows], True)
    base = Drafter(args.baseline_model_name_or_path, **sizes)
    if base.tokenizer.chat_template is None:
        print("base, instructed and base, two examples: left out, the base has no chat template")
    best = find_best_base(base, load_rows(args, "validation", args.num_validation), examples, metrics, partial)
    for system, prompts in base_prompts(base.tokenizer, rows, examples).items():
        add(system, "base", base, prompts, system == best["drafts"])
    near = metrics["provenance"].nearest([row["problem"] for row in rows], [row["problem"] for row in train], k=1)
    others = {
        "problem copied": [row["problem"] for row in rows],
        "random training approach": [rng.choice(train)["approach"] for _ in rows],
        "nearest training approach": [train[hits[0][0]]["approach"] if hits else "" for hits in near],
    }
    for system, texts in others.items():
        run = [{"prediction": text, "ended": None, "num_tokens": None} for text in texts]
        sets.append(
            {"system": system, "kind": "no model", "model": None, "decoding": "none", "runs": [run], "bits": None}
        )
    for path in args.predictions:
        about = {"system": Path(path).stem, "kind": "predictions", "model": None, "decoding": "none", "bits": None}
        sets.append({**about, "runs": [load_predictions(path, rows)]})
    return sets, best


# Scoring


def load_metrics(args: EvaluationArguments) -> dict:
    """The local modules by name, the encoder loaded: before hours of drafting, not after."""
    import evaluate

    names = ("bleu", "chrf", "rouge", "bertscore", "behaviour", "provenance")
    metrics = {name: evaluate.load(str(METRICS / f"{name}.py")) for name in names}
    try:
        metrics["bertscore"].load(args.bertscore_model, args.bertscore_num_layers)
    except KeyError:
        sys.exit(f"--bertscore_model {args.bertscore_model}: bert-score does not know it; add --bertscore_num_layers")
    except (OSError, ValueError) as error:
        sys.exit(f"--bertscore_model {args.bertscore_model}: {str(error).splitlines()[0]}")
    return metrics


def permute(references: list[str]) -> list[str]:
    """Every reference in another row's place: what is still scored has nothing to do with the problem."""
    order = list(range(len(references)))
    random.Random(0).shuffle(order)
    target = {row: order[i - 1] for i, row in enumerate(order)}
    return [references[target[row]] for row in range(len(references))]


def count_rows(metrics: dict, sets: list[dict], references: list[str]) -> list[dict]:
    """
    For each set of drafts what its scores are sums of: each metric's statistics of each row, `(runs, rows, …)`,
    against own references and against permuted ones, and whether a draft finds its own reference first.
    """
    import numpy as np

    runs = [[[draft["prediction"] for draft in run] for run in entry["runs"]] for entry in sets]
    size, permuted = len(references), permute(references)
    drafts = [text for group in runs for run in group for text in run]
    statistics: list[dict] = [{} for _ in sets]
    for name in ("bleu", "chrf", "rouge", "bertscore"):
        # All drafts in one call, twice: bert-score encodes each text once a call.
        goals = references * (len(drafts) // size) + permuted * (len(drafts) // size)
        rows = metrics[name].statistics(drafts * 2, goals)
        both = rows.reshape(2, len(drafts) // size, size, -1)
        start = 0
        for group, found in zip(runs, statistics, strict=True):
            own, other = both[:, start : start + len(group)]
            found[name] = {"own": own, "permuted": other}
            start += len(group)
    for group, found in zip(runs, statistics, strict=True):
        found["found"] = np.zeros((len(group), size))
        for run, texts in enumerate(group):
            for start in range(0, size, 100):  # among 100, whatever the number of rows
                near = metrics["provenance"].nearest(texts[start : start + 100], references[start : start + 100], k=1)
                found["found"][run, start : start + 100] = [bool(hit) and hit[0][0] == i for i, hit in enumerate(near)]
    return statistics


def score_rows(metrics: dict, statistics: dict, weights) -> dict:
    """
    Every score of rows taken `weights` times, arrays of shape `(runs, len(weights))`; NaN where nothing is measured.

    `gap_…` is the score against own references minus the score against permuted ones.
    """
    import numpy as np

    scores = {}
    for name in ("bleu", "chrf", "rouge", "bertscore"):
        for kind, rows in statistics[name].items():
            values = [[metrics[name].from_totals(totals) for totals in weights @ run] for run in rows]
            for score in values[0][0]:
                array = np.array([[value[score] for value in run] for run in values], dtype=float)
                scores[score if kind == "own" else f"permuted_{score}"] = array
    for score in SCORES:
        scores[f"gap_{score}"] = scores[score] - scores[f"permuted_{score}"]
    scores["found_first"] = statistics["found"] @ weights.T / weights.sum(axis=1)
    return scores


def describe(values, resampled) -> dict:
    """A score's value, the 95 % interval of its resamples, and its spread over seeds where there are several."""
    import numpy as np

    if np.isnan(values).any() or np.isnan(resampled).any():
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(resampled.mean(axis=0), [2.5, 97.5])
    result = {"value": float(values.mean()), "low": float(low), "high": float(high)}
    return result | ({"spread": float(values.std(ddof=1))} if len(values) > 1 else {})


def compare(ours, theirs, resampled_ours, resampled_theirs) -> dict:
    """
    A paired difference with its 95 % interval and two-sided p = (1 + #{|d* - d| ≥ |d|}) / (n + 1).

    Rows are drawn for both systems together. A system against itself gives p = 1.
    """
    import numpy as np

    difference = float(ours.mean() - theirs.mean())
    resampled = resampled_ours.mean(axis=0) - resampled_theirs.mean(axis=0)
    low, high = np.percentile(resampled, [2.5, 97.5])
    extreme = int((np.abs(resampled - difference) >= abs(difference)).sum())
    p = (1 + extreme) / (len(resampled) + 1)
    return {"difference": difference, "low": float(low), "high": float(high), "p": p}


def correct(comparisons: list[dict]) -> list[dict]:
    """Adds Holm's correction for the number of comparisons, as `p_holm`."""
    largest = 0.0
    for rank, row in enumerate(sorted(comparisons, key=lambda row: row["p"])):
        largest = max(largest, min(1.0, row["p"] * (len(comparisons) - rank)))
        row["p_holm"] = largest
    return comparisons


def score_all(args: EvaluationArguments, sets: list[dict], best: dict, rows: list[dict], metrics: dict) -> dict:
    """`systems` and `comparisons` of scores.json; adds each row's statistics to `sets` for predictions.jsonl."""
    import numpy as np

    references, problems = ([row[name] for row in rows] for name in ("approach", "problem"))
    rng = np.random.default_rng(0)  # the same draws for every system, so that differences are paired
    draws = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=args.num_resamples)
    whole = np.ones((1, len(rows)))
    measured = np.all([~np.isnan(entry["bits"][:, 0]) for entry in sets if entry["bits"] is not None], axis=0)
    systems, points, resamples = {}, {}, {}
    for entry, statistics in zip(sets, count_rows(metrics, sets, references), strict=True):
        key, runs = (entry["system"], entry["decoding"]), entry["runs"]
        entry["statistics"] = statistics
        points[key] = score_rows(metrics, entry["statistics"], whole)
        resamples[key] = score_rows(metrics, entry["statistics"], draws)
        described = {score: describe(points[key][score], resamples[key][score]) for score in points[key]}
        drafts = [draft for run in runs for draft in run]
        behaviour = metrics["behaviour"].compute(
            predictions=[draft["prediction"] for draft in drafts],
            references=references * len(runs),
            problems=problems * len(runs),
        )
        if drafts[0]["ended"] is not None:
            behaviour["share_ended"] = sum(draft["ended"] for draft in drafts) / len(drafts)
            behaviour["share_at_budget"] = 1 - behaviour["share_ended"]
            behaviour["mean_tokens"] = sum(draft["num_tokens"] for draft in drafts) / len(drafts)
        behaviour["brevity_penalty"] = (
            min(1.0, math.exp(1 - 1 / ratio)) if (ratio := behaviour["length_ratio"]) else 0.0
        )
        system = systems.setdefault(
            entry["system"], {"kind": entry["kind"], "model": entry["model"], "decodings": {}, "bits_per_byte": None}
        )
        named = {name: value for name, value in described.items() if not name.startswith(("gap_", "permuted_"))}
        found = {"found_first": named.pop("found_first")}
        gaps = {name.removeprefix("gap_"): value for name, value in described.items() if name.startswith("gap_")}
        floors = {name: described[f"permuted_{name}"] for name in SCORES}
        system["decodings"][entry["decoding"]] = {
            **{"scores": named, "own_minus_permuted": gaps, "permuted": floors, **found, "behaviour": behaviour}
        }
        if entry["bits"] is not None:
            kept = np.where(measured[:, None], entry["bits"], 0.0)
            for store, weights in ((points, whole), (resamples, draws)):
                bits, size = (weights @ kept).T
                store[entry["system"], "bits"] = {"bits_per_byte": (bits / size)[None]}
            key = entry["system"], "bits"
            system["bits_per_byte"] = describe(points[key]["bits_per_byte"], resamples[key]["bits_per_byte"])
    comparisons = []
    declared = [*SCORES, *(f"gap_{score}" for score in SCORES)]
    for system, about in systems.items():
        if about["kind"] != "fine-tuned":
            continue
        pairs = [((system, d), (best["drafts"], d), declared) for d in about["decodings"]]
        pairs += [((system, d), ("nearest training approach", "none"), declared) for d in about["decodings"]]
        pairs.append(((system, "bits"), (best["bits_per_byte"], "bits"), ["bits_per_byte"]))
        for ours, theirs, names in pairs:
            for name in names:
                values = [store[key][name] for store in (points, resamples) for key in (ours, theirs)]
                if not any(np.isnan(value).any() for value in values):
                    about_pair = {"system": ours[0], "baseline": theirs[0], "decoding": ours[1], "metric": name}
                    comparisons.append({**about_pair, **compare(*values)})
    return {
        "systems": systems,
        "best_base": best,
        "comparisons": correct(comparisons),
        "bits_rows_beyond_context": int((~measured).sum()),
    }


def look_for_copies(args: EvaluationArguments, sets: list[dict], rows: list[dict], train: list[dict], metrics) -> dict:
    """
    What drafts share with the training rows that the run saw, beside the same of references and of unseen rows.

    Which rows a run saw is told by the `run.json` beside its model; without one, all of the training split.
    """
    module, result = metrics["provenance"], {}
    for entry in sets:
        if entry["kind"] != "fine-tuned":
            continue
        name = args.model_name_or_path[list(dict.fromkeys(e["system"] for e in sets)).index(entry["system"])]
        order, number = list(range(len(train))), len(train)
        run = read_json(Path(name) / "run.json")
        if run and run["dataset"].get("split_rows") == len(train) and "seed" in run["dataset"]:
            from datasets import Dataset

            order = list(Dataset.from_dict({"i": order}).shuffle(seed=run["dataset"]["seed"])["i"])
            number = sum(run["dataset"][fate] for fate in ("whole", "shortened", "dropped"))
        seen, unseen = ([train[i] for i in part] for part in (order[:number], order[number:]))
        corpus = module.corpus([row["approach"] for row in seen])
        groups = {
            "drafts": (rows, [draft["prediction"] for draft in entry["runs"][0]]),
            "references": (rows, [row["approach"] for row in rows]),
            "unseen training rows": (unseen[: len(rows)], [row["approach"] for row in unseen[: len(rows)]]),
        }
        found = {"rows_seen": len(seen), "record_of_the_run": number < len(train) or bool(run)}
        for group, (owners, texts) in groups.items():
            if not texts:
                continue
            overlaps = corpus.overlap(texts)
            worst = sorted(range(len(texts)), key=lambda i: -overlaps[i]["longest_run"])[:10]
            shares = [o["ngram_share"] for o in overlaps if o["ngram_share"] is not None]
            kinds = [kind for text in texts for _, _, kind in module.find_citations(text)]
            found[group] = {
                "mean_longest_run": sum(o["longest_run"] for o in overlaps) / len(overlaps),
                "longest_run": overlaps[worst[0]]["longest_run"],
                "share_of_8grams": sum(shares) / len(shares) if shares else None,
                "citations_a_text": {kind: kinds.count(kind) / len(texts) for kind in sorted(set(kinds))},
                "worst": [
                    {"id": owners[i]["id"], "words": overlaps[i]["longest_run"], "training_id": seen[row]["id"]}
                    for i in worst
                    if (row := overlaps[i]["run_row"]) is not None
                ],
            }
        result.setdefault(entry["system"], {})[entry["decoding"]] = found
    return result


def spread_of_training(systems: dict) -> dict:
    """Mean and spread of each score over several fine-tuned models: what resampling rows leaves out."""
    import numpy as np

    tuned, result = [about for about in systems.values() if about["kind"] == "fine-tuned"], {}
    for decoding in tuned[0]["decodings"] if len(tuned) > 1 else ():
        for score in SCORES:
            values = [about["decodings"][decoding]["scores"][score]["value"] for about in tuned]
            if None not in values:
                spread = {
                    "mean": float(np.mean(values)),
                    "spread": float(np.std(values, ddof=1)),
                    "models": len(values),
                }
                result.setdefault(decoding, {})[score] = spread
    return result


# Writing


def read_json(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def public_name(name: str) -> str:
    """A Hub id as it is, a local folder by its last name alone: `scores.json` may be published."""
    return Path(name).resolve().name if Path(name).exists() else name


def list_predictions(sets: list[dict], rows: list[dict]) -> list[dict]:
    """The rows of predictions.jsonl, a draft each, with the row's own ROUGE-L and BERTScore."""
    predictions = []
    for entry in sets:
        for seed, run in enumerate(entry["runs"]):
            about = {"system": entry["system"], "decoding": entry["decoding"]}
            about["seed"] = seed if entry["decoding"] == "sampled" else None
            rouge, bert = (entry["statistics"][name]["own"][seed] for name in ("rouge", "bertscore"))
            for i, (row, draft) in enumerate(zip(rows, run, strict=True)):
                kept = {"id": row["id"], "problem": row["problem"], "reference": row["approach"]}
                own = {"rougeL": float(rouge[i, 2]) if rouge[i, 3] else None, "bertscore_f1": float(bert[i, 0])}
                predictions.append({**about, **kept, **draft, **own})
    return predictions


def choose_samples(sets: list[dict], rows: list[dict], best: dict) -> list[dict]:
    """Three rows at random, with the greedy drafts of the fine-tuned models and of the best base system."""
    shown = [
        e for e in sets if e["decoding"] == "greedy" and (e["kind"] == "fine-tuned" or e["system"] == best["drafts"])
    ]
    samples = []
    for i in sorted(random.Random(0).sample(range(len(rows)), min(3, len(rows)))):
        row = {"id": rows[i]["id"], "problem": rows[i]["problem"], "reference": rows[i]["approach"]}
        samples.append({**row, "drafts": {e["system"]: e["runs"][0][i]["prediction"] for e in shown}})
    return samples


def write_scores(predictions: list[dict], scores: dict, output_dir: Path) -> None:
    """Writes both files beside, then renames the folder: it appears whole or not at all."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.partial-", dir=output_dir.parent))
    try:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
        (partial / "predictions.jsonl").write_text(lines, encoding="utf-8")
        (partial / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        os.chmod(partial, 0o755)
        if output_dir.exists():
            shutil.rmtree(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def log_to_wandb(scores: dict, predictions: list[dict]) -> None:
    """The scores as a W&B run's summary, the drafts as a table."""
    import wandb

    project = os.environ.get("WANDB_PROJECT", "huggingface")  # the Trainer's own default
    config = {name: scores[name] for name in ("dataset", "num_examples", "decoding", "versions")}
    with wandb.init(project=project, job_type="evaluation", config=config) as run:
        for system, about in scores["systems"].items():
            for decoding, found in about["decodings"].items():
                for score, value in found["scores"].items():
                    run.summary[f"{system}/{decoding}/{score}"] = value["value"]
        run.log({"predictions": wandb.Table(list(predictions[0]), [list(row.values()) for row in predictions])})


def print_table(scores: dict) -> None:
    """The table of scores with intervals, and the comparisons that hold."""
    print(f"\n{'':36}{'BLEU':>18}{'ROUGE-L':>22}{'BERTScore F1':>22}{'bits a byte':>13}{'ended':>8}")
    for system, about in scores["systems"].items():
        for decoding, found in about["decodings"].items():
            cells = []
            for score, digits in (("bleu", 2), ("rougeL", 3), ("bertscore_f1", 3)):
                value, low, high = (found["scores"][score][part] for part in ("value", "low", "high"))
                cell = "not measured" if value is None else f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
                cells.append(f"{cell:>{18 if score == 'bleu' else 22}}")
            bits, ended = about["bits_per_byte"], found["behaviour"].get("share_ended")
            cells.append(f"{bits['value']:13.4f}" if bits and decoding == "greedy" else f"{'':13}")
            print(f"{system + ', ' + decoding:36}" + "".join(cells) + ("" if ended is None else f"{ended:8.0%}"))
    held = [row for row in scores["comparisons"] if row["p_holm"] < 0.05]
    print(
        f"\n{len(held)} of {len(scores['comparisons'])} declared differences hold (p < 0.05 after Holm's correction):"
    )
    for row in held:
        pair = f"{row['system']} to {row['baseline']}, {row['decoding']}"
        print(f"  {pair}: {row['metric']} {row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})")


def main(args: EvaluationArguments) -> None:
    # Before torch is imported: threads that wait then leave the cores to others. Drafting is many short steps.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from accelerate import PartialState

    state, output_dir = PartialState(), Path(args.output_dir)
    rows = load_rows(args, args.dataset_split, args.num_examples)
    train = load_rows(args, "train")
    metrics = load_metrics(args)
    sets, best = draft_all(args, rows, train, metrics)
    if not state.is_main_process:
        return
    print("Scoring")
    scores = {
        "num_examples": len(rows),
        "dataset": {
            **{"name": public_name(args.dataset_name), "split": args.dataset_split},
            "revision": args.dataset_revision,
        },
        "decoding": {"max_new_tokens": args.max_new_tokens, "sampled": {**SAMPLING, "seeds": args.num_seeds}},
        "bertscore_model": public_name(args.bertscore_model),
        "signatures": {
            **{
                name: metrics[name].compute(predictions=["a"], references=["a"])["signature"]
                for name in ("bleu", "chrf")
            },
            "rouge": f"rouge_score {version('rouge-score')}, no stemming, mean of rows",
            "bertscore": metrics["bertscore"].hash,
        },
        "texts_beyond_encoder": metrics["bertscore"].count_truncated([row["approach"] for row in rows]),
        "resamples": args.num_resamples,
        "versions": {
            name: version(name)
            for name in ("torch", "transformers", "sacrebleu", "rouge-score", "bert-score", "bm25s")
        },
        **score_all(args, sets, best, rows, metrics),
        "samples": choose_samples(sets, rows, best),
    }
    scores["training_spread"] = spread_of_training(scores["systems"])
    scores["copying"] = look_for_copies(args, sets, rows, train, metrics)
    predictions = list_predictions(sets, rows)
    write_scores(predictions, scores, output_dir)
    shutil.rmtree(PartialDrafts(output_dir).folder)
    if args.report_to == "wandb":
        log_to_wandb(scores, predictions)
    print_table(scores)
    print(f"\nWrote {output_dir}: scores.json and predictions.jsonl. Next: python write_report.py {output_dir}")


def parse_arguments(argv: list[str] | None = None) -> EvaluationArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(EvaluationArguments, usage="python %(prog)s --ARGUMENT VALUE … (all of them: --help)")
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except KeyboardInterrupt:
        print("\nStopped: the same command goes on from the drafts that there are.", file=sys.stderr)
        sys.exit(130)
