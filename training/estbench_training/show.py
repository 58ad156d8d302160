"""What is learnt of a conversation, for people's eyes: coloured on a terminal, «in such marks» elsewhere.

show.example(chat.tokenizer, encoded.ids, encoded.labels, "The first row")
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any

from estbench_training.templates import IGNORED

if TYPE_CHECKING:
    from rich.text import Text

OPEN, CLOSE = "«", "»"
LONGEST = 3000  # characters of a run that are shown; the middle of a longer one is left out


def visible(text: str) -> str:
    """The text with escapes in place of what a terminal would obey, or would not show."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode() for sign in text
    )


def runs(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> list[tuple[str, bool]]:
    """(text, whether it is learnt) of the runs of tokens, decoded from the ids that the model gets."""
    made = []
    for learnt, places in groupby(range(len(ids)), key=lambda place: labels[place] != IGNORED):
        text = tokenizer.decode([ids[place] for place in places], skip_special_tokens=False)
        made.append((visible(_shortened(str(text))), learnt))
    return made


def marked(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> str:
    """The text with «what is learnt» in marks."""
    return "".join(f"{OPEN}{text}{CLOSE}" if learnt else text for text, learnt in runs(tokenizer, ids, labels))


def coloured(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> Text:
    """The text with what is learnt in bold green, the rest dim."""
    from rich.text import Text

    made = Text()
    for text, learnt in runs(tokenizer, ids, labels):
        made.append(text, "bold green" if learnt else "dim")
    return made


def example(tokenizer: Any, ids: Sequence[int], labels: Sequence[int], title: str, file: IO[str] | None = None) -> None:
    """Print an example on stderr, or into a file."""
    from rich.console import Console
    from rich.panel import Panel

    stream = file or sys.stderr
    learnt = sum(label != IGNORED for label in labels)
    heading = f"{title}: {learnt:,} of {len(ids):,} tokens are learnt"
    if stream.isatty():
        console = Console(file=stream, highlight=False)
        console.print(Panel(coloured(tokenizer, ids, labels), title=f"{heading} (green)", title_align="left"))
    else:
        print(f"{heading}, those in {OPEN}{CLOSE}:\n{marked(tokenizer, ids, labels)}\n", file=stream, flush=True)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
