"""What every test can rely on: a home of its own, no network, one thread, and the fixtures that several files share.

    home            an empty ESTBENCH_HOME for this test alone (without it: one for the session)
    mirror          the offline copy of public data sets; the test is skipped where there is none
    demo_model      the demo checkpoints, made once and kept in $ESTBENCH_TEST_CACHE
    demo_base_model (~/.cache/estbench-tests)
    demo_results    a home in which both have answered suite `mini`, by the command line; tests copy it (`copy_home`)
    demo_run        a run of the demo model on a part of three tasks; tests only read it
    mock_model      a model that answers what the test says, without computing
    tiny_model      a random Llama with 9,808 parameters, a tokenizer with BOS and a chat template
    board_world     a made-up database for the board, small; tests only read it
    online          the network as it is outside, for tests that install packages
    vllm_environment  the side environment of vLLM, installed once into $ESTBENCH_TEST_CACHE (1 minute, 2.2 GB)
    vllm_server     a real vLLM server with the demo model, one for the session (a start takes a minute or two)

`@pytest.mark.needs("chromium", "psycopg")` names programs or modules that a test can't do without.

`pytest -n 2` (pytest-xdist) shares the files out among two processes, each with a home of its own; what is made once
for all of them is made under a lock (`locks.alone`).
"""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from locks import alone

ROOT = Path(__file__).parents[1]
CI = os.environ.get("CI", "").lower() in ("1", "true")
CACHE = Path(os.environ.get("ESTBENCH_TEST_CACHE") or "~/.cache/estbench-tests").expanduser()
HOME = Path(tempfile.mkdtemp(prefix="estbench-tests-"))
OUTSIDE = dict(os.environ)  # before the changes below; a process of xdist is told what it was

# With several processes one runs a whole file, so that what its tests share is made once. Long ones come first, or in
# the end all wait for one of them. Those with a vLLM server share it, and a start takes a minute or two.
VLLM = ("tests/test_vllm_engine.py", "tests/test_vllm_server.py", "tests/test_judge_vllm.py")
LONG = (
    *VLLM,
    *("tests/e2e/test_training_science.py", "tests/test_train_cpt_parallel.py"),
    *("tests/test_comet.py", "tests/e2e/test_wheel.py", "tests/e2e/test_gate_action.py"),
    *("tests/test_stats_paired_coverage.py", "tests/test_distributed_cluster.py", "tests/test_board_fuzz.py"),
    *("tests/e2e/test_board_browser.py", "tests/e2e/test_board_axe.py", "tests/test_cli.py"),
    *("tests/e2e/test_gate_demo.py", "tests/e2e/test_main_job.py"),
    *("tests/test_board_export.py", "tests/test_board_faults.py", "tests/test_board_hostile.py"),
)

# Here, and not in a fixture: torch and the Hub's client read them when they are imported. Children inherit them; a
# proxy that is not there keeps those from the network, as `no_network` keeps this process.
NO_PROXY = "localhost,127.0.0.1,::1"
CLOSED = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
os.environ.update(
    {
        **{key: value for name, value in CLOSED.items() for key in (name, name.upper())},
        "no_proxy": NO_PROXY,
        "NO_PROXY": NO_PROXY,
        "ESTBENCH_HOME": str(HOME),
        "HF_HOME": str(HOME / "huggingface"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)


# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile(
    "unhurried", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


def needs(*names: str) -> None:
    """Skip where a program or module is missing; fail in CI, which has to install it."""
    missing = [name for name in names if not shutil.which(name) and not find_spec(name)]
    if missing and CI:
        pytest.fail(f"CI must not skip: .ci/run has to install {', '.join(missing)}")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        needs(*mark.args)


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_configure_node(node: Any) -> None:
    node.workerinput["outside"] = OUTSIDE


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, in the order of the collection, unless another way is asked for (`--dist worksteal`)."""
    if config.getoption("dist") not in ("load", "loadfile"):
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "vllm" if file in VLLM else file

    config.option.loadscopereorder = False
    return Files(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        OUTSIDE.clear()
        OUTSIDE.update(config.workerinput["outside"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))


def pytest_sessionstart() -> None:
    (CACHE / "models").mkdir(parents=True, exist_ok=True)
    share_models(HOME)


def pytest_sessionfinish() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


def share_models(home: Path) -> None:
    """Let a home use the demo models of the cache, so that they are made once and not once a session."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(CACHE / "models")


class NetworkBlocked(ConnectionRefusedError):
    """A test tried to reach another machine."""


def is_local(host: Any) -> bool:
    return host in (None, "", "localhost", "::1", b"localhost") or str(host).startswith("127.")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[pytest.MonkeyPatch]:
    """Only this machine can be reached: loopback and unix sockets."""
    patch = pytest.MonkeyPatch()
    resolve = socket.getaddrinfo

    def guarded(connect: Any) -> Any:
        def check(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX and not is_local(address[0]):
                raise NetworkBlocked(f"tests have no network: {address}")
            return connect(self, address)

        return check

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests have no network: {host}")
        return resolve(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield patch
    patch.undo()


@pytest.fixture(autouse=True, scope="module")
def no_old_garbage() -> None:
    """Leave what lives by now out of garbage collections: an engine collects when it is done, and half a second for a
    million objects of torch and transformers would be a third of a small eval."""
    gc.collect()
    gc.freeze()


def outside() -> dict[str, str]:
    """The environment of a child that may use the network (installs), with the home of the tests."""
    environment = {key: value for key, value in OUTSIDE.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if "PIP_FIND_LINKS" in environment:
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"])
    return {**environment, "ESTBENCH_HOME": str(HOME), "HF_HOME": str(HOME / "huggingface"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def online() -> dict[str, str]:
    """The environment of a child that may use the network (installs), with the home of the tests."""
    return outside()


@pytest.fixture(scope="session")
def vllm_environment() -> Path:
    """The side environment of vLLM, by the project's own command; the session's home has it, too."""
    command = [sys.executable, "-m", "estbench", "env", "install", "vllm", "variant=cpu"]
    with alone("vllm"):
        done = subprocess.run(
            command, capture_output=True, text=True, env=outside() | {"ESTBENCH_HOME": str(CACHE)}, timeout=1800
        )
    if done.returncode and CI:
        pytest.fail(f"CI must not skip: {done.stderr}")
    if done.returncode:
        pytest.skip(f"vLLM can't be installed here: {done.stderr.splitlines()[-1]}")
    folder = CACHE / "environments" / "vllm"
    share_vllm(HOME, folder)
    return folder


def share_vllm(home: Path, folder: Path) -> None:
    """Let a home use the environment that `vllm_environment` gives."""
    (home / "environments").mkdir(parents=True, exist_ok=True)
    if not (home / "environments" / "vllm").exists():
        (home / "environments" / "vllm").symlink_to(folder)


@pytest.fixture(scope="session")
def vllm_server(vllm_environment: Path, demo_model: Path) -> Iterator[Any]:
    """A `Server` that runs, with the demo model: .url, .model, .key_variable (set in this process), .log."""
    from estbench.engines.options import VllmOptions
    from estbench.engines.vllm_server import Server, recipe_for

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(HOME))
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        options = VllmOptions()
        server = Server(recipe_for(options), demo_model, options, print)
    with server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ESTBENCH_HOME for this test alone; only the demo models are shared."""
    path = tmp_path / "home"
    share_models(path)
    monkeypatch.setenv("ESTBENCH_HOME", str(path))
    return path


@pytest.fixture
def mock_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], str]], None]:
    """`mock_model(answer)`: from then on every `model=` answers a prompt with `answer(prompt)`; nothing is computed."""
    from estbench import checkpoint, engines
    from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint

    def use(answer: Callable[[str], str]) -> None:
        model = mock_checkpoint()
        monkeypatch.setattr(type(model), "has_chat_template", True)
        monkeypatch.setattr(checkpoint, "find", lambda *_, **__: model)
        monkeypatch.setattr(engines, "tokens_of", lambda *_: MockTokens("a template"))
        monkeypatch.setattr(engines, "make", lambda *_: MockEngine(answer))

    return use


@pytest.fixture(scope="session")
def board_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A small `board_world.World`, for tests that only read it."""
    from board_world import SMALL, fill

    from estbench.database import open_database

    with open_database(f"sqlite:///{tmp_path_factory.mktemp('board') / 'world.db'}") as database:
        yield fill(database, **SMALL)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The offline copy of public data sets: $ESTBENCH_DATA, or beside the checkout."""
    path = Path(os.environ.get("ESTBENCH_DATA") or ROOT.parent / "shared" / "data" / "mirror")
    if not (path / "MANIFEST.sha256").is_file():
        pytest.skip("needs the offline copy of public data sets (ESTBENCH_DATA)")
    return path.resolve()


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo checkpoint that has learnt Estonian."""
    from estbench.demo import model_path

    return model_path("demo")


@pytest.fixture(scope="session")
def demo_base_model() -> Path:
    """The demo checkpoint that has seen English only."""
    from estbench.demo import model_path

    return model_path("demo-base")


@pytest.fixture(scope="session")
def demo_results(tmp_path_factory: pytest.TempPathFactory, demo_model: Path, demo_base_model: Path) -> Path:
    """A home in which both demo models have answered suite `mini`: one for all processes of this session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo-results"
    done = folder.with_suffix(".done")
    with alone("demo-results"):
        if not done.exists():
            share_models(folder)
            for model in ("demo", "demo-base"):
                command = [sys.executable, "-m", "estbench", "eval", f"model={model}", "tasks=mini"]
                subprocess.run(
                    command, env=os.environ | {"ESTBENCH_HOME": str(folder)}, check=True, capture_output=True
                )
            done.touch()
    return folder


@pytest.fixture(scope="session")
def demo_run(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the demo model on a part of three tasks, for tests that only read it."""
    from submission_fixtures import measured

    return measured(tmp_path_factory.mktemp("demo-run"), limit=60)


def copy_home(home: Path, place: Path) -> Path:
    """A home like another one, with the same models."""
    return Path(shutil.copytree(home, place, symlinks=True))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama: 2 layers of width 16, 9,808 parameters, 320 tokens, BOS in front, 512 positions."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = ["Õues sajab vihma ja müts läks märjaks.", "Žürii jõi öösel jäätunud šokolaadi.", "The dog sees the house."]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,  # far from uniform, so that choices differ
        )
    )
    path = tmp_path_factory.mktemp("tiny-model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
