"""Why something from outside is not taken: one line for the sender, and the status that HTTP has for it.

    raise Refused(409, "This bundle was sent before.")

400 not as it has to be · 401 no valid token · 403 not allowed · 404 unknown · 409 there already, or decided already
413 too large · 429 too often · 503 not now · 507 no room
"""

from __future__ import annotations

from estbench.errors import UserError


class Refused(UserError):
    """What was sent or asked is not taken; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
