"""What a page can't answer, as exceptions: each is a status and a text of the catalogue.

PageError
├── BadRequest     400  a parameter with a value that it can't have
├── NotFound       404  no such model, task, run or document
├── Withheld       403  documents of this task are not published
└── Gone           410  a model that was withdrawn
"""

from __future__ import annotations


class PageError(Exception):
    """Base: `key` is a text of the catalogue, `values` fill it in."""

    status = 500

    def __init__(self, key: str, **values: str) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values


class BadRequest(PageError):
    """A parameter with a value that it can't have."""

    status = 400

    def __init__(self, parameter: str, value: str) -> None:
        super().__init__("error.parameter", parameter=parameter, value=value[:80])


class NotFound(PageError):
    """There is no such thing; kind: model, task, run, document or page."""

    status = 404

    def __init__(self, kind: str, name: str = "") -> None:
        super().__init__(f"error.no_{kind}", name=name[:120])


class Withheld(PageError):
    """The documents of a task are not published."""

    status = 403

    def __init__(self, task: str) -> None:
        super().__init__("error.withheld", name=task)


class Gone(PageError):
    """A model that was withdrawn."""

    status = 410

    def __init__(self, name: str, reason: str) -> None:
        super().__init__("error.withdrawn", name=name, reason=reason)
