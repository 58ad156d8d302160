"""Evaluations while a model is trained: estbench itself, every so many steps, on the checkpoint of that step.

    evaluator = Evaluator(settings, context, steps)             # on every process; the main one calls it
    if evaluator.due(step):
        decision = evaluator(folder, step, tokens)              # folder: a checkpoint with its card
        decision.stop, decision.reason, decision.points

Runs land in the runs folder and the database as those of `estbench eval` do; the checkpoint's card says after how many
tokens, so that the board draws a curve. What was measured is kept in evaluation.jsonl of the stage's folder, from
which a training that is resumed goes on with the same decisions. An evaluation that fails is logged and stops nothing,
none leaves a trace in the training, and a SIGTERM ends it: `Interrupted`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from estbench import cards
from estbench.errors import ConfigError, DataError, EstbenchError
from estbench_training import background, card, watching
from estbench_training.aside import Interrupted as Interrupted
from estbench_training.aside import interruptible, undisturbed
from estbench_training.background import Background
from estbench_training.watching import GateSettings, Look

if TYPE_CHECKING:
    from estbench.config import EvalSettings
    from estbench.evidence import Evidence
    from estbench.runner import Job as EvalJob
    from estbench_training.kinds import Context

LOG, OUTPUT, COPIES = "evaluation.jsonl", "evaluation.log", "evaluations"


@dataclass(frozen=True)
class EvaluateSettings:
    """What is evaluated on the way, when, and where.

    tasks: suites and tasks. where: `here`, in the training's main process and on its device, while the others wait;
    `gpu:N`, on another GPU of the machine, in the background; `none`. limit: documents of each task, which makes runs
    partial; the board's curve leaves partial runs out. name: what checkpoints are called, before `-step-000500`. data:
    folder with offline copies of the data sets.
    """

    every: int = 500
    tasks: str | tuple[str, ...] = "checkpoint"
    where: str = "here"
    limit: int | None = None
    engine: Literal["hf", "vllm"] = "hf"
    engine_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    name: str | None = None
    data: str | None = None
    gate: GateSettings | None = None

    def __post_init__(self) -> None:
        from estbench.engines.options import read_options

        if self.every < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError("every and limit have to be 1 or more.")
        if self.where not in ("here", "none") and self.gpu is None:
            raise ConfigError(f"where: {self.where!r} is none of here, none and gpu:N, such as gpu:7.")
        if self.where == "here" and self.engine == "vllm":
            raise ConfigError("engine: vllm needs a device of its own: say where: gpu:N, or engine: hf.")
        if self.where == "none" and self.gate:
            raise ConfigError("gate: needs evaluations: say where: here or gpu:N, or leave gate out.")
        read_options(self.engine, self.options)

    @property
    def gpu(self) -> int | None:
        """N of `gpu:N`."""
        kind, _, number = self.where.partition(":")
        return int(number) if kind == "gpu" and number.isdigit() else None

    @property
    def options(self) -> dict[str, str]:
        """Options of the engine as a command line has them."""
        return {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in self.engine_options.items()
        }

    def key(self) -> dict[str, Any] | None:
        """What of it changes the model that is made: nothing, unless a gate can end the training."""
        if self.gate is None or self.gate.mode != "stop":
            return None
        row = asdict(self)
        return {name: row[name] for name in ("every", "tasks", "limit", "engine", "engine_options", "gate")}

    @property
    def words(self) -> str:
        """`tasks=` of an eval: what is asked for, and what the gate names beside it."""
        asked = self.tasks.split(",") if isinstance(self.tasks, str) else self.tasks
        watched = [task for tasks in self.gate.languages.values() for task in tasks] if self.gate else []
        return ",".join(dict.fromkeys(name.strip() for name in (*asked, *watched)))


@dataclass(frozen=True)
class Point:
    """An evaluation that ended. run: its id; None where it failed, and `reason` says why. scores: task -> primary score
    in its own unit. Step 0 is the baseline."""

    step: int
    tokens: int | None
    name: str
    run: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    look: Look | None = None


@dataclass(frozen=True)
class Decision:
    """Whether training is to end, in words why (advice, where it is not to), and what was measured since the last."""

    stop: bool = False
    reason: str = ""
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Job:
    """A checkpoint that is to be evaluated."""

    step: int
    tokens: int | None
    name: str
    folder: Path
    fingerprint: str | None = None


class Evaluator:
    """Evaluates checkpoints, remembers what was measured, and watches it where there is a gate.

    ConfigError, DataError: tasks, data or baseline are not there; nothing is written then. All processes may make one;
    only the main one calls it.
    """

    def __init__(self, settings: EvaluateSettings, context: Context, steps: int) -> None:
        self.settings, self.context = settings, context
        regular = range(settings.every, steps, settings.every)
        self.planned: tuple[int, ...] = () if settings.where == "none" else (*regular, steps)
        self._places = {step: place for place, step in enumerate(self.planned)}
        self._languages: dict[str, tuple[str, ...]] = {}
        self._stored: Evidence | None = None  # a baseline that is not evaluated here
        self._before: EvalJob | None = None  # whose prompts are used again
        self._silent = False  # what keeps the gate from comparing was said
        if self.planned:
            self._check()
        self.history = History(context.folder / LOG)
        self._child: tuple[Job, Background] | None = None

    def _check(self) -> None:
        """Refuse what can't work before training begins."""
        from estbench import data, evidence
        from estbench.registry import Registry

        tasks = Registry().select(self.settings.words).tasks
        folder = Path(self.settings.data).expanduser() if self.settings.data else None
        for task in tasks:
            if reason := data.missing_of_task(task, folder):
                cure = f"`estbench data pull tasks={task.name}` fetches it"
                raise DataError(f"evaluate: {task.name}: {reason}; {cure}, or leave the task out.")
        if gate := self.settings.gate:
            self._languages = watching.languages_of(gate, tasks)
            self._stored = None if gate.baseline == "start" else evidence.load(gate.baseline)
            if gate.baseline == "start" and self.context.model is None:
                raise ConfigError("gate: there is no model that training starts from: name a baseline.")
        if self.settings.gpu is not None:
            background.check_free(self.settings.gpu)

    def due(self, step: int) -> bool:
        """Whether the checkpoint of a step is to be evaluated."""
        return step in self._places

    def __call__(self, folder: Path, step: int, tokens: int | None) -> Decision:
        """Evaluate the checkpoint in a folder, or begin to, and say what the evaluations that have ended mean. At the
        last planned step all are waited for. Interrupted: a SIGTERM came while this process evaluated or waited."""
        if not self.due(step):
            return Decision()
        try:
            job = self._job(folder, step, tokens)
            known = self._known(job)
            if known is None:
                self._begin(job)
            with interruptible():
                points = self._work(step, wait=step == self.planned[-1])
        except OSError as error:  # a full disk
            self.context.say(f"The evaluation after step {step:,} is missing: {_reason(error)}")
            return Decision()
        return self._decide([*([known] if known else []), *points])

    def finish(self) -> Decision:
        """Wait for what is still being evaluated: for a training that ends before its last planned step. Interrupted:
        as above."""
        try:
            with interruptible():
                points = self._work(self.planned[-1], wait=True) if self.planned else []
            return self._decide(points)
        except OSError as error:
            self.context.say(f"The last evaluation is missing: {_reason(error)}")
            return Decision()

    def forget(self, after: int) -> None:
        """Training goes on with the weights of step `after`: evaluations of later ones are ended, and don't count."""
        if self._child and self._child[0].step > after:
            self.close()
        for job in self.history.forget(after):
            self._remove_copy(job)

    def close(self) -> None:
        """End an evaluation in the background; it is taken up again when training is resumed."""
        if self._child:
            self._child[1].close()
            self._child = None

    # --- what is evaluated ---

    def _job(self, folder: Path, step: int, tokens: int | None) -> Job:
        row = cards.read_training_card(folder) or {}
        called = f"{self.settings.name}-step-{step:06d}" if self.settings.name else row.get("name")
        lineage = row.get("lineage") or [{}]
        return Job(step, tokens, called or card.name(self.context, step), folder, lineage[-1].get("fingerprint"))

    def _known(self, job: Job) -> Point | None:
        """What was measured of these very weights before training was interrupted just here."""
        point, before = self.history.points.get(job.step), self.history.fingerprint(job.step)
        return point if point and point.run and before is not None and before == job.fingerprint else None

    def _begin(self, job: Job) -> None:
        """Put a checkpoint into the queue, and the model that training starts from until a gate has it measured."""
        if self._child and self._child[0].step >= job.step:
            self.close()  # training went back: those weights are gone
        start = self.context.model
        if self._languages and self._stored is None and start is not None and self.history.lacks_baseline:
            row = cards.read_training_card(start) or {}
            self.history.begin(Job(0, 0, row.get("name") or card.called(start), start))
        if self.settings.gpu is not None:
            own = self.context.folder / COPIES / job.name  # the loop may remove its checkpoint meanwhile
            shutil.rmtree(own, ignore_errors=True)
            shutil.copytree(job.folder, own, copy_function=_link)
            job = replace(job, folder=own)
        self.history.begin(job)

    def eval_settings(self, job: Job) -> EvalSettings:
        """What `estbench eval` would be told."""
        from estbench.config import EvalSettings

        own = self.settings
        return EvalSettings(
            model=str(job.folder),
            tasks=own.words,
            engine=own.engine,
            engine_options=own.options,
            limit=own.limit,
            name=job.name,
            data=own.data,
        )

    # --- where it is evaluated ---

    def _work(self, step: int, *, wait: bool) -> list[Point]:
        """Evaluate what is to be evaluated up to a step, also what an interruption has left; in the background one at a
        time, and not to the end unless asked to wait."""
        points: list[Point] = []
        while job := self._next(step):
            if self.settings.gpu is None:
                points.append(self._ended(job, *self._here(job)))
                continue
            if self._child is None:
                self._child = job, Background(self.eval_settings(job), self.settings.gpu, self.context.folder / OUTPUT)
            job, child = self._child
            if not wait and not child.ended:
                break
            ended = child.result()
            self._child = None
            points.append(self._ended(job, *ended))
        return points

    def _next(self, step: int) -> Job | None:
        """What is being evaluated, or comes next."""
        left = (job for job in self.history.unfinished() if job.step <= step and job.folder.exists())
        return self._child[0] if self._child else next(left, None)

    def _here(self, job: Job) -> tuple[str | None, str]:
        """The run of a checkpoint that is evaluated in this process; or None, and why there is none."""
        from estbench import commands, runner

        try:
            with undisturbed():
                made = runner.prepare(self.eval_settings(job), before=self._before)
                self._before = made
                made.checkpoint.name = job.name  # its folder is one of many that are called step-000500
                run = runner.evaluate(made)
                commands.index(run, None)
            return run.id, ""
        except Exception as error:  # whatever it is, training goes on
            return None, _reason(error)

    # --- what it means ---

    def _ended(self, job: Job, run: str | None, reason: str) -> Point:
        """Keep what came out."""
        point = Point(job.step, job.tokens, job.name, run, reason=reason or None)
        if run is not None:
            from estbench import evidence

            try:
                found = evidence.load(run)
                scores = {
                    score.task: score.value for score in found.scores if score.primary and score.value is not None
                }
                point = replace(point, scores=scores)
                point = replace(point, look=self._look(job.step, found))
            except EstbenchError as error:
                point = replace(point, reason=_reason(error))
        if point.reason:
            self.context.say(f"The evaluation of {job.name} is missing: {point.reason}")
        self.history.end(point)
        self._remove_copy(job)
        return point

    def _remove_copy(self, job: Job) -> None:
        if job.folder.parent == self.context.folder / COPIES:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _look(self, step: int, found: Evidence) -> Look | None:
        """The gate's tests of a checkpoint; None where it can't say anything."""
        from estbench import evidence

        gate = self.settings.gate
        if gate is None or step not in self._places:
            return None
        start = self.history.points.get(0)
        baseline = self._stored or (evidence.load(start.run) if start and start.run else None)
        if baseline is None:
            return None  # that the baseline is missing was said when it failed
        if why := watching.comparable(found, baseline, self._languages):
            if not self._silent:
                self.context.say(f"The gate can't compare {found.name} with {baseline.name}: {why}.")
            self._silent = True
            return None
        measured = {
            language: difference
            for language, tasks in self._languages.items()
            if (difference := watching.measure(found, baseline, tasks, gate.noise)) is not None
        }
        return watching.judge(gate, measured, self._places[step], len(self.planned), self._before_this(step))

    def _before_this(self, step: int) -> Look | None:
        """The look that was judged last. What looks at weights that were given up since have used of alpha is used."""
        looks, place = self.history.looks(step), self._places[step]
        last = looks[-1] if looks else None
        used = max((other for other in self.history.abandoned if other < place), default=-1)
        if used <= (last.place if last else -1):
            return last
        return replace(last, place=used) if last else Look(used, {})

    def _decide(self, points: list[Point]) -> Decision:
        gate = self.settings.gate
        looks = [(point.name, point.look) for point in points if point.look]
        said = [f"{name}: {words}" for name, look in looks if (words := watching.in_words(look))]
        stop = gate is not None and gate.mode == "stop" and any(look.confirmed for _, look in looks)
        return Decision(stop, "; ".join(said), tuple(points))


# --- what was measured ------------------------------------------------------------------------------------------------


class History:
    """evaluation.jsonl: a line when an evaluation begins, one when it ended, and one when training gave up its weights
    for earlier ones (a roll-back, after which steps are counted on).

    Where a step begins that is not beyond those before it, training was started from an earlier state, and what was
    measured from there on no longer counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.abandoned: set[int] = set()  # places of the gate's looks at weights that were given up
        self.points: dict[int, Point] = {}
        self._begun: dict[int, Job] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # the torn line of a process that was killed
                self._take(json.loads(line))

    def begin(self, job: Job) -> None:
        """Note that a checkpoint is to be evaluated."""
        self._write(vars(job) | {"event": "begun", "folder": str(job.folder)})

    def unfinished(self) -> list[Job]:
        """What began and has not ended, in order."""
        return [job for step, job in sorted(self._begun.items()) if step not in self.points]

    @property
    def lacks_baseline(self) -> bool:
        """Whether the model at the start was never evaluated, or in vain."""
        return 0 not in self._begun or (0 in self.points and self.points[0].run is None)

    def end(self, point: Point) -> None:
        """Note what came out."""
        self._write(vars(point) | {"event": "ended", "look": point.look.to_row() if point.look else None})

    def forget(self, after: int) -> list[Job]:
        """Note that training goes on with the weights of step `after`: nothing of later steps counts any more. What
        had begun of them."""
        dropped = [job for step, job in sorted(self._begun.items()) if step > after]
        if dropped:
            self._write({"event": "forgotten", "step": after})
        return dropped

    def fingerprint(self, step: int) -> str | None:
        """Of the weights that were evaluated at a step, as their card has it."""
        return self._begun[step].fingerprint if step in self._begun else None

    def looks(self, step: int) -> list[Look]:
        """What the gate has said before a step, in order."""
        return [point.look for at, point in sorted(self.points.items()) if point.look and at < step]

    def _write(self, row: Mapping[str, Any]) -> None:
        text = json.dumps(row, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            if file.tell() and not _ends_line(file):
                file.write(b"\n")
            file.write(text.encode("utf-8"))
        self._take(json.loads(text))

    def _take(self, row: dict[str, Any]) -> None:
        step, event = int(row["step"]), row.pop("event")
        if event == "begun":
            job = Job(**row | {"folder": Path(row["folder"])})
            self._drop([at for at in self._begun if at >= step] if step else [0])
            self._begun[step] = job
        elif event == "forgotten":
            later = [at for at in self._begun if at > step]
            self.abandoned |= {look.place for at in later if at in self.points and (look := self.points[at].look)}
            self._drop(later)
        elif step in self._begun:
            self.points[step] = Point(**row | {"look": Look.from_row(row["look"]) if row["look"] else None})

    def _drop(self, steps: list[int]) -> None:
        for step in steps:
            self._begun.pop(step, None)
            self.points.pop(step, None)


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _link(source: str, target: str) -> None:
    """The same file under another name, where the file system can; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _reason(error: Exception) -> str:
    """One line of an exception."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, EstbenchError) else f"{type(error).__name__}: {text}"
