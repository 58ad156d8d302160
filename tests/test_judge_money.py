"""What judging costs: a plan that is priced before anything is asked, and a limit that is never passed. Against
scripted judges on loopback, whose tokens are counted by the server."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, Persona
from judge_world import answered, quality_of, text_of, write_prompts

from estbench import judged
from estbench.cli import main
from estbench.runs import Run

N, TASK = 12, "own_chat"
READ, WRITTEN = 40.0, 200.0  # prices per million tokens
PRICES = (f"judge.input_price={READ}", f"judge.output_price={WRITTEN}")
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run in a home for the whole file: each judge has a name of its own, and with it its own store."""
    folder = tmp_path_factory.mktemp("money")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        prompts = write_prompts(folder / "own.jsonl", N, two_turns=2)
        yield answered(prompts, lambda prompt: text_of(0.7, prompt), name="hea")


@pytest.fixture
def run(whole: Run) -> Run:
    """The run without judgments."""
    shutil.rmtree(whole.path / judged.FOLDER, ignore_errors=True)
    return whole


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a judge: another one in each test."""
    return re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))


@pytest.fixture
def server(name: str) -> Iterator[JudgeServer]:
    with JudgeServer(quality_of, name=name) as server:
        yield server


def of(*servers: JudgeServer) -> str:
    return "judges=" + ",".join(f"{one.endpoint.name}@{one.url}" for one in servers)


def judge(run: Run, *words: str, code: int = 0) -> None:
    assert main(["judge", *words[:1], f"run={run.path}", f"task={TASK}", "output=json", *words[1:]]) == code


def plan(run: Run, capsys: Said, *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    judge(run, "plan", *words)
    return list(json.loads(capsys.readouterr().out))


def billed(*servers: JudgeServer) -> float:
    """What the servers' own counts of tokens cost; an engine's first look at an endpoint is among them."""
    counts = [(one.endpoint.prompt_tokens, one.endpoint.written_tokens) for one in servers]
    return sum(read * READ + written * WRITTEN for read, written in counts) / 1e6


def spent(run: Run) -> float:
    """What the run folder says that judges cost."""
    [layer] = judged.layers(run.path)
    return sum(float(row["cost"]["spent"]) for row in layer.card["judges"])


def free_cost(run: Run) -> float:
    """What judging the run costs without a limit, by a judge that is asked for this alone."""
    with JudgeServer(quality_of, name=f"proov-{time.monotonic_ns()}") as server:
        judge(run, "run", of(server), *PRICES)
        found = spent(run)
    shutil.rmtree(run.path / judged.FOLDER)
    return found


def one_line(err: str) -> str:
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("estbench: ")]
    return line


# --- before anything is asked -----------------------------------------------------------------------------------------


def test_a_plan_prices_everything_and_asks_nobody(run: Run, server: JudgeServer, capsys: Said) -> None:
    [row] = plan(run, capsys, of(server), *PRICES)
    assert server.endpoint.posts == [] and not (run.path / judged.FOLDER).exists()
    assert (row["judge"], row["task"], row["mode"]) == (server.endpoint.name, TASK, "pairwise")
    assert (row["documents"], row["without_call"], row["calls"], row["stored"]) == (N, 0, 2 * N, None)
    by_hand = (row["tokens_in"] * READ + row["tokens_out_at_most"] * WRITTEN) / 1e6
    assert row["cost_at_most"] > by_hand > 0  # a token is a byte at least: the bound that max_cost= holds to


def test_what_a_plan_says_is_an_upper_bound_of_what_it_costs_then(run: Run, server: JudgeServer, capsys: Said) -> None:
    with JudgeServer(quality_of, Persona(first=0.7), name=f"{server.endpoint.name}-teine") as other:
        rows = plan(run, capsys, of(server, other), *PRICES)
        judge(run, "run", of(server, other), *PRICES)
        most = sum(row["cost_at_most"] for row in rows)
        assert len(rows) == 2 and 0 < spent(run) <= most
        assert sum(one.calls for one in (server, other)) == sum(row["calls"] for row in rows)
        assert spent(run) <= billed(server, other)
        assert spent(run) == pytest.approx(billed(server, other), rel=0.05)  # as the servers count it


def test_a_plan_counts_what_is_stored_and_prices_the_rest(run: Run, server: JudgeServer, capsys: Said) -> None:
    [whole] = plan(run, capsys, of(server), *PRICES)
    server.persona = Persona(failing=0.4, kinds=("400",))
    judge(run, "run", of(server), code=4)
    answers = len(server.endpoint.answered.keys() & server.asked.keys())
    calls = server.calls
    [row] = plan(run, capsys, of(server), *PRICES)
    assert server.calls == calls and 0 < answers < 2 * N
    assert (row["calls"], row["stored"]) == (2 * N, answers)
    assert row["cost_at_most"] == pytest.approx(whole["cost_at_most"] * (1 - answers / 2 / N), rel=0.1)

    server.persona = Persona()
    judge(run, "run", of(server))
    [row] = plan(run, capsys, of(server), *PRICES)
    assert (row["stored"], row["tokens_in"], row["cost_at_most"]) == (2 * N, 0, 0)


def test_a_plan_without_prices_says_what_is_missing(run: Run, server: JudgeServer, capsys: Said) -> None:
    assert main(["judge", "plan", f"run={run.path}", f"task={TASK}", of(server), "output=table"]) == 0
    out = capsys.readouterr().out
    assert "judge.prices=FILE" in out and "costs at most" not in out
    assert main(["judge", "plan", f"run={run.path}", f"task={TASK}", of(server), "output=table", *PRICES]) == 0
    assert "All of it costs at most" in capsys.readouterr().out  # negative control


@pytest.mark.slow
def test_the_plan_of_a_pointwise_judge_counts_labels(run: Run, server: JudgeServer, capsys: Said) -> None:
    [row] = plan(run, capsys, of(server), "mode=pointwise", *PRICES)
    assert (row["calls"], row["tokens_out_at_most"]) == (N, N) and server.endpoint.posts == []
    judge(run, "run", of(server), "mode=pointwise", *PRICES)
    assert server.calls == N and 0 < spent(run) <= row["cost_at_most"]


# --- a limit ----------------------------------------------------------------------------------------------------------


def test_a_limit_is_never_passed_and_a_higher_one_goes_on(run: Run, server: JudgeServer, capsys: Said) -> None:
    [row] = plan(run, capsys, of(server), *PRICES)
    limit = 0.6 * free_cost(run)
    assert limit < row["cost_at_most"]
    judge(run, "run", of(server), *PRICES, f"max_cost={limit}", code=4)
    said = one_line(capsys.readouterr().err)
    done = server.calls
    assert 0 < done < 2 * N and billed(server) <= limit
    assert f"{done} of {2 * N} answers came and are stored" in said and "max_cost=" in said
    assert "with a higher limit the same command asks the rest" in said
    assert judged.layers(run.path) == []  # nothing half done is shown
    [left] = plan(run, capsys, of(server), *PRICES)
    assert left["stored"] == done

    judge(run, "run", of(server), *PRICES, f"max_cost={2 * row['cost_at_most']}")
    assert server.calls == 2 * N and not server.paid_twice
    assert 0 < spent(run) <= row["cost_at_most"]


def test_a_limit_is_shared_by_all_judges(run: Run, server: JudgeServer, capsys: Said) -> None:
    with JudgeServer(quality_of, name=f"{server.endpoint.name}-teine") as other:
        rows = plan(run, capsys, of(server, other), *PRICES)
        judge(run, "run", of(server), *PRICES)
        one = spent(run)
        server.endpoint.reset()
        server.asked.clear()
        limit = 1.5 * one + rows[0]["cost_at_most"] / 2 / N  # room for what one request reserves
        judge(run, "run", of(server, other), *PRICES, "language=en", f"max_cost={limit}", code=4)
        assert server.calls == 2 * N and 0 < other.calls < 2 * N  # alone, either of them would have got through
        assert billed(server, other) <= limit
        judge(run, "run", of(server, other), *PRICES, "language=en", f"max_cost={limit}")  # what is stored is free
        assert server.calls == other.calls == 2 * N and not server.paid_twice and not other.paid_twice


def test_a_limit_of_nothing_asks_nothing(run: Run, server: JudgeServer, capsys: Said) -> None:
    judge(run, "run", of(server), *PRICES, "max_cost=0", code=4)
    assert server.calls == 0 and "max_cost" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("max_cost=1",), "price"),
        (("max_cost=1", "judge.input_price=1"), "output_price"),
        (("max_cost=1", "judge.prices=pole.yaml"), "pole.yaml"),
        (("max_cost=-1", *PRICES), "max_cost=-1"),
        (("max_cost=palju", *PRICES), "max_cost"),
    ],
    ids=["none", "half", "file", "negative", "word"],
)
def test_a_limit_without_prices_is_refused_before_anything_is_asked(
    run: Run, server: JudgeServer, words: tuple[str, ...], said: str, capsys: Said
) -> None:
    judge(run, "run", of(server), *words, code=2)
    assert said in one_line(capsys.readouterr().err) and server.endpoint.posts == []


def test_a_limit_in_two_currencies_is_refused(run: Run, server: JudgeServer, tmp_path: Path, capsys: Said) -> None:
    with JudgeServer(quality_of, name=f"{server.endpoint.name}-teine") as other:
        rows = []
        for one, currency in ((server, "EUR"), (other, "USD")):
            table = tmp_path / f"{currency}.yaml"
            prices = {"currency": currency, "models": {one.endpoint.name: {"input": 1, "output": 2}}}
            table.write_text(json.dumps(prices), "utf-8")
            rows.append({"model": one.endpoint.name, "url": one.url, "prices": str(table)})
        (tmp_path / "panel.yaml").write_text(json.dumps({"judges": rows}), "utf-8")
        judge(run, "run", f"judges={tmp_path / 'panel.yaml'}", "max_cost=1", code=2)
        assert "EUR and USD" in one_line(capsys.readouterr().err) and not server.calls and not other.calls


@pytest.mark.slow
def test_a_limit_holds_for_the_judge_of_an_eval(
    home: Path, tmp_path: Path, server: JudgeServer, capsys: Said
) -> None:  # fmt: skip
    """`judge.max_cost=`: the answers are stored, and judging goes on with a higher limit."""
    from stub_endpoint import Endpoint, Words

    prompts = write_prompts(tmp_path / "own.jsonl", N)
    answers = answered(prompts, lambda prompt: text_of(0.7, prompt), name="teine")
    limit = 1.2 * free_cost(answers)  # of two tasks
    with Endpoint(Words(lambda prompt: text_of(0.7, prompt)), name="mudel") as model:
        words = ["eval", "model=mudel", "engine=openai", f"engine.url={model.url}", f"tasks={prompts}", "output=json"]
        words += [f"judge={server.endpoint.name}@{server.url}", *PRICES]
        assert main([*words, f"judge.max_cost={limit}"]) == 4
        assert "max_cost" in one_line(capsys.readouterr().err)
        assert 0 < server.calls < 4 * N and billed(server) <= limit
        posts = len(model.answered)
        assert main([*words, "judge.max_cost=5"]) == 0
        assert len(model.answered) == posts and server.calls == 4 * N and not server.paid_twice
