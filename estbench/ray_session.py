"""Ray, started or joined for one evaluation, and ended with it.

    ray = join("local", cpus=2, gpus=None)    # the ray module, connected
    leave()

`local` starts a Ray of its own: bound to loopback, behind a token that only this process and its children know (a
login node has other users), without dashboard and statistics, in a temporary folder that goes with it. Ray runs code
that it is sent: a cluster that is joined should have token authentication switched on, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from typing import Any

from estbench.errors import ConfigError, EngineError, MissingPartError

CONNECT_SECONDS = 10.0
ATTEMPTS = 3  # Ray gives its own parts fixed times to start, which a busy machine can miss
OBJECT_STORE = 128 << 20  # bytes; packs and answers are small
LONGEST_TEMPORARY = 40  # characters; below it Ray makes unix sockets, whose paths have at most 107
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning otherwise; workers without GPUs hide them themselves
    "RAY_DEDUP_LOGS": "0",
    "GRPC_VERBOSITY": "NONE",
}

_ended_with: dict[str, Any] = {}  # what `leave` undoes: folder, signal handlers


def join(address: str, *, cpus: int, gpus: int | None) -> Any:
    """The ray module, connected to a cluster. cpus, gpus: what `local` offers; gpus=None: all that Ray finds.

    A Ray that this process is connected to already is used as it is. Raises MissingPartError without Ray,
    ConfigError where `auto` finds nothing, EngineError where Ray can't be started or reached.
    """
    ray = _imported(address)
    if ray.is_initialized():
        return ray
    _ended_with["signals"] = {number: signal.getsignal(number) for number in _signals()}
    try:
        if address == "local":
            _start(ray, cpus, gpus)
        else:
            _connect(ray, address)
    except BaseException:
        leave()
        raise
    _ended_with["ray"] = ray
    return ray


def leave() -> None:
    """End the connection, and the Ray that was started here. Does nothing where `join` connected to nothing."""
    ray = _ended_with.pop("ray", None)
    if ray is not None:
        ray.shutdown()
    if folder := _ended_with.pop("folder", None):
        shutil.rmtree(folder, ignore_errors=True)
    for number, handler in _ended_with.pop("signals", {}).items():
        signal.signal(number, handler)


def _imported(address: str) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise MissingPartError("cluster= needs Ray, which is not installed: pip install 'estbench[ray]'.")
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise MissingPartError("cluster=ray://… needs Ray's client, which is not installed: pip install 'ray[client]'.")
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    if address == "local":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's switch for loopback only, on Linux as well
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with contextlib.suppress(ImportError):  # Ray prints what its raylets say on stdout, among our JSON
        from ray._private import worker

        worker._worker_logs_enabled = False
    return ray


def _start(ray: Any, cpus: int, gpus: int | None) -> None:
    """A Ray of this process alone."""
    reason = ""
    for _ in range(ATTEMPTS):
        root = tempfile.gettempdir()
        folder = tempfile.mkdtemp(prefix="eb-", dir=root if len(root) < LONGEST_TEMPORARY else "/tmp")
        _ended_with["folder"] = folder
        try:
            ray.init(
                "local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=OBJECT_STORE,
                _temp_dir=folder,
            )
            return
        except Exception as error:  # Ray raises plain exceptions here
            reason = " ".join(str(error).split())[:300]
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
    raise EngineError(f"Ray can't be started here: {reason}")


def _connect(ray: Any, address: str) -> None:
    """A cluster that runs already."""
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        if address == "auto":
            raise ConfigError(
                "cluster=auto: no Ray runs on this machine. Start one (docs/cluster.md), or take cluster=local."
            ) from None
        raise EngineError(f"cluster={address} can't be reached: {' '.join(str(error).split())[:300]}") from None
    except Exception as error:  # other versions of Python or Ray there, a wrong token, ...
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise EngineError(f"cluster={address} can't be joined: {what}") from None


def _check_reachable(address: str) -> None:
    """EngineError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"cluster={address} can't be reached: {error}.") from None


def _signals() -> tuple[signal.Signals, ...]:
    """Signals whose handlers Ray replaces; only the main thread can set them back."""
    return (signal.SIGTERM,) if threading.current_thread() is threading.main_thread() else ()
