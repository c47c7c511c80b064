"""Drafts: cut off where they should be, the same in batches and one by one, and continued after a kill."""

import json
import os
import signal

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from approach.errors import UserError
from approach.generation import cache, engine, sampling
from approach.generation.engine import Drafter, cut_at_eos
from approach.generation.partial import PartialDrafts


def test_a_draft_ends_at_the_first_stop_token():
    assert cut_at_eos([5, 6, 7, 9, 7], {7, 2}) == ([5, 6], True)
    assert cut_at_eos([7], {7}) == ([], True)
    assert cut_at_eos([5, 6], {7}) == ([5, 6], False)


def test_the_prompt_is_cut_off_by_position(merged, dataset, tmp_path):
    """Nothing of the problem is left in a draft (as in the original run), though the tags vanish on decoding."""
    drafter = Drafter(str(merged), max_new_tokens=12, batch_size=4)
    rows = load_dataset(str(dataset), split="test").to_list()
    drafts = drafter.draft([row["prompt"] for row in rows], PartialDrafts(tmp_path / "scores"))
    for row, result in zip(rows, drafts, strict=True):
        ids = drafter.tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            new = drafter.model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
        kept, ended = cut_at_eos(new, {drafter.tokenizer.eos_token_id, 2})
        text = drafter.tokenizer.decode(kept, skip_special_tokens=True).strip()
        assert result == {"prediction": text, "ended": ended, "num_tokens": len(kept)}
    whole = drafter.tokenizer.decode(drafter.tokenizer(rows[0]["prompt"])["input_ids"], skip_special_tokens=True)
    assert whole == rows[0]["problem"], "the original's cut at the tag would have found nothing"


def test_what_ends_makes_room_for_the_next_and_every_draft_stays_the_same(merged, dataset, tmp_path, monkeypatch):
    prompts = load_dataset(str(dataset), split="test")["prompt"][:]
    drafter, greedy = Drafter(str(merged), max_new_tokens=40, batch_size=3), {"do_sample": False}
    # Random models rarely end: as if the tenth token of the first draft were an end, too.
    ids = drafter.tokenizer(prompts[0], return_tensors="pt")["input_ids"]
    drafter.eos_token_ids.add(int(drafter.model.generate(ids, **greedy, max_new_tokens=20)[0, ids.shape[1] + 9]))
    alone = [drafter.generate([prompt], greedy)[0] for prompt in prompts]
    assert {draft["ended"] for draft in alone} == {True, False}
    shapes, forward = [], drafter.model.base_model.forward

    def count(input_ids, **arguments):
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **arguments)

    monkeypatch.setattr(drafter.model.base_model, "forward", count)
    assert drafter.generate(prompts, greedy) == alone
    read = [rows for rows, tokens in shapes if tokens > 1]
    assert sum(read) == len(prompts) and len(read) > 2, "each prompt is read once, when there is room for it"
    assert max(rows for rows, _ in shapes) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(base, monkeypatch, dtype):
    """As of a base that is shown two examples: they were most of what it read."""
    beginning = "We study how models read long texts with noise in many small models. " * 6
    ends = ("Noise grows.", "A model reads long texts.", "It ends.", "How?", "In texts.")
    prompts = [beginning + end for end in ends]
    drafter, greedy = Drafter(str(base), max_new_tokens=30, batch_size=2, dtype=dtype), {"do_sample": False}
    read, forward = [], drafter.model.base_model.forward

    def count(input_ids, **arguments):
        read.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **arguments)

    monkeypatch.setattr(drafter.model.base_model, "forward", count)
    together = drafter.generate(prompts, greedy)
    (rows, shared), (others, tokens) = read[:2]
    assert (rows, others) == (1, 2) and shared >= len(drafter.tokenizer(beginning.strip())["input_ids"]) > 5 * tokens
    assert [tokens for _, tokens in read[1:] if tokens >= shared] == [], "those who join later do not read it again"
    monkeypatch.setattr(cache, "MIN_PREFIX_TOKENS", 10_000)
    read.clear()
    alone = drafter.generate(prompts, greedy)
    assert read[0][0] == 2 and read[0][1] > shared
    assert sum(rows for rows, tokens in read if tokens >= shared) == len(prompts)
    assert together == alone or dtype == torch.bfloat16
    assert [draft["num_tokens"] for draft in together if not draft["ended"]] == [30] * len(prompts)


def test_every_seed_draws_drafts_of_its_own(merged, dataset, tmp_path):
    """torch's generator for processors takes 32 bits of a seed: seeds that differ above them drew the same drafts."""
    prompts = load_dataset(str(dataset), split="test")["prompt"][:4]
    drafter, partial = Drafter(str(merged), max_new_tokens=12), PartialDrafts(tmp_path / "scores")
    drawn = [
        [draft["prediction"] for draft in drafter.draft(prompts, partial, "sampled", seed)] for seed in (0, 1, 2, 0)
    ]
    assert drawn[0] == drawn[3]
    assert all(len({drafts[row] for drafts in drawn}) == 3 for row in range(len(prompts)))


def test_a_prompt_of_one_token_and_a_context_that_ends(base):
    drafter = Drafter(str(base), max_new_tokens=10_000, batch_size=2)
    ids = drafter.tokenizer("We study noise in many small models.")["input_ids"]
    drafter.model.config.max_position_embeddings = len(ids) + 5
    drafts = drafter.generate(["We study noise in many small models.", "We", "We"], {"do_sample": False})
    assert [draft["num_tokens"] for draft in drafts if not draft["ended"]][:1] == [5]
    assert drafts[1] == drafts[2]
    with pytest.raises(UserError, match="a prompt of .* tokens leaves no room for a draft"):
        drafter.generate(["We study noise in many small models. " * 3], {"do_sample": False})


def test_an_adapter_folder_drafts_as_its_merged_model(trained, merged, dataset, tmp_path):
    prompts = load_dataset(str(dataset), split="test")["prompt"][:]
    drafts = [
        Drafter(str(folder), max_new_tokens=12).draft(prompts, PartialDrafts(tmp_path / name))
        for name, folder in (("a", trained.adapter), ("b", merged))
    ]
    assert drafts[0] == drafts[1]
    assert Drafter(str(trained.adapter)).eos_token_ids == Drafter(str(merged)).eos_token_ids


def test_base_without_padding_token_drafts_too(base, tmp_path):
    drafter = Drafter(str(base), max_new_tokens=4)
    assert drafter.tokenizer.pad_token is None
    assert isinstance(drafter.model, type(AutoModelForCausalLM.from_pretrained(base)))
    assert len(drafter.draft(["We study noise.", "We"], PartialDrafts(tmp_path / "scores"))) == 2


def test_where_memory_ends_the_batch_is_halved_and_nothing_is_made_twice(merged, dataset, tmp_path, monkeypatch):
    prompts = load_dataset(str(dataset), split="test")["prompt"][:]
    whole = Drafter(str(merged), max_new_tokens=8, batch_size=6)
    expected = whole.draft(prompts, PartialDrafts(tmp_path / "whole"))
    tight = Drafter(str(merged), max_new_tokens=8, batch_size=6)
    generate, sizes = tight.model.generate, []

    def with_room_for_two(input_ids, **arguments):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(input_ids, **arguments)

    monkeypatch.setattr(tight.model, "generate", with_room_for_two)
    assert tight.draft(prompts, PartialDrafts(tmp_path / "tight")) == expected
    assert sizes == [6, 3, *[1] * 6]
    monkeypatch.setattr(tight.model, "generate", lambda **a: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(UserError, match="too small for one draft"):
        tight.generate(prompts[:1], {"do_sample": False})
    tight.max_batch = 6  # as before anything was drafted
    with pytest.raises(UserError, match="too small for one draft"):
        tight.generate(prompts[:1], {"do_sample": False})


def test_what_is_written_when_memory_ends_is_not_written_again(merged, dataset, monkeypatch):
    prompts = load_dataset(str(dataset), split="test")["prompt"][:]
    greedy, drafter = {"do_sample": False}, Drafter(str(merged), max_new_tokens=8, batch_size=2)
    expected, generate, sizes = drafter.generate(prompts, greedy), drafter.model.generate, []

    def ends_once(input_ids, **arguments):
        sizes.append(len(input_ids))
        if len(sizes) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(input_ids, **arguments)

    monkeypatch.setattr(drafter.model, "generate", ends_once)
    assert drafter.generate(prompts, greedy) == expected
    assert sizes == [2, 2, *[1] * (len(prompts) - 2)]


def differing_rows(drafter, prompts, alone: list[dict], together: list[dict]) -> int:
    """Rows that differ; fails where the two tokens at a row's first difference were no near-tie."""
    differing = 0
    for prompt, one, other in zip(prompts, alone, together, strict=True):
        if one["prediction"] == other["prediction"]:
            continue
        differing += 1
        ids, texts = drafter.tokenizer(prompt)["input_ids"], (one["prediction"], other["prediction"])
        first, second = (drafter.tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts)
        same = len(os.path.commonprefix([first, second]))
        end = drafter.tokenizer.eos_token_id
        with torch.inference_mode():
            logits = drafter.model(torch.tensor([ids + first[:same]])).logits[0, -1]
        a, b = (part[same] if same < len(part) else end for part in (first, second))
        assert abs(logits[a] - logits[b]) < 1e-4, (texts, a, b)
    return differing


@pytest.mark.parametrize("decoding", ["greedy", "greedy, penalty 1.15"])
def test_a_decoding_is_itself_whatever_the_model_ships_and_whoever_is_in_the_batch(base, tmp_path, decoding):
    """The base's padding is its end: a penalty that counted padding would change the drafts of shorter prompts."""
    prompts, folder = ["We study noise.", "We study how small models read long texts and draft plans."], tmp_path / "m"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    config |= {"repetition_penalty": 1.8, "do_sample": True, "no_repeat_ngram_size": 2}
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    plain, shipped = (Drafter(str(name), max_new_tokens=24) for name in (base, folder))
    together = plain.draft(prompts, PartialDrafts(tmp_path / "a"), decoding)
    assert together == shipped.draft(prompts, PartialDrafts(tmp_path / "b"), decoding)
    options = sampling.DECODINGS[decoding]
    assert together == [plain.generate([prompt], options)[0] for prompt in prompts]
    assert plain.tokenizer.eos_token_id in plain.eos_token_ids, "or the test proves nothing"


@pytest.mark.slow
def test_batched_and_one_by_one_differ_only_at_near_ties(real_data, tmp_path):
    """300 real problems: at least 99 % of drafts are the same; the number that is not is printed."""
    from prepare_dataset import PrepareArguments
    from prepare_dataset import main as prepare

    source = real_data / "data" / "acl_abstracts_2022_2023.jsonl.gz"
    prepare(PrepareArguments(dataset_name=str(source), output_dir=str(tmp_path / "pairs")))
    rows = load_dataset(str(tmp_path / "pairs"), split="test").to_list()[:300]
    drafter = Drafter(str(real_data / "models" / "abstracts_llama_9m"), max_new_tokens=448)
    prompts = [row["problem"] for row in rows]
    together = drafter.draft(prompts, PartialDrafts(tmp_path / "together"))
    alone = [drafter.generate([prompt], {"do_sample": False})[0] for prompt in prompts]
    differing = differing_rows(drafter, prompts, alone, together)
    print(f"{differing} of {len(rows)} drafts differ between batched and one by one")
    assert differing <= 3


def test_drafts_of_other_settings_are_not_taken(merged, tmp_path):
    partial = PartialDrafts(tmp_path / "scores")
    short, long = (Drafter(str(merged), max_new_tokens=n).draft(["We study noise."], partial) for n in (2, 6))
    assert short != long
    with partial.file.open("a", encoding="utf-8") as file:
        file.write('\n{"key": "cut off in the mid')
    assert Drafter(str(merged), max_new_tokens=6).draft(["We study noise."], partial) == long


@pytest.mark.parametrize("changed", ["weights", "prompts", "decoding", "seed", "length", "batch", "dtype", "library"])
def test_everything_that_decides_a_draft_is_in_the_hash_of_its_settings(merged, monkeypatch, changed):
    drafter = Drafter(str(merged), max_new_tokens=8, batch_size=4)
    settings = {"prompts": ["We study noise."], "decoding": sampling.DECODINGS["sampled"], "seed": 1}
    before = drafter.hash_settings(**settings)
    assert drafter.hash_settings(**settings) == before
    other = Drafter(str(merged), 9 if changed == "length" else 8, 5 if changed == "batch" else 4)
    settings |= {
        "prompts": {"prompts": ["We"]},
        "decoding": {"decoding": sampling.DECODINGS["greedy"]},
        "seed": {"seed": 2},
    }.get(changed, {})
    if changed == "weights":
        other.model.get_output_embeddings().weight.data[0, 0] += 1e-3
    if changed == "dtype":
        other.model.to(torch.float32 if other.model.dtype == torch.bfloat16 else torch.bfloat16)
    if changed == "library":
        monkeypatch.setattr(engine, "version", lambda name: "0")
    assert other.hash_settings(**settings) != before


def test_two_runs_do_not_mix_their_drafts(tmp_path):
    with PartialDrafts(tmp_path / "scores") as first:
        with pytest.raises(UserError, match="another run keeps its drafts in .*scores.partial: wait"):
            PartialDrafts(tmp_path / "scores").__enter__()
        first.append("key", [0], [{"prediction": "kept"}])
    with PartialDrafts(tmp_path / "scores") as second:  # the first was stopped
        assert second.read("key") == {0: {"prediction": "kept"}}
        second.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_drafting_in_one_line_and_keeps_the_drafts_before(tmp_path):
    resource = pytest.importorskip("resource")
    partial, limits = PartialDrafts(tmp_path / "scores"), resource.getrlimit(resource.RLIMIT_FSIZE)
    partial.append("key", [0], [{"prediction": "kept"}])
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
        with pytest.raises(UserError, match="drafts-0.jsonl: File too large: the same command continues"):
            partial.append("key", [1], [{"prediction": "much " * 1000}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    partial.append("key", [2], [{"prediction": "later"}])
    assert partial.read("key") == {0: {"prediction": "kept"}, 2: {"prediction": "later"}}
