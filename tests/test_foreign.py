"""Task files of others: unchanged, next to ours, their code run only when trusted, and seen in the identity."""

from __future__ import annotations

import contextlib
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_parity import compare, lm_eval_results
from test_parity import ours as _ours
from worlds import World, rows

from estbench import cli, registry
from estbench.errors import ConfigError, DataError, PlanError
from estbench.lm_tasks import LmTask
from estbench.registry import Registry

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval's own
FUNCTIONS = """
def answer(doc, results):
    return {"exact_match": float(results[0].strip() == doc["second"])}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them: a shared part, a group, a tag, rows in files, no metadata of ours."""
    path = tmp_path / "theirs"
    path.mkdir()
    data = path / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(9)), "utf-8")
    write(path, "_shared.yaml", dataset_path="json", dataset_kwargs={"data_files": {"test": str(data)}},
          test_split="test", doc_to_text="Q: {{question}}\nA:")  # fmt: skip
    write(path, "pick.yaml", include="_shared.yaml", task="pick", tag="odd", output_type="multiple_choice",
          doc_to_choice="{{[first, second]}}", doc_to_target="label")  # fmt: skip
    write(path, "say.yaml", include="_shared.yaml", task="say", output_type="generate_until",
          doc_to_target="{{second}}", generation_kwargs={"until": ["\n"], "max_gen_toks": 5},
          metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
                       {"metric": "bleu"}])  # fmt: skip
    write(path, "all.yaml", group="everything", task=["pick", "say"])
    return path


def write(folder: Path, name: str, **config: Any) -> None:
    (folder / name).write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), "utf-8")


def with_code(folder: Path) -> Path:
    (folder / "utils.py").write_text(FUNCTIONS, "utf-8")
    text = yaml.safe_dump({"include": "_shared.yaml", "task": "coded", "output_type": "generate_until"})
    text += "doc_to_target: '{{second}}'\ngeneration_kwargs: {until: ['\\n'], max_gen_toks: 5}\n"
    text += "process_results: !function utils.answer\nmetric_list: [{metric: exact_match, aggregation: mean}]\n"
    (folder / "coded.yaml").write_text(text, "utf-8")
    return folder


def test_files_of_others_run_unchanged_and_score_as_in_lm_eval(home: Path, folder: Path, tiny_model: Path) -> None:
    run = _ours("everything", tiny_model, include=str(folder))
    theirs = lm_eval_results(folder, ["pick", "say"], tiny_model)
    assert compare(run, theirs, "pick") >= 9 * 2 + 1 and compare(run, theirs, "say") >= 9 + 1
    bleu = next(score for score in run.scores() if score.metric == "bleu")  # lm-eval's, which is not ours of that name
    assert bleu.signature is None and "lm-eval" in bleu.method


def test_groups_tags_and_names_select(folder: Path) -> None:
    found = Registry(include=[folder])
    assert [task.name for task in found.select("everything").tasks] == ["pick", "say"]
    assert [task.name for task in found.select("odd").tasks] == ["pick"]
    assert [task.name for task in found.select("say,estcopa").tasks] == ["say", "estcopa"]
    assert found.task("say").foreign and found.task("say").form == "completion" and found.task("say").chance is None
    with pytest.raises(ConfigError, match="Did you mean 'pick'"):
        found.select("pikc")


def test_code_of_others_does_not_run_unless_it_is_trusted(folder: Path, tmp_path: Path) -> None:
    with_code(folder)
    (folder / "utils.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n" + FUNCTIONS)
    for trusted in ([], [tmp_path / "elsewhere"]):
        with pytest.raises(ConfigError, match=r"utils\.answer.*trust_task_code="):
            Registry(include=[folder], trusted=trusted).select("pick")
    assert not (tmp_path / "ran").exists()
    card = Registry(include=[folder], trusted=[folder]).task("coded")
    assert LmTask(card).functions[0].__name__ == "answer" and (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "task: sly\ndoc_to_text: !function evil.f\ndoc_to_text: plain\n",
        "include: _base.yaml\ntask: sly\ndoc_to_text: plain\n",
        "task: sly\nmetadata: {? !function evil.f : 1}\n",
    ],
    ids=["overwritten", "overridden", "a key"],
)
def test_a_function_that_is_not_used_is_not_imported_either(folder: Path, tmp_path: Path, text: str) -> None:
    touch = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef f(doc):\n    return 'x'\n"
    (folder / "evil.py").write_text(touch, "utf-8")
    (folder / "_base.yaml").write_text("include: _shared.yaml\ndoc_to_text: !function evil.f\n", "utf-8")
    rest = "output_type: generate_until\ndoc_to_target: x\n" + ("" if "include" in text else "include: _shared.yaml\n")
    (folder / "sly.yaml").write_text(text + rest, "utf-8")
    with contextlib.suppress(ConfigError):  # refused is as good
        LmTask(Registry(include=[folder]).task("sly")).render(0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("include: odd.yaml\ntask: odd\n", "includes itself"),
        ("include: {a: 1}\ntask: odd\n", "include has to name files"),
        ("task: odd\ndataset_kwargs: 3\n", "dataset_kwargs has to be a mapping"),
        ("task: odd\nmetadata: {title: abc}\n", "metadata.title"),
        ("task: odd\nmetadata: {chance: abc}\n", "metadata.chance"),
        ("task: odd\nmetadata: {form: nonsense}\n", "metadata.form"),
        ("task: odd\nmetric_list: acc\n", "metric_list has to be a list"),
        ("task: odd\ndoc: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("- task\n", "has to hold a mapping"),
    ],
)
def test_what_is_no_task_file_is_one_line(folder: Path, text: str, words: str) -> None:
    (folder / "odd.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=words) as raised:
        Registry(include=[folder]).select("pick")
    assert "\n" not in str(raised.value)


def test_dates_and_odd_tags_in_a_task_file_do_no_harm(home: Path, folder: Path, tiny_model: Path) -> None:
    text = (folder / "pick.yaml").read_text("utf-8") + "metadata: {created: 2024-05-01, 3: three}\n"
    (folder / "pick.yaml").write_text(text.replace("tag: odd", "tag: 3"), "utf-8")
    assert [task.name for task in Registry(include=[folder]).select("3").tasks] == ["pick"]
    assert _ours("pick", tiny_model, include=str(folder)).scores()[0].n == 9


def test_files_elsewhere_on_this_machine_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("saladus\n")
    kwargs = {"data_files": {"test": str(tmp_path / "secret.txt")}}
    write(folder, "thief.yaml", task="thief", dataset_path="text", dataset_kwargs=kwargs, test_split="test",
          output_type="generate_until", doc_to_text="{{text}}", doc_to_target="x")  # fmt: skip
    with pytest.raises(DataError, match="neither beside it nor below"):
        LmTask(Registry(include=[folder]).task("thief"))


def test_a_text_that_looks_like_a_template_is_shown_as_it_is(folder: Path) -> None:
    rows_ = [{"question": 'Mis on {{ "x" }}?', "first": "a", "second": "b", "label": 0}] * 2
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_), "utf-8")
    assert '{{ "x" }}' in LmTask(Registry(include=[folder]).task("pick")).render(0).prompt


def test_an_aggregation_of_theirs_makes_the_score(home: Path, folder: Path, tiny_model: Path) -> None:
    (folder / "utils.py").write_text(
        "def answer(doc, results):\n    return {'acc': 1.0}\ndef most(items):\n    return 42.0\n"
    )
    text = "include: _shared.yaml\ntask: coded\noutput_type: generate_until\ndoc_to_target: x\n"
    text += "generation_kwargs: {until: ['\\n'], max_gen_toks: 3}\nprocess_results: !function utils.answer\n"
    text += "metric_list: [{metric: acc, aggregation: !function utils.most, higher_is_better: true}]\n"
    (folder / "coded.yaml").write_text(text, "utf-8")
    [score] = _ours("coded", tiny_model, include=str(folder), trust_task_code=str(folder)).scores()
    assert score.value == 42.0 and score.primary and score.metric == "acc"
    with pytest.raises(ConfigError, match="aggregates acc itself"):
        _ours("coded", tiny_model, include=str(folder), trust_task_code=str(folder), slice="1/2")


def test_a_change_of_trusted_code_changes_the_scorer(folder: Path) -> None:
    with_code(folder)
    registry_of = Registry(include=[folder], trusted=[folder])
    before = LmTask(registry_of.task("coded")).scorer()
    assert LmTask(registry_of.task("coded")).scorer() == before
    seen = {before}
    for helper in ("helpers.py", "below/utils.py"):  # what it may import lies beside it or below, under any name
        (folder / helper).parent.mkdir(exist_ok=True)
        (folder / helper).write_text("X = 1\n")
        seen.add(LmTask(registry_of.task("coded")).scorer())
    assert len(seen) == 3


def test_templates_of_others_see_no_internals(folder: Path) -> None:
    write(folder, "pick.yaml", include="_shared.yaml", task="pick", output_type="multiple_choice",
          doc_to_text="{{ ''.__class__.__mro__[1].__subclasses__() | length }}",
          doc_to_choice="{{[first, second]}}", doc_to_target="label")  # fmt: skip
    with pytest.raises(PlanError, match="SecurityError"):
        LmTask(Registry(include=[folder]).task("pick")).render(0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"metric_list": [{"metric": "code_eval"}]}, PlanError, "code for it is not downloaded"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, PlanError, "remote code"),
        ({"class": "x.Y"}, PlanError, "written in Python"),
        ({"dataset_kwargs": {"data_files": {"test": "https://example.org/x.jsonl"}}}, DataError, "on this machine"),
        ({"dataset_kwargs": {"data_files": {"test": "no-such.jsonl"}}}, DataError, "on this machine"),
    ],
)
def test_what_would_fetch_or_run_code_is_refused(
    folder: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    config = {"include": "_shared.yaml", "task": "say", "output_type": "generate_until", "doc_to_target": "{{second}}"}
    write(folder, "say.yaml", **{**config, **change})
    with pytest.raises(error, match=words):
        LmTask(Registry(include=[folder]).task("say"))


def test_a_name_that_means_two_tasks_is_refused(folder: Path) -> None:
    write(folder, "clash.yaml", include="_shared.yaml", task="estcopa", output_type="multiple_choice")
    with pytest.raises(ConfigError, match=r"'estcopa' means .*estcopa.yaml and .*clash.yaml"):
        Registry(include=[folder]).select("estcopa")


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "holds no lm-eval task"), (tmp_path / "none", "is no folder")):
        with pytest.raises(ConfigError, match=words):
            Registry(include=[path]).select("pick")


def test_the_form_is_said_for_tasks_of_others_only(folder: Path) -> None:
    assert Registry(include=[folder], form="chat").task("say").form == "chat"
    with pytest.raises(ConfigError, match="form=chat is for tasks of others"):
        Registry(include=[folder], form="chat").select("estcopa")


def test_built_in_tasks_of_lm_eval_are_found_by_name_group_and_tag() -> None:
    task = Registry().task("lm_eval/xcopa_et")
    assert task.dataset == ("cambridgeltl/xcopa", "et") and task.foreign
    assert len(Registry().select("lm_eval/xcopa").tasks) > 10
    with pytest.raises(ConfigError, match=r"lm-eval has no task 'xcopa_ett'\. Did you mean 'xcopa_et'"):
        Registry().select("lm_eval/xcopa_ett")


def test_a_built_in_task_renders_and_differs_from_ours(mirror: Path) -> None:
    theirs = LmTask(Registry().task("lm_eval/xcopa_et"), data_dir=mirror).render(0)
    ours = LmTask(Registry().task("estcopa"), data_dir=mirror, shots=0).render(0)
    assert len(theirs.pairs) == 2 and theirs.prompt != ours.prompt


def test_the_command_line_takes_them(
    tmp_path: Path, home: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: world.folder / name)
    assert cli.main(["show", "task=pick", f"include={folder}", "output=json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"].startswith("Q: Mis on number 0?")
    assert cli.main(["tasks", "task=pick", f"include={folder}"]) == 0
    assert cli.main(["show", "task=pick", f"include={with_code(folder)}"]) == 2
    err = capsys.readouterr().err
    assert "trust_task_code" in err and "Traceback" not in err


def test_parity_fails_where_a_file_is_changed(home: Path, folder: Path, tiny_model: Path) -> None:
    theirs = lm_eval_results(folder, ["pick"], tiny_model)
    text = (folder / "_shared.yaml").read_text("utf-8").replace("Q:", "K:")
    (folder / "_shared.yaml").write_text(textwrap.dedent(text), "utf-8")
    with pytest.raises(AssertionError):
        compare(_ours("pick", tiny_model, include=str(folder)), theirs, "pick")
