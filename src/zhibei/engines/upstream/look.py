"""Look at a server: what it is and what it lists. Owns the asking: in time, bounded, without following redirects.

What the answers mean is ``signs``' business.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from zhibei.engines.upstream import signs
from zhibei.engines.upstream.signs import Answer, Identity, Listed

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that answers: what it is, and the models it lists."""

    identity: Identity
    models: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class Unseen:
    """Why a server could not be looked at: nobody answers in time (``is_silent``), or what answers is nothing known."""

    is_silent: bool


def base_address(url: str) -> str:
    """The address that paths are appended to: with or without the ``/v1`` that clients of OpenAI's API are given."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


async def look(url: str, key: str | None, *, timeout_s: float = TIMEOUT_S) -> Seen | Unseen:
    """Ask a server what it is and what it has. Never raises for what the server does; takes ``timeout_s`` at most."""
    try:
        return await asyncio.wait_for(_look(base_address(url), key), timeout_s)
    except asyncio.TimeoutError:
        return Unseen(is_silent=True)


async def _look(address: str, key: str | None) -> Seen | Unseen:
    async with _session(key) as session:
        first = await _get(session, address + signs.OWN_PATH)
        if first is None:
            return Unseen(is_silent=True)
        answers = {signs.OWN_PATH: first}
        identity = signs.identify(answers)
        if identity is not None:
            # Only what is its own: servers that stand behind one another would ask in circles.
            own = await _get(session, address + signs.OWN_MODELS_PATH)
            return Seen(identity, signs.listed(own or Answer(0)))
        paths = signs.SIGN_PATHS
        found = zip(paths, await asyncio.gather(*(_get(session, address + path) for path in paths)), strict=True)
        answers.update({path: answer for path, answer in found if answer is not None})
        identity = signs.identify(answers)
        if identity is not None and identity.wants_key and identity.kind == "openai":
            title = await _get(session, address + signs.TITLE_PATH)
            identity = signs.identify({**answers, signs.TITLE_PATH: title or Answer(0)})
        if identity is None:
            return Unseen(is_silent=False)
        return Seen(identity, _listed(identity, answers))


def _listed(identity: Identity, answers: dict[str, Answer]) -> tuple[Listed, ...]:
    models = signs.listed(answers.get(signs.MODELS_PATH, Answer(0)))
    if identity.kind != "lmstudio":
        return models
    known = {model.name: model for model in signs.listed(answers["/api/v0/models"])}
    return tuple(replace(known.get(model.name, model), created_s=model.created_s) for model in models)


def _session(key: str | None) -> aiohttp.ClientSession:
    import aiohttp

    headers = {"Accept": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    # Nothing of the surroundings: no proxy, no cookies, no netrc.
    return aiohttp.ClientSession(headers=headers, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


async def _get(session: aiohttp.ClientSession, url: str) -> Answer | None:
    """An answer; None: there is no server, or none that speaks HTTP."""
    import aiohttp

    try:
        async with session.get(url, allow_redirects=False) as response:
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    return Answer(response.status)
            return Answer(response.status, _parsed(bytes(body)))
    except (aiohttp.ClientError, OSError, ValueError):
        return None


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
