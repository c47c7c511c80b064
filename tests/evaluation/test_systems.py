import pytest
from conftest import write_jsonl
from datasets import load_dataset
from transformers import AutoTokenizer

from approach.errors import UserError
from approach.evaluation.systems import (
    INSTRUCTION,
    Selection,
    SystemDrafts,
    base_prompts,
    build_recipes,
    load_predictions,
    make_unique,
)


def test_a_base_is_asked_in_every_way_it_understands(base, dataset):
    rows = load_dataset(str(dataset), split="test").to_list()[:2]
    examples = load_dataset(str(dataset), split="train").to_list()[:2]
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = base_prompts(tokenizer, rows, examples)
    assert plain == {"base": [r["problem"] for r in rows], "base, tags as text": [r["prompt"] for r in rows]}
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = base_prompts(tokenizer, rows, examples)
    assert list(chat) == ["base", "base, tags as text", "base, instructed", "base, two examples"]
    text, instruction = chat["base, two examples"][1], INSTRUCTION
    shown = "".join(f"[user] {instruction}{e['problem']}\n[assistant] {e['approach']}\n" for e in examples)
    assert text == f"{shown}[user] {instruction}{rows[1]['problem']}\n[assistant]"
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_predictions_of_others_are_named_where_one_is_missing(tmp_path):
    rows = [{"id": "a", "approach": ""}]
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "b", "prediction": ""}])
    with pytest.raises(UserError, match="other.jsonl: no prediction for row 'a'"):
        load_predictions([str(other)], rows)
    with pytest.raises(UserError, match="--predictions .*missing.jsonl"):
        load_predictions([str(tmp_path / "missing.jsonl")], rows)


def test_all_that_any_system_was_given_is_told(tmp_path):
    rows = [{"id": "a", "approach": ""}, {"id": "b", "approach": ""}]
    one = [{"id": "a", "prediction": " A draft. "}, {"id": "b", "prediction": "Another.", "given": "two hints"}]
    two = [{"id": "a", "prediction": "", "given": None}, {"id": "b", "prediction": "", "given": "and a third"}]
    paths = [str(write_jsonl(tmp_path / name, lines)) for name, lines in (("one.jsonl", one), ("two.jsonl", two))]
    systems, given = load_predictions(paths, rows)
    assert [entry.system for entry in systems] == ["predictions: one", "predictions: two"]
    assert given == ["", "two hints and a third"]
    assert systems[0].texts == [["A draft.", "Another."]]


def test_models_are_runs_of_one_recipe_and_others_are_compared(tmp_path):
    models = [str(tmp_path / "a" / "model"), str(tmp_path / "b" / "model"), "user/two"]
    recipe, first, second = build_recipes(models, ["user/other", str(tmp_path / "other")])
    assert (recipe.system, recipe.models, recipe.names) == ("fine-tuned", models, ["model", "model (2)", "user/two"])
    assert (first.system, second.system, second.kind) == ("compared: user/other", "compared: other", "compared")
    assert make_unique(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_revisions_are_one_for_all_runs_or_one_for_each():
    assert build_recipes(["a", "b"], ["c"])[0].revisions == [None, None]
    assert build_recipes(["a", "b"], [], ["main"])[0].revisions == ["main", "main"]
    main, compared = build_recipes(["a", "b"], ["c"], ["v1", "v2"])
    assert main.revisions == ["v1", "v2"] and compared.revisions == [None]


@pytest.mark.parametrize("models", [["a (2)", "a", "a"], ["a", "a (2)", "a"], ["a", "a", "a (2)", "a (2)"]])
def test_no_two_models_have_one_name(models, tmp_path):
    """The first would vanish from scores.json."""
    folders = []
    for number, name in enumerate(models):
        (tmp_path / str(number) / name).mkdir(parents=True)
        folders.append(str(tmp_path / str(number) / name))
    names = make_unique(folders)
    assert len(set(names)) == len(models) and names[0] == models[0]


def test_predictions_take_no_name_of_another_system(tmp_path):
    line = [{"id": "a", "prediction": "A draft."}]
    stems = ["fine-tuned", "base", "reference", "compared: other", "nearest training approach"]
    paths = [str(write_jsonl(tmp_path / f"{stem}.jsonl", line)) for stem in stems]
    systems, _ = load_predictions(paths, [{"id": "a", "approach": ""}])
    assert [entry.system for entry in systems] == [f"predictions: {stem}" for stem in stems]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ("3", "line 2: a JSON object was expected"),
        ("[" * 100_000, "line 2"),
        ('{"id": "b"}', "line 2: a row is"),
        ('{"id": ["b"], "prediction": ""}', "line 2: a row is"),
        ('{"id": "b", "prediction": null}', "line 2: a row is"),
        ('{"id": "b", "prediction": "", "given": 3}', "line 2: a row is"),
        ('{"id": "a", "prediction": ""}', "line 2: a second prediction for row 'a'"),
    ],
)
def test_a_line_of_predictions_that_cannot_be_used_is_named(tmp_path, line, said):
    path = tmp_path / "other.jsonl"
    path.write_text('{"id": "a", "prediction": ""}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as ended:
        load_predictions([str(path)], [{"id": "a", "approach": ""}])
    assert said in str(ended.value) and "other.jsonl" in str(ended.value)


class Template:
    """A tokenizer of which there is a chat template alone."""

    bos_token = None

    def __init__(self, template: str):
        self.chat_template = template

    def apply_chat_template(self, messages, **options):
        from transformers.utils.chat_template_utils import render_jinja_template

        return render_jinja_template([messages], chat_template=self.chat_template)[0][0]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in messages %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('no') }}",
        "{{ messages.__class__.__mro__ }}",
    ],
)
def test_a_chat_template_that_fails_is_named(template):
    row = {"problem": "A problem.", "prompt": "", "approach": "A draft."}
    with pytest.raises(ValueError, match="its chat template fails"):
        base_prompts(Template(template), [row], [row, row])


def test_a_list_of_drafts_knows_its_run_and_seed():
    entry = SystemDrafts("fine-tuned", "fine-tuned", ["x", "y"], "sampled", [[], [], [], []])
    assert [tuple(entry.build_run_record(i).values()) for i in range(4)] == [("x", 0), ("x", 1), ("y", 0), ("y", 1)]
    alone = SystemDrafts("reference", "no model", [], "none", [[]])
    assert alone.build_run_record(0) == {"model": None, "seed": None}


# Which rows are scored: the first by id, or a draw from a part of the ids


ROWS = [{"id": f"{number:02}"} for number in (7, 3, 9, 0, 5, 1, 8, 2, 6, 4)]


def take(*arguments, **named) -> list[str]:
    return [row["id"] for row in Selection("test", *arguments, **named).take(ROWS)]


def test_without_a_seed_the_first_by_id_are_taken():
    assert take(3) == ["00", "01", "02"]
    assert take(3, (0.5, 1.0)) == ["05", "06", "07"]
    assert take(30) == sorted(row["id"] for row in ROWS)


def test_a_seed_draws_from_the_part_and_from_nothing_else():
    drawn = take(3, (0.5, 1.0), draw_seed=0)
    assert drawn == take(3, (0.5, 1.0), draw_seed=0) == sorted(drawn) and min(drawn) >= "05"
    assert len({tuple(take(3, (0.5, 1.0), draw_seed=seed)) for seed in range(20)}) > 1
    assert not set(take(5, (0.0, 0.5), draw_seed=0)) & set(take(5, (0.5, 1.0), draw_seed=0)), "the halves are apart"
    assert take(30, (0.5, 1.0), draw_seed=0) == ["05", "06", "07", "08", "09"]
