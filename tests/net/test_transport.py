"""What aiohttp does below httpx, on real sockets that break at every point: a request is sent once,
and no text names a URL."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from connector.domain.errors import AmbiguousError, DeliveryError, Problem, RetryLater
from connector.net.http import ApiResponse, Http
from connector.net.transport import ConnectionPool, Transport, tls_context

from .servers import ACCEPTED, listening, make_http, raw_server, read_request, reset

ADDRESS = "ana%40example.com"
PATH = f"/customers/{ADDRESS}?filter=equals(email%2C%22a%2Bb%40x.test%22)&page%5Bcursor%5D=a%3D%3D"
LARGE = b"x" * 20_000_000
"""More than the buffers of a socket hold."""


async def call(http: Http, method: str = "POST", content: bytes | None = b"{}") -> object:
    try:
        return await http.call(method, PATH, route="/customers/{email}", content=content)
    except DeliveryError as error:
        text = f"{error} {error.detail} {error.__cause__}"
        assert "ana" not in text
        assert "/customers" not in text
        return error


async def test_a_url_is_sent_as_it_was_written() -> None:
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(ACCEPTED)
        await writer.drain()

    async with raw_server(handler) as http:
        assert isinstance(await call(http), ApiResponse)
    assert heads[0].startswith(f"POST {PATH} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    "path",
    [
        "/a b/ä?q=1 2",
        "/a/../b/./c",
        "/100%/x%2fy?z=%",
        '/a?filter=any(email,["x@y.test"])&fields[profile]=email',
        "/a'(b)*;c=d,e|f?g=`h`{i}",
        "/a#part",
    ],
)
async def test_a_url_is_quoted_as_httpx_quotes_it(path: str) -> None:
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(ACCEPTED)
        await writer.drain()

    async with raw_server(handler) as http:
        await http.call("GET", path, route="/")
    expected = httpx.URL(f"http://127.0.0.1{path}").raw_path
    assert heads[0].split(b" ")[1] == expected


async def test_headers_of_an_answer_have_lower_case_names_and_are_joined() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        answer = b"HTTP/1.1 200 OK\r\nRateLimit-Remaining: 3\r\nX-A: 1\r\nx-a: \xc3\xa4\r\n"
        writer.write(answer + b"X-B: \xe4\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with raw_server(handler) as http:
        found = await http.call("GET", "/", route="/")
    assert found.headers["ratelimit-remaining"] == "3"
    assert (found.headers["x-a"], found.headers["x-b"]) == ("1, ä", "ä")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_is_sent_once_when_a_kept_connection_breaks(method: str) -> None:
    """aiohttp repeats some methods: a second DELETE of a member may cross a join."""
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(ACCEPTED)
        await writer.drain()
        heads.append(await read_request(reader))

    async with raw_server(handler) as http:
        assert isinstance(await call(http, method), ApiResponse)
        assert isinstance(await call(http, method), AmbiguousError)
    assert len(heads) == 2


@pytest.mark.parametrize("content", [b"{}", LARGE])
@pytest.mark.parametrize("whole", [False, True])
async def test_a_reset_within_a_request_is_ambiguous(content: bytes, whole: bool) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (read_request(reader) if whole else reader.read(10))
        reset(writer)

    async with raw_server(handler) as http:
        found = await call(http, content=content)
    assert isinstance(found, AmbiguousError)
    assert found.problem in (Problem.CONNECTION_LOST, Problem.ANSWER_UNREADABLE)


async def test_a_reset_within_an_answer_is_ambiguous() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{")
        await writer.drain()
        reset(writer)

    async with raw_server(handler) as http:
        found = await call(http)
    assert isinstance(found, AmbiguousError)


async def test_no_redirect_is_followed_and_no_cookie_kept() -> None:
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            heads.append(await read_request(reader))
            writer.write(b"HTTP/1.1 302 Found\r\nlocation: /x\r\nset-cookie: a=b\r\n")
            writer.write(b"content-length: 0\r\n\r\n")
            await writer.drain()

    async with raw_server(handler) as http:
        for _ in range(2):
            assert isinstance(await call(http, "GET", None), DeliveryError)
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


async def test_a_compressed_answer_is_unpacked() -> None:
    body = gzip.compress(b'{"a":1}')

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"accept-encoding: gzip" in (await read_request(reader)).lower()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        await writer.drain()

    async with raw_server(handler) as http:
        found = await call(http)
    assert isinstance(found, ApiResponse)
    assert found.json() == {"a": 1}


def server_tls(folder: Path) -> ssl.SSLContext:
    """With a certificate that is signed by itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_nothing_is_sent_to_a_server_whose_certificate_is_not_trusted(
    tmp_path: Path,
) -> None:
    read: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read.append(await reader.read())

    async with raw_server(handler, scheme="https", tls=server_tls(tmp_path)) as http:
        found = await call(http)
    assert isinstance(found, RetryLater)
    assert found.problem is Problem.NOT_CONNECTED
    assert "TLS" in found.detail
    assert not any(read)


async def test_one_tls_context_serves_all_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []

    def make(**options: Any) -> ssl.SSLContext:
        made.append(ssl.create_default_context())
        return made[-1]

    async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr(httpx, "create_ssl_context", make)
    tls_context.cache_clear()
    async with listening(handler, server_tls(tmp_path)) as address:
        for _ in range(3):
            http = make_http(f"https://{address}")
            assert isinstance(await call(http), RetryLater)
            await http.aclose()
    tls_context.cache_clear()
    assert len(made) == 1


async def test_transports_share_the_connections_of_a_pool() -> None:
    opened = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for _ in range(2):
            await read_request(reader)
            writer.write(ACCEPTED)
            await writer.drain()

    pool = ConnectionPool()
    async with listening(handler) as address:
        first, second = (make_http(f"http://{address}", transport=Transport(pool)) for _ in "ab")
        assert isinstance(await call(first), ApiResponse)
        await first.aclose()
        assert isinstance(await call(second), ApiResponse)
        await second.aclose()
    await pool.aclose()
    assert opened == 1
