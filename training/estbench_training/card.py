"""What a trained checkpoint says of itself: train_card.json and README.md, written into the folder before it appears.

    facts = CardFacts("base", "cpt", final=True, tokens=10**9, data=(cards.Source("et", "cc0-1.0", 750_000_000, 0.75),))
    card.write(context, folder, facts)

Only what is known is said: a licence that nobody gave is "unknown", an energy that nothing counted is absent. A model
that several went into has their licence, if it is the same one. The format is that of `estbench.cards` (docs/cards.md);
the board shows lineage, data and curve from it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import estbench
from estbench import cards, identity, report
from estbench.cards import Decontaminated, Source, Stage, TrainingCard
from estbench.checkpoint import NUMBERED, Checkpoint, find
from estbench.errors import ModelError, StoreError

if TYPE_CHECKING:
    from estbench_training.kinds import Context, Say

UNKNOWN = "unknown"
NO_LICENCE = (UNKNOWN, "other")  # two that are called so may differ
MADE_OF_MODELS = ("merge", "lep")  # stages that see no data, and that several models go into
OUTSIDE = "base"  # the stage of a model of which nobody says how it was made
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "accelerate", "peft", "trl", "liger_kernel")
ON_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
JOULES = 3.6e6  # of a kilowatt hour


@dataclass(frozen=True)
class CardFacts:
    """What a stage knows of the checkpoint it has made.

    stage: the word of docs/cards.md (cpt, sft, dpo, …). tokens, hours, energy_kwh: of this stage, up to here; None
    where they are not known. precision: as the recipe has it. how: what else is said of it, in a line. parents: other
    models that went into it, the folder of each by its part in it ("base", "instruct"). drawn: whether the seed counts.
    """

    kind: str  # "base" or "chat"
    stage: str
    final: bool = True
    tokens: int | None = None
    step: int | None = None
    steps_planned: int | None = None
    data: tuple[Source, ...] = ()
    urls: Mapping[str, str] = field(default_factory=dict)  # of sources, by name
    decontaminated: Decontaminated | None = None
    hours: float | None = None
    energy_kwh: float | None = None
    precision: str | None = None
    how: str | None = None
    parents: Mapping[str, Path] = field(default_factory=dict)
    drawn: bool = True


def name(context: Context, step: int | None = None) -> str:
    """RECIPE-STAGE, the name of a stage's model and of its series; RECIPE-STAGE-step-000500 of a checkpoint."""
    return context.model_name if step is None else f"{context.model_name}-step-{step:06d}"


def write(context: Context, folder: Path, facts: CardFacts) -> None:
    """Write both files into a folder that holds weights, tokenizer and configuration, each file whole or not at all.

    Call it before the folder gets its final name, from one process. ModelError: the folder is no whole checkpoint.
    StoreError: the disk is full.
    """
    made = training_card(context, folder, facts)
    given = licence(context, made, [*facts.parents.values()])
    with _disk_errors(folder):
        cards.write_training_card(folder, made)
        report.write(folder / cards.README, readme(context, made, facts, given))


def training_card(context: Context, folder: Path, facts: CardFacts) -> TrainingCard:
    """The card of a checkpoint in a folder: the start's lineage, and this stage."""
    called = name(context, None if facts.final else facts.step)
    fingerprint = identity.digest(Checkpoint(folder, called).fingerprint())
    return TrainingCard(
        name=called,
        kind=facts.kind,
        stage=facts.stage,
        final=facts.final,
        lineage=(*_lineage(context.model, context.say), Stage(facts.stage, called, fingerprint, facts.tokens)),
        series=context.model_name,
        tokens=facts.tokens,
        step=facts.step,
        steps_planned=facts.steps_planned,
        recipe=cards.Recipe(context.recipe.name, context.key),
        data=tuple(
            dataclasses.replace(source, name=_short(source.name) or UNKNOWN, licence=_short(source.licence))
            for source in facts.data
        ),
        decontaminated=facts.decontaminated,
        hours=None if facts.hours is None else round(facts.hours, 4),
        energy_kwh=None if facts.energy_kwh is None else round(facts.energy_kwh, 4),
        versions=_versions(),
        parents=tuple(_lineage(folder, context.say)[-1] for folder in facts.parents.values()),
    )


def _lineage(model: Path | None, say: Say) -> tuple[Stage, ...]:
    """The lineage of a model, as its own card has it; with the fingerprint that it has now."""
    if model is None:
        return ()
    try:
        fingerprint = identity.digest(find(str(model), fetch=False).fingerprint())
    except ModelError as error:  # a lineage with a gap is better than a training whose result is lost
        say(f"The lineage has no fingerprint of the model that it starts from: {error}")
        fingerprint = None
    row = cards.read_training_card(model, say)
    if row is None:
        return (Stage(OUTSIDE, called(model), fingerprint),)
    *before, last = TrainingCard.from_dict(row).lineage
    return (*before, dataclasses.replace(last, fingerprint=fingerprint or last.fingerprint))


def called(folder: Path) -> str:
    """A model's name: owner/name in the Hub's cache (models--OWNER--NAME/snapshots/COMMIT), else its folder's; of
    out/a/model it is a, of out/step-500 out-step-500."""
    place = folder.absolute()
    if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
        return place.parent.parent.name.removeprefix("models--").replace("--", "/")
    found = place.resolve()
    said = found.parent.name if found.name == "model" else f"{found.parent.name}-{found.name}"
    return _short(said if NUMBERED.fullmatch(found.name) else found.name) or UNKNOWN


def _short(text: str | None) -> str | None:
    """A text as a card may hold it; None for nothing."""
    return "".join(sign for sign in text if sign.isprintable()).strip()[: cards.TEXT_MOST] or None if text else None


def _versions() -> dict[str, str]:
    """Of estbench and of the libraries that this process has loaded."""
    found = {"estbench": estbench.__version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for library in LIBRARIES:
        if library in sys.modules:
            try:
                found[library] = version(library)
            except PackageNotFoundError:  # a source tree
                continue
    return found


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{folder}: its card can't be written ({error.strerror}): free some space.") from None


# --- licence ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Licence:
    """Under what a model stands. front: the keys of the Hub's front matter. said, rows: where several models went into
    it, a sentence, and each of them with the licence that its own card gives."""

    front: Mapping[str, Any]
    said: str = ""
    rows: tuple[tuple[str, str], ...] = ()


def licence(context: Context, made: TrainingCard, parents: Sequence[Path]) -> Licence:
    """That of the recipe, or the one that all models have that went into it. Where they differ it is "other", called by
    all of theirs; where one of them says none, and the others don't differ, it is unknown."""
    own = context.recipe.head.licence
    if not parents and (own or made.stage not in MADE_OF_MODELS):
        return Licence({"license": own or UNKNOWN})
    folders = [*([context.model] if context.model else []), *parents]
    names = [stage.name for stage in (*made.lineage[:-1][-1:], *made.parents)]
    found = [_licence_of(folder, context.say) for folder in folders]
    rows = tuple(dict.fromkeys((name, text) for name, (text, _) in zip(names, found, strict=True)))
    if own:
        return Licence({"license": own}, "As the recipe says. The models in it say of themselves:", rows)
    texts = list(dict.fromkeys(text.lower() for text, _ in found))
    known = [text for text in texts if text not in NO_LICENCE]
    if len(known) > 1:
        listed = ", ".join(f"{name} ({text})" for name, text in rows)
        context.say(f"The licences of the models in {made.name} differ: {listed}.")
        called = "-and-".join(re.sub(r"[^a-z0-9.]+", "-", text).strip("-") for text in texts)
        front = {"license": "other", "license_name": called[: cards.TEXT_MOST]}
        return Licence(front, f"The licences of the models in it differ: {_inline(listed)}.", rows)
    if known == texts:
        return Licence(found[0][1], "That of all models in it, as they say of themselves:", rows)
    return Licence({"license": UNKNOWN}, "Not known: not all models in it say theirs.", rows)


def _licence_of(folder: Path, say: Say) -> tuple[str, dict[str, Any]]:
    """What a folder's README.md says, and that as keys of front matter."""
    row = cards.read_model_card(folder, say) or {}
    text = row.get("licence") or UNKNOWN
    if text == UNKNOWN:
        return text, {}
    head = (folder / cards.README).read_text("utf-8", "replace").split("\n---", 1)[0]
    if not re.search(r"""^license:\s*["']?other["']?\s*(#.*)?$""", head, re.MULTILINE):
        return text, {"license": text.split(", ") if ", " in text else text}
    link = row.get("links", {}).get("licence")
    return text, {"license": "other", "license_name": text, **({"license_link": link} if link else {})}


# --- README.md --------------------------------------------------------------------------------------------------------


def readme(context: Context, made: TrainingCard, facts: CardFacts, given: Licence) -> str:
    """The model card: front matter for the Hub, lineage and data for people."""
    head = context.recipe.head
    front: dict[str, Any] = {
        **given.front,
        "language": list(_languages(context, made, [*facts.parents.values()])),
        **_made_from(context, made),
        "datasets": sorted({source.name for source in made.data if ON_THE_HUB.fullmatch(source.name)}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["estbench", made.stage, made.kind],
    }
    header = yaml.safe_dump({key: value for key, value in front.items() if value}, allow_unicode=True, sort_keys=False)
    suite = "core" if made.kind == "chat" else "core_base"
    parts = [
        f"---\n{header}---\n# {made.name}",
        *([_inline(head.title)] if head.title else []),
        _made(made, context.seed, facts),
        "## Lineage\n\n" + _table(("stage", "model", "tokens", "fingerprint"), map(_of_stage, made.lineage)),
        *(["## Other models in it\n\n" + _table(*_of_parents(facts.parents, made.parents))] if made.parents else []),
        *([f"## Licence\n\n{given.said}\n\n" + _table(("model", "licence"), given.rows)] if given.rows else []),
        *(["## Data of this stage\n\n" + _data(made, facts.urls)] if made.stage not in MADE_OF_MODELS else []),
        f"## How to evaluate\n\nIn this folder:\n\n    estbench eval model=. name={made.name} tasks={suite}",
        "Versions: " + ", ".join(f"{library} {number}" for library, number in made.versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _languages(context: Context, made: TrainingCard, parents: Sequence[Path]) -> Sequence[str]:
    """Those of the recipe; of a model made of others, where no recipe says them, those of their own README.md."""
    languages = context.recipe.head.languages
    if languages or made.stage not in MADE_OF_MODELS:
        return languages
    folders = [*([context.model] if context.model else []), *parents]
    rows = [cards.read_model_card(folder) or {} for folder in folders]  # what can't be read `licence` has named
    return list(dict.fromkeys(language for row in rows for language in row.get("languages", ())))


def _made_from(context: Context, made: TrainingCard) -> dict[str, Any]:
    """The nearest ancestor that another recipe made, as the Hub asks for it; of merge and lep all the models in it."""
    recipe = context.recipe.head.name
    own = (f"{recipe}-",) if context.model_name == f"{recipe}-{context.stage.name}" else ()  # a command has no recipe
    outside = [stage.name for stage in made.lineage[:-1] if not stage.name.startswith(own)][-1:]
    if made.stage not in MADE_OF_MODELS:
        return {"base_model": outside[0]} if outside else {}
    outside += [stage.name for stage in made.parents if not stage.name.startswith(own)]
    return {"base_model": list(dict.fromkeys(outside)), "base_model_relation": "merge"} if outside else {}


def _made(made: TrainingCard, seed: int, facts: CardFacts) -> str:
    """How it was made, as a table of what is known."""
    recipe = made.recipe
    step = None if made.step is None else f"{made.step:,}"
    planned = f" of {made.steps_planned:,}" if step and made.steps_planned else ""
    rows = {
        "recipe": f"{recipe.name}, {recipe.hash}" if recipe else None,
        "stage": made.stage + ("" if made.final else ", a checkpoint on the way"),
        "optimiser steps": f"{step}{planned}" if step else None,
        "tokens": f"{made.tokens:,}" if made.tokens is not None else None,
        "precision": facts.precision,
        "how": facts.how,
        "seed": str(seed) if facts.drawn else None,
        "hours": f"{made.hours:g}" if made.hours is not None else None,
        "energy": f"{made.energy_kwh:g} kWh of the accelerators" if made.energy_kwh is not None else None,
    }
    return _table(("", ""), ((key, value) for key, value in rows.items() if value))


def _of_stage(stage: Stage) -> tuple[str, ...]:
    tokens = UNKNOWN if stage.tokens is None else f"{stage.tokens:,}"
    return stage.stage, stage.name, tokens, f"`{stage.fingerprint[:16]}…`" if stage.fingerprint else UNKNOWN


def _of_parents(roles: Iterable[str], parents: Iterable[Stage]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of a table."""
    rows = [(role, *_of_stage(parent)) for role, parent in zip(roles, parents, strict=True)]
    return ("part", "stage", "model", "fingerprint"), [(*row[:3], row[4]) for row in rows]


def _data(made: TrainingCard, urls: Mapping[str, str]) -> str:
    """The sources with their licences, and how test documents were kept out."""
    rows = [
        (
            source.name,
            source.licence or UNKNOWN,
            UNKNOWN if source.tokens is None else f"{source.tokens:,}",
            UNKNOWN if source.share is None else f"{100 * source.share:.1f} %",
            *([_short(urls.get(source.name)) or ""] if urls else []),
        )
        for source in made.data
    ]
    heads = ("source", "licence", "tokens seen", "share", *(["from"] if urls else []))
    listed = _table(heads, rows) if rows else "Not known."
    kept = made.decontaminated
    if kept is None:
        return f"{listed}\n\nIt was not decontaminated against test documents."
    counts = [f"{count:,} {what}" for count, what in ((kept.documents, "looked at"), (kept.removed, "removed"))
              if count is not None]  # fmt: skip
    tasks = f" of {len(kept.tasks)} task{'s' * (len(kept.tasks) > 1)}" if kept.tasks else ""
    numbers = f": {', '.join(counts)}" if counts else ""
    return f"{listed}\n\nDecontaminated against the test documents{tasks} with {_inline(kept.tool)}{numbers}."


def _table(heads: Sequence[str], rows: Any) -> str:
    """A Markdown table; what stands in it is text and nothing else."""
    lines = [heads, ["---"] * len(heads), *([_inline(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(text: str) -> str:
    """A text on one line, without what Markdown or HTML would obey."""
    return re.sub(r"([\\|<>\[\]*])", r"\\\1", " ".join(text.split()))


# --- energy -----------------------------------------------------------------------------------------------------------


def energy_joules() -> float | None:
    """What the NVIDIA GPUs that this process can see have used since their driver was loaded, by NVML's counters; None
    where there are none or they don't count. Differences of two calls are energy: `(after - before) / card.JOULES` kWh.
    Where processes share GPUs (torchrun without CUDA_VISIBLE_DEVICES of their own), one process of each node asks.

    Source: nvmlDeviceGetTotalEnergyConsumption (NVML API reference; Volta and newer; millijoules).
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2():
            return None
    except (OSError, AttributeError):
        return None
    try:
        used = [_energy(nvml, word) for word in _visible(nvml)]
    finally:
        nvml.nvmlShutdown()
    return sum(one for one in used if one is not None) if used and None not in used else None


def _visible(nvml: Any) -> list[str]:
    """Indexes or UUIDs of the GPUs that CUDA_VISIBLE_DEVICES leaves; all, where it is not set."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [word.strip() for word in given.split(",") if word.strip()]
    count = ctypes.c_uint()
    return [str(index) for index in range(count.value)] if not nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) else []


def _energy(nvml: Any, word: str) -> float | None:
    """The counter of one GPU in joules."""
    handle, used = ctypes.c_void_p(), ctypes.c_ulonglong()
    if word.isdigit():
        failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(word)), ctypes.byref(handle))
    else:
        failed = nvml.nvmlDeviceGetHandleByUUID(word.encode(), ctypes.byref(handle))
    if failed or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used)):
        return None
    return used.value / 1000
