"""Language identification: small, deterministic, offline, and the same wherever a score is made.

    identify("Öösel sadas lund ja hommikul oli külm.")      "et"
    identify("JAH.")                                        "unknown": too short to tell
    is_language("THE CATS ARE SLEEPING ON THE SOFA.", "en")  True

The script with most letters decides first (Hangul is Korean); languages that share a script are told apart by naive
Bayes over character n-grams of seed texts. Text is lower-cased first: capitals carry no evidence, and a method that
knows only running text calls them another language. Nothing else is ever used in its place, so that a score doesn't
depend on what is installed.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache

from estbench.estonian.language_seeds import SEEDS

UNKNOWN = "unknown"
LEAST_LETTERS = 20  # in a script that several languages share
LEAST_SIGNS = 4  # in a script that tells the language by itself
MOST_SIGNS = 4000  # as much of a text as is read
LEAST_MARGIN = 5.0  # nats between the best two languages
SMOOTHING = 0.3  # added to each n-gram's count
DISTINCT = {1: 100, 2: 700, 3: 5_000, 4: 20_000, 5: 50_000}  # n-grams that a language is taken to have, by length

_ALONE = {
    "HANGUL": "ko",
    "HEBREW": "he",
    "GREEK": "el",
    "THAI": "th",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "BENGALI": "bn",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "CJK": "zh",
    "KANA": "ja",
}
_SHARED: dict[str, tuple[str, ...]] = {
    "CYRILLIC": ("ru", "uk", "bg"),
    "ARABIC": ("ar", "fa", "ur"),
    "DEVANAGARI": ("hi", "mr", "ne"),
}
_SHARED["LATIN"] = tuple(code for code in SEEDS if not any(code in codes for codes in _SHARED.values()))
_SAME = {"nb": "no", "nn": "no", "iw": "he", "in": "id"}
CODES = frozenset({*SEEDS, *_ALONE.values()})


def signature() -> str:
    """Names the method and its seeds."""
    digest = hashlib.sha256(repr(sorted(SEEDS.items())).encode()).hexdigest()[:8]
    return f"ngrams{max(DISTINCT)}-{digest}"


def code_of(name: str) -> str | None:
    """The code that `identify` uses for a language tag ("zh-cn" -> "zh"), or None if it doesn't know the language."""
    code = re.split(r"[-_]", name.strip().lower())[0]
    code = _SAME.get(code, code)
    return code if code in CODES else None


def identify(text: str) -> str:
    """The language of most of the text as an ISO 639-1 code, or "unknown" where too little of it tells."""
    text = unicodedata.normalize("NFC", text).lower()[:MOST_SIGNS]
    letters = [sign for sign in text if sign.isalpha()]
    scripts = Counter(map(_script, letters))
    if scripts["KANA"] * 10 >= scripts["CJK"]:  # Japanese mixes both
        scripts["KANA"] += scripts.pop("CJK", 0)
    if not scripts:
        return UNKNOWN
    script, count = max(scripts.items(), key=lambda item: (item[1], item[0]))
    if script in _ALONE:
        return _ALONE[script] if count >= LEAST_SIGNS else UNKNOWN
    return _nearest(text, script) if script in _SHARED and count >= LEAST_LETTERS else UNKNOWN


def is_language(text: str, code: str) -> bool | None:
    """Whether most of the text is in that language; None where that can't be told. ValueError: an unknown code."""
    wanted = code_of(code)
    if wanted is None:
        raise ValueError(f"the language {code!r} can't be identified")
    found = identify(text)
    return None if found == UNKNOWN else found == wanted


@cache
def _script(sign: str) -> str:
    name = unicodedata.name(sign, "OTHER").split()[0]
    return "KANA" if name in ("HIRAGANA", "KATAKANA") else name


def _nearest(text: str, script: str) -> str:
    """The language of the script in whose model the text is most probable, if it is so by a clear margin."""
    codes = _SHARED[script]
    scores = [0.0] * len(codes)
    for word, count in Counter(word for word in _words(text) if _script(word[0]) == script).items():
        for place, evidence in enumerate(_evidence(word, script)):
            scores[place] += count * evidence
    best, second = sorted(range(len(codes)), key=lambda place: (-scores[place], codes[place]))[:2]
    return codes[best] if scores[best] - scores[second] >= LEAST_MARGIN else UNKNOWN


@lru_cache(maxsize=1 << 16)
def _evidence(word: str, script: str) -> tuple[float, ...]:
    """Log-probability of a word in each language of the script. Kept: a corpus says the same words again and again."""
    counts = _ngrams([word])
    models = [_model(code) for code in _SHARED[script]]
    return tuple(
        sum(count * known.get(ngram, unseen[len(ngram)]) for ngram, count in counts.items()) for known, unseen in models
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", re.sub(r"https?://\S+|\w+@\S+", " ", text))


def _ngrams(words: list[str]) -> Counter[str]:
    """Counts of all character n-grams in the words with a space at each end: " ja " is a 4-gram."""
    return Counter(
        padded[start : start + size]
        for padded in (f" {word} " for word in words)
        for size in DISTINCT
        for start in range(len(padded) - size + 1)
    )


@cache
def _model(code: str) -> tuple[dict[str, float], dict[int, float]]:
    """Log-probabilities of the n-grams of a language's seed text, and of one that isn't there, by its length."""
    counts = _ngrams(_words(unicodedata.normalize("NFC", SEEDS[code]).lower()))
    totals = dict.fromkeys(DISTINCT, 0.0)
    for ngram, count in counts.items():
        totals[len(ngram)] += count
    weights = {size: math.log(total + SMOOTHING * DISTINCT[size]) for size, total in totals.items()}
    known = {ngram: math.log(count + SMOOTHING) - weights[len(ngram)] for ngram, count in counts.items()}
    return known, {size: math.log(SMOOTHING) - weight for size, weight in weights.items()}
