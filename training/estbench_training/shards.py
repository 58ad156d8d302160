"""Token shards: the documents of a source as memory-mapped files of token ids, with checksums that name the place.

    shards = Shards.open(Path("corpus-…/shards/et"), tokenizer_hash(model_folder))
    shards.read(start, 4096)          # uint32 (4096,): the source's tokens as a circle
    shards.boundaries(start, 4096)    # where in there documents begin

A folder holds `manifest.json` (written last), and per part `00000.bin`, the tokens of whole documents one after another
(uint32, little-endian), and `00000.idx`, where in it each document begins and the last one ends (int64, documents + 1).
A document is its tokens (with a BOS if the tokenizer puts one in front) and the EOS.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench import identity
from estbench.errors import DataError, ModelError, StoreError
from estbench.runs import write_json

SCHEMA = 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
CHUNK = 1 << 24  # bytes that a checksum is kept of, so that damage is found to within 16 MiB
PART_TOKENS = 1 << 27  # a part is closed by the document that fills it: 512 MiB
TOKEN, OFFSET = np.dtype("<u4"), np.dtype("<i8")
AGAIN = "run its prepare stage again"

Tokens = NDArray[np.uint32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Part:
    tokens: NDArray[np.uint32]  # (tokens,), mapped
    offsets: NDArray[np.int64]  # (documents + 1,), mapped


class Shards:
    """A source's shards. Positions are in its token stream, 0 … tokens - 1, and go round: -1 is the last token."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], parts: list[_Part]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.documents = int(manifest["documents"])
        self.tokens = int(manifest["tokens"])
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.tokens) for part in parts)])

    @classmethod
    def open(cls, folder: Path, tokenizer_hash: str | None = None, verify: bool = False) -> Shards:
        """The shards of a folder. verify: read all files and compare them with their checksums.

        Raises DataError where they are not whole, hold no token, or were made with another tokenizer than
        `tokenizer_hash` says; of a damaged file it names the first bad 16 MiB.
        """
        manifest = _manifest(folder)
        made_with = manifest["tokenizer"]
        if tokenizer_hash is not None and made_with["hash"] != tokenizer_hash:
            raise DataError(
                f"{folder} was made with another tokenizer ({made_with['name']}, {made_with['hash'][:12]}) than the "
                f"model's ({tokenizer_hash[:12]}): prepare the data with the model's tokenizer."
            )
        parts = [_part(folder, row) for row in manifest["parts"]]
        found = cls(folder, manifest, parts)
        if not found.tokens or found._starts[-1] != found.tokens:
            raise DataError(f"{folder} holds {found._starts[-1]:,} tokens, not the {found.tokens:,} of its manifest.")
        if verify:
            found.verify()
        return found

    def check(self) -> None:
        """`verify`, of the files alone whose content was never seen to be that of the manifest (by their times)."""
        rows = [file for row in self.manifest["parts"] for file in (row["bin"], row["idx"])]
        found = identity.FileHashes().of([self.folder / file["file"] for file in rows])
        if any(found[self.folder / file["file"]][0] != file["sha256"] for file in rows):
            self.verify()

    def verify(self) -> None:
        """Compare every file with its checksums; DataError names the first file and the bytes that are damaged."""
        for row in self.manifest["parts"]:
            for file in (row["bin"], row["idx"]):
                _verify(self.folder / file["file"], file, int(self.manifest["chunk_bytes"]))

    def lengths(self) -> Numbers:
        """Tokens of each document, int64 (documents,)."""
        return np.concatenate([np.diff(part.offsets) for part in self._parts]).astype(np.int64)

    def read(self, start: int, count: int) -> Tokens:
        """`count` tokens from position `start` on, uint32 (count,); behind the last token comes the first."""
        found = np.empty(count, np.uint32)
        for part, low, high, at in self._stretches(start, count):
            found[at : at + high - low] = part.tokens[low:high]
        return found

    def boundaries(self, start: int, count: int) -> Numbers:
        """Where in `read(start, count)` documents begin, int64, in order."""
        found = [np.zeros(0, np.int64)]
        for part, low, high, at in self._stretches(start, count):
            first, behind = np.searchsorted(part.offsets[:-1], (low, high))
            found.append(part.offsets[first:behind] - low + at)
        return np.concatenate(found)

    def _stretches(self, start: int, count: int) -> Iterator[tuple[_Part, int, int, int]]:
        """(part, first token in it, the one behind the last, place in what is read) of what is to be read."""
        done, position = 0, start % self.tokens
        while done < count:
            number = int(np.searchsorted(self._starts, position, "right")) - 1
            part, low = self._parts[number], position - int(self._starts[number])
            high = min(len(part.tokens), low + count - done)
            yield part, low, high, done
            done += high - low
            position = (position + high - low) % self.tokens


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        row = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        reason = f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
        raise DataError(f"{folder} holds no finished shards, {reason}: {AGAIN}.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({error}): {AGAIN}.") from None
    if not isinstance(row, dict) or row.get("schema") != SCHEMA:
        raise DataError(f"{path} is no manifest of shards of this version ({SCHEMA}): {AGAIN}.")
    try:
        row["tokenizer"]["hash"], row["tokenizer"]["name"], row["tokens"], row["chunk_bytes"]
        [(file["file"], file["sha256"]) for part in row["parts"] for file in (part["bin"], part["idx"])]
    except (KeyError, TypeError):
        raise DataError(f"{path} lacks a part of what every manifest of shards has: {AGAIN}.") from None
    return row


def _part(folder: Path, row: Mapping[str, Any]) -> _Part:
    """A part, mapped; DataError where a file is missing, has another size, or the two don't fit."""
    for file in (row["bin"], row["idx"]):
        path = folder / file["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            what = "is missing" if size is None else f"has {size:,} bytes, not {file['bytes']:,}"
            raise DataError(f"{path} {what}: copy it again, or {AGAIN}.")
    tokens = np.memmap(folder / row["bin"]["file"], TOKEN, "r")
    offsets = np.memmap(folder / row["idx"]["file"], OFFSET, "r")
    if offsets[0] != 0 or offsets[-1] != len(tokens) or len(offsets) != row["documents"] + 1:
        raise DataError(f"{folder / row['idx']['file']} doesn't fit {row['bin']['file']}: copy both, or {AGAIN}.")
    return _Part(np.asarray(tokens), np.asarray(offsets))


def _verify(path: Path, file: Mapping[str, Any], size: int) -> None:
    whole = hashlib.sha256()
    with open(path, "rb") as stream:
        for number, expected in enumerate(file["chunks"]):
            data = stream.read(size)
            whole.update(data)
            if zlib.crc32(data) != expected:
                begin = number * size
                raise DataError(
                    f"{path} is damaged between byte {begin:,} and {begin + len(data):,} (checksum): copy it again, or "
                    f"{AGAIN}."
                )
    if whole.hexdigest() != file["sha256"]:
        raise DataError(f"{path} is not the file of its manifest (sha256): copy it again, or {AGAIN}.")


class _Summed:
    """A file that is written front to back under another name, and summed on the way."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.part")
        self.bytes = 0
        self._whole = hashlib.sha256()
        self._chunks: list[int] = []
        self._file = open(self.temporary, "wb")  # noqa: SIM115  closed by `finish` or `drop`

    def write(self, array: NDArray[Any]) -> None:
        data = memoryview(array.tobytes())
        self._file.write(data)
        self._whole.update(data)
        while len(data):
            if self.bytes % CHUNK == 0:
                self._chunks.append(0)
            piece = data[: CHUNK - self.bytes % CHUNK]
            self._chunks[-1] = zlib.crc32(piece, self._chunks[-1])
            self.bytes += len(piece)
            data = data[len(piece) :]

    def close(self) -> None:
        """All of it is on the disk, still under its other name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def finish(self) -> dict[str, Any]:
        """The file under its name; what the manifest says of it."""
        os.replace(self.temporary, self.path)
        sums = {"sha256": self._whole.hexdigest(), "chunks": self._chunks}
        return {"file": self.path.name, "bytes": self.bytes, **sums}

    def drop(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what could not be written is not wanted
        finally:
            self.temporary.unlink(missing_ok=True)


class Writer:
    """Writes shards, part by part; what a killed process finished is kept.

        with Writer(folder, {"hash": …, "name": …, "vocab_size": …, "bos": …, "eos": …}) as writer:
            for tokens, lengths in encoded(skip=writer.documents):
                writer.add(tokens, lengths)
            writer.finish({"source": "et", "licence": "cc0-1.0"})

    A part appears under its name whole or not at all. Its borders depend on the documents alone, so that the files are
    the same however often the work was interrupted.
    """

    def __init__(self, folder: Path, tokenizer: Mapping[str, Any], part_tokens: int = PART_TOKENS) -> None:
        self.folder, self.part_tokens = folder, part_tokens
        self._begun = {"schema": SCHEMA, "tokenizer": dict(tokenizer), "part_tokens": part_tokens}
        folder.mkdir(parents=True, exist_ok=True)
        self.parts: list[dict[str, Any]] = self._left()
        self._open: tuple[_Summed, _Summed] | None = None
        self._tokens = self._documents = 0  # of the open part

    def _left(self) -> list[dict[str, Any]]:
        """The parts that an interrupted run finished, if it had the same tokenizer and size of parts."""
        try:
            row = json.loads((self.folder / PROGRESS).read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return list(row["parts"]) if {name: row.get(name) for name in self._begun} == self._begun else []

    @property
    def documents(self) -> int:
        """Documents that are written so far, those of an interrupted run included."""
        return sum(int(part["documents"]) for part in self.parts) + self._documents

    @property
    def tokens(self) -> int:
        """Tokens that are written so far."""
        return sum(int(part["tokens"]) for part in self.parts) + self._tokens

    def add(self, tokens: Tokens, lengths: Numbers) -> None:
        """Documents, one after another: their tokens (sum of lengths,), EOS included, and the length of each, > 0.

        Raises StoreError where they can't be written (disk full): what was finished stays.
        """
        try:
            ends = np.cumsum(lengths)
            first = begin = 0
            while first < len(lengths):
                room = self.part_tokens - self._tokens
                behind = min(len(ends), int(np.searchsorted(ends, begin + room)) + 1)
                end = int(ends[behind - 1])
                self._write(tokens[begin:end], ends[first:behind] - begin)
                if self._tokens >= self.part_tokens:
                    self._close()
                first, begin = behind, end
        except OSError as error:
            raise self._failure(error) from None

    def _write(self, tokens: Tokens, ends: Numbers) -> None:
        if self._open is None:
            stem = f"{len(self.parts):05d}"
            bin_file = _Summed(self.folder / f"{stem}.bin")
            self._open = bin_file, _Summed(self.folder / f"{stem}.idx")
            self._open[1].write(np.zeros(1, OFFSET))
        self._open[0].write(tokens.astype(TOKEN, copy=False))
        self._open[1].write((ends + self._tokens).astype(OFFSET, copy=False))
        self._tokens += len(tokens)
        self._documents += len(ends)

    def _close(self) -> None:
        """Finish the open part, and note it: from here an interrupted run goes on."""
        if self._open is None:
            return
        bin_file, idx_file = self._open
        bin_file.close()
        idx_file.close()
        row = {"documents": self._documents, "tokens": self._tokens, "bin": bin_file.finish(), "idx": idx_file.finish()}
        self._open, self._tokens, self._documents = None, 0, 0
        self.parts.append(row)
        write_json(self.folder / PROGRESS, {**self._begun, "parts": self.parts})

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Close the last part and write the manifest, with `facts` on the source. DataError if there is no document."""
        try:
            self._close()
            if not self.parts:
                raise DataError(f"{self.folder.name} has no document left to write: look at its source and filters.")
            head = {"schema": SCHEMA, **facts, "tokenizer": self._begun["tokenizer"], "chunk_bytes": CHUNK}
            counts = {"documents": self.documents, "tokens": self.tokens, "parts": self.parts}
            write_json(self.folder / MANIFEST, head | counts)
            (self.folder / PROGRESS).unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> StoreError:
        self._drop()
        return StoreError(
            f"{self.folder} can't be written ({error.strerror or error}): make room, then run the same command, which "
            f"goes on from {len(self.parts)} finished part{'' if len(self.parts) == 1 else 's'}."
        )

    def _drop(self) -> None:
        for file in self._open or ():
            file.drop()
        self._open, self._tokens, self._documents = None, 0, 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checkpoint; ModelError where there is none."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"The tokenizer in {folder} can't be loaded ({reason[:200]}): save it again.") from None
    if not getattr(found, "is_fast", False):
        raise ModelError(f"The tokenizer in {folder} has no tokenizer.json: save it as a fast tokenizer.")
    return found


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what decides a plain text's token ids; of a checkpoint's folder, or its loaded fast tokenizer.

    Vocabulary, merges, normaliser, splitting, added tokens and what is put in front count; chat template, length limit,
    padding and decoding don't, nor do fields that are off (newer versions of the library write more of them).
    """
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(Path(tokenizer))
    row = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens")
    return identity.digest({name: _switched_on(row.get(name)) for name in parts})


def _switched_on(value: Any) -> Any:
    """Without the keys that are null or false."""
    if isinstance(value, dict):
        return {key: _switched_on(part) for key, part in value.items() if part is not None and part is not False}
    if isinstance(value, list):
        return [_switched_on(part) for part in value]
    return value
