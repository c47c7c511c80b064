# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "transformers==5.23.0"]
# ///
"""
Make the demo's inputs from a seed: abstracts that a small grammar writes, and a small base model to fine-tune.

Reads nothing and writes `abstracts.jsonl` (columns `id`, `abstract`: a sentence a line, the problem first) and
`base_model/`: a Llama and its tokenizer, pre-trained on other abstracts, in which data and method are drawn without
regard to the problem. So the base knows the language, but not what answers which problem: fine-tuning teaches that.

    python demo/make_inputs.py --output_dir outputs/inputs --num_abstracts 100 --pretraining_steps 20
    python demo/make_inputs.py --output_dir outputs/inputs
"""

import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

VOCAB_SIZE = 2000
MAX_LENGTH = 512
BATCH_SIZE = 4
LEARNING_RATE = 3e-3


@dataclass
class InputArguments:
    """Where to write, and how much."""

    output_dir: Path = field(metadata={"help": "Folder for abstracts.jsonl and base_model/."})
    seed: int = field(default=42, metadata={"help": "Decides every abstract and every weight."})
    num_abstracts: int = field(default=800, metadata={"help": "Abstracts to write, no two with the same problem."})
    pretraining_steps: int = field(
        default=800, metadata={"help": f"Pre-training steps, each on {BATCH_SIZE} abstracts that no other step reads."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace what an earlier run wrote to the folder."})

    def __post_init__(self):
        if not 1 <= self.num_abstracts <= 5000:
            raise ValueError(f"--num_abstracts must lie between 1 and 5000, got {self.num_abstracts}")
        if not 20 <= self.pretraining_steps <= 5000:
            raise ValueError(f"--pretraining_steps must lie between 20 and 5000, got {self.pretraining_steps}")
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise ValueError(f"--output_dir {self.output_dir} is a file")
        if self.output_dir.is_dir() and any(self.output_dir.iterdir()) and not self.overwrite:
            raise ValueError(f"--output_dir {self.output_dir} is not empty: choose another or add --overwrite")


@dataclass(frozen=True)
class Field:
    """What a problem is about, and the data, metric and baseline that fit it."""

    task: str
    subject: str
    units: str
    data: str
    metric: str
    baseline: str
    users: str


@dataclass(frozen=True)
class Obstacle:
    """Why a problem is hard, and the remedy that fits it."""

    cause: str
    method: str
    how: str
    then: str
    finding: str


# [a|b] is a choice and {name} a slot. A problem sentence gives away its field and its obstacle, and these decide data,
# metric, baseline and remedy: that is what there is to learn.
# fmt: off
FIELDS = [
    Field("[predicting|anticipating|flagging] {subject} [in intensive care|after surgery|in small hospitals]",
          "[sepsis|kidney injury|heart failure|delirium|stroke|internal bleeding]", "patients",
          "hourly charts [of|covering] 41,000 admissions [from|to] nine hospitals",
          "sensitivity at a fixed alarm rate", "a boosted risk score", "ward nurses"),
    Field("[classifying|locating|weighing] {subject} [in wide surveys|behind galactic dust|at high redshift]",
          "[dwarf galaxies|variable stars|stellar streams|gravitational lenses|quasars]", "light sources",
          "calibrated images [of|covering] 600 square degrees [of|across the] southern sky",
          "completeness at equal purity", "template fitting", "survey astronomers"),
    Field("[counting|tracking|identifying] {subject} [from field recordings|in drone footage|across seasons]",
          "[forest birds|reef fish|wild bees|alpine mammals|migrating bats|tree frogs]", "animals",
          "three years of [monitoring|observations] [at|from] 85 nature reserves",
          "species recall", "manual transect counts", "park rangers"),
    Field("[designing|screening|testing] {subject} [for cold climates|at high pressure|under cyclic load]",
          "[battery cathodes|thermal coatings|light alloys|porous catalysts|glass fibres]", "candidate compounds",
          "a [library|collection] of 27,000 [synthesised and tested|measured] crystals",
          "hit rate per experiment", "density functional screening", "materials chemists"),
    Field("[translating|summarising|simplifying] {subject} [for young readers|from scanned pages|for legal clerks]",
          "[court rulings|folk tales|patent claims|parliamentary debates|health leaflets]", "documents",
          "a [parallel|sentence-aligned] corpus of 1.2 million [sentences|passages] in eleven languages",
          "adequacy in blind human ratings", "a phrase-based pipeline", "public translators"),
    Field("[grasping|stacking|sorting] {subject} [in cluttered kitchens|on moving belts|under dim light]",
          "[wet bottles|soft fruit|folded towels|glass jars|tangled cables|paper bags]", "objects",
          "5,200 [teleoperated|recorded] trials [on|with] two robot arms",
          "success on the first attempt", "a scripted planner", "warehouse operators"),
    Field("[predicting|modelling|comparing] the [folding|binding|stability] of {subject}",
          "[membrane proteins|plant enzymes|viral antigens|short peptides|antibody fragments]", "sequences",
          "a [curated|non-redundant] set of 74,000 [resolved structures|assays]",
          "rank correlation with wet-lab assays", "homology search", "structural biologists"),
    Field("[reconstructing|tagging|selecting] {subject} [in dense collisions|at low energy|with ageing detectors]",
          "[muon tracks|bottom jets|photon pairs|tau decays|neutrino showers]", "particle hits",
          "[fully simulated events and|simulated collisions and] two runs of collider data",
          "efficiency at constant background", "a Kalman filter", "detector physicists"),
]

OBSTACLES = [
    Obstacle("[expert labels exist for only a few {units}|hardly any of the {units} carry expert labels]",
             "a contrastive encoder", "[matches distorted views of one example|learns what distortions leave intact]",
             "[unlabelled {units} shape the features and|after pre-training on unlabelled {units}] a probe is fitted",
             "[ten labels per class are enough|the label budget can be cut to ten per class]"),
    Obstacle("[heavy sensor noise hides the {units}|measurements of the {units} are buried in noise]",
             "a diffusion denoiser", "[removes the corruption bit by bit|reverses the corruption step by step]",
             "a noise schedule is estimated from blank exposures and clean {units} are [decoded|sampled]",
             "[the gain grows as the signal weakens|weak signals profit the most]"),
    Obstacle("[the {units} that matter are extremely rare|only one in ten thousand {units} is of interest]",
             "a cost-weighted ensemble", "[spends its capacity on the rare class|gives rare cases a larger loss]",
             "[after each round of mining hard {units}|hard {units} are mined and] members vote with learned costs",
             "[false alarms fall by half at the same recall|recall is kept with half the false alarms]"),
    Obstacle("[conditions differ between the sites where {units} are recorded|{units} look different at every site]",
             "an adversarial aligner", "[makes all sites indistinguishable|hides which site a feature came from]",
             "a critic guesses the site of the {units} and the extractor is [rewarded for fooling|trained against] it",
             "[accuracy carries over to unseen sites|sites left out of training are handled equally well]"),
    Obstacle("[distant {units} influence one another|interactions among far-apart {units} cannot be ignored]",
             "a sparse graph transformer", "[passes messages along learned edges|lets remote nodes talk directly]",
             "a graph is drawn over all {units} and attention keeps [only its strongest|a few long] edges",
             "[most of the gain comes from long edges|cutting long edges undoes the gain]"),
    Obstacle("[exact simulation of {units} takes days|simulating the {units} exactly is far too slow]",
             "a neural surrogate", "[replaces the slow solver by a learned operator|emulates the slow solver]",
             "[coarse runs on {units} fix its weights and|once it fits coarse runs on {units},] fine runs correct it",
             "[a full sweep finishes in minutes|the run time drops from days to minutes]"),
    Obstacle("[predictors are overconfident about unusual {units}|confidence on unusual {units} is often wrong]",
             "a conformal calibrator", "[turns scores into sets with guaranteed coverage|bounds its own error rate]",
             "held-out {units} provide the quantiles and unusual inputs [receive|are given] wider sets",
             "[the promised coverage holds in every subgroup|coverage stays nominal in all subgroups]"),
    Obstacle("[large parts of the records on {units} are missing|most {units} are observed only in part]",
             "a masked autoencoder", "[fills every gap from a learned posterior|imputes all missing parts jointly]",
             "random blocks of the {units} are hidden and the decoder [restores|learns to restore] them",
             "[half of the inputs can be dropped without harm|dropping half of the inputs does no harm]"),
]

PROBLEM = (
    "[[Despite years of work, |Even today, |In practice, |]{task} [remains difficult|is an open challenge|is far "
    "from solved|often fails] because {cause}|[When|As long as|Since] {cause}, {task} [stays unreliable|is slow and "
    "costly|rarely succeeds|is little more than guesswork]|{cause}, [so|and therefore] {task} [still needs expert "
    "supervision|is out of reach for {users}|has seen little progress]|{users} [depend on|ask for better ways of] "
    "{task}, [but|yet] {cause}]."
)
APPROACH = [
    "[[We propose|We present|We introduce|Here we develop|This paper describes] {method} for {task} that {how}|[To "
    "close this gap|To overcome this|In response], we [build|design|study] {method} that {how} and apply it to "
    "{task}|Our [answer|starting point] is {method} for {task}, one that {how}].",
    "[[Concretely|In detail|In our design], {then}|The idea is simple: {then}|For {subject}, [training has two "
    "parts|two steps alternate]: {then}|[What makes this work for|The key to] {subject} is that {then}].",
    "[[We train and test|All experiments on {subject} are run|The system is judged] on {data}[, with a fixed split|, "
    "and {baseline} serves as the baseline|]|[For evaluation|As evidence] we use {data}, [split by time|split by "
    "origin] so that no test case is seen in training|The study [of|on] {subject} draws on {data} and [compares "
    "with|is measured against] {baseline}].",
    "[[Compared with|Relative to] {baseline}, it [raises|improves] {metric} by {gain} percent[ on {subject}|, a "
    "significant margin|]|On {subject} it [outperforms|beats] {baseline} by {gain} percent in {metric}|[We "
    "observe|We report] a {gain} percent [better|improved] {metric} than with {baseline}[ under the same budget|]].",
    "[[An ablation|A closer analysis|A controlled comparison] [shows|confirms] that {finding}|[We also find|Further "
    "tests on {subject} reveal] that {finding}[, which supports the design|]|[Notably|Most strikingly], {finding}, "
    "[as the design intended|which simpler variants do not achieve]].",
    "[|[The whole pipeline|The method] [runs on a single workstation|needs no special hardware|has only two settings "
    "to tune] and [is easy to reproduce|can be retrained overnight|comes with short code].|Its main [weakness|limit] "
    "is that [very small collections|entirely new conditions] still [need|call for] [some care|a manual check].]",
    "[[Taken together, these results|Our findings] [make|render] {task} [practical|affordable|dependable] for "
    "{users}|{users} can [therefore|now] rely on {method} [for|when] {task}|We [expect|hope] that {method} will "
    "[help|support] {users} in {task} [every day|at scale]|[A pilot with|A trial run by] {users} "
    "[suggests|indicates] that {task} [becomes routine|no longer needs supervision]].",
]
# fmt: on


def expand(text: str, rng: random.Random) -> str:
    """Makes every choice in `text`, the innermost first: choices may be nested."""
    while "[" in text:
        text = re.sub(r"\[([^\[\]]*)\]", lambda match: rng.choice(match[1].split("|")), text)
    return text


def write_abstract(
    topic: Field, obstacle: Obstacle, evidence: Field, remedy: Obstacle, rng: random.Random
) -> tuple[str, ...]:
    """The sentences of an abstract, the problem first; `evidence` and `remedy` say what its approach is made of."""
    sources = {
        **dict.fromkeys(("subject", "task", "units", "users"), topic),
        **dict.fromkeys(("data", "metric", "baseline"), evidence),
        **dict.fromkeys(("method", "how", "then", "finding"), remedy),
        "cause": obstacle,
    }
    slots = {"gain": str(rng.randint(4, 30))}
    for name, source in sources.items():
        slots[name] = expand(getattr(source, name), rng).format(**slots)
    sentences = [expand(template, rng).format(**slots) for template in (PROBLEM, *APPROACH)]
    return tuple(sentence[0].upper() + sentence[1:] for sentence in sentences if sentence)


def write_abstracts(count: int, seed: int, fitting: bool, taken: Collection[str] = ()) -> list[tuple[str, ...]]:
    """
    `count` abstracts that pass the report's filters, no two with one problem and none with a problem in `taken`.

    Where they are not `fitting`, data and method are drawn without regard to the problem.
    """
    rng = random.Random(seed)
    abstracts: dict[str, tuple[str, ...]] = {}
    while len(abstracts) < count:
        topic, obstacle = rng.choice(FIELDS), rng.choice(OBSTACLES)
        evidence, remedy = (topic, obstacle) if fitting else (rng.choice(FIELDS), rng.choice(OBSTACLES))
        abstract = write_abstract(topic, obstacle, evidence, remedy, rng)
        problem, words = abstract[0], len(" ".join(abstract[1:]).split())
        if problem not in taken and len(problem.split()) <= 50 and 90 <= words <= 150:
            abstracts.setdefault(problem, abstract)
    return list(abstracts.values())


def train_tokenizer(texts: list[str]):
    """A byte-level BPE tokenizer with the special tokens of a Llama, `<s>` before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<unk>", "<s>", "</s>"],  # 0, 1 and 2, as LlamaConfig expects them
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=MAX_LENGTH, clean_up_tokenization_spaces=False, **special
    )


def build_model(vocab_size: int):
    """A Llama of TinyLlama's kind (untied embeddings, shared key heads), a thousandth of its size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.06,  # near 1 / sqrt(hidden_size); the usual 0.02 is meant for wider models
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def pretrain(texts: list[str], seed: int):
    """A tokenizer and a model trained from nothing on every token of `texts`, each of which is read once."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from tqdm import tqdm

    torch.manual_seed(seed)
    torch.set_num_threads(2)  # sums depend on the number of threads: the same one gives the same weights everywhere
    tokenizer = train_tokenizer(texts)
    model = build_model(len(tokenizer))
    rows = [torch.tensor(tokenizer(text + tokenizer.eos_token)["input_ids"]) for text in texts]
    steps = len(rows) // BATCH_SIZE
    print(
        f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary\n"
        f"{steps:,} steps × {BATCH_SIZE} = {len(rows):,} abstracts to pre-train on, {sum(map(len, rows)):,} tokens"
    )
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(0, len(rows), BATCH_SIZE), desc="Pre-training", mininterval=1)
    for start in progress:
        batch = rows[start : start + BATCH_SIZE]
        loss = model(
            input_ids=pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_token_id),
            labels=pad_sequence(batch, batch_first=True, padding_value=-100),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return tokenizer, model


def write_inputs(abstracts: list[tuple[str, ...]], tokenizer, model, output_dir: Path) -> None:
    """Writes both beside their place, then moves them in."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output_dir) as folder:
        partial = Path(folder)
        with open(partial / "abstracts.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for number, abstract in enumerate(abstracts):
                file.write(json.dumps({"id": f"demo-{number:04}", "abstract": "\n".join(abstract)}) + "\n")
        model.save_pretrained(partial / "base_model")
        tokenizer.save_pretrained(partial / "base_model")
        if (output_dir / "base_model").exists():
            shutil.rmtree(output_dir / "base_model")
        for name in ("base_model", "abstracts.jsonl"):
            (partial / name).replace(output_dir / name)


def main(arguments: InputArguments) -> None:
    start = time.perf_counter()
    abstracts = write_abstracts(arguments.num_abstracts, arguments.seed, fitting=True)
    problems = {abstract[0] for abstract in abstracts}
    count = arguments.pretraining_steps * BATCH_SIZE
    others = write_abstracts(count, arguments.seed + 1, fitting=False, taken=problems)
    assert problems.isdisjoint(other[0] for other in others)
    words = sum(len(" ".join(abstract).split()) for abstract in abstracts) / len(abstracts)
    print(f"{len(abstracts):,} abstracts of {words:.0f} words, {len(FIELDS)} fields × {len(OBSTACLES)} obstacles")
    tokenizer, model = pretrain([" ".join(abstract) for abstract in others], arguments.seed)
    write_inputs(abstracts, tokenizer, model, arguments.output_dir)
    print(
        f"Wrote {arguments.output_dir / 'abstracts.jsonl'} and {arguments.output_dir / 'base_model'} in "
        f"{time.perf_counter() - start:.0f} s. Next: python prepare_dataset.py --dataset_name "
        f"{arguments.output_dir / 'abstracts.jsonl'} --output_dir …"
    )


def parse_arguments(argv: list[str] | None = None) -> InputArguments:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(InputArguments)
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(parse_arguments())
