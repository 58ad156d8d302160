"""Items into conversations: wordings take turns, so that shares are kept at every prefix and all wordings are used."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from estbench_training.instructions import phrasing
from estbench_training.instructions.phrasing import Template, is_sentence
from estbench_training.instructions.settings import SourceSettings, TranslationSettings
from estbench_training.instructions.turns import Turns

Messages = list[dict[str, str]]
Cell = tuple[str, bool]  # the language of the instruction, whether the text stands apart


class Conversations:
    """Conversations as they are."""

    def __call__(self, item: Mapping[str, Any]) -> Messages:
        return list(item["messages"])

    def report(self) -> dict[str, Any]:
        """What the manifest says of the rows."""
        return {}


class Alpaca:
    """An instruction with its input, in one of several forms, and the answer."""

    def __init__(self, language: str, seed: str) -> None:
        forms = phrasing.alpaca(language)
        self._forms = cycle(random.Random(seed).sample(forms, len(forms)))
        self._used: Counter[str] = Counter()

    def __call__(self, item: Mapping[str, Any]) -> Messages:
        text = str(item["instruction"])
        if item["input"]:
            form = next(self._forms)
            self._used[form] += 1
            text = form.format(instruction=text, input=item["input"])
        return [{"role": "user", "content": text}, {"role": "assistant", "content": str(item["output"])}]

    def report(self) -> dict[str, Any]:
        """What the manifest says of the rows."""
        return {"with_input": self._used.total(), "templates": {"used": len(self._used)}}


class Translation:
    """A pair as an instruction to translate, in one of its directions.

    Directions take turns by their weights; within a direction, languages of instructions and their forms; within these,
    the wordings, of which one that doesn't fit the text waits for the next that it fits.
    """

    def __init__(self, settings: TranslationSettings, files: Mapping[str, Path], rows: int, seed: str) -> None:
        """files: wordings of one's own, by language. rows: so many are made at most."""
        self._phrases = {
            language: phrasing.translation(language, files.get(language)) for language in settings.instruction_language
        }
        forms = {True: settings.separate_input, False: 1 - settings.separate_input}
        cells: dict[Cell, float] = {
            (language, separate): share * part
            for language, share in settings.instruction_language.items()
            for separate, part in forms.items()
            if part
        }
        self._directions = Turns(settings.directions, rows)
        self._cells = {direction: Turns(cells, rows) for direction in settings.directions}
        self._waiting = {
            (direction, cell): self._shuffled(cell, f"{seed} {direction}")
            for direction in self._cells
            for cell in cells
        }
        self._made: Counter[str] = Counter()
        self._asked: Counter[Cell] = Counter()
        self._used: dict[tuple[str, Template], None] = {}

    def _shuffled(self, cell: Cell, seed: str) -> list[Template]:
        language, separate = cell
        group = self._phrases[language].group(separate)
        return random.Random(f"{seed} {language} {separate}").sample(group, len(group))

    def __call__(self, item: Mapping[str, Any]) -> Messages:
        direction = self._directions.next()
        cell = self._cells[direction].next()
        source, target = direction.split("-")
        text = str(item[source])
        template = self._next(self._waiting[direction, cell], text)
        self._made[direction] += 1
        self._asked[cell] += 1
        self._used[cell[0], template] = None
        asked = self._phrases[cell[0]].fill(template, source, target, text)
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": str(item[target])}]

    @staticmethod
    def _next(waiting: list[Template], text: str) -> Template:
        """The wording that has waited longest of those that fit; it goes to the end."""
        one = is_sentence(text)
        place = next(place for place, template in enumerate(waiting) if template.fits(text, one))
        waiting.append(waiting.pop(place))
        return waiting[-1]

    def report(self) -> dict[str, Any]:
        """What the manifest says of the rows."""
        languages: Counter[str] = Counter()
        separate = 0
        for (language, apart), count in self._asked.items():
            languages[language] += count
            separate += count * apart
        sizes = {name: len(phrases.separate + phrases.inline) for name, phrases in self._phrases.items()}
        return {
            "directions": dict(sorted(self._made.items())),
            "instruction_language": dict(sorted(languages.items())),
            "separate_input": separate,
            "templates": {
                name: {
                    "sha256": phrases.sha256,
                    "known": sizes[name],
                    "used": sum(one == name for one, _ in self._used),
                }
                for name, phrases in self._phrases.items()
            },
        }


Renderer = Conversations | Alpaca | Translation


def renderer(source: SourceSettings, files: Mapping[str, Path], rows: int, seed: str) -> Renderer:
    """What makes conversations of a source's items. files: wordings of one's own. rows: so many at most."""
    if source.translation is not None:
        return Translation(source.translation, files, rows, seed)
    if source.form == "alpaca":
        return Alpaca(str(source.language), seed)
    return Conversations()
