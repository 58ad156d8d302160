"""Gates before the judge: answers that say nothing, repeat themselves to the limit, or are in another language.

    screen(("Thought process:",), "et")         Screened(reason="empty", turn=1)
    screen(("Jah, sest …", "Ja ja ja …"), "et")  Screened(reason="looping", turn=2)
    screen(("Tallinn on Eesti pealinn.",), "et")  None: judges are asked

A screened answer costs no call, and its value is fixed. So a gate closes only where nobody could doubt it: what is
short, quoted, a list of names, a refrain, a table or code goes on to the judge. Text is compared in NFC.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from estbench.estonian.language import UNKNOWN, code_of, identify

Reason = Literal["empty", "looping", "language"]

# Looping. Degenerate decoding ends in exact copies of one stretch (Holtzman et al., arXiv 1904.09751), whatever its
# length; refrains, cumulative songs and padded answers have other text between their copies, or few of them.
COPIES = 5  # of the stretch, next to each other: anthems and songs have four refrains, with verses between
SHARE = 0.5  # of the answer that the copies make up
LEAST_SPAN = 500  # signs of all copies together: about 200 tokens, while answers may have 1,024 and more
LEAST_SPAN_OF_CODE = 2_000  # matrices of zeros, empty tables in HTML, mazes: code, or a stretch without letters
LONGEST_STRETCH = 2_000  # signs
COMPRESSED = 0.4  # of the size: above it, no half of an answer can be such copies; Estonian prose has about 0.5
MOST_SIGNS = 100_000  # as much of an answer as is read

# Language.
SHORT = 80  # letters of running text: less is not screened
LEAST_WORDS = 7  # of a line of running text; titles and names stand in shorter ones
WORDS_PER_COMMA = 4  # fewer: the line is an enumeration
SIGNS_PER_WORD = 4  # in scripts that put no spaces between words, about
READ = 2_000  # signs of running text that are looked at
WITNESSES = 3  # different function words of the language asked for: part of the answer is in it, a judge reads it
FUNCTION_WORDS = {  # that are no words of neighbouring languages (as are "ja", "on", "ei" in Finnish, "see" in English)
    "et": "aga ega ehk eriti jaoks juba kes kohta kui kuid kuidas kuigi kus kõik kõige lihtsalt läbi lisaks meie mida "
    "minu mis mitte nagu nende ning näiteks nüüd olid oleks paljud pigem pole pärast saab samuti seda seega sellest "
    "selle sest siis siiski sinu teie tuleb veel väga võib või või üks üle",
    "en": "about also and because been but can from have into is its not of or should that the their them there these "
    "they this those was were what when which who will with would you your",
}

_BLANK = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0"), " ")  # letters and symbols that show nothing
_MARKUP = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:s|bos|eos|pad|unk|think|thinking|start_of_turn|end_of_turn)>", re.I)
_DECORATION = re.compile(r"[\s*_#>`~\"„“”»«-]+")
_STUB = re.compile(
    r"(?:(?:final |the |lõplik )?(?:answer|solution|response|reasoning|explanation|thought process|thinking|output|"
    r"vastus|lahendus|põhjendus|selgitus|mõttekäik|mõtlemiskäik|mõtteprotsess|arutluskäik|väljund)(?: is| on)?[:：…]+"
    r"|(?:okay, |so, )?let['’]?s (?:think|solve (?:this|the) problem|reason)(?: about it)?(?: step by step)?[.:：…]*"
    r"|(?:mõtleme|lahendame|arutleme)(?: selle)?(?: ülesande)? samm ?(?:haaval|sammult)[.:：…]*)",
    re.I,
)
_ENUMERATOR = re.compile(r"^[ \t]*(?:\d{1,4}[.):]|[-*•–])[ \t]+", re.M)
_RULE = re.compile(r"([^\w\s])\1{3,}|_{4,}")
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`|https?://\S+", re.S)
_QUOTED = re.compile(r"„[^“”„]{1,600}[“”]|“[^“”]{1,600}”|«[^«»]{1,600}»|»[^«»]{1,600}«|\"[^\"\n]{1,600}\"")
_WITHOUT_SPACES = "\u0e00"  # Thai, and most of what follows it
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Screened:
    """Why no judge is asked about an answer."""

    reason: Reason
    turn: int  # whose answer it is, from 1


def screen(answers: tuple[str, ...], language: str) -> Screened | None:
    """The first gate that an answer does not pass; None where judges are asked.

    language: that the answers should be in, as a code; "code" and languages that can't be identified are not checked.
    """
    for turn, answer in enumerate(answers, 1):
        text = unicodedata.normalize("NFC", answer)[:MOST_SIGNS]
        if is_empty(text):
            return Screened("empty", turn)
        if is_looping(text, code=language == "code"):
            return Screened("looping", turn)
        if is_foreign(text, language):
            return Screened("language", turn)
    return None


def is_empty(text: str) -> bool:
    """Whether there is nothing in it but white space, punctuation, markup and announcements of what does not follow.

    Letters, digits and symbols (an emoji, a sign of comparison) are an answer. ":" and "Thought process:" are none;
    graders take them for one (arXiv 2507.08794).
    """
    shown = _MARKUP.sub(" ", text.translate(_BLANK))
    return all(_says_nothing(line) for line in shown.splitlines())


def _says_nothing(line: str) -> bool:
    if _STUB.fullmatch(_DECORATION.sub(" ", line).strip()):
        return True
    return not any(sign.isalnum() or unicodedata.category(sign) in ("So", "Sm", "Sc") for sign in line)


def is_looping(text: str, code: bool = False) -> bool:
    """Whether at least half of the answer is one stretch again and again: `COPIES` or more, one after the other.

    Numbers and bullets before lines, case and white space make no difference, rules of dashes count as three. An answer
    in which each copy is a little different is left to the judge.
    """
    if len(text) < LEAST_SPAN or not _compresses(text):
        return False
    plain = " ".join(_RULE.sub(r"\1\1\1", _ENUMERATOR.sub("", text)).casefold().split())
    signs = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32)
    need = max(LEAST_SPAN, int(SHARE * len(signs)))
    for size in range(1, min(LONGEST_STRETCH, len(signs) // COPIES) + 1):
        if np.count_nonzero(signs[size:] == signs[:-size]) < need - size:
            continue
        start, length = _longest_run(signs[size:] == signs[:-size])
        span, stretch = length + size, plain[start : start + size]
        bare = code or "```" in text or not any(map(str.isalpha, stretch))
        if span >= max(need, COPIES * size, LEAST_SPAN_OF_CODE if bare else 0) and any(map(str.isalnum, stretch)):
            return True
    return False


def _compresses(text: str) -> bool:
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 1)) < COMPRESSED * len(raw)


def _longest_run(same: np.ndarray) -> tuple[int, int]:
    """(start, length) of the longest run of True."""
    breaks = np.concatenate([[-1], np.flatnonzero(~same), [len(same)]])
    lengths = np.diff(breaks) - 1
    longest = int(lengths.argmax())
    return int(breaks[longest]) + 1, int(lengths[longest])


def is_foreign(text: str, language: str) -> bool:
    """Whether its running text, and either half of it, is in one and the same other language."""
    wanted = code_of(language)
    if wanted is None:
        return False
    witnesses = _function_words(wanted)
    if len(witnesses.intersection(_WORD.findall(text.lower()))) >= WITNESSES:
        return False
    prose = _running(text)
    if sum(map(str.isalpha, prose)) < SHORT:
        return False
    prose = prose[:READ]
    found = identify(prose)
    half = len(prose) // 2
    return found not in (UNKNOWN, wanted) and identify(prose[:half]) == identify(prose[half:]) == found


def _function_words(code: str) -> frozenset[str]:
    return frozenset(FUNCTION_WORDS.get(code, "").split())


def _running(text: str) -> str:
    """The lines of running text, without code, addresses and quotations."""
    return "\n".join(line for line in _QUOTED.sub(" ", _CODE.sub(" ", text)).splitlines() if _is_running(line))


def _is_running(line: str) -> bool:
    """Whether a line is no title, name, enumeration or row of a table."""
    words = sum(1 if word[0] < _WITHOUT_SPACES else 1 + len(word) // SIGNS_PER_WORD for word in _WORD.findall(line))
    commas = sum(line.count(sign) for sign in ",;|\t、，")
    return words >= max(LEAST_WORDS, WORDS_PER_COMMA * (commas + 1) if commas > 1 else 0)
