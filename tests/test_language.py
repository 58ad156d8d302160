"""Language identification: accurate on sentences, blind to case, silent where nothing can be told."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.estonian.language import CODES, LEAST_LETTERS, code_of, identify, is_language, signature
from estbench.estonian.language_seeds import SEEDS

SENTENCES = {  # none of them stands in the seeds
    "et": "Vihmasest ilmast hoolimata kogunes turuplatsile sadu inimesi.",
    "en": "Despite the rainy weather hundreds of people gathered at the market.",
    "fi": "Sateisesta säästä huolimatta torille kokoontui satoja ihmisiä.",
    "sv": "Trots det regniga vädret samlades hundratals människor på torget.",
    "no": "Til tross for regnværet samlet hundrevis av mennesker seg på torget og ventet.",
    "da": "Trods det regnfulde vejr samledes hundredvis af mennesker på torvet og ventede.",
    "de": "Trotz des regnerischen Wetters versammelten sich Hunderte Menschen auf dem Marktplatz.",
    "nl": "Ondanks het regenachtige weer kwamen honderden mensen naar het marktplein.",
    "lv": "Neskatoties uz lietaino laiku, tirgus laukumā pulcējās simtiem cilvēku.",
    "lt": "Nepaisant lietingo oro, turgaus aikštėje susirinko šimtai žmonių.",
    "pl": "Pomimo deszczowej pogody na rynku zgromadziły się setki ludzi.",
    "cs": "Navzdory deštivému počasí se na náměstí sešly stovky lidí.",
    "fr": "Malgré le temps pluvieux, des centaines de personnes se sont rassemblées sur la place.",
    "es": "A pesar del tiempo lluvioso, cientos de personas se reunieron en la plaza del mercado.",
    "it": "Nonostante il tempo piovoso, centinaia di persone si sono radunate nella piazza.",
    "pt": "Apesar do tempo chuvoso, centenas de pessoas reuniram-se na praça do mercado.",
    "ro": "În ciuda vremii ploioase, sute de oameni s-au adunat în piață.",
    "hu": "Az esős idő ellenére több száz ember gyűlt össze a piactéren.",
    "tr": "Yağmurlu havaya rağmen yüzlerce insan pazar meydanında toplandı.",
    "vi": "Mặc dù trời mưa, hàng trăm người đã tụ tập tại quảng trường chợ.",
    "sw": "Licha ya hali ya hewa ya mvua, mamia ya watu walikusanyika sokoni.",
    "id": "Meskipun cuaca hujan, ratusan orang berkumpul di alun-alun pasar.",
    "ru": "Несмотря на дождливую погоду, на площади собрались сотни людей.",
    "uk": "Незважаючи на дощову погоду, на площі зібралися сотні людей.",
    "bg": "Въпреки дъждовното време стотици хора се събраха на площада.",
    "ar": "على الرغم من الطقس الممطر، تجمع مئات الأشخاص في ساحة السوق.",
    "fa": "با وجود هوای بارانی، صدها نفر در میدان بازار جمع شدند.",
    "ur": "بارش کے موسم کے باوجود سینکڑوں لوگ بازار کے میدان میں جمع ہوئے۔",
    "hi": "बारिश के मौसम के बावजूद सैकड़ों लोग बाज़ार के चौक में इकट्ठा हुए।",
    "mr": "पावसाळी हवामान असूनही शेकडो लोक बाजाराच्या चौकात जमले होते.",
    "ne": "वर्षाको मौसम भए पनि सयौं मानिसहरू बजारको चोकमा भेला भएका थिए।",
    "ko": "비가 오는 날씨에도 불구하고 수백 명의 사람들이 광장에 모였다.",
    "ja": "雨にもかかわらず、何百人もの人々が広場に集まった。",
    "zh": "尽管天气多雨，仍有数百人聚集在市场广场上。",
    "he": "למרות מזג האוויר הגשום התאספו מאות אנשים בכיכר.",
    "el": "Παρά τον βροχερό καιρό, εκατοντάδες άνθρωποι συγκεντρώθηκαν στην πλατεία.",
    "th": "แม้ว่าฝนจะตก แต่ผู้คนหลายร้อยคนก็มารวมตัวกันที่จัตุรัส",
    "ka": "წვიმიანი ამინდის მიუხედავად მოედანზე ასობით ადამიანი შეიკრიბა.",
    "hy": "Չնայած անձրևոտ եղանակին՝ հրապարակում հավաքվեցին հարյուրավոր մարդիկ։",
    "bn": "বৃষ্টির আবহাওয়া সত্ত্বেও শত শত মানুষ চত্বরে জড়ো হয়েছিল।",
    "pa": "ਮੀਂਹ ਦੇ ਬਾਵਜੂਦ ਸੈਂਕੜੇ ਲੋਕ ਚੌਕ ਵਿੱਚ ਇਕੱਠੇ ਹੋਏ।",
    "gu": "વરસાદી હવામાન છતાં સેંકડો લોકો ચોકમાં ભેગા થયા.",
    "ta": "மழை பெய்தபோதிலும் நூற்றுக்கணக்கான மக்கள் சதுக்கத்தில் கூடினர்.",
    "te": "వర్షం ఉన్నప్పటికీ వందలాది మంది ప్రజలు కూడలిలో గుమిగూడారు.",
    "kn": "ಮಳೆಯ ಹೊರತಾಗಿಯೂ ನೂರಾರು ಜನರು ಚೌಕದಲ್ಲಿ ಸೇರಿದರು.",
    "ml": "മഴയായിരുന്നിട്ടും നൂറുകണക്കിന് ആളുകൾ ചത്വരത്തിൽ ഒത്തുകൂടി.",
}


def rows(path: Path, field: str) -> list[str]:
    return [json.loads(line)[field] for line in path.read_text("utf-8").split("\n") if line]


def test_every_language_that_it_knows_has_a_sentence_here() -> None:
    assert set(SENTENCES) == CODES
    assert not [code for code in SEEDS if SENTENCES[code] in SEEDS[code]]


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_new_sentence_is_identified_in_any_case(code: str) -> None:
    sentence = SENTENCES[code]
    assert identify(sentence) == identify(sentence.upper()) == identify(sentence.lower()) == code
    assert identify(unicodedata.normalize("NFD", sentence)) == code
    assert is_language(sentence, code) is True
    assert is_language(sentence, "et" if code != "et" else "fi") is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Jah.",
        "12 345,6 %",
        "* kala\n* kass\n* koer",
        "x" * (LEAST_LETTERS - 1),
        "🙂🙂🙂",
        "https://example.org/a-b-c-d-e-f-g",
    ],
)
def test_too_little_is_unknown(text: str) -> None:
    assert identify(text) == "unknown"
    assert is_language(text, "et") is None


def test_lists_and_json_of_estonian_words_are_estonian() -> None:
    assert identify("* hobused\n* lehmad ja lambad\n* kassipojad\n* koerakuut") == "et"
    assert identify('{"nimi": "Mari Tamm", "elukoht": "Tartu", "amet": "õpetaja"}') == "et"


def test_most_of_a_mixed_text_counts() -> None:
    assert identify(f"{SENTENCES['et']} {SENTENCES['et']} (in English: rain)") == "et"
    assert identify(f"Siin on tõlge: {SENTENCES['en']} {SENTENCES['en']}") == "en"
    assert identify(f"{SENTENCES['ru']} {SENTENCES['ru']} Tartu") == "ru"


def test_names_of_languages_are_read_as_people_write_them() -> None:
    assert [code_of(name) for name in ("et", "ET", "zh-cn", "pt_BR", "nb", "iw")] == [
        "et",
        "et",
        "zh",
        "pt",
        "no",
        "he",
    ]
    assert code_of("xx") is None
    with pytest.raises(ValueError, match="'xx' can't be identified"):
        is_language("Tere, kuidas läheb täna õhtul?", "xx")


def test_the_signature_changes_with_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signature()
    monkeypatch.setitem(SEEDS, "et", SEEDS["et"] + " sõna")
    assert signature() != before


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_an_answer_and_always_the_same(text: str) -> None:
    assert identify(text) == identify(text)
    assert identify(text) in CODES | {"unknown"}


@pytest.mark.parametrize(("code", "field"), [("et", "sentence_est_Latn"), ("en", "sentence_eng_Latn")])
@pytest.mark.parametrize("capitals", [False, True])
def test_sentences_of_flores_are_identified(mirror: Path, code: str, field: str, capitals: bool) -> None:
    """99.8 % and 100 % of all 1,004; a part of them here."""
    texts = rows(mirror / "facebook__flores/est_Latn-eng_Latn/devtest.jsonl", field)[::6]
    found = [identify(text.upper() if capitals else text) for text in texts]
    assert len(found) - found.count(code) <= 2  # the two of all


def test_short_sentences_are_rather_unknown_than_wrong(mirror: Path) -> None:
    texts = rows(mirror / "cambridgeltl__xcopa/et/test.jsonl", "premise")[::2]
    found = [identify(text) for text in texts]
    assert len(texts) - found.count("et") - found.count("unknown") <= 0.02 * len(texts)


@pytest.mark.slow
def test_it_agrees_with_lingua(mirror: Path) -> None:
    """lingua's 96 MB of models as an oracle: where both give an answer, it is the same."""
    lingua = pytest.importorskip("lingua")
    names = {
        code: getattr(lingua.IsoCode639_1, {"no": "nb"}.get(code, code).upper()) for code in CODES - {"kn", "ml", "ne"}
    }
    oracle = lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*names.values()).build()
    codes = {name: code for code, name in names.items()}
    texts = [text for code, text in SENTENCES.items() if code in names]
    for field in ("sentence_est_Latn", "sentence_eng_Latn"):
        texts += rows(mirror / "facebook__flores/est_Latn-eng_Latn/devtest.jsonl", field)[::10]
    differ = [
        text
        for text in texts
        if (found := identify(text)) != "unknown" and codes[oracle.detect_language_of(text).iso_code_639_1] != found
    ]
    assert len(differ) <= 0.01 * len(texts), differ
