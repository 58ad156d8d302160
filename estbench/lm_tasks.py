"""The task layer: lm-eval's tasks, fed with our rows and driven by us.

lm-eval renders prompts, applies filters and computes each document's results; so a task file means here what it means
there. What differs is around it: rows come from `data`, templates are compiled once, and a template that did not
render is refused (lm-eval would score a literal `{{choice1}}`). Import this module lazily: lm-eval is heavy.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import _import_func_in_yml

from estbench import data, foreign, golds, identity, prompt_sets, registry
from estbench.engines.base import Decoding, Generated, Response, Scored
from estbench.errors import EstbenchError, PlanError, TaskError

# Templates come from files of others, too: they see values, and no way to Python's internals. lm-eval compiles a
# template anew for every document, which is nearly all that rendering costs.
_sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_sandbox.filters |= utils.env.filters
_sandbox.from_string = functools.lru_cache(maxsize=4096)(_sandbox.from_string)  # type: ignore[method-assign,assignment]
utils.env = _sandbox
logging.getLogger("lm_eval").setLevel(logging.ERROR)
datasets.disable_progress_bars()

Row = dict[str, Any]
Chat = Callable[..., str]  # messages, add_generation_prompt -> text
UNRENDERED = re.compile(r"\{\{[^{}\n]{0,200}\}\}|\{%[^{}\n]{0,200}%\}")
KNOWN_DECODING = {"until", "do_sample", "temperature", "top_p", "max_gen_toks", "max_new_tokens", "max_tokens"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document as text: what would be asked, before it becomes token ids."""

    pairs: list[tuple[str, str]]  # (context, continuation) to score; empty for generation
    prompt: str  # the first (usually the only) context
    decoding: Decoding | None
    source: Any  # what was asked before a chat template: the same for all models
    target: Any
    rolling: bool = False  # the one continuation is a whole text, scored in windows of the model's context


class RowsTask(ConfigurableTask):  # type: ignore[misc]
    """An lm-eval task over rows that are given, not downloaded. What a row renders to is kept: shots recur."""

    def __init__(self, config: dict[str, Any], rows: dict[str, list[Row]]) -> None:
        self.given = rows
        self.kept: dict[int, dict[Any, Any]] = {}  # id of a row that stays -> (what, template) -> rendered
        super().__init__(config=config)
        self.docs: list[Row] = [dict(row) for row in self.task_docs]
        shots = self.sampler.df if hasattr(self, "sampler") else []
        self.kept = {id(row): {} for row in (*self.docs, *shots)}
        self.given = {}  # the rows are in `dataset` and `docs` now

    def download(self, *_: Any, **__: Any) -> None:
        self.dataset = {split: datasets.Dataset.from_list(rows) for split, rows in self.given.items()}

    def doc_to_text(self, doc: Row, doc_to_text: Any = None) -> Any:
        return self._once(super().doc_to_text, "text", doc, doc_to_text)

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> Any:
        return self._once(super().doc_to_target, "target", doc, doc_to_target)

    def doc_to_choice(self, doc: Row, doc_to_choice: Any = None) -> Any:
        return self._once(super().doc_to_choice, "choice", doc, doc_to_choice)

    def forget(self, doc: Row) -> None:
        """Drop what a document rendered to: it is no one's shot, and its prompt is not made again."""
        self.kept[id(doc)] = {}

    def _once(self, make: Callable[..., Any], what: str, doc: Row, template: Any) -> Any:
        kept = self.kept.get(id(doc))
        if kept is None:
            return make(doc, template)
        key = what, template if isinstance(template, str) else id(template)
        if key not in kept:
            kept[key] = make(doc, template)
        return kept[key]


class LmTask:
    """A task ready to be rendered and scored. `docs` is what it evaluates, after its own process_docs."""

    def __init__(
        self,
        card: registry.Task,
        *,
        data_dir: Path | None = None,
        shots: int | None = None,
        seed: int = 1234,
        gold: Path | None = None,
    ) -> None:
        self.card = card
        config = read_config(card)
        self.functions = list(_functions(config))
        self.dataset = load_rows(card, data_dir, config, gold)
        if shots is not None:
            config["num_fewshot"] = shots
        try:
            self.task = RowsTask(config, self.dataset.splits)
        except EstbenchError:
            raise
        except Exception as error:  # templates, datasets and !function code raise what they like
            raise PlanError(f"{card.name} ({card.path.name}) does not fit its data: {_brief(error)}") from None
        self.task.set_fewshot_seed(seed)
        self.shots = int(self.task.config.num_fewshot or 0)
        if (self.task.config.repeats or 1) > 1:
            raise PlanError(f"{card.name}: repeats: {self.task.config.repeats} is not supported yet.")
        pool = len(self.task.sampler.df) if hasattr(self.task, "sampler") else 0
        if self.shots > pool:
            raise PlanError(f"{card.name} has {pool} examples to show, and shots={self.shots} asks for more.")
        self.docs: list[Row] = self.task.docs

    @functools.cached_property
    def doc_hashes(self) -> list[str]:
        """Each document's hash: of its row without golds that are withheld; repeated rows get "-2", "-3", ..."""
        spec, seen, result = self.card.metadata.get("gold"), Counter[str](), []
        for row in self.docs:
            value = data.row_hash(golds.without_gold(row, spec))[:32]
            seen[value] += 1
            result.append(value if seen[value] == 1 else f"{value}-{seen[value]}")
        return result

    @property
    def primary(self) -> str:
        """The metric the task is ranked by: the card's, else the first of the task's list."""
        return self.card.primary or next(iter(self.task.aggregation()), "")

    @property
    def metrics(self) -> list[str]:
        """The metrics that the task file lists."""
        return [str(row["metric"]) for row in self.card.config.get("metric_list") or []]

    @property
    def draws_shots(self) -> bool:
        """Whether shots are drawn at random, document by document (then all are rendered, in order)."""
        return self.shots > 0 and self.task.fewshot_cfg.sampler == "default"

    def render(self, doc_id: int, chat: Chat | None = None) -> Rendered:
        """The document as text; with `chat` through the model's template, shots as turns of their own."""
        doc, seen = self.docs[doc_id], []

        def template(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            seen.append(messages)
            assert chat is not None
            return chat(messages, add_generation_prompt=add_generation_prompt)

        through = {"apply_chat_template": chat is not None, "chat_template": template if chat else None}
        try:
            context = self.task.fewshot_context(
                doc,
                self.shots,
                fewshot_as_multiturn=chat is not None,
                gen_prefix=self.task.doc_to_prefix(doc),
                **through,
            )
            made = self.task.construct_requests(doc=doc, ctx=context, metadata=(self.card.name, doc_id, 1), **through)
            target = self.task.doc_to_target(doc)
        except EstbenchError:
            raise
        except Exception as error:
            raise PlanError(f"{self.card.name}, document {doc_id} does not render: {_brief(error)}") from None
        instances = made if isinstance(made, list) else [made]
        self._check_rendered(doc_id, [*(str(part) for i in instances for part in i.args[:2]), str(target)])
        first = instances[0]
        if first.request_type == "generate_until":
            decoding = read_decoding(first.args[1], self.card.name)
            return Rendered([], first.args[0], decoding, seen or first.args[0], target)
        if first.request_type == "loglikelihood_rolling":
            return Rendered([("", first.args[0])], "", None, ["rolling", first.args[0]], "", rolling=True)
        if first.request_type != "loglikelihood":
            raise PlanError(f"{self.card.name}: output_type {first.request_type} is not supported yet.")
        pairs = [(i.args[0], i.args[1]) for i in instances]
        contexts, continuations = list(dict.fromkeys(pair[0] for pair in pairs)), [pair[1] for pair in pairs]
        return Rendered(pairs, pairs[0][0], None, [seen or contexts, continuations], target)

    def _check_rendered(self, doc_id: int, texts: list[str]) -> None:
        for text in texts:
            found = UNRENDERED.search(text)
            if found and not any(found.group() in own for own in self._own_texts(doc_id)):
                raise PlanError(
                    f"{self.card.name}, document {doc_id}: {found.group()} was not rendered and would be scored as it "
                    "stands. A list of templates is not rendered by lm-eval: write doc_to_choice as one template."
                )

    def _own_texts(self, doc_id: int) -> Iterator[str]:
        """The texts of the data that a prompt may show as they are: the document's and its shots'."""
        shown = self.task.sampler.df if self.shots and hasattr(self.task, "sampler") else []
        for row in (self.docs[doc_id], *shown):
            yield from _texts(dict(row))

    def results(
        self, rendered: Sequence[tuple[int, Rendered, list[Response]]]
    ) -> Iterator[tuple[int, dict[str, Any], Any]]:
        """(doc_id, metric -> value, answer) for each answered document, by the task's filters and process_results."""
        if not rendered:
            return  # an empty slice
        asked = [self._instances(doc_id, doc, responses) for doc_id, doc, responses in rendered]
        self.task._instances = [instance for instances in asked for instance in instances]
        self.task.apply_filters()
        for (doc_id, doc, responses), instances in zip(rendered, asked, strict=True):
            filtered = [instance.filtered_resps for instance in instances]
            values: dict[str, Any] = {}
            if not self.dataset.withheld:
                values = {metric: plain(value) for metric, value in self._values(doc_id, filtered).items()}
            self.task.forget(self.docs[doc_id])
            yield doc_id, values, _answer(doc, responses, filtered)
        self.task._instances = None

    def _instances(self, doc_id: int, doc: Rendered, responses: list[Response]) -> list[Instance]:
        """A document's requests as lm-eval's filters want them, answered."""
        kind = "generate_until" if doc.decoding else "loglikelihood_rolling" if doc.rolling else "loglikelihood"
        texts: list[tuple[str, ...]] = [*doc.pairs] or [(doc.prompt,)] * len(responses)  # one a turn
        answers = zip(texts, _answers(doc, responses), strict=True)
        about: dict[str, Any] = {"doc": self.docs[doc_id], "metadata": (self.card.name, doc_id, 1)}
        return [Instance(kind, arguments=asked, idx=i, resps=[one], **about) for i, (asked, one) in enumerate(answers)]

    def _values(self, doc_id: int, filtered: list[dict[str, Any]]) -> dict[str, Any]:
        """Metric -> value of a document; behind each filter but the first one as `metric,filter`."""
        values: dict[str, Any] = {}
        try:
            for position, name in enumerate(filtered[0]):
                found = self.task.process_results(self.docs[doc_id], [of_one[name] for of_one in filtered])
                values |= {metric if position == 0 else f"{metric},{name}": value for metric, value in found.items()}
        except Exception as error:
            raise TaskError(f"{self.card.name} can't score document {doc_id}: {_brief(error)}") from error
        return values

    def scorer(self) -> str:
        """Hash of everything that turns responses into scores: configuration, our source, lm-eval's version."""
        config = {
            key: registry.read_yaml(self.card.path).get(key)
            for key in (
                "metric_list",
                "filter_list",
                "process_results",
                "doc_to_target",
                "doc_to_choice",
                "process_docs",
                "output_type",
            )
        }
        config["card"] = {key: self.card.metadata.get(key) for key in ("primary", "chance", "cluster")}
        config["gold"] = self.dataset.gold_hash
        versions = {name: _version(name) for name in ("lm_eval", "sacrebleu", "estnltk", "estnltk_core")}
        return identity.digest([config, identity.source_hash(self.functions), versions])


def read_config(card: registry.Task) -> dict[str, Any]:
    """The task file as lm-eval reads it, its `!function`s resolved; what would run code from elsewhere is refused."""
    if "class" in card.config:
        raise PlanError(f"{card.name} is a task written in Python (class:), which estbench does not run.")
    if (card.config.get("dataset_kwargs") or {}).get("trust_remote_code"):
        raise PlanError(f"{card.name}: {card.path} asks for a data set's remote code, which estbench does not run.")
    try:  # only what is left of the merged files is imported, and that is what was checked for trust
        config: dict[str, Any] = _resolved(registry.read_yaml(card.path))
    except EstbenchError:
        raise
    except Exception as error:  # whatever importing a task's code raises
        raise PlanError(f"{card.path} can't be read: {_brief(error)}") from None
    _check_metrics(card, config)
    return config


def _resolved(value: Any) -> Any:
    """The configuration with each `!function` replaced by what it names."""
    if isinstance(value, registry.Function):
        return _import_func_in_yml(str(value), value.folder)
    if isinstance(value, dict):
        return {key: _resolved(part) for key, part in value.items()}
    return [_resolved(part) for part in value] if isinstance(value, list) else value


def _check_metrics(card: registry.Task, config: dict[str, Any]) -> None:
    """Refuse metrics that lm-eval does not have itself: it would download code for them from the Hub."""
    if config.get("process_results") is not None:
        return
    for row in config.get("metric_list") or []:
        name = row.get("metric")
        if isinstance(name, str) and (name not in metric_registry or row.get("hf_evaluate")):
            raise PlanError(
                f"{card.name}: lm-eval has no metric {name!r} of its own, and code for it is not downloaded."
            )


def load_rows(
    card: registry.Task, data_dir: Path | None, config: dict[str, Any] | None = None, gold: Path | None = None
) -> data.Dataset:
    """The rows of a task: from its own generator (`custom_dataset`), or from where `data` finds its data set.

    gold: a file with golds that are withheld, for a task whose metadata says so.
    """
    config = config or read_config(card)
    if card.dataset is None and callable(make := config.get("custom_dataset")):
        made = make(**(config.get("metadata") or {}), **(config.get("dataset_kwargs") or {}))
        splits = {split: [dict(row) for row in rows] for split, rows in made.items()}
        hashes = {split: data.rows_hash(rows) for split, rows in splits.items()}
        return data.Dataset(data.DatasetRef(f"estbench/{card.name}"), splits, hashes, "made by estbench", None, None)
    if card.dataset is None and card.foreign:
        splits = prompt_sets.rows(card) if prompt_sets.is_one(card) else foreign.file_rows(card)
        hashes = {split: data.rows_hash(rows) for split, rows in splits.items()}
        return data.Dataset(data.DatasetRef(f"files/{card.name.split('/')[-1]}"), splits, hashes, "files", None, None)
    return data.of_task(card, data=data_dir, gold=gold)


def read_decoding(given: dict[str, Any], task: str) -> Decoding:
    """lm-eval's generation_kwargs as a Decoding; keys that would be ignored are refused."""
    if unknown := set(given) - KNOWN_DECODING:
        raise PlanError(f"{task}: generation_kwargs {', '.join(sorted(unknown))} are not supported.")
    until = given.get("until") or []
    most = next((given[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in given), 256)
    temperature = float(given.get("temperature") or 0.0) if given.get("do_sample") else 0.0
    stops = (until,) if isinstance(until, str) else tuple(until)
    return Decoding(int(most), tuple(stop for stop in stops if stop), temperature, float(given.get("top_p") or 1.0))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # an extra that is not here: its metrics are missing until it is


def _texts(value: Any) -> Iterator[str]:
    """Every text in a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def plain(value: Any) -> Any:
    """A metric's value as JSON can hold it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    return value


def _answers(doc: Rendered, responses: list[Response]) -> list[Any]:
    """One answer for each of the document's instances, as lm-eval has them."""
    if doc.rolling:
        return [sum(response.logprob for response in responses if isinstance(response, Scored))]
    return [(one.logprob, one.greedy) if isinstance(one, Scored) else one.text for one in responses]


def _answer(doc: Rendered, responses: list[Response], filtered: list[dict[str, Any]]) -> Any:
    if doc.rolling:
        return None
    if isinstance(responses[0], Generated):
        given = [plain(next(iter(one.values()))) for one in filtered]
        return given[0] if len(given) == 1 else "\n\n".join(map(str, given))  # of each turn
    logprobs = [response.logprob for response in responses if isinstance(response, Scored)]
    return logprobs.index(max(logprobs))


def _functions(value: Any) -> Iterator[Callable[..., Any]]:
    """Every function in a configuration, however deep."""
    if callable(value):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _functions(part)
    elif isinstance(value, list):
        for part in value:
            yield from _functions(part)


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
