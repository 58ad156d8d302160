"""What machines read to stay up to date: an Atom feed, the list of pages for search engines, and what they may fetch.

    feeds.atom(request)       # new models, further runs of known ones, and what maintainers decided, newest first
    feeds.sitemap(request)    # every page in both languages; needs the board's public address
    feeds.robots(site)

An entry's id is made of what it is about, so that it stays the same wherever the board moves.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from estbench_leaderboard import public
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.charts.svg import escaped
from estbench_leaderboard.errors import NotFound
from estbench_leaderboard.routes import PAGES
from estbench_leaderboard.site import Request, Site

MOST = 60  # entries
NEVER = "1970-01-01T00:00:00Z"
SINGLE = ("board", "tasks", "runs", "method", "glossary", "about", "corrections", "submit")  # pages without parts
FEEDS = {"et": "/atom.xml", "en": "/en/atom.xml"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A piece of news."""

    about: str  # what makes its id
    moment: str
    title: str
    text: str
    link: str  # a path


def entries(request: Request) -> list[Entry]:
    """The newest pieces of news."""
    found = sorted(chain(_runs(request), _decisions(request)), key=lambda entry: (entry.moment, entry.about))
    return found[::-1][:MOST]


def _runs(request: Request) -> Iterator[Entry]:
    """A model's first run is news of the model, later ones are news of the run."""
    snapshot, t = request.snapshot, request.t
    known: set[str] = set()
    runs = sorted(public.runs(snapshot).values(), key=lambda row: (row.created, row.id))
    for row in runs:
        model = snapshot.model(row.fingerprint)
        if model is None:
            continue
        kind = "run" if row.fingerprint in known else "model"
        known.add(row.fingerprint)
        link = request.url("model", slug=model.slug) if kind == "model" else request.url("run", run=row.id)
        title = t(f"feed.new_{kind}", name=model.name)
        text = t("feed.measured", n=len(row.tasks), by=snapshot.hidden.submitter(row.id) or t("feed.operators"))
        yield Entry(f"{kind}:{row.fingerprint if kind == 'model' else row.id}", row.created, title, text, link)


def _decisions(request: Request) -> Iterator[Entry]:
    snapshot, t = request.snapshot, request.t
    for one in snapshot.decisions:
        model = snapshot.model(one.model) if one.model else None
        name = (model.name if model else one.model) or one.run or one.task or one.submission or ""
        key = f"feed.decided.{one.action}"
        title = t(key if request.language.has(key) else "feed.decided.other", name=name)
        yield Entry(f"decision:{one.id}", one.created, title, one.reason, f"{request.url('corrections')}#d{one.id}")


def atom(request: Request) -> str:
    """The feed. Without a public address of the board its links are relative, which readers resolve."""
    site, code, t = request.site, request.language.code, request.t
    found = entries(request)
    here = escaped(site.base_url + FEEDS[code])
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="{code}">',
        f"<id>{_id(f'feed:{site.base_url}:{code}')}</id>",
        f"<title>{escaped(t('feed.title'))}</title>",
        f"<updated>{_moment(found[0].moment) if found else NEVER}</updated>",
        f"<author><name>{escaped(t('feed.author'))}</name></author>",
        f'<link rel="self" type="application/atom+xml" href="{here}"/>',
        f'<link rel="alternate" type="text/html" href="{escaped(site.base_url + request.url("board"))}"/>',
        *(_entry(site, entry) for entry in found),
        "</feed>",
    ]
    return "\n".join(parts) + "\n"


def _entry(site: Site, entry: Entry) -> str:
    return (
        f"<entry><id>{_id(entry.about)}</id><title>{escaped(entry.title)}</title>"
        f"<updated>{_moment(entry.moment)}</updated>"
        f'<link rel="alternate" type="text/html" href="{escaped(site.base_url + entry.link)}"/>'
        f"<summary>{escaped(entry.text)}</summary></entry>"
    )


def _id(about: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'estbench:{about}')}"


def _moment(moment: str) -> str:
    """A moment of the database as Atom wants it: whole seconds, UTC."""
    return f"{moment[:19]}Z"


def sitemap(request: Request) -> str:
    """Pages in both languages. NotFound where nobody said what the board's public address is."""
    site, snapshot = request.site, request.snapshot
    if not site.base_url:
        raise NotFound("page", "/sitemap.xml")
    pages: list[tuple[str, dict[str, str]]] = [(name, {}) for name in SINGLE]
    pages += [("model", {"slug": slug}) for slug in shown_models(request)]
    tasks = dict.fromkeys(name for board in snapshot.boards.values() for name in board.tasks)
    pages += [("task", {"task": name}) for name in tasks]
    head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    rows = [_urls(site, name, parts) for name, parts in pages if name in PAGES]
    return f'{head} xmlns:xhtml="http://www.w3.org/1999/xhtml">\n' + "\n".join(rows) + "\n</urlset>\n"


def shown_models(request: Request) -> list[str]:
    """Slugs of the models that have a page."""
    boards = request.snapshot.boards.values()
    return list(dict.fromkeys(m.slug for board in boards for m in board.models.values() if m.withdrawn is None))


def _urls(site: Site, name: str, parts: dict[str, str]) -> str:
    """A page's address in each language, each with all of them beside it."""
    urls = {code: escaped(site.base_url + site.url(name, code, **parts)) for code in CODES}
    others = "".join(f'<xhtml:link rel="alternate" hreflang="{code}" href="{url}"/>' for code, url in urls.items())
    return "\n".join(f"<url><loc>{url}</loc>{others}</url>" for url in urls.values())


def robots(site: Site) -> str:
    """What search engines may fetch: pages, but neither single answers nor every combination of filters."""
    rules = ["User-agent: *", "Disallow: /api/", "Disallow: /andmed/", "Disallow: /vastus/", "Disallow: /en/sample/"]
    rules += ["Disallow: /*?"]
    rules += ["", f"Sitemap: {site.base_url}/sitemap.xml"] if site.base_url else []
    return "\n".join(rules) + "\n"
