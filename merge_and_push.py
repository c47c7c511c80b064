# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "huggingface_hub==2.4.0",
#     "peft==0.21.2",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""
Merge an adapter into its base in FP32, prove that nothing changed, and write one checkpoint that any client loads.

Reads the adapter folder (or Hub id) that `train_sft.py` wrote and its base; writes weights, tokenizer, generation
defaults, a model card and `merge.json`, which says how far the merged model is from adapter on base.

    python merge_and_push.py --adapter_path outputs/adapter --output_dir outputs/model
    python merge_and_push.py --adapter_path outputs/adapter --output_dir outputs/model \
        --push_to_hub --hub_model_id user/name
"""

import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
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
MAX_LOGIT_DIFFERENCE = 1e-4  # FP32 merges differ by about 1e-6; a wrong scale or a missing row by far more


@dataclass
class MergeArguments:
    """Which adapter to merge, where to write the model, and whether to publish it."""

    adapter_path: str = field(metadata={"help": "Adapter folder that train_sft.py wrote, or its Hub id."})
    output_dir: str = field(metadata={"help": "Folder to write the model to. It appears whole or not at all."})
    base_model_name_or_path: str | None = field(
        default=None, metadata={"help": "The base, where it is not at the place that the adapter names."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an output folder that is not empty."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the model once it is written and checked."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository to publish to: user/name."})
    public: bool = field(default=False, metadata={"help": "Make a repository that is created public."})

    def __post_init__(self):
        output_dir = Path(self.output_dir)
        if output_dir.is_dir() and any(output_dir.iterdir()):
            if not self.overwrite:
                raise ValueError(f"--output_dir {self.output_dir} is not empty: choose another or add --overwrite")
            if not (output_dir / "merge.json").is_file():
                raise ValueError(f"--output_dir {self.output_dir} holds no model of this script: not overwritten")
        if self.push_to_hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_model_id or ""):
            raise ValueError(f"--push_to_hub needs --hub_model_id user/name, got {self.hub_model_id}")


def load_adapter_on_base(args: MergeArguments):
    """The tokenizer and the adapter on its FP32 base; ends with one line if they do not belong together."""
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        config = PeftConfig.from_pretrained(args.adapter_path)
        tokenizer = AutoTokenizer.from_pretrained(args.adapter_path)
    except (OSError, ValueError) as error:
        sys.exit(f"--adapter_path {args.adapter_path} is no adapter of train_sft.py: {str(error).splitlines()[0]}")
    if missing := [tag for tag in TAGS if tag not in tokenizer.get_vocab()]:
        sys.exit(f"--adapter_path {args.adapter_path}: its tokenizer lacks {', '.join(missing)}")
    base_name = args.base_model_name_or_path or config.base_model_name_or_path
    try:
        base = AutoModelForCausalLM.from_pretrained(base_name, revision=config.revision, dtype=torch.float32)
    except (OSError, ValueError) as error:
        sys.exit(f"base {base_name}: {str(error).splitlines()[0]} (name another with --base_model_name_or_path)")
    # Down as well as up: a base padded beyond its tokenizer would leave the checkpoint with rows that no token has.
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    try:
        model = PeftModel.from_pretrained(base, args.adapter_path)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"--adapter_path {args.adapter_path} does not fit base {base_name}: {str(error).splitlines()[0]}")
    return tokenizer, model.eval()


def read_logits(model, tokenizer, prompts: list[str]) -> list:
    """The model's logits on each prompt, tensors of shape `(tokens, vocabulary)`."""
    import torch

    with torch.inference_mode():
        return [model(tokenizer(prompt, return_tensors="pt")["input_ids"]).logits[0] for prompt in prompts]


def largest_difference(ours: list, theirs: list) -> float:
    """The largest difference between two models' logits; infinite where their vocabularies differ."""
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def make_card(merge: dict) -> str:
    """The model card: what it is, how to use it, and what it is not."""
    return f"""---
base_model: {merge["base"]}
library_name: transformers
pipeline_tag: text-generation
---

# Research approach drafts, from {merge["base"]}

Give it a one-sentence research problem and it drafts an approach. It is a drafting aid: a small model that has learned
how approaches are written, not which ones work. It invents; it knows nothing of novelty or feasibility.

```python
from transformers import pipeline

draft = pipeline("text-generation", model="PATH_OR_HUB_ID")
problem = "Machine translation systems make errors that are hard to detect."
print(draft([{{"role": "user", "content": problem}}])[0]["generated_text"][-1]["content"])
```

A LoRA adapter merged into the base in FP32; the merged model's logits are within {merge["difference_to_adapter"]:.1e}
of the adapter's on the base. `run.json` and `merge.json` hold the figures of training and merge.
"""


def public_name(name: str) -> str:
    """A Hub id as it is, a local folder by its last name alone: the card and `merge.json` may be published."""
    return Path(name).resolve().name if Path(name).exists() else name


def write_model(model, tokenizer, merge: dict, adapter_path: Path, output_dir: Path) -> None:
    """Writes beside, reads the weights back and compares, and only then renames to the final name."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.partial-", dir=output_dir.parent))
    expected = read_logits(model, tokenizer, PROMPTS)
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        reloaded = AutoModelForCausalLM.from_pretrained(partial, dtype=torch.float32)
        difference = largest_difference(
            read_logits(reloaded, AutoTokenizer.from_pretrained(partial), PROMPTS), expected
        )
        if difference > MAX_LOGIT_DIFFERENCE:
            sys.exit(f"the model read back from disk differs from the merged one by {difference:.1e}: nothing written")
        merge["difference_reloaded"] = difference
        del reloaded  # it maps the weights' file, and Windows renames no folder with an open file in it
        if (adapter_path / "run.json").is_file():
            shutil.copy(adapter_path / "run.json", partial)
        (partial / "merge.json").write_text(json.dumps(merge, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(make_card(merge), encoding="utf-8")
        os.chmod(partial, 0o755)
        if output_dir.exists():
            shutil.rmtree(output_dir)
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def push_model(args: MergeArguments) -> str:
    """Publishes the folder in one commit, large files first; returns the commit's URL."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    folder, api = Path(args.output_dir), HfApi()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    try:
        repo_id = api.create_repo(args.hub_model_id, private=not args.public, exist_ok=True).repo_id
        api.preupload_lfs_files(repo_id, additions)
        head = api.model_info(repo_id).sha
        commit = api.create_commit(repo_id, additions, commit_message="Add the merged model", parent_commit=head)
    except (OSError, HTTPError, RuntimeError, KeyError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        sys.exit(f"Not published to {args.hub_model_id}: {cause}. {args.output_dir} is whole.")
    return commit.commit_url


def main(args: MergeArguments) -> None:
    tokenizer, model = load_adapter_on_base(args)
    on_base = read_logits(model, tokenizer, PROMPTS)
    # "Did we do anything?" is asked without the tags: the base has no rows for them, and any would differ.
    words = [i for i in range(len(tokenizer)) if i not in tokenizer.convert_tokens_to_ids(list(TAGS))]
    tuned_words = [logits[:, words] for logits in read_logits(model, tokenizer, PROBLEMS)]
    with model.disable_adapter():
        base_words = [logits[:, words] for logits in read_logits(model, tokenizer, PROBLEMS)]
    config = model.peft_config["default"]
    merged = model.merge_and_unload(safe_merge=True)
    stops = merged.generation_config.eos_token_id  # the base's own
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    merged.config.eos_token_id = tokenizer.eos_token_id
    merged.config.pad_token_id = tokenizer.pad_token_id
    # Both ends stop a draft: the tag that training taught, and what ends a text for the base.
    merged.generation_config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *stops]))
    merged.generation_config.pad_token_id = tokenizer.pad_token_id
    merged.generation_config.max_new_tokens = 448
    merge = {
        "base": public_name(args.base_model_name_or_path or config.base_model_name_or_path),
        "base_revision": config.revision,
        "adapter": public_name(args.adapter_path),
        "dtype": "float32",
        "difference_to_adapter": largest_difference(read_logits(merged, tokenizer, PROMPTS), on_base),
        "difference_to_base": largest_difference(tuned_words, base_words),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    if merge["difference_to_adapter"] > MAX_LOGIT_DIFFERENCE:
        sys.exit(f"merged and adapter on base differ by {merge['difference_to_adapter']:.1e}: nothing written")
    if merge["difference_to_base"] <= MAX_LOGIT_DIFFERENCE:
        sys.exit(f"{args.adapter_path}: the adapter changes nothing: nothing written")
    write_model(merged, tokenizer, merge, Path(args.adapter_path), Path(args.output_dir))
    print(
        f"Largest logit difference: merged to adapter {merge['difference_to_adapter']:.1e}, read back to merged "
        f"{merge['difference_reloaded']:.1e}, adapter to base {merge['difference_to_base']:.1f}\n"
        f"Wrote {args.output_dir}. Next: python evaluate_model.py --model_name_or_path {args.output_dir} …"
    )
    if args.push_to_hub:
        print(f"Published {push_model(args)}")


def parse_arguments(argv: list[str] | None = None) -> MergeArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(MergeArguments, usage="python %(prog)s --ARGUMENT VALUE … (all of them: --help)")
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(parse_arguments())
