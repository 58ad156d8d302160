"""The instructions stage: rows for SFT from many sources, each row learnt or counted under the reason why it is not."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from card_world import small_tasks
from estbench_training import recipe as recipes
from estbench_training import rows as sft_rows
from estbench_training import stages
from estbench_training.instructions import cleaning, phrasing, reading, stage
from estbench_training.instructions.drawing import alternation
from estbench_training.instructions.reading import batches
from instructions_world import NONE, alpaca, make, manifest, pairs, parallel, read, recipe_of, write

from estbench.demo import stream, tasks
from estbench.errors import ConfigError, DataError

MINI: dict[str, Any] = {"decontaminate": {"tasks": "mini_qa"}, "duplicates": {"near": False}}  # its data is always here


def instruction(at: int, **keys: str) -> dict[str, str]:
    return {"instruction": f"Nimeta {at} sõna.", "input": "", "output": f"Siin on {at} sõna.", **keys}


def chat(*texts: str, system: str | None = None) -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *turns]}


def asked(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][0]["content"] for row in rows]


# --- instructions -----------------------------------------------------------------------------------------------------


def test_an_instruction_with_its_input_becomes_a_message_in_one_of_many_forms(tmp_path: Path) -> None:
    given = [instruction(at, input=f"sisu {at}") for at in range(30)] + [instruction(at) for at in range(30, 40)]
    for language in ("et", "en", "fi"):
        source = alpaca(write(tmp_path / "a.jsonl", given), language=language)
        rows = make(tmp_path, {"a": source}, **NONE)
        texts = asked(rows)
        assert sum(text == f"Nimeta {at} sõna." for text in texts for at in range(30, 40)) == 10  # without input
        forms = {re.sub(r"\d+", "", text) for text in texts}
        assert len(forms) == 1 + len(phrasing.alpaca(language))
        for row in given[:30]:
            (text,) = [text for text in texts if row["instruction"] in text]
            assert text.count(row["instruction"]) == 1 and text.count(row["input"]) == 1
        assert {row["messages"][1]["content"] for row in rows} == {row["output"] for row in given}
    assert not any(word in text for text in texts for word in ("Sisend", "Input"))  # Finnish has neutral forms


def test_every_row_is_learnt_or_counted_under_a_reason(tmp_path: Path) -> None:
    estonian = "Õues sadas kogu päeva külma vihma ja lapsed jäid koju raamatuid lugema."
    given = [
        instruction(1, output=estonian),
        instruction(1, output=unicodedata.normalize("NFD", estonian)),
        instruction(2, output=""),
        instruction(3, instruction=" "),
        instruction(4, output="Nimeta 4 sõna."),
        instruction(5, input="<noinput>", output=f"{estonian} Viis."),
        instruction(6, output="The children stayed at home and read their books, because it was raining outside."),
        instruction(7, output="x" * 400),
        instruction(8, output="a"),
    ]
    source = alpaca(
        write(tmp_path / "a.jsonl", given),
        filters={"min_characters": 20, "max_characters": 300, "languages": ["own"]},
    )
    said: list[str] = []
    rows = make(tmp_path, {"a": source}, said, decontaminate="none", duplicates={"near": False})
    found = manifest(tmp_path)["sources"]["a"]
    assert found["dropped"] == {
        "copy": 1,
        "duplicate": 1,
        "no_answer": 1,
        "no_instruction": 1,
        "other_language": 1,
        "too_long": 1,
        "too_short": 1,
    }
    assert found["read"] == 9 == found["left"] + sum(found["dropped"].values()) and found["left"] == found["rows"] == 2
    assert sorted(asked(rows)) == ["Nimeta 1 sõna.", "Nimeta 5 sõna."]
    assert any("9 rows read, 3 left" in line for line in said)


def test_near_duplicates_go_and_exact_ones_go_over_all_sources(tmp_path: Path) -> None:
    long = "Ükskord elas metsas vana karu kes ei tahtnud talvel magada vaid käis igal õhtul jõe ääres kuud vaatamas"
    a = [instruction(1, output=long), instruction(2), instruction(3)]
    b = [instruction(1, output=f"{long} nüüd"), instruction(2), instruction(4)]
    sources = {name: alpaca(write(tmp_path / f"{name}.jsonl", rows)) for name, rows in (("a", a), ("b", b))}
    make(tmp_path, sources, decontaminate="none")
    found = manifest(tmp_path)["sources"]
    assert found["a"]["dropped"] == {} and found["b"]["dropped"] == {"duplicate": 1, "near_duplicate": 1}
    make(tmp_path, sources, output="kept", decontaminate="none", duplicates={"keep": ["b"]})
    assert manifest(tmp_path, "kept")["sources"]["b"]["dropped"] == {}
    assert len(make(tmp_path, sources, output="all", **NONE)) == 6


def test_json_parquet_and_other_field_names_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    given = [instruction(at, input="sisu") for at in range(9)]
    write(tmp_path / "a.jsonl", given)
    (tmp_path / "a.json").write_text(json.dumps(given), "utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(given), tmp_path / "a.parquet")
    write(tmp_path / "b.jsonl", [{"q": row["instruction"], "c": row["input"], "a": row["output"]} for row in given])
    names = {"instruction": "q", "input": "c", "output": "a"}
    sources = [alpaca("a.jsonl"), alpaca("a.json"), alpaca("a.parquet"), alpaca("b.jsonl", fields=names)]
    made = [make(tmp_path, {"a": source}, output=str(at), **NONE) for at, source in enumerate(sources)]
    assert len(made[0]) == 9 and all(rows == made[0] for rows in made)
    assert not any(
        "sisu" in text for text in asked(make(tmp_path, {"a": alpaca("a.jsonl", fields={"input": ""})}, **NONE))
    )


def test_a_set_of_the_hub_is_read_at_one_commit_even_by_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    given, asked_of = [instruction(at) for at in range(5)], []

    def load(path: str, config: str | None, **keys: Any) -> Any:
        asked_of.append((path, config, keys["split"], keys["revision"], keys["streaming"]))
        if len(asked_of) == 1:
            raise ConnectionError("the network\nis gone")
        return datasets.IterableDataset.from_generator(lambda: iter(given))

    commits = iter(["c1", "c2"])
    monkeypatch.setattr(reading, "commit_of", lambda source: next(commits))
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = {"hub": "owner/name", "form": "alpaca", "language": "et", "licence": "cc0-1.0"}
    with pytest.raises(DataError, match=r"owner/name can't be read from the Hub .ConnectionError: the network is gone"):
        make(tmp_path, {"a": source}, **NONE)
    assert len(make(tmp_path, {"a": source}, **NONE)) == 5
    assert asked_of == [("hf://datasets/owner/name", None, "train", "c1", True)] * 2
    assert manifest(tmp_path)["sources"]["a"]["origin"]["commit"] == "c1"


# --- conversations ----------------------------------------------------------------------------------------------------


def test_conversations_are_used_as_they_are(tmp_path: Path) -> None:
    given = [chat("Tere!", "Tere!", "Kuidas läheb?", " Hästi.\n", system="Oled abiks."), chat("Ära vasta!")]
    source = {"path": write(tmp_path / "a.jsonl", given), "form": "messages", "language": "et", "licence": "cc0-1.0"}
    rows = make(tmp_path, {"chat": source}, **NONE)
    assert [row["messages"] for row in rows] == [given[0]["messages"]]
    assert manifest(tmp_path)["sources"]["chat"]["dropped"] == {"no_answer": 1}


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "where the assistant's was due"),
        ([{"role": "assistant", "content": "a"}], "where the user's was due"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "where the assistant's was due"),
        ([{"role": "human", "content": "a"}], "the role 'human' is not one of"),
        ([], "has to be a list of messages"),
        ("Tere!", "has to be a list of messages"),
    ],
)
def test_what_is_no_conversation_is_named_by_its_line(tmp_path: Path, messages: Any, fault: str) -> None:
    given = [chat("Tere!", "Tere!"), {"messages": messages}]
    source = {"path": write(tmp_path / "a.jsonl", given), "form": "messages", "language": "et", "licence": "cc0-1.0"}
    with pytest.raises(DataError, match=rf"a\.jsonl:2.*{fault}.*damaged: skip"):
        make(tmp_path, {"chat": source}, **NONE)
    assert len(make(tmp_path, {"chat": {**source, "damaged": "skip"}}, output="skip", **NONE)) == 1


def test_rows_are_what_sft_reads(tmp_path: Path) -> None:
    sources = {
        "a": alpaca(write(tmp_path / "a.jsonl", [instruction(at) for at in range(5)])),
        "mt": parallel(write(tmp_path / "p.jsonl", pairs(5)), {"en-et": 1}),
        "mini": {"demo": ["mini_follow"], "rows": 5},
    }
    rows = make(tmp_path, sources, **NONE)
    found = list(sft_rows.read_rows(tmp_path / "stage"))
    assert [(list(row.messages), row.source, row.id) for row in found] == [
        (row["messages"], row["source"], row["id"]) for row in rows
    ]
    assert len({row.id for row in found}) == 15 and all(row.messages[-1]["role"] == "assistant" for row in found)


# --- the demo world and tasks -----------------------------------------------------------------------------------------


def exam(task: str) -> set[str]:
    """What a mini task asks in its test."""
    return {tasks.prompt(task, doc, chat=True) for doc in tasks.rows(task)["test"]}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_demo_world_gives_no_prompt_of_its_tests(tmp_path: Path, task: str) -> None:
    rows = make(tmp_path, {"mini": {"demo": [task], "rows": 400}})
    assert len(rows) == 400 and exam(task).isdisjoint(asked(rows))
    right = dict(zip(*made(task, 42), strict=True))
    assert all(right[row["messages"][0]["content"]] == row["messages"][1]["content"] for row in rows[:50])


def made(task: str, seed: int) -> tuple[list[str], list[str]]:
    """Prompts and answers as the demo world has them."""
    found = stream.instructions(task, f"instructions {seed} mini", chat=True)
    prompts, answers = zip(*(next(found) for _ in range(400)), strict=True)
    return list(prompts), list(answers)


def test_without_held_out_combinations_prompts_of_tests_would_come() -> None:
    r = random.Random("instructions 42 mini")
    docs = [doc for _ in range(400) for doc in tasks.documents("mini_inflect", r, test=True)]
    assert exam("mini_inflect") & {tasks.prompt("mini_inflect", doc, chat=True) for doc in docs}


def test_demo_tasks_have_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    make(tmp_path, {"mini": {"demo": {"mini_qa": 3, "mini_gec": 1}, "rows": 100}})
    words = Counter(text.split(":")[0] for text in asked(read(tmp_path / "stage")))
    assert words == {"Tekst": 75, "Lause": 25}
    make(tmp_path, {"mini": {"demo": ["mini_qa", "mini_gec"], "rows": 100}}, output="even")
    assert Counter(text.split(":")[0] for text in asked(read(tmp_path / "even"))) == {"Tekst": 50, "Lause": 50}


def test_a_task_gives_its_training_split_and_never_what_it_is_tested_on(tmp_path: Path) -> None:
    rows = make(tmp_path, {"qa": {"task": "mini_qa_chat"}}, **MINI)
    known = tasks.rows("mini_qa")
    right = {tasks.prompt("mini_qa", doc, chat=True): tasks.answer("mini_qa", doc) for doc in known["train"]}
    assert len(rows) >= 38 and exam("mini_qa").isdisjoint(asked(rows))
    assert all(right[row["messages"][0]["content"]] == row["messages"][1]["content"] for row in rows)
    with pytest.raises(ConfigError, match="is tested on 'test'"):
        make(tmp_path, {"qa": {"task": "mini_qa_chat", "split": "test"}}, output="test", **MINI)


# --- what is drawn, and in which order --------------------------------------------------------------------------------


def three(folder: Path) -> dict[str, Any]:
    """Sources of 12, 30 and 9 rows."""
    sizes = {"a": 12, "b": 30, "c": 9}
    return {
        name: alpaca(write(folder / f"{name}.jsonl", [instruction(at, output=f"{name} {at}") for at in range(size)]))
        for name, size in sizes.items()
    }


def test_sources_alternate_in_their_shares_at_every_prefix(tmp_path: Path) -> None:
    rows = make(tmp_path, three(tmp_path), **NONE)
    found = [row["source"] for row in rows]
    assert Counter(found) == {"a": 12, "b": 30, "c": 9}  # without weights all rows come
    for end in range(1, len(found) + 1):
        assert all(abs(found[:end].count(name) - size / 51 * end) <= 1 for name, size in Counter(found).items())


def test_weights_are_kept_and_the_scarcest_source_ends_the_rows(tmp_path: Path) -> None:
    sources = three(tmp_path)
    for name, weight, epochs in (("a", 0.5, 2), ("b", 0.25, 1), ("c", 0.25, 0.5)):
        sources[name] |= {"weight": weight, "epochs": epochs}
    rows = make(tmp_path, sources, **NONE)
    found = [row["source"] for row in rows]
    for end in range(1, len(found) + 1):
        assert all(
            abs(found[:end].count(name) - share * end) <= 1 for name, share in (("a", 0.5), ("b", 0.25), ("c", 0.25))
        )
    assert found.count("c") == 4 and 15 <= len(rows) <= 18  # half of 9, and a quarter of all
    kept = manifest(tmp_path)["sources"]
    assert {name: row["rows"] for name, row in kept.items()} == dict(Counter(found))
    assert len(make(tmp_path, sources, output="less", rows=8, **NONE)) == 8
    with pytest.raises(
        DataError, match=r"rows: 40 are more than the sources have: of c there are 4, enough for \d+ in"
    ):
        make(tmp_path, sources, output="more", rows=40, **NONE)
    assert not (tmp_path / "more/rows.jsonl").exists()


@pytest.mark.parametrize("have", [{"a": 1}, {"a": 7, "b": 1}, {"a": 5, "b": 50, "c": 500, "d": 1, "e": 3}])
def test_as_many_rows_come_as_the_shares_allow(have: dict[str, int]) -> None:
    assert Counter(alternation(have, {}, None).tolist()) == dict(enumerate(have.values()))
    weights = {name: number + 1.5 for number, name in enumerate(have)}
    order = alternation(have, weights, None).tolist()
    counts = [order.count(number) for number in range(len(have))]
    assert all(count <= most for count, most in zip(counts, have.values(), strict=True))
    longer = [counts[number] + 1 for number in range(len(have))]
    assert any(count > most for count, most in zip(longer, have.values(), strict=True))


def test_a_limit_draws_by_the_seed_and_epochs_repeat(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", [instruction(at) for at in range(40)])
    rows = make(tmp_path, {"a": alpaca(name, limit=10, epochs=2.5)}, **NONE)
    counts = Counter(asked(rows))
    assert len(rows) == 25 and len(counts) == 10 and set(counts.values()) == {2, 3}
    assert set(Counter(asked(rows[:10])).values()) == {1}  # an epoch is whole before the next begins
    assert asked(rows[:10]) != asked(rows[10:20]) and len({row["id"] for row in rows}) == 25
    other = make(tmp_path, {"a": alpaca(name, limit=10, epochs=2.5)}, output="other", seed=7, **NONE)
    assert set(asked(other)) != set(asked(rows))
    some = make(tmp_path, {"a": alpaca(name, read=3)}, output="read", **NONE)
    assert sorted(asked(some)) == [f"Nimeta {at} sõna." for at in range(3)]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_for_any_number_of_processes(tmp_path: Path) -> None:
    sources = three(tmp_path) | {"mini": {"demo": ["mini_qa"], "rows": 20}}
    contents = []
    for at, workers in enumerate((1, 2)):
        make(tmp_path, sources, output=str(at), workers=workers, **NONE)
        contents.append((tmp_path / str(at) / "rows.jsonl").read_bytes())
    assert contents[0] == contents[1]


def test_an_interrupted_stage_goes_on_with_what_it_has_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = three(tmp_path)
    whole = make(tmp_path, sources, output="whole", **NONE)
    cleaned: list[str] = []

    class Killed(cleaning.Cleaner):
        def __call__(self, batch: Any) -> Any:
            cleaned.append(str(self.source.path))
            if cleaned == ["a.jsonl", "b.jsonl"]:
                raise KeyboardInterrupt
            return super().__call__(batch)

    monkeypatch.setattr(stage, "Cleaner", Killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, sources, **NONE)
    assert not (tmp_path / "stage/rows.jsonl").exists()
    assert make(tmp_path, sources, **NONE) == whole
    assert cleaned == ["a.jsonl", "b.jsonl", "b.jsonl", "c.jsonl"]  # a was not read again
    assert not (tmp_path / "stage/work").exists()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Reading holds a batch."""
    import tracemalloc

    from estbench_training.instructions.reading import Origin
    from estbench_training.instructions.settings import SourceSettings

    path = tmp_path / "a.jsonl"
    peaks = []
    for count in (1_000, 8_000):
        write(path, ({"instruction": "x" * 200, "input": "", "output": str(at)} for at in range(count)))
        source = SourceSettings(path="a.jsonl", form="alpaca", language="et", licence="cc0-1.0")
        tracemalloc.start()
        assert sum(len(some) for some in batches(source, Origin("a", {"a.jsonl": path}, None, 1), 0)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


# --- the manifest, the key and faults ---------------------------------------------------------------------------------


def test_the_manifest_says_where_rows_come_from(tmp_path: Path) -> None:
    import hashlib

    make(tmp_path, {**three(tmp_path), "mini": {"demo": ["mini_qa"], "rows": 4}}, **NONE)
    found = manifest(tmp_path)
    content = (tmp_path / "a.jsonl").read_bytes()
    assert found["sources"]["a"]["origin"]["files"] == {
        "a.jsonl": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    }
    assert found["sources"]["a"]["licence"] == "cc-by-4.0" and found["sources"]["mini"]["licence"] == "apache-2.0"
    assert (
        found["rows"] == 55
        and found["sha256"] == hashlib.sha256((tmp_path / "stage/rows.jsonl").read_bytes()).hexdigest()
    )


def test_the_key_changes_with_data_settings_and_wordings_and_not_with_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(**keys: Any) -> str:
        return stages.chain(recipe_of(tmp_path, {"a": alpaca("a.jsonl")}, **keys), tmp_path)[0].key

    write(tmp_path / "a.jsonl", [instruction(1)])
    first = key()
    assert key() == key(workers=4) == first != key(rows=1)
    monkeypatch.setattr(phrasing, "digest", lambda: "another wording")
    assert key() != first
    monkeypatch.undo()
    write(tmp_path / "a.jsonl", [instruction(2)])
    assert key() != first


def test_the_key_changes_with_the_rows_of_a_task_and_with_the_tests_that_are_looked_for(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_tasks(tmp_path / "world", monkeypatch)

    def key(source: dict[str, Any], **keys: Any) -> str:
        return stages.chain(recipe_of(tmp_path, {"a": source}, **keys), tmp_path)[0].key

    write(tmp_path / "a.jsonl", [instruction(1)])
    task, none = {"task": "letters"}, {"decontaminate": "none"}
    tests = {"decontaminate": {"tasks": "words", "missing": "skip"}}
    of_task, of_file, with_tests = key(task, **none), key(alpaca("a.jsonl"), **none), key(alpaca("a.jsonl"), **tests)
    assert key(task, **none) == of_task and key(alpaca("a.jsonl"), **tests) == with_tests != of_file
    (rows,) = made.data.glob("*letters*/**/test.jsonl")
    rows.write_text(rows.read_text("utf-8") + rows.read_text("utf-8"), "utf-8")
    assert key(task, **none) != of_task
    card = made.folder / "tasks" / "words.yaml"
    card.write_text(card.read_text("utf-8") + "\n# another test\n", "utf-8")
    assert key(alpaca("a.jsonl"), **tests) != with_tests
    assert key(alpaca("a.jsonl"), **none) == of_file  # which looks for none


def test_a_task_without_its_data_is_refused_before_the_stage_begins(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tasks(tmp_path / "world", monkeypatch)
    monkeypatch.delenv("ESTBENCH_DATA")
    with pytest.raises(DataError):
        stages.chain(recipe_of(tmp_path, {"a": {"task": "letters"}}, decontaminate="none"), tmp_path)


def test_a_stage_runs_by_its_recipe(tmp_path: Path) -> None:
    recipe = recipes.from_row(
        {
            "name": "r",
            "stages": [
                {"name": "rows", "kind": "instructions", "sources": {"mini": {"demo": ["mini_qa"], "rows": 9}}},
            ],
        },
        tmp_path,
    )
    (step,) = stages.run(recipe, tmp_path / "out", lambda line: None)
    assert step.done and len(read(step.folder)) == 9
    assert not dataclasses.asdict(recipe.stages[0].settings)["templates"]  # no wordings, none in the key


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ({}, "give one of path, aligned, hub, task, demo"),
        ({"path": "a.jsonl", "hub": "a/b"}, "give one of path"),
        ({"path": "a.jsonl", "language": "et", "licence": "x"}, "give form: alpaca or messages, or translation"),
        ({"path": "a.jsonl", "form": "alpaca", "language": "et"}, "licence have to be said"),
        ({"path": "a.jsonl", "form": "alpaca", "licence": "x"}, "language (but of parallel text)"),
        (alpaca("a.jsonl", form="alpacca"), "Did you mean 'alpaca'?"),
        (alpaca("a.jsonl", fields={"anwser": "a"}), "fields: there is no 'anwser'."),
        (alpaca("a.jsonl", epochs=0), "epochs: 0 has to be above 0"),
        (alpaca("a.jsonl", limit=0), "limit has to be 1 or more"),
        (
            {"aligned": {"et": "a", "en": "a"}, "licence": "x", "translation": {"directions": {"en-et": 1}}},
            "aligned names one file twice",
        ),
        (
            {"aligned": {"et": "a", "fi": "b"}, "licence": "x", "translation": {"directions": {"en-et": 1}}},
            "aligned has to name a file for en and et, not et, fi",
        ),
        (alpaca("a.jsonl", split="train"), "split goes with hub or task"),
        ({"demo": ["mini_folow"], "rows": 3}, "Did you mean 'mini_follow'"),
        ({"demo": ["mini_follow"]}, "rows goes with demo"),
        ({"task": "mini_qa_chat", "form": "alpaca"}, "form, translation and fields go with"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(tmp_path: Path, source: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fault)) as error:
        make(tmp_path, {"a": source})
    assert "\n" not in str(error.value)


def test_weights_are_for_all_sources_or_for_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="b has no weight, and others have one"):
        make(tmp_path, {"a": alpaca("a.jsonl", weight=1), "b": alpaca("a.jsonl")})


def test_data_that_can_not_be_read_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"instruction": "a"\n', "utf-8")
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    (tmp_path / "object.json").write_text("{}", "utf-8")
    (tmp_path / "a.txt").write_text("a", "utf-8")
    write(tmp_path / "lacks.jsonl", [instruction(1), {"instruction": "a", "outptu": "b", "input": ""}])
    write(tmp_path / "null.jsonl", [instruction(1) | {"output": None}])
    write(tmp_path / "half.jsonl", [instruction(1)])
    (tmp_path / "half.jsonl").write_text('{"instruction": "\\ud800", "input": "", "output": "b"}\n', "utf-8")
    write(tmp_path / "short.jsonl", [instruction(1, output="")])
    for name, fault in [
        ("no.jsonl", "there is no file"),
        ("broken.jsonl", r"broken\.jsonl:1 is no JSON"),
        ("empty.jsonl", "Source a is empty"),
        ("object.json", "no list of JSON objects; lines of JSON are to be called .jsonl"),
        ("a.txt", "is none of .jsonl, .json, .parquet, .tsv"),
        ("lacks.jsonl", r"lacks\.jsonl:2 lacks 'output'; .*Did you mean 'outptu'"),
        ("null.jsonl", r"null\.jsonl:1 has no text in 'output'"),
        ("half.jsonl", r"half\.jsonl:1: 'instruction' holds half of a character"),
        ("short.jsonl", r"nothing is left of 1 rows \(no answer 1\)"),
    ]:
        with pytest.raises(DataError, match=fault) as error:
            make(tmp_path, {"a": alpaca(name)}, output=f"{name} out", **NONE)
        assert "\n" not in str(error.value) and not (tmp_path / f"{name} out" / "rows.jsonl").exists()
