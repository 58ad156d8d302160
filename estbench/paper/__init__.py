"""The table of a paper, from runs and baseline files.

    found = table([evidence.load("demo-3f"), evidence.load("demo-base-9c")], ["mini_copa"], reference="estllm")
    print(as_latex(found))        or as_markdown, as_csv; as_json is data

`tables` makes it and says what is bold; `pages` sets it as lines with footnotes; `methods` is the paragraph that says
how it was made; `latex` and `data` write it.
"""

from estbench.paper.data import as_csv, as_json
from estbench.paper.pages import as_latex, as_markdown
from estbench.paper.tables import Table, table

__all__ = ["Table", "as_csv", "as_json", "as_latex", "as_markdown", "table"]
