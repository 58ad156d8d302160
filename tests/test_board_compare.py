"""Comparison: the statistics of `estbench compare`, what can't be told apart, and flipped documents side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_pages import OPEN, SECRET, World, add, client, documents, fingerprint, make
from board_world import World as Made
from estbench_leaderboard import comparing, flipped
from estbench_leaderboard.catalogue import languages
from estbench_leaderboard.pages import compare as page
from estbench_leaderboard.site import Site
from estbench_leaderboard.snapshot import Model, Snapshot, take
from starlette.testclient import TestClient

from estbench import compare, evidence, stats
from estbench.runs import Run

FORMS = ("", ".json", ".csv")
ALFA, BEETA, DELTA = "alfa-aaaaaaaa", "beeta-bbbbbbbb", "delta-eeeeeeee"
TWO = {"m": f"{ALFA},{BEETA}"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make(tmp_path_factory.mktemp("compare"))
    add(made, "delta", fingerprint("e"), documents(6), day=6)
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def web(world: World) -> Iterator[TestClient]:
    with client(world.database) as found:
        yield found


def models(snapshot: Snapshot, *words: str) -> list[Model]:
    found = [snapshot.model(word) for word in words]
    assert all(model is not None for model in found)
    return [model for model in found if model is not None]


def results(web: TestClient, m: str, kind: str = "task", **more: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(other model, name) -> its line of the JSON."""
    data = web.get("/vordlus.json", params={"m": m, **more}).json()
    return {
        (pair["other"], row["name"]): row for pair in data["pairs"] for row in pair["results"] if row["kind"] == kind
    }


# ---- the statistics


def test_the_numbers_are_those_of_the_command(world: World, web: TestClient) -> None:
    a, b = (evidence.of_run(Run(world.folder / world.runs[name])) for name in ("alfa a", "beeta b"))
    wanted = {row.comparison.task: row for row in compare.compare(a, b).rows}
    found = results(web, TWO["m"])
    assert {name for _, name in found} == set(wanted) == {"valik", "tekst", "salajane", "trivia_et"}
    for (_, name), shown in found.items():
        row = wanted[name]
        difference = row.comparison.difference
        low, high = difference.interval()
        numbers = [difference.value, low, high, row.p, row.p_adjusted, row.detectable, row.comparison.value_a]
        keys = ("difference", "low", "high", "p", "p_adjusted", "detectable", "value_first")
        assert [shown[key] for key in keys] == pytest.approx(numbers), name
        assert (shown["better"], shown["worse"], shown["n"]) == (difference.better, difference.worse, difference.n)
        assert (shown["verdict"], shown["method"]) == (row.verdict, difference.method)


def test_intervals_of_corpus_metrics_are_near_those_of_the_bootstrap(board_world: Made) -> None:
    """The page takes the jackknife's; the command takes the bootstrap's."""
    snapshot = board_world.snapshot()
    chosen = [model for model in snapshot.boards["chat"].models.values() if model.ranked][5:9]
    checked = set()
    for pair in comparing.of(board_world.database, snapshot, chosen):
        for line in pair.lines:
            if not line.difference.method.startswith("jackknife"):
                continue
            wanted = {run: {line.task.name} for run in line.runs}
            stored = comparing.stored_runs(board_world.database, wanted, (pair.first, pair.other))
            a, b = (stored[run] for run in line.runs)
            items = a.items(line.task.name), b.items(line.task.name)
            metric = line.comparison.metric
            columns = [one.values[metric] for one in items]
            slow = compare.compare_items(a, line.task.name, metric, items, columns, replicates=3000).difference
            assert slow.method.startswith("paired bootstrap") and slow.value == line.difference.value
            quick, whole = ((high or 0.0) - (low or 0.0) for low, high in (line.difference.interval(), slow.interval()))
            assert quick == pytest.approx(whole, rel=0.2), (metric, quick, whole)
            checked.add(metric)
    assert {"chrf++", "f0.5"} <= checked


def test_p_values_are_adjusted_over_all_pairs_of_the_page(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    chosen = [model for model in snapshot.boards["chat"].models.values() if model.ranked][8:12]
    pairs = comparing.of(board_world.database, snapshot, chosen)
    found = [line.row for pair in pairs for line in pair.lines if not line.problems]
    assert [row.p_adjusted for row in found] == pytest.approx(stats.benjamini_hochberg([row.p for row in found]))
    one_by_one = [comparing.of(board_world.database, snapshot, [chosen[0], other])[0] for other in chosen[1:]]
    alone = [line.row.p_adjusted for pair in one_by_one for line in pair.lines if not line.problems]
    assert [row.p_adjusted for row in found] != pytest.approx(alone)
    pooled = [one for pair in pairs for one in (pair.total, *pair.skills) if one is not None]
    assert sorted(one.p_adjusted for one in pooled) == pytest.approx(sorted(stats.holm([one.p for one in pooled])))
    assert {line.verdict for pair in pairs for line in pair.lines} >= {"a", "b", "open"}


def test_pooled_differences_are_in_points_and_every_skill_counts_the_same(world: World, web: TestClient) -> None:
    tasks = {name: row["difference"] * 100 for (_, name), row in results(web, TWO["m"]).items()}
    reading = (tasks["tekst"] + tasks["salajane"] + tasks["trivia_et"]) / 3
    assert results(web, TWO["m"], "skill")[BEETA, "reading"]["difference"] == pytest.approx(reading)
    total = results(web, TWO["m"], "total")[BEETA, "total"]
    assert total["difference"] == pytest.approx((reading + tasks["valik"]) / 2)
    assert total["low"] < total["difference"] < total["high"]


def test_the_first_model_is_compared_and_its_place_turns_the_signs(web: TestClient) -> None:
    there, back = results(web, TWO["m"]), results(web, f"{BEETA},{ALFA}")
    for name in ("valik", "tekst"):
        assert there[BEETA, name]["difference"] == pytest.approx(-back[ALFA, name]["difference"])
        assert there[BEETA, name]["better"] == back[ALFA, name]["worse"]


# ---- what can't be compared


def test_what_was_asked_otherwise_has_no_verdict_and_is_not_pooled(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    cases = board_world.cases
    first, odd, fine = models(snapshot, cases["best"], cases["other_prompt"], cases["errors"])
    one, other = comparing.of(board_world.database, snapshot, [first, odd, fine])
    task = board_world.tasks["chat"][0]
    bad, good = one.line(task), other.line(task)
    assert bad is not None and bad.verdict == "incomparable" and [p.kind for p in bad.problems] == ["prompts"]
    assert good is not None and not good.problems
    assert one.total is not None and other.total is not None and one.total.tasks == other.total.tasks - 1
    assert all(not line.problems for line in one.lines if line.task.name != task)


def test_documents_of_a_partial_run_are_paired_with_the_same_documents(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    first, half = models(snapshot, board_world.cases["best"], board_world.cases["partial"])
    (pair,) = comparing.of(board_world.database, snapshot, [first, half])
    line = pair.lines[0]
    assert line.difference.n == line.task.n_docs // 2 == line.comparison.only_a and line.comparison.only_b == 0


def test_another_engine_is_named_and_the_same_one_is_not(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    cases = board_world.cases
    first, remote, same = models(snapshot, cases["best"], cases["remote"], cases["errors"])
    with client(board_world.database) as web:
        for other, there in ((remote, True), (same, False)):
            text = web.get("/vordlus", params={"m": f"{first.slug},{other.slug}"}).text
            assert (languages()["et"].t("compare.problem.engine") in text) == there
            data = web.get("/vordlus.json", params={"m": f"{first.slug},{other.slug}"}).json()
            assert bool(data["pairs"][0]["engines"]) == there


def test_tasks_that_are_left_out_are_named_with_the_reason(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    cases, task = board_world.cases, board_world.tasks["chat"][0]
    best, bare, missing = models(snapshot, cases["best"], cases["scores_only"], cases["missing"])
    one, other = comparing.of(board_world.database, snapshot, [best, bare, missing])
    assert one.left_out[task] == "no_documents" and other.left_out[task] == "only_first"
    assert one.line(task) is None and other.line(task) is None and one.lines


def test_models_of_different_boards_have_nothing_in_common_and_the_page_says_so(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    chat = next(model for model in snapshot.boards["chat"].models.values() if model.ranked and len(model.runs) == 1)
    base = next(model for model in snapshot.boards["base"].models.values() if len(snapshot.everywhere(model.slug)) == 1)
    with client(board_world.database) as web:
        for form in FORMS:
            response = web.get(f"/vordlus{form}", params={"m": f"{chat.slug},{base.slug}"})
            assert response.status_code == 200
        text = web.get("/vordlus", params={"m": f"{chat.slug},{base.slug}"}).text
    assert languages()["et"].t("compare.words.none", n=0, total=0) in text


# ---- flipped documents


def flips(web: TestClient, task: str, **more: str) -> dict[str, Any]:
    found: dict[str, Any] = web.get("/vordlus.json", params=TWO | {"task": task, **more}).json()["flips"]
    return found


def values(world: World, task: str, metric: str) -> tuple[dict[str, float], dict[str, float]]:
    one, other = (Run(world.folder / world.runs[name]).samples(task) for name in ("alfa a", "beeta b"))
    a, b = ({s.doc_hash: s.values[metric] for s in part if s.error is None} for part in (one, other))
    return a, b


def test_flipped_documents_are_those_where_only_one_model_is_right(world: World, web: TestClient) -> None:
    a, b = values(world, "valik", "acc")
    wanted = {
        "": {doc for doc in a if a[doc] != b[doc]},
        "a": {doc for doc in a if a[doc] > b[doc]},
        "b": {doc for doc in a if a[doc] < b[doc]},
    }
    assert len(wanted[""]) > flipped.ROWS and wanted["a"] and wanted["b"]
    for side, docs in wanted.items():
        first = flips(web, "valik", side=side)
        pages = [flips(web, "valik", side=side, page=str(number)) for number in range(1, first["pages"] + 1)]
        shown = [row["doc"] for part in pages for row in part["documents"]]
        assert len(shown) == len(docs) and set(shown) == docs
        assert {doc: tuple(row["values"]) for part in pages for row in part["documents"] for doc in [row["doc"]]} == {
            doc: (a[doc], b[doc]) for doc in docs
        }
    counts = flips(web, "valik")["counts"]
    assert counts == {"all": len(wanted[""]), "first": len(wanted["a"]), "other": len(wanted["b"])}


def test_of_graded_metrics_the_largest_gaps_come_first(world: World, web: TestClient) -> None:
    a, b = values(world, "tekst", "osa")
    found = flips(web, "tekst")
    gaps = [abs(row["values"][0] - row["values"][1]) for row in found["documents"]]
    assert gaps == sorted((abs(a[doc] - b[doc]) for doc in a), reverse=True)[: len(gaps)]


def test_both_answers_the_gold_and_the_end_of_the_prompt_stand_side_by_side(world: World, web: TestClient) -> None:
    runs = [Run(world.folder / world.runs[name]) for name in ("alfa a", "beeta b")]
    row = flips(web, "tekst")["documents"][0]
    said = [next(r["text"] for r in run.responses("tekst") if r["doc_id"] == row["number"] - 1) for run in runs]
    plan = next(doc for doc in runs[0].plan("tekst") if doc.doc_hash == row["doc"])
    assert row["answers"] == said and row["prompt"] == plan.prompt and row["target"] == plan.target
    text = web.get("/en/compare", params=TWO | {"task": "tekst"}).text
    assert said[0] in text and str(plan.target) in text


def test_documents_of_withheld_tasks_are_in_no_form(world: World, web: TestClient) -> None:
    run = Run(world.folder / world.runs["beeta b"])
    hashes = [sample.doc_hash for task in ("salajane", "trivia_et") for sample in run.samples(task)]
    for path in ("/vordlus", "/en/compare"):
        for form in FORMS:
            for task in ("salajane", "trivia_et"):
                refused = web.get(path + form, params=TWO | {"task": task})
                assert refused.status_code == 403 and SECRET not in refused.text
            for more in ({}, {"task": "tekst"}, {"task": "valik"}):
                text = web.get(path + form, params=TWO | more).text
                assert SECRET not in text and not any(doc in text for doc in hashes), (form, more)
        assert OPEN in web.get(path, params=TWO | {"task": "tekst"}).text  # the control
        assert OPEN in web.get(f"{path}.json", params=TWO | {"task": "tekst"}).text
    assert ("salajane" in {name for _, name in results(web, TWO["m"])}) and "trivia_et" in web.get(
        "/vordlus.csv", params=TWO
    ).text  # their scores are compared nevertheless


def test_a_run_that_forbids_its_documents_is_not_shown(tmp_path: Path) -> None:
    world = make(tmp_path)
    add(world, "kinnine", fingerprint("9"), documents(3), day=2, publish={"tekst": False, "valik": True})
    closed = {"m": f"{ALFA},kinnine-99999999"}
    with client(world.database) as web:
        assert web.get("/vordlus", params=closed | {"task": "tekst"}).status_code == 403
        assert web.get("/vordlus", params=closed | {"task": "valik"}).status_code == 200
        assert web.get("/vordlus", params=TWO | {"task": "tekst"}).status_code == 200
    world.database.close()


# ---- the address


def test_fewer_than_two_models_lead_to_a_form_that_needs_no_script(web: TestClient) -> None:
    for params in ({}, {"m": ""}, {"m": ALFA}, {"m": f"{ALFA},{ALFA},alfa"}):
        text = web.get("/vordlus", params=params).text
        assert text.count('<select id="m') == 3 and '<form action="/vordlus" method="get">' in text
        assert (f'value="{ALFA}" selected' in text) == bool(params.get("m"))
    assert web.get("/vordlus.json").json()["pairs"] == []
    assert "gamma" not in text  # withdrawn


def test_models_are_named_with_commas_or_one_by_one_as_a_form_does(web: TestClient) -> None:
    wanted = web.get("/vordlus.json", params=TWO).json()
    for query in (f"m={ALFA}&m={BEETA}&m=", f"m={ALFA},%20{BEETA},", f"models={ALFA},{BEETA}", f"m={ALFA}&m=beeta"):
        assert web.get(f"/vordlus.json?{query}").json() == wanted, query


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"m": f"{ALFA},keegi"}, 404),
        ({"m": f"{ALFA},gamma"}, 410),
        ({"m": ",".join([ALFA, BEETA] * 60)}, 400),
        (TWO | {"task": "puudub"}, 404),
        (TWO | {"task": "tekst", "page": "0"}, 400),
        (TWO | {"task": "tekst", "page": "99"}, 400),
        (TWO | {"side": "c"}, 400),
        (TWO | {"with": DELTA}, 400),
        (TWO | {"with": BEETA, "task": "valik", "side": "b"}, 200),
    ],
)
def test_what_the_address_can_not_mean_is_refused(web: TestClient, params: dict[str, str], status: int) -> None:
    for form in FORMS:
        assert web.get(f"/vordlus{form}", params=params).status_code == status


def test_more_than_six_models_are_refused_and_six_are_not(board_world: Made) -> None:
    slugs = [model.slug for model in board_world.snapshot().boards["chat"].models.values() if model.ranked][:7]
    with client(board_world.database) as web:
        assert web.get("/vordlus.json", params={"m": ",".join(slugs)}).status_code == 400
        found = web.get("/vordlus.json", params={"m": ",".join(slugs[:6])}).json()
        assert [pair["other"] for pair in found["pairs"]] == slugs[1:6]
        picked = {"m": ",".join(slugs[:6]), "with": slugs[4]}
        assert slugs[4] in web.get("/vordlus", params=picked).text


def test_the_link_of_a_state_holds_all_of_it(web: TestClient) -> None:
    text = web.get("/vordlus", params=TWO | {"task": "valik", "side": "b"}).text
    assert f'href="/en/compare?m={ALFA},{BEETA}&amp;task=valik&amp;side=b"' in text
    assert f'href="/vordlus.csv?m={ALFA},{BEETA}&amp;task=valik&amp;side=b"' in text


def test_the_csv_has_a_line_for_each_result(web: TestClient) -> None:
    rows = list(csv.DictReader(io.StringIO(web.get("/en/compare.csv", params=TWO).text)))
    assert [row["kind"] for row in rows] == ["total", "skill", *["task"] * 4]
    assert float(rows[2]["difference"]) == results(web, TWO["m"])[BEETA, rows[2]["name"]]["difference"]


# ---- words


def words(pair: comparing.Pair, site: Site, code: str) -> dict[str, Any]:
    return page.words(site.request(code), pair)


def test_what_can_not_be_told_apart_comes_first_and_in_words(world: World) -> None:
    site, snapshot = Site(world.database), take(world.database)
    first, other = models(snapshot, ALFA, BEETA)
    (pair,) = comparing.of(world.database, snapshot, [first, other])
    unsure = [line.task for line in pair.lines if line.verdict == "open"]
    assert len(unsure) > 0
    found = words(pair, site, "et")
    assert found["lists"][0] == (languages()["et"].t("compare.words.apart"), unsure)
    key = "all" if len(unsure) == len(pair.lines) else "open"
    assert found["open"] == languages()["et"].t(f"compare.words.{key}", n=len(unsure), total=len(pair.lines))


def test_differences_have_their_sign_and_a_zero_has_none() -> None:
    et, en = languages()["et"], languages()["en"]
    assert page.signed(et, 0.0312, "proportion") == "+3,1" and page.signed(en, -0.0312, "proportion") == "−3.1"
    assert page.signed(et, -0.0001, "proportion") == "0,0" and page.signed(et, None, "points") == "–"
    assert page.p_value(et, 0.00001) == "<0,001" and page.p_value(en, 0.0406) == "0.041"


def test_names_from_outside_turn_no_words_round(board_world: Made) -> None:
    snapshot = board_world.snapshot()
    odd = [m for m in snapshot.boards["chat"].models.values() if "<" in m.name or "�" in m.name][:6]
    assert not any("\u202e" in model.name for model in snapshot.boards["chat"].models.values())
    assert len(odd) > 1
    with client(board_world.database) as web:
        for path in ("/vordlus", "/en/compare"):
            text = web.get(path, params={"m": ",".join(model.slug for model in odd)}).text
            assert "\u202e" not in text and "<script>alert" not in text and "<img src=x" not in text
            assert "&lt;script&gt;" in text
            assert 'style="' not in text
