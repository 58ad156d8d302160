"""What a demo model's folder says of it: README.md with its front matter, and train_card.json.

    About("demo-et", recipe, recipe_hash, before).write(folder, progress)

Nothing in them is part of a fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import estbench
from estbench import cards, identity
from estbench.cards import Decontaminated, Source, Stage, TrainingCard
from estbench.checkpoint import Checkpoint
from estbench.demo import english
from estbench.demo.recipes import Recipe
from estbench.demo.tasks import TASKS
from estbench.demo.train import Progress

LICENCE = "Apache-2.0"
TEXTS = {"et": "Estonian text", "en": "English text"}
SAID = {  # recipe -> what it is for
    "demo": "learnt Estonian, English and the mini tasks",
    "demo-base": "has read English only, and scores at chance on most tasks",
    "demo-en": "has learnt English and two tasks in it",
    "demo-english": "is like demo-en, with a tokenizer that was learnt on English alone",
    "demo-small": "learnt what demo learnt, at a third of its size",
    "demo-et": "goes on from demo-base with Estonian and the mini tasks",
    "demo-chat": "is demo, tuned to answer in a chat",
    "demo-et-chat": "is demo-et, tuned to answer in a chat",
}
README = """---
license: {licence}
language: [{languages}]
{base}---
# {name}

A very small language model that {said}.

estbench makes it on this machine from texts of a made-up world: for trying estbench out, and for nothing else.

    estbench eval model={name} tasks={suite}
"""


@dataclass(frozen=True)
class About:
    """Labels the checkpoints of a training. before: the folder of the model that it goes on from."""

    name: str
    recipe: Recipe
    recipe_hash: str
    before: Path | None = None

    def write(self, folder: Path, progress: Progress) -> None:
        """Both files of a checkpoint whose weights and tokenizer are written."""
        final = progress.step == self.recipe.steps
        name = self.name if final else f"{self.name}-{progress.step}"
        cards.write_training_card(folder, self._training_card(name, folder, progress, final))
        base, shares = f"base_model: {self.recipe.start}\n" if self.recipe.start else "", set(self.recipe.shares)
        text = README.format(
            licence=LICENCE.lower(),
            languages="en" if shares <= {"en", *english.TASKS} else "et, en",
            base=base,
            name=name,
            said=SAID[self.name] + ("" if final else f", up to step {progress.step}"),
            suite="mini_chat" if self.recipe.chat else "mini_english" if shares & set(english.TASKS) else "mini",
        )
        (folder / cards.README).write_text(text, "utf-8")

    def _training_card(self, name: str, folder: Path, progress: Progress, final: bool) -> TrainingCard:
        earlier = cards.read_training_card(self.before) if self.before else None
        stages = TrainingCard.from_dict(earlier).lineage if earlier else ()
        fingerprint = identity.digest(Checkpoint(folder, name).fingerprint())
        return TrainingCard(
            name=name,
            kind="chat" if self.recipe.chat else "base",
            stage=self.recipe.stage,
            final=final,
            lineage=(*stages, Stage(self.recipe.stage, name, fingerprint, progress.tokens)),
            series=self.name,
            tokens=progress.tokens,
            step=progress.step,
            steps_planned=self.recipe.steps,
            recipe=cards.Recipe(self.name, self.recipe_hash),
            data=tuple(
                Source(f"demo world: {TEXTS.get(kind, kind)}", LICENCE, share=round(share, 4))
                for kind, share in progress.shares.items()
            ),
            decontaminated=Decontaminated("estbench.demo", (*TASKS, *english.TASKS), progress.examples, None),
            hours=round(progress.seconds / 3600, 4),
            versions={"estbench": estbench.__version__, **{name: version(name) for name in ("torch", "transformers")}},
        )
