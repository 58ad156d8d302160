"""What may not be published never leaves with a public export, and withheld golds are in no run folder at all."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest
from worlds import CHOICE, TEXT, World, rows

from estbench import registry, runner
from estbench.config import EvalSettings
from estbench.database import index_run, open_database, queries
from estbench.errors import StoreError
from estbench.exports import export
from estbench.merging import take_in
from estbench.runs import Run


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def evaluate(world: World, model: Path, tasks: str, gold: Path | None = None) -> Run:
    asked = EvalSettings(model=str(model), tasks=tasks, data=str(world.data), gold=str(gold) if gold else None)
    return runner.evaluate(runner.prepare(asked))


def everything(folder: Path) -> str:
    """All text of a folder, packed files unpacked."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            parts.append((gzip.decompress(content) if path.suffix == ".gz" else content).decode())
    return "\n".join(parts)


def test_a_public_export_has_no_items_of_tasks_that_may_not_be_published(
    world: World, home: Path, tiny_model: Path, tmp_path: Path
) -> None:
    world.edit("words", metadata=TEXT["metadata"] | {"publish_items": False})
    world.fill("words", [{**row, "question": f"SALADUS {row['question']}"} for row in rows(12)], rows(4, start=1000))
    run = evaluate(world, tiny_model, "both")
    secrets = [sample.doc_hash for sample in run.samples("words")] + ["SALADUS"]
    assert all(secret in everything(run.path) for secret in secrets)  # it is there to be found
    assert export(run, tmp_path / "public", private=False) == ["words"]
    text = everything(tmp_path / "public")
    assert not any(secret in text for secret in secrets)
    assert "Mis on number" in text  # the other task's items are published
    copy = Run(tmp_path / "public")
    assert copy.scores() == run.scores() and len(list(copy.samples("letters"))) == 12
    export(run, tmp_path / "public.tar.gz", private=False)
    with tarfile.open(tmp_path / "public.tar.gz") as packed:
        assert not any("words" in name for name in packed.getnames())


def test_a_public_export_is_taken_in_and_indexed(
    world: World, home: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.edit("words", metadata=TEXT["metadata"] | {"publish_items": False})
    run = evaluate(world, tiny_model, "both")
    export(run, tmp_path / "public", private=False)
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "elsewhere"))
    [taken] = take_in([tmp_path / "public"], print)
    with open_database(None) as database:
        index_run(database, taken)
        assert [row.id for row in queries.runs(database)] == [run.id]


def test_a_private_export_has_everything(world: World, home: Path, tiny_model: Path, tmp_path: Path) -> None:
    world.edit("words", metadata=TEXT["metadata"] | {"publish_items": False})
    run = evaluate(world, tiny_model, "both")
    assert export(run, tmp_path / "private", private=True) == []
    assert everything(tmp_path / "private") == everything(run.path)
    with pytest.raises(StoreError, match="exists already"):
        export(run, tmp_path / "private", private=True)


def test_withheld_golds_are_not_written_and_their_items_never_leave(
    world: World, home: Path, tiny_model: Path, tmp_path: Path
) -> None:
    answers = [f"kuldvastus-{i}" for i in range(12)]
    secret = {
        **{key: value for key, value in TEXT.items() if key != "metadata"},
        "doc_to_target": "{{gold_answer if gold_answer is not none else ''}}",
        "fewshot_split": None,
        "num_fewshot": 0,
        "metadata": CHOICE["metadata"]
        | {
            "primary": "exact_match",
            "chance": 0.0,
            "publish_items": False,
            "access": "withheld",
            "gold": {"key": "question", "fields": ["gold_answer"]},
        },
    }
    world.write(secret)
    world.fill("words", rows(12))
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        "".join(
            json.dumps({"question": row["question"], "gold_answer": answer}) + "\n"
            for row, answer in zip(rows(12), answers, strict=True)
        )
    )
    scored = evaluate(world, tiny_model, "words", gold)
    assert scored.scores()[0].value is not None and scored.scores()[0].n == 12
    text = everything(scored.path)
    assert not any(answer in text for answer in answers) and "Mis on number" in text
    unscored = evaluate(world, tiny_model, "words")
    [score] = [score for score in unscored.scores() if score.primary]
    assert score.value is None and score.reason == "golds are withheld: gold=FILE"
    assert len(list(unscored.responses("words"))) == 12  # nothing is forwarded again once the golds are there
    assert unscored.id != scored.id
    # an answer and whether it is right give a gold away: neither the database nor a public export has them
    with open_database(None) as database:
        index_run(database, scored)
        with database.engine.connect() as connection:
            assert connection.exec_driver_sql("select count(*) from items").scalar() == 0
            assert connection.exec_driver_sql("select count(*) from responses").scalar() == 0
            assert connection.exec_driver_sql("select count(*) from scores").scalar() > 0
    export(scored, tmp_path / "public", private=False)
    assert [path.name for path in (tmp_path / "public").rglob("*") if path.is_file()].count("words.jsonl.gz") == 0


def test_a_public_export_names_no_place_on_this_machine(
    world: World, home: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = evaluate(world, tiny_model, "both")
    assert str(tmp_path) in (run.path / "manifest.json").read_text("utf-8")
    export(run, tmp_path / "public", private=False)
    text = everything(tmp_path / "public")
    assert str(tmp_path) not in text and str(tiny_model.parent) not in text and tiny_model.name in text


def test_a_run_folder_with_an_odd_name_is_exported_like_any_other(
    world: World, home: Path, tiny_model: Path, tmp_path: Path
) -> None:
    world.edit("words", metadata=TEXT["metadata"] | {"publish_items": False})
    run = evaluate(world, tiny_model, "both")
    odd = Run(run.path.rename(tmp_path / "samples"))
    (odd.path / "notes.txt").write_text("Mis on number 3?")
    export(odd, tmp_path / "public", private=False)
    assert not (tmp_path / "public" / "notes.txt").exists()
    assert not list((tmp_path / "public").rglob("words.jsonl.gz"))
