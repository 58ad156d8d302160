"""What of a test stands in a corpus is found, and nothing else is."""

from __future__ import annotations

import gzip
import json
import random
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up_words import Words, write

from estbench.contamination import corpus, near, report, scan, text
from estbench.contamination.items import Material, Shown
from estbench.errors import ConfigError, DataError
from estbench.registry import Task

MANY = pytest.mark.parametrize("n", [150, pytest.param(1000, marks=pytest.mark.slow)])
TRUNCATED = gzip.compress(random.Random(1).randbytes(9999).hex().encode())[:-2000]


@pytest.fixture
def words() -> Words:
    return Words(1)


def material(*documents: tuple[Sequence[str], Sequence[str]], publish: bool = True, name: str = "t") -> Material:
    """A task whose documents show these texts and have these golds."""
    made = Material()
    card = Task(name, Path("t.yaml"), {"metadata": {"publish_items": publish}})
    shown = [
        Shown(f"h{i}", text.plain(list(texts)), text.plain(list(golds))) for i, (texts, golds) in enumerate(documents)
    ]
    made.add(card, shown)
    return made


def look(
    path: Path | str, tests: Material, *, with_near: bool = False, name: str = "text", processes: int = 1
) -> dict[str, Any]:
    """The report of the only task."""
    found = scan.scan(corpus.sources(str(path)), tests, with_near=with_near, name=name, processes=processes)
    return report.by_task(tests, found)[0]


def disguised(one: str, dice: random.Random) -> str:
    """The same words with other case, punctuation, digits, line ends; sometimes decomposed."""
    parts = [word.upper() if dice.random() < 0.2 else word for word in one.split()]
    glue = dice.choices([" ", ", ", "\n", " – ", " 3 ", "  "], k=len(parts))
    made = "„" + "".join(word + sign for word, sign in zip(parts, glue, strict=True)) + "“!"
    return unicodedata.normalize("NFD", made) if dice.random() < 0.2 else made


Planting = Callable[[Words], tuple[tuple[list[str], list[str]], str]]


def exact(words: Words) -> tuple[tuple[list[str], list[str]], str]:
    one = words.text(4, 7)
    while not 20 <= len(one) < 50:
        one = words.text(4, 7)
    return ([one], []), disguised(one, words.dice)


def eight_words(words: Words) -> tuple[tuple[list[str], list[str]], str]:
    one = words.some(9, 60)
    start = words.dice.randrange(len(one) - 7)
    return ([" ".join(one)], []), disguised(" ".join(one[start : start + 8]), words.dice)


def fifty_letters(words: Words) -> tuple[tuple[list[str], list[str]], str]:
    one = words.text(15, 60)
    start = words.dice.randrange(len(one) - 49)
    return ([one], []), f"q{one[start : start + 50]}q"


def gold(words: Words) -> tuple[tuple[list[str], list[str]], str]:
    one = words.text(5, 30)
    return ([words.text(12)], [one]), disguised(one, words.dice)


def near_copy(words: Words) -> tuple[tuple[list[str], list[str]], str]:
    """Words replaced, added and left out while at least 70 % of the 3-grams stay."""
    one = words.some(14, 60)
    copy = list(one)
    while True:
        changed = list(copy)
        place = words.dice.randrange(len(changed))
        changed[place : place + words.dice.randint(0, 1)] = words.some(0, 1)
        if containment(one, changed) < near.CONTAINED:
            return ([" ".join(one)], []), disguised(" ".join(copy), words.dice)
        copy = changed


def grams(one: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(one[i : i + 3]) for i in range(len(one) - 2)}


def containment(one: Sequence[str], other: Sequence[str]) -> float:
    return len(grams(one) & grams(other)) / len(grams(one))


PLANTS: dict[str, Planting] = {
    "exact": exact,
    "words": eight_words,
    "characters": fifty_letters,
    "gold": gold,
    "near": near_copy,
}


@MANY
@pytest.mark.parametrize("kind", PLANTS)
def test_of_a_thousand_plants_99_in_a_hundred_are_found_and_placed(
    kind: str, n: int, words: Words, tmp_path: Path
) -> None:
    planted = [PLANTS[kind](words) for _ in range(n)]
    documents = [f"{words.text(5, 40)} {plant} {words.text(5, 40)}" for _, plant in planted]
    row = look(
        write(tmp_path / "c.jsonl", documents), material(*(item for item, _ in planted)), with_near=kind == "near"
    )
    found = {hit["doc_id"]: hit for hit in row["hits"] if kind in hit["kinds"]}
    right = [
        i
        for i, hit in found.items()
        if any(place["id"] == f"d{i}" and place["line"] == i + 1 for place in hit["places"])
    ]
    assert row["checked"] == n and len(right) >= 0.99 * n
    assert row["kinds"][kind] == len(found)


@MANY
def test_a_clean_corpus_gives_none_of_any_kind(n: int, words: Words, tmp_path: Path) -> None:
    planted = [plant(words)[0] for plant in PLANTS.values() for _ in range(n)]
    path = write(tmp_path / "c.jsonl", [words.text(20, 200) for _ in range(2 * n)])
    row = look(path, material(*planted), with_near=True)
    assert row["items"] == row["checked"] == 5 * n
    assert row["hit"] == 0 and row["share"] == 0.0 and row["hits"] == [] and not any(row["kinds"].values())


def test_less_than_a_kind_asks_for_is_not_found(words: Words, tmp_path: Path) -> None:
    """A word or a letter too few; each piece one longer is the control."""
    few = [word for word in words.vocabulary if len(word) < 6][:30]  # nine words have fewer than fifty letters
    item = " ".join(few)
    long = words.text(20)
    short = " ".join([word for word in words.vocabulary if len(word) < 6][30:36])
    tests = material(([item, long, short], []))
    for kind, piece, more in (
        ("words", " ".join(few[4:11]), " ".join(few[4:12])),
        ("characters", f"q{long[30:79]}q", f"q{long[30:80]}q"),
        ("exact", " ".join(short.split()[:5]), short),
    ):
        around = words.text(5), words.text(5)
        assert look(write(tmp_path / "c.jsonl", [piece.join(around)]), tests)["hit"] == 0
        assert look(write(tmp_path / "c.jsonl", [f" {more} ".join(around)]), tests)["hits"][0]["kinds"] == [kind]
    assert look(write(tmp_path / "c.jsonl", [" ".join(short.split()[::-1])]), tests)["hit"] == 0


def test_near_duplicates_are_those_of_the_definition(words: Words, tmp_path: Path) -> None:
    """Against a slow count of all windows of twice the item's length."""
    items, documents, expected = [], [], []
    for i in range(200):
        item = words.some(8, 40)
        copy = list(item)
        for _ in range(words.dice.randint(0, len(item) // 4)):
            copy[words.dice.randrange(len(copy))] = words.some(1)[0]
        middle = words.dice.randrange(len(copy))
        copy[middle:middle] = words.some(words.dice.choice([0, 0, 3, len(item), 2 * len(item)]))  # torn apart
        document = words.some(0, 60) + copy + words.some(0, 60)
        width = 2 * len(item)
        best = max(
            containment(item, document[start : start + width]) for start in range(max(1, len(document) - width + 1))
        )
        items.append(([" ".join(item)], []))
        documents.append(" ".join(document))
        if best >= near.CONTAINED and len(grams(item)) >= near.FEWEST:
            expected.append(i)
    row = look(write(tmp_path / "c.jsonl", documents), material(*items), with_near=True)
    assert [
        hit["doc_id"] for hit in sorted(row["hits"], key=lambda hit: hit["doc_id"]) if "near" in hit["kinds"]
    ] == expected
    assert 40 < len(expected) < 160


def test_short_texts_of_a_document_are_a_near_duplicate_together(words: Words, tmp_path: Path) -> None:
    parts = [words.text(5) for _ in range(3)]
    tests = material((parts[:2], parts[2:]))
    copy = "; ".join(" ".join([*part.split()[:4], "muu"]) for part in parts)  # 2 of 3 grams of each
    assert look(write(tmp_path / "c.jsonl", [copy]), tests, with_near=True)["hit"] == 0
    copy = "; ".join([*parts[:2], copy.split("; ")[2]])
    row = look(write(tmp_path / "c.jsonl", [copy]), tests, with_near=True)
    assert row["kinds"]["near"] == 1 and row["hits"][0]["containment"] == pytest.approx(8 / 9)


def test_no_word_spans_two_documents(words: Words, tmp_path: Path) -> None:
    item = words.text(16)
    halves = [" ".join(item.split()[:4]), " ".join(item.split()[4:8])]
    assert look(write(tmp_path / "c.jsonl", halves), material(([item], [])), with_near=True)["hit"] == 0
    assert look(write(tmp_path / "c.jsonl", [" ".join(halves)]), material(([item], [])))["hit"] == 1


def test_nothing_is_lost_where_chunks_and_blocks_meet(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = [PLANTS[kind](words) for kind in PLANTS for _ in range(25)]
    lines = [f"{words.text(2, 12)}\n{plant}\n{words.text(2, 12)}" for _, plant in planted]
    path = tmp_path / "c.txt"
    path.write_text("\n".join(lines), "utf-8")
    tests = material(*(item for item, _ in planted))
    whole = look(path, tests, with_near=True)
    assert whole["hit"] == len(planted)
    monkeypatch.setattr(corpus, "CHUNK", 3000)
    monkeypatch.setattr(text, "BLOCK", 16_000)
    cut = look(path, tests, with_near=True)
    assert cut["hit"] == len(planted)
    assert {hit["doc_id"]: hit["kinds"] for hit in cut["hits"]} == {
        hit["doc_id"]: hit["kinds"] for hit in whole["hits"]
    }
    one_line = tmp_path / "one.txt"
    one_line.write_text(" ".join(lines).replace("\n", " "), "utf-8")
    assert look(one_line, tests, with_near=True)["hit"] == len(planted)


def test_plain_text_names_the_line(words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 2000)
    item = words.text(12)
    filler = [words.text(3, 9) + " 🙂" for _ in range(900)]
    filler[700] = disguised("Straße İ", words.dice)  # signs whose folding is longer
    path = tmp_path / "c.txt"
    path.write_text("\n".join([*filler, item, *filler[:50]]), "utf-8")
    places = look(path, material(([item], [])))["hits"][0]["places"]
    assert places[0]["line"] == 901 and places[0]["file"] == str(path) and places[0]["id"] is None


def test_every_format_gives_the_same(words: Words, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    planted = [PLANTS[kind](words) for kind in ("exact", "words", "characters", "gold") for _ in range(20)]
    documents = [f"{words.text(9)} {plant}" for _, plant in planted]
    tests = material(*(item for item, _ in planted))
    plain = write(tmp_path / "a.jsonl", documents)
    content = plain.read_bytes()
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    (tmp_path / "b.jsonl.gz").write_bytes(
        gzip.compress(content[: len(content) // 2]) + gzip.compress(content[len(content) // 2 :])
    )
    with pyarrow.CompressedOutputStream(str(tmp_path / "c.jsonl.zst"), "zstd") as stream:
        stream.write(content)
    pyarrow.parquet.write_table(
        pyarrow.table({"id": [f"d{i}" for i in range(len(documents))], "text": documents}),
        tmp_path / "d.parquet",
        row_group_size=7,
    )
    expected = look(plain, tests)
    assert expected["hit"] == len(planted)
    for name in ("bom.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        row = look(tmp_path / name, tests)
        assert [(h["doc_id"], h["kinds"], h["places"][0]["line"], h["places"][0]["id"]) for h in row["hits"]] == [
            (h["doc_id"], h["kinds"], h["places"][0]["line"], h["places"][0]["id"]) for h in expected["hits"]
        ], name
    for pattern in (tmp_path, tmp_path / "*.jsonl*"):
        row = look(pattern, tests)
        assert row["hit"] == len(planted) and all(hit["places"][0]["file"].endswith("a.jsonl") for hit in row["hits"])


def test_several_processes_find_the_same(words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = [PLANTS[kind](words) for kind in PLANTS for _ in range(8)]
    documents = [f"{words.text(900)} {plant}" for _, plant in planted] * 3
    path = write(tmp_path / "c.jsonl", documents)
    monkeypatch.setattr(corpus, "CHUNK", 1 << 16)
    monkeypatch.setattr(sys, "argv", ["estbench"])
    tests = material(*(item for item, _ in planted))
    one, two = (look(path, tests, with_near=True, processes=n) for n in (1, 2))
    assert one == two and one["hit"] == len(planted)


def slow_plain(one: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", one).casefold())
    signs = [
        ""
        if unicodedata.category(sign) == "Cf" and ord(sign) < 0x10000
        else sign
        if unicodedata.category(sign)[0] in "LM" and ord(sign) < 0x10000
        else " "
        for sign in folded
    ]
    return " ".join("".join(signs).split())


def test_normalised_text_is_what_unicode_says() -> None:
    dice = random.Random(3)
    ranges = [
        (0x20, 0x250),
        (0x300, 0x370),
        (0x370, 0x500),
        (0x1E00, 0x2100),
        (0xAC00, 0xAC80),
        (0x1100, 0x1200),
        (0x1F300, 0x1F340),
    ]
    texts = [
        "Õues\u00ad sadas 3 päeva – vihma!",
        "Straße",
        "o\u0303u\u0308\u030c",
        "",
        "…",
        "ŠOKOLAAD\u200b, ž",
        "ǰ ŉ ﬁ",
        "a\ufb01",
    ]
    texts += ["".join(chr(dice.randrange(*dice.choice(ranges))) for _ in range(40)) for _ in range(400)]
    assert text.plain(texts) == [slow_plain(one) for one in texts]
    assert text.plain(texts[:1]) == ["õues sadas päeva vihma"]


def test_diacritics_are_letters() -> None:
    assert text.plain(["täis", "tais"]) == ["täis", "tais"]


def test_boilerplate_is_not_looked_for(words: Words, tmp_path: Path) -> None:
    question = "Milline väide on teksti järgi õige?"
    frame = words.some(10)
    documents = [
        ([words.text(15), question, " ".join([*words.some(3), *frame, *words.some(3)])], []) for _ in range(40)
    ]
    tests = material(*documents)
    assert look(write(tmp_path / "c.jsonl", [question, " ".join(frame)]), tests)["hit"] == 0
    few = material(*documents[:3])  # the control: what three documents share may be theirs
    assert look(tmp_path / "c.jsonl", few)["hit"] == 3


def test_a_passage_that_documents_share_counts_for_each(words: Words, tmp_path: Path) -> None:
    passage = words.text(60)
    tests = material(*(([passage, words.text(9)], []) for _ in range(5)), *(([words.text(40)], []) for _ in range(95)))
    row = look(write(tmp_path / "c.jsonl", [passage]), tests)
    assert row["hit"] == 5 and row["share"] == 0.05 and len(tests.texts) == 101
    assert all(0.8 < hit["coverage"] < 0.95 for hit in row["hits"])


def test_what_is_too_short_is_not_called_clean(tmp_path: Path) -> None:
    row = look(
        write(tmp_path / "c.jsonl", ["Tartu on linn"]), material((["Tartu", "B"], ["Tartu"]), (["üks kaks"], []))
    )
    assert (row["items"], row["checked"], row["share"]) == (2, 0, None)


def test_items_that_may_not_be_published_are_named_by_id_alone(words: Words, tmp_path: Path) -> None:
    item = words.text(20)
    path = write(tmp_path / "c.jsonl", [item])
    open_row, closed = (look(path, material(([item], []), publish=publish)) for publish in (True, False))
    assert item.split()[3] in json.dumps(open_row, ensure_ascii=False)
    assert not any(word in json.dumps(closed, ensure_ascii=False) for word in item.split())
    assert closed["hits"][0]["doc_id"] == 0 and closed["hits"][0]["doc_hash"] == "h0"


def test_what_cannot_be_read_is_counted_and_the_rest_is_read(words: Words, tmp_path: Path) -> None:
    item = words.text(12)
    good = json.dumps({"text": item}).encode()
    path = tmp_path / "c.jsonl"
    path.write_bytes(
        b"\n".join([b'{"text": "cut', b"[1]", b'{"text": "\xff\xfe"}', b'{"body": "x"}', b'{"text": 5}', b"", good])
    )
    found = scan.scan(corpus.sources(str(path)), material(([item], [])), processes=1)
    tally = found.tally
    assert (tally.documents, tally.damaged, tally.not_utf8, tally.lacking) == (1, 2, 1, 2)
    assert found.hashes.any() and next(iter(found.places.values())).line == 7
    plain = tmp_path / "c.txt"
    plain.write_bytes(b"\xff\xfe\n" + item.encode() + b"\n")
    found = scan.scan(corpus.sources(str(plain)), material(([item], [])), processes=1)
    assert found.tally.not_utf8 == 1 and next(iter(found.places.values())).line == 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_is_too_long_is_passed_over_in_little_memory(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    items = [words.text(12) for _ in range(3)]
    first, long, second, last = (json.dumps({"text": one}).encode() for one in (items[0], "a" * 90_000, *items[1:]))
    content = b"\n".join([first, long, second, b"no JSON", long[:-2] + items[2].encode() + b'"}', last, long])
    path = tmp_path / ("c.jsonl.gz" if packed else "c.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    tests = material(*(([item], []) for item in items))
    monkeypatch.setattr(corpus, "CHUNK", 1000)

    def read() -> tuple[int, int, set[tuple[str, int]], int]:
        found = scan.scan(corpus.sources(str(path)), tests, processes=1)
        largest = max(len(chunk.content) for chunk in corpus.chunks(corpus.sources(str(path)), "text", 0, []))
        assert found.tally.bytes == len(content)  # all was gone through
        lines = {(tests.texts[number], place.line) for number, place in found.places.items()}
        return found.tally.documents, found.tally.damaged, lines, largest

    assert read()[:2] == (6, 1)  # the control: nothing is too long
    monkeypatch.setattr(corpus, "LONGEST_LINE", 5000)
    documents, damaged, lines, largest = read()
    assert (documents, damaged) == (3, 4) and largest < 8000
    assert lines == set(zip(text.plain(items), (1, 3, 6), strict=True))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b"", "no text"),
        ("c.txt", b"\n \n", "no text"),
        ("c.jsonl", b'{"body": "a", "title": "b"}\n', "body, title"),
        ("c.jsonl", b"nothing\nof it\n", "2 lines are no JSON"),
        ("c.jsonl.gz", TRUNCATED, "to its end"),
        ("c.jsonl.gz", b"no gzip at all", "to its end"),
        ("c.jsonl.zst", b"no zstd at all", "to its end"),
        ("c.parquet", b"PAR1 and more", "Parquet"),
        ("c.parquet.gz", b"", "unpack"),
    ],
)  # fmt: skip
def test_a_corpus_that_cannot_be_read_is_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        look(tmp_path / name, material((["üks kaks kolm neli viis"], [])))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_damaged_file_among_good_ones_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    item = "üks kaks kolm neli viis kuus seitse kaheksa"
    (tmp_path / "a.jsonl.zst").write_bytes(b"no zstd at all")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and more")
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": item}), "utf-8")
    found = scan.scan(corpus.sources(str(tmp_path)), material(([item], [])), processes=1)
    assert len(found.broken) == 2 and "a.jsonl.zst" in found.broken[0] and "b.parquet" in found.broken[1]
    assert found.tally.documents == 1 and len(found.places) == 1


def test_a_path_that_fits_no_file_and_a_folder_without_text_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "*.jsonl", tmp_path):
        with pytest.raises(DataError):
            corpus.sources(str(path))


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"content": ["a"], "url": ["b"]}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="content, url"):
        look(tmp_path / "c.parquet", material((["üks kaks kolm neli viis"], [])))
