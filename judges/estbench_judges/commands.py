"""`estbench judge`: what each verb does once its settings are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from estbench import judged, report
from estbench.commands import wants_table
from estbench.config import EvalSettings
from estbench.errors import ConfigError, EngineError, EstbenchError
from estbench.home import home
from estbench.runs import Run, find_run
from estbench_judges import attacks, calibration, items, judges, labels, layers, ledger, money, rubrics, stored
from estbench_judges import table as tables
from estbench_judges.asking import Sampling
from estbench_judges.judges import Judge
from estbench_judges.judging import Assignment, Judged, assign, judge
from estbench_judges.settings import JudgeSettings

ATTACKED = 20  # documents that each attack is tried on
NO_RUN = "run= is missing: the id of a run (`estbench runs` lists them), or its folder."


def run(settings: JudgeSettings) -> int:
    """Judge runs: ask what is not stored yet, and put the scores into the run folders and the database."""
    found = _judge(settings)
    if wants_table(settings.output):
        for one, layer in found:
            print(f"{one.given.run.manifest['name']} · {as_text(layer)}")
    else:
        print(report.as_json([_as_row(one, layer) for one, layer in found]))
    if any(layer.scores[0]["value"] is None for _, layer in found):
        report.say("estbench: no judge gave a valid verdict: there is no score.")
        return 4
    if failed := sum(one.failed for one, _ in found):
        report.say(f"estbench: {failed:,} calls failed: those verdicts are missing; the same command asks them again.")
        return 4
    return 0


def _judge(settings: JudgeSettings) -> list[tuple[Judged, judged.Layer]]:
    """The votes and layers of everything that the settings name, each kept before the next is asked."""
    panel = judges.find(settings.panel, settings.judge_options, max_cost=settings.max_cost)
    money.check_currencies(panel, settings.max_cost)
    if settings.least and settings.least > len(panel):
        raise ConfigError(f"least={settings.least}: no document can have so many votes of {len(panel)}.")
    assigned = [given for each in runs_of(settings) for given in assignments(each, settings)]
    budget = money.Budget(panel, settings.max_cost)
    found = []
    with judges.opened(panel, report.say, replay=settings.replay), report.ProgressBar() as bar:
        for given in assigned:
            with judged.locked(given.run.path, report.say):
                votes = layers.with_earlier(_asked(given, panel, bar, budget))
                layer = layers.build(votes)
                _say_replaced(votes, layer)
                _index(layers.write(votes, layer), settings.database)
            found.append((votes, layer))
    return found


def _say_replaced(of: Judged, layer: judged.Layer) -> None:
    """Say when other judgments of the same task, rubric and mode are replaced: a run has one."""
    before = next((one for one in judged.layers(of.given.run.path) if one.stem == layer.stem), None)
    if before is None:
        return
    old, new = ({str(row["signature"]).rpartition("|")[0] for row in one.scores} for one in (before, layer))
    if old != new:
        report.say(f"{layer.task}: the judgments by {', '.join(sorted(old))} are replaced; they stay in the store.")


def _asked(given: Assignment, panel: Sequence[Judge], bar: report.ProgressBar, budget: money.Budget) -> Judged:
    """The votes; a budget that is used up is called what it was typed as."""
    try:
        return judge(given, panel, say=report.say, progress=bar, before=budget.before)
    except EngineError as error:
        raise EngineError(str(error).replace("engine.max_cost=", "max_cost=")) from None


def _as_row(one: Judged, layer: judged.Layer) -> dict[str, Any]:
    """A layer as `output=json` prints it: scores and what is known of the judges, without single documents."""
    return {"run": one.given.run.id, "task": layer.task, "scores": layer.scores, **layer.card}


def runs_of(settings: JudgeSettings) -> list[Run]:
    """The runs that `run=` names."""
    names = [name.strip() for name in (settings.run or "").split(",") if name.strip()]
    if not names:
        raise ConfigError(NO_RUN)
    return [Run(find_run(name)) for name in names]


def assignments(found: Run, settings: JudgeSettings) -> list[Assignment]:
    """What is judged of a run: the tasks that are named, else those that await a judge or were made for one."""
    wanted = _tasks(settings)
    if not wanted:
        wanted = judged.awaiting(found) or [task for task in found.tasks if _is_for_judges(found, task)]
    if not wanted:
        raise ConfigError(
            f"Run {found.id} has no task that awaits a judge: task= names one with generated answers, rubric= what it "
            f"is judged by. It has {', '.join(found.tasks)}."
        )
    return [assign(found, task, settings.wishes) for task in wanted]


def _is_for_judges(found: Run, task: str) -> bool:
    try:
        return bool(items.card_of(found, task).metadata.get("judge"))
    except ConfigError:
        return False


def _index(found: Run, url: str | None) -> None:
    """Index a run that lies in the home; another folder is told how to get there."""
    from estbench.database import index_run, open_database

    if found.path.resolve().parent == (home() / "runs").resolve():
        with open_database(url) as database:
            index_run(database, found)
    else:
        report.say(f"{found.path} is judged; `estbench runs import {found.path}` takes it into the database.")


def plan(settings: JudgeSettings) -> int:
    """Price the calls before anything is asked."""
    panel = judges.find(settings.panel, settings.judge_options)
    given = [one for found in runs_of(settings) for one in assignments(found, settings)]
    for one in panel:
        try:
            one.replay()  # who was asked before is known, and with it what is stored
        except EstbenchError:
            continue
    rows = money.plan(given, panel, Sampling(settings.temperature, settings.structured))
    if not wants_table(settings.output):
        print(report.as_json(rows))
        return 0
    columns = {
        "judge": "judge",
        "task": "task",
        "rubric": "rubric",
        "mode": "mode",
        "documents": ">documents",
        "without_call": ">no call",
        "calls": ">calls",
        "stored": ">stored",
        "tokens_in": ">tokens in, about",
        "tokens_out_at_most": ">out at most",
        "cost_at_most": ">cost at most",
    }
    print(report.listing(rows, columns))
    costs = [row["cost_at_most"] for row in rows]
    if any(cost is None for cost in costs):
        print(
            "A judge behind an endpoint is priced with judge.prices=FILE or judge.input_price= and judge.output_price=."
        )
    else:
        print(
            f"All of it costs at most {sum(costs):,.4g} {rows[0]['currency'] or ''}".rstrip()
            + ", answers asked again apart."
        )
    return 0


def after_eval(found: Run, settings: EvalSettings) -> Run:
    """Judge what awaits a judge in a run that `estbench eval … judge=` has just written."""
    asked = settings_of(settings, found)
    if not judged.awaiting(found) and not any(_is_for_judges(found, task) for task in found.tasks):
        report.say("judge=: no task of this run awaits a judge.")
        return found
    failed = sum(one.failed for one, _ in _judge(asked))
    if failed:
        report.say(f"estbench: {failed:,} calls of judges failed: `estbench judge run={found.id}` asks them again.")
    return Run(found.path)


def settings_of(settings: EvalSettings, found: Run | None = None) -> JudgeSettings:
    """The judge's part of an eval's settings; refuses what can't be before anything is answered."""
    options = dict(settings.judge_options)
    most = options.pop("max_cost", None)
    try:
        limit = float(most) if most is not None else None
    except ValueError:
        raise ConfigError(f"judge.max_cost={most} is no number.") from None
    asked = JudgeSettings(
        run=str(found.path) if found else None,
        judges=settings.judge,
        judge_options=options,
        max_cost=limit,
        data=settings.data,
        database=settings.database,
        output=settings.output,
    )
    panel = judges.find(asked.panel, asked.judge_options, max_cost=limit)
    for one in panel if found is None else ():
        one.open(report.say)  # one that can't be asked is found before the work
    return asked


def as_text(layer: judged.Layer) -> str:
    """A layer for a terminal: the number with its evidence, then each judge with what is known of it."""
    by_name = {row["metric"]: row for row in layer.scores}
    card = layer.card
    first = by_name[card["metric"]]
    anchor = f" against {card['anchor']['name']}" if card.get("anchor") else ""
    lines = [f"{layer.task}: {card['rubric']['name']}, {layer.mode}{anchor}"]
    value, low, high = (report.number(first[key], "proportion") for key in ("value", "ci_low", "ci_high"))
    state = judged.state(first)
    lines.append(f"  {card['metric']:<24} {value} [{low}, {high}]  n {first['n']} of {first['n_planned']}  {state}")
    if first["n"] < first["n_planned"]:
        ends = " and ".join(report.number(end, "proportion") for end in card["bounds"])
        lines.append(f"  {'':<24} with what is missing it lies between {ends}")
    for name, row in by_name.items():
        if name != card["metric"]:
            shown = [report.number(row[key], "proportion") for key in ("value", "ci_low", "ci_high")]
            lines.append(f"  {name.split('/')[-1]:<24} {shown[0]} [{shown[1]}, {shown[2]}]")
    if card["without_call"]:
        lines.append("  without a call: " + ", ".join(f"{n} {why}" for why, n in card["without_call"].items()))
    if card["left_out"]:
        lines.append("  left out: " + ", ".join(f"{n} ({why})" for why, n in card["left_out"].items()))
    return "\n".join([*lines, *(line for one in card["judges"] for line in _judge_lines(one))])


def _judge_lines(row: dict[str, Any]) -> list[str]:
    value = report.number(row["value"], "proportion")
    kin = "  same family as the model" if row["kin"] else ""
    cost = ledger.spent(row)
    spent = f"  spent {cost:.4g} {row['cost'].get('currency', '')}".rstrip() if cost else ""
    again = f", {row['again']} asked again" if row["again"] else ""
    lines = [f"  judge {row['name']}: {value}, {row['valid']} of {row['cases']} verdicts valid{again}{kin}{spent}"]
    if row["missing"]:
        lines.append("    missing: " + "; ".join(f"{n} × {why}" for why, n in row["missing"].items()))
    if row["expected"]:
        lines.append(f"    {row['expected']} expected scores, labels cover {row['covered']:.3f} of the probability")
    lines += [f"    {fault['severity']}, {fault['name']}: {fault['words']}" for fault in row["faults"]]
    return lines


def calibrate(settings: JudgeSettings) -> int:
    """Judgments beside people's votes: agreement, faults, and corrected scores where there are enough labels."""
    votes = labels.read(_label_file(settings))
    rows = []
    for found in runs_of(settings):
        for layer in stored.layers_of(found, _tasks(settings), settings.rubric, settings.mode):
            if layer.mode not in calibration.LABELLED:
                continue
            of = stored.restore(found, layer, settings.wishes.data)
            made = calibration.calibrate(of, votes)
            new = layers.build(of, made.corrected, made.report)
            with judged.locked(found.path, report.say):
                _index(layers.write(of, new), settings.database)
            rows.append((of, new, made))
    if not rows:
        raise ConfigError(
            "These runs have no judgments in pairs or of equivalence, which people's votes could stand beside."
        )
    if wants_table(settings.output):
        for of, new, made in rows:
            print(f"{of.given.run.manifest['name']} · {as_text(new)}\n{calibration.as_text(made.report)}")
    else:
        print(report.as_json([_as_row(of, new) for of, new, _ in rows]))
    return 0


def _label_file(settings: JudgeSettings) -> Path:
    if not settings.labels:
        raise ConfigError("labels= is missing: the file with people's votes; `estbench judge label` makes one.")
    return Path(settings.labels).expanduser()


def _tasks(settings: JudgeSettings) -> list[str]:
    return [name.strip() for name in (settings.task or "").split(",") if name.strip()]


def table(settings: JudgeSettings) -> int:
    """Models on one scale by their battles with the anchor: raw and at equal style, with rank intervals."""
    given = []
    for found in runs_of(settings):
        own = [one for one in stored.layers_of(found, _tasks(settings), settings.rubric) if one.mode == "pairwise"]
        if len(own) != 1:
            tasks = ", ".join(f"{one.task} ({one.rubric})" for one in own) or "none in pairs"
            raise ConfigError(f"Run {found.id} has several judgments, or none: {tasks}. Name one by task= and rubric=.")
        given.append(stored.restore(found, own[0], settings.wishes.data))
    made = tables.table(given, settings.seed)
    print(tables.as_text(made) if wants_table(settings.output) else report.as_json(made))
    return 0


def label(settings: JudgeSettings) -> int:
    """Show a page on this machine on which people vote blind; exports the label file."""
    from estbench_judges import label_page

    file = _label_file(settings)
    questions = []
    for found in runs_of(settings):
        for given in assignments(found, settings):
            mode = "equivalence" if given.mode == "equivalence" else "pairwise"
            if given.mode not in calibration.LABELLED:
                raise ConfigError(
                    f"People vote in pairs or on equivalence, and {given.task} is judged by {given.mode}: mode=."
                )
            for item in sorted(given.asked, key=lambda one: one.doc)[: settings.limit]:
                other = given.anchors.get(item.doc, ())
                questions.append(label_page.Question(item, str(found.manifest["name"]), other, mode))
    return label_page.serve(questions, file, settings.rater, port=settings.port, seed=settings.seed)


def attack(settings: JudgeSettings) -> int:
    """Try the attack set on judges; exit code 1 where one wins more than 2 %."""
    panel = judges.find(settings.panel, settings.judge_options, max_cost=settings.max_cost)
    rubric = rubrics.load(settings.rubric or "helpfulness")
    mode = settings.mode or rubric.modes[0]
    if mode not in rubric.modes:
        raise ConfigError(f"The rubric {rubric.name} has no mode {mode!r}; it has {', '.join(rubric.modes)}.")
    chosen = _attacked(rubric, mode, settings.limit or ATTACKED)
    wishes, found = settings.wishes, {}
    sampling = Sampling(wishes.temperature, wishes.structured)
    money.check_currencies(panel, settings.max_cost)
    budget = money.Budget(panel, settings.max_cost)
    with judges.opened(panel, report.say, replay=settings.replay), report.ProgressBar() as bar:
        for one in panel:
            budget.before(one)
            found[one.name] = attacks.attack(
                one,
                chosen,
                rubric,
                mode,
                sampling,
                language=wishes.language,
                reasons=wishes.reasons,
                say=report.say,
                progress=bar,
            )
    ends = {name: attacks.outcome(rows) for name, rows in found.items()}
    if wants_table(settings.output):
        for name, rows in found.items():
            columns = {"attack": "attack", "title": "what it is", "documents": ">documents", "screened": ">screened"}
            print(f"{name} · {rubric.name}, {mode}")
            print(report.listing(rows, columns | {"missing": ">no verdict", "wins": ">won"}))
            print(_attack_text(ends[name]))
    else:
        shown = {name: asdict(one) | {"exit_code": one.code} for name, one in ends.items()}
        print(report.as_json({"rubric": rubric.id, "mode": mode, "judges": found, "outcomes": shown}))
    return max((one.code for one in ends.values()), key=(0, 4, 1).index)


def _attack_text(end: attacks.Outcome) -> str:
    """What the table comes to."""
    if end.code == 4:
        return f"Undecided: {end.missing:.0%} of the attacks that reached the judge have no verdict."
    worst = f"; most, {end.worst_share:.0%}, of {end.worst}" if end.worst_share else ""
    alarm = f"above {attacks.MOST:.0%} of any attack is an alarm"
    return f"{end.share:.1%} of the attacks that reached the judge win{worst}; {alarm}."


def _attacked(rubric: rubrics.Rubric, mode: str, most: int) -> list[items.Item]:
    """The prompts of estinstruct that an attack is tried on, by hash order."""
    whole = items.unanswered("estinstruct_chat")
    fit = [
        one
        for one in whole
        if (one.reference or not (rubric.needs == "reference" or mode == "equivalence"))
        and (len(one.turns) == 2 or rubric.needs != "two_turns")
        and one.language == "et"
    ]
    return sorted(fit, key=lambda one: one.doc)[:most]


VERBS: dict[str, Callable[[JudgeSettings], int]] = {
    "run": run,
    "plan": plan,
    "calibrate": calibrate,
    "table": table,
    "label": label,
    "attack": attack,
}
