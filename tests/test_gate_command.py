"""`estbench gate` and `estbench baseline` as CI meets them: exit codes, what is written, what is refused and why."""

from __future__ import annotations

import dataclasses
import gzip
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate_world import evaluated, sibling, variant, with_values
from worlds import World, rows

from estbench import evidence, registry
from estbench.cli import main
from estbench.gate import sources
from estbench.runs import Run, Sample, write_json

Gate = Callable[..., tuple[int, Any, str]]
N = 400
POLICY = "margin: 2\npool: {margin: 2}\ntasks: letters,words\n"


def world_of(folder: Path) -> World:
    made = World(folder, n=4)
    for task in ("letters", "words"):
        made.fill(task, rows(N), rows(4, start=5000))
    return made


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = world_of(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gate.yaml").write_text(POLICY, "utf-8")
    return made


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(scope="module")
def stored(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the model over the world of these tests, made once: a folder to copy."""
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        made = world_of(folder / "world")
        patch.setattr(registry, "project_file", lambda name: made.folder / name)
        return evaluated(Path(shutil.copytree(tiny_model, folder / "model")), made.data).path


@pytest.fixture
def run(world: World, stored: Path, home: Path) -> Run:
    return Run(shutil.copytree(stored, home / "runs" / stored.name))


@pytest.fixture
def good(run: Run) -> Run:
    return variant(run, "good", with_values(0.7))


@pytest.fixture
def gate(capsys: pytest.CaptureFixture[str]) -> Gate:
    def call(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main(
            ["gate", *words, *([] if any(word.startswith("policy=") for word in words) else ["policy=gate.yaml"])]
        )
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.startswith("{") else out, err

    return call


def same(task: str, samples: list[Sample]) -> list[Sample]:
    return samples


def test_a_run_against_itself_passes_with_p_1(gate: Gate, good: Run) -> None:
    code, found, _ = gate(f"candidate={good.id}", f"baseline={good.id}")
    assert code == 0 and found["status"] == "pass"
    assert {row["p"] for row in found["comparisons"][0]["tasks"]} == {1.0}


def test_equal_scores_of_other_weights_are_no_proof_that_they_are_equal(gate: Gate, run: Run, good: Run) -> None:
    """The same rights and wrongs on 400 documents, but other responses: the interval has a width."""
    other = variant(
        run, "other", lambda t, s: [dataclasses.replace(x, key=x.key[::-1]) for x in with_values(0.7)(t, s)]
    )
    code, found, _ = gate(f"candidate={other.id}", f"baseline={good.id}")
    assert code == 0
    assert all(row["low"] < -0.5 and row["p"] > 0.4 for row in found["comparisons"][0]["tasks"])


def test_a_fall_is_a_regression_and_the_first_lines_say_which_how_much_and_how_sure(
    gate: Gate, run: Run, good: Run
) -> None:
    worse = variant(run, "worse", with_values(0.6, tasks=("letters",)))
    good_words = variant(worse, "worse2", with_values(0.7, tasks=("words",)))
    code, text, _ = gate(f"candidate={good_words.id}", f"baseline={good.id}", "output=table")
    lines = text.splitlines()
    assert code == 1 and lines[0].startswith("REGRESSION: worse2 against baseline good")
    assert any(line.startswith("  letters: −") and "points (95 %" in line and "p " in line for line in lines[:5])
    assert any("the ability fell" in line for line in lines[:6])
    assert not any(line.startswith("  words:") for line in lines[:6])


def test_too_few_documents_are_undecided_and_the_report_says_how_many_would_do(gate: Gate, run: Run, good: Run) -> None:
    twin = variant(run, "twin", sibling(0.7, 0.2))
    code, found, _ = gate(f"candidate={twin.id}", f"baseline={good.id}")
    pool = found["comparisons"][0]["pool"]
    assert code == 3 and found["status"] == "undecided" == pool["status"]
    assert pool["needed"] > pool["n"]
    assert (
        "times as many documents would decide" in gate(f"candidate={twin.id}", f"baseline={good.id}", "output=table")[1]
    )


def test_an_undecided_task_under_a_passing_pool_is_a_pass(gate: Gate, run: Run, good: Run, tmp_path: Path) -> None:
    twin = variant(run, "twin", sibling(0.7, 0.1))
    (tmp_path / "wide.yaml").write_text("margin: 1\npool: {margin: 4}\ntasks: letters,words\n", "utf-8")
    code, text, _ = gate(f"candidate={twin.id}", f"baseline={good.id}", "policy=wide.yaml", "output=table")
    assert code == 0 and "2 tasks undecided" in text.splitlines()[0]


def test_a_blocking_task_that_crashed_was_not_evaluated(gate: Gate, run: Run, good: Run) -> None:
    def crashed(task: str, samples: list[Sample]) -> list[Sample]:
        return [
            dataclasses.replace(sample, values={}, error="the server died") if task == "words" else sample
            for sample in with_values(0.7)(task, samples)
        ]

    broken = variant(run, "broken", crashed)
    code, found, _ = gate(f"candidate={broken.id}", f"baseline={good.id}")
    by_task = {row["task"]: row for row in found["comparisons"][0]["tasks"]}
    assert code == 4 and by_task["words"]["status"] == "not evaluated"
    assert "400 of 400 documents have no response" in by_task["words"]["reasons"]

    without = variant(run, "without", with_values(0.7), lambda m: m | {"tasks": {"letters": m["tasks"]["letters"]}})
    (without.path / "samples" / "words.jsonl.gz").unlink()
    code, found, _ = gate(f"candidate={without.id}", f"baseline={good.id}")
    assert code == 4 and found["status"] == "not evaluated"


def test_a_broken_format_is_told_from_a_fallen_ability(gate: Gate, run: Run, good: Run) -> None:
    def garbled(task: str, samples: list[Sample]) -> list[Sample]:
        changed = with_values(0.7)(task, samples)
        return [
            dataclasses.replace(
                sample, values=dict.fromkeys(sample.values, 0.0), parse_failure=True, key=sample.key[::-1]
            )
            if place % 4 == 0
            else sample
            for place, sample in enumerate(changed)
        ]

    broken = variant(run, "garbled", garbled)
    code, text, _ = gate(f"candidate={broken.id}", f"baseline={good.id}", "output=table")
    assert code == 1
    assert "the format broke: 25.0 % of answers can't be read (0.0 % before)" in text
    fallen = variant(run, "fallen", with_values(0.5))
    assert "the ability fell" in gate(f"candidate={fallen.id}", f"baseline={good.id}", "output=table")[1]


def test_a_bad_policy_is_refused_with_its_line_and_nothing_is_written(gate: Gate, good: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("margin: 2\nmargn: 3\n", "utf-8")
    code, out, err = gate(
        f"candidate={good.id}", f"baseline={good.id}", "policy=bad.yaml", "junit=out.xml", "markdown=o.md"
    )
    assert code == 2 and out == "" and "bad.yaml, line 2" in err and "'margin'" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out.xml").exists() and not (tmp_path / "o.md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "candidate= is missing"),
        (["candidate=x"], "baseline= is missing"),
        (["candidate=nothing", "baseline=nothing"], "no run 'nothing'"),
        (["candidate=a", "model=b", "baseline=c"], "keep one"),
        (["candidate=a", "baseline=c", "junit=/no/such/folder/x.xml"], "can't be written"),
        (["candidate=a", "baseline=c", "policy=corre"], "'core'"),
        (["candidate=a", "baseline=http://127.0.0.1:9/x.json"], "can't be fetched"),
    ],
)
def test_a_slip_is_one_line_with_exit_code_2(world: World, gate: Gate, words: list[str], message: str) -> None:
    code, out, err = gate(*words)
    assert code == 2 and out == "" and message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_runs_that_are_not_comparable_are_refused_by_name(
    gate: Gate, run: Run, good: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_weights", lambda *_: None)  # the baseline's weights are gone
    others = {
        "engine": lambda m: m | {"engine": m["engine"] | {"dtype": "bfloat16"}},
        "scorer": lambda m: m | {"tasks": {n: t | {"scorer": "0"} for n, t in m["tasks"].items()}},
        "form": lambda m: m | {"tasks": {n: t | {"form": "chat"} for n, t in m["tasks"].items()}},
    }
    for kind, change in others.items():
        other = variant(run, f"other-{kind}", with_values(0.7), change)
        code, _, err = gate(f"candidate={other.id}", f"baseline={good.id}")
        assert code == 2 and f"not comparable in {kind}" in err, kind
    twin = variant(
        run, "elsewhere", lambda t, s: [dataclasses.replace(x, doc_hash=f"{x.doc_hash[:-4]}xxxx") for x in s]
    )
    code, _, err = gate(f"candidate={twin.id}", f"baseline={good.id}")
    assert code == 2 and "not comparable in data" in err and "0 of 400 documents" in err


def test_a_policy_of_other_tasks_is_a_mistake_and_not_a_crash(gate: Gate, good: Run, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("tasks: not/here\n", "utf-8")
    code, out, err = gate(f"candidate={good.id}", f"baseline={good.id}", "policy=other.yaml")
    assert code == 2 and out == "" and "neither run has a task of the policy other" in err


def test_a_difference_that_the_policy_allows_is_a_warning(gate: Gate, run: Run, good: Run, tmp_path: Path) -> None:
    other = variant(run, "other", with_values(0.7), lambda m: m | {"engine": m["engine"] | {"dtype": "bfloat16"}})
    (tmp_path / "lax.yaml").write_text(POLICY + "allow: [engine]\n", "utf-8")
    code, text, _ = gate(f"candidate={other.id}", f"baseline={good.id}", "policy=lax.yaml", "output=table")
    assert code == 0 and "warning: other was answered with dtype bfloat16, good with float32" in text


def test_other_prompts_are_asked_again_of_the_baselines_own_weights(gate: Gate, world: World, model: Path) -> None:
    run, candidate = evaluated(model, world.data), evaluated(model, world.data, shots=0)
    code, found, err = gate(f"candidate={candidate.id}", f"baseline={run.id}")
    assert code == 0 and found["status"] == "pass", err
    assert "was asked otherwise" in err and "it is asked again" in err
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4] ^= 1
    weights.write_bytes(bytes(content))  # other weights in the same place are not the baseline's
    code, _, err = gate(f"candidate={candidate.id}", f"baseline={run.id}")
    assert code == 2 and "not comparable in prompts" in err and "its weights are not here" in err


def test_documents_that_only_one_run_has_are_counted(gate: Gate, world: World, model: Path, run: Run) -> None:
    part = evaluated(model, world.data, limit=150)
    code, found, _ = gate(f"candidate={part.id}", f"baseline={run.id}")
    [letters, _] = found["comparisons"][0]["tasks"]
    assert code == 0 and (letters["n"], letters["only_candidate"], letters["only_baseline"]) == (150, 0, 250)
    code, _, err = gate(f"candidate={run.id}", f"baseline={part.id}")
    assert code == 2 and "150 of 400 documents are in the other run" in err


def test_a_baseline_file_says_what_its_run_said(gate: Gate, run: Run, good: Run, tmp_path: Path) -> None:
    worse = variant(run, "worse", with_values(0.6))
    _, from_run, _ = gate(f"candidate={worse.id}", f"baseline={good.id}")
    assert main(["baseline", "set", "main", f"run={good.id}"]) == 0
    code, from_file, _ = gate(f"candidate={worse.id}", "baseline=main")
    assert code == 1 and from_file == from_run
    text = (tmp_path / "baselines" / "main.json").read_text("utf-8")
    assert "Mis on number" not in text and evidence.load("main").asked("letters")
    assert gate(f"candidate={worse.id}", "baseline=baselines/main.json")[1] == from_run


def test_a_baseline_behind_a_url(gate: Gate, good: Run, tmp_path: Path, served: str) -> None:
    assert main(["baseline", "set", "main", f"run={good.id}"]) == 0
    code, found, _ = gate(f"candidate={good.id}", f"baseline={served}/baselines/main.json")
    assert code == 0 and found["status"] == "pass"
    code, _, err = gate(f"candidate={good.id}", f"baseline={served}/nothing.json")
    assert code == 2 and "can't be fetched" in err


@pytest.fixture
def served(tmp_path: Path, world: World) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"baseline": 1', '"baseline": 99'),
        lambda text: "[]",
        lambda text: text.replace('"items": {', '"items": {"letters": "AAAA", "x": ').replace(
            '"letters": "e', '"y": "e'
        ),
        lambda text: json.dumps({"baseline": 1, "scores": [], "items": {}}),
        lambda text: json.dumps(json.loads(text) | {"scores": [{"task": 1}]}),
        lambda text: json.dumps(json.loads(text) | {"items": {"letters": "!!", "words": "eJw="}}),
    ],
)
def test_a_damaged_baseline_file_is_one_line(gate: Gate, good: Run, tmp_path: Path, damage: Any) -> None:
    main(["baseline", "set", "main", f"run={good.id}"])
    file = tmp_path / "baselines" / "main.json"
    file.write_text(damage(file.read_text("utf-8")), "utf-8")
    code, _, err = gate(f"candidate={good.id}", "baseline=main")
    assert code == 2 and "Traceback" not in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run.path / "scores.json").write_text('{"a": 1}', "utf-8"),
        lambda run: (run.path / "scores.json").unlink(),
        lambda run: (run.path / "scores.json").write_text("[{]", "utf-8"),
        lambda run: (run.path / "samples" / "words.jsonl.gz").write_bytes(gzip.compress(b'{"x": 1}\n')),
        lambda run: (run.path / "samples" / "words.jsonl.gz").write_bytes(gzip.compress(b"{}" * 9)[:20]),
        lambda run: write_json(run.path / "manifest.json", run.manifest | {"tasks": {"words": {}}}),
        lambda run: write_json(run.path / "manifest.json", run.manifest | {"engine": "hf"}),
    ],
)
def test_a_damaged_run_folder_is_one_line(gate: Gate, run: Run, good: Run, damage: Any) -> None:
    broken = variant(run, "broken", with_values(0.7))
    damage(broken)
    for words in ((f"candidate={broken.id}", f"baseline={good.id}"), (f"candidate={good.id}", f"baseline={broken.id}")):
        code, _, err = gate(*words)
        assert code == 2 and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_documents_that_vanished_from_a_run_are_missing(gate: Gate, run: Run, good: Run) -> None:
    """Those it got wrong are gone, and its manifest says how many there were."""
    lost = variant(run, "lost", lambda t, s: [x for x in with_values(0.6)(t, s) if min(x.values.values()) != 0])
    code, found, _ = gate(f"candidate={lost.id}", f"baseline={good.id}")
    assert code == 4 and "documents have no response" in found["comparisons"][0]["tasks"][0]["reasons"][0]


def test_a_broken_limit_leaves_the_task_in_the_pool(gate: Gate, run: Run, good: Run, tmp_path: Path) -> None:
    worse = variant(run, "worse", with_values(0.4))
    (tmp_path / "floor.yaml").write_text(
        "margin: 2\npool: {margin: 2}\ntasks: {letters: {floor: 60}, words: }\n", "utf-8"
    )
    code, found, _ = gate(f"candidate={worse.id}", f"baseline={good.id}", "policy=floor.yaml")
    pool, [letters, _] = found["comparisons"][0]["pool"], found["comparisons"][0]["tasks"]
    assert code == 1 and pool["n"] == 2 * N and pool["status"] == "regression"
    assert letters["status"] == "regression" and letters["p"] < 0.001 and "floor" in letters["reasons"][0]


def test_limits_of_models_are_refused_for_stored_runs(gate: Gate, good: Run) -> None:
    code, _, err = gate(f"candidate={good.id}", f"baseline={good.id}", "limit=20")
    assert code == 2 and "limit= is for a model" in err


def test_two_runs_of_one_name_are_told_apart(gate: Gate, run: Run, good: Run) -> None:
    twin = variant(run, "twin", with_values(0.5), lambda m: m | {"name": "good"})
    assert (
        f"good ({twin.id}) against baseline good ({good.id})"
        in gate(f"candidate={twin.id}", f"baseline={good.id}", "output=table")[1]
    )


def test_withheld_golds_stay_out_of_a_baseline_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def withheld(manifest: dict[str, Any]) -> dict[str, Any]:
        tasks = manifest["tasks"]
        return manifest | {"tasks": tasks | {"words": tasks["words"] | {"access": "withheld"}}}

    secret = variant(run, "secret", same, withheld)
    assert main(["baseline", "set", "main", f"run={secret.id}"]) == 0
    assert "Without words" in capsys.readouterr().err
    assert list(evidence.load("main").tasks) == ["letters"]
    assert main(["baseline", "set", "main", f"run={secret.id}", "private=true"]) == 0
    assert list(evidence.load("main").tasks) == ["letters", "words"]


def test_junit_and_markdown_hold_what_is_hostile(gate: Gate, run: Run, good: Run, tmp_path: Path) -> None:
    worse = variant(
        run, "evil", with_values(0.5), lambda m: m | {"name": "</x>]]>| <script>alert(1)</script> @all \x07"}
    )
    code, _, _ = gate(f"candidate={worse.id}", f"baseline={good.id}", "junit=gate.xml", "markdown=gate.md")
    assert code == 1
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert root.get("failures") == "3" and len(root.findall(".//testcase")) == 3
    text = (tmp_path / "gate.md").read_text("utf-8")
    assert "<script>" not in text and "@all" not in text and "### REGRESSION" in text


def test_a_slow_drift_fails_against_the_pinned_reference(gate: Gate, run: Run, good: Run, tmp_path: Path) -> None:
    """Each step is within noise of the one before; the thirtieth is far below the pinned one."""
    last, now = (variant(run, name, with_values(share)) for name, share in (("step29", 0.613), ("step30", 0.61)))
    main(["baseline", "set", "release", f"run={good.id}"])
    code, _, _ = gate(f"candidate={now.id}", f"baseline={last.id}")
    assert code == 0
    (tmp_path / "pinned.yaml").write_text(POLICY + "reference: release\n", "utf-8")
    code, found, _ = gate(f"candidate={now.id}", f"baseline={last.id}", "policy=pinned.yaml")
    assert code == 1
    assert {one["against"]: one["status"] for one in found["comparisons"]} == {
        "baseline": "pass",
        "reference": "regression",
    }


def test_the_policy_can_name_the_previous_baseline(gate: Gate, good: Run, tmp_path: Path) -> None:
    main(["baseline", "set", "main", f"run={good.id}"])
    (tmp_path / "own.yaml").write_text(POLICY + "previous: main\n", "utf-8")
    assert gate(f"candidate={good.id}", "policy=own.yaml")[0] == 0


def test_a_model_is_evaluated_as_its_baseline_was(gate: Gate, world: World, model: Path) -> None:
    run = evaluated(model, world.data, shots=1, limit=120)
    code, found, _ = gate(f"candidate={model}", f"baseline={run.id}")
    assert code == 0 and found["candidate"]["run"] == run.id


def test_stored_runs_are_gated_without_torch(good: Run, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("margin: 2\n", "utf-8")
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'datasets', 'lm_eval', 'sqlalchemy'): sys.modules[name] = None\n"
        "from estbench.cli import main\n"
        f"sys.exit(main(['gate', 'candidate={good.id}', 'baseline={good.id}', 'policy=all.yaml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr


def test_look_by_look_a_clear_case_needs_a_tenth_of_the_documents(
    gate: Gate, world: World, model: Path, run: Run
) -> None:
    """The baseline is far better than the model that is evaluated."""
    better = variant(run, "better", with_values(0.98))
    code, found, _ = gate(f"model={model}", f"baseline={better.id}", "budget=all")
    assert code == 1 and found["stopped"] == "clear"
    assert found["looks"][-1]["documents"] * 3 <= found["documents"] == 2 * N
    code, found, _ = gate(f"model={model}", f"baseline={run.id}", "budget=all")
    assert code == 0 and len(found["looks"]) == 1  # identical responses are identical on all documents


def test_a_budget_of_documents_is_kept(gate: Gate, world: World, model: Path, run: Run, tmp_path: Path) -> None:
    twin = variant(run, "twin", sibling(0.5, 0.1))
    code, found, _ = gate(f"model={model}", f"baseline={twin.id}", "budget=200")
    assert found["looks"][-1]["documents"] <= 200 and code in (1, 3)
    code, _, err = gate(f"model={run.id}", f"baseline={twin.id}", "budget=200")
    assert code == 2 and "leave budget= out" in err
    code, _, err = gate(f"model={model}", f"baseline={twin.id}", "budget=soon")
    assert code == 2 and "neither documents" in err
    assert not list((tmp_path / "home" / "runs").glob(".*"))
