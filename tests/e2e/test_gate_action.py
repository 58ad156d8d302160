"""The gate in CI: the GitHub action and the GitLab job do what docs/gating.md says (test_gating_docs.py reads it).

The action's steps are run with bash as GitHub's runner does: inputs through `env`, files for outputs and summary. Where
no model is needed, a program that plays estbench says what the test wants, and writes down how it was called.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import copy_home
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from lxml import etree

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "actions" / "gate"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text("utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "gitlab-gate.yml").read_text("utf-8"))[".estbench-gate"]
DOCS = (ROOT / "docs" / "gating.md").read_text("utf-8")
SCHEMA = etree.XMLSchema(etree.parse(str(ROOT / "tests" / "junit.xsd")))
HEADS = {0: "PASS: a against baseline b", 1: "REGRESSION: a against baseline b in 1 of 3 tests\n  qa: −5.0 points",
         3: "UNDECIDED: a against baseline b\n  all blocking tasks: −0.3 points",
         4: "NOT EVALUATED: a against baseline b\n  qa: not evaluated: 9 of 9 documents have no response"}  # fmt: skip
STATUS = {0: "pass", 1: "regression", 2: "error", 3: "undecided", 4: "not evaluated"}
HOSTILE = "$(touch pwned) `touch pwned`; touch pwned # \" ' \\ * ${HOME} %0A ::error::no\nstatus=pass\n::error::no"


@dataclass(frozen=True)
class Done:
    """What the runner saw of an action."""

    code: int
    log: str
    outputs: dict[str, str]
    summary: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """(kind, text) of the workflow commands in the log, as the runner reads them."""
        found, stopped = [], None
        for line in self.log.split("\n"):
            match = re.fullmatch(r"::([\w-]+)(?: [^:]*)?::(.*)", line, re.DOTALL)
            if stopped:
                stopped = None if line == f"::{stopped}::" else stopped
            elif match and match[1] == "stop-commands":
                stopped = match[2]
            elif match:
                text = match[2].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
                found.append((match[1], text))
        assert stopped is None
        return found


def run_action(folder: Path, inputs: dict[str, str], **environment: str) -> Done:
    """Run the action's steps in `folder` as GitHub's runner does."""
    assert inputs.keys() <= ACTION["inputs"].keys()
    values = {name: str(given["default"]) for name, given in ACTION["inputs"].items()} | inputs
    outputs: dict[str, dict[str, str]] = {}
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix="runner-"))
    summary, log, code = temporary / "summary.md", "", 0
    for place, step in enumerate(STEPS):
        if "if" in step and not condition(step["if"], values):
            continue
        script, written = temporary / f"{place}.sh", temporary / f"{place}.outputs"
        script.write_text(step["run"], "utf-8")
        written.touch()
        runner = {"GITHUB_ACTION_PATH": FOLDER, "GITHUB_OUTPUT": written, "GITHUB_STEP_SUMMARY": summary,
                  "RUNNER_TEMP": temporary}  # fmt: skip
        given = {key: filled(text, values) for key, text in step["env"].items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=folder, env={**os.environ, **{k: str(v) for k, v in runner.items()}, **environment, **given},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500,
        )  # fmt: skip
        log, code = log + done.stdout.decode("utf-8"), done.returncode
        outputs[step.get("id", "")] = read_outputs(written.read_bytes().decode("utf-8"))
        if code:
            break
    named = {name: output_of(given["value"], outputs) for name, given in ACTION["outputs"].items()}
    return Done(code, log, named, summary.read_text("utf-8") if summary.exists() else "")


def condition(text: str, values: dict[str, str]) -> bool:
    found = re.fullmatch(r"inputs\.([\w-]+) != ''", text)
    assert found, f"this test can't read the condition {text!r}"
    return values[found[1]] != ""


def filled(text: str, values: dict[str, str]) -> str:
    found = re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", text)
    assert found, f"{text!r} is more than one input"
    return values[found[1]]


def output_of(text: str, outputs: dict[str, dict[str, str]]) -> str:
    found = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.([\w-]+) \}\}", text)
    assert found
    return outputs.get(found[1], {}).get(found[2], "")


def read_outputs(text: str) -> dict[str, str]:
    """GITHUB_OUTPUT as the runner reads it: name=value, or name<<END, lines, END."""
    found, lines = {}, iter(text.split("\n"))
    for line in lines:
        if match := re.fullmatch(r"([^=<]+)<<(.+)", line, re.DOTALL):
            value = []
            for part in lines:
                if part == match[2]:
                    break
                value.append(part)
            found[match[1]] = "\n".join(value)
        elif line:
            key, _, rest = line.partition("=")
            found[key] = rest
    return found


class Stage:
    """A folder with a program in estbench's place: each call plays the next part, the last one again and again."""

    def __init__(self, folder: Path, *parts: dict[str, Any]) -> None:
        self.folder, self.log = folder, folder / "calls.jsonl"
        (folder / "parts.json").write_text(json.dumps(parts), "utf-8")
        self.program = folder / "estbench"
        self.program.write_text(PLAYER.format(python=sys.executable), "utf-8")
        self.program.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()] if self.log.exists() else []

    def action(self, **inputs: str) -> Done:
        return run_action(self.folder, {"command": str(self.program), **inputs})


PLAYER = """#!{python} -I
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "calls.jsonl", "a+") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
    log.seek(0)
    count = sum(1 for _ in log)
parts = json.loads((here / "parts.json").read_text("utf-8"))
part = parts[min(count, len(parts)) - 1]
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
for key in ("markdown", "junit"):
    if key in part:
        pathlib.Path(words[key]).write_text(part[key], "utf-8")
sys.stderr.buffer.write(part.get("stderr", "").encode())
sys.stdout.buffer.write(part.get("stdout", "").encode())
sys.exit(part["code"])
"""


def verdict(code: int) -> dict[str, Any]:
    """What estbench does when it comes to a verdict."""
    if code == 2:
        return {"code": 2, "stderr": "a line before\nestbench: gate.yaml, line 3: 'x' is no number.\n"}
    table = "\n\ntask  verdict\n────  ───────\nqa    pass\n"
    return {"code": code, "stdout": HEADS[code] + table, "markdown": "### A head\n\n| task |\n|---|\n", "junit": "<x/>"}


def test_inputs_reach_the_shell_through_its_environment_only() -> None:
    used = set()
    for step in STEPS:
        assert "uses" not in step and step["shell"] == "bash"
        assert "${{" not in step["run"]
        used |= {re.findall(r"inputs\.([\w-]+)", value)[0] for value in step["env"].values()}
        name = re.fullmatch(r'bash "\$GITHUB_ACTION_PATH/(\w+\.sh)"', step["run"])
        assert name
        script = (FOLDER / name[1]).read_text("utf-8")
        assert "${{" not in script and not re.search(r"\beval\b", script)
        assert set(re.findall(r"GATE_[A-Z]+", script)) <= step["env"].keys()
    assert used == ACTION["inputs"].keys()


@pytest.mark.parametrize(("code", "step", "kind"), [(0, 0, None), (1, 1, "error"), (2, 2, "error"), (3, 0, "warning")])
def test_each_verdict_has_its_ending(code: int, step: int, kind: str | None, tmp_path: Path) -> None:
    stage = Stage(tmp_path, verdict(code))
    done = stage.action(candidate="a", baseline="b")
    assert done.code == step and len(stage.calls) == 1
    assert (done.outputs["status"], done.outputs["exit-code"]) == (STATUS[code], str(code))
    text = HEADS.get(code, "estbench: gate.yaml, line 3: 'x' is no number.")
    assert done.outputs["first-lines"] == text
    assert done.commands == ([(kind, text)] if kind else [])
    assert done.summary == (
        "### A head\n\n| task |\n|---|\n" if code != 2 else f"### estbench gate: error\n\n    {text}\n"
    )
    assert Path(done.outputs["report"]).read_text("utf-8") == verdict(code).get("stdout", "")


def test_words_are_those_of_the_inputs(tmp_path: Path) -> None:
    stage = Stage(tmp_path, verdict(0))
    words = "limit=200\n\n  prompt.system=Sa oled abiline.\n@more.yaml\n"
    given = {"model": "out/last", "policy": "core", "budget": "30m", "engine": "vllm", "data": "copies"}
    stage.action(**given, words=words, junit="", markdown="")
    assert stage.calls[0][:2] == ["gate", "output=table"] and stage.calls[0][2].startswith("markdown=/")
    assert stage.calls[0][3:] == ["model=out/last", "policy=core", "budget=30m", "data=copies", "engine=vllm",
                                  "limit=200", "prompt.system=Sa oled abiline.", "@more.yaml"]  # fmt: skip


def test_what_was_not_evaluated_is_tried_once_more_and_then_fails(tmp_path: Path) -> None:
    stage = Stage(tmp_path, verdict(4))
    done = stage.action(candidate="a")
    assert len(stage.calls) == 2 and stage.calls[0] == stage.calls[1]
    assert done.code == 4 and done.outputs["status"] == "not evaluated" and done.outputs["exit-code"] == "4"
    assert [kind for kind, _ in done.commands] == ["notice", "error"] and done.commands[1][1] == HEADS[4]


def test_a_second_try_that_works_counts(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"code": 4, "stderr": "estbench: the engine died.\n"}, verdict(0))
    done = stage.action(candidate="a")
    assert done.code == 0 and done.outputs["status"] == "pass" and len(stage.calls) == 2
    assert done.commands == [("notice", "Not evaluated, tried again: estbench: the engine died.")]


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_can_be_chosen(retries: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"code": 4, "stderr": "estbench: the engine died.\n"})
    assert stage.action(candidate="a", retries=str(retries)).code == 4
    assert len(stage.calls) == retries + 1


@pytest.mark.parametrize(
    "part",
    [
        {"code": 1, "stderr": "Traceback (most recent call last):\n  File x\nKeyError: 'x'\n"},
        {"code": 137},
        {"code": 0, "stdout": "{}\n"},
        {"code": 0, "stdout": HEADS[1]},
        {"code": 1, "stdout": HEADS[0]},
    ],
    ids=["traceback", "killed", "no verdict", "pass without a pass", "regression without one"],
)
def test_a_crash_is_neither_a_regression_nor_a_pass(part: dict[str, Any], tmp_path: Path) -> None:
    stage = Stage(tmp_path, part)
    done = stage.action(candidate="a")
    assert done.code == 4 and done.outputs["status"] == "not evaluated" and len(stage.calls) == 2
    assert done.commands[-1][0] == "error" and f"exit code {part['code']}" in done.commands[-1][1]


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run_action(tmp_path, {"command": str(tmp_path / "nowhere")})
    assert done.code == 2 and done.outputs["status"] == "error" and "is estbench installed?" in done.commands[0][1]


@pytest.mark.parametrize("retries", ["", "-1", "1; touch pwned", "many"])
def test_retries_are_a_number(retries: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, verdict(0))
    done = stage.action(retries=retries)
    assert done.code == 2 and done.outputs["status"] == "error" and stage.calls == []
    assert not (tmp_path / "pwned").exists()


def test_files_of_an_earlier_run_say_nothing_about_this_one(tmp_path: Path) -> None:
    for name in ("gate.xml", "gate.md"):
        (tmp_path / name).write_text("of yesterday", "utf-8")
    done = Stage(tmp_path, verdict(4), {"code": 4, "stderr": "estbench: the engine died.\n"}).action(candidate="a")
    assert not (tmp_path / "gate.xml").exists() and "of yesterday" not in done.summary
    assert done.summary == "### estbench gate: not evaluated\n\n    estbench: the engine died.\n"


SINGLE = ["candidate", "model", "baseline", "policy", "budget", "data", "engine", "junit", "markdown"]


@pytest.mark.parametrize("name", SINGLE)
def test_a_hostile_input_is_one_word_and_nothing_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    stage = Stage(tmp_path, {"code": 2, "stderr": f"estbench: {HOSTILE}\n"})
    done = run_action(tmp_path / "work", {"command": str(stage.program), name: HOSTILE})
    assert f"{name}={HOSTILE}" in stage.calls[0]
    assert done.code == 2 and done.outputs["status"] == "error"
    assert [kind for kind, _ in done.commands] == ["error"]
    assert not list(tmp_path.rglob("pwned"))


def test_hostile_words_are_words(tmp_path: Path) -> None:
    stage = Stage(tmp_path, verdict(0))
    stage.action(words="limit=$(touch pwned)\na=`touch pwned`; touch pwned\nb=*")
    assert stage.calls[0][-3:] == ["limit=$(touch pwned)", "a=`touch pwned`; touch pwned", "b=*"]
    assert not list(tmp_path.rglob("pwned"))


LINE = st.text(st.characters(exclude_characters="\x00\n", exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=20, deadline=None)
@given_any(lines=st.lists(LINE.filter(bool), max_size=3), loud=st.lists(LINE, max_size=3))
def test_whatever_a_report_says_github_reads_its_first_lines_and_no_command(lines: list[str], loud: list[str]) -> None:
    head = "\n".join(["REGRESSION: a %0A ::error::b", *lines])
    with tempfile.TemporaryDirectory() as folder:
        noise = "\n".join(["::error::no", "::stop-commands::x", "::set-env name=PATH::.", "status=pass", *loud])
        part = {"code": 1, "stdout": f"{head}\n\n{noise}", "stderr": noise}
        done = Stage(Path(folder), part).action(candidate="a")
    assert done.outputs["status"] == "regression" and done.outputs["first-lines"] == head
    assert done.commands == [("error", head)]


def test_nobody_can_guess_the_word_that_lets_commands_in_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, verdict(0))
    words = [re.findall("^::stop-commands::(.*)$", stage.action().log, re.MULTILINE) for _ in range(2)]
    assert words[0] != words[1] and all(re.fullmatch("[0-9a-f]{32}", word) for (word,) in words)


def test_nothing_is_installed_unless_asked(tmp_path: Path) -> None:
    stage = Stage(tmp_path, verdict(0))
    stage.action(python=str(stage.program))
    assert len(stage.calls) == 1 and stage.calls[0][0] == "gate"
    stage.action(python=str(stage.program), install="estbench[hf]\n$(touch pwned) *\n")
    assert stage.calls[1] == ["-m", "pip", "install", "--disable-pip-version-check", "--",
                              "estbench[hf]", "$(touch pwned) *"]  # fmt: skip
    assert not (tmp_path / "pwned").exists()


def test_an_install_that_fails_ends_the_job(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"code": 1, "stderr": "ERROR: no matching distribution\n"})
    done = stage.action(python=str(stage.program), install="estbench")
    assert done.code == 1 and len(stage.calls) == 1 and done.outputs["status"] == ""


GITLAB_ENDS = [*((code, verdict(code), code) for code in STATUS), (1, {"code": 1, "stderr": "Traceback\n"}, 4),
               (137, {"code": 137}, 4), (0, {"code": 0, "stdout": "{}\n"}, 4)]  # fmt: skip


@pytest.mark.parametrize(("code", "part", "expected"), GITLAB_ENDS)
@pytest.mark.parametrize("shell", [["bash", "-eo", "pipefail"], ["sh", "-e"]], ids=["bash", "sh"])
def test_the_gitlab_job_ends_with_the_verdict(
    code: int, part: dict[str, Any], expected: int, shell: list[str], tmp_path: Path
) -> None:
    stage = Stage(tmp_path, part)
    (script,) = GITLAB["script"]
    given = {**GITLAB["variables"], "GATE_CANDIDATE": "a b", "GATE_WORDS": "limit=5 x=*"}
    env = {**os.environ, **given, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*shell, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == expected
    assert stage.calls == [["gate", "candidate=a b", "policy=gate.yaml", "junit=gate.xml", "markdown=gate.md",
                            "output=table", "limit=5", "x=*"]]  # fmt: skip
    assert done.stdout == part.get("stdout", "")


def test_the_gitlab_job_is_neutral_at_3_and_retries_at_4() -> None:
    assert GITLAB["allow_failure"] == {"exit_codes": [3]} and GITLAB["retry"] == {"max": 1, "exit_codes": [4]}
    assert GITLAB["artifacts"]["when"] == "always" and GITLAB["artifacts"]["reports"] == {"junit": "gate.xml"}


# The demo models


@dataclass(frozen=True)
class World:
    """A place with a committed baseline: the run of `demo`, of another home."""

    folder: Path
    home: Path

    def action(self, **inputs: str) -> Done:
        command = f"{sys.executable} -m estbench"
        given = {"command": command, "baseline": "main", "policy": "mini", **inputs}
        return run_action(self.folder, given, ESTBENCH_HOME=str(self.home))


def estbench(*words: str, folder: Path, home: Path) -> None:
    command = [sys.executable, "-m", "estbench", *words]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"ESTBENCH_HOME": str(home)}, capture_output=True)
    assert done.returncode == 0, done.stderr


def new_home(path: Path, models: Path) -> Path:
    path.mkdir()
    (path / "models").symlink_to(models)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, demo_results: Path) -> World:
    folder = tmp_path_factory.mktemp("checkout")
    home = copy_home(demo_results, folder / "home")
    (run,) = (path for path in (home / "runs").iterdir() if re.fullmatch("demo-[0-9a-f]{12}", path.name))
    estbench("baseline", "set", "main", f"run={run.name}", folder=folder, home=home)
    shutil.rmtree(home / "runs")
    return World(folder, home)


def cases(folder: Path) -> dict[str, Any]:
    """The cases of gate.xml, which has to be valid: name -> element."""
    document = etree.parse(str(folder / "gate.xml"))
    SCHEMA.assertValid(document)
    return {case.get("name"): case for case in document.iter("testcase")}


@pytest.mark.slow
def test_demo_against_its_own_rerun_passes(world: World, demo_model: Path) -> None:
    done = World(world.folder, new_home(world.folder / "empty", demo_model.parent)).action(model="demo")
    assert done.code == 0, done.log
    assert done.outputs["status"] == "pass" and done.outputs["exit-code"] == "0" and not done.commands
    assert done.outputs["first-lines"].startswith("PASS: demo (demo-") and "against baseline demo (" in done.summary
    found = cases(world.folder)
    assert len(found) == 8 and all(case.find("failure") is None for case in found.values())
    assert done.summary.count("| pass |") == 8 and "### PASS" in done.summary
    assert "is evaluated" in done.log and "stored already" not in done.log


@pytest.mark.slow
def test_demo_base_against_demo_fails_the_job(world: World) -> None:
    done = world.action(candidate="demo-base")
    assert done.code == 1 and done.outputs["status"] == "regression" and done.outputs["exit-code"] == "1"
    ((kind, text),) = done.commands
    assert kind == "error" and text.startswith("REGRESSION: demo-base against baseline demo") and "points" in text
    assert all(case.find("failure") is not None for case in cases(world.folder).values())
    assert "| regression |" in done.summary and text in Path(done.outputs["report"]).read_text("utf-8")


@pytest.mark.slow
def test_too_few_documents_are_a_warning(world: World) -> None:
    done = world.action(model="demo-base", words="limit=50")
    assert done.code == 0 and done.outputs["status"] == "undecided" and done.outputs["exit-code"] == "3"
    assert [kind for kind, _ in done.commands] == ["warning"] and "UNDECIDED" in done.summary
    assert all(case.find("skipped") is not None for case in cases(world.folder).values())


@pytest.mark.slow
def test_a_budget_decides_look_by_look(world: World) -> None:
    done = world.action(model="demo-base", budget="all")
    assert done.code == 1 and done.outputs["status"] == "regression"
    assert "Stopped after 224 documents" in Path(done.outputs["report"]).read_text("utf-8")


@pytest.mark.slow
def test_a_policy_with_a_mistake_fails_with_the_line(world: World) -> None:
    (world.folder / "wrong.yaml").write_text("margin: 2\nmargn: 3\n", "utf-8")
    done = world.action(model="demo", policy="wrong.yaml")
    assert done.code == 2 and done.outputs["status"] == "error"
    assert done.commands[0][0] == "error" and "wrong.yaml, line 2" in done.commands[0][1]
    assert not (world.folder / "gate.xml").exists()


@pytest.mark.slow
@pytest.mark.needs("git")
def test_the_ten_lines_are_a_gate(tmp_path: Path, demo_results: Path) -> None:
    home = copy_home(demo_results, tmp_path / "home")
    shutil.rmtree(home / "runs")
    shell, rules, step = (
        text.replace("out/step-1000", "demo").replace("out/step-2000", "demo").replace("step-1000", "demo-")
        .replace("core", "mini") for text in re.findall(r"```\w+\n(.*?)```", DOCS, re.DOTALL)[:3]
    )  # fmt: skip
    (tmp_path / "gate.yaml").write_text(rules, "utf-8")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "estbench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m estbench "$@"\n', "utf-8")
    program.chmod(0o755)
    author = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **author, "ESTBENCH_HOME": str(home), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", f"git init -q\n{shell}"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(home / "runs")  # the night's machine has none of them
    ((given,),) = [[yaml.safe_load(step)[0]["with"]]]
    ended = run_action(tmp_path, given, ESTBENCH_HOME=str(home), PATH=env["PATH"])
    assert ended.code == 0 and ended.outputs["status"] == "pass", ended.log
