"""Models of several files under attack: shards, and directories of safetensors, which engines see through views.

T-01 … T-09 of the security research, as ``test_store.py`` has them for one file: stopped before any operation of the disk,
two at once, pruned meanwhile, on a disk that fails or is full, with damaged manifests, views, journals and blobs.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubs.content import Content, Repository
from hubs.server import Hub as LocalHub
from support.faulty_disk import FaultyDisk, SmallDisk, Stopped
from support.models import model_bytes, sha256, shard_bytes
from support.pulling import QUICK, blobs, parts, pull
from support.safetensors_writer import repository_files, safetensors_bytes, write_files
from zhibei.errors import DiskFull, ModelBroken, SourceError, StoreError
from zhibei.refs import ModelName
from zhibei.store import download, locks, owners
from zhibei.store.catalog import Catalog
from zhibei.store.disk import Disk
from zhibei.store.journal import read_journal
from zhibei.store.library import Library
from zhibei.store.manifests import ManifestStore
from zhibei.store.options import PullOptions
from zhibei.store.sources.base import Hub

CATALOG = Catalog()  # read once for all
TESTS = str(Path(__file__).parents[1])
DEAD = f"{owners._machine()}-999999999-1-00000000"  # the token of a process that is no more
SHARDS = {f"Shards-{number + 1:05}-of-00003.gguf": shard_bytes(number, 3) for number in range(3)}
TENSORS = {
    **repository_files(),
    "model.safetensors": safetensors_bytes(),
    "generation_config.json": b'{"temperature": 0.6}',
    "tokenizer.json": json.dumps({"model": {"vocab": {f"word {number}": number for number in range(500)}}}).encode(),
}
NEWER = {**TENSORS, "model.safetensors": safetensors_bytes(version="2"), "generation_config.json": b'{"temperature": 0.7}'}
LARGE = model_bytes(500, seed=8)
NOT_TAKEN = ("README.md",)
REF = "hf:owner/tensors"
CHUNK_BYTES = 64 * 1024


def files_of(version: Mapping[str, bytes]) -> dict[str, bytes]:
    """What of a repository is the model."""
    return {name: data for name, data in version.items() if name not in NOT_TAKEN}


def content(version: Mapping[str, bytes] = TENSORS) -> Content:
    repositories = {"owner/tensors": version, "owner/shards": SHARDS, "owner/large": {"Large-Q4_0.gguf": LARGE}}
    return Content(tuple(Repository(name, {"main": files}) for name, files in repositories.items()))


def dead_token() -> str:
    """Another such token."""
    return DEAD[:-8] + secrets.token_hex(4)


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub(content()) as running:
        yield running


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SPAN_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(download, "BLOCK_BYTES", CHUNK_BYTES)


def library(home: Path, hub: LocalHub, disk: Disk | None = None) -> Library:
    options = PullOptions(fetch=QUICK, poll_s=0.01, hubs={"hf": Hub(hub.url)})
    return Library(home, disk=disk, catalog=CATALOG, options=options)


async def drained(events: AsyncIterator[object]) -> None:
    async with aclosing(events) as items:  # type: ignore[type-var]
        async for _ in items:
            pass


def name_of(text: str) -> ModelName:
    return ModelName.parse(text)


def shown(store: Library, name: str) -> dict[str, bytes]:
    """A model's files by their names, as an engine gets them; each is what its digest says."""
    model = store.get(name_of(name))
    assert model.problem is None
    found = {}
    for file in model.files:
        data = file.path.read_bytes()
        assert file.digest == f"sha256:{sha256(data)}" and file.size_bytes == len(data)
        found[file.path.name] = data
    return found


def check_store(store: Library, *, spoiled: frozenset[str] = frozenset()) -> dict[str, dict[str, bytes]]:
    """Every model that is visible is whole, and every blob what its name says, but for those that the test spoiled."""
    for path in blobs(store.home):
        assert sha256(path.read_bytes()) == path.name or path.name in spoiled
    found = {}
    for model in store.list():
        try:
            found[model.name] = shown(store, model.name)
        except (ModelBroken, AssertionError):
            assert spoiled, f"{model.name}: {model.problem}"
    return found


Work = Callable[[Library], Awaitable[None]]


async def pulling_shards(store: Library) -> None:
    await pull(store, "hf:owner/shards", name="new")


async def importing_shards(store: Library) -> None:
    """From beside the test's homes, as quickly as can be: a pull for every operation of the disk is a lot."""
    await pull(store, str(store.home.parent / "shards" / next(iter(SHARDS))), name="new", copy=True)


async def importing_tensors(store: Library) -> None:
    await pull(store, str(store.home.parent / "tensors"), name="new", copy=True)


async def updating(store: Library) -> None:
    await drained(store.update(name_of("own")))


async def repairing(store: Library) -> None:
    await drained(store.repair(name_of("own")))


async def removing(store: Library) -> None:
    store.remove(name_of("own"))


@dataclass(frozen=True)
class Job:
    """Something that changes a store. ``may_be``: what ``name`` may be after it was stopped; None: not there.

    ``least``: of how many operations it consists at least; every ``step``-th is tried.
    """

    work: Work
    name: str
    may_be: tuple[dict[str, bytes] | None, ...]
    in_the_end: dict[str, bytes] | None
    least: int
    step: int = 1
    is_newer: bool = False
    is_spoiled: bool = False


OWN = files_of(TENSORS)
JOBS = {
    "import shards": Job(importing_shards, "new:latest", (None, SHARDS), SHARDS, 60),
    "import tensors": Job(importing_tensors, "new:latest", (None, OWN), OWN, 60, step=3),
    "resume tensors": Job(importing_tensors, "new:latest", (None, OWN), OWN, 50, step=3),
    "pull shards": Job(pulling_shards, "new:latest", (None, SHARDS), SHARDS, 60),
    "update": Job(updating, "own:latest", (OWN, files_of(NEWER)), files_of(NEWER), 40, step=2, is_newer=True),
    "repair": Job(repairing, "own:latest", (None, OWN), OWN, 20, is_spoiled=True),
    "remove": Job(removing, "own:latest", (None, OWN), None, 3),
}


def spoil(home: Path) -> frozenset[str]:
    """One blob of ``own`` has another byte in it, another one is gone; ``old`` has neither."""
    weights, tokens = sha256(TENSORS["model.safetensors"]), sha256(TENSORS["tokenizer.json"])
    paths = {path.name: path for path in blobs(home)}
    data = bytearray(paths[weights].read_bytes())
    data[-5] ^= 1
    paths[weights].write_bytes(data)
    paths[tokens].unlink()
    return frozenset((weights,))


class TestStopped:
    """T-01: before any single operation of the disk, for everything that changes a store."""

    @pytest.fixture
    async def before(self, tmp_path: Path, hub: LocalHub) -> Path:
        """A home with healthy models of several files: ``old`` and ``own``."""
        write_files(tmp_path / "shards", SHARDS)
        write_files(tmp_path / "tensors", TENSORS)
        store = library(tmp_path / "before", hub)
        await pull(store, "hf:owner/shards", name="old")
        await pull(store, REF, name="own")
        return store.home

    async def _prepare(self, before: Path, hub: LocalHub, kind: str, monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
        """The state of things before the job: a spoiled blob, a newer version, a part of a pull that died."""
        job = JOBS[kind]
        if kind.startswith(("import", "pull", "resume")):
            library(before, hub).remove(name_of("own"))
        if kind.endswith("shards"):
            library(before, hub).remove(name_of("old"))
            await pull(library(before, hub), REF, name="old")
        if kind == "resume tensors":
            await self._leave_part(before, hub, monkeypatch)
        hub.content = content(NEWER if job.is_newer else TENSORS)
        return spoil(before) if job.is_spoiled else frozenset()

    async def _leave_part(self, before: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
        for stop_at in range(8, 40):
            with monkeypatch.context() as patched, pytest.raises(Stopped):
                patched.setattr(owners, "new_token", dead_token)
                await importing_tensors(library(before, hub, FaultyDisk(stop_at)))
            if any(read_journal(part / "journal")[1] for part in parts(before)):
                return
        raise AssertionError("no part was left")

    @pytest.mark.parametrize("kind", sorted(set(JOBS) - {"pull shards"}))
    async def test_stopped_before_every_operation(
        self, before: Path, tmp_path: Path, hub: LocalHub, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = JOBS[kind]
        spoiled = await self._prepare(before, hub, kind, monkeypatch)
        old = OWN if kind.endswith("shards") else SHARDS
        shutil.copytree(before, tmp_path / "count")
        disk = FaultyDisk()
        await job.work(library(tmp_path / "count", hub, disk))
        assert disk.num_operations >= job.least
        for stop_at in range(1, disk.num_operations + 1, job.step):
            home = tmp_path / f"home-{stop_at}"
            shutil.copytree(before, home)
            with monkeypatch.context() as patched, pytest.raises(Stopped):
                patched.setattr(owners, "new_token", dead_token)
                await job.work(library(home, hub, FaultyDisk(stop_at)))
            store = library(home, hub)
            found = check_store(store, spoiled=spoiled)
            assert found["old:latest"] == old, stop_at
            assert found.get(job.name) in job.may_be, stop_at
            await self._finish(store, job, stop_at)
            assert not any((part / "data").exists() for part in parts(home)), "what was left was continued or removed"
            store.prune(grace_s=0)
            assert parts(home) == [], stop_at
            assert check_store(store)["old:latest"] == old
            referenced = {file.digest for model in store.list() for file in model.files}
            assert {f"sha256:{path.name}" for path in blobs(home)} == referenced, stop_at
            beside = {path.stem for path in (home / "blobs" / "sha256").rglob("*.chunks")}
            assert {f"sha256:{stem}" for stem in beside} <= referenced, "hashes without their blob"
            assert len(list((home / "views").iterdir())) == len(store.list())
            shutil.rmtree(home)

    async def _finish(self, store: Library, job: Job, stop_at: int) -> None:
        """Done again, on a disk that works, it comes to its end."""
        if job.in_the_end is None:
            if any(model.name == job.name for model in store.list()):
                await job.work(store)
            assert job.name not in check_store(store)
            return
        await job.work(store)
        assert check_store(store)[job.name] == job.in_the_end, stop_at

    @pytest.mark.parametrize("kind", ["pull shards", "update"])
    async def test_killed_for_real(
        self, before: Path, tmp_path: Path, hub: LocalHub, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = JOBS[kind]
        await self._prepare(before, hub, kind, monkeypatch)
        shutil.copytree(before, tmp_path / "count")
        disk = FaultyDisk()
        await job.work(library(tmp_path / "count", hub, disk))
        script = (
            "import asyncio, sys; from pathlib import Path; from support.faulty_disk import FaultyDisk\n"
            "from support.pulling import QUICK, pull; from zhibei.store.library import Library\n"
            "from zhibei.store import download\n"
            "from zhibei.store.options import PullOptions; from zhibei.store.sources.base import Hub\n"
            "from zhibei.refs import ModelName\n"
            "download.SPAN_BYTES = download.BLOCK_BYTES = 65536\n"
            "options = PullOptions(fetch=QUICK, hubs={'hf': Hub(sys.argv[2])})\n"
            "disk = FaultyDisk(int(sys.argv[3]), kill=True)\n"
            "library = Library(Path(sys.argv[1]), disk=disk, options=options)\n"
            "async def update():\n"
            "    async for _ in library.update(ModelName.parse('own')): pass\n"
            "asyncio.run(update() if sys.argv[4] == 'update' else pull(library, 'hf:owner/shards', name='new'))\n"
        )
        for stop_at in (*range(5, disk.num_operations, disk.num_operations // 3), disk.num_operations):
            home = tmp_path / f"killed-{stop_at}"
            shutil.copytree(before, home)
            command = (sys.executable, "-c", script, str(home), hub.url, str(stop_at), kind)
            process = await asyncio.create_subprocess_exec(*command, env=environment())
            assert await asyncio.wait_for(process.wait(), 60) == -9
            store = library(home, hub)
            assert check_store(store).get(job.name) in job.may_be
            await self._finish(store, job, stop_at)
            assert not any((part / "data").exists() for part in parts(home))

    @pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ENOSPC])
    @pytest.mark.parametrize("kind", ["import tensors", "update"])
    async def test_a_disk_that_fails_from_any_operation_on(
        self, before: Path, tmp_path: Path, hub: LocalHub, kind: str, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """T-06, T-08: a named error, nothing lost; with the disk well again, it goes on. Every fifth operation is enough."""
        job = JOBS[kind]
        await self._prepare(before, hub, kind, monkeypatch)
        shutil.copytree(before, tmp_path / "count")
        disk = FaultyDisk()
        await job.work(library(tmp_path / "count", hub, disk))
        for stop_at in range(1, disk.num_operations + 1, 5):
            home = tmp_path / f"home-{stop_at}"
            shutil.copytree(before, home)
            try:
                await job.work(library(home, hub, FaultyDisk(stop_at, code=code)))
            except StoreError as error:
                assert isinstance(error, DiskFull) == (code == errno.ENOSPC)
                assert str(error).isprintable()
            store = library(home, hub)
            found = check_store(store)
            assert found["old:latest"] == SHARDS and found.get(job.name) in job.may_be
            await self._finish(store, job, stop_at)
            shutil.rmtree(home)

    async def test_a_single_failure_of_the_disk_is_no_worse(self, before: Path, tmp_path: Path, hub: LocalHub) -> None:
        """An operation that fails once may be told of or got over; what is visible afterwards is whole in either case."""
        job = JOBS["update"]
        hub.content = content(NEWER)
        shutil.copytree(before, tmp_path / "count")
        disk = FaultyDisk()
        await job.work(library(tmp_path / "count", hub, disk))
        for stop_at in range(1, disk.num_operations + 1, 7):
            home = tmp_path / f"home-{stop_at}"
            shutil.copytree(before, home)
            try:
                await job.work(library(home, hub, FaultyDisk(stop_at, code=errno.EIO, times=1)))
            except StoreError as error:
                assert str(error).isprintable()
            assert check_store(library(home, hub))["own:latest"] in job.may_be
            await self._finish(library(home, hub), job, stop_at)
            shutil.rmtree(home)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((TESTS, os.environ.get("PYTHONPATH", "")))}


class TestTwoAtOnce:
    """T-02: each file is fetched once, and both have the model."""

    async def _hold(self, hub: LocalHub, tmp_path: Path) -> tuple[asyncio.Task[object], Library]:
        """A first pull that stands still in the middle of the second shard."""
        strike = hub.strike("stall_before_headers", kinds=frozenset({"file"}), paths="*-00002-of-00003.gguf", first=2)
        store = library(tmp_path / "home", hub)
        first = asyncio.create_task(pull(store, "hf:owner/shards", name="first"))
        while not strike.num_struck:
            await asyncio.sleep(0.005)
            assert not first.done()
        return first, store

    def _num_looks(self, hub: LocalHub) -> int:
        return len([entry for entry in hub.log if entry.kind == "info"])

    async def test_two_pulls_of_one_process(self, hub: LocalHub, tmp_path: Path) -> None:
        first, store = await self._hold(hub, tmp_path)
        second = asyncio.create_task(pull(store, "hf:owner/shards", name="second"))
        while self._num_looks(hub) < 2:
            await asyncio.sleep(0.005)
        hub.heal()
        await asyncio.gather(first, second)
        assert check_store(store) == {"first:latest": SHARDS, "second:latest": SHARDS}
        assert len(blobs(store.home)) == 3 and parts(store.home) == []

    async def test_two_processes(self, hub: LocalHub, tmp_path: Path) -> None:
        first, store = await self._hold(hub, tmp_path)
        script = (
            "import asyncio, sys; from pathlib import Path; from support.pulling import QUICK, pull\n"
            "from zhibei.store.library import Library; from zhibei.store.options import PullOptions\n"
            "from zhibei.store.sources.base import Hub\n"
            "options = PullOptions(fetch=QUICK, poll_s=0.01, hubs={'hf': Hub(sys.argv[2])})\n"
            "asyncio.run(pull(Library(Path(sys.argv[1]), options=options), 'hf:owner/shards', name='second'))\n"
        )
        command = (sys.executable, "-c", script, str(store.home), hub.url)
        second = await asyncio.create_subprocess_exec(*command, env=environment())
        while self._num_looks(hub) < 2:
            await asyncio.sleep(0.005)
        hub.heal()
        await first
        assert await asyncio.wait_for(second.wait(), 60) == 0
        assert check_store(store) == {"first:latest": SHARDS, "second:latest": SHARDS}
        assert len(blobs(store.home)) == 3 and parts(store.home) == []

    async def test_the_second_goes_on_where_the_first_was_cancelled(self, hub: LocalHub, tmp_path: Path) -> None:
        first, store = await self._hold(hub, tmp_path)
        second = asyncio.create_task(pull(store, "hf:owner/shards", name="second"))
        while self._num_looks(hub) < 2:
            await asyncio.sleep(0.005)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        hub.heal()
        await second
        assert check_store(store) == {"second:latest": SHARDS}

    async def test_without_locks_that_hold_nothing_is_mixed(
        self, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some network file systems grant a lock to everybody."""
        monkeypatch.setattr(locks, "_lock", lambda fileno: None)
        first, store = await self._hold(hub, tmp_path)
        second = asyncio.create_task(pull(store, "hf:owner/shards", name="second"))
        while self._num_looks(hub) < 2:
            await asyncio.sleep(0.005)
        hub.heal()
        await asyncio.gather(first, second)
        assert check_store(store) == {"first:latest": SHARDS, "second:latest": SHARDS}
        assert len(blobs(store.home)) == 3 and parts(store.home) == []

    async def test_an_update_while_the_same_model_is_pulled(self, hub: LocalHub, tmp_path: Path) -> None:
        store = library(tmp_path / "home", hub)
        await pull(store, REF, name="own")
        hub.content = content(NEWER)
        await asyncio.gather(updating(store), pull(library(store.home, hub), REF, name="more"))
        assert check_store(store) == {"own:latest": files_of(NEWER), "more:latest": files_of(NEWER)}
        store.prune(grace_s=0)
        assert len(blobs(store.home)) == len(files_of(NEWER)) and parts(store.home) == []


class TestRemovedMeanwhile:
    """T-03, T-04: pruning, listing, removing at every step; shared blobs stay."""

    @pytest.mark.parametrize("kind", ["pull shards", "import tensors", "update"])
    async def test_somebody_prunes_at_every_step(self, hub: LocalHub, tmp_path: Path, kind: str) -> None:
        home = tmp_path / "home"
        write_files(tmp_path / "tensors", TENSORS)
        await pull(library(home, hub), REF, name="own")
        hub.content = content(NEWER if kind == "update" else TENSORS)
        other = library(home, hub)

        class Meddling(FaultyDisk):
            def _step(self, operation: str, *subjects: object) -> None:
                super()._step(operation, *subjects)
                other.leftovers(grace_s=0)
                other.prune(grace_s=0)
                for model in other.list():
                    if model.name == "other:latest":
                        other.remove(name_of("other"))

        disk = Meddling()
        store = library(home, hub, disk)
        await JOBS[kind].work(store)
        assert disk.num_operations > 5
        found = check_store(library(home, hub))
        assert found[JOBS[kind].name] == JOBS[kind].in_the_end
        assert found["own:latest"] == (files_of(NEWER) if kind == "update" else OWN)

    async def test_shared_files_stay_until_their_last_model_goes(self, hub: LocalHub, tmp_path: Path) -> None:
        store = library(tmp_path / "home", hub)
        await pull(store, REF, name="one")
        hub.content = content(NEWER)
        await pull(store, REF, name="two")
        store.copy(name_of("two"), name_of("three"))
        store.remove(name_of("one"))
        assert check_store(store) == {"two:latest": files_of(NEWER), "three:latest": files_of(NEWER)}
        store.remove(name_of("two"))
        assert check_store(store) == {"three:latest": files_of(NEWER)}
        assert len(list((store.home / "views").iterdir())) == 1
        store.remove(name_of("three"))
        assert blobs(store.home) == [] and list((store.home / "views").iterdir()) == []

    async def test_a_loaded_model_that_is_removed_stays_readable(self, hub: LocalHub, tmp_path: Path) -> None:
        store = library(tmp_path / "home", hub)
        model = await pull(store, "hf:owner/shards", name="one")
        with model.files[1].path.open("rb") as loaded:
            store.remove(name_of("one"))
            assert loaded.read() == SHARDS["Shards-00002-of-00003.gguf"]


class TestFullDisk:
    """T-06: full midway through several files; what came stays, and with room again the pull goes on."""

    @pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.75, 0.95])
    async def test_room_for_a_part_of_the_model(self, hub: LocalHub, tmp_path: Path, share: float) -> None:
        home = tmp_path / "home"
        total = sum(map(len, SHARDS.values()))
        with pytest.raises(DiskFull) as caught:
            await pull(library(home, hub, SmallDisk(int(total * share), seen=10**9)), "hf:owner/shards", name="new")
        assert caught.value.hint_text
        assert library(home, hub).list() == []
        before = hub.num_bytes_sent()
        await pull(library(home, hub), "hf:owner/shards", name="new")
        assert check_store(library(home, hub)) == {"new:latest": SHARDS}
        assert parts(home) == []
        assert hub.num_bytes_sent() - before <= 2 * total + 3 * 4096, "no storm of requests"

    async def test_it_is_seen_before_anything_is_fetched(self, hub: LocalHub, tmp_path: Path) -> None:
        with pytest.raises(DiskFull, match="needed"):
            await pull(library(tmp_path / "home", hub, SmallDisk(10**9, seen=1000)), "hf:owner/large", name="new")
        assert hub.num_bytes_sent() < len(LARGE) / 2

    async def test_a_home_that_cannot_be_written_still_shows_its_models(self, hub: LocalHub, tmp_path: Path) -> None:
        home = tmp_path / "home"
        await pull(library(home, hub), REF, name="own")
        store = library(home, hub, FaultyDisk(1, code=errno.EROFS))
        assert check_store(store) == {"own:latest": OWN}
        for work in (pulling_shards, removing):
            with pytest.raises(StoreError, match="cannot be written"):
                await work(store)
        assert check_store(store) == {"own:latest": OWN}


DIGEST = "sha256:" + "a" * 64


def damaged(change: Callable[[dict[str, object]], object]) -> Callable[[str], str]:
    """A manifest with something else in it."""

    def make(text: str) -> str:
        table = json.loads(text)
        change(table)
        return json.dumps(table)

    return make


def of_file(number: int, **values: object) -> Callable[[str], str]:
    return damaged(lambda table: table["files"][number].update(values))  # type: ignore[index]


MANIFESTS: dict[str, Callable[[str], str]] = {
    "cut off": lambda text: text[: len(text) // 2],
    "a file twice": damaged(lambda table: table["files"].append(table["files"][0])),  # type: ignore[attr-defined]
    "one name for two": of_file(1, name="model.safetensors"),
    "names that differ in case": of_file(1, name="MODEL.safetensors"),
    "a name climbs": of_file(1, name="../../../climbed.json"),
    "a name is absolute": of_file(1, name="/tmp/climbed.json"),
    "a name has a drive": of_file(1, name="C:\\climbed.json"),
    "a name is empty": of_file(1, name=""),
    "a name has NUL": of_file(1, name="a\0b"),
    "a name lies in a file": of_file(1, name="model.safetensors/x"),
    "a name is a number": of_file(1, name=5),
    "a blob that is not there": of_file(1, digest=DIGEST),
    "a digest climbs": of_file(1, digest="sha256:../../x"),
    "another size": of_file(0, size_bytes=1),
    "a negative size": of_file(0, size_bytes=-1),
    "an unknown role": of_file(0, role="virus"),
    "weights are gone": damaged(lambda table: table["files"].pop(0)),  # type: ignore[attr-defined]
    "no files": damaged(lambda table: table.update(files=[])),
    "a later version": damaged(lambda table: table.update(version=99)),
}


class TestDamage:
    """T-05, D-10: what is damaged hides itself alone; pulling again makes it whole."""

    @pytest.fixture
    async def store(self, hub: LocalHub, tmp_path: Path) -> Library:
        store = library(tmp_path / "store" / "home", hub)
        await pull(store, REF, name="own")
        await pull(store, "hf:owner/shards", name="other")
        return store

    @pytest.mark.parametrize("kind", sorted(MANIFESTS))
    async def test_a_damaged_manifest(self, store: Library, hub: LocalHub, tmp_path: Path, kind: str) -> None:
        path = ManifestStore(store.home, Disk()).path(name_of("own"))
        path.write_text(MANIFESTS[kind](path.read_text()))
        again = library(store.home, hub)
        models = {model.name: model for model in again.list()}
        assert models["other:latest"].problem is None and shown(again, "other") == SHARDS
        assert models["own:latest"].problem, "what the manifest says makes no sense"
        assert all(file.path.is_relative_to(store.home) for file in models["own:latest"].files)
        with pytest.raises(ModelBroken):
            again.get(name_of("own"))
        assert {entry.name for entry in (tmp_path / "store").iterdir()} == {"home"}
        assert not list(tmp_path.rglob("*climbed*")) and not Path("/tmp/climbed.json").exists()
        again.prune(grace_s=0)
        assert shown(again, "other") == SHARDS
        await pull(again, REF, name="own")
        assert check_store(again) == {"own:latest": OWN, "other:latest": SHARDS}

    @pytest.mark.parametrize("kind", ["gone", "a file is gone", "a file is another", "a file", "a link", "a strange file"])
    async def test_a_damaged_view_is_made_again(self, store: Library, hub: LocalHub, tmp_path: Path, kind: str) -> None:
        view = store.get(name_of("own")).model_path.parent
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "model.safetensors").write_bytes(b"elsewhere")
        if kind.startswith("a file is"):
            (view / "model.safetensors").unlink()
            if kind.endswith("another"):
                (view / "model.safetensors").write_bytes(TENSORS["model.safetensors"][:-1] + b"x")
        elif kind == "a strange file":
            (view / "modeling.py").write_text("import os")
            (view / "config.json").unlink()
        else:
            shutil.rmtree(view)
            if kind == "a file":
                view.write_text("x")
            elif kind == "a link":
                view.symlink_to(outside, target_is_directory=True)
        again = library(store.home, hub)
        assert check_store(again) == {"own:latest": OWN, "other:latest": SHARDS}
        assert {path.name for path in view.iterdir()} == set(OWN) and not view.is_symlink()
        assert [path.name for path in outside.iterdir()] == ["model.safetensors"]
        assert (outside / "model.safetensors").read_bytes() == b"elsewhere"

    @pytest.mark.parametrize("kind", ["short", "long", "missing", "another byte"])
    @pytest.mark.parametrize("number", range(3))
    async def test_a_damaged_blob_of_one_shard(self, store: Library, hub: LocalHub, kind: str, number: int) -> None:
        """Found by size at once, by its bytes when verified; repaired by fetching that shard alone."""
        name = f"Shards-{number + 1:05}-of-00003.gguf"
        path = next(path for path in blobs(store.home) if path.name == sha256(SHARDS[name]))
        data = path.read_bytes()
        if kind == "missing":
            path.unlink()
        else:
            flipped = data[:-1] + bytes([data[-1] ^ 1])
            path.write_bytes({"short": data[:-1], "long": data + b"x", "another byte": flipped}[kind])
        hub.log.clear()
        again = library(store.home, hub)
        assert (again.look(name_of("other")).problem is None) == (kind == "another byte")
        await drained(again.repair(name_of("other")))
        assert check_store(again) == {"own:latest": OWN, "other:latest": SHARDS}
        sent = {other: hub.num_bytes_sent(other) for other in SHARDS if other != name}
        assert max(sent.values()) <= 2 * 4096, "whole shards are not fetched again"


async def cut_off(hub: LocalHub, store: Library) -> Path:
    """A download that ended after several chunks; the file that it left."""
    sent = hub.strike("server_error_500", kinds=frozenset({"file"}), paths="Large-*", first=8, times=None)
    with pytest.raises(SourceError):
        await pull(store, "hf:owner/large", name="new")
    assert sent.num_struck
    hub.heal()
    (part,) = parts(store.home)
    assert len(read_journal(part / "journal")[1]) >= 3
    return part


def lines_of(part: Path) -> list[bytes]:
    return (part / "journal").read_bytes().split(b"\n")


def write_lines(part: Path, lines: list[bytes]) -> None:
    (part / "journal").write_bytes(b"\n".join(lines))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))


def header_with(**changes: object) -> Callable[[Path], object]:
    def damage(part: Path) -> None:
        lines = lines_of(part)
        write_lines(part, [json.dumps({**json.loads(lines[0]), **changes}).encode(), *lines[1:]])

    return damage


def line_with(change: Callable[[bytes], bytes], number: int = 2) -> Callable[[Path], object]:
    def damage(part: Path) -> None:
        lines = lines_of(part)
        lines[number] = change(lines[number])
        write_lines(part, lines)

    return damage


def more_lines(*more: bytes) -> Callable[[Path], object]:
    return lambda part: write_lines(part, [*lines_of(part), *more])


def instead(make: Callable[[Path], object], name: str = "journal") -> Callable[[Path], object]:
    def damage(part: Path) -> None:
        (part / name).unlink()
        make(part / name)

    return damage


def zeros_told(part: Path) -> None:
    """The journal tells of bytes that were never written, with the hash that a hole has."""
    from zhibei.store.chunks import check_of

    end = max(chunk.end for chunk in read_journal(part / "journal")[1])
    with (part / "data").open("r+b") as file:
        file.truncate(len(LARGE))
    more_lines(f"{end} {CHUNK_BYTES} {check_of(bytes(CHUNK_BYTES))}".encode())(part)


@dataclass(frozen=True)
class Wreck:
    """What was done to a part. ``num_lost``: how many chunks it costs; None: all. ``is_mended``: only the digest tells."""

    damage: Callable[[Path], object]
    num_lost: int | None = None
    is_mended: bool = False


JOURNALS = {
    "nothing wrong": Wreck(lambda part: None, 0),
    "another version": Wreck(header_with(version=1)),
    "another digest": Wreck(header_with(digest=DIGEST)),
    "no digest": Wreck(header_with(digest=None)),
    "a header that is no JSON": Wreck(line_with(lambda line: b"{", 0)),
    "a header that is a list": Wreck(line_with(lambda line: b"[]", 0)),
    "a deep header": Wreck(line_with(lambda line: b"[" * 100_000, 0)),
    "an empty journal": Wreck(lambda part: (part / "journal").write_bytes(b"")),
    "no journal": Wreck(lambda part: (part / "journal").unlink()),
    "a link for a journal": Wreck(instead(lambda path: path.symlink_to("/etc/passwd"))),
    "a pipe for a journal": Wreck(instead(os.mkfifo)),
    "no data": Wreck(lambda part: (part / "data").unlink()),
    "a link for data": Wreck(instead(lambda path: path.symlink_to("/etc/passwd"), "data")),
    "a torn last line": Wreck(line_with(lambda line: line[:-3], -1), 1),
    "a line that is no line": Wreck(line_with(lambda line: b"\xff\xfe nonsense"), 1),
    "another hash": Wreck(line_with(lambda line: line[:-16] + b"0" * 16), 1),
    "another byte": Wreck(lambda part: flip(part / "data", CHUNK_BYTES + 5), 1),
    "data cut short": Wreck(lambda part: os.truncate(part / "data", CHUNK_BYTES + 5), None),
    "chunks behind the end": Wreck(more_lines(b"999999999 65536 " + b"0" * 16, b"999999999999999999 1 " + b"0" * 16), 0),
    "chunks of no size or too much": Wreck(more_lines(b"0 0 " + b"0" * 16, b"0 9999999999 " + b"0" * 16), 0),
    "overlapping chunks": Wreck(more_lines(b"100 65536 " + b"0" * 16), 0),
    "a chunk told twice": Wreck(lambda part: more_lines(lines_of(part)[2])(part), 0),
    "a hole told as data": Wreck(zeros_told, None, is_mended=True),
}


class TestJournals:
    """T-01: what a journal says is believed only as far as the bytes bear it out."""

    @pytest.mark.parametrize("kind", sorted(JOURNALS))
    async def test_a_damaged_journal_costs_no_more_than_what_is_damaged(self, hub: LocalHub, tmp_path: Path, kind: str) -> None:
        store, wreck = library(tmp_path / "home", hub), JOURNALS[kind]
        part = await cut_off(hub, store)
        chunks = read_journal(part / "journal")[1]
        kept = sum(chunk.num_bytes for chunk in chunks)
        passwords = Path("/etc/passwd").read_bytes()
        wreck.damage(part)
        for found in store.partials():
            assert found.size_bytes >= 0
        before = hub.num_bytes_sent("Large-Q4_0.gguf")
        await pull(store, "hf:owner/large", name="new")
        assert shown(store, "new").popitem()[1] == LARGE
        assert parts(store.home) == []
        assert Path("/etc/passwd").read_bytes() == passwords
        head = 0.2 * len(LARGE)
        sent = hub.num_bytes_sent("Large-Q4_0.gguf") - before
        if wreck.is_mended:
            assert sent <= 2 * len(LARGE) + head
        else:
            lost = kept if wreck.num_lost is None else wreck.num_lost * CHUNK_BYTES
            assert sent <= len(LARGE) - kept + lost + head, "more was fetched than was missing"

    async def test_somebody_elses_live_part_is_left_alone(self, hub: LocalHub, tmp_path: Path) -> None:
        store = library(tmp_path / "home", hub)
        part = await cut_off(hub, store)
        live = part.rename(part.with_name(f"{part.name.split('.')[0]}.{owners.new_token()}.part"))
        data = (live / "data").read_bytes()
        assert store.prune(grace_s=0) == ()
        await pull(store, "hf:owner/large", name="new")
        assert shown(store, "new").popitem()[1] == LARGE
        assert (live / "data").read_bytes() == data and parts(store.home) == [live]


def chunks_of(home: Path) -> Path:
    (path,) = (path for path in (home / "blobs" / "sha256").rglob("*.chunks") if path.name.startswith(sha256(LARGE)))
    return path


CHUNK_FILES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "nothing wrong": (lambda path: None, True),
    "missing": (lambda path: path.unlink(), False),
    "empty": (lambda path: path.write_bytes(b""), False),
    "nonsense": (lambda path: path.write_bytes(b"\xff" * 1000), False),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-3]), True),
    "other hashes": (lambda path: path.write_bytes(b"{}\n0 65536 " + b"0" * 16), False),
    "a link": (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), False),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), False),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), False),
}


class TestChunkFiles:
    """T-05: the hashes beside a blob make repairing cheap, and where they are wrong, no more than that is lost."""

    @pytest.mark.parametrize("kind", sorted(CHUNK_FILES))
    async def test_a_blob_is_repaired_with_whatever_is_beside_it(self, hub: LocalHub, tmp_path: Path, kind: str) -> None:
        store = library(tmp_path / "home", hub)
        await pull(store, "hf:owner/large", name="own")
        blob = store.get(name_of("own")).model_path
        flip(blob, 5 * CHUNK_BYTES + 7)
        damage, is_cheap = CHUNK_FILES[kind]
        damage(chunks_of(store.home))
        assert [leftover for leftover in store.leftovers(grace_s=0) if leftover.path == blob] == []
        before = hub.num_bytes_sent("Large-Q4_0.gguf")
        await drained(store.repair(name_of("own")))
        assert shown(store, "own").popitem()[1] == LARGE
        sent = hub.num_bytes_sent("Large-Q4_0.gguf") - before
        assert sent <= (3 * CHUNK_BYTES if is_cheap else len(LARGE)) + 0.2 * len(LARGE)
        assert parts(store.home) == []
        store.remove(name_of("own"))
        assert [path for path in (store.home / "blobs" / "sha256").rglob("*") if path.is_file()] == []

    async def test_hashes_that_hide_what_is_wrong_do_not_help_it(self, hub: LocalHub, tmp_path: Path) -> None:
        """Whoever could change a blob could change the hashes beside it: the digest of the whole decides."""
        from zhibei.store.chunks import Chunk, check_of
        from zhibei.store.journal import chunk_line

        store = library(tmp_path / "home", hub)
        await pull(store, "hf:owner/large", name="own")
        blob = store.get(name_of("own")).model_path
        flip(blob, 5 * CHUNK_BYTES + 7)
        data, path = blob.read_bytes(), chunks_of(store.home)
        told = [(at, data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)]
        lines = b"".join(chunk_line(Chunk(at, len(piece), check_of(piece))) for at, piece in told)
        path.write_bytes(path.read_bytes().split(b"\n")[0] + lines)
        await drained(store.repair(name_of("own")))
        assert shown(store, "own").popitem()[1] == LARGE


class TestOtherVersions:
    """T-09: what a later version wrote is refused and left as it is."""

    async def test_a_later_manifest_and_a_later_journal_are_left_alone(self, hub: LocalHub, tmp_path: Path) -> None:
        store = library(tmp_path / "home", hub)
        await pull(store, REF, name="own")
        path = ManifestStore(store.home, Disk()).path(name_of("own"))
        later = damaged(lambda table: table.update(version=99, more={"new": 1}))(path.read_text())
        path.write_text(later)
        before = snapshot(store.home)
        again = library(store.home, hub)
        (model,) = again.list()
        assert model.problem
        with pytest.raises(ModelBroken):
            again.get(name_of("own"))
        with pytest.raises(ModelBroken):
            await updating(again)
        assert snapshot(store.home) == before

    async def test_blobs_that_a_later_manifest_speaks_of_are_not_swept(self, hub: LocalHub, tmp_path: Path) -> None:
        """Whoever goes back to the later version finds the model as it was."""
        store = library(tmp_path / "home", hub)
        await pull(store, REF, name="own")
        path = ManifestStore(store.home, Disk()).path(name_of("own"))
        kept = path.read_text()
        path.write_text(damaged(lambda table: table.update(version=99))(kept))
        assert {leftover.kind for leftover in store.prune(grace_s=0)} == {"view"}, "a view is made again when it is wanted"
        path.write_text(kept)
        assert check_store(store) == {"own:latest": OWN}


def snapshot(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def test_prune_tells_beforehand_exactly_what_it_removes(tmp_path: Path) -> None:
    """T-07 for views: strange ones are told of and removed; what others put there is left."""
    views = tmp_path / "home" / "views"
    stale = views / ("0" * 32)
    stale.mkdir(parents=True)
    (stale / "model.safetensors").write_bytes(b"x")
    (views / "notes.txt").write_text("mine")
    store = Library(tmp_path / "home", catalog=CATALOG)
    told = store.leftovers(grace_s=0)
    assert [leftover.path for leftover in told] == [stale]
    assert store.prune(grace_s=0) == told
    assert not stale.exists() and (views / "notes.txt").read_text() == "mine"
