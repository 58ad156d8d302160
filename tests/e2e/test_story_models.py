"""`make story` cut down: a small recipe through the real commands, to a page whose verdicts are the commands'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import share_models
from estbench_training import story
from estbench_training.story import results as stored
from estbench_training.story.claims import Claim, verdict
from estbench_training.story.results import Results
from estbench_training.story.seeds import Model, Seed, Way

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WRITTEN = ("mini_translate_en_et",)
PAIRS = ("mini_pairs_et", "mini_pairs_en")
SOURCES = {"et": {"demo": "et", "documents": 3000}, "en": {"demo": "en", "documents": 1000}}
TESTS = {"tasks": "mini_checkpoint"}
CORPUS = {
    "name": "corpus",
    "kind": "prepare",
    "sources": SOURCES,
    "duplicates": {"exact": True, "near": False},
    "decontaminate": TESTS,
}
MIXTURE = {"weights": {"et": 1}, "replay": {"source": "en", "share": 0.25}}
READING = {"sequence": 128, "batch_tokens": 1024, "micro_batch": 8, "rate": 1e-3, "precision": "fp32"}
ROWS = {"name": "rows", "kind": "instructions", "sources": {"tasks": {"demo": ["mini_follow_en"], "rows": 200}}}
TUNING = {
    "data": "rows",
    "template": "demo",
    "max_length": 256,
    "steps": 4,
    "batch": 4,
    "rate": 1e-3,
    "precision": "fp32",
}


def recipe(folder: Path) -> Path:
    """Both ways from an English base, with as few steps as show something: a chat vector, and LEP."""
    base = "demo-base"
    cpt = {"kind": "cpt", "data": "corpus", "mixture": MIXTURE, **READING}
    lep = {"kind": "lep", "source": base, "target": "instruct", "donor": "donor"}
    vocab = {"kind": "vocab", "mode": "extend", "size": 2000, "data": SOURCES, "decontaminate": TESTS}
    vector = {"kind": "merge", "method": "chat_vector", "base": base, "instruct": "instruct", "into": "cpt"}
    stages: list[dict[str, Any]] = [
        CORPUS,
        {"name": "cpt", "model": base, "steps": 120, "evaluate": {"every": 60, "tasks": "mini_checkpoint"}, **cpt},
        ROWS,
        {"name": "instruct", "kind": "sft", "model": base, **TUNING},
        {"name": "merged", **vector},
        {"name": "vocab", "model": base, **vocab},
        {**CORPUS, "name": "corpus-new", "model": "vocab"},
        {"name": "donor", "model": "vocab", "steps": 20, "freeze": "embeddings", **cpt, "data": "corpus-new"},
        {"name": "conversion", **lep},
        {"name": "swap", "variant": "swap", **lep},
    ]
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "base": base, "licence": "apache-2.0", "stages": stages}), "utf-8")
    return path


def seed(path: Path) -> Seed:
    made = ("instruct", "cpt", "merged", "vocab", "donor", "conversion", "swap")
    return Seed(
        name="small",
        title="Small: all kinds of stages",
        paper="2412.21140",
        recipe=str(path),
        says="A chat vector and LEP, cut down.",
        models=(Model("base", "demo-base", "read English"), *(Model(name, name, f"stage {name}") for name in made)),
        claims=(
            Claim("cpt", "Continued pretraining raises Estonian.", "cpt", "base", PAIRS[:1], "better"),
            Claim("not-cpt", "The base knows more Estonian.", "base", "cpt", PAIRS[:1], "better", control=True),
            Claim("merged", "The chat vector keeps Estonian.", "merged", "cpt", PAIRS[:1], "kept", margin=5),
            Claim("not-merged", "The base keeps it.", "base", "cpt", PAIRS[:1], "kept", control=True),
            Claim("tokens", "A new vocabulary takes fewer.", "conversion", "base", ("mini_translate_en_et",), "fewer"),
            Claim("not-tokens", "The old one does.", "base", "swap", ("mini_translate_en_et",), "fewer", control=True),
        ),
        writers=("base", "conversion"),
        written=WRITTEN,
        ways=(Way("conversion", ("conversion",)), Way("donor", ("donor",))),
        aim="mini_pairs_et",
        tasks=PAIRS,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, demo_base_model: Path) -> Any:
    folder = tmp_path_factory.mktemp("story")
    share_models(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        of = seed(recipe(folder))
        words = [f"docs={folder / 'docs'}", f"build={folder / 'build'}"]

        def tell() -> tuple[str, Results]:
            assert story.main(words, [of]) == 0
            return (folder / "docs" / "story.md").read_text("utf-8"), stored.read(folder / "docs/story/results.json")

        yield folder, of, tell, tell()


def test_claims_and_their_controls_have_the_verdicts_of_the_commands(told: Any) -> None:
    _, of, _, (text, results) = told
    words = {claim.name: verdict(claim, results.seeds["small"].found[claim.name]).word for claim in of.claims}
    assert words["cpt"] == words["tokens"] == "shown"
    assert words["not-cpt"] == words["not-merged"] == words["not-tokens"] == "not shown"
    assert text.count("| **shown** |") == [*words.values()].count("shown")


def test_the_page_has_every_model_every_stage_and_every_figure(told: Any) -> None:
    folder, of, _, (text, results) = told
    for model in of.models:
        assert f"| `{model.name}`: " in text
    assert {made.kind for made in results.seeds["small"].made.values()} >= {"cpt", "sft", "merge", "vocab", "lep"}
    for name in re.findall(r"\]\((story/[^)]+\.svg)\)", text):
        assert (folder / "docs" / name).is_file()
    assert str(folder) not in (folder / "docs" / "story" / "results.json").read_text("utf-8")


def test_the_board_has_the_models_with_their_lineage(told: Any) -> None:
    folder, *_ = told
    pages = "".join(path.read_text("utf-8") for path in (folder / "build" / "board" / "en").rglob("*.html"))
    assert "small-merged" in pages and "small-conversion" in pages


def test_told_again_nothing_is_trained_and_nothing_but_times_differs(told: Any) -> None:
    folder, _, tell, (before, _) = told
    done = {path: path.stat().st_mtime_ns for path in (folder / "home" / "training").rglob("done.json")}
    after, _ = tell()
    assert len(done) == 10 and done == {path: path.stat().st_mtime_ns for path in done}
    times = re.compile(r"\*[\d,.]+( s| CPU seconds)?\*")
    assert times.sub("*", after) == times.sub("*", before)
