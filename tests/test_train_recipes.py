"""The recipes that come with estbench: read and planned offline, with the numbers of their sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from estbench_training import plan, recipe, slurm
from estbench_training.cpt.schedule import rate_at
from estbench_training.cpt.settings import CptSettings
from estbench_training.machines import MACHINES
from estbench_training.prepare.settings import PrepareSettings
from estbench_training.recipe import Recipe
from estbench_training.sft import SftSettings

from estbench.cli import main
from estbench.home import project_file
from estbench.registry import Registry

FOLDER = project_file("training/recipes")
OURS = ("llammas", "estllm-8b", "estllm-70b", "lep-et")  # demo has its own tests


def opened(name: str) -> Recipe:
    return recipe.load(FOLDER / f"{name}.yaml")


def cpt(name: str, stage: str = "cpt") -> CptSettings:
    settings = opened(name).stage(stage).settings
    assert isinstance(settings, CptSettings)
    return settings


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_recipe_is_read_and_planned_on_every_machine(name: str) -> None:
    found = opened(name)
    assert found.head.title and found.head.licence and found.head.machine in MACHINES
    for machine in MACHINES:
        planned = plan.of(found, machine=machine)
        assert len(planned.stages) == len(found.stages) and planned.as_text() and planned.as_row()


@pytest.mark.parametrize("name", OURS)
def test_a_recipe_names_where_its_data_comes_from_and_mixes_only_what_it_prepares(name: str) -> None:
    found = opened(name)
    prepared = found.stage("corpus").settings
    assert isinstance(prepared, PrepareSettings)
    assert prepared.decontaminate != "none"
    for source in prepared.sources.values():
        assert source.licence and (source.hub is None or source.url)
        assert source.path is None or source.path.startswith("~/")  # nothing beside the installed package
    for stage in found.stages:
        if isinstance(stage.settings, CptSettings):
            assert set(stage.settings.mixture.weights) == set(prepared.sources)
            looks = stage.settings.evaluate
            if looks is not None and looks.where == "none":
                continue
            assert looks is not None and looks.gate is not None and looks.gate.mode == "advise"
            languages = {card.metadata["language"] for card in Registry().select(looks.words).tasks}
            assert {"et", "en"} <= languages  # the gate has something to watch


@pytest.mark.parametrize("name", OURS)
def test_every_number_has_a_source_or_is_said_to_be_ours(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    head = text[: text.index("\nname:")]
    assert "our choice" in head and re.search(r"\[\w\]", head)
    marks = set(re.findall(r"^#.*?(\[\w\])", head, re.M)) | set(re.findall(r"; (\[\w\]) of", head))
    used = set(re.findall(r"#.*?(\[\w\])", text[len(head) :]))
    assert used <= marks  # every mark that is used is explained
    assert "issue" not in text.lower() and "/work" not in text


def test_llammas_is_that_of_its_scripts() -> None:
    # TartuNLP/llammas@24d1d0c, scripts/training/llama_continued_pretraining.sh and finetuning.sh; arXiv 2404.04042
    long, short = cpt("llammas"), cpt("llammas", "cpt-1b")
    assert long.total_steps == 19_080 and long.total_tokens == pytest.approx(5.0e9, rel=0.001)
    assert short.total_steps == 19_080 // 5 and short.total_tokens == pytest.approx(1.0e9, rel=0.001)
    for settings in (long, short):
        steps = settings.total_steps
        assert settings.sequence == 1024 and settings.batch_sequences == 16 * 2 * 8
        assert rate_at(settings, 0, steps) == 2e-5 and rate_at(settings, steps, steps) == pytest.approx(2e-6)
        assert rate_at(settings, steps // 2, steps) == pytest.approx(1.1e-5)  # linear, no warm-up
        assert settings.optimizer.weight_decay == 0.1 and settings.optimizer.clip == 1.0
        weights = settings.mixture.weights
        assert weights["et"] / sum(weights.values()) == 0.75
    found = opened("llammas")
    sft = found.stage("sft").settings
    assert isinstance(sft, SftSettings)
    assert (sft.batch, sft.epochs, sft.max_length, sft.rate, sft.min_rate) == (128, 3, 1024, 2e-5, 2e-6)
    assert sft.template == "tulu" and not sft.packing and sft.optimizer.weight_decay == 0.1
    assert found.model_before(found.stage("sft")) == "cpt" and found.head.seed == 42
    assert all(found.model_before(found.stage(name)) == "meta-llama/Llama-2-7b-hf" for name in ("cpt", "cpt-1b"))


def test_estllm_reads_35b_tokens_once() -> None:
    settings = cpt("estllm-8b")
    assert 35e9 <= settings.total_tokens < 35.003e9
    assert sum(settings.mixture.weights.values()) == 100
    assert settings.mixture.epochs == {"et": 1, "en": 1}
    assert {"et", "en", "code", "math", "instruct"} <= set(settings.mixture.weights)
    text = (FOLDER / "estllm-8b.yaml").read_text("utf-8")
    assert "The sweep to run" in text and text.count("# our choice") >= 8
    planned = plan.of(opened("estllm-8b"), machine="lumi", gpus=64)
    assert planned.stages[1].fits and planned.stages[1].hours == pytest.approx((8_400, 11_760), rel=0.01)


def test_estllm_70b_fits_where_its_groups_are_larger_than_a_node() -> None:
    found = opened("estllm-70b")
    stage = plan.of(found, machine="lumi", gpus=512).stages[1]
    assert stage.fits and stage.note == "" and stage.memory is not None
    looks, exported = cpt("estllm-70b").evaluate, cpt("estllm-70b").export
    assert looks is not None and looks.where == "none" and exported.every  # they are evaluated in a job of their own
    assert pytest.approx(1051, abs=1) == 16 * 70_553_706_496 / 2**30
    small = plan.of(found, machine="lumi", gpus=8).stages[1]
    assert small.fits is False and "devices" in small.note and "recompute" not in small.note  # which it does already
    row = yaml.safe_load((FOLDER / "estllm-70b.yaml").read_text("utf-8"))
    row["stages"][1]["parallel"] = {"shard": "hybrid"}  # groups of a node
    one_node = plan.of(recipe.from_row(row, FOLDER), machine="lumi", gpus=512).stages[1]
    assert one_node.fits is False
    sft = plan.of(found, machine="lumi", gpus=128).stages[-1]
    assert "each process reads the whole model" in sft.note  # as the recipe's head says


@pytest.mark.parametrize(
    ("name", "gpus", "only"), [("llammas", 8, []), ("estllm-8b", 64, []), ("estllm-70b", 512, ["cpt"])]
)
def test_their_jobs_for_lumi_are_written(name: str, gpus: int, only: list[str], tmp_path: Path) -> None:
    found = opened(name)
    text = slurm.job(found, "lumi", tmp_path, FOLDER / f"{name}.yaml", gpus=gpus, only=only)
    assert f"#SBATCH --nodes={gpus // 8}\n" in text
    before = "corpus" if only else "corpus,instructions"  # which read the Hub
    assert f"stage prepared {before}\n" in text and "stage together cpt\n" in text and "alone corpus" not in text


def test_the_command_of_the_readme_writes_a_job_and_says_what_comes_before_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "recipe=estllm-8b", "slurm=lumi", "gpus=64"]) == 0
    printed = capsys.readouterr()
    assert Path(printed.out.strip()).name == "estllm-8b-lumi.sbatch" and Path(printed.out.strip()).is_file()
    (line,) = printed.err.splitlines()
    assert "estbench train recipe=estllm-8b output_dir=" in line and line.endswith("stage=corpus,instructions")
