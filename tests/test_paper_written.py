"""What is written of a paper's table: methods, sources, LaTeX, Markdown, CSV and JSON, sound whatever names hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from paper_world import CARD, Make, make, read_csv, right

from estbench import evidence, paper, registry
from estbench.paper import latex
from estbench.paper.data import CSV_COLUMNS

__all__ = ["make"]  # a fixture

# --- methods and sources ----------------------------------------------------------------------------------------------


def test_the_methods_say_what_the_runs_say(make: Make) -> None:
    locked = {"data": CARD["data"] | {"commit": "abcdef0123456789", "matches_lock": True}}
    changed = {"data": CARD["data"] | {"path": "other/set", "commit": "1234", "matches_lock": False}}
    one = make("x", {"a": locked, "gen": changed}, a=right(150), gen=right(90))
    two = make(
        "y", {"a": locked, "gen": changed}, {"model": {"name": "y", "revision": "fee1"}}, a=right(50), gen=right(9)
    )
    text = paper.as_json(paper.table([one, two]))["methods"]
    for words in (
        "evaluated with estbench 0.1.0.",
        "the hf engine, float32, torch 2.9.",
        f"Runs: x ({one.id}), y ({two.id}, revision fee1).",
        "a (200, 5, completion), gen (200, 5, completion)",
        "by the log-likelihood of given texts (a); by generating greedily, at most 24 tokens (gen)",
        "95 % intervals: Wilson (a, gen)",
        "McNemar's mid-p test (a, gen)",
        "Holm's procedure for all pairs of models",
        "commit recorded, as locked (own/set, et at abcdef012345)",
        "commit recorded, other rows than locked (other/set, et at 1234)",
        "(score − chance) / (best possible − chance)",
    ):
        assert words in text
    assert "a copy" not in text and "system message" not in text and "published" not in text


def test_what_is_not_known_is_not_made_up(make: Make, tmp_path: Path) -> None:
    run = make("x", changes={"settings": {"prompt_options": {"system": "Vasta lühidalt."}}}, a=right(150))
    evidence.save(run, tmp_path / "main.json")
    kept = paper.as_json(paper.table([evidence.load(str(tmp_path / "main.json"))]))["methods"]
    assert "in a way not recorded in what was read" in kept and "no commit recorded (own/set, et)" in kept
    assert "“Vasta lühidalt.” (x)" in kept and "was compared" not in kept and "Signatures" not in kept
    taken = {"engine": {"engine": "lm-eval/hf", "dtype": None}, "versions": {"estbench": "9", "lm_eval": "0.4.13"}}
    theirs = paper.as_json(paper.table([make("z", changes=taken, a=right(150))]))["methods"]
    assert "lm-eval 0.4.13, from its result files" in theirs and "estbench 9" not in theirs


def test_no_place_on_this_machine_is_named(make: Make) -> None:
    place = {"data": CARD["data"] | {"path": "/home/mari/secret/own.jsonl", "config": None, "origin": "/home/mari"}}
    changes = {"model": {"name": "x", "path": "/home/mari/x"}, "command": "estbench eval model=/home/mari/x"}
    found = paper.table([make("x", {"a": place}, changes, a=right(150))])
    written = [paper.as_latex(found), paper.as_markdown(found), paper.as_csv(found), json.dumps(paper.as_json(found))]
    assert not any("mari" in text for text in written) and "own.jsonl" in written[0]


def test_every_task_cites_what_its_card_says(make: Make) -> None:
    found = paper.table([make("x", estcopa=right(60), flores_en_et=right(50), flores_et_en=right(50), own=right(9))])
    sources = [latex.bibtex(source) for source in found.cited.values()]
    assert len(set(sources)) == 2 and "own" not in found.cited
    assert "author = {{Ponti et al.}}" in sources[0] and "year = {2020}" in sources[0]
    text = paper.as_latex(found)
    keys = re.findall(r"@misc\{([^,]+),", text)
    assert len(keys) == len(set(keys)) == 2 and set(re.findall(r"\\cite\{([^}]+)\}", text)) == set(keys)


def test_all_citations_of_the_project_become_sound_entries() -> None:
    cards = registry.Registry().tasks.values()
    texts = {str(card.metadata["citation"]) for card in cards if card.metadata.get("citation")}
    entries = {latex.source(text).key: latex.bibtex(latex.source(text)) for text in texts}
    assert len(entries) == len(texts) > 20
    for key, entry in entries.items():
        assert re.fullmatch(r"[a-z0-9]+-[0-9a-f]{6}", key) and entry.startswith(f"@misc{{{key},\n")
        assert balanced(entry) and "[}U+" not in entry
    assert latex.source("Härm & Alumäe 2022. Lühikokkuvõtted.").key.startswith("harm2022-")


# --- what is written --------------------------------------------------------------------------------------------------

NASTY = r"=a_b%c&d#e$f{g}h~i^j\k<l>m|n`o*p[q]r@s --- “õäöüšž” 中"


def nasty(make: Make) -> paper.Table:
    runs = [make(NASTY, a=right(150), **{NASTY.replace("/", ""): right(90)}), make("-y", a=right(50))]
    return paper.table([*runs, make("[x]", changes={"skipped": {NASTY: f"+{NASTY}"}}, a=right(149))])


def balanced(text: str) -> bool:
    depth = 0
    for sign in re.sub(r"\\.", "", text, flags=re.S):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0


SAFE = re.compile(
    r"\\(?:[_%&#$]|text(?:backslash|braceleft|braceright|asciitilde|asciicircum|less|greater|bar|asciigrave)\{\}|ldots\{\})"
    r"|\$(?:-|\\pm|\\times|\\downarrow|\\rightarrow|\\leq|\\geq)\$|\{[\[\]*]\}|-\{\}"
)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_text_commands_latex(text: str) -> None:
    written = latex.tex(text)
    assert balanced(written)
    left = SAFE.sub("", written)
    assert not set(left) & set('\\_%&#$~^<>|"*[]{}\n')
    assert all(sign.isascii() or sign in "ßæœøłÆŒØŁ" or (sign.isalpha() and ord(sign) < 0x180) for sign in left)


def test_the_latex_is_sound_whatever_names_hold(make: Make) -> None:
    text = paper.as_latex(nasty(make))
    body, end, bibliography = text.partition("\n\\endinput")
    assert end and balanced(body) and balanced(bibliography)
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", body):
        assert kind == "begin" or open_environments.pop() == name
        open_environments += [name] * (kind == "begin")
    assert not open_environments
    commands = set(re.findall(r"\\([A-Za-z]+)", SAFE.sub("", body)))
    assert commands <= {"begin", "end", "usepackage", "endinput", "centering", "footnotesize", "scriptsize",
                        "setlength",
                        "tabcolsep", "caption", "label", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn",
                        "textbf", "textsuperscript", "textcolor", "par", "smallskip", "medskip", "linewidth",
                        "paragraph", "cite"}  # fmt: skip
    for part in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", body, flags=re.S):
        columns = re.match(r"\\begin\{tabular\}\{@\{\}(l(r+))@\{\}\}", part)
        assert columns
        for row in re.findall(r"^(.*) \\\\$", part, flags=re.M):
            spans = [int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)\}", row)]
            assert len(re.findall(r"(?<!\\)&", row)) + sum(spans) == len(columns[2])
            assert not row.startswith(("[", "*"))
    assert "õäöüšž" in body and "{[}U+4E2D{]}" in body


def test_wide_tables_are_broken_into_even_parts(make: Make) -> None:
    run = make("x", **{f"t{at}": right(60 + at) for at in range(13)})
    text = paper.as_latex(paper.table([run]))
    assert [len(row) for row in re.findall(r"\{@\{\}l(r+)@\{\}\}", text)] == [5, 5, 4]  # 13 and the mean
    assert all(f" t{at} " in text for at in range(13))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="TeX is not installed for this")
def test_pdflatex_compiles_it(make: Make, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(paper.as_latex(nasty(make)), "utf-8")
    packages = r"\usepackage{booktabs,xcolor}"
    whole = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{table}}\end{{document}}"
    (tmp_path / "whole.tex").write_text(whole, "utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "whole.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_markdown_is_a_table_without_html(make: Make) -> None:
    found = nasty(make)
    html = MarkdownIt("commonmark").enable("table").render(paper.as_markdown(found))
    assert html.count("<table>") == 1 and "<a" not in html and "<em>" not in html and "<img" not in html
    cells = [row.count("<td") for row in html.split("<tr>") if "<td" in row]
    assert set(cells) == {1 + len(found.columns) + bool(found.mean)}
    assert html.count("<strong>") == 1 + sum(cell.bold for column in found.columns for cell in column.cells)
    plain = re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert plain.count(latex.plain(NASTY)) >= 3


def test_the_csv_has_every_number_unrounded_and_no_formula(make: Make) -> None:
    found = nasty(make)
    lines = read_csv(paper.as_csv(found))
    assert len(lines) == len(found.runs) * len(found.columns) and set(lines[0]) == set(CSV_COLUMNS)
    assert all(CSV_COLUMNS.values())
    first = found.columns[0].cells[0].score
    assert first is not None and lines[0]["ci_low"] == repr(first.ci_low) and float(lines[0]["value"]) == first.value
    assert {line["model"] for line in lines} == {f"'{NASTY}", "'-y", "[x]"}
    assert any(line["notes"].startswith("'+=a_b") for line in lines)
    mcc = paper.table([make("x", {"a": {"primary": "other", "chance": 0.0}}, a=[-0.5, -0.1, 0.2] * 10)])
    assert float(read_csv(paper.as_csv(mcc))[0]["value"]) == pytest.approx(-0.4 / 3)  # a number stays one
    assert "−13.3" in paper.as_markdown(mcc) and "$-$13.3" in paper.as_latex(mcc)


def test_the_json_says_the_same(make: Make) -> None:
    found = nasty(make)
    data = json.loads(json.dumps(paper.as_json(found), allow_nan=False))
    assert [run["model"] for run in data["runs"]] == list(found.labels)
    lines = read_csv(paper.as_csv(found))
    assert [str(row["value"] if row["value"] is not None else "") for row in data["scores"]] == [
        line["value"] for line in lines
    ]
    assert [row["bold"] for row in data["scores"]] == [line["bold"] == "true" for line in lines]
    assert data["tasks"][0]["best"] == NASTY and data["mean"] is None and data["published"] == []


def test_tasks_keep_the_order_they_are_named_in(make: Make) -> None:
    run = make("x", a=right(60), b=right(70), c=right(80))
    assert [column.task for column in paper.table([run], ["c", "a", "c"]).columns] == ["c", "a"]
    assert [column.task for column in paper.table([run]).columns] == ["a", "b", "c"]
