"""Skills as the board shows them, in a fixed order, and the presets: which skills count for which use.

The sentences, examples and names of both are in the catalogue: skill.NAME.title, .sentence, .example; preset.NAME.
"""

from __future__ import annotations

SKILLS = (
    *("instructions", "grammar", "morphology", "language_quality", "translation", "reading", "summarisation"),
    *("knowledge", "reasoning", "classification", "modelling", "other"),
)

PRESETS: dict[str, tuple[str, ...]] = {
    "general": (),  # all skills of the board's own suite
    "writing": ("grammar", "morphology", "language_quality"),
    "translation": ("translation",),
    "documents": ("reading", "summarisation"),
    "estonia": ("knowledge",),
    "instructions": ("instructions",),
}
