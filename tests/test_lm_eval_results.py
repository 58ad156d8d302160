"""Result files that lm-eval itself writes become runs that can be listed, indexed and compared; nothing is guessed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import yaml
from worlds import rows

from estbench import compare, evidence, registry, runner, stats
from estbench.config import EvalSettings
from estbench.database import index_run, open_database, queries
from estbench.errors import StoreError
from estbench.interchange.lm_eval_results import take_in
from estbench.merging import take_in as copy_in
from estbench.runs import Run, Score

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval's own
LIMIT = 8
FUNCTIONS = """
def in_per_cent(doc, results):
    return {"f1": 0.5, "acc": 40.0}
"""
OURS = ["mini_copa", "mini_qa", "mini_translate_en_et"]
THEIRS = ["pick", "say", "text", "coded"]


def write_tasks(folder: Path) -> None:
    """Tasks as people have them: options, answers behind two filters, a text, code of their own, a group."""

    def write(name: str, **config: Any) -> None:
        (folder / name).write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), "utf-8")

    data = folder / "rows.jsonl"
    own = [row | {"second": "lol" if i % 3 else row["second"]} for i, row in enumerate(rows(LIMIT + 1))]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in own), "utf-8")
    write("_shared.yaml", dataset_path="json", dataset_kwargs={"data_files": {"test": str(data)}},
          test_split="test", doc_to_text="Q: {{question}}\nA:")  # fmt: skip
    write("pick.yaml", include="_shared.yaml", task="pick", output_type="multiple_choice",
          doc_to_choice="{{[first, second]}}", doc_to_target="label",
          metric_list=[{"metric": name} for name in ("acc", "acc_norm", "acc_mutual_info", "brier_score")])  # fmt: skip
    said = [{"function": "remove_whitespace"}, {"function": "take_first"}]
    strict = [{"function": "regex", "regex_pattern": "#### (.*)"}, {"function": "take_first"}]
    write("say.yaml", include="_shared.yaml", task="say", output_type="generate_until", doc_to_target="{{second}}",
          generation_kwargs={"until": ["\n"], "max_gen_toks": 5},
          filter_list=[{"name": "all", "filter": said}, {"name": "strict", "filter": strict}],
          metric_list=[{"metric": name} for name in ("exact_match", "bleu", "chrf", "chrf++", "ter")])  # fmt: skip
    write("text.yaml", include="_shared.yaml", task="text", output_type="loglikelihood_rolling", doc_to_text="",
          doc_to_target="{{question}}",
          metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}])  # fmt: skip
    (folder / "utils.py").write_text(FUNCTIONS, "utf-8")
    text = yaml.safe_dump({"include": "_shared.yaml", "task": "coded", "output_type": "generate_until"})
    text += "doc_to_target: '{{second}}'\ngeneration_kwargs: {until: ['\\n'], max_gen_toks: 5}\n"
    text += (
        "process_results: !function utils.in_per_cent\nmetric_list: [{metric: f1, aggregation: mean}, {metric: acc}]\n"
    )
    (folder / "coded.yaml").write_text(text, "utf-8")
    write("all.yaml", group="everything", task=["pick", "say"],
          aggregate_metric_list=[{"metric": "acc", "weight_by_size": True}])  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that lm-eval wrote: one evaluation of its dummy model, with samples."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISABLE_MULTIPROC", "1")
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")  # seconds
        patch.setattr("lm_eval.models.dummy.DummyLM.tokenizer", None)  # which it looks for on the Hub
        tracker = EvaluationTracker(output_path=str(tmp_path_factory.mktemp("out")))
        found = simple_evaluate(
            model="dummy",
            model_args="pretrained=own/model,dtype=bfloat16,token=hf_SECRET",
            tasks=[*OURS, "everything", "text", "coded"],
            task_manager=TaskManager(
                include_path=[str(registry.project_file("tasks")), str(folder)], include_defaults=False
            ),
            limit=LIMIT,
            evaluation_tracker=tracker,
            log_samples=True,
            bootstrap_iters=100,
        )
        assert found is not None
        samples = found.pop("samples")
        tracker.save_results_aggregated(results=found, samples=samples)
        for task in found["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    return next(Path(str(tracker.output_path)).glob("*/results_*.json")).parent


@pytest.fixture
def results(written: Path, tmp_path: Path) -> Path:
    """A copy of the result file, its samples beside it, for a test to change."""
    folder = shutil.copytree(written, tmp_path / "theirs")
    return next(folder.glob("results_*.json"))


@pytest.fixture
def alone(results: Path) -> Path:
    """The result file without samples."""
    for path in results.parent.glob("samples_*"):
        path.unlink()
    return results


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def samples_of(results: Path, task: str) -> Path:
    return next(results.parent.glob(f"samples_{task}_*"))


def scores_of(run: Run) -> dict[tuple[str, str], Score]:
    return {(score.task, score.metric): score for score in run.scores()}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_value_is_the_file_s_own(results: Path, home: Path) -> None:
    run = take_in(results, print)
    theirs = json.loads(results.read_text("utf-8"))["results"]
    scores = scores_of(run)
    assert {task for task, _ in scores} == {*OURS, "pick", "say", "text"} == set(run.tasks)
    for (task, metric), score in scores.items():
        name, _, filter_name = metric.partition(",")
        key = f"{name},{filter_name or ('all' if task == 'say' else 'none')}"
        assert score.value == theirs[task][key], metric
        assert score.n == score.n_planned == LIMIT and score.errors == 0
    assert scores["say", "exact_match"].value == pytest.approx(5 / 8) and scores["say", "exact_match,strict"].value == 0
    assert [score.metric for score in run.scores() if score.primary] == [
        "acc",
        "em",
        "chrf++",
        "acc",
        "exact_match",
        "bits_per_byte",
    ]


def test_what_is_not_sure_is_left_out_and_said(results: Path, home: Path) -> None:
    said: list[str] = []
    scores = scores_of(take_in(results, said.append))
    text = "\n".join(said)
    assert "'everything': means over tasks" in text
    assert "pick: brier_score: the unit is not sure" in text
    assert "text: word_perplexity: the unit is not sure" in text
    assert "coded: f1, acc: the unit is not sure" in text
    assert "say: chrf, ter, bleu,strict, chrf,strict, chrf++,strict, ter,strict of single documents" in text
    assert {metric for task, metric in scores if task == "pick"} == {"acc", "acc_norm", "acc_mutual_info"}
    units = {metric: score.unit for (_, metric), score in scores.items()}
    assert units["ter"] == units["chrf"] == "points" and units["bits_per_byte"] == "bits"
    assert not scores["say", "ter"].higher_is_better and scores["say", "bleu"].higher_is_better


def test_a_share_in_per_cent_is_not_a_share(results: Path, home: Path) -> None:
    """The score alone may look like a share (here of a weak model); the documents show that it is none."""
    edit(results, lambda content: content["results"]["coded"].update({"acc,none": 0.4}))
    said: list[str] = []
    assert ("coded", "acc") not in scores_of(take_in(results, said.append))
    samples_of(results, "coded").unlink()
    assert ("coded", "acc") in scores_of(take_in(results, said.append))  # negative control: nothing tells


def test_intervals_are_ours_where_documents_make_the_score(results: Path, home: Path) -> None:
    run = take_in(results, print)
    score = scores_of(run)["pick", "acc"]
    values = [sample.values["acc"] for sample in run.samples("pick")]
    own = stats.proportion_interval(values)
    assert (score.value, score.ci_low, score.ci_high, score.method) == (own.value, own.low, own.high, "Wilson")
    clustered = scores_of(run)["mini_copa", "acc"]
    assert "clusters" in clustered.method
    bleu = scores_of(run)["say", "bleu"]
    assert bleu.signature and "version" in bleu.signature


def test_without_documents_the_standard_error_is_the_interval(alone: Path, home: Path) -> None:
    theirs = json.loads(alone.read_text("utf-8"))["results"]
    scores = scores_of(take_in(alone, print))
    value, error = theirs["say"]["exact_match,all"], theirs["say"]["exact_match_stderr,all"]
    score = scores["say", "exact_match"]
    assert error > 0 and score.method == "lm-eval's standard error"
    assert score.ci_low == pytest.approx(value - 1.96 * error) and score.ci_high == min(1.0, value + 1.96 * error)
    none = scores["say", "exact_match,strict"]  # all wrong: an error of 0, which is no interval
    assert none.ci_low is None and none.method == "no interval: lm-eval's standard error is 0"
    assert "missing" in scores["mini_translate_en_et", "chrf++"].method


def test_chance_and_card_are_those_of_our_tasks_alone(results: Path, home: Path) -> None:
    run = take_in(results, print)
    scores = scores_of(run)
    assert scores["mini_copa", "acc"].chance == 0.5 and scores["mini_copa", "acc_norm"].chance is None
    assert scores["pick", "acc"].chance is None
    assert run.manifest["tasks"]["mini_copa"]["publish_items"] and not run.manifest["tasks"]["pick"]["publish_items"]


def test_prompts_through_a_chat_template_are_of_another_form(results: Path, home: Path) -> None:
    run = take_in(results, print)
    edit(results, lambda content: content.update(chat_template="{{ messages }}"))
    chat = take_in(results, print)
    assert {row["form"] for row in run.manifest["tasks"].values()} == {"completion"}
    assert {row["form"] for row in chat.manifest["tasks"].values()} == {"chat"}
    assert chat.manifest["model"]["fingerprint"] == run.manifest["model"]["fingerprint"]
    assert chat.manifest["identity"]["plan"] != run.manifest["identity"]["plan"]


def test_a_namesake_of_our_task_is_not_ours(results: Path, home: Path) -> None:
    edit(results, lambda content: content["configs"]["mini_copa"].update(doc_to_text="{{premise}} – {{relation}}"))
    run = take_in(results, print)
    [score] = [score for score in run.scores() if score.task == "lm_eval/mini_copa" and score.primary]
    assert score.chance is None and "mini_copa" not in run.tasks


def test_answers_in_which_lm_eval_s_filter_found_nothing_are_counted(results: Path, home: Path) -> None:
    edit(results, lambda content: content["configs"]["say"]["filter_list"].reverse())
    run = take_in(results, print)
    score = scores_of(run)["say", "exact_match"]
    assert score.value == 0 and score.parse_failures == LIMIT
    assert all(sample.parse_failure and sample.answer == "[invalid]" for sample in run.samples("say"))


def test_corpus_metrics_have_statistics_that_give_sacrebleu_s_score(results: Path, home: Path) -> None:
    run = take_in(results, print)
    samples = list(run.samples("say"))
    outputs, references = ["lol"] * LIMIT, [[sample.target for sample in samples]]
    bleu = sacrebleu.corpus_bleu(outputs, references).score
    assert scores_of(run)["say", "bleu"].value == pytest.approx(bleu)
    assert all(len(sample.values["bleu"]) == 10 and len(sample.values["chrf++"]) == 24 for sample in samples)
    assert not any(
        "ter" in name.split(",") or "chrf" in name.split(",") for sample in samples for name in sample.values
    )


def test_documents_are_those_of_an_evaluation_of_ours(
    results: Path, home: Path, mock_model: Callable[[Callable[[str], str]], None]
) -> None:
    """The same rows and questions have the same hashes, so that lm-eval's run and ours are paired."""
    theirs = evidence.of_run(take_in(results, print))
    mock_model(lambda prompt: "lol" if "a" in prompt else "Kadri")
    own = evidence.of_run(runner.evaluate(runner.prepare(EvalSettings(model="mock", tasks=",".join(OURS)))))
    problems = compare.problems(theirs, own, OURS)
    assert {problem.kind for problem in problems} == {"engine", "scorer"}  # those are others indeed
    for task in OURS:
        asked = own.asked(task)
        assert {doc: asked.get(doc) for doc in theirs.items(task).docs} == theirs.asked(task)
        found = compare.compare_task(theirs, own, task)
        assert found.difference.n == LIMIT and found.only_b == 320 - LIMIT
    clusters = dict(zip(own.items("mini_copa").docs, own.items("mini_copa").clusters, strict=True))
    mine = theirs.items("mini_copa")
    assert [clusters[doc] for doc in mine.docs] == mine.clusters


def test_answers_and_targets_are_what_our_folders_hold(results: Path, home: Path) -> None:
    run = take_in(results, print)
    for task in ("pick", "mini_copa"):
        logprobs: dict[int, list[float]] = {}
        for response in run.responses(task):
            logprobs.setdefault(response["doc_id"], []).append(response["logprob"])
        for sample, doc in zip(run.samples(task), run.plan(task), strict=True):
            assert len(doc.choices) == len(logprobs[sample.doc_id]) == 2  # and no requests for mutual information
            assert sample.answer == logprobs[sample.doc_id].index(max(logprobs[sample.doc_id]))
            assert sample.values["acc"] == (sample.answer == sample.target)
    assert {row["text"] for row in run.responses("say")} == {"lol"}
    assert next(run.plan("text")).prompt == "" and next(run.plan("text")).choices[0].startswith("Mis on")


def test_a_run_is_indexed_listed_exported_and_taken_in_again(
    results: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = take_in(results, print)
    with open_database(None) as database:
        index_run(database, run)
        [row] = queries.runs(database)
        assert row.id == run.id and row.name == "own/model" and row.partial and row.observed
        with database.engine.connect() as connection:
            assert connection.exec_driver_sql("select count(*) from items").scalar() > 0
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "elsewhere"))
    [copy] = copy_in([run.path], print)
    assert copy.scores() == run.scores()


def test_scores_alone_are_indexed_and_can_not_be_paired(alone: Path, home: Path, tmp_path: Path) -> None:
    run = take_in(alone, print)
    assert run.manifest["items_left_out"] == run.tasks
    with open_database(None) as database:
        index_run(database, run)
        assert [row.id for row in queries.runs(database)] == [run.id]
    with pytest.raises(StoreError, match="nothing can be paired"):
        evidence.of_run(run).items("pick")
    some = take_in(alone, print)
    assert some.id == run.id


def test_the_same_file_gives_the_same_folder(results: Path, home: Path) -> None:
    run = take_in(results, print)
    before = everything(run.path)
    assert take_in(results, print).path == run.path and everything(run.path) == before
    edit(results, lambda content: content["config"].update(model_args="pretrained=own/model,revision=step-2"))
    other = take_in(results, print)
    assert other.id != run.id and other.manifest["model"]["fingerprint"] != run.manifest["model"]["fingerprint"]


def test_other_answers_are_another_result(results: Path, home: Path) -> None:
    """A checkpoint that was written anew has the same name: only its answers tell."""
    first = evidence.of_run(take_in(results, print))
    path = samples_of(results, "pick")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        line["resps"] = [[[str(float(part[0][0]) - 1), part[0][1]]] for part in line["resps"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    second = evidence.of_run(take_in(results, print))
    assert first.id != second.id
    assert not set(first.items("pick").keys) & set(second.items("pick").keys)
    assert first.items("say").keys == second.items("say").keys


def test_no_secret_and_no_place_of_another_machine_is_kept(results: Path, home: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["model_name"] = "/home/someone/runs/step-2000"
        content["config"]["model_args"] = "pretrained=/home/someone/runs/step-2000,token=hf_SECRET,dtype=bfloat16"

    edit(results, change)
    run = take_in(results, print)
    text = (run.path / "manifest.json").read_text("utf-8")
    assert "SECRET" not in text and "/home/someone" not in text
    assert run.manifest["name"] == "step-2000" and run.id.startswith("step-2000-")
    assert run.manifest["engine"]["dtype"] == "bfloat16"
    assert "pretrained=step-2000" in run.manifest["command"]


def test_withheld_golds_are_not_taken_in(results: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = registry.Registry().tasks
    card = tasks["mini_copa"]
    metadata = card.config["metadata"] | {"access": "withheld"}
    secret = replace(card, config=card.config | {"metadata": metadata})
    monkeypatch.setattr(registry.Registry, "tasks", tasks | {"mini_copa": secret})
    said: list[str] = []
    run = take_in(results, said.append)
    assert any("withheld" in line for line in said)
    assert "mini_copa" in run.manifest["items_left_out"] and "mini_qa" not in run.manifest["items_left_out"]
    assert not (run.path / "samples" / "mini_copa.jsonl.gz").exists()
    with open_database(None) as database:
        index_run(database, run)


def test_a_value_that_is_no_number_is_missing(alone: Path, home: Path) -> None:
    edit(alone, lambda content: content["results"]["pick"].update({"acc,none": math.nan, "acc_norm,none": "N/A"}))
    scores = scores_of(take_in(alone, print))
    for metric in ("acc", "acc_norm"):
        assert scores["pick", metric].value is None
        assert scores["pick", metric].reason == "lm-eval's value is not a number"


def test_values_of_documents_that_do_not_make_the_score_are_dropped(results: Path, home: Path) -> None:
    edit(results, lambda content: content["results"]["pick"].update({"acc,none": 0.123}))
    said: list[str] = []
    run = take_in(results, said.append)
    assert any("pick: acc of single documents" in line for line in said)
    assert all("acc" not in sample.values and "acc_norm" in sample.values for sample in run.samples("pick"))
    assert scores_of(run)["pick", "acc"].method == "lm-eval's standard error"


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        drop("results"),
        drop("configs"),
        drop("date"),
        drop("n-samples"),
        lambda content: content.update(results=[]),
        lambda content: content.update(results={}),
        lambda content: content.update(date=1e300),
        lambda content: content.update(configs={"pick": None}),
        lambda content: content["results"].update(pick=3),
        lambda content: content["results"].update({"../../pick": {}}) or content["configs"].update({"../../pick": {}}),
        lambda content: content["configs"].update(pick={"metric_list": 3, "filter_list": [3]}),
        lambda content: content["configs"].update(pick={"metric_list": [{"metric": "acc"}], "filter_list": "strict"}),
    ],
)
def test_a_foreign_or_broken_file_is_refused_in_one_line(
    alone: Path, home: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(alone, change)
    with pytest.raises(StoreError) as refused:
        take_in(alone, print)
    assert "\n" not in str(refused.value)
    assert not list((home / "runs").glob("*/manifest.json"))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_result_file_is_refused_in_one_line(tmp_path: Path, home: Path, content: bytes) -> None:
    path = tmp_path / "results_2026-11-28T19-56-56.470243.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"results_….json") as refused:
        take_in(path, print)
    assert "\n" not in str(refused.value)
    for other in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(StoreError, match="can't be read"):
            take_in(other, print)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[0]],
        lambda lines: [*lines[:-1], lines[-1][:40]],
        lambda lines: ["[]", *lines[1:]],
        lambda lines: [json.dumps({"doc_id": i, "filter": "none"}) for i in range(len(lines))],
        lambda lines: [line.replace('"doc_hash": "', '"doc_hash": "0') for line in lines],
    ],
)
def test_samples_that_are_torn_or_of_another_file_are_refused(
    results: Path, home: Path, spoil: Callable[[list[str]], list[str]]
) -> None:
    path = samples_of(results, "pick")
    path.write_text("\n".join(spoil(path.read_text("utf-8").splitlines())) + "\n", "utf-8")
    with pytest.raises(StoreError) as refused:
        take_in(results, print)
    assert "\n" not in str(refused.value) and path.name in str(refused.value)


def test_samples_that_no_folder_could_hold_are_mended(results: Path, home: Path) -> None:
    """Half a surrogate pair, and a log-likelihood of minus infinity."""
    path = samples_of(results, "pick")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lines[0]["doc"]["question"] = "pool \ud800 paari"
    lines[0]["resps"][0][0][0] = "-inf"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    run = take_in(results, print)
    assert next(run.responses("pick"))["logprob"] is None and next(run.samples("pick")).answer == 1
    with open_database(None) as database:
        index_run(database, run)
