"""M2 files: what is read from them as published, what is refused, what is odd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estbench.errors import DataError
from estbench.metrics import gec
from estbench.metrics.m2 import estgec_l1_rows, estgec_l2_rows, first_correction, read_m2, running_text

NORMALISED = Path(__file__).parents[2] / "shared" / "data" / "fixtures" / "gec_dev_gold.m2"
L2 = "tlu-dt-nlp__EstGEC-L2-Corpus/dev/source_gold_dev.txt"
L1 = "TartuNLP__estgec/Tartu_L1_corpus/test"

CLEAN = """S Ta lähed koju .
A 1 2|||R:VERB:FORM|||läheb|||REQUIRED|||-NONE-|||0
A 1 2|||R:VERB:FORM|||lähen||läks|||REQUIRED|||-NONE-|||1
A 3 3|||U:LEX|||-NONE-|||REQUIRED|||-NONE-|||1

S Tere !
A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||0
"""


def text(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def test_a_clean_file_gives_rows_and_no_warning() -> None:
    rows, warnings = read_m2(CLEAN, "a.m2")
    assert warnings == []
    assert [row["source_tokens"] for row in rows] == [["Ta", "lähed", "koju", "."], ["Tere", "!"]]
    first, second, third = rows[0]["edits"]
    assert first == {"annotator": 0, "start": 1, "end": 2, "type": "R:VERB:FORM", "corrections": ["läheb"]}
    assert (second["annotator"], second["corrections"], third["corrections"]) == (1, ["lähen", "läks"], [""])
    assert rows[1]["edits"] == [{"annotator": 0, "start": -1, "end": -1, "type": "noop", "corrections": [""]}]
    assert {tuple(edit) for row in rows for edit in row["edits"]} == {gec.FIELDS}  # equal keys: a data set takes them


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda text: text.replace("\n", "\r\n"), "line 1: CRLF line ends"),
        (lambda text: "\ufeff" + text, "line 1: a byte order mark"),
        (lambda text: text.replace("\n\nS", "\nS"), "line 5: no empty line before the sentence"),
        (lambda text: text.replace("U:LEX|||-NONE-", "U:LEX|||-NONE"), "line 4: -NONE instead of -NONE-"),
        (lambda text: text.replace("läheb|", "läheb |"), "line 2: needless spaces in a correction"),
        (lambda text: text.replace("koju .\nA", "koju .\n\nA"), "line 3: an empty line inside the block"),
        (lambda text: text.replace("A -1 -1", "A 0 0"), "line 7: noop at 0 0 instead of -1 -1"),
    ],
)
def test_what_is_odd_is_read_and_named_with_its_line(change: Any, warning: str) -> None:
    rows, warnings = read_m2(change(CLEAN), "a.m2")
    assert rows == read_m2(CLEAN, "a.m2")[0]
    assert warnings == [f"a.m2, {warning}"]


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("|||1\n", "|||2\n", "line 1: annotators 0, 2: one is skipped"),
        ("A 3 3", "A 1 3", "line 1: edits of annotator 1 overlap"),
        ("A 3 3|||U:LEX", "A 1 3|||R:WO", None),  # word-order edits contain others by design
        ("A 3 3", "A 9 9", "line 4: the edit 9 9 ends outside the sentence of 4 words"),
        ("A 3 3|||U:LEX", "A -1 -1|||noop", "line 1: annotator 1 has edits beside noop"),
    ],
)
def test_odd_annotations_are_kept(old: str, new: str, warning: str | None) -> None:
    rows, warnings = read_m2(CLEAN.replace(old, new), "a.m2")
    assert len(rows[0]["edits"]) == 3
    assert warnings == ([f"a.m2, {warning}"] if warning else [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("S Ta lähed koju .\n", "", "line 1: an edit before the first sentence"),
        ("A 1 2|||R:VERB:FORM|||läheb|||REQUIRED|||-NONE-|||0", "A 1 2|||R|||läheb", "line 2: an edit is 'A START END"),
        ("A 3 3", "A drei 3", "line 4: an edit is"),
        ("A 3 3", "A 3 2", "line 4: 3 2 is no stretch of words"),
        ("A 3 3", "A -1 3", "line 4: -1 3 is no stretch of words"),
        ("|||1\n", "|||Mari\n", "line 3: the annotator 'Mari' is no number"),
        ("S Tere !", "S ", "line 6: a sentence without words"),
        ("S Tere !", "Tere !", "line 6: 'Tere !' is neither a sentence (S …) nor an edit (A …)"),
        (CLEAN, "\n", "has no sentence"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_line(old: str, new: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_m2(CLEAN.replace(old, new), "folder/a.m2")
    assert message in str(error.value)
    assert "folder/a.m2" in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_both_corpora() -> None:
    texts = {
        "test/source_gold_test.txt": CLEAN,
        "test/source_sentences_test_detokenized.txt": "Ta lähed koju.\nTere!\n",
    }
    rows = estgec_l2_rows(texts)
    assert [(row["source"], row["target"], row["text"]) for row in rows] == [
        ("Ta lähed koju.", "Ta läheb koju.", 0),
        ("Tere!", "Tere!", 1),
    ]
    gold, sentences = CLEAN.replace("\n\nS", "\nS") + "\nS Jah .", "Ta lähed koju.\nTere!\nJah."
    joined = estgec_l2_rows(dict(zip(texts, (gold, sentences), strict=True)))
    assert [row["text"] for row in joined] == [0, 1, 1]
    unordered = CLEAN.replace(
        "A 1 2|||R:VERB:FORM|||läheb", "A 2 3|||R:LEX|||ära|||REQUIRED|||-NONE-|||0\nA 1 2|||R|||läheb"
    )
    l1 = estgec_l1_rows({"t/test_m2.txt": unordered, "t/test_laused.txt": "Ta lähed koju.\nTere!"})
    assert [(edit["annotator"], edit["start"]) for edit in l1[0]["edits"]] == [(0, 1), (0, 2), (1, 1), (1, 3)]
    assert l1[0]["target"] == "Ta läheb ära."


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("Ta lähed koju.\n", "1 sentences"),
        ("Ta läheb koju.\nTere!\n", "line 1 is not the sentence of test/gold.txt, line 1"),
    ],
)
def test_sentences_of_another_file_are_refused(sentences: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        estgec_l2_rows({"test/gold.txt": CLEAN, "test/x_detokenized.txt": sentences})
    with pytest.raises(DataError, match="An M2 file and its sentences"):
        estgec_l2_rows({"test/gold.txt": CLEAN})


def test_the_first_annotators_sentence() -> None:
    tokens = ["a", "b", "c", "d"]

    def corrected(*edits: tuple[int, int, str, str]) -> str:
        rows = [dict(zip(gec.FIELDS, (0, s, e, kind, [words]), strict=True)) for s, e, kind, words in edits]
        return " ".join(first_correction(tokens, rows))

    assert corrected((1, 1, "M", "x"), (1, 2, "R", "y"), (3, 4, "U", "")) == "a x y c"
    assert (
        corrected((1, 2, "R", "y"), (0, 3, "R:WO", "c b a")) == "c b a d"
    )  # word order first, what is inside is left out
    assert corrected((4, 4, "M", "."), (4, 4, "M", "!")) == "a b c d . !"
    assert running_text(["Ta", "ütles", ":", '"', "Tere", "!", '"', "(", "vist", ")"]) == 'Ta ütles: "Tere!" (vist)'


def test_the_published_file_and_the_normalised_one_give_the_same_rows(mirror: Path) -> None:
    if not NORMALISED.exists():
        pytest.skip("the normalised file is not here")
    rows, warnings = read_m2(text(mirror / L2), "dev")
    same, fewer = read_m2(text(NORMALISED), "normalised")
    assert rows == same
    assert len(rows) == 1692
    assert sum("no empty line" in warning for warning in warnings) == 84
    assert sum("CRLF" in warning for warning in warnings) == 1
    assert [w.split(": ")[1] for w in warnings if "empty line" not in w and "CRLF" not in w] == [
        w.split(": ")[1] for w in fewer
    ]


def test_rows_of_the_published_corpora(mirror: Path) -> None:
    detokenised = L2.replace("gold_dev", "sentences_dev_detokenized")
    rows = estgec_l2_rows({path: text(mirror / path) for path in (L2, detokenised)})
    assert len({row["text"] for row in rows}) == 85  # of 102 texts: at 17 places the empty line is there
    assert sum(edit["annotator"] == 0 and edit["type"] != "noop" for row in rows for edit in row["edits"]) == 3382
    paths = [f"{L1}/test_m2.txt", f"{L1}/test_laused.txt"]
    l1 = estgec_l1_rows({path: text(mirror / path) for path in paths})
    assert len(l1) == 1453
    assert sum(any(edit["type"] != "noop" for edit in row["edits"]) for row in l1) == 447
    warnings = read_m2(text(mirror / paths[0]), "L1")[1]
    assert "L1, line 4524: the edit 0 11 ends outside the sentence of 7 words" in warnings
