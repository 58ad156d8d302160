"""`estbench judge calibrate`: people's votes beside a panel, and what they make of its score."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estbench_judges import calibration, labels, layers, stored
from estbench_judges.corrected import LEAST
from estbench_judges.items import answer_hash
from estbench_judges.judging import Assignment, Wishes, assign
from estbench_judges.labels import Label
from judge_server import JudgeServer, Persona
from judge_world import answered, quality_of, text_of, write_prompts

from estbench import judged
from estbench.cli import main
from estbench.estonian import language
from estbench.runs import Run, Score

N, OWN, LANGUAGE = 230, "own_chat", "own_language_chat"
RATERS = ("mari", "jüri")
Said = pytest.CaptureFixture[str]


def level(prompt: str) -> float:
    return random.Random(f"tase {prompt}").uniform(0.2, 0.7)


def words(prompt: str) -> int:
    """Of the model's answer; the anchor's have 40, and the judge likes length."""
    return random.Random(f"sõnu {prompt}").randrange(50, 130)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Without the number at equal style, whose bootstrap takes a second each time and is tested elsewhere; the language
    of the same answers is found once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_equal_style", lambda of: None)
        patch.setattr(language, "_nearest", functools.cache(language._nearest))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that a judge has judged that adds 0.3 for each doubling of length."""
    folder = tmp_path_factory.mktemp("calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        prompts = write_prompts(folder / "own.jsonl", N)
        run = answered(prompts, lambda prompt: text_of(level(prompt), prompt, words(prompt)), name="mudel")
        with JudgeServer(quality_of, Persona(length=0.3)) as server:
            asked = ["judge", f"run={run.id}", f"judge=judge@{server.url}"]
            assert main(asked) == 0
            assert main([*asked, f"task={OWN}", "rubric=equivalence"]) == 0
    return Run(run.path)


@pytest.fixture
def run(world: Run, home: Path) -> Run:
    """A copy in the home: the judge is gone, and nothing can be asked."""
    return Run(shutil.copytree(world.path, home / "runs" / world.id))


def vote(ahead: float) -> float:
    """What people say of a difference in quality: lost, a tie, won."""
    return 0.5 if abs(ahead) < 0.05 else float(ahead > 0)


def truth(given: Assignment) -> np.ndarray:
    """What a rater without noise says of each document."""
    texts = [(item.answers[0], given.anchors[item.doc][0]) for item in given.items]
    return np.array([vote(quality_of(mine) - quality_of(theirs)) for mine, theirs in texts])


def votes(
    run: Run,
    n: int,
    task: str = OWN,
    *,
    content: Callable[[float], float | None] = lambda value: value,
    language: Callable[[float], float | None] = lambda value: value,
    raters: Sequence[str] = RATERS,
) -> list[Label]:
    """Votes of people on n documents drawn at random; each rater turns one vote in ten."""
    given = assign(run, task, Wishes())
    dice = random.Random(7)
    rows = []
    for item, right in dice.sample(list(zip(given.items, truth(given).tolist(), strict=True)), n):
        for rater in raters:
            said = 1 - right if dice.random() < 0.1 else right
            mine, theirs = answer_hash(item.answers), answer_hash(given.anchors[item.doc])
            at = "2026-11-21T09:30:00+00:00"
            row = Label(
                task,
                item.doc,
                "pairwise",
                mine,
                theirs,
                "mudel",
                rater,
                content(said),
                language(said),
                "model",
                3.0,
                at,
            )
            rows.append(row)
    return rows


def written(path: Path, rows: Sequence[Label]) -> Path:
    path.write_bytes(b"".join(map(labels.as_line, rows)))
    return path


def calibrate(run: Run, file: Path, capsys: Said, *more: str, task: str = OWN, code: int = 0) -> Any:
    capsys.readouterr()
    words = [f"run={run.path}", f"labels={file}", f"task={task}", "rubric=helpfulness", "output=json"]
    given = {word.partition("=")[0] for word in more}
    assert main(["judge", "calibrate", *(w for w in words if w.partition("=")[0] not in given), *more]) == code
    out, err = capsys.readouterr()
    return json.loads(out)[0] if code == 0 and out.startswith("[") else out + err


def scores(run: Run, task: str = OWN) -> dict[str, Score]:
    return {score.metric: score for score in Run(run.path).scores() if score.task == task}


def card(run: Run, task: str = OWN) -> dict[str, Any]:
    found: dict[str, Any] = Run(run.path).manifest["tasks"][task]["judge"]
    return found


def test_with_enough_labels_the_score_is_calibrated_and_the_correction_is_close_to_people(
    run: Run, tmp_path: Path, capsys: Said
) -> None:
    people = float(truth(assign(run, OWN, Wishes())).mean())
    before = scores(run)
    assert judged.state(before["win_rate"]) == judged.UNCALIBRATED and "win_rate/corrected" not in before
    raw = before["win_rate"]
    assert raw.ci_low is not None and raw.ci_low > people + 0.05  # negative control: the judge likes length
    calibrate(run, written(tmp_path / "votes.jsonl", votes(run, LEAST + 10)), capsys)
    after = scores(run)
    found = after["win_rate/corrected"]
    assert found.value is not None and found.ci_low is not None and found.ci_high is not None
    noisy = people + 0.1 * (1 - 2 * people)  # raters turn one vote in ten
    assert found.ci_low <= noisy <= found.ci_high and abs(found.value - noisy) < 0.05
    assert abs(found.value - people) < abs((raw.value or 0) - people) / 2
    assert found.ci_high - found.ci_low < 0.2 and found.method.startswith("PPI++")
    states = {name: judged.state(score) for name, score in after.items() if name.startswith("win_rate")}
    assert {name for name, state in states.items() if state == judged.CALIBRATED} == {"win_rate", "win_rate/corrected"}
    assert len(states) == 5 and after["win_rate/panel"].value == raw.value  # what is the panel's own stays uncalibrated
    assert card(run)["calibrated"] is True and after["win_rate"].value == found.value  # the number is people's
    assert judged.state(scores(run, LANGUAGE)["win_rate"]) == judged.UNCALIBRATED  # another task, other votes


def test_agreement_stands_beside_the_ceiling_of_people(run: Run, tmp_path: Path, capsys: Said) -> None:
    calibrate(run, written(tmp_path / "votes.jsonl", votes(run, LEAST + 10)), capsys)
    [layer] = [one for one in card(run)["layers"] if one["rubric"]["name"] == "helpfulness"]
    report = layer["calibration"]
    assert (report["axis"], report["labels"], report["raters"], report["lacking"]) == ("content", LEAST + 10, 2, 0)
    for row in (report["panel"], report["judges"]["judge"]):
        assert 0.5 < row["alpha_people"]["value"] < 0.9
        assert row["alpha"]["value"] < row["alpha_people"]["value"] and -1 <= row["kappa"] <= 1
        assert 0 <= row["q0"]["value"] < 0.8 < row["q1"]["value"] <= 1  # it calls too many better than the anchor
        assert row["q0"]["low"] <= row["q0"]["value"] <= row["q0"]["high"]
    own = report["judges"]["judge"]
    assert own["fingerprint"] == layer["judges"][0]["fingerprint"] and own["position_consistency"]["value"] == 1
    assert "length" in {fault["name"] for fault in own["faults"]}
    assert 0 <= report["lambda"] <= 1


def test_without_enough_labels_it_says_how_many_are_missing(run: Run, tmp_path: Path, capsys: Said) -> None:
    file = written(tmp_path / "votes.jsonl", votes(run, 150))
    calibrate(run, file, capsys)
    after = scores(run)
    assert "win_rate/corrected" not in after and judged.state(after["win_rate"]) == judged.UNCALIBRATED
    assert card(run)["calibrated"] is False
    [layer] = [one for one in card(run)["layers"] if one["rubric"]["name"] == "helpfulness"]
    assert layer["calibration"]["lacking"] == 50 and layer["calibration"]["panel"]["kappa"] is not None
    text = calibrate(run, file, capsys, "output=table")
    assert "50 labels of this model are missing" in text and "uncalibrated" in text and "κ" in text and "q0" in text


def test_two_raters_of_one_document_are_one_label(run: Run, tmp_path: Path, capsys: Said) -> None:
    calibrate(run, written(tmp_path / "votes.jsonl", votes(run, 120)), capsys)
    [report] = [one["calibration"] for one in card(run)["layers"] if "calibration" in one]
    assert (report["labels"], report["lacking"]) == (120, LEAST - 120)


@pytest.mark.slow
def test_fewer_labels_take_the_calibration_back_and_the_same_again_changes_nothing(
    run: Run, tmp_path: Path, capsys: Said
) -> None:
    many = written(tmp_path / "many.jsonl", votes(run, LEAST))
    calibrate(run, many, capsys)
    once = scores(run)
    identity = Run(run.path).manifest["identity"]
    calibrate(run, many, capsys)
    assert scores(run) == once and Run(run.path).manifest["identity"] == identity
    calibrate(run, written(tmp_path / "few.jsonl", votes(run, LEAST - 1)), capsys)
    assert card(run)["calibrated"] is False and "win_rate/corrected" not in scores(run)


def test_labels_on_other_answers_do_not_match(run: Run, tmp_path: Path, capsys: Said) -> None:
    rows = votes(run, LEAST + 10)
    other = [dataclasses.replace(row, answer="0" * 32) for row in rows]
    before = scores(run)
    said = calibrate(run, written(tmp_path / "other.jsonl", other), capsys, code=2)
    assert "No vote is on the answers" in said and said.count("\n") == 1 and scores(run) == before
    rival = [dataclasses.replace(row, anchor="1" * 32) for row in rows]
    assert "No vote" in calibrate(run, written(tmp_path / "rival.jsonl", rival), capsys, code=2)
    mixed = [*rows[: 2 * 150], *other[2 * 150 :]]
    calibrate(run, written(tmp_path / "mixed.jsonl", mixed), capsys)
    assert card(run)["calibrated"] is False  # 150 of 210 are on these answers


def test_labels_outlive_a_run_and_serve_every_run_with_these_answers(run: Run) -> None:
    """The model's name and the task in a label decide nothing: what was said does."""
    [layer] = stored.layers_of(run, [OWN], "helpfulness")
    of = stored.restore(run, layer)
    rows = votes(run, LEAST)
    renamed = [dataclasses.replace(row, name="keegi", task="vana_chat") for row in rows]
    assert calibration.calibrate(of, renamed).corrected == calibration.calibrate(of, rows).corrected


def test_language_is_corrected_by_votes_on_language(run: Run, tmp_path: Path, capsys: Said) -> None:
    """Content says that the model always won; whoever took that would be far off."""
    rows = votes(run, LEAST + 10, LANGUAGE, content=lambda value: 1.0)
    file = written(tmp_path / "votes.jsonl", rows)
    calibrate(run, file, capsys, "rubric=language_quality", task=LANGUAGE)
    people = float(np.mean([row.language for row in rows if row.language is not None]))
    found = scores(run, LANGUAGE)["win_rate/corrected"]
    assert abs((found.value or 0) - people) < 0.06 < 1 - people
    assert card(run, LANGUAGE)["layers"][0]["calibration"]["axis"] == "language"
    moved = [dataclasses.replace(row, task=OWN) for row in rows]
    calibrate(run, written(tmp_path / "content.jsonl", moved), capsys)
    assert (scores(run)["win_rate/corrected"].value or 0) > 0.95  # negative control: content's votes


@pytest.mark.slow
def test_votes_that_could_not_tell_are_no_labels(run: Run, tmp_path: Path, capsys: Said) -> None:
    rows = votes(run, LEAST + 10, content=lambda value: None, language=lambda value: None)
    assert "No vote" in calibrate(run, written(tmp_path / "votes.jsonl", rows), capsys, code=2)
    silent = votes(run, LEAST + 10, LANGUAGE, language=lambda value: None)
    file = written(tmp_path / "silent.jsonl", silent)
    assert "No vote" in calibrate(run, file, capsys, "rubric=language_quality", task=LANGUAGE, code=2)


@pytest.mark.slow
def test_one_rater_is_enough_for_a_correction_and_has_no_ceiling(run: Run, tmp_path: Path, capsys: Said) -> None:
    calibrate(run, written(tmp_path / "votes.jsonl", votes(run, LEAST, raters=RATERS[:1])), capsys)
    report = next(one["calibration"] for one in card(run)["layers"] if "calibration" in one)
    assert report["raters"] == 1 and report["panel"]["alpha_people"]["value"] is None
    assert card(run)["calibrated"] is True
    text = calibrate(run, tmp_path / "votes.jsonl", capsys, "output=table")
    assert "α among people –" in text


def test_equivalence_is_calibrated_by_votes_without_an_anchor(run: Run, tmp_path: Path, capsys: Said) -> None:
    rows = [
        dataclasses.replace(
            row, mode="equivalence", anchor=None, language=None, first=None, content=float((row.content or 0) > 0.5)
        )
        for row in votes(run, LEAST + 10, raters=RATERS[:1])
    ]
    calibrate(run, written(tmp_path / "votes.jsonl", rows), capsys, "rubric=equivalence")
    found = scores(run)["equivalent/corrected"]
    assert abs((found.value or 0) - float(np.mean([row.content for row in rows]))) < 0.06
    states = {score.metric: judged.state(score) for score in scores(run).values()}
    assert states["equivalent"] == judged.CALIBRATED and states["win_rate"] == judged.UNCALIBRATED
    assert card(run)["calibrated"] is False  # what the task is ranked by is not


def test_what_can_t_be_calibrated_is_one_line(run: Run, tmp_path: Path, capsys: Said) -> None:
    file = written(tmp_path / "votes.jsonl", votes(run, 3))
    for words, part in (
        (["judge", "calibrate", f"run={run.path}"], "labels= is missing"),
        (["judge", "calibrate", f"labels={file}"], "run= is missing"),
        (["judge", "calibrate", f"run={run.path}", f"labels={tmp_path / 'none.jsonl'}"], "no label file"),
        (["judge", "calibrate", f"run={run.path}", f"labels={file}", "task=estqa_chat"], "no such judgments"),
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert part in err and err.count("\n") == 1
    file.write_text("{}\n", "utf-8")
    assert "line 1" in calibrate(run, file, capsys, code=2)
