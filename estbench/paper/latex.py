r"""A table as LaTeX that article, booktabs and xcolor compile, with its sources as BibTeX. Knows nothing of runs.

    tex("50 % of a_b")                           50 \% of a\_b
    source("Ponti et al. 2020. XCOPA: …").key    ponti2020-0f3c1a
    latex(page)                                  a fragment for \input; its end is for a .bib file

Text from outside is escaped, whatever it holds. Letters with the accents of Estonian and its neighbours stay UTF-8; a
sign that plain LaTeX has no command for is shown as [U+4E2D].
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

MOST = 6  # columns beside each other; more stand below them
HYPHEN = "\ue000"  # one before another: no dash is made of the two. `plain` lets none of these through
ESCAPES = {
    **{sign: f"\\{sign}" for sign in "_%&#$"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # behind \\ they would be its options
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",  # unlike \{ balanced, as BibTeX counts
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    HYPHEN: "-{}",
    "“": "``",
    "”": "''",
    "„": ",,",
    "‘": "`",
    "’": "'",
    "…": r"\ldots{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}
ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"  # of plain LaTeX's OT1 fonts
LETTERS = "ßæœøłÆŒØŁ"
AUTHORED = re.compile(r"((?:[^.;:]|al\.)+?) ((?:19|20)\d\d)[.,] (.+)")


@dataclass(frozen=True, slots=True)
class Shown:
    """A cell: its value, how far that is sure, letters of its footnotes."""

    value: str
    spread: str = ""
    marks: tuple[str, ...] = ()
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A row. kind: "head", "fact", "run", "source" (a label alone) or "published" (grey)."""

    kind: str
    label: str
    cells: tuple[Shown, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Something to cite."""

    key: str
    title: str
    author: str | None = None
    year: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A table with all that belongs to it, as plain text."""

    caption: str
    groups: tuple[str, ...]  # of each column: what it has in common with its neighbours
    lines: tuple[Line, ...]
    footnotes: Mapping[str, str]  # letter -> text
    methods: str
    cited: tuple[tuple[str, str], ...]  # what is cited, and the key of its source
    sources: tuple[Source, ...]


def plain(text: str) -> str:
    """Text in one line, without signs that can't be seen."""
    whole = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in whole)


def tex(text: str) -> str:
    """Plain text as LaTeX (and as the value of a BibTeX field): braces balance, no sign commands anything."""
    return "".join(_sign(sign) for sign in re.sub("-(?=-)", HYPHEN, plain(text)))


def _sign(sign: str) -> str:
    if sign in ESCAPES:
        return ESCAPES[sign]
    parts = unicodedata.normalize("NFD", sign)
    accented = len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS
    known = sign.isascii() or sign in LETTERS or (accented and ord(sign) < 0x180)
    return sign if known else f"{{[}}U+{ord(sign):04X}{{]}}"


def source(text: str) -> Source:
    """A citation in words ("Ponti et al. 2020. XCOPA: …") as a source. Its key changes only if the words do."""
    found = AUTHORED.fullmatch(plain(text))
    author, year, title = found.groups() if found else (None, None, plain(text))
    first = re.match(r"\w+", author or title)
    word = unicodedata.normalize("NFD", first[0] if first else "source")
    name = "".join(sign for sign in word.lower() if sign.isascii() and sign.isalnum()) or "source"
    return Source(f"{name}{year or ''}-{hashlib.sha256(plain(text).encode()).hexdigest()[:6]}", title, author, year)


def bibtex(one: Source) -> str:
    """The source as a @misc entry."""
    fields = {"author": one.author, "title": one.title, "note": one.note}
    rows = [f"  {name} = {{{{{tex(text)}}}}}" for name, text in fields.items() if text]
    rows += [f"  year = {{{one.year}}}"] if one.year else []
    rows += [f"  key = {{{one.key}}}"] * (not one.author)  # what styles sort by
    return f"@misc{{{one.key},\n" + ",\n".join(rows) + "\n}"


def latex(page: Page) -> str:
    r"""A table, a paragraph on methods, and behind \endinput, where LaTeX reads no further, the sources."""
    width = len(page.groups)
    step = math.ceil(width / math.ceil(width / MOST))
    tables = [_tabular(page, slice(start, start + step)) for start in range(0, width, step)]
    notes = [rf"\textsuperscript{{{letter}}}~{tex(text)}" for letter, text in page.footnotes.items()]
    cited = ", ".join(rf"{tex(name)}~\cite{{{key}}}" for name, key in page.cited)
    parts = [
        r"% Needs \usepackage{booktabs,xcolor}. Behind \endinput: BibTeX for a .bib file.",
        r"\begin{table*}[tp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{tex(page.caption)}}}",
        r"\label{tab:estbench}",
        "\n\\par\\medskip\n".join(tables),
        *(
            [rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\scriptsize {'; '.join(notes)}.\end{{minipage}}"]
            * bool(notes)
        ),
        r"\end{table*}",
        "",
        r"\paragraph{Methods.} " + tex(page.methods),
        *([f"Sources: {cited}."] * bool(cited)),
        "",
        r"\endinput",
        *map(bibtex, page.sources),
    ]
    return "\n".join(parts)


def _tabular(page: Page, part: slice) -> str:
    """Some of the columns, with every row."""
    groups = page.groups[part]
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * len(groups)}@{{}}}}", r"\toprule"]
    heads, rules, at = [""], [], 2
    for name, members in groupby(groups):
        count = len(list(members))
        heads.append(rf"\multicolumn{{{count}}}{{c}}{{{tex(name)}}}")
        rules += [rf"\cmidrule(lr){{{at}-{at + count - 1}}}"] * bool(name)
        at += count
    if any(groups):
        lines += [" & ".join(heads).lstrip() + r" \\", "".join(rules)]
    before = "head"
    for line in page.lines:
        if (before, line.kind) in (("fact", "run"), ("run", "source"), ("published", "source")):
            lines.append(r"\midrule")
        lines.append(_row(line, line.cells[part], len(groups)))
        before = line.kind
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _row(line: Line, cells: Sequence[Shown], width: int) -> str:
    label = _grey(line, tex(line.label)) + _marks(line.marks)
    if line.kind == "source":
        return rf"\multicolumn{{{width + 1}}}{{@{{}}l}}{{{label}}} \\"
    return " & ".join([label, *(_cell(line, cell) for cell in cells)]) + r" \\"


def _cell(line: Line, cell: Shown) -> str:
    value = rf"\textbf{{{tex(cell.value)}}}" if cell.bold else tex(cell.value)
    spread = rf"\,{{\scriptsize {tex(cell.spread)}}}" if cell.spread else ""
    return (_grey(line, value + spread) if cell.value else "") + _marks(cell.marks)


def _grey(line: Line, text: str) -> str:
    return rf"\textcolor{{gray}}{{{text}}}" if line.kind in ("source", "published") else text


def _marks(marks: Sequence[str]) -> str:
    return rf"\textsuperscript{{{','.join(marks)}}}" if marks else ""
