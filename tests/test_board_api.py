"""The API: what it promises to programs, and what it never shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from api_fixtures import NOT_SHOWN, client, everything, own_world, slug_of
from board_world import SMALL, World
from database_fixtures import choice_docs, make_run, text_docs
from estbench_leaderboard import api, public
from estbench_leaderboard.app import create
from estbench_leaderboard.site import Site
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from estbench.database import index_run, open_database, schema
from estbench.interchange.every_eval_ever import export
from estbench.runs import Run

__all__ = ["client", "own_world"]  # fixtures


def some_task(world: World, shown: bool) -> str:
    """A task of the chat board whose documents may be seen, or may not."""
    snapshot = world.snapshot()
    tasks = snapshot.boards["chat"].tasks.values()
    return next(t.name for t in tasks if public.shows_items(snapshot, t.name, t.publish_items, t.card) is shown)


# ---- lists


@pytest.mark.parametrize("path", ["models", "tasks", "scores", "runs"])
def test_links_lead_through_a_list_and_show_each_row_once(client: TestClient, path: str) -> None:
    whole = everything(client, f"/api/v1/{path}?limit=500")
    parts = everything(client, f"/api/v1/{path}?limit=7")
    assert parts == whole
    assert len(whole) == client.get(f"/api/v1/{path}?limit=1").json()["total"] > 7
    assert len({json.dumps(row, sort_keys=True) for row in whole}) == len(whole)


def test_link_names_first_previous_next_and_last(client: TestClient) -> None:
    links = client.get("/api/v1/models?limit=5&offset=5").links
    assert {name: link["url"].split("?")[1] for name, link in links.items()}.items() >= {
        ("first", "limit=5&offset=0"),
        ("prev", "limit=5&offset=0"),
        ("next", "limit=5&offset=10"),
    }
    total = client.get("/api/v1/models").json()["total"]
    assert links["last"]["url"].endswith(f"offset={(total - 1) // 5 * 5}")
    assert "next" not in client.get(links["last"]["url"]).links


def test_scores_are_those_of_the_database_with_their_evidence(client: TestClient, board_world: World) -> None:
    wanted = board_world.cases["best"]
    found = everything(client, f"/api/v1/scores?model={wanted}&limit=500")
    runs = board_world.runs[wanted]
    with board_world.database.read() as connection:
        query = select(schema.scores).where(schema.scores.c.run_id.in_(runs))
        stored = {
            (row.run_id, row.task, row.metric): row
            for row in connection.execute(query)
            if row.run_id in public.runs(board_world.snapshot())
        }
    assert len(found) == len(stored) > 5
    for row in found:
        same = stored[row["run"], row["task"], row["metric"]]
        for name in ("value", "ci_low", "ci_high", "n", "n_planned", "chance", "parse_failures", "unit"):
            assert row[name] == getattr(same, name)


def test_a_model_is_found_by_slug_name_and_fingerprint(client: TestClient, board_world: World) -> None:
    fingerprint = board_world.cases["best"]
    by_print = client.get(f"/api/v1/models/{fingerprint}").json()
    for word in (by_print["slug"], by_print["name"].replace("/", "%2F")):
        scores = client.get("/api/v1/scores", params={"model": word.replace("%2F", "/"), "limit": 1}).json()
        assert scores["rows"][0]["model"] == fingerprint
    assert client.get(f"/api/v1/models/{by_print['slug']}").json() == by_print
    rank = by_print["rank"]
    assert 1 <= rank["low"] <= rank["high"] <= rank["of"] and by_print["unranked"] is None


def test_filters_leave_only_what_fits(client: TestClient, board_world: World) -> None:
    task = board_world.tasks["chat"][0]
    rows = everything(client, f"/api/v1/scores?task={task}&primary=true&limit=500")
    assert rows and {(row["task"], row["primary"]) for row in rows} == {(task, True)}
    assert {row["board"] for row in everything(client, "/api/v1/models?board=base")} == {"base"}
    assert all(task in row["tasks"] for row in everything(client, f"/api/v1/runs?task={task}"))
    nothing = client.get("/api/v1/scores?task=sellist-ei-ole").json()
    assert (nothing["total"], nothing["rows"]) == (0, [])


def test_the_board_is_that_of_the_page(client: TestClient) -> None:
    query = "?board=chat&preset=translation&sort=name&order=reverse&size=large"
    assert client.get(f"/api/v1/board{query}").json() == client.get(f"/index.json{query}").json()
    assert client.get("/api/v1/board").json() != client.get(f"/api/v1/board{query}").json()


# ---- what is not for everyone


def test_nothing_of_what_is_hidden_or_unpublished_is_anywhere(client: TestClient, board_world: World) -> None:
    for case in NOT_SHOWN:
        fingerprint = board_world.cases[case]
        assert client.get(f"/api/v1/models/{fingerprint}").status_code == 404
        assert client.get(f"/api/v1/scores?model={fingerprint}").json()["total"] == 0
        for run in board_world.runs[fingerprint]:
            for path in ("", "/eee.json", "/samples?task=x", "/samples/ab?task=x"):
                assert client.get(f"/api/v1/runs/{run}{path}").status_code == 404
            assert client.get(f"/api/v1/scores?run={run}").json()["total"] == 0
        for path in ("models?limit=500", "runs?limit=500", "board?all=yes"):
            assert fingerprint not in client.get(f"/api/v1/{path}").text
        for path in (f"/badge/{fingerprint}.svg", f"/kaart/{fingerprint}.svg"):
            assert client.get(path).status_code == 404


def test_a_withdrawn_model_leaves_a_tombstone_without_scores(client: TestClient, board_world: World) -> None:
    fingerprint = board_world.cases["withdrawn"]
    model = client.get(f"/api/v1/models/{fingerprint}").json()
    assert model["withdrawn"] and model["scores"] == {} and model["rank"] is None
    assert client.get(f"/api/v1/scores?model={fingerprint}").json()["total"] == 0
    assert client.get(f"/api/v1/runs/{board_world.runs[fingerprint][0]}").status_code == 404


def test_an_embargo_that_ends_shows_the_run(own_world: World) -> None:
    with own_world.database.write() as connection:
        connection.execute(update(schema.submissions).values(embargo="2026-01-01T00:00:00.000000Z"))
    with TestClient(create(Site(own_world.database))) as client:
        assert client.get(f"/api/v1/models/{own_world.cases['embargoed']}").status_code == 200


def test_documents_are_shown_where_they_may_be_and_withheld_where_not(client: TestClient, board_world: World) -> None:
    run = board_world.runs[board_world.cases["best"]][-1]
    fine, withheld = some_task(board_world, True), some_task(board_world, False)
    rows = everything(client, f"/api/v1/runs/{run}/samples?task={fine}")
    assert len(rows) == SMALL["docs"]
    one = client.get(f"/api/v1/runs/{run}/samples/{rows[0]['doc']}?task={fine}").json()
    assert one["prompt"] and one["responses"] and one["target"] is not None
    for path in (f"samples?task={withheld}", f"samples/{rows[0]['doc']}?task={withheld}"):
        answer = client.get(f"/api/v1/runs/{run}/{path}")
        assert answer.status_code == 403 and list(answer.json()) == ["error"]


def test_a_run_that_says_its_documents_may_be_shown_is_not_believed(own_world: World) -> None:
    """The word of a run from outside is not the board's."""
    run = own_world.runs[own_world.cases["claimed"]][-1]
    task = some_task(own_world, False)
    tasks = schema.run_tasks.c
    with own_world.database.write() as connection:
        row = connection.execute(select(tasks.card).where(tasks.run_id == run, tasks.task == task)).one()
        forged = {"publish_items": True, "card": row.card | {"publish_items": True, "access": "public"}}
        changed = update(schema.run_tasks).where(tasks.run_id == run, tasks.task == task).values(**forged)
        assert connection.execute(changed).rowcount == 1
    with TestClient(create(Site(own_world.database))) as client:
        assert client.get(f"/api/v1/runs/{run}/samples?task={task}").status_code == 403
        assert not client.get(f"/api/v1/tasks/{task}").json()["publish_items"]


def test_a_manifest_names_no_place_of_a_machine() -> None:
    manifest = {
        "run": "x",
        "model": {"name": "m", "path": "/home/mari/saladus/step-2", "url": "https://mari:parool@host/v1"},
        "tasks": {"t": {"title": "x", "data": {"origin": "/scratch/mari/andmed"}}},
        "settings": {"model": "/home/mari/saladus/step-2", "gold": "kuld.jsonl"},
        "host": {"machine": "x86_64"},
        "command": "estbench eval model=/home/mari/saladus/step-2 data=~/mari/andmed gold=mari.jsonl tasks=core",
    }
    found = public.manifest(manifest)
    assert "mari" not in json.dumps(found) and "parool" not in json.dumps(found)
    assert found["command"] == "estbench eval model=step-2 data=andmed tasks=core"
    assert found["model"] == {"name": "m", "path": "step-2"}
    assert public.command("estbench eval 'name=open") == ""


# ---- HTTP


def test_an_etag_saves_loading_again_until_something_changes(own_world: World) -> None:
    site = Site(own_world.database)
    with TestClient(create(site)) as client:
        first = client.get("/api/v1/models")
        again = client.get("/api/v1/models", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304 and not again.content
        with own_world.database.write() as connection:
            hide = {"created": "2026-12-01T00:00:00Z", "actor": "a", "action": "hide", "reason": "r", "public": True}
            connection.execute(insert(schema.decisions).values(model=own_world.cases["best"], **hide))
        site.snapshots.refresh()
        later = client.get("/api/v1/models", headers={"if-none-match": first.headers["etag"]})
        assert later.status_code == 200 and own_world.cases["best"] not in later.text


def test_any_site_may_read_and_none_with_cookies(client: TestClient) -> None:
    for path, status in (("models", 200), ("models?limit=0", 400), ("models/x", 404), ("nothing", 404)):
        answer = client.get(f"/api/v1/{path}", headers={"origin": "https://muu.example.ee"})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
    asked = {"origin": "https://muu.example.ee", "access-control-request-method": "GET"}
    preflight = client.options("/api/v1/models", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    assert "access-control-allow-origin" not in client.get("/").headers


def test_head_has_the_headers_of_get_and_other_methods_are_refused(client: TestClient) -> None:
    get, head = client.get("/api/v1/models"), client.head("/api/v1/models")
    assert head.status_code == 200 and not head.content and head.headers["etag"] == get.headers["etag"]
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = client.request(method, "/api/v1/models")
        assert answer.status_code == 405 and "GET" in answer.headers["allow"]
        assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    "path",
    [
        "models?modle=x",
        "models?limit=0",
        "models?limit=501",
        "models?limit=viis",
        "models?offset=-1",
        "models?board=vestlus",
        "scores?primary=võib-olla",
        "scores?model=" + "x" * 300,
        "board?size=suur",
        "board?modle=x",
        "board?tasks=../..",
        "runs/x/samples",
        "openapi.json?x=1",
    ],
)
def test_a_wrong_parameter_is_one_sentence_and_never_another_answer(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"] and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "word", ["%00", "%0d%0aX:1", "'; DROP TABLE runs--", "%ff%fe%ff", "..%2f..", "õ" * 200, "%3Cmarquee%3E"]
)
def test_odd_names_are_not_found_and_break_nothing(client: TestClient, word: str) -> None:
    for path in ("models/{}", "tasks/{}", "runs/{}", "runs/{}/eee.json", "runs/{}/samples?task={}"):
        answer = client.get("/api/v1/" + path.replace("{}", word))
        assert answer.status_code == 404 and list(answer.json()) == ["error"]
    for path in ("scores?model={}", "scores?task={}", "scores?run={}", "runs?task={}", "runs?model={}", "models?q={}"):
        answer = client.get("/api/v1/" + path.replace("{}", word.replace("õ" * 200, "õ" * 60)))
        assert answer.status_code == 200 and answer.json()["total"] == 0


# ---- the description


def test_the_schema_names_every_path_and_each_answers_as_it_says(client: TestClient, board_world: World) -> None:
    found = client.get("/api/v1/openapi.json").json()
    assert found == api.schema()
    shown = {
        route.path.replace(":path", "") for route in api.router.routes if getattr(route, "include_in_schema", False)
    }
    assert set(found["paths"]) == shown and len(shown) >= 13
    assert "422" not in json.dumps(found)
    run = board_world.runs[board_world.cases["best"]][-1]
    task = some_task(board_world, True)
    doc = client.get(f"/api/v1/runs/{run}/samples?task={task}").json()["rows"][0]["doc"]
    slugs = ",".join(slug_of(board_world, case) for case in ("best", "twice"))
    names = {"model": slug_of(board_world, "best"), "task": task, "run": run, "doc": doc}
    for path, operations in found["paths"].items():
        url = re.sub(r"{(\w+)(:path)?}", lambda match: names[match[1]], path)
        needed = {p["name"] for p in operations["get"].get("parameters", ()) if p["in"] == "query" and p["required"]}
        given = {"task": task, "models": slugs}
        answer = client.get(url, params={name: given[name] for name in needed})
        assert answer.status_code == 200, (url, answer.text)


@pytest.mark.parametrize("path", ["/api", "/en/api"])
def test_the_documentation_is_a_plain_page_with_every_path(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert all(one in page.text for one in api.schema()["paths"])
    assert not re.search(r'<script[^>]*>[^<]|src="https?:', page.text)
    assert client.get(f"{path}.json").json() == api.schema()


# ---- Every Eval Ever


def test_every_eval_ever_from_the_database_is_that_of_the_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path, run="demo-aa11", tasks={"copa": choice_docs(12), "tolge": text_docs(9)})
    manifest = run.manifest | {"command": "estbench eval model=/home/mari/step-2 tasks=copa", "versions": {}}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    run = Run(run.path)
    with open_database(f"sqlite:///{tmp_path / 'x.db'}") as database:
        index_run(database, run)
        with TestClient(create(Site(database))) as client:
            found = client.get("/api/v1/runs/demo-aa11/eee.json").json()
    for part in ("plan", "responses", "samples"):  # what the database's document does without
        for file in (run.path / part).glob("*"):
            file.unlink()
    wanted = json.loads(export(run, tmp_path / "eee")[0].read_text())
    assert found == wanted and len(found["evaluation_results"]) >= 3
    assert "/home/mari" not in json.dumps(found)


def test_a_run_without_scores_says_that_it_has_nothing_to_export(own_world: World) -> None:
    run = own_world.runs[own_world.cases["best"]][-1]
    with own_world.database.write() as connection:
        connection.execute(update(schema.scores).where(schema.scores.c.run_id == run).values(value=None))
    with TestClient(create(Site(own_world.database))) as client:
        answer = client.get(f"/api/v1/runs/{run}/eee.json")
        assert answer.status_code == 404 and "no scores" in answer.json()["error"]
