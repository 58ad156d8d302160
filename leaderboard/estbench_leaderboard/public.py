"""What may leave the board: which runs, documents of which tasks, and how much of a manifest.

public.runs(snapshot)                          # of models that were not withdrawn
public.shows_items(snapshot, "estcopa", row)   # prompts, answers, golds and scores of single documents
public.manifest(manifest)                      # without places on anybody's machine
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from estbench_leaderboard.shown import fit

if TYPE_CHECKING:
    from estbench.database.queries import RunRow
    from estbench_leaderboard.snapshot import Snapshot

MODEL = ("path", "url")  # of a manifest's model: places
LEFT_OUT = ("settings", "host", "gold")  # of a manifest


def runs(snapshot: Snapshot) -> dict[str, RunRow]:
    """Runs that anyone may see, newest first."""
    return {name: row for name, row in snapshot.runs.items() if snapshot.hidden.withdrawn(row.fingerprint) is None}


def shows_items(snapshot: Snapshot, task: str, publish_items: bool, card: Mapping[str, Any]) -> bool:
    """Whether documents of a task of a run may be shown. The run's own word is not enough: it may be from outside, so
    that this board's task file and the version that the board ranks have to allow it as well."""
    known = snapshot.task(task)
    own = publish_items and card.get("access") != "withheld" and task not in _withheld()
    return own and (known is None or known.publish_items)


@functools.cache
def _withheld() -> frozenset[str]:
    """Tasks of ours whose documents are not published."""
    from estbench.registry import Registry

    tasks = Registry().tasks.values()
    return frozenset(task.name for task in tasks if task.withheld or not task.metadata.get("publish_items"))


def manifest(whole: Mapping[str, Any]) -> dict[str, Any]:
    """A run's manifest as others may have it: of each path its last part, nothing of the machine or the settings."""
    found = {key: value for key, value in whole.items() if key not in LEFT_OUT}
    found["model"] = {key: value for key, value in (whole.get("model") or {}).items() if key not in MODEL}
    if path := (whole.get("model") or {}).get("path"):
        found["model"]["path"] = PurePath(str(path)).name
    found["tasks"] = {task: card(of) for task, of in (whole.get("tasks") or {}).items()}
    if "command" in whole:
        found["command"] = command(str(whole["command"]))
    return dict(fit(found))


def card(whole: Mapping[str, Any]) -> dict[str, Any]:
    """A task's card without the places that its data was read from and where its judges answer."""
    data = dict(own) if isinstance(own := whole.get("data"), Mapping) else {}
    if "origin" in data:
        data["origin"] = PurePath(str(data["origin"])).name
    judge = {"judge": _without_urls(whole["judge"])} if "judge" in whole else {}
    return {**whole, "data": data, **judge}


def _without_urls(record: Any) -> Any:
    """What a card says of judges, whatever shape it has, without addresses; of a path its last part."""
    if isinstance(record, Mapping):
        return {key: _without_urls(value) for key, value in record.items() if key != "url"}
    if isinstance(record, list):
        return [_without_urls(value) for value in record]
    return _without_places(record) if isinstance(record, str) else record


def command(text: str) -> str:
    """A command line with the last part of each path in it, and without the file of golds; "" where it is none of ours:
    pages say that it repeats the run."""
    try:
        words = shlex.split(text)
    except ValueError:  # from outside: an open quote
        return ""
    if words[:2] != ["estbench", "eval"] or not all("=" in word or word.startswith("@") for word in words[2:]):
        return ""
    pairs = [word.partition("=") for word in words if not word.startswith("gold=")]
    return shlex.join(f"{key}{equals}{_without_places(value)}" for key, equals, value in pairs)


def _without_places(value: str) -> str:
    return ",".join(PurePath(part).name if part.startswith(("/", "~", ".")) else part for part in value.split(","))
