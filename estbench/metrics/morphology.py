"""Inflected forms: which forms are right, the form that an answer gives, and test items made from UniMorph.

    inflected_form("Sõna „maja“ ainsuse seesütlev on **majas**.")        ["majas"]
    is_form("majja või majasse", ["majja", "majasse"])                   True: every form that is given is right
    unimorph_rows({"est.tsv": text})                                     [{lemma, number, case, answers, …}, …]

Every parallel form is right (majja, majasse; majadesse, majusse). Hyphens, apostrophes, digits and diacritics count;
case and the kind of dash or apostrophe don't.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from estbench.errors import TaskError
from estbench.estonian.normalise import (
    DASHES,
    QUOTE_PAIRS,
    answer_text,
    without_markup,
    without_quotes,
    without_thinking,
)

CASES = {  # UniMorph's tag -> the case; ACC repeats the genitive or nominative and is no case of Estonian grammar
    "NOM": "nimetav",
    "GEN": "omastav",
    "PRT": "osastav",
    "IN+ALL": "sisseütlev",
    "IN+ESS": "seesütlev",
    "IN+ABL": "seestütlev",
    "AT+ALL": "alaleütlev",
    "AT+ESS": "alalütlev",
    "AT+ABL": "alaltütlev",
    "TRANS": "saav",
    "TERM": "rajav",
    "FRML": "olev",
    "PRIV": "ilmaütlev",
    "COM": "kaasaütlev",
}
NUMBERS = {"SG": "ainsuse", "PL": "mitmuse"}
ENDINGS = {  # what is put behind the genitive
    "IN+ALL": "sse",
    "IN+ESS": "s",
    "IN+ABL": "st",
    "AT+ALL": "le",
    "AT+ESS": "l",
    "AT+ABL": "lt",
    "TRANS": "ks",
    "TERM": "ni",
    "FRML": "na",
    "PRIV": "ta",
    "COM": "ga",
}
NO_SHORT_PLURAL = ("PRIV", "COM")  # the other endings may stand behind a plural in -i or -u, too
WRONG_IN_TABLE = ("süda", "tulekahju", "võimalus")  # "südat", "tulekahjut", "võimalussed" besides what _sound finds
ITEMS_PER_CELL = 74  # 27 cells: 1,998 items
Paradigm = dict[str, list[str]]  # "PRT;PL" -> forms

_CASE_NAMES = "|".join(CASES.values())
_STATED = re.compile(
    rf"\b(?:{_CASE_NAMES})\w*+(?:[^.:\n]{{0,200}}?\s(?:on|oleks)\b:?|\s*[:=→])\s*(?=\S)|(?:→|->|=>)\s*(?=\S)",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"^[ *_#>-]*(?:õige |lõplik )?(?:vastus|vorm)(?: on)?[*_\s]*:[*_\s]*(\S.*)$", re.I | re.M)
_HEADING = re.compile(r".*:[\s*_]*|[\s*_#>-]*sõna[*_\s]*:.*", re.I)
_WORD_IS = re.compile(
    r"\A(?:(?:otsitav |õige |see )?(?:sõna|vorm|vastus)(?: võiks)?(?: on| oleks| olla):?\s+|sõna\s*:\s*)(?=\S)", re.I
)
_END = re.compile(
    r",\s+(?:sest|kuna|mitte|aga|kuid|ent|nagu|et|mis|kus)\b|\s+\(|\s+on\s+(?:\w+\s+)?(?:ainsuse|mitmuse)|\s+[–—-]\s|[.!?]\s+(?=[A-ZÕÄÖÜŠŽ])|(?<![.!?,;:])[.!?,;:]++\Z"
)
_ALTERNATIVES = re.compile(r"\s*(?:/|,|;|\bvõi\b|\behk\b)\s*")


def form_key(form: str) -> str:
    """The form in which two inflected forms are compared."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", form).casefold()).translate(DASHES)
    return " ".join(re.sub("[’‘´`ʼ]", "'", text).split())


def inflected_form(response: str) -> list[str]:
    """The form that a response gives, or its alternatives ("majja või majasse"); empty: there is none."""
    lines = (" ".join(line.split()) for line in without_thinking(response).splitlines())
    line = _answer_line("\n".join(line for line in lines if line))  # patterns are quadratic on runs of white space
    stated = _STATED.search(line)
    line = line[stated.end() :] if stated else _WORD_IS.sub("", line)
    phrase = _first_phrase(line)
    parts = [bare for bare in map(_bare, _ALTERNATIVES.split(phrase)) if bare]
    return parts or [bare for bare in [_bare(phrase)] if bare]  # "või" is butter, too


def is_form(response: str, golds: Iterable[str]) -> bool:
    """Whether every form that the response gives is one of the golds; naming wrong ones besides gains nothing."""
    right = {form_key(gold) for gold in golds}
    given = {form_key(form) for form in inflected_form(response)}
    return bool(given) and (given <= right or form_key(_bare(answer_text(response))) in right)


def _answer_line(text: str) -> str:
    """The line behind "Vastus:" or "Vorm:"; else the first one, past a heading that a stated case follows."""
    if labelled := _LABELLED.search(text):
        return answer_text(labelled[1])
    lines = [line for line in text.splitlines() if line.strip(" *_`#")]
    if len(lines) > 1 and _HEADING.fullmatch(lines[0]):
        below = next((line for line in lines[1:] if _STATED.search(line)), None)
        return answer_text(below or ("\n".join(lines[1:]) if lines[0].rstrip(" *_").endswith(":") else text))
    return answer_text(text)


def _first_phrase(line: str) -> str:
    """A line up to what only explains it; what stands in quotes or bold at its beginning is all of it."""
    line = line.strip()
    opening = re.match(r"(\*\*|__|\*|_|`)(.+?)\1", line)
    if opening:
        return opening[2]
    if line[:1] in QUOTE_PAIRS and line:
        closing = re.search(f"[{QUOTE_PAIRS[line[0]]}]", line[1:])
        if closing:
            return line[1 : closing.start() + 1]
    end = _END.search(line)
    return line[: end.start()] if end else line


def _bare(part: str) -> str:
    return without_quotes(without_markup(part)).strip().rstrip(".!?,;:").strip('*_`„“”"«» ')


def unimorph_rows(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Test items from UniMorph's Estonian table (lemma TAB form TAB tags): every cell of the noun but the singular
    nominative, which is what is asked about, with `ITEMS_PER_CELL` lemmas each, chosen by a hash."""
    read = [item for text in texts.values() for item in _paradigms(text).items()]
    paradigms = [(lemma, forms) for lemma, forms in read if lemma not in WRONG_IN_TABLE and _sound(forms)]
    rows = []
    for number in NUMBERS:
        for case in CASES:
            cell = f"{case};{number}"
            ranked = sorted(paradigms, key=lambda pair: hashlib.sha256(f"{pair[0]};{cell}".encode()).digest())
            with_form = [(lemma, forms) for lemma, forms in ranked if cell in forms and cell != "NOM;SG"]
            rows += [
                {
                    "lemma": lemma,
                    "number": NUMBERS[number],
                    "case": CASES[case],
                    "answers": parallel_forms(forms, case, number),
                }
                for lemma, forms in with_form[:ITEMS_PER_CELL]
            ]
    return rows


def _paradigms(text: str) -> dict[str, Paradigm]:
    """Nouns of a UniMorph table by lemma. TaskError names a line that has not three columns."""
    found: dict[str, Paradigm] = {}
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split("\t")
        if line.strip() and len(columns) != 3:
            raise TaskError(f"Line {number} of the UniMorph table has {len(columns)} columns and not 3: {line[:80]!r}.")
        if line.strip() and columns[2].startswith("N;"):
            lemma, form, tags = (unicodedata.normalize("NFC", column.strip()) for column in columns)
            forms = found.setdefault(lemma, {}).setdefault(tags.removeprefix("N;"), [])
            if form not in forms:
                forms.append(form)
    return found


def _sound(forms: Paradigm) -> bool:
    """Whether the principal forms fit together. In about 100 nouns of the table they don't: "seeriumde" for seeriumide
    (no consonant stem beside a partitive in a vowel), "veskid" for veskit (-d follows a long vowel only)."""
    partitive, genitive = forms.get("PRT;SG", [""])[0], forms.get("GEN;PL", [""])[0]
    if re.search("[aeiouõäöü]$", partitive) and re.search("[^aeiouõäöü][dt]e$", genitive):
        return False
    return not re.search("[^aeiouõäöü][aeiouõäöü]d$", partitive)


def parallel_forms(forms: Paradigm, case: str, number: str) -> list[str]:
    """All right forms of a cell. The table has one form a cell, in about 180 cells two without a space between them
    ("tuppatoasse"): those are parted, and what regularly stands beside a form is added."""
    given = forms[f"{case};{number}"]
    genitive = forms.get(f"GEN;{number}", [""])[0]
    if (case, number) == ("PRT", "PL"):
        long = _long_partitive(forms)
        return _unique([part for form in given for part in _parted(form, long)] + [long])
    if case not in ENDINGS or not genitive:
        return list(given)
    parted = [part for form in given for part in _parted(form, genitive + ENDINGS[case])]
    return _unique(parted + [stem + ENDINGS[case] for stem in _stems(forms, case, number)])


def _parted(form: str, long: str) -> list[str]:
    if long and form != long and form.endswith(long):
        return [form.removesuffix(long), long]
    if long and form != long and form.startswith(long):
        return [long, form.removeprefix(long)]
    return [form]


def _stems(forms: Paradigm, case: str, number: str) -> list[str]:
    """What takes a case's ending: the genitive; in the singular illative of -ne and -s words (hobuse, hobu-sse) and in
    the plural (majade-, maju-; raamatute-, raamatui-) a short stem besides."""
    genitive = forms[f"GEN;{number}"][0]
    nominative = forms.get("NOM;SG", [""])[0]
    if number == "SG":
        short = case == "IN+ALL" and nominative.endswith(("ne", "s")) and genitive.endswith("se")
        return [genitive, genitive.removesuffix("se")] if short else [genitive]
    partitive, singular = parallel_forms(forms, "PRT", "PL")[0], forms.get("GEN;SG", [""])[0]
    if case in NO_SHORT_PLURAL or partitive.endswith("sid"):
        return [genitive]
    if partitive.endswith("id"):
        return [genitive, partitive[:-1]]
    alike = partitive[-1:] in tuple("aeiu") and partitive[:-1] == singular[:-1]  # grades that differ are left out
    return [genitive, partitive] if alike else [genitive]


def _long_partitive(forms: Paradigm) -> str:
    """The plural partitive in -sid beside maju (majasid) and puid (puusid); empty where there is none."""
    plural, singular, genitive = (forms.get(cell, [""])[0] for cell in ("PRT;PL", "PRT;SG", "GEN;SG"))
    if singular[-1:] in tuple("aeiu") and plural[-1:] in tuple("aeiud"):
        return f"{singular}sid"
    return f"{genitive}sid" if genitive and singular == f"{genitive}d" else ""


def _unique(forms: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(form for form in forms if form))
