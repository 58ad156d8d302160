"""Does the work of a seed by the commands that anybody has: train, eval, compare, gate. What is done is not done again.

    work = Work(Path("build/story"), say)
    made = work.train(Path("training/recipes/demo-estllm.yaml"), 1)   # stage -> Made: tokens, steps, FLOPs, CPU time
    run = work.evaluate(work.model("demo-estllm", made["cpt"]), "demo-estllm-cpt", ("mini_pairs_et", "mini_pairs_en"))
    found = work.test(claim, run, other)

Commands run in this process, one after the other, and what they print as JSON is read. Stages and responses have keys
of their own; the CPU time of a stage is added up in `cpu.json`, over interruptions, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from estbench import cards, cli, report
from estbench.checkpoint import Checkpoint
from estbench.errors import EstbenchError
from estbench.home import home
from estbench.identity import digest
from estbench.runs import Run, find_run, write_json
from estbench_training import recipe as recipes
from estbench_training import stages
from estbench_training.cpt import flops
from estbench_training.kinds import Say
from estbench_training.recipe import Recipe, Stage
from estbench_training.story.claims import Claim, Found, of_compare, of_gate
from estbench_training.story.results import Evaluated, Made, Point, Score
from estbench_training.story.seeds import Sweep
from estbench_training.work import work_of

GUESSES = "does no better than guessing, or than the best trivial answer, in"
VERDICTS = (0, 1, 3, 4)  # exit codes of the gate; 2 is a mistake


class StoryError(EstbenchError):
    """A command of the story failed; what it said stands above."""

    exit_code = 4


class Work:
    """Runs commands. folder: where what belongs to no stage is kept (policies, CPU times)."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say = folder, say
        folder.mkdir(parents=True, exist_ok=True)

    def command(self, words: Sequence[str], codes: Sequence[int] = (0,)) -> Any:
        """What an estbench command prints as JSON. StoryError for an exit code that is not among `codes`."""
        return json.loads(self._printed([*words, "output=json"], codes))

    def _printed(self, words: Sequence[str], codes: Sequence[int] = (0,)) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = cli.main(words)
        if code not in codes:
            raise StoryError(f"`estbench {' '.join(words)}` ended with exit code {code}.")
        return printed.getvalue()

    def board(self, folder: Path) -> None:
        """The board of all runs of the home, as files."""
        self.say(f"the board: {folder}/en/index.html")
        self._printed(["export", "site", str(folder), "samples=1", "data=false"])

    def train(self, path: Path, seed: int) -> dict[str, Made]:
        """Run a recipe with a random seed, stage by stage; the stages that ran, by name."""
        recipe = recipes.load(path).with_seed(seed)
        return {stage.name: self._stage(path, recipe, stage) for stage in recipe.stages}

    def _stage(self, path: Path, recipe: Recipe, stage: Stage) -> Made:
        output = home() / "training" / recipe.name
        step = next(one for one in stages.chain(recipe, output, only=[stage.name]) if one.stage is stage)
        if not step.done:
            with self._cpu(step.folder.name):
                words = [f"recipe={path}", f"seed={recipe.head.seed}", f"output_dir={output}", f"stage={stage.name}"]
                self.command(["train", *words])
        cpu = round(self._times().get(step.folder.name, 0.0), 1)
        begun = Made(stage.name, stage.kind.name, step.folder.name, cpu)
        return _with_model(begun, stage, step.folder / "model") if stage.kind.makes_model else begun

    def folder_of(self, recipe: str, made: Made) -> Path:
        """Where a stage is kept."""
        return home() / "training" / recipe / made.folder

    @contextmanager
    def _cpu(self, name: str) -> Iterator[None]:
        """Add the CPU time of what runs inside to what is known under a name."""
        before = _cpu_seconds()
        try:
            yield
        finally:
            times = self._times()
            write_json(self.folder / "cpu.json", times | {name: times.get(name, 0.0) + _cpu_seconds() - before})

    def _times(self) -> dict[str, float]:
        path = self.folder / "cpu.json"
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}

    def evaluate(self, model: str, name: str, tasks: Sequence[str]) -> Evaluated:
        """Evaluate a model on tasks; what it has answered is not asked again."""
        self.say(f"{name}: {', '.join(tasks)}")
        answer = self.command(["eval", f"model={model}", f"name={name}", f"tasks={','.join(tasks)}"])
        return Evaluated(answer["run"], tuple(_score(row) for row in answer["scores"] if row["primary"]))

    def curve(self, recipe: str, made: Made) -> tuple[Point, ...]:
        """What was measured on the way of a stage, with the intervals of those runs; nothing where nothing was."""
        path, points = self.folder_of(recipe, made) / "evaluation.jsonl", []
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        for row in map(json.loads, lines):
            if row["event"] == "ended" and row["run"]:
                scores = [_score(asdict(score)) for score in Run(find_run(row["run"])).scores() if score.primary]
                points += [Point(row["step"], score) for score in scores]
        return tuple(points)

    def sweep(self, sweep: Sweep, models: Mapping[str, Path]) -> tuple[Point, ...]:
        """The scores of merges with each λ, by `estbench merge`."""
        parts = {"base": sweep.base, "instruct": sweep.instruct, "into": sweep.into}
        folders = {part: models[name] for part, name in parts.items()}
        output = self.folder / "sweeps" / digest([str(folder) for folder in folders.values()])[:12]
        output.parent.mkdir(exist_ok=True)
        words = [f"{part}={folder}" for part, folder in folders.items()]
        words += [f"sweep={','.join(map(str, sweep.scales))}", f"tasks={','.join(sweep.tasks)}", f"output={output}"]
        answer = json.loads(self._printed(["merge", "method=chat_vector", *words]))
        return tuple(Point(row["scale"], _score(score)) for row in answer["rows"] for score in row["scores"])

    def fertility(self, models: Mapping[str, Path], texts: Mapping[str, Path]) -> dict[str, dict[str, float]]:
        """Text -> model -> tokens per word: of estbench's own texts, and of those that are given."""
        files = ",".join(f"{name}={path}" for name, path in texts.items())
        words = ["fertility", f"tokenizers={','.join(map(str, models.values()))}", f"texts={files}"]
        answer = self.command(words)["tokenizers"]
        of_text: dict[str, dict[str, float]] = {}
        for name, folder in models.items():
            for text, row in answer[str(folder)].items():
                of_text.setdefault(text, {})[name] = row["tokens_per_word"]
        return of_text

    def test(self, claim: Claim, candidate: Evaluated, baseline: Evaluated) -> Found:
        """Put a claim to `estbench compare` or `estbench gate`. What never was above guessing can't be kept or lost."""
        if claim.test == "better":
            words = ["compare", candidate.run, baseline.run, f"tasks={','.join(claim.tasks)}"]
            found = of_compare(self.command(words), claim.tasks)
            guessed = _at_chance(candidate, claim.tasks)
            return replace(found, note=f"{claim.candidate} {GUESSES} `{guessed[0]}`") if guessed else found
        if guessed := _at_chance(baseline, claim.tasks):
            return Found((), reason=f"{claim.baseline} {GUESSES} `{guessed[0]}`")
        policy = self.folder / "policies" / f"{claim.name}.json"  # JSON is YAML
        policy.parent.mkdir(exist_ok=True)
        margins = {"margin": claim.margin, "pool": {"margin": claim.margin}, "tasks": list(claim.tasks)}
        report.write(policy, json.dumps(margins))
        words = ["gate", f"candidate={candidate.run}", f"baseline={baseline.run}", f"policy={policy}"]
        return of_gate(self.command(words, VERDICTS), claim.tasks)


def _at_chance(run: Evaluated, tasks: Sequence[str]) -> list[str]:
    return [task for task in tasks if (score := run.score(task)) and score.at_chance]


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _score(row: Mapping[str, Any]) -> Score:
    scale = 100.0 if row["unit"] == "proportion" else 1.0
    points = [None if row[key] is None else scale * row[key] for key in ("value", "ci_low", "ci_high", "chance")]
    return Score(row["task"], row["metric"], points[0], points[1], points[2], row["n"], points[3])


def _with_model(made: Made, stage: Stage, model: Path) -> Made:
    """The size of the model of a stage, and what its card says of the training."""
    size = flops.shape(Checkpoint(model, made.stage).config)
    made = replace(made, parameters=size.parameters)
    card, work = cards.read_training_card(model) or {}, work_of(stage.settings)
    if work is None or card.get("tokens") is None:
        return made
    tokens = int(card["tokens"])
    arithmetic = work.passes * tokens * flops.per_token(size, work.sequence, trained=work.trained(size))
    return replace(made, tokens=tokens, steps=card.get("step"), flops=arithmetic)
