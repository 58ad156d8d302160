"""The stage `cpt`: trains on a mixture of shards and leaves a model, its log and its curves.

Run again after an interruption, it goes on from the newest state in resume/. The state is removed when the model has
appeared, since nothing can go on from there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from estbench.errors import ConfigError, DataError, EngineError
from estbench_training.cpt.settings import CptSettings
from estbench_training.evaluation import Decision, Evaluator, Interrupted
from estbench_training.kinds import Context, is_path
from estbench_training.mixture import Mixture
from estbench_training.packing import Batches, self_test
from estbench_training.shards import MANIFEST, Shards, tokenizer_hash

if TYPE_CHECKING:
    from estbench_training.cpt.logs import Log
    from estbench_training.cpt.parallel import Ranks
    from estbench_training.cpt.setup import Run

SELF_TEST = 128  # tokens of a row of the packing test; a compiled model has it with the shape that it is compiled for
DRAWN_EVERY = 300.0  # seconds


def run(settings: CptSettings, context: Context) -> None:
    """Train, and leave model/, log.jsonl, curves.svg and the checkpoints that were asked for. On all processes."""
    from estbench_training.cpt import parallel

    ranks = parallel.join(settings.parallel)
    if ranks.agree(context.model_folder.exists()):  # it appears whole, as the last thing
        if ranks.main:
            shutil.rmtree(context.folder / "resume", ignore_errors=True)
        return
    with _explained(settings):
        _train(settings, context, ranks)


def _train(settings: CptSettings, context: Context, ranks: Ranks) -> None:
    from estbench_training.cpt import exporting, loop, plots, setup
    from estbench_training.cpt.logs import Log

    batches = open_batches(settings, context, ranks)
    run = setup.build(settings, context, ranks)
    with setup.computing(settings, ranks):
        length = settings.sequence if settings.compile else min(SELF_TEST, run.base.max_length or SELF_TEST)
        self_test(run.model, ranks.device, rows=settings.micro_batch, length=length)
    run.restore()
    log = Log(
        context.folder,
        steps=settings.total_steps,
        resumed=run.step,
        every=settings.logging.every,
        tensorboard=settings.logging.tensorboard,
        main=ranks.main,
        name=context.stage.name,
        say=context.say,
    )
    with log, closing(Looks(run, batches, log)) as looks:
        if not (run.step and looks(run)):  # an evaluation may have been interrupted
            loop.train(run, batches, log, looks, setup.utilisation(run))
    if ranks.main:
        plots.curves(context.folder, context.model_name)
    if not run.is_finite():
        raise EngineError("The last step left weights that are no numbers: lower rate, or lengthen warmup.")
    exporting.export(run, batches, context.model_folder, final=True)
    if ranks.main:
        shutil.rmtree(context.folder / "resume", ignore_errors=True)


@contextmanager
def _explained(settings: CptSettings) -> Iterator[None]:
    """Out of memory, in one line that says what to change."""
    from estbench.engines.memory import is_out_of_memory

    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise EngineError(f"Out of memory: {' or '.join(_cures(settings))}. The last state is intact.") from None


def _cures(settings: CptSettings) -> list[str]:
    """What takes less memory than these settings do, best first."""
    cures = {
        f"lower micro_batch ({settings.micro_batch})": settings.micro_batch > 1,
        "set activation_checkpointing: full": settings.activation_checkpointing != "full",
        "set kernels.chunked_loss: auto": settings.kernels.chunked_loss is False,
        "set parallel.shard: full": settings.parallel.shard != "full",
        "take more devices": True,
        "shorten sequence": True,
    }
    return [cure for cure, helps in cures.items() if helps]


# --- data -------------------------------------------------------------------------------------------------------------


def open_batches(settings: CptSettings, context: Context, ranks: Ranks) -> Batches:
    """The mixture over all shards that the stage names. DataError, ConfigError: they don't fit, aren't there, or are
    damaged."""
    expected = tokenizer_hash(context.start)
    shards = {name: Shards.open(folder, expected) for name, folder in _folders(settings, context).items()}
    if damage := ranks.agree(_damage(shards.values()) if ranks.main else None):
        raise DataError(damage)
    tokens = {name: found.tokens for name, found in shards.items()}
    samples = settings.total_steps * settings.batch_sequences
    mixture = Mixture(settings.mixture, tokens, settings.sequence, samples, context.seed)
    for name, share in mixture.report().items():
        read = f"{share.tokens:,} tokens of {name}, {share.share:.1%} of all"
        context.say(f"{context.stage.name}: reads {read}, {share.epochs:.2f} times its {share.available:,}")
    return Batches(mixture, shards, settings.batch_sequences, settings.micro_batch)


def _damage(shards: Iterable[Shards]) -> str | None:
    """What is wrong with the first file that isn't what it was when it was written; files are read once, then known by
    their times."""
    try:
        for found in shards:
            found.check()
    except DataError as error:
        return str(error)
    return None


def _folders(settings: CptSettings, context: Context) -> dict[str, Path]:
    """Source -> folder of its shards, over all that `data` names."""
    found: dict[str, Path] = {}
    for name in settings.sources:
        place = context.source(name) if is_path(name) else context.source(name) / "shards"
        folders = (
            [place] if (place / MANIFEST).exists() else sorted(path.parent for path in place.glob(f"*/{MANIFEST}"))
        )
        if not folders:
            raise DataError(f"data: {place} holds no prepared shards (no {MANIFEST}): run its prepare stage again.")
        for folder in folders:
            if folder.name in found:
                raise ConfigError(f"data: two sources are called {folder.name!r}: {found[folder.name]} and {folder}.")
            found[folder.name] = folder
    return found


# --- looks on the way -------------------------------------------------------------------------------------------------


class Looks:
    """After each step: the curves, the checkpoints that are kept, and the evaluations, where they are due."""

    def __init__(self, run: Run, batches: Batches, log: Log) -> None:
        self._batches, self._log, self._say = batches, log, run.context.say
        self._drawn = time.monotonic()
        settings, steps = run.settings, run.settings.total_steps
        self._kept = set(settings.export.steps)
        if settings.export.every:
            self._kept |= set(range(settings.export.every, steps + 1, settings.export.every))
        self._evaluator = Evaluator(settings.evaluate, run.context, steps) if settings.evaluate else None

    def __call__(self, run: Run) -> bool:
        """Whether the training is to end here."""
        from estbench_training.cpt import plots
        from estbench_training.cpt.exporting import export
        from estbench_training.cpt.loop import STOPPED, StopForRequeue

        self._forget(run)
        if run.ranks.main and time.monotonic() - self._drawn > DRAWN_EVERY:
            plots.curves(run.context.folder, run.context.model_name)
            self._drawn = time.monotonic()
        due = self._evaluator is not None and self._evaluator.due(run.step)
        if not due and run.step not in self._kept:
            return False
        if due and run.saved != run.step:  # an evaluation may take longer than the job has
            run.save()
        place = run.context.folder / "checkpoints" / f"step-{run.step:06d}"
        export(run, self._batches, place, final=False)
        ends = run.ranks.agree(due and run.ranks.main and self._evaluate(run, place))
        if ends is None:
            self._say(STOPPED.format(stage=run.context.stage.name, step=run.step))
            raise StopForRequeue
        if run.step not in self._kept and run.ranks.main:
            shutil.rmtree(place, ignore_errors=True)
        return bool(ends)

    def _forget(self, run: Run) -> None:
        """Drop the checkpoints and evaluations of steps that a roll-back undid."""
        if run.undone is not None and run.ranks.main:
            for place in (run.context.folder / "checkpoints").glob("step-*"):
                if run.undone < int(place.name.removeprefix("step-")) <= run.step:
                    shutil.rmtree(place, ignore_errors=True)
            if self._evaluator is not None:
                self._evaluator.forget(run.undone)
        run.undone = None

    def _evaluate(self, run: Run, place: Path) -> bool | None:
        """Whether the training is to end here; None: this process was asked to end meanwhile."""
        assert self._evaluator is not None
        try:
            decision = self._evaluator(place, run.step, run.step * run.settings.batch_tokens)
            self._note(decision)
            if decision.stop:
                self._note(self._evaluator.finish())
        except Interrupted:
            return None
        return decision.stop

    def _note(self, decision: Decision) -> None:
        for point in decision.points:
            self._log.evaluation(point.step, point.tokens or 0, point.scores)
        if decision.reason:
            self._say(decision.reason)

    def close(self) -> None:
        """End what is evaluated in the background; it is taken up again when the training goes on."""
        if self._evaluator is not None:
            self._evaluator.close()
