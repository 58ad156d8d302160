"""A model's page: what it scored and how sure that is, how it came to be, and the command that measures it again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from board_pages import World, add, client, decide, documents, fingerprint, make
from estbench_leaderboard.catalogue import languages
from estbench_leaderboard.snapshot import take
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make(tmp_path_factory.mktemp("model"))
    chain = [
        {"stage": "base", "name": "beeta", "fingerprint": fingerprint("b"), "tokens": 15_000_000_000_000},
        {"stage": "cpt", "name": "alfa", "fingerprint": "0" * 64, "tokens": 30_000_000_000},
        {"stage": "sft", "name": "<b>paha</b>", "fingerprint": None, "tokens": "palju"},
        "katki",
    ]
    parents = [
        {"stage": "sft", "name": "alfa", "fingerprint": fingerprint("a"), "tokens": None},
        {"stage": "base", "name": "<i>kuri</i>", "fingerprint": None},
        "katki",
    ]
    training = {"kind": "dpo", "stage": "dpo", "lineage": chain, "tokens": 20_000_000, "hours": 312.5}
    training |= {"parents": parents}
    add(
        made, "delta", fingerprint("e"), documents(6), day=6, training=training, skipped={"exam_et": "it needs a token"}
    )
    decide(made.database, "mark", "nägi testi treenides", model=fingerprint("e"), task="valik")
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def web(world: World) -> Iterator[TestClient]:
    with client(world.database) as found:
        yield found


def test_a_model_is_found_by_slug_name_and_fingerprint(web: TestClient) -> None:
    for word in ("beeta-bbbbbbbb", "beeta", fingerprint("b")):
        assert web.get(f"/mudel/{word}.json").json()["model"]["fingerprint"] == fingerprint("b")
    assert web.get("/mudel/alfa.json").json()["model"]["fingerprint"] == fingerprint("a")  # the newest weights


def test_nobody_takes_the_address_of_another_by_a_name(tmp_path: Path) -> None:
    world = make(tmp_path)
    add(world, "beeta-bbbbbbbb", fingerprint("f"), documents(1), day=20)
    with client(world.database) as web:
        assert web.get("/mudel/beeta-bbbbbbbb.json").json()["model"]["fingerprint"] == fingerprint("b")
    world.database.close()


def test_each_score_has_its_evidence_and_leads_to_its_run(world: World, web: TestClient) -> None:
    data = web.get("/mudel/beeta.json").json()
    tasks = {task["task"]: task for skill in data["boards"][0]["skills"] for task in skill["tasks"]}
    snapshot = take(world.database)
    cell = snapshot.boards["chat"].models["beeta-bbbbbbbb"].cells["valik"]
    assert cell.score is not None
    shown = tasks["valik"]
    assert [shown[key] for key in ("value", "ci_low", "ci_high", "chance")] == [
        cell.score.value,
        cell.score.ci_low,
        cell.score.ci_high,
        0.5,
    ]
    assert shown["run"] == world.runs["beeta b"] and shown["score"]["n"] == cell.score.n
    page = web.get("/mudel/beeta").text
    assert f"/mootmine/{world.runs['beeta b']}?task=valik#documents" in page
    assert "task=salajane" not in page  # its documents are not published
    assert languages()["et"].score(cell.score.value, "proportion") in page


def test_the_sentence_to_quote_has_the_rank_and_its_uncertainty(web: TestClient) -> None:
    data = web.get("/mudel/beeta.json").json()
    rank = data["boards"][0]["rank"]
    places = languages()["et"].places(rank["rank_low"], rank["rank_high"])
    assert f"beeta: {places} koht" in data["sentence"] and "usaldusvahemik" in data["sentence"]
    assert languages()["et"].score(rank["score"], "corrected") in data["sentence"]
    english = web.get("/en/model/beeta.json").json()["sentence"]
    assert "95% interval" in english and "6 November 2026" in english
    assert data["sentence"] in web.get("/mudel/beeta").text


def test_weights_that_were_overwritten_in_place_are_another_model(web: TestClient) -> None:
    data = web.get("/mudel/alfa-aaaaaaaa.json").json()
    assert [other["fingerprint"] for other in data["same_name"]] == [fingerprint("d")]
    assert [row["run"] for row in data["history"]] == ["jooks-aaaa-5"]
    assert "/mudel/alfa-dddddddd" in web.get("/mudel/alfa-aaaaaaaa").text


def test_lineage_is_linked_by_weights_and_not_by_name(web: TestClient) -> None:
    steps = web.get("/mudel/delta.json").json()["lineage"]
    assert [step["stage"] for step in steps] == ["base", "cpt", "sft", "dpo"]
    assert [step["url"] for step in steps] == ["/mudel/beeta-bbbbbbbb", None, None, None]
    page = web.get("/mudel/delta").text
    assert "&lt;b&gt;paha&lt;/b&gt;" in page and "<b>paha" not in page
    assert "15 trln tekstiühikut".replace(" ", "\xa0", 1) in page


def test_other_models_that_it_was_made_of_are_linked_by_weights(web: TestClient) -> None:
    parents = web.get("/mudel/delta.json").json()["parents"]
    assert [(parent["name"], parent["url"]) for parent in parents] == [
        ("alfa", "/mudel/alfa-aaaaaaaa"),
        ("<i>kuri</i>", None),
    ]
    page = web.get("/mudel/delta").text
    assert "Teised mudelid, millest see on tehtud:" in page
    assert "&lt;i&gt;kuri&lt;/i&gt;" in page and "<i>kuri" not in page
    assert "Teised mudelid" not in web.get("/mudel/beeta").text


def test_the_command_and_the_manifest_tell_no_place_of_the_machine(web: TestClient) -> None:
    for url in ("/mudel/alfa-aaaaaaaa", "/mootmine/jooks-aaaa-5"):
        for form in ("", ".json"):
            text = web.get(url + form).text
            assert "model=alfa tasks=mini" in text and "/kodu/mari" not in text


def test_failures_and_skipped_tasks_are_told(web: TestClient) -> None:
    page = web.get("/mudel/delta").text
    assert "it needs a token" in page and "exam_et" in page
    rows = list(csv.DictReader(io.StringIO(web.get("/mudel/delta.csv").text)))
    assert {row["task"] for row in rows} == {"valik", "tekst", "salajane", "trivia_et"}
    assert next(row for row in rows if row["task"] == "valik")["flags"].split()[-1] == "contaminated"


def test_corrections_about_a_model_stand_on_its_page(web: TestClient) -> None:
    assert "nägi testi treenides" in web.get("/mudel/delta").text
    assert "nägi testi treenides" not in web.get("/mudel/beeta").text


def test_a_withdrawn_model_is_a_tombstone_in_every_form(world: World, web: TestClient) -> None:
    run = world.runs["gamma c"]
    for url in ("/mudel/gamma", "/mudel/gamma.json", "/mudel/gamma.csv", "/en/model/gamma", f"/mootmine/{run}.json"):
        response = web.get(url)
        assert response.status_code == 410 and "kaalud olid valed" in response.text, url
    assert web.get("/mudel/beeta").status_code == 200


def test_a_hostile_name_stays_text_on_every_page(tmp_path: Path) -> None:
    world = make(tmp_path)
    name = '"><script>alert(1)</script>](javascript:x) \u202e'
    training = {"stage": name, "series": name, "lineage": [{"stage": name, "name": name, "tokens": -1}], "data": [name]}
    run = add(world, name, fingerprint("9"), documents(1), day=20, training=training, engine={"engine": name})
    with client(world.database) as web:
        model = take(world.database).model(fingerprint("9"))
        assert model is not None
        for url in (f"/mudel/{model.slug}", f"/en/model/{model.slug}", f"/mootmine/{run}", "/mootmised"):
            text = web.get(url).text
            assert "<script>alert" not in text
            assert "&lt;script&gt;" in text
        snippet = web.get(f"/mudel/{model.slug}").text.split("[![", 1)[1].split("\n", 1)[0]
        assert snippet.count("](") == 2 and "javascript:" in snippet  # the name's words, without its brackets
        assert web.get(f"/mudel/{model.slug}.csv").text.count("\n") == 5
    world.database.close()


def test_a_manifest_from_outside_may_lack_or_twist_its_parts(tmp_path: Path) -> None:
    world = make(tmp_path)
    odd = {
        "versions": "none",
        "skipped": ["a"],
        "command": "estbench eval 'open",
        "engine": {"cost": 4, "a": {"b": {}}},
    }
    run = add(world, "katki", fingerprint("8"), documents(1), day=20, training={"lineage": "x", "tokens": None}, **odd)
    with client(world.database) as web:
        here = f"/mootmine/{run}"
        for url in ("/mudel/katki", "/mudel/katki.json", here, f"{here}.json", f"{here}.csv"):
            assert web.get(url).status_code == 200, url
    world.database.close()


def test_both_languages_say_the_same_things() -> None:
    keys = {
        code: {key for key in language.texts if key.startswith(("model.", "run."))}
        for code, language in languages().items()
    }
    assert keys["et"] == keys["en"] and len(keys["et"]) > 200
