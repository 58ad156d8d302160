"""A merge from its models to its folder: opened, checked, merged, and written with all that belongs to a checkpoint.

    merge(settings, {"demo-base": checkpoint, …}, place, context)

The folder appears whole. An interrupted merge goes on from the tensors that are finished; the same models, settings and
seed give the same bytes. While weights are merged, another thread hashes the inputs for merge.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import estbench
from estbench import cards, identity
from estbench.checkpoint import Checkpoint
from estbench.errors import ModelError
from estbench.identity import FileHashes
from estbench.runs import write_json
from estbench_training import card
from estbench_training.kinds import Context, Say
from estbench_training.merge import files
from estbench_training.merge.alike import ROWS_CURE, Model, check, opened
from estbench_training.merge.combine import Merger, Parties, outputs
from estbench_training.merge.settings import SCALED, MergeSettings
from estbench_training.merge.stream import Pool
from estbench_training.merge.tokens import TokenRows, Tokens, chat_rows, cut_otherwise, difference
from estbench_training.weights import Writer, growing

RECORD = "merge.json"
SCHEMA = 1
START = ""  # the name of the model that a stage starts from


def merge(
    settings: MergeSettings,
    checkpoints: Mapping[str, Checkpoint],
    place: Path,
    context: Context,
    threads: int | None = None,
) -> None:
    """Merge models into a folder. checkpoints: by the names that the settings have.

    ModelError: they don't fit together, or one of them is broken. StoreError: no room.
    """
    names = list(dict.fromkeys(roles(settings)))
    with opened([checkpoints[name] for name in names]) as models:
        by_name = dict(zip(names, models, strict=True))
        parties = Parties(
            by_name[_start(settings)],
            by_name[settings.base] if settings.base else None,
            tuple(by_name[name] for name in settings.merged),
        )
        moved = settings.method not in SCALED or any(settings.scale_of(name) for name in parties.start.tensors)
        settings.check_patterns(parties.start.tensors)
        vocabularies = {model: Tokens.of(model.checkpoint) for model in parties.all}
        _say_cutting(parties, vocabularies, context.say)
        loose = settings.embeddings != "add"
        check(parties.all, parties.start.by_tokens if loose else (), _cure(settings), context.say)
        rows = _rows(settings, parties, vocabularies, moved)
        tensors = outputs(settings, parties.start, rows)
        talker = _talker(parties, rows) if moved else parties.start
        talk = files.Talk(
            parties.start,
            talker,
            vocabularies[parties.start],
            vocabularies[talker],
            rows.appended if rows else {},
        )
        configurations = files.configurations(talk, tensors)
        files.say_lacking(talk, context.say)
        with _hashing(parties.all) as hashes, growing(place, context.key) as folder:
            most = settings.shard_gb * 1e9
            with Writer(folder, tensors, key=context.key, shard_bytes=most) as writer, Pool(threads) as pool:
                Merger(settings, parties, rows, writer, pool, context.seed).run()
            files.write(folder, talk, configurations)
            found = hashes()
            _say_nothing_learnt(parties, found, context.say)
            _say_other_base(parties, context.say)
            write_json(folder / RECORD, _record(settings, parties, rows, context, found))
            _write_card(folder, settings, parties, context)


def _say_cutting(parties: Parties, vocabularies: Mapping[Model, Tokens], say: Say) -> None:
    own = vocabularies[parties.start]
    for model in parties.all[1:]:
        for part in cut_otherwise(own, vocabularies[model]):
            say(f"{model.name} and {own.name} don't have the same {part} in tokenizer.json: text may be cut otherwise.")


def _say_nothing_learnt(parties: Parties, hashes: Mapping[Path, str], say: Say) -> None:
    """Say where a model has the very weights of its base: most likely one of them was given twice."""
    if (base := parties.base) is None:
        return
    weights = {model: [hashes[file] for file in model.checkpoint.weight_files] for model in parties.all}
    for part in parties.parts:
        if weights[part] == weights[base]:
            say(f"{part.name} has the very weights of its base, {base.name}: nothing is added of it.")


def roles(settings: MergeSettings) -> list[str]:
    """The names of the models in the order of merge.json: what is added to, the base, those that are mixed in."""
    return [_start(settings), *([settings.base] if settings.base else []), *settings.merged]


def _start(settings: MergeSettings) -> str:
    """Whose names, types, rows and configuration the merged model has."""
    if settings.method == "chat_vector":
        return settings.into or START
    return settings.into or settings.base or settings.parts[0]


def _talker(parties: Parties, rows: TokenRows | None) -> Model:
    """Who says how one talks with the merged model: the first that has a chat template, those that are mixed in before
    what they are added to; the chat model anyhow where tokens of its own are appended."""
    asked = parties.parts if rows and rows.appended else (*parties.parts, parties.start)
    return next((model for model in asked if model.checkpoint.has_chat_template), parties.parts[0])


def _cure(settings: MergeSettings) -> str:
    """What to do with models whose vocabularies differ."""
    if settings.method == "chat_vector":
        return ROWS_CURE
    if settings.method in SCALED:
        return "embeddings=skip leaves the rows of tokens as they are"
    return f"{settings.method} is for models of one vocabulary"


def _rows(
    settings: MergeSettings, parties: Parties, vocabularies: Mapping[Model, Tokens], moved: bool
) -> TokenRows | None:
    """Whose the rows of the embeddings are; ModelError where vocabularies have to be the same and are not."""
    own = vocabularies[parties.start]
    if settings.method == "chat_vector" and parties.base is not None:
        trio = [parties.start, parties.base, parties.parts[0]]
        name = parties.start.embeddings.input
        into, base, chat = (vocabularies[model] for model in trio)
        counts = trio[0].tensors[name].rows, trio[1].tensors[name].rows, trio[2].tensors[name].rows
        special = settings.special_tokens == "chat" and moved
        rows = chat_rows(into, base, chat, counts, settings.embeddings, special=special)
        return rows if moved else None
    for model in parties.all if settings.embeddings == "add" else ():
        if found := difference(own, vocabularies[model]):
            raise ModelError(f"The tokenizers differ: {found}. {_cure(settings)}.")
    return None


@contextlib.contextmanager
def _hashing(models: Sequence[Model]) -> Iterator[Callable[[], dict[Path, str]]]:
    """Hash the models' files beside other work. What is given waits for the hashes, and is a ModelError where a file is
    not what it was when it was opened."""
    hashes, aside = FileHashes(), ThreadPoolExecutor(1, "hash")
    files = [file for model in models for file in model.checkpoint.files]
    waited = {file: aside.submit(hashes.of, [file]) for file in files}

    def found() -> dict[Path, str]:
        values = {file: future.result()[file][0] for file, future in waited.items()}
        for model in models:
            model.checkpoint.check_unchanged()
        return values

    try:
        yield found
    finally:
        aside.shutdown(cancel_futures=True)  # after an error only the file that is being read is waited for


def _record(
    settings: MergeSettings, parties: Parties, rows: TokenRows | None, context: Context, hashes: Mapping[Path, str]
) -> dict[str, Any]:
    """merge.json: what was merged, how, and from which bytes."""
    models = [
        {
            "role": role,
            "name": model.name,
            "revision": model.checkpoint.revision,
            "files": {file.name: hashes[file] for file in model.checkpoint.files},
        }
        for role, model in _named(settings, parties).items()
    ]
    return {
        "schema": SCHEMA,
        "key": context.key,
        "settings": dataclasses.asdict(_published(settings, parties)),
        "shares": list(settings.shares),
        "seed": context.seed,
        "models": models,
        "rows_of_the_chat_model": int(rows.chats.sum()) if rows else 0,
        "tokens_appended": list(rows.appended) if rows else [],
        "estbench": estbench.__version__,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _published(settings: MergeSettings, parties: Parties) -> MergeSettings:
    """The settings with the models' names in place of their paths, which say where somebody has them."""
    *merged, base, start = [model.name if model else None for model in (*parties.parts, parties.base, parties.start)]
    named = {"instruct": merged[0]} if settings.instruct else {"parts": tuple(merged)}
    return dataclasses.replace(settings, base=base, into=start if settings.into else None, **named)


def _say_other_base(parties: Parties, say: Say) -> None:
    """Say where a model's card knows what it was made of, and its base is not among that."""
    if (base := parties.base) is None:
        return
    own = identity.digest(base.checkpoint.fingerprint())
    for part in parties.parts:
        lineage = (cards.read_training_card(part.checkpoint.path) or {}).get("lineage", [])
        known = [stage.get("fingerprint") for stage in lineage]
        if len(known) > 1 and None not in known and own not in known:
            made_of = ", ".join(str(stage.get("name")) for stage in lineage[:-1])
            say(f"{part.name} was made of {made_of}, by its card, and not of {base.name}: is that its base?")


def _named(settings: MergeSettings, parties: Parties) -> dict[str, Model]:
    """The models by their parts in it; one may have several."""
    found = {"into": parties.start, **({"base": parties.base} if parties.base else {})}
    return found | {"instruct" if settings.instruct else f"part {at}": one for at, one in enumerate(parties.parts, 1)}


def _write_card(folder: Path, settings: MergeSettings, parties: Parties, context: Context) -> None:
    """The lineage goes on from the model that the others went into; they are its other parents."""
    roles = _named(settings, parties)
    others = {
        ", ".join(role for role, one in roles.items() if one is model): model.checkpoint.path
        for model in parties.all
        if model is not parties.start
    }
    kind = "chat" if Checkpoint(folder, context.model_name).has_chat_template else "base"
    start = dataclasses.replace(context, model=parties.start.checkpoint.path)
    drawn = settings.method == "dare"
    card.write(start, folder, card.CardFacts(kind, "merge", how=settings.how, parents=others, drawn=drawn))
