"""What lm-eval's result files say: which model was asked which tasks, and what came out.

    file = read(Path("results_2026-11-28T19-56-56.470243.json"))
    file.model, [task.values for task in file.tasks()]     # {"acc": (0.75, 0.164)}: value and standard error

`lm-eval --output_path` writes them, and with `--log_samples` a `samples_TASK_DATE.jsonl` for each task beside them. Of
a place on the machine that made a file only the last part is shown, and of the model's arguments none that could be a
secret.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from estbench import identity
from estbench.errors import StoreError
from estbench.registry import Registry, Task

SOURCE = "lm-eval"
LARGEST = 256 << 20  # bytes
DATED = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")  # the end of a result file's name
NAMES = ("peft", "delta", "pretrained", "model", "path", "engine")  # of model_args: what names the model, as lm-eval
PLAIN = (*NAMES, "dtype", "revision", "subfolder", "max_length", "tokenizer", "add_bos_token", "load_in_8bit")
SCORER = ("metric_list", "filter_list", "process_results", "doc_to_target", "doc_to_choice", "process_docs")
CURE = "name a results_….json, as `lm-eval --output_path FOLDER` writes it"


@dataclass(frozen=True)
class ResultFile:
    """A result file as it was read."""

    path: Path
    content: dict[str, Any]
    sha256: str

    def of(self, table: str, task: str) -> Any:
        """What one of the file's tables says of a task; None if nothing."""
        return mapping(self.content.get(table)).get(task)

    @property
    def config(self) -> dict[str, Any]:
        """How lm-eval was called, and what it says of the model."""
        return mapping(self.content.get("config"))

    @property
    def arguments(self) -> dict[str, str]:
        """Of model_args (text like `a=b,c=d`, or a mapping) what says which model it is."""
        given = self.config.get("model_args")
        pairs = given.items() if isinstance(given, dict) else _split(str(given or ""))
        return {str(name): str(value) for name, value in pairs if name in PLAIN}

    @property
    def model(self) -> str:
        """The model's name."""
        named = [self.content.get("model_name"), *(self.arguments.get(name) for name in NAMES)]
        whole = str(next((name for name in named if name), self.config.get("model") or "model"))
        return "".join(sign for sign in last_part(whole) if sign.isprintable()) or "model"

    @property
    def computed_by(self) -> str:
        """lm-eval's word for it: hf, vllm, local-completions."""
        return str(self.content.get("model_source") or self.config.get("model") or "unknown")

    @property
    def version(self) -> str:
        """lm-eval's."""
        return str(self.content.get("lm_eval_version") or "unknown")

    @property
    def created(self) -> str:
        """When it was made (UTC)."""
        return datetime.fromtimestamp(float(self.content["date"]), UTC).isoformat(timespec="seconds")

    @property
    def dtype(self) -> str | None:
        """The weights' type, if the file tells."""
        told = self.config.get("model_dtype") or self.arguments.get("dtype")
        return str(told).removeprefix("torch.") if told else None

    @property
    def chat_template(self) -> str | None:
        """The template that prompts went through, if they did."""
        template = self.content.get("chat_template")
        return str(template) if template else None

    @property
    def fingerprint(self) -> str:
        """Digest of all that the file says about the model: nobody here has seen its weights."""
        kept = {key: value for key, value in self.config.items() if re.fullmatch(r"\w+_(sha|revision|dtype)", key)}
        told = [self.content.get("model_name"), self.computed_by, self.arguments, kept]
        return identity.digest([SOURCE, *told, self.config.get("model_num_parameters")])

    @property
    def command(self) -> str:
        """The command that made the file, as far as it tells."""
        arguments = ",".join(f"{name}={last_part(value)}" for name, value in self.arguments.items())
        words = ["lm-eval", "--model", self.computed_by, "--model_args", arguments]
        words += ["--tasks", ",".join(self.content["results"])]
        for key in ("limit", "gen_kwargs"):
            if (value := self.config.get(key)) is not None:
                words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        return shlex.join([*words, *["--apply_chat_template"] * bool(self.chat_template)])

    @property
    def groups(self) -> list[str]:
        """Rows that are means over tasks."""
        results, configs = self.content["results"], self.content["configs"]
        return list(
            dict.fromkeys([*mapping(self.content.get("groups")), *(row for row in results if row not in configs)])
        )

    def tasks(self) -> Iterator[TaskResults]:
        """What the file says of each task. StoreError for a name that can't be a task's."""
        ours = Registry().tasks
        for name, row in self.content["results"].items():
            if name in self.groups:
                continue
            if not name.isprintable() or not re.fullmatch(r"[^./~][^/]{0,149}", name):
                raise StoreError(f"{self.path} has a task {name[:50]!r}: that is no name of a task of lm-eval's.")
            config = self.content["configs"][name]
            card = ours.get(name)
            is_ours = card is not None and _is_ours(card, config)
            yield TaskResults(name, self, row, config, card if is_ours else None, _called(name, config, card, is_ours))


@dataclass(frozen=True)
class TaskResults:
    """What a result file says of a task."""

    name: str
    file: ResultFile
    row: dict[str, Any]
    config: dict[str, Any]
    card: Task | None  # if it is a task of ours
    called: str  # what a run calls it

    @property
    def metadata(self) -> dict[str, Any]:
        return self.card.metadata if self.card else mapping(self.config.get("metadata"))

    @property
    def listed(self) -> dict[str, dict[str, Any]]:
        """The entries of metric_list, by the metric's name."""
        rows = self.config.get("metric_list") or []
        return {str(row["metric"]): row for row in rows if isinstance(row, dict) and "metric" in row}

    @property
    def form(self) -> str:
        return "chat" if self.file.chat_template else "completion"

    @property
    def counts(self) -> tuple[int, int] | None:
        """Documents that the task has, and that were asked; None where the file does not say."""
        told = mapping(self.file.of("n-samples", self.name))
        known = [count for count in (told.get("original"), told.get("effective")) if type(count) is int and count > 0]
        return (known[0], known[1]) if len(known) == 2 else None

    @property
    def first_filter(self) -> str:
        """The filter whose metrics go without its name, as in runs of ours."""
        filters = self.config.get("filter_list")
        return str(filters[0]["name"]) if filters else "none"

    def metric(self, name: str, filter_name: str) -> str:
        """`acc`, or `exact_match,flexible-extract` behind another filter than the first."""
        return name if filter_name == self.first_filter else f"{name},{filter_name}"

    @property
    def values(self) -> dict[str, tuple[Any, Any]]:
        """metric -> value and standard error as the file has them, which may be "N/A"."""
        found = {}
        for key, value in self.row.items():
            name, comma, filter_name = key.partition(",")
            if comma and not name.endswith("_stderr"):
                found[self.metric(name, filter_name)] = value, self.row.get(f"{name}_stderr,{filter_name}")
        return found

    @property
    def samples(self) -> Path | None:
        """The file with its documents, if it lies beside."""
        dated = DATED.search(self.file.path.name)
        path = self.file.path.with_name(f"samples_{self.name}_{dated[1]}.jsonl") if dated else None
        return path if path is not None and path.is_file() else None

    @property
    def scorer(self) -> str:
        """Hash of what makes scores of answers, as far as the file tells."""
        return identity.digest([SOURCE, self.file.version, self.name, {key: self.config.get(key) for key in SCORER}])

    @property
    def told(self) -> str:
        """Hash of what the file says about what was asked: all that is known where there are no documents."""
        config = self.config | {"metadata": mapping(self.config.get("metadata")) | {"config_source": None}}
        told = [self.file.of(table, self.name) for table in ("task_hashes", "versions", "n-shot", "n-samples")]
        return identity.digest([SOURCE, self.name, self.form, told, config, self.file.config.get("fewshot_seed")])


def read(path: Path) -> ResultFile:
    """A result file. StoreError, in one line, if lm-eval did not write it, or an lm-eval before 0.4.3."""
    try:
        if path.stat().st_size > LARGEST:
            raise StoreError(f"{path} is too large for a result file: {CURE}.")
        raw = path.read_bytes()
        content = loads(raw.decode("utf-8"))
    except OSError as error:
        raise StoreError(f"{path} can't be read ({error.strerror}): {CURE}.") from None
    except (ValueError, RecursionError):
        raise StoreError(f"{path} is no JSON document, or a torn one: {CURE}.") from None
    tables = [mapping(content).get(name) for name in ("results", "configs")]
    if not all(isinstance(table, dict) and all(isinstance(row, dict) for row in table.values()) for table in tables):
        raise StoreError(f"{path} is no result file of lm-eval's, since it lacks results or configs: {CURE}.")
    if not is_number(content.get("date")) or not isinstance(content.get("n-samples"), dict):
        raise StoreError(
            f"{path} lacks date or n-samples, which lm-eval writes since 0.4.3: evaluate again with a newer one."
        )
    return ResultFile(path, content, hashlib.sha256(raw).hexdigest())


def _is_ours(card: Task, config: dict[str, Any]) -> bool:
    """Whether lm-eval ran our task file, and not another of its name: it has an `xcopa_et` of its own."""
    told = mapping(config.get("metadata"))
    same = [told.get(key) == card.metadata.get(key) for key in ("title", "primary")]
    same += [config.get(key) == card.config.get(key) for key in ("dataset_path", "dataset_name")]
    same += [config.get(key) == text for key in ("doc_to_text",) if type(text := card.config.get(key)) is str]
    return all(same)


def _called(name: str, config: dict[str, Any], namesake: Task | None, is_ours: bool) -> str:
    """Our task's name, `lm_eval/NAME` for lm-eval's own, for a file of others its name unless that is one of ours."""
    source = mapping(config.get("metadata")).get("config_source")
    of_others = source is not None and "lm_eval/tasks/" not in str(source).replace("\\", "/")
    return name if is_ours or (of_others and namesake is None) else f"lm_eval/{name}"


def loads(text: str) -> Any:
    """JSON from outside, as a run folder can hold it: NaN and infinities are None, half a surrogate pair is a "?"."""
    value = json.loads(text, parse_constant=lambda _: None)
    if "\\ud" in text.lower():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def mapping(value: Any) -> dict[str, Any]:
    """The value, or an empty mapping in place of anything else."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number, and finite."""
    return isinstance(value, int | float) and math.isfinite(value)


def last_part(name: str) -> str:
    """A Hub id or a name as it is; of a place on a machine the last part."""
    is_place = name.startswith(("/", "~", ".")) or name[1:2] == ":"
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_place else name


def _split(text: str) -> list[tuple[str, str]]:
    parts = (part.partition("=") for part in text.split(","))
    return [(name.strip(), value) for name, equals, value in parts if equals]
