"""`estbench judge label`: a page on this machine on which people vote blind on answers.

    serve(questions, Path("labels.jsonl"), rater=None)          # http://127.0.0.1:8123/ until Ctrl+C
    application = app(questions, Path("labels.jsonl"), rater=None, seed=1)

No page, address or header says which model answered; only the file does, which can be had when a rater is through.
Pages ask nobody else for anything, set no cookie and work without JavaScript. A form carries a token that only this
server's pages have, and comes from them or is refused; so is a request for any other name than this machine's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from estbench.errors import ConfigError, EstbenchError
from estbench_judges import labels
from estbench_judges.label_session import Poll, words
from estbench_judges.label_session import Question as Question
from estbench_judges.label_web import CODES, STATIC, Guard, Hosts, Pages, came_from_here, form_of, run

TYPES = {"label.css": "text/css; charset=utf-8", "label.js": "text/javascript; charset=utf-8"}


def app(questions: Sequence[Question], file: Path, *, rater: str | None, seed: int, host: str = "127.0.0.1") -> FastAPI:
    """The application. rater: who votes, if it is one person; None asks for a name. host: where it will listen.

    ConfigError: nothing to vote on, or no name. DataError: `file` is no label file.
    """
    booth = Booth(Poll(questions, file, seed=seed), rater)
    made = FastAPI(title="estbench", docs_url=None, redoc_url=None, openapi_url=None)
    made.state.poll = booth.poll
    for code in CODES:
        start = "/" if code == "et" else f"/{code}/"
        for path, name, method in (
            (start, "start", "GET"),
            (start, "enter", "POST"),
            (f"{start}vote/{{seat}}", "show", "GET"),
            (f"{start}vote/{{seat}}", "vote", "POST"),
            (f"{start}vote/{{seat}}/labels.{{form}}", "download", "GET"),
        ):
            made.add_api_route(path, booth.endpoint(name, code), methods=[method], include_in_schema=False)
    made.add_api_route("/static/{name}", _static, include_in_schema=False)
    made.add_exception_handler(HTTPException, booth.refused)
    made.add_exception_handler(EstbenchError, booth.failed)
    made.add_middleware(Guard, hosts=Hosts(host))
    return made


def serve(
    questions: Sequence[Question],
    file: Path,
    rater: str | None,
    host: str = "127.0.0.1",
    port: int = 8123,
    *,
    seed: int = 1,
) -> int:
    """Serve the page until SIGINT or SIGTERM. ConfigError: an address that is taken, or not of this machine."""
    application = app(questions, file, rater=rater, seed=seed, host=host)
    poll: Poll = application.state.poll
    lines = [f"{len(poll.questions)} questions, votes go to {file}"]
    lines += [f"{count} {reason} answers are not asked about" for reason, count in sorted(poll.left_out.items())]
    run(application, host, port, lines)
    return 0


def _static(name: str) -> Response:
    if name not in TYPES:
        raise HTTPException(404)
    return Response((STATIC / name).read_bytes(), headers={"content-type": TYPES[name]})


class Booth:
    """What happens at each path. A seat stands for a rater in addresses: it is no name, and ends with the server."""

    def __init__(self, poll: Poll, rater: str | None) -> None:
        self.poll = poll
        self.fixed = None if rater is None else poll.rater(rater)
        self.secret = secrets.token_bytes(32)
        self.token = self._sealed("form")
        self.pages = Pages(self.token)
        self.seats: dict[str, str] = {}  # seat -> rater
        self.asked = {self._sealed("question", *map(str, one.key)): one for one in poll.questions}
        self.tickets = {one.key: ticket for ticket, one in self.asked.items()}
        self.shown: dict[tuple[str, str], float] = {}  # rater and ticket -> when, on the monotonic clock

    def _sealed(self, *what: str) -> str:
        """A name that says nothing to who has not the secret."""
        return hmac.new(self.secret, "\0".join(what).encode(), hashlib.sha256).hexdigest()[:24]

    def endpoint(self, name: str, code: str) -> Callable[[Request], Awaitable[Response]]:
        """An action as a route of a language."""
        done: Callable[..., Response] = getattr(self, name)

        async def endpoint(request: Request) -> Response:
            if request.method == "GET":
                return await run_in_threadpool(done, request, code)
            form = await form_of(request)
            if form is None or not came_from_here(request):
                return self._message(code, 403, "error.elsewhere")
            if not hmac.compare_digest(form.get("token", "").encode(), self.token.encode()):
                return self._message(code, 409, "error.stale")
            return await run_in_threadpool(done, request, code, form)

        endpoint.__name__ = f"{name}_{code}"
        return endpoint

    def start(self, request: Request, code: str) -> Response:
        """Who votes?"""
        if self.fixed is not None:
            return RedirectResponse(self._seat(self.fixed, code), 303)
        return self._name(code, 200)

    def enter(self, request: Request, code: str, form: dict[str, str]) -> Response:
        """A name was given: that rater's seat."""
        name = form.get("rater", "")
        try:
            rater = self.poll.rater(name) if self.fixed is None else self.fixed
        except ConfigError:
            return self._name(code, 422, name=name, error="error.name")
        return RedirectResponse(self._seat(rater, code), 303)

    def show(self, request: Request, code: str) -> Response:
        """The question that is next, or the one that was asked for; at the end, what was done."""
        rater = self.seats.get(request.path_params["seat"])
        if rater is None:
            return RedirectResponse(self._start(code), 303)
        ticket = request.query_params.get("q")
        if ticket is not None and ticket not in self.asked:
            return RedirectResponse(self._seat(rater, code), 303)
        question = self.poll.current(rater) if ticket is None else self.asked[ticket]
        return self._done(rater, code) if question is None else self._question(rater, question, code)

    def vote(self, request: Request, code: str, form: dict[str, str]) -> Response:
        """A vote, or "can't say"; then the next question."""
        rater, ticket = self.seats.get(request.path_params["seat"]), form.get("q", "")
        if rater is None or ticket not in self.asked:
            return self._message(code, 409, "error.stale")
        question = self.asked[ticket]
        skips = form.get("action") == "skip"
        content = None if skips else form.get("content", "")
        language = form.get("language", "") if question.asks_language and not skips else None
        note = form.get("note", "").replace("\r\n", "\n").strip()
        if len(note) > labels.LONGEST_NOTE:
            return self._question(rater, question, code, form, "error.note")
        allowed = (*words(question), None)
        if content not in allowed or language not in allowed:
            return self._question(rater, question, code, form, "error.choose")
        begun = self.shown.get((rater, ticket))
        seconds = 0.0 if begun is None else time.monotonic() - begun
        self.poll.record(rater, question, content, language, note=note, seconds=seconds)
        self.shown.pop((rater, ticket), None)
        return RedirectResponse(self._seat(rater, code), 303)

    def download(self, request: Request, code: str) -> Response:
        """The file, for who has voted on everything: it says who answered what."""
        rater, form = self.seats.get(request.path_params["seat"]), request.path_params["form"]
        if rater is None or form not in ("jsonl", "csv"):
            raise HTTPException(404)
        if self.poll.current(rater) is not None:
            return self._message(code, 403, "error.blind")
        kept = self.poll.kept()
        text = labels.as_csv(kept) if form == "csv" else "".join(labels.as_line(one).decode() for one in kept)
        kind = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
        name = f'attachment; filename="labels.{form}"'
        return Response(text.encode(), headers={"content-type": kind, "content-disposition": name})

    def _name(self, code: str, status: int, *, name: str = "", error: str = "") -> Response:
        two = any(question.asks_language for question in self.poll.questions)
        return self.pages.page("label_start.html", code, status, name=name, error=error, two=two, there=self._start)

    def _start(self, code: str) -> str:
        return "/" if code == "et" else f"/{code}/"

    def _seat(self, rater: str, code: str, question: Question | None = None) -> str:
        """The address of a rater's seat, or of one question there."""
        seat = self._sealed("seat", rater)
        self.seats[seat] = rater
        query = "" if question is None else f"?q={self.tickets[question.key]}"
        return f"{self._start(code)}vote/{seat}{query}"

    def _question(
        self, rater: str, question: Question, code: str, form: dict[str, str] | None = None, error: str = ""
    ) -> Response:
        ticket = self.tickets[question.key]
        self.shown.setdefault((rater, ticket), time.monotonic())
        before, item = self.poll.before(rater, question), question.item
        vote = self.poll.votes(rater).get(question.key)
        chosen = form or {
            "content": self.poll.choice(rater, question, "content"),
            "language": self.poll.choice(rater, question, "language"),
            "note": vote.note if vote else "",
        }
        sides = (item.answers, question.anchor)
        answers = sides if self.poll.first(rater, question) == "model" else sides[::-1]
        return self.pages.page(
            "label_vote.html",
            code,
            422 if error else 200,
            error=error,
            ticket=ticket,
            pairwise=question.mode == "pairwise",
            turns=list(zip(item.turns, *answers, strict=True)) if question.mode == "pairwise" else [],
            said=list(zip(item.turns, item.answers, strict=True)),
            references=question.references,
            spoken=item.language if len(item.language) in (2, 3) else None,
            asks_language=question.asks_language,
            chosen=chosen,
            again=vote is not None,
            **self._frame(rater, code, before),
            there=lambda code: self._seat(rater, code, question),
        )

    def _done(self, rater: str, code: str) -> Response:
        unsure = self.poll.unsure(rater)
        return self.pages.page(
            "label_done.html",
            code,
            file=str(self.poll.file.absolute()),
            seat=self._seat(rater, code),
            unsure=None if unsure is None else self._seat(rater, code, unsure),
            start=None if self.fixed else self._start(code),
            **self._frame(rater, code, self.poll.before(rater, None)),
            there=lambda code: self._seat(rater, code),
        )

    def _frame(self, rater: str, code: str, before: Question | None) -> dict[str, Any]:
        """What pages of a rater share."""
        back = None if before is None else self._seat(rater, code, before)
        return {"rater": rater, "progress": self.poll.progress(rater), "back": back, "here": self._seat(rater, code)}

    def _message(self, code: str, status: int, key: str, **values: str) -> Response:
        return self.pages.page("label_error.html", code, status, key=key, values=values, there=self._start)

    async def refused(self, request: Request, error: Exception) -> Response:
        """A path that is none."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self._message(_code(request), status, "error.no_page" if status == 404 else "error.refused")

    async def failed(self, request: Request, error: Exception) -> Response:
        """The file can't be read or written: what was voted is not kept, and that is said."""
        key = "error.unsaved" if request.method == "POST" else "error.file"
        return self._message(_code(request), 500, key, why=str(error))


def _code(request: Request) -> str:
    """The language of an address."""
    return next((code for code in CODES if request.url.path.startswith(f"/{code}/")), CODES[0])
