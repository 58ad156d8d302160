"""The demo world's words: hand-checked forms as the oracle, and what must hold of every word."""

from __future__ import annotations

import unicodedata

import pytest

from estbench.demo import lexicon

# word: singular genitive, partitive; plural genitive, partitive; written down apart from the tables
GOLD = {
    "võti": "võtme võtit võtmete võtmeid",
    "laps": "lapse last laste lapsi",
    "raamat": "raamatu raamatut raamatute raamatuid",
    "kiri": "kirja kirja kirjade kirju",
    "ajaleht": "ajalehe ajalehte ajalehtede ajalehti",
    "laud": "laua lauda laudade laudu",
    "lamp": "lambi lampi lampide lampe",
    "pilt": "pildi pilti piltide pilte",
    "nuga": "noa nuga nugade nuge",
    "siga": "sea siga sigade sigu",
    "lind": "linnu lindu lindude linde",
    "hobune": "hobuse hobust hobuste hobuseid",
    "lammas": "lamba lammast lammaste lambaid",
    "kinnas": "kinda kinnast kinnaste kindaid",
    "saabas": "saapa saabast saabaste saapaid",
    "kirves": "kirve kirvest kirveste kirveid",
    "jalgratas": "jalgratta jalgratast jalgrataste jalgrattaid",
    "aken": "akna akent akende aknaid",
    "uks": "ukse ust uste uksi",
    "padi": "padja patja patjade patju",
    "sõber": "sõbra sõpra sõprade sõpru",
    "naaber": "naabri naabrit naabrite naabreid",
    "poiss": "poisi poissi poiste poisse",
    "kirjanik": "kirjaniku kirjanikku kirjanike kirjanikke",
    "õpetaja": "õpetaja õpetajat õpetajate õpetajaid",
    "õun": "õuna õuna õunte õunu",
    "seen": "seene seent seente seeni",
    "koer": "koera koera koerte koeri",
    "hiir": "hiire hiirt hiirte hiiri",
    "kook": "koogi kooki kookide kooke",
    "särk": "särgi särki särkide särke",
    "pähkel": "pähkli pähklit pähklite pähkleid",
    "mantel": "mantli mantlit mantlite mantleid",
    "pliiats": "pliiatsi pliiatsit pliiatsite pliiatseid",
    "auto": "auto autot autode autosid",
    "karu": "karu karu karude karusid",
    "õde": "õe õde õdede õdesid",
    "vend": "venna venda vendade vendi",
    "luuletus": "luuletuse luuletust luuletuste luuletusi",
    "mänguasi": "mänguasja mänguasja mänguasjade mänguasju",
    "maasikas": "maasika maasikat maasikate maasikaid",
    "part": "pardi parti partide parte",
    "kokk": "koka kokka kokkade kokki",
    "jänes": "jänese jänest jäneste jäneseid",
}
MASS = {"leib": "leiva leiba", "vesi": "vee vett", "mesi": "mee mett", "või": "või võid", "puder": "pudru putru"}
DERIVED = [
    ("raamat", "inessive", False, "raamatus"),
    ("võti", "comitative", False, "võtmega"),
    ("võti", "nominative", True, "võtmed"),
    ("laps", "allative", True, "lastele"),
    ("siga", "comitative", True, "sigadega"),
    ("kinnas", "abessive", False, "kindata"),
    ("nuga", "comitative", False, "noaga"),
    ("arst", "translative", False, "arstiks"),
    ("arst", "essive", False, "arstina"),
    ("õun", "nominative", True, "õunad"),
    ("sõber", "elative", True, "sõpradest"),
    ("vesi", "terminative", False, "veeni"),
]
BY_NAME = {noun.nom: noun for noun in lexicon.nouns()}


def test_the_lexicon_is_as_big_as_promised() -> None:
    assert len(lexicon.nouns()) >= 80
    assert len(lexicon.verbs()) >= 25
    assert len({verb.frame for verb in lexicon.verbs()}) >= 8
    assert len(BY_NAME) == len(lexicon.nouns())


@pytest.mark.parametrize("nom", GOLD)
def test_stored_forms_agree_with_the_hand_written_oracle(nom: str) -> None:
    noun = BY_NAME[nom]
    assert [noun.gen, noun.part, noun.pl_gen, noun.pl_part] == GOLD[nom].split()


@pytest.mark.parametrize("nom", MASS)
def test_mass_nouns_have_no_plural(nom: str) -> None:
    noun = BY_NAME[nom]
    assert [noun.gen, noun.part] == MASS[nom].split()
    assert not noun.countable
    with pytest.raises(ValueError, match="no plural"):
        noun.form("nominative", plural=True)


@pytest.mark.parametrize(("nom", "case", "plural", "form"), DERIVED)
def test_other_cases_follow_from_the_genitive(nom: str, case: str, plural: bool, form: str) -> None:
    assert BY_NAME[nom].form(case, plural) == form


def test_adjectives_agree_except_in_the_last_four_cases() -> None:
    red = next(adjective for adjective in lexicon.adjectives() if adjective.nom == "punane")
    assert red.form("adessive") == "punasel"
    assert red.form("partitive", plural=True) == "punaseid"
    assert red.form("comitative") == "punase"


def test_short_illatives_and_outer_cases_are_stored() -> None:
    places = {place.nom: place for kind in ("area", "container", "surface") for place in lexicon.places(kind)}
    assert [places[nom].to for nom in ("tuba", "aed", "köök", "turg", "kott", "raamatukogu")] == [
        "tuppa", "aeda", "kööki", "turule", "kotti", "raamatukokku",
    ]  # fmt: skip
    assert (places["turg"].at, places["turg"].from_, places["turg"].until) == ("turul", "turult", "turuni")


def test_parallel_partitive_plurals_are_accepted_and_wrong_ones_are_not() -> None:
    assert BY_NAME["muna"].accepted("partitive", plural=True) == ["mune", "munasid"]
    assert BY_NAME["raamat"].accepted("partitive", plural=True) == ["raamatuid"]
    assert BY_NAME["karu"].accepted("partitive", plural=True) == ["karusid"]


def test_every_cell_is_filled_and_clean() -> None:
    may_be_empty = {"pl_gen", "pl_part", "en_pl", "particle", "en_particle", "en_ing", "aspect", "kinds"}
    for name in ("nouns", "adjectives", "names", "places", "times", "verbs", "causes"):
        for row in lexicon.table(name):
            for column, cell in row.items():
                text = " ".join(cell) if isinstance(cell, tuple) else cell
                assert text or column in may_be_empty, (name, row)
                assert text == text.strip() == unicodedata.normalize("NFC", text)


def test_no_form_loses_a_diacritic() -> None:
    """A stem keeps its õ, ä, ö, ü in every case; the exceptions are none here."""
    words: tuple[lexicon.Noun | lexicon.Adjective, ...] = (*lexicon.nouns(), *lexicon.adjectives())
    for word in words:
        marked = sorted(set("õäöü") & set(word.nom))
        for form in (word.gen, word.part, word.pl_gen, word.pl_part):
            assert not form or sorted(set("õäöü") & set(form)) == marked, word.nom


def test_plurals_are_stored_whole_or_not_at_all() -> None:
    for noun in lexicon.nouns():
        assert bool(noun.pl_gen) == bool(noun.pl_part) == bool(noun.en_pl), noun.nom
        assert not noun.pl_gen or noun.pl_gen.endswith(("de", "te", "ke")), noun.nom
        assert not noun.pl_part or noun.pl_part[-1] in "iue" or noun.pl_part.endswith(("id", "sid")), noun.nom
        assert noun.gen[-1] in "aeiuoõäöü", noun.nom


def test_verbs_keep_their_endings() -> None:
    for verb in lexicon.verbs():
        assert verb.participle.endswith("nud")
        if verb.present != "on":
            assert verb.present.endswith("b")
            assert verb.present_pl.endswith("vad")
        assert verb.past_pl.endswith("d")


def test_every_kind_that_a_verb_asks_for_has_nouns() -> None:
    for verb in lexicon.verbs():
        for kind in verb.kinds:
            assert lexicon.nouns(kind), (verb.present, kind)
