import json
import re

import pytest
import torch
import yaml
from conftest import ROOT, assert_one_clear_line, make_base, run_script, training_arguments
from datasets import load_dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import add_fused_lm_head

import prepare_dataset
import train_sft
from train_sft import TAGS, add_tag_rows, add_tags, shorten, tokenize


@pytest.fixture
def tagged(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    add_tags(tokenizer)
    return tokenizer


def test_scripts_agree_on_the_tags():
    assert prepare_dataset.TAGS == TAGS


def test_labels_are_the_approach_and_its_end_tag_and_nothing_else(trained, tagged):
    """Exact, from the batches that the trainer really sees (specification, mistakes 1 and 2)."""
    batches = list(trained.trainer.get_train_dataloader())
    end, pad = tagged.convert_tokens_to_ids("</approach>"), tagged.pad_token_id
    texts = []
    for batch in batches:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            ids, labels, length = ids.tolist(), labels.tolist(), int(mask.sum())
            start = ids.index(tagged.convert_tokens_to_ids("<approach>")) + 1
            assert labels[:start] == [-100] * start
            assert labels[start:length] == ids[start:length]
            assert labels[length - 1] == end
            assert ids[length:] == [pad] * (len(ids) - length) and labels[length:] == [-100] * (len(ids) - length)
            texts.append((tagged.decode(ids[1:length]), tagged.decode(labels[start:length])))
    assert len(texts) == 16
    assert all(text.startswith("<problem>") and text.endswith(completion) for text, completion in texts)
    assert any(batch["attention_mask"].min() == 0 for batch in batches), "no padding in sight: the test proves nothing"


def test_exact_labels_of_one_row(tagged):
    prompt, completion = "<problem>We study noise.</problem><approach>", " We learn. It is fast.</approach>"
    row = tokenize({"id": ["a"], "prompt": [prompt], "completion": [completion]}, tagged, 64, "drop")
    prompt_ids = tagged(prompt)["input_ids"]
    completion_ids = tagged(completion, add_special_tokens=False)["input_ids"]
    assert prompt_ids[0] == tagged.bos_token_id and prompt_ids.count(tagged.bos_token_id) == 1
    assert row["input_ids"] == [prompt_ids + completion_ids]
    assert row["labels"] == [[-100] * len(prompt_ids) + completion_ids]
    assert tagged.convert_ids_to_tokens(completion_ids[-1]) == "</approach>"


def test_long_rows_lose_whole_sentences_never_the_end_tag(tagged):
    prompt, sentences = "<problem>p</problem><approach>", ["We learn fast.", "It is e.g. noise, as data show.", "End."]
    completion = f" {' '.join(sentences)}</approach>"
    whole = tagged(prompt + completion)["input_ids"]
    two = tagged(f"{prompt} {' '.join(sentences[:2])}</approach>")["input_ids"]
    one = tagged(f"{prompt} {sentences[0]}</approach>")["input_ids"]
    assert shorten(prompt, completion, tagged, len(whole) - 1) == two
    assert shorten(prompt, completion, tagged, len(two) - 1) == one
    assert shorten(prompt, completion, tagged, len(one) - 1) == []
    batch = {"id": ["a"], "prompt": [prompt], "completion": [completion]}
    assert tokenize(batch, tagged, len(whole), "drop")["fate"] == ["whole"]
    assert tokenize(batch, tagged, len(whole) - 1, "drop")["fate"] == ["dropped"]
    assert tokenize(batch, tagged, len(whole) - 1, "shorten")["fate"] == ["shortened"]
    assert tokenize(batch, tagged, 3, "shorten")["fate"] == ["dropped"]


def test_sentences_of_a_tokenized_corpus_end_at_a_stop_set_off_by_spaces(tagged):
    prompt, completion = "<problem>p</problem><approach>", " we learn @xmath0 . it is fast .</approach>"
    expected = tagged(f"{prompt} we learn @xmath0 .</approach>")["input_ids"]
    assert shorten(prompt, completion, tagged, len(expected) + 1) == expected


def test_base_is_frozen_bit_for_bit_and_adapter_and_tag_rows_moved(trained, base):
    """Old rows of both matrices included (specification, mistake 3)."""
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    after = dict(trained.trainer.model.named_parameters())
    plain_names = {re.sub(r"base_model\.model\.|\.base_layer|\.token_adapter", "", name): name for name in after}
    for name, weight in original.items():
        assert torch.equal(after[plain_names[name]][: len(weight)], weight), name
    moved = {name for name, parameter in after.items() if parameter.requires_grad}
    for kind in ("lora_A", "lora_B", "embed_tokens.token_adapter.", "lm_head.token_adapter."):
        assert any(kind in name for name in moved), kind
    for name, parameter in after.items():
        if name not in moved:
            assert torch.equal(parameter, trained.before[name]), name
        elif "trainable_tokens_delta" in name:
            rows_moved = (parameter != trained.before[name]).any(dim=1).tolist()
            # </approach> is the last token of every row: it is predicted, and nothing is predicted from it.
            assert rows_moved == [True, True, True, "lm_head" in name], name
        else:
            assert "lora_" in name and not torch.equal(parameter, trained.before[name]), name


def test_plain_peft_opens_the_same_model_every_time(trained, tagged):
    ids = tagged("<problem>We study noise.</problem><approach>", return_tensors="pt")["input_ids"]
    trained.trainer.model.eval()
    with torch.inference_mode():
        expected = trained.trainer.model(ids).logits
        for _ in range(2):
            reopened = AutoPeftModelForCausalLM.from_pretrained(trained.adapter, dtype=torch.float32)
            assert torch.equal(reopened(ids).logits, expected)


def test_tag_rows_start_from_the_words_they_stand_for(base):
    rows = []
    for _ in range(2):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        add_tags(tokenizer)
        ids = add_tag_rows(model, tokenizer, old_eos_id=2)
        rows.append((model.get_input_embeddings().weight[ids], model.get_output_embeddings().weight[ids]))
    embeddings = model.get_input_embeddings().weight
    word = tokenizer("problem", add_special_tokens=False)["input_ids"]
    assert torch.equal(embeddings[ids[0]], embeddings[word].mean(dim=0))
    assert torch.equal(rows[0][1][3], model.get_output_embeddings().weight[2])
    assert all(torch.equal(first, second) for first, second in zip(*rows, strict=True))


def test_a_base_that_has_the_rows_is_not_resized(tmp_path):
    base = make_base(tmp_path / "padded", vocabulary_padding=64)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    rows = model.get_input_embeddings().weight.shape[0]
    for _ in range(2):
        add_tags(tokenizer)
        ids = add_tag_rows(model, tokenizer, old_eos_id=2)
        assert model.get_input_embeddings().weight.shape[0] == rows
    assert len(set(ids)) == 4 and len(tokenizer) == max(ids) + 1


def test_peft_wrapper_without_bias_breaks_trls_fused_head(base):
    """Seen on trl 1.16.0 with peft 0.21.2; when this fails, `build_trainer` may drop its `register_parameter`."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [5]}, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    add_fused_lm_head(model.get_base_model())
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(AttributeError, match="bias"):
        model(ids, labels=ids, fused_lm_head=True)
    model.get_output_embeddings().register_parameter("bias", None)
    fused = model(ids, labels=ids, fused_lm_head=True).loss
    plain = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
    assert torch.allclose(fused, plain, atol=1e-6)


def render(tokenizer, *messages, **arguments) -> list[int]:
    turns = [{"role": role, "content": content} for role, content in messages]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, **arguments)


def test_chat_template_gives_what_training_saw_row_by_row(dataset, tagged):
    for split in load_dataset(str(dataset)).values():
        for row in split:
            assert render(tagged, ("user", row["problem"])) == tagged(row["prompt"])["input_ids"]
            whole = tagged(row["prompt"] + row["completion"])["input_ids"]
            assert render(tagged, ("user", row["problem"]), ("assistant", row["approach"])) == whole


def test_chat_template_leaves_out_system_and_earlier_turns(tagged):
    plain = render(tagged, ("user", "How?"))
    assert render(tagged, ("system", "You are a poet."), ("user", "How?")) == plain
    assert render(tagged, ("user", "Why?"), ("assistant", "So."), ("user", " How? ")) == plain


@pytest.mark.parametrize(
    "text", ["a</problem><approach>b", "</approach>", "<prob</approach>lem>", "<<problem>/problem>"]
)
def test_chat_template_lets_no_text_close_the_problem(tagged, text):
    ids = render(tagged, ("user", text))
    tags = [token for token in tagged.convert_ids_to_tokens(ids) if token in TAGS]
    assert tags == ["<problem>", "</problem>", "<approach>"]


def test_tokenizers_without_a_beginning_token_get_none(tmp_path):
    from tokenizers import processors

    tokenizer = AutoTokenizer.from_pretrained(make_base(tmp_path / "base"))
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    add_tags(tokenizer)
    prompt = "<problem>How?</problem><approach>"
    assert render(tokenizer, ("user", "How?")) == tokenizer(prompt)["input_ids"]
    assert tokenizer.bos_token_id not in tokenizer(prompt)["input_ids"]


def test_run_json_tells_the_run_and_nothing_private(trained, dataset, tmp_path_factory):
    run = json.loads((trained.adapter / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == 4 and run["dataset"]["rows"] == 16 and run["dataset"]["split_rows"] == 108
    assert run["arguments"]["lora_r"] == 8 and run["arguments"]["bf16"] is False
    assert run["activation_dtype"] == "float32"
    assert [entry["step"] for entry in run["losses"] if "loss" in entry] == [1, 2, 3, 4]
    for path in trained.adapter.iterdir():
        assert path.suffix not in (".bin", ".pt", ".pth"), f"{path.name} is a pickle"
        if path.name in ("run.json", "README.md", "tokenizer_config.json"):
            assert str(tmp_path_factory.getbasetemp()) not in path.read_text(encoding="utf-8"), path.name


def test_fp32_is_in_force_under_accelerate_launch(base, dataset, tmp_path):
    def activations(name, *overrides):
        result = run_script(
            *("train_sft.py", "--config", "recipes/small_base_lora_fp32.yaml", "--model_name_or_path", base),
            *("--dataset_name", dataset, "--output_dir", tmp_path / name, "--max_steps", 1, "--save_strategy", "no"),
            *("--eval_strategy", "no", "--eval_on_start", "false", "--max_length", 256, *overrides),
            launch="single_gpu_fp32.yaml",
        )
        assert result.returncode == 0, result.stderr
        return json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8"))["activation_dtype"]

    assert activations("fp32") == "float32"
    assert activations("bf16", "--bf16", "true", "--use_cpu", "true") == "bfloat16", (
        "the record would not notice another precision"
    )


def test_mistakes_end_in_one_clear_line(base, dataset, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("use_peft: true\nbf16: false\nlora_rank: 8\n", encoding="utf-8")
    places = ["--model_name_or_path", base, "--dataset_name", dataset, "--output_dir", tmp_path / "adapter"]
    unknown = run_script("train_sft.py", "--config", recipe, *places)
    assert_one_clear_line(unknown, 2, "lora_rank")
    good = ["--config", "recipes/small_base_lora_fp32.yaml", *places, "--use_cpu", "true"]
    fraction = run_script("train_sft.py", *good, "--train_fraction", "0")
    assert_one_clear_line(fraction, 2, "--train_fraction", "got 0.0")
    no_base = run_script("train_sft.py", *good, "--model_name_or_path", tmp_path / "none")
    assert_one_clear_line(no_base, 1, "--model_name_or_path", "none")
    assert not (tmp_path / "adapter").exists()


def test_target_modules_that_match_nothing_are_named_with_what_there_is(base, dataset, tmp_path):
    arguments = training_arguments(base, dataset, tmp_path / "a", "--lora_target_modules", "q_proj", "c_attn")
    with pytest.raises(SystemExit, match="no c_attn; its linear layers are down_proj, gate_proj, k_proj, lm_head"):
        train_sft.build_trainer(*arguments)


@pytest.mark.parametrize("folder", ["missing", "without_columns"])
def test_a_folder_that_is_no_dataset_is_named(base, tmp_path, folder):
    if folder == "without_columns":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    arguments = training_arguments(base, tmp_path / folder, tmp_path / "adapter")
    with pytest.raises(SystemExit, match=folder):
        train_sft.build_trainer(*arguments)


def test_an_nvidia_card_with_a_cpu_build_of_torch_stops_the_run(base, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sft.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", None)
    arguments = training_arguments(base, dataset, tmp_path / "adapter")
    train_sft.check_machine(arguments[1])
    monkeypatch.setattr(arguments[1], "use_cpu", False)
    with pytest.raises(SystemExit, match="build for the CPU"):
        train_sft.check_machine(arguments[1])


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_parses_and_states_its_precision(recipe, tmp_path):
    places = ["--model_name_or_path", "some/base", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    _, training_args, model_args, _ = train_sft.parse_arguments(["--config", str(recipe), *places])
    assert {"bf16", "dtype"} <= yaml.safe_load(recipe.read_text(encoding="utf-8")).keys()
    assert model_args.use_peft


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
