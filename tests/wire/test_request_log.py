"""The line for each request: what is in it, and what never is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.serving import MODEL, Serving, serving
from zhibei.server import http
from zhibei.server.request_log import printable, program_log

Lines = list[str]


@pytest.fixture(params=["json", "text"])
def told(request: pytest.FixtureRequest, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Serving, Lines]]:
    lines: Lines = []
    real = http.Seen
    monkeypatch.setattr(http, "Seen", lambda app, write: real(app, lines.append))
    with serving(tiny_home, log_format=request.param, api_key="the-secret-key") as server:
        yield server, lines


def ask(server: Serving, path: str, body: Any, **headers: str) -> httpx.Response:
    allowed = {"authorization": "Bearer the-secret-key", **headers}
    return httpx.post(server.url + path, json=body, headers=allowed)


def line_of(server: Serving, lines: Lines, request_id: str) -> str:
    server.until(lambda: any(request_id in line for line in lines))
    (found,) = [line for line in lines if request_id in line]
    return found


def test_a_line_says_who_what_and_how_long(told: tuple[Serving, Lines]) -> None:
    server, lines = told
    body = {"model": "TINY", "messages": [{"role": "user", "content": "my private words"}]}
    reply = ask(server, "/v1/chat/completions?secret=query", body)
    line = line_of(server, lines, reply.headers["x-request-id"])
    for private in ("private", "query", "the-secret-key"):
        assert not any(private in each for each in lines)
    if line.startswith("{"):
        found = json.loads(line)
        assert found["method"] == "POST" and found["route"] == "/v1/chat/completions" and found["status"] == 200
        assert found["model"] == MODEL and found["prompt_tokens"] == 3 and found["generated_tokens"] == 3
        moment = datetime.fromisoformat(found["time"].replace("Z", "+00:00"))
        assert moment.tzinfo is not None and abs((datetime.now(timezone.utc) - moment).total_seconds()) < 600
        assert 0 < found["first_token_seconds"] <= found["seconds"] and "outcome" not in found
    else:
        assert " 200 POST /v1/chat/completions " in line and f"model={MODEL}" in line and "generated_tokens=3" in line


def test_refusals_and_failures_have_their_line(told: tuple[Serving, Lines]) -> None:
    server, lines = told
    missing = ask(server, "/v1/chat/completions", {"model": "nowhere", "messages": [{"role": "user", "content": "x"}]})
    line = line_of(server, lines, missing.headers["x-request-id"])
    assert "404" in line and "ModelNotFound" in line and "nowhere" not in line
    refused = httpx.get(server.url + "/v1/models")
    assert "401" in line_of(server, lines, refused.headers["x-request-id"])


def test_nobody_writes_lines_of_their_own(told: tuple[Serving, Lines]) -> None:
    server, lines = told
    name = "tiny\n2026-01-01T00:00:00Z 200 GET /forged"
    reply = ask(server, "/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]})
    line_of(server, lines, reply.headers["x-request-id"])
    httpx.get(server.url + "/v1/models/%0d%0aforged%1b[31m")
    server.until(lambda: len(lines) >= 2)
    assert not any("forged" in line or any(not char.isprintable() for char in line) for line in lines)


def test_what_the_program_says_has_the_same_form() -> None:
    lines: Lines = []
    log = logging.getLogger("zhibei.server")
    with program_log(lines.append, "json"):
        log.warning("one\x1b[31m\nforged %s", "two")
        log.debug("not this")
    assert [json.loads(line)["message"] for line in lines] == ["one\x1b[31m\nforged two"] and "\n" not in lines[0]
    lines.clear()
    with program_log(lines.append, "text"):
        log.error("one\x1b[31m\nsecond")
    assert lines[0].endswith("error one\\x1b[31m\n    second")
    assert printable("a\x00b\u202ec") == "a\\x00b\\u202ec"
