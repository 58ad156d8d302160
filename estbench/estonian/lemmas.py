"""Lemmas of Estonian words, from Vabamorf by way of EstNLTK (the extra `estonian`).

    readings("tartus")      frozenset({'tartus', 'tartu'})
    readings("kuue")        frozenset({'kuue', 'kuub', 'kuus'}): an ambiguous form has several

Nothing is disambiguated: a comparison credits any reading that two words share. One analyser a process; EstNLTK is
imported when the first word is looked up.
"""

from __future__ import annotations

import warnings
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

from estbench.errors import MissingPartError

MISSING = "EstNLTK is not installed: pip install 'estbench[estonian]'"


@cache
def installed() -> bool:
    """Whether EstNLTK is there; nothing is imported."""
    return find_spec("estnltk") is not None


@lru_cache(maxsize=65536)
def readings(word: str) -> frozenset[str]:
    """All lemmas that the case-folded word may be a form of, itself among them. MissingPartError without EstNLTK.

    Case folding hides names, so that the word is looked up with a capital as well ("venemaast" is a form of Venemaa).
    """
    spellings = list(dict.fromkeys((word, word[:1].upper() + word[1:])))
    analysed = _vabamorf().analyze(spellings, disambiguate=False, guess=True, propername=True, compound=True)
    lemmas = {reading["lemma"].casefold() for found in analysed for reading in found["analysis"]}
    return frozenset({word, *lemmas} - {""})


@cache
def _vabamorf() -> Any:
    if not installed():
        raise MissingPartError(f"{MISSING}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations
        from estnltk.vabamorf.morf import Vabamorf

        return Vabamorf.instance()
