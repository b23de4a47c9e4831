"""What is said of all routes: made once, and not where answers are written."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from fastapi import FastAPI

from support.asgi import call
from zhibei.app import build
from zhibei.server.http import create_app
from zhibei.settings import Settings


async def test_the_description_of_the_routes_is_made_once_while_others_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = create_app(build(Settings(home=tmp_path)))
    begun, go_on, num_made = asyncio.Event(), threading.Event(), 0
    loop = asyncio.get_running_loop()

    def slow(routes: FastAPI) -> dict[str, object]:
        nonlocal num_made
        num_made += 1
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(20)
        return {"openapi": "3.1.0"}

    monkeypatch.setattr(FastAPI, "openapi", slow)
    left = asyncio.ensure_future(call(guard, path="/openapi.json"))
    others = [asyncio.ensure_future(call(guard, path="/openapi.json")) for _ in range(3)]
    await begun.wait()
    assert (await call(guard, path="/health")).status == 200
    left.cancel()
    go_on.set()
    assert [json.loads((await other).body) for other in others] == [{"openapi": "3.1.0"}] * 3
    assert num_made == 1
