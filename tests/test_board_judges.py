"""Judged scores on the board: the word on calibration wherever they are shown, what stands beside them, every vote on a
published document, no ranking across panels, and submissions whose judges nobody here can ask."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from estbench_leaderboard import board as boards
from estbench_leaderboard import judging, snapshot
from estbench_leaderboard.app import create
from estbench_leaderboard.downloads import make
from estbench_leaderboard.query import Query
from estbench_leaderboard.site import Site
from estbench_leaderboard.snapshot import take
from judge_server import JudgeServer
from judge_world import quality_of
from judged_board import HOSTILE, OPEN, OWN, World, doc_of, web, world
from starlette.testclient import TestClient
from submission_fixtures import Board, board, edit_json

from estbench import compare, evidence, judged, paper, report
from estbench.cli import main
from estbench.database import open_database, queries, rebuild
from estbench.errors import ConfigError
from estbench.interchange.every_eval_ever import export
from estbench.runs import Run, Score

__all__ = ["board", "web", "world"]  # fixtures

BOTH = {"kalibreerimata hindaja": "", "uncalibrated judge": "/en"}
Said = pytest.CaptureFixture[str]


# ---- the word, wherever a judged number is


def test_every_page_that_shows_a_judged_number_says_that_it_is_uncalibrated(world: World, web: TestClient) -> None:
    run, slug, other = world.runs["hea"].id, world.slug("hea"), world.slug("halb")
    for words, start in BOTH.items():
        model, task, of_run = ("/mudel", "/ulesanne", "/mootmine") if not start else ("/model", "/task", "/run")
        sample, versus = ("/vastus", "/vordlus") if not start else ("/sample", "/compare")
        tasks = "/ulesanded" if not start else "/tasks"
        pages = [
            f"{start}/?board=chat&view=tasks&tasks={OWN}",
            f"{start}{model}/{slug}",
            f"{start}{task}/{OWN}",
            f"{start}{of_run}/{run}",
            f"{start}{sample}/{run}/{doc_of(world)}/{OPEN}",
            f"{start}{versus}?m={slug},{other}",
            f"{start}{tasks}",
            f"{start}/badge/{slug}.svg",
            f"{start}/kaart/{slug}.svg",
        ]
        for page in pages:
            answer = web.get(page)
            assert answer.status_code == 200, page
            assert words in answer.text, page


def test_a_model_that_no_judge_judged_has_no_such_word(world: World, web: TestClient) -> None:
    """The negative control: neither its run nor its badge; the legend of the board alone explains the word."""
    assert "kalibreerimata" not in web.get(f"/mootmine/{world.runs['ootab'].id}").text
    assert "kalibreerimata" not in web.get(f"/badge/{world.slug('ootab')}.svg").text


def test_all_data_has_a_field_for_it(world: World, web: TestClient) -> None:
    run, slug = world.runs["hea"].id, world.slug("hea")
    rows = web.get(f"/index.json?board=chat&tasks={OWN}&all=yes").json()["rows"]
    found = {row["name"]: row["scores"][OWN]["judge"] for row in rows}
    assert found == {
        "qwen3-hea": "uncalibrated",
        "halb": "uncalibrated",
        "inimestega": "calibrated",
        "teisiti": "uncalibrated",
        "ootab": None,
    }
    assert {row["name"]: row["rank"] and row["rank"]["judge"] for row in rows}["qwen3-hea"] == "uncalibrated"
    model = web.get(f"/mudel/{slug}.json").json()
    tasks = {task["task"]: task for skill in model["boards"][0]["skills"] for task in skill["tasks"]}
    assert tasks[OWN]["judge"] == "uncalibrated" and model["boards"][0]["judge"] == "uncalibrated"
    scores = {row["metric"]: row["judge"] for row in web.get(f"/mootmine/{run}.json").json()["scores"]}
    assert scores["win_rate"] == scores["win_rate/position_consistency"] == "uncalibrated"
    assert scores["in_language"] is None
    sample = web.get(f"/vastus/{run}/{doc_of(world)}/{OPEN}.json").json()["scores"]
    assert {row["metric"]: row["judge"] for row in sample} == {"win_rate": "uncalibrated", "in_language": None}
    pair = web.get(f"/vordlus.json?m={slug},{world.slug('halb')}").json()["pairs"][0]["results"]
    assert {row["judge"] for row in pair} == {"uncalibrated"}


TABLES = (
    *("/index.csv?board=chat&view=tasks&all=yes", "/mudel/{slug}.csv", "/mootmine/{run}.csv", f"/ulesanne/{OWN}.csv"),
    *("/ulesanded.csv", "/vordlus.csv?m={slug},{other}"),
)


@pytest.mark.parametrize("page", TABLES)
def test_every_table_has_a_column_for_it(world: World, web: TestClient, page: str) -> None:
    names = {"slug": world.slug("hea"), "other": world.slug("halb"), "run": world.runs["hea"].id}
    rows = list(csv.DictReader(io.StringIO(web.get(page.format(**names)).text)))
    columns = [key for key in rows[0] if key == "judge" or key.endswith("_judge")]
    assert "uncalibrated" in {row[key] for row in rows for key in columns}


def test_the_api_says_it_with_every_score(world: World, web: TestClient) -> None:
    rows = web.get(f"/api/v1/scores?run={world.runs['inimestega'].id}&limit=500").json()["rows"]
    states = {(row["task"], row["metric"]): row["judge"] for row in rows}
    assert states[OWN, "win_rate"] == "calibrated" and states[OPEN, "win_rate"] == "uncalibrated"
    assert states[OWN, "in_language"] is None
    model = web.get(f"/api/v1/models/{world.slug('hea')}").json()
    assert model["scores"][OWN]["judge"] == model["rank"]["judge"] == "uncalibrated"
    log = web.get(f"/api/v1/runs/{world.runs['hea'].id}/eee.json").json()
    details = [row["score_details"]["details"] for row in log["evaluation_results"]]
    assert {row.get("judge") for row in details} == {None, "uncalibrated"}
    assert "judge" not in web.get(f"/api/v1/tasks/{OWN}").json()["card"]


def test_a_cell_of_the_board_has_a_mark_and_the_page_a_note(world: World, web: TestClient) -> None:
    page = web.get(f"/?board=chat&view=tasks&tasks={OWN}").text
    assert 'title="Tulemuse andsid hindajamudelid' in page and "* Kalibreerimata hindaja:" in page
    assert "° Kalibreeritud hindaja:" in page and "Arvesse läksid ka kalibreerimata hindaja" in page


def test_figures_say_it_too(world: World, web: TestClient) -> None:
    slug, other = world.slug("hea"), world.slug("halb")
    assert "uncalibrated judge" in web.get(f"/en/joonis/forest.svg?m={slug},{other}").text
    assert judging.named(lambda key: key, "x", None) == "x"


def test_estbenchs_own_tables_say_it(world: World, capsys: Said, tmp_path: Path) -> None:
    one, other = world.runs["hea"], world.runs["halb"]
    report.show(report.scores_table([score for score in one.scores() if score.task == OWN]))
    said = capsys.readouterr().out
    assert "win_rate (uncalibrated)" in said and "in_language (" not in said
    assert {row["judge"] for row in report.run_json(one)["scores"]} == {None, "uncalibrated"}
    assert main(["compare", str(one.path), str(other.path), f"tasks={OWN}", "output=table"]) == 0
    assert "win_rate (uncalibrated)" in capsys.readouterr().out
    assert main(["compare", str(one.path), str(other.path), "output=json"]) == 0
    assert {row["judge"] for row in json.loads(capsys.readouterr().out)["tasks"]} == {"uncalibrated"}
    table = paper.table([evidence.of_run(one), evidence.of_run(world.runs["ootab"])], [OWN])
    for write in (paper.as_latex, paper.as_markdown, paper.as_csv):
        assert "uncalibrated judges" in write(table) and "awaiting judge" in write(table)
    states = [row["judge"] for row in paper.as_json(table)["scores"]]
    assert states == ["uncalibrated", None]
    log = json.loads(export(one, tmp_path)[0].read_text("utf-8"))
    found = [
        row["score_details"]["details"]
        for row in log["evaluation_results"]
        if "judge" in row["score_details"]["details"]
    ]
    assert found and all(json.loads(row["rubric"])["name"] and "position_consistency" in row["beside"] for row in found)
    assert "127.0.0.1" not in json.dumps(log)


# ---- what stands beside a number


def test_beside_a_judged_number_stands_what_its_judges_may_have_done(world: World, web: TestClient) -> None:
    run, slug = world.runs["hea"], world.slug("hea")
    for address in (f"/mudel/{slug}.json", f"/mootmine/{run.id}.json", f"/ulesanne/{OWN}.json"):
        rows = [row for row in web.get(address).json()["judged"] if row["run"] == run.id and row["task"] == OWN]
        [row] = rows
        own = {score.metric: score.value for score in run.scores() if score.task == OWN}
        assert row["score"]["value"] == own["win_rate"] and row["judge"] == "uncalibrated"
        assert row["beside"]["position_consistency"]["value"] == own["win_rate/position_consistency"]
        assert row["rubric"].startswith("helpfulness 1 ") and row["anchor"].startswith("set ")
        assert len(row["bounds"]) == 2 and row["score"]["n_planned"] == 8
        names = {one["name"]: one for one in row["judges"]}
        assert names["qwen3-7b"]["kin"] and not names["judge"]["kin"]
        assert 0 < names["judge"]["valid"] == names["judge"]["cases"] and "without_kin" in row["beside"]
    for start, title in (("/mudel", "Hindajate töö"), ("/en/model", "What the judges did")):
        page = web.get(f"{start}/{slug}").text
        assert title in page and "qwen3-7b" in page and "helpfulness 1" in page


def test_a_score_that_people_corrected_shows_both_numbers(world: World, web: TestClient) -> None:
    rows = web.get(f"/mudel/{world.slug('inimestega')}.json").json()["judged"]
    [row] = [row for row in rows if row["task"] == OWN]
    assert row["judge"] == "calibrated" and row["beside"]["corrected"]["value"] == 0.625
    assert "62,5" in web.get(f"/mudel/{world.slug('inimestega')}").text


def test_where_judges_answer_is_nobody_elses_business(world: World, web: TestClient, tmp_path: Path) -> None:
    run = world.runs["hea"]
    assert "http://127.0.0.1" in json.dumps(run.manifest["tasks"][OWN]["judge"])  # the control
    for address in (f"/mootmine/{run.id}.json", f"/api/v1/runs/{run.id}", f"/api/v1/runs/{run.id}/eee.json"):
        assert "127.0.0.1" not in web.get(address).text, address
    copy = make(world.database, take(world.database), tmp_path / "public.sqlite")
    assert b"127.0.0.1" not in copy.read_bytes()


@pytest.mark.parametrize("card", [None, [], 7, {"layers": 3}, {"layers": [3, {"metric": "win_rate"}]},
    {"layers": [{"metric": "win_rate", "judges": [{"faults": [{"name": "position"}, {"words": HOSTILE}], "cases": "x"}],
                 "bounds": ["a", None], "rubric": 1, "anchor": "x", "without_call": [1]}]}])  # fmt: skip
def test_a_card_that_is_not_as_judges_write_it_breaks_no_page(world: World, web: TestClient, card: Any) -> None:
    request = Site(world.database).request("et")
    run = world.runs["hea"].id
    own = {"win_rate": next(s for s in world.runs["hea"].scores() if s.task == OWN and s.primary)}
    place = judging.Place(run, OWN, "x", "/")
    for layer in judging._list(judging._part({"judge": card}, "judge"), "layers"):
        number = judging._number(request, place, layer, own["win_rate"], "uncalibrated", own)
        assert number.bounds is None and "<script>" not in str([one.missing for one in number.judges])


# ---- votes on a document


def test_every_vote_on_a_published_document_is_shown_with_its_order_and_reason(world: World, web: TestClient) -> None:
    run, doc = world.runs["hea"], doc_of(world)
    votes = web.get(f"/vastus/{run.id}/{doc}/{OPEN}.json").json()["votes"]
    assert len(votes) == 4 and {vote["first"] for vote in votes} == {"model", "anchor"}
    assert votes[0]["reason"] == HOSTILE and votes[1]["missing"] == "invalid JSON" and "vote" not in votes[1]
    assert {vote["judge"] for vote in votes[2:]} == {"qwen3-7b"} and {vote["rubric"] for vote in votes} == {
        "helpfulness"
    }
    assert "calls" not in json.dumps(votes)
    assert web.get(f"/api/v1/runs/{run.id}/samples/{doc}?task={OPEN}").json()["votes"] == votes
    for start, order in (
        ("/vastus", "ees seisis mudeli vastus"),
        ("/en/sample", "the anchor&#39;s answer stood first"),
    ):
        page = web.get(f"{start}/{run.id}/{doc}/{OPEN}").text
        assert order in page and "invalid JSON" in page and "qwen3-7b" in page


def test_what_a_judge_wrote_is_text_and_never_html(world: World, web: TestClient) -> None:
    page = web.get(f"/vastus/{world.runs['hea'].id}/{doc_of(world)}/{OPEN}").text
    assert "&lt;script&gt;alert(&#39;põhjus&#39;)" in page and "[U+202E]" in page
    assert "<script>alert" not in page and "\u202e" not in page


def test_votes_on_documents_that_are_not_published_are_on_no_page(
    world: World, web: TestClient, tmp_path: Path
) -> None:
    run = world.runs["hea"]
    doc = next(iter(run.samples(OWN))).doc_hash
    for address in (f"/vastus/{run.id}/{doc}/{OWN}", f"/vastus/{run.id}/{doc}/{OWN}.json"):
        assert web.get(address).status_code == 403
    assert web.get(f"/api/v1/runs/{run.id}/samples/{doc}?task={OWN}").status_code == 403


def test_the_public_copy_has_votes_of_published_documents_only(world: World, tmp_path: Path) -> None:
    run = world.runs["hea"]
    copy = make(world.database, take(world.database), tmp_path / "public.sqlite")
    with open_database(f"sqlite:///{copy}") as database, TestClient(create(Site(database))) as web:
        votes = web.get(f"/vastus/{run.id}/{doc_of(world)}/{OPEN}.json").json()["votes"]
        assert len(votes) == 4 and votes[0]["reason"] == HOSTILE
        doc = next(iter(run.samples(OWN))).doc_hash
        assert web.get(f"/vastus/{run.id}/{doc}/{OWN}").status_code in (403, 404)
        assert web.get(f"/mudel/{world.slug('hea')}.json").json()["judged"]


def test_the_index_takes_votes_of_layers_that_count_and_opens_no_other_file(world: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.runs["hea"].path, tmp_path / "run"))
    [secret] = (folder / "judgments").glob(f"{OWN}.helpfulness.*.gz")
    (folder / "judgments" / f"{OPEN}.helpfulness.pairwise.jsonl.gz").unlink()
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["tasks"][OPEN]["judge"]["layers"] = [
        {"rubric": {"name": f"x/../../{secret.name.removesuffix('.pairwise.jsonl.gz')}"}, "mode": "pairwise"},
        {"rubric": None, "mode": 3},
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with open_database(f"sqlite:///{tmp_path / 'x.db'}") as database:
        assert rebuild(database, [folder]) == {}
        found = queries.sample(database, Run(folder).id, OPEN, doc_of(world))
        assert judging.votes(found.responses) == []
        own = queries.sample(database, Run(folder).id, OWN, next(iter(Run(folder).samples(OWN))).doc_hash)
        assert judging.votes(own.responses)  # the control: a layer that counts


# ---- who may be ranked with whom


def test_models_of_other_panels_are_shown_and_not_ranked(world: World) -> None:
    found = boards.page(take(world.database), Query.read({"board": "chat", "tasks": OWN, "all": "yes"}))
    reasons = {row.model.name: row.cells[OWN].reason for row in found.every}
    assert reasons == {
        "qwen3-hea": None,
        "halb": None,
        "inimestega": None,  # with people's votes behind it, by the same judges
        "teisiti": "other_judges",
        "ootab": "awaiting_judge",
    }
    ranked = [row.model.name for row in found.every if row.ranked and OWN not in row.ranked.missing]
    assert ranked == ["qwen3-hea", "inimestega", "halb"]


def test_the_yardstick_is_that_of_most_models_and_not_of_the_newest_run(world: World) -> None:
    task = take(world.database).boards["chat"].tasks[OWN]
    assert task.judges is not None and "judge+qwen3-7b" in task.judges and "calibrated" not in task.judges


def test_a_comparison_across_panels_has_no_verdict(world: World, web: TestClient) -> None:
    a, b = (evidence.of_run(world.runs[name]) for name in ("hea", "teisiti"))
    assert {(one.kind, one.task) for one in compare.problems(a, b, [OWN])} == {("judges", OWN)}
    same = evidence.of_run(world.runs["inimestega"])
    assert compare.problems(a, same, [OWN]) == []  # the control: the word on calibration makes no other yardstick
    pair = web.get(f"/vordlus.json?m={world.slug('hea')},{world.slug('teisiti')}").json()["pairs"][0]
    verdicts = {row["name"]: row["verdict"] for row in pair["results"] if row["kind"] == "task"}
    assert verdicts[OWN] == "incomparable"
    page = web.get(f"/vordlus?m={world.slug('hea')},{world.slug('teisiti')}").text
    assert "Hinnanud on teised hindajad" in page
    table = paper.table([a, evidence.of_run(world.runs["halb"]), b], [OWN])
    assert not table.columns[0].cells[2].alike and "judged by" in " ".join(table.columns[0].cells[2].notes)


def test_a_few_missing_verdicts_cost_no_model_its_place(world: World, tmp_path: Path) -> None:
    """Models are then compared on the documents that have a verdict in all of them; with many missing it is partial."""
    task = take(world.database).boards["chat"].tasks[OWN]
    score = next(s for s in world.runs["hea"].scores() if s.task == OWN and s.primary)

    card = {"data": {"hash": task.version[0]}, "scorer": task.version[1]}
    row = SimpleNamespace(run_id="x", docs=task.docs, asked=task.asked, n=320, n_planned=320, n_docs=320, card=card)
    row.shots, row.primary_metric = task.version[2:]
    few, many = (
        dataclasses.replace(score, n=int(320 * share)) for share in (snapshot.VERDICTS + 0.01, snapshot.VERDICTS - 0.05)
    )
    reasons = [snapshot._cell(row, one, task, None).reason for one in (few, many)]
    assert reasons == [None, "partial"]


def test_awaiting_a_judge_is_a_reason_of_its_own_on_every_page(world: World, web: TestClient) -> None:
    page = web.get(f"/?board=chat&tasks={OWN}&all=yes").text
    assert "hindajat alles oodatakse" in page
    assert "awaiting judge" in web.get(f"/mootmine/{world.runs['ootab'].id}").text
    assert web.get(f"/mudel/{world.slug('ootab')}").status_code == 200


# ---- submissions


def sent(world: World, home: Path, name: str) -> Run:
    """A run of the world as somebody sends it."""
    return Run(shutil.copytree(world.runs[name].path, home / "runs" / world.runs[name].id))


def test_a_run_that_awaits_a_judge_can_be_sent_and_awaits_one_here(world: World, board: Board, home: Path) -> None:
    run = sent(world, home, "ootab")
    board.send(run)
    done = board.rescore()
    assert done is not None and (done.state, done.reason) == ("rescored", None)
    built = Run(board.folder / "runs" / run.id)
    assert judged.awaiting(built) == [OPEN]
    mine, theirs = ({s.metric: s.value for s in one.scores() if s.task == OPEN} for one in (run, built))
    assert mine == theirs and theirs["in_language"] is not None
    assert list(built.responses(OPEN)) == list(run.responses(OPEN))  # both turns
    with JudgeServer(quality_of) as judge:  # the operators' own
        words = [f"run={built.path}", f"task={OPEN}", f"judge=judge@{judge.url}", "output=json"]
        assert main(["judge", *words]) == 0
    shutil.rmtree(run.path)  # the sender's folder is on another machine
    assert main(["runs", "import", str(built.path)]) == 0
    with open_database(None) as database:
        [row] = queries.scores(database, runs=[run.id], tasks=[OPEN], primary=True)
    assert row.score.value is not None and judged.state(row.score) == "uncalibrated"


def test_what_the_senders_judges_said_stays_a_claim(world: World, board: Board, home: Path) -> None:
    run = sent(world, home, "hea")
    packed = board.pack(run)
    assert b"judgments" not in gzip.decompress(packed.path.read_bytes())
    board.take(packed)
    done = board.rescore()
    assert done is not None and (done.state, done.reason) == ("rescored", None)
    assert done.report is not None and "identical" not in done.report
    claimed = {(row["task"], row["metric"]): row for row in done.report["as_submitted"]}
    own = next(s for s in run.scores() if s.task == OPEN and s.primary)
    row = claimed[OPEN, "win_rate"]
    assert (row["value"], row["judge"]) == (own.value, "uncalibrated") and "sender's judges" in row["by"]
    built = Run(board.folder / "runs" / run.id)
    assert judged.awaiting(built) == [OPEN] and not any(judged.state(score) for score in built.scores())
    rows = queries.scores(board.database, runs=[run.id], tasks=[OPEN], primary=True)
    assert [one.score.value for one in rows] == [None]


def test_a_claim_about_anything_else_of_a_judged_task_is_still_checked(world: World, board: Board, home: Path) -> None:
    run = sent(world, home, "hea")

    def better(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        next(row for row in rows if (row["task"], row["metric"]) == (OPEN, "in_language"))["value"] -= 0.25
        return rows

    edit_json(run.path / "scores.json", better)
    board.send(run)
    done = board.rescore()
    assert done is not None and done.state == "rejected" and "in_language" in (done.reason or "")


@pytest.mark.parametrize(
    "change",
    [
        {"value": 1.2},
        {"value": -0.1},
        {"ci_high": 1.5},
        {"unit": "points"},
        {"n": 9},
        {"signature": None},
        {"signature": "nrefs:1"},
        {"metric": "in_language"},
    ],
)
def test_a_judged_score_that_is_none_can_not_be_sent(
    world: World, board: Board, home: Path, change: dict[str, Any]
) -> None:
    run = sent(world, home, "hea")

    def spoilt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        next(row for row in rows if (row["task"], row["metric"]) == (OPEN, "win_rate")).update(change)
        return rows

    edit_json(run.path / "scores.json", spoilt)
    with pytest.raises(ConfigError, match="score of judges that is none"):
        board.send(run)


def test_a_bias_may_be_below_zero(world: World, board: Board, home: Path) -> None:
    run = sent(world, home, "hea")

    def biased(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        row = next(row for row in rows if (row["task"], row["metric"]) == (OPEN, "win_rate/first_position_bias"))
        row.update(value=-0.5, ci_low=-0.7, ci_high=-0.2)
        return rows

    edit_json(run.path / "scores.json", biased)
    assert board.send(run).state == "received"


def test_states_of_several_scores_are_the_weakest() -> None:
    ends = (0.5, 0.4, 0.6, 8, 8, None, 0, 0, "proportion", True, True, "t")
    scores = [Score("t", "win_rate", *ends, signature=f"judge:x|{state}") for state in ("calibrated", "uncalibrated")]
    other = Score("t", "acc", *ends)
    assert report.judge_of([other, None]) is None and report.judge_of([scores[0], other]) == "calibrated"
    assert report.judge_of([*scores, other]) == "uncalibrated"
    assert (
        compare.judged_by(scores[0]) == compare.judged_by(scores[1]) == "judge:x" and compare.judged_by(other) is None
    )
