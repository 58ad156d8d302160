"""Golds that are not published: rows come without them, and a maintainer's file supplies them.

    gold: {key: qID, fields: [answer], values: ["1", "2"]}     # metadata of the task file
    gold=FILE                              # JSON lines: {"qID": "...", "answer": "..."}

A gold never enters a hash of a single row: with two options it could be found by trying both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from estbench.copies import Row, read_rows, rows_hash
from estbench.errors import ConfigError, DataError

REASON = "golds are withheld: gold=FILE"


def apply_gold(rows: Sequence[Row], spec: Any, path: Path | None) -> list[Row]:
    """The rows with the fields of `spec` ({key, fields}): as they are, else from the file, else null.

    Raises DataError (one line) for a file that lacks ids or fields, or has an id twice.
    """
    key, fields = _parts(spec)
    open_rows = [row for row in rows if _lacks(row, fields)]
    if path is None or not open_rows:
        return [dict.fromkeys(fields) | row for row in rows]
    golds = _read(path, key, fields, [str(value) for value in spec.get("values", [])])
    if any(key not in row for row in open_rows):
        raise DataError(f"The rows have no field {key!r} that golds could be found by: correct metadata.gold.")
    lacking = [row[key] for row in open_rows if row[key] not in golds]
    if lacking:
        raise DataError(
            f"{path} lacks the golds of {len(lacking):,} of {len(rows):,} items, {key} {lacking[0]!r} first."
        )
    return [row | golds[row[key]] if _lacks(row, fields) else dict(row) for row in rows]


def lacks_gold(rows: Iterable[Row], spec: Any) -> bool:
    """Whether a gold is missing, so that the task can't be scored."""
    _, fields = _parts(spec)
    return any(_lacks(row, fields) for row in rows)


def without_gold(row: Row, spec: Any) -> Row:
    """The row as it may be hashed and shown: without the fields of `spec` (None: nothing is withheld)."""
    if spec is None:
        return row
    _, fields = _parts(spec)
    return {name: value for name, value in row.items() if name not in fields}


def gold_hash(rows: Iterable[Row], spec: Any) -> str:
    """One hash over all golds in order: tells two gold files apart and gives none away."""
    _, fields = _parts(spec)
    return rows_hash({name: row.get(name) for name in fields} for row in rows)


def _parts(spec: Any) -> tuple[str, list[str]]:
    whole = isinstance(spec, dict) and {"key", "fields"} <= set(spec) <= {"key", "fields", "values"}
    if not whole or not isinstance(spec["fields"], list) or not isinstance(spec.get("values", []), list):
        raise ConfigError(
            "metadata.gold has to be {key: FIELD, fields: [FIELD, ...]}, perhaps with values: [...]: correct it."
        )
    return str(spec["key"]), [str(name) for name in spec["fields"]]


def _lacks(row: Row, fields: Sequence[str]) -> bool:
    return any(row.get(name) is None for name in fields)


def _read(path: Path, key: str, fields: Sequence[str], values: Sequence[str]) -> dict[Any, Row]:
    cure = f"write a line {{{', '.join(repr(name) for name in (key, *fields))}}} of JSON for each item."
    golds: dict[Any, Row] = {}
    for number, row in enumerate(read_rows(path, cure), 1):
        if lacking := [name for name in (key, *fields) if row.get(name) is None]:
            raise DataError(f"{path}, item {number} has no {', '.join(lacking)}: {cure}")
        if isinstance(row[key], (dict, list)):
            raise DataError(f"{path}, item {number}: {key} is neither text nor number: {cure}")
        if row[key] in golds:
            raise DataError(f"{path} has {key} {row[key]!r} twice: keep one of them.")
        golds[row[key]] = {name: str(row[name]).strip() if values else row[name] for name in fields}
        if wrong := [value for value in golds[row[key]].values() if values and value not in values]:
            raise DataError(f"{path}, item {number}: the gold {wrong[0]!r} is none of {', '.join(values)}.")
    return golds
