"""Runs in, answers out: what `index` puts into the database and `queries` gets back. On SQLite and PostgreSQL."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from database_fixtures import ENGINES, FakeDoc, choice_docs, dump, fresh_url, make_run, text_docs

from estbench.database import Database, index_run, open_database, queries, rebuild, remove_run, schema
from estbench.errors import StoreError
from estbench.runs import Run


@pytest.fixture(params=ENGINES, scope="module")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    for url in fresh_url(request.param, tmp_path_factory.mktemp("database")):
        with open_database(url) as database:
            yield database


@pytest.fixture
def database(opened: Database) -> Database:
    """An empty database."""
    rebuild(opened, [])
    return opened


def three_runs(tmp_path: Path) -> list[Run]:
    """Two runs of `demo`, one of `demo-base` on the same plan."""
    tasks = {"copa": choice_docs(9, seed=1, clusters=3), "translate": text_docs(5)}
    other = {"copa": choice_docs(9, seed=2, clusters=3), "translate": text_docs(5, seed=2)}
    return [
        make_run(tmp_path / "runs", run="demo-1", tasks=tasks, created="2026-11-18T10:00:00+00:00"),
        make_run(tmp_path / "runs", run="base-1", tasks=other, model="demo-base", created="2026-11-19T10:00:00+02:00"),
        make_run(
            tmp_path / "runs", run="demo-2", tasks={"copa": choice_docs(4)}, created="2026-11-20T10:00:00", name="öö"
        ),
    ]


def counts(database: Database) -> dict[str, int]:
    return {name: len(rows) for name, rows in dump(database).items()}


# ---- index


def test_indexing_a_run_again_changes_nothing(database: Database, tmp_path: Path) -> None:
    for run in three_runs(tmp_path):
        index_run(database, run)
    before = dump(database)
    index_run(database, Run(tmp_path / "runs" / "demo-1"))
    assert dump(database) == before


def test_a_changed_run_replaces_its_rows_and_leaves_nothing_loose(database: Database, tmp_path: Path) -> None:
    index_run(database, make_run(tmp_path, run="a", tasks={"copa": choice_docs(9, clusters=2), "gone": text_docs(3)}))
    index_run(database, make_run(tmp_path, run="a", tasks={"copa": choice_docs(4, seed=5)}))
    seen = dump(database)
    index_run(database, make_run(tmp_path / "alone", run="b", tasks={}))  # negative control: a dump can differ
    assert dump(database) != seen
    remove_run(database, "b")
    remove_run(database, "a")
    index_run(database, Run(tmp_path / "a"))
    assert dump(database) == seen
    assert len(seen["prompts"]) == 4
    assert [row["task"] for row in seen["run_tasks"]] == ["copa"]


def test_a_rebuilt_database_equals_the_indexed_one(database: Database, tmp_path: Path) -> None:
    indexed = three_runs(tmp_path)
    for run in indexed:
        index_run(database, run)
    before = dump(database)
    index_run(database, make_run(tmp_path / "elsewhere", run="not-among-them", tasks={"copa": choice_docs(3)}))
    assert dump(database) != before
    assert rebuild(database, [run.path for run in reversed(indexed)]) == {}
    assert dump(database) == before


def test_rebuild_tells_which_folders_it_left_out(database: Database, tmp_path: Path) -> None:
    run = make_run(tmp_path, run="a", tasks={"copa": choice_docs(3)})
    unfinished, copy, torn = tmp_path / "unfinished", tmp_path / "copy", tmp_path / "torn"
    unfinished.mkdir()
    shutil.copytree(run.path, copy)
    shutil.copytree(run.path, torn)
    (torn / "manifest.json").write_text(json.dumps(run.manifest | {"run": "torn"}))
    whole = (torn / "samples" / "copa.jsonl.gz").read_bytes()
    (torn / "samples" / "copa.jsonl.gz").write_bytes(whole[:-20])
    left_out = rebuild(database, [run.path, unfinished, copy, torn])
    assert set(left_out) == {unfinished, copy, torn}
    assert "same run" in left_out[copy]
    assert [row.id for row in queries.runs(database)] == ["a"]


def test_removing_a_run_keeps_what_others_need(database: Database, tmp_path: Path) -> None:
    first, second, third = three_runs(tmp_path)
    index_run(database, first)
    index_run(database, third)
    before = dump(database)
    index_run(database, second)
    remove_run(database, second.id)
    assert dump(database) == before
    remove_run(database, first.id)
    remove_run(database, third.id)
    assert set(counts(database).values()) == {0}
    with pytest.raises(StoreError, match="no run 'demo-1'"):
        remove_run(database, "demo-1")


def test_what_runs_share_is_stored_once(database: Database, tmp_path: Path) -> None:
    first, second, _ = three_runs(tmp_path)
    index_run(database, first)
    one = counts(database)
    index_run(database, second)
    two = counts(database)
    assert one["prompts"] == two["prompts"] == 9 + 5
    assert one["lists"] == two["lists"]
    assert two["responses"] == 2 * one["responses"]


def test_a_model_is_called_as_in_its_newest_run(database: Database, tmp_path: Path) -> None:
    tasks = {"copa": choice_docs(2)}
    old = make_run(tmp_path, run="old", tasks=tasks, created="2026-01-01T00:00:00Z")
    new = make_run(tmp_path, run="new", tasks=tasks, created="2026-02-01T00:00:00Z")
    for run, name in ((old, "as-old"), (new, "as-new")):
        run.manifest["model"] |= {"name": name, "fingerprint": "same"}
    for order in ((old, new), (new, old)):
        for run in order:
            index_run(database, run)
        assert [row["name"] for row in dump(database)["models"]] == ["as-new"]
        remove_run(database, "new")
        assert [row["name"] for row in dump(database)["models"]] == ["as-old"]
        remove_run(database, "old")


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "scores.json").unlink(),
        lambda folder: (folder / "scores.json").write_text("[{}]"),
        lambda folder: (folder / "samples" / "copa.jsonl.gz").unlink(),
        lambda folder: (folder / "plan" / "copa.jsonl.gz").unlink(),
        lambda folder: (folder / "responses" / "copa.jsonl.gz").write_bytes(b"no gzip"),
        lambda folder: (folder / "samples" / "copa.jsonl.gz").write_bytes(gzip.compress(b'{"task": "copa"}\n')),
        lambda folder: (folder / "manifest.json").write_text('{"run": "a", "tasks": {}}'),
        lambda folder: (folder / "manifest.json").write_text("{"),
    ],
)
def test_a_torn_folder_is_refused_and_the_run_stays_as_it_was(tmp_path: Path, harm: Any) -> None:
    with open_database(f"sqlite:///{tmp_path}/test.db") as database:
        run = make_run(tmp_path, run="a", tasks={"copa": choice_docs(3)})
        index_run(database, run)
        before = dump(database)
        harm(run.path)
        with pytest.raises(StoreError, match=r"^[^\n]+$"):
            index_run(database, Run(run.path))
        assert dump(database) == before


def test_a_skipped_task_has_a_score_with_its_reason_and_nothing_else(database: Database, tmp_path: Path) -> None:
    run = make_run(tmp_path, run="a", tasks={"copa": choice_docs(3)}, skipped={"flores": "data missing"})
    scores = run.scores()
    missing = replace(scores[0], task="flores", value=None, ci_low=None, ci_high=None, n=0, reason="data missing")
    (run.path / "scores.json").write_text(json.dumps([*map(_asdict, scores), _asdict(missing)]))
    index_run(database, run)
    assert [row.score for row in queries.scores(database, tasks=["flores"])] == [missing]
    assert queries.runs(database)[0].tasks == ["copa"]
    (run.path / "scores.json").write_text(json.dumps([_asdict(replace(missing, task="neither"))]))
    with pytest.raises(StoreError, match="neither"):
        index_run(database, run)


def test_imported_scores_need_no_samples(database: Database, tmp_path: Path) -> None:
    run = make_run(tmp_path, run="a", tasks={"copa": choice_docs(3)})
    for folder in ("samples", "plan", "responses"):
        shutil.rmtree(run.path / folder)
    index_run(database, run)
    assert [row.score for row in queries.scores(database)] == run.scores()
    with pytest.raises(StoreError, match="without samples"):
        queries.items(database, "a", "copa", "acc")
    with pytest.raises(StoreError, match="no sample"):
        queries.sample(database, "a", "copa", "0")


def _asdict(score: Any) -> dict[str, Any]:
    return {name: getattr(score, name) for name in score.__slots__}


# ---- queries


def test_runs_come_newest_first_and_are_filtered(database: Database, tmp_path: Path) -> None:
    for run in three_runs(tmp_path):
        index_run(database, run)

    def found(**wanted: Any) -> list[str]:
        return [row.id for row in queries.runs(database, **wanted)]

    assert found() == ["demo-2", "base-1", "demo-1"]
    assert found(limit=1) == ["demo-2"]
    assert found(task="translate") == ["base-1", "demo-1"]
    assert found(model="demo") == found(model="demo-weights") == ["demo-2", "demo-1"]
    assert found(model="demo*") == found()
    assert found(model="DEMO") == found(model="d_mo") == found(name="%") == []
    assert found(name="ö*") == ["demo-2"]
    assert found(model="demo", task="translate", name="demo") == ["demo-1"]
    newest = queries.runs(database)[0]
    assert (newest.tasks, newest.model, newest.name, newest.partial) == (["copa"], "demo", "öö", False)
    assert queries.runs(database)[1].created == "2026-11-19T08:00:00.000000Z"  # given as 10:00 +02:00


def test_a_run_is_found_by_id_start_name_or_model(database: Database, tmp_path: Path) -> None:
    for run in three_runs(tmp_path):
        index_run(database, run)
    assert queries.find_run(database, "demo-1") == "demo-1"
    assert queries.find_run(database, "base") == "base-1"
    assert queries.find_run(database, "demo") == "demo-2"  # the newest run of that model
    assert queries.find_run(database, "öö") == "demo-2"
    with pytest.raises(StoreError, match="start of 2 runs"):
        queries.find_run(database, "dem")
    with pytest.raises(StoreError, match="Did you mean 'demo-2' or 'demo-1'"):
        queries.find_run(database, "demo-l")
    with pytest.raises(StoreError, match="no run ''"):
        queries.find_run(database, "")


def test_manifest_and_tasks_are_as_in_the_folder(database: Database, tmp_path: Path) -> None:
    run = three_runs(tmp_path)[0]
    index_run(database, run)
    assert queries.manifest(database, run.id) == run.manifest
    rows = queries.tasks(database, run.id)
    assert [row.task for row in rows] == run.tasks
    assert rows[0].card == run.manifest["tasks"]["copa"]
    assert (rows[0].n, rows[0].primary, rows[0].plan_hash, rows[0].publish_items) == (9, "acc", "copa-plan", True)
    for ask in (queries.manifest, queries.tasks):
        with pytest.raises(StoreError, match="Did you mean 'demo-1'"):
            ask(database, "demo-l")


def test_scores_are_as_in_the_folder(database: Database, tmp_path: Path) -> None:
    indexed = three_runs(tmp_path)
    for run in indexed:
        index_run(database, run)
    for run in indexed:
        assert [row.score for row in queries.scores(database, runs=[run.id])] == run.scores()
    primary = queries.scores(database, tasks=["copa"], primary=True)
    assert [(row.run, row.name, row.model, row.score.metric) for row in primary] == [
        ("demo-2", "öö", "demo", "acc"),
        ("base-1", "demo-base", "demo-base", "acc"),
        ("demo-1", "demo", "demo", "acc"),
    ]
    assert queries.scores(database, runs=[]) == []


def test_a_score_that_is_no_number_is_missing(database: Database, tmp_path: Path) -> None:
    run = make_run(tmp_path, run="a", tasks={"copa": choice_docs(3)})
    rows = [_asdict(replace(score, ci_low=float("nan"))) for score in run.scores()]
    (run.path / "scores.json").write_text(json.dumps(rows))
    index_run(database, run)
    assert queries.scores(database)[0].score.ci_low is None


def test_lists_of_runs_and_scores_touch_no_table_that_grows_with_samples(database: Database, tmp_path: Path) -> None:
    for run in three_runs(tmp_path):
        index_run(database, run)
    asked: list[str] = []

    def listen(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", listen)
    queries.runs(database, name="*", model="demo*", task="copa")
    queries.find_run(database, "demo")
    queries.tasks(database, "demo-1")
    queries.scores(database, primary=True)
    heavy = ("items", "responses", "lists", "prompts.", "manifest")
    assert not [word for word in heavy for statement in asked if f"FROM {word}" in statement or f".{word}" in statement]
    asked.clear()
    queries.items(database, "demo-1", "copa", "acc")
    assert any("FROM items" in statement for statement in asked)  # negative control


def test_items_come_back_exactly(database: Database, tmp_path: Path) -> None:
    run = make_run(tmp_path, run="a", tasks={"copa": choice_docs(15, seed=1, clusters=4), "translate": text_docs(5)})
    index_run(database, run)
    for task, metric, dtype in (
        ("copa", "acc", np.uint8),
        ("copa", "acc_norm", np.float64),
        ("translate", "chrf", np.int32),
        ("translate", "gec", object),
    ):
        with_value = [sample for sample in run.samples(task) if metric in sample.values]
        items = queries.items(database, "a", task, metric)
        assert items.values.dtype == dtype
        assert items.values.tolist() == [sample.values[metric] for sample in with_value]
        assert list(items.docs) == [sample.doc_hash for sample in with_value]
        assert items.clusters == (tuple(s.cluster for s in with_value) if task == "copa" else None)
    assert len(queries.items(database, "a", "copa", "acc").docs) == 13  # two had no response
    assert queries.items(database, "a", "translate", "chrf").values.shape == (5, 4)


def test_items_of_many_runs_are_those_of_each(database: Database, tmp_path: Path) -> None:
    for run in three_runs(tmp_path):
        index_run(database, run)
    found = queries.items_of_runs(database, ["demo-1", "base-1", "demo-2", "no such"], "translate", "chrf")
    assert set(found) == {"demo-1", "base-1"}
    for run_id, items in found.items():
        alone = queries.items(database, run_id, "translate", "chrf")
        assert (items.docs, items.values.tolist()) == (alone.docs, alone.values.tolist())


def test_what_is_not_there_is_said_with_what_is(database: Database, tmp_path: Path) -> None:
    index_run(database, make_run(tmp_path, run="a", tasks={"copa": choice_docs(3)}))
    with pytest.raises(StoreError, match="no 'f1' doc by doc for copa: it has acc, acc_norm"):
        queries.items(database, "a", "copa", "f1")
    with pytest.raises(StoreError, match="no task 'cop': it has copa"):
        queries.items(database, "a", "cop", "acc")
    with pytest.raises(StoreError, match="no run 'b'"):
        queries.items(database, "b", "copa", "acc")
    with pytest.raises(StoreError, match="no task 'cop'"):
        queries.sample(database, "a", "cop", "x")
    with pytest.raises(StoreError, match="no prompt 'x'"):
        queries.prompt(database, "x")


def test_a_pair_is_aligned_by_doc_hash(database: Database, tmp_path: Path) -> None:
    def docs(rows: str, seed: int, asked: str = "") -> list[FakeDoc]:
        made = choice_docs(len(rows), seed=seed)
        return [replace(doc, row=row, cluster=row, asked=asked or row) for doc, row in zip(made, rows, strict=True)]

    a = make_run(tmp_path, run="a", tasks={"copa": docs("abcdef", 0)})
    b = make_run(tmp_path, run="b", tasks={"copa": docs("xfdba", 2)})
    index_run(database, a)
    index_run(database, b)
    pair = queries.pair(database, "a", "b", "copa", "acc_norm")
    value = {run.id: {sample.doc_hash: sample.values["acc_norm"] for sample in run.samples("copa")} for run in (a, b)}
    assert pair.clusters == ("a", "b", "d", "f")
    assert pair.a.tolist() == [value["a"][doc] for doc in pair.docs]
    assert pair.b.tolist() == [value["b"][doc] for doc in pair.docs]
    assert (pair.only_a, pair.only_b, pair.asked_otherwise) == (2, 1, 0)
    same = queries.pair(database, "a", "a", "copa", "acc")
    assert (same.a == same.b).all()
    assert (len(same.docs), same.only_a, same.only_b) == (6, 0, 0)


def test_a_pair_counts_docs_that_were_asked_in_other_words(database: Database, tmp_path: Path) -> None:
    first = [replace(doc, asked="one") for doc in choice_docs(4)]
    second = [replace(doc, asked="one" if i else "two") for i, doc in enumerate(choice_docs(4, seed=2))]
    index_run(database, make_run(tmp_path, run="a", tasks={"copa": first}))
    index_run(database, make_run(tmp_path, run="b", tasks={"copa": second}))
    index_run(database, make_run(tmp_path, run="c", tasks={"copa": choice_docs(4)}))
    assert queries.pair(database, "a", "b", "copa", "acc").asked_otherwise == 1
    assert queries.pair(database, "a", "c", "copa", "acc").asked_otherwise is None


def test_runs_that_share_no_doc_make_an_empty_pair(database: Database, tmp_path: Path) -> None:
    index_run(database, make_run(tmp_path, run="a", tasks={"copa": text_docs(3)}))
    index_run(
        database,
        make_run(tmp_path, run="b", tasks={"copa": [replace(d, row=f"{i}") for i, d in enumerate(text_docs(4))]}),
    )
    pair = queries.pair(database, "a", "b", "copa", "chrf")
    assert (pair.docs, pair.a.shape, pair.b.shape, pair.only_a, pair.only_b) == ((), (0, 4), (0, 4), 3, 4)


def test_every_sample_is_as_in_the_folder_with_its_responses_and_prompt(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BLOCK", 4)  # several blocks, the last one not full
    run = make_run(
        tmp_path, run="a", tasks={"copa": choice_docs(15, seed=1, clusters=2), "lm_eval/translate": text_docs(5)}
    )
    index_run(database, run)
    for task in run.tasks:
        prompts = {doc.doc_hash: doc.prompt for doc in run.plan(task)}
        for sample in run.samples(task):
            stored = queries.sample(database, "a", task, sample.doc_hash)
            assert stored.sample == sample
            answers = [r for r in run.responses(task) if r["doc_id"] == sample.doc_id]
            assert [
                {"doc_id": sample.doc_id, "key": answer["key"]} | kept
                for answer, kept in zip(answers, stored.responses, strict=True)
            ] == answers
            assert queries.prompt(database, sample.prompt_hash) == prompts[sample.doc_hash]


def test_outside_text_comes_back_as_it_was(database: Database, tmp_path: Path) -> None:
    wild = "nul \x00, quote ' \" -- ; DROP TABLE runs, <script>, õäöüšž, 🦉, rtl \u202e, bidi"
    doc = FakeDoc(
        {"acc": 1}, answer=wild, target=[wild], responses=[{"text": wild}], prompt=wild, cluster=wild, asked=wild
    )
    odd = "x'); DROP TABLE runs; -- %s :name {0}"
    run = make_run(tmp_path, run=odd, tasks={odd.replace("/", "_"): [doc]}, model=odd)
    index_run(database, run)
    sample = next(run.samples(odd))
    stored = queries.sample(database, odd, odd, sample.doc_hash)
    assert stored.sample == sample
    assert stored.responses == [{"index": 0, "text": wild}]
    assert queries.prompt(database, sample.prompt_hash) == wild
    assert queries.find_run(database, odd) == odd


def test_an_answer_with_half_a_surrogate_pair_is_kept(database: Database, tmp_path: Path) -> None:
    run = make_run(
        tmp_path, run="a", tasks={"copa": [FakeDoc({"acc": 0}, answer="MARK", responses=[{"text": "MARK"}])]}
    )
    for part in ("samples", "responses"):
        path = run.path / part / "copa.jsonl.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"MARK", b"\\ud800")))
    index_run(database, run)
    stored = queries.sample(database, "a", "copa", next(run.samples("copa")).doc_hash)
    assert stored.sample.answer == stored.responses[0]["text"] == "\ud800"


def test_tokens_per_word_leave_out_what_every_prompt_has_beside_its_words() -> None:
    from estbench.database.index import _tokens_of_words

    words = list(range(5, 65))
    plain = [(count, 2 * count) for count in words]
    templated = [(count, 2 * count + 30) for count in words]
    assert _tokens_of_words(plain) == _tokens_of_words(templated) == 2 * sum(words)
    assert _tokens_of_words(templated[:5]) == sum(tokens for _, tokens in templated[:5])  # too few to tell
    assert _tokens_of_words([(7, 20)] * 40) == 800  # all alike
