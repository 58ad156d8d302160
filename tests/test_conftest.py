"""What `conftest.py` promises to the other tests: no network, a home of their own, nothing skipped in CI."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import conftest
import pytest

FETCH = "import urllib.request; urllib.request.urlopen('http://192.0.2.1', timeout=5)"


def test_other_machines_are_out_of_reach() -> None:
    with socket.socket() as connection, pytest.raises(conftest.NetworkBlocked):
        connection.connect(("192.0.2.1", 80))
    with pytest.raises(socket.gaierror, match="tests have no network"):
        socket.create_connection(("example.org", 80), timeout=5)
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen("http://example.org", timeout=5)


def test_a_child_process_has_no_network_either() -> None:
    done = subprocess.run([sys.executable, "-c", FETCH], capture_output=True, text=True)
    assert "Connection refused" in done.stderr


def test_this_machine_can_be_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()[:2], timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()


def test_nobodys_home_is_touched(home: Path) -> None:
    assert Path(os.environ["ESTBENCH_HOME"]) == home
    assert not conftest.HOME.is_relative_to(Path.home())
    assert Path(os.environ["HF_HOME"]).is_relative_to(conftest.HOME)


@pytest.mark.parametrize(("ci", "ending"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_a_missing_tool_skips_here_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: bool, ending: type[BaseException]
) -> None:
    monkeypatch.setattr(conftest, "CI", ci)
    conftest.needs("sh", "pytest")
    with pytest.raises(ending, match="no-such-tool"):
        conftest.needs("no-such-tool")
