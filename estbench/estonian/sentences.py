"""Sentences and words of Estonian (and English) running text, by rules: nothing is learnt or downloaded.

    sentences("Sündis 24. veebruaril 1918. a. Vt lk 5. Tere!")   ["Sündis 24. veebruaril 1918. a.", "Vt lk 5.", "Tere!"]
    words("Lõuna-Eesti 3,5 km NATO-sse.")                       ["Lõuna-Eesti", "3,5", "km", "NATO-sse"]

A sentence ends at . ! ? … (with closing quotes and brackets) before a space if what follows can begin one, and at every
blank line, list item and heading. A dot is no end behind an abbreviation, an initial, or an ordinal whose sentence goes
on in lower case, with a month or with a number ("24. veebruar", "XII. ajal").
"""

from __future__ import annotations

import re

# Abbreviations behind which a sentence goes on even if a capital or a number follows; dots inside count ("s.t").
_SHORT = """
al alg aü b ca dets dots dr e.m.a ing insp jaan jj juh jun jv k.a kd kell kk kl knd kod kol kpt ktk lg lk
lms lp lpp lüh m.a mag maj mh mnt mob mr mrs ms n.n nn nim nov nr nt oa okt op p.o ped piibl pms pr prl
prof prov pst pt ptk raj rmt rtj s s.a s.o s.t saj sept sh skp sl snd so srn st stj t tehn tel tlk tn toim
tr tv tõlk u ukj ul umb v v.a vrd vt õp õpil ü hr n k e.g i.e vs fig vol approx mt
"""
ABBREVIATIONS = frozenset(_SHORT.split())
MONTHS = "jaanuar|veebruar|märts|aprill|mai|juuni|juuli|august|september|oktoober|november|detsember"

_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'“”«»’\])*_]*+(?=\s|\Z)")
_WORD = re.compile(r"[^\W_]+(?:(?:[-‐‑'’]|(?<=\d)[.,:](?=\d))[^\W_]+)*")
_MARK = re.compile(r"\A\s*(?:[-*+•–—]|\d{1,3}[.)](?!\s+[a-zõäöüšž])|#+)\s+")  # a list item or heading
_CLOSING = "\"'“”«»’])*_"
_NEAR = 60  # signs around a mark that are looked at
_OPENING = "\"'„“”«»‚‘’([*_–—- "


def words(text: str) -> list[str]:
    """The words: runs of letters and digits; hyphens, apostrophes and marks between digits join, all else parts."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The sentences in order, without surrounding space; pieces without a letter or digit (rules, dashes) are none."""
    found = []
    for block in _blocks(text):
        start = 0
        for end in _END.finditer(block):
            if _ends(block, end):
                found.append(block[start : end.end()])
                start = end.end()
        found.append(block[start:])
    return [sentence.strip() for sentence in found if re.search(r"\w", sentence)]


def _blocks(text: str) -> list[str]:
    """Parts that no sentence spans: paragraphs, list items and headings, each on one line."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        mark = _MARK.match(line)
        if not line.strip() or mark:
            blocks.append([])
        blocks[-1].append(line[mark.end() :] if mark else line.strip())
        if mark and mark[0].strip().startswith("#"):
            blocks.append([])
    return [" ".join(lines) for lines in blocks if lines]


def _ends(text: str, mark: re.Match[str]) -> bool:
    """Whether the sentence mark that was found ends a sentence."""
    rest = text[mark.end() : mark.end() + _NEAR].lstrip().lstrip(_OPENING)
    if not rest:
        return True
    if rest[0].islower():  # „Tule!“ hüüdis ta.
        return False
    if mark[0].rstrip(_CLOSING) != ".":
        return True
    before = re.split(r"[^\w.]", text[max(0, mark.start() - _NEAR) : mark.start()])
    word = before[-1]
    if re.fullmatch(r"\d{1,4}|[IVXLC]{2,}|I", word):  # an ordinal, if a date goes on; else a number at the end
        return not re.match(rf"\d|(?i:{MONTHS})", rest)
    if re.fullmatch(r"[^\W\d_](?:\.[^\W\d_])*", word) and word.isupper():  # initials: K. Päts, U.S. President
        return False
    return not {word, word[:1].lower() + word[1:]} & ABBREVIATIONS
