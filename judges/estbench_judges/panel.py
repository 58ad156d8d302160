"""Several judges as one: the median of their votes, with and without judges of the model's own family.

    median(votes)                              (n,): nan where half of the judges or fewer voted
    without_kin(votes, judges, model)          the same without the model's relatives; None: nobody is left
    leave_one_out(votes, judges)               what the panel would say without each judge
    family_of("tartuNLP/Llammas"), kin(judge, model)

The median and not the mean: one judge that fails in a biased way moves the mean as far as it likes, the median only
within what the others say (Huber 1964; for panels of judges arXiv 2606.30931). Three votes are needed for that: the
median of two is their mean. A judge prefers what is familiar to it (arXiv 2410.21819), so relatives are flagged; that
says what to look at, not that the judge is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.stats.intervals import Floats


@dataclass(frozen=True, slots=True)
class Family:
    """Models that come from one another, or from one maker's data; told by words in their names."""

    name: str
    words: frozenset[str]
    not_with: frozenset[str] = frozenset()  # words beside which the others mean something else


def _family(name: str, words: str, not_with: str = "") -> Family:
    return Family(name, frozenset(words.split()), frozenset(not_with.split()))


# In the order in which a name of two families (DeepSeek-R1-Distill-Llama, Llama-Poro-2) takes its first: what a model
# was made from comes before who made it.
FAMILIES = (
    _family("llama", "llama llammas llamma estllm codellama"),
    _family("qwen", "qwen qwq qvq"),
    _family("gemma", "gemma codegemma medgemma"),
    _family("mistral", "mistral ministral mixtral magistral codestral devstral pixtral mathstral"),
    _family("gpt", "gpt chatgpt o1 o3 o4", not_with="sw3 neo neox"),
    _family("claude", "claude"),
    _family("gemini", "gemini"),
    _family("phi", "phi"),
    _family("apertus", "apertus"),
    _family("deepseek", "deepseek"),
    _family("command", "command aya c4ai"),
    _family("granite", "granite"),
    _family("poro", "poro viking"),
    _family("eurollm", "eurollm"),
    _family("salamandra", "salamandra"),
    _family("teuken", "teuken"),
    _family("olmo", "olmo"),
    _family("smollm", "smollm"),
    _family("nemotron", "nemotron"),
    _family("glm", "glm chatglm"),
    _family("kimi", "kimi"),
    _family("grok", "grok"),
    _family("minimax", "minimax"),
    _family("falcon", "falcon"),
    _family("bloom", "bloom bloomz"),
    _family("gpt-sw3", "sw3"),
)
# Judges trained on a base that their name doesn't say.
TRAINED_ON = {"prometheus": frozenset({"qwen", "mistral"}), "selene": frozenset({"llama"})}


def families_of(name: str) -> tuple[str, ...]:
    """The families that a model's name mentions, in the order of FAMILIES. A path or `owner/name` counts whole."""
    words = _words(name)
    bases = frozenset[str]().union(*(TRAINED_ON[word] for word in words & TRAINED_ON.keys()))
    return tuple(
        family.name
        for family in FAMILIES
        if (family.words & words and not family.not_with & words) or family.name in bases
    )


def family_of(name: str) -> str | None:
    """The family of a model: what it was made from. None: the name doesn't say (that isn't to say that it has none)."""
    return next(iter(families_of(name)), None)


def kin(judge: str, model: str) -> bool:
    """Whether the judge and the model are the same or share a family."""
    return judge == model or bool(set(families_of(judge)) & set(families_of(model)))


def _words(name: str) -> frozenset[str]:
    """Words of a name in lower case, each also as the letters it begins with: "Qwen2.5-7B" holds "qwen"."""
    words = re.findall(r"[^\W_]+", name.lower())
    return frozenset(words).union(*(re.findall(r"^[^\W\d_]+", word) for word in words))


def median(votes: ArrayLike, least: int | None = None) -> Floats:
    """(n,): the median of the valid votes on each document.

    votes: (judges, n), nan where a judge has none. least: valid votes below which there is no score (nan); more than
    half of the judges if not given. ValueError: no judge, or a `least` that can't be.
    """
    table = np.asarray(votes, float)
    if table.ndim != 2 or not len(table):
        raise ValueError(f"votes are a table of judges × documents with at least one judge, not {table.shape}")
    needed = len(table) // 2 + 1 if least is None else least
    if not 1 <= needed <= len(table):
        raise ValueError(f"a panel of {len(table)} judges can't need {needed} votes")
    ordered = np.sort(table, axis=0)  # nan last
    valid = (~np.isnan(table)).sum(axis=0)
    documents = np.arange(table.shape[1])
    middle = (ordered[np.maximum(valid - 1, 0) // 2, documents] + ordered[valid // 2, documents]) / 2
    return np.where(valid >= needed, middle, np.nan)


def without_kin(votes: ArrayLike, judges: Sequence[str], model: str, least: int | None = None) -> Floats | None:
    """(n,): the median without judges of the model's family. None: nobody is left, or fewer than `least` judges.

    least: as in `median`, more than half of those who are left if not given.
    """
    table = _of(votes, judges)
    kept = [place for place, judge in enumerate(judges) if not kin(judge, model)]
    if len(kept) < max(1, least or 1):
        return None
    return median(table[kept], least)


def leave_one_out(votes: ArrayLike, judges: Sequence[str], least: int | None = None) -> dict[str, Floats]:
    """What the panel says without each judge: {judge: (n,)}; nothing of a panel of one. `least` as in `without_kin`."""
    table = _of(votes, judges)
    if len(table) - 1 < max(1, least or 1):
        return {}
    return {judge: median(np.delete(table, place, axis=0), least) for place, judge in enumerate(judges)}


def _of(votes: ArrayLike, judges: Sequence[str]) -> NDArray[np.float64]:
    table = np.asarray(votes, float)
    if table.ndim != 2 or len(table) != len(judges) or len(set(judges)) < len(judges):
        raise ValueError(f"one row of votes for each judge, each named once: {table.shape} of {', '.join(judges)}")
    return table
