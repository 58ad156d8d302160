"""Runs from outside: how they are sent, taken in, computed again, audited and published.

    content.py      what a bundle may hold, field by field     bundle.py      the file: written, and read with suspicion
    tokens.py       who may send                               limits.py      how often
    receive.py      a bundle becomes a submission              web.py         the same over HTTP
    recompute.py    the server's own scores of sent answers    rescoring.py   the worker that takes submissions up
    audit.py        do these weights give these answers?       moderation.py  what maintainers decide
    manage.py       their pages                                commands.py    their commands

States: received -> rescored | rejected -> published, and withdrawn. Badges: claimed, rescored, audited. To compute
scores again proves arithmetic and not origin, since golds are public: only an audit says whose answers they are.
"""
