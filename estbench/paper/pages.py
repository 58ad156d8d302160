"""The table as lines of text with footnotes, which is what LaTeX and Markdown are written from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from estbench import references, report
from estbench.evidence import Evidence
from estbench.paper import latex, methods
from estbench.paper.latex import Line, Page, Shown, plain
from estbench.paper.tables import Cell, Column, Table
from estbench.references import Reference
from estbench.runs import Score

DASH = "–"
Marks = Callable[[Sequence[str]], tuple[str, ...]]  # notes to letters of footnotes
MARKUP = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])")


def page(found: Table) -> Page:
    """The table as lines of text, with its footnotes in the order in which they are met."""
    letters: dict[str, str] = {}

    def marks(notes: Sequence[str]) -> tuple[str, ...]:
        return tuple(letters.setdefault(note, _letter(len(letters))) for note in notes)

    lines = [*_head(found, marks)]
    for at, label in enumerate(found.labels):
        cells = [_shown(column.cells[at], marks) for column in found.columns]
        if found.mean:
            cells.append(Shown(_number(found.mean.values[at], "points"), marks=marks(found.mean.notes[at])))
        lines.append(Line("run", label, tuple(cells), marks(about(found.runs[at]))))
    before = None
    for row in found.published:
        if row.source != before:
            lines.append(Line("source", f"published: {references.sources()[row.source]['title']}"))
        before = row.source
        figures = [_figure(row.figures.get(column.task), column, marks) for column in found.columns]
        lines.append(Line("published", row.model, (*figures, *[Shown("")] * bool(found.mean))))
    published = [(f"published figures ({source.title})", source) for source in found.sources]
    return Page(
        caption=_caption(found),
        groups=(*(column.skill for column in found.columns), *[""] * bool(found.mean)),
        lines=tuple(lines),
        footnotes={letter: note for note, letter in letters.items()},
        methods=methods.paragraph(found),
        cited=tuple((name, source.key) for name, source in [*found.cited.items(), *published]),
        sources=tuple(dict.fromkeys([*found.cited.values(), *found.sources])),
    )


def _head(found: Table, marks: Marks) -> Iterator[Line]:
    mean = []
    if found.mean:
        over = f"chance-corrected, over {len(found.mean.tasks)} of {len(found.columns)} tasks; see the methods"
        mean = [Shown("mean", marks=marks([over]))]
    yield Line("head", "model", (*(Shown(column.task) for column in found.columns), *mean))
    facts: dict[str, Callable[[Column], str]] = {
        "metric": lambda column: (
            (column.metric or DASH) + " ↓" * (not column.higher_is_better) + ", bits" * (column.unit == "bits")
        ),
        "n": lambda column: f"{column.n:,}" if column.n else DASH,
        "shots": lambda column: DASH if column.shots is None else str(column.shots),
        "form": lambda column: column.form or DASH,
        "chance": lambda column: _number(column.chance, column.unit),
    }
    for name, fact in facts.items():
        cells = [Shown(fact(column)) for column in found.columns]
        yield Line("fact", name, (*cells, *[Shown("0.0" if name == "chance" else "")] * bool(found.mean)))


def _letter(at: int) -> str:
    """a … z, aa, ab …"""
    return (_letter(at // 26 - 1) if at >= 26 else "") + chr(ord("a") + at % 26)


def about(run: Evidence) -> list[str]:
    """What a reader has to know of a whole run."""
    engine = run.manifest["engine"]
    if "unverified" not in (engine.get("weights"), run.manifest["model"].get("weights")):
        return []
    return ["weights unverified" + (f", observed {engine['observed']}" if engine.get("observed") else "")]


def _number(value: float | None, unit: str) -> str:
    text = report.number(value, unit)
    return text.removeprefix("-") if value is not None and float(text) == 0 else text.replace("-", "−")


def _shown(cell: Cell, marks: Marks) -> Shown:
    if cell.score is None:
        return Shown(DASH, marks=marks(cell.notes))
    return Shown(_number(cell.value, cell.score.unit), _spread(cell.score), marks(cell.notes), cell.bold)


def _spread(score: Score) -> str:
    """±5.5 where both sides are alike as shown, else 47.3–58.2."""
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return ""
    sides = [_number(side, score.unit) for side in (score.value - score.ci_low, score.ci_high - score.value)]
    if sides[0] == sides[1]:
        return f"±{sides[0]}"
    low, high = _number(score.ci_low, score.unit), _number(score.ci_high, score.unit)
    return f"{low}{' to ' if '−' in low else '–'}{high}"


def _figure(figure: Reference | None, column: Column, marks: Marks) -> Shown:
    if figure is None:
        return Shown("")
    unit = references.sources()[figure.source]["unit"]
    notes = [f"published metric: {figure.metric}"] * (figure.metric != column.metric)
    notes += [figure.note] * bool(figure.note)
    spread = "" if figure.plus_minus is None else f"±{_number(figure.plus_minus, unit)}"
    return Shown(_number(figure.value, unit), spread, marks(notes))


def _caption(found: Table) -> str:
    units = {column.unit for column in found.columns}
    bold = any(cell.bold for column in found.columns for cell in column.cells)
    parts = ["Scores in points" + (" (bits where marked)" if "bits" in units else "") + " with 95 % intervals"]
    parts += ["lower is better where marked ↓"] * any(not column.higher_is_better for column in found.columns)
    parts += ["bold: can't be told from the best of those that can be compared"] * bold
    theirs = "rows under “published” are figures of others, with other prompts and data samples, not paired"
    parts += [theirs] * bool(found.published)
    return "; ".join(parts) + "."


def as_latex(found: Table) -> str:
    r"""A fragment for \input: table, methods, and behind \endinput the sources as BibTeX."""
    return latex.latex(page(found))


def as_markdown(found: Table) -> str:
    """A table with its footnotes, the methods, and the sources as BibTeX; no HTML."""
    whole = page(found)
    lines = [_markdown(whole.caption), ""]
    width = len(whole.groups)
    for line in whole.lines:
        style = "*" if line.kind in ("source", "published") else ""
        label = f"{style}{_markdown(line.label)}{style}" + _brackets(line.marks)
        cells = line.cells or (Shown(""),) * width
        lines.append("| " + " | ".join([label, *(_markdown_cell(cell, style) for cell in cells)]) + " |")
        if line.kind == "head":
            lines.append("|---|" + "---:|" * width)
    lines += ["", *(f"- \\[{letter}] {_markdown(note)}" for letter, note in whole.footnotes.items())]
    lines += ["", f"**Methods.** {_markdown(whole.methods)}", ""]
    if whole.sources:
        lines += ["```bibtex", *map(latex.bibtex, whole.sources), "```"]
    return "\n".join(lines)


def _markdown_cell(cell: Shown, style: str) -> str:
    value = f"**{_markdown(cell.value)}**" if cell.bold else _markdown(cell.value)
    spread = cell.spread if cell.spread.startswith("±") else f"({cell.spread})" * bool(cell.spread)
    text = " ".join(part for part in (value, spread) if part)
    return (f"{style}{text}{style}" if text else "") + _brackets(cell.marks)


def _brackets(marks: Sequence[str]) -> str:
    return f" \\[{','.join(marks)}]" if marks else ""


def _markdown(text: str) -> str:
    """Text without any markup in it: no emphasis, cell, link, code, formula or HTML; nobody is called by name."""
    return MARKUP.sub(lambda sign: f"\\{sign[0]}", plain(text)).replace("@", "&#64;")
