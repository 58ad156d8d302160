"""The commands: what is typed, their help, and the exit code that each ending has. What they run is in `verbs`.

Exit codes: 0 done or pass, 1 regression or a check that failed, 2 usage or input error, 3 undecided,
4 engine, environment or task failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from estbench import __version__, report, verbs
from estbench.config import EvalSettings
from estbench.errors import ConfigError, EstbenchError, did_you_mean
from estbench.settings import (
    BaselineSettings,
    CometSettings,
    CompareSettings,
    ContaminationSettings,
    DataSettings,
    EnvSettings,
    ExportSettings,
    GateSettings,
    ParitySettings,
    ReportSettings,
    RunsSettings,
    ScoreSettings,
    ServeSettings,
    ShowSettings,
    TasksSettings,
)


@dataclass(frozen=True)
class Command:
    """A command: what it runs, its settings for `--help`, usage and examples."""

    run: Callable[[list[str]], int]
    kind: type[Any] | str  # of its settings; `module:name` of one in another package
    usage: str
    examples: tuple[str, ...]

    @property
    def settings(self) -> type[Any]:
        """The dataclass of its settings."""
        if isinstance(self.kind, str):
            return verbs.settings_of(self.kind)
        return self.kind


COMMANDS: dict[str, Command] = {
    "eval": Command(
        verbs.evaluate,
        EvalSettings,
        "eval model=PATH|HUB_ID|demo [tasks=SUITE|a,b] [key=value ...] [@file.yaml]",
        (
            "estbench eval model=demo tasks=mini",
            "estbench eval model=out/step-2000 tasks=estcopa,belebele_et limit=200",
            "estbench eval model=tartuNLP/Llammas-base tasks=core_base plan=true",
            "estbench eval @nightly.yaml model=out/last output=json",
            "estbench eval 'model=out/step-*' tasks=core_base",
        ),
    ),
    "pull": Command(
        verbs.pull,
        EvalSettings,
        "pull model=HUB_ID [tasks=SUITE|a,b] [key=value ...]",
        ("estbench pull model=tartuNLP/Llammas-base tasks=core_base", "estbench pull model=demo tasks=mini"),
    ),
    "tasks": Command(
        verbs.tasks,
        TasksSettings,
        "tasks [list | check] [task=NAME]",
        (
            "estbench tasks",
            "estbench tasks task=estcopa",
            "estbench tasks output=json",
            "estbench tasks check",
            "estbench tasks check tasks=core data=copies",
        ),
    ),
    "show": Command(
        verbs.show,
        ShowSettings,
        "show task=NAME [doc=N] [model=PATH]",
        ("estbench show task=mini_qa doc=3", "estbench show task=estcopa doc=3 model=out/step-2000 shots=0"),
    ),
    "runs": Command(
        verbs.runs,
        RunsSettings,
        "runs [list | show run=ID | import FOLDER|FILE ... | export run=ID to=FOLDER | rebuild]",
        (
            "estbench runs",
            "estbench runs list model=demo output=json",
            "estbench runs show run=demo-3f task=unimorph_et",
            "estbench runs import job-*/runs/*",
            "estbench runs import results_2026-11-28.json",
            "estbench runs export run=demo-3f to=demo.tar.gz",
            "estbench runs export run=demo-3f to=eee form=eee",
            "estbench runs rebuild",
        ),
    ),
    "data": Command(
        verbs.data,
        DataSettings,
        "data [list | pull | verify] [tasks=SUITE|a,b]",
        ("estbench data", "estbench data pull tasks=estcopa", "estbench data verify data=copies"),
    ),
    "score": Command(
        verbs.score,
        ScoreSettings,
        "score task=NAME outputs=FILE [gold=FILE]",
        (
            "estbench score task=estqa_chat outputs=answers.jsonl",
            "estbench score task=estgec_l2 outputs=corrected.txt gold=dev.m2",
        ),
    ),
    "contamination": Command(
        verbs.contamination,
        ContaminationSettings,
        "contamination corpus=PATH [tasks=SUITE|a,b] [run=ID] [near=true]",
        (
            "estbench contamination corpus=corpus/ tasks=core",
            "estbench contamination corpus='web-*.jsonl.zst' tasks=estcopa,belebele_et near=true",
            "estbench contamination corpus=corpus.parquet field=content run=demo-3f",
        ),
    ),
    "comet": Command(
        verbs.comet,
        CometSettings,
        "comet run=ID [task=NAME] [model=OWNER/NAME|PATH]",
        (
            "estbench comet run=demo-3f",
            "estbench comet run=llammas-8c task=flores_en_et_chat device=cuda batch=64",
            "estbench comet run=llammas-8c model=Unbabel/XCOMET-XL accept_licence=Unbabel/XCOMET-XL",
        ),
    ),
    "parity": Command(
        verbs.parity,
        ParitySettings,
        "parity model=PATH tasks=SUITE|a,b [engines=hf,vllm] [tolerance=NATS]",
        (
            "estbench parity model=demo tasks=mini engines=hf,vllm",
            "estbench parity model=out/step-2000 tasks=estcopa,xcopa_et engines=hf,hf:dtype=bfloat16 tolerance=0.2",
            "estbench parity model=out/last tasks=core engines=hf,vllm:url=http://127.0.0.1:8000/v1 output=json",
        ),
    ),
    "compare": Command(
        verbs.compare,
        CompareSettings,
        "compare RUN RUN [tasks=SUITE|a,b] [flips=5]",
        (
            "estbench compare demo-3f demo-base-9c",
            "estbench compare step-2000-8c baselines/main.json tasks=core flips=5",
        ),
    ),
    "report": Command(
        verbs.paper,
        ReportSettings,
        "report runs=a,b,c [tasks=SUITE|a,b] [output=latex|markdown|csv|json] [reference=estllm]",
        (
            "estbench report runs=demo-3f,demo-base-9c tasks=mini",
            "estbench report runs=a,b,c tasks=estllm output=latex reference=estllm",
        ),
    ),
    "gate": Command(
        verbs.gate,
        GateSettings,
        "gate [calibrate | noise] candidate=RUN|MODEL baseline=RUN|FILE|URL|MODEL policy=FILE|NAME",
        (
            "estbench gate candidate=demo baseline=demo-base policy=mini",
            "estbench gate candidate=step-2000-8c baseline=main policy=gate.yaml junit=gate.xml markdown=gate.md",
            "estbench gate model=out/step-2000 baseline=main policy=core budget=30m",
            "estbench gate calibrate policy=gate.yaml runs=step-1000-3f,step-2000-8c svg=power.svg",
            "estbench gate noise policy=gate.yaml 'runs=step-*'",
        ),
    ),
    "baseline": Command(
        verbs.baseline,
        BaselineSettings,
        "baseline [list | set NAME run=ID]",
        ("estbench baseline", "estbench baseline set main run=step-2000-8c"),
    ),
    "env": Command(
        verbs.env,
        EnvSettings,
        "env [list | install NAME | remove NAME]",
        (
            "estbench env",
            "estbench env install comet model=Unbabel/wmt22-comet-da",
            "estbench env install vllm",
            "estbench env remove comet",
        ),
    ),
    "judge": Command(
        verbs.judge,
        verbs.JUDGE,
        "judge [run | plan | calibrate | table | label | attack] run=ID judge=MODEL@URL [rubric=NAME] [judges=a,b,c]",
        (
            "estbench judge run=demo-3f judge=qwen3-32b@http://127.0.0.1:8000/v1",
            "estbench judge plan run=demo-3f judges=panel.yaml",
            "estbench judge run=demo-3f judges=panel.yaml max_cost=5",
            "estbench judge run=demo-3f judge=panel.yaml task=estqa_chat rubric=equivalence",
            "estbench judge label run=demo-3f,demo-base-9c labels=votes.jsonl",
            "estbench judge calibrate run=demo-3f labels=votes.jsonl",
            "estbench judge table run=a,b,c task=estinstruct_chat",
            "estbench judge attack judge=qwen3-32b@http://127.0.0.1:8000/v1",
        ),
    ),
    "train": Command(
        verbs.train,
        verbs.TRAIN,
        "train [run | recipes] recipe=FILE|NAME [stage=a,b] [output_dir=DIR] [plan=true]",
        (
            "estbench train recipe=demo",
            "estbench train recipe=llammas plan=true machine=lumi gpus=64",
            "estbench train recipe=estllm.yaml stage=corpus output_dir=/scratch/me/estllm",
            "estbench train recipe=estllm.yaml slurm=lumi output_dir=/scratch/me/estllm",
            "estbench train recipes",
        ),
    ),
    "merge": Command(
        verbs.merge,
        verbs.MERGE,
        "merge method=NAME base=MODEL [instruct=MODEL into=MODEL | parts=a,b] output=DIR [sweep=0.2,0.4 tasks=a,b]",
        (
            "estbench merge method=chat_vector base=llama instruct=llama-instruct into=out/cpt/model output=merged",
            "estbench merge method=chat_vector base=llama instruct=llama-instruct into=out/cpt/model output=sweep "
            "sweep=0.2,0.6,1 tasks=checkpoint",
            "estbench merge method=ties base=llama parts=out/a/model,out/b/model density=0.3 output=merged",
            "estbench merge method=average parts=out/step-1000,out/step-2000 output=averaged",
        ),
    ),
    "fertility": Command(
        verbs.fertility,
        verbs.FERTILITY,
        "fertility tokenizers=MODEL,MODEL [texts=NAME=FILE,...]",
        (
            "estbench fertility tokenizers=demo-base,demo-english",
            "estbench fertility tokenizers=meta-llama/Llama-3.1-8B,out/vocab/model texts=et=news.txt output=json",
        ),
    ),
    "serve": Command(
        verbs.serve,
        ServeSettings,
        "serve [database=URL] [port=8000] [immutable=true]",
        (
            "estbench serve",
            "estbench serve database=postgresql://board@db/estbench host=0.0.0.0 url=https://tabel.example.ee",
            "estbench serve database=estbench.sqlite immutable=true port=8001",
        ),
    ),
    "export": Command(
        verbs.export,
        ExportSettings,
        "export site FOLDER [url=URL] [samples=3]",
        ("estbench export site public", "estbench export site public url=https://tabel.example.ee samples=20"),
    ),
    "push": Command(
        verbs.push,
        verbs.PUSH,
        "push run=ID url=URL [embargo=YYYY-MM-DD] [dry_run=true]",
        (
            "estbench push run=demo-3f url=https://tabel.example.ee dry_run=true",
            "estbench push run=demo-3f url=https://tabel.example.ee embargo=2027-02-01",
        ),
    ),
    "board": Command(
        verbs.board,
        verbs.BOARD,
        "board [submissions | token | moderate | rescore | audit | hide | show | mark | unmark | correct | withdraw"
        " | describe] [key=value ...]",
        (
            "estbench board",
            "estbench board token new name=TartuNLP days=365",
            "estbench board rescore once=true data=copies",
            "estbench board audit submission=ab12cd34 docs=50 model=out/weights",
            "estbench board moderate submission=ab12cd34 action=publish",
            "estbench board hide run=demo-3f reason='the data was another one'",
            "estbench board mark model=demo task=estcopa reason='the test set was in its training data'",
            "estbench board describe model=demo licence=Apache-2.0 commercial=true open_weights=true",
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # Estonian letters, whatever the locale
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except EstbenchError as error:
        report.say(f"estbench: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        report.say("estbench: stopped. What is stored is kept; the same command goes on from there.")
        return 130
    except BrokenPipeError:
        _leave_stdout()  # the reader of a pipe left; nothing is wrong
        return 0
    except Exception as error:
        if not isinstance(error, OSError):
            traceback.print_exc()
            report.say("estbench: this is a mistake in estbench. What is stored is kept; please report it.")
            return 4  # and not Python's 1, which is a regression or a failed check
        _leave_stdout()
        report.say(f"estbench: {error.strerror}{f': {error.filename}' if error.filename else ' while writing output'}.")
        return 4


def _leave_stdout() -> None:
    """What is still buffered can't be written: keep the interpreter from trying at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if words[0] in ("--version", "-V", "version"):
        print(f"estbench {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise ConfigError(f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} `estbench --help` lists them.")
    if any(word in ("--help", "-h") for word in rest):
        print(_help(name))
        return 0
    return COMMANDS[name].run(rest)


def _overview() -> str:
    lines = [
        "estbench: Estonian language models, made and measured",
        "",
        "Commands (estbench COMMAND --help says more):",
    ]
    lines += [f"  {name:<15}{_summary(command)}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "Start here:",
        "  estbench eval model=demo tasks=mini      a model that is made on this machine, in minutes",
        "  estbench tasks                           what can be measured",
        "",
        "Everything is key=value. Files are kept in ESTBENCH_HOME (~/.estbench).",
    ]
    return "\n".join(lines)


def _help(name: str) -> str:
    command = COMMANDS[name]
    lines = [f"estbench {name}: {_summary(command)}", "", f"  estbench {command.usage}", "", "Keys:"]
    for item in dataclasses.fields(command.settings):
        key = item.name.replace("_options", ".KEY")
        words = f" ({' | '.join(item.metadata['choices'])})" if item.metadata["choices"] else ""
        default = "" if item.default in (None, dataclasses.MISSING, False) else f" [{item.default}]"
        lines.append(f"  {key + '=':<16}{item.metadata['help']}{words}{default}")
    return "\n".join([*lines, "", "Examples:", *(f"  {example}" for example in command.examples)])


def _summary(command: Command) -> str:
    return (command.run.__doc__ or "").rstrip(".").replace("\n", " ")
