"""Gates before the judge: what says nothing, loops or is foreign is stopped; whatever could be a real answer is not."""

from __future__ import annotations

import cProfile
import unicodedata
from itertools import product

import pytest
from estbench_judges.screens import COPIES, LEAST_SPAN, Screened, is_foreign, is_looping, screen
from hypothesis import given, settings
from hypothesis import strategies as st
from test_language import SENTENCES

PROSE = (
    "Külapäev algab laupäeval kell kaksteist rahvamaja ees. Kõigepealt tervitab külavanem kohaletulnuid, seejärel "
    "esineb segakoor ning lapsed näitavad, mida nad suvises näiteringis õppisid. Kes soovib, võib kaasa võtta oma "
    "küpsetise, sest parimale koogile on auhind. Vihma korral koguneme saalis, kuhu mahub umbes sada inimest."
)
ENGLISH = (
    "The village day begins on Saturday at noon in front of the community house. First the elder welcomes everybody, "
    "then the choir sings, and the children show what they have learned in their summer drama class."
)
REFRAIN = "Helise, ilm, ja laula, laas,\nme oleme jälle kodus maas,\nme oleme jälle kodus maas!\n\n"
VERSES = [
    "Kui koidik tõuseb üle vee\nja udu katab kodutee,\nsiis kuulen kaugelt karjakella\nja tunnen lõhna hella.\n\n",
    "Mu vanaema lävel seal\nveel hoiab peos mu mütsi peal,\nta naerab, et ma olen suur,\nkuid sama vana õunapuu.\n\n",
    "Ja õhtul, kui on töö kõik teht,\nmeil süttib laual kolme leht,\nme räägime sellest taas,\nmis juhtus maal.\n\n",
    "Kui tuleb talv ja lumi maas,\nsiis ootan sind ma koju taas,\nmu uks on lahti, tuli sees,\nkui tuisk on ees.\n\n",
]
GIFTS = [
    "tammepuul istuv pääsuke", "kaks kuldset sõrmust", "kolm valget hane", "neli musta hobust", "viis villast sokki",
    "kuus kurjat kukke", "seitse siidisalli", "kaheksa kaseluuda", "üheksa õunakorvi", "kümme küünlajalga",
]  # fmt: skip
CUMULATIVE = "\n\n".join(
    f"Kui tuli päev number {day}, siis tõi mu sõber mulle\n" + ",\n".join(reversed(GIFTS[:day])) + "."
    for day in range(1, 11)
)
NAMES = "Nimekiri:\n" + "\n".join(
    f"{i}. {name}" for i, name in enumerate(
        ["The Lord of the Rings", "Harry Potter and the Philosopher's Stone", "Pride and Prejudice", "The Great Gatsby",
         "To Kill a Mockingbird", "One Hundred Years of Solitude", "The Catcher in the Rye", "Brave New World"], 1)
)  # fmt: skip
TABLE = "| Kuu | Päevi | Talv | Suvi |\n|---|---|---|---|\n" + "\n".join(
    f"| {month} | 31 | ei | jah |"
    for month in ("jaanuar", "veebruar", "märts", "aprill", "mai", "juuni", "juuli", "august", "september")
)
MATRIX = "Nullmaatriks:\n```python\nA = [\n" + "    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],\n" * 20 + "]\n```"
HTML = (
    "```html\n<table>\n"
    + "<tr><td></td><td></td><td></td><td></td><td></td><td></td><td></td></tr>\n" * 6
    + "</table>\n```"
)
FORM = (
    "Avaldus\n\nEes- ja perekonnanimi: ____________________________________\n"
    + "_" * 90
    + "\n"
    + ("_" * 60 + "\n") * 12
)
PYTHON = "```python\n" + "\n".join(f"def test_{n}():\n    assert square({n}) == {n * n}\n" for n in range(25)) + "```"
ORDINARY = {
    "prose": PROSE,
    "long prose": " ".join(f"{n}. päeval: {PROSE}" for n in ("Esimesel", "Teisel", "Kolmandal")),
    "song": "".join(verse + REFRAIN for verse in VERSES),
    "cumulative song": CUMULATIVE,
    "lullaby": "Äiu-äiu, kussu-kussu, " * 12,
    "laughter": "Ha" * 60,
    "bullets": "\n".join(f"- {word}" for word in ("leib", "piim", "juust", "vorst", "kurk", "tomat", "sibul")),
    "numbers": "\n".join(str(n) for n in range(1, 301)),
    "counting": ", ".join(f"{n} lammas" for n in range(1, 101)),
    "times table": "\n".join(f"{a} × {b} = {a * b}" for a, b in product(range(1, 11), repeat=2)),
    "zeros": "Googol on 1" + "0" * 100 + ".",
    "third": "Üks kolmandik on 0," + "3" * 200 + "…",
    "titles": NAMES,
    "names": "Berlin, London, Paris, Madrid, Roma, Wien, Bruxelles, Amsterdam, Stockholm, Oslo, Helsinki, Praha",
    "table": TABLE,
    "matrix": MATRIX,
    "empty table": HTML,
    "form": FORM,
    "code": PYTHON,
    "comments": "```python\n# First we read all the lines of the file and then we count the words in each of them.\n"
    "# The result is written into another file that has the same name with a different ending.\nprint(1)\n```",
    "quotation": f"Lause „{ENGLISH}“ tähendab: küla kutsub.",
    "translation beside": f"Ingliskeelne tekst oli järgmine:\n\n{ENGLISH}\n\nEesti keeles ütleksin nii: {PROSE}",
    "short English": "I'm sorry, but I can't help with that.",
    "one word": "Jah.",
    "digit": "7",
    "letter": "B",
    "comparison": "<",
    "emoji": "👍",
    "heading of an answer": "Vastus: 42",
    "a word that is also a heading": "Lahendus",
    "thought": "Thought process: kõigepealt liidan, siis jagan.",
    "capitals": PROSE.upper(),
    "without diacritics": PROSE.translate(str.maketrans("õäöüÕÄÖÜ", "oaouOAOU")),
    "padded three times": "\n\n".join([PROSE] * 3),
    "four refrains": "\n\n".join([PROSE] * (COPIES - 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_answers_pass(name: str) -> None:
    assert screen((ORDINARY[name],), "et") is None
    assert screen((ORDINARY[name],), "code") is None


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\n\t ", ":", "...", "—", "***", "```\n```", "。", "?!", "\u200b\u200d", "\u3164", "\u2800", "\u0301",
     "Thought process:", "**Thought process:**\n\n", "Solution:", "Vastus:", "## Lahendus:\n", "Lõplik vastus: ",
     "Thought process:\n\nAnswer:", "Let's think step by step.", "Let’s solve this problem step by step.",
     "Mõtleme samm-sammult.", "<|im_end|>", "</s>", "<think>\n\n</think>\n\n"],
)  # fmt: skip
def test_what_says_nothing_is_empty(text: str) -> None:
    assert screen((text,), "et") == Screened("empty", 1)
    assert screen((unicodedata.normalize("NFD", text),), "et") == Screened("empty", 1)


@pytest.mark.parametrize(
    "text",
    {
        "word": "Eesti pealinn on Tallinn ning " + "väga " * 300,
        "sentence": f"{PROSE}\n" + "Tallinn on Eesti pealinn ja suurim linn. " * 40,
        "sentence cut off": "Tallinn on Eesti pealinn ja suurim linn. " * 30 + "Tallinn on Ees",
        "lines": "- Värske õhk ja liikumine\n" * 60,
        "numbered": "\n".join(f"{n}. Joo iga päev piisavalt vett." for n in range(1, 60)),
        "paragraph": (PROSE + "\n\n") * 8,
        "letters": "a" * 700,
        "syllables": "Ha" + "ha" * 500,
        "digits": "Vastus on 0." + "3" * 3000,
        "without spaces": "ありがとうございます。" * 80,
        "case": "".join("Oluline on tervis. " if n % 2 else "OLULINE ON TERVIS. " for n in range(60)),
        "turns": "Kasutaja: Tere!\nAssistent: Tere! Kuidas saan aidata?\n" * 20,
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_model_that_repeats_itself_to_the_limit_is_stopped(text: tuple[str, str]) -> None:
    assert screen((text[1],), "et") == Screened("looping", 1)
    assert screen((unicodedata.normalize("NFD", text[1]),), "et") == Screened("looping", 1)


def test_copies_count_only_when_they_are_many_long_and_most_of_the_answer() -> None:
    line = "Sama rida tuleb siin aina uuesti ja uuesti. "
    assert is_looping(line * 20)
    assert not is_looping(line * (LEAST_SPAN // len(line)))
    assert not is_looping(PROSE * 4 + VERSES[0] * 2 + PROSE[::-1] * 2 + line * 12)
    code = "print('tere, maailm')\n"
    assert not is_looping(code * 40, code=True) and is_looping(code * 40) and is_looping(code * 120, code=True)


@settings(max_examples=100, deadline=None)
@given(st.text("abcdeõäöü ,", min_size=1, max_size=150), st.integers(0, 400), st.integers(0, 100))
def test_copies_of_any_words_are_found_after_an_ordinary_beginning_and_cut_off_anywhere(
    words: str, before: int, cut: int
) -> None:
    stretch = f"ja {words} "
    text = PROSE[:before] + stretch * (1_200 // len(stretch) + 1)
    assert is_looping(text[: len(text) - cut])


def test_slowly_changing_repetition_is_left_to_the_judge() -> None:
    assert not is_looping(
        " ".join(f"Aastal {year} oli saak {year * 7 % 90} tonni ja ilm hea." for year in range(1900, 1960))
    )


@pytest.mark.parametrize("language", [code for code in SENTENCES if code != "et"])
def test_running_text_in_another_language_is_stopped(language: str) -> None:
    """Scripts with many letters to a word reach the least length later."""
    text = " ".join([SENTENCES[language]] * 5)
    assert is_foreign(text, "et")
    assert not is_foreign(text, language)
    assert not is_foreign(text, "code") and not is_foreign(text, "xx")


def test_english_answers_are_stopped_where_estonian_is_asked_and_the_other_way_round() -> None:
    assert screen((ENGLISH,), "et") == Screened("language", 1)
    assert screen((PROSE,), "en") == Screened("language", 1)
    assert screen((ENGLISH,), "en") is None and screen((PROSE,), "et") is None
    assert screen((f"- {ENGLISH}\n- {ENGLISH}",), "et-EE") == Screened("language", 1)


def test_half_an_answer_in_the_language_is_enough_to_be_judged() -> None:
    for text in (f"{ENGLISH}\n\n{PROSE}", f"{PROSE}\n\n{ENGLISH}", f"{PROSE[:150]}\n{ENGLISH}"):
        assert screen((text,), "et") is None


def test_the_turn_that_fails_is_named_and_the_first_counts() -> None:
    loop = "Jah, nii see on. " * 80
    assert screen((PROSE, PROSE), "et") is None
    assert screen((PROSE, ""), "et") == Screened("empty", 2)
    assert screen((PROSE, loop), "et") == Screened("looping", 2)
    assert screen((ENGLISH, ":"), "et") == Screened("language", 1)
    assert screen((), "et") is None


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters()) | st.text(st.characters(codec=None), max_size=50).map(lambda text: text * 40),
    st.sampled_from(["et", "en", "code", "", "zz"]),
)
def test_any_text_has_a_result_and_the_same_in_nfc_and_nfd(text: str, language: str) -> None:
    found = screen((text,), language)
    assert found is None or (found.turn == 1 and found.reason in ("empty", "looping", "language"))
    assert screen((unicodedata.normalize("NFD", text),), language) == found
    assert screen((unicodedata.normalize("NFC", text),), language) == found


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=30), st.integers(0, 40))
def test_white_space_around_an_answer_changes_nothing(text: str, spaces: int) -> None:
    assert (screen((text,), "et") is None) == (screen((" " * spaces + text + "\n" * spaces,), "et") is None)


def test_halves_of_surrogate_pairs_do_no_harm() -> None:
    assert screen(("\ud83d" * 800,), "et") == Screened("empty", 1)
    assert screen(("a\ud83d " * 400,), "et") == Screened("looping", 1)


def calls(text: str) -> int:
    """Calls of functions for one answer, which are the same on every machine: 5,000 take a millisecond or two."""
    profile = cProfile.Profile()
    profile.runcall(screen, (text,), "et")
    return sum(entry.callcount for entry in profile.getstats())


def test_a_usual_answer_takes_little_work() -> None:
    usual = ("prose", "long prose", "song", "bullets", "table", "times table", "one word", "digit")
    screen(tuple(ORDINARY[name] for name in usual), "et")
    long = "\n".join(f"{i} õun läks koju, kus {i * 7919 % 1000} kassi magas" for i in range(3000))
    assert max(calls(ORDINARY[name]) for name in usual) < 5000 < calls(long)  # the long one is searched for copies
