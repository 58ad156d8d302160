"""Every word of the interface, from locale/*.et.yaml and *.en.yaml, and numbers as each language writes them.

language = languages()["et"]
language.t("board.rank", rank=2)       # KeyError for a text that is missing: a test looks for those
language.score(0.7031, "proportion")   # "70,3"
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LOCALE = Path(__file__).parent / "locale"
CODES = ("et", "en")
NBSP = "\u00a0"


@dataclass(frozen=True)
class Language:
    """A language of the interface."""

    code: str
    texts: dict[str, str] = field(repr=False)

    def t(self, key: str, **values: Any) -> str:
        """The text of a key, with {placeholders} filled in. `n=` chooses KEY.one instead of KEY.other where n is 1."""
        if "n" in values and f"{key}.other" in self.texts:
            key += ".one" if values["n"] == 1 else ".other"
        text = self.texts[key]
        shown = {name: self.count(value) if type(value) is int else value for name, value in values.items()}
        return text.format(**shown) if values else text

    def has(self, key: str) -> bool:
        return key in self.texts

    def pick(self, texts: dict[str, str] | str | None) -> str:
        """Of a text in several languages this one's, or another rather than none."""
        if not isinstance(texts, dict):
            return texts or ""
        return texts.get(self.code) or next(iter(texts.values()), "")

    def decimal(self, value: float, places: int = 1) -> str:
        """A number with so many places; a minus sign, not a hyphen."""
        text = f"{value:,.{places}f}".replace("-", "−")
        if self.code == "et":
            text = text.replace(",", NBSP).replace(".", ",")
        return text

    def count(self, value: int) -> str:
        """A whole number; Estonian groups thousands by spaces, from 10 000 on."""
        if self.code == "et":
            return f"{value:,}".replace(",", NBSP) if abs(value) >= 10_000 else str(value)
        return f"{value:,}"

    def score(self, value: float | None, unit: str, places: int | None = None) -> str:
        """A score as people read it: points out of 100, or bits."""
        if value is None:
            return "–"
        scale = 100 if unit in ("proportion", "corrected") else 1
        return self.decimal(value * scale, (3 if unit == "bits" else 1) if places is None else places)

    def interval(self, low: float | None, high: float | None, unit: str) -> str:
        """From and to; empty where there is no interval."""
        return "" if low is None or high is None else f"{self.score(low, unit)}–{self.score(high, unit)}"

    def places(self, low: int, high: int) -> str:
        """A range of ranks: "2.–5." in Estonian, "2–5" in English."""
        dot = "." if self.code == "et" else ""
        return f"{low}{dot}" if low == high else f"{low}{dot}–{high}{dot}"

    def date(self, moment: str | None) -> str:
        """A day as 21.11.2026 or 21 November 2026."""
        if not moment or not re.match(r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]", moment):
            return "–"
        year, month, day = (int(part) for part in moment[:10].split("-"))
        return f"{day}.{month:02}.{year}" if self.code == "et" else f"{day} {self.t(f'month.{month}')} {year}"

    def parameters(self, value: int | None) -> str:
        """A model's size: 8,0 mld or 8.0 B."""
        if value is None:
            return "–"
        for limit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
            if value >= limit:
                return f"{self.decimal(value / limit, 1 if value < 100 * limit else 0)}{NBSP}{self.t(f'number.{name}')}"
        return self.count(value)

    def bytes(self, value: float | None) -> str:
        """Bytes as GB, MB or kB (powers of ten)."""
        if value is None:
            return "–"
        for limit, name in ((1e9, "GB"), (1e6, "MB")):
            if value >= limit:
                return f"{self.decimal(value / limit, 1 if value < 100 * limit else 0)}{NBSP}{name}"
        return f"{self.decimal(value / 1e3, 0)}{NBSP}kB"


@functools.cache
def languages() -> dict[str, Language]:
    """Both languages, read once."""
    return {code: Language(code, _texts(code)) for code in CODES}


def _texts(code: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(LOCALE.glob(f"*.{code}.yaml")):
        for key, text in _flat(yaml.safe_load(path.read_text("utf-8")) or {}):
            if key in found:
                raise ValueError(f"{path.name}: {key} is there twice")
            found[key] = unicodedata.normalize("NFC", text)
    return found


def _flat(tree: dict[Any, Any], start: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{start}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, str(value))]
    return found
