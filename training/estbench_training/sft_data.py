"""What an SFT stage learns from, as sequences of token ids on disk: conversations, replayed text, packed or not.

    data = Prepared.make(settings, context, chat)
    data.dataset()             # input_ids, labels (, seq_lengths where packed), mapped from disk
    data.report                # what was read, dropped, cut, replayed; data.json in the stage's folder

A conversation is never packed across two sequences. Replayed documents are learnt whole; one that is longer than a
sequence goes on in another. Each token is counted: those read are those in the sequences and those that were dropped.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.errors import ConfigError, DataError
from estbench.runs import write_json
from estbench_training.kinds import Context
from estbench_training.provenance import SHARDS, Known, Provenance, of_folder
from estbench_training.rows import Row, batches, messages_of, read_raw, read_rows
from estbench_training.sieve import REASON, Sieve, text_of
from estbench_training.templates import IGNORED, Chat, Encoded

if TYPE_CHECKING:
    from estbench_training.sft import SftSettings

FOLDER, REPORT = "data", "data.json"
AT_ONCE = 256  # rows that are tokenised together
WAIT = 0.5  # seconds between looks of the ranks that wait for rank 0


@dataclass(frozen=True)
class Prepared:
    """Sequences on disk, and what is known of them."""

    folder: Path
    report: dict[str, Any]

    @classmethod
    def make(cls, settings: SftSettings, context: Context, chat: Chat) -> Prepared:
        """The sequences of a stage; made by rank 0, unless they are there from an earlier attempt.

        DataError, with file and line, for a row of which nothing is learnt, or that is too long, unless it may be
        dropped; also where nothing is left.
        """
        folder, report = context.folder / FOLDER, context.folder / REPORT
        while int(os.environ.get("RANK", "0")) != 0 and not report.is_file():
            time.sleep(WAIT)
        if not report.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(report, _Maker(settings, context, chat, folder).run())
        return cls(folder, json.loads(report.read_text("utf-8")))

    def dataset(self) -> Any:
        """The sequences as a dataset that is mapped from disk."""
        from datasets import Dataset

        return Dataset.from_file(str(self.folder / self.report["file"]))

    def example(self) -> tuple[list[int], list[int]]:
        """Ids and labels of the first conversation that was read."""
        first = self.report["example"]
        return first["ids"], first["labels"]


class _Maker:
    """Reads, tokenises, counts and packs."""

    def __init__(self, settings: SftSettings, context: Context, chat: Chat, folder: Path) -> None:
        self.settings, self.context, self.chat, self.folder = settings, context, chat, folder
        self.counts = Counter[str]()
        self.sources = Counter[str]()  # tokens by source
        self.first: Encoded | None = None
        self.sieve = Sieve(settings.decontaminate, context)

    def run(self) -> dict[str, Any]:
        """Write the sequences; what data.json says."""
        from datasets import Dataset
        from trl.data_utils import pack_dataset

        rows = self.folder / "rows.arrow"
        kept = _write(rows, self._all())
        if not self.counts["rows"] or self.first is None:
            raise DataError(f"Stage {self.context.stage.name!r} has nothing to learn from{self._why()}.")
        dataset = Dataset.from_file(str(rows))
        file = rows
        if self.settings.packing:
            import numpy as np

            file = self.folder / "packed.arrow"
            order = np.random.default_rng([self.context.seed, 1]).permutation(len(dataset))
            options = {"cache_file_name": str(file), "load_from_cache_file": False}
            packed = pack_dataset(dataset.select(order), self.settings.max_length, "bfd", options)
            dataset = Dataset.from_file(str(file))
            if len(packed) != len(dataset) or kept != sum(sum(lengths) for lengths in dataset["seq_lengths"]):
                raise DataError(f"{file} has other tokens than were packed: make room on the disk, then run again.")
            rows.unlink()
        return self._report(kept, len(dataset), file)

    def _report(self, kept: int, sequences: int, file: Path) -> dict[str, Any]:
        assert self.first is not None
        counts, read = self.counts, self.counts["tokens"] + self.counts["tokens lost"]
        counts[f"left {REASON}"] += self.sieve.removed
        return {
            "file": file.name,
            "sequences": sequences,
            "tokens": kept,
            "filled": round(kept / (sequences * self.settings.max_length), 4),
            "conversations": counts["rows"],
            "learnt_tokens": counts["learnt"],
            "split_borders": counts["split"],
            "left_out": {
                name[5:]: count for name, count in sorted(counts.items()) if count and name.startswith("left ")
            },
            "too_long": counts["too long"],
            "lost_tokens": counts["tokens lost"],
            "lost_share": round(counts["tokens lost"] / max(1, read), 6),
            "replay": {
                "documents": counts["replayed"],
                "tokens": counts["replay tokens"],
                "share": round(counts["replay tokens"] / max(1, kept), 4),
            },
            "sources": dict(self.sources),
            "files": self.sieve.row(),
            "provenance": self._provenance().row(),
            "template": self.chat.name,
            "example": {"ids": self.first.ids, "labels": self.first.labels},
        }

    def _why(self) -> str:
        left = {name[5:]: count for name, count in self.counts.items() if name.startswith("left ")}
        return f" ({', '.join(f'{count:,} rows: {name}' for name, count in left.items())})" if left else ""

    def _provenance(self) -> Provenance:
        """What the stages that are read say of their data, and what the sieve has done with that of files."""
        replay = self.settings.replay
        places: list[tuple[Path, str | None]] = [(self.context.source(name), None) for name in self.settings.sources]
        places += [(self.context.source(replay.data), replay.source)] if replay else []
        known = [of_folder(path, source) for path, source in places if path.is_dir()]
        sources: dict[str, Known] = {}
        for one in reversed(known):
            sources |= one.sources
        kept = [part for one in known for part in one.decontaminated]
        return Provenance(sources, (*kept, *([self.sieve.result] if len(known) < len(places) else [])))

    # --- conversations ------------------------------------------------------------------------------------------------

    def _all(self) -> Iterator[Encoded]:
        rows = (row for name in self.settings.sources for row in self._read(self.context.source(name)))
        yield from self._encoded(itertools.islice(rows, self.settings.limit), "rows", "tokens")
        if self.settings.replay is not None:
            yield from self._replayed(self.counts["tokens"])

    def _read(self, path: Path) -> Iterator[Row]:
        """The conversations of a stage's folder, or those of a file that hold no part of a test."""
        rows = read_rows(path)
        return rows if path.is_dir() else self.sieve.keep(rows, lambda row: text_of(row.messages))

    def _encoded(self, rows: Iterable[Row], counted: str, tokens: str) -> Iterator[Encoded]:
        for batch in batches(rows, AT_ONCE):
            good = [row for row in batch if not self._refused(row)]
            try:
                found = self.chat.encode([row.messages for row in good], self.settings.loss_on)
            except DataError:
                self._refused_by_template(good)
                raise
            for row, made in zip(good, found, strict=True):
                fitting = self._fitting(row, made)
                if fitting is None:
                    continue
                self.first = self.first or fitting
                self.counts[counted] += 1
                self.counts[tokens] += len(fitting.ids)
                self.counts["learnt"] += fitting.trained
                self.counts["split"] += fitting.split
                self.sources[row.source] += len(fitting.ids)
                yield fitting

    def _refused(self, row: Row) -> bool:
        """Whether a row is left out; DataError, which says why, unless bad rows may be dropped."""
        reason = _fault(row, self.chat)
        if reason is None:
            return False
        if self.settings.bad_rows == "error":
            raise DataError(f"{row.where}: {reason}. Correct the row, or say bad_rows: drop.")
        self.counts[f"left {reason}"] += 1
        return True

    def _refused_by_template(self, rows: Iterable[Row]) -> None:
        """Name the row that the template refuses."""
        for row in rows:
            try:
                self.chat.encode([row.messages])
            except DataError as error:
                raise DataError(f"{row.where}: {error}") from None

    def _fitting(self, row: Row, made: Encoded) -> Encoded | None:
        """The row within max_length, or None; what is lost is counted."""
        most, length = self.settings.max_length, len(made.ids)
        if length <= most:
            return self._learnable(row, made)
        self.counts["too long"] += 1
        if self.settings.too_long == "error":
            raise DataError(
                f"{row.where} has {length:,} tokens, max_length is {most:,}: say too_long: drop or truncate, or a "
                "larger max_length."
            )
        cut = None
        if self.settings.too_long == "truncate":
            cut = Encoded(made.ids[:most], made.labels[:most], made.split)
            if not cut.trained:  # only the prompt is left
                cut = None
        self.counts["tokens lost"] += length - (0 if cut is None else most)
        return cut

    def _learnable(self, row: Row, made: Encoded) -> Encoded | None:
        if made.trained:
            return made
        reason = "nothing of it is learnt"
        if self.settings.bad_rows == "error":
            raise DataError(f"{row.where}: {reason}. Correct the row, or say bad_rows: drop.")
        self.counts[f"left {reason}"] += 1
        return None

    # --- replay -------------------------------------------------------------------------------------------------------

    def _replayed(self, tokens: int) -> Iterator[Encoded]:
        """Documents in random order until they are the share of all tokens that was asked for."""
        replay = self.settings.replay
        assert replay is not None
        wanted = round(replay.share / (1 - replay.share) * tokens)
        path = self.context.source(replay.data)
        documents = self._of_shards(path / SHARDS) if (path / SHARDS).is_dir() else self._of_file(path)
        while self.counts["replay tokens"] < wanted and (made := next(documents, None)):
            self.counts["replayed"] += 1
            self.counts["replay tokens"] += len(made.ids)
            for start in range(0, len(made.ids), self.settings.max_length):
                part = slice(start, start + self.settings.max_length)
                yield Encoded(made.ids[part], [IGNORED, *made.labels[part][1:]])
        if self.counts["replay tokens"] < wanted:
            raise DataError(
                f"replay: {replay.data} has {self.counts['replay tokens']:,} tokens, and a share of {replay.share:g} "
                f"needs {wanted:,}: give more data, or a smaller share."
            )

    def _of_shards(self, folder: Path) -> Iterator[Encoded]:
        import numpy as np

        from estbench_training.shards import Shards, tokenizer_hash

        replay = self.settings.replay
        assert replay is not None
        known = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if replay.source is not None and replay.source not in known:
            raise ConfigError(f"replay: {replay.data} has no source {replay.source!r}, only {', '.join(known)}.")
        names = known if replay.source is None else [replay.source]
        expected = tokenizer_hash(self.context.start)
        opened = [Shards.open(folder / name, expected) for name in names]
        for shards in opened:
            shards.check()
        ends = [np.cumsum(shards.lengths()) for shards in opened]
        bounds = np.cumsum([0, *(len(end) for end in ends)])
        for place in np.random.default_rng([self.context.seed, 2]).permutation(int(bounds[-1])):
            number = int(np.searchsorted(bounds, place, "right")) - 1
            at = int(place - bounds[number])
            begin, end = (int(ends[number][at - 1]) if at else 0), int(ends[number][at])
            ids = opened[number].read(begin, end - begin).tolist()
            self.sources[names[number]] += len(ids)
            yield Encoded(ids, list(ids))

    def _of_file(self, path: Path) -> Iterator[Encoded]:
        """Texts, and conversations as those of the stage are; the file is held in memory."""
        import numpy as np

        replay = self.settings.replay
        assert replay is not None
        rows = list(enumerate(read_raw(path), 1))
        order = (rows[int(place)] for place in np.random.default_rng([self.context.seed, 2]).permutation(len(rows)))
        for number, raw in order if path.is_dir() else self.sieve.keep(order, self._said):
            where, source = f"{path}:{number}", str(raw.get("source") or path.stem)
            if "messages" in raw:
                row = Row(tuple(messages_of(raw, "messages", where)), source, "", where)
                yield from self._encoded([row], "replayed rows", "replayed row tokens")
                continue
            text = raw.get(replay.field)
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{where} has neither messages nor a text in {replay.field!r}: name it with field.")
            ids = self._document(text)
            self.sources[source] += len(ids)
            yield Encoded(ids, list(ids))

    def _said(self, numbered: tuple[int, dict[str, Any]]) -> str:
        """The text of a row that is replayed; one that has none is complained of when it is taken."""
        _, raw = numbered
        assert self.settings.replay is not None
        messages = raw.get("messages")
        if isinstance(messages, list):
            return text_of([{"content": str(one.get("content"))} for one in messages if isinstance(one, dict)])
        return str(raw.get(self.settings.replay.field))

    def _document(self, text: str) -> list[int]:
        """A text as pretraining has it: with what the tokenizer puts in front, and the EOS."""
        tokenizer = self.chat.tokenizer
        ids: list[int] = tokenizer(text).input_ids
        eos = tokenizer.eos_token_id
        return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]


def _fault(row: Row, chat: Chat) -> str | None:
    """Why nothing good can be learnt of a row; None if it is well."""
    answers = [message["content"] for message in row.messages if message["role"] == "assistant"]
    if not answers:
        return "it has no answer of the assistant, so that nothing of it is learnt"
    if not all(map(str.strip, answers)):
        return "an answer is empty"
    if found := chat.control_tokens(row.messages):
        return f"its text has the control token {found[0]}, which would end or begin a message"
    return None


def _write(path: Path, rows: Iterable[Encoded]) -> int:
    """Write ids and labels as an Arrow stream, a batch at a time; the number of tokens."""
    import pyarrow

    kind = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema([("input_ids", kind), ("labels", kind)])
    tokens = 0
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        for batch in batches(rows, 1000):
            columns = [[row.ids for row in batch], [row.labels for row in batch]]
            stream.write_batch(pyarrow.record_batch([pyarrow.array(column, kind) for column in columns], schema))
            tokens += sum(len(row.ids) for row in batch)
    return tokens
