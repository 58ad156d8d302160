"""Answers are shown as they are, as text, and only where documents are published; lists lead to the failures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_pages import HOSTILE, OPEN, SECRET, TASKS, World, client, decide, fingerprint, make
from estbench_leaderboard.shown import fit, line, shown
from starlette.testclient import TestClient

from estbench.runs import Run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make(tmp_path_factory.mktemp("sample"))
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def web(world: World) -> Iterator[TestClient]:
    with client(world.database) as found:
        yield found


def docs(world: World, run: str, task: str) -> list[str]:
    return [sample.doc_hash for sample in Run(world.folder / run).samples(task)]


def address(world: World, task: str, place: int, form: str = "", start: str = "/vastus") -> str:
    run = world.runs["alfa a"]
    return f"{start}/{run}/{docs(world, run, task)[place]}/{task}{form}"


def test_the_answer_is_shown_as_text_and_never_as_html(world: World, web: TestClient) -> None:
    for start in ("/vastus", "/en/sample"):
        page = web.get(address(world, "tekst", 0, start=start)).text
        assert "&lt;script&gt;alert(&#39;vastus&#39;)" in page
        assert "<script>alert" not in page and "<img src=x" not in page
    assert web.get(address(world, "tekst", 0, ".json")).json()["responses"][0]["text"] == HOSTILE


def test_invisible_characters_are_marked(world: World, web: TestClient) -> None:
    page = web.get(address(world, "tekst", 1)).text
    assert "[U+202E]" in page and "[U+200B ×3]" in page and "[U+0000]" in page
    assert not {"\u202e", "\u200b", "\x00"} & set(page)
    assert shown("täht ja emotikon 🙂\n\tõ").marks == 0


def test_half_a_surrogate_pair_breaks_no_form(world: World, web: TestClient) -> None:
    for form in ("", ".json", ".csv"):
        response = web.get(address(world, "tekst", 2, form))
        assert response.status_code == 200, form
    assert "[U+D83D]" in web.get(address(world, "tekst", 2)).text


def test_a_long_text_is_cut_until_all_of_it_is_asked_for(world: World, web: TestClient) -> None:
    page = web.get(address(world, "tekst", 3)).text
    assert "LÕPP" not in page and "?all=yes" in page
    assert "LÕPP" in web.get(address(world, "tekst", 3) + "?all=yes").text
    assert web.get(address(world, "tekst", 3, ".json")).json()["prompt"].endswith("LÕPP")


def test_votes_of_judges_are_shown_with_their_reasons_whatever_they_hold(world: World, web: TestClient) -> None:
    found = web.get(address(world, "tekst", 4, ".json")).json()
    assert len(found["votes"]) == 4  # what is no vote is none
    assert found["votes"][0]["reason"] == HOSTILE and "votes" not in found["responses"][0]
    page = web.get(address(world, "tekst", 4)).text
    assert "kohtunik-1" in page and "invalid JSON" in page and "loops" in page and "keel" in page
    assert "moon" in page and "ei tea" not in page and "<script>alert" not in page
    assert "kohtunik" not in web.get(address(world, "tekst", 5)).text


def test_options_have_their_log_probabilities_and_the_right_one_is_marked(world: World, web: TestClient) -> None:
    data = web.get(address(world, "valik", 1, ".json")).json()
    doc = world.docs["valik"][1]
    assert [option["logprob"] for option in data["options"]] == [part["logprob"] for part in doc.responses]
    assert [option["gold"] for option in data["options"]] == [False, True]
    assert [option["chosen"] for option in data["options"]].index(True) == doc.answer
    assert sum(option["share"] for option in data["options"]) == pytest.approx(1)
    assert data["scores"][0] == {"metric": "acc", "value": doc.values["acc"], "unit": "proportion", "judge": None}


def test_documents_lead_to_their_neighbours_and_to_their_cluster(world: World, web: TestClient) -> None:
    names = docs(world, world.runs["alfa a"], "valik")
    data = web.get(address(world, "valik", 3, ".json")).json()
    assert (data["previous"], data["next"]) == (names[2], names[4])
    assert data["cluster_mates"] == [names[23], names[43]]
    assert web.get(address(world, "valik", 0, ".json")).json()["previous"] is None
    assert f"/{names[4]}/valik" in web.get(address(world, "valik", 3)).text


def test_other_models_that_answered_the_same_document_stand_beside_it(world: World, web: TestClient) -> None:
    others = web.get(address(world, "valik", 1, ".json")).json()["others"]
    runs = {other["run"] for other in others}
    assert runs == {world.runs["beeta b"], world.runs["alfa d"]}  # not the one that was withdrawn


def everything(world: World) -> list[str]:
    """Each address of these pages that could show a document of these tasks, in all forms and both languages."""
    found = []
    estonian = ("/mudel", "/mootmine", "/vastus", "/mootmised")
    english = ("/en/model", "/en/run", "/en/sample", "/en/runs")
    for (model, listing, answers, runs), form in [*((estonian, form) for form in ("", ".json", ".csv")), (english, "")]:
        found += [f"{runs}{form}", f"{runs}{form}?task=salajane", f"{model}/alfa{form}", f"{model}/beeta{form}"]
        for run in world.runs.values():
            found.append(f"{listing}/{run}{form}")
            for task in TASKS:
                found += [f"{listing}/{run}{form}?task={task}&order={order}" for order in ("failures", "worst")]
                found.append(f"{answers}/{run}/{docs(world, run, task)[5]}/{task}{form}")
    return found


def test_documents_that_are_not_published_leak_in_no_form(world: World, web: TestClient) -> None:
    secrets = {SECRET, *(doc for task in ("salajane", "trivia_et") for doc in docs(world, world.runs["alfa a"], task))}
    seen_open = 0
    for url in everything(world):
        response = web.get(url)
        forbidden = "salajane" in url.partition("?")[0] or "trivia_et" in url or "task=salajane&" in url
        gone = world.runs["gamma c"] in url
        assert response.status_code == (410 if gone else 403 if forbidden else 200), url
        assert not any(secret in response.text for secret in secrets), url
        seen_open += OPEN in response.text
    assert seen_open > 10  # the control: the same search finds what is published


def test_a_card_from_outside_can_not_publish_what_this_board_withholds(world: World, web: TestClient) -> None:
    assert web.get(address(world, "trivia_et", 0)).status_code == 403  # its run says publish_items: true
    assert web.get(address(world, "tekst", 5)).status_code == 200


def listed(web: TestClient, world: World, query: str) -> Any:
    return web.get(f"/mootmine/{world.runs['alfa a']}.json?{query}").json()["documents"]


def test_the_list_of_documents_begins_with_failures(world: World, web: TestClient) -> None:
    first = listed(web, world, "task=tekst")
    assert [row["position"] for row in first["rows"][:4]] == [70, 90, 0, 1]
    assert [row["parse_failure"] for row in first["rows"][:3]] == [True, True, False]
    assert (first["total"], first["pages"], len(first["rows"])) == (120, 3, 50)
    every = [row["position"] for page in (1, 2, 3) for row in listed(web, world, f"task=tekst&page={page}")["rows"]]
    assert sorted(every) == list(range(120))


def test_the_list_can_begin_with_the_worst_or_follow_the_data(world: World, web: TestClient) -> None:
    worst = [row["value"] for row in listed(web, world, "task=tekst&order=worst")["rows"]]
    assert worst == sorted(worst) and worst[0] == 0
    assert [row["position"] for row in listed(web, world, "task=tekst&order=position")["rows"]] == list(range(50))
    rows = list(csv.reader(io.StringIO(web.get(f"/mootmine/{world.runs['alfa a']}.csv?task=valik").text)))
    assert rows[0][:2] == ["position", "doc"] and len(rows) == 51


def test_what_is_not_there_and_what_can_not_be_asked(world: World, web: TestClient) -> None:
    run, doc = world.runs["alfa a"], docs(world, world.runs["alfa a"], "tekst")[0]
    missing = (f"/vastus/{run}/0000/tekst", f"/vastus/{run}/{doc}/olematu", f"/vastus/olematu/{doc}/tekst")
    for url in (*missing, "/mootmine/olematu", f"/mootmine/{run}?task=olematu", "/mudel/olematu"):
        assert web.get(url).status_code == 404, url
    wrong = ("task=tekst&order=best", "task=tekst&page=0", "task=tekst&page=4", "order=%00")
    listed = [f"/mootmine/{run}?{query}" for query in wrong]
    for url in (*listed, "/mootmised?page=9", f"/vastus/{run}/{doc}/tekst?all=1"):
        assert web.get(url).status_code == 400, url


def test_runs_can_be_filtered_and_name_their_model(world: World, web: TestClient) -> None:
    every = web.get("/mootmised.json").json()["runs"]
    assert [row["run"] for row in every] == [world.runs[name] for name in ("alfa a", "beeta b", "alfa d")]
    assert [row["model"] for row in web.get("/mootmised.json?model=beeta").json()["runs"]] == ["beeta"]
    assert web.get(f"/mootmised.json?model={fingerprint('d')}&task=valik").json()["total"] == 1
    assert web.get("/mootmised.json?task=olematu").json()["total"] == 0


def test_a_hidden_task_is_on_no_page_of_a_run(tmp_path: Path) -> None:
    world = make(tmp_path)
    decide(world.database, "hide", "vigane", task="tekst")
    with client(world.database) as web:
        run = world.runs["alfa a"]
        for form in ("", ".json", ".csv"):
            assert OPEN not in web.get(f"/mootmine/{run}{form}").text
        assert "tekst" not in [task["task"] for task in web.get(f"/mootmine/{run}.json").json()["tasks"]]
        assert "tekst" not in web.get(f"/mootmine/{run}.json").json()["manifest"]["tasks"]
        assert web.get(address(world, "tekst", 0)).status_code == 404
        assert web.get(address(world, "valik", 0)).status_code == 200
    world.database.close()


def test_texts_in_lists_are_short_and_plain() -> None:
    assert line("esimene\nteine\u202e rida") == "esimene teine� rida"
    assert len(line("õ" * 5000)) == 80 and line("õ" * 5000).endswith("…")
    assert fit({"u": "https://mari:parool@host.ee/v1?key=1", "\ud800": ["\udfff"]}) == {
        "u": "https://host.ee/v1",
        "\ufffd": ["\ufffd"],
    }
