"""The prepare stage: every document is in the shards, in the tokenizer's own tokens, or counted under a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from estbench_training.prepare import decontaminate, pieces, processes, stage
from estbench_training.shards import Shards, load_tokenizer, tokenizer_hash
from made_up_words import Words
from prepare_world import BOS, EOS, NONE, files, made_up_tests, make_tokenizer, prepare, read, source, texts_of, write

from estbench.errors import ConfigError, DataError, ModelError, StoreError

TEXTS = [
    "Õues sajab vihma.",
    "Müts läks märjaks ja žürii jõi šokolaadi.",
    "\tA\n\n b ",
    "</s> <s> on märgid",
    "x" * 3000,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def many(count: int, seed: int = 1) -> list[str]:
    words = Words(seed)
    return [words.text(3, 60) for _ in range(count)]


def test_tokens_are_the_tokenizers_own_with_one_bos_and_one_eos(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", TEXTS)
    found = read(prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, **NONE) / "et")
    library = load_tokenizer(tokenizer)
    for text, ids in zip(TEXTS, found, strict=True):
        if "</s>" not in text:
            assert ids == [*library(text).input_ids, EOS]
        assert ids[0] == BOS and ids[-1] == EOS and not {BOS, EOS} & set(ids[1:-1])
    assert texts_of(tmp_path / "stage/shards/et", tokenizer) == TEXTS


def test_text_becomes_nfc_and_keeps_its_diacritics(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", [unicodedata.normalize("NFD", text) for text in TEXTS])
    prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, **NONE)
    assert texts_of(tmp_path / "stage/shards/et", tokenizer) == TEXTS


def test_every_document_is_in_the_shards_or_counted_under_a_reason(tmp_path: Path, tokenizer: Path) -> None:
    estonian = "Õues sadas kogu päeva külma vihma ja lapsed jäid koju raamatuid lugema, sest ema ei lubanud välja."
    english = "The children stayed at home and read their books, because it was raining outside and mother said no."
    russian = "Дети остались дома и читали книги, потому что на улице шёл дождь, и мама не разрешила им выходить."
    texts = [
        estonian,
        english,
        russian,
        "",
        " \n",
        "lühike",
        "12345 67890 12345 67890",
        "ö" * 400,
        f" {estonian} ",
        "\ud800a",
    ]
    path = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": text}) for text in texts]  # as \uXXXX, halves of characters among them
    path.write_text("\n".join([*rows, "{broken", '{"other": 1}', '["list"]', '{"text": null}', ""]), "utf-8")
    said: list[str] = []
    shards = prepare(
        tmp_path,
        tokenizer,
        {"et": source("a.jsonl", damaged="skip")},
        said,
        filters={"min_characters": 10, "max_characters": 300, "languages": ["own"], "unknown": "drop"},
        decontaminate="none",
    )
    manifest = Shards.open(shards / "et").manifest
    assert manifest["dropped"] == {
        "damaged": 4,
        "duplicate": 1,
        "empty": 2,
        "not_unicode": 1,
        "other_language": 2,
        "too_long": 1,
        "too_short": 1,
        "unknown_language": 1,
    }
    assert manifest["read"] == 14 == manifest["documents"] + sum(manifest["dropped"].values())
    assert texts_of(shards / "et", tokenizer) == [estonian]
    assert manifest["bytes"] == len(estonian.encode())
    assert any("14 documents read, 2 left after filters (damaged 4, " in line for line in said)


def test_without_filters_nothing_is_left_out_however_long(tmp_path: Path, tokenizer: Path) -> None:
    texts = ["a", "ö" * 300_000, "12", "The dog sees the house and the cat sees the dog."]
    write(tmp_path / "a.jsonl", texts)
    shards = prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, decontaminate="none")
    assert Shards.open(shards / "et").manifest["dropped"] == {}
    assert texts_of(shards / "et", tokenizer) == texts


def test_a_sources_own_filters_stand_in_place_of_the_stages(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", ["lühike", "natuke pikem tekst"])
    both = {"a": source("a.jsonl"), "b": source("a.jsonl", filters={"max_characters": 7})}
    shards = prepare(tmp_path, tokenizer, both, filters={"min_characters": 8}, **NONE)
    assert texts_of(shards / "a", tokenizer) == ["natuke pikem tekst"]
    assert texts_of(shards / "b", tokenizer) == ["lühike"]


def test_the_manifest_says_what_the_shards_are(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", TEXTS)
    there = source("a.jsonl", url="https://example.org", limit=3)
    manifest = Shards.open(
        prepare(tmp_path, tokenizer, {"et": there}, **NONE) / "et", tokenizer_hash(tokenizer)
    ).manifest
    assert (manifest["source"], manifest["language"], manifest["licence"], manifest["url"]) == (
        "et",
        "et",
        "cc0-1.0",
        "https://example.org",
    )
    assert manifest["tokenizer"] | {"hash": "", "name": ""} == {
        "hash": "",
        "name": "",
        "vocab_size": 300,
        "bos": BOS,
        "eos": EOS,
    }
    assert manifest["origin"] == {"path": "a.jsonl", "files": 1, "bytes": (tmp_path / "a.jsonl").stat().st_size}
    assert manifest["read"] == manifest["documents"] == 3 and manifest["decontaminated"] is None
    assert str(tmp_path) not in json.dumps({**manifest, "tokenizer": None})


def test_the_demo_world_is_a_source(tmp_path: Path, tokenizer: Path) -> None:
    shards = prepare(tmp_path, tokenizer, {"mini": {"demo": "et", "documents": 300}}, **NONE)
    manifest = Shards.open(shards / "mini").manifest
    assert (manifest["documents"], manifest["language"]) == (300, "et")
    assert manifest["origin"] == {"demo": "et", "documents": 300, "seed": 42}
    assert len(set(texts_of(shards / "mini", tokenizer))) > 290


def test_a_second_run_does_nothing(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", TEXTS)
    shards = prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, **NONE)
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == ["shards"]
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    (tmp_path / "a.jsonl").unlink()
    prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, **NONE)
    assert before == {path: path.stat().st_mtime_ns for path in shards.rglob("*")}


@pytest.mark.slow
def test_shards_are_the_same_for_any_number_of_processes(tmp_path: Path, tokenizer: Path) -> None:
    made = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        write(folder / "a.jsonl", many(5000))
        sources = {"et": source("a.jsonl"), "demo": {"demo": "en", "documents": 1500}}
        tests = {"tasks": "mini_qa", "near": True}
        made.append(files(prepare(folder, tokenizer, sources, workers=workers, part_tokens=9000, decontaminate=tests)))
    assert made[0] == made[1] and len(made[0]) > 20


# A process that imports all that is needed, and has children of its own killed, each at another place of the work.
KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from prepare_world import made_up_tests, prepare, source
from estbench.contamination import corpus
from estbench_training import shards
from estbench_training.prepare import decontaminate, duplicates, near, pieces

corpus.CHUNK, pieces.DOCUMENTS = 4000, 20
folder, tokenizer = Path(sys.argv[2]), Path(sys.argv[3])
shards.load_tokenizer(tokenizer)
tests = made_up_tests(json.loads((folder / "tests.json").read_text("utf-8")))
decontaminate.collect = lambda *_: tests
import pandas  # pyarrow does it later

def dying(module, name, after):
    original, count = getattr(module, name), [0]
    def function(*args, **keys):
        count[0] += 1
        if count[0] > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **keys)
    setattr(module, name, function)

for module, name, after in [
    (pieces.Pieces, "add", 5), (pieces.Pieces, "add", 6), (pieces._Open, "finish", 1), (duplicates, "_near", 0),
    (near, "band_keys", 3), (shards._Summed, "write", 9), (shards._Summed, "finish", 3), (shards.Writer, "finish", 1),
]:
    if not os.fork():
        dying(module, name, after)
        prepare(folder, tokenizer, {"a": source("a.jsonl"), "b": source("b.jsonl")}, part_tokens=1500)
        os._exit(0)
    status = os.wait()[1]
    names = [path.suffix for path in folder.glob("stage/**/[0-9]*")]
    print(os.WTERMSIG(status), names.count(".json"), names.count(".bin"), flush=True)
"""


def test_killed_at_any_place_it_goes_on_and_makes_the_same_files(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = many(40, 3)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.jsonl", many(150, 1) + planted[:20])
        write(tmp_path / name / "b.jsonl", planted[20:] + many(100, 1)[::-1] + many(100, 2))  # in the middle duplicates
    (tmp_path / "killed/tests.json").write_text(json.dumps(planted), "utf-8")
    monkeypatch.setattr(decontaminate, "collect", lambda *_: made_up_tests(planted))
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", KILLED, here, str(tmp_path / "killed"), str(tokenizer)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    states = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [signal for signal, _, _ in states] == [9] * 8
    made = [pieces for _, pieces, _ in states]
    assert 0 < made[0] < made[1] < made[2] < made[3] == made[-1]  # each went on from the pieces of the one before it
    written = [parts for _, _, parts in states]
    assert written[:5] == [0] * 5 and 0 < written[5] < written[6] < written[7]
    both = {"a": source("a.jsonl"), "b": source("b.jsonl")}
    expected = prepare(tmp_path / "whole", tokenizer, both, part_tokens=1500)
    assert files(prepare(tmp_path / "killed", tokenizer, both, part_tokens=1500)) == files(expected)
    assert Shards.open(expected / "b").manifest["dropped"] == {"contaminated": 20, "duplicate": 100}


def peak(folder: Path, tokenizer: Path, documents: int) -> float:
    """MB of Python's and numpy's memory at most, for a corpus of so many documents."""
    folder.mkdir()
    write(folder / "a.jsonl", many(documents))
    tracemalloc.start()
    prepare(folder, tokenizer, {"et": source("a.jsonl")}, part_tokens=20_000, decontaminate="none")
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found / 1e6


def test_memory_does_not_depend_on_the_corpus(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estbench.contamination.corpus.CHUNK", 20_000)
    monkeypatch.setattr(pieces, "DOCUMENTS", 100)
    monkeypatch.setattr("estbench_training.prepare.duplicates.PARTITION", 8192)
    write(tmp_path / "a.jsonl", many(9))
    prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, decontaminate="none")  # tables and modules, made once
    small, large = (peak(tmp_path / str(documents), tokenizer, documents) for documents in (200, 1000))
    assert large < 1.25 * small + 0.1
    in_order = processes.in_order

    def hoarding(make: Any, job: Any, items: Iterable[Any], workers: int) -> Iterator[Any]:
        yield from list(in_order(make, job, items, workers))

    monkeypatch.setattr(stage, "in_order", hoarding)
    assert peak(tmp_path / "hoarded", tokenizer, 1000) > 2 * small  # what the measure says of a run that keeps all


Broken = Callable[[Path], None]


def gone(folder: Path) -> None:
    (folder / "a.jsonl").unlink()


def no_json(folder: Path) -> None:
    with open(folder / "a.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "pooleli\n')


def no_field(folder: Path) -> None:
    with open(folder / "a.jsonl", "a", encoding="utf-8") as file:
        file.write('{"title": "õ"}\n')


def not_utf8(folder: Path) -> None:
    with open(folder / "a.jsonl", "ab") as file:
        file.write('{"text": "õ"}\n'.encode("latin-1"))


def empty(folder: Path) -> None:
    (folder / "a.jsonl").write_text("\n\n", "utf-8")


def only_blank(folder: Path) -> None:
    write(folder / "a.jsonl", ["", " "])


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (gone, r"a\.jsonl is no file, folder or pattern that fits a file"),
        (no_json, r"a\.jsonl:6 is no JSON object \(.*\): correct it, or leave such rows out with damaged: skip"),
        (no_field, r"a\.jsonl:6 has no text in 'text' but title: name another"),
        (not_utf8, r"a\.jsonl:6 is not UTF-8"),
        (empty, r"Source et is empty: a\.jsonl holds no documents"),
        (only_blank, r"Of source et nothing is left of 2 documents \(empty 2\)"),
    ],
)
def test_a_fault_of_a_source_is_one_clear_line(tmp_path: Path, tokenizer: Path, breaking: Broken, message: str) -> None:
    write(tmp_path / "a.jsonl", TEXTS)
    breaking(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, **NONE)
    assert "\n" not in str(caught.value) and not (tmp_path / "stage/shards").exists()


def test_a_missing_tokenizer_or_eos_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}', "utf-8")
    with pytest.raises(ModelError, match=r"The tokenizer in .* can't be loaded"):
        prepare(tmp_path, tmp_path / "model", {"et": source("a.jsonl")}, **NONE)
    without = make_tokenizer(tmp_path / "without", eos=False)
    with pytest.raises(ModelError, match="has no EOS token: set eos_token"):
        prepare(tmp_path, without, {"et": source("a.jsonl")}, **NONE)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
@pytest.mark.parametrize(
    "file", ["shards/et/.00000.bin.part", "shards/et/.00000.idx.part", "work/et/00000.arrow", "work/et/00000.records"]
)
def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, tokenizer: Path, file: str) -> None:
    write(tmp_path / "a.jsonl", many(30))
    full = tmp_path / "stage" / file
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    with pytest.raises((StoreError, OSError), match="No space left on device"):
        prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, **NONE)
    shards = tmp_path / "stage/shards/et"
    assert not shards.exists() or not [path for path in shards.iterdir() if path != full]
    full.unlink(missing_ok=True)
    assert texts_of(prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, **NONE) / "et", tokenizer) == many(30)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sources": {}}, "sources is empty"),
        ({"sources": {"Ä": source("a.jsonl")}}, "the source 'Ä' has to be of a-z"),
        ({"sources": {"a": {"path": "a.jsonl"}}}, "language and licence have to be said"),
        ({"sources": {"a": {}}}, "give one of path, hub and demo"),
        ({"sources": {"a": source("a.jsonl", hub="x/y")}}, "give one of path, hub and demo"),
        ({"sources": {"a": {"demo": "et"}}}, "documents goes with demo"),
        ({"sources": {"a": source("a.jsonl", revision="main")}}, "config, split and revision go with hub"),
        ({"sources": {"a": source("a.jsonl", fild="x")}}, "Did you mean 'field'"),
        ({"filters": {"languages": ["eesti"]}}, "'eesti' can't be identified"),
        ({"filters": {"min_characters": 9, "max_characters": 8}}, "nothing would be left"),
        ({"duplicates": {"threshold": 1.5}}, "threshold is a share"),
        ({"duplicates": {"keep": ["b"]}}, "there is no source 'b'"),
        ({"decontaminate": "nothing"}, "'nothing' is not one of none"),
        ({"decontaminate": {"tasks": "mini_copy"}}, "mini_copa"),
    ],
)
def test_a_slip_in_the_recipe_is_one_line(tmp_path: Path, tokenizer: Path, keys: dict[str, Any], message: str) -> None:
    write(tmp_path / "a.jsonl", TEXTS)
    sources = keys.pop("sources", {"a": source("a.jsonl")})
    with pytest.raises(ConfigError, match=message) as caught:
        prepare(tmp_path, tokenizer, sources, **keys)
    assert "\n" not in str(caught.value) and not (tmp_path / "stage").exists()
