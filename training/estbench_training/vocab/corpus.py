"""The texts that a vocabulary is learnt on: sources as a prepare stage reads them, in NFC, up to so many characters.

corpus = read(settings, context)
corpus.texts, corpus.characters["et"]
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from estbench.errors import DataError
from estbench_training.kinds import Context
from estbench_training.prepare import sources
from estbench_training.prepare.settings import SourceSettings
from estbench_training.vocab.settings import VocabSettings

MEASURED = 100_000  # characters of a source that fertility is measured on


@dataclass(frozen=True)
class Corpus:
    """Texts in the order of the sources. By source: characters, the commit on the Hub, texts to measure on."""

    texts: tuple[str, ...]
    characters: Mapping[str, int]
    commits: Mapping[str, str | None]
    samples: Mapping[str, str]


def read(settings: VocabSettings, context: Context) -> Corpus:
    """The texts of a stage, in memory. DataError where a source can't be read or holds nothing."""
    files = {name: sources.opened(name, source, context.path) for name, source in settings.data.items()}
    texts: list[str] = []
    characters, commits, samples = {}, {}, {}
    for name, source in settings.data.items():
        commits[name] = sources.commit_of(source)
        stream = sources.batches(source, files[name], context.seed, commits[name], 0)
        found = _some(stream, source, settings.most_of(name))
        characters[name] = sum(map(len, found))
        if not characters[name]:
            shown = source.path or source.hub or f"demo {source.demo}"
            raise DataError(f"Source {name} is empty: {shown} holds no text, name one that does.")
        texts += found
        samples[name] = "\n".join(found)[:MEASURED]
        context.say(f"{name}: {len(found):,} documents, {characters[name]:,} characters")
    return Corpus(tuple(texts), characters, commits, samples)


def _some(stream: Iterable[sources.Batch], source: SourceSettings, most: int) -> list[str]:
    """Whole documents until there are so many characters; of the last one only what is needed."""
    found: list[str] = []
    left, documents = most, source.limit
    for batch in stream:
        for document in sources.documents(batch, source.field, source.damaged).documents:
            text = unicodedata.normalize("NFC", document.text)[:left]
            if text.strip():
                found.append(text)
                left -= len(text)
                documents = None if documents is None else documents - 1
            if left <= 0 or documents == 0:
                return found
    return found
