"""What an answer is worth: by rule where it can be verified, by a judge elsewhere. 0 to 1, or None where nobody knows.

scorer = RuleScorer("exact")                   # the row's `answers`
scorer = TaskScorer("mini_follow_chat")        # an estbench task's own metric, on its training split
scorer = JudgeScorer(JudgeSettings("qwen3-32b@http://127.0.0.1:8000/v1"), model)
scorer.score(prompts, [["vastus 1", "vastus 2"], …], say)       # [[1.0, 0.0], …]
scorer.report()                                # what the manifest says of it
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from estbench.checkpoint import Checkpoint
from estbench.errors import ConfigError, DataError, TaskError, did_you_mean
from estbench.verbs import part
from estbench_training.kinds import Say

if TYPE_CHECKING:
    from estbench_judges.asking import Vote
    from estbench_judges.items import Item
    from estbench_judges.judges import Judge
    from estbench_judges.rendering import Case

    from estbench.lm_tasks import LmTask

Message = dict[str, str]
Scores = list[list[float | None]]  # prompt by prompt, answer by answer; None is missing
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """What is answered: messages of which the last is the user's, and the row that a rule looks at."""

    id: str
    messages: tuple[Message, ...]
    source: str
    row: Row = field(default_factory=dict)


class Scorer(Protocol):
    """Scores answers."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], say: Say) -> Scores:
        """0 to 1 for every answer of every prompt; None where there is no score."""

    def report(self) -> dict[str, Any]:
        """What a manifest says of the scorer, after it has scored."""


# --- rules ------------------------------------------------------------------------------------------------------------


def exact(row: Row, answer: str) -> float:
    """1 if the normalised answer is one of `answers` (or `target`, or the row's own last answer), else 0."""
    from estbench.estonian.normalise import answer_text
    from estbench.metrics import qa

    return float(qa.exact_match(answer_text(answer), qa.gold_answers(_golds(row))))


def overlap(row: Row, answer: str) -> float:
    """Token F1 with the nearest of `answers` (or `target`, or the row's own last answer)."""
    from estbench.estonian.normalise import answer_text
    from estbench.metrics import qa

    return qa.token_f1(answer_text(answer), qa.gold_answers(_golds(row)))


def constraints(row: Row, answer: str) -> float:
    """The share of IFEval's instructions (`instruction_id_list`, `kwargs`, `language`) that are strictly followed."""
    from estbench.metrics import ifeval

    found = ifeval.verdicts(row, answer, language=str(row.get("language") or "et")).strict
    return sum(found) / len(found)


def follow(row: Row, answer: str) -> float:
    """1 if the answer fulfils all `rules` over `words` of the demo world, else 0."""
    from estbench.demo.follow import follows

    return float(follows(row["rules"], row["words"], answer))


def _golds(row: Row) -> Any:
    """What the row says is right; a conversation that ends with an answer says it so."""
    last = (row.get("messages") or [{}])[-1]
    if "answers" not in row and "target" not in row and last.get("role") == "assistant":
        return last["content"]
    return row["answers"] if "answers" in row else row["target"]


RULES: Mapping[str, Callable[[Row, str], float]] = {
    "exact": exact,
    "f1": overlap,
    "ifeval": constraints,
    "follow": follow,
}


class RuleScorer:
    """A rule that looks at the prompt's row and the answer."""

    def __init__(self, name: str) -> None:
        if name not in RULES:
            raise ConfigError(f"There is no rule {name!r}.{did_you_mean(name, RULES)} Known: {', '.join(RULES)}.")
        self.name, self.rule = name, RULES[name]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], say: Say) -> Scores:
        return [[self._one(prompt, text) for text in texts] for prompt, texts in zip(prompts, answers, strict=True)]

    def _one(self, prompt: Prompt, text: str) -> float:
        try:
            return self.rule({"prompt": prompt.messages[-1]["content"], **prompt.row}, text)
        except KeyError as error:
            raise DataError(f"Row {prompt.id!r}: the rule {self.name!r} needs the field {error}.") from None
        except TaskError as error:
            raise DataError(f"Row {prompt.id!r}: {error}") from None
        except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
            raise DataError(
                f"Row {prompt.id!r}: the rule {self.name!r} can't use its fields ({type(error).__name__}: "
                f"{' '.join(str(error).split())!r})."
            ) from None

    def report(self) -> dict[str, Any]:
        return {"rule": self.name}


# --- an estbench task -------------------------------------------------------------------------------------------------


def open_task(name: str, split: str | None = None) -> tuple[LmTask, str]:
    """A task of estbench in chat form whose answers are texts, and the split that its prompts are taken from: the one
    of its examples, or `split`. ConfigError for any other task, and for the split that it is tested on."""
    from estbench import registry
    from estbench.lm_tasks import LmTask

    card = registry.Registry().task(name)
    tested, *others = card.splits
    chosen = split or next(iter(others), None)
    if chosen is None or chosen == tested:
        raise ConfigError(
            f"{name} is tested on {tested!r}: name another split of its data set by split:, or take rows."
        )
    if card.form != "chat":
        raise ConfigError(
            f"{name} is not in chat form: pairs are answers to messages. Take {name}_chat if there is one."
        )
    if card.config.get("output_type", "generate_until") != "generate_until":
        raise ConfigError(f"{name} scores options by their likelihood: there are no answers to choose from.")
    return LmTask(card, shots=0), chosen


def rows_of(lm: LmTask, split: str) -> list[dict[str, Any]]:
    """The rows of a split of a task's data set, after the task's own process_docs."""
    import datasets

    from estbench import data

    if split in lm.task.dataset:
        rows = lm.task.dataset[split]
    else:
        refs = data.references([lm.card])
        if len(refs) != 1:
            raise ConfigError(f"{lm.card.name} has no split {split!r}: its data is not one data set of the Hub.")
        rows = datasets.Dataset.from_list(data.load(refs[0], [split]).splits[split])
    process = lm.task.config.process_docs
    return [dict(row) for row in (process(rows) if process is not None else rows)]


class TaskScorer:
    """An estbench task's primary metric, document by document, on another split than it is tested on.

    Documents whose prompt is one of those that the task tests are left out, whatever else their rows say.
    """

    def __init__(self, name: str, split: str | None = None) -> None:
        self.name = name
        self.lm, self.split = open_task(name, split)
        tested = {self._prompt(doc) for doc in range(len(self.lm.docs))}
        self._use(rows_of(self.lm, self.split))
        found = len(self.lm.docs)
        self._use([row for doc, row in enumerate(self.lm.docs) if self._prompt(doc) not in tested])
        self.tested = found - len(self.lm.docs)
        if not self.lm.docs:
            raise DataError(f"{name}: its split {self.split!r} has no prompt that it is not tested on.")
        self.rendered = [self.lm.render(doc, _last_message) for doc in range(len(self.lm.docs))]

    def _use(self, rows: list[dict[str, Any]]) -> None:
        """Let these be the task's documents."""
        self.lm.docs = self.lm.task.docs = rows
        self.lm.task.kept = {id(row): {} for row in rows}
        self.lm.__dict__.pop("doc_hashes", None)

    def _prompt(self, doc: int) -> str:
        return same_prompt(self.lm.render(doc, _last_message).source[-1])

    def prompts(self) -> list[Prompt]:
        """The documents as messages, in order; the id of each says its place."""
        return [
            Prompt(str(doc), tuple(rendered.source[-1]), f"{self.name}/{self.split}", self.lm.docs[doc])
            for doc, rendered in enumerate(self.rendered)
        ]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], say: Say) -> Scores:
        from estbench.engines.base import Generated

        scores: Scores = [[None] * len(texts) for texts in answers]
        for place in range(max(map(len, answers), default=0)):
            given = {
                int(one.id): texts[place] for one, texts in zip(prompts, answers, strict=True) if place < len(texts)
            }
            asked = [(doc, self.rendered[doc], [Generated(text, 0, "stop")]) for doc, text in given.items()]
            found = {doc: self._value(values) for doc, values, _ in self.lm.results(asked)}  # type: ignore[arg-type]
            for one, row in zip(prompts, scores, strict=True):
                if place < len(row):
                    row[place] = found[int(one.id)]
        return scores

    def _value(self, values: Mapping[str, Any]) -> float | None:
        value = values.get(self.lm.primary)
        if isinstance(value, list) and len(value) == 2:  # a ratio of sums: followed, all
            value = value[0] / value[1] if value[1] else None
        if value is None or (isinstance(value, int | float) and 0 <= value <= 1):
            return None if value is None else float(value)
        raise ConfigError(
            f"{self.name} is ranked by {self.lm.primary}, which gives no number from 0 to 1 for one document: take "
            "another task, rows with a rule, or a judge."
        )

    def report(self) -> dict[str, Any]:
        about = {"rule": "task", "task": self.name, "split": self.split, "metric": self.lm.primary}
        return about | {"left_out_as_tested": self.tested}


def _last_message(messages: list[Message], add_generation_prompt: bool = True) -> str:
    """Stands for a chat template: the messages themselves are what is kept."""
    return messages[-1]["content"]


# --- judges -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeSettings:
    """Who judges, and how."""

    judge: str  # MODEL@URL, a checkpoint, several with commas, or a panel's YAML file
    rubric: str = "helpfulness"
    mode: Literal["pointwise", "pairwise"] = "pointwise"
    language: str = "et"  # that answers have to be in ("any" is not checked); another one has score 0 without a call
    instructions: Literal["et", "en"] = "et"  # language of what the judge is told
    reasons: bool = True
    temperature: float = 0.0
    structured: bool = True  # whether the endpoint is asked to hold the answer to the schema
    least: int | None = None  # valid verdicts that an answer needs of a panel; more than half if not given
    options: Mapping[str, str] = field(default_factory=dict)  # judge.KEY of `estbench judge`
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if not self.judge:
            raise ConfigError("judge: names nobody: MODEL@URL, a checkpoint, or a panel's YAML file.")
        if self.temperature < 0:
            raise ConfigError(f"temperature: {self.temperature} is below 0.")


def located(settings: JudgeSettings, path: Callable[[str], Path]) -> JudgeSettings:
    """The settings with files and checkpoints of the recipe's folder by their whole paths. path: `Recipe.path`."""

    def place(word: str) -> str:
        return str(path(word)) if path(word).exists() else word

    words = [word.strip() for word in settings.judge.split(",") if word.strip()]
    rubric = place(settings.rubric) if settings.rubric.endswith((".yaml", ".yml")) else settings.rubric
    return dataclasses.replace(settings, judge=",".join(map(place, words)), rubric=rubric)


def judge_keys(settings: JudgeSettings) -> dict[str, str]:
    """Hashes of what the verdicts depend on and the settings only name: the rubric's text and what every judge is told,
    a panel's file, the weights of judges that lie on this machine. ConfigError for a file that isn't there."""
    from estbench import identity
    from estbench.config import read_yaml

    rubrics = part("estbench_judges.rubrics", "judge")
    found = {f"rubric {settings.rubric}": identity.digest([rubrics.load(settings.rubric).hash, rubrics.frame().hash])}
    models = []
    for word in filter(None, map(str.strip, settings.judge.split(","))):
        if word.endswith((".yaml", ".yml")):
            panel = read_yaml(Path(word).expanduser(), f"judge: {word}")
            found[f"panel {word}"] = identity.digest(json.dumps(panel, sort_keys=True, default=str))
            rows = panel.get("judges") if isinstance(panel, dict) else None
            models += [str(row.get("model")) for row in rows or () if isinstance(row, dict) and not row.get("url")]
        else:
            models.append(word)
    for model in models:
        if (folder := Path(model).expanduser()).is_dir():
            found[f"judge {model}"] = identity.digest(Checkpoint(folder, model).fingerprint())
    return found


class JudgeScorer:
    """Ratings of single answers (pointwise), or the share of games won against the prompt's other answers (pairwise).

    A game counts once both orders have a verdict, and an answer only if all its games count: what is missing is no
    score. An empty, looping or foreign answer scores 0, and loses its games, without a call.
    """

    def __init__(self, settings: JudgeSettings, model: str) -> None:
        from estbench_judges import judges, rubrics

        self.settings, self.model = settings, model
        self.rubric = rubrics.load(settings.rubric)
        if settings.mode not in self.rubric.modes:
            raise ConfigError(
                f"The rubric {self.rubric.name} has no mode {settings.mode!r}; it has {', '.join(self.rubric.modes)}."
            )
        if self.rubric.needs == "two_turns":
            raise ConfigError(f"The rubric {self.rubric.name} is for conversations of two answers: take another one.")
        self.judges = judges.find(settings.judge, settings.options, max_cost=settings.max_cost)
        if settings.least is not None and not 1 <= settings.least <= len(self.judges):
            raise ConfigError(f"least: {settings.least} verdicts can't be had of {len(self.judges)} judges.")
        self.cards: list[dict[str, Any]] = []

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], say: Say) -> Scores:
        import numpy as np
        from estbench_judges import panel

        screened = [[self._screened(prompt, text) for text in texts] for prompt, texts in _each(prompts, answers)]
        asked = self._cases(prompts, answers, screened)
        votes = self._votes(asked, say)
        made = self._rated if self.settings.mode == "pointwise" else self._won
        tables = [made(of_judge, screened) for of_judge in votes]
        flat = np.array([[np.nan if v is None else v for row in table for v in row] for table in tables], float)
        values = iter(panel.median(flat, self.settings.least).tolist())
        return [[None if math.isnan(value := next(values)) else value for _ in texts] for texts in answers]

    def report(self) -> dict[str, Any]:
        return {"judges": self.cards, "rubric": self.rubric.id, "mode": self.settings.mode}

    def _screened(self, prompt: Prompt, text: str) -> bool:
        """Whether no judge has to be asked: the answer is empty, loops, or is in another language."""
        from estbench_judges import screens

        return screens.screen((text,), str(prompt.row.get("language") or self.settings.language)) is not None

    def _cases(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], screened: Sequence[Sequence[bool]]
    ) -> dict[str, tuple[Case, int]]:
        """Name -> case and seed of its sampling: PROMPT/ANSWER, or PROMPT/ANSWER/OTHER/WHO-STANDS-FIRST."""
        from estbench_judges.rendering import Case

        settings, found = self.settings, {}
        for i, (prompt, texts) in enumerate(_each(prompts, answers)):
            open_ = [j for j in range(len(texts)) if not screened[i][j]]
            given = {j: self._item(prompt, i, texts[j]) for j in open_}
            shared: dict[str, Any] = {"rubric": self.rubric, "mode": settings.mode, "language": settings.instructions}
            if settings.mode == "pointwise":
                label = not settings.temperature  # the digits' probabilities say more than the likeliest digit
                for j in open_:
                    case = Case(given[j], reasons=settings.reasons and not label, label=label, **shared)
                    found[f"{i}/{j}"] = (case, 0)
                continue
            for j, k in itertools.combinations(open_, 2):
                for first in ("model", "anchor"):
                    case = Case(given[j], reasons=settings.reasons, other=given[k].answers, first=first, **shared)
                    found[f"{i}/{j}/{k}/{first}"] = (case, 0)
        return found

    def _item(self, prompt: Prompt, place: int, text: str) -> Item:
        """The conversation as a judge reads it; a system message stands before what the user says first."""
        from estbench_judges.items import Item

        turns = [one["content"] for one in prompt.messages if one["role"] == "user"]
        system = [one["content"] for one in prompt.messages if one["role"] == "system"]
        turns[0] = "\n\n".join([*system, turns[0]])
        before = [one["content"] for one in prompt.messages if one["role"] == "assistant"]
        reference = prompt.row.get("reference")
        if self.rubric.needs == "reference" and not reference:
            raise DataError(f"Row {prompt.id!r}: the rubric {self.rubric.name} needs the field 'reference'.")
        return Item(
            task=prompt.source,
            doc=prompt.id,
            doc_id=place,
            key=prompt.id,
            turns=tuple(turns),
            answers=(*before, text),
            language=self.settings.language,
            reference=str(reference) if reference else None,
        )

    def _votes(self, asked: Mapping[str, tuple[Case, int]], say: Say) -> list[dict[str, Vote]]:
        """Each judge's votes. What a judge said before is in its store, and is not asked again."""
        from estbench_judges import judges, ledger, money
        from estbench_judges.asking import Sampling, ask

        settings, found = self.settings, []
        money.check_currencies(self.judges, settings.max_cost)
        budget = money.Budget(self.judges, settings.max_cost)
        with judges.opened(self.judges, say):
            for one in self.judges:
                budget.before(one)
                before = one.engine.notes() if one.engine is not None else {}
                votes = ask(one, asked, Sampling(settings.temperature, settings.structured), say)
                spent = ledger.used(before, one.engine.notes() if one.engine is not None else {})
                self.cards.append(self._card(one, votes, spent))
                found.append(votes)
        return found

    def _card(self, judge: Judge, votes: Mapping[str, Vote], spent: Mapping[str, Any]) -> dict[str, Any]:
        from estbench_judges.panel import kin

        why: dict[str, int] = {}
        for vote in votes.values():
            if vote.verdict is None:
                why[vote.why] = why.get(vote.why, 0) + 1
        kept = {key: value for key, value in judge.card().items() if key != "url"}
        related = kin(judge.model_name, self.model)
        return kept | {"kin": related, "cases": len(votes), "missing": why} | dict(spent)

    def _rated(self, votes: Mapping[str, Vote], screened: Sequence[Sequence[bool]]) -> Scores:
        return [
            [0.0 if out else _verdict(votes, f"{i}/{j}") for j, out in enumerate(row)] for i, row in enumerate(screened)
        ]

    def _won(self, votes: Mapping[str, Vote], screened: Sequence[Sequence[bool]]) -> Scores:
        scores: Scores = []
        for i, row in enumerate(screened):
            games: list[list[float | None]] = [[] for _ in row]
            for j, k in itertools.combinations(range(len(row)), 2):
                if row[j] or row[k]:
                    won: float | None = 0.5 + 0.5 * (row[k] - row[j])
                else:
                    both = [_verdict(votes, f"{i}/{j}/{k}/{first}") for first in ("model", "anchor")]
                    won = None if None in both else sum(one for one in both if one is not None) / 2
                games[j].append(won)
                games[k].append(None if won is None else 1 - won)
            scores.append([mean_of_all(played) for played in games])
        return scores


def mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean, if none is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _verdict(votes: Mapping[str, Vote], name: str) -> float | None:
    vote = votes[name]
    return vote.verdict.score if vote.verdict is not None else None


def _each(prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> zip[tuple[Prompt, Sequence[str]]]:
    return zip(prompts, answers, strict=True)


def same_prompt(messages: Sequence[Message]) -> str:
    """What makes two prompts the same: roles and texts, white space at the ends apart."""
    from estbench import identity

    return identity.digest([[one["role"], one["content"].strip()] for one in messages])


def with_system(prompt: Prompt, system: str | None) -> Prompt:
    """The prompt behind a system message; one that has its own keeps it."""
    if system is None or prompt.messages[0]["role"] == "system":
        return prompt
    return dataclasses.replace(prompt, messages=({"role": "system", "content": system}, *prompt.messages))
