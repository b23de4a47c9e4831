"""The store under attack: killed at any moment, shared by processes, full, damaged (T-01 … T-07 of the security research)."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.faulty_disk import FaultyDisk, SmallDisk, Stopped
from support.hostile_server import HostileServer, Reply, Request, bodies_only
from support.models import model_bytes, sha256
from support.pulling import QUICK_PULL, blobs, parts, pull, pull_events
from zhibei.errors import DiskFull, ModelBroken, ModelNotFound, StoreBusy, StoreError
from zhibei.events import Notice, Progress
from zhibei.formats.inspect import inspect_path
from zhibei.refs import ModelName, ModelRef
from zhibei.store import download, locks, owners
from zhibei.store.digests import Digest
from zhibei.store.disk import Disk
from zhibei.store.library import Library
from zhibei.store.manifests import ManifestStore

OLD = model_bytes(20, seed=10, name="old")
NEW = model_bytes(300, seed=11, name="new")
NAME = ModelName.parse("new")
TESTS = str(Path(__file__).parents[1])
DEAD = f"{owners._machine()}-999999999-1-00000000"  # the token of a process that is no more


def dead_token() -> str:
    """Another such token."""
    return DEAD[:-8] + secrets.token_hex(4)


Work = Callable[[Library, Path], Awaitable[None]]


async def pulling(library: Library, new: Path) -> None:
    await pull(library, str(new), name="new", copy=True)


async def removing(library: Library, new: Path) -> None:
    library.remove(ModelName.parse("twin"))


async def copying(library: Library, new: Path) -> None:
    library.copy(ModelName.parse("twin"), NAME)


async def replacing(library: Library, new: Path) -> None:
    await pull(library, str(new), name="own", copy=True)


WORK: dict[str, Work] = {"pull": pulling, "resume": pulling, "remove": removing, "copy": copying, "replace": replacing}


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BLOCK_BYTES", 64 * 1024)
    monkeypatch.setattr("zhibei.store.sources.file._BLOCK_BYTES", 64 * 1024)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "New.gguf"
    path.write_bytes(NEW)
    return path


@pytest.fixture
async def before(tmp_path: Path, new: Path) -> Path:
    """A home with healthy models: ``old``; ``twin`` with a blob of its own; ``own``, from the path that ``new`` has too."""
    home = tmp_path / "before"
    library = Library(home)
    for name, content in (("old", OLD), ("twin", model_bytes(20, seed=12)), ("own", model_bytes(20, seed=13))):
        new.write_bytes(content)
        await pull(library, str(new), name=name, copy=True)
    new.write_bytes(NEW)
    return home


def check_whole(home: Path) -> dict[str, bytes]:
    """Every model that is visible is complete, verified and usable; ``old`` always is there. Returns their bytes."""
    found = {}
    for model in Library(home).list():
        assert model.problem is None, model
        content = model.model_path.read_bytes()
        assert f"sha256:{sha256(content)}" == model.files[0].digest
        assert inspect_path(model.model_path) == model.info
        found[model.name] = content
    assert found["old:latest"] == OLD
    for path in blobs(home):
        assert sha256(path.read_bytes()) == path.name, "a blob's name must never stand on other bytes"
    return found


class TestKilled:
    """T-01: stopped before any single operation of the disk."""

    async def _count(self, before: Path, home: Path, new: Path, work: Work) -> FaultyDisk:
        shutil.copytree(before, home)
        disk = FaultyDisk()
        await work(Library(home, disk=disk), new)
        return disk

    @pytest.mark.parametrize("name", sorted(WORK))
    async def test_stopped_before_every_operation(
        self, before: Path, tmp_path: Path, new: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if name == "resume":
            with monkeypatch.context() as patched, pytest.raises(Stopped):
                patched.setattr(owners, "new_token", dead_token)
                await pulling(Library(before, disk=FaultyDisk(25)), new)
            assert len(parts(before)) == 1
        total = (await self._count(before, tmp_path / "count", new, WORK[name])).num_operations
        assert total >= {"pull": 40, "resume": 25, "replace": 40, "copy": 6, "remove": 4}[name]
        for stop_at in range(1, total + 1):
            home = tmp_path / f"{name}-{stop_at}"
            shutil.copytree(before, home)
            with monkeypatch.context() as patched, pytest.raises(Stopped):
                patched.setattr(owners, "new_token", dead_token)
                await WORK[name](Library(home, disk=FaultyDisk(stop_at)), new)
            found = check_whole(home)
            assert found.get("new:latest", NEW) in (NEW, found.get("twin:latest"))
            await pull(Library(home), str(new), name="again", copy=True)
            assert check_whole(home)["again:latest"] == NEW
            assert parts(home) == [], "what was left was continued or removed"
            shutil.rmtree(home)

    async def test_killed_for_real(self, before: Path, tmp_path: Path, new: Path) -> None:
        total = (await self._count(before, tmp_path / "count", new, pulling)).num_operations
        script = (
            "import asyncio, sys; from pathlib import Path; from support.faulty_disk import FaultyDisk\n"
            "from support.pulling import pull; from zhibei.store.library import Library; from zhibei.store import download\n"
            "from zhibei.store.sources import file\n"
            "download.BLOCK_BYTES = file._BLOCK_BYTES = 65536\n"
            "library = Library(Path(sys.argv[1]), disk=FaultyDisk(int(sys.argv[3]), kill=True))\n"
            "asyncio.run(pull(library, sys.argv[2], name='new', copy=True))\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((TESTS, os.environ.get("PYTHONPATH", "")))}
        for stop_at in (*range(6, total, 9), total):
            home = tmp_path / f"killed-{stop_at}"
            shutil.copytree(before, home)
            command = [sys.executable, "-c", script, str(home), str(new), str(stop_at)]
            assert subprocess.run(command, env=environment, timeout=60).returncode == -9
            check_whole(home)
            model = await pull(Library(home), str(new), name="new", copy=True)
            assert model.model_path.read_bytes() == NEW
            check_whole(home)
            assert parts(home) == []

    async def test_a_part_is_continued_after_a_kill(
        self, before: Path, tmp_path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At most one chunk's bytes are asked for again."""
        disk = await self._count(before, tmp_path / "count", new, pulling)
        chunks = [
            number for number, entry in enumerate(disk.log, start=1) if entry[0] == "write" and entry[1].endswith("journal")
        ]
        stop_at = chunks[-1]
        home = tmp_path / "home"
        shutil.copytree(before, home)
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            patched.setattr(owners, "new_token", dead_token)
            await pulling(Library(home, disk=FaultyDisk(stop_at)), new)
        events = await pull_events(Library(home), str(new), name="new", copy=True)
        first = next(event for event in events if isinstance(event, Progress))
        assert len(NEW) - first.done <= 2 * 64 * 1024 and first.done

    async def test_bytes_reach_the_medium_before_their_names(self, before: Path, tmp_path: Path, new: Path) -> None:
        """Power loss may drop what was not synced, so order is everything: data, its name, the manifest, its name."""
        log = (await self._count(before, tmp_path / "count", new, pulling)).log
        (blob,) = (i for i, (name, what) in enumerate(log) if name == "replace" and "/sha256/" in what and "/data " in what)
        (manifest,) = (i for i, (name, what) in enumerate(log) if name == "replace" and what.endswith(".json"))
        data, temporary = log[blob][1].split()[0], log[manifest][1].split()[0]
        last_write = max(i for i, entry in enumerate(log) if entry == ("write", data))
        assert ("sync", data) in log[last_write:blob]
        directory = str(Path(log[blob][1].split()[1]).parent)
        assert ("sync_directory", directory) in log[blob:manifest]
        last_write = max(i for i, entry in enumerate(log) if entry == ("write", temporary))
        assert blob < log.index(("open_new", temporary))
        assert ("sync", temporary) in log[last_write:manifest]
        assert ("sync_directory", str(Path(log[manifest][1].split()[1]).parent)) in log[manifest:]
        for i, (name, what) in enumerate(log):
            if name == "make_directories" and "/parts" not in what:
                assert ("sync_directory", str(Path(what).parent)) in log[i:manifest], f"{what} may be lost with what is in it"

    async def test_an_empty_store_stopped_at_every_operation(
        self, tmp_path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = FaultyDisk()
        await pulling(Library(tmp_path / "count", disk=disk), new)
        for stop_at in range(1, disk.num_operations + 1):
            home = tmp_path / f"home-{stop_at}"
            with monkeypatch.context() as patched, pytest.raises(Stopped):
                patched.setattr(owners, "new_token", dead_token)
                await pulling(Library(home, disk=FaultyDisk(stop_at)), new)
            assert all(model.problem is None for model in Library(home).list())
            assert (await pull(Library(home), str(new), name="new", copy=True)).model_path.read_bytes() == NEW


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with HostileServer(NEW) as made:
        yield made


class Gate:
    """Holds every body at a byte until it is opened; ``reached`` is set when the first is held."""

    def __init__(self, position: int = 100_000) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()
        self._position = position

    def __call__(self, request: Request, reply: Reply) -> Reply:
        self.reached.set()
        return replace(reply, hold_after=max(0, self._position - request.first), hold=self._open)

    def open(self) -> None:
        self._open.set()


class TestTwoPulls:
    """T-02: two pulls of one file at the same time."""

    @pytest.mark.parametrize("suffix", ["", "#sha256=" + sha256(NEW)])
    async def test_the_second_waits_tells_and_finds_it_there(self, server: HostileServer, tmp_path: Path, suffix: str) -> None:
        gate = Gate()
        server.fault = bodies_only(gate)
        url = server.url() + suffix
        first = asyncio.create_task(pull(Library(tmp_path / "home", options=QUICK_PULL), url, name="first"))
        await gate.reached.wait()
        seen: list[object] = []

        async def follow() -> None:
            async for event in Library(tmp_path / "home", options=QUICK_PULL).pull(ModelRef.parse(url), name="second"):
                seen.append(event)
                if isinstance(event, Progress):
                    gate.open()

        await follow()
        await first
        assert len(server.bodies) == 1
        assert any(isinstance(event, Notice) and "waiting" in str(event) for event in seen)
        models = Library(tmp_path / "home").list()
        assert [model.name for model in models] == ["first:latest", "second:latest"]
        assert {model.model_path for model in models} == set(blobs(tmp_path / "home"))

    async def test_the_second_goes_on_where_the_first_failed(self, server: HostileServer, tmp_path: Path) -> None:
        gate = Gate()
        server.fault = bodies_only(gate)
        first = asyncio.create_task(pull(Library(tmp_path / "home", options=QUICK_PULL), server.url()))
        await gate.reached.wait()
        second = asyncio.create_task(pull(Library(tmp_path / "home", options=QUICK_PULL), server.url()))
        while len(server.requests) < 3:
            await asyncio.sleep(0)
        first.cancel()
        server.fault = None
        assert (await second).model_path.read_bytes() == NEW
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)

    @pytest.mark.parametrize("suffix", ["", "#sha256=" + sha256(NEW)])
    async def test_without_locks_that_hold_nothing_is_mixed(
        self, server: HostileServer, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some network file systems grant a lock to everybody."""
        monkeypatch.setattr(locks, "_lock", lambda fileno: None)
        gate = Gate()
        server.fault = bodies_only(gate)
        home, url = tmp_path / "home", server.url() + suffix
        first = asyncio.create_task(pull(Library(home, options=QUICK_PULL), url, name="first"))
        second = asyncio.create_task(pull(Library(home, options=QUICK_PULL), url, name="second"))
        while len(server.bodies) < 2:
            await asyncio.sleep(0)
        assert len(parts(home)) <= 2
        gate.open()
        for model in await asyncio.gather(first, second):
            assert model.model_path.read_bytes() == NEW
        assert len(blobs(home)) == 1 and parts(home) == []

    async def test_two_processes(self, server: HostileServer, tmp_path: Path) -> None:
        gate = Gate()
        server.fault = bodies_only(gate)
        script = (
            "import asyncio, sys; from pathlib import Path; from support.pulling import QUICK_PULL, pull_events\n"
            "from zhibei.store.library import Library\n"
            "library = Library(Path(sys.argv[1]), options=QUICK_PULL)\n"
            "for event in asyncio.run(pull_events(library, sys.argv[2], name=sys.argv[3])): print(type(event).__name__)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((TESTS, os.environ.get("PYTHONPATH", "")))}

        async def start(name: str) -> asyncio.subprocess.Process:
            command = (sys.executable, "-c", script, str(tmp_path / "home"), server.url(), name)
            return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)

        first = await start("first")
        await gate.reached.wait()
        second = await start("second")
        while len([request for request in server.requests if request.range == "bytes=0-4095"]) < 2:
            await asyncio.sleep(0.01)
        gate.open()
        outputs = [(await process.communicate())[0].decode().split() for process in (first, second)]
        assert [output[-1] for output in outputs] == ["Pulled", "Pulled"]
        assert len(server.bodies) == 1
        assert len(Library(tmp_path / "home").list()) == 2 and len(blobs(tmp_path / "home")) == 1

    async def test_the_event_loop_stays_free_while_one_waits(self, server: HostileServer, tmp_path: Path) -> None:
        lock = Library(tmp_path / "home")._blobs.lock(sha256(NEW))
        assert lock.try_acquire()
        task = asyncio.create_task(pull(Library(tmp_path / "home", options=QUICK_PULL), server.url() + "#sha256=" + sha256(NEW)))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not task.done()
        lock.release()
        assert (await task).problem is None


class TestCleaningUp:
    """T-03, T-04, T-07: what may be removed, and when."""

    async def test_nothing_of_a_running_pull_is_removed(self, server: HostileServer, tmp_path: Path) -> None:
        home = tmp_path / "home"
        gate = Gate()
        server.fault = bodies_only(gate)
        task = asyncio.create_task(pull(Library(home, options=QUICK_PULL), server.url()))
        await gate.reached.wait()
        other = Library(home)
        assert other.leftovers(grace_s=0) == () and other.prune(grace_s=0) == ()
        assert other.list() == []
        gate.open()
        assert (await task).model_path.read_bytes() == NEW

    async def test_a_blob_whose_manifest_is_on_its_way_is_not_removed(self, tmp_path: Path, new: Path) -> None:
        """At every step of a pull somebody prunes, lists and removes a model with the same blob."""
        home = tmp_path / "home"
        await pull(Library(home), str(new), name="other", copy=True)

        class Meddling(Disk):
            def _meddle(self) -> None:
                other = Library(home)
                other.prune(grace_s=0)
                other.list()
                for model in other.list():
                    if model.name == "other:latest":
                        other.remove(ModelName.parse("other"))

            def open_new(self, path: Path) -> int:
                self._meddle()
                return super().open_new(path)

            def sync(self, fileno: int) -> None:
                self._meddle()
                super().sync(fileno)

            def replace(self, source: Path, target: Path) -> None:
                self._meddle()
                super().replace(source, target)
                self._meddle()

            def sync_directory(self, path: Path) -> None:
                self._meddle()
                super().sync_directory(path)

        for _ in range(2):
            model = await pull(Library(home, disk=Meddling()), str(new), name="new", copy=True)
            assert model.problem is None
            assert model.model_path.read_bytes() == NEW
        assert [found.name for found in Library(home).list()] == ["new:latest"]

    async def test_a_shared_blob_stays_until_its_last_model_goes(self, tmp_path: Path, new: Path) -> None:
        library = Library(tmp_path / "home")
        model = await pull(library, str(new), name="one", copy=True)
        library.copy(ModelName.parse("one"), ModelName.parse("two"))
        library.remove(ModelName.parse("one"))
        assert library.get(ModelName.parse("two")).model_path.read_bytes() == NEW
        library.remove(ModelName.parse("two"))
        assert library.list() == [] and blobs(tmp_path / "home") == []
        assert not model.model_path.exists()

    async def test_a_loaded_model_that_is_removed_stays_readable(self, tmp_path: Path, new: Path) -> None:
        library = Library(tmp_path / "home")
        model = await pull(library, str(new), name="one", copy=True)
        with model.model_path.open("rb") as loaded:
            library.remove(ModelName.parse("one"))
            assert loaded.read() == NEW

    async def test_a_file_in_use_on_windows_is_left_and_listed(self, tmp_path: Path, new: Path) -> None:
        class InUse(Disk):
            def remove(self, path: Path) -> None:
                if "sha256" in path.parts:
                    raise PermissionError(13, "The process cannot access the file", str(path))
                super().remove(path)

        await pull(Library(tmp_path / "home"), str(new), name="one", copy=True)
        Library(tmp_path / "home", disk=InUse()).remove(ModelName.parse("one"))
        library = Library(tmp_path / "home")
        assert library.list() == []
        assert [leftover.size_bytes for leftover in library.leftovers(grace_s=0)] == [len(NEW)]
        assert library.leftovers() == ()
        library.prune(grace_s=0)
        assert blobs(tmp_path / "home") == []

    async def test_removing_a_model_used_in_place_leaves_its_file(self, tmp_path: Path, new: Path) -> None:
        library = Library(tmp_path / "home")
        model = await pull(library, str(new), name="one")
        assert model.in_place and model.model_path == new
        library.remove(ModelName.parse("one"))
        assert new.read_bytes() == NEW and library.list() == []

    async def test_the_workspace_of_a_killed_pull_is_swept(self, tmp_path: Path, new: Path) -> None:
        dead = tmp_path / "home" / "tmp" / DEAD
        alive = tmp_path / "home" / "tmp" / owners.new_token()
        for directory in (dead, alive):
            directory.mkdir(parents=True)
            (directory / "half.whl").write_bytes(b"x")
        await pull(Library(tmp_path / "home"), str(new), copy=True)
        assert alive.exists() and not dead.exists()

    async def test_copying_waits_for_a_blob_that_is_being_worked_on(
        self, tmp_path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library = Library(tmp_path / "home")
        await pull(library, str(new), name="one", copy=True)
        monkeypatch.setattr("zhibei.store.library._LOCK_TIMEOUT_S", 0)
        with library._blobs.lock(sha256(NEW)) as lock:
            assert lock.try_acquire()
            with pytest.raises(StoreBusy):
                library.copy(ModelName.parse("one"), ModelName.parse("two"))
        library.copy(ModelName.parse("one"), ModelName.parse("two"))


GOOD = "sha256:" + "a" * 64
FILE = {"role": "model", "name": "x.gguf", "size_bytes": 1, "digest": GOOD}


def manifest_text(**changes: object) -> str:
    table = {
        "version": 1,
        "name": "bad:latest",
        "source": "x",
        "added_at": "2026-01-01T00:00:00+00:00",
        "files": [FILE],
        "info": None,
    }
    return json.dumps({**table, **changes})


def file_with(**changes: object) -> str:
    return manifest_text(files=[{**FILE, **changes}])


DAMAGED = {
    "empty": "",
    "not JSON": "{",
    "null": "null",
    "a list": "[]",
    "deep": "[" * 100_000,
    "binary": "\udcff\udcfe",
    "later version": manifest_text(version=2),
    "no version": manifest_text(version=None),
    "version as text": manifest_text(version="1"),
    "another name": manifest_text(name="other:latest"),
    "no files": manifest_text(files=[]),
    "files are text": manifest_text(files="x"),
    "a million files": manifest_text(files=[FILE] * 11_000),
    "no date": manifest_text(added_at=None),
    "date without zone": manifest_text(added_at="2026-01-01T00:00:00"),
    "senseless date": manifest_text(added_at="yesterday"),
    "digest climbs": file_with(digest="sha256:../../../etc/passwd"),
    "digest empty": file_with(digest=""),
    "digest upper case": file_with(digest="sha256:" + "A" * 64),
    "digest short": file_with(digest="sha256:" + "a" * 63),
    "digest long": file_with(digest="sha256:" + "a" * 65),
    "digest with newline": file_with(digest=GOOD + "\n"),
    "digest number": file_with(digest=5),
    "digest of another kind": file_with(digest="md5:" + "a" * 64),
    "digest and path": file_with(path="/etc/passwd", modified_ns=1),
    "neither digest nor path": file_with(digest=None),
    "relative path": file_with(digest=None, path="../x", modified_ns=1),
    "path with NUL": file_with(digest=None, path="/a\0b", modified_ns=1),
    "negative size": file_with(size_bytes=-1),
    "huge size": file_with(size_bytes=2**63),
    "size as text": file_with(size_bytes="1"),
    "size as truth": file_with(size_bytes=True),
    "size NaN": file_with().replace('"size_bytes": 1', '"size_bytes": NaN'),
    "unknown role": file_with(role="virus"),
    "info is a list": manifest_text(info=[]),
    "info without format": manifest_text(info={"architecture": "llama"}),
    "info of wrong types": manifest_text(info={"format": "gguf", "architecture": "llama", "num_layers": "many"}),
    "info infinite": manifest_text(info={"format": "gguf", "architecture": "x", "rope_freq_base": 1}).replace(
        ": 1}", ": Infinity}"
    ),
    "info huge": manifest_text(info={"format": "gguf", "architecture": "x", "num_layers": 2**70}),
    "missing blob": manifest_text(),
    "same digest twice, blob missing": manifest_text(files=[FILE, {**FILE, "role": "licence"}]),
}


class TestDamage:
    """T-05, D-10: a damaged manifest hides its own model and nothing else, and names nothing outside the store."""

    @pytest.fixture
    async def home(self, tmp_path: Path, new: Path) -> Path:
        await pull(Library(tmp_path / "home"), str(new), name="good", copy=True)
        return tmp_path / "home"

    @pytest.mark.parametrize("kind", sorted(DAMAGED))
    async def test_a_damaged_manifest(self, home: Path, new: Path, kind: str) -> None:
        path = ManifestStore(home, Disk()).path(ModelName.parse("bad"))
        path.parent.mkdir()
        path.write_bytes(DAMAGED[kind].encode("utf-8", "surrogateescape"))
        library = Library(home)
        bad, good = library.list()
        assert bad.name == "bad:latest" and bad.problem
        assert good.problem is None
        assert all(file.path.is_relative_to(home) for file in bad.files)
        with pytest.raises(ModelBroken) as caught:
            library.get(ModelName.parse("bad"))
        assert "zhibei rm" in (caught.value.hint_text or "")
        with pytest.raises(ModelBroken):
            library.copy(ModelName.parse("bad"), ModelName.parse("worse"))
        repaired = await pull(library, str(new), name="bad", copy=True)
        assert repaired.problem is None
        path.write_bytes(DAMAGED[kind].encode("utf-8", "surrogateescape"))
        library.remove(ModelName.parse("bad"))
        assert [model.name for model in library.list()] == ["good:latest"]
        assert library.get(ModelName.parse("good")).model_path.read_bytes() == NEW

    async def test_a_manifest_without_permission(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = ManifestStore(home, Disk()).path(ModelName.parse("bad"))
        path.parent.mkdir()
        path.write_text(manifest_text())
        real = Path.read_bytes

        def refuse(self: Path) -> bytes:
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return real(self)

        monkeypatch.setattr(Path, "read_bytes", refuse)
        bad, good = Library(home).list()
        assert "Permission denied" in (bad.problem or "") and good.problem is None

    @pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/passwd"), os.mkfifo])
    async def test_something_else_in_a_manifests_place(self, home: Path, make: Callable[[Path], object]) -> None:
        path = ManifestStore(home, Disk()).path(ModelName.parse("bad"))
        path.parent.mkdir()
        make(path)
        assert [model.name for model in Library(home).list() if model.problem is None] == ["good:latest"]

    async def test_files_that_are_no_manifests_are_passed_over(self, home: Path) -> None:
        root = home / "manifests"
        for name in (
            "stray",
            "@x.json",
            "CON/@latest.json",
            "a b/@latest.json",
            "good/@UPPER.json",
            "good/@.json",
            "good/notes.txt",
        ):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text("?")
        assert [model.name for model in Library(home).list()] == ["good:latest"]

    @pytest.mark.parametrize("damage", ["missing", "short", "long", "link", "directory"])
    async def test_a_damaged_blob(self, home: Path, new: Path, damage: str) -> None:
        library = Library(home)
        path = library.get(ModelName.parse("good")).model_path
        content = path.read_bytes()
        path.unlink()
        if damage == "link":
            path.symlink_to(new)
        elif damage == "directory":
            path.mkdir()
        elif damage != "missing":
            path.write_bytes(content[:-1] if damage == "short" else content + b"x")
        (model,) = library.list()
        assert model.problem
        if damage == "directory":
            return
        assert (await pull(library, str(new), name="good", copy=True)).problem is None
        assert library.get(ModelName.parse("good")).model_path.read_bytes() == NEW

    async def test_a_file_in_place_that_changed_or_went(self, tmp_path: Path, new: Path) -> None:
        library = Library(tmp_path / "place")
        await pull(library, str(new), name="one")
        os.utime(new, ns=(1, 1))
        assert "has changed" in (library.list()[0].problem or "")
        new.write_bytes(NEW + b"x")
        assert "bytes instead of" in (library.list()[0].problem or "")
        new.unlink()
        assert "is missing" in (library.list()[0].problem or "")
        new.write_bytes(NEW)
        assert (await pull(library, str(new), name="one")).problem is None
        library.remove(ModelName.parse("one"))
        assert new.exists()


class TestFullAndReadOnly:
    """T-06, T-08: no space and no permission are states, not crashes."""

    async def test_with_no_byte_free_everything_but_pull_works(self, tmp_path: Path, new: Path) -> None:
        home = tmp_path / "home"
        await pull(Library(home), str(new), name="one", copy=True)
        await pull(Library(home), str(new), name="two", copy=True)
        library = Library(home, disk=SmallDisk(0))
        assert len(library.list()) == 2
        assert library.get(ModelName.parse("one")).problem is None
        with pytest.raises(DiskFull):
            await pull(library, str(new), name="three", copy=True)
        library.remove(ModelName.parse("two"))
        library.remove(ModelName.parse("one"))
        assert blobs(home) == [] and library.list() == []
        with pytest.raises(ModelNotFound):
            library.get(ModelName.parse("one"))

    async def test_a_store_that_cannot_be_written(self, tmp_path: Path, new: Path) -> None:
        class ReadOnly(Disk):
            def make_directories(self, path: Path) -> None:
                raise OSError(30, "Read-only file system", str(path))

            open_new = make_directories  # type: ignore[assignment]
            remove = make_directories

        home = tmp_path / "home"
        await pull(Library(home), str(new), name="one", copy=True)
        library = Library(home, disk=ReadOnly())
        assert library.get(ModelName.parse("one")).problem is None
        with pytest.raises(StoreError, match="cannot be written"):
            await pull(library, str(new), name="two")
        with pytest.raises(StoreError, match="cannot be written"):
            library.remove(ModelName.parse("one"))
        assert len(library.list()) == 1

    async def test_making_a_library_changes_nothing(self, tmp_path: Path) -> None:
        library = Library(tmp_path / "nowhere")
        assert library.list() == [] and library.leftovers() == () and library.prune() == ()
        with pytest.raises(ModelNotFound):
            library.remove(ModelName.parse("x"))
        assert not (tmp_path / "nowhere").exists()

    async def test_a_home_with_spaces_and_unicode(self, tmp_path: Path, new: Path) -> None:
        home = tmp_path / "模型 und more" / ("x" * 200)
        model = await pull(Library(home), str(new), name="one", copy=True)
        assert Library(home).get(ModelName.parse("one")) == model

    async def test_a_home_that_is_a_file(self, tmp_path: Path, new: Path) -> None:
        (tmp_path / "home").write_text("x")
        library = Library(tmp_path / "home")
        with pytest.raises(StoreError, match="cannot be read"):
            library.list()
        with pytest.raises(StoreError):
            await pull(library, str(new), copy=True)


def test_one_path_function_for_blobs_and_it_takes_only_digests(tmp_path: Path) -> None:
    from zhibei.store.blobs import BlobStore

    store = BlobStore(tmp_path, Disk())
    assert store.path(Digest("0" * 64)) == tmp_path / "blobs" / "sha256" / "00" / ("0" * 64)
    for text in ("", "../../x", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", "sha256:" + "0" * 64, "٠" * 64):
        with pytest.raises(StoreError):
            Digest(text)
        with pytest.raises(StoreError):
            store.lock(text)
