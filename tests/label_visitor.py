"""Questions for the voting page, and who votes on them: a browser without JavaScript, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from estbench_judges.items import Item
from estbench_judges.label_page import Question, app
from lxml import html
from starlette.testclient import TestClient

SITE = "http://127.0.0.1:8123"
MODELS = ("salajane/hunt-8B", "salajane/karu-70B")


def pairs(count: int = 6, *, models: tuple[str, ...] = MODELS, turns: int = 1) -> list[Question]:
    """Questions on `count` documents for each model: its answers say so, the anchor's say "ankur"."""
    found = []
    for number in range(count):
        for model in models:
            said = tuple(f"Palve {number}.{turn}" for turn in range(turns))
            answers = tuple(f"Kandidaat {models.index(model)} vastab {number}.{turn}" for turn in range(turns))
            item = Item("ülesanne", f"doc{number}", number, "k", said, answers)
            anchor = tuple(f"Ankur vastab {number}.{turn}" for turn in range(turns))
            found.append(Question(item, model, anchor, "pairwise"))
    return found


def equivalence(*references: str, answer: str = "Tartu", reference: str | None = None) -> Question:
    item = Item("qa", "doc", 0, "k", ("Kus on Eesti vanim ülikool?",), (answer,), reference=reference)
    return Question(item, MODELS[0], references, "equivalence")


class Visitor:
    """Who votes, as a browser without JavaScript does."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.seen: list[Any] = []  # every response

    def get(self, url: str) -> Any:
        return self._landed(self.client.get(url))

    def post(self, url: str, fields: dict[str, str], **headers: str) -> Any:
        content = urlencode(fields)
        form = {"content-type": "application/x-www-form-urlencoded"}
        return self._landed(self.client.post(url, content=content, headers=form | headers))

    def _landed(self, answer: Any) -> Any:
        self.seen += [*answer.history, answer]
        self.status, self.url = answer.status_code, str(answer.url)
        self.page = html.fromstring(answer.text) if answer.text.strip().startswith("<!") else None
        return answer

    def hidden(self) -> dict[str, str]:
        return {one.get("name"): one.get("value") for one in self.page.xpath("//form//input[@type='hidden']")}

    def begin(self, name: str = "Mari", start: str = "/") -> Visitor:
        self.get(start)
        self.post(start, {**self.hidden(), "rater": name})
        return self

    def vote(self, **fields: str) -> Any:
        action = self.page.xpath("//form/@action")[0]
        return self.post(action, {**self.hidden(), "action": "save", **fields})

    def back(self) -> Visitor:
        self.get(self.page.xpath("//a[@rel='prev']/@href")[0])
        return self

    def words(self) -> str:
        return " ".join(self.page.text_content().split())

    def answers(self) -> list[str]:
        return [one.text_content() for one in self.page.xpath("//section[@class='answer']/*[contains(@class,'text')]")]

    def chosen(self) -> dict[str, str]:
        return {one.get("name"): one.get("value") for one in self.page.xpath("//input[@type='radio'][@checked]")}

    @property
    def finished(self) -> bool:
        return "Kõik on hinnatud" in self.words()


def client(
    questions: list[Question], file: Path, *, rater: str | None = None, seed: int = 1, **more: Any
) -> TestClient:
    return TestClient(app(questions, file, rater=rater, seed=seed, **more), base_url=SITE)
