"""The story says what the commands found: verdicts, the page, its figures, and the recipes that it is made of."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from estbench_training import recipe as recipes
from estbench_training.story import figures, measures, page
from estbench_training.story import results as stored
from estbench_training.story.claims import Claim, Found, Row, of_compare, of_gate, verdict
from estbench_training.story.results import Evaluated, Made, Point, Results, Score, SeedResults, Writing
from estbench_training.story.seeds import FIRST, SEEDS, Model, Seed, Way, chosen
from estbench_training.story.work import Work
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.errors import ConfigError
from estbench.registry import Registry

ROOT = Path(__file__).parents[1]
BETTER = Claim("c", "It is better.", "new", "base", ("mini_pairs_et",), "better")
KEPT = dataclasses.replace(BETTER, name="k", says="It is kept.", test="kept", tasks=("mini_pairs_en",))
FALLEN = dataclasses.replace(KEPT, name="f", says="It falls.", test="fallen", control=True)


def row(status: str, difference: float = 12.5, task: str = "mini_pairs_et") -> Row:
    return Row(task, status, 600, 80.0, 80 - difference, difference, difference - 3, difference + 3, 0.01, 4.2)


def test_a_claim_is_shown_only_where_the_command_says_so_of_each_task() -> None:
    assert verdict(BETTER, Found((row("a"), row("a")))).word == "shown"
    assert verdict(BETTER, Found((row("a"), row("open")))).word == "undecided"
    assert verdict(BETTER, Found((row("a"), row("b", -12.5)))).word == "not shown"
    assert verdict(BETTER, Found((row("equal", 0),))).word == "not shown"


def test_what_is_undecided_says_what_would_have_been_found() -> None:
    found = verdict(BETTER, Found((row("open", 1.0),)))
    assert found.word == "undecided" and "4.2 points would be found four times in five" in found.reason


def test_what_is_not_shown_says_by_how_much() -> None:
    found = verdict(BETTER, Found((row("b", -12.5),)))
    assert "−12.5 points (95 % −15.5 … −9.5), p = 0.01, n = 600" in found.reason


@pytest.mark.parametrize(
    ("claim", "status", "word"),
    [
        (KEPT, "pass", "shown"),
        (KEPT, "regression", "not shown"),
        (KEPT, "undecided", "undecided"),
        (KEPT, "not evaluated", "undecided"),
        (FALLEN, "regression", "shown"),
        (FALLEN, "pass", "not shown"),
        (FALLEN, "undecided", "undecided"),
    ],
)
def test_a_gates_verdict_is_the_claims(claim: Claim, status: str, word: str) -> None:
    assert verdict(claim, Found((row(status, -6.0, "mini_pairs_en"),), status)).word == word


def test_nothing_compared_is_nothing_shown() -> None:
    for claim in (BETTER, KEPT, FALLEN):
        assert verdict(claim, Found((), reason="the runs differ in prompts")).word == "undecided"
        assert verdict(claim, Found(())).word == "undecided"


def test_what_no_model_can_do_is_noted_beside_a_verdict_of_better() -> None:
    found = dataclasses.replace(Found((row("a"),)), note="new does no better than guessing in `mini_pairs_et`")
    one = verdict(BETTER, found)
    assert one.word == "shown" and "no better than guessing" in one.reason


def test_nothing_is_kept_or_lost_that_was_never_above_guessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guesses, knows = (
        Evaluated("run", (Score("mini_pairs_en", "acc", 52.0, low, 56.0, 600, 50.0),)) for low in (48.0, 51.0)
    )
    work = Work(tmp_path, print)
    passed = {"status": "pass", "comparisons": [{"tasks": [GATED]}]}
    monkeypatch.setattr(work, "command", lambda words, codes=(0,): passed)
    assert verdict(KEPT, work.test(KEPT, knows, guesses)).word == "undecided"
    assert verdict(KEPT, work.test(KEPT, guesses, knows)).word == "shown"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "open", "equal"]), min_size=1, max_size=4))
def test_one_task_that_is_not_better_is_enough(statuses: list[str]) -> None:
    word = verdict(BETTER, Found(tuple(row(status) for status in statuses))).word
    assert (word == "shown") == (set(statuses) == {"a"})


GATED = {"task": "mini_pairs_en", "status": "pass", "n": 600, "unit": "points", "p_adjusted": 0.2} | dict.fromkeys(
    ("candidate", "baseline", "difference", "low", "high", "detectable"), 1.5
)


def compared(**changes: Any) -> dict[str, Any]:
    """What `estbench compare` prints."""
    one = {
        "task": "mini_pairs_et",
        "unit": "proportion",
        "a": 0.9,
        "b": 0.5,
        "difference": 0.4,
        "low": 0.36,
        "high": 0.44,
        "p_adjusted": 1e-9,
        "detectable": 0.05,
        "verdict": "a",
        "n": 600,
    }
    return {"tasks": [one | changes], "problems": [], "left_out": {}}


def test_proportions_of_compare_become_points_and_points_stay() -> None:
    (found,) = of_compare(compared(), ["mini_pairs_et"]).rows
    assert (found.candidate, found.difference, found.detectable, found.unit) == (90.0, 40.0, 5.0, "points")
    (found,) = of_compare(compared(unit="points", difference=3.5), ["mini_pairs_et"]).rows
    assert found.difference == 3.5


def test_runs_that_were_asked_otherwise_show_nothing() -> None:
    answer = compared() | {"problems": [{"kind": "prompts", "task": "mini_pairs_et", "text": "600 of 600 documents"}]}
    assert verdict(BETTER, of_compare(answer, ["mini_pairs_et"])).word == "undecided"
    assert "lacks" in str(of_compare(compared() | {"left_out": {"x": "it lacks x"}}, ["x"]).reason)


def test_a_gate_is_read_as_it_is_printed() -> None:
    answer = {"status": "pass", "comparisons": [{"tasks": [GATED]}]}
    found = of_gate(answer, ["mini_pairs_en"])
    assert (found.status, found.rows[0].difference, found.rows[0].p) == ("pass", 1.5, 0.2)


# --- the page --------------------------------------------------------------------------------------------------------


SEED = Seed(
    name="estllm",
    title="A seed: of two models",
    paper="2603.02041",
    recipe="demo",
    says="What it is for.",
    models=(Model("base", "demo-base", "the base"), Model("new", "cpt", "the base after Estonian")),
    claims=(BETTER, KEPT, FALLEN),
    writers=("base", "new"),
    written=("mini_translate_en_et_chat",),
    ways=(Way("new", ("cpt",)),),
    aim="mini_pairs_et",
    tasks=("mini_pairs_et", "mini_pairs_en"),
)


def score(task: str, value: float) -> Score:
    return Score(task, "acc", value, value - 3, value + 3, 600, 50.0)


def found() -> Results:
    runs = {
        name: Evaluated(f"{name}-1", (score("mini_pairs_et", value), score("mini_pairs_en", 98.7)))
        for name, value in (("base", 35.5), ("new", 93.4))
    }
    made = {
        "corpus": Made("corpus", "prepare", "corpus-1", 5.1),
        "cpt": Made("cpt", "cpt", "cpt-1", 25.0, 558720, 409600, 400, 1.5e12),
    }
    points = tuple(Point(step, score("mini_pairs_et", 40.0 + step / 10)) for step in (50, 100))
    paces = {"base": Writing(64, 2000, 900, 3.1), "new": Writing(64, 2000, 450, 1.6)}
    fell = Found((row("regression", -7.5, "mini_pairs_en"),), "regression")
    of = {BETTER.name: Found((row("a"),)), KEPT.name: fell, FALLEN.name: fell}
    more = {"writing": {SEED.written[0]: paces}, "fertility": {"et": {"base": 4.2, "new": 2.1}}}
    kept = Found((row("pass", -0.5, "mini_pairs_en"),), "pass")
    again = {"2": of, "3": {BETTER.name: Found((row("a", 8.25),)), KEPT.name: kept, FALLEN.name: kept}}
    seed = SeedResults("key", made, runs, of, {"cpt": points}, sweep=points, again=again, **more)
    return Results({"estllm": seed}, {"torch": "2"})


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are what would be drawn, and not the drawing, which takes long."""
    for name in ("lines", "dots"):
        monkeypatch.setattr(figures, name, lambda *drawn, **words: repr((drawn, words)))


def written(results: Results) -> str:
    return page.pages(results, [SEED])["story.md"]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    stored.write(found(), path)
    assert stored.read(path) == found()
    path.write_text("{", "utf-8")
    with pytest.raises(ConfigError, match="can't be read"):
        stored.read(path)
    with pytest.raises(ConfigError, match="is not there: `make story` makes it"):
        stored.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["--help"], 0, "repeats=2"), (["pag=true"], 2, "page"), (["page=true", "docs=none"], 2, "`make story` makes it")],
)
def test_the_story_is_asked_for_as_a_command_is(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "estbench_training.story", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not any(tmp_path.rglob("*.md"))


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_what_was_shown_and_what_was_not() -> None:
    lines = [line for line in written(found()).splitlines() if line.startswith("| It ") and " against " in line]
    assert [line.rsplit("|", 2)[1].strip() for line in lines] == ["**shown**", "not shown", "**shown**"]
    assert "- *It is kept.* Not shown: `mini_pairs_en` fell: −7.5 points" in written(found())


@pytest.mark.usefixtures("undrawn")
def test_what_was_trained_again_stands_beside_the_first_and_is_counted() -> None:
    text = written(found())
    assert "| It is better. | +12.5, **shown** | +12.5, **shown** | +8.2, **shown** |" in text
    assert "| It is kept. | −7.5, not shown | −7.5, not shown | −0.5, **shown** |" in text
    assert "| 2 | 1 | 0 | 1 of 3 |" in text
    once = found()
    alone = dataclasses.replace(once.seeds["estllm"], again={})
    text = written(dataclasses.replace(once, seeds={"estllm": alone}))
    assert "### Trained again" not in text and "| 2 | 1 | 0 | – |" in text


def test_claims_are_not_tested_on_what_settings_were_found_on() -> None:
    for seed in SEEDS:
        measured = {*seed.tasks, *seed.chat_tasks}
        assert all("_fresh" in task for task in measured) and not measured & {*seed.watched}
        assert not seed.sweep or not measured & {*seed.sweep.tasks}
        recipe = recipes.load(ROOT / "training" / "recipes" / f"{seed.recipe}.yaml")
        assert recipe.head.seed != FIRST
        corpora = [stage.settings.decontaminate for stage in recipe.stages if stage.kind.name == "prepare"]
        kept_out = [{card.name for card in Registry().select(corpus.tasks).tasks} for corpus in corpora]
        assert kept_out and all(measured <= names for names in kept_out)


def numbers(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all numbers in data."""
    if isinstance(value, bool) or not isinstance(value, int | float | dict | list):
        return []
    if isinstance(value, int | float):
        return [place]
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    return [found for key, part in parts for found in numbers(part, (*place, key))]


@pytest.mark.usefixtures("undrawn")
def test_every_number_that_was_found_is_on_the_page_or_in_a_figure(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    stored.write(found(), path)
    before = page.pages(found(), [SEED])
    for place in numbers(json.loads(path.read_text("utf-8"))):
        if place[-1] in ("n", "candidate", "baseline", "answers", "chance"):
            continue  # the same number stands elsewhere, too
        if "again" in place and place[-1] != "difference":
            continue  # of what was trained again only differences are told
        changed = json.loads(path.read_text("utf-8"))
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = 1.37 * parent[place[-1]] if isinstance(parent[place[-1]], float) else 37
        other = tmp_path / "changed.json"
        other.write_text(json.dumps(changed), "utf-8")
        assert page.pages(stored.read(other), [SEED]) != before, place


def test_no_number_of_a_seed_stands_in_its_texts() -> None:
    for seed in SEEDS:
        texts = [seed.says, *(model.says for model in seed.models), *(claim.says for claim in seed.claims)]
        assert not [text for text in texts if re.search(r"\d", text)]


def test_the_same_results_give_the_same_files_and_figures_can_be_read() -> None:
    made = page.pages(found(), [SEED])
    assert made == page.pages(found(), [SEED])
    drawn = [text for name, text in made.items() if name.endswith(".svg")]
    assert len(drawn) >= 3
    for text in drawn:
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img" and [child.tag.rpartition("}")[2] for child in root][:2] == ["title", "desc"]
        assert "(story/" not in text and "<metadata>" not in text


def test_a_claim_that_was_never_tested_is_said() -> None:
    new = dataclasses.replace(SEED, claims=(*SEED.claims, dataclasses.replace(BETTER, name="new")))
    with pytest.raises(ConfigError, match="nothing on new of estllm"):
        page.pages(found(), [new])


@pytest.mark.usefixtures("undrawn")
def test_every_figure_is_shown_on_the_page() -> None:
    made = page.pages(found(), [SEED])
    assert set(re.findall(r"\]\((story/[^)]+)\)", made["story.md"])) == made.keys() - {"story.md"}


@pytest.mark.usefixtures("undrawn")
def test_measured_times_are_in_italics() -> None:
    text = written(found())
    assert "| *25* |" in text and "| *30* |" in text


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_fewer_tokens_are_found_and_the_same_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"new": [4 + i % 3 for i in range(40)], "old": [9 + i % 2 for i in range(40)]}
    monkeypatch.setattr(measures, "tokens", lambda model, task: counts[str(model)])
    claim = Claim("t", "Fewer.", "new", "old", ("x",), "fewer")
    less = measures.fewer(Path("new"), Path("old"), ("x",))
    assert verdict(claim, less).word == "shown"
    assert less.rows[0].difference == pytest.approx(-4.525) and less.rows[0].unit == "tokens"
    assert less.rows[0].low is not None and less.rows[0].low < -4.525 < (less.rows[0].high or 0)
    assert verdict(claim, measures.fewer(Path("old"), Path("new"), ("x",))).word == "not shown"
    assert verdict(claim, measures.fewer(Path("old"), Path("old"), ("x",))).word == "not shown"


# --- the seeds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_a_seeds_models_are_stages_of_its_recipe_and_its_tasks_are_ours(seed: Seed) -> None:
    recipe = recipes.load(ROOT / "training" / "recipes" / f"{seed.recipe}.yaml")
    stages = {stage.name: stage.kind.makes_model for stage in recipe.stages}
    for model in seed.models:
        assert stages.get(model.stage, model.stage == recipe.head.base), model
    assert {name for name, makes in stages.items() if makes} <= {model.stage for model in seed.models}
    assert {*seed.tasks, *seed.chat_tasks, *seed.written} <= Registry().tasks.keys()
    assert len({claim.name for claim in seed.claims}) == len(seed.claims)


def test_a_claim_about_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="names 'nwe'"):
        dataclasses.replace(SEED, claims=(dataclasses.replace(BETTER, candidate="nwe"),))
    with pytest.raises(ConfigError, match="is not asked"):
        dataclasses.replace(SEED, claims=(dataclasses.replace(BETTER, tasks=("mini_qa_chat",)),))
    with pytest.raises(ConfigError, match="There is no seed 'estlm'"):
        chosen(["estlm"], SEEDS)


@pytest.mark.usefixtures("undrawn")
def test_the_page_in_docs_is_what_the_results_beside_it_give() -> None:
    kept = ROOT / "docs" / "story" / "results.json"
    made = page.pages(stored.read(kept), SEEDS)
    assert (ROOT / "docs" / "story.md").read_text("utf-8") == made["story.md"], "make story ARGS=page=true"
    assert {f"story/{path.name}" for path in kept.parent.glob("*.svg")} == made.keys() - {"story.md"}


def test_marks_without_an_interval_are_drawn() -> None:
    series = figures.Series("one", (figures.Mark(0, 1.0), figures.Mark(1, 2.0)))
    assert "one: from 1.0 at 0 to 2.0 at 1" in figures.lines("A title", [series], across="steps", up="points")
