"""COMET: licences, signature, empty outputs; a run's scores, computed once; and the very scores of unbabel-comet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from worlds import TEXT, World

from estbench import cli, comet_runs, config, registry, runner
from estbench.config import EvalSettings
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.errors import ConfigError, DataError, EngineError, MissingPartError, ModelError, StoreError
from estbench.metrics import comet
from estbench.plan import Scope, render
from estbench.runs import Run

TINY = Path(__file__).with_name("comet_tiny.py")
FAKE = """
import json, os, sys
mode, log = os.environ.get("FAKE_COMET", ""), os.environ["FAKE_COMET_LOG"]
if mode == "refuses":
    print(json.dumps({"error": sys.argv[1] + " is not loaded: it could run code"}), flush=True)
    sys.exit()
info = {"comet": "2.2.7", "torch": "2.13.0", "transformers": "4.57.6", "precision": "float32", "device": "cpu"}
print(json.dumps({"ready": info}), flush=True)
for number, line in enumerate(sys.stdin):
    rows = json.loads(line)["rows"]
    with open(log, "a") as file:
        file.writelines(json.dumps(row) + "\\n" for row in rows)
    scores = [min(1.0, len(row["mt"]) / 40) for row in rows]
    if mode == "dies" and number == 1: os.kill(os.getpid(), 9)
    if mode == "short": scores = scores[1:]
    if mode == "nan": scores[0] = float("nan")
    print(json.dumps({"scores": scores}), flush=True)
"""
SEGMENTS = [
    ("The dog sees the house.", "Koer näeb maja.", "Koer näeb maja."),
    ("It rains outside.", "  ", "Õues sajab vihma."),
    ("It rains outside.", "Väljas sajab šokolaadi", "Õues sajab vihma."),
]


def folder_of(path: Path, **hparams: Any) -> Path:
    """A folder that has the files of a COMET model."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / "model.ckpt").write_bytes(b"weights")
    settings = {"class_identifier": "regression_metric", "pretrained_model": "own/encoder"} | hparams
    (path / "hparams.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "model")


@pytest.fixture
def asked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, str]]]:
    """An environment whose worker is FAKE; call it for the rows that the worker was asked to score."""
    from test_environments import lay

    from estbench import environments

    lay(environments.get("comet"))
    script, log = tmp_path / "fake_worker.py", tmp_path / "asked"
    script.write_text(FAKE, "utf-8")
    monkeypatch.setattr(comet, "WORKER", script)
    monkeypatch.setenv("FAKE_COMET_LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def test_an_empty_output_scores_zero_and_is_not_shown_to_the_model(
    asked: Callable[[], list[dict[str, str]]], model: Path
) -> None:
    with comet.Comet(comet.find(str(model))) as scorer:
        scores = scorer.scores(SEGMENTS)
        assert scorer.scores([]) == [] and scorer.scores([SEGMENTS[1]]) == [0.0]
        assert "|empty:0|" in scorer.signature
    assert scores == [pytest.approx(len(SEGMENTS[0][1]) / 40), 0.0, pytest.approx(len(SEGMENTS[2][1]) / 40)]
    assert asked() == [dict(zip(("src", "mt", "ref"), SEGMENTS[place], strict=True)) for place in (0, 2)]


def test_the_signature_names_all_that_fixes_a_score(
    asked: Callable[[], list[dict[str, str]]], model: Path, tmp_path: Path
) -> None:
    with comet.Comet(comet.find(str(model))) as scorer:
        before = scorer.signature
    for part in ("comet:2.2.7", "model:model", "sha256:", "precision:float32", "device:cpu", "torch:", "transformers:"):
        assert part in before
    other = folder_of(tmp_path / "other" / "model")
    (other / "checkpoints" / "model.ckpt").write_bytes(b"other weights")
    with comet.Comet(comet.find(str(other))) as scorer:
        assert scorer.signature != before


@pytest.mark.parametrize("mode", ["short", "nan", "refuses"])
def test_a_worker_that_gives_something_else_is_refused(
    asked: Callable[[], list[dict[str, str]]], model: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("FAKE_COMET", mode)
    line = "is not loaded" if mode == "refuses" else "gave no 2 numbers for 2 segments"
    with pytest.raises(EngineError, match=line), comet.Comet(comet.find(str(model))) as scorer:
        scorer.scores(SEGMENTS)


def test_without_the_environment_nothing_is_scored(home: Path, model: Path) -> None:
    with pytest.raises(MissingPartError, match="estbench env install comet"):
        comet.Comet(comet.find(str(model)))


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("wmt22-cometkiwi-da", "referenceless_regression_metric"),
        ("XCOMET-XL", "xcomet_metric"),
        ("renamed", "xcomet_metric"),
        ("renamed", "unified_metric"),
    ],
)
def test_a_non_commercial_model_needs_its_licence_accepted_by_name(tmp_path: Path, name: str, identifier: str) -> None:
    path = str(folder_of(tmp_path / name, class_identifier=identifier))
    for accepted in (None, "true", "another"):
        with pytest.raises(ConfigError, match=f"accept_licence={name}"):
            comet.find(path, accepted)
    assert comet.find(path, name).licence == comet.NON_COMMERCIAL


def test_licences_are_known_or_said_to_be_unknown(model: Path) -> None:
    assert comet.find(str(model)).licence == "not known"
    assert comet.Model(comet.DEFAULT, model, {}).licence == "Apache-2.0"
    with pytest.raises(ConfigError, match="accept_licence=Unbabel/XCOMET-XXL"):  # before anything is downloaded
        comet.fetch("Unbabel/XCOMET-XXL", None, lambda line: None)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda path: (path / "hparams.yaml").unlink(), "lacks hparams.yaml"),
        (lambda path: (path / "checkpoints" / "model.ckpt").unlink(), "lacks checkpoints/model.ckpt"),
        (lambda path: (path / "hparams.yaml").write_text("a: [", "utf-8"), "can't be read"),
        (lambda path: (path / "hparams.yaml").write_text("a: 1", "utf-8"), "no class_identifier"),
        (lambda path: (path / "hparams.yaml").write_text("a: !!python/name:os.system\n", "utf-8"), "can't be read"),
    ],
)
def test_a_folder_that_is_no_comet_model_has_its_line(model: Path, change: Callable[[Path], Any], line: str) -> None:
    change(model)
    with pytest.raises(ModelError, match=line) as caught:
        comet.find(str(model))
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_here_is_never_downloaded_while_scoring(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="estbench env install comet model=Unbabel/wmt22-comet-da"):
        comet.find(comet.DEFAULT)
    with pytest.raises(ModelError, match="give a folder, or owner/name"):
        comet.find("wmt22-comet-da")


def test_fetching_without_a_network_is_one_line(home: Path) -> None:
    with pytest.raises(ModelError, match=r"can't be fetched|could not be fetched") as caught:
        comet.fetch(comet.DEFAULT, None, lambda line: None)
    assert "\n" not in str(caught.value)


SECRET = "hf_" + "s" * 30


@pytest.mark.parametrize("around", [" ", "\n", "\r\n", ""])
def test_a_download_that_fails_never_shows_the_token(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], around: str
) -> None:
    import huggingface_hub

    given: list[str] = []

    def download(*_: Any, token: str, **__: Any) -> str:
        given.append(token)
        raise RuntimeError(f"Illegal header value {f'Bearer {token}{around}'.encode()!r}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_TOKEN", SECRET + around)
    with pytest.raises(ModelError, match="Illegal header value b'Bearer …") as caught:
        comet.fetch(comet.DEFAULT, None, lambda line: None)
    assert given == [SECRET] and SECRET not in str(caught.value)


def test_a_token_that_no_request_can_carry_is_refused_before_one_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("was asked"))
    monkeypatch.setenv("HF_TOKEN", f"{SECRET[:9]}\n{SECRET[9:]}")
    with pytest.raises(DataError, match="HF_TOKEN holds characters") as caught:
        comet.fetch(comet.DEFAULT, None, lambda line: None)
    assert "sss" not in str(caught.value)


def test_the_client_of_the_hub_takes_a_token_with_a_line_end(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client and a Hub on this machine: it is asked with the bare token, and what it answers is one line."""
    import huggingface_hub.constants
    from stand_in_hub import StandInHub

    with StandInHub({}) as server:
        for name, value in (("ENDPOINT", server.url), ("HF_HUB_CACHE", str(tmp_path / "cache"))):
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", f"{SECRET}\n")
        with pytest.raises(ModelError) as caught:
            comet.fetch(comet.DEFAULT, None, lambda line: None)
        assert {token for *_, token in server.requests} == {f"Bearer {SECRET}"}
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


ROWS = [
    {"source": f"The dog {i} sees the house.", "target": f"Koer {i} näeb maja.", "article": i // 3} for i in range(12)
]
TRANSLATE: dict[str, Any] = {
    **TEXT,
    "task": "translate",
    "dataset_path": "own/translate",
    "fewshot_split": None,
    "fewshot_config": None,
    "num_fewshot": 0,
    "doc_to_text": "Inglise keeles: {{source}}\nEesti keeles:",
    "doc_to_target": "{{target}}",
    "metadata": {**TEXT["metadata"], "skill": "translation", "language": "en-et", "cluster": "{{article}}"},
}


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    made.write(TRANSLATE)
    made.fill("translate", ROWS)
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def evaluate(world: World, tasks: str = "words,translate", **options: Any) -> Run:
    """A run whose model answers document 3 with nothing and the others with their number and a word."""
    settings = EvalSettings(model="mock", tasks=tasks, data=str(world.data), **options)
    engine = MockEngine(
        answer=lambda prompt: "" if "dog 3 " in prompt else f" Eesti keeles: Koer {len(prompt)} tõlgitud"
    )
    tokens: Any = MockTokens()
    cards = registry.Registry().select(tasks).tasks
    plans = [render(card, tokens, engine.max_length, Scope(limit=settings.limit, data=world.data)) for card in cards]
    return runner.evaluate(runner.Job(settings, mock_checkpoint("mock"), tokens, engine, plans, [], {}))


def stored(run: Run) -> dict[str, Any]:
    [entry] = comet_runs.read(run)
    return entry


def test_a_run_gets_a_file_of_its_own_and_stays_as_it_is(
    asked: Callable[[], list[dict[str, str]]], world: World, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluate(world)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert cli.main(["comet", f"run={run.id}", f"model={model}"]) == 0
    out, err = capsys.readouterr()
    entry = json.loads(out)
    assert {path: path.read_bytes() for path in before} == before
    [score] = entry["scores"]
    values = [row["value"] for row in stored(run)["values"]["translate"].values()]
    assert score["n"] == 12 and score["value"] == pytest.approx(sum(values) / 12) and score["signature"]
    assert values[3] == 0.0 and score["parse_failures"] == 1 and "4 clusters" in score["method"]
    assert score["ci_low"] < score["value"] < score["ci_high"] and not score["primary"]
    assert "licence: not known" in err
    rows = asked()
    assert len(rows) == 11 and rows[0]["src"] == ROWS[0]["source"] and rows[0]["ref"] == ROWS[0]["target"]
    assert rows[0]["mt"].startswith("Koer")  # the text that chrF++ scores: without its label


def test_the_table_shows_score_interval_and_signature(
    asked: Callable[[], list[dict[str, str]]], world: World, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluate(world)
    assert cli.main(["comet", f"run={run.id}", f"model={model}", "output=table"]) == 0
    out = capsys.readouterr().out
    for word in ("translate", "comet", "95 % interval", "comet:2.2.7|model:model", "comet.json"):
        assert word in out


def test_a_value_is_computed_once(asked: Callable[[], list[dict[str, str]]], world: World, model: Path) -> None:
    run, found = evaluate(world), comet.find(str(model))
    first = comet_runs.score_run(run, ["translate"], found, say=print)
    count = len(asked())
    assert comet_runs.score_run(run, ["translate"], found, say=print) == first and len(asked()) == count


def test_a_kill_costs_the_chunk_it_happens_in(
    asked: Callable[[], list[dict[str, str]]], world: World, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, found = evaluate(world), comet.find(str(model))
    monkeypatch.setattr(comet_runs, "CHUNK", 5)
    monkeypatch.setenv("FAKE_COMET", "dies")
    with pytest.raises(EngineError, match="killed"):
        comet_runs.score_run(run, ["translate"], found, say=print)
    assert len(stored(run)["values"]["translate"]) == 5 and not stored(run)["scores"]
    monkeypatch.delenv("FAKE_COMET")
    before = len(asked())
    entry = comet_runs.score_run(run, ["translate"], found, say=print)
    assert entry["scores"][0]["n"] == 12 and len(asked()) - before == 7


def test_another_model_gets_another_entry(
    asked: Callable[[], list[dict[str, str]]], world: World, model: Path, tmp_path: Path
) -> None:
    run = evaluate(world)
    for path in (model, folder_of(tmp_path / "second")):
        comet_runs.score_run(run, ["translate"], comet.find(str(path)), say=print)
    assert [entry["model"] for entry in comet_runs.read(run)] == ["model", "second"]


@pytest.mark.parametrize(("tasks", "wanted", "line"), [
    ("words", None, "has no translation task"),
    ("words,translate", "words", "is no translation task of run"),
])  # fmt: skip
def test_only_translations_are_scored(world: World, tasks: str, wanted: str | None, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        comet_runs.translation_tasks(evaluate(world, tasks), wanted)


def test_rows_that_changed_since_the_run_are_refused(
    asked: Callable[[], list[dict[str, str]]], world: World, model: Path
) -> None:
    run = evaluate(world)
    world.fill("translate", [row | {"source": row["source"] + "!"} for row in ROWS])
    with pytest.raises(DataError, match="not in the data that is here"):
        comet_runs.score_run(run, ["translate"], comet.find(str(model)), say=print)
    assert not asked()


def test_a_damaged_file_of_scores_is_one_line(world: World, model: Path) -> None:
    run = evaluate(world)
    (run.path / comet_runs.FILE).write_text('{"schema": 1, "entr', "utf-8")
    with pytest.raises(StoreError, match="move it away"):
        comet_runs.read(run)


def test_flores_rows_give_the_column_of_the_language() -> None:
    row = {"sentence_eng_Latn": " It rains. ", "sentence_est_Latn": "Sajab."}
    cards = registry.Registry()
    assert comet_runs._source(cards.task("flores_en_et_chat"), row) == "It rains."
    assert comet_runs._source(cards.task("flores_et_en_chat"), row) == "Sajab."
    with pytest.raises(DataError, match="neither"):
        comet_runs._source(cards.task("flores_en_et"), {"text": "Sajab."})


def test_the_guides_command_lines_are_understood() -> None:
    guide = (TINY.parents[1] / "docs" / "comet.md").read_text("utf-8")
    lines = [line.partition("#")[0].split()[1:] for line in guide.splitlines() if line.startswith("estbench ")]
    assert len(lines) == 3
    for name, *words in lines:
        settings = [word for word in words if "=" in word]
        assert config.read(settings, cli.COMMANDS[name].settings)


def ask_tiny(python: Path, environment: dict[str, str], *words: str, given: str = "") -> str:
    command = [str(python), "-I", str(TINY), *words]
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_scores_are_those_of_unbabel_comet_called_directly(
    online: dict[str, str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is built as users build it; then the worker, unbabel-comet itself, and a malicious checkpoint."""
    online = online | {"ESTBENCH_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "estbench", "env", "install", "comet"], capture_output=True, text=True, env=online
    )
    assert done.returncode == 0, done.stderr
    python = home / "environments" / "comet" / "bin" / "python"
    ask_tiny(python, online, "make", str(tmp_path))
    checkpoint = tmp_path / "model" / "checkpoints" / "model.ckpt"
    segments = [
        (f"The dog sees the old house {i}.", "Õues sajab vihma. " * (i % 4 + 1) + "koer", f"Koer {i} näeb vana maja.")
        for i in range(20)
    ]
    rows = [dict(zip(("src", "mt", "ref"), segment, strict=True)) for segment in segments]
    expected = json.loads(ask_tiny(python, online, "score", str(checkpoint), given=json.dumps(rows)))
    found = comet.find(str(tmp_path / "model"))
    with comet.Comet(found, device="cpu", batch=3) as scorer:
        scores = scorer.scores([*segments, ("The dog.", "", "Koer.")])
        again = scorer.scores(segments)
        assert scorer.worker.info["comet"] == "2.2.7" and scorer.worker.info["precision"] == "float32"
    assert scores[:-1] == pytest.approx(expected, abs=1e-6) and scores[-1] == 0.0 and scores[:-1] == again
    assert max(expected) - min(expected) > 0.01  # the model tells segments apart
    owned = tmp_path / "owned"
    ask_tiny(python, online, "poison", str(checkpoint), str(owned))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # a user's setting does not open the door
    with pytest.raises(EngineError, match=r"is not loaded: it names io.open"):
        comet.Comet(found, device="cpu")
    assert not owned.exists()
    run_code = f"import torch; torch.load({str(checkpoint)!r}, weights_only=False)"
    subprocess.run([python, "-I", "-c", run_code], check=True, env=online)
    assert owned.exists()  # negative control: it would have run
