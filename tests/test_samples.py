"""Every task runs from end to end on a sample of its own, offline; no trick scores on it, and the gold answer does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from estbench import data
from estbench.engines.base import Generated, Response, Scored
from estbench.lm_tasks import LmTask, Rendered
from estbench.registry import Registry, Task
from estbench.runs import Sample, Score
from estbench.scoring import PARSE_FAILURE, score_task

SAMPLES = Path("samples")
GOLD = Path(__file__).parents[1] / "tasks" / "samples" / "gold"
TASKS = Registry().tasks
REAL = {name: card for name, card in TASKS.items() if card.dataset is not None}
GENERATED = [name for name, card in REAL.items() if card.config.get("output_type") == "generate_until"]
CHOICES = [name for name, card in REAL.items() if card.config.get("output_type") == "multiple_choice"]
COPYING = {"copytext_et", "copytext_et_chat"}  # to copy is what they ask for
JUDGED = {name for name in GENERATED if TASKS[name].metadata.get("judge")}  # no score without a judge
NO_ONE_ANSWER = {"ifeval_et", "ifeval_et_chat", "ifeval_en", "ifeval_en_chat"}  # any text that keeps to the rules
MARGIN = {"proportion": 0.10, "points": 10.0}
SLACK = 1e-9


def sample_task(card: Task) -> LmTask:
    gold = GOLD / f"{card.name.removesuffix('_chat')}.jsonl"
    return LmTask(card, data_dir=SAMPLES, gold=gold if gold.exists() else None)


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], tuple[LmTask, list[Rendered]]]:
    kept: dict[str, tuple[LmTask, list[Rendered]]] = {}

    def load(name: str) -> tuple[LmTask, list[Rendered]]:
        if name not in kept:
            task = sample_task(TASKS[name])
            kept[name] = task, [task.render(doc) for doc in range(len(task.docs))]
        return kept[name]

    return load


Loaded = Callable[[str], tuple[LmTask, list[Rendered]]]


def primary(task: LmTask, rendered: list[Rendered], answer: Callable[[int, Rendered], list[Response]]) -> Score:
    """The task's primary score when `answer` is what the model says."""
    given = [(doc, one, answer(doc, one)) for doc, one in enumerate(rendered)]
    card = task.card
    samples = []
    for doc, values, said in task.results(given):
        failed = bool(values.pop(PARSE_FAILURE, 0))
        samples.append(Sample(card.name, doc, str(doc), "", str(doc), None, said, values, "", failed))
    return score_task(
        card.name,
        samples,
        primary=card.primary,
        chance=card.chance,
        n_planned=len(samples),
        aggregations=task.task.aggregation(),
    )[0]


def value(score: Score) -> float:
    assert score.value is not None, score.reason
    return score.value


def saying(text: str) -> Callable[[int, Rendered], list[Response]]:
    return lambda doc, rendered: [Generated(text, 1, "stop")]


@pytest.mark.parametrize("name", REAL)
def test_each_task_has_a_sample_of_at_least_20_documents(name: str, loaded: Loaded) -> None:
    task, rendered = loaded(name)
    assert len({json.dumps(row, sort_keys=True, default=str) for row in task.docs}) == len(rendered) >= 20
    assert task.dataset.sample and task.dataset.commit is None


def texts(row: Any) -> Iterator[str]:
    if isinstance(row, str):
        yield row
    elif isinstance(row, dict):
        for part in row.values():
            yield from texts(part)
    elif isinstance(row, list):
        if row and all(isinstance(part, str) for part in row):
            yield " ".join(row)
        for part in row:
            yield from texts(part)


def constants(task: LmTask, rendered: list[Rendered]) -> list[str]:
    """Answers that know nothing of the document: letters, labels, each gold answer, a phrase, nothing."""
    golds = {str(gold) for one in rendered for gold in (one.target if isinstance(one.target, list) else [one.target])}
    letters = [f"Vastus: {letter}" for letter in "ABCDEO"] + ["1", "2"]
    return ["", "Ma ei tea.", "Tere! Kuidas ma saan aidata?", "{}", *letters, *sorted(golds)[:30]]


@pytest.mark.parametrize("name", [name for name in GENERATED if name not in JUDGED])
def test_no_constant_answer_scores_above_chance(name: str, loaded: Loaded) -> None:
    task, rendered = loaded(name)
    allowed = (task.card.chance or 0.0) + MARGIN[task.card.unit] + SLACK
    scores = {text: value(primary(task, rendered, saying(text))) for text in constants(task, rendered)}
    best = max(scores, key=lambda text: scores[text])
    assert scores[best] <= allowed, f"{best!r} scores {scores[best]:.3f}"


@pytest.mark.parametrize("name", [name for name in GENERATED if name not in COPYING | JUDGED])
def test_no_copy_of_the_source_scores_above_chance(name: str, loaded: Loaded) -> None:
    task, rendered = loaded(name)
    allowed = (task.card.chance or 0.0) + MARGIN[task.card.unit] + SLACK
    gold = {field for field, part in task.docs[0].items() if str(rendered[0].target) in (*texts(part), str(part))}
    shown = [field for field in task.docs[0] if field not in gold]
    prompts = {"the prompt": lambda doc: str(task.task.doc_to_text(task.docs[doc]))}
    in_prompt = {
        field: (lambda doc, field=field: " ".join(texts(task.docs[doc][field])))
        for field in shown
        if all(
            text and text.strip() in rendered[doc].prompt
            for doc in range(len(rendered))
            for text in list(texts(task.docs[doc][field]))[:1] or [""]
        )
    }
    for field, copied in (prompts | in_prompt).items():
        score = primary(task, rendered, lambda doc, one, copied=copied: [Generated(copied(doc), 1, "stop")])  # type: ignore[misc]
        assert value(score) <= allowed, f"copying {field} scores {score.value}"


@pytest.mark.parametrize("name", [name for name in GENERATED if name not in NO_ONE_ANSWER | JUDGED])
def test_the_gold_answer_scores_full_marks(name: str, loaded: Loaded) -> None:
    task, rendered = loaded(name)

    def gold(doc: int, one: Rendered) -> list[Response]:
        return [Generated(str(one.target[0] if isinstance(one.target, list) else one.target), 1, "stop")]

    full = {"proportion": 1.0, "points": 100.0}[task.card.unit]
    assert value(primary(task, rendered, gold)) == pytest.approx(full, abs=1e-6)


def likely(choose: Callable[[int, Rendered], int]) -> Callable[[int, Rendered], list[Response]]:
    """A model to which the chosen option is certain, and the others are equally unlikely."""

    def answer(doc: int, one: Rendered) -> list[Response]:
        return [Scored(-0.001 if place == choose(doc, one) else -1000.0, False) for place in range(len(one.pairs))]

    return answer


def by_length(longest: bool) -> Callable[[int, Rendered], int]:
    def choose(doc: int, one: Rendered) -> int:
        sizes = [len(context + continuation) for context, continuation in one.pairs]
        return sizes.index(max(sizes) if longest else min(sizes))

    return choose


@pytest.mark.parametrize("name", CHOICES)
def test_no_fixed_choice_scores_above_chance(name: str, loaded: Loaded) -> None:
    task, rendered = loaded(name)
    allowed = (task.card.chance or 0.0) + MARGIN["proportion"] + SLACK
    most = max(len(one.pairs) for one in rendered)
    if len(rendered[0].pairs[0][1]) > 0 and name in ("multiblimp_est",):
        choosers = {"the longest": by_length(True), "the shortest": by_length(False)}  # gold stands first by design
    else:
        choosers = {f"option {place}": (lambda doc, one, place=place: place) for place in range(most)}
    for what, choose in choosers.items():
        score = primary(task, rendered, likely(choose))  # type: ignore[arg-type]
        assert value(score) <= allowed, f"{what} scores {score.value}"


@pytest.mark.parametrize("name", CHOICES)
def test_the_gold_choice_scores_full_marks(name: str, loaded: Loaded) -> None:
    task, rendered = loaded(name)

    def gold(doc: int, one: Rendered) -> int:
        if task.task.multiple_input:
            return int(task.task.doc_to_text(task.docs[doc]))
        target = one.target
        choices = task.task.doc_to_choice(task.docs[doc])
        return choices.index(target) if isinstance(target, str) and target in choices else int(target)

    assert value(primary(task, rendered, likely(gold))) == 1.0


def test_no_sample_is_a_copy_of_real_data(mirror: Path) -> None:
    """Ours are written for this repository: no text of any length stands in the public sets."""
    folder = Path(__file__).parents[1] / "tasks" / "samples"
    for own in sorted(folder.rglob("*.jsonl")):
        real = mirror / own.relative_to(folder)
        if not real.exists():
            continue
        known = {text for line in real.read_text("utf-8").splitlines() for text in texts(json.loads(line))}
        ours = {text for line in own.read_text("utf-8").splitlines() for text in texts(json.loads(line))}
        assert not {text for text in ours & known if len(text) > 40 and " " in text}


@pytest.mark.parametrize("name", REAL)
def test_every_task_runs_from_end_to_end_offline(name: str, home: Path, mock_model: Callable[..., None]) -> None:
    from estbench import runner
    from estbench.config import EvalSettings

    mock_model(lambda prompt: "Vastus: A")
    gold = GOLD / f"{name.removesuffix('_chat')}.jsonl"
    settings = EvalSettings(model="mock", tasks=name, data="samples", gold=str(gold) if gold.exists() else None)
    run = runner.evaluate(runner.prepare(settings))
    first = run.scores()[0]
    assert first.primary and first.n == first.n_planned >= 20 and first.errors == 0
    assert (first.value is not None) == (name not in JUDGED)
    assert run.manifest["tasks"][name]["sample"] is True and run.manifest["partial"] is True


def test_data_sets_of_all_tasks_are_in_the_lock_file() -> None:
    locked = json.loads((Path(__file__).parents[1] / "tasks" / "data.lock").read_text("utf-8"))
    wanted = {str(ref) for ref in data.references(REAL.values()) if not data.is_own(ref)}
    assert wanted <= set(locked)


def test_slices_of_all_kinds_of_tasks_make_the_very_run_of_one_process(
    home: Path, mock_model: Callable[..., None]
) -> None:
    from estbench import merging, runner
    from estbench.config import EvalSettings

    mock_model(lambda prompt: "Vastus: A")
    tasks = (
        "exam_et,unimorph_et,estgec_l2,estner,estqa,valence_et,bits_per_byte_et,winogrande_et,ifeval_et,errnews,"
        "estcopa_mcf,belebele_et_cf,mini_gec"
    )
    kinds = {TASKS[name].primary for name in tasks.split(",")}
    assert len(kinds) >= 9

    def evaluate(part: str | None) -> Any:
        settings = EvalSettings(
            model="mock",
            tasks=tasks,
            data="samples",
            gold=str(GOLD / "winogrande_et.jsonl"),
            slice=part,
            missing="skip",
        )
        return runner.evaluate(runner.prepare(settings))

    slices = [evaluate(f"{part}/3") for part in (1, 2, 3)]
    [*_, merged] = merging.take_in([run.path for run in slices], lambda line: None)
    scores, identity = merged.scores(), merged.manifest["identity"]
    whole = evaluate(None)
    assert whole.id == merged.id and whole.manifest["identity"]["result"] == identity["result"]
    assert whole.scores() == scores and len(scores) > 30
    assert any("/" in score.metric for score in scores) and any(score.value is None for score in scores)
