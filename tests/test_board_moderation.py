"""Tokens, states, decisions, facts and commands: who may do what, once, and what is written down of it."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from estbench_leaderboard import decided
from estbench_leaderboard.submissions import moderation, tokens
from estbench_leaderboard.submissions.commands import BOARD
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.limits import KEYS, Rate
from estbench_leaderboard.submissions.moderation import Target
from estbench_leaderboard.submissions.settings import BoardSettings
from sqlalchemy import select, update
from submission_fixtures import Board, board, rescored

from estbench import config
from estbench.database import Database, index_run, queries, schema
from estbench.errors import ConfigError, StoreError
from estbench.runs import Run

__all__ = ["board"]  # a fixture


def command(*words: str) -> int:
    """`estbench board WORDS`, as the command line calls it."""
    plain = [word for word in words if "=" not in word]
    settings = config.read([word for word in words if "=" in word], BoardSettings)
    return BOARD[plain[0]](settings, plain[1:])


# ---- tokens


def test_a_tokens_secret_is_nowhere_in_the_database(board: Board) -> None:
    secret = board.text.rpartition("_")[2] if board.text.count("_") == 2 else board.text[18:]
    with board.database.read() as connection:
        rows = [dict(row._mapping) for row in connection.execute(select(schema.tokens))]
    assert rows and secret not in json.dumps(rows) and board.text[18:] not in json.dumps(rows)
    assert board.holder(board.text).name == "Saatja"


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"), lambda t: "", lambda t: "estb_", lambda t: t + "x"]
)
def test_a_token_that_is_a_letter_off_is_refused(board: Board, change: Callable[[str], str]) -> None:
    with pytest.raises(Refused) as caught:
        tokens.verify(board.database, f"Bearer {change(board.text)}")
    assert caught.value.status == 401


def test_revoked_and_expired_tokens_are_refused(board: Board) -> None:
    past = tokens.new_token(board.database, "Hilja", expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(Refused):
        tokens.verify(board.database, past)
    tokens.revoke(board.database, board.token.id)
    with pytest.raises(Refused):
        tokens.verify(board.database, board.text)
    with pytest.raises(StoreError, match="no token"):
        tokens.revoke(board.database, board.token.id)


def test_a_scope_is_needed(board: Board) -> None:
    with pytest.raises(Refused) as caught:
        tokens.verify(board.database, board.text, "moderate")
    assert caught.value.status == 403
    with pytest.raises(ConfigError, match="no scope"):
        tokens.new_token(board.database, "X", scopes=("everything",))


def test_tokens_of_one_name_belong_to_one_sender(board: Board) -> None:
    second = board.holder(tokens.new_token(board.database, "Saatja"))
    assert second.submitter == board.token.submitter and second.id != board.token.id


def test_looking_for_tokens_takes_the_same_steps_whether_there_is_one_or_not(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shortcut for an id that does not exist: a secret is hashed and compared with a hash of the same length."""
    steps: list[tuple[str, int]] = []
    compare, hashed = hmac.compare_digest, tokens._hash
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: (steps.append(("compare", len(b))), compare(a, b))[1])
    monkeypatch.setattr(tokens, "_hash", lambda text: (steps.append(("hash", len(text))), hashed(text))[1])
    for identity in (board.token.id, "0" * 12):
        with pytest.raises(Refused):
            tokens.verify(board.database, f"estb_{identity}_{'A' * 43}")
    assert len(steps) == 4 and steps[:2] == steps[2:]


def test_a_rate_lets_a_burst_through_and_then_so_many_an_hour() -> None:
    now = [0.0]
    rate = Rate(per_hour=60, burst=3, clock=lambda: now[0])
    for _ in range(3):
        rate.take("a")
    with pytest.raises(Refused, match="60 seconds") as caught:
        rate.take("a")
    assert caught.value.status == 429
    rate.take("b")  # somebody else is not concerned
    now[0] = 60.0
    rate.take("a")
    with pytest.raises(Refused):
        rate.take("a")


def test_a_rate_remembers_no_more_keys_than_it_should() -> None:
    rate = Rate(per_hour=1, burst=1)
    for i in range(KEYS + 500):
        rate.take(str(i))
    assert len(rate._buckets) == KEYS


# ---- states


def test_states_go_one_way(board: Board, demo_run: Run) -> None:
    identity = board.send(demo_run).id
    with pytest.raises(Refused, match="is received already"):
        moderation.publish(board.database, identity, "Mari")
    board.rescore()
    moderation.publish(board.database, identity, "Mari")
    with pytest.raises(Refused, match="is published already, by Mari on"):
        moderation.reject(board.database, identity, "Jüri", "hilja")
    assert moderation.find(board.database, identity).state == "published"


def test_the_second_of_two_maintainers_is_told_who_was_first(board: Board, demo_run: Run) -> None:
    identity = rescored(board, demo_run)
    seen = moderation.find(board.database, identity).updated
    moderation.reject(board.database, identity, "Mari", "vale mudel", expected=seen)
    with pytest.raises(Refused) as caught:
        moderation.publish(board.database, identity, "Jüri", expected=seen)
    assert caught.value.status == 409 and "by Mari" in str(caught.value) and "vale mudel" in str(caught.value)


def test_a_decision_about_what_has_changed_since_is_refused(board: Board, demo_run: Run) -> None:
    identity = board.send(demo_run).id
    seen = moderation.find(board.database, identity).updated
    board.rescore()
    with pytest.raises(Refused, match="has changed since you saw it"):
        moderation.reject(board.database, identity, "Mari", "põhjus", expected=seen)


def test_a_rejection_needs_a_reason_and_leaves_no_rows(board: Board, demo_run: Run) -> None:
    identity = rescored(board, demo_run)
    with pytest.raises(ConfigError):
        moderation.reject(board.database, identity, "Mari", "  ")
    moderation.reject(board.database, identity, "Mari", "vale mudel")
    assert queries.runs(board.database) == []
    assert moderation.public_submissions(board.database) == []
    assert board.send(demo_run).state == "received"  # and may come again


def test_a_withdrawal_leaves_a_tombstone_and_nothing_else(board: Board, demo_run: Run) -> None:
    identity = rescored(board, demo_run)
    moderation.publish(board.database, identity, "Mari")
    moderation.withdraw(board.database, identity, "Saatja", "uus versioon tuleb", board.folder)
    assert [row["state"] for row in moderation.public_submissions(board.database)] == ["withdrawn"]
    [entry, _] = moderation.decisions(board.database)
    assert entry["action"] == "withdraw" and entry["details"]["model_name"] == "demo"
    assert (entry["run"], entry["model"], entry["reason"]) == (demo_run.id, None, "uus versioon tuleb")
    assert queries.runs(board.database) == [] and board.stored() == []


def test_a_sender_can_not_bury_a_model(board: Board, demo_run: Run) -> None:
    """Weights are public: what somebody sends and withdraws must not hide what the operators measure of them later."""
    identity = rescored(board, demo_run)
    moderation.publish(board.database, identity, "Mari")
    moderation.withdraw(board.database, identity, "Saatja", "katse", board.folder)
    ours = Run(demo_run.path)
    ours.manifest = ours.manifest | {"run": "ours-1"}
    index_run(board.database, ours)
    now, model = decided.read(board.database), demo_run.manifest["model"]["fingerprint"]
    assert now.withdrawn(model) is None and now.shows("ours-1", model)


def test_what_operators_withdrew_is_shown_again(indexed: Database, demo_run: Run) -> None:
    for target in (Target(run=demo_run.id), Target(model="demo")):
        with pytest.raises(StoreError, match="is not hidden"):
            moderation.show(indexed, "Mari", target, "eksitus")
        moderation.retire(indexed, "Mari", target, "kaalud olid valed")
        moderation.show(indexed, "Mari", target, "kaalud olid õiged")
        with pytest.raises(StoreError, match="is not hidden"):
            moderation.show(indexed, "Mari", target, "veel kord")
    actions = [row["action"] for row in moderation.decisions(indexed)]
    assert actions == ["show", "withdraw"] * 2


def test_publishing_ends_the_operators_tombstone_of_its_model(board: Board, demo_run: Run) -> None:
    identity = rescored(board, demo_run)
    moderation.retire(board.database, "Mari", Target(model="demo"), "vana")
    moderation.publish(board.database, identity, "Mari")
    assert decided.read(board.database).withdrawn(demo_run.manifest["model"]["fingerprint"]) is None


@pytest.mark.parametrize("end", ["reject", "withdraw"])
def test_the_operators_own_run_of_the_same_id_stays(board: Board, demo_run: Run, end: str) -> None:
    """Run ids are claimed, too: only what a submission made goes with it."""
    identity = rescored(board, demo_run)
    assert queries.manifest(board.database, demo_run.id)["submission"] == identity
    index_run(board.database, demo_run)  # measured by the operators meanwhile
    if end == "reject":
        moderation.reject(board.database, identity, "Mari", "vale mudel")
    else:
        moderation.withdraw(board.database, identity, "Saatja", "katse", board.folder)
        assert board.stored() == []  # what was made of the submission is gone
    assert [row.id for row in queries.runs(board.database)] == [demo_run.id]


def test_what_is_published_again_is_withdrawn_no_more(board: Board, demo_run: Run) -> None:
    identity = rescored(board, demo_run)
    moderation.publish(board.database, identity, "Mari")
    moderation.withdraw(board.database, identity, "Saatja", "uus versioon tuleb", board.folder)
    moderation.publish(board.database, rescored(board, demo_run), "Mari")
    log = moderation.decisions(board.database, public=False)[::-1]
    assert [(row["action"], row["run"], row["model"]) for row in log] == [
        ("publish", demo_run.id, None),
        ("withdraw", demo_run.id, None),
        ("publish", demo_run.id, None),
    ]
    assert decided.read(board.database).shows(demo_run.id, demo_run.manifest["model"]["fingerprint"])


def test_what_is_hidden_is_no_public_submission(board: Board, demo_run: Run) -> None:
    moderation.publish(board.database, rescored(board, demo_run), "Mari")
    assert len(moderation.public_submissions(board.database)) == 1
    moderation.hide(board.database, "Mari", Target(run=demo_run.id), "litsents")
    assert moderation.public_submissions(board.database) == []


def test_withdrawing_does_not_touch_a_model_that_others_measured_too(board: Board, demo_run: Run) -> None:
    """Fingerprints are claimed: nobody buries a model of the operators by sending and withdrawing."""
    other = Run(demo_run.path)
    other.manifest = other.manifest | {"run": "ours-1"}
    index_run(board.database, other)
    identity = rescored(board, demo_run)
    moderation.publish(board.database, identity, "Mari")
    moderation.withdraw(board.database, identity, "Saatja", "katse", board.folder)
    assert decided.read(board.database).withdrawn(demo_run.manifest["model"]["fingerprint"]) is None
    assert [row.id for row in queries.runs(board.database)] == ["ours-1"]


def test_attempts_are_counted_whatever_became_of_them(board: Board, demo_run: Run) -> None:
    moderation.reject(board.database, rescored(board, demo_run), "Mari", "vale")
    board.send(demo_run)
    assert moderation.attempts(board.database) == {"Saatja": 2}


def test_who_waits_with_too_many_submissions_sends_no_more(board: Board, demo_run: Run, tmp_path: Path) -> None:
    from estbench_leaderboard.submissions import receive

    identity = board.send(demo_run).id
    with board.database.write() as connection:
        row = dict(connection.execute(select(schema.submissions)).one()._mapping)
        for i in range(receive.WAITING - 1):
            new = row | {"id": f"{i:016x}", "bundle": f"{i:064x}", "run": f"other-{i}"}
            connection.execute(schema.submissions.insert().values(new))
        of = schema.submissions.c
        connection.execute(update(schema.submissions).where(of.id == identity).values(run="another"))
    with pytest.raises(Refused, match="wait for a decision"):
        board.send(demo_run)


# ---- what is hidden, marked, corrected, described


@pytest.fixture
def indexed(board: Board, demo_run: Run) -> Database:
    index_run(board.database, demo_run)
    return board.database


def test_hidden_is_hidden_until_it_is_shown(indexed: Database, demo_run: Run) -> None:
    model = demo_run.manifest["model"]["fingerprint"]
    for target in (Target(run=demo_run.id), Target(model="demo")):
        moderation.hide(indexed, "Mari", target, "litsents ei luba")
        assert not decided.read(indexed).shows(demo_run.id, model)
        with pytest.raises(StoreError, match="is hidden already"):
            moderation.hide(indexed, "Jüri", target, "litsents ei luba")
        moderation.show(indexed, "Mari", target, "litsents lubab siiski")
        assert decided.read(indexed).shows(demo_run.id, model)
        with pytest.raises(StoreError, match="is not hidden"):
            moderation.show(indexed, "Mari", target, "veel kord")
    moderation.hide(indexed, "Mari", Target(task="mini_qa"), "viga andmetes")
    assert not decided.read(indexed).shows_task("mini_qa")


def test_a_contaminated_task_of_a_model_is_marked(indexed: Database, demo_run: Run) -> None:
    model = demo_run.manifest["model"]["fingerprint"]
    moderation.mark(indexed, "Mari", Target(model="demo", task="mini_qa"), "treeningandmetes")
    assert decided.read(indexed).contaminated(model, "mini_qa") == "treeningandmetes"
    assert decided.read(indexed).contaminated(model, "mini_copa") is None
    moderation.unmark(indexed, "Mari", Target(model="demo", task="mini_qa"), "eksitus")
    assert decided.read(indexed).contaminated(model, "mini_qa") is None


def test_decisions_about_nothing_are_refused(indexed: Database) -> None:
    for target, words in (
        (Target(run="demo-x"), "no run"),
        (Target(model="dem"), "Did you mean 'demo'"),
        (Target(task="mini_qaa"), "Did you mean 'mini_qa'"),
    ):
        with pytest.raises(StoreError, match=words):
            moderation.hide(indexed, "Mari", target, "põhjus")
    assert moderation.decisions(indexed, public=False) == []


def test_the_public_log_has_no_private_line(indexed: Database, demo_run: Run) -> None:
    moderation.hide(indexed, "Mari", Target(run=demo_run.id), "sisemine", public=False)
    moderation.correct(
        indexed, "Mari", "mini_qa hinnati valesti", Target(task="mini_qa"), {"before": 0.5, "after": 0.6}
    )
    assert [row["action"] for row in moderation.decisions(indexed)] == ["correct"]
    assert [row["action"] for row in moderation.decisions(indexed, public=False)] == ["correct", "hide"]


def test_facts_are_added_and_taken_away(indexed: Database) -> None:
    moderation.describe(indexed, "demo", {"licence": "Apache-2.0", "commercial": True, "price_in": 0.5})
    assert moderation.describe(indexed, "demo", {"price_in": None, "ours": True}) == {
        "licence": "Apache-2.0",
        "commercial": True,
        "ours": True,
    }


@pytest.mark.parametrize(
    "facts",
    [{"licens": "x"}, {"commercial": "yes"}, {"price_in": -1}, {"kind": "robot"}, {"url": "javascript:alert(1)"}],
)
def test_a_fact_that_is_none_is_refused(indexed: Database, facts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        moderation.describe(indexed, "demo", facts)


def test_every_write_counts_a_version(indexed: Database) -> None:
    """Pages are kept by it."""
    for change in (
        lambda: moderation.describe(indexed, "demo", {"licence": "MIT"}),
        lambda: moderation.hide(indexed, "Mari", Target(task="mini_qa"), "põhjus"),
        lambda: moderation.correct(indexed, "Mari", "viga", Target(task="mini_qa")),
    ):
        before = indexed.version()
        change()
        assert indexed.version() == before + 1


# ---- commands


def test_the_commands_do_the_whole_work(
    board: Board, demo_run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def said(*words: str, code: int = 0) -> Any:
        assert command(*words, "output=json", "actor=Mari") == code
        return json.loads(capsys.readouterr().out)

    text = said("token", "new", "name=Saatja", "contact=x@example.ee")["token"]
    board.text, board.token = text, board.holder(text)
    identity = board.send(demo_run).id
    assert said("rescore", "once=true")[0]["state"] == "rescored"
    assert said("rescore", "once=true") == []
    assert said("moderate", f"submission={identity}", "action=publish")["state"] == "published"
    assert said("submissions", "state=published")[0]["attempts"] == 1
    assert (
        said("describe", "model=demo", "licence=MIT", "commercial=yes", "price_in=0.2")["facts"]["commercial"] is True
    )
    (tmp_path / "facts.yaml").write_text("organisation: Tartu Ülikool\nlicence: null\n", "utf-8")
    assert said("describe", "model=demo", f"facts={tmp_path / 'facts.yaml'}")["facts"] == {
        "commercial": True,
        "price_in": 0.2,
        "organisation": "Tartu Ülikool",
    }
    said("hide", f"run={demo_run.id}", "reason=litsents")
    said("show", f"run={demo_run.id}", "reason=lubatud")
    said("mark", "model=demo", "task=mini_qa", "reason=nähtud")
    said("unmark", "model=demo", "task=mini_qa", "reason=eksitus")
    said("correct", "task=mini_qa", "reason=viga")
    said("withdraw", f"submission={identity}", "reason=vana")
    said("token", "revoke", f"token={board.token.id}")
    assert {row["id"]: bool(row["revoked"]) for row in said("token", "list")}[board.token.id]
    actions = [row["action"] for row in moderation.decisions(board.database, public=False)]
    assert actions == ["withdraw", "correct", "unmark", "mark", "show", "hide", "publish"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("moderate", "action=publish"), "submission= is missing"),
        (("moderate", "submission=x", "action=reject"), "reason= is missing"),
        (("moderate", "submission=x", "action=publish"), "There is no submission 'x'"),
        (("hide", "reason=x"), "Say what it is about"),
        (("hide", "run=a", "model=b", "reason=x"), "Say what it is about"),
        (("token", "make"), "takes list, new or revoke"),
        (("token", "new"), "name= is missing"),
        (("describe", "model=demo"), "Nothing is said of demo"),
        (("rescore", "now"), "one word too many"),
        (("rescore", "golds=nowhere"), "is no folder"),
    ],
)
def test_slips_are_one_line(board: Board, words: tuple[str, ...], message: str) -> None:
    with pytest.raises((ConfigError, StoreError, Refused), match=re.escape(message)) as caught:
        command(*words)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
