"""IFEval: instructions whose following can be checked, by deterministic checkers of our own for Estonian and English.

    follows("punctuation:no_comma", {}, "Tere, Mari!", language="et")        False
    verdicts(doc, response, language="et").strict                             [True, False]

`doc` has `prompt`, `instruction_id_list` and `kwargs` (a list of mappings, or of JSON texts). Strict looks at the
response as it is; loose takes it as followed if any of eight variants does: with and without its first and its last
line ("Sure, here it is:"), and each of those without asterisks. A prompt counts if all its instructions are followed;
instructions are counted over all prompts, so that the score of instructions is a ratio of sums.

Source: Zhou et al. 2023, arXiv:2311.07911. Verdicts in English equal lm-eval's but for its defects: keywords found
inside other words, letters outside a to z replaced by random ones, 0 and empty arguments dropped for random ones, only
straight quotation marks and bare line feeds known, and a language that can't be told counted as followed. Sentences are
split by rules (estonian.sentences), and words in capitals have two letters: there lm-eval needs a downloaded model.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from estbench.errors import TaskError, did_you_mean
from estbench.estonian import language as languages
from estbench.estonian.normalise import without_thinking
from estbench.metrics.base import Floats, Metric
from estbench.metrics.ifeval import layout, wording
from estbench.metrics.ifeval.arguments import Arguments, Checker

INSTRUCTIONS: dict[str, Checker] = wording.CHECKERS | layout.CHECKERS  # the 25 types
CHECKERS = INSTRUCTIONS | wording.WITHOUT_LANGUAGE
VERSION = 1  # of the checkers: a change of any verdict raises it


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Whether each instruction of a prompt is followed, in order."""

    strict: list[bool]
    loose: list[bool]
    empty: bool  # there is no answer (reasoning without an end, for instance)


def follows(
    instruction: str, values: Mapping[str, Any], response: str, *, prompt: str = "", language: str = "en"
) -> bool:
    """Whether the response follows one instruction; an empty one follows none. TaskError: a row at fault."""
    checker = CHECKERS.get(instruction)
    if checker is None:
        raise TaskError(f"A row has the unknown instruction {instruction!r}.{did_you_mean(instruction, CHECKERS)}")
    arguments = Arguments(instruction, values, _composed(prompt), language)
    response = _composed(response)
    return checker(response, arguments) and bool(response.strip())


def verdicts(doc: Mapping[str, Any], response: str, *, language: str) -> Verdicts:
    """The verdicts of a row's instructions. Reasoning is taken off once, before anything else."""
    if "</think>" in response or response.lstrip().startswith("<think>"):
        response = without_thinking(response)
    names, rows = list(doc["instruction_id_list"]), _rows(doc["kwargs"])
    if not names or len(names) != len(rows):
        raise TaskError(f"A row has {len(names)} instructions and {len(rows)} sets of arguments: correct or drop it.")

    def followed(name: str, values: Mapping[str, Any], text: str) -> bool:
        return follows(name, values, text, prompt=doc["prompt"], language=language)

    whole, *others = variants(response)
    asked = list(zip(names, rows, strict=True))
    strict = [followed(*instruction, whole) for instruction in asked]
    loose = [
        found or any(followed(*instruction, text) for text in others)
        for found, instruction in zip(strict, asked, strict=True)
    ]
    return Verdicts(strict, loose, empty=not response.strip())


def variants(response: str) -> list[str]:
    """The response, itself first, that loose scoring looks at: eight, or fewer if some are the same."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys(text for whole in cut for text in (whole, whole.replace("*", ""))))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n")


def _rows(kwargs: Any) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(kwargs) if isinstance(kwargs, str) else kwargs
        return [json.loads(row) if isinstance(row, str) else (row or {}) for row in rows]
    except ValueError:
        raise TaskError("A row's kwargs are no JSON: correct or drop the row.") from None


def _signature() -> str:
    return f"ifeval|checkers:{VERSION}|language:{languages.signature()}"


def _ratio(statistics: Floats) -> Floats:
    """Followed instructions over all, from sums (..., 2)."""
    return np.asarray(statistics[..., 0] / np.maximum(statistics[..., 1], 1.0))


METRICS = (
    Metric("ifeval_prompt_strict", signature=_signature),
    Metric("ifeval_prompt_loose", signature=_signature),
    Metric("ifeval_inst_strict", kind="corpus", combine=_ratio, signature=_signature),
    Metric("ifeval_inst_loose", kind="corpus", combine=_ratio, signature=_signature),
)
