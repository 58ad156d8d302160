"""Checkers of words, letters, language and length."""

from __future__ import annotations

import re
import unicodedata

from estbench.errors import TaskError
from estbench.estonian import language
from estbench.estonian.sentences import sentences, words
from estbench.metrics.ifeval.arguments import Arguments, Checker

_NAMED = {  # a language that a prompt asks for by name
    "et": re.compile(r"\beesti ?keel(?:es|ne|se|set|sena|eks)\b|\bin estonian\b", re.IGNORECASE),
    "en": re.compile(r"\binglis(?:e ?)?keel(?:es|ne|se|set|sena|eks)\b|\bin english\b", re.IGNORECASE),
}


def literal(text: str) -> re.Pattern[str]:
    """The text as whole words in any case: "pomm" isn't in "pommitama", "C++" is in "C++,"; spaces may break lines."""
    body = r"\s+".join(map(re.escape, text.split()))
    return re.compile(
        (r"(?<!\w)" if re.match(r"\w", text) else "") + body + (r"(?!\w)" if re.search(r"\w\Z", text) else ""),
        re.IGNORECASE,
    )


def existence(response: str, arguments: Arguments) -> bool:
    """Each keyword occurs, in the form that is given."""
    return all(literal(keyword).search(response) for keyword in arguments.texts("keywords"))


def frequency(response: str, arguments: Arguments) -> bool:
    """The keyword occurs at least, or less than, so many times."""
    found = len(literal(arguments.text("keyword")).findall(response))
    return arguments.holds("relation", found, "frequency")


def forbidden_words(response: str, arguments: Arguments) -> bool:
    """None of the words occurs; a whole paradigm may be listed."""
    return not any(literal(word).search(response) for word in arguments.texts("forbidden_words"))


def letter_frequency(response: str, arguments: Arguments) -> bool:
    """The letter (õ isn't o), or another sign such as "!", occurs at least, or less than, so many times in any case."""
    letter = arguments.text("letter").lower()
    if len(letter) != 1:
        raise TaskError(f"The row's instruction {arguments.instruction}: {letter!r} is no single letter.")
    return arguments.holds("let_relation", response.lower().count(letter), "let_frequency")


def response_language(response: str, arguments: Arguments) -> bool:
    """Most of the response is in the language; where that can't be told, the instruction isn't followed."""
    return _is_language(response, arguments.text("language"))


def number_sentences(response: str, arguments: Arguments) -> bool:
    """There are at least, or less than, so many sentences (see estonian.sentences)."""
    return arguments.holds("relation", len(sentences(response)), "num_sentences")


def number_words(response: str, arguments: Arguments) -> bool:
    """There are at least, or less than, so many words. In English every run of letters and digits is one, as the
    original counts ("well-known" is two); in Estonian hyphens join (see estonian.sentences)."""
    text = "".join(sign for sign in response if unicodedata.category(sign)[0] != "M")  # vowel signs part no Hindi word
    found = re.findall(r"\w+", text) if arguments.language == "en" else words(text)
    return arguments.holds("relation", len(found), "num_words")


def number_paragraphs(response: str, arguments: Arguments) -> bool:
    """There are so many paragraphs, separated by ***; an empty one between two others spoils it."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", response)]
    return all(parts[1:-1]) and sum(parts) == arguments.number("num_paragraphs")


def nth_paragraph_first_word(response: str, arguments: Arguments) -> bool:
    """There are so many paragraphs, separated by an empty line, and the nth one begins with the word."""
    parts = [part.strip() for part in response.split("\n\n")]
    number, nth = sum(map(bool, parts)), arguments.number("nth_paragraph")
    if not 1 <= nth <= arguments.number("num_paragraphs"):
        raise TaskError(f"The row's instruction {arguments.instruction}: there is no paragraph {nth} to look at.")
    if nth > number or not parts[nth - 1]:
        return False
    first = parts[nth - 1].split()[0].lstrip("'").lstrip('"„“”«»')
    ending = r"[.,?!'\"“”«»]" if arguments.language == "en" else r"(?![-‐‑])\W"
    word = re.split(ending, first, maxsplit=1)[0]
    return number == arguments.number("num_paragraphs") and word.lower() == arguments.text("first_word").lower()


def capital_word_frequency(response: str, arguments: Arguments) -> bool:
    """Words of at least two letters, all of them capitals, occur at least, or less than, so many times. A hyphenated
    word is one: "COVID-19" is in capitals, "NATO-sse", with a case ending in small letters, is not."""
    capitals = [word for word in words(response) if word.isupper() and sum(map(str.isalpha, word)) >= 2]
    return arguments.holds("capital_relation", len(capitals), "capital_frequency")


def all_capital(response: str, arguments: Arguments) -> bool:
    """There is no small letter, whatever the language."""
    return response.isupper()


def all_lowercase(response: str, arguments: Arguments) -> bool:
    """There is no capital letter, whatever the language."""
    return response.islower()


def language_capital(response: str, arguments: Arguments) -> bool:
    """All letters are capitals and the language is right: the one that the prompt names, else the data set's own."""
    return response.isupper() and _in_named_language(response, arguments)


def language_lowercase(response: str, arguments: Arguments) -> bool:
    """No letter is a capital and the language is right, as for `language_capital`."""
    return response.islower() and _in_named_language(response, arguments)


def no_comma(response: str, arguments: Arguments) -> bool:
    """There is no comma, not even in a decimal number."""
    return "," not in response


def _in_named_language(response: str, arguments: Arguments) -> bool:
    named = [code for code, pattern in _NAMED.items() if pattern.search(arguments.prompt)]
    return any(_is_language(response, code) for code in named or [arguments.language])


def _is_language(text: str, code: str) -> bool:
    try:
        return language.is_language(text, code) is True
    except ValueError as error:
        raise TaskError(f"A row's instruction asks for a response in {code!r}, but {error}.") from None


CHECKERS: dict[str, Checker] = {
    "keywords:existence": existence,
    "keywords:frequency": frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": language_capital,
    "change_case:english_lowercase": language_lowercase,
    "punctuation:no_comma": no_comma,
}
WITHOUT_LANGUAGE: dict[str, Checker] = {  # as sets name them whose rows with a language were replaced
    "change_case:capital_letters": all_capital,
    "change_case:lowercase_letters": all_lowercase,
}
