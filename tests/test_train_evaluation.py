"""Evaluations on the way: they land where those of `estbench eval` do, in order of tokens, and leave training alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from card_world import bare, checkpoint, context, small_tasks
from estbench_training import evaluation
from estbench_training.aside import interruptible, undisturbed
from estbench_training.evaluation import Decision, EvaluateSettings, Evaluator, History, Interrupted, Job, Point
from estbench_training.kinds import Context
from estbench_training.reading import parse
from estbench_training.watching import GateSettings, Look

from estbench import registry, runner
from estbench.cli import main
from estbench.database import open_database, queries
from estbench.errors import ConfigError, DataError, EngineError
from estbench.home import project_file

EVERY = EvaluateSettings(every=1, tasks="both")
WATCHED = {"et": ("letters",), "en": ("words",)}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stage(tiny_model: Path, tmp_path: Path, home: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Context:
    small_tasks(tmp_path / "world", monkeypatch)
    return context(tmp_path / "out", tiny_model, said=said)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"every": 0}, "every and limit have to be 1 or more"),
        ({"limit": 0}, "every and limit have to be 1 or more"),
        ({"where": "gpu"}, "'gpu' is none of here, none and gpu:N"),
        ({"where": "gpu:-1"}, "none of here, none and gpu:N"),
        ({"where": "none", "gate": {}}, "gate: needs evaluations"),
        ({"engine": "vllm"}, "vllm needs a device of its own"),
        ({"engine_options": {"dtipe": "float32"}}, "dtype"),
        ({"engine_options": {"dtype": "float31"}}, "float31"),
        ({"gate": {"alpha": 0}}, "alpha: 0 has to be above 0"),
        ({"gate": {"margin": -1}}, "margin: -1 has to be 0 or more"),
        ({"gate": {"mode": "kill"}}, "advise, stop"),
        ({"gate": {"languages": {"en": []}}}, "en has no tasks"),
        ({"tasc": "mini"}, "tasks"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_line(row: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(EvaluateSettings, row, "evaluate")
    assert words in str(found.value) and "\n" not in str(found.value)


def test_what_yaml_says_becomes_the_words_of_an_eval(stage: Context) -> None:
    row = {"tasks": ["letters"], "engine_options": {"dtype": "float32", "gpus": 1}, "limit": 3,
           "gate": {"languages": {"et": ["letters"], "en": ["words"]}}}  # fmt: skip
    settings = parse(EvaluateSettings, row, "evaluate")
    evaluator = Evaluator(settings, stage, 10)
    found = evaluator.eval_settings(Job(5, 5, "mudel", bare(stage, 5)))
    assert (found.tasks, found.limit) == ("letters,words", 3)  # what the gate names is evaluated, too
    assert found.engine_options == {"dtype": "float32", "gpus": "1"}


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (EvaluateSettings(tasks="lettres"), ConfigError, "'letters'"),
        (EvaluateSettings(tasks="both", data="."), DataError, "estbench data pull tasks=letters"),
        (EvaluateSettings(tasks="both", gate=GateSettings()), ConfigError, "none of the tasks is in en"),
        (EvaluateSettings(tasks="both", gate=GateSettings(languages=WATCHED, baseline="mu")), ConfigError, "mu"),
    ],
)
def test_what_is_not_there_is_found_before_training(
    stage: Context, settings: EvaluateSettings, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settings.data:
        monkeypatch.delenv("ESTBENCH_DATA")
    with pytest.raises(kind, match=words):
        Evaluator(settings, stage, 10)
    assert not stage.folder.exists()


@pytest.mark.parametrize(
    ("every", "steps", "planned"), [(4, 10, (4, 8, 10)), (5, 10, (5, 10)), (50, 10, (10,)), (1, 1, (1,))]
)
def test_it_is_due_every_so_many_steps_and_at_the_end(
    stage: Context, every: int, steps: int, planned: tuple[int, ...]
) -> None:
    evaluator = Evaluator(EvaluateSettings(every, "both"), stage, steps)
    assert evaluator.planned == planned
    assert [step for step in range(steps + 1) if evaluator.due(step)] == list(planned)


def test_nothing_is_due_where_nothing_is_evaluated(stage: Context) -> None:
    evaluator = Evaluator(EvaluateSettings(1, "no such task", where="none"), stage, 3)
    assert not any(evaluator.due(step) for step in range(4))
    assert evaluator(bare(stage, 1), 1, 1) == evaluator.finish() == Decision()
    assert not (stage.folder / evaluation.LOG).exists()


# --- points -----------------------------------------------------------------------------------------------------------


def test_points_land_in_the_database_and_on_the_boards_curve_in_order_of_tokens(
    stage: Context, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_leaderboard import curve
    from estbench_leaderboard.snapshot import take

    evaluator = Evaluator(EVERY, stage, 3)
    decisions = [evaluator(checkpoint(stage, step, steps=3), step, step * 1000) for step in (1, 2, 3)]
    assert [(point.step, point.tokens, set(point.scores)) for one in decisions for point in one.points] == [
        (step, step * 1000, {"letters", "words"}) for step in (1, 2, 3)
    ]
    assert not any(one.stop or one.reason for one in decisions)
    names = [f"mudel-cpt-step-00000{step}" for step in (1, 2, 3)]
    monkeypatch.setattr(registry, "project_file", project_file)  # the board's suites
    with open_database(None) as database:
        assert {row.name for row in queries.runs(database)} == set(names)
        snapshot = take(database)
    model = snapshot.model(names[1])
    assert model is not None and model.training is not None and model.training["data"][0]["licence"] == "cc0-1.0"
    found = curve.of(snapshot, model, key="letters")
    assert found is not None and (found.series, found.axis) == ("mudel-cpt", "tokens")
    assert [(point.model.name, point.at) for point in found.points] == list(zip(names, (1000, 2000, 3000), strict=True))
    assert [point.value for point in found.points] == [one.points[0].scores["letters"] for one in decisions]
    capsys.readouterr()
    assert main(["runs", "output=json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(names)


def test_a_run_is_that_of_the_command(stage: Context, capsys: pytest.CaptureFixture[str]) -> None:
    place = checkpoint(stage, 1)
    [point] = Evaluator(EVERY, stage, 2)(place, 1, 1000).points
    assert main(["eval", f"model={place}", "tasks=both", f"name={point.name}", "output=json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert run != point.run and run[-12:] == str(point.run)[-12:]  # another name, the same hash of all results


def test_a_checkpoint_without_a_card_is_called_by_its_step(stage: Context) -> None:
    evaluator = Evaluator(EVERY, stage, 2)
    place = Path(shutil.copytree(stage.start, stage.folder / "checkpoints" / "x"))
    assert evaluator(place, 1, 10).points[0].name == "mudel-cpt-step-000001"
    named = Evaluator(EvaluateSettings(1, "both", name="katse"), context(stage.folder / "b", stage.start), 2)
    assert named(checkpoint(stage, 1), 1, 10).points[0].name == "katse-step-000001"


@pytest.mark.parametrize("error", [EngineError("NaN"), RuntimeError("CUDA out of memory"), OSError(28, "disk full")])
def test_an_evaluation_that_fails_is_said_and_stops_nothing(
    stage: Context, said: list[str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    evaluator = Evaluator(EVERY, stage, 2)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", fail)
        decision = evaluator(checkpoint(stage, 1), 1, 1000)
    assert not decision.stop and decision.points[0].run is None
    assert len(said) == 1 and "mudel-cpt-step-000001 is missing" in said[0]
    assert evaluator(checkpoint(stage, 2), 2, 2000).points[0].scores  # the next one works


def test_a_log_that_cannot_be_written_stops_nothing(
    stage: Context, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: History, row: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(History, "_write", full)
    assert Evaluator(EVERY, stage, 2)(bare(stage, 1), 1, 1) == Decision()
    assert "No space left on device" in said[0]


# --- no trace ---------------------------------------------------------------------------------------------------------


def disturb() -> None:
    """What an evaluation might do to the process."""
    import torch

    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    torch.rand(3)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)


def trained(model: Path, look: Callable[[int], Any]) -> dict[str, Any]:
    """The weights after a few steps whose noise comes from all random numbers there are."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    net: Any = AutoModelForCausalLM.from_pretrained(model, attention_dropout=0.1)
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for step in range(1, 5):
        ids = torch.tensor([[random.randrange(300) for _ in range(16)], np.random.randint(0, 300, 16).tolist()])
        optimizer.zero_grad()
        loss = net(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        look(step)
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    import torch

    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_training_with_and_without_evaluation_gives_the_same_bits(
    stage: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = runner.evaluate

    def loud(*words: Any, **more: Any) -> Any:
        disturb()
        return evaluate(*words, **more)

    monkeypatch.setattr(runner, "evaluate", loud)
    evaluator = Evaluator(EvaluateSettings(2, "both", limit=2), stage, 4)
    places = {step: checkpoint(stage, step) for step in (2, 4)}
    points: list[Point] = []
    plain = trained(stage.start, lambda step: None)
    looked = trained(stage.start, lambda step: points.extend(evaluator(places.get(step, Path()), step, step).points))
    assert [point.reason for point in points] == [None, None]  # they did take place
    assert equal(plain, looked)


def test_without_the_guard_the_bits_differ(stage: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: what the guard is for does change a training."""
    import torch

    monkeypatch.setattr(evaluation, "undisturbed", nullcontext)

    def look(step: int) -> None:
        with evaluation.undisturbed():
            disturb()
            torch.set_grad_enabled(True)  # else it fails at once
            torch.set_default_dtype(torch.float32)

    assert not equal(trained(stage.start, lambda step: None), trained(stage.start, look))


def shaken() -> None:
    """An evaluation that leaves nothing as it was, and then fails."""
    import torch
    from transformers.utils import logging

    with undisturbed():
        assert not torch.are_deterministic_algorithms_enabled()
        disturb()
        torch.set_num_threads(torch.get_num_threads() + 1)
        logging.set_verbosity_error()
        raise ZeroDivisionError


def test_the_guard_gives_all_back_also_after_an_error() -> None:
    import torch
    from transformers.utils import logging

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    threads, loud = torch.get_num_threads(), logging.get_verbosity()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(ZeroDivisionError):
            shaken()
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # type: ignore[index]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert (torch.get_num_threads(), logging.get_verbosity()) == (threads, loud)


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_the_same_weights_are_not_evaluated_again_when_training_is_resumed(
    stage: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {step: checkpoint(stage, step) for step in (1, 2)}
    first = Evaluator(EVERY, stage, 3)
    points = [first(places[step], step, step).points[0] for step in (1, 2)]
    second = Evaluator(EVERY, stage, 3)
    monkeypatch.setattr(second, "_here", lambda job: pytest.fail("it was evaluated again"))
    assert second(places[2], 2, 2).points == (points[1],)
    shutil.rmtree(places[2])
    other = checkpoint(stage, 2, changed=0.1)  # other weights at the same step
    third = Evaluator(EVERY, stage, 3)
    assert third(other, 2, 2).points[0].run != points[1].run


def test_what_lies_ahead_does_not_count_once_training_has_gone_back(stage: Context) -> None:
    history = History(stage.folder / "log.jsonl")
    for step in (0, 1, 2, 3):
        history.begin(Job(step, step, f"m{step}", Path("x")))
        history.end(Point(step, step, f"m{step}", f"run{step}", {"letters": 0.5}))
    history.begin(Job(2, 2, "m2", Path("y")))
    for found in (history, History(history.path)):
        assert sorted(found.points) == [0, 1]
        assert [job.step for job in found.unfinished()] == [2]
        assert found.points[1] == Point(1, 1, "m1", "run1", {"letters": 0.5})


def test_a_torn_line_is_left_out_and_the_next_one_is_whole(stage: Context) -> None:
    history = History(stage.folder / "log.jsonl")
    history.begin(Job(1, 1, "m", Path("x")))
    with open(history.path, "a") as file:
        file.write('{"event": "ended", "st')
    again = History(history.path)
    assert [job.step for job in again.unfinished()] == [1]
    again.end(Point(1, 1, "m", "run"))
    assert History(history.path).points[1].run == "run"


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Signals that whoever listened before hears: the training loop, say."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def asked_to_end(*_: Any, **__: Any) -> None:
    """An evaluation during which a SIGTERM arrives; what looks like an error of its own is not taken for one."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(60)
    except Exception as error:
        pytest.fail(f"{error!r} was swallowed on its way")
    pytest.fail("it went on")


def test_a_sigterm_ends_an_evaluation_at_once_and_it_is_made_again(
    stage: Context, said: list[str], heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, place = Evaluator(EVERY, stage, 2), checkpoint(stage, 1)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", asked_to_end)
        with pytest.raises(Interrupted):
            evaluator(place, 1, 1000)
    assert heard == [signal.SIGTERM] and said == []  # the loop knows, too; nothing is called missing
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(heard) == 2  # the listener of before listens again
    again = Evaluator(EVERY, stage, 2)
    assert again.history.points == {} and [job.step for job in again.history.unfinished()] == [1]
    assert again(place, 1, 1000).points[0].scores


def test_without_a_guard_a_sigterm_only_notes_that_it_came(heard: list[int]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]  # negative control: this is why an evaluation has to be ended


def test_a_second_sigterm_does_not_cut_short_the_tidying_up(heard: list[int]) -> None:
    tidied = []

    def work() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                tidied.append(True)

    with pytest.raises(Interrupted):
        work()
    assert tidied == [True] and len(heard) == 2


def test_a_thread_that_hears_no_signals_evaluates_as_well() -> None:
    done: list[bool] = []

    def work() -> None:
        with interruptible():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


# --- roll-backs -------------------------------------------------------------------------------------------------------


def test_what_was_measured_of_weights_that_were_given_up_is_forgotten_for_good(stage: Context) -> None:
    history = History(stage.folder / "log.jsonl")
    for step in (0, 10, 20, 30):
        history.begin(Job(step, step, f"m{step}", Path("x")))
        if step < 30:
            history.end(Point(step, step, f"m{step}", f"run{step}", look=Look(step // 10, {})))
    assert [job.step for job in history.forget(15)] == [20, 30]
    assert history.forget(15) == []
    history.begin(Job(40, 40, "m40", Path("x")))  # steps are counted on
    for found in (history, History(history.path)):
        assert sorted(found.points) == [0, 10] and [job.step for job in found.unfinished()] == [40]
        assert [look.place for look in found.looks(50)] == [0, 1] and found.abandoned == {2}


# --- what is made -----------------------------------------------------------------------------------------------------


def test_evaluations_belong_to_a_stages_key_only_where_they_can_end_it() -> None:
    assert EvaluateSettings().key() is EvaluateSettings(gate=GateSettings()).key() is None
    stop = EvaluateSettings(gate=GateSettings("stop"))
    key = stop.key()
    assert key is not None and set(key) == {"every", "tasks", "limit", "engine", "engine_options", "gate"}
    assert replace(stop, where="gpu:7", name="x", data="copies").key() == key
    for other in (replace(stop, every=7), replace(stop, limit=7), replace(stop, gate=GateSettings("stop", margin=7))):
        assert other.key() not in (None, key)
