"""The wordings of instructions: templates in training/instructions, each with its places filled once.

phrases = translation("et")
phrases.inline[0].text             # "Tõlgi {target} keelde: {text}"
phrases.fill(phrases.inline[0], "en", "et", "Good morning!")      # "Tõlgi eesti keelde: Good morning!"
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from estbench.config import read_yaml
from estbench.errors import ConfigError
from estbench.home import project_file

NAMED = ("de", "en", "es", "et", "fi", "fr", "lt", "lv", "ru", "sv", "uk")  # languages whose names the templates have
TRANSLATION = ("et", "en")  # languages that translations are asked for in
ALPACA = ("et", "en", "other")
GROUPS = ("separate", "separate_sentence", "inline", "inline_sentence")
SLOTS = {"source", "target", "Source", "Target", "source_stem", "target_stem"}
QUOTES = frozenset("\"'„“”«»")
INNER_END = re.compile(r"[.!?…]+[\"'“”»)]*\s+\S")  # a sentence ends, and the text goes on
END = re.compile(r"[.!?…][\"'“”»)]*$")


@dataclass(frozen=True)
class Template:
    """A wording. single: only for a text of one sentence. quotes: its marks, which the text must not have, too."""

    text: str
    single: bool = False

    @property
    def quotes(self) -> frozenset[str]:
        """The quotation marks around the text."""
        return QUOTES & set(self.text)

    def fits(self, text: str, is_sentence: bool) -> bool:
        """Whether the wording can be said of this text."""
        return (is_sentence or not self.single) and not (self.quotes and QUOTES & set(text))


@dataclass(frozen=True)
class Phrases:
    """The wordings in one language. names: of languages, (name, stem)."""

    names: Mapping[str, tuple[str, str]]
    separate: tuple[Template, ...]
    inline: tuple[Template, ...]
    sha256: str

    def group(self, separate: bool) -> tuple[Template, ...]:
        """The wordings whose text stands apart, or those whose text doesn't."""
        return self.separate if separate else self.inline

    def fill(self, template: Template, source: str, target: str, text: str) -> str:
        """A wording about a text in `source` that is wanted in `target`."""
        (one, one_stem), (other, other_stem) = self.names[source], self.names[target]
        return template.text.format(
            text=text,
            source=one,
            target=other,
            Source=one[0].upper() + one[1:],
            Target=other[0].upper() + other[1:],
            source_stem=one_stem,
            target_stem=other_stem,
        )


def is_sentence(text: str) -> bool:
    """Whether a text looks like exactly one sentence."""
    return END.search(text) is not None and INNER_END.search(text) is None


def translation(language: str, path: Path | None = None) -> Phrases:
    """The wordings in a language, from a file of one's own or from ours; ConfigError for a file that has it wrong."""
    path = path or project_file(f"training/instructions/translation-{language}.yaml")
    row = read_yaml(path, str(path))
    if not isinstance(row, Mapping) or not {"separate", "inline"} <= set(row) <= {"names", *GROUPS}:
        raise ConfigError(f"{path} has to hold separate and inline, and may hold names and {', '.join(GROUPS[1::2])}.")
    groups = {group: _templates(row.get(group) or [], group, path) for group in GROUPS}
    for group in ("separate", "inline"):
        if not any(not template.quotes for template in groups[group]):
            raise ConfigError(
                f"{path}, {group}: a wording without quotation marks is needed, for texts that have some."
            )
    return Phrases(
        _names(row.get("names"), path),
        groups["separate"] + groups["separate_sentence"],
        groups["inline"] + groups["inline_sentence"],
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _templates(rows: Any, group: str, path: Path) -> tuple[Template, ...]:
    if not isinstance(rows, list):
        raise ConfigError(f"{path}, {group} has to be a list of wordings.")
    for row in rows:
        slots = _slots(row, f"{path}, {group}")
        if slots.count("text") != 1 or not set(slots) - {"text"} <= SLOTS:
            raise ConfigError(
                f"{path}, {group}: {row!r} needs {{text}} once, and else only {', '.join(sorted(SLOTS))}."
            )
    return tuple(Template(row, group.endswith("sentence")) for row in rows)


def _names(row: Any, path: Path) -> dict[str, tuple[str, str]]:
    fits = isinstance(row, Mapping) and all(isinstance(names, list) and names for names in row.values())
    if not fits or not set(NAMED) <= set(row):
        raise ConfigError(f"{path}, names has to say what {', '.join(NAMED)} are called, each as a list.")
    return {str(code): (str(names[0]), str(names[-1])) for code, names in row.items()}


def _slots(row: Any, where: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(row) if name is not None]
    except (ValueError, TypeError):
        raise ConfigError(f"{where}: {row!r} is no wording: braces only stand for what is filled in.") from None


@cache
def alpaca(language: str) -> tuple[str, ...]:
    """How instruction and input become one message, in a language."""
    path = project_file("training/instructions/alpaca.yaml")
    row = read_yaml(path, str(path))
    return tuple(row[language if language in row else "other"])


@cache
def digest() -> str:
    """Hash of all our wordings."""
    files = [f"translation-{language}.yaml" for language in TRANSLATION] + ["alpaca.yaml"]
    texts = [project_file(f"training/instructions/{file}").read_bytes() for file in files]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()
