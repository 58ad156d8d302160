"""The three seeds: which recipe shows each in the small world, which models it makes, and what its paper claims.

    for seed in SEEDS: seed.recipe, seed.models, seed.claims

A model's `stage` is one of the recipe's, or a model from elsewhere. Models are asked the seed's tasks, those that
answer in a chat its chat tasks, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from estbench.errors import ConfigError, did_you_mean
from estbench_training.story.claims import Claim

FIRST = 1  # random seed: another than the recipes', with which their settings were found

# Settings are found on the first documents of the small world, claims are tested on fresh ones.
WATCHED = ("mini_pairs_et", "mini_pairs_en")
PAIRS = ET, EN = ("mini_pairs_et_fresh", "mini_pairs_en_fresh")
FOLLOWING = ("mini_follow_en_chat_fresh",)
FOLLOWING_ET = ("mini_follow_chat_fresh",)
ESTONIAN = ("mini_translate_en_et_chat_fresh",)  # answers in Estonian
TRANSLATION = (*ESTONIAN, "mini_translate_et_en_chat_fresh")
SWEPT = (*WATCHED, "mini_follow_en_chat", "mini_translate_en_et_chat")


@dataclass(frozen=True)
class Model:
    """A model of a seed. says: a part of a sentence."""

    name: str
    stage: str  # of the recipe, or a model from elsewhere
    says: str
    chat: bool = False


@dataclass(frozen=True)
class Way:
    """A model, and the stages that it takes beyond what all ways share."""

    model: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """Chat vectors of several lengths: θ_into + λ(θ_instruct − θ_base), each evaluated on tasks."""

    base: str  # models of the seed
    instruct: str
    into: str
    scales: tuple[float, ...]
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Seed:
    """A paper in the small world."""

    name: str
    title: str
    paper: str  # its number at arXiv
    recipe: str  # file in training/recipes, without .yaml
    says: str  # a paragraph
    models: tuple[Model, ...]
    claims: tuple[Claim, ...]
    tasks: tuple[str, ...] = PAIRS
    chat_tasks: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()  # models whose tokenizer and pace are measured
    written: tuple[str, ...] = ()  # tasks whose answers they write
    ways: tuple[Way, ...] = ()  # to one aim, whose cost is compared
    aim: str = ""  # the task that says how near each way comes
    sweep: Sweep | None = None
    watched: tuple[str, ...] = WATCHED  # tasks of the curves
    begins: Mapping[str, str] = field(default_factory=dict)  # stage with a curve -> the model before it, if not base

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        for claim in self.claims:
            for name in (claim.candidate, claim.baseline):
                if name not in names:
                    raise ConfigError(f"The claim {claim.name} names {name!r}.{did_you_mean(name, names)}")
                asked = self.tasks_of(self.model(name))
                if claim.test == "fewer":
                    continue
                if lacking := [task for task in claim.tasks if task not in asked]:
                    raise ConfigError(f"The claim {claim.name} needs {lacking[0]}, which {name} is not asked.")

    def model(self, name: str) -> Model:
        """A model by its name."""
        return next(model for model in self.models if model.name == name)

    def tasks_of(self, model: Model) -> tuple[str, ...]:
        """What a model is asked; where a curve begins, also what is watched along it."""
        watched = self.watched if model.name in ("base", *self.begins.values()) else ()
        return (*self.tasks, *(self.chat_tasks if model.chat else ()), *watched)


def chosen(names: Sequence[str], seeds: Sequence[Seed]) -> list[Seed]:
    """Seeds by name, all if none is named; ConfigError for one that isn't there."""
    known = {seed.name: seed for seed in seeds}
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no seed {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return [known[name] for name in names] if names else list(seeds)


ESTLLM = Seed(
    name="estllm",
    title="EstLLM: continued pretraining, preferences, chat vector",
    paper="2603.02041",
    recipe="demo-estllm",
    says=(
        "EstLLM goes on from an English base with Estonian text and a replay of English, tunes the result on "
        "instructions and on preferences, and adds the difference between the base's own instruct model and the base "
        "(the chat vector), so that what the way to Estonian cost comes back. The base here has read English sentences "
        "and English instructions; the Estonian instructions are translation, in both directions."
    ),
    models=(
        Model("base", "demo-en", "has read English only"),
        Model("instruct", "instruct", "the base, tuned on English instructions: where the chat vector is from", True),
        Model("cpt", "cpt", "the base, after Estonian text with a quarter of English, some of it instructions"),
        Model("cpt-alone", "cpt-alone", "the same without any English: the control"),
        Model("sft", "sft", "cpt, tuned on Estonian instructions", True),
        Model("dpo", "dpo", "sft, tuned on pairs of its own answers", True),
        Model("merged", "merged", "dpo with the chat vector", True),
    ),
    chat_tasks=(*FOLLOWING, *TRANSLATION),
    claims=(
        Claim("cpt-et", "Continued pretraining raises Estonian.", "cpt", "base", (ET,), "better"),
        Claim("cpt-en", "With replay it does not cost English.", "cpt", "base", (EN,), "kept"),
        Claim("alone", "Without replay it does.", "cpt-alone", "base", (EN,), "fallen", control=True),
        Claim("dpo", "DPO keeps what SFT taught.", "dpo", "sft", ESTONIAN, "kept"),
        Claim("cost", "All this costs following English instructions.", "dpo", "instruct", FOLLOWING, "fallen"),
        Claim("vector", "The chat vector brings that back.", "merged", "dpo", FOLLOWING, "better"),
        Claim("vector-all", "It brings all of it back.", "merged", "instruct", FOLLOWING, "kept", margin=5),
        Claim("vector-en", "It keeps English.", "merged", "dpo", (EN,), "kept"),
        Claim("vector-et", "It keeps Estonian.", "merged", "dpo", (ET,), "kept"),
        Claim("vector-chat", "It keeps following Estonian instructions.", "merged", "dpo", ESTONIAN, "kept"),
    ),
    sweep=Sweep("base", "instruct", "dpo", (0.0, 0.25, 0.5, 0.75, 1.0, 1.25), SWEPT),
)

LLAMMAS = Seed(
    name="llammas",
    title="LLAMMAS: a little continued pretraining, then cross-lingual instructions",
    paper="2404.04042",
    recipe="demo-llammas",
    says=(
        "LLAMMAS reads a little Estonian and is then tuned on many English instructions, few Estonian ones and "
        "translation. The three tuned models below learn from as many rows; only what was read before, or what the "
        "rows are, differs. Following Estonian instructions takes copying Estonian words, which models of this size "
        "hardly learn from a few rows; translation into Estonian shows more. Two other settings were tried: with fewer "
        "steps of reading the two verdicts on what reading before is good for were the other way round, and with a "
        "third of the translation no model translated better than guessing."
    ),
    models=(
        Model("base", "demo-en", "has read English only"),
        Model("cpt", "cpt", "the base, after a little Estonian with a quarter of English"),
        Model("crossed", "crossed", "cpt, tuned on English instructions, few Estonian ones, and translation", True),
        Model("no-cpt", "no-cpt", "the base, tuned on the same rows", True),
        Model("no-translation", "no-translation", "cpt, tuned on as many rows, English in place of translation", True),
    ),
    chat_tasks=(*FOLLOWING_ET, *FOLLOWING, *TRANSLATION),
    claims=(
        Claim("cpt-et", "A little continued pretraining raises Estonian.", "cpt", "base", (ET,), "better"),
        Claim("first", "Read before, tuning gives better Estonian answers.", "crossed", "no-cpt", ESTONIAN, "better"),
        Claim(
            "first-follow",
            "It gives better following of Estonian instructions.",
            "crossed",
            "no-cpt",
            FOLLOWING_ET,
            "better",
        ),
        Claim(
            "translation",
            "Translation among the rows helps to follow Estonian instructions.",
            "crossed",
            "no-translation",
            FOLLOWING_ET,
            "better",
        ),
        Claim(
            "english",
            "English instructions are still followed as well as without translation.",
            "crossed",
            "no-translation",
            FOLLOWING,
            "kept",
            margin=5,
        ),
    ),
)

LEP = Seed(
    name="lep",
    title="LEP: a new vocabulary, carried over to the instruct model",
    paper="2412.21140",
    recipe="demo-lep",
    says=(
        "An English tokenizer cuts Estonian into short pieces. LEP gives the base a vocabulary with Estonian tokens, "
        "teaches it (embeddings and output layer first, then adapters in the layers), and carries over what the "
        "embeddings have learnt to the instruct model of the old base, without tuning that one again. Its claims are "
        "about English instructions: the only ones that the instruct model knows."
    ),
    models=(
        Model("base", "demo-english", "has read English only, and has an English vocabulary"),
        Model("instruct", "instruct", "the base, tuned on English instructions", True),
        Model("vocab", "vocab", "the base with Estonian tokens added, before it reads any Estonian"),
        Model("embeddings", "embeddings", "vocab, after Estonian text, only embeddings and output layer learnt"),
        Model("donor", "donor", "embeddings, after more of it, with adapters in the layers"),
        Model("conversion", "conversion", "instruct with the donor's embeddings, converted, and its adapters", True),
        Model("overlap", "overlap", "the same, the map made of shared tokens only", True),
        Model("swap", "swap", "the same, embeddings as they are in the donor", True),
        Model("delta", "delta", "the donor's embeddings and what the instruct model's learnt beyond the base's", True),
        Model("calibrated", "calibrated", "conversion, tuned on answers that instruct gave", True),
        Model("tuned", "tuned", "the donor, tuned on all the instructions: what LEP is to replace", True),
    ),
    chat_tasks=FOLLOWING,
    claims=(
        Claim("fertility", "A new vocabulary needs fewer Estonian tokens.", "conversion", "base", ESTONIAN, "fewer"),
        Claim("donor-et", "The donor has learnt Estonian.", "donor", "base", (ET,), "better"),
        Claim("first-et", "Embeddings alone learn some of it.", "embeddings", "vocab", (ET,), "better"),
        Claim("carried-et", "LEP carries it over.", "conversion", "instruct", (ET,), "better"),
        Claim("swap", "Conversion is no worse than a swap.", "conversion", "swap", FOLLOWING, "kept", margin=5),
        Claim("over-swap", "Conversion is better than a swap.", "conversion", "swap", FOLLOWING, "better"),
        Claim("kept", "It keeps what instruct follows.", "conversion", "instruct", FOLLOWING, "kept", margin=5),
        Claim("tuned", "It comes close to full tuning.", "conversion", "tuned", FOLLOWING, "kept", margin=5),
        Claim("calibrated", "Self-calibration helps.", "calibrated", "conversion", FOLLOWING, "better"),
        Claim("calibrated-tuned", "With it, it is close.", "calibrated", "tuned", FOLLOWING, "kept", margin=5),
        Claim("delta", "Our delta is no worse than conversion.", "delta", "conversion", FOLLOWING, "kept", margin=5),
    ),
    writers=("instruct", "conversion"),
    written=TRANSLATION,
    ways=(
        Way("swap", ("swap",)),
        Way("overlap", ("overlap",)),
        Way("conversion", ("conversion",)),
        Way("delta", ("delta",)),
        Way("calibrated", ("conversion", "answers", "calibrated")),
        Way("tuned", ("tuned",)),
    ),
    aim=FOLLOWING[0],
    begins={"embeddings": "vocab", "donor": "embeddings"},
)

SEEDS = (ESTLLM, LLAMMAS, LEP)
