"""Made-up texts, and corpora of them, for the tests of contamination."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

SYLLABLES = [
    "ka",
    "sõi",
    "mär",
    "tule",
    "või",
    "kõr",
    "šo",
    "öö",
    "žü",
    "lai",
    "mets",
    "as",
    "tik",
    "veh",
    "jõul",
    "tä",
    "ra",
    "pu",
    "nei",
    "du",
]


class Words:
    """Texts of made-up words; two of them share no three words in a row."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.vocabulary = ["".join(self.dice.choices(SYLLABLES, k=self.dice.randint(2, 4))) for _ in range(4000)]

    def some(self, least: int, most: int | None = None) -> list[str]:
        return self.dice.choices(self.vocabulary, k=self.dice.randint(least, most or least))

    def text(self, least: int, most: int | None = None) -> str:
        return " ".join(self.some(least, most))


def write(path: Path, documents: Sequence[str]) -> Path:
    path.write_text(
        "".join(json.dumps({"id": f"d{i}", "text": d}, ensure_ascii=False) + "\n" for i, d in enumerate(documents)),
        "utf-8",
    )
    return path
