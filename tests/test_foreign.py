"""Task files of others: unchanged, next to ours, their code run only when trusted, and seen in the identity."""

from __future__ import annotations

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


def test_a_change_of_trusted_code_changes_the_scorer(folder: Path) -> None:
    with_code(folder)
    registry_of = Registry(include=[folder], trusted=[folder])
    before = LmTask(registry_of.task("coded")).scorer()
    assert LmTask(registry_of.task("coded")).scorer() == before
    (folder / "helpers.py").write_text("X = 1\n")  # what it may import lies beside it
    assert LmTask(registry_of.task("coded")).scorer() != before


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
