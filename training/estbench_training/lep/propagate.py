"""The stage: solve, write the matrices of tokens, then the other tensors, slice by slice; then all that lies beside.

Memory is about eleven matrices of d × d in float64 and some slices, whatever the model's size. The folder gets its
name when it is whole; an interrupted run goes on with the tensor that it was at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from estbench_training import card
from estbench_training.appearing import write_json_synced
from estbench_training.kinds import Context
from estbench_training.lep import embeddings, files, layers
from estbench_training.lep.embeddings import Carried
from estbench_training.lep.layers import Layers
from estbench_training.lep.places import adapter_of
from estbench_training.lep.roles import Part, Roles, opened
from estbench_training.lep.settings import LepSettings
from estbench_training.weights import TensorInfo, Writer, growing

SCHEMA = 1
PROVENANCE = "lep.json"


def run(settings: LepSettings, context: Context) -> None:
    """Make the model; StoreError where there is no room, and then nothing is left."""
    source, target, donor = (context.models[name] for name in (settings.source, settings.target, settings.donor))
    with opened(source, target, donor) as roles:
        chosen = layers.choose(settings, roles, adapter_of(donor), context.say)
        carried = embeddings.prepare(settings, roles, context.say)
        with growing(context.model_folder, context.key) as folder:
            with Writer(folder, _layout(roles), key=context.key) as writer:
                _write(writer, roles, carried, chosen)
            files.write(folder, roles)
            write_json_synced(folder / PROVENANCE, _provenance(settings, roles, carried, chosen))
            kind = "chat" if roles.target.checkpoint.has_chat_template else "base"
            parents = {"target": target, "source": source}
            facts = card.CardFacts(kind, "lep", how=settings.how, parents=parents, drawn=False)
            card.write(dataclasses.replace(context, model=donor), folder, facts)


def _layout(roles: Roles) -> dict[str, TensorInfo]:
    """The target's tensors, with as many rows of tokens as the donor has; a tied head is not stored."""
    target = roles.target
    made = {name: target.weights.tensors[name] for name in layers.others(target)}
    for part, name in target.parts.items():
        made[name] = TensorInfo(target.weights.tensors[name].dtype, (roles.donor.row_count(part), target.width))
    return made


def _write(writer: Writer, roles: Roles, carried: Mapping[Part, Carried], chosen: Layers) -> None:
    for part, name in roles.target.parts.items():
        if not writer.done(name):
            info = writer.tensors[name]
            for start, rows in carried[part].all(info.rows, info.torch):
                writer.write(name, start, rows)
            writer.finished(name)
    for name in layers.others(roles.target):
        if not writer.done(name):
            for start, stop in chosen.spans(name):
                writer.write(name, start, chosen.rows(name, start, stop))
            writer.finished(name)
    for model in (roles.source, roles.target, roles.donor):
        model.checkpoint.check_unchanged()


def _provenance(settings: LepSettings, roles: Roles, carried: Mapping[Part, Carried], chosen: Layers) -> dict[str, Any]:
    """What lep.json says: of what the model is made, how, and how well P does."""
    models = (roles.source, roles.target, roles.donor)
    return {
        "schema": SCHEMA,
        "models": {
            model.role: {"name": card.called(model.checkpoint.path), **model.checkpoint.fingerprint()}
            for model in models
        },
        "variant": settings.variant,
        "weighting": settings.weighting,
        "layers": chosen.how,
        "scale": settings.scale,
        "adapter": None if chosen.adapter is None else chosen.adapter.hashes(),
        "adapted": [] if chosen.adapter is None else sorted(chosen.adapter.parts),
        "same_vocabulary": roles.same_vocabulary,
        "tokens": {"target": roles.target.vocabulary.size, "new": roles.donor.vocabulary.size},
        "special_tokens": len(roles.special[0]),
        "fit": {
            roles.target.parts[part]: None if one.fit is None else dataclasses.asdict(one.fit)
            for part, one in carried.items()
        },
    }
