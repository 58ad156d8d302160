"""What a judge is asked, and what counts as its answer: both orders, no call where none is needed, one retry, and never
a score for what failed. Against the scripted judge on loopback."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estbench_judges import rubrics
from judge_server import JudgeServer, Persona, Prompt
from judge_world import ANCHOR, answered, quality_of, text_of, write_prompts

from estbench import judged
from estbench.cli import main
from estbench.runs import Run, Score, read_lines

N, TASK, LEVEL = 16, "own_chat", 0.7
INVALID = {
    "refusal": "the judge refused",
    "empty": "the judge answered nothing",
    "prose": "it is no JSON",
    "schema": "it has other fields than were asked for",
    "cut": "the judge did not come to an end",
}
QUICK = ("400", "prose", "cut")  # of what fails; the others are slow tests
Said = pytest.CaptureFixture[str]


def slowly(*given: Any) -> Any:
    return pytest.param(*given, marks=pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the file: each judge has a name of its own, and with it its own store."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("asking")
        patch.setenv("ESTBENCH_HOME", str(path / "home"))
        yield path


@pytest.fixture(scope="module")
def prompts(own_home: Path) -> Path:
    return write_prompts(own_home / "own.jsonl", N, two_turns=2)


@pytest.fixture(scope="module")
def run(prompts: Path) -> Run:
    return answered(prompts, lambda prompt: text_of(LEVEL, prompt), name="hea")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a judge: another one in each test."""
    return re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))


def judge(run: Run, server: JudgeServer, *words: str, task: str = TASK, code: int = 0) -> None:
    given = [f"run={run.path}", f"task={task}", f"judge={server.endpoint.name}@{server.url}", *words]
    assert main(["judge", *given]) == code


def layer_of(run: Run, mode: str = "pairwise", task: str = TASK) -> judged.Layer:
    [found] = [one for one in judged.layers(run.path) if one.mode == mode and one.task == task]
    return found


def score_of(run: Run, metric: str = "win_rate", task: str = TASK) -> Score:
    [found] = [one for one in Run(run.path).scores() if one.task == task and one.metric == metric]
    return found


def calls_of(run: Run, layer: judged.Layer) -> dict[int, dict[str, Any]]:
    """Document -> what the run folder keeps of its calls."""
    return {row["doc_id"]: row for row in read_lines(run.path / judged.FOLDER / f"{layer.stem}.jsonl.gz")}


def scores_of(row: dict[str, Any]) -> list[float]:
    """The valid scores of a document's votes."""
    return [vote["score"] for vote in row["votes"] if vote["score"] is not None]


def asked(server: JudgeServer) -> list[Prompt]:
    return [Prompt.of(json.loads(body)["messages"][-1]["content"]) for body in server.asked]


def number(prompt: str) -> int:
    found = re.search(r"Küsimus number (\d+)", prompt)
    assert found
    return int(found[1])


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_both_orders_are_always_asked(run: Run, name: str) -> None:
    with JudgeServer(quality_of, name=name) as server:
        judge(run, server)
        pairs = Counter((one.answer("ANSWER_A"), one.answer("ANSWER_B")) for one in asked(server))
    assert server.calls == len(pairs) == 2 * N and all((b, a) in pairs for a, b in pairs)
    assert all(len(row["votes"]) == 2 for row in calls_of(run, layer_of(run)).values())


def test_a_document_with_one_valid_order_is_missing_and_not_scored(run: Run, name: str) -> None:
    with JudgeServer(quality_of, Persona(failing=0.55, kinds=("prose",)), name=name) as server:
        judge(run, server)
    layer = layer_of(run)
    by_doc = {doc: scores_of(row) for doc, row in calls_of(run, layer).items()}
    half = {str(doc) for doc, scores in by_doc.items() if len(scores) == 1}
    whole = {str(doc): sum(scores) / 2 for doc, scores in by_doc.items() if len(scores) == 2}
    assert len(half) >= 3 and len(whole) >= 3  # both happened
    assert layer.values["win_rate"] == whole
    samples = {str(sample.doc_id): sample for sample in Run(run.path).samples(TASK)}
    assert {doc for doc, sample in samples.items() if "win_rate" in sample.values} == whole.keys()


def test_an_identical_answer_is_a_tie_without_a_call(prompts: Path, name: str) -> None:
    """Negative control: of two more documents the answer differs by a word, and those are asked."""
    rows = [json.loads(line) for line in prompts.read_text("utf-8").splitlines()]

    def answer(prompt: str) -> str:
        row, i = rows[number(prompt)], number(prompt)
        second = "lühemalt" in prompt
        own = str(row["follow_up_answer" if second else "answer"])
        return f"  {own}\n" if i < 5 else f"Noh. {own}" if i < 7 else text_of(LEVEL, prompt)

    run = answered(prompts, answer, name="sama")
    with JudgeServer(quality_of, Persona(always="A"), name=name) as server:
        judge(run, server)
    layer = layer_of(run)
    assert server.calls == 2 * (N - 5) and layer.card["without_call"] == {"same as the anchor's": 5}
    texts = {prompt.answer("ANSWER_A") for prompt in asked(server)}
    assert all((rows[i]["answer"] in texts) == (i in (5, 6) or i > 6) for i in range(2, N))
    told = {row["doc_id"]: row for row in calls_of(run, layer).values()}
    same = [doc for doc, row in told.items() if row["without_call"]]
    assert len(same) == 5 and all(layer.values["win_rate"][str(doc)] == 0.5 and not told[doc]["votes"] for doc in same)
    assert score_of(run).parse_failures == 0


SCREENED = {
    0: ("empty", " … \n"),
    1: ("empty", ""),
    2: ("looping", "ja siis tuli jälle sama asi uuesti, " * 40),
    3: (
        "language",
        "In the spring the birds begin to sing and the garden turns green again, and people are "
        "outdoors much more often than they were during the long and dark winter months. " * 2,
    ),
}


@pytest.mark.parametrize("mode", ["pairwise", slowly("pointwise"), slowly("checklist")])
def test_screened_answers_cost_no_call_and_score_nothing(prompts: Path, name: str, mode: str) -> None:
    """The judge is one that would let everything win."""

    def answer(prompt: str) -> str:
        return SCREENED[number(prompt)][1] if number(prompt) in SCREENED else text_of(LEVEL, prompt)

    run = answered(prompts, answer, name="tühi")
    rubric = "instruction_following" if mode == "checklist" else "helpfulness"
    with JudgeServer(lambda text: 1.0, name=name) as server:
        judge(run, server, f"mode={mode}", f"rubric={rubric}")
    layer = layer_of(run, mode)
    metric = layer.card["metric"]
    assert layer.card["without_call"] == {"empty": 2, "looping": 1, "language": 1}
    assert server.calls == (2 if mode == "pairwise" else 1) * (N - len(SCREENED))
    answers = {one.answer(label) for one in asked(server) for label in ("ANSWER", "ANSWER_A", "ANSWER_B")}
    assert not answers & {text for _, text in SCREENED.values() if text}
    why = {row["doc_id"]: row["without_call"] for row in calls_of(run, layer).values()}
    for doc, value in layer.values[metric].items():
        assert value == 0.0 if why[int(doc)] else value > 0.4
    score = score_of(run, metric)
    assert score.n == N and score.parse_failures == len(SCREENED) and score.errors == 0


# --- what is no answer ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def honest(run: Run) -> dict[str, float]:
    """The value of each document by a judge that answers always."""
    with JudgeServer(quality_of, name="aus") as server:
        judge(run, server)
    return layer_of(run).values["win_rate"]


def of_whole_documents(run: Run) -> list[float]:
    """The values of documents with a verdict in both orders, by hand."""
    scores = [scores_of(row) for row in calls_of(run, layer_of(run)).values()]
    return [sum(two) / 2 for two in scores if len(two) == 2]


@pytest.mark.parametrize("kind", [kind if kind in QUICK else slowly(kind) for kind in ("400", *INVALID)])
def test_what_fails_is_never_a_score(run: Run, honest: dict[str, float], name: str, kind: str, capsys: Said) -> None:
    with JudgeServer(quality_of, Persona(failing=0.4, kinds=(kind,)), name=name) as server:
        judge(run, server, "output=table", code=4 if kind == "400" else 0)
    out, err = capsys.readouterr()
    layer, score = layer_of(run), score_of(run)
    values = layer.values["win_rate"]
    assert score.n + score.errors == score.n_planned == N and 0 < score.n == len(values) < N
    assert all(value == honest[doc] for doc, value in values.items())  # those that are there are as they always were
    assert score.value == pytest.approx(np.mean(of_whole_documents(run)))
    assert score.value is not None
    for wrong in (0.0, 0.5, 1.0):  # negative control: a failure counted as a loss, a tie, a win
        assert abs(score.value - (sum(values.values()) + wrong * score.errors) / N) > 0.005

    low, high = sum(values.values()) / N, (sum(values.values()) + score.errors) / N
    assert layer.card["bounds"] == pytest.approx([low, high])
    assert f"{score.errors} of {N} without a verdict, bounds {low:.3f}–{high:.3f}" in score.method
    assert f"with what is missing it lies between {100 * low:.1f} and {100 * high:.1f}" in out
    assert f"n {score.n} of {N}" in out
    [card] = layer.card["judges"]
    why = {"400": "HTTP 400: The judge had an error.", **INVALID}[kind]
    assert card["missing"] == {why: card["cases"] - card["valid"]} and card["cases"] == 2 * N
    assert why in out and ("the same command asks them again" in err) == (kind == "400")


@pytest.mark.parametrize("kind", ["prose", *(slowly(kind) for kind in INVALID if kind != "prose")])
def test_an_invalid_answer_is_asked_once_more_and_is_final_then(run: Run, name: str, kind: str) -> None:
    """A judge that can't: each case twice, never a third time, and no new call by the same command."""
    with JudgeServer(quality_of, Persona(failing=1.0, kinds=(kind,)), name=name) as server:
        judge(run, server, code=4)  # nothing valid at all: that is said
        assert server.calls == len(server.asked) == 4 * N and not server.paid_twice
        retry = rubrics.frame().texts["retry"]["et"].strip()[:60]
        told = Counter(retry in json.loads(body)["messages"][-1]["content"] for body in server.asked)
        assert told == {True: 2 * N, False: 2 * N}
        score, layer = score_of(run), layer_of(run)
        assert (score.n, score.errors, score.value, score.ci_low) == (0, N, None, None) and score.reason
        assert layer.values["win_rate"] == {} and layer.card["bounds"] == [0.0, 1.0]
        assert all([c["step"] for c in v["calls"]] == ["json", "again"] for v in votes_of(run))
        server.persona = Persona()
        judge(run, server, code=4)
        assert server.calls == 4 * N and score_of(run).n == 0


def votes_of(run: Run, mode: str = "pairwise") -> list[dict[str, Any]]:
    return [vote for row in calls_of(run, layer_of(run, mode)).values() for vote in row["votes"]]


def test_a_valid_answer_to_the_retry_counts_and_the_first_one_is_kept(run: Run, name: str) -> None:
    """Half of all requests fail: where the retry did not, there is a verdict."""
    with JudgeServer(quality_of, Persona(failing=0.5, kinds=("prose",)), name=name) as server:
        judge(run, server)
    votes = votes_of(run)
    mended = [vote for vote in votes if vote["score"] is not None and len(vote["calls"]) == 2]
    assert len(mended) >= 4 and all(vote["calls"][0]["invalid"] == INVALID["prose"] for vote in mended)
    assert all("[[A]]" in vote["calls"][0]["text"] for vote in mended)  # what it said is there for an audit
    assert server.calls == sum(len(vote["calls"]) for vote in votes)
    [card] = layer_of(run).card["judges"]
    assert card["again"] == sum(len(vote["calls"]) == 2 for vote in votes)


def test_failed_calls_are_not_stored_and_the_same_command_asks_them_again(
    run: Run, honest: dict[str, float], name: str, capsys: Said
) -> None:
    with JudgeServer(quality_of, Persona(failing=0.4, kinds=("400",)), name=name) as server:
        judge(run, server, code=4)
        failed = [body for body in server.asked if body not in server.endpoint.answered]
        assert server.calls == 2 * N and 0 < len(failed) < 2 * N
        assert layer_of(run).card["judges"][0]["failed"] == len(failed)
        assert f"{len(failed)} calls failed" in capsys.readouterr().err
        judge(run, server, code=4)  # the endpoint is as it was: those, and no others, are asked
        assert server.calls == 2 * N + len(failed)
        server.persona = Persona()
        judge(run, server)
        assert server.calls == 2 * N + 2 * len(failed) and all(server.asked[body] == 3 for body in failed)
        assert not server.paid_twice
    assert layer_of(run).values["win_rate"] == honest and score_of(run).errors == 0


def test_an_error_that_passes_costs_no_verdict(run: Run, honest: dict[str, float], name: str) -> None:
    """HTTP 500 once: the transport asks again, which is no retry of the judge's."""
    with JudgeServer(quality_of, Persona(failing=0.3, kinds=("500",)), name=name) as server:
        judge(run, server)
    assert layer_of(run).values["win_rate"] == honest and server.calls > 2 * N and not server.paid_twice
    assert all(len(vote["calls"]) == 1 for vote in votes_of(run))


def test_a_judge_that_never_answers_ends_with_one_line_and_no_score(prompts: Path, name: str, capsys: Said) -> None:
    run = answered(prompts, lambda prompt: text_of(0.4, prompt), name="ootel")
    capsys.readouterr()
    with JudgeServer(quality_of, Persona(failing=1.0, kinds=("400",)), name=name) as server:
        judge(run, server, code=4)
    said = [line for line in capsys.readouterr().err.splitlines() if "HTTP 400" in line]
    assert len(said) == 1 and judged.layers(run.path) == [] and TASK in judged.awaiting(Run(run.path))


# --- other modes ------------------------------------------------------------------------------------------------------


def expected_grade(level: float) -> float:
    """Σ k·p_k / Σ p_k of the scripted judge's log-probabilities, 0 to 1."""
    weights = {k: math.exp(-2 * abs(k - (1 + 4 * level))) for k in range(1, 6)}
    return (sum(k * weight for k, weight in weights.items()) / sum(weights.values()) - 1) / 4


def test_pointwise_is_the_expected_score_with_its_covered_mass(run: Run, name: str, capsys: Said) -> None:
    with JudgeServer(quality_of, name=name, covered=0.95) as server:
        judge(run, server, "mode=pointwise", "output=table")
    score = score_of(run, "rating")
    assert score.value == pytest.approx(expected_grade(LEVEL), abs=0.002) and server.calls == N
    assert abs(expected_grade(LEVEL) - 0.75) > 0.02  # negative control: the likeliest grade alone is 4 of 5
    [card] = layer_of(run, "pointwise").card["judges"]
    assert card["covered"] == pytest.approx(0.95, abs=1e-3) and card["expected"] == N
    assert f"{N} expected scores, labels cover 0.950 of the probability" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("switches", "tried"),
    [
        ({"covered": 0.5}, True),
        slowly({"chat_logprobs": False}, None),
        slowly({"unsupported": ("logprobs",)}, None),
        slowly({"max_logprobs": 5}, None),
    ],
    ids=["covered", "silent", "refused", "fewer"],
)
def test_pointwise_falls_back_to_json(run: Run, name: str, switches: dict[str, Any], tried: bool | None) -> None:
    """Labels that are not what the judge wants to write, and endpoints that give no log-probabilities."""
    with JudgeServer(quality_of, name=name, **switches) as server:
        judge(run, server, "mode=pointwise")
    bodies = [json.loads(body) for body in server.asked]
    assert sum("response_format" in body for body in bodies) == N
    assert tried is None or sum("logprobs" in body for body in bodies) == N
    score, [card] = score_of(run, "rating"), layer_of(run, "pointwise").card["judges"]
    assert (score.value, score.n, card["covered"], card["expected"]) == (0.75, N, None, 0)  # a 4 of 5
    if tried:
        calls = votes_of(run, "pointwise")[0]["calls"]
        assert [c["step"] for c in calls] == ["label", "json"] and "cover 0.50" in calls[0]["invalid"]


def test_a_checklist_is_the_share_of_criteria(run: Run, name: str) -> None:
    with JudgeServer(quality_of, name=name) as server:
        judge(run, server, "rubric=instruction_following", "mode=checklist")
    metric = layer_of(run, "checklist").card["metric"]
    assert score_of(run, metric).value == pytest.approx(2 / 3) and server.calls == N  # 0.7 of three
    assert all(vote["met"] == [True, True, False] and vote["vote"] == "2/3" for vote in votes_of(run, "checklist"))


def test_equivalence_on_a_task_of_questions_and_answers(own_home: Path, name: str) -> None:
    """A task that was not made for judges: right answers and wrong ones, by the reference that the data has."""
    wrong = "mingi muu asi"
    from_data: Callable[[str], bool] = lambda prompt: len(prompt) % 2 == 0  # noqa: E731  a coin of the prompt
    run = answered(own_home, lambda p: f"vastus {len(p)}" if from_data(p) else wrong, tasks="mini_qa_chat", limit=16)
    with JudgeServer(lambda text: float(text != wrong), name=name) as server:
        judge(run, server, "rubric=equivalence", task="mini_qa_chat")
        prompts = asked(server)
    layer = layer_of(run, "equivalence", "mini_qa_chat")
    assert all(one.parts["REFERENCE"] and one.answer("ANSWER") for one in prompts) and len(prompts) == 16
    right = sum(one.answer("ANSWER") != wrong for one in prompts)
    score = score_of(run, layer.card["metric"], "mini_qa_chat")
    assert 0 < right < 16 and score.value == right / 16 and not score.primary
    assert judged.state(score) == "uncalibrated"
    ranked = [one for one in Run(run.path).scores() if one.primary]
    assert [judged.state(one) for one in ranked] == [None]  # what the task is ranked by stays


def test_repeats_are_averaged_each_with_a_seed_of_its_own(run: Run, name: str, capsys: Said) -> None:
    with JudgeServer(quality_of, Persona(failing=0.4, kinds=("prose",)), name=name) as server:
        judge(run, server, "temperature=0.7", "repeats=3")
        bodies = [json.loads(body) for body in server.asked]
        assert {body["temperature"] for body in bodies} == {0.7}
        firsts = Counter(body["seed"] for body in bodies)
        assert set(firsts) == {0, 1, 2} and all(count >= 2 * N for count in firsts.values())
        layer, lost, scored = layer_of(run), 0, 0
        for doc, row in calls_of(run, layer).items():
            votes: dict[str, list[float]] = {"model": [], "anchor": []}
            for vote in row["votes"]:
                votes[vote["first"]] += [vote["score"]] * (vote["score"] is not None)
                lost += vote["score"] is None
            assert len(row["votes"]) == 6
            if all(votes.values()):
                scored += 1
                mean = np.mean([np.mean(one) for one in votes.values()])
                assert layer.values["win_rate"][str(doc)] == pytest.approx(mean)
        assert lost and len(layer.values["win_rate"]) == scored
        before = server.calls
        capsys.readouterr()
        judge(run, server, "repeats=3", code=2)  # greedy: it would say the same three times
    assert server.calls == before and "temperature=" in capsys.readouterr().err


@pytest.mark.slow
def test_the_anchor_s_own_level_is_the_middle_of_the_scale(prompts: Path, name: str) -> None:
    """Negative control of the world: a model as good as the anchor on average is at a half."""
    run = answered(prompts, lambda prompt: text_of(ANCHOR, prompt), name="keskmine")
    with JudgeServer(quality_of, name=name) as server:
        judge(run, server)
    score = score_of(run)
    assert score.ci_low is not None and score.ci_high is not None and score.ci_low < 0.5 < score.ci_high
