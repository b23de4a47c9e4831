"""Each sentence of ``zhibei.store.sources.base.Source``, run against every source."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from support.hostile_server import HostileServer
from support.models import model_bytes, sha256, write_wheel
from zhibei.errors import BadReference, ModelNotFound, Offline
from zhibei.settings import pip_environment
from zhibei.store.fetch import FetchOptions, Retries
from zhibei.store.filenames import check_file_name
from zhibei.store.sources import SOURCES, open_source
from zhibei.store.sources.base import RemoteFile, Source, SourceContext, StartOver

CONTENT = model_bytes(3000)
OPTIONS = FetchOptions(retries=Retries(attempts=2, connect_attempts=1, first_s=0.001))


@dataclass(frozen=True)
class Case:
    """A source with a model behind it. ``change`` alters the model there; None: it cannot change once it is prepared."""

    source: Source
    workspace: Path
    location: str
    missing: str
    senseless: tuple[str, ...]
    change: Callable[[], object] | None


@asynccontextmanager
async def url_case(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
    async with HostileServer(CONTENT) as server, HostileServer(CONTENT) as empty:
        empty.fault = lambda request, reply: replace(reply, status=404, body=b"")

        def change() -> None:
            server.etag = '"two"'

        yield Case(
            open_source("url", context),
            context.workspace,
            server.url("a/Tiny-Q4_0.gguf"),
            empty.url("nothing.gguf"),
            (
                "ftp://host/x.gguf",
                "nonsense",
                "http://",
                "http://good\\@127.0.0.1/",
                "http://h:0/x",
                "http://h/x#sha256=12",
                "http://h/x#y",
            ),
            change,
        )


@asynccontextmanager
async def file_case(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
    path = tmp_path / "outside" / "Tiny-Q4_0.gguf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    yield Case(
        open_source("file", context),
        context.workspace,
        str(path),
        str(path) + ".nothing",
        ("a\0b",),
        lambda: os.utime(path, ns=(1, 1)),
    )


@asynccontextmanager
async def pypi_case(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
    write_wheel(tmp_path / "index", {"tiny_model/Tiny-Q4_0.gguf": CONTENT, "tiny_model/__init__.py": b""})
    yield Case(
        open_source("pypi", context),
        context.workspace,
        "tiny-model==1.0/tiny_model/Tiny-Q4_0.gguf",
        "no-such-model==1.0",
        (
            "-r evil.txt",
            "name==",
            "name>=1",
            "name[extra]",
            "--index-url=x",
            "name==1/../x",
            "name @ file:///x",
            "name==1.0 --pre",
        ),
        None,
    )


CASES = {"url": url_case, "file": file_case, "pypi": pypi_case}


def test_every_source_is_tested() -> None:
    assert set(CASES) == set(SOURCES)


@pytest.fixture(params=sorted(CASES))
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "PIP_CONFIG_FILE": os.devnull}
    context = SourceContext(tmp_path / "home" / "tmp" / "work", OPTIONS, {**pip_environment(), **index})
    async with CASES[request.param](tmp_path, context) as made:
        yield made
        await made.source.close()


async def prepared(case: Case) -> RemoteFile:
    model = await case.source.resolve(case.location)
    (file,) = model.files
    async with aclosing(case.source.prepare(file)) as steps:
        found = [step async for step in steps]
    assert isinstance(found[-1], RemoteFile)
    assert not any(isinstance(step, RemoteFile) for step in found[:-1])
    return found[-1]


async def content_of(case: Case, file: RemoteFile, offset: int = 0) -> bytes:
    async with aclosing(case.source.open(file, offset)) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_resolve_names_a_model_with_harmless_file_names(case: Case) -> None:
    model = await case.source.resolve(case.location)
    assert [check_file_name(file.name) for file in model.files] == ["Tiny-Q4_0.gguf"]
    assert case.location in model.source
    assert case.location in model.files[0].origin
    assert model.name is not None


async def test_resolve_fetches_no_model_and_writes_nothing(case: Case, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    await case.source.resolve(case.location)
    assert sorted(tmp_path.rglob("*")) == before


async def test_resolve_may_be_called_again_and_then_looks_again(case: Case) -> None:
    first = await case.source.resolve(case.location)
    assert await case.source.resolve(case.location) == first
    if case.change is not None:
        case.change()
        assert await case.source.resolve(case.location) != first


async def test_a_location_that_does_not_parse_is_a_bad_reference(case: Case) -> None:
    for location in case.senseless:
        with pytest.raises(BadReference):
            await case.source.resolve(location)


async def test_a_location_that_names_nothing_is_not_found(case: Case) -> None:
    with pytest.raises(ModelNotFound):
        (file,) = (await case.source.resolve(case.missing)).files
        async with aclosing(case.source.prepare(file)) as steps:
            async for _ in steps:
                pass


async def test_read_gives_bytes_of_the_file_or_none_at_all(case: Case) -> None:
    (file,) = (await case.source.resolve(case.location)).files
    if await case.source.read(file, 0, 1) is None:
        file = await prepared(case)
    size = len(CONTENT)
    assert await case.source.read(file, 0, 4) == b"GGUF"
    assert await case.source.read(file, 100, 5000) == CONTENT[100:5100]
    assert await case.source.read(file, size - 10, 100) == CONTENT[-10:]
    assert await case.source.read(file, size, 100) == b""


async def test_prepare_ends_with_the_file_and_all_that_is_known(case: Case) -> None:
    file = await prepared(case)
    assert file.size_bytes == len(CONTENT)
    assert file.digest is None or file.digest.hex == sha256(CONTENT)
    assert file.digest is not None or file.validator is not None


async def test_open_gives_the_bytes_from_any_offset_to_the_end(case: Case) -> None:
    file = await prepared(case)
    for offset in (0, 1, 65537, len(CONTENT) - 1, len(CONTENT)):
        assert await content_of(case, file, offset) == CONTENT[offset:], offset


async def test_closing_open_at_any_point_frees_all(case: Case) -> None:
    file = await prepared(case)
    process = psutil.Process()
    await content_of(case, file)
    open_files, connections = process.num_fds(), len(process.net_connections())
    for _ in range(3):
        async with aclosing(case.source.open(file, 0)) as pieces:
            async for _piece in pieces:
                break
    assert process.num_fds() <= open_files
    assert len(process.net_connections()) <= connections
    assert await content_of(case, file) == CONTENT


async def test_a_file_that_changes_is_not_mixed_with_the_one_that_was_resolved(case: Case) -> None:
    file = await prepared(case)
    if case.change is None:
        return  # it lies in the workspace by now and cannot change
    case.change()
    for offset in (0, 1000):
        with pytest.raises(StartOver):
            await content_of(case, file, offset)
    with pytest.raises(StartOver):
        await case.source.read(file, 0, 4)


async def test_closing_prepare_early_leaves_no_child_and_close_leaves_no_file(case: Case) -> None:
    (file,) = (await case.source.resolve(case.location)).files
    async with aclosing(case.source.prepare(file)) as steps:
        async for _ in steps:
            break
    assert psutil.Process().children(recursive=True) == []
    await case.source.close()
    assert not case.workspace.exists()


async def test_close_is_idempotent_and_leaves_nothing(case: Case, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    await content_of(case, await prepared(case))
    await case.source.close()
    await case.source.close()
    assert not case.workspace.exists()
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.is_file()] == []


async def test_a_source_that_was_never_used_can_be_closed(case: Case) -> None:
    await case.source.close()


async def test_without_network_it_says_so(tmp_path: Path) -> None:
    async def no_network(host: str, port: int) -> tuple[str, ...]:
        raise OSError(-3, "Temporary failure in name resolution")

    context = SourceContext(tmp_path / "work", replace(OPTIONS, lookup=no_network))
    source = open_source("url", context)
    try:
        with pytest.raises(Offline):
            await source.resolve("https://models.example/tiny.gguf")
    finally:
        await source.close()


async def test_pip_without_network_says_so(tmp_path: Path) -> None:
    index = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
    }
    source = open_source("pypi", SourceContext(tmp_path / "work", None, {**pip_environment(), **index}))
    try:
        (file,) = (await source.resolve("tiny-model")).files
        with pytest.raises(Offline) as caught:
            async for _ in source.prepare(file):
                pass
        assert "pip config list" in (caught.value.hint_text or "")
    finally:
        await source.close()
