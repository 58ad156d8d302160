"""Sources: the same documents from any kind of file, each with its place, and from any batch on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from estbench_training.prepare import sources
from estbench_training.prepare.settings import SourceSettings
from made_up_words import Words
from prepare_world import write

from estbench import demo
from estbench.contamination import corpus
from estbench.demo import english
from estbench.errors import ConfigError, DataError

TEXTS = [Words(7).text(3, 30) for _ in range(40)]


def settings(**keys: Any) -> SourceSettings:
    return SourceSettings(**{"language": "et", "licence": "cc0-1.0", **keys})


def batches(folder: Path, start: int = 0, **keys: Any) -> list[sources.Batch]:
    source = settings(**keys)
    files = sources.opened("s", source, folder.joinpath)
    return list(sources.batches(source, files, 1, None, start))


def documents(folder: Path, **keys: Any) -> list[tuple[str, int, str | None]]:
    """(text, line, id) of all documents."""
    field, damaged = keys.get("field", "text"), keys.get("damaged", "stop")
    found = [sources.documents(batch, field, damaged).documents for batch in batches(folder, **keys)]
    return [(document.text, document.line, document.id) for some in found for document in some]


def jsonl(folder: Path) -> str:
    write(folder / "a.jsonl", TEXTS)
    return "a.jsonl"


def packed(folder: Path) -> str:
    content = write(folder / "b.jsonl", TEXTS).read_bytes()
    (folder / "b.jsonl").unlink()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
    return "*.gz"


def zstd(folder: Path) -> str:
    import pyarrow

    content = write(folder / "b.jsonl", TEXTS).read_bytes()
    with pyarrow.CompressedOutputStream(str(folder / "a.jsonl.zst"), "zstd") as file:
        file.write(content)
    return "a.jsonl.zst"


def parquet(folder: Path) -> str:
    import pyarrow.parquet

    table = pyarrow.table({"id": [f"d{i}" for i in range(len(TEXTS))], "n": [1] * len(TEXTS), "text": TEXTS})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    return "a.parquet"


@pytest.mark.parametrize("form", [jsonl, packed, zstd, parquet])
def test_documents_are_the_same_from_any_form(
    tmp_path: Path, form: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 600)
    monkeypatch.setattr(corpus, "ROWS", 7)
    path = form(tmp_path)
    assert documents(tmp_path, path=path) == [(text, i + 1, f"d{i}") for i, text in enumerate(TEXTS)]
    whole = batches(tmp_path, path=path)
    assert len(whole) > 4
    for start in (1, 3, len(whole)):
        assert batches(tmp_path, start, path=path) == whole[start:]


PLAIN = "esimene rida\nteine rida\n\n \nkolmas õ\r\n\n\nneljas"


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", [("esimene rida", 1), ("teine rida", 2), ("kolmas õ", 5), ("neljas", 8)]),
        ("paragraph", [("esimene rida\nteine rida", 1), ("kolmas õ", 5), ("neljas", 8)]),
        ("file", [("esimene rida\nteine rida\n\n \nkolmas õ\n\n\nneljas", 1)]),
    ],
)
def test_of_plain_text_a_document_is_what_the_recipe_says(
    tmp_path: Path, unit: str, expected: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(corpus.BOM + PLAIN.encode())
    for chunk in (1 << 20, 5):
        monkeypatch.setattr(corpus, "CHUNK", chunk)
        assert [row[:2] for row in documents(tmp_path, path="a.txt", unit=unit)] == expected
    monkeypatch.setattr(sources, "CHARACTERS", 1)
    whole = batches(tmp_path, path="a.txt", unit=unit)
    assert len(whole) == len(expected)
    assert batches(tmp_path, 1, path="a.txt", unit=unit) == whole[1:]


def test_plain_text_without_a_unit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("õ", "utf-8")
    with pytest.raises(ConfigError, match=r"source s: .*a\.txt is plain text: say with unit: what a document is"):
        batches(tmp_path, path="a.txt")


def test_several_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    for name, texts in {"b": ["2", "3"], "a": ["0", "1"], "deep/c": ["4"]}.items():
        write(tmp_path / f"in/{name}.jsonl", texts)
    assert [row[0] for row in documents(tmp_path, path="in")] == ["0", "1", "2", "3", "4"]
    assert [row[0] for row in documents(tmp_path, path="in/[ab]*")] == ["0", "1", "2", "3"]


def test_a_line_or_document_beyond_bounds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 50)
    monkeypatch.setattr(corpus, "LONGEST_LINE", 500)
    monkeypatch.setattr(sources, "MOST", 500)
    write(tmp_path / "a.jsonl", ["õ", "x" * 2000, "ä"])
    with pytest.raises(DataError, match=r"a\.jsonl:2 is longer than"):
        documents(tmp_path, path="a.jsonl")
    assert [row[0] for row in documents(tmp_path, path="a.jsonl", damaged="skip")] == ["õ", "ä"]
    (tmp_path / "a.txt").write_text("õ\n" + "x" * 2000 + "\nä\n", "utf-8")
    with pytest.raises(DataError, match=r"a\.txt:2 is longer than"):
        documents(tmp_path, path="a.txt", unit="line")
    (tmp_path / "a.txt").write_text("õ\n" * 400, "utf-8")
    assert len(documents(tmp_path, path="a.txt", unit="line")) == 400
    with pytest.raises(DataError, match="A document, from line 1 on, is longer than"):
        documents(tmp_path, path="a.txt", unit="file")


def test_a_file_that_breaks_off_stops_the_stage(tmp_path: Path) -> None:
    content = gzip.compress(write(tmp_path / "a.jsonl", TEXTS).read_bytes())
    (tmp_path / "b.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz can't be read to its end"):
        documents(tmp_path, path="b.jsonl.gz")


def test_a_parquet_row_without_text_is_named(tmp_path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["õ", None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet:2 has no text in 'text'"):
        documents(tmp_path, path="a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet has no column 'content' but text"):
        documents(tmp_path, path="a.parquet", field="content")


def test_the_limit_is_of_documents_that_could_be_read(tmp_path: Path) -> None:
    rows = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "a.jsonl").write_text("\n".join(["{", *rows, ""]), "utf-8")
    (batch,) = batches(tmp_path, path="a.jsonl")
    found = sources.documents(batch, "text", "skip", 5)
    assert [document.text for document in found.documents] == TEXTS[:5] and found.damaged == 1


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A Hub whose data sets are TEXTS, and what it was asked."""
    import datasets

    asked: list[dict[str, Any]] = []

    def rows() -> Any:
        yield from ({"content": text, "id": i} for i, text in enumerate(TEXTS))

    def load(path: str, config: str | None, **keys: Any) -> Any:
        asked.append({"path": path, "config": config, **keys})
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(sources, "ROWS", 9)
    return asked


def test_a_set_of_the_hub_is_streamed_at_one_commit_from_any_batch_on(hub: list[dict[str, Any]]) -> None:
    source = settings(hub="owner/name", config="et", split="dev", field="content")
    whole = list(sources.batches(source, [], 1, "abc", 0))
    found = [document for batch in whole for document in sources.documents(batch, "content", "stop").documents]
    assert [(document.text, document.id) for document in found] == [(text, str(i)) for i, text in enumerate(TEXTS)]
    assert hub[0] | {"token": None} == {
        "path": "hf://datasets/owner/name",
        "config": "et",
        "split": "dev",
        "revision": "abc",
        "streaming": True,
        "token": None,
    }
    for start in (2, 5):
        assert list(sources.batches(source, [], 1, "abc", start)) == whole[start:]


def test_a_fault_of_the_hub_is_one_clear_line(hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="owner/name has no field 'text' but content, id: name one"):
        list(sources.batches(settings(hub="owner/name"), [], 1, None, 0))
    with pytest.raises(DataError, match=r"owner/name can't be read from the Hub .*name them with path") as e:
        sources.commit_of(settings(hub="owner/name"))
    assert "\n" not in str(e.value)
    assert sources.commit_of(settings(path="a.jsonl")) is None


@pytest.mark.parametrize(
    ("task", "language", "within"), [("mini_qa_en", "en", "Question:"), ("mini_qa", "et", "Küsimus:")]
)
def test_a_task_of_the_demo_world_can_be_read_as_text(task: str, language: str, within: str) -> None:
    source = SourceSettings(demo=task, documents=20)
    texts = [text for batch in sources.batches(source, [], 1, None, 0) for text, _ in batch.content]
    assert source.tongue == language
    assert len(texts) == 20 and all(within in text for text in texts)
    tests = {f"{doc['context']}" for doc in (english.rows(task) if language == "en" else demo.rows(task))["test"]}
    assert not [text for text in texts if any(context in text for context in tests)]


def test_a_task_that_the_demo_world_lacks_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'mini_qq' is none of .* Did you mean 'mini_qa'"):
        SourceSettings(demo="mini_qq", documents=20)
