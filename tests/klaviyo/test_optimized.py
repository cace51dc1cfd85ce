"""What must not depend on `assert`, which `python -O` removes: guarantee 7 and the checks of what
Klaviyo answers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

_SETUP = """
import asyncio
import httpx
from connector.domain.errors import AmbiguousError, GuaranteeError
from tests.klaviyo.conftest import scripted

assert False, "this must run under -O"

async def main():
    sent = []
    def answer(request):
        sent.append(request.url.path)
        return httpx.Response(200, json={"data": {"attributes": {}}})
    api = scripted(answer).api
"""


def run_optimized(body: str) -> None:
    """Run the body of an async function that has `api`, whose requests are in `sent`."""
    code = _SETUP + body + "\nasyncio.run(main())"
    found = subprocess.run(
        [sys.executable, "-O", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_an_unlisted_endpoint_is_refused_under_python_o() -> None:
    run_optimized("""
    try:
        await api.post("POST /api/profile-subscription-bulk-create-jobs", b"{}")
    except GuaranteeError:
        pass
    else:
        raise SystemExit("the request was not refused")
    if sent:
        raise SystemExit(f"sent: {sent}")
""")


def test_a_page_that_is_no_list_is_unreadable_under_python_o() -> None:
    run_optimized("""
    try:
        async for page in api.pages("GET /api/metrics", "/api/metrics"):
            raise SystemExit(f"taken for a page: {page}")
    except AmbiguousError:
        pass
""")


@pytest.mark.parametrize("folder", ["klaviyo", "net", "pipeline"])
def test_no_check_is_an_assert(folder: str) -> None:
    for path in sorted((ROOT / "connector" / folder).rglob("*.py")):
        asserts = [n.lineno for n in ast.walk(_tree(path)) if isinstance(n, ast.Assert)]
        assert asserts == [], path


def _tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text())
