"""Which documents are left out before duplicates are looked for, and what is kept of the others."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.estonian.language import UNKNOWN, code_of, identify
from estbench_training.prepare import near
from estbench_training.prepare.decontaminate import Finder
from estbench_training.prepare.settings import OWN, DuplicateSettings, FilterSettings, SourceSettings
from estbench_training.prepare.sources import Batch, documents

SAMPLE = 200  # characters at the beginning, in the middle and at the end that tell the language of a longer text


@dataclass(frozen=True, slots=True)
class Job:
    """What a process has to know to clean a source's batches."""

    source: SourceSettings
    filters: FilterSettings
    duplicates: DuplicateSettings
    tests: Path | None  # the folder of the index of tests
    with_near: bool = False  # near-duplicates of tests, too


@dataclass(slots=True)
class Cleaned:
    """What is left of a batch, and why the others went."""

    texts: list[str]
    records: NDArray[np.uint64]  # (texts, 3): 128 bits of hash, bytes as UTF-8
    signatures: near.Signatures  # (texts, permutations); no columns if near-duplicates stay
    read: int  # rows, damaged ones included
    dropped: Counter[str]
    contaminated: list[dict[str, Any]] = field(default_factory=list)  # where, id, sha256, finds


class Cleaner:
    """Reads and cleans batches."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.finder = Finder(job.tests, job.with_near) if job.tests is not None else None
        self.languages = _languages(job.filters, job.source)

    def __call__(self, batch: Batch, most: int | None = None) -> Cleaned:
        source = self.job.source
        read = documents(batch, source.field, source.damaged, most)
        dropped = Counter({"damaged": read.damaged} if read.damaged else {})
        kept = []
        for document in read.documents:
            document.text = unicodedata.normalize("NFC", document.text)
            reason = self._reason(document.text)
            if reason is None:
                kept.append(document)
            else:
                dropped[reason] += 1
        finds = self.finder.find([document.text for document in kept]) if self.finder else {}
        contaminated = [
            {
                "place": f"{batch.place}:{kept[number].line}",
                "id": kept[number].id,
                "sha256": hashlib.sha256(kept[number].text.encode()).hexdigest(),
                "finds": found,
            }
            for number, found in finds.items()
        ]
        if finds:
            dropped["contaminated"] += len(finds)
        texts = [document.text for number, document in enumerate(kept) if number not in finds]
        permutations = self.job.duplicates.permutations if self.job.duplicates.near else 0
        return Cleaned(
            texts,
            _records(texts),
            near.signatures(texts, permutations),
            len(read.documents) + read.damaged,
            dropped,
            contaminated,
        )

    def _reason(self, text: str) -> str | None:
        """Why a text is left out, or None."""
        filters = self.job.filters
        length = len(text.strip())
        if not length:
            return "empty"
        if not _is_unicode(text):
            return "not_unicode"
        if length < filters.min_characters:
            return "too_short"
        if filters.max_characters is not None and length > filters.max_characters:
            return "too_long"
        if not self.languages:
            return None
        found = identify(sample(text))
        if found == UNKNOWN:
            return None if filters.unknown == "keep" else "unknown_language"
        return None if found in self.languages else "other_language"


def _languages(filters: FilterSettings, source: SourceSettings) -> frozenset[str]:
    names = [source.tongue if name == OWN else name for name in filters.languages or ()]
    return frozenset(code for name in names if (code := code_of(name)) is not None)


def sample(text: str) -> str:
    """The part of a text by which its language is told."""
    if len(text) <= 3 * SAMPLE:
        return text
    middle = (len(text) - SAMPLE) // 2
    return "\n".join((text[:SAMPLE], text[middle : middle + SAMPLE], text[-SAMPLE:]))


def _is_unicode(text: str) -> bool:
    """Whether it can be written: JSON can hold halves of characters (\\ud800)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _records(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Of each text 128 bits of hash, white space at its ends left out, and its bytes; uint64 (texts, 3)."""
    found = np.empty((len(texts), 3), np.uint64)
    encoded = [text.encode() for text in texts]
    hashes = b"".join(hashlib.blake2b(one.strip(), digest_size=16).digest() for one in encoded)
    found[:, :2] = np.frombuffer(hashes, "<u8").reshape(-1, 2)
    found[:, 2] = [len(one) for one in encoded]
    return found
