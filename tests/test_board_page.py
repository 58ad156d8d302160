"""The board's page: one look tells who is ahead, how sure that is, why something is missing, and how to see it
otherwise; without JavaScript, in both languages, and small."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from board_addresses import client
from board_world import World, fill
from estbench_leaderboard import board, view
from estbench_leaderboard.catalogue import languages
from estbench_leaderboard.charts import pareto
from estbench_leaderboard.query import Query
from estbench_leaderboard.site import HERE, Site
from estbench_leaderboard.snapshot import Snapshot
from lxml import html
from starlette.testclient import TestClient

from estbench.database import open_database

STATIC = HERE / "static"


@pytest.fixture(scope="module")
def web(board_world: World) -> Iterator[TestClient]:
    with client(board_world.database, base_url="https://tabel.example") as found:
        yield found


@pytest.fixture(scope="module")
def snapshot(board_world: World) -> Snapshot:
    return board_world.snapshot()


def page(web: TestClient, url: str) -> Any:
    answer = web.get(url)
    assert answer.status_code == 200, answer.text
    return html.fromstring(answer.text)


def words(node: Any) -> str:
    return " ".join(node.text_content().split())


def rows(tree: Any) -> list[Any]:
    return [row for row in tree.xpath('//table[contains(@class,"board")]/tbody/tr') if row.get("class") != "k"]


def names(tree: Any) -> list[str]:
    return [words(row.xpath("./th//a[contains(@class,'name')]")[0]) for row in rows(tree)]


def links(tree: Any, inside: str) -> list[str]:
    return [str(found) for found in tree.xpath(f"//{inside}//a/@href")]


def cell(tree: Any, name: str, column: int) -> Any:
    """The cell of a model in a column of scores."""
    row = next(row for row in rows(tree) if words(row.xpath("./th//a[contains(@class,'name')]")[0]) == name)
    return row.xpath("./td[contains(concat(' ', @class, ' '), ' v ')]")[column]


def test_the_table_says_what_each_cell_is(web: TestClient) -> None:
    """Also where a phone shows it as cards, where the table is no table for the browser any more."""
    tree = page(web, "/")
    table = tree.xpath("//table")[0]
    assert words(table.xpath("caption")[0])
    heads = table.xpath("thead/tr[last()]/th")
    assert all(head.get("scope") == "col" and head.get("role") == "columnheader" for head in heads)
    for row in rows(tree):
        cells = row.xpath("./*")
        assert len(cells) == len(heads)
        assert [part.get("scope") for part in row.xpath("./th")] == ["row"]
        labels = [words(part) for part in heads]
        for label, part in zip(labels, cells, strict=True):
            assert part.get("role") in ("cell", "rowheader")
            if part.get("data-l"):
                assert label.startswith(part.get("data-l"))


def test_a_rank_is_a_range_in_words(web: TestClient, snapshot: Snapshot) -> None:
    found = board.page(snapshot, Query())
    row = next(row for row in found.rows if row.ranked and 1 < row.ranked.rank_low < row.ranked.rank_high)
    ranked = row.ranked
    assert ranked is not None
    shown = {code: words(page(web, url)) for code, url in (("et", "/"), ("en", "/en/"))}
    assert f"{ranked.rank_low}.–{ranked.rank_high}. koht, ei ole neist eristatav" in shown["et"]
    assert f"rank {ranked.rank_low}–{ranked.rank_high}, can't be told from these" in shown["en"]


def test_models_of_a_class_stand_together(web: TestClient, snapshot: Snapshot) -> None:
    bodies = page(web, "/").xpath("//table/tbody")
    found = board.page(snapshot, Query())
    classes = [row.ranked.klass for row in found.rows if row.ranked]
    sizes = [classes.count(klass) for klass in dict.fromkeys(classes)]
    assert [len(body.xpath("./tr[not(@class='k')]")) for body in bodies][: len(sizes)] == sizes
    assert words(bodies[0].xpath("./tr[@class='k']")[0]).startswith("1. tasemerühm")
    assert len(page(web, "/?sort=name").xpath("//table/tbody")) == 1  # in another order there is nothing to tell apart


def test_each_score_has_its_interval_beside_it(web: TestClient, snapshot: Snapshot) -> None:
    found = board.page(snapshot, Query())
    row, column = found.rows[0], found.columns[0]
    value, language = row.cells[column.key], languages()["et"]
    assert value.low is not None and value.high is not None
    shown = cell(page(web, "/"), row.model.name, 0)
    assert words(shown).startswith(language.score(value.value, column.unit))
    assert f"±{language.score((value.high - value.low) / 2, column.unit)}" in words(shown)
    start, width, back = map(
        int, re.findall(r"M(\d+) 4h(\d+)m(-?\d+)-3v6", html.tostring(shown, encoding="unicode"))[0]
    )
    assert abs(start - 100 * value.low) <= 0.5 and abs(start + width - 100 * value.high) <= 0.5
    assert abs(start + width + back - 100 * (value.value or 0)) <= 0.5


def test_distance_from_the_best_is_more_than_a_colour(web: TestClient) -> None:
    css = (STATIC / "board.css").read_text("utf-8")
    shown = {name for part in page(web, "/").xpath("//td/@class") for name in part.split() if name.startswith("d")}
    assert shown >= {"d0", "d3"}
    marks = {level: re.search(rf"^\.d{level} {{.*--wide: (\dpx)", css, re.MULTILINE) for level in range(3)}
    assert len({found[1] for found in marks.values() if found}) == 3  # a mark of another width for each


def test_a_dash_has_its_reason(web: TestClient, snapshot: Snapshot, board_world: World) -> None:
    model = snapshot.model(board_world.cases["missing"], "chat")
    assert model is not None
    tree = page(web, "/?view=tasks&all=yes&rows=200")
    found = board.page(snapshot, Query(view="tasks", all="yes", rows=200))
    column = next(at for at, one in enumerate(found.columns) if model.cells[one.key].reason == "not_run")
    shown = cell(tree, model.name, column)
    reason = languages()["et"].t("reason.not_run")
    assert words(shown) == f"– {reason}" and shown.xpath("./abbr/@title") == [reason]


@pytest.mark.parametrize(("case", "flag"), [("at_chance", "at_chance"), ("parse_failures", "parse_failures")])
def test_a_flag_is_a_sign_that_is_explained(
    web: TestClient, snapshot: Snapshot, board_world: World, case: str, flag: str
) -> None:
    model = snapshot.model(board_world.cases[case], "chat")
    assert model is not None
    tree = page(web, "/?all=yes&view=tasks&rows=200")
    found = board.page(snapshot, Query(view="tasks", all="yes", rows=200))
    column = next(at for at, one in enumerate(found.columns) if flag in model.cells[one.key].flags)
    sign, meaning = view.SIGNS[flag], languages()["et"].t(f"flag.{flag}.meaning")
    assert sign in words(cell(tree, model.name, column)) and meaning in words(cell(tree, model.name, column))
    assert any(sign in words(line) and meaning in words(line) for line in tree.xpath("//details//li"))


def test_who_is_not_ranked_has_no_place(web: TestClient, snapshot: Snapshot, board_world: World) -> None:
    language = languages()["et"]
    shown = page(web, "/?all=yes&rows=200")
    for case, why in (("claimed", "claimed"), ("rescored", "rescored"), ("reference", "reference")):
        model = snapshot.model(board_world.cases[case], "chat")
        assert model is not None
        row = rows(shown)[names(shown).index(model.name)]
        assert words(row.xpath("./td")[0]) == language.t(f"unranked.{why}")
        assert "out" in row.get("class")
    assert not {"claimed", "rescored"} & {
        case for case, fingerprint in board_world.cases.items() if _name(snapshot, fingerprint) in names(page(web, "/"))
    }


def _name(snapshot: Snapshot, fingerprint: str) -> str:
    found = snapshot.model(fingerprint, "chat")
    return "" if found is None else found.name


def test_every_skill_is_explained_with_an_example_and_guessing(web: TestClient) -> None:
    for url in ("/", "/en/"):
        tree = page(web, url)
        heads = [words(head) for head in tree.xpath("//thead//th[contains(@class, 'v')]")]
        terms = tree.xpath("//dl[@class='skills']/div")
        assert len(terms) == len(heads) > 2
        for head, term in zip(heads, terms, strict=True):
            title = words(term.xpath("dt")[0])
            assert head.startswith(title) and re.search(r"(pakkudes|guessing) \d", head)
            assert term.xpath(".//q") and re.search(r"pakkudes saaks|guessing would", words(term))


@pytest.mark.parametrize(
    ("best", "chance", "said"),
    [
        (0.7, 0.5, "kümnest õigeks 7, pimesi pakkudes saaks 5"),
        (0.31, 0.25, "kümnest õigeks 3, pimesi pakkudes saaks 2–3"),
        (0.968, 0.25, "sajast õigeks 97, pimesi pakkudes saaks 25"),
        (0.999, 0.0, "sajast õigeks 99, pimesi pakkudes saaks 0"),
        (1.0, 0.5, "kümnest õigeks 10, pimesi pakkudes saaks 5"),
    ],
)
def test_guessing_is_said_in_answers_of_ten(board_world: World, best: float, chance: float, said: str) -> None:
    request = Site(board_world.database).request("et")
    found = board.page(request.snapshot, Query())
    tasks = tuple(task for task in found.board.tasks.values() if task.metric.startswith("acc"))[:1]
    column = board.Column("reading", "skill", tasks, 1.0, chance, "proportion", True, best)
    assert tasks and said in view.View(request, found).level(column)


def test_sorting_is_a_link_that_says_what_it_did(web: TestClient) -> None:
    tree = page(web, "/?sort=reading")
    head = tree.xpath("//th[@aria-sort]")
    assert [one.get("aria-sort") for one in head] == ["descending"]
    other = page(web, head[0].xpath("./a/@href")[0])
    assert [one.get("aria-sort") for one in other.xpath("//th[@aria-sort]")] == ["ascending"]
    there, back = names(tree), names(other)
    assert there != back and there[0] != back[0]
    assert page(web, "/?sort=name").xpath("//th[@aria-sort]/@aria-sort") == ["ascending"]


def test_a_filter_is_said_and_can_be_taken_away(web: TestClient) -> None:
    tree = page(web, "/?size=small&open=yes")
    assert "alla 4 miljardi parameetri, avatud kaaludega" in words(tree.xpath("//*[@role='status']")[0])
    found = links(tree, "ul[@class='chips']")
    assert found == ["/?open=yes", "/?size=small", "/"]
    assert len(names(tree)) < len(names(page(web, "/")))


def test_nobody_climbs_by_hiding_others(web: TestClient) -> None:
    places = {name: words(row.xpath("./td")[0]) for row, name in _pairs(page(web, "/?rows=200"))}
    filtered = {name: words(row.xpath("./td")[0]) for row, name in _pairs(page(web, "/?size=small"))}
    assert filtered and all(places[name] == place for name, place in filtered.items())


def _pairs(tree: Any) -> list[tuple[Any, str]]:
    return list(zip(rows(tree), names(tree), strict=True))


def test_weights_are_chosen_by_a_plain_form(web: TestClient) -> None:
    """What a browser without JavaScript sends leads to one short link; what nobody changed, to the plain one."""
    tree = page(web, "/")
    form = tree.xpath("//form[contains(@class, 'weights')]")[0]
    fields = {field.get("name"): field.get("value") for field in form.xpath(".//input")}
    unchanged = page(web, f"/?{urlencode(fields)}")
    assert unchanged.xpath("//link[@rel='canonical']/@href") == ["https://tabel.example/"]
    task = next(name for name, value in fields.items() if name.startswith("w.") and value != "0")
    one = dict.fromkeys(fields, "0") | {task: "2,5"}
    chosen = page(web, f"/?{urlencode(one)}")
    assert chosen.xpath("//link[@rel='canonical']/@href") == [f"https://tabel.example/?tasks={task[2:]}:2.5"]
    again = chosen.xpath("//form[contains(@class, 'weights')]")[0]
    assert {f.get("name"): f.get("value") for f in again.xpath(".//input[@type='number']")}[task] == "2.5"
    assert web.get(f"/?{urlencode({task: 'palju'})}").status_code == 400


def test_models_to_compare_are_chosen_by_a_plain_form(web: TestClient, snapshot: Snapshot) -> None:
    tree = page(web, "/")
    form = tree.xpath("//form[contains(@class, 'pick')]")[0]
    assert form.get("action") == "/vordlus" and form.get("method") == "get" and form.xpath(".//button[@type='submit']")
    boxes = form.xpath(".//input[@type='checkbox' and @name='m']")
    assert [box.get("value") for box in boxes] == [row.model.slug for row in board.page(snapshot, Query()).rows]
    assert len({box.get("aria-label") for box in boxes}) == len(boxes)


def test_the_other_language_shows_the_same_state(web: TestClient) -> None:
    tree = page(web, "/?size=small&sort=name")
    assert links(tree, "div[@class='tools']") == ["/en/?size=small&sort=name"]
    assert names(page(web, "/en/?size=small&sort=name")) == names(tree)
    hreflang = {one.get("hreflang"): one.get("href") for one in tree.xpath("//link[@rel='alternate' and @hreflang]")}
    assert hreflang["en"] == "https://tabel.example/en/?size=small&sort=name"


def test_every_link_of_the_page_leads_somewhere(web: TestClient) -> None:
    """Links to the board itself, with all that they change."""
    seen = {link for url in ("/", "/?view=tasks", "/?board=base&q=a") for link in links(page(web, url), "main")}
    own = sorted(link for link in seen if urlsplit(link).path == "/")
    assert len(own) > 20
    assert {link: web.get(link).status_code for link in own if web.get(link).status_code != 200} == {}


def test_the_figure_and_the_data_can_be_taken_along(web: TestClient) -> None:
    for url in ("/?size=large", "/en/?size=large"):
        found = [link for link in links(page(web, url), "p[@class='formats']") if "size=large" in link]
        kinds = [web.get(link).headers["content-type"].partition(";")[0] for link in found]
        assert kinds == ["image/svg+xml", "application/json", "text/csv"]


def test_pages_hold_so_many_rows_and_lead_on(web: TestClient, tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'world.db'}") as database:
        fill(database, models=75, tasks=2, docs=20, base=0, checkpoints=0)
        with client(database) as many:
            first = page(many, "/")
            assert len(rows(first)) == 50
            following = page(many, links(first, "nav[@class='pages']")[1])
            assert following.xpath("//nav[@class='pages']//a[@aria-current]/text()") == ["2"]
            assert rows(following) and not set(names(first)) & set(names(following))


def test_the_sentence_to_quote_says_how_sure_it_is(web: TestClient, snapshot: Snapshot) -> None:
    first = board.page(snapshot, Query()).rows[0]
    assert first.ranked is not None
    quote = words(page(web, "/").xpath("//blockquote")[0])
    language = languages()["et"]
    assert first.model.name in quote and language.score(first.ranked.score, "corrected") in quote
    assert language.interval(first.ranked.low, first.ranked.high, "corrected") in quote
    assert "https://tabel.example/?size=small" in words(page(web, "/?size=small").xpath("//section[@class='cite']")[0])


def test_the_figure_joins_models_that_no_smaller_one_beats(snapshot: Snapshot) -> None:
    points = pareto.points(board.page(snapshot, Query()))
    assert len(points) > 3
    for point in points:
        beaten = any(other.size <= point.size and other.score > point.score for other in points)
        assert point.front != beaten
    drawn = pareto.draw(board.page(snapshot, Query()), languages()["et"])
    assert drawn.count("<circle") == len(points)


def test_names_in_the_figure_do_not_lie_on_each_other(snapshot: Snapshot) -> None:
    front = [pareto.Point("väga pikk mudeli nimi", 10**9 + 10**7 * at, 50.0 + at, 49.0, 51.0, True) for at in range(9)]
    parts = pareto._names(front, *pareto._scales(front))
    places = [re.search(r' x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"', part) for part in parts]
    boxes = [(float(found[1]), float(found[2]), found[3]) for found in places if found]
    width = len("väga pikk mudeli nimi") * pareto.LETTER
    lefts = [(x if anchor == "start" else x - width, y) for x, y, anchor in boxes]
    assert len(lefts) >= 2
    for at, (left, base) in enumerate(lefts):
        for other, level in lefts[at + 1 :]:
            assert abs(base - level) >= 14 or abs(left - other) >= width


def test_a_name_that_is_markup_stays_text(web: TestClient, snapshot: Snapshot) -> None:
    assert any("<script>" in model.name for model in snapshot.boards["chat"].models.values())
    text = web.get("/?all=yes&rows=200").text
    assert "&lt;script&gt;alert" in text and "<script>alert" not in text
    assert 'style="' not in text and " onload" not in text.replace("&#", "")


def test_fonts_have_the_letters_and_are_kept_by_their_content() -> None:
    css = (STATIC / "board.css").read_text("utf-8")
    named = dict(re.findall(r'url\("(fonts/[^"?]+)\?v=([0-9a-f]+)"\)', css))
    files = sorted(STATIC.glob("fonts/*.woff2"))
    assert {f"fonts/{path.name}" for path in files} == set(named)
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:10] == named[f"fonts/{path.name}"]
        assert (path.parent / f"{re.sub('-latin.*', '', path.stem)}.LICENSE.txt").is_file()
    assert sum(path.stat().st_size for path in files) < 120_000


def test_nothing_comes_from_elsewhere(web: TestClient) -> None:
    tree = page(web, "/")
    fetched = tree.xpath(
        "//script/@src | //img/@src | //link[@rel='stylesheet' or @rel='icon' or @rel='preload']/@href"
    )
    assert fetched and all(str(url).startswith("/static/") for url in fetched)
    assert {web.get(str(url)).status_code for url in fetched} == {200}
    assert not tree.xpath("//script[not(@src)] | //style | //@style")
    assert not re.search(r"url\(\W?(https?:)?//", (STATIC / "board.css").read_text("utf-8"))


def test_an_empty_board_says_so(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'empty.db'}") as database, client(database) as web:
        for url in ("/", "/en/", "/?view=tasks", "/?board=base"):
            tree = page(web, url)
            assert not tree.xpath("//table") and words(tree.xpath("//p[@class='empty']")[0])


def test_a_search_for_nothing_says_so(web: TestClient) -> None:
    tree = page(web, "/?q=olematu")
    assert not tree.xpath("//table")
    assert words(tree.xpath("//p[@class='empty']")[0]) == languages()["et"].t("board.empty")
    assert dict(parse_qsl(urlsplit(links(tree, "ul[@class='chips']")[0]).query)) == {}


def test_an_error_is_a_page_with_a_way_back(web: TestClient) -> None:
    for url, home in (("/olematu", "/"), ("/en/nothing", "/en/"), ("/?rows=7", "/")):
        answer = web.get(url)
        tree = html.fromstring(answer.text)
        assert answer.status_code in (400, 404)
        assert home in links(tree, "main") and tree.xpath("//nav//a") and words(tree.xpath("//h1")[0])


@pytest.mark.slow
def test_two_hundred_models_and_thirty_tasks_weigh_less_than_100_kilobytes(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'world.db'}") as database:
        fill(database, docs=200)
        with client(database) as web:
            answer = web.get("/?view=tasks&rows=200&all=yes")
            tree = html.fromstring(answer.text)
    assert len(rows(tree)) > 180 and len(tree.xpath("//thead/tr[last()]/th")) == 30
    assert len(gzip.compress(answer.content, 6)) < 100_000
