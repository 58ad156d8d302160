"""M2, the file format of error annotations, and the rows of the Estonian corpora that come in it.

    rows, warnings = read_m2(text, "dev/source_gold_dev.txt")
    rows[0]     {"source_tokens": ["Mulle", …], "edits": [{"annotator": 0, "start": 0, "end": 1, …}]}
    warnings    ["dev/source_gold_dev.txt, line 1: CRLF line ends", …]

A block is an S line (source tokens) and its A lines (edits); it ends where the next S line begins, so that a missing
empty line between two blocks changes nothing. What can't be read is a DataError with file and line; what is odd but
clear is read, and listed as a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from estbench.errors import DataError

Row = dict[str, Any]
NOTHING = ("-NONE-", "-NONE")  # a correction that deletes
_CLOSING = (*".,:;?!)]%”“»…", "...")
_OPENING = ("(", "[", "„", "«")
_EDIT = re.compile(r"A (-?\d+) (-?\d+)\|\|\|(.*)", re.DOTALL)


@dataclass
class _Block:
    line: int
    tokens: list[str]
    joined: bool  # no empty line stands before it, though there should
    edits: list[Row] = field(default_factory=list)


class _Reader:
    """The blocks of one file, and what is odd in it."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.warnings: list[str] = []
        if text.startswith("\ufeff"):
            text = text[1:]
            self._odd(1, "a byte order mark")
        if "\r\n" in text:
            self._odd(text[: text.index("\r\n")].count("\n") + 1, "CRLF line ends")
        self.lines = text.replace("\r\n", "\n").split("\n")
        self.blocks = list(self._blocks())
        if not self.blocks:
            raise DataError(f"{name} has no sentence: a line that begins with 'S ' is missing. Is it an M2 file?")
        for block in self.blocks:
            self._check(block)

    def _blocks(self) -> Iterator[_Block]:
        block: _Block | None = None
        empty = True
        for number, line in enumerate(self.lines, start=1):
            if line == "S" or line.startswith("S "):
                if block:
                    yield block
                if not empty:
                    self._odd(number, "no empty line before the sentence")
                block = _Block(number, line[2:].split(), joined=not empty)
                if not block.tokens:
                    raise self._broken(number, "a sentence without words")
            elif line.startswith("A "):
                if block is None:
                    raise self._broken(number, "an edit before the first sentence")
                if empty:
                    self._odd(number, "an empty line inside the block")
                block.edits.append(self._edit(number, line, len(block.tokens)))
            elif line.strip():
                raise self._broken(number, f"{line[:40]!r} is neither a sentence (S …) nor an edit (A …)")
            empty = not line.strip()
        if block:
            yield block

    def _edit(self, number: int, line: str, length: int) -> Row:
        match = _EDIT.fullmatch(line)
        parts = match[3].split("|||") if match else []
        if not match or len(parts) != 5:
            raise self._broken(number, "an edit is 'A START END|||TYPE|||CORRECTION|||…|||…|||ANNOTATOR'")
        start, end = int(match[1]), int(match[2])
        kind, correction, annotator = parts[0].strip(), parts[1], parts[-1].strip()
        if not annotator.isdecimal():
            raise self._broken(number, f"the annotator {annotator!r} is no number")
        edit: Row = {"annotator": int(annotator), "start": start, "end": end, "type": kind, "corrections": [""]}
        if kind == "noop":
            if (start, end) != (-1, -1):
                self._odd(number, f"noop at {start} {end} instead of -1 -1")
                edit |= {"start": -1, "end": -1}
            return edit
        if not 0 <= start <= end:
            raise self._broken(number, f"{start} {end} is no stretch of words")
        if end > length:  # L1 has one such edit; it counts as gold, and nothing can match it
            self._odd(number, f"the edit {start} {end} ends outside the sentence of {length} words")
        return edit | {"corrections": self._corrections(number, correction)}

    def _corrections(self, number: int, text: str) -> list[str]:
        """The alternatives; a deletion is an empty text."""
        found = []
        for alternative in text.split("||"):
            plain = " ".join(alternative.split())
            if plain == "-NONE":
                self._odd(number, "-NONE instead of -NONE-")
            elif plain != alternative:
                self._odd(number, "needless spaces in a correction")
            found.append("" if plain in NOTHING else plain)
        return list(dict.fromkeys(found))

    def _check(self, block: _Block) -> None:
        """Oddities of a whole block: edits of one annotator that clash, annotators that are skipped."""
        ids = sorted({edit["annotator"] for edit in block.edits})
        if ids and ids != list(range(len(ids))):
            self._odd(block.line, f"annotators {', '.join(map(str, ids))}: one is skipped")
        for annotator in ids:
            own = [edit for edit in block.edits if edit["annotator"] == annotator]
            if len(own) > 1 and any(edit["type"] == "noop" for edit in own):
                self._odd(block.line, f"annotator {annotator} has edits beside noop")
            # word-order edits contain others by design
            plain = sorted((e["start"], e["end"]) for e in own if e["type"] not in ("R:WO", "noop"))
            if any(second[0] < first[1] for first, second in pairwise(plain)):
                self._odd(block.line, f"edits of annotator {annotator} overlap")

    def _odd(self, line: int, what: str) -> None:
        self.warnings.append(f"{self.name}, line {line}: {what}")

    def _broken(self, line: int, what: str) -> DataError:
        return DataError(f"{self.name}, line {line}: {what}. Correct the file or fetch it again.")


def read_m2(text: str, name: str) -> tuple[list[Row], list[str]]:
    """The sentences of an M2 file (`name` is for messages), and warnings with line numbers.

    A row is {source_tokens, edits}; an edit is {annotator, start, end, type, corrections}, where corrections are the
    alternatives ("" deletes) and noop has the span -1 -1. DataError where the file can't be read.
    """
    reader = _Reader(text, name)
    return [{"source_tokens": block.tokens, "edits": block.edits} for block in reader.blocks], reader.warnings


def estgec_l2_rows(texts: Mapping[str, str]) -> list[Row]:
    """Rows {source, source_tokens, edits, target, text} of EstGEC-L2: its merged gold file and its running sentences.

    The published gold file lacks the empty line between two blocks only where a new learner's text begins, but not at
    each such place: `text` numbers the stretches between them, one to a few whole texts each. Where a file has no such
    place each sentence has a number of its own. `target` is the sentence as the first annotator would have it.
    """
    gold, sentences = _gold_and_sentences(texts, "_detokenized")
    reader = _Reader(texts[gold], gold)
    starts = sum(block.joined for block in reader.blocks)
    rows, text = [], 0
    for place, (block, source) in enumerate(_paired(reader, texts[sentences], sentences)):
        text += block.joined
        number = text if starts else place
        rows.append({**_row(block, source, block.edits), "text": number})
    return rows


def estgec_l1_rows(texts: Mapping[str, str]) -> list[Row]:
    """Rows {source, source_tokens, edits, target} of EstGEC-L1: its M2 file and its sentences, shuffled by its makers.

    The file has edits in any order, and what stands out of order is passed over when edits are counted: the corrections
    themselves would get F0.5 .946. So they are put in the order of the sentence (.984: some edits exclude each other).
    """
    gold, sentences = _gold_and_sentences(texts, "_laused")
    reader = _Reader(texts[gold], gold)
    order = itemgetter("annotator", "start", "end")
    return [
        _row(block, source, sorted(block.edits, key=order))
        for block, source in _paired(reader, texts[sentences], sentences)
    ]


def _row(block: _Block, source: str, edits: list[Row]) -> Row:
    target = running_text(first_correction(block.tokens, edits))
    return {"source": source, "source_tokens": block.tokens, "edits": edits, "target": target}


def first_correction(tokens: Sequence[str], edits: Sequence[Row]) -> list[str]:
    """The tokens with the first annotator's corrections (first alternatives): word order first, then the others as far
    as they don't clash with one before."""
    first = min((edit["annotator"] for edit in edits), default=0)
    own = [e for e in edits if e["annotator"] == first and e["type"] != "noop" and e["end"] <= len(tokens)]
    taken: list[Row] = []
    for edit in sorted(own, key=lambda e: e["type"] != "R:WO"):
        if not any(edit["start"] < other["end"] and other["start"] < edit["end"] for other in taken):
            taken.append(edit)
    result = list(tokens)
    place = {id(edit): number for number, edit in enumerate(own)}
    # from the end; of two edits at one place the later one in the file first, an insertion after what it stands before
    for edit in sorted(taken, key=lambda e: (e["start"], e["end"], place[id(e)]), reverse=True):
        result[edit["start"] : edit["end"]] = edit["corrections"][0].split()
    return result


def running_text(tokens: Sequence[str]) -> str:
    """Tokens as a sentence is written: signs close up to the word they belong to, " opens and closes in turn."""
    text, open_quote, glued = "", False, True
    for token in tokens:
        closes = token in _CLOSING or (token == '"' and open_quote)
        text += token if glued or closes else f" {token}"
        if token == '"':
            open_quote = not open_quote
        glued = token in _OPENING or (token == '"' and open_quote)
    return text


def _gold_and_sentences(texts: Mapping[str, str], ending: str) -> tuple[str, str]:
    """The paths of the M2 file and of the running sentences, whose name has that ending."""
    sentences = [path for path in texts if PurePosixPath(path).stem.endswith(ending)]
    gold = [path for path in texts if path not in sentences]
    if len(gold) != 1 or len(sentences) != 1:
        raise DataError(
            f"An M2 file and its sentences (*{ending}.txt) are needed, not {', '.join(texts) or 'nothing'}."
        )
    return gold[0], sentences[0]


def _paired(reader: _Reader, text: str, name: str) -> Iterator[tuple[_Block, str]]:
    """Each block with its running sentence; DataError where the two are not the same but for spaces."""
    sentences = [" ".join(line.split()) for line in text.removeprefix("\ufeff").splitlines()]
    while sentences and not sentences[-1]:
        sentences.pop()
    if len(sentences) != len(reader.blocks):
        raise DataError(f"{name} has {len(sentences)} sentences, {reader.name} {len(reader.blocks)}: fetch both again.")
    for number, (block, sentence) in enumerate(zip(reader.blocks, sentences, strict=True), start=1):
        if "".join(block.tokens) != sentence.replace(" ", ""):
            where = f"{name}, line {number}"
            raise DataError(f"{where} is not the sentence of {reader.name}, line {block.line}: fetch both again.")
        yield block, sentence
