"""Everything of the board that is a file and no page: feeds, badges, cards, figures, the database to download.

    app.include_router(files.router)

Estonian paths have no prefix, English ones begin with /en; `?lang=en` asks a badge for the other language, too.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as WebRequest
from starlette.responses import Response

from estbench_leaderboard import badges, cards, downloads, feeds, figures
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.errors import BadRequest, NotFound
from estbench_leaderboard.site import Request, Site
from estbench_leaderboard.snapshot import Model

router = APIRouter(include_in_schema=False)
BADGE = {"et": "/badge/{model}.svg", "en": "/en/badge/{model}.svg"}
CARD = {"et": "/kaart/{model}.svg", "en": "/en/kaart/{model}.svg"}
FIGURE = {"et": "/joonis/{figure}.svg", "en": "/en/joonis/{figure}.svg"}
SVG = "image/svg+xml"
OPEN = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}  # any site may show it


def _site(web: WebRequest) -> Site:
    site: Site = web.app.state.site
    return site


def _request(web: WebRequest) -> Request:
    """In the language of the path, or that of `?lang=`."""
    code = "en" if web.url.path.startswith("/en/") else "et"
    asked = web.query_params.get("lang", code)
    if asked not in CODES:
        raise BadRequest("lang", asked)
    return _site(web).request(asked, dict(web.query_params))


def _answer(request: Request, body: str, kind: str, **headers: str) -> Response:
    version = {"x-estbench-version": request.snapshot.state, "content-language": request.language.code}
    return Response(body.encode("utf-8", "replace"), media_type=kind, headers=version | headers)


def _model(request: Request, name: str) -> Model:
    found = request.snapshot.model(name)
    if found is None:
        raise NotFound("model", name)
    return found


@router.get("/atom.xml")
@router.get("/en/atom.xml")
def atom(web: WebRequest) -> Response:
    """New models, runs and corrections."""
    request = _request(web)
    return _answer(request, feeds.atom(request), "application/atom+xml")


@router.get("/sitemap.xml")
def sitemap(web: WebRequest) -> Response:
    """Every page, for search engines."""
    request = _request(web)
    return _answer(request, feeds.sitemap(request), "application/xml")


@router.get("/robots.txt")
def robots(web: WebRequest) -> Response:
    """What search engines may fetch; needs no database."""
    return Response(feeds.robots(_site(web)), media_type="text/plain")


@router.get(BADGE["et"])
@router.get(BADGE["en"])
def badge(web: WebRequest, model: str) -> Response:
    """A model's rank in words. Any site may show it."""
    request = _request(web)
    found = _model(request, model)
    body = badges.svg(badges.standing(request.snapshot, found), found, request.language)
    return _answer(request, body, SVG, **OPEN)


@router.get(CARD["et"])
@router.get(CARD["en"])
def card(web: WebRequest, model: str) -> Response:
    """The picture that goes with a link to a model."""
    request = _request(web)
    return _answer(request, cards.svg(request.snapshot, _model(request, model), request.language), SVG, **OPEN)


@router.get(FIGURE["et"])
@router.get(FIGURE["en"])
def figure(web: WebRequest, figure: str) -> Response:
    """A figure of a page, to download; parameters as those of the page."""
    request = _request(web)
    return _answer(request, figures.svg(request, figure), SVG, **OPEN)


@router.get(downloads.PATH)
async def database(web: WebRequest) -> Any:
    """The public part of the database."""
    return await downloads.answer(_site(web), web.headers.get("if-none-match", ""))
