"""A question to a server on this machine, for commands that print its answer.

The standard library asks, because importing the clients of connector.net.http takes longer than
such a command may.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import NamedTuple

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Answer(NamedTuple):
    """The names of `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def get(host: str, port: int, path: str, *, timeout: float = 5.0) -> Answer | None:
    """The answer of the server that listens on `host` and `port`; None without one. `timeout`:
    seconds for the connection and for each read."""
    connection = http.client.HTTPConnection(_ANY.get(host, host), port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"cache-control": "no-cache"})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
