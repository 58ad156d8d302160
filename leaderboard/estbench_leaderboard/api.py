"""The API at /api/v1: what the pages show, for programs. Read only, for everyone, from any other site (CORS).

    app.include_router(api.router)          # and app.add_middleware(api.OpenToAll) below the kept pages
    GET /api/v1/scores?task=estcopa&limit=100      Link: <…&offset=100>; rel="next"      ETag, 304

Answers hold the database's version and change only with it. An unknown parameter is an error, not ignored: a slip of
the keyboard would otherwise answer another question. Errors are `{"error": "one sentence"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi import Request as WebRequest
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from estbench_leaderboard import api_data, query
from estbench_leaderboard.api_models import (
    BoardName,
    BoardRow,
    Failure,
    ModelRow,
    ModelWhole,
    Rows,
    RunRow,
    RunWhole,
    SampleRow,
    SampleWhole,
    ScoreOut,
    TaskRow,
    TaskWhole,
)
from estbench_leaderboard.errors import BadRequest, NotFound, PageError
from estbench_leaderboard.site import Request
from estbench_leaderboard.skills import PRESETS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")
MOST = 500  # rows of a part
BOARD_KEYS = {field.name for field in fields(query.Query)}
CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"link, etag"),
]
PREFLIGHT = [*CORS, (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"), (b"access-control-max-age", b"86400")]


class Unknown(PageError):
    """A parameter that there is not."""

    status = 400

    def __init__(self, parameter: str) -> None:
        super().__init__("api.unknown", parameter=parameter[:80])


class Route(APIRoute):
    """A route whose wrong parameters, and those that it does not have, are one sentence."""

    def get_route_handler(self) -> Callable[[WebRequest], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        known = {field.alias for field in self.dependant.query_params}
        if self.path.endswith("/board"):
            known |= BOARD_KEYS

        async def checked(request: WebRequest) -> Response:
            for key in request.query_params:
                if key not in known:
                    raise Unknown(key)
            try:
                return await answer(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                raise BadRequest(str(first["loc"][-1]), str(first.get("input", ""))) from None

        return checked


router = APIRouter(
    prefix="/api/v1",
    route_class=Route,
    responses={code: {"model": Failure, "description": text} for code, text in (
        (400, "a parameter that there is not, or with a value that it can't have"),
        (503, "the database does not answer; try again later"),
    )},
)  # fmt: skip
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Failure, "description": "there is no such thing"}}
WITHHELD: dict[int | str, dict[str, Any]] = {
    **MISSING,
    403: {"model": Failure, "description": "documents of this task are not published"},
}

COMPARED: dict[int | str, dict[str, Any]] = {
    **WITHHELD,
    410: {"model": Failure, "description": "a model that was withdrawn"},
}


def _asked(web: WebRequest, response: Response) -> Request:
    """The newest snapshot; what is answered from it may be kept as long as its version."""
    request: Request = web.app.state.site.request("en", dict(web.query_params))
    response.headers["x-estbench-version"] = request.snapshot.state
    return request


def _board_query(web: WebRequest) -> query.Query:
    """The state of the board: the same parameters as its page has."""
    return query.Query.read(dict(web.query_params))


Asked = Annotated[Request, Depends(_asked)]
Limit = Annotated[int, Query(ge=1, le=MOST, description="rows of a part")]
Offset = Annotated[int, Query(ge=0, le=10**9, description="rows before it")]
Word = Annotated[str | None, Query(max_length=200)]
Name = Annotated[str, Path(max_length=200)]


def _part(web: WebRequest, response: Response, request: Request, rows: Sequence[T], limit: int, offset: int) -> Rows[T]:
    return _rows(web, response, request, rows[offset : offset + limit], len(rows), limit, offset)


def _rows(
    web: WebRequest, response: Response, request: Request, rows: Sequence[T], total: int, limit: int, offset: int
) -> Rows[T]:
    """A part of a list, and the links to the parts around it."""
    places = {"first": 0, "prev": max(0, offset - limit), "next": offset + limit, "last": (total - 1) // limit * limit}
    shown = {"first"} | ({"prev"} if offset else set()) | ({"next", "last"} if offset + limit < total else set())
    path, asked = quote(web.url.path), dict(web.query_params)
    links = [
        f'<{path}?{urlencode(asked | {"limit": limit, "offset": place})}>; rel="{name}"'
        for name, place in places.items()
        if name in shown
    ]
    response.headers["link"] = ", ".join(links)
    return Rows(version=request.snapshot.version, total=total, limit=limit, offset=offset, rows=list(rows))


@router.get("/models")
def models(
    web: WebRequest,
    response: Response,
    request: Asked,
    board: BoardName | None = None,
    q: Annotated[str, Query(max_length=query.MOST, description="words of the name")] = "",
    limit: Limit = 100,
    offset: Offset = 0,
) -> Rows[ModelRow]:
    """Models, newest first; one that is on two boards is there twice."""
    found = api_data.models(request.snapshot, board, q)
    return _part(web, response, request, found, limit, offset)


@router.get("/models/{model}", responses=MISSING)
def model(request: Asked, model: Name, board: BoardName | None = None) -> ModelWhole:
    """A model by its slug, name or fingerprint: scores, rank and lineage."""
    found = request.snapshot.model(model, board)
    if found is None:
        raise NotFound("model", model)
    return api_data.model(request.snapshot, found)


@router.get("/tasks")
def tasks(
    web: WebRequest,
    response: Response,
    request: Asked,
    board: BoardName | None = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Rows[TaskRow]:
    """Tasks of all boards."""
    return _part(web, response, request, api_data.tasks(request.snapshot, board), limit, offset)


@router.get("/tasks/{task:path}", responses=MISSING)
def task(request: Asked, task: Name) -> TaskWhole:
    """A task with its card."""
    found = request.snapshot.task(task)
    if found is None:
        raise NotFound("task", task)
    return api_data.task(request.snapshot, found)


@router.get("/boards")
def boards(request: Asked) -> list[BoardRow]:
    """The boards: models of one form, which are ranked together."""
    return api_data.boards(request.snapshot)


@router.get("/board")
def board(request: Asked, state: Annotated[query.Query, Depends(_board_query)]) -> dict[str, Any]:
    """The board as its page shows it; parameters as in the page's address (`board`, `preset`, `tasks`, `sort`, …)."""
    from estbench_leaderboard.board import page
    from estbench_leaderboard.pages.board import as_data

    return dict(api_data.plain(as_data(page(request.snapshot, state))))


@router.get("/scores")
def scores(
    web: WebRequest,
    response: Response,
    request: Asked,
    model: Word = None,
    task: Word = None,
    run: Word = None,
    primary: bool | None = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Rows[ScoreOut]:
    """Scores with their evidence, newest run first. `model` is a slug, name or fingerprint."""
    found, total = api_data.scores(request, model, task, run, primary, limit, offset)
    return _rows(web, response, request, found, total, limit, offset)


@router.get("/runs")
def runs(
    web: WebRequest,
    response: Response,
    request: Asked,
    model: Word = None,
    task: Word = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Rows[RunRow]:
    """Runs, newest first."""
    return _part(web, response, request, api_data.runs(request.snapshot, model, task), limit, offset)


@router.get("/runs/{run}", responses=MISSING)
def run(request: Asked, run: Name) -> RunWhole:
    """A run with its tasks and its manifest (without the places on the machine that it was made on)."""
    return api_data.run(request, run)


@router.get("/runs/{run}/eee.json", responses=MISSING)
def every_eval_ever(request: Asked, run: Name) -> dict[str, Any]:
    """The run in the format of Every Eval Ever: model and scores. Its lines for single documents need the run's folder:
    `estbench runs export form=eee` writes those."""
    return api_data.every_eval_ever(request, run)


@router.get("/runs/{run}/samples", responses=WITHHELD)
def samples(
    web: WebRequest,
    response: Response,
    request: Asked,
    run: Name,
    task: Annotated[str, Query(max_length=200)],
    limit: Limit = 100,
    offset: Offset = 0,
) -> Rows[SampleRow]:
    """Documents of a task of a run with their values, in the order of the data."""
    return _part(web, response, request, api_data.samples(request, run, task), limit, offset)


@router.get("/runs/{run}/samples/{doc}", responses=WITHHELD)
def sample(request: Asked, run: Name, doc: Name, task: Annotated[str, Query(max_length=200)]) -> SampleWhole:
    """One document: prompt, answer, gold, scores."""
    return api_data.sample(request, run, task, doc)


@router.get("/compare", responses=COMPARED)
def compare(
    request: Asked,
    models: Annotated[str, Query(max_length=1000, description="two to six slugs, with commas")],
    other: Annotated[
        str | None, Query(alias="with", max_length=200, description="of which other documents are shown")
    ] = None,
    task: Word = None,
    side: Annotated[
        Literal["a", "b"] | None, Query(description="documents that the first, or the other, does better")
    ] = None,
    page: Annotated[int | None, Query(ge=1, le=10**5, description="of those documents")] = None,
) -> Any:
    """Models on the same documents: paired differences of the first with each other, and documents that flipped."""
    from estbench_leaderboard.routes import PAGES

    return api_data.plain(PAGES["compare"].function(request).json)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Asked) -> dict[str, Any]:
    """The API's own description."""
    return schema()


def schema() -> dict[str, Any]:
    """OpenAPI of this router. Wrong parameters are a 400 here, and not FastAPI's 422."""
    from fastapi.openapi.utils import get_openapi

    from estbench import __version__

    found = get_openapi(
        title="estbench",
        version=__version__,
        summary="Estonian language models: scores with their evidence",
        description=(__doc__ or "").split("\n\n")[-1].replace("\n", " "),
        routes=router.routes,
        servers=[{"url": "/"}],
    )
    for path in found["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(name, None)
    _describe_board(found["paths"]["/api/v1/board"]["get"])
    return found


def _describe_board(operation: dict[str, Any]) -> None:
    """The parameters of the board's page, which FastAPI does not see. An empty one is none, as a form sends it."""
    allowed: dict[str, Any] = {
        "board": query.BOARDS,
        "view": query.VIEWS,
        "preset": tuple(PRESETS),
        "size": tuple(query.SIZES),
        "open": query.OPEN,
        "commercial": query.OPEN,
        "all": ("yes",),
        "order": ("reverse",),
        "rows": tuple(map(str, query.ROWS)),
        "sort": query.SORTS,  # and each skill and task
    }
    words = "[A-Za-z0-9ÄÕÖÜŠŽäõöüšž ./_-]"
    patterns = dict.fromkeys(("q", "licence"), f"^{words}{{0,{query.MOST}}}$")
    patterns |= {"since": r"^(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))?$", "page": r"^([1-9]\d{0,5})?$"}
    patterns["tasks"] = r"^([A-Za-z0-9_./+-]{1,80}(:\d{1,3}(\.\d{1,3})?)?(,|$))*$"  # of the board that is asked for
    operation["parameters"] = []
    for name in sorted(BOARD_KEYS):
        kind: dict[str, Any] = {"type": "string"}
        kind |= {"enum": [*allowed[name], ""]} if name in allowed else {}
        kind |= {"pattern": patterns[name]} if name in patterns else {}
        operation["parameters"].append({"name": name, "in": "query", "required": False, "schema": kind})


class OpenToAll:
    """ASGI middleware: pages and programs of any other site may read what is under /api (without cookies)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await send(
                {
                    "type": "http.response.start",
                    "status": 204,
                    "headers": [*PREFLIGHT, (b"allow", b"GET, HEAD, OPTIONS")],
                }
            )
            await send({"type": "http.response.body", "body": b""})
            return

        async def sending(part: Message) -> None:
            if part["type"] == "http.response.start":
                part = {**part, "headers": [*part["headers"], *CORS]}
            await send(part)

        await self.app(scope, receive, sending)
