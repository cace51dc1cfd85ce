"""All clients share one TLS context, and it trusts no one by accident."""

from __future__ import annotations

import asyncio
import datetime
import gc
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connector.domain.errors import Problem, RetryLater
from connector.net.http import Http, client
from connector.runtime.clock import SystemClock


def count_contexts() -> int:
    gc.collect()
    return sum(isinstance(each, ssl.SSLContext) for each in gc.get_objects())


async def test_many_clients_cost_one_tls_context() -> None:
    first = client()
    before = count_contexts()
    more = [client() for _ in range(20)]
    assert count_contexts() == before
    for each in (first, *more):
        await each.aclose()


def untrusted_server(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate for 127.0.0.1 that no authority has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_a_server_whose_certificate_is_not_trusted_gets_no_request(tmp_path: Path) -> None:
    reached: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=untrusted_server(tmp_path))
    port = server.sockets[0].getsockname()[1]
    http = Http(
        f"https://localhost:{port}", vendor="klaviyo", clock=SystemClock(), credential=lambda: {}
    )
    with pytest.raises(RetryLater) as caught:
        await http.call("GET", "/", route="/")
    assert caught.value.problem is Problem.NOT_CONNECTED
    assert "TLS" in str(caught.value)
    assert reached == []
    await http.aclose()
    server.close()
    await server.wait_closed()
