"""Jobs for clusters: stages as they have to be started, and a job that is stopped, stored and queued again.

The scripts run for real, with stand-ins for srun, scontrol, singularity and Python in PATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from estbench_training import recipe as recipes
from estbench_training import slurm, stages
from estbench_training.recipe import Recipe, from_row

from estbench.errors import ConfigError, StoreError
from estbench.home import project_file

SRUN = """
import os, re, signal, subprocess, sys
words = sys.argv[1:]
options = {}
while words[0].startswith("--"):
    name, _, value = words.pop(0)[2:].partition("=")
    options[name] = value
nodes = int(options.get("nodes", os.environ["SLURM_JOB_NUM_NODES"]))
count = nodes * int(options.get("ntasks-per-node", "1"))
each = count // nodes
tasks = []
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
for rank in range(count):
    own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each), "SLURM_NTASKS": str(count)}
    tasks.append(subprocess.Popen(words, env={**os.environ, **own}))
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """
import os, sys
if sys.argv[1] == "show":
    print("first\\nsecond")
else:
    open(os.environ["REQUEUED"], "a").write(" ".join(sys.argv[1:]) + "\\n")
"""
SINGULARITY = 'while [[ "$1" != bash ]]; do shift; done\nexec "$@"\n'
# What a process does is in a file named after its stage; without one it ends well.
PYTHON = """
for word in "$@"; do case "$word" in stage=*) stage="${word#stage=}" ;; esac; done
line="$stage rank=${RANK:-} world=${WORLD_SIZE:-} local=${LOCAL_RANK:-} of=$LOCAL_WORLD_SIZE at=$MASTER_ADDR"
echo "$line offline=$HF_HUB_OFFLINE $*" >>"$LOG"
if [[ -f "$WAYS/$stage" ]]; then source "$WAYS/$stage"; fi
"""
WAIT = 'trap "exit 75" TERM\necho "$stage" >>"$STARTED"\nwhile :; do sleep 0.02; done\n'  # until it is asked to end


def recipe() -> Recipe:
    source = {"et": {"demo": "et", "documents": 10}}
    cpt = {"kind": "cpt", "rate": 1e-5, "steps": 4, "sequence": 64, "batch_tokens": 1024}
    stages = [
        {"name": "corpus", "kind": "prepare", "sources": source},
        {"name": "cpt", "data": "corpus", **cpt},
        {"name": "more", "kind": "prepare", "sources": source},
        {"name": "again", "data": ["corpus", "more"], **cpt},
    ]
    return from_row({"name": "demo-et", "base": "demo-base", "stages": stages}, Path("/nowhere"))


def of_the_hub() -> Recipe:
    """Two stages that need a network, one of them only after training; one that needs none, and one that trains."""
    hub = {"en": {"hub": "owner/texts", "language": "en", "licence": "odc-by"}}
    cpt = {"kind": "cpt", "rate": 1e-5, "steps": 4, "sequence": 64, "batch_tokens": 1024}
    stages = [
        {"name": "corpus", "kind": "prepare", "sources": hub},
        {"name": "more", "kind": "prepare", "sources": {"et": {"demo": "et", "documents": 10}}},
        {"name": "cpt", "data": ["corpus", "more"], "mixture": {"weights": {"et": 1, "en": 1}}, **cpt},
        {"name": "late", "kind": "prepare", "sources": hub},
        {"name": "again", "data": "late", **cpt},
    ]
    return from_row({"name": "demo-et", "base": "demo-base", "stages": stages}, Path("/nowhere"))


def test_a_vocabulary_of_texts_of_the_hub_needs_a_network() -> None:
    hub = {"en": {"hub": "owner/texts", "language": "en", "licence": "odc-by"}}
    here = {"en": {"path": "texts/*.jsonl", "language": "en", "licence": "odc-by"}}
    stages = [{"name": name, "kind": "vocab", "mode": "shrink", "data": of} for name, of in (("a", hub), ("b", here))]
    made = from_row({"name": "v", "base": "demo-base", "stages": stages}, Path("/nowhere"))
    assert [slurm.reads_hub(stage) for stage in made.stages] == [True, False]


class Cluster:
    """A job, and what became of it."""

    def __init__(self, folder: Path, cluster: str, gpus: int, made: Recipe | None = None) -> None:
        self.folder, self.cluster = folder, cluster
        made = made or recipe()
        self.path = Path(slurm.write(made, cluster, folder / "out dir", folder / "a recipe.yaml", gpus=gpus))
        for name in ("bin", "venv/bin", "ways"):
            (folder / name).mkdir(parents=True)
        program(folder / "bin/srun", SRUN, sys.executable)
        program(folder / "bin/scontrol", SCONTROL, sys.executable)
        program(folder / "bin/singularity", SINGULARITY)
        program(folder / "venv/bin/python", PYTHON)
        (folder / "venv/bin/activate").write_text(f'PATH="{folder}/venv/bin:$PATH"\n')

    def way(self, stage: str, code: str) -> None:
        (self.folder / "ways" / stage).write_text(code)

    def start(self, **more: str) -> subprocess.Popen[str]:
        nodes = re.search(r"--nodes=(\d+)", self.path.read_text())
        env = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin", "VENV": f"{self.folder}/venv", "CONTAINER": "torch.sif",
            "HOME": str(self.folder), "REQUEUED": str(self.folder / "requeued"), "LOG": str(self.folder / "log"),
            "WAYS": str(self.folder / "ways"), "STARTED": str(self.folder / "started"),
        }  # fmt: skip
        if self.cluster != "local":
            env |= {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": nodes[1] if nodes else "1"}
            env |= {"SLURM_JOB_ACCOUNT": "project_1", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "7"}
        command = ["bash", str(self.path)]
        return subprocess.Popen(command, env=env | more, stderr=subprocess.PIPE, text=True, cwd=self.folder)

    def run(self, **more: str) -> tuple[int, str]:
        job = self.start(**more)
        _, said = job.communicate(timeout=60)
        return job.returncode, said

    def stop(self, processes: int, **more: str) -> tuple[int, str]:
        """Start it, and send it the signal once so many processes are at work."""
        job = self.start(**more)
        started = self.folder / "started"
        while not started.exists() or len(started.read_text().split()) < processes:
            assert job.poll() is None, job.communicate()
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        _, said = job.communicate(timeout=60)
        return job.returncode, said

    @property
    def calls(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    @property
    def stages(self) -> list[str]:
        return [line.split()[0] for line in self.calls]

    @property
    def processes(self) -> list[int]:
        """Those that wrote down their number."""
        return [int(word) for word in (self.folder / "started").read_text().split() if word.isdigit()]

    @property
    def requeued(self) -> str:
        file = self.folder / "requeued"
        return file.read_text() if file.exists() else ""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text()


def sleeping(seconds: str) -> bool:
    """Whether somebody sleeps for just so long."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(file.read_bytes().split(b"\0")[:2])
    return [b"sleep", seconds.encode()] in found


def program(path: Path, code: str, interpreter: str = "/bin/bash") -> None:
    path.write_text(f"#!{interpreter}\n{code}")
    path.chmod(0o755)


@pytest.fixture(params=["lumi", "leonardo", "h200", "local"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    per_node = {"lumi": 8, "leonardo": 4, "h200": 8, "local": 2}[request.param]
    return Cluster(tmp_path, request.param, per_node if request.param == "local" else 2 * per_node)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slurm.CLUSTERS)
def test_a_job_is_bash_without_holes_that_stops_at_errors_and_asks_no_network(name: str, tmp_path: Path) -> None:
    path = slurm.write(recipe(), name, tmp_path, tmp_path / "r.yaml", gpus=1)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    text = Path(path).read_text()
    assert not re.search(r"@[A-Z]+@", text) and text.startswith("#!/bin/bash") and "set -euo pipefail" in text
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not re.search(r"\b(curl|wget|pip|git|ssh|rm|sudo)\b", code)
    assert "HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1" in code
    unquoted = re.findall(r"(?<![\"\w{=])\$[A-Za-z_]\w*", re.sub(r"'[^']*'|\(\(.*?\)\)|\"[^\"]*\"", "", code))
    assert unquoted == []
    if name != "local":
        for option in ("--signal=B:TERM@300", "--requeue", "--open-mode=append", "--job-name=estbench-demo-et"):
            assert f"#SBATCH {option}\n" in text


def test_lumi_has_what_its_network_its_caches_and_its_cores_need(tmp_path: Path) -> None:
    text = slurm.job(recipe(), "lumi", tmp_path, tmp_path / "r.yaml", gpus=16)
    for part in ("NCCL_SOCKET_IFNAME:-hsn0,hsn1,hsn2,hsn3", "NCCL_NET_GDR_LEVEL:-PHB", "AWS Libfabric",
                 'CACHES="/tmp/', "MIOPEN_USER_DB_PATH=\"$CACHES/miopen\"", "mask_cpu:7e000000000000,7e00000000000000",
                 "#SBATCH --nodes=2\n", "#SBATCH --ntasks-per-node=8\n", "#SBATCH --gpus-per-node=8\n"):  # fmt: skip
        assert part in text
    masks = re.search(r"mask_cpu:([0-9a-f,]+)", text)
    assert masks
    cores = [int(mask, 16) for mask in masks[1].split(",")]
    assert len(cores) == 8 and sum(cores) == sum(0x7F - 1 << 8 * ccd for ccd in range(8))  # each once, not its first


def test_devices_are_whole_nodes_and_share_a_step(tmp_path: Path) -> None:
    assert (
        slurm.split("lumi", None) == (1, 8) and slurm.split("lumi", 3) == (1, 3) and slurm.split("h200", 16) == (2, 8)
    )
    assert slurm.split("local", None) == (1, 1) and slurm.split("local", 12) == (1, 12)
    with pytest.raises(ConfigError, match=r"gpus=12: a node of lumi has 8, so take 8 or 16"):
        slurm.split("lumi", 12)
    with pytest.raises(ConfigError, match=r"'cpt': the 16 sequences of a step can't be dealt out to 32 devices"):
        slurm.job(recipe(), "lumi", tmp_path, tmp_path / "r.yaml", gpus=32)
    with pytest.raises(ConfigError, match=r"slurm=lumy is not one of .* Did you mean 'lumi'"):
        slurm.job(recipe(), "lumy", tmp_path, tmp_path / "r.yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Give another output_dir="):
        slurm.write(recipe(), "lumi", tmp_path / "file" / "x", tmp_path / "r.yaml")


def test_only_the_stages_asked_for_and_what_they_need_are_in_the_job(tmp_path: Path) -> None:
    text = slurm.job(recipe(), "h200", tmp_path, tmp_path / "r.yaml", only=["cpt"], words=["seed=7"])
    assert re.findall(r"^stage (?:alone|together) .*", text, re.M) == ["stage alone corpus", "stage together cpt"]
    assert "WORDS=(seed=7)" in text


def test_what_reads_the_hub_is_done_before_the_job_which_begins_by_looking_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = slurm.write(of_the_hub(), "lumi", tmp_path, tmp_path / "r.yaml", gpus=16, words=["seed=7"])
    calls = re.findall(r"^stage \w+ .*", Path(path).read_text(), re.M)
    jobs = ["prepared corpus", "alone more", "together cpt", "prepared late", "together again"]
    assert calls == [f"stage {job}" for job in jobs]
    printed = capsys.readouterr()
    assert printed.out == ""  # the command prints the path alone
    hub, waiting = printed.err.splitlines()
    command = f"estbench train recipe={tmp_path}/r.yaml output_dir={tmp_path} seed=7"
    assert hub.startswith("corpus, late: ") and hub.endswith(f"{command} stage=corpus,late")
    assert waiting.startswith("more: the first node does it") and f"{command} stage=more" in waiting
    for name in ("corpus", "late", "more"):
        (tmp_path / f"{name}-{'0a' * 6}").mkdir()
        (tmp_path / f"{name}-{'0a' * 6}" / "done.json").write_text("{}")
    slurm.write(of_the_hub(), "lumi", tmp_path, tmp_path / "r.yaml", gpus=16)
    assert capsys.readouterr().err == ""
    slurm.write(recipe(), "lumi", tmp_path / "new", tmp_path / "r.yaml", gpus=8)
    assert capsys.readouterr().err == ""  # one node: nobody waits


def test_the_look_fails_in_one_line_until_the_stage_is_done(
    tmp_path: Path, tiny_model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"hub": "owner/texts", "language": "et", "licence": "CC0"}
    row = {
        "name": "tiny", "base": str(tiny_model),
        "stages": [{"name": "corpus", "kind": "prepare", "sources": {"et": source}, "decontaminate": "none"}],
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(json.dumps(row))
    words = [f"recipe={tmp_path}/r.yaml", f"output_dir={tmp_path}/out", "stage=corpus", "seed=7"]
    assert slurm.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Not done: corpus." in said
    assert f"estbench train recipe={tmp_path}/r.yaml output_dir={tmp_path}/out seed=7 stage=corpus" in said
    assert not (tmp_path / "out").exists()
    (step,) = stages.chain(recipes.load(tmp_path / "r.yaml"), tmp_path / "out")
    for seed, code in ((42, 0), (7, 2)):  # done with the recipe's seed is not done with another
        step.folder.mkdir(parents=True, exist_ok=True)
        (step.folder / "done.json").write_text(json.dumps({"key": step.key}))
        assert slurm.main([*words[:3], f"seed={seed}"]) == code


def test_paths_with_spaces_and_quotes_arrive_as_they_are(tmp_path: Path) -> None:
    odd = tmp_path / "a \"b\" $HOME `c` 'd'"
    text = slurm.job(recipe(), "local", odd, odd / "r.yaml")
    lines = "\n".join(line for line in text.splitlines() if line.startswith(("RECIPE=", "OUTPUT=")))
    assert echo(lines, "$RECIPE|$OUTPUT") == f"{odd}/r.yaml|{odd}"
    assert echo("", slurm._quoted(str(odd))) == str(odd)


def echo(code: str, text: str) -> str:
    command = ["bash", "-c", f'{code}\necho "{text}"']
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.removesuffix("\n")


# --- what it does -----------------------------------------------------------------------------------------------------


def test_stages_run_in_order_training_once_a_device_and_the_rest_once(cluster: Cluster) -> None:
    code, said = cluster.run()
    assert (code, cluster.requeued) == (0, ""), said
    nodes, each = slurm.split(cluster.cluster, {"lumi": 16, "leonardo": 8, "h200": 16, "local": 2}[cluster.cluster])
    world = nodes * each
    assert cluster.stages == ["corpus", *["cpt"] * world, "more", *["again"] * world]
    assert "rank= world= local=" in cluster.calls[0]
    ranks = sorted(re.findall(r"rank=(\d+) world=(\d+) local=(\d+) of=(\d+)", "\n".join(cluster.calls[1 : world + 1])))
    assert ranks == sorted((str(rank), str(world), str(rank % each), str(each)) for rank in range(world))
    words = f"-m estbench_training recipe={cluster.folder}/a recipe.yaml output_dir={cluster.folder}/out dir stage=cpt"
    assert all(words in call and "offline=1" in call for call in cluster.calls[1 : world + 1])
    at = {re.search(r"at=(\S+)", call)[1] for call in cluster.calls}  # type: ignore[index]
    assert at == ({"first"} if cluster.cluster != "local" else at) and len(at) == 1


def test_sigterm_reaches_every_process_and_the_job_is_queued_again(cluster: Cluster) -> None:
    cluster.way("cpt", WAIT)
    world = {"lumi": 16, "leonardo": 8, "h200": 16, "local": 2}[cluster.cluster]
    code, said = cluster.stop(world)
    assert cluster.stages == ["corpus", *["cpt"] * world]  # nothing after it was started
    if cluster.cluster == "local":
        assert (code, cluster.requeued) == (75, "") and "Stored; the same command goes on" in said
    else:
        assert (code, cluster.requeued) == (0, "requeue 4711\n") and "the job is queued again" in said


def test_without_the_trap_nothing_is_stored(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "h200", 1)
    cluster.way("cpt", "trap 'echo stored >>\"$STARTED\"; exit 75' TERM\n" + WAIT.replace('trap "exit 75" TERM\n', ""))
    text = cluster.path.read_text()
    assert cluster.stop(1)[0] == 0 and "stored" in (tmp_path / "started").read_text()
    (tmp_path / "started").unlink()
    cluster.path.write_text(re.sub(r"(?m)^trap .*$", "", text))
    cluster.way("cpt", "(sleep 1; kill $$) & " + (tmp_path / "ways" / "cpt").read_text())
    code, _ = cluster.stop(1)
    assert code != 0 and cluster.requeued == "requeue 4711\n"  # that of the first time


def test_a_process_that_ignores_the_signal_for_a_while_is_waited_for(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "h200", 2)
    cluster.way("cpt", WAIT.replace('"exit 75"', '"sleep 0.5; echo stored >>$STARTED; exit 75"'))
    job = cluster.start()
    started = tmp_path / "started"
    while not started.exists() or started.read_text().count("cpt") < 2:
        time.sleep(0.01)
    for _ in range(3):  # and again: a second signal does not cut it short
        job.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert job.wait(60) == 0 and cluster.requeued == "requeue 4711\n"
    assert started.read_text().count("stored") >= 2
    job.communicate()


def test_a_stage_that_stops_for_a_requeue_by_itself_is_queued_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "lumi", 8)
    cluster.way("cpt", 'if [[ "$RANK" == 3 ]]; then exit 75; fi\n')
    assert cluster.run()[0] == 0
    assert cluster.requeued == "requeue 4711\n" and "more" not in cluster.stages


def test_preparation_that_the_signal_ends_is_queued_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "leonardo", 4)
    cluster.way("corpus", 'echo "$stage" >>"$STARTED"\nexec sleep 60\n')
    assert cluster.stop(1)[0] == 0
    assert cluster.requeued == "requeue 4711\n" and cluster.stages == ["corpus"]


def test_a_job_whose_data_was_not_prepared_ends_at_once(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "lumi", 16, of_the_hub())
    cluster.way("corpus", "exit 2\n")
    code, said = cluster.run()
    assert (code, cluster.requeued) == (2, "") and "corpus ended with 2" in said
    assert cluster.stages == ["corpus"] and "-m estbench_training.slurm recipe=" in cluster.calls[0]


def test_processes_that_do_not_end_are_ended_in_time_for_the_job_to_be_queued_again(cluster: Cluster) -> None:
    cluster.way("cpt", 'trap "" TERM\nexec 2>&-\necho $$ >>"$STARTED"\nwhile :; do sleep 0.05; done\n')
    world = {"lumi": 16, "leonardo": 8, "h200": 16, "local": 2}[cluster.cluster]
    try:
        code, said = cluster.stop(world, GRACE="0.3")
        if cluster.cluster == "local":
            assert (code, cluster.requeued) == (75, "") and "Stored" in said
            assert not any(map(alive, cluster.processes))
        else:
            assert (code, cluster.requeued) == (0, "requeue 4711\n")
    finally:  # of the stand-in for srun, which has no SLURM behind it that ends its tasks
        for process in filter(alive, cluster.processes):
            os.kill(process, signal.SIGKILL)


def test_a_process_that_ends_in_time_is_not_waited_for_and_leaves_no_timer(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "h200", 1)
    cluster.way("cpt", WAIT)
    assert cluster.stop(1, GRACE="86399")[0] == 0
    for _ in range(500):  # it is told to end, and not waited for
        if not sleeping("86399"):
            break
        time.sleep(0.02)
    assert not sleeping("86399")


@pytest.mark.parametrize("name", ["h200", "local"])
def test_a_stage_that_fails_ends_the_job_and_it_is_not_queued_again(name: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, name, 2)
    cluster.way("cpt", 'if [[ "$RANK" == 1 ]]; then exit 2; fi\nexec sleep 0.2\n')
    code, said = cluster.run()
    assert code in (2, 143) and "cpt ended with" in said
    assert cluster.requeued == "" and "more" not in cluster.stages


def test_a_process_that_fails_takes_the_others_with_it_on_this_machine(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "local", 2)
    cluster.way("cpt", 'if [[ "$RANK" == 0 ]]; then exit 2; fi\nexec sleep 300\n')
    code, _ = cluster.run()
    assert code == 143


def test_a_job_that_was_queued_again_too_often_ends(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "h200", 8)
    cluster.way("cpt", "exit 75\n")
    code, said = cluster.run(SLURM_RESTART_COUNT="3", MOST_RESTARTS="3")
    assert (code, cluster.requeued) == (75, "") and "MOST_RESTARTS" in said
    assert cluster.run(SLURM_RESTART_COUNT="2", MOST_RESTARTS="3")[0] == 0 and cluster.requeued == "requeue 4711\n"


def test_the_second_start_calls_the_same_stages_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "h200", 1)
    cluster.way("cpt", "exit 75\n")
    cluster.run()
    cluster.way("cpt", "exit 0\n")
    assert cluster.run()[0] == 0
    assert cluster.stages == ["corpus", "cpt", "corpus", "cpt", "more", "again"]  # which estbench skips where done


def test_the_scripts_are_packed(tmp_path: Path) -> None:
    assert {path.name for path in project_file("training/slurm").iterdir()} >= {
        "README.md", "h200.sh", "leonardo.sh", "local.sh", "lumi.sh", "train.sh",
    }  # fmt: skip


@pytest.mark.slow
def test_the_local_job_really_trains(tmp_path: Path, tiny_model: Any, home: Path) -> None:
    texts = "".join(json.dumps({"text": f"see on lause number {i} ja veel midagi " * 4}) + "\n" for i in range(40))
    (tmp_path / "et.jsonl").write_text(texts)
    source = {"path": "et.jsonl", "language": "et", "licence": "CC0"}
    row = {
        "name": "tiny", "base": str(tiny_model), "languages": ["et"],
        "stages": [
            {"name": "corpus", "kind": "prepare", "sources": {"et": source}, "decontaminate": "none"},
            {"name": "cpt", "kind": "cpt", "data": "corpus", "rate": 1e-3, "steps": 2, "sequence": 16,
             "batch_tokens": 64, "precision": "fp32"},
        ],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(row))  # JSON is YAML
    path = slurm.write(from_row(row, tmp_path), "local", tmp_path / "out", tmp_path / "recipe.yaml", gpus=2)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", path], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (model,) = (tmp_path / "out").glob("cpt-*/model")
    assert (model / "config.json").is_file() and list(model.glob("*.safetensors"))
    again = subprocess.run(["bash", path], env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "cpt: done before" in again.stderr


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
