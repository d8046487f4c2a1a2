"""Somebody else's opinion, over HTTP: any status from 200 to 299 means go on."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from zdmigrate.backfill.throttles.reading import Reading, unknown
from zdmigrate.postgres.session import Connection

_THRESHOLD = "status 2xx"


class Endpoint:
    """One reading; the first line of a refusal's body is its reason.

    Args:
        url: http or https.
        timeout: of connecting, and of each answer of the socket. The other throttles wait meanwhile.
    """

    def __init__(self, url: str, *, timeout: timedelta) -> None:
        self._url, self._timeout = url, timeout.total_seconds()
        parts = urlsplit(url)
        self._shown = f"{parts.scheme}://{parts.hostname}{parts.path}"  # neither a password nor a token in the query
        self.name = f"endpoint {self._shown}"

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Send a GET."""
        try:
            with urllib.request.urlopen(self._url, timeout=self._timeout) as answer:  # noqa: S310
                return [Reading(name=self.name, value=str(answer.status), threshold=_THRESHOLD, healthy=True)]
        except urllib.error.HTTPError as error:
            with error:
                return [self._refused(error.code, _first_line(error))]
        except (OSError, http.client.HTTPException) as error:
            reason = f"no answer from {self._shown}: {getattr(error, 'reason', error)}"
            return [unknown(self.name, _THRESHOLD, reason, "see whether it runs: endpoint in the table [throttle]")]

    def _refused(self, status: int, text: str) -> Reading:
        reason = f"{self._shown} answers {status}" + (f": {text}" if text else "")
        return Reading(name=self.name, value=str(status), threshold=_THRESHOLD, healthy=False, reason=reason)


def _first_line(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(1000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return ""
    return text.splitlines()[0][:200] if text else ""
