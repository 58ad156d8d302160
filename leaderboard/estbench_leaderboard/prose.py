"""Pages that are mostly text: sections of the catalogue, KEY.NAME.title and KEY.NAME.text, with blank lines between
paragraphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from estbench_leaderboard.site import Content, Request


def content(request: Request, key: str, sections: Sequence[str], *, template: str = "prose.html") -> Content:
    """A page of sections."""
    t = request.t
    found = [
        {"name": name, "title": t(f"{key}.{name}.title"), "paragraphs": paragraphs(t(f"{key}.{name}.text"))}
        for name in sections
    ]
    rows = [[section["name"], section["title"], "\n\n".join(section["paragraphs"])] for section in found]
    return Content(
        template=template,
        values={"sections": found, "introduction": paragraphs(t(f"{key}.introduction"))},
        json={"title": t(f"{key}.title"), "sections": found},
        table=(("name", "title", "text"), rows),
        title=t(f"{key}.title"),
        description=t(f"{key}.description"),
    )


def with_values(content: Content, **values: Any) -> Content:
    """The same page with more for its template."""
    return dataclasses.replace(content, values={**content.values, **values})


def paragraphs(text: str) -> list[str]:
    """A text at its blank lines."""
    return [part.strip() for part in text.split("\n\n") if part.strip()]
