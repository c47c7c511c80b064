"""A tiny base made in process, a dataset made by our own script, and one training run that many tests look at."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# A job in the background is started with Ctrl-C ignored, and would hand that down to every script that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before any of the libraries is imported: nothing is fetched, and nothing is written to the user's home.
os.environ.update(
    HF_HUB_OFFLINE="1",
    WANDB_MODE="offline",
    TOKENIZERS_PARALLELISM="false",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    OMP_WAIT_POLICY="PASSIVE",
    OMP_NUM_THREADS="1",  # two test processes of two threads each would wait for one another on two cores
)

TEXT = """
we study how small models read long texts and draft plans from data with noise results show methods that learn fast
problem approach end of each graph signal network theory test train error bound field wave particle cell gene
"""
WORDS = TEXT.split()


def make_abstract(rng: random.Random, approach_words: int = 95) -> str:
    """A meaningless abstract, one sentence a line, long enough to pass the filters."""
    sentences = [" ".join(rng.choices(WORDS, k=10)).capitalize() + "."]
    while approach_words > 0:
        length = min(approach_words, rng.randint(8, 20))
        sentences.append(" ".join(rng.choices(WORDS, k=length)).capitalize() + ".")
        approach_words -= length
    return "\n".join(sentences)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_base(
    folder: Path, model_type: str = "llama", tied: bool = False, vocabulary_padding: int = 0, **sizes: int
) -> Path:
    """A random two-layer model with a byte-level BPE tokenizer that begins texts with `<s>`, as Llama's does."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )
    fast.save_pretrained(folder)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=sizes.pop("vocab_size", len(fast)) + vocabulary_padding,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
        **{"hidden_size": 32, "intermediate_size": 64, **sizes},
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def run_script(*arguments: str | Path, launch: str | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Runs one of the scripts as a user does, through `accelerate launch` where `launch` names an Accelerate file."""
    command = [sys.executable]
    if launch:
        command += ["-m", "accelerate.commands.launch", "--quiet", "--config_file", f"accelerate_configs/{launch}"]
    command += [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def assert_one_clear_line(result: subprocess.CompletedProcess, status: int, *parts: str) -> None:
    """A user's mistake ends in one line that names what is wrong, with the right exit status and no traceback."""
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    last_line = result.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in last_line


@pytest.fixture(autouse=True)
def one_thread():
    """A training in this process may ask for all cores, and the tests after it would keep them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def float32():
    """Models draft in FP32 in this process, whatever the processor computes in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cpu.get_capabilities", dict)
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def abstracts(tmp_path_factory) -> Path:
    rng = random.Random(0)
    rows = [{"id": f"row-{i}", "abstract": make_abstract(rng)} for i in range(120)]
    return write_jsonl(tmp_path_factory.mktemp("abstracts") / "abstracts.jsonl", rows)


@pytest.fixture(scope="session")
def dataset(abstracts, tmp_path_factory) -> Path:
    from prepare_dataset import PrepareArguments, main

    output_dir = tmp_path_factory.mktemp("data") / "pairs"
    main(PrepareArguments(dataset_name=str(abstracts), output_dir=str(output_dir)))
    return output_dir


def training_arguments(base: Path, dataset: Path, output_dir: Path, *overrides: str) -> tuple:
    """Arguments of a short run of the small recipe, as the command line would parse them."""
    from train_sft import parse_arguments

    recipe = ["--config", str(ROOT / "recipes/small_base_lora_fp32.yaml"), "--model_name_or_path", str(base)]
    short = ["--max_steps", "4", "--max_length", "256", "--save_strategy", "no", "--eval_strategy", "no"]
    places = ["--dataset_name", str(dataset), "--output_dir", str(output_dir), "--use_cpu", "true"]
    return parse_arguments([*recipe, *short, "--eval_on_start", "false", *places, *overrides])


class TrainedRun:
    """The trainer after training, and copies of the base's parameters from before it."""

    def __init__(self, trainer: object, before: dict, adapter: Path):
        from accelerate.state import AcceleratorState, PartialState

        self._trainer, self.before, self.adapter = trainer, before, adapter
        self._states = [(kind._shared_state, dict(kind._shared_state)) for kind in (PartialState, AcceleratorState)]

    @property
    def trainer(self) -> object:
        """With the state that it shares with Accelerate, which parsing the arguments of another run empties."""
        for shared, kept in self._states:
            shared.clear()
            shared.update(kept)
        return self._trainer


@pytest.fixture(scope="session")
def trained(base, dataset, tmp_path_factory) -> TrainedRun:
    """A short run in this process, through the script's own functions."""
    import train_sft
    from approach.training.trainer import ApproachTrainer

    output_dir = tmp_path_factory.mktemp("adapters") / "adapter"
    kept, train = {}, ApproachTrainer.train

    def keep_and_train(trainer, **arguments):
        kept["trainer"] = trainer
        kept["before"] = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        return train(trainer, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ApproachTrainer, "train", keep_and_train)
        train_sft.main(*training_arguments(base, dataset, output_dir))
    return TrainedRun(kept["trainer"], kept["before"], output_dir)


@pytest.fixture(scope="session")
def merged(trained, tmp_path_factory) -> Path:
    from merge_and_push import MergeArguments, main

    output_dir = tmp_path_factory.mktemp("merged") / "model"
    main(MergeArguments(adapter_path=str(trained.adapter), output_dir=str(output_dir)))
    return output_dir


@pytest.fixture(scope="session")
def kit(abstracts, dataset, base, trained, merged, tmp_path_factory) -> Path:
    """A folder with something of everything that the scripts read, to be copied and spoiled."""
    from hostile.tries import make_kit

    return make_kit(tmp_path_factory.mktemp("hostile") / "kit", abstracts, dataset, base, trained, merged)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("REAL_DATA_DIR")
    if not folder or not (Path(folder) / "data").is_dir():
        pytest.skip("REAL_DATA_DIR names no folder with the real abstracts")
    return Path(folder).resolve()
