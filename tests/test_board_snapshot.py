"""Who is shown, who is ranked and by what: the rules of the board, on a made-up world whose models break one each."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_places import change, decide, find, known, page, places, plain, shown, world
from board_world import SENT, SMALL, World, fill
from database_fixtures import ENGINES, fresh_url
from estbench_leaderboard import curve, decided, site
from estbench_leaderboard.snapshot import Model, Snapshot, slug, take
from sqlalchemy import delete, insert, select, update

from estbench.database import open_database, schema

__all__ = ["shown", "world"]  # fixtures

# ---- who is there


@pytest.mark.parametrize("engine", ENGINES)
def test_both_engines_tell_the_same(engine: str, tmp_path: Path, shown: Snapshot) -> None:
    for url in fresh_url(engine, tmp_path):
        with open_database(url) as database:
            found = fill(database, **SMALL).snapshot()
    for name, other in shown.boards.items():
        assert [model.slug for model in found.boards[name].models.values()] == list(other.models)
    as_text = [site.as_json(plain(snapshot)) for snapshot in (found, shown)]
    assert as_text[0] == as_text[1]
    for values in ({}, {"board": "base", "view": "tasks"}, {"board": "checkpoints"}):
        assert places(page(found, **values)) == places(page(shown, **values))


def test_chat_and_plain_models_are_never_in_one_rank(shown: Snapshot, board_world: World) -> None:
    chat, base = (page(shown, board=name) for name in ("chat", "base"))
    assert {task.card["form"] for task in chat.board.tasks.values()} == {"chat"}
    assert {task.card["form"] for task in base.board.tasks.values()} == {"completion"}
    both = board_world.cases["best"]
    assert [model.board for model in shown.everywhere(both)] == ["chat", "base"]
    assert {row.model.fingerprint for row in chat.every} & {row.model.fingerprint for row in base.every} == {both}


def test_checkpoints_have_a_board_of_their_own(shown: Snapshot, board_world: World) -> None:
    names = {case for case in board_world.cases if case.startswith("checkpoint_")}
    assert len(shown.boards["checkpoints"].models) == len(names) == SMALL["checkpoints"]
    assert all([m.board for m in shown.everywhere(board_world.cases[case])] == ["checkpoints"] for case in names)
    assert find(shown, board_world, "cpt", "base")  # what came of them is a model as others are


@pytest.mark.parametrize("case", ["hidden", "received", "unpublished", "rejected", "taken_back", "embargoed"])
def test_what_may_not_be_seen_is_nowhere(case: str, shown: Snapshot, board_world: World) -> None:
    fingerprint = board_world.cases[case]
    assert shown.model(fingerprint) is None
    assert not any(row.fingerprint == fingerprint for row in shown.runs.values())
    assert fingerprint not in site.as_json(plain(shown)[0])


@pytest.mark.parametrize("case", ["shown_again", "audited", "rescored", "claimed", "withdrawn"])
def test_what_may_be_seen_is_there(case: str, shown: Snapshot, board_world: World) -> None:
    assert known(shown, board_world, case).slug in {row.model.slug for row in page(shown).every}


def test_a_slice_of_an_evaluation_is_no_run(shown: Snapshot, board_world: World) -> None:
    slice_, whole = board_world.runs[board_world.cases["best"]]
    assert slice_ not in shown.runs and known(shown, board_world, "best").runs == (whole,)


def test_an_embargo_ends_by_itself(world: World) -> None:
    fingerprint = world.cases["embargoed"]
    before = decided.read(world.database)
    assert before.until == SENT["embargoed"][2]
    change(
        world.database, schema.submissions, schema.submissions.c.model == fingerprint, embargo="2026-01-01T00:00:00Z"
    )
    assert decided.read(world.database).until is None
    found = world.snapshot().model(fingerprint)
    assert found is not None and found.badge == "audited" and found.ranked


def test_a_withdrawn_model_leaves_a_tombstone_without_a_rank(shown: Snapshot, board_world: World) -> None:
    model = known(shown, board_world, "withdrawn")
    [row] = [row for row in page(shown).every if row.model is model]
    assert model.withdrawn == "litsents lõpetati" and row.ranked is None and row.unranked == "withdrawn"


def test_of_two_decisions_the_later_holds(world: World) -> None:
    about = {"model": world.cases["best"]}
    for action, visible in (("hide", False), ("show", True), ("hide", False)):
        decide(world, action, **about)
        assert (find(world.snapshot(), world, "best") is not None) == visible


def test_a_run_and_a_task_can_be_hidden_alone(world: World) -> None:
    old, new = world.runs[world.cases["twice"]]
    decide(world, "hide", run=new)
    task = world.tasks["chat"][2]
    decide(world, "hide", task=task)
    snapshot = world.snapshot()
    assert known(snapshot, world, "twice").runs == (old,)
    assert task not in snapshot.boards["chat"].tasks and task not in known(snapshot, world, "best").cells


def test_a_mark_goes_and_comes(world: World) -> None:
    task = world.tasks["chat"][1]
    about = {"model": world.cases["best"], "task": task}
    for action, marked in (("mark", True), ("unmark", False)):
        decide(world, action, **about)
        cell = known(world.snapshot(), world, "best").cells[task]
        assert ("contaminated" in cell.flags) == marked and cell.reason is None  # shown, marked, and it counts


def test_the_log_shows_only_what_is_public(shown: Snapshot) -> None:
    assert [decision.action for decision in shown.decisions] == ["correct", "mark", "withdraw", "show", "hide", "hide"]


# ---- what counts


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("other_version", "other_version"),
        ("other_prompt", "other_prompt"),
        ("scores_only", "scores_only"),
        ("failed", "failed"),
        ("missing", "not_run"),
        ("errors", "partial"),
        ("partial", "partial"),
    ],
)
def test_what_was_measured_otherwise_has_its_reason_and_no_say(
    case: str, reason: str, shown: Snapshot, board_world: World
) -> None:
    first = board_world.tasks["chat"][0]
    model = known(shown, board_world, case)
    assert model.cells[first].reason == reason
    found = page(shown, tasks=first)
    [row] = [row for row in found.every if row.model is model]
    assert row.cells[first].reason == reason and row.cells[first].level is None
    prepared = found.board.prepared
    assert prepared is not None
    if case == "partial":  # all of its tasks are
        assert row.ranked is None and row.unranked == "incomplete"
    else:
        assert row.ranked is not None and row.ranked.missing == (first,)


def test_a_value_that_does_not_count_is_shown(shown: Snapshot, board_world: World) -> None:
    first = board_world.tasks["chat"][0]
    values = {case: known(shown, board_world, case).cells[first].score for case in ("other_version", "failed")}
    assert values["other_version"] is not None and values["other_version"].value is not None
    assert values["failed"] is not None and values["failed"].value is None
    assert known(shown, board_world, "failed").cells[first].detail == "kõik vastused jäid tulemata"


def test_flags_say_what_is_odd_about_a_score(shown: Snapshot, board_world: World) -> None:
    first = board_world.tasks["chat"][0]
    flags = {
        case: known(shown, board_world, case).cells[first].flags
        for case in ("best", "parse_failures", "at_chance", "contaminated", "errors", "partial")
    }
    assert flags["best"] == ()
    assert "at_chance" in flags["at_chance"]
    for case in ("parse_failures", "contaminated"):
        assert [other for other, found in flags.items() if case in found] == [case]
    assert "partial" in flags["partial"]
    assert {"partial", "errors"} <= set(flags["errors"])


@pytest.mark.parametrize("case", ["claimed", "rescored", "reference", "withdrawn"])
def test_only_operators_and_audited_rows_are_ranked(case: str, shown: Snapshot, board_world: World) -> None:
    model = known(shown, board_world, case)
    found = page(shown)
    assert found.board.prepared is not None and model.slug not in found.board.prepared.models
    [row] = [row for row in found.every if row.model is model]
    assert row.ranked is None and row.unranked == case
    audited = known(shown, board_world, "audited")
    assert audited.ranked and audited.slug in places(found)


def test_the_newest_run_counts(shown: Snapshot, board_world: World) -> None:
    old, new = board_world.runs[board_world.cases["twice"]]
    model = known(shown, board_world, "twice")
    assert {cell.run for cell in model.cells.values()} == {new} and model.runs == (new, old)


def test_a_newer_run_that_does_not_count_displaces_nothing(world: World) -> None:
    old, new = world.runs[world.cases["twice"]]
    rows = schema.run_tasks.c
    change(world.database, schema.run_tasks, rows.run_id == new, shots=9)
    change(world.database, schema.runs, schema.runs.c.id == new, created="2026-06-02T00:00:00.000000Z")  # not newest
    cells = known(world.snapshot(), world, "twice").cells
    assert {(cell.run, cell.reason) for cell in cells.values()} == {(old, None)}


def test_the_newest_trusted_run_says_which_version_counts(world: World) -> None:
    first = world.tasks["chat"][0]
    rows = schema.run_tasks.c
    outside, own = (world.runs[world.cases[case]][-1] for case in ("claimed", "best"))
    for run in (outside, own):
        change(world.database, schema.runs, schema.runs.c.id == run, created="2027-01-01T00:00:00.000000Z")
    change(world.database, schema.run_tasks, (rows.run_id == outside) & (rows.task == first), shots=7)
    assert world.snapshot().boards["chat"].tasks[first].shots == 0  # nobody from outside changes it
    change(world.database, schema.run_tasks, (rows.run_id == own) & (rows.task == first), shots=5)
    snapshot = world.snapshot()
    assert snapshot.boards["chat"].tasks[first].shots == 5
    assert known(snapshot, world, "best").cells[first].reason is None
    assert known(snapshot, world, "twice").cells[first].reason == "other_version"


def test_documents_of_a_run_from_outside_do_not_become_the_tasks_own(world: World) -> None:
    """The bundle that is sent last has more documents, and others: it counts for nothing, and the rest still does."""
    first = world.tasks["chat"][0]
    rows = schema.run_tasks.c
    [outside] = world.runs[world.cases["claimed"]]
    [other] = world.runs[world.cases["best"]][-1:]
    with world.database.read() as connection:
        of_another = connection.scalar(select(rows.docs).where((rows.run_id == other) & (rows.task != first)))
    change(world.database, schema.runs, schema.runs.c.id == outside, created="2027-01-01T00:00:00.000000Z")
    change(world.database, schema.run_tasks, (rows.run_id == outside) & (rows.task == first), docs=of_another, n=99)
    snapshot = world.snapshot()
    assert known(snapshot, world, "best").cells[first].reason is None
    assert known(snapshot, world, "claimed").cells[first].reason == "partial"


def test_what_others_send_of_a_model_does_not_touch_it(world: World) -> None:
    """A bundle may claim any fingerprint: neither name, nor board, nor badge, nor scores of the model change."""
    before = known(world.snapshot(), world, "best")
    [run] = world.runs[world.cases["claimed"]]
    with world.database.read() as connection:
        manifest = connection.scalar(select(schema.runs.c.manifest).where(schema.runs.c.id == run))
    card = dict(manifest["model"]) | {"name": "Vale nimi", "parameters": 7, "training": {"final": False}}
    card["fingerprint"] = before.fingerprint
    models = schema.models.c
    change(
        world.database,
        schema.runs,
        schema.runs.c.id == run,
        model=before.fingerprint,
        created="2027-01-01T00:00:00.000000Z",
        manifest=manifest | {"model": card},
    )
    change(  # as a run that is indexed later does
        world.database,
        schema.models,
        models.fingerprint == before.fingerprint,
        name="Vale nimi",
        parameters=7,
        card=card,
    )
    after = known(world.snapshot(), world, "best")
    assert site.as_json(after) == site.as_json(before)
    assert {row.model for row in world.snapshot().runs.values() if row.fingerprint == before.fingerprint} == {
        before.name
    }


def test_a_task_that_a_run_skipped_says_why(world: World) -> None:
    first = world.tasks["chat"][0]
    [run] = world.runs[world.cases["other_prompt"]]
    here = (schema.run_tasks.c.run_id == run) & (schema.run_tasks.c.task == first)
    with world.database.write() as connection:
        connection.execute(delete(schema.run_tasks).where(here))
        of_score = (schema.scores.c.run_id == run) & (schema.scores.c.task == first)
        connection.execute(update(schema.scores).where(of_score).values(value=None, n=0, reason="andmed puuduvad"))
    cell = known(world.snapshot(), world, "other_prompt").cells[first]
    assert (cell.reason, cell.detail, cell.score) == ("skipped", "andmed puuduvad", None)


def test_models_with_like_names_and_fingerprints_keep_their_own_pages(world: World) -> None:
    best, claimed = (world.cases[case] for case in ("best", "claimed"))
    before = known(world.snapshot(), world, "best")
    twin = best[:8] + claimed[8:]
    [run] = world.runs[claimed]
    with world.database.write() as connection:
        row = connection.execute(select(schema.models).where(schema.models.c.fingerprint == claimed)).one()
        connection.execute(
            insert(schema.models).values(dict(row._mapping) | {"fingerprint": twin, "name": before.name})
        )
        changed = {"model": twin, "created": "2027-01-01T00:00:00.000000Z"}
        connection.execute(update(schema.runs).where(schema.runs.c.id == run).values(changed))
    # Names come from manifests where something was sent from outside.
    with world.database.read() as connection:
        manifest = connection.scalar(select(schema.runs.c.manifest).where(schema.runs.c.id == run))
    manifest = manifest | {"model": manifest["model"] | {"name": before.name, "fingerprint": twin}}
    change(world.database, schema.runs, schema.runs.c.id == run, manifest=manifest)
    snapshot = world.snapshot()
    assert snapshot.model(before.slug) is snapshot.model(best, "chat")
    other = snapshot.model(twin)
    assert other is not None and other.slug != before.slug and snapshot.model(other.slug) is other


def test_a_slug_holds_only_what_an_address_can() -> None:
    assert slug("Tartu/Õun 7B <b>", "0123456789abcdef") == "Tartu-un-7B-b-01234567"
    assert slug("../..", "ab/../cd?ef") == "model-ab-..-cd"
    assert len(slug("pikk" * 100, "0" * 64)) < 100


# ---- what others send


def outside(world: World, run: str, submission: str = "sub0") -> None:
    """Make a run one that was sent, rescored and published."""
    with world.database.write() as connection:
        manifest = connection.scalar(select(schema.runs.c.manifest).where(schema.runs.c.id == run))
        row = dict(connection.execute(select(schema.submissions)).first()._mapping)  # type: ignore[union-attr]
        sent = {"id": submission + run, "run": run, "bundle": run, "state": "published", "badge": "rescored"}
        connection.execute(insert(schema.submissions).values(row | sent | {"embargo": None}))
        made = {**manifest, "submission": submission + run}
        connection.execute(update(schema.runs).where(schema.runs.c.id == run).values(manifest=made))


def test_a_task_that_only_others_measured_moves_no_rank(world: World) -> None:
    before = places(page(take(world.database)))
    snapshot = take(world.database)
    target = next(model for model in snapshot.boards["chat"].models.values() if model.ranked)
    task = snapshot.boards["chat"].tasks[next(iter(target.cells))]
    run = next(run for run in target.runs)
    with world.database.write() as connection:
        for table in (schema.run_tasks, schema.scores):
            of = table.c
            row = dict(connection.execute(select(table).where(of.run_id == run, of.task == task.name)).first()._mapping)
            connection.execute(insert(table).values(row | {"task": "ainult_teistel", "run_id": run}))
    outside(world, run)
    after = take(world.database)
    mine = {slug: place for slug, place in before.items() if slug != target.slug}
    now = places(page(after))
    assert target.slug not in now and mine
    assert {slug: place[3] for slug, place in now.items()} == pytest.approx({slug: mine[slug][3] for slug in now})


def test_a_run_is_a_submission_only_if_that_made_it(world: World) -> None:
    snapshot = take(world.database)
    target = next(model for model in snapshot.boards["chat"].models.values() if model.ranked)
    run = target.runs[0]
    outside(world, run)
    assert known_badge(world, target) == "rescored"
    with world.database.write() as connection:  # the operators measure the same weights: the same id, no word of it
        manifest = connection.scalar(select(schema.runs.c.manifest).where(schema.runs.c.id == run))
        own = {key: value for key, value in manifest.items() if key != "submission"}
        connection.execute(update(schema.runs).where(schema.runs.c.id == run).values(manifest=own))
    assert known_badge(world, target) == "operator"
    change(world.database, schema.runs, schema.runs.c.id == run, manifest={**own, "submission": "nobody's"})
    assert run not in take(world.database).runs  # never promoted: hidden


def test_a_part_of_the_documents_has_no_rank_even_where_nobody_did_more(world: World) -> None:
    board_before = take(world.database).boards["chat"]
    assert board_before.prepared is not None
    task = board_before.prepared.tasks[0]
    more = schema.run_tasks.c.n_planned + 1
    change(world.database, schema.run_tasks, schema.run_tasks.c.task == task, n_docs=more)
    after = take(world.database).boards["chat"]
    assert after.prepared is not None and task not in after.prepared.tasks
    reasons = {model.cells[task].reason for model in after.models.values()}
    assert "partial" in reasons and None not in reasons


def test_who_withdrew_an_id_does_not_hide_what_the_operators_measure_under_it(world: World) -> None:
    target = next(model for model in take(world.database).boards["chat"].models.values() if model.ranked)
    decide(world, "withdraw", run=target.runs[0], submission="of somebody", details={"model_name": "x"})
    assert target.runs[0] in take(world.database).runs
    decide(world, "withdraw", run=target.runs[0])  # by the operators themselves
    assert target.runs[0] not in take(world.database).runs


def known_badge(world: World, model: Model) -> str:
    found = take(world.database).model(model.fingerprint, "chat")
    assert found is not None
    return found.badge


def test_a_curve_has_no_points_of_others(world: World) -> None:
    snapshot = take(world.database)
    series = [model for model in snapshot.boards["checkpoints"].models.values() if model.training]
    first = curve.of(snapshot, series[0])
    assert first is not None and len(first.points) > 2
    other = next(point.model for point in first.points if point.model.fingerprint != series[0].fingerprint)
    for run in other.runs:
        outside(world, run)
    after = take(world.database)
    own = after.model(series[0].fingerprint)
    assert own is not None
    now = curve.of(after, own)
    assert now is not None and len(now.points) == len(first.points) - 1


def test_a_taken_back_submission_leaves_a_tombstone(world: World) -> None:
    snapshot = take(world.database)
    target = next(model for model in snapshot.boards["chat"].models.values() if model.ranked)
    run = target.runs[0]
    outside(world, run)
    decide(world, "withdraw", run=run, submission="sub0" + run, details={"run": run, "model_name": target.name})
    after = take(world.database)
    assert run not in after.runs
    assert [(one.run, one.reason) for one in after.hidden.tombstones] == [(run, "põhjus")]
    decide(world, "show", run=run)
    assert run in take(world.database).runs and not take(world.database).hidden.tombstones


def test_a_page_is_made_anew_when_an_embargo_ends(world: World) -> None:
    snapshot = take(world.database)
    target = next(model for model in snapshot.boards["chat"].models.values() if model.ranked)
    outside(world, target.runs[0])
    of = schema.submissions.c
    change(world.database, schema.submissions, of.run == target.runs[0], embargo="2999-01-01T00:00:00.000000Z")
    before = take(world.database)
    change(world.database, schema.submissions, of.run == target.runs[0], embargo="2000-01-01T00:00:00.000000Z")
    with world.database.engine.begin() as connection:  # time passes, and nothing is written
        connection.execute(update(schema.changes).values(count=before.version))
    after = take(world.database)
    assert after.version == before.version and after.state != before.state
