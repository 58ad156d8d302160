"""What is left of a source after the filters, in pieces on disk, with which an interrupted run goes on.

A piece is four files: texts (Arrow, zstd), records and signatures (raw arrays, mapped when read), contaminated rows,
and NNNNN.json, written last: without it the piece counts for nothing and is made again. So memory depends on no
source's size.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.runs import write_json
from estbench_training.prepare.filters import Cleaned
from estbench_training.prepare.near import Signatures

BYTES, DOCUMENTS = 1 << 26, 1 << 16  # after which a piece is closed
FINISHED = "finished.json"


@dataclass(frozen=True)
class Piece:
    """A finished piece."""

    stem: Path
    documents: int
    batches: int  # of the source that were used up to its end
    read: int
    dropped: dict[str, int]

    def texts(self) -> Iterator[list[str]]:
        """Its documents, some at once."""
        import pyarrow

        with pyarrow.OSFile(f"{self.stem}.arrow") as file, pyarrow.ipc.open_stream(file) as stream:
            for batch in stream:
                yield batch.column(0).to_pylist()

    def records(self) -> NDArray[np.uint64]:
        """(documents, 3): 128 bits of hash, bytes as UTF-8; mapped."""
        return _mapped(f"{self.stem}.records", np.uint64, (self.documents, 3))

    def signatures(self, permutations: int) -> Signatures:
        """(documents, permutations), mapped."""
        return _mapped(f"{self.stem}.signatures", np.uint32, (self.documents, permutations))

    def contaminated(self) -> Iterator[dict[str, Any]]:
        """Where, id, sha256 and finds of the documents that hold parts of tests."""
        with open(f"{self.stem}.contaminated", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _mapped(path: str, kind: type[Any], shape: tuple[int, int]) -> NDArray[Any]:
    if not shape[0] * shape[1]:
        return np.zeros(shape, kind)
    return np.asarray(np.memmap(path, kind, "r", shape=shape))


class Pieces:
    """The pieces of a source: those that are there, and one that is being written.

    with Pieces(folder) as pieces:
        for cleaned in …: pieces.add(cleaned)
        pieces.finish()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.finished = (folder / FINISHED).exists()
        self.all: list[Piece] = []
        while (made := self._made(len(self.all))) is not None:
            self.all.append(made)
        self.batches = self.all[-1].batches if self.all else 0
        self._open: _Open | None = None

    def _stem(self, number: int) -> Path:
        return self.folder / f"{number:05d}"

    def _made(self, number: int) -> Piece | None:
        stem = self._stem(number)
        try:
            row = json.loads(stem.with_suffix(".json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return Piece(stem, **row)

    @property
    def read(self) -> int:
        """Documents that could be read so far, those that were left out included."""
        pieces = sum(piece.read - piece.dropped.get("damaged", 0) for piece in self.all)
        return pieces + (self._open.read - self._open.dropped["damaged"] if self._open else 0)

    def add(self, cleaned: Cleaned) -> None:
        """The next batch of the source."""
        if self._open is None:
            self._open = _Open(self._stem(len(self.all)))
        self._open.add(cleaned)
        self.batches += 1
        if self._open.bytes >= BYTES or self._open.documents >= DOCUMENTS:
            self._close()

    def _close(self) -> None:
        if self._open is not None:
            self.all.append(self._open.finish(self.batches))
            self._open = None

    def finish(self) -> None:
        """The source has no more."""
        self._close()
        write_json(self.folder / FINISHED, {"pieces": len(self.all)})
        self.finished = True

    def __enter__(self) -> Pieces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.files.close()
            self._open = None


class _Open:
    """A piece that is being written."""

    def __init__(self, stem: Path) -> None:
        import pyarrow

        self.stem = stem
        self.documents = self.read = self.bytes = 0
        self.dropped: Counter[str] = Counter()
        self.files = ExitStack()
        names = ("records", "signatures", "contaminated", "arrow")
        self._files = [self.files.enter_context(stem.with_suffix(f".{name}").open("wb")) for name in names]
        self._schema = pyarrow.schema([("text", pyarrow.large_string())])
        packed = pyarrow.ipc.IpcWriteOptions(compression="zstd")
        self._texts = self.files.enter_context(pyarrow.ipc.new_stream(self._files[3], self._schema, options=packed))

    def add(self, cleaned: Cleaned) -> None:
        import pyarrow

        self.read += cleaned.read
        self.documents += len(cleaned.texts)
        self.bytes += int(cleaned.records[:, 2].sum())
        self.dropped.update(cleaned.dropped)
        self._files[0].write(cleaned.records.tobytes())
        self._files[1].write(cleaned.signatures.tobytes())
        for row in cleaned.contaminated:
            self._files[2].write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        if cleaned.texts:
            column = pyarrow.array(cleaned.texts, pyarrow.large_string())
            self._texts.write_batch(pyarrow.record_batch([column], schema=self._schema))

    def finish(self, batches: int) -> Piece:
        self._texts.close()
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self.files.close()
        row = {"documents": self.documents, "batches": batches, "read": self.read, "dropped": dict(self.dropped)}
        write_json(self.stem.with_suffix(".json"), row)
        return Piece(self.stem, self.documents, batches, self.read, dict(self.dropped))
