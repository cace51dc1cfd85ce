"""A target server that costs very little: reads a body, answers 202 without one. Only the question
whose account the key is has a real answer.

`python -m bench.target PORT`, in a separate process so that its CPU time is not counted.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

_ANSWER = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
_ACCOUNTS = (
    b'{"data":[{"type":"account","id":"BENCH","attributes":{"timezone":"UTC",'
    b'"contact_information":{"organization_name":"bench"}}}]}'
)
_ACCOUNTS_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    % (len(_ACCOUNTS), _ACCOUNTS)
)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._head = b""
        self._missing: int | None = None
        self._answer = _ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._head[:end].lower()
            at = head.find(b"content-length: ")
            length = int(head[at + 16 :].split(b"\r", 1)[0]) if at >= 0 else 0
            self._missing = length - (len(self._head) - end - 4)
            self._answer = _ACCOUNTS_ANSWER if head.startswith(b"get /api/accounts") else _ANSWER
            self._head = b""
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            self._missing = None
            self._transport.write(self._answer)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
