"""The mini tasks: documents, prompts, planted errors, instructions, and that training never saw them."""

from __future__ import annotations

import cProfile
import random
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from estbench.demo import baselines, english, facts, follow, lexicon, recipes, rows, spoil, stream, tasks, train

FOLDER = Path(__file__).parents[1] / "tasks" / "mini"


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as its text."""


Loader.add_constructor("!function", lambda loader, node: str(node.value))


def config(task: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.load((FOLDER / f"{task}.yaml").read_text("utf-8"), Loader)
    return read


def rendered(template: str, doc: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    return str(Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(template).render(**doc))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_has_300_different_test_documents_and_shots_apart_from_them(task: str) -> None:
    splits = rows(task)
    asked = {
        split: [(tasks.prompt(task, doc), doc.get("choice1"), doc.get("choice2")) for doc in docs]
        for split, docs in splits.items()
    }
    assert len(set(asked["test"])) == len(asked["test"]) >= 300
    assert len(asked["train"]) >= 30
    assert not set(asked["test"]) & set(asked["train"])


@pytest.mark.parametrize("task", tasks.TASKS)
def test_rows_are_always_the_same_and_nobody_can_spoil_them(task: str) -> None:
    first = rows(task)
    again = {split: [tasks.MAKERS[task](random.Random(f"{task} {split}"), split == "test")[0]] for split in first}
    assert all(again[split][0] == first[split][0] for split in first)
    first["test"][0].clear()
    assert rows(task)["test"][0]


def test_rows_need_neither_torch_nor_datasets() -> None:
    code = (
        "import sys; from estbench.demo import TASKS, rows; [rows(task) for task in TASKS]\n"
        "print(sorted({'torch', 'datasets', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_yaml_renders_the_prompt_and_the_answer_that_training_uses(task: str) -> None:
    read = config(task)
    for doc in rows(task)["test"][:20]:
        assert rendered(read["doc_to_text"], doc) == tasks.prompt(task, doc)
        if task == "mini_copa":
            assert read["doc_to_target"] == "label"
            assert "choice1, choice2" in read["doc_to_choice"]
        else:
            assert rendered(read["doc_to_target"], doc) == tasks.answer(task, doc)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_yaml_has_what_estbench_needs(task: str) -> None:
    read = config(task)
    metadata = read["metadata"]
    assert read["task"] == task
    assert set(metadata) == {
        "version", "title", "skill", "language", "licence", "citation", "chance", "primary", "form", "cluster",
        "publish_items", "data_seen",
    }  # fmt: skip
    assert metadata["primary"] in {metric["metric"] for metric in read["metric_list"]}
    assert set(metadata["title"]) == {"et", "en"}
    assert read["fewshot_split"] == "train"
    assert read["num_fewshot"] == 0


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_chance_in_the_yaml_is_the_best_trivial_baseline(task: str) -> None:
    best = max(baselines.baselines(task).values())
    stored = config(task)["metadata"]["chance"]
    assert stored == pytest.approx(best, abs=5e-5), "python -m estbench.demo.baselines prints the new value"


def sentences(task: str, doc: dict[str, Any]) -> set[str]:
    """The true sentences that a document holds."""
    if task == "mini_qa":
        return {f"{text.strip('.')}." for text in doc["context"].split(". ")}
    if task in ("mini_translate_en_et", "mini_translate_et_en"):
        return {doc["source"], doc["target"]}
    return {doc["target"]} if task == "mini_gec" else set()


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_no_test_document_nor_its_sentences_are_in_the_real_training_stream(name: str) -> None:
    pairs = train.pairs(recipes.RECIPES[name])
    prompts = {prompt for prompt, _ in pairs}
    seen = {
        f"{part.strip('.')}."
        for pair in pairs
        for text in pair
        for line in text.split("\n")
        for part in line.split(". ")
    }
    seen |= {line.split(": ", 1)[-1] for prompt in prompts for line in prompt.split("\n")}
    for task in tasks.TASKS:
        docs = rows(task)["test"]
        assert not prompts & {tasks.prompt(task, doc) for doc in docs}
        assert not seen & set().union(*(sentences(task, doc) for doc in docs))
    for task in english.TASKS:
        assert not prompts & {english.prompt(task, doc) for doc in english.rows(task)["test"]}
    assert "Mari" in " ".join(islice(seen, 2000))  # the training sentences were found at all


@pytest.mark.parametrize("task", tasks.TASKS)
def test_training_instructions_and_test_documents_are_disjoint(task: str) -> None:
    seen, said = set(), set()
    r = random.Random("any seed")
    for _ in range(3000):
        for doc in tasks.documents(task, r):
            seen.add(tasks.prompt(task, doc))
            said |= sentences(task, doc)
    docs = rows(task)["test"]
    assert not seen & {tasks.prompt(task, doc) for doc in docs}
    assert not said & set().union(*(sentences(task, doc) for doc in docs))


def test_streams_depend_on_their_seed_and_kind() -> None:
    assert list(islice(stream.texts("et", "1"), 50)) == list(islice(stream.texts("et", "1"), 50))
    assert list(islice(stream.texts("et", "1"), 50)) != list(islice(stream.texts("et", "2"), 50))
    estonian, english = next(stream.parallel("1"))
    assert estonian.endswith(".")
    assert english.endswith(".")
    assert estonian != english


# mini_copa


def test_copa_twins_share_their_options_and_swap_the_answer() -> None:
    twins: dict[str, list[dict[str, Any]]] = {}
    for doc in rows("mini_copa")["test"]:
        twins.setdefault(doc["twin"], []).append(doc)
    for pair in twins.values():
        assert len(pair) == 2
        assert {doc["label"] for doc in pair} == {0, 1}
        assert len({(doc["choice1"], doc["choice2"], doc["relation"]) for doc in pair}) == 1
        assert len({doc["premise"] for doc in pair}) == 2


def test_a_prior_over_options_gets_exactly_half_of_copa() -> None:
    docs = rows("mini_copa")["test"]
    right = sum(
        (len(doc["choice1"]) > len(doc["choice2"])) != doc["label"]
        for doc in docs
        if len(doc["choice1"]) != len(doc["choice2"])
    )
    assert right * 2 == sum(len(doc["choice1"]) != len(doc["choice2"]) for doc in docs)


# mini_qa


def test_qa_answers_stand_in_the_text_and_not_in_the_question() -> None:
    for doc in rows("mini_qa")["test"]:
        assert doc["answers"][0].lower() in doc["context"].lower()
        assert doc["answers"][0] not in doc["question"]


def test_part_of_the_questions_needs_more_than_the_kind_of_answer() -> None:
    kinds = Counter(doc["kind"] for doc in rows("mini_qa")["test"])
    assert set(kinds) == {"alone", "verb", "rival"}
    assert kinds["verb"] + kinds["rival"] > 0.3 * sum(kinds.values())


def test_a_rival_did_the_same_and_would_be_another_answer() -> None:
    past = {verb.past for verb in lexicon.verbs()}
    people = {name.form(case) for name in lexicon.names() for case in ("nominative", "adessive")}
    r = random.Random(3)
    rivals = [doc for _ in range(600) for doc in tasks.qa(r, False) if doc["kind"] == "rival"]
    assert len(rivals) > 50
    for doc in rivals:
        verb = next(word for word in doc["question"].rstrip("?").split() if word in past)
        words = doc["context"].replace(".", "").split()
        assert words.count(verb) >= 2
        assert len(people & set(words)) >= 2


# mini_gec


def test_edits_turn_every_source_into_its_target() -> None:
    for split in rows("mini_gec").values():
        for doc in split:
            edits = [spoil.Edit(e["start"], e["end"], e["type"], e["corrections"][0]) for e in doc["edits"]]
            assert spoil.text(spoil.mend(doc["source_tokens"], edits)) == doc["target"]
            assert spoil.tokens(doc["source"]) == doc["source_tokens"]
            assert (doc["source"] == doc["target"]) == (not edits)


def test_every_kind_of_error_is_planted_and_some_sentences_are_correct() -> None:
    docs = rows("mini_gec")["test"]
    kinds = Counter(edit["type"] for doc in docs for edit in doc["edits"])
    assert set(kinds) == {"R:NOM:FORM", "R:VERB:FORM", "R:SPELL", "R:WO", "U:OTHER", "M:OTHER"}
    assert 0.1 < sum(not doc["edits"] for doc in docs) / len(docs) < 0.35


@given(st.integers(0, 10**9))
def test_planted_edits_never_touch_and_always_mend(seed: int) -> None:
    r = random.Random(seed)
    fact = facts.fact(r, False)
    source, edits = spoil.spoil(r, fact)
    assert spoil.text(spoil.mend(source, edits)) == fact.et
    assert all(one.end < two.start for one, two in pairwise(edits))


def test_a_spelling_error_is_no_word_of_this_world() -> None:
    for doc in rows("mini_gec")["test"]:
        for edit in doc["edits"]:
            if edit["type"] == "R:SPELL":
                assert doc["source_tokens"][edit["start"]] not in lexicon.word_forms()


def test_a_wrong_case_is_never_a_right_one() -> None:
    """ostis muna may not become ostis muna's nominative, which looks the same as its genitive and partitive."""
    stems = {noun.nom for noun in lexicon.nouns() if noun.nom in (noun.gen, noun.part)}
    assert "muna" in stems
    for doc in rows("mini_gec")["test"]:
        for edit in doc["edits"]:
            if edit["type"] == "R:NOM:FORM":
                assert doc["source_tokens"][edit["start"]] not in stems


# mini_inflect


def test_inflect_gold_is_the_lexicon_and_no_pair_was_trained_on() -> None:
    nouns = {noun.nom: noun for noun in lexicon.nouns()}
    cases = {name: case for case, name in lexicon.CASE_NAMES.items()}
    docs = rows("mini_inflect")["test"]
    for doc in docs:
        plural = doc["case"].startswith("mitmuse ")
        case = cases[doc["case"].removeprefix("mitmuse ")]
        assert doc["answers"][0] == nouns[doc["word"]].form(case, plural)
    assert len({doc["case"] for doc in docs}) >= 12
    trained = {prompt for prompt, _ in islice(stream.instructions("mini_inflect", "1"), 20000)}
    assert not trained & {tasks.prompt("mini_inflect", doc) for doc in docs}
    assert len(trained) > 1000


# mini_follow


def test_the_reference_follows_and_the_plain_words_do_not() -> None:
    for doc in rows("mini_follow")["test"]:
        assert follow.follow_results(doc, [f" {doc['target']} "]) == {"follow": 1}
        assert follow.follow_results(doc, [""]) == {"follow": 0}
        assert follow.follow_results(doc, [doc["target"] + " ja veel"]) == {"follow": 0}


@pytest.mark.parametrize(
    ("rules", "response", "right"),
    [
        (["upper"], "ÕUN PALL", True),
        (["upper"], "Õun Pall", False),
        (["upper"], "OUN PALL", False),
        (["exclaim"], "õun pall!", True),
        (["exclaim"], "õun pall", False),
        (["reverse", "commas"], "pall, õun", True),
        (["reverse", "commas"], "õun, pall", False),
        (["twice"], "õun pall õun pall", True),
        (["twice"], "õun pall", False),
        (["sort"], "pall õun", True),
        (["first"], "õun", True),
        (["last", "upper"], "PALL", True),
        (["and", "upper"], "ÕUN JA PALL", True),
        (["quotes"], "„õun pall“", True),
        (["quotes"], '"õun pall"', True),
        (["quotes"], "õun pall", False),
        (["commas"], "„õun, pall“", False),
        (["count"], "kaks", True),
        (["count"], "2.", True),
        (["count"], "kolm", False),
    ],
)
def test_each_rule_is_checked(rules: list[str], response: str, right: bool) -> None:
    assert follow.follows(rules, ["õun", "pall"], response) is right


def test_words_are_sorted_by_the_estonian_alphabet() -> None:
    assert follow.arranged(["sort"], ["õun", "vesi", "uks", "šokolaad", "tass", "auto"]) == [
        "auto", "šokolaad", "tass", "uks", "vesi", "õun",
    ]  # fmt: skip


def test_making_training_data_seldom_tries_in_vain() -> None:
    """Calls of functions, which are the same on every machine: what the tests ask for is drawn again."""
    profile = cProfile.Profile()
    profile.runcall(lambda: list(islice(stream.instructions("mini_qa", "speed"), 1000)))
    assert sum(entry.callcount for entry in profile.getstats()) < 2_000_000


# lm-eval


@pytest.mark.parametrize("task", tasks.TASKS)
def test_lm_eval_runs_the_same_file(task: str) -> None:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    loaded = ConfigurableTask(config=dict(load_yaml(FOLDER / f"{task}.yaml", resolve_func=True)))
    docs = list(loaded.test_docs())
    assert docs[0] == rows(task)["test"][0]
    assert loaded.doc_to_text(docs[0]) == tasks.prompt(task, docs[0])
    metrics = {metric["metric"] for metric in config(task)["metric_list"]}
    if task == "mini_copa":
        assert loaded.process_results(docs[0], [(-1.0, False), (-2.0, False)])["acc"] == (docs[0]["label"] == 0)
        return
    perfect = [loaded.process_results(doc, [tasks.answer(task, doc)]) for doc in docs]
    assert set(perfect[0]) == metrics
    primary = config(task)["metadata"]["primary"]
    best = loaded.aggregation()[primary]([each[primary] for each in perfect])
    assert best == pytest.approx(100 if "translate" in task else 1)
