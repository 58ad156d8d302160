"""What judges said enters a run's samples, scores and manifest: once, whole, only for the answers that were judged. A
judged run is then a run like any other: imported, exported, indexed, reported, compared, gated."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, Persona
from judge_world import answered, quality_of, text_of, write_prompts

from estbench import identity, judged, merging
from estbench.cli import main
from estbench.database import open_database, queries
from estbench.errors import StoreError
from estbench.exports import export
from estbench.judged import Layer
from estbench.runs import Run, Sample, Score, write_json, write_lines

OPEN, OWN, LANGUAGE = "estinstruct_chat", "own_chat", "own_language_chat"
Said = pytest.CaptureFixture[str]


def made(folder: Path, name: str = "hea", level: float = 0.7, **more: Any) -> Run:
    """A run on eight prompts of a published and of a private set."""
    prompts = write_prompts(folder / "own.jsonl", 8, two_turns=2)
    tasks = f"{OPEN},{prompts}"
    return answered(prompts, lambda prompt: text_of(level, prompt), name=name, tasks=tasks, limit=8, **more)


def judge(*runs: Run, more: tuple[str, ...] = ()) -> None:
    with JudgeServer(quality_of) as a, JudgeServer(quality_of, Persona(first=0.7), name="teine") as b:
        words = [f"run={','.join(str(run.path) for run in runs)}", f"judges=judge@{a.url},teine@{b.url}", *more]
        assert main(["judge", *words, "output=json"]) == 0


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain/` and `judged/` with the folders of two runs, before and after judging, and their prompt set."""
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        runs = [made(folder), made(folder, "halb", 0.3)]
        shutil.copytree(folder / "home" / "runs", folder / "plain")
        judge(*runs)
        shutil.copytree(folder / "home" / "runs", folder / "judged")
    return folder


def taken(stored: Path, kind: str, home: Path, name: str = "hea") -> Run:
    """A copy of a stored run in the home."""
    [folder] = (stored / kind).glob(f"{name}-*")
    return Run(shutil.copytree(folder, home / "runs" / folder.name))


@pytest.fixture
def plain(stored: Path, home: Path) -> Run:
    return taken(stored, "plain", home)


@pytest.fixture
def full(stored: Path, home: Path) -> Run:
    return taken(stored, "judged", home)


def layer_of(
    run: Run,
    task: str = OWN,
    rubric: str = "helpfulness",
    metric: str = "win_rate",
    value: float = 0.75,
    *,
    primary: bool = True,
    calibrated: bool = False,
) -> Layer:
    """A layer as judges would write it, by hand."""
    samples = list(run.samples(task))
    docs = {str(one.doc_id): one.key.partition("+")[0] for one in samples}
    signature = f"judge:{metric}|{rubric}@1-00|set|q|et|{judged.CALIBRATED if calibrated else judged.UNCALIBRATED}"
    ends = (value, value - 0.1, value + 0.1, len(docs), len(docs), None, 0, 0, "proportion", True, primary, "t")
    score = Score(task, metric, *ends, signature=signature)
    marks = {doc: identity.digest([rubric, doc, value])[:16] for doc in docs}
    card = {"metric": metric, "calibrated": calibrated, "judges": []}
    column = {metric: dict.fromkeys(docs, value)}
    return Layer(task, rubric, "pairwise", docs, marks, column, [dataclasses.asdict(score)], card)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def text_in(folder: Path) -> str:
    """All text of a folder, packed files unpacked."""
    found = contents(folder).items()
    return "\n".join((gzip.decompress(raw) if name.endswith(".gz") else raw).decode() for name, raw in found)


def primary(run: Run, task: str = OWN) -> Score:
    [score] = [one for one in run.scores() if one.task == task and one.primary]
    return score


# --- merging layers ---------------------------------------------------------------------------------------------------


def test_the_primary_score_takes_the_place_of_the_one_that_waited(plain: Run) -> None:
    assert judged.awaiting(plain) == [OPEN, OWN, LANGUAGE]
    assert primary(plain).value is None and "judge" in str(primary(plain).reason)
    judged.write(plain.path, layer_of(plain))
    run = judged.merge(plain)
    assert judged.awaiting(run) == [OPEN, LANGUAGE] and primary(run).value == 0.75
    own = [score.metric for score in run.scores() if score.task == OWN]
    assert own[0] == "win_rate" and own.count("win_rate") == 1 and "in_language" in own
    assert [s for s in run.scores() if s.task != OWN] == [s for s in plain.scores() if s.task != OWN]
    assert [score.task for score in run.scores()] == [score.task for score in plain.scores()]
    assert {sample.values["win_rate"] for sample in run.samples(OWN)} == {0.75}
    assert all("in_language" in sample.values for sample in run.samples(OWN))


def test_merging_again_changes_no_byte(plain: Run) -> None:
    for layer in (layer_of(plain), layer_of(plain, LANGUAGE, "language_quality")):
        judged.write(plain.path, layer)
    once = contents(judged.merge(plain).path)
    assert contents(judged.merge(Run(plain.path)).path) == once


def test_a_kill_between_files_is_mended_by_merging_again(
    stored: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of the files in turn; the manifest is the last one, so that the old one stands until then."""
    calm = taken(stored, "plain", home)
    layers = [layer_of(calm), layer_of(calm, LANGUAGE, "language_quality")]
    for layer in layers:
        judged.write(calm.path, layer)
    order: list[str] = []

    def dying(write: Callable[[Path, Any], None], after: float) -> Callable[[Path, Any], None]:
        def noted(path: Path, value: Any) -> None:
            if len(order) >= after:
                raise KeyboardInterrupt
            write(path, value)
            order.append(path.name)

        return noted

    for after in (float("inf"), 0, 1, 2, 3):
        order.clear()
        run = calm if after > 9 else Run(shutil.copytree(next((stored / "plain").glob("hea-*")), tmp_path / str(after)))
        for layer in layers:
            judged.write(run.path, layer)
        with monkeypatch.context() as patch:
            patch.setattr(judged, "write_lines", dying(write_lines, after))
            patch.setattr(judged, "write_json", dying(write_json, after))
            if after > 9:
                judged.merge(run)
                assert order == [f"{OWN}.jsonl.gz", f"{LANGUAGE}.jsonl.gz", "scores.json", "manifest.json"]
                continue
            with pytest.raises(KeyboardInterrupt):
                judged.merge(run)
        assert Run(run.path).manifest == run.manifest and len(order) == after
        assert contents(judged.merge(Run(run.path)).path) == contents(calm.path)


def test_judgments_of_other_answers_do_not_count(plain: Run) -> None:
    right = layer_of(plain)
    first = next(iter(right.keys))
    judged.write(plain.path, dataclasses.replace(right, keys=right.keys | {first: "0" * 32}))
    run = judged.merge(plain)
    assert primary(run) == primary(plain) and list(run.samples(OWN)) == list(plain.samples(OWN))
    assert "judge" not in run.manifest["tasks"][OWN] and run.manifest["identity"] == plain.manifest["identity"]
    judged.write(plain.path, right)  # negative control
    assert primary(judged.merge(run)).value == 0.75


def test_an_answer_that_is_missing_does_not_make_a_layer_stale(plain: Run) -> None:
    samples = list(plain.samples(OWN))
    failed = dataclasses.replace(samples[0], error="HTTP 500", values={}, key="1" * 32)
    layer = layer_of(plain)
    assert layer.fits([failed, *samples[1:]]) and layer.fits(samples)
    assert not layer.fits([dataclasses.replace(failed, error=None), *samples[1:]])


def test_layers_of_two_rubrics_live_together(plain: Run) -> None:
    other = "win_rate/language_quality"
    judged.write(plain.path, layer_of(plain))
    alone = judged.merge(plain)
    keys = [sample.key for sample in alone.samples(OWN)]
    judged.write(plain.path, layer_of(plain, rubric="language_quality", metric=other, value=0.5, primary=False))
    run = judged.merge(alone)
    metrics = [score.metric for score in run.scores() if score.task == OWN]
    assert metrics[0] == "win_rate" and other in metrics and sum(s.primary for s in run.scores() if s.task == OWN) == 1
    for sample, before in zip(run.samples(OWN), keys, strict=True):
        assert (sample.values["win_rate"], sample.values[other]) == (0.75, 0.5)
        assert sample.key != before and sample.key.partition("+")[0] == before.partition("+")[0]
    assert len(run.manifest["tasks"][OWN]["judge"]["layers"]) == 2
    (plain.path / "judgments" / f"{OWN}.language_quality.pairwise.json").unlink()
    back = judged.merge(run)
    assert [sample.key for sample in back.samples(OWN)] == keys and back.scores() == alone.scores()


def test_a_task_is_calibrated_where_what_it_is_ranked_by_is(plain: Run) -> None:
    side = layer_of(plain, rubric="language_quality", metric="win_rate/language_quality", primary=False)
    judged.write(plain.path, side)
    judged.write(plain.path, layer_of(plain, calibrated=True))
    run = judged.merge(plain)
    assert run.manifest["tasks"][OWN]["judge"]["calibrated"] is True
    assert [judged.state(score) for score in run.scores() if score.task == OWN and score.signature] == [
        judged.CALIBRATED,
        judged.UNCALIBRATED,
    ]
    judged.write(plain.path, layer_of(plain))
    judged.write(plain.path, dataclasses.replace(side, card=side.card | {"calibrated": True}))
    assert judged.merge(run).manifest["tasks"][OWN]["judge"]["calibrated"] is False


def test_keys_name_the_judgments_and_the_result_is_made_of_them(plain: Run) -> None:
    def result(value: float) -> str:
        judged.write(plain.path, layer_of(plain, value=value))
        run = judged.merge(Run(plain.path))
        keys = []
        for task in run.tasks:
            keys += [sample.key for sample in run.samples(task)]
            judged_scores = [dataclasses.asdict(one) for one in run.scores() if one.task == task and judged.state(one)]
            keys += [identity.digest(judged_scores)] if judged_scores else []
        assert run.manifest["identity"]["result"] == identity.result_key(run.manifest["identity"]["plan"], keys)
        assert run.id == plain.id and run.manifest["identity"]["response"] == plain.manifest["identity"]["response"]
        for old, new in zip(plain_samples, run.samples(OWN), strict=True):
            base, plus, mark = new.key.partition("+")
            assert (base, plus, len(mark)) == (old.key, "+", 16)
        return str(run.manifest["identity"]["result"])

    plain_samples: list[Sample] = list(plain.samples(OWN))
    found = [result(value) for value in (0.75, 0.5, 0.75)]
    assert found[0] == found[2] != found[1] and plain.manifest["identity"]["result"] not in found


def test_a_run_without_layers_and_a_slice_stay_as_they_are(plain: Run, stored: Path) -> None:
    before = contents(plain.path)
    assert judged.merge(plain) is plain and contents(plain.path) == before
    judged.write(plain.path, layer_of(plain))
    part = Run(plain.path)
    part.manifest["slice"] = "1/2"
    judged.merge(part)
    assert {name: raw for name, raw in contents(plain.path).items() if "judgments" not in name} == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"schema": 1', '"other": 1'),
        lambda text: text.replace('"marks"', '"remarks"'),
        lambda text: "[]",
        lambda text: "",
        lambda text: "\ufeff\udcff",
        lambda text: json.dumps(json.loads(text) | {"keys": None}),
        lambda text: json.dumps(json.loads(text) | {"values": {"win_rate": [1]}}),
        lambda text: json.dumps(json.loads(text) | {"scores": [{"task": OWN}]}),
        lambda text: json.dumps(json.loads(text) | {"scores": 3}),
        lambda text: json.dumps(json.loads(text) | {"task": OPEN}),
        lambda text: json.dumps(json.loads(text) | {"card": {}}),
        lambda text: json.dumps(json.loads(text) | {"card": {"calibrated": "yes"}}),
    ],
)
def test_a_damaged_layer_is_one_line(plain: Run, capsys: Said, spoil: Callable[[str], str]) -> None:
    judged.write(plain.path, layer_of(plain))
    [file] = (plain.path / "judgments").glob("*.json")
    file.write_bytes(spoil(file.read_text("utf-8")).encode("utf-8", "surrogateescape"))
    before = contents(plain.path)
    with pytest.raises(StoreError, match="Judge the run again") as found:
        judged.merge(plain)
    assert str(file) in str(found.value) and "\n" not in str(found.value)
    assert contents(plain.path) == before


def test_what_is_no_judge_s_score_has_no_state(full: Run) -> None:
    states = {score.metric: judged.state(score) for score in full.scores() if score.task == OWN}
    assert states["win_rate"] == judged.UNCALIBRATED and states["in_language"] is None
    assert judged.state(dataclasses.asdict(primary(full))) == judged.UNCALIBRATED


def test_numbers_of_documents_add_up(full: Run) -> None:
    for score in full.scores():
        assert 0 <= score.errors == score.n_planned - score.n, score


# --- in and out of the home -------------------------------------------------------------------------------------------


def import_(folder: Path, capsys: Said, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["runs", "import", str(folder)]) == code
    return capsys.readouterr().err


def test_a_judged_folder_comes_over_the_same_run_that_was_not(stored: Path, plain: Run, capsys: Said) -> None:
    [source] = (stored / "judged").glob("hea-*")
    import_(source, capsys)
    assert contents(plain.path) == contents(source) and primary(Run(plain.path)).value is not None
    with open_database(None) as database:
        rows = queries.scores(database, runs=[plain.id], tasks=[OWN], primary=True)
    assert [row.score.value for row in rows] == [primary(Run(source)).value]


def test_an_unjudged_folder_takes_no_judgments_away(stored: Path, full: Run, capsys: Said) -> None:
    before = contents(full.path)
    [source] = (stored / "plain").glob("hea-*")
    import_(source, capsys)
    assert contents(full.path) == before


def test_layers_from_two_places_come_together(stored: Path, plain: Run, tmp_path: Path, capsys: Said) -> None:
    judged.write(plain.path, layer_of(plain, rubric="muu", metric="win_rate/muu", primary=False, value=0.25))
    judged.merge(plain)
    [source] = (stored / "judged").glob("hea-*")
    assert "take the place" not in import_(source, capsys)
    run = Run(plain.path)
    values = {score.metric: score.value for score in run.scores() if score.task == OWN}
    assert values["win_rate/muu"] == 0.25 and values["win_rate"] == primary(Run(source)).value
    assert len(run.manifest["tasks"][OWN]["judge"]["layers"]) == 2


def test_of_the_same_judgments_the_imported_ones_count_and_that_is_said(stored: Path, full: Run, capsys: Said) -> None:
    judged.write(full.path, layer_of(full, value=0.125))
    assert primary(judged.merge(full)).value == 0.125
    [source] = (stored / "judged").glob("hea-*")
    said = import_(source, capsys)
    assert f"{OWN}.helpfulness.pairwise take the place" in said and LANGUAGE not in said
    assert contents(full.path) == contents(source)


def test_other_scores_than_judges_are_still_refused(stored: Path, full: Run, tmp_path: Path, capsys: Said) -> None:
    [folder] = (stored / "plain").glob("hea-*")
    source = Path(shutil.copytree(folder, tmp_path / "altered"))
    rows = json.loads((source / "scores.json").read_text("utf-8"))
    for row in rows:
        if row["metric"] == "in_language":
            row["value"] = 0.0
    write_json(source / "scores.json", rows)
    before = contents(full.path)
    assert "altered" in import_(source, capsys, 2) and contents(full.path) == before
    (source / "scores.json").write_text("{", "utf-8")
    assert "can't be read" in import_(source, capsys, 2) and contents(full.path) == before


def test_a_damaged_layer_is_not_taken_in(stored: Path, plain: Run, tmp_path: Path, capsys: Said) -> None:
    [folder] = (stored / "judged").glob("hea-*")
    source = Path(shutil.copytree(folder, tmp_path / "damaged"))
    next((source / "judgments").glob("*.json")).write_text("{", "utf-8")
    before = contents(plain.path)
    assert "Judge the run again" in import_(source, capsys, 2) and contents(plain.path) == before


def test_slices_that_are_taken_in_again_keep_what_was_judged(tmp_path: Path, home: Path) -> None:
    parts = [made(tmp_path, slice=f"{i}/2").path for i in (1, 2)]
    [*_, whole] = merging.take_in(parts, print)
    assert whole.id == made(tmp_path).id  # negative control: slices are the very run
    judged.write(whole.path, layer_of(whole))
    before = contents(judged.merge(whole).path)
    [*_, again] = merging.take_in(parts, print)
    assert again.id == whole.id and primary(again).value == 0.75
    assert contents(again.path).keys() == before.keys()
    assert list(again.samples(OWN)) == list(whole.samples(OWN))


def test_the_same_eval_again_keeps_what_was_judged(stored: Path, full: Run) -> None:
    before = full.manifest
    again = made(stored)
    assert again.path == full.path and again.scores() == full.scores()
    assert again.manifest["identity"] == before["identity"]
    assert again.manifest["tasks"][OWN]["judge"] == before["tasks"][OWN]["judge"]
    other = made(stored, "muu", level=0.6)  # negative control: other answers under other keys are not judged
    assert other.id != full.id and judged.awaiting(other) == [OPEN, OWN, LANGUAGE]


def test_a_public_export_has_judgments_of_published_items_only(full: Run, tmp_path: Path) -> None:
    secret = next(iter(full.plan(OWN))).prompt.partition(":")[0].partition(">")[2]
    assert secret.startswith("Küsimus number") and secret in text_in(full.path)
    orphan = full.path / "judgments" / f"{OWN}.helpfulness.pointwise.jsonl.gz"  # a kill before its layer was written
    shutil.copy(full.path / "judgments" / f"{OWN}.helpfulness.pairwise.jsonl.gz", orphan)
    assert export(full, tmp_path / "public", private=False) == [OWN, LANGUAGE]
    files = sorted(path.name for path in (tmp_path / "public" / "judgments").iterdir())
    assert files == [f"{OPEN}.helpfulness.pairwise.json", f"{OPEN}.helpfulness.pairwise.jsonl.gz"]
    text = text_in(tmp_path / "public")
    marks = [key for task in (OWN, LANGUAGE) for key in (sample.key for sample in full.samples(task))]
    assert secret not in text and "Küsimus number" not in text and not any(mark in text for mark in marks)
    copy = Run(tmp_path / "public")
    assert copy.scores() == full.scores() and list(copy.samples(OPEN)) == list(full.samples(OPEN))
    export(full, tmp_path / "private", private=True)
    assert contents(tmp_path / "private") == contents(full.path)


def test_a_public_export_is_taken_in_and_can_be_judged_further(
    full: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    export(full, tmp_path / "public", private=False)
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "elsewhere"))
    import_(tmp_path / "public", capsys)
    run = Run(tmp_path / "elsewhere" / "runs" / full.id)
    judged.write(run.path, layer_of(run, OPEN, "muu", "win_rate/muu", primary=False))
    more = judged.merge(run)
    assert {s.metric for s in more.scores()} == {s.metric for s in full.scores()} | {"win_rate/muu"}
    assert more.manifest["identity"]["result"] != full.manifest["identity"]["result"]
    assert contents(judged.merge(more).path) == contents(more.path)


def test_a_rebuilt_index_has_the_judged_scores(full: Run, capsys: Said) -> None:
    assert main(["runs", "rebuild"]) == 0
    with open_database(None) as database:
        rows = queries.scores(database, runs=[full.id])
    assert [row.score for row in rows] == full.scores()


# --- a run like any other ---------------------------------------------------------------------------------------------


def test_every_eval_ever_has_the_judged_score_and_no_private_document(full: Run, tmp_path: Path, capsys: Said) -> None:
    assert main(["runs", "export", f"run={full.id}", f"to={tmp_path / 'eee'}", "form=eee"]) == 0
    [log] = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "eee").rglob("*.json")]
    found = {(row["evaluation_name"], row["metric_config"]["metric_name"]): row for row in log["evaluation_results"]}
    row = found[OWN, "win_rate"]["score_details"]
    assert row["score"] == primary(full).value and "uncalibrated" in row["details"]["signature"]
    text = text_in(tmp_path / "eee")
    assert "Küsimus number" not in text
    assert main(["runs", "export", f"run={full.id}", f"to={tmp_path / 'own'}", "form=eee", "private=true"]) == 0
    assert "Küsimus number" in text_in(tmp_path / "own")  # negative control


def test_report_and_compare_take_judged_runs(stored: Path, full: Run, home: Path, capsys: Said) -> None:
    other = taken(stored, "judged", home, "halb")
    capsys.readouterr()
    for form in ("markdown", "latex", "csv", "json"):
        assert main(["report", f"runs={full.id},{other.id}", f"output={form}"]) == 0
        text = capsys.readouterr().out
        assert OWN in text.replace("\\_", "_")
    assert main(["compare", full.id, other.id, "output=json"]) == 0
    rows = {row["task"]: row for row in json.loads(capsys.readouterr().out)["tasks"]}
    fall = (primary(full).value or 0) - (primary(other).value or 0)
    assert fall > 0.2 and abs(rows[OWN]["difference"]) == pytest.approx(fall)


@pytest.mark.parametrize("calibrated", [False, True])
def test_only_a_calibrated_judge_blocks_the_gate(
    calibrated: bool, home: Path, stored: Path, tmp_path: Path, capsys: Said
) -> None:
    good, bad = (taken(stored, "plain", home, name) for name in ("hea", "halb"))
    for run, value in ((good, 1.0), (bad, 0.0)):
        for task in run.tasks:
            judged.write(run.path, layer_of(run, task, value=value, calibrated=calibrated))
        judged.merge(run)
    policy = tmp_path / "gate.yaml"
    policy.write_text("margin: 2\nminimum_n: 5\n", "utf-8")
    assert main(["baseline", "set", "main", f"run={good.id}", f"folder={tmp_path / 'baselines'}"]) == 0
    capsys.readouterr()
    for baseline in (good.id, tmp_path / "baselines" / "main.json"):
        code = main(["gate", f"candidate={bad.id}", f"baseline={baseline}", f"policy={policy}", "output=json"])
        out, err = capsys.readouterr()
        assert code != 2, err
        rows = json.loads(out)["comparisons"][0]["tasks"]
        assert code == (1 if calibrated else 3), err
        assert {row["blocking"] for row in rows} == {calibrated}
        said = " ".join(reason for row in rows for reason in row["reasons"])
        assert ("an uncalibrated judge can't block" in said) is not calibrated


def test_terminals_are_told_of_an_uncalibrated_judge(full: Run, capsys: Said) -> None:
    assert main(["runs", "show", f"run={full.id}", "output=table"]) == 0
    assert "uncalibrated" in capsys.readouterr().out
