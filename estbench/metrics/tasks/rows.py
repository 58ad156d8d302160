"""Rows that lm-eval's own loader can't read: `custom_dataset: !function functions.repository_rows`.

estbench reads the same data sets by way of `estbench.data`; these are for plain lm-eval.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["configs_rows", "repository_rows"]


def repository_rows(**given: Any) -> dict[str, Any]:
    """Split -> datasets.Dataset of what `metadata.repository` names, see estbench.repositories."""
    return _made("repository_rows", given)


def configs_rows(**given: Any) -> dict[str, Any]:
    """Split -> datasets.Dataset of all `configs` of the Hub data set `path`, with a field `config`."""
    return _made("configs_rows", given)


def _made(name: str, given: dict[str, Any]) -> dict[str, Any]:
    # by name, so that how data is fetched is no part of a scorer's source (see identity.source_hash)
    made: dict[str, Any] = getattr(importlib.import_module("estbench.repositories"), name)(**given)
    return made
