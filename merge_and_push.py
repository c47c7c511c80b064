# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "peft==0.21.2",
#     "safetensors==0.8.0",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""
Merge an adapter into its base in FP32, prove that nothing changed, and publish the model whole or not at all.

Reads the adapter folder (or Hub id) that `train_sft.py` wrote and its base; writes weights, tokenizer, generation
defaults, a model card and `merge.json`, which says how far the merged model is from adapter on base. `--push_only`
publishes such a folder later, with the scores that `evaluate_model.py` wrote in its card.

    python merge_and_push.py --adapter_path outputs/adapter --output_dir outputs/model
    python merge_and_push.py --push_only outputs/model --scores outputs/scores --hub_model_id user/model
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

TAGS = ("<problem>", "</problem>", "<approach>", "</approach>")
# Read by the adapter on its base and by the merged model; what they say does not matter, that they agree does.
PROBLEMS = [
    "Automatic summaries of long documents often repeat themselves and leave out the main result.",
    "The dependence of the critical temperature on disorder in thin films is not understood.",
    "Rare variants are missed by association studies because few patients carry them.",
]
PROMPTS = [f"<problem>{problem}</problem><approach>" for problem in PROBLEMS]
MAX_LOGIT_DIFFERENCE = 1e-4  # FP32 merges differ by up to 1e-5; a wrong scale or a missing row by far more
DRAFT_TOKENS = 16  # of each greedy continuation that is compared
CAST_ROWS = 50
SHARD_SIZE = "2GB"  # what saving holds in memory beside the model
# What is published of a folder, and what of an older model in the same repository would be loaded along with it.
PUBLISHED = ("README.md", "*.json", "*.jinja", "*.safetensors", "tokenizer.model", "merges.txt", "loss_curve.png")
REPLACED = (*PUBLISHED, "*.bin")
SECRETS = re.compile(r"hf_[A-Za-z0-9]{30,}|(?<![\w/.:])/(?:home|root|Users|tmp)/[\w.-]|\b[A-Za-z]:\\\\?Users")
METRICS = {"bleu": "BLEU", "chrf": "chrF", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
METRICS["bertscore_f1"] = "BERTScore F1"


@dataclass
class MergeArguments:
    """Which adapter to merge or which model to publish, where to write it, and where to publish it."""

    adapter_path: str | None = field(
        default=None, metadata={"help": "Adapter folder that train_sft.py wrote, or its Hub id."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write the model to. It appears whole or not at all."}
    )
    base_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "The base, where it is not at the place that the adapter names, or is quantised there."},
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
        # 25 times what bfloat16 costs the 9 M base, and a fifth of the smallest gain that a run of ours has had.
        default=0.01,
        metadata={"help": "Largest change of the validation loss, in nats a token, that --dtype may cause."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Merge and prove, or list what would be published."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an output folder that is not empty."})
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
    public: bool = field(default=False, metadata={"help": "Publish to a public repository; otherwise a private one."})

    def __post_init__(self):
        if self.push_only is None and not (self.adapter_path and self.output_dir):
            raise ValueError("name --adapter_path and --output_dir to merge, or --push_only to publish a model")
        output_dir = Path(self.output_dir or "")
        if self.push_only is None and output_dir.is_dir() and any(output_dir.iterdir()):
            if not self.overwrite:
                raise ValueError(f"--output_dir {self.output_dir} is not empty: choose another or add --overwrite")
            if not (output_dir / "merge.json").is_file():
                raise ValueError(f"--output_dir {self.output_dir} holds no model of this script: not overwritten")
        if self.dtype != "float32" and self.dataset_name is None and self.push_only is None:
            raise ValueError(f"--dtype {self.dtype} needs --dataset_name: what the cast costs is measured on its rows")
        if self.max_cast_loss < 0:
            raise ValueError(f"--max_cast_loss must not be negative, got {self.max_cast_loss}")
        publishes = self.push_to_hub or self.push_only is not None
        if publishes and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_model_id or ""):
            raise ValueError(f"publishing needs --hub_model_id user/name, got {self.hub_model_id}")
        if self.scores is not None and not (Path(self.scores) / "scores.json").is_file():
            raise ValueError(f"--scores {self.scores} holds no scores.json: name a folder of evaluate_model.py")
        if self.hub_adapter_id is not None:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_adapter_id) or self.hub_adapter_id == self.hub_model_id:
                raise ValueError(f"--hub_adapter_id must be another user/name, got {self.hub_adapter_id}")
            if not (publishes and self.adapter_path):
                raise ValueError("--hub_adapter_id needs --adapter_path, and --push_to_hub or --push_only")


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def public_name(name: str) -> str:
    """A Hub id as it is, a local folder by its last name alone: what is written here may be published."""
    is_hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not Path(name).exists()
    return name if is_hub_id else re.split(r"[\\/]", str(Path(name).resolve()))[-1]


def read_json(path: Path) -> dict:
    """A JSON file, or nothing where there is none; ends with one line if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        sys.exit(f"{path} is no JSON: {first_line(error)}")


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hashes(folder: Path, record: str) -> None:
    """Ends with one line where a file of the folder is not the one that its record tells the SHA-256 of."""
    for name, digest in read_json(folder / record).get("files", {}).items():
        if (folder / name).is_file() and hash_file(folder / name) != digest:
            sys.exit(f"{folder / name} is not the file that was written: its SHA-256 is not the one in {record}")


def find_adapter(name: str) -> Path:
    """The adapter's folder, fetched from the Hub if need be; ends with one line if it is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, allow_patterns=[*PUBLISHED], ignore_patterns=["*/*", "model*"]))
        except (OSError, HTTPError, ValueError) as error:
            sys.exit(f"--adapter_path {name}: neither a folder nor a repository on the Hub: {first_line(error)}")
    if not (folder / "adapter_config.json").is_file():
        if (folder / "config.json").is_file():
            sys.exit(f"--adapter_path {name} is already a whole model: publish it with --push_only {name}")
        sys.exit(f"--adapter_path {name} is no adapter of train_sft.py: it has no adapter_config.json")
    return folder


def fingerprint(name: str, revision: str | None) -> str | None:
    """
    One SHA-256 over a base's tensors, whatever files they are split into; none where they are not in safetensors.

    `train_sft.py` has the same function: what it wrote to `run.json` is compared with what is merged into.
    """
    import torch
    from safetensors import safe_open
    from transformers.utils import cached_file

    folder = Path(cached_file(name, "config.json", revision=revision)).parent
    shards = [safe_open(path, framework="pt") for path in sorted(folder.glob("model*.safetensors"))]
    tensors = {key: shard for shard in shards for key in shard.keys()}  # noqa: SIM118 (a shard is no dict)
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].get_tensor(key)
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest() if tensors else None


def check_weights(folder: Path) -> set[str]:
    """The names of the adapter's tensors; ends with one line if they are not as training wrote them."""
    from safetensors import SafetensorError, safe_open

    path = folder / "adapter_model.safetensors"
    try:
        check_hashes(folder, "run.json")
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
            for name in sorted(names):
                if not tensors.get_tensor(name).isfinite().all():
                    sys.exit(f"{path}: {name} holds a value that is not a number")
    except (OSError, SafetensorError) as error:
        sys.exit(f"{path} cannot be read: {first_line(error)}")
    return names


def find_base(args: MergeArguments, config, run: dict) -> tuple[str, str | None]:
    """The base's name and revision: the commit that training saw, where it is known, not what "main" is by now."""
    if args.base_model_name_or_path:
        return args.base_model_name_or_path, None
    return config.base_model_name_or_path, run.get("base", {}).get("revision") or config.revision


def load_base(name: str, revision: str | None, run: dict):
    """The base in FP32; ends with one line if it is quantised, or not the one that training saw."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        if getattr(AutoConfig.from_pretrained(name, revision=revision), "quantization_config", None):
            sys.exit(f"base {name} is quantised: name the unquantised one with --base_model_name_or_path")
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=torch.float32)
        expected = run.get("base", {}).get("fingerprint")  # read once the weights are there, fetched or not
        if expected and fingerprint(name, revision) not in (None, expected):
            trained_on = " ".join(filter(None, (run["base"]["name"], run["base"].get("revision"))))
            sys.exit(f"base {name} is not the one that the adapter was trained on, {trained_on}: its weights differ")
        return model
    except (OSError, ValueError) as error:
        sys.exit(f"base {name}: {first_line(error)} (name another with --base_model_name_or_path)")


def load_adapter_on_base(args: MergeArguments, folder: Path):
    """The tokenizer and the adapter on its FP32 base; ends with one line if they do not belong together."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from transformers import AutoTokenizer

    run = read_json(folder / "run.json")
    try:
        config = PeftConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"--adapter_path {args.adapter_path} is no adapter of train_sft.py: {first_line(error)}")
    if missing := [tag for tag in TAGS if tag not in tokenizer.get_vocab()]:
        sys.exit(f"--adapter_path {args.adapter_path}: its tokenizer lacks {', '.join(missing)}")
    saved = check_weights(folder)
    name, revision = find_base(args, config, run)
    base = load_base(name, revision, run)
    misfit = f"--adapter_path {args.adapter_path} does not fit base {name}"
    indices = config.trainable_token_indices or {}
    rows = base.get_input_embeddings().weight.shape[0]
    for trained in indices.values() if isinstance(indices, dict) else [indices]:
        # Rows that neither base nor adapter has would be drawn at random, and merged as if they had been trained.
        if random := set(range(rows, len(tokenizer))) - set(trained):
            sys.exit(f"{misfit}: it has {rows:,} tokens, and token {min(random):,} of {len(tokenizer):,} is untrained")
    # Down as well as up: a base padded beyond its tokenizer would leave the checkpoint with rows that no token has.
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
            model = PeftModel.from_pretrained(base, folder).eval()
    except (ValueError, RuntimeError, IndexError) as error:
        reason = first_line(error) if "size mismatch" not in str(error) else "their sizes differ"
        sys.exit(f"{misfit}: {reason}")
    # PEFT loads what fits: of a deeper or shallower model's adapter that is a part.
    if odd := saved ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        sys.exit(f"{misfit}: {len(odd)} of its tensors have no counterpart, {min(odd)} for one")
    return tokenizer, model


def set_generation_defaults(model, tokenizer) -> None:
    """Both ends stop a draft: the tag that training taught, and what ends a text for the base. Greedy, 448 tokens."""
    from transformers import GenerationConfig

    stops = model.generation_config.eos_token_id  # the base's own
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys([tokenizer.eos_token_id, *stops])),
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=448,
        do_sample=False,  # said aloud, or transformers' pipeline would sample
    )


def read_logits(model, tokenizer, prompts: list[str]) -> list:
    """The model's logits on each prompt, FP32 tensors of shape `(tokens, vocabulary)`."""
    import torch

    with torch.inference_mode():
        return [model(tokenizer(prompt, return_tensors="pt")["input_ids"]).logits[0].float() for prompt in prompts]


def draft_greedily(model, tokenizer) -> list[tuple[list[int], list]]:
    """Each prompt's continuation, with the logits that every one of its tokens was chosen by."""
    drafts = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        options = {"do_sample": False, "max_new_tokens": DRAFT_TOKENS, "output_logits": True}
        output = model.generate(**inputs, **options, return_dict_in_generate=True)
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        drafts.append((ids, [logits[0].float() for logits in output.logits]))
    return drafts


def largest_difference(ours: list, theirs: list) -> float:
    """The largest difference between two models' logits; infinite where their vocabularies differ."""
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def parting_gap(ours: list[tuple[list[int], list]], theirs: list[tuple[list[int], list]]) -> float:
    """How far apart, by our logits, the two tokens are at which greedy drafts part: 0 where they do not."""
    gap = 0.0
    for (our_ids, logits), (their_ids, _) in zip(ours, theirs, strict=True):
        for chosen, other, scores in zip(our_ids, their_ids, logits, strict=False):
            if chosen != other:
                gap = max(gap, (scores[chosen] - scores[other]).item())
                break
    return gap


def read(model, tokenizer) -> tuple[list, list]:
    """All that the proof compares: logits on the prompts, and greedy drafts."""
    return read_logits(model, tokenizer, PROMPTS), draft_greedily(model, tokenizer)


def prove(ours: tuple[list, list], theirs: tuple[list, list], names: str) -> float:
    """The largest logit difference of two readings; ends with one line if the two models do not say the same."""
    difference, gap = largest_difference(ours[0], theirs[0]), parting_gap(ours[1], theirs[1])
    if not difference <= MAX_LOGIT_DIFFERENCE:  # so that NaN is refused, too
        sys.exit(f"{names} differ by {difference:.1e}: nothing written")
    if gap > MAX_LOGIT_DIFFERENCE:
        sys.exit(f"{names} draft different texts, at no near tie ({gap:.1e}): nothing written")
    return difference


def find_dataset(args: MergeArguments, run: dict) -> dict:
    """The revision of the dataset that training saw, where it is known and the same dataset is named."""
    ours = run.get("dataset", {})
    return {"revision": ours["revision"]} if ours.get("revision") and ours["name"] == args.dataset_name else {}


def load_rows(args: MergeArguments, run: dict) -> list[dict]:
    """The first validation rows, by id."""
    from datasets import load_dataset

    try:
        rows = load_dataset(args.dataset_name, split="validation", **find_dataset(args, run))
        return sorted(rows.select_columns(["id", "prompt", "completion"]), key=lambda row: row["id"])[:CAST_ROWS]
    except (ValueError, OSError) as error:
        sys.exit(f"--dataset_name {args.dataset_name}: {first_line(error)}")


def measure_loss(model, tokenizer, rows: list[dict]) -> float:
    """Nats a token of the approaches."""
    import torch

    total, count = 0.0, 0
    for row in rows:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"]
        ids = ids[:, : getattr(model.config.get_text_config(), "max_position_embeddings", None)]
        with torch.inference_mode():
            logits = model(ids).logits[0, start - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum").item()
        count += ids.shape[1] - start
    return total / count


def cast(model, tokenizer, args: MergeArguments, rows: list[dict]) -> dict:
    """Casts the merged model; says what that changed, and ends with one line where it is too much."""
    import torch

    before = measure_loss(model, tokenizer, rows)
    winners = [logits.argmax(-1) for logits in read_logits(model, tokenizer, PROMPTS)]
    for parameter in model.parameters():  # not the buffers: clients keep the rotary frequencies in FP32
        parameter.data = parameter.data.to(getattr(torch, args.dtype))
    after = measure_loss(model, tokenizer, rows)
    now = [logits.argmax(-1) for logits in read_logits(model, tokenizer, PROMPTS)]
    changed = sum((a != b).sum().item() for a, b in zip(winners, now, strict=True))
    report = {"rows": len(rows), "loss_before": before, "loss_after": after}
    report |= {"argmax_changes": changed, "positions": sum(map(len, winners))}
    if not abs(after - before) <= args.max_cast_loss:
        sys.exit(
            f"--dtype {args.dtype} moves the loss on {len(rows)} validation rows from {before:.4f} to {after:.4f}, by "
            f"more than --max_cast_loss {args.max_cast_loss}: nothing written"
        )
    return report


@contextmanager
def written_beside(output_dir: Path) -> Iterator[Path]:
    """A folder beside the final one, renamed once all that is done with it went well."""
    from safetensors import SafetensorError

    partial = None
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.partial-", dir=output_dir.parent))
        yield partial
        os.chmod(partial, 0o755)
        if output_dir.exists():
            shutil.rmtree(output_dir)
        partial.rename(output_dir)
    except (OSError, SafetensorError) as error:
        sys.exit(f"--output_dir {output_dir}: {first_line(error)}: nothing written. Run the same command again")
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)


def find_base_licence(name: str) -> str | None:
    """The licence that the base's own card states, if it has a card and the card does."""
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HTTPError

    try:
        return ModelCard.load(Path(name) / "README.md" if Path(name).is_dir() else name).data.get("license")
    except (OSError, HTTPError, ValueError):
        return None


def read_build_report(args: MergeArguments, run: dict) -> dict:
    """What `prepare_dataset.py` wrote of the training data, where the dataset has it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError

    name = args.dataset_name
    if name is None or Path(name).exists():
        return read_json(Path(name) / "build_report.json") if name else {}
    try:
        path = hf_hub_download(name, "build_report.json", repo_type="dataset", **find_dataset(args, run))
        return read_json(Path(path))
    except (OSError, HTTPError, ValueError):
        return {}


def merge(args: MergeArguments) -> None:
    """Merges, proves, and writes the folder; with `--dry_run` it only proves."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    adapter, output_dir = find_adapter(args.adapter_path), Path(args.output_dir)
    run = read_json(adapter / "run.json")
    build_report = read_build_report(args, run)
    rows = load_rows(args, run) if args.dtype != "float32" else []
    tokenizer, model = load_adapter_on_base(args, adapter)
    set_generation_defaults(model.get_base_model(), tokenizer)
    on_base = read(model, tokenizer)
    # "Did we do anything?" is asked without the tags: the base has no rows for them, and any would differ.
    words = [i for i in range(len(tokenizer)) if i not in tokenizer.convert_tokens_to_ids(list(TAGS))]
    tuned_words = [logits[:, words] for logits in read_logits(model, tokenizer, PROBLEMS)]
    with model.disable_adapter():
        base_words = [logits[:, words] for logits in read_logits(model, tokenizer, PROBLEMS)]
    config = model.peft_config["default"]
    base, revision = find_base(args, config, run)
    model = model.merge_and_unload(safe_merge=True)
    expected = read(model, tokenizer)
    sizes = {
        "tokenizer": len(tokenizer),
        "config": model.config.get_text_config().vocab_size,
        "input matrix": model.get_input_embeddings().weight.shape[0],
        "output matrix": model.get_output_embeddings().weight.shape[0],
    }
    if len(set(sizes.values())) > 1:
        sys.exit(f"the sizes of the vocabulary differ: {sizes}: nothing written")
    recorded = None if args.base_model_name_or_path else run.get("base", {}).get("name")
    report = {
        "base": recorded or public_name(base),
        "base_revision": extract_commit_hash(cached_file(base, "config.json", revision=revision), None),
        "base_license": find_base_licence(base),
        "adapter": public_name(args.adapter_path),
        "dtype": args.dtype,
        "vocabulary": len(tokenizer),
        "parameters": model.num_parameters(),
        "difference_to_adapter": prove(on_base, expected, "merged and adapter on base"),
        "difference_to_base": largest_difference(tuned_words, base_words),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    if not report["difference_to_base"] > MAX_LOGIT_DIFFERENCE:
        sys.exit(f"{args.adapter_path}: the adapter changes nothing: nothing written")
    print(
        f"Largest logit difference: merged to adapter {report['difference_to_adapter']:.1e}, adapter to base "
        f"{report['difference_to_base']:.1f}; greedy drafts the same"
    )
    if args.dtype != "float32":
        report["cast"] = cast(model, tokenizer, args, rows)
        expected = read(model, tokenizer)
        print(
            "{dtype}: {argmax_changes} of {positions} most likely tokens changed, loss on {rows} validation rows "
            "{loss_before:.4f} → {loss_after:.4f}".format(dtype=args.dtype, **report["cast"])
        )
    if args.dry_run:
        print(f"Dry run: {args.output_dir} not written")
        return
    size = model.get_memory_footprint()
    with written_beside(output_dir) as partial:
        if (free := shutil.disk_usage(partial).free) < size:
            raise OSError(f"{size / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free")
        model.save_pretrained(partial, max_shard_size=SHARD_SIZE)
        tokenizer.save_pretrained(partial)
        report["files"] = {path.name: hash_file(path) for path in sorted(partial.glob("*.safetensors"))}
        del model  # two of them would not fit where one does
        reloaded = AutoModelForCausalLM.from_pretrained(partial, dtype=getattr(torch, args.dtype))
        names = "the model read back from disk and the merged one"
        read_back = read(reloaded, AutoTokenizer.from_pretrained(partial))
        report["difference_reloaded"] = prove(expected, read_back, names)
        del reloaded  # it maps the weights' file, and Windows renames no folder with an open file in it
        for name in ("run.json", "loss_curve.png"):
            if (adapter / name).is_file():
                shutil.copy(adapter / name, partial)
        for name, value in {"merge.json": report, "build_report.json": build_report}.items():
            if value:
                (partial / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        write_card(partial, args.hub_model_id or output_dir.name, args.scores)
    print(f"Wrote {output_dir}. Next: python evaluate_model.py --model_name_or_path {output_dir} …")


# The card, filled from run.json, merge.json, scores.json and build_report.json: what they do not say, it does not.
CARD = """\
---
{{ card_data }}
---
{% macro shown(value, digits) -%}
{% if not value or value.value is not number %}–{% else %}{{ "%.*f" | format(digits, value.value) }}
{%- if value.low is number and value.high is number %}
{{- " [%.*f, %.*f]" | format(digits, value.low, digits, value.high) }}{% endif %}{% endif %}
{%- endmacro %}

# Research approach drafts{{ ": a LoRA adapter for" if adapter else ", from" }} {{ base }}

Give it a one-sentence research problem and it drafts an approach. It is a drafting aid, for a person who wants a first
draft to argue with. It is not for judging ideas: a small model has learned how approaches are written, not which ones
work. It invents methods, data and results alike, and nothing it writes is a claim of novelty or feasibility.

## How to use it

```python
{% if adapter -%}
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{{ name }}")
base = AutoModelForCausalLM.from_pretrained("{{ base }}", dtype="float32")
base.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # the adapter brings the rows of the four tags
model = PeftModel.from_pretrained(base, "{{ name }}")
problem = "Machine translation systems make errors that are hard to detect."
inputs = tokenizer.apply_chat_template([{"role": "user", "content": problem}], return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=448, eos_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
{%- else -%}
from transformers import pipeline

draft = pipeline("text-generation", model="{{ name }}")
problem = "Machine translation systems make errors that are hard to detect."
print(draft([{"role": "user", "content": problem}])[0]["generated_text"][-1]["content"])
{%- endif %}
```

{% if run.dataset or report %}
## Training data

`{{ dataset }}`{% if revision %}, revision `{{ revision }}`{% endif %}
{%- if run.dataset.rows %}, {{ "{:,} rows of {:,}".format(run.dataset.rows, run.dataset.split_rows) }}{% endif %}.
{% if report.source -%}
Built from {% for key, value in report.source.items() if key != "license" %}{{ key }} {{ value }}, {% endfor -%}
under the licence that this source states: {{ report.source.license or "none stated" }}.
{% endif -%}
The abstracts remain their authors'.
{% endif %}

{% if run or merge %}
## Training
{% endif %}

{% if merge %}
A LoRA adapter, merged into `{{ base }}` in FP32: the merged model's logits are within
{{ "%.1e" | format(merge.difference_to_adapter) }} of the adapter's on its base.
{%- if merge.cast %} Then cast to {{ merge.dtype }}: {{ merge.cast.argmax_changes }} of {{ merge.cast.positions }} most
likely tokens changed, and the loss on {{ merge.cast.rows }} validation rows went from
{{ "%.4f to %.4f" | format(merge.cast.loss_before, merge.cast.loss_after) }}.{% endif %}
{% endif %}

{% if run %}
| | |
|---|---|
{% for key, value in recipe.items() -%}
| {{ key }} | {{ value }} |
{% endfor %}
{% endif %}

{% if loss_curve %}
![The loss curve](loss_curve.png)
{% endif %}

{% if not adapter %}
## How good is it?

{% if not scored %}
Not scored yet.
{% else %}
{{ scores.num_examples }} problems of `{{ scores.dataset.name }}`, {{ scores.dataset.split }} split; the intervals are
those of `evaluate_model.py`.
{%- if scores.bertscore_model %} BERTScore by `{{ scores.bertscore_model }}`.{% endif %}

| system | decoding |{% for metric in measured %} {{ metrics[metric] }} |{% endfor %} bits a byte | ended by itself |
|---|---|{{ "---|" * (measured | length + 2) }}
{% for system, decoding, result in scored -%}
| {{ system }} | {{ decoding }} |
{%- for metric in measured %} {{ shown(result.scores[metric], 2 if metric in ("bleu", "chrf") else 3) }} |{% endfor %}
{{- " " ~ shown(scores.systems[system].bits_per_byte, 3) }} |
{%- set ended = (result.behaviour or {}).share_ended %}
{{- " %.0f %% |" | format(100 * ended) if ended is number else " – |" }}
{% endfor %}

{% if scores.comparisons %}
| compared | decoding | metric | difference | p (Holm) |
|---|---|---|---|---|
{% for c in scores.comparisons -%}
| {{ c.system }} − {{ c.baseline }} | {{ c.decoding }} | {{ metrics.get(c.metric, c.metric) }} |
{#- #} {{ shown({"value": c.difference, "low": c.low, "high": c.high}, 3) }} |
{#- #} {{ "%.4f" | format(c.p_holm) if c.p_holm is number else "–" }} |
{% endfor %}
{% endif %}

{% for metric, signature in (scores.signatures or {}).items() -%}
- {{ metric }}: `{{ signature }}`
{% endfor %}
{% endif %}

{% if scores.samples %}
## Samples

{% for sample in scores.samples[:3] %}
> **Problem.** {{ sample.problem.split() | join(" ") }}
{% for system, text in sample.drafts.items() -%}
>
> **{{ system }}.** {{ text.split() | join(" ") or "(nothing)" }}
{% endfor -%}
>
> **The authors.** {{ sample.reference.split() | join(" ") }}

{% endfor %}
{% endif %}
{% endif %}

## Limits

- One sentence in, one paragraph out: the chat template leaves out a system message and earlier turns.
- It learned from abstracts, of the fields in its training data; elsewhere expect less.
- Its base may have read the test abstracts in pre-training, and scores against one reference say little of an idea.
- It repeats what its base and its training data hold, mistakes and prejudices included. Check every sentence.
"""
# Of all that run.json tells, what the card shows.
RECIPE = ("steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "optim")
RECIPE += ("max_length", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "bf16", "fp16")
RECIPE += ("trainable_parameters", "seconds", "device", "processes", "peak_memory_gib")
RECIPE += ("torch", "transformers", "trl", "peft")


def show(value: object) -> str:
    """A recorded value as the card shows it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def list_scores(scores: dict) -> list[tuple[str, str, dict]]:
    """Every system with every way it drafted and what was measured of it."""
    systems = scores.get("systems", {}).items()
    return [(name, decoding, measured) for name, s in systems for decoding, measured in s["decodings"].items()]


def make_model_index(scores: dict) -> list | None:
    """The fine-tuned systems' scores as the Hub's metadata have them."""
    from huggingface_hub import EvalResult

    data = scores.get("dataset", {})
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=data.get("name", "unknown"),
            dataset_name=data.get("name", "unknown"),
            dataset_split=data.get("split"),
            dataset_revision=data.get("revision"),
            metric_type=metric,
            metric_name=f"{METRICS.get(metric, metric)}, {decoding}",
            metric_value=value["value"],
        )
        for system, decoding, measured in list_scores(scores)
        if scores["systems"][system].get("kind") == "fine-tuned"
        for metric, value in measured["scores"].items()
        if value and value.get("value") is not None
    ] or None


def make_card(folder: Path, name: str, scores: dict, adapter: bool = False) -> str:
    """The card of a model or an adapter, from scores and its folder's records; ends with one line if they are odd."""
    from huggingface_hub import ModelCard, ModelCardData
    from jinja2 import TemplateError

    run, merge, report = (read_json(folder / f"{stem}.json") for stem in ("run", "merge", "build_report"))
    published, recorded = report.get("hub", {}), run.get("dataset", {})
    base = merge.get("base") or run.get("base", {}).get("name") or "a base model"
    dataset = published.get("dataset") or recorded.get("name") or ""
    losses = [entry["eval_loss"] for entry in run.get("losses", []) if "eval_loss" in entry]
    figures = {**run.get("arguments", {}), **run, **run.get("versions", {})}
    recipe = {key.replace("_", " "): show(figures[key]) for key in RECIPE if figures.get(key) is not None}
    if losses:
        recipe["validation loss, nats a token"] = f"{losses[0]:.3f} → {losses[-1]:.3f}"
    try:
        scored = list_scores(scores)
        values = [item for *_, result in scored for item in result["scores"].items()]
        measured = {metric for metric, value in values if value and value["value"] is not None}
        data = ModelCardData(
            language="en",
            license=merge.get("base_license"),
            library_name="peft" if adapter else "transformers",
            pipeline_tag="text-generation",
            tags=["research-approach-drafts", "trl", "sft"],
            base_model=base if "/" in base else None,  # the Hub knows its own names alone
            datasets=[dataset] if "/" in dataset else None,
            model_name=name.rpartition("/")[2],
            eval_results=make_model_index(scores),
        )
        named = {
            "name": name,
            "adapter": adapter,
            "base": base,
            "dataset": dataset,
            "recipe": recipe,
            "scored": scored,
        }
        named |= {"run": run, "merge": merge, "scores": scores, "report": report, "metrics": METRICS}
        named["revision"] = recorded.get("revision") or published.get("revision")
        named["measured"] = [metric for metric in METRICS if metric in measured]
        named["loss_curve"] = (folder / "loss_curve.png").is_file()
        card = str(ModelCard.from_template(data, template_str=CARD, **named))
    except (AttributeError, KeyError, TypeError, TemplateError) as error:
        sys.exit(f"{folder}: its records are not as our scripts write them: {type(error).__name__}: {error}")
    return re.sub(r"\n{3,}", "\n\n", card)


def write_card(folder: Path, name: str, scores: str | None) -> None:
    """Puts `scores.json` and the card into the folder, each whole or not at all."""
    records = read_json((Path(scores) if scores else folder) / "scores.json")
    card = make_card(folder, name, records)
    if records:
        write_whole(folder / "scores.json", json.dumps(records, indent=2) + "\n")
    write_whole(folder / "README.md", card)


def write_whole(path: Path, text: str) -> None:
    """Writes a file beside and renames it; what is there already is left alone, for the folder may be read-only."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        sys.exit(f"{path} cannot be written: {first_line(error)}. The folder is as it was")


def stage_adapter(adapter: Path, name: str, folder: Path) -> None:
    """The adapter as it is published: its base named by Hub id or last name, and a card that says how to load it."""
    for path in list_published(adapter):
        shutil.copy(path, folder)
    base, config = read_json(adapter / "run.json").get("base", {}), read_json(adapter / "adapter_config.json")
    config["base_model_name_or_path"] = base.get("name") or public_name(config["base_model_name_or_path"])
    config["revision"] = base.get("revision") or config.get("revision")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(make_card(folder, name, {}, adapter=True), encoding="utf-8")


def list_published(folder: Path) -> list[Path]:
    """The files of a folder that are published: nothing from its subfolders, no pickles, nothing hidden."""
    names = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in names if any(fnmatch(path.name, pattern) for pattern in PUBLISHED))


def refuse_secrets(files: list[Path]) -> None:
    """Ends with one line where a file tells a token or a place on this machine."""
    for path in files:
        # A tokenizer's vocabulary may hold anything, and weights are no text.
        is_record = path.suffix in (".md", ".json") and path.name not in ("tokenizer.json", "vocab.json")
        if is_record and (found := SECRETS.search(path.read_text(encoding="utf-8"))):
            what = "a Hub token" if found[0].startswith("hf_") else f"a path on this machine ({found[0]}…)"
            sys.exit(f"Not published: {path} holds {what}")


def explain(error: BaseException) -> str:
    """What befell a request, in plain words."""
    from huggingface_hub.errors import HTTPError

    while isinstance(error, RuntimeError) and error.__cause__:  # whatever befell the upload of a large file
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {
        401: "the Hub does not accept the token (`hf auth login`, or HF_TOKEN)",
        403: "the token may not write there: make one with write access",
        404: "there is no such repository, or the token may not see it",
        409: "the Hub is busy with another change",
        412: "somebody else changed the repository at the same moment",
        429: "the Hub asks for a pause: too many requests",
    }
    if status in known:
        return known[status]
    if status is not None and status >= 500:
        return f"the Hub failed ({status})"
    is_transport = isinstance(error, HTTPError) and status is None
    return f"no connection to the Hub ({first_line(error)})" if is_transport else first_line(error)


def check_rights(api, repo_id: str) -> str | None:
    """What stands in the way of publishing under this name, as far as the token tells."""
    me = api.whoami()
    names = [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return "the token is read-only: make one with write access"
    owner = repo_id.partition("/")[0]
    return None if owner in names else f"the name {owner} is not yours: you are {me['name']}"


def blob_id(path: Path) -> str:
    """What git calls a small file's content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def upload(folder: Path, repo_id: str, public: bool) -> str:
    """
    Publishes a folder: large files first, then all of it in one commit, read back by hash, and tagged.

    The tag is made of the content, so that a second run finishes what a first one began and changes nothing else.
    Returns the commit's URL and tag, or raises.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, files = HfApi(), list_published(folder)
    if problem := check_rights(api, repo_id):
        raise PermissionError(problem)
    repo_id = api.create_repo(repo_id, private=not public, exist_ok=True).repo_id
    info = api.model_info(repo_id)
    if not info.private and not public:
        raise PermissionError("the repository is public: add --public to publish there all the same")
    additions = [CommitOperationAdd(path.name, path) for path in files]
    hashes = {addition.path_in_repo: addition.upload_info.sha256.hex() for addition in additions}
    old = [file.rfilename for file in info.siblings if file.rfilename not in hashes]
    stale = [name for name in old if "/" not in name and any(fnmatch(name, pattern) for pattern in REPLACED)]
    api.preupload_lfs_files(repo_id, additions)
    commit = api.create_commit(
        repo_id,
        [*additions, *(CommitOperationDelete(name) for name in stale)],
        commit_message="Publish the model",
        parent_commit=info.sha,
    )
    there = {entry.path: entry for entry in api.list_repo_tree(repo_id, revision=commit.oid)}
    for path in files:
        entry = there.get(path.name)
        ours = hashes[path.name] if entry and entry.lfs else blob_id(path)
        if entry is None or ours != (entry.lfs.sha256 if entry.lfs else entry.blob_id):
            raise OSError(f"read back, {path.name} is not what was sent")
    tag = "content-" + hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:8]
    api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=True)
    return f"{commit.commit_url}, tag {tag}"


def publish(folder: Path, repo_id: str, args: MergeArguments) -> None:
    """Uploads a folder; on any failure ends with one line that says why and how to finish later."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HTTPError

    model = args.push_only or args.output_dir
    options = {"push_only": model, "scores": args.scores, "hub_model_id": args.hub_model_id}
    if args.hub_adapter_id:
        options |= {"adapter_path": args.adapter_path, "hub_adapter_id": args.hub_adapter_id}
    words = [word for name, value in options.items() if value for word in (f"--{name}", value)]
    later = shlex.join(["python", "merge_and_push.py", *words, *(["--public"] if args.public else [])])
    refuse_secrets(list_published(folder))
    try:
        if get_token() is None:
            raise PermissionError("no Hub token (`hf auth login`, or HF_TOKEN)")
        print(f"Published {upload(folder, repo_id, args.public)}")
    except (OSError, HTTPError, RuntimeError, KeyError, ValueError) as error:
        sys.exit(
            f"Not published to {repo_id}: {explain(error).rstrip('.')}. {model} is whole. To publish it later: {later}"
        )


def check_model(folder: Path) -> None:
    """Ends with one line where the folder holds no model of ours."""
    if not (folder / "config.json").is_file() or not list(folder.glob("model*.safetensors")):
        sys.exit(f"--push_only {folder} holds no whole model: config.json or the weights are missing")
    if not (folder / "run.json").is_file() and not (folder / "merge.json").is_file():
        sys.exit(f"--push_only {folder} holds no model of our scripts: run.json and merge.json are missing")
    for record in ("run.json", "merge.json"):
        check_hashes(folder, record)


def main(args: MergeArguments) -> None:
    if args.push_only is None:
        merge(args)
        if args.dry_run or not args.push_to_hub:
            return
    model = Path(args.push_only or args.output_dir)
    check_model(model)
    if args.dry_run:
        for path in list_published(model):
            print(f"{path.stat().st_size:>14,} {path.name}")
        print(f"Dry run: nothing published to {args.hub_model_id}")
        return
    write_card(model, args.hub_model_id, args.scores)
    publish(model, args.hub_model_id, args)
    if args.hub_adapter_id:
        with tempfile.TemporaryDirectory() as folder:
            stage_adapter(find_adapter(args.adapter_path), args.hub_adapter_id, Path(folder))
            publish(Path(folder), args.hub_adapter_id, args)


def parse_arguments(argv: list[str] | None = None) -> MergeArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(MergeArguments, usage="python %(prog)s --ARGUMENT VALUE … (all of them: --help)")
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except KeyboardInterrupt:
        print("\nStopped: nothing is half written. The same command finishes it.", file=sys.stderr)
        sys.exit(130)
