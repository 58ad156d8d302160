"""An export to Every Eval Ever is valid, always the same, and holds no document that may not leave."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from database_fixtures import FakeDoc, choice_docs, make_run

from estbench import cli
from estbench.errors import StoreError
from estbench.interchange.every_eval_ever import export
from estbench.runs import Run, write_json

MockModel = Callable[[Callable[[str], str]], None]

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
LIST: dict[str, Any] = {"type": "array", "items": TEXT}
BOUND: dict[str, Any] = {"anyOf": [NUMBER, {"enum": ["Infinity", "-Infinity"]}]}


def fields(needed: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object with these fields and no other: the schema lets more pass in places, and we write none."""
    return {
        "type": "object",
        "required": list(needed),
        "properties": needed | more,
        "additionalProperties": False,
    }


# The part of schema 0.3.0 that an export can use, in our words: from the fields' types, what is required, and the rules
# of the database's validator that a schema can say.
DETAILS = {
    "type": "object",
    "required": ["deployment_type", "model_availability"],
    "properties": {
        "deployment_type": {"enum": ["self_deployed", "externally_managed", "unknown"]},
        "model_availability": {"enum": ["open_weights", "closed_weights", "unknown"]},
    },
    "additionalProperties": TEXT,
}
ENGINE = fields({"name": TEXT}, version=TEXT)
MODEL = fields(
    {"name": TEXT, "id": TEXT, "additional_details": DETAILS},
    developer=TEXT,
    inference_platform=TEXT,
    inference_engine=ENGINE,
)
SOURCES = [
    fields({"dataset_name": TEXT, "source_type": {"const": "other"}}, additional_details=TEXTS),
    fields(
        {"dataset_name": TEXT, "source_type": {"const": "url"}, "url": LIST | {"minItems": 1}}, additional_details=TEXTS
    ),
    fields(
        {"dataset_name": TEXT, "source_type": {"const": "hf_dataset"}, "hf_repo": TEXT},
        hf_split=TEXT,
        samples_number=COUNT,
        additional_details=TEXTS,
    ),
]
METRIC = fields(
    {"lower_is_better": {"type": "boolean"}, "metric_id": TEXT},
    evaluation_description=TEXT,
    metric_name=TEXT,
    metric_unit=TEXT,
    score_type={"enum": ["binary", "continuous"]},
    min_score=BOUND,
    max_score=BOUND,
) | {"dependentRequired": {"score_type": ["min_score", "max_score"]}}
INTERVAL = fields({"lower": NUMBER, "upper": NUMBER}, confidence_level={"const": 0.95}, method=TEXT)
SCORE = fields(
    {"score": NUMBER}, details=TEXTS, uncertainty=fields({}, confidence_interval=INTERVAL, num_samples=COUNT)
)
ARGUMENTS = fields(
    {},
    temperature=NUMBER,
    top_p=NUMBER,
    max_tokens={"type": "integer", "minimum": 1},
    execution_command=TEXT,
)
RESULT = fields(
    {"evaluation_name": TEXT, "source_data": {"oneOf": SOURCES}, "metric_config": METRIC, "score_details": SCORE},
    evaluation_result_id=TEXT,
    evaluation_timestamp={"type": "string", "pattern": r"^\d+$"},
    generation_config=fields({}, generation_args=ARGUMENTS, additional_details=TEXTS),
)
SIDECAR = fields(
    {"format": {"const": "jsonl"}, "file_path": TEXT},
    hash_algorithm={"const": "sha256"},
    checksum={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    total_rows={"type": "integer", "minimum": 1},
)
AGGREGATE = fields(
    {
        "schema_version": {"const": "0.3.0"},
        "evaluation_id": TEXT,
        "retrieved_timestamp": {"type": "string", "pattern": r"^\d+$"},
        "source_metadata": fields(
            {
                "source_type": {"enum": ["documentation", "evaluation_run"]},
                "source_organization_name": TEXT,
                "evaluator_relationship": {"enum": ["first_party", "third_party", "collaborative", "other"]},
            },
            source_name=TEXT,
            additional_details=TEXTS,
        ),
        "model_info": MODEL,
        "eval_library": fields({"name": TEXT, "version": TEXT}, additional_details=TEXTS),
        "evaluation_results": {"type": "array", "items": RESULT, "minItems": 1},
    },
    evaluation_timestamp={"type": "string", "pattern": r"^\d+$"},
    detailed_evaluation_results=SIDECAR,
)
ATTRIBUTION = fields(
    {
        "turn_idx": COUNT,
        "source": TEXT,
        "extracted_value": TEXT,
        "extraction_method": TEXT,
        "is_terminal": {"type": "boolean"},
    }
)
INSTANCE = fields(
    {
        "schema_version": {"const": "0.3.0"},
        "evaluation_id": TEXT,
        "model_id": TEXT,
        "evaluation_name": TEXT,
        "sample_id": TEXT,
        "interaction_type": {"const": "single_turn"},  # which has an output and no messages
        "input": fields({"raw": TEXT, "reference": LIST}, choices=LIST),
        "output": fields({"raw": LIST}),
        "answer_attribution": {"type": "array", "items": ATTRIBUTION},
        "evaluation": fields({"score": NUMBER, "is_correct": {"type": "boolean"}}),
    },
    evaluation_result_id=TEXT,
    sample_hash=TEXT,
    metadata=TEXTS,
)
UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def strict(text: str) -> Any:
    """JSON without the NaN and Infinity that Python lets pass."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def valid(folder: Path, paths: list[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The aggregate and the lines of an export that is valid by schema and by what the database checks beyond it."""
    log = strict(paths[0].read_text("utf-8"))
    jsonschema.Draft202012Validator(AGGREGATE).validate(log)
    place = paths[0].relative_to(folder).as_posix()
    assert re.fullmatch(rf"data/[^/]+/[^/]+/[^/]+/{UUID4}\.json", place)
    for result in log["evaluation_results"]:
        metric, score = result["metric_config"], result["score_details"]["score"]
        if "score_type" in metric:
            assert metric["min_score"] <= score <= float(str(metric["max_score"]).replace("Infinity", "inf"))
    names = [result["evaluation_result_id"] for result in log["evaluation_results"]]
    assert len(set(names)) == len(names)
    if len(paths) == 1:
        assert "detailed_evaluation_results" not in log
        assert not paths[0].with_name(f"{paths[0].stem}_samples.jsonl").exists()
        return log, []
    sidecar, content = log["detailed_evaluation_results"], paths[1].read_bytes()
    assert sidecar["file_path"] == place.replace(".json", "_samples.jsonl") == paths[1].relative_to(folder).as_posix()
    assert sidecar["checksum"] == hashlib.sha256(content).hexdigest()
    lines = [strict(line) for line in content.decode("utf-8").split("\n")[:-1]]
    assert sidecar["total_rows"] == len(lines)
    for line in lines:
        jsonschema.Draft202012Validator(INSTANCE).validate(line)
        assert (line["evaluation_id"], line["model_id"]) == (log["evaluation_id"], log["model_info"]["id"])
        assert line["evaluation_result_id"] in names
    return log, lines


def made(tmp_path: Path, tasks: dict[str, list[FakeDoc]], **more: Any) -> Run:
    about = {"command": "estbench eval model=/srv/models/demo tasks=copa data=/srv/data", "versions": {"estbench": "1"}}
    return make_run(tmp_path / "runs", run="demo-0123456789ab", tasks=tasks, **{**about, **more})


def changed(run: Run, task: str, **card: Any) -> Run:
    """The run with another card of a task."""
    tasks = run.manifest["tasks"] | {task: run.manifest["tasks"][task] | card}
    write_json(run.path / "manifest.json", run.manifest | {"tasks": tasks})
    return Run(run.path)


def evaluated(capsys: pytest.CaptureFixture[str], home: Path, tasks: str) -> Run:
    assert cli.main(["eval", "model=mock", f"tasks={tasks}", "data=samples"]) == 0
    return Run(home / "runs" / json.loads(capsys.readouterr().out)["run"])


def test_a_run_of_every_kind_of_task_is_valid(
    home: Path, mock_model: MockModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mock_model(lambda prompt: "Vastus: A")
    names = ("estcopa", "flores_en_et", "unimorph_et", "estgec_l2", "sib200_et", "estqa", "estner", "ifeval_et")
    tasks = ",".join(f"{name}_chat" for name in names)
    run = evaluated(capsys, home, tasks)
    log, lines = valid(tmp_path, export(run, tmp_path, private=True))
    scores = {(score.task, score.metric): score for score in run.scores() if "/" not in score.metric}
    results = {(row["evaluation_name"], row["metric_config"]["metric_name"]): row for row in log["evaluation_results"]}
    there = {key for key, score in scores.items() if score.value is not None}
    assert results.keys() == there and len(there) > 10
    for key, row in results.items():
        details, score = row["score_details"], scores[key]
        assert details["score"] == score.value and details["uncertainty"]["num_samples"] == score.n
        interval = details["uncertainty"].get("confidence_interval", {})
        assert (interval.get("lower"), interval.get("upper")) == (score.ci_low, score.ci_high)
        assert row["metric_config"]["lower_is_better"] is not score.higher_is_better
    missing = json.loads(log["source_metadata"]["additional_details"].get("missing_scores", "{}"))
    assert {tuple(name.split(" ")) for name in missing} == scores.keys() - there
    arguments = results["estqa_chat", "em"]["generation_config"]["generation_args"]
    assert arguments["temperature"] == 0 and arguments["max_tokens"] > 0
    for task, samples in ((task, list(run.samples(task))) for task in run.tasks):
        of_task = [line for line in lines if line["evaluation_result_id"].endswith(f"{task}/{scores_of(run, task)}")]
        assert len(of_task) in (0, len(samples))
    right = [line for line in lines if line["evaluation_name"] == "estcopa_chat"]
    assert {line["evaluation"]["score"] for line in right} == {0.0, 1.0}
    assert all(line["evaluation"]["is_correct"] == (line["evaluation"]["score"] == 1) for line in right)
    assert all(line["output"]["raw"] == ["Vastus: A"] and line["input"]["reference"] for line in right)


def scores_of(run: Run, task: str) -> str:
    return str(run.manifest["tasks"][task]["primary"])


def test_a_document_of_a_corpus_metric_has_the_metric_of_its_own_counts(
    home: Path, mock_model: MockModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from estbench.metrics.translation import chrf

    mock_model(lambda prompt: "Koer läks majja.")
    run = evaluated(capsys, home, "flores_en_et_chat")
    _, lines = valid(tmp_path, export(run, tmp_path, private=True))
    own = [line["evaluation"]["score"] for line in lines if line["evaluation_result_id"].endswith("/chrf++")]
    assert own == pytest.approx([float(chrf(sample.values["chrf++"])) for sample in run.samples("flores_en_et_chat")])


def test_only_documents_that_may_be_published_leave(tmp_path: Path) -> None:
    secret = [FakeDoc({"em": 1}, answer=f"SALADUS {i}", target=f"SALADUS {i}", prompt=f"SALADUS {i}") for i in range(9)]
    run = changed(made(tmp_path, {"copa": choice_docs(9), "qa": secret}), "qa", publish_items=False)
    paths = export(run, tmp_path / "a")
    log, lines = valid(tmp_path / "a", paths)
    assert {line["evaluation_name"] for line in lines} == {"copa"}
    assert {row["evaluation_name"] for row in log["evaluation_results"]} == {"copa", "qa"}  # scores always leave
    assert all("SALADUS" not in path.read_text("utf-8") for path in paths)
    _, everything = valid(tmp_path / "b", export(run, tmp_path / "b", private=True))
    assert sum("SALADUS" in json.dumps(line) for line in everything) == 9  # it was there to be found
    withheld = changed(run, "copa", access="withheld")
    assert valid(tmp_path / "c", export(withheld, tmp_path / "c"))[1] == []


def test_no_document_of_an_earlier_export_stays(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(9)})
    paths = export(run, tmp_path / "out")
    assert paths[1].exists()
    again = export(changed(run, "copa", publish_items=False), tmp_path / "out")
    assert again == paths[:1] and valid(tmp_path / "out", again)[1] == [] and not paths[1].exists()


def test_a_private_export_does_not_stand_in_for_a_public_one(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(9)})
    assert not set(export(run, tmp_path / "out", private=True)) & set(export(run, tmp_path / "out"))


def test_no_place_on_this_machine_leaves(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(9)})
    paths = export(run, tmp_path / "a")
    assert all("/srv" not in path.read_text("utf-8") and "/models/" not in path.read_text("utf-8") for path in paths)
    assert "model=demo tasks=copa data=data" in paths[0].read_text("utf-8")
    assert "/srv/data" in export(run, tmp_path / "b", private=True)[0].read_text("utf-8")


def test_the_same_run_gives_the_same_names_and_bytes(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(9), "qa": choice_docs(5, seed=2)})
    first = export(run, tmp_path / "a")
    shutil.move(run.path, tmp_path / "elsewhere")
    second = export(Run(tmp_path / "elsewhere"), tmp_path / "b")
    assert [path.relative_to(tmp_path / "a") for path in first] == [path.relative_to(tmp_path / "b") for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert {file.name for file in first[0].parent.iterdir()} == {path.name for path in first}  # nothing half-written
    other = make_run(
        tmp_path / "runs", run="demo-ba9876543210", tasks={"copa": choice_docs(9)}, command="estbench eval"
    )
    assert export(other, tmp_path / "a")[0] not in first


def test_a_missing_score_is_left_out_and_named(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(9)})
    gone = [asdict(score) for score in run.scores()]
    gone[0] |= {"value": None, "ci_low": None, "ci_high": None, "reason": "the golds are withheld"}
    write_json(run.path / "scores.json", gone)
    log, lines = valid(tmp_path, export(run, tmp_path))
    assert [row["metric_config"]["metric_name"] for row in log["evaluation_results"]] == ["acc_norm"]
    details = log["source_metadata"]["additional_details"]
    assert json.loads(details["missing_scores"]) == {"copa acc": "the golds are withheld"}
    assert all(line["evaluation_result_id"].endswith("/acc_norm") for line in lines)


def test_a_document_without_a_response_is_no_zero(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(21, seed=1)})  # one in seven has none
    _, lines = valid(tmp_path, export(run, tmp_path))
    answered = [str(sample.doc_id) for sample in run.samples("copa") if sample.error is None]
    assert len(answered) == 18
    assert [line["sample_id"] for line in lines if line["evaluation_result_id"].endswith("/acc")] == answered


@pytest.mark.parametrize(
    ("model", "developer", "identity", "folder", "availability"),
    [
        ({"name": "demo", "path": "/m/demo"}, None, "demo", "unknown/demo", "unknown"),
        ({"name": "demo", "path": "/m/demo"}, "tartuNLP", "tartuNLP/demo", "tartuNLP/demo", "unknown"),
        ({"name": "run/step-200", "path": "/m/run/step-200"}, None, "run_step-200", "unknown/run_step-200", "unknown"),
        (
            {"name": "tartuNLP/Llammas", "path": "/cache/x", "revision": "abc"},
            "ignored",
            "tartuNLP/Llammas",
            "tartuNLP/Llammas",
            "open_weights",
        ),
        (
            {"name": "gpt-5", "path": None, "url": "https://api.openai.com/v1"},
            None,
            "gpt-5",
            "unknown/gpt-5",
            "unknown",
        ),
        ({"name": "../../etc", "path": "/m"}, None, "", "unknown/.._.._etc", "unknown"),
        ({"name": "con", "path": "/m"}, "data", "data/con", "_data/_con", "unknown"),
    ],
)
def test_a_model_is_called_what_is_known_of_it(
    tmp_path: Path, model: dict[str, Any], developer: str | None, identity: str, folder: str, availability: str
) -> None:
    run = made(tmp_path, {"copa": choice_docs(4)})
    whole = run.manifest["model"] | {"revision": None} | model
    write_json(run.path / "manifest.json", run.manifest | {"model": whole})
    paths = export(Run(run.path), tmp_path / "out", developer=developer)
    log, _ = valid(tmp_path / "out", paths)
    info = log["model_info"]
    assert paths[0].parent.relative_to(tmp_path / "out").as_posix() == f"data/estbench/{folder}"
    assert info["id"] == identity or not identity
    assert info.get("developer") == (identity.rpartition("/")[0] or None)
    assert info["additional_details"]["model_availability"] == availability
    assert info.get("inference_platform") == ("api.openai.com" if model.get("url") else None)


def test_a_range_is_only_said_where_it_is_known(tmp_path: Path) -> None:
    docs = [FakeDoc({"word_perplexity": 31.5, "acc": 1, "mcc": [0, 1, 2]}) for _ in range(6)]
    run = made(tmp_path, {"wiki": docs})
    rows = [asdict(score) for score in run.scores()]
    next(row for row in rows if row["metric"] == "mcc").update(value=-0.25, ci_low=-0.5, ci_high=0.1)
    write_json(run.path / "scores.json", rows)
    log, _ = valid(tmp_path, export(run, tmp_path))
    metrics = {row["metric_config"]["metric_name"]: row["metric_config"] for row in log["evaluation_results"]}
    assert "min_score" not in metrics["word_perplexity"] and "metric_unit" not in metrics["word_perplexity"]
    assert (metrics["acc"]["min_score"], metrics["acc"]["max_score"], metrics["acc"]["metric_id"]) == (0, 1, "accuracy")
    assert metrics["mcc"]["min_score"] == -1 and metrics["mcc"]["metric_id"] == "estbench.mcc"


@pytest.mark.parametrize(
    ("data", "source_type", "more"),
    [
        ({"path": "cambridgeltl/xcopa", "config": "et"}, "hf_dataset", {"hf_repo": "cambridgeltl/xcopa"}),
        ({"path": "estbench/copytext_et"}, "other", {"dataset_name": "copytext_et"}),
        ({"path": "/home/somebody/rows"}, "other", {"dataset_name": "rows"}),
        ({"path": "json"}, "other", {"dataset_name": "json"}),
    ],
)
def test_data_is_from_where_it_is_from(tmp_path: Path, data: dict[str, str], source_type: str, more: Any) -> None:
    run = changed(made(tmp_path, {"copa": choice_docs(4)}), "copa", data=data)
    log, _ = valid(tmp_path, export(run, tmp_path))
    source = log["evaluation_results"][0]["source_data"]
    assert source["source_type"] == source_type and more.items() <= source.items()


def test_a_repository_of_github_is_a_url(tmp_path: Path) -> None:
    run = made(tmp_path, {"unimorph_et": choice_docs(4)})
    run = changed(run, "unimorph_et", data={"path": "unimorph/est"})
    log, _ = valid(tmp_path, export(run, tmp_path))
    assert log["evaluation_results"][0]["source_data"]["url"] == ["https://github.com/unimorph/est"]


def test_half_a_surrogate_pair_stops_nothing(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(4)}, name="\\ud800")
    text = (run.path / "manifest.json").read_text("utf-8").replace("\\\\ud800", "\\ud800")
    (run.path / "manifest.json").write_text(text, "utf-8")
    assert Run(run.path).manifest["name"] == "\ud800"
    assert valid(tmp_path, export(Run(run.path), tmp_path))[0]["model_info"]["name"] == "?"


def test_what_can_not_be_exported_is_one_line(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(4)})
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written"):
        export(run, tmp_path / "file")
    write_json(run.path / "scores.json", [])
    with pytest.raises(StoreError, match="without any score"):
        export(run, tmp_path / "out")
    write_json(run.path / "manifest.json", run.manifest | {"slice": "1/2"})
    with pytest.raises(StoreError, match="a slice"):
        export(Run(run.path), tmp_path / "out")
    broken = made(tmp_path / "b", {"copa": choice_docs(4)}, created="yesterday")
    with pytest.raises(StoreError, match="can't be read as a run folder"):
        export(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda log: log["evaluation_results"][0]["score_details"].update(score=None),
        lambda log: log["evaluation_results"][0]["metric_config"].pop("min_score"),
        lambda log: log["evaluation_results"][0]["source_data"].update(source_type="elsewhere"),
        lambda log: log["model_info"]["additional_details"].pop("deployment_type"),
        lambda log: log["model_info"]["additional_details"].update(parameters=5),
        lambda log: log.update(note="more"),
        lambda log: log.pop("eval_library"),
    ],
)
def test_the_schema_sees_what_is_wrong(tmp_path: Path, spoil: Callable[[dict[str, Any]], Any]) -> None:
    """Negative control for all of the above."""
    paths = export(made(tmp_path, {"copa": choice_docs(4)}), tmp_path)
    log, _ = valid(tmp_path, paths)
    spoil(log)
    paths[0].write_text(json.dumps(log))
    with pytest.raises(jsonschema.ValidationError):
        valid(tmp_path, paths)


def test_no_number_is_nan(tmp_path: Path) -> None:
    run = made(tmp_path, {"copa": choice_docs(4)})
    rows = [asdict(score) for score in run.scores()]
    rows[0] |= {"ci_low": math.nan}
    rows[1] |= {"value": math.nan}
    write_json(run.path / "scores.json", rows)
    log, _ = valid(tmp_path, export(run, tmp_path))
    [result] = log["evaluation_results"]
    assert result["score_details"]["uncertainty"] == {"num_samples": 4}
