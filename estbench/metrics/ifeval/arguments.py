"""What a checker gets besides the response: the instruction's arguments, read strictly, and where it stands.

A row that lacks an argument, or has an empty or impossible one, is at fault: that is an error, never a guess and never
an instruction that counts as followed. 0 is a number like any other.
"""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from estbench.errors import TaskError

RELATIONS: dict[str, Callable[[int, int], bool]] = {"at least": operator.ge, "less than": operator.lt}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments (`kwargs`) of one instruction. All text is NFC."""

    instruction: str
    values: Mapping[str, Any]
    prompt: str = ""
    language: str = "en"  # of the data set: "et" or "en"

    def number(self, name: str) -> int:
        """A whole number that isn't negative."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            raise self._fault(name, f"{value!r} is no whole number from 0")
        return int(value)

    def text(self, name: str) -> str:
        """A text with something in it, without surrounding space."""
        value = self._value(name)
        if not isinstance(value, str) or not value.strip():
            raise self._fault(name, f"{value!r} is no text")
        return unicodedata.normalize("NFC", value).strip()

    def texts(self, name: str) -> list[str]:
        """A list with at least one text, as `text`."""
        value = self._value(name)
        if isinstance(value, str) or not hasattr(value, "__iter__") or not list(value):
            raise self._fault(name, f"{value!r} is no list of texts")
        return [Arguments(self.instruction, {name: item}).text(name) for item in value]

    def holds(self, relation: str, found: int, threshold: str) -> bool:
        """Whether what was found is "at least" or "less than" the threshold, by the names of the two arguments."""
        compare = RELATIONS.get(self.text(relation).lower())
        if compare is None:
            raise self._fault(relation, f"{self.values[relation]!r} is none of {', '.join(map(repr, RELATIONS))}")
        return compare(found, self.number(threshold))

    def _value(self, name: str) -> Any:
        value = self.values.get(name)
        if value is None:
            raise self._fault(name, "is missing")
        return value

    def _fault(self, name: str, what: str) -> TaskError:
        return TaskError(f"The row's instruction {self.instruction}: {name} {what}. Correct or drop the row.")


Checker = Callable[[str, Arguments], bool]
