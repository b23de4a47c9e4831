"""Server-sent events out of bytes, however they are cut."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhibei.engines import sse
from zhibei.engines.sse import SseSplitter
from zhibei.errors import EngineRefused

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.sse"))


def split(*pieces: bytes) -> list[bytes]:
    splitter = SseSplitter()
    return [data for piece in pieces for data in splitter.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b"", []),
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\n\ndata: b\n", [b"a"]),
        (b"data: a", []),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\ndata:\ndata: b\n\n", [b"a\n\nb"]),
        (b": a comment\n\n", []),
        (b": a comment\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data: a\nevent: x\n\n", [b"a"]),
        (b"data\n\n", []),
        (b"data:\n\n", []),
        (b"data: \n\n", []),
        (b"database: a\n\n", []),
        (b" data: a\n\n", []),
        (b"\n\n\n\ndata: a\n\n\n\n\n", [b"a"]),
        (b"data: a\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b'data: {"a":"\\n\\n"}\n\n', [b'{"a":"\\n\\n"}']),
        (b"data: \xe6\x8c\x87\xe5\x8c\x97\n\n", ["指北".encode()]),
        (b"data: [DONE]\n\n", [b"[DONE]"]),
        (b"error: a\n\n", []),
    ],
)
def test_whole_and_byte_by_byte(stream: bytes, payloads: list[bytes]) -> None:
    assert split(stream) == payloads
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == payloads


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_recorded_streams(path: Path, size: int) -> None:
    stream = path.read_bytes()
    found = split(*(stream[at : at + size] for at in range(0, len(stream), size)))
    assert found == [line[6:] for line in stream.splitlines() if line]
    assert found[-1] == b"[DONE]"


blocks = st.lists(
    st.sampled_from([b"data: ", b"data:", b"a", b"b: ", b": ", b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\xe6\x8c"]), max_size=30
)


@given(blocks.map(b"".join), st.lists(st.integers(0, 80), max_size=8))
def test_however_it_is_cut_the_result_is_the_same(stream: bytes, cuts: list[int]) -> None:
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert split(*pieces) == split(stream)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_at_all(stream: bytes, cut: int) -> None:
    assert split(stream[:cut], stream[cut:]) == split(stream)


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    splitter = SseSplitter()
    assert splitter.feed(b"data: " + b"x" * 90) == []
    with pytest.raises(EngineRefused, match="100 bytes"):
        splitter.feed(b"x" * 10)
