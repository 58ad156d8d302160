"""The voting page: blind, two votes apart, order drawn by halves, resumable, safe from hostile texts and sites."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from estbench_judges import label_page, label_web, labels
from estbench_judges.items import Item, answer_hash
from estbench_judges.label_page import Question, app
from estbench_judges.label_session import Poll
from label_visitor import MODELS, SITE, Visitor, client, equivalence, pairs

from estbench.errors import ConfigError, DataError

HOSTILE = '<script>alert(1)</script></div><img src=x onerror="alert(2)">\n  "&amp;\' {{ 7*7 }} {% raw %} \u202eõ\x00'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hääled.jsonl"


@pytest.fixture
def visitor(file: Path) -> Iterator[Visitor]:
    with client(pairs(), file) as web:
        yield Visitor(web)


def test_nothing_says_which_model_answered(file: Path) -> None:
    """In no page, address or header, from the first to the last, in both languages; only the file does, at the end."""
    questions = [*pairs(2, turns=2), equivalence("Tartus")]
    with client(questions, file) as web:
        for start in ("/", "/en/"):
            visitor = Visitor(web).begin(f"Rater of {start}", start)
            while visitor.page.xpath("//fieldset"):
                visitor.vote(content="nobody")
                assert visitor.status == 422
                word = "a" if visitor.page.xpath("//input[@value='a']") else "yes"
                visitor.vote(content=word, language=word, note="Märkus")
                visitor.back().vote(action="skip")
            traffic = [str(answer.url) + str(answer.headers) + answer.text for answer in visitor.seen]
            secrets = [*MODELS, "hunt", "karu", *(answer_hash(one.item.answers) for one in questions)]
            assert not [word for word in secrets for text in traffic if word.casefold() in text.casefold()]
        assert MODELS[0] in visitor.get(visitor.page.xpath("//a[@download]/@href")[0]).text  # the control


def test_who_is_not_through_does_not_get_the_file(visitor: Visitor) -> None:
    visitor.begin().vote(content="a", language="a")
    seat = visitor.page.xpath("//form/@action")[0]
    for form in ("jsonl", "csv"):
        answer = visitor.get(f"{seat}/labels.{form}")
        assert answer.status_code == 403 and not any(model in answer.text for model in MODELS)


def test_content_and_language_are_two_votes(visitor: Visitor, file: Path) -> None:
    visitor.begin()
    legends = [" ".join(one.text_content().split()) for one in visitor.page.xpath("//fieldset/legend")]
    assert len(legends) == 2 and legends[0].startswith("Sisu:") and legends[1].startswith("Keel:")
    first = visitor.answers()[0]
    visitor.vote(content="a", language="b", note=" Hea\r\nvastus ")
    (label,) = labels.read(file)
    model_first = first.startswith("Kandidaat")
    assert (label.first, label.content, label.language) == (
        ("model", 1.0, 0.0) if model_first else ("anchor", 0.0, 1.0)
    )
    assert label.note == "Hea\nvastus" and label.rater == "Mari" and 0 <= label.seconds < 60


@pytest.mark.parametrize(
    "fields", [{}, {"content": "a"}, {"language": "a"}, {"content": "a", "language": "yes"}, {"content": "0.5"}]
)
def test_half_a_vote_is_none(visitor: Visitor, file: Path, fields: dict[str, str]) -> None:
    visitor.begin()
    before = visitor.answers()
    visitor.vote(**fields, note="Jäi pooleli")
    assert visitor.status == 422 and visitor.page.xpath("//*[@role='alert']")
    assert visitor.answers() == before and visitor.page.xpath("//textarea")[0].text.strip() == "Jäi pooleli"
    assert not file.exists()
    visitor.vote(content="a", language="equal")
    assert visitor.status == 200 and len(labels.read(file)) == 1


def test_every_choice_is_the_score_of_who_was_meant(file: Path) -> None:
    with client(pairs(20), file) as web:
        visitor = Visitor(web).begin()
        while not visitor.finished:
            side = "a" if visitor.answers()[0].startswith("Kandidaat") else "b"
            visitor.vote(content=side, language="equal")
    found = labels.read(file)
    assert len(found) == 40 and {label.content for label in found} == {1.0} and {x.language for x in found} == {0.5}
    assert all(label.anchor == answer_hash((f"Ankur vastab {label.doc[3:]}.0",)) for label in found)


def test_unsure_is_counted_and_is_no_score(visitor: Visitor, file: Path) -> None:
    visitor.begin().vote(action="skip", content="a", note="Kumbki on vale.")
    assert "Tehtud 1 / 12, neist 1 vastuseta" in visitor.words()
    (label,) = labels.read(file)
    assert label.skipped and label.language is None and label.note == "Kumbki on vale."
    assert labels.human([label], "content") == {}


def test_the_last_vote_can_be_changed(visitor: Visitor, file: Path) -> None:
    visitor.begin()
    shown = visitor.answers()
    assert not visitor.page.xpath("//a[@rel='prev']")
    visitor.vote(content="a", language="b", note="algul")
    visitor.vote(action="skip")
    third = visitor.answers()
    assert visitor.back().chosen() == {}  # could not tell
    assert visitor.back().answers() == shown
    assert visitor.chosen() == {"content": "a", "language": "b"}
    assert visitor.page.xpath("//textarea")[0].text.strip() == "algul"
    visitor.vote(content="a", language="b", note="algul")
    assert len(file.read_bytes().splitlines()) == 2  # nothing was changed, nothing is written
    assert visitor.answers() == third  # and it goes on where it was left
    visitor.back().back().vote(content="equal", language="b", note="")
    assert visitor.answers() == third
    first = labels.read(file, lambda _: None)[-1]
    assert len(file.read_bytes().splitlines()) == 3
    assert (first.content, first.note) == (0.5, "") and first.language in (0.0, 1.0)


def test_sent_twice_is_one_vote(visitor: Visitor, file: Path) -> None:
    visitor.begin()
    action, fields = visitor.page.xpath("//form/@action")[0], visitor.hidden()
    for _ in range(2):
        visitor.post(action, {**fields, "content": "b", "language": "b"})
    assert len(file.read_bytes().splitlines()) == 1 and "Tehtud 1 / 12" in visitor.words()


def test_whoever_comes_back_goes_on_where_he_stopped(file: Path) -> None:
    with client(pairs(), file) as web:
        visitor = Visitor(web).begin("Mari Maasikas")
        visitor.vote(content="a", language="a")
        visitor.vote(content="b", language="b")
        third = visitor.answers()
    with client(pairs(), file) as web:
        visitor = Visitor(web).begin("  mari   maasikas ")
        assert visitor.answers() == third and "Hindaja: Mari Maasikas" in visitor.words()
    with client([*pairs(), *pairs(8)], file, rater="Mari Maasikas", seed=9) as web:
        visitor = Visitor(web)
        visitor.get("/")
        assert "Tehtud 2 / 16" in visitor.words()  # also among other questions and in another order


def test_two_raters_do_not_see_each_others_votes(visitor: Visitor, file: Path) -> None:
    visitor.begin("Mari").vote(content="a", language="a")
    other = Visitor(visitor.client).begin("Jüri")
    assert "Tehtud 0 / 12" in other.words() and not other.page.xpath("//a[@rel='prev']") and other.chosen() == {}
    other.vote(content="b", language="b")
    other.vote(content="b", language="b")
    visitor.get("/").raise_for_status()
    assert "Mari" not in visitor.words() and "Jüri" not in visitor.words()
    visitor.begin("Mari")
    assert "Tehtud 1 / 12" in visitor.words()
    votes = labels.human(labels.read(file), "content")
    assert Counter(rater for one in votes.values() for rater in one) == {"Mari": 1, "Jüri": 2}
    assert max(len(one) for one in votes.values()) == 2  # both began with the same pair


def test_the_end_says_what_was_done_and_gives_the_file(file: Path) -> None:
    with client(pairs(1), file) as web:
        visitor = Visitor(web).begin()
        visitor.vote(content="a", language="a", note="=1+1")
        visitor.vote(action="skip")
        assert visitor.finished and str(file) in visitor.words()
        assert "Andsid 1 hinnangu." in visitor.words() and "Ühele küsimusele ei osanud sa vastata." in visitor.words()
        links = visitor.page.xpath("//a[@download]/@href")
        answers = [visitor.client.get(link) for link in links]
        assert answers[0].content == file.read_bytes()
        assert answers[1].text.startswith("task,doc,mode,") and "'=1+1" in answers[1].text
        assert all("attachment" in answer.headers["content-disposition"] for answer in answers)
        visitor.get(visitor.page.xpath("//a[contains(., 'uuesti üle')]/@href")[0])
        visitor.vote(content="a", language="a")
        assert visitor.finished and "Andsid 2 hinnangut." in visitor.words() and "ei osanud" not in visitor.words()


def test_equivalence_is_yes_or_no(file: Path) -> None:
    with client([equivalence("Tartus", "Tartu linnas", answer="Emajõe ääres")], file) as web:
        visitor = Visitor(web).begin()
        assert "Kas vastus ütleb sama mis õige vastus?" in visitor.words()
        for text in ("Kus on Eesti vanim ülikool?", "Tartus", "Tartu linnas", "Õiged vastused", "Emajõe ääres"):
            assert text in visitor.words()
        assert [one.get("data-key") for one in visitor.page.xpath("//input[@type='radio']")] == ["1", "2"]
        assert visitor.vote(content="equal").status_code == 422
        visitor.vote(content="no")
    (label,) = labels.read(file)
    assert (label.mode, label.content, label.language, label.anchor, label.first) == (
        *("equivalence", 0.0),
        *(None, None, None),
    )


def test_the_reference_of_a_document_is_the_right_answer(file: Path) -> None:
    with client([equivalence(reference="Ülikoolilinn Tartu")], file) as web:
        assert "Ülikoolilinn Tartu" in Visitor(web).begin().words()


def test_language_is_asked_only_where_there_is_estonian(file: Path) -> None:
    item = Item("t", "d", 0, "k", ("Kirjuta funktsioon",), ("def f(): ...",), language="code")
    with client([Question(item, "x/y", ("pass",), "pairwise")], file) as web:
        visitor = Visitor(web).begin()
        assert len(visitor.page.xpath("//fieldset")) == 1
        visitor.vote(content="a")
        assert visitor.finished
    (label,) = labels.read(file)
    assert label.language is None and label.content is not None


def test_two_turns_are_shown_in_their_order(file: Path) -> None:
    with client(pairs(1, models=MODELS[:1], turns=2), file) as web:
        words = Visitor(web).begin().words()
    places = [words.index(text) for text in ("Palve 0.0", "vastab 0.0", "Palve 0.1", "vastab 0.1")]
    assert places == sorted(places) and "Seejärel kirjutas kasutaja" in words


def test_hostile_texts_are_only_texts(file: Path) -> None:
    item = Item(HOSTILE, "d", 0, "k", (HOSTILE + "\ud800",), (HOSTILE,))
    with client([Question(item, "x/y", ("  Ankur\n\n    taandega",), "pairwise")], file) as web:
        visitor = Visitor(web)
        visitor.get("/")
        visitor.post("/", {**visitor.hidden(), "rater": "<b>Mari</b>"})
        text = visitor.seen[-1].text
        assert "<b>Mari" not in text and "&lt;b&gt;Mari" in text
        assert not visitor.page.xpath("//img | //main//script") and "49" not in visitor.words()
        assert "  Ankur\n\n    taandega" in visitor.answers()  # white space is kept
        assert any("<script>alert(1)</script></div><img" in answer for answer in visitor.answers())
        note = "</textarea><script>alert(3)</script>\n=1"
        visitor.vote(content="a", language="b", note=note)
        assert visitor.back().page.xpath("//textarea")[0].text.strip() == note
    assert labels.read(file)[0].note == note


def test_an_empty_answer_is_said_to_be_empty(file: Path) -> None:
    item = Item("t", "d", 0, "k", ("Palve",), (" \n",))
    with client([Question(item, "x/y", ("Ankur",), "pairwise")], file) as web:
        assert "Vastus on tühi." in Visitor(web).begin().answers()


def test_every_answer_forbids_what_pages_do_not_need(visitor: Visitor) -> None:
    visitor.begin()
    visitor.get("/olematu")
    visitor.get("/static/label.css")
    visitor.get("/static/label_vote.html")
    assert {answer.status_code for answer in visitor.seen} == {200, 303, 404}
    for answer in visitor.seen:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY" and "set-cookie" not in answer.headers
    pages = [answer.text for answer in visitor.seen if answer.text.startswith("<!")]
    assert not [text for text in pages if re.search(r"<script(?! src)|\son\w+=|style=|https?://", text)]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
    ],
)
def test_a_form_from_elsewhere_is_refused(visitor: Visitor, file: Path, headers: dict[str, str]) -> None:
    visitor.begin()
    action = visitor.page.xpath("//form/@action")[0]
    fields = {**visitor.hidden(), "content": "a", "language": "a"}
    assert visitor.post(action, fields, **headers).status_code == 403
    assert not file.exists()
    assert visitor.post(action, fields, origin=SITE, **{"sec-fetch-site": "same-origin"}).status_code == 200
    assert len(labels.read(file)) == 1  # the control


def test_a_form_without_the_token_is_refused(visitor: Visitor, file: Path) -> None:
    visitor.begin()
    action, fields = visitor.page.xpath("//form/@action")[0], visitor.hidden()
    for token in ("", "õ", fields["token"][:-1], fields["token"].upper() + "x"):
        answer = visitor.post(action, {**fields, "content": "a", "language": "a", "token": token})
        assert answer.status_code == 409 and "ei salvestatud" in answer.text
    assert visitor.post("/", {"rater": "Mari"}).status_code == 409
    assert visitor.post(action, {**fields, "note": "x" * 200_000}).status_code == 403
    long = visitor.post(action, {**fields, "content": "a", "language": "a", "note": "x" * 5000})
    assert long.status_code == 422 and "liiga pikk" in long.text
    assert not file.exists()


def test_a_seat_of_another_server_loses_only_the_vote_that_was_sent(visitor: Visitor, file: Path) -> None:
    visitor.begin()
    seat = visitor.page.xpath("//form/@action")[0]
    token = visitor.hidden()["token"]
    with client(pairs(), file) as web:
        later = Visitor(web)
        assert later.post(seat, {"token": token, "content": "a"}).status_code == 409
        assert later.get(seat).url.path == "/"
    assert visitor.post("/vote/0000", {**visitor.hidden(), "content": "a"}).status_code == 409
    answer = visitor.get(f"{seat}?q=0000")
    assert answer.status_code == 200 and "?" not in str(answer.url)


@pytest.mark.parametrize(
    ("host", "listens", "status"),
    [
        ("127.0.0.1:8123", "127.0.0.1", 200),
        ("LOCALHOST:8123", "127.0.0.1", 200),
        ("[::1]:8123", "127.0.0.1", 200),
        ("evil.example:8123", "127.0.0.1", 421),
        ("127.0.0.1.evil.example", "127.0.0.1", 421),
        ("192.168.1.7:8123", "127.0.0.1", 421),
        ("", "127.0.0.1", 421),
        ("[::1", "127.0.0.1", 421),
        ("192.168.1.7:8123", "192.168.1.7", 200),
        ("labor.example", "labor.example", 200),
        ("192.168.1.7:8123", "0.0.0.0", 200),
        ("[fe80::1]:8123", "::", 200),
        ("evil.example", "0.0.0.0", 421),  # a stranger's name for this machine, wherever it listens
    ],
)
def test_only_this_machines_names_are_answered(file: Path, host: str, listens: str, status: int) -> None:
    with client(pairs(), file, host=listens) as web:
        assert web.get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize("name", ["", "   ", "x" * 81, "Mari\x07", "Ma\u202eri"])
def test_a_rater_has_a_name(visitor: Visitor, name: str) -> None:
    visitor.begin(name)
    assert visitor.status == 422 and visitor.page.xpath("//*[@role='alert']")
    with pytest.raises(ConfigError, match="rater=NAME"):
        app(pairs(), Path("none.jsonl"), rater=name, seed=1)


def test_a_rater_who_is_given_is_not_asked(file: Path) -> None:
    with client(pairs(1), file, rater="Mari") as web:
        visitor = Visitor(web)
        visitor.get("/")
        assert "Hindaja: Mari" in visitor.words()
        while not visitor.finished:
            visitor.vote(action="skip")
        assert "Järgmine hindaja" not in visitor.words()


def test_a_file_that_goes_wrong_is_said_and_a_vote_is_not_lost_in_silence(visitor: Visitor, file: Path) -> None:
    visitor.begin().vote(content="a", language="a")
    file.write_text("essee\n")
    answer = visitor.get(visitor.url)
    assert answer.status_code == 500 and "rida" not in answer.text and "line 1" in answer.text
    with pytest.raises(DataError, match="line 1"):
        app(pairs(), file, rater=None, seed=1)
    file.unlink()
    visitor.begin()
    file.mkdir()
    assert visitor.vote(content="a", language="a").status_code == 500


def test_votes_of_others_are_seen_when_they_are_written(visitor: Visitor, file: Path) -> None:
    visitor.begin().vote(content="a", language="a")
    (label,) = labels.read(file)
    rest = [one for one in pairs() if one.key != label.key][:3]
    for question in rest:
        Poll(pairs(), file, seed=1).record("Mari", question, "a", "b", note="", seconds=1)
    visitor.get(visitor.url)
    assert "Tehtud 4 / 12" in visitor.words()


def test_the_other_language_is_the_same_question(visitor: Visitor) -> None:
    visitor.begin()
    shown, lang = visitor.answers(), visitor.page.get("lang")
    visitor.get(visitor.page.xpath("//a[@hreflang='en']/@href")[0])
    assert visitor.answers() == shown and (lang, visitor.page.get("lang")) == ("et", "en")
    assert "Which answer is better?" in visitor.words()
    assert visitor.page.xpath("//section[@class='answer']/div/@lang") == ["et", "et"]
    visitor.vote(content="a", language="b")
    assert "1 of 12 done" in visitor.words()
    assert visitor.client.get("/en/olematu").text.count("There is no such page.") == 1


def test_every_field_has_its_label_and_every_key_is_on_its_button(visitor: Visitor) -> None:
    visitor.begin()
    visitor.vote(content="a", language="a")
    page = visitor.page
    for field in page.xpath("//input[not(@type='hidden')] | //textarea"):
        assert field.xpath("ancestor::label") or page.xpath(f"//label[@for='{field.get('id')}']")
    assert all(one.xpath("./legend") for one in page.xpath("//fieldset"))
    keys = [one.get("data-key") for one in page.xpath("//*[@data-key]")]
    assert keys == ["1", "2", "3", "q", "w", "e", "Enter", "0", "Backspace"]
    shown = [one.text for one in page.xpath("//kbd")]
    assert shown == ["1", "2", "3", "q", "w", "e", "Enter", "0", "⌫"]


def test_both_languages_have_the_same_words_and_no_others_are_used() -> None:
    known = [label_web.texts(code) for code in label_web.CODES]
    assert set(known[0]) == set(known[1])
    fields = [{key: set(re.findall(r"{(\w+)}", text)) for key, text in one.items()} for one in known]
    assert {key for key, names in fields[0].items() if names != fields[1][key]} == set()
    assert all(unicodedata.is_normalized("NFC", text) and text.strip() for one in known for text in one.values())
    sources = [*Path(label_page.__file__).parent.glob("templates/label*.html"), Path(label_page.__file__)]
    text = "".join(path.read_text("utf-8") for path in sources)
    used = set(re.findall(r'"((?:base|start|vote|done|error)\.\w+)"', text))
    stems = {key.removesuffix(".one").removesuffix(".other") for key in known[0]}
    assert used - {"vote.html"} <= stems
    assert stems - used == {f"vote.{word}" for word in ("a", "equal", "b", "yes", "no")}


def test_pages_ask_nobody_else() -> None:
    """No file of the page names another server, and the module is loaded without a browser or the board."""
    folder = Path(label_page.__file__).parent
    for path in [*folder.glob("static/label*"), *folder.glob("templates/label*")]:
        assert not re.search(r"https?://|@import|url\(", path.read_text("utf-8")), path.name
    for path in folder.glob("label*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name for name in modules if name.startswith("estbench_leaderboard")}
