"""G-15: models in several GGUF files whose files are missing, strangers to each other, or named to escape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.gguf_writer import TINY_TENSORS, GgufFile, Tensor, Value, i32, scalar, text, tiny_model, u32
from zhibei.errors import ModelFileError
from zhibei.formats.gguf import shard_names, shards_of
from zhibei.formats.inspect import inspect_path

COUNT = len(TINY_TENSORS)


def u16(value: int) -> Value:
    return scalar(2, value)


def shard(number: int, **changes: Value | None) -> GgufFile:
    """One of as many shards as there are tensors, as llama.cpp's gguf-split writes them: the first has all metadata."""
    keys = {"split.no": u16(number), "split.count": u16(COUNT), "split.tensors.count": i32(COUNT)}
    merged = {key: value for key, value in {**keys, **changes}.items() if value is not None}
    first = dict(tiny_model().metadata) if number == 0 else {}
    return GgufFile(metadata=tuple({**first, **merged}.items()), tensors=(TINY_TENSORS[number],))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., list[Path]]:
    def write_all(**replaced: GgufFile | None) -> list[Path]:
        """Write all shards; ``s2=None`` leaves the third out."""
        paths = []
        for number in range(COUNT):
            file = replaced.get(f"s{number}", shard(number))
            path = tmp_path / f"m-{number + 1:05d}-of-{COUNT:05d}.gguf"
            if file is not None:
                path.write_bytes(file.build())
            paths.append(path)
        return paths

    return write_all


def test_shards_are_one_model(write: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = write()
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(tiny_model().build())
    for path in paths:
        assert shards_of(path) == tuple(paths)
        merged = inspect_path(path)
        assert merged.split_count == COUNT
        assert replace(merged, split_count=None) == inspect_path(whole)


@pytest.mark.parametrize("number", range(COUNT))
def test_missing_shard_is_named(write: Callable[..., list[Path]], number: int) -> None:
    paths = write(**{f"s{number}": None})
    with pytest.raises(ModelFileError, match=paths[number].name) as caught:
        shards_of(paths[0])
    assert (caught.value.field, caught.value.offset) == ("split.count", 0)


@pytest.mark.parametrize(
    ("number", "changes", "field"),
    [
        (1, {"split.no": u16(0)}, "split.no"),
        (2, {"split.no": u16(1)}, "split.no"),
        (0, {"split.no": u16(1)}, "split.no"),
        (1, {"split.no": None}, "split.no"),
        (1, {"split.no": text("1")}, "split.no"),
        (1, {"split.count": u16(COUNT + 1)}, "split.count"),
        (0, {"split.count": u16(0)}, "split.count"),
        (0, {"split.count": None}, "split.count"),
        (3, {"split.count": None}, "split.count"),
        (3, {"split.tensors.count": i32(COUNT + 1)}, "split.tensors.count"),
        (0, {"split.tensors.count": i32(COUNT + 1)}, "split.tensors.count"),
        (2, {"split.tensors.count": text("4")}, "split.tensors.count"),
        (1, {"general.architecture": text("qwen2")}, "general.architecture"),
    ],
)
def test_disagreement(write: Callable[..., list[Path]], number: int, changes: dict[str, Value | None], field: str) -> None:
    paths = write(**{f"s{number}": shard(number, **changes)})
    with pytest.raises(ModelFileError) as caught:
        shards_of(paths[-1])
    assert caught.value.field == field


def test_shards_of_different_models(write: Callable[..., list[Path]]) -> None:
    stranger = replace(shard(1), tensors=(TINY_TENSORS[0],))
    with pytest.raises(ModelFileError, match="repeats a tensor") as caught:
        shards_of(write(s1=stranger)[0])
    assert caught.value.field == TINY_TENSORS[0].name


def test_total_of_tensors_must_be_found(write: Callable[..., list[Path]]) -> None:
    with pytest.raises(ModelFileError, match="5 tensors were found in 4 files instead of 4"):
        shards_of(write(s1=shard(1).with_tensors(TINY_TENSORS[1], Tensor("one.more", (8,))))[0])


def test_damaged_shard(write: Callable[..., list[Path]]) -> None:
    paths = write()
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    with pytest.raises(ModelFileError):
        inspect_path(paths[0])


def test_shard_under_another_name(write: Callable[..., list[Path]], tmp_path: Path) -> None:
    alone = tmp_path / "alone.gguf"
    write()[0].rename(alone)
    with pytest.raises(ModelFileError, match="speaks of 4 files instead of 1") as caught:
        inspect_path(alone)
    assert caught.value.field == "split.count" and caught.value.offset > 0


@pytest.mark.parametrize(
    "name",
    [
        "../../x-00001-of-00002.gguf",
        "..\\x-00001-of-00002.gguf",
        "/x-00001-of-00002.gguf",
        "C:\\x-00001-of-00002.gguf",
        "a/b-00001-of-00002.gguf",
        "x\0-00001-of-00002.gguf",
        "",
        ".",
        "..",
        "x-00000-of-00002.gguf",
        "x-00003-of-00002.gguf",
        "x-00001-of-00000.gguf",
        "x-00001-of-99999.gguf",
    ],
)
def test_name_that_escapes_or_makes_no_sense(name: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        shard_names(name)
    assert caught.value.field == "file name"


def test_names() -> None:
    assert shard_names("a-00002-of-00003.gguf") == ("a-00001-of-00003.gguf", "a-00002-of-00003.gguf", "a-00003-of-00003.gguf")
    assert shard_names("a-00001-of-00001.gguf") == ("a-00001-of-00001.gguf",)
    for name in (
        "a.gguf",
        "a-1-of-2.gguf",
        "a-00001-of-00002.GGUF",
        "-00001-of-00002.gguf",
        "a-٠٠٠٠١-of-00002.gguf",
        "a-00001-of-00002.gguf\n",
    ):
        assert shard_names(name) == (name,)


def test_file_that_says_it_is_the_only_one(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_model(**{"split.count": u32(1), "split.no": u32(0)}).build())
    assert inspect_path(path).split_count == 1
    assert shards_of(path) == (path,)
