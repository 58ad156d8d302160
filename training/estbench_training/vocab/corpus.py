"""The texts that a vocabulary is learnt on: sources as a prepare stage reads them, in NFC, up to so many characters.

corpus = read(settings, context)
corpus.texts, corpus.characters["et"]
corpus.sieve.result                     # how tests were kept out of them
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from estbench.errors import DataError
from estbench_training.kinds import Context
from estbench_training.prepare import sources
from estbench_training.prepare.settings import SourceSettings
from estbench_training.sieve import REASON, Sieve
from estbench_training.vocab.settings import VocabSettings

MEASURED = 100_000  # characters of a source that fertility is measured on


@dataclass(frozen=True)
class Corpus:
    """Texts in the order of the sources. By source: characters, the commit on the Hub, texts to measure on."""

    texts: tuple[str, ...]
    characters: Mapping[str, int]
    commits: Mapping[str, str | None]
    samples: Mapping[str, str]
    sieve: Sieve  # what has been kept out


def read(settings: VocabSettings, context: Context) -> Corpus:
    """The texts of a stage that hold no part of a test, in memory. DataError where a source can't be read or gives
    nothing, or the data of a test is not here."""
    files = {name: sources.opened(name, source, context.path) for name, source in settings.data.items()}
    sieve = Sieve(settings.decontaminate, context)
    texts: list[str] = []
    characters, commits, samples = {}, {}, {}
    for name, source in settings.data.items():
        commits[name] = sources.commit_of(source)
        stream = sources.batches(source, files[name], context.seed, commits[name], 0)
        before = sieve.removed
        found = _some(sieve.keep(_documents(stream, source), lambda text: text), settings.most_of(name))
        characters[name] = sum(map(len, found))
        left = f" (left out: {REASON} {gone:,})" if (gone := sieve.removed - before) else ""
        if not characters[name]:
            shown = source.path or source.hub or f"demo {source.demo}"
            raise DataError(f"Source {name} is empty: {shown} holds no text{left}, name one that does.")
        texts += found
        samples[name] = "\n".join(found).strip()[:MEASURED]
        context.say(f"{name}: {len(found):,} documents, {characters[name]:,} characters{left}")
    return Corpus(tuple(texts), characters, commits, samples, sieve)


def _documents(stream: Iterable[sources.Batch], source: SourceSettings) -> Iterator[str]:
    """The texts of a source in NFC, as many as its `limit` says."""
    left = source.limit
    for batch in stream:
        for document in sources.documents(batch, source.field, source.damaged).documents:
            text = unicodedata.normalize("NFC", document.text)
            if text.strip():
                yield text
                left = None if left is None else left - 1
            if left == 0:
                return


def _some(texts: Iterable[str], most: int) -> list[str]:
    """Whole texts until there are so many characters; of the last one only what is needed."""
    found: list[str] = []
    for text in texts:
        if some := text[:most]:
            found.append(some)
            most -= len(some)
        if not most:
            break
    return found
