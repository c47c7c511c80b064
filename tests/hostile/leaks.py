"""What must not go out: markup, secrets, links, and what a Hub that fails makes of a publish."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hostile.drawing import find, list_places
from hostile.tries import REPO, Case, Result, command

TOKEN = "hf_" + "a" * 34
MARKUP = "<script>alert(1)</script>"


@st.composite
def markup(draw) -> Case:
    """Markup in the records that the page and the cards are made of."""
    script, options, files = draw(
        st.sampled_from(
            [
                ("write_report", {}, ("scores/scores.json", "scores/predictions.jsonl", "adapter/run.json")),
                ("prepare_dataset", {}, ("abstracts.jsonl",)),
                ("merge_and_push", {"--scores": "scores", "--dataset_name": "pairs"}, ("scores/scores.json",)),
                ("merge_and_push", {"--dataset_name": "pairs"}, ("pairs/build_report.json",)),
            ]
        )
    )
    name, choice, number = draw(st.sampled_from(files)), draw(st.integers(0, 10**6)), draw(st.integers(0, 30))

    def harm(patch) -> None:
        path, text = Path(name), Path(name).read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        line = number % len(lines)
        record = json.loads(lines[line])
        texts = [place for place in list_places(record) if place and isinstance(find(record, place), str)]
        place = texts[choice % len(texts)]
        find(record, place[:-1])[place[-1]] += MARKUP
        lines[line] = json.dumps(record)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def judge(result: Result) -> str | None:
        pages = [path for path in (Path("out.html"), Path("out/README.md")) if path.is_file()]
        live = [path for path in pages if MARKUP in read_body(path)]
        return f"let in: markup in {live[0]}" if live else None

    return Case(script, command(script, options), harm, judge)


def read_body(path: Path) -> str:
    """A page or a card; a card without its metadata in YAML, which is no HTML."""
    text = path.read_text(encoding="utf-8")
    return text.partition("\n---\n")[2] if path.suffix == ".md" else text


SECRET = st.one_of(
    st.from_regex(r"hf_[A-Za-z]{34}", fullmatch=True),
    st.from_regex(r"ghp_[A-Za-z0-9]{36}", fullmatch=True),
    st.from_regex(r"sk-[A-Za-z0-9]{48}", fullmatch=True),
    st.from_regex(r"AKIA[A-Z0-9]{16}", fullmatch=True),
    st.from_regex(r"https://[a-z]{3,8}:[a-z0-9]{6,12}@example\.org", fullmatch=True),
    st.from_regex(r"/(home|Users)/[a-z]{3,8}/[a-z]{3,8}", fullmatch=True),
    st.from_regex(r"/(workspace|mnt|scratch)/[a-z]{3,8}/[a-z]{3,8}", fullmatch=True),
    st.from_regex(r"C:/Users/[a-z]{3,8}/[a-z]{3,8}", fullmatch=True),
)
# Ways to publish a folder of the kit, and the texts of it that go out unchanged.
PUSHES = {
    "prepare_dataset": (
        ["--push_only", "pairs", "--hub_dataset_id", REPO],
        ("pairs/README.md", "pairs/build_report.json", "row"),
    ),
    "merge_and_push": (
        ["--push_only", "model", "--hub_model_id", REPO],
        ("model/run.json", "model/merge.json", "model/tokenizer_config.json", "model/chat_template.jinja", "weights"),
    ),
    "train_sft": (
        ["--push_only", "adapter", "--hub_model_id", REPO],
        ("adapter/README.md", "adapter/run.json", "adapter/tokenizer_config.json", "adapter/chat_template.jinja"),
    ),
}
PUBLISHED = ("model/README.md", "pairs/build_report.json")  # which say afterwards where it was published to


def target(hub):
    kinds = [repo for (_, name), repo in hub.repos.items() if name == REPO]
    return kinds[0] if kinds else None


def read_hub(hub) -> str:
    """All texts of all commits, rows of tables included."""
    told = []
    for repo in hub.repos.values():
        for files in (repo.files(commit) for commit in repo.commits):
            for name, data in files.items():
                if name.endswith(".parquet"):
                    data = str(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
                told.append(data.decode("utf-8", errors="replace"))
    return "\n".join(told)


@st.composite
def secrets(draw) -> Case:
    """Tokens, passwords in addresses and home folders, in texts, in rows and in the metadata of weights."""
    script = draw(st.sampled_from(sorted(PUSHES)))
    words, places = PUSHES[script]
    secret, place = draw(SECRET), draw(st.sampled_from(places))
    front, row = (
        draw(st.sampled_from([" ", "(", "=", "'", " file://" if secret[0] == "/" else " "])),
        draw(st.integers(0, 3)),
    )

    def harm(patch) -> None:
        told = f"We use{front}{secret} here."
        if place == "row":
            (path,) = Path("pairs/data").glob("train-*")
            values = pq.read_table(path).to_pydict()
            values["approach"][row] += told
            pq.write_table(pa.table(values), path)
        elif place == "weights":
            path = Path("model/model.safetensors")
            save_file(load_file(path), path, metadata={"format": "pt", "note": told})
            Path("model/merge.json").write_text("{}", encoding="utf-8")  # it has the hash of others
        elif place.endswith(".json"):
            record = json.loads(Path(place).read_text(encoding="utf-8"))
            Path(place).write_text(json.dumps({**record, "note": told}), encoding="utf-8")
        else:
            text = Path(place).read_text(encoding="utf-8") if Path(place).exists() else ""
            Path(place).write_text(f"{text}\n{told}\n", encoding="utf-8")

    def judge(result: Result) -> str | None:
        return f"let out: {secret}" if secret in read_hub(result.hub) else None

    return Case(script, words, harm, judge, hub=lambda hub: None, may_change=PUBLISHED)


@st.composite
def links(draw) -> Case:
    """Links to something private in place of what is published, or copied."""
    script = draw(st.sampled_from(sorted(PUSHES)))
    words, _ = PUSHES[script]
    folder = words[1]
    files = {
        "pairs": ["README.md", "build_report.json", "funnel.png", "data"],
        "model": ["config.json", "run.json", "loss_curve.png", "tokenizer.json", "model.safetensors"],
        "adapter": ["adapter_config.json", "run.json", "loss_curve.png", "adapter_model.safetensors", "README.md"],
    }[folder]
    name, to_itself = draw(st.sampled_from(files)), draw(st.booleans())
    merges = folder == "adapter" and draw(st.booleans())

    def harm(patch) -> None:
        path = Path(folder, name)
        private = Path("private" + path.suffix)
        path.rename(private) if to_itself or path.is_dir() else path.unlink(missing_ok=True)
        if not private.exists():
            private.write_text(f'{{"key": "private {TOKEN[::-1]}"}}', encoding="utf-8")
        path.symlink_to(private.absolute())

    def judge(result: Result) -> str | None:
        out = "".join(path.read_text("utf-8", errors="replace") for path in Path("out").glob("*") if path.is_file())
        return "let out: what a link leads to" if TOKEN[::-1] in read_hub(result.hub) + out else None

    if merges:
        return Case("merge_and_push", command("merge_and_push"), harm, judge, hub=lambda hub: None)
    return Case(script, words, harm, judge, hub=lambda hub: None, may_change=PUBLISHED)


UNLIKE = (".gitattributes", "README.md", "build_report.json", "adapter_config.json")  # there, or after a publish
FAULTS = [400, 401, 403, 404, 409, 412, 413, 429, 500, 502, 503, 504, "drop", "lost", "truncate"]


@st.composite
def hubs(draw) -> Case:
    """A Hub that fails at some request, a repository that is public, or somebody's."""
    script = draw(st.sampled_from(sorted(PUSHES)))
    words, _ = PUSHES[script]
    kind = "dataset" if script == "prepare_dataset" else "model"
    state = draw(st.sampled_from(["none", "private", "public", "others"]))
    fault, skip, times = draw(st.sampled_from([None, *FAULTS])), draw(st.integers(0, 14)), draw(st.integers(1, 12))
    flags = draw(st.sampled_from([[], [], ["--public"], ["--hub_overwrite"]]))
    before: dict[str, bytes] = {}

    def prepare(hub) -> None:
        api = HfApi(endpoint=hub.endpoint, token="write-token")
        if state != "none":
            api.create_repo(REPO, repo_type=kind, private=state != "public")
        if state == "others":
            api.upload_file(path_in_repo="theirs.csv", path_or_fileobj=b"theirs", repo_id=REPO, repo_type=kind)
        before.update(target(hub).files() if target(hub) else {})
        if fault:
            hub.fail(fault, skip=skip, times=times)

    def judge(result: Result) -> str | None:
        repo = target(result.hub)
        after = repo.files() if repo else {}
        if after == before or (repo and len(repo.commits) == 1):
            return "wrong: said to be published" if result.ended_well else None
        if state == "public" and "--public" not in flags:
            return "let out: to a public repository unasked"
        if repo.private == ("--public" in flags) and state == "none":
            return "let out: a new repository is public" if not repo.private else None
        if state == "others" and ("--hub_overwrite" not in flags or "theirs.csv" not in after):
            return "loss: in somebody's repository"
        folder = Path(words[1])
        ours = [name for name in after if name not in before and not name.endswith(UNLIKE)]
        different = [name for name in ours if after[name] != (folder / name).read_bytes()]
        weights = [name for name in after if name.endswith((".safetensors", ".parquet"))]
        return f"half: {different or 'no weights'} on the Hub" if different or not weights else None

    return Case(script, [*words, *flags], judge=judge, hub=prepare, may_change=PUBLISHED)
