"""What a training run says while it goes: log.jsonl, TensorBoard, and a bar on stderr, or lines if that is no terminal.

    with Log(folder, steps=steps, resumed=step, tensorboard=None, main=rank == 0) as log:
        log.write(Record(step=…, tokens=…, loss=…, rate=…, grad_norm=…, tokens_per_second=…, mfu=…))

A line of log.jsonl is a step ({"kind": "step", …}), an evaluation ({"kind": "evaluation", "scores": {…}}) or a return
to a checkpoint ({"kind": "roll_back", "to": …}). A run that goes on from a step drops the lines after it first: they
come again.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from estbench import report
from estbench.errors import MissingPartError, StoreError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LINES = 40  # at most so many lines of progress where there is no bar


@dataclass(frozen=True)
class Record:
    """A step, as it is written down."""

    step: int  # steps taken, this one included
    tokens: int  # seen until now
    loss: float  # nats a target, mean over the step
    rate: float
    grad_norm: float  # before clipping
    tokens_per_second: float  # of all GPUs together
    mfu: float | None = None  # of one GPU; None where the peak isn't known
    seconds: float | None = None  # of training until now, earlier attempts included
    memory_bytes: int | None = None  # the peak on this rank's GPU
    verdict: str = "ok"  # of the guard
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """The line in log.jsonl; what is no number is null, since JSON has no NaN."""
        values = {key: value for key, value in asdict(self).items() if value not in (None, "")}
        return {"kind": "step"} | {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }


class Log:
    """Writes down the steps of a run; on all ranks but the main one it does nothing."""

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        resumed: int = 0,
        every: int = 1,
        tensorboard: bool | None = None,
        main: bool = True,
        name: str = "train",
        say: Callable[[str], None] = report.say,
    ) -> None:
        """
        Args:
            folder: the stage's folder; log.jsonl and tensorboard/ go there.
            steps: of the whole stage.
            resumed: the step that a checkpoint was loaded of; later lines are dropped.
            every: a line for every n-th step (and for every step that isn't "ok").
            tensorboard: None writes for it where it is installed; MissingPartError if it is asked for and missing.
            main: whether this rank is the one that writes.
            name: what the bar calls the stage.
            say: prints a line of progress where stderr is no terminal.
        """
        self._every, self._steps = every, steps
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._shown: _Bar | _Lines | None = None
        if not main:
            return
        board = _has_tensorboard(tensorboard)
        self._path = folder / "log.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            truncate(self._path, resumed)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)  # a line is written when it ends
        except OSError as error:
            raise StoreError(f"{self._path} can't be written: {error.strerror}.") from None
        self._board = _tensorboard(folder / "tensorboard", resumed) if board else None
        self._shown = _Bar(name, steps, resumed) if _terminal() else _Lines(name, steps, resumed, say)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """A step: a line of log.jsonl, points of TensorBoard, the bar."""
        if self._shown is None:
            return
        self._shown.show(record)
        if record.step % self._every and record.verdict == "ok" and record.step < self._steps:
            return
        self._line(record.row())
        for name in ("loss", "rate", "grad_norm", "tokens_per_second", "mfu", "tokens"):
            self._point(f"train/{name}", getattr(record, name), record.step)

    def evaluation(self, step: int, tokens: int, scores: Mapping[str, float]) -> None:
        """Scores by task at a step; the curve shows them."""
        self._line({"kind": "evaluation", "step": step, "tokens": tokens, "scores": dict(scores)})
        for name, value in scores.items():
            self._point(f"evaluation/{name}", value, step)

    def roll_back(self, step: int, to: int, reason: str) -> None:
        """A return from a step to the checkpoint of an earlier one: what comes between does not count."""
        self._line({"kind": "roll_back", "step": step, "to": to, "reason": reason})

    def close(self) -> None:
        """Ends the bar and closes the files."""
        if self._shown is not None:
            self._shown.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        self._file = self._board = self._shown = None

    def _line(self, row: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            raise StoreError(f"{self._path} can't be written: {error.strerror}.") from None

    def _point(self, name: str, value: float | None, step: int) -> None:
        if self._board is not None and value is not None:
            self._board.add_scalar(name, value, step)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl that count: those that a later return to a checkpoint undid are left out, and so is a
    last line that was cut off. Empty where there is no log."""
    kept: list[dict[str, Any]] = []
    for row in _rows(path):
        if row["kind"] == "roll_back":
            kept = [earlier for earlier in kept if earlier["kind"] == "roll_back" or earlier["step"] <= row["to"]]
        kept.append(row)
    return kept


def truncate(path: Path, step: int) -> None:
    """Drop the lines of a log.jsonl that come after a step, and those that don't count."""
    from estbench.runs import atomic

    if path.is_file():
        rows = [row for row in read(path) if row["step"] <= step]
        with atomic(path) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # killed while it was written; nothing comes after it
                return


def _has_tensorboard(asked: bool | None) -> bool:
    """Whether it is to be written for; MissingPartError if it is asked for and not installed."""
    there = asked is not False and importlib.util.find_spec("tensorboard") is not None
    if asked and not there:
        raise MissingPartError("This needs tensorboard: pip install 'estbench[train]', or leave tensorboard out.")
    return there


def _tensorboard(folder: Path, resumed: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=resumed + 1 if resumed else None)


def _terminal() -> bool:
    import sys

    return sys.stderr.isatty()


class _Bar:
    """Progress with ETA, loss, tokens/s and MFU."""

    def __init__(self, name: str, steps: int, resumed: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(name, total=steps, completed=resumed, numbers="")
        self._bar.start()

    def show(self, record: Record) -> None:
        self._bar.update(self._task, completed=record.step, numbers=_numbers(record))
        if record.verdict != "ok":
            self._bar.console.print(_bad(record), markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    """The same as lines, evenly over the run."""

    def __init__(self, name: str, steps: int, resumed: int, say: Callable[[str], None]) -> None:
        self._name, self._steps, self._first, self._say = name, steps, resumed, say
        self._every = max(1, steps // LINES)
        self._begun = time.monotonic()

    def show(self, record: Record) -> None:
        if record.verdict != "ok":
            self._say(_bad(record))
        if record.step % self._every and record.step not in (self._first + 1, self._steps):
            return
        done = max(1, record.step - self._first)
        left = (time.monotonic() - self._begun) / done * (self._steps - record.step)
        self._say(f"{self._name} {record.step:,}/{self._steps:,}  {_numbers(record)}  left {duration(left)}")

    def close(self) -> None:
        """There is nothing to end."""


def _numbers(record: Record) -> str:
    share = "" if record.mfu is None else f"  MFU {100 * record.mfu:.0f} %"
    return f"loss {record.loss:.3f}  rate {record.rate:.2g}  {record.tokens_per_second:,.0f} tokens/s{share}"


def _bad(record: Record) -> str:
    return f"step {record.step:,}: {record.reason} -> {record.verdict.replace('_', ' ')}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3.4 h, 12 d."""
    for size, unit, form in ((86_400 * 3, "d", 86_400), (5400, "h", 3600), (90, "min", 60)):
        if seconds >= size:
            value = seconds / form
            return f"{value:.1f} {unit}" if unit == "h" else f"{value:.0f} {unit}"
    return f"{seconds:.0f} s"
