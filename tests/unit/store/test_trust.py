"""Certificates of a company's own authority: trusted where they are named, and nowhere else."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from support.models import model_bytes
from support.pulling import QUICK
from zhibei.errors import BadSetting, SourceError
from zhibei.refs import ModelRef
from zhibei.store.library import Library
from zhibei.store.options import PullOptions

CONTENT = model_bytes(100)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def url(authority: trustme.CA) -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT, content_type="application/octet-stream", headers={"ETag": '"one"'})

    app = web.Application()
    app.router.add_get("/tiny.gguf", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/tiny.gguf"
    await runner.cleanup()


def library(home: Path, ca_file: Path | None) -> Library:
    return Library(home, options=PullOptions(replace(QUICK, ca_file=ca_file)))


async def pull(store: Library, url: str) -> None:
    async for _ in store.pull(ModelRef.parse(url)):
        pass


async def test_an_authority_that_is_named_is_trusted(tmp_path: Path, url: str, authority: trustme.CA) -> None:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    store = library(tmp_path / "home", ca_file)
    await pull(store, url)
    (model,) = store.list()
    assert model.model_path.read_bytes() == CONTENT


async def test_one_that_is_not_is_refused_and_the_hint_names_the_way(tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceError) as caught:
        await pull(library(tmp_path / "home", None), url)
    assert "ZHIBEI_CA_FILE" in (caught.value.hint_text or "")


async def test_a_file_without_certificates_is_a_bad_setting(tmp_path: Path, url: str) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("nothing")
    with pytest.raises(BadSetting):
        await pull(library(tmp_path / "home", ca_file), url)
