"""A hub for each test here, and what is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio

from hubs.content import Blob, sample_content
from hubs.server import Hub

TINY = "zhibei/Tiny-GGUF"
MODEL = "Tiny-Q4_K_M.gguf"
CONTENT = sample_content()


def files_of(repository_id: str, revision: str = "main") -> dict[str, Blob]:
    repository = CONTENT.repository(repository_id)
    assert repository is not None
    return repository.files(revision)


BYTES = files_of(TINY)[MODEL].read()


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub(CONTENT) as running:
        yield running


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20), auto_decompress=False) as session:
        yield session
