"""The dashboard's files over HTTP."""

from __future__ import annotations

import gzip

import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from continuonbrain.service import problems
from continuonbrain.service.page import STATIC, add_page_routes, assets


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    problems.install(app)
    add_page_routes(app)
    return TestClient(app)


def test_every_file_is_served_as_it_is(client: TestClient) -> None:
    assert {"index.html", "js/main.js", "css/base.css", "vendor/uplot/uPlot.iife.min.js"} <= set(assets())
    for name, asset in assets().items():
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.content == asset.plain == (STATIC / name).read_bytes()
        assert gzip.decompress(asset.packed) == asset.plain
    assert client.get("/").content == client.get("/pair").content == (STATIC / "index.html").read_bytes()


def test_what_is_known_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/static/js/main.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in first.headers
    again = client.get("/static/js/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["../page.py", "%2e%2e/page.py", "js/../../app.py", "/etc/passwd", "", "js", "README.md", "x" * 4000],
)
def test_nothing_else_is(client: TestClient, path: str) -> None:
    answer = client.get(f"/static/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
