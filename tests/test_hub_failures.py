"""A Hub that is down, slow, renamed, gated or changed, played by a server on loopback that the real clients talk to.

Each fault is one line with the data set, the revision and the cure, exit code 2, and nothing is half-written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stand_in_hub import COMMIT, Repo, StandInHub

from estbench import data, hub, lock, registry
from estbench.cli import main
from estbench.copies import read_rows

ROWS = [{"id": number, "text": f"Õun {number}"} for number in range(1, 5)]
OUTSIDE = "/OUTSIDE/secret.jsonl"  # stands for a file of this machine
SECRET = "hf_" + "s" * 30
TASK = """\
task: toy
dataset_path: owner/name
dataset_name: et
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
metadata: {title: {et: "Proov", en: "Toy"}, form: completion, primary: acc, chance: 0.5}
"""


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def readme(test: str = "et/test.jsonl", split: str = "test") -> bytes:
    parts = f'  - split: {split}\n    path: "{test}"\n  - split: dev\n    path: et/dev.jsonl\n'
    return f"---\nconfigs:\n- config_name: et\n  data_files:\n{parts}---\n".encode()


def files(**changes: bytes) -> dict[str, bytes]:
    """The data set as it is, but for the files named."""
    usual = {"README.md": readme(), "et/test.jsonl": as_lines(ROWS), "et/dev.jsonl": as_lines(ROWS[:1])}
    return usual | {{"readme": "README.md", "test": "et/test.jsonl"}[name]: value for name, value in changes.items()}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one task and no lock, a home of its own."""
    folder = tmp_path / "world" / "checkout"
    (folder / "tasks").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "tasks" / "toy.yaml").write_text(TASK)
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "world" / "home"))
    for name in ("ESTBENCH_DATA", "HF_TOKEN", *hub.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    for module in (data, lock, registry):
        monkeypatch.setattr(module, "project_file", lambda name: folder / name)
    return folder


@pytest.fixture
def server(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """The stand-in, and the real clients pointed at it: what HF_ENDPOINT does in a process of its own."""
    import datasets
    import huggingface_hub.constants
    from huggingface_hub.utils import _http

    with StandInHub({"owner/name": Repo(files())}) as stand_in:
        files_of = f"{stand_in.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stand_in.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files_of)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", stand_in.url)
        monkeypatch.setattr(_http.time, "sleep", lambda _: None)  # type: ignore[attr-defined]
        yield stand_in


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pull(*words: str) -> int:
    return main(["data", "pull", "tasks=toy", *words])


def test_the_real_clients_fetch_from_the_stand_in(server: StandInHub, checkout: Path, tmp_path: Path) -> None:
    """Negative control for all faults below: the same words work when nothing is wrong."""
    assert pull() == 0
    place = tmp_path / "world" / "home" / "data"
    assert read_rows(place / "owner__name" / "et" / "test.jsonl") == ROWS
    entry = json.loads((checkout / "tasks" / "data.lock").read_text())["owner/name:et"]
    assert (entry["commit"], entry["rows"]) == (COMMIT, {"test": 4, "dev": 1})
    assert main(["data", "verify", "tasks=toy"]) == 0


def no_repo(server: StandInHub) -> None:
    server.repos.clear()


def mode(name: str) -> Callable[[StandInHub], None]:
    def play(server: StandInHub) -> None:
        server.mode = name
        server.repos["owner/new-name"] = Repo(files())

    return play


def holding(**changes: bytes) -> Callable[[StandInHub], None]:
    def play(server: StandInHub) -> None:
        server.repos["owner/name"] = Repo(files(**changes))

    return play


def listing(*names: str) -> Callable[[StandInHub], None]:
    def play(server: StandInHub) -> None:
        server.repos["owner/name"] = Repo(files(readme=readme("**/*.jsonl")), listed=["README.md", *names])

    return play


FAULTS: dict[str, tuple[Callable[[StandInHub], None], str, str]] = {
    "down": (lambda server: server.__exit__(), "can't be reached", "data=DIR"),
    "slow": (mode("slow"), "did not answer in time", "try again"),
    "error": (mode("error"), "HTTP 500", "try again later"),
    "unavailable": (mode("unavailable"), "HTTP 503", "try again later"),
    "files unavailable": (mode("files_error"), "HTTP 503", "try again later"),
    "gone": (no_repo, "is not on the Hub", "renamed, removed, or private"),
    "renamed": (mode("renamed"), "is called owner/new-name", "put that name into the task file"),
    "moved": (mode("moved"), "is called owner/new-name", "put that name into the task file"),
    "gated": (mode("gated"), "is gated", "accept its terms at https://huggingface.co/datasets/owner/name"),
    "no token": (mode("no_token"), "is gated", "set HF_TOKEN"),
    "bad token": (mode("bad_token"), "does not take this HF_TOKEN", "set a valid one"),
    "short file": (mode("short"), "broke off", "try again"),
    "cut off": (mode("cut"), "broke off", "try again"),
    "a byte now and then": (mode("drip"), "did not answer in time", "try again"),
    "no rows": (holding(test=b""), "empty file", "another revision"),
    "damaged file": (holding(test=b'{"id": 1, "te'), "damaged file", "another revision"),
    "no such file": (holding(readme=readme("et/gone.jsonl")), "lacks its files", "another revision"),
    "pickle": (holding(readme=readme("et/test.pkl")), "lacks its files", "another revision"),
    "no such config": (holding(readme=b"# Name"), "no config", "correct dataset_name"),
    "fields that differ": (holding(test=as_lines([{"id": 1, "word": "Õun"}])), "different fields", "another revision"),
    "file outside": (holding(readme=readme(OUTSIDE)), "don't belong to owner/name", "data=DIR"),
    "file above": (holding(readme=readme("../../../etc/hostname")), "lacks its files", "data=DIR"),
    "listed above": (listing("../../../evil.jsonl"), "owner/name", "data=DIR"),
    "split outside": (holding(readme=readme(split="../../evil")), "owner/name", "data=DIR"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_writes_nothing(
    fault: str,
    server: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    monkeypatch.setattr(hub, "MOST_SECONDS", 1.0 if fault == "a byte now and then" else 30.0)
    play, problem, cure = FAULTS[fault]
    play(server)
    (tmp_path / "secret.jsonl").write_bytes(as_lines([{"id": 1, "text": SECRET}]))
    for repo in server.repos.values():
        repo.files["README.md"] = repo.files["README.md"].replace(OUTSIDE.encode(), f"{tmp_path}/secret.jsonl".encode())
    before = tree(tmp_path / "world")
    assert pull() == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1, shown.err
    assert shown.err.startswith("estbench: owner/name:et (") and ("main" in shown.err or COMMIT in shown.err)
    assert problem in shown.err and cure in shown.err
    assert tree(tmp_path / "world") == before
    assert not list(tmp_path.rglob("*evil*"))


DATA = ("et/test.jsonl", "et/dev.jsonl")
CHANGES: dict[str, tuple[Repo, str]] = {
    "fields": (Repo(files() | dict.fromkeys(DATA, as_lines([{"id": 1}] * 4))), "field text is gone"),
    "rows": (Repo(files(test=as_lines(ROWS[:3]))), "3 rows instead of 4"),
    "content": (Repo(files(test=as_lines([*ROWS[:3], {"id": 4, "text": "Pirn"}]))), "rows have other content"),
    "revision": (Repo(files(), commit="2" * 40), "does not have this revision"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_that_is_not_the_locks_is_refused_until_update(
    change: str,
    server: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import huggingface_hub.constants

    assert pull() == 0
    capsys.readouterr()
    server.repos["owner/name"], problem = CHANGES[change]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache of another machine"))
    before = tree(tmp_path / "world")
    assert pull() == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "owner/name:et" in shown and COMMIT in shown
    assert problem in shown and "update=true" in shown
    assert tree(tmp_path / "world") == before
    assert pull("update=true") == 0
    assert tree(tmp_path / "world") != before


def test_a_renamed_data_set_is_taken_while_it_is_the_locked_data(server: StandInHub) -> None:
    assert pull() == 0
    mode("renamed")(server)
    assert pull() == 0


def test_the_token_comes_from_the_environment_and_is_never_shown(
    server: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pull() == 0
    assert all(token is None for _, path, token in server.requests if "owner/name" in path)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert pull() == 0
    assert any(token == f"Bearer {SECRET}" for *_, token in server.requests)
    for fault in ("bad_token", "gated", "error"):
        server.mode = fault
        assert pull("update=true") == 2
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}\n\x01")  # no header can hold it, and the client's message may quote it
    assert pull("update=true") == 2
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert not [name for name, content in tree(tmp_path).items() if SECRET.encode() in content]


def test_the_message_of_a_library_is_cleared_of_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert SECRET not in str(hub.hub_error("owner/name:et", ValueError(f"illegal header 'Bearer {SECRET}'")))


def test_a_folder_of_that_name_here_is_not_taken_for_the_data_set(
    server: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here" / "owner" / "name"
    here.mkdir(parents=True)
    (here / "test.jsonl").write_text('{"id": 0, "text": "vale"}\n')
    monkeypatch.chdir(tmp_path / "here")
    assert hub.fetch("owner/name", "et", None).splits["test"] == ROWS


def test_verify_remote_tells_what_the_hub_has_from_what_it_had(
    server: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify() -> tuple[int, list[tuple[str, str]]]:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / f"cache {len(server.requests)}"))
        capsys.readouterr()
        code = main(["data", "verify", "tasks=toy", "remote=true", "output=json"])
        return code, [(line["level"], line["message"]) for line in json.loads(capsys.readouterr().out)]

    monkeypatch.setattr("estbench.task_checks.check_task", lambda card, place: [])
    assert verify() == (0, [("note", f"test 4, dev 1 of commit {COMMIT}, not in data.lock"), ("ok", "renders")])
    assert pull() == 0
    before = tree(tmp_path / "world")
    assert verify() == (0, [("ok", f"test 4, dev 1 of commit {COMMIT}"), ("ok", "renders")])
    server.repos["owner/name"] = Repo(files(test=as_lines(ROWS[:3])))
    code, lines = verify()
    assert code == 1 and [level for level, _ in lines] == ["error"] and "3 rows instead of 4" in lines[0][1]
    server.mode = "gated"
    code, lines = verify()
    assert code == 1 and "set HF_TOKEN" in lines[0][1]
    assert tree(tmp_path / "world") == before


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "code", "lines"), [("ok", 0, 1), ("gated", 2, 1), ("short", 2, 1)])
def test_a_process_that_is_told_by_hf_endpoint_says_one_line(fault: str, code: int, lines: int, tmp_path: Path) -> None:
    """Nothing is replaced but the project's folder, so that the libraries' own notes would show."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "toy.yaml").write_text(TASK)
    program = (
        "import sys; from pathlib import Path; from estbench import cli, data, lock, registry\n"
        "for module in (data, lock, registry): module.project_file = lambda name: Path(sys.argv[1]) / name\n"
        "sys.exit(cli.main(['data', 'pull', 'tasks=toy']))"
    )
    with StandInHub({"owner/name": Repo(files())}) as stand_in:
        stand_in.mode = fault
        environment = {key: value for key, value in os.environ.items() if key != "ESTBENCH_DATA"}
        environment |= {"HF_ENDPOINT": stand_in.url, "ESTBENCH_HOME": str(tmp_path / "home")}
        environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True
        )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", lines), done.stderr
    assert done.stderr.startswith("owner/name:et" if code == 0 else "estbench: owner/name:et (")
