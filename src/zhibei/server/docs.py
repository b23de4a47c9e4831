"""The API page at ``/docs``: one file of our own that shows ``/openapi.json``. It loads nothing from anywhere else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from importlib.resources import files

import orjson
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from zhibei.server.access import Access, AccessRules

ACCESS: AccessRules = {("GET", "/docs"): Access("read"), ("GET", "/openapi.json"): Access("read")}

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def router() -> APIRouter:
    """The routes of the page and of what it shows."""
    routes, description = APIRouter(), _Description()

    @routes.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return Response(await description.text(request.app), media_type="application/json")

    @routes.get("/docs", include_in_schema=False)
    async def page() -> Response:
        text = files("zhibei.server").joinpath("docs.html").read_text(encoding="utf-8")
        return Response(text, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy(text)})

    return routes


class _Description:
    """What is said of all routes, put together once: it takes long enough to hold up every answer under way."""

    def __init__(self) -> None:
        self._building: asyncio.Future[bytes] | None = None

    async def text(self, app: FastAPI) -> bytes:
        """The JSON. A client that leaves does not end what others wait for."""
        if self._building is None:
            self._building = asyncio.ensure_future(asyncio.to_thread(_described, app))
        return await asyncio.shield(self._building)


def _described(app: FastAPI) -> bytes:
    return orjson.dumps(app.openapi())


def policy(page: str) -> str:
    """What the page may do: run the script and style that are in it, and ask this server."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        hashes[kind].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
