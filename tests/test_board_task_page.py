"""Tasks: the list of all, and a page for each: ranks in it alone, how hard its documents are, and nothing withheld."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_pages import OPEN, SECRET, World, add, client, decide, documents, fingerprint, make
from board_world import World as Made
from estbench_leaderboard import documents as of_documents
from estbench_leaderboard import ranked
from estbench_leaderboard.catalogue import languages
from estbench_leaderboard.pages import tasks as listed
from estbench_leaderboard.snapshot import Snapshot, take
from starlette.testclient import TestClient

from estbench import references
from estbench.registry import Registry
from estbench.runs import Run

FORMS = ("", ".json", ".csv")
STARTS = ("/ulesanne/", "/en/task/")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make(tmp_path_factory.mktemp("task"))
    add(made, "delta", fingerprint("e"), documents(6), day=6)
    decide(made.database, "mark", "nägi testi treenides", model=fingerprint("e"), task="valik")
    decide(made.database, "correct", "kolm kulda parandati", task="tekst")
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def web(world: World) -> Iterator[TestClient]:
    with client(world.database) as found:
        yield found


@pytest.fixture(scope="module")
def large(board_world: Made) -> Iterator[tuple[TestClient, Snapshot]]:
    with client(board_world.database) as found:
        yield found, board_world.snapshot()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_list_has_every_task_of_every_board_with_its_best_ranked_model(large: tuple[TestClient, Snapshot]) -> None:
    web, snapshot = large
    found = {(row["board"], row["task"]): row for row in web.get("/ulesanded.json").json()["tasks"]}
    assert set(found) == {(board.name, name) for board in snapshot.boards.values() for name in board.tasks}
    for board in snapshot.boards.values():
        for name, task in board.tasks.items():
            row = found[board.name, name]
            cells = [model.cells[name] for model in board.models.values() if model.withdrawn is None]
            assert row["models"] == sum(cell.score is not None and cell.score.value is not None for cell in cells)
            counted = [model.cells[name] for model in board.models.values() if model.ranked]
            values = [cell.score.value or 0.0 for cell in counted if cell.reason is None and cell.score]
            assert row["best"] == (max if task.higher_is_better else min)(values)
    assert len(rows(web.get("/en/tasks.csv").text)) == len(found)
    page = web.get("/ulesanded").text
    assert all(f'href="/ulesanne/{name}"' in page for _, name in found)


def test_the_list_has_estonian_tasks_by_skill_and_english_ones_last(large: tuple[TestClient, Snapshot]) -> None:
    groups = listed.grouped(large[1])
    for name, those in groups.items():
        assert all(row.task.estonian == (name != listed.OTHERS) for row in those)
    assert listed.OTHERS not in list(groups)[:-1]


def test_a_task_ranks_the_models_that_were_measured_in_it_among_themselves(large: tuple[TestClient, Snapshot]) -> None:
    web, snapshot = large
    board = snapshot.boards["chat"]
    name = next(iter(board.tasks))
    have = [model.slug for model in board.models.values() if model.ranked and model.cells[name].reason is None]
    lacking = [model for model in board.models.values() if model.ranked and model.slug not in have]
    assert lacking  # so that ranking all would be another thing
    assert board.prepared is not None
    wanted = {row.model: row for row in board.prepared.rank({name: 1.0}, have).rows}
    shown = next(on for on in web.get(f"/ulesanne/{name}.json").json()["boards"] if on["board"] == "chat")["models"]
    placed = [row for row in shown if row["reason"] is None]
    order = [(wanted[row["model"]].klass, -wanted[row["model"]].score) for row in placed]
    assert len(placed) == len(have) and order == sorted(order)
    for row in placed:
        place = wanted[row["model"]]
        assert (row["rank_low"], row["rank_high"], row["class"]) == (place.rank_low, place.rank_high, place.klass)
        score = board.models[row["model"]].cells[name].score
        assert score is not None and row["value"] == score.value and row["ci_low"] == score.ci_low


def test_models_without_a_place_are_shown_with_the_reason(
    board_world: Made, large: tuple[TestClient, Snapshot]
) -> None:
    web, snapshot = large
    name = board_world.tasks["chat"][0]
    found = {row["model"]: row for row in rows(web.get(f"/ulesanne/{name}.csv").text) if row["board"] == "chat"}
    for case, reason in (
        *(("other_version", "other_version"), ("other_prompt", "other_prompt"), ("partial", "partial")),
        *(("claimed", "claimed"), ("rescored", "rescored"), ("reference", "reference")),
    ):
        model = snapshot.model(board_world.cases[case], "chat")
        assert model is not None and found[model.slug]["reason"] == reason, case
        assert found[model.slug]["rank_low"] == "", case
    hidden = [snapshot.model(board_world.cases[case]) for case in ("hidden", "withdrawn", "embargoed")]
    assert not {model.slug for model in hidden if model is not None} & set(found)
    page = web.get(f"/ulesanne/{name}").text
    assert languages()["et"].t("reason.other_prompt") in page


def test_documents_of_withheld_tasks_are_in_no_form_of_any_page(world: World, web: TestClient) -> None:
    run = Run(world.folder / world.runs["beeta b"])
    for task in ("salajane", "trivia_et"):
        hashes = [sample.doc_hash for sample in run.samples(task)]
        for start in STARTS:
            for form in FORMS:
                response = web.get(f"{start}{task}{form}")
                assert response.status_code == 200
                assert SECRET not in response.text, (task, form)
                assert not any(doc in response.text for doc in hashes), (task, form)
    shown = [web.get(f"{start}tekst{form}").text for start in STARTS for form in ("", ".json")]  # the control
    assert all(OPEN in text for text in shown)
    assert any(sample.doc_hash in shown[0] for sample in run.samples("tekst"))
    for path in ("/ulesanded", "/en/tasks"):
        assert not any(SECRET in web.get(path + form).text for form in FORMS)


def test_a_withheld_task_says_so_and_has_its_scores_nevertheless(web: TestClient) -> None:
    page = web.get("/ulesanne/salajane").text
    assert languages()["et"].t("task.prompt.withheld") in page
    assert len(rows(web.get("/ulesanne/salajane.csv").text)) == 4


def test_a_run_that_calls_its_documents_secret_is_not_linked(world: World, tmp_path: Path) -> None:
    other = make(tmp_path)
    add(other, "kinnine", fingerprint("9"), documents(3), day=9, publish={"tekst": False, "valik": False})
    with client(other.database) as web:
        data = web.get("/ulesanne/valik.json").json()
        # The newest run decides about the task: where it forbids, nobody's documents are shown.
        assert data["documents_shown"] is False and "example" not in data
        assert OPEN not in web.get("/ulesanne/tekst").text
    other.database.close()


def test_a_hidden_task_has_no_page(tmp_path: Path) -> None:
    world = make(tmp_path)
    decide(world.database, "hide", "vigane", task="tekst")
    with client(world.database) as web:
        assert web.get("/ulesanne/tekst").status_code == 404
        assert web.get("/ulesanne/valik").status_code == 200
        assert "tekst" not in [row["task"] for row in web.get("/ulesanded.json").json()["tasks"]]
    world.database.close()


def test_the_hardest_documents_are_those_that_the_fewest_models_solve(world: World, web: TestClient) -> None:
    snapshot = take(world.database)
    board = snapshot.boards["chat"]
    models = [model for model in board.models.values() if model.ranked and model.cells["tekst"].reason is None]
    found = ranked.values(world.database, board.tasks["tekst"], models)
    assert found is not None and len(models) > 2
    means = found[0].mean(axis=0)
    shown = web.get("/ulesanne/tekst.json").json()["hardest"]
    assert [row["mean"] for row in shown] == pytest.approx(sorted(means)[: len(shown)])
    for row in shown:
        assert means[row["position"]] == pytest.approx(row["mean"])
        assert web.get(row["url"]).status_code == 200


def test_documents_of_corpus_metrics_have_their_own_scores(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    board = snapshot.boards["chat"]
    task = next(task for task in board.tasks.values() if task.metric == "chrf++")
    models = [model for model in board.models.values() if model.ranked]
    found = of_documents.difficulty(board_world.database, task, models)
    assert found is not None and not found.solved and len(found.docs) == task.n_docs
    assert ((found.means >= 0) & (found.means <= 100)).all() and np.ptp(found.means) > 1
    labels = next((task for task in board.tasks.values() if task.metric == "mcc"), None)
    if labels is not None:  # of one document it is always 0: nothing to say
        assert of_documents.difficulty(board_world.database, labels, models) is None


def test_broken_values_from_outside_say_nothing_and_break_nothing() -> None:
    assert np.isnan(of_documents.alone("chrf++", [[1, 2], "x", None])).all()
    assert np.isnan(of_documents.alone("acc", ["a", "b"])).all()
    assert of_documents.alone("acc", [0, 1, 1]).tolist() == [0, 1, 1]


def test_the_prompt_is_shown_as_it_was_sent(world: World, web: TestClient) -> None:
    example = web.get("/ulesanne/tekst.json").json()["example"]
    name = {"alfa": "alfa a", "beeta": "beeta b", "delta": "delta e"}[example["model"].partition("-")[0]]
    run = Run(world.folder / world.runs[name])
    first = next(doc for doc in run.plan("tekst") if doc.doc_id == 0)
    assert example["prompt"] == first.prompt and example["doc"] == first.doc_hash
    assert first.prompt in web.get("/en/task/tekst").text


def test_leaks_and_corrections_stand_on_the_page_of_their_task(web: TestClient) -> None:
    assert "nägi testi treenides" in web.get("/ulesanne/valik").text
    assert "nägi testi treenides" not in web.get("/ulesanne/tekst").text
    assert "kolm kulda parandati" in web.get("/ulesanne/tekst").text
    data = web.get("/ulesanne/valik.json").json()
    assert [row["model"] for row in data["contaminated"]] == ["delta-eeeeeeee"]


def test_figures_of_others_are_shown_apart_and_never_among_ours(large: tuple[TestClient, Snapshot]) -> None:
    web, snapshot = large
    name = next(name for name in snapshot.boards["chat"].tasks if references.of(name))
    published = references.of(name)
    data = web.get(f"/ulesanne/{name}.json").json()
    assert sorted(row["model"] for row in data["published"]) == sorted(row.model for row in published)
    names = [row["model"] for row in data["published"]]
    assert names == sorted(names, key=str.casefold)  # no order that looks like a rank
    ours = {row["name"] for row in rows(web.get(f"/ulesanne/{name}.csv").text)}
    measured = {model.name for board in snapshot.boards.values() for model in board.models.values()}
    assert ours <= measured
    assert languages()["et"].t("task.published.note") in web.get(f"/ulesanne/{name}").text


@pytest.mark.parametrize(
    ("metric", "unit", "chance", "key"),
    [
        ("acc", "proportion", 0.25, "share"),
        ("f1", "proportion", 0.0, "nothing"),
        ("mcc", "proportion", 0.0, "correlation"),
        ("chrf++", "points", 17.6, "points"),
        ("bits_per_byte", "bits", 8.0, "bits"),
        ("acc", "proportion", None, "unknown"),
    ],
)
def test_what_a_score_means_is_said_for_each_kind_of_metric(
    metric: str, unit: str, chance: float | None, key: str, world: World
) -> None:
    import dataclasses

    from estbench_leaderboard.pages import task as page
    from estbench_leaderboard.site import Site

    board = take(world.database).boards["chat"]
    task = dataclasses.replace(board.tasks["valik"], metric=metric, unit=unit, chance=chance)
    on = page.OnBoard(board, task, (), (), False, {})
    for code in ("et", "en"):
        request = Site(world.database).request(code)
        shown = None if chance is None else request.language.score(chance, unit)
        assert page.meaning(request, on)[0] == request.t(f"task.meaning.{key}", chance=shown)


def test_every_task_of_ours_is_told_in_one_sentence_and_its_metric_in_words() -> None:
    for language in languages().values():
        for card in Registry().tasks.values():
            assert language.has(f"task.about.{listed.base(card.name)}"), card.name
            assert language.has(f"task.metric.{card.primary}.meaning"), card.primary


@pytest.mark.parametrize("area", ["task", "compare"])
def test_both_languages_have_the_same_texts(area: str) -> None:
    et, en = ({key for key in language.texts if key.startswith(f"{area}.")} for language in languages().values())
    assert et == en and len(et) > 60


def test_a_task_from_outside_with_odd_facts_has_a_page(tmp_path: Path) -> None:
    world = make(tmp_path)
    docs: dict[str, Any] = {"<i>x</i>/y": documents(3)["tekst"]}
    add(world, "kuri", fingerprint("8"), docs, day=8)
    from sqlalchemy import update

    from estbench.database import schema

    odd = {"title": {"et": "\u202e<script>alert(1)</script>" * 9}, "licence": {"a": [1]}, "access": "<b>", "data": {}}
    odd |= {"data": {"hash": "h", "path": ["<img>"], "config": 7}, "scorer": "s"}
    rows_of = schema.run_tasks
    with world.database.write() as connection:
        changed = update(rows_of).where(rows_of.c.run_id == world.runs["kuri 8"])
        connection.execute(changed.values(skill="<b>oskus</b>", language="<i>", card=odd))
    with client(world.database) as web:
        for start in STARTS:
            for form in FORMS:
                response = web.get(f"{start}%3Ci%3Ex%3C/i%3E/y{form}")
                assert response.status_code == 200, (form, response.text[:300])
        page = web.get("/ulesanne/%3Ci%3Ex%3C/i%3E/y").text
        assert "<script>alert" not in page and "<i>x" not in page and "<b>oskus" not in page and "\u202e" not in page
        assert web.get("/ulesanded").status_code == 200
    world.database.close()
