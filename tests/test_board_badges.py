"""What other sites show of the board: badges, cards, feeds, the site map and figures, and nothing of what is hidden."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from api_fixtures import NOT_SHOWN, client, everything, own_world, slug_of
from board_world import SMALL, World, fill
from estbench_leaderboard.app import create
from estbench_leaderboard.site import Site
from sqlalchemy import insert
from starlette.testclient import TestClient

from estbench.database import open_database, schema

__all__ = ["client", "own_world"]  # fixtures

ATOM = "{http://www.w3.org/2005/Atom}"


# ---- badges, cards, feeds


def words_of(svg: str) -> str:
    """The texts of a picture; fails for what is no XML."""
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_a_badge_says_the_rank_with_its_uncertainty(client: TestClient, board_world: World) -> None:
    slug = slug_of(board_world, "best")
    rank = client.get(f"/api/v1/models/{slug}").json()["rank"]
    dots = f"{rank['low']}." if rank["low"] == rank["high"] else f"{rank['low']}.–{rank['high']}."
    badge = client.get(f"/badge/{slug}.svg")
    assert badge.headers["content-type"].startswith("image/svg+xml")
    assert badge.headers["access-control-allow-origin"] == "*"
    assert f"{dots} koht {rank['of']} mudeli seas" in words_of(badge.text)
    english = client.get(f"/en/badge/{slug}.svg").text
    assert f"rank {dots.replace('.', '')} of {rank['of']}" in words_of(english)
    assert client.get(f"/badge/{slug}.svg?lang=en").text == english
    assert client.get(f"/badge/{slug}.svg?lang=xx").status_code == 400


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("claimed", "saatja sõnul"),
        ("rescored", "ümber arvutatud"),
        ("reference", "võrdluseks"),
        ("withdrawn", "tagasi võetud"),
    ],
)
def test_a_model_without_a_rank_says_why(client: TestClient, board_world: World, case: str, words: str) -> None:
    text = words_of(client.get(f"/badge/{board_world.cases[case]}.svg").text)
    assert words in text and "koht" not in text


@pytest.mark.parametrize("path", ["/badge/{}.svg", "/en/badge/{}.svg", "/kaart/{}.svg", "/en/kaart/{}.svg"])
def test_pictures_of_every_model_are_whole_and_safe(client: TestClient, path: str) -> None:
    names = [row["slug"] for row in everything(client, "/api/v1/models?limit=500")]
    assert len(names) > 20
    for name in names:
        picture = client.get(path.replace("{}", name))
        assert picture.status_code == 200
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(picture.text).iter()}
        assert tags <= {"svg", "title", "rect", "path", "text", "line"}
        assert "style=" not in picture.text


def feed_of(client: TestClient, path: str = "/atom.xml") -> ElementTree.Element:
    answer = client.get(path)
    assert answer.headers["content-type"].startswith("application/atom+xml")
    return ElementTree.fromstring(answer.text)


@pytest.mark.parametrize("path", ["/atom.xml", "/en/atom.xml"])
def test_the_feed_is_atom_newest_first(client: TestClient, path: str) -> None:
    feed = feed_of(client, path)
    entries = feed.findall(f"{ATOM}entry")
    moments = [entry.findtext(f"{ATOM}updated") or "" for entry in entries]
    assert len(entries) > 5 and moments == sorted(moments, reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment) for moment in moments)
    assert feed.findtext(f"{ATOM}updated") == moments[0]
    assert feed.findtext(f"{ATOM}author/{ATOM}name")
    ids = [entry.findtext(f"{ATOM}id") for entry in entries]
    assert len(set(ids)) == len(ids)
    for entry in entries:
        link = entry.find(f"{ATOM}link")
        assert link is not None and link.attrib["href"].startswith("https://tabel.example.ee/")
        assert entry.findtext(f"{ATOM}title") and entry.findtext(f"{ATOM}summary")


def test_entries_keep_their_ids_when_the_board_moves_and_grows(own_world: World) -> None:
    def ids(site: Site) -> dict[str | None, str | None]:
        with TestClient(create(site)) as client:
            entries = feed_of(client).findall(f"{ATOM}entry")
            return {entry.findtext(f"{ATOM}id"): entry.findtext(f"{ATOM}title") for entry in entries}

    before = ids(Site(own_world.database, base_url="https://vana.example.ee"))
    with own_world.database.write() as connection:
        correct = {"created": "2999-01-01T00:00:00Z", "actor": "a", "action": "correct", "reason": "r", "public": True}
        connection.execute(insert(schema.decisions).values(task="estcopa", **correct))
    after = ids(Site(own_world.database, base_url="https://uus.example.ee"))
    new = after.keys() - before.keys()
    assert [after[one] for one in new] == ["Parandus: estcopa"]
    assert all(after[one] == title for one, title in before.items() if one in after)


def test_the_feed_tells_nothing_of_what_is_not_shown(client: TestClient, board_world: World) -> None:
    text = client.get("/atom.xml").text + client.get("/sitemap.xml").text
    for case in (case for case in NOT_SHOWN if case != "hidden"):
        assert board_world.cases[case] not in text and board_world.cases[case][:8] not in text
    assert "ei avaldata" not in text  # a decision that is not public


def test_the_site_map_has_every_page_in_both_languages(client: TestClient) -> None:
    urls = re.findall(r"<loc>(.*?)</loc>", client.get("/sitemap.xml").text)
    ElementTree.fromstring(client.get("/sitemap.xml").text)
    assert len(urls) == len(set(urls)) > 50
    assert sum("/en/" in url for url in urls) * 2 == len(urls)
    assert client.get(urls[0].replace("https://tabel.example.ee", "")).status_code == 200
    assert f"Sitemap: {urls[0]}sitemap.xml" in client.get("/robots.txt").text


def test_without_a_public_address_there_is_no_site_map(board_world: World) -> None:
    with TestClient(create(Site(board_world.database))) as client:
        assert client.get("/sitemap.xml").status_code == 404
        assert "Sitemap" not in client.get("/robots.txt").text


def outside(kind: str, text: str) -> str:
    return f'{text}]]></title><script>"&\x07\u202e'


def test_hostile_texts_stay_texts_in_feeds_and_pictures(tmp_path: Path) -> None:
    make: Callable[[str, str], str] = outside
    with open_database(f"sqlite:///{tmp_path / 'x.db'}") as database:
        fill(database, **SMALL, outside=make)
        with TestClient(create(Site(database, base_url="https://tabel.example.ee"))) as client:
            for path in ("/atom.xml", "/en/atom.xml", "/sitemap.xml"):
                tags = {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(client.get(path).text).iter()}
                assert "script" not in tags
            for row in everything(client, "/api/v1/models?limit=500"):
                for path in ("/badge/", "/kaart/"):
                    svg = client.get(f"{path}{row['slug']}.svg").text
                    assert "<script" not in svg and words_of(svg)


# ---- figures


def test_figures_are_those_of_the_pages_and_stand_alone(client: TestClient, board_world: World) -> None:
    slug = slug_of(board_world, "checkpoint_2")
    two = ",".join(slug_of(board_world, case) for case in ("best", "twice"))
    for path, page in (
        ("/joonis/pareto.svg?board=chat&view=tasks", "/?board=chat&view=tasks"),
        ("/en/joonis/pareto.svg?board=base", "/en/?board=base"),
        (f"/joonis/curve.svg?model={slug}", f"/mudel/{slug}"),
        (f"/joonis/forest.svg?m={two}", f"/vordlus?m={two}"),
    ):
        figure = client.get(path)
        assert figure.status_code == 200 and figure.headers["content-type"].startswith("image/svg+xml"), path
        assert words_of(figure.text) and figure.text in client.get(page).text
    assert client.get("/joonis/pareto.svg").text != client.get("/en/joonis/pareto.svg").text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/joonis/midagi.svg", 404),
        ("/joonis/curve.svg", 400),
        ("/joonis/forest.svg", 404),
        ("/joonis/curve.svg?model=sellist-ei-ole", 404),
        ("/joonis/pareto.svg?size=suur", 400),
        ("/joonis/pareto.svg?q=sellist-mudelit-ei-ole", 404),
    ],
)
def test_a_figure_that_there_is_not_is_one_sentence(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status and list(answer.json()) == ["error"]
