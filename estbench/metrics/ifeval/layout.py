"""Checkers of form: marks, sections, formats, beginnings and ends."""

from __future__ import annotations

import json
import re

from estbench.metrics.ifeval.arguments import Arguments, Checker

OPTIONS = {
    "et": ("Minu vastus on jah.", "Minu vastus on ei.", "Minu vastus on võib-olla."),
    "en": ("My answer is yes.", "My answer is no.", "My answer is maybe."),
}
PAIRS = {'"': '"', "„": '“”"', "“": "”", "”": "”", "«": "»", "»": "«"}  # double quotation marks that wrap a text
_CLOSING = '"“”»«'
_OFFERED = re.compile(r"(?:Minu vastus on|My answer is) [^.?!\"“”„«»\n]+\.")
_SEPARATOR = "******"


def number_placeholders(response: str, arguments: Arguments) -> bool:
    """At least so many placeholders in square brackets occur."""
    return len(re.findall(r"\[[^\[\]\n]*\]", response)) >= arguments.number("num_placeholders")


def postscript(response: str, arguments: Arguments) -> bool:
    """There is a postscript with the marker. "P.S." and "P.P.S" may be spaced; in Estonian the dots may be missing
    ("PS: …"), as the orthography has it, and "P.P.S." is no "P.S."."""
    marker = arguments.text("postscript_marker")
    letters = re.sub(r"[\s.:]", "", marker).upper()
    if letters not in ("PS", "PPS"):
        return marker.lower() in response.lower()
    if arguments.language == "en":
        pattern = r"p\.\s?s\." if letters == "PS" else r"p\.\s?p\.\s?s"
    else:
        pattern = r"(?<![\w.])(?<!p\.\s)" + r"\.?\s?".join(letters) + r"(?!\w)"
    return bool(re.search(pattern, response, re.IGNORECASE))


def number_bullet_lists(response: str, arguments: Arguments) -> bool:
    """Exactly so many lines begin with * or - (two asterisks are bold text)."""
    return len(re.findall(r"^[^\S\n]*(?:\*[^*]|-)", response, re.MULTILINE)) == arguments.number("num_bullets")


def constrained_response(response: str, arguments: Arguments) -> bool:
    """One of the options occurs: those that the prompt offers word for word and those that are usual (OPTIONS)."""
    options = {*OPTIONS[arguments.language], *_OFFERED.findall(arguments.prompt)}
    return any(option in response for option in options)


def number_highlighted_sections(response: str, arguments: Arguments) -> bool:
    """At least so many parts of a line are *highlighted* or **highlighted**."""
    single, double = (re.findall(pattern, response) for pattern in (r"\*([^\n*]*)\*", r"\*\*([^\n*]*)\*\*"))
    return sum(bool(part.strip()) for part in single + double) >= arguments.number("num_highlights")


def multiple_sections(response: str, arguments: Arguments) -> bool:
    """At least so many sections begin with the word that is given and a number ("Osa 1")."""
    mark = re.escape(arguments.text("section_spliter")) + r"\s?\d+"
    return len(re.findall(mark, response)) >= arguments.number("num_sections")


def json_format(response: str, arguments: Arguments) -> bool:
    """The whole response is JSON, in a code fence perhaps."""
    text = re.sub(r"\A```(?:json|Json|JSON)?|```\Z", "", response.strip()).strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str, arguments: Arguments) -> bool:
    """A <<title>> with something in it occurs."""
    lines = [line for line in response.split("\n") if ">>" in line]
    return any(found.lstrip("<").rstrip(">").strip() for line in lines for found in re.findall("<<.+>>", line))


def two_responses(response: str, arguments: Arguments) -> bool:
    """There are two different answers with ****** between them, and perhaps before and behind them."""
    parts = [part.strip() for part in response.split(_SEPARATOR)]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def repeat_prompt(response: str, arguments: Arguments) -> bool:
    """The response begins with the request, word for word in any case."""
    return response.strip().lower().startswith(arguments.text("prompt_to_repeat").lower())


def end_checker(response: str, arguments: Arguments) -> bool:
    """The response ends with the phrase in any case; quotation marks behind it don't count."""
    phrase = arguments.text("end_phrase").rstrip(_CLOSING)
    return bool(phrase) and response.strip().rstrip(_CLOSING).lower().endswith(phrase.lower())


def quotation(response: str, arguments: Arguments) -> bool:
    """The whole response stands in double quotation marks: "…", „…“, “…” or «…»."""
    text = response.strip()
    return len(text) > 1 and text[-1] in PAIRS.get(text[0], "")


CHECKERS: dict[str, Checker] = {
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
}
