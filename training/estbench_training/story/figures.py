"""The figures of the story as SVG: lines with 95 % bands over something, and dots with 95 % intervals.

    text = lines("Estonian and English", series, across="training steps", up="right answers, %")
    text = dots("Three models", rows, across="right answers, %")

The same numbers give the same file, byte for byte. Colours, and how a dark theme and screen readers see it, are those
of the curves of a training (`cpt.plots`); series differ in line and form of the marks, and not in colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench_training.cpt import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 8.0  # inches
COLOURS = (plots.ACCENT[0], plots.SECOND[0], plots.GOOD[0], plots.QUIET[0])
STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Mark:
    """A value with its 95 % interval (None: it has none) at a place across."""

    at: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Marks that belong together. colour and style count from 0; a series of one colour differs in style."""

    label: str
    marks: tuple[Mark, ...]
    colour: int = 0
    style: int = 0


@dataclass(frozen=True)
class Panel:
    """One of the plots of a figure. counted: bars from 0, for what has no interval."""

    title: str
    rows: tuple[tuple[str, Mark], ...]  # label, and a mark whose value goes across
    across: str
    counted: bool = False

    @property
    def labels(self) -> list[str]:
        """What its rows are called."""
        return [label for label, _ in self.rows]


def lines(title: str, series: Sequence[Series], *, across: str, up: str) -> str:
    """Curves with bands."""

    def draw(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        for one in series:
            at, values = [mark.at for mark in one.marks], [mark.value for mark in one.marks]
            colour, form = COLOURS[one.colour % len(COLOURS)], plots.MARKS[one.style % len(plots.MARKS)]
            style = STYLES[one.style % len(STYLES)]
            axes.plot(at, values, style, color=colour, marker=form, markersize=4, linewidth=1.4, label=one.label)
            bands = [(mark.at, mark.low, mark.high) for mark in one.marks if mark.low is not None]
            if bands:
                axes.fill_between(*np.array(bands, float).T, color=colour, alpha=0.12, linewidth=0)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.16))

    return _svg(title, _of_lines(series, across, up), (1, 1), 4.8, draw)


def dots(title: str, panels: Sequence[Panel]) -> str:
    """Values with intervals, or bars, a line each, in one plot or several beside each other."""
    across = 2 if len(panels) in (2, 4) else min(3, len(panels))

    def draw(found: Sequence[Axes]) -> None:
        for place, (axes, panel) in enumerate(zip(found, panels, strict=False)):
            first = panels[place - place % across]
            _rows(axes, panel, labelled=panel is first or panel.labels != first.labels)
        for axes in found[len(panels) :]:
            axes.set_axis_off()

    most, down = max(len(panel.rows) for panel in panels), -(-len(panels) // across)
    return _svg(title, _of_dots(panels), (down, across), 0.6 + down * (1.0 + 0.3 * most), draw)


def _rows(axes: Axes, panel: Panel, *, labelled: bool) -> None:
    places = range(len(panel.rows), 0, -1)
    for place, (_, mark) in zip(places, panel.rows, strict=True):
        if panel.counted:
            axes.barh([place], [mark.value], height=0.5, color=COLOURS[0])
            continue
        if mark.low is not None and mark.high is not None:
            axes.plot([mark.low, mark.high], [place, place], color=COLOURS[0], linewidth=1.6)
        axes.plot([mark.value], [place], "o", color=COLOURS[0], markersize=6)
    axes.set_yticks(list(places), panel.labels if labelled else [""] * len(panel.rows))
    axes.set_ylim(0.4, len(panel.rows) + 0.6)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}" if abs(value) < 1e4 else f"{value / 1000:,.4g}k")
    axes.set_xlabel(panel.across)
    axes.set_title(panel.title, fontsize=10)


def _svg(
    title: str, description: str, shape: tuple[int, int], height: float, draw: Callable[[Sequence[Axes]], None]
) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_look()):
        figure = Figure(figsize=(WIDE, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(list(figure.subplots(*shape, squeeze=False).flat))
        figure.suptitle(title)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return plots.for_all(written.getvalue(), title, description)


def _look() -> dict[Any, Any]:
    look: dict[Any, Any] = {
        "svg.hashsalt": "estbench",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": plots.LINE[0],
    }
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    paper = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return look | dict.fromkeys(ink, plots.INK[0]) | dict.fromkeys(paper, plots.PAPER[0])


def _of_lines(series: Sequence[Series], across: str, up: str) -> str:
    """What the curves show, in words."""
    ends = [
        f"{one.label}: from {one.marks[0].value:.1f} at {one.marks[0].at:g} to {one.marks[-1].value:.1f} at "
        f"{one.marks[-1].at:g}"
        for one in series
        if one.marks
    ]
    return f"{up} over {across}. {'; '.join(ends)}."


def _of_dots(panels: Sequence[Panel]) -> str:
    said = []
    for panel in panels:
        rows = [f"{label} {mark.value:.3g}" for label, mark in panel.rows]
        said.append(f"{panel.title}, {panel.across}: {', '.join(rows)}.")
    return " ".join(said)
