import json
import logging
import re
import shutil
import warnings

import pytest
import torch
import yaml
from bases import BASES
from bitsandbytes.functional import has_avx512bf16
from conftest import ROOT, assert_one_clear_line, make_base, run_script, training_arguments
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from trl import SFTConfig

import train_sft
from approach.errors import UserError
from approach.runtime import hide_library_notices
from approach.training import memory
from approach.training.arguments import SHOWN_ARGUMENTS
from approach.training.trainer import ApproachTrainer


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory):
    """As wide as a block of bitsandbytes' 4-bit weights."""
    return make_base(tmp_path_factory.mktemp("models") / "wide", hidden_size=64, intermediate_size=128)


def test_run_json_tells_the_run_and_nothing_private(trained, dataset, tmp_path_factory):
    run = json.loads((trained.adapter / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == 4 and run["dataset"]["rows"] == 16 and run["dataset"]["split_rows"] == 108
    assert run["arguments"]["lora_r"] == 8 and run["arguments"]["bf16"] is False
    assert run["activation_dtype"] == "float32"
    batches = [batch["attention_mask"] for batch in trained.trainer.get_train_dataloader()]
    computed, real = sum(mask.numel() for mask in batches), sum(int(mask.sum()) for mask in batches)
    assert run["padding_share"] == pytest.approx(1 - real / computed, abs=0.05) and run["padding_share"] > 0
    assert [entry["step"] for entry in run["losses"] if "loss" in entry] == [1, 2, 3, 4]
    for path in trained.adapter.iterdir():
        assert path.suffix not in (".bin", ".pt", ".pth"), f"{path.name} is a pickle"
        if path.name in ("run.json", "README.md", "tokenizer_config.json"):
            assert str(tmp_path_factory.getbasetemp()) not in path.read_text(encoding="utf-8"), path.name


def test_fp32_is_in_force_under_accelerate_launch(base, dataset, tmp_path):
    def activations(name):
        return json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8"))["activation_dtype"]

    result = run_script(
        *("train_sft.py", "--config", "recipes/small_base_lora_fp32.yaml", "--model_name_or_path", base),
        *("--dataset_name", dataset, "--output_dir", tmp_path / "fp32", "--max_steps", 1, "--save_strategy", "no"),
        *("--eval_strategy", "no", "--eval_on_start", "false", "--max_length", 256),
        launch="single_gpu_fp32.yaml",
    )
    assert result.returncode == 0, result.stderr
    assert activations("fp32") == "float32"
    train_sft.main(*training_arguments(base, dataset, tmp_path / "bf16", "--max_steps", "1", "--bf16", "true"))
    assert activations("bf16") == "bfloat16", "the record would not notice another precision"


def test_mistakes_end_in_one_clear_line(base, dataset, tmp_path, capsys):
    recipe, pushing = tmp_path / "recipe.yaml", tmp_path / "pushing.yaml"
    for path, line in ((recipe, "lora_rank: 8"), (pushing, "push_only: outputs/adapter")):
        path.write_text(f"bf16: false\nactivation_checkpointing: false\n{line}\n", encoding="utf-8")
    good = ["--config", str(ROOT / "recipes/small_base_lora_fp32.yaml"), "--use_cpu", "true"]
    places = ["--model_name_or_path", str(base), "--dataset_name", str(dataset), "--output_dir", str(tmp_path / "a")]
    mistakes = {
        "lora_rank": ["--config", str(recipe), *places],
        "--push_only outputs/adapter belongs on the command line": ["--config", str(pushing), *places],
        "--train_fraction must lie in (0, 1], got 0.0": [*good, *places, "--train_fraction", "0"],
        "--model_name_or_path is missing": [*good, "--output_dir", str(tmp_path / "a")],
        "--public contradicts --hub_private_repo true": [*good, *places, "--public", "--hub_private_repo", "true"],
    }
    for said, arguments in mistakes.items():
        with pytest.raises(SystemExit) as ended:
            train_sft.parse_arguments(arguments)
        assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
    no_base = run_script("train_sft.py", *good, *places, "--model_name_or_path", tmp_path / "none")
    assert_one_clear_line(no_base, 1, "--model_name_or_path", "none")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--assistant_only_loss true", "--assistant_only_loss True cannot be used here: the loss is on the approach"),
        (
            "--completion_only_loss false",
            "--completion_only_loss False cannot be used here: the loss is on the approach",
        ),
        ("--padding_free true", "--padding_free true cannot be used here without --packing true"),
        ("--packing true --packing_strategy wrapped", "--packing_strategy wrapped cannot be used here"),
        ("--truncation_mode keep_end", "shortened or dropped by --long_examples"),
        ("--eos_token </s>", "--eos_token </s> cannot be used here: an approach ends with </approach>"),
        ('--model_init_kwargs {"dtype":"bfloat16"}', "the base is loaded by --dtype"),
        ("--dataset_streaming true", "the rows are loaded before training"),
    ],
)
def test_an_argument_of_trl_that_cannot_be_honoured_is_named(base, dataset, tmp_path, capsys, words, said):
    with warnings.catch_warnings(action="ignore", category=FutureWarning), pytest.raises(SystemExit) as ended:
        training_arguments(base, dataset, tmp_path / "a", *words.split())
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_packed_rows_train_without_padding(base, dataset, tmp_path):
    """TRL's batches of packed rows have positions and no attention mask."""
    packed = ["--packing", "true", "--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2"]
    train_sft.main(*training_arguments(base, dataset, tmp_path / "a", *packed, "--num_samples", "0"))
    run = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert run["padding_share"] == 0 and run["dataset"]["rows"] == 108, "all rows are packed"
    assert run["losses"][-1]["eval_loss"] > 0


def test_target_modules_that_match_nothing_are_named_with_what_there_is(base, dataset, tmp_path):
    arguments = training_arguments(base, dataset, tmp_path / "a", "--lora_target_modules", "q_proj", "c_attn")
    with pytest.raises(UserError, match="no c_attn; its linear layers are down_proj, gate_proj, k_proj, lm_head"):
        train_sft.main(*arguments)


@pytest.mark.parametrize("folder", ["missing", "without_columns"])
def test_a_folder_that_is_no_dataset_is_named(base, tmp_path, folder):
    if folder == "without_columns":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    arguments = training_arguments(base, tmp_path / folder, tmp_path / "adapter")
    with pytest.raises(UserError, match=folder):
        train_sft.main(*arguments)


def test_an_nvidia_card_with_a_cpu_build_of_torch_stops_the_run(base, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(memory.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", None)
    arguments = training_arguments(base, dataset, tmp_path / "adapter")
    memory.check_machine(arguments[1])  # --use_cpu true
    monkeypatch.setattr(arguments[1], "use_cpu", False)
    with pytest.raises(UserError, match="build for the CPU"):
        memory.check_machine(arguments[1])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # as accelerate_configs/cpu.yaml sets it
    memory.check_machine(arguments[1])


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize("asked", ["true", "false"])
def test_a_processor_without_bfloat16_is_warned_of(base, dataset, tmp_path, monkeypatch, capsys, has_bfloat16, asked):
    instructions = {"avx512_bf16"} if has_bfloat16 else {"avx2"}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: dict.fromkeys(instructions, True))
    memory.check_machine(training_arguments(base, dataset, tmp_path / "adapter", "--bf16", asked)[1])
    warned = "add --bf16 false" in capsys.readouterr().err
    assert warned == (asked == "true" and not has_bfloat16)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_trains_a_tiny_model_of_its_kind_for_two_steps(recipe, wide_base, dataset, tmp_path):
    keys, kind = yaml.safe_load(recipe.read_text(encoding="utf-8")), recipe.stem.partition("_")[0]
    base = BASES[kind](tmp_path / "base") if kind in BASES else wide_base
    assert {"bf16", "dtype", "use_peft", "seed", "max_length"} <= keys.keys(), "what decides a run is written out"
    short = [
        "--max_steps",
        "2",
        "--eval_steps",
        "1",
        "--save_steps",
        "1",
        "--num_eval_rows",
        "2",
        "--num_samples",
        "1",
    ]
    if keys.get("load_in_4bit"):  # test_bitsandbytes_on_a_cpu_trains_nothing_once_it_has_evaluated
        short += ["--eval_strategy", "no", "--eval_on_start", "false"]
    places = [
        "--model_name_or_path",
        str(base),
        "--dataset_name",
        str(dataset),
        "--output_dir",
        str(tmp_path / "a"),
    ]
    cpu = ["--use_cpu", "true", "--dataloader_pin_memory", "false"]
    arguments = train_sft.parse_arguments(["--config", str(recipe), *places, *short, *cpu])
    train_sft.main(*arguments)
    run = json.loads((tmp_path / "a" / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == 2 and run["activation_dtype"] == ("bfloat16" if keys["bf16"] else "float32")
    assert run["trainable_parameters"] == sum(p.numel() for p in load_trained(tmp_path / "a").values())
    assert (tmp_path / "a" / "samples.jsonl").is_file() == (arguments[1].eval_strategy != "no")


def load_trained(folder) -> dict:
    """What a run has trained, by name: the adapter's tensors, or all of a model's."""
    (weights,) = folder.glob("*.safetensors")
    return load_file(weights)


def test_bitsandbytes_on_a_cpu_trains_nothing_once_it_has_evaluated(wide_base, dataset, tmp_path):
    """
    Seen with bitsandbytes 0.50.2: the weights that it packs have no gradient. The run says so and stops.

    It packs them on processors with AVX-512 BF16 alone; on others the run trains.
    """
    arguments = train_sft.parse_arguments(
        [
            *("--config", str(ROOT / "recipes/tinyllama_qlora_4bit.yaml"), "--model_name_or_path", str(wide_base)),
            *("--dataset_name", str(dataset), "--output_dir", str(tmp_path), "--max_steps", "1", "--use_cpu", "true"),
            *("--num_samples", "0", "--dataloader_pin_memory", "false"),
        ]
    )
    if not has_avx512bf16():
        train_sft.main(*arguments)
        assert (tmp_path / "adapter_model.safetensors").is_file()
        return
    with pytest.warns(UserWarning, match="an autograd kernel was not registered"), pytest.raises(UserError) as ended:
        train_sft.main(*arguments)
    assert "got no gradient in the first step" in str(ended.value)


def test_the_reports_recipe_has_the_reports_figures(tmp_path):
    _, training_args, model_args, _ = train_sft.parse_arguments(
        [
            "--config",
            str(ROOT / "recipes/tinyllama_lora_fp32.yaml"),
            "--output_dir",
            str(tmp_path),
            "--use_cpu",
            "true",
        ]
    )
    assert model_args.model_name_or_path == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert (model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout) == (8, 16, 0.05)
    assert model_args.lora_target_modules == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]
    assert (model_args.dtype, training_args.bf16, training_args.fp16) == ("float32", False, False)
    assert (training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps) == (2, 2)
    assert (training_args.max_length, training_args.max_steps, training_args.learning_rate) == (512, 100, 1e-4)
    assert training_args.optim == "adamw_torch"


def test_without_lora_the_run_leaves_a_whole_model_that_drafts(base, dataset, tmp_path):
    train_sft.main(*training_arguments(base, dataset, tmp_path / "model", "--use_peft", "false"))
    before, after = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    end = tokenizer.convert_tokens_to_ids("</approach>")
    assert after.generation_config.eos_token_id == [end, 2] and after.vocab_size == len(tokenizer)
    old = dict(before.named_parameters())
    moved = [name for name, p in after.named_parameters() if not torch.equal(p[: len(old[name])], old[name])]
    assert len(moved) == len(old), "every matrix is trained"


@pytest.mark.parametrize("model_type", ["gpt_neox", "qwen2"])
def test_other_bases_train_and_open_with_plain_peft(model_type, dataset, tmp_path, monkeypatch):
    base = make_base(tmp_path / "base", model_type=model_type, tied=model_type == "qwen2")
    modules = {"gpt_neox": ["query_key_value", "dense"], "qwen2": ["q_proj", "v_proj"]}[model_type]
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "4", "--eval_on_start", "true", "--num_samples", "0"]
    places = [base, dataset, tmp_path / "adapter"]
    train, kept = ApproachTrainer.train, []
    monkeypatch.setattr(ApproachTrainer, "train", lambda self, **named: kept.append(self) or train(self, **named))
    train_sft.main(*training_arguments(*places, "--lora_target_modules", *modules, *evaluated))
    losses = json.loads((tmp_path / "adapter" / "run.json").read_text(encoding="utf-8"))["losses"]
    assert losses[-1]["eval_loss"] < losses[0]["eval_loss"]
    # Tied matrices, too: the rows of the tags in both come from the one that is stored.
    first, second = (AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval() for _ in range(2))
    ids = AutoTokenizer.from_pretrained(tmp_path / "adapter")("<problem>a</problem><approach>", return_tensors="pt")
    with torch.inference_mode():
        trained, again = first(**ids).logits, second(**ids).logits
    assert torch.equal(trained, again) and torch.equal(trained, kept[0].model.eval()(**ids).logits)


def test_preflight_shows_the_run_and_loads_no_weights(base, dataset, tmp_path, capsys):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "model.safetensors").unlink()
    train_sft.main(*training_arguments(folder, dataset, tmp_path / "adapter", "--preflight", "true"))
    shown = capsys.readouterr().out
    assert "4 × 1 = 4 rows a step" in shown and "16 different rows of 108, 0.15 epochs" in shown
    read, trained = shown.partition("Read, not trained on:")[2].split("Trained on:")
    assert read.strip().endswith("</problem><approach>") and "</approach>" in trained
    assert "GiB  at the peak" in shown
    assert not (tmp_path / "adapter").exists()


def test_help_names_arguments_that_exist(capsys):
    with pytest.raises(SystemExit):
        train_sft.parse_arguments(["--help_all"])
    existing = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    assert set(SHOWN_ARGUMENTS) <= existing and {"lora_r", "packing", "preflight"} <= existing


def test_help_shows_trls_own_texts(capsys):
    with pytest.raises(SystemExit):
        train_sft.parse_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert SFTConfig.__dataclass_fields__["max_length"].metadata["help"].partition(". ")[0] in shown
    assert TrainingArguments.__dataclass_fields__["seed"].metadata["help"].rstrip(".") in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may have bfloat16")
def test_without_arguments_the_base_is_asked_for_and_then_what_a_cpu_needs(capsys):
    """transformers, which is asked first, would speak of "bf16/gpu" both times, since TRL's default is bfloat16."""
    recipe = ["--config", str(ROOT / "recipes/tinyllama_lora_epoch.yaml")]  # names its base
    for arguments, said in (
        ([], "--model_name_or_path is missing"),
        (recipe, "add --use_cpu true to train on the CPU in 16 bits, or --bf16 false --dtype float32 for 32 bits"),
        (["--model_name_or_path", "base"], "bf16: true needs a GPU with bfloat16, and there is none here"),
    ):
        with warnings.catch_warnings(action="ignore", category=FutureWarning), pytest.raises(SystemExit) as ended:
            train_sft.parse_arguments(arguments)
        assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_what_the_message_names_is_enough():
    recipe = ["--config", str(ROOT / "recipes/tinyllama_lora_epoch.yaml")]
    assert train_sft.parse_arguments([*recipe, "--use_cpu", "true"])[1].bf16
    assert not train_sft.parse_arguments([*recipe, "--bf16", "false", "--dtype", "float32"])[1].bf16


def test_nothing_is_printed_before_our_own_first_line(base, dataset, tmp_path):
    result = run_script(
        *("train_sft.py", "--config", "recipes/small_base_lora_fp32.yaml", "--model_name_or_path", base),
        *("--dataset_name", dataset, "--output_dir", tmp_path / "a", "--preflight", "true"),
        launch="single_gpu_fp32.yaml",
        WANDB_MODE="disabled",  # Accelerate tells of an offline one, which the tests' is
    )
    assert result.returncode == 0 and result.stdout.startswith("4 × 1 = 4 rows a step")
    said = [line for line in re.split(r"[\r\n]+", result.stderr) if line and "%|" not in line]
    assert said == []


def test_only_the_notice_on_a_kernel_for_4_bits_is_kept_back(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with warnings.catch_warnings():
        hide_library_notices()
    try:
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no module")
        logger.warning("Something else failed")
    finally:
        logger.filters.clear()
    assert caplog.messages == ["Something else failed"]
