"""Where the data of a stage comes from, as the manifests of the stages say that made it: licences, tests kept out.

    known = of_folder(context.inputs["instructions"])     # or a prepare stage's, or that of a stage of pairs
    known.sources["alpaca-et"].licence                    # what the model's card names
    together(known.decontaminated)                        # how tests were kept out of all of it, or None

A manifest that lacks what every manifest has is a DataError: a card that forgets a licence is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from estbench.cards import Decontaminated
from estbench.errors import DataError
from estbench_training.rows import MANIFEST, manifest_of

SHARDS = "shards"


@dataclass(frozen=True)
class Known:
    """What is known of a source; None: nobody said."""

    licence: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Of a stage's data. decontaminated: how tests were kept out of each part of it, None where they weren't."""

    sources: Mapping[str, Known]
    decontaminated: tuple[Decontaminated | None, ...]

    def row(self) -> dict[str, Any]:
        """As a manifest has it: {"sources": …, "decontaminated": …}."""
        whole = together(self.decontaminated)
        sources = {name: asdict(known) for name, known in self.sources.items()}
        return {"sources": sources, "decontaminated": None if whole is None else asdict(whole)}


def of_folder(folder: Path, source: str | None = None) -> Provenance:
    """Of the folder of a stage that makes rows or shards. source: only this one of a prepare stage's."""
    if not (folder / SHARDS).is_dir():
        return of_manifest(manifest_of(folder), folder / MANIFEST)
    rows = {
        path.parent.name: (path, read_manifest(path))
        for path in sorted((folder / SHARDS).glob(f"*/{MANIFEST}"))
        if source is None or path.parent.name == source
    }
    return Provenance(
        {name: _known(row, path) for name, (path, row) in rows.items()},
        tuple(kept_out(row, path) for path, row in rows.values()),
    )


def of_manifest(row: Mapping[str, Any], path: Path) -> Provenance:
    """Of a manifest of rows: sources by name, and how tests were kept out of all of them."""
    sources = row.get("sources")
    if not isinstance(sources, Mapping):
        raise DataError(f"{path} names no sources: run its stage again.")
    return Provenance({str(name): _known(one, path) for name, one in sources.items()}, (kept_out(row, path),))


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest; DataError if it can't be read."""
    try:
        row = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({' '.join(str(error).split())}): run its stage again.") from None
    if not isinstance(row, dict):
        raise DataError(f"{path} is no manifest: run its stage again.")
    return row


def _known(row: object, path: Path) -> Known:
    if not isinstance(row, Mapping) or "licence" not in row:
        raise DataError(f"{path} lacks the licence of a source: run its stage again.")
    licence, url = row["licence"], row.get("url")
    if not all(value is None or isinstance(value, str) for value in (licence, url)):
        raise DataError(f"{path}: a source's licence or url is no text: run its stage again.")
    return Known(licence, url)


def kept_out(row: Mapping[str, Any], path: Path) -> Decontaminated | None:
    """How tests were kept out, by a manifest; None where they weren't. DataError if it doesn't say."""
    if "decontaminated" not in row:
        raise DataError(f"{path} doesn't say whether tests were kept out: run its stage again.")
    found = row["decontaminated"]
    if found is None:
        return None
    try:
        return Decontaminated(
            str(found["tool"]), tuple(map(str, found["tasks"])), int(found["documents"]), int(found["removed"])
        )
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path} doesn't say how tests were kept out: run its stage again.") from None


def together(found: Sequence[Decontaminated | None]) -> Decontaminated | None:
    """How tests were kept out of all parts together: the tasks that were looked for in each. None if of one of them
    they weren't, or if there is no part."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    tasks = set.intersection(*(set(one.tasks) for one in known))
    documents, removed = (sum(getattr(one, name) or 0 for one in known) for name in ("documents", "removed"))
    return Decontaminated(known[0].tool, tuple(sorted(tasks)), documents, removed)
