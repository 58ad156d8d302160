"""Submissions end to end: push, receive, rescore, audit, publish; and what each badge can be had for."""

from __future__ import annotations

import json
import os
import stat
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from estbench_leaderboard import push as pushing
from estbench_leaderboard.submissions import audit as auditing
from estbench_leaderboard.submissions import moderation, rescoring
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.recompute import Sources
from estbench_leaderboard.submissions.rescoring import rescore_next
from estbench_leaderboard.submissions.settings import PushSettings
from sqlalchemy import update
from submission_fixtures import Board, Live, board, copied, edit_json, live, made_of_golds, measured, rewrite

from estbench import config, runner
from estbench.config import EvalSettings
from estbench.database import index_run, queries, schema
from estbench.errors import ConfigError, DataError, MissingPartError
from estbench.runs import Run

__all__ = ["board", "live"]  # fixtures


def settings(**words: Any) -> PushSettings:
    return config.read([f"{key}={value}" for key, value in words.items()], PushSettings)


def demo() -> EvalSettings:
    return EvalSettings(model="demo", name="audit")


# ---- the whole way


def test_a_run_goes_from_push_to_publication(
    live: Live, demo_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESTBENCH_TOKEN", live.board.text)
    assert pushing.push(settings(run=demo_run.path, url=live.url, output="json")) == 0
    sent = json.loads(capsys.readouterr().out)
    assert sent["sent"] and sent["state"] == "received" and sent["url"].endswith(sent["submission"])
    assert fetched(sent["url"]).keys() == {"id", "state", "created", "updated"}  # nothing else before it is shown
    done = live.board.rescore()
    assert done is not None and (done.state, done.badge, done.reason) == ("rescored", "rescored", None)
    assert (done.report or {})["identical"] is True
    moderation.publish(live.board.database, sent["submission"], "Mari")
    shown = fetched(sent["url"])
    assert shown["state"] == "published" and shown["submitter"] == "Saatja" and shown["badge"] == "rescored"
    assert queries.scores(live.board.database, runs=[demo_run.id])
    assert "saatja@example.ee" not in json.dumps(shown)


def fetched(url: str, token: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return json.loads(answer.read())


def test_the_servers_run_is_the_senders_run_to_the_last_hash(board: Board, demo_run: Run) -> None:
    board.send(demo_run)
    board.rescore()
    made = Run(board.folder / "runs" / demo_run.id)
    assert made.manifest["identity"]["result"] == demo_run.manifest["identity"]["result"]
    for task in demo_run.tasks:
        assert list(made.samples(task)) == list(demo_run.samples(task))
        assert list(made.responses(task)) == list(demo_run.responses(task))
    assert made.scores() == demo_run.scores()
    assert "/" not in (made.manifest["model"]["path"] or "")


# ---- what is refused when it is computed again


def claimed_higher(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    row = next(row for row in scores if (row["task"], row["metric"]) == ("mini_qa", "em"))
    row["value"] += 0.05
    return scores


def test_a_claim_that_the_answers_do_not_give_is_rejected_with_both_values(
    board: Board, demo_run: Run, tmp_path: Path
) -> None:
    forged = copied(demo_run, tmp_path)
    own = next(score.value for score in demo_run.scores() if (score.task, score.metric) == ("mini_qa", "em"))
    edit_json(forged.path / "scores.json", claimed_higher)
    board.send(Run(forged.path))
    done = board.rescore()
    assert done is not None and done.state == "rejected" and done.badge == "claimed" and own is not None
    assert done.reason == f"mini_qa, em: {own + 0.05:.10g} was claimed, and the answers give {own:.10g}."
    assert not queries.runs(board.database)  # nothing of it is in the index


def drop_worst(run: Run) -> None:
    """Leave out the documents that were answered wrongly."""
    wrong = {sample.doc_id for sample in run.samples("mini_copa") if not sample.values["acc"]}
    import gzip

    for part in ("responses", "plan", "samples"):
        path = run.path / part / "mini_copa.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            kept = [line for line in lines if json.loads(line)["doc_id"] not in wrong]
        with gzip.open(path, "wt", encoding="utf-8") as out:
            out.writelines(kept)


def test_documents_can_not_be_chosen(board: Board, demo_run: Run, tmp_path: Path) -> None:
    forged = copied(demo_run, tmp_path)
    drop_worst(forged)
    board.send(forged)
    done = board.rescore()
    assert done is not None and done.state == "rejected" and "have no answer" in (done.reason or "")


def test_other_words_than_the_boards_are_rejected(board: Board, demo_run: Run, tmp_path: Path) -> None:
    forged = copied(demo_run, tmp_path)
    rewrite(forged, "plan", "mini_qa", lambda row: row | {"asked": "0" * 32})
    board.send(forged)
    done = board.rescore()
    assert done is not None and done.state == "rejected" and "asked in other words" in (done.reason or "")


def test_one_question_can_not_have_two_answers(board: Board, demo_run: Run, tmp_path: Path) -> None:
    forged = copied(demo_run, tmp_path)
    rewrite(forged, "responses", "mini_qa", lambda row: row | {"key": "ab" * 16, "text": f" {row['doc_id']}"})
    board.send(forged)
    done = board.rescore()
    assert done is not None and "has two answers" in (done.reason or "")


def test_a_task_that_the_board_lacks_is_left_claimed_and_said(board: Board, demo_run: Run, tmp_path: Path) -> None:
    odd = copied(demo_run, tmp_path)
    for part in ("responses", "plan", "samples"):
        (odd.path / part / "mini_qa.jsonl.gz").rename(odd.path / part / "foreign_qa.jsonl.gz")
    edit_json(
        odd.path / "manifest.json",
        lambda found: (
            found | {"tasks": {key.replace("mini_qa", "foreign_qa"): row for key, row in found["tasks"].items()}}
        ),
    )
    edit_json(
        odd.path / "scores.json",
        lambda rows: [row | {"task": row["task"].replace("mini_qa", "foreign_qa")} for row in rows],
    )
    board.send(Run(odd.path))
    done = board.rescore()
    assert done is not None and done.state == "rescored"
    assert (done.report or {})["tasks"]["foreign_qa"] == {
        "state": "claimed",
        "reason": "this board has no task of that name",
    }
    assert {row["task"] for row in (done.report or {})["as_submitted"]} == {"foreign_qa"}
    assert "foreign_qa" not in {row.score.task for row in queries.scores(board.database, runs=[demo_run.id])}


def test_comet_scores_stay_as_submitted(board: Board, demo_run: Run, tmp_path: Path) -> None:
    with_comet = copied(demo_run, tmp_path)
    row = json.loads((demo_run.path / "scores.json").read_text())[0]
    row |= {"task": "mini_translate_en_et", "metric": "comet", "value": 0.8}
    entry = {"signature": "comet|model:x", "scores": [row], "values": {}}
    (with_comet.path / "comet.json").write_text(json.dumps({"schema": 1, "run": with_comet.id, "entries": [entry]}))
    board.send(with_comet)
    done = board.rescore()
    assert done is not None and done.state == "rescored"
    assert (done.report or {})["as_submitted"] == [
        {"task": "mini_translate_en_et", "metric": "comet|model:x", "value": 0.8}
    ]


# ---- whose model it is


def test_nobody_renames_a_model_that_others_measured(board: Board, demo_run: Run, tmp_path: Path) -> None:
    """Fingerprints are claimed: a submission under the operators' own must not change what their model is called."""
    other = copied(demo_run, tmp_path / "ours")
    edit_json(
        other.path / "manifest.json",
        lambda found: (
            found
            | {"run": "ours-1", "name": "Meie mudel", "model": found["model"] | {"name": "Meie mudel"}}
            | {"created": "2026-01-01T00:00:00+00:00"}
        ),  # theirs is the newer run, which names its model
    )
    index_run(board.database, Run(other.path))
    forged = copied(demo_run, tmp_path / "theirs")
    edit_json(
        forged.path / "manifest.json",
        lambda found: found | {"name": "<b>rämps</b>", "model": found["model"] | {"name": "<b>rämps</b>"}},
    )
    board.send(Run(forged.path))
    done = board.rescore()
    assert done is not None and done.state == "rescored"
    assert {row.model for row in queries.runs(board.database)} == {"Meie mudel"}


def test_a_run_of_the_board_can_not_be_sent_over(board: Board, demo_run: Run) -> None:
    index_run(board.database, demo_run)
    with pytest.raises(Refused, match="is on the board already"):
        board.send(demo_run)


@pytest.mark.parametrize("end", ["reject", "withdraw"])
def test_nor_by_somebody_who_sent_its_id_before(board: Board, demo_run: Run, end: str) -> None:
    first = board.send(demo_run)
    if end == "reject":
        moderation.reject(board.database, first.id, "Mari", "vale mudel")
    else:
        moderation.withdraw(board.database, first.id, "Saatja", "katse", board.folder)
    index_run(board.database, demo_run)
    with pytest.raises(Refused, match="is on the board already") as caught:
        board.send(demo_run)
    assert caught.value.status == 409


def test_a_run_that_the_operators_measured_while_it_waited_stays_theirs(board: Board, demo_run: Run) -> None:
    board.send(demo_run)
    index_run(board.database, demo_run)
    done = board.rescore()
    assert done is not None and done.state == "rejected" and "is on the board already" in (done.reason or "")
    assert "submission" not in queries.manifest(board.database, demo_run.id)
    assert not (board.folder / "runs" / demo_run.id).exists()


def test_a_run_that_the_operators_measure_while_it_is_rescored_stays_theirs(
    board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.send(demo_run)
    real = rescoring.rebuild

    def measured(*given: Any) -> Run:
        index_run(board.database, demo_run)
        return real(*given)

    monkeypatch.setattr(rescoring, "rebuild", measured)
    done = board.rescore()
    assert done is not None and done.state == "rejected"
    assert "submission" not in queries.manifest(board.database, demo_run.id)
    assert not (board.folder / "runs" / demo_run.id).exists()


# ---- a worker that survives


@pytest.mark.parametrize("place", ["_check_free", "index_run"])
def test_what_was_withdrawn_meanwhile_leaves_nothing_and_the_worker_goes_on(
    board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    identity = board.send(demo_run).id
    real = getattr(rescoring, place)

    def withdrawn(*given: Any) -> None:
        if moderation.find(board.database, identity).state == "received":
            moderation.withdraw(board.database, identity, "Saatja", "katse", board.folder)
        real(*given)

    monkeypatch.setattr(rescoring, place, withdrawn)
    done = board.rescore()
    assert done is not None and done.state == "withdrawn"
    assert queries.runs(board.database) == [] and board.stored() == []
    assert board.rescore() is None


def test_a_submission_that_breaks_the_worker_does_not_keep_the_others(
    board: Board, demo_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = board.send(demo_run).id
    other = copied(demo_run, tmp_path)
    edit_json(other.path / "manifest.json", lambda found: found | {"run": "demo-2"})
    good = board.send(Run(other.path)).id
    real = rescoring.index_run

    def breaks(database: Any, run: Run) -> None:
        if run.id == demo_run.id:
            raise RuntimeError("the golds are B, C, A")
        real(database, run)

    monkeypatch.setattr(rescoring, "index_run", breaks)
    first = board.rescore(lease=30)
    assert first is not None and (first.id, first.state) == (poison, "received")
    second = board.rescore()
    assert second is not None and (second.id, second.state) == (good, "rescored")
    assert board.rescore() is None  # the lease is a pause
    for _ in range(rescoring.TRIES - 1):
        with board.database.write() as connection:
            connection.execute(update(schema.submissions).values(lease=None))
        last = board.rescore()
    assert last is not None and (last.id, last.state, last.reason) == (poison, "rejected", rescoring.NEUTRAL)
    assert [row.id for row in queries.runs(board.database)] == ["demo-2"]
    assert not (board.folder / "runs" / demo_run.id).exists()


# ---- audits


@pytest.fixture(scope="session")
def whole_run(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of every document: only such are audited."""
    return measured(tmp_path_factory.mktemp("whole-run"))


@pytest.mark.slow
def test_an_honest_run_is_audited_and_one_made_of_golds_never_is(board: Board, whole_run: Run, tmp_path: Path) -> None:
    demo_run = whole_run
    honest = board.send(demo_run)
    board.rescore()
    found = auditing.audit(board.database, board.folder, honest.id, demo(), Sources(), actor="Mari")
    assert found["passed"], found["reasons"]
    assert moderation.find(board.database, honest.id).badge == "audited"
    assert {row["docs"] for row in found["tasks"].values()} == {50}
    assert found["shares"] == {"agree": 1.0, "texts": 1.0}
    assert found["tasks"]["mini_qa"]["texts"] == 50 and found["tasks"]["mini_copa"]["generated"] == 0
    moderation.withdraw(board.database, honest.id, "Saatja", "katse", board.folder)

    forged = board.send(made_of_golds(demo_run, tmp_path))
    done = board.rescore()
    assert done is not None and (done.state, done.badge) == ("rescored", "rescored")  # its arithmetic is right
    perfect = {row.score.metric: row.score.value for row in queries.scores(board.database, primary=True)}
    assert perfect["acc"] == 1.0 and perfect["em"] == 1.0
    for _ in range(3):
        found = auditing.audit(board.database, board.folder, forged.id, demo(), Sources(), actor="Mari")
        assert not found["passed"] and any("documents agree" in reason for reason in found["reasons"])
        assert moderation.find(board.database, forged.id).badge == "rescored"


def test_a_run_of_a_part_is_not_audited(board: Board, demo_run: Run) -> None:
    sent = board.send(demo_run)
    board.rescore()
    with pytest.raises(ConfigError, match="only whole runs are audited"):
        auditing.audit(board.database, board.folder, sent.id, demo(), Sources(), actor="Mari")
    assert "audits" not in (moderation.find(board.database, sent.id).report or {})


@pytest.mark.slow
def test_too_few_documents_audit_nothing(board: Board, whole_run: Run) -> None:
    sent = board.send(whole_run)
    board.rescore()
    few = auditing.Demands(docs=9)  # of each of three tasks
    with pytest.raises(ConfigError, match="27 documents are too few"):
        auditing.audit(board.database, board.folder, sent.id, demo(), Sources(), actor="Mari", demands=few)


def counts(docs: int = 50, **more: int) -> dict[str, Any]:
    return {"docs": docs, "agree": docs, "generated": docs, "texts": docs, "sampled": False, **more}


def test_golds_do_not_pass_for_a_model_that_is_nearly_always_right() -> None:
    """It answers 95 in 100 right, in its own words: two of 50 are scored otherwise, and no text is its."""
    demands = auditing.Demands()
    golds = {"qa": counts(agree=48, texts=0)}
    assert auditing.judge(golds, 2, 0, demands) == ["qa: 0 of 50 answers are the same text"]
    assert auditing.judge({"qa": counts(agree=48, texts=39)}, 2, 0, demands)
    terse = {f"qa-{i}": counts(agree=48, texts=48) for i in range(5)}  # its right answers are the golds' very words
    assert auditing.judge(terse, 10, 0, demands) == [
        "10 answers are scored higher than those that the model gives now, and 0 lower"
    ]


def test_an_honest_run_on_another_machine_passes() -> None:
    """A few greedy answers take another way there, for better and for worse; log-likelihoods are no texts."""
    found = {"qa": counts(agree=48, texts=41), "copa": counts(agree=50, generated=0, texts=0)}
    assert auditing.judge(found, 1, 1, auditing.Demands()) == []


@pytest.mark.slow
def test_other_weights_than_the_manifests_audit_nothing(board: Board, whole_run: Run, demo_base_model: Path) -> None:
    sent = board.send(whole_run)
    board.rescore()
    other = EvalSettings(model="demo-base", name="audit")
    with pytest.raises(ConfigError, match="is not the model of this submission"):
        auditing.audit(board.database, board.folder, sent.id, other, Sources(), actor="Mari")
    after = moderation.find(board.database, sent.id)
    assert after.badge == "rescored" and "audits" not in (after.report or {})


@pytest.mark.slow
def test_a_model_behind_an_endpoint_is_asked_there_again(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stub_endpoint import Endpoint, Words

    monkeypatch.setattr(auditing, "LEAST", 1)  # the sample of its data is small

    sources = Sources(data=Path("samples"))

    def ask(url: str) -> EvalSettings:
        options = {"url": url, "model": "stub"}
        return EvalSettings(engine="openai", engine_options=options, tasks="estqa_chat", data="samples", name="audit")

    def audited(identity: str, url: str) -> dict[str, Any]:
        return auditing.audit(board.database, board.folder, identity, ask(url), sources, actor="Mari")

    with Endpoint(Words(lambda prompt: f"Vastus: {len(prompt)}")) as endpoint:
        run = runner.evaluate(runner.prepare(ask(endpoint.url)))
        honest = board.send(run)
        assert rescore_next(board.database, board.folder, sources) is not None
        with Endpoint(Words(lambda prompt: "ei tea")) as elsewhere:
            url = elsewhere.url
            with pytest.raises(ConfigError, match="is not the model of this submission"):
                audited(honest.id, url)
        assert audited(honest.id, endpoint.url)["passed"]
        moderation.withdraw(board.database, honest.id, "Saatja", "katse", board.folder)
        forged = board.send(made_of_golds(run, tmp_path / "forged", sources))
        done = rescore_next(board.database, board.folder, sources)
        assert done is not None and done.state == "rescored", done.reason
        assert not audited(forged.id, endpoint.url)["passed"]


def test_answers_that_are_better_than_the_models_own_are_noticed() -> None:
    assert auditing.chance_of(7, 7) < auditing.LEVEL < auditing.chance_of(6, 6)
    assert auditing.chance_of(30, 60) > 0.5  # as many worse as better: arithmetic of another machine
    assert auditing.chance_of(0, 0) == 1.0


# ---- push


def test_dry_run_shows_what_becomes_public_and_sends_nothing(
    live: Live, demo_run: Run, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert pushing.push(settings(run=demo_run.path, url=live.url, dry_run="true", output="table")) == 0
    text = capsys.readouterr().out
    assert "Becomes public" in text and "mini_copa" in text and "Nothing was sent" in text
    assert "Is not sent: prompts, golds" in text
    assert not (home / "push_key").exists() and live.board.stored() == []


def test_the_key_is_its_owners_alone(live: Live, demo_run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTBENCH_TOKEN", live.board.text)
    pushing.push(settings(run=demo_run.path, url=live.url))
    assert stat.S_IMODE(os.stat(home / "push_key").st_mode) == 0o600
    os.chmod(home / "push_key", 0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        pushing.push(settings(run=demo_run.path, url=live.url))


def test_a_token_is_sent_to_nobody_in_the_clear(demo_run: Run, monkeypatch: pytest.MonkeyPatch, board: Board) -> None:
    monkeypatch.setenv("ESTBENCH_TOKEN", board.text)
    with pytest.raises(Refused, match="is not encrypted"):
        pushing.push(settings(run=demo_run.path, url="http://tabel.example.ee"))


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "ESTBENCH_TOKEN is not set"), ("estb_x", "holds no token"), (f"estb_{'0' * 12}_{'A' * 43}", "valid token")],
)
def test_a_push_without_a_good_token_is_one_line(
    live: Live, demo_run: Run, monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    monkeypatch.setenv("ESTBENCH_TOKEN", token)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        pushing.push(settings(run=demo_run.path, url=live.url))
    assert "\n" not in str(caught.value) and "A" * 43 not in str(caught.value)


def test_without_cryptography_the_cure_is_named(demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(MissingPartError, match=r"pip install 'estbench\[push\]'"):
        pushing.push(settings(run=demo_run.path, url="https://tabel.example.ee"))


def test_a_board_that_is_not_there_is_one_line(board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTBENCH_TOKEN", board.text)
    with pytest.raises(DataError, match="can't be reached"):
        pushing.push(settings(run=demo_run.path, url="http://127.0.0.1:9"))


def test_the_second_push_of_a_run_says_what_became_of_the_first(
    live: Live, demo_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTBENCH_TOKEN", live.board.text)
    pushing.push(settings(run=demo_run.path, url=live.url))
    with pytest.raises(DataError, match=r"was sent before, as submission .* it is received"):
        pushing.push(settings(run=demo_run.path, url=live.url))


def test_a_run_with_missing_answers_is_not_packed(board: Board, demo_run: Run, tmp_path: Path) -> None:
    partial = copied(demo_run, tmp_path)
    edit_json(partial.path / "manifest.json", lambda found: found | {"unanswered": {"documents": 2, "reason": "x"}})
    with pytest.raises(ConfigError, match="2 documents without a response"):
        board.pack(Run(partial.path))


def test_an_embargo_hides_what_is_published(board: Board, demo_run: Run) -> None:
    sent = board.send(demo_run, embargo="2027-06-01")
    board.rescore()
    moderation.publish(board.database, sent.id, "Mari")
    assert moderation.public_submissions(board.database) == []
    assert not moderation.decisions(board.database)  # the log would tell, too
    later = "2027-06-01T00:00:00.000000Z"
    assert [row["id"] for row in moderation.public_submissions(board.database, later)] == [sent.id]
