"""The main job above the seam: what is reused, what is computed again, what a run folder holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds import World, rows

from estbench import identity, registry, runner
from estbench.config import EvalSettings
from estbench.engines.base import Packing
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.errors import PlanError, StoreError
from estbench.plan import Scope, render
from estbench.runs import Run


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def evaluate(
    world: World, *, model: str = "mock", engine: MockEngine | None = None, **settings: Any
) -> tuple[Run, int]:
    """The run, and how many requests were forwarded for it."""
    asked = EvalSettings(model=model, tasks="both", data=str(world.data), **settings)
    engine = engine or MockEngine(answer=lambda prompt: prompt[-8:-1])
    scope = Scope(asked.limit, asked.slice_of, asked.shots, asked.seed, world.data, asked.truncate)
    tokens: Any = MockTokens()
    cards = registry.Registry().select("both").tasks
    plans = [render(card, tokens, engine.max_length, scope) for card in cards]
    job = runner.Job(asked, mock_checkpoint(model), tokens, engine, plans, ["both"], {})
    return runner.evaluate(job), engine.forwarded


def values(run: Run) -> dict[tuple[str, int], Any]:
    return {(task, s.doc_id): s.values for task in run.tasks for s in run.samples(task)}


DOCS, REQUESTS = 24, 36  # 12 documents with two choices, 12 with one answer


def test_an_unchanged_rerun_forwards_nothing_and_gives_the_same_run(world: World) -> None:
    first, forwarded = evaluate(world)
    engine = MockEngine(answer=lambda prompt: "something else")
    again, none = evaluate(world, engine=engine)
    assert (forwarded, none) == (REQUESTS, 0) and not engine.loaded
    assert again.path == first.path and again.scores() == first.scores() and values(again) == values(first)


def test_raising_the_limit_forwards_only_what_is_new(world: World) -> None:
    small, forwarded = evaluate(world, limit=5)
    assert forwarded == 15 and small.manifest["partial"]
    large, more = evaluate(world, limit=9)
    assert more == 12
    assert values(small).items() <= values(large).items()
    whole, rest = evaluate(world)
    assert rest == REQUESTS - 27 and not whole.manifest["partial"]


def test_lowering_the_limit_forwards_nothing(world: World) -> None:
    evaluate(world)
    assert evaluate(world, limit=3)[1] == 0


def test_other_weights_forward_everything(world: World) -> None:
    evaluate(world)
    assert evaluate(world, model="mock-2")[1] == REQUESTS


def test_editing_a_metric_forwards_nothing_and_changes_sample_and_result(world: World) -> None:
    before, _ = evaluate(world)
    world.edit(
        "letters",
        metric_list=[{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
        metadata=world.read("letters")["metadata"] | {"primary": "acc_norm"},
    )
    after, forwarded = evaluate(world)
    assert forwarded == 0
    assert after.manifest["identity"]["result"] != before.manifest["identity"]["result"]
    assert after.manifest["identity"]["plan"] == before.manifest["identity"]["plan"]
    assert {s.key for s in after.samples("letters")}.isdisjoint(s.key for s in before.samples("letters"))
    assert [s.key for s in after.samples("words")] == [s.key for s in before.samples("words")]


def test_editing_a_prompt_forwards_that_task_again_and_no_other(world: World) -> None:
    evaluate(world)
    world.edit("letters", doc_to_text="Küsimus: {{question}} Vastus:")
    assert evaluate(world)[1] == 24


def test_editing_one_choice_template_forwards_the_task_again(world: World) -> None:
    evaluate(world)
    world.edit("letters", doc_to_choice="{{[first, second ~ '.']}}")
    assert evaluate(world)[1] == 24  # the prompts hold shots, whose answers changed with the template


@pytest.mark.parametrize(
    "change", [{"max_gen_toks": 7}, {"until": ["\n", "."]}, {"do_sample": True, "temperature": 0.7}]
)
def test_editing_a_decoding_setting_forwards_that_task_again(world: World, change: dict[str, Any]) -> None:
    evaluate(world)
    world.edit("words", generation_kwargs=world.read("words")["generation_kwargs"] | change)
    assert evaluate(world)[1] == 12


def test_editing_a_row_forwards_that_row_alone(world: World) -> None:
    before, _ = evaluate(world)
    changed = rows(12)
    changed[3] = changed[3] | {"question": "Midagi muud?"}
    world.fill("letters", changed)
    after, forwarded = evaluate(world)
    assert forwarded == 2
    same = {s.doc_hash for s in before.samples("letters")} & {s.doc_hash for s in after.samples("letters")}
    assert len(same) == 11


def test_editing_the_gold_of_a_row_forwards_nothing_and_rescores_it(world: World) -> None:
    before, _ = evaluate(world)
    changed = rows(12)
    changed[3] = changed[3] | {"label": 1 - changed[3]["label"]}
    world.fill("letters", changed)
    after, forwarded = evaluate(world)
    assert forwarded == 0
    flipped = [key for key, value in values(after).items() if value != values(before)[key]]
    assert flipped == [("letters", 3)]


def test_editing_a_shot_forwards_every_prompt_that_uses_it(world: World) -> None:
    evaluate(world)
    shots = rows(4, start=1000)
    world.fill("letters", rows(12), [shots[0], shots[1], shots[2] | {"question": "Muu?"}, shots[3]])
    assert evaluate(world)[1] == 0  # the third example is not among the two that are shown
    world.fill("letters", rows(12), [shots[0] | {"question": "Muu?"}, *shots[1:]])
    assert evaluate(world)[1] == 24


def test_the_same_request_in_two_documents_is_forwarded_once(world: World) -> None:
    world.fill("letters", [*rows(5), rows(5)[2]])
    run, forwarded = evaluate(world)
    assert forwarded == 10 + 12
    hashes = [s.doc_hash for s in run.samples("letters")]
    assert len(set(hashes)) == 6 and hashes[5] == f"{hashes[2]}-2"


def test_random_shots_of_a_document_do_not_depend_on_the_limit(world: World) -> None:
    world.edit("words", fewshot_config={"sampler": "default"})
    small, _ = evaluate(world, limit=4)
    assert evaluate(world)[1] == REQUESTS - 12
    prompts = {doc.doc_hash: doc.prompt for doc in evaluate(world)[0].plan("words")}
    assert all(prompts[doc.doc_hash] == doc.prompt for doc in small.plan("words"))
    assert len(set(prompts.values())) == 12


def test_another_seed_draws_other_shots(world: World) -> None:
    world.edit("words", fewshot_config={"sampler": "default"})
    one, two = evaluate(world)[0], evaluate(world, seed=7)[0]
    assert [doc.prompt for doc in one.plan("words")] != [doc.prompt for doc in two.plan("words")]


def test_limit_takes_documents_by_hash_and_not_the_first(world: World) -> None:
    whole, few = evaluate(world)[0], evaluate(world, limit=4)[0]
    hashes = sorted(s.doc_hash for s in whole.samples("words"))
    assert sorted(s.doc_hash for s in few.samples("words")) == hashes[:4]
    assert [s.doc_id for s in few.samples("words")] != [0, 1, 2, 3]


def test_slices_are_disjoint_and_make_the_whole(world: World) -> None:
    parts = [evaluate(world, slice=f"{i}/3")[0] for i in (1, 2, 3)]
    ids = [s.doc_id for part in parts for s in part.samples("words")]
    assert sorted(ids) == list(range(12))


def test_a_slice_has_no_scores(world: World) -> None:
    assert evaluate(world, slice="1/3")[0].scores() == []


def test_merged_slices_are_the_very_run_that_one_process_makes(world: World, home: Path) -> None:
    from estbench import merging

    whole, _ = evaluate(world)
    content = {path.relative_to(whole.path): path.read_bytes() for path in whole.path.rglob("*.gz")}
    shutil.move(whole.path, home / "whole")
    parts = [evaluate(world, slice=f"{i}/3")[0] for i in (1, 2, 3)]
    assert len(merging.take_in([parts[0].path], runner.silent)) == 1 + 1  # all three lie in runs/ already
    merged = merging.merge(parts)
    kept = Run(home / "whole")
    assert merged.id == kept.id and merged.scores() == kept.scores()
    assert {path.relative_to(merged.path): path.read_bytes() for path in merged.path.rglob("*.gz")} == content
    assert merged.manifest["slice"] is None and not merged.manifest["partial"]


def test_a_run_folder_explains_itself(world: World) -> None:
    run, _ = evaluate(world, name="Proov")
    for part in ("plan", "responses", "samples"):
        assert sorted(path.name for path in (run.path / part).iterdir()) == ["letters.jsonl.gz", "words.jsonl.gz"]
    manifest = run.manifest
    assert manifest["name"] == "Proov" and manifest["tasks"]["letters"]["n_docs"] == 12
    assert manifest["tasks"]["letters"]["data"]["hash"] and manifest["command"].startswith(
        "estbench eval model=mock tasks=both"
    )
    doc = next(run.plan("letters"))
    assert doc.prompt.endswith("Mis on number 0?\nVastus:") and doc.prompt.count("Küsimus:") == 3
    keys = [request["key"] for request in doc.requests]
    assert [row["key"] for row in run.responses("letters") if row["doc_id"] == 0] == keys
    score = run.scores()[0]
    assert (score.task, score.metric, score.primary, score.n, score.chance) == ("letters", "acc", True, 12, 0.5)
    assert score.ci_low is not None and score.ci_high is not None and score.value is not None
    assert score.ci_low <= score.value <= score.ci_high


def test_the_plan_does_not_depend_on_the_model(world: World) -> None:
    one, two = evaluate(world)[0].manifest, evaluate(world, model="mock-2")[0].manifest
    assert one["identity"]["plan"] == two["identity"]["plan"]
    assert one["identity"]["response"] != two["identity"]["response"]


def test_packs_are_a_function_of_the_plan_and_cover_it_once(world: World) -> None:
    tokens: Any = MockTokens()
    for card in registry.Registry().select("both").tasks:
        made = []
        for _ in range(2):
            plan = render(card, tokens, 10_000, Scope(data=world.data))
            for doc in plan.docs:
                doc.keys = [identity.response_key("00", request.content()) for request in doc.requests]
            made.append(plan.packs(Packing(nodes=60, rows=4)))
        assert len(made[0]) > 1
        assert sorted(key for pack in made[0] for key in pack.keys) == sorted({k for d in plan.docs for k in d.keys})
        assert [(pack.id, pack.stem) for pack in made[0]] == [(pack.id, pack.stem) for pack in made[1]]


def test_a_pack_that_was_not_stored_is_computed_whole_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MockEngine, "packing", Packing(nodes=12))
    sizes: list[int] = []

    class Dying(MockEngine):
        def score(self, requests: Any) -> Any:
            sizes.append(len(requests))
            if len(sizes) == 3:
                raise KeyboardInterrupt
            return super().score(requests)

    with pytest.raises(KeyboardInterrupt):
        evaluate(world, engine=Dying())
    after: list[int] = []

    class Watching(MockEngine):
        def score(self, requests: Any) -> Any:
            after.append(len(requests))
            return super().score(requests)

    run, _ = evaluate(world, engine=Watching(answer=lambda prompt: prompt[-8:-1]))
    assert min(sizes) > 1 and after[0] == sizes[2]  # the pack that was interrupted, as it was
    assert sum(sizes[:2]) + sum(after) == 24  # all of "letters"
    shutil.rmtree(run.path.parents[1] / "responses")
    assert values(evaluate(world)[0]) == values(run)


def test_a_torn_store_is_completed(world: World, home: Path) -> None:
    first, _ = evaluate(world)
    (file,) = (home / "responses").glob("*/*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    again, forwarded = evaluate(world)
    assert 0 < forwarded < REQUESTS and again.scores() == first.scores() and again.id == first.id


def literal_list(world: World) -> None:
    world.edit("letters", doc_to_choice=["{{first}}", "{{second}}"])


def unknown_field(world: World) -> None:
    world.edit("letters", doc_to_text="{{qestion}}")


def long_prompt(world: World) -> None:
    world.fill("letters", [*rows(12)[:-1], rows(12)[-1] | {"question": "väga " * 500}])


def unknown_decoding(world: World) -> None:
    world.edit("words", generation_kwargs={"num_beams": 4})


def wrong_cluster(world: World) -> None:
    world.edit("words", metadata=world.read("words")["metadata"] | {"cluster": "{{passage}}"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (literal_list, r"document \d+: \{\{first\}\} was not rendered"),
        (unknown_field, "qestion"),
        (long_prompt, "prompt needs .* tokens, the model's context is 500.*truncate=true"),
        (unknown_decoding, "num_beams"),
        (wrong_cluster, "metadata.cluster"),
    ],
)
def test_a_plan_that_would_score_something_else_is_refused(
    world: World, home: Path, spoil: Callable[[World], None], message: str
) -> None:
    engine = MockEngine()
    engine.max_length = 500
    spoil(world)
    with pytest.raises(PlanError, match=message) as caught:
        evaluate(world, engine=engine)
    assert "\n" not in str(caught.value) and not engine.loaded
    assert not (home / "runs").exists() and not (home / "responses").exists()


def test_braces_that_come_from_the_data_are_no_template(world: World) -> None:
    world.fill("letters", [row | {"question": "Mis on {{x}}?"} for row in rows(4)])
    assert evaluate(world)[0].scores()[0].n == 4


def test_truncation_is_recorded_and_changes_the_plan(world: World) -> None:
    whole, _ = evaluate(world)
    engine = MockEngine(answer=lambda prompt: "")
    engine.max_length = 24
    cut, _ = evaluate(world, engine=engine, truncate=True)
    assert cut.manifest["tasks"]["letters"]["truncated"] > 0
    assert cut.manifest["identity"]["plan"] != whole.manifest["identity"]["plan"]


def test_a_home_that_cannot_be_written_is_found_before_any_work(world: World, home: Path) -> None:
    (home / "responses").write_text("a file where the folder should be")
    engine = MockEngine()
    with pytest.raises(StoreError, match="ESTBENCH_HOME"):
        evaluate(world, engine=engine)
    assert engine.forwarded == 0 and not engine.loaded


def test_a_disk_that_is_full_at_the_end_keeps_the_responses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "scores.json")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_lines", full)
        with pytest.raises(StoreError, match="No space left"):
            evaluate(world)
    assert evaluate(world)[1] == 0


def test_estbench_home_moves_everything(
    world: World, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("ESTBENCH_HOME", str(elsewhere))
    run, _ = evaluate(world)
    assert run.path.is_relative_to(elsewhere)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["responses", "runs"]
    assert sorted(path.name for path in home.iterdir()) == ["models"]


def test_a_manifest_of_a_newer_estbench_is_refused(world: World) -> None:
    run, _ = evaluate(world)
    manifest = run.path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 99}))
    with pytest.raises(StoreError, match="newer estbench"):
        Run(run.path)


def test_slices_of_different_slicings_are_not_put_together(world: World) -> None:
    from estbench import merging

    parts = [evaluate(world, slice="1/2")[0], evaluate(world, slice="2/3")[0]]
    heard: list[str] = []
    assert merging.take_in([part.path for part in parts], heard.append) == parts or len(heard) == 2
    assert len(heard) == 2 and all("1 of" in line and "the run is made of all" in line for line in heard)


def test_slices_with_different_system_messages_are_not_put_together(world: World) -> None:
    from estbench import merging

    said = ({"system": "Vasta lühidalt."}, {"system": "Vasta pikalt."})
    parts = [evaluate(world, slice=f"{i}/2", prompt_options=one)[0] for i, one in enumerate(said, 1)]
    heard: list[str] = []
    assert len(merging.take_in([part.path for part in parts], heard.append)) == len(heard) == 2
    same = [evaluate(world, slice=f"{i}/2", prompt_options=said[0])[0] for i in (1, 2)]
    assert len(merging.take_in([part.path for part in same], heard.append)) == 3


def test_a_slice_that_is_everything_is_still_no_run(world: World) -> None:
    whole, part = evaluate(world)[0], evaluate(world, slice="1/1")[0]
    assert part.id != whole.id and Run(whole.path).scores() == whole.scores() and whole.scores()


def test_a_limit_beyond_the_task_is_the_whole_run(world: World) -> None:
    whole, more = evaluate(world)[0], evaluate(world, limit=5000)[0]
    assert more.id == whole.id and not more.manifest["partial"]


def test_an_empty_slice_is_no_error(world: World) -> None:
    run, forwarded = evaluate(world, limit=1, slice="2/2")
    assert forwarded == 0 and list(run.samples("letters")) == []


def test_a_damaged_manifest_is_made_anew(world: World) -> None:
    run, _ = evaluate(world)
    (run.path / "manifest.json").write_text("")
    assert evaluate(world)[0].scores() == run.scores()


def test_a_chance_level_that_changes_makes_another_result(world: World) -> None:
    before, _ = evaluate(world)
    world.edit("letters", metadata=world.read("letters")["metadata"] | {"chance": 0.9})
    after, forwarded = evaluate(world)
    assert after.id != before.id and forwarded == 0


def test_repeats_are_refused_and_not_taken_for_one(world: World) -> None:
    world.edit("words", repeats=5)
    with pytest.raises(PlanError, match="repeats: 5"):
        evaluate(world)
