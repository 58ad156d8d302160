"""The curves of a training run as one SVG: loss, learning rate, gradient norm and evaluations over tokens.

The same log gives the same file, byte for byte. It has a title and a description for those who don't see it, and in a
browser takes on a dark theme; elsewhere it is dark on white.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from estbench import report
from estbench_training.cpt import logs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# light and dark, as the board has them (board.css)
INK, LINE, PAPER = ("#17202b", "#e5e9ef"), ("#dce1e8", "#2d3642"), ("#ffffff", "#11161d")
ACCENT, SECOND, GOOD, QUIET = (
    ("#2a4fb0", "#9ab6ff"),
    ("#b2421d", "#f0a07c"),
    ("#1d6b46", "#82cfa8"),
    ("#566273", "#a0abb9"),
)
MARKS = "os^Dv<>p*X"  # evaluations differ in form, not in colour alone
MOST_POINTS = 2000  # a curve of more steps is thinned to as many


def curves(folder: Path, title: str = "") -> Path | None:
    """Write curves.svg beside the log.jsonl of a stage's folder; None where the log has no step yet."""
    rows = logs.read(folder / "log.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    if not steps:
        return None
    text = draw(rows, title or folder.name)
    report.write(folder / "curves.svg", text)
    return folder / "curves.svg"


def draw(rows: Sequence[dict[str, Any]], title: str) -> str:
    """The SVG of the lines of a log."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    steps = [row for row in rows if row["kind"] == "step"]
    evaluations = [row for row in rows if row["kind"] == "evaluation" and row["scores"]]
    look: dict[Any, Any] = {
        "svg.hashsalt": "estbench",
        "svg.fonttype": "none",  # text stays text: it can be read, searched and copied
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": LINE[0],
    }
    look |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK[0])
    look |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER[0])
    with mpl.rc_context(look):
        height = 8.2 if evaluations else 6.2
        figure = Figure(figsize=(8, height), layout="constrained")
        FigureCanvasSVG(figure)
        panels: list[Axes] = list(figure.subplots(4 if evaluations else 3, 1, sharex=True))
        figure.suptitle(title)
        _panels(panels, steps, evaluations)
        panels[-1].set_xlabel("tokens")
        panels[-1].xaxis.set_major_formatter(_of_tokens)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return for_all(written.getvalue(), title, describe(steps, evaluations))


def describe(steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> str:
    """What the curves show, in words."""
    known = [row for row in steps if row["loss"] is not None]
    tokens = f"{steps[-1]['tokens']:,} tokens in {steps[-1]['step']:,} steps"
    parts = [f"Training curves over {tokens}."]
    if known:
        parts.append(f"Loss went from {known[0]['loss']:.3f} to {known[-1]['loss']:.3f}.")
    rates = [row["rate"] for row in steps]
    parts.append(f"The learning rate was at most {max(rates):.3g} and is {rates[-1]:.3g} at the end.")
    bad = sum(row.get("verdict", "ok") != "ok" for row in steps)
    parts += [f"{bad} step{' was' if bad == 1 else 's were'} bad."] if bad else []
    if evaluations:
        last = ", ".join(f"{name} {value:.3f}" for name, value in sorted(evaluations[-1]["scores"].items()))
        parts.append(f"Evaluated {len(evaluations)} times; the last scores: {last}.")
    return " ".join(parts)


def _panels(panels: Sequence[Axes], steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> None:
    shown = steps[:: math.ceil(len(steps) / MOST_POINTS)]
    tokens = [row["tokens"] for row in shown]
    for axes, name, label, colour in zip(
        panels,
        ("loss", "rate", "grad_norm"),
        ("loss (nats a token)", "learning rate", "gradient norm"),
        (ACCENT, GOOD, SECOND),
        strict=False,
    ):
        values = [math.nan if row[name] is None else row[name] for row in shown]
        axes.plot(tokens, values, color=colour[0], linewidth=1.2, marker="o" if len(shown) == 1 else "")
        axes.set_ylabel(label)
        for row in steps:
            if row.get("verdict", "ok") != "ok":
                axes.axvline(row["tokens"], color=QUIET[0], linewidth=0.8, linestyle=":")
    panels[2].set_yscale("log")
    if not evaluations:
        return
    names = sorted({name for row in evaluations for name in row["scores"]})
    colours = (ACCENT, SECOND, GOOD, INK)
    for place, name in enumerate(names):
        points = [(row["tokens"], row["scores"][name]) for row in evaluations if name in row["scores"]]
        marker, ink = MARKS[place % len(MARKS)], colours[place % len(colours)][0]
        panels[3].plot(*zip(*points, strict=True), marker=marker, markersize=4, color=ink, linewidth=1, label=name)
    panels[3].set_ylabel("evaluation")
    panels[3].legend(fontsize=8, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.35))


def _of_tokens(value: float, _: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def for_all(svg: str, title: str, description: str) -> str:
    """Title and description for screen readers, and colours for a dark theme, in the SVG itself."""
    dark = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{other}!important}}'
        for light, other in (INK, LINE, PAPER, ACCENT, SECOND, GOOD, QUIET)
        for kind in ("fill", "stroke")
    )
    head = (
        f'<title id="title">{escape(title)}</title><desc id="desc">{escape(description)}</desc>'
        f"<style>@media (prefers-color-scheme: dark) {{ {dark} }}</style>"
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.S)
    return re.sub(r"<svg\b[^>]*>", lambda found: _labelled(found.group()) + head, svg, count=1)


def _labelled(tag: str) -> str:
    return f'{tag[:-1]} role="img" aria-labelledby="title desc">'
