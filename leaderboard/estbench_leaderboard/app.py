"""The web application: pages in both languages and three forms, static files, headers, errors.

    app = create(Site(database))          # any ASGI server runs it; `estbench serve` does
    with TestClient(app) as client: client.get("/")

Requests that need no thought are answered by the outermost layer (`responses.Pages`): rendered pages are kept by path,
query and version of the database.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi import Request as WebRequest
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from estbench import __version__
from estbench.errors import StoreError
from estbench_leaderboard import api, files, responses
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.errors import NotFound, PageError
from estbench_leaderboard.routes import FORMS, PAGES, Page
from estbench_leaderboard.site import Site, as_csv, as_json
from estbench_leaderboard.submissions.web import Intake
from estbench_leaderboard.submissions.web import routes as submitted

log = logging.getLogger("estbench.leaderboard")


def create(site: Site, intake: Intake | None = None) -> FastAPI:
    """The application of a site. intake: where submissions go; None takes none, and has no maintainers' pages."""
    app = FastAPI(title="estbench", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.site = site
    app.mount("/static", responses.Static())
    app.add_api_route("/healthz", _health(site), include_in_schema=False)
    for code in CODES:
        for page in PAGES.values():
            for form in (*FORMS, "html"):
                app.add_api_route(page.path(code, form), _endpoint(site, page, code, form), include_in_schema=False)
    app.add_api_route("/en", lambda: RedirectResponse("/en/", 308), include_in_schema=False)
    app.include_router(api.router)
    app.include_router(files.router)
    if intake is not None:
        app.include_router(submitted(site.database, intake))
    app.add_exception_handler(PageError, _refused(site))
    app.add_exception_handler(HTTPException, _refused(site))
    app.add_exception_handler(StoreError, _unavailable(site))
    app.add_middleware(api.OpenToAll)
    app.add_middleware(responses.Pages, site=site)
    return app


def _endpoint(site: Site, page: Page, code: str, form: str) -> Callable[[WebRequest], Response]:
    def endpoint(request: WebRequest) -> Response:
        return render(site, page, code, form, parameters(request), request.path_params)

    endpoint.__name__ = f"{page.name}_{code}_{form}"
    return endpoint


def render(
    site: Site, page: Page, code: str, form: str, parameters: Mapping[str, str], parts: Mapping[str, str]
) -> Response:
    """A page in one of its forms."""
    request = site.request(code, parameters)
    content = page.function(request, **parts)
    headers = {"x-estbench-version": request.snapshot.state, "content-language": code}
    if form == "json":
        kind, text = "application/json", as_json(content.json() if callable(content.json) else content.json)
    elif form == "csv":
        if content.table is None:
            raise NotFound("table")
        kind, text = "text/csv; charset=utf-8", as_csv(content.table() if callable(content.table) else content.table)
    else:
        kind, text = "text/html", site.html(content, request, page.name, parts)
    # Half a surrogate pair, which a string from outside may hold, has no bytes.
    return Response(text.encode("utf-8", "replace"), media_type=kind, headers=headers)


def _health(site: Site) -> Callable[[], dict[str, Any]]:
    def health() -> dict[str, Any]:
        """Whether the database answers; StoreError becomes a 503."""
        return {"status": "ok", "version": site.database.version()}

    return health


Handler = Callable[[WebRequest, Exception], Awaitable[Response]]


def _refused(site: Site) -> Handler:
    async def refused(request: WebRequest, error: Exception) -> Response:
        if isinstance(error, PageError):
            return responses.message(site, request.url.path, error.status, error.key, **error.values)
        status = error.status_code if isinstance(error, HTTPException) else 500
        key = {404: "error.no_page", 405: "error.method"}.get(status, "error.refused")
        answer = responses.message(site, request.url.path, status, key, name=request.url.path[:120])
        answer.headers.update((error.headers if isinstance(error, HTTPException) else None) or {})  # Allow
        return answer

    return refused


def _unavailable(site: Site) -> Handler:
    async def unavailable(request: WebRequest, error: Exception) -> Response:
        log.error("the database can't be read: %s", error)
        return responses.message(site, request.url.path, 503, "error.unavailable")

    return unavailable


def parameters(request: WebRequest) -> dict[str, str]:
    """The query's parameters; one that is repeated, as a form without JavaScript sends it, has its values in a row."""
    found: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        found[key] = f"{found[key]},{value}" if found.get(key) else value
    return found
