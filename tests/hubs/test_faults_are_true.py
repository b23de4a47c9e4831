"""Each fault of the table is what it is called, and strikes what it is told to."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from hubs.conftest import BYTES, CONTENT, MODEL, TINY
from hubs.faults import FAULTS, HUGE_BYTES, NUM_HOPS, WITH_NAMES, Fault
from hubs.server import Hub
from support.models import sha256


async def fetch(http: aiohttp.ClientSession, address: str, **headers: str) -> tuple[int, bytes, aiohttp.ClientResponse]:
    async with http.get(address, headers=headers, allow_redirects=False) as answer:
        return answer.status, await answer.read(), answer


@pytest_asyncio.fixture
async def signed(hub: Hub, http: aiohttp.ClientSession) -> str:
    """Where the model's bytes are."""
    _, _, answer = await fetch(http, f"{hub.url}/{TINY}/resolve/main/{MODEL}")
    hub.log.clear()
    return answer.headers["Location"]


async def read_cut(http: aiohttp.ClientSession, address: str) -> bytes:
    """What comes before the connection ends."""
    body = b""
    with pytest.raises(aiohttp.ClientPayloadError):
        async with http.get(address) as answer:
            async for piece in answer.content.iter_any():
                body += piece
    return body


@pytest.mark.parametrize(("name", "share"), [("cut_10", 0.1), ("cut_50", 0.5), ("cut_99", 0.99)])
async def test_cut_comes_where_it_is_said_and_once(
    hub: Hub, http: aiohttp.ClientSession, signed: str, name: str, share: float
) -> None:
    strike = hub.strike(name)
    place = int(len(BYTES) * share)
    assert await read_cut(http, signed) == BYTES[:place]
    status, rest, _ = await fetch(http, signed, Range=f"bytes={place}-")
    assert (status, rest) == (206, BYTES[place:])
    assert [entry.bytes_sent for entry in hub.log] == [place, len(BYTES) - place]
    assert [entry.fault for entry in hub.log] == [name, None] and strike.num_struck == 1


@pytest.mark.parametrize(("name", "num_wrong"), [("flipped_byte_once", 1), ("flipped_byte", 3)])
async def test_flipped_byte(hub: Hub, http: aiohttp.ClientSession, signed: str, name: str, num_wrong: int) -> None:
    hub.strike(name)
    bodies = [(await fetch(http, signed))[1] for _ in range(3)]
    differing = [sum(a != b for a, b in zip(body, BYTES, strict=True)) for body in bodies]
    assert differing == [1] * num_wrong + [0] * (3 - num_wrong)
    assert (await fetch(http, signed, Range="bytes=0-99"))[1] == BYTES[:100]


@pytest.mark.parametrize(("name", "num_first"), [("stall_before_headers", 0), ("stall_in_body", len(BYTES) // 2)])
async def test_stall_holds_until_it_is_released(
    hub: Hub, http: aiohttp.ClientSession, signed: str, name: str, num_first: int
) -> None:
    strike = hub.strike(name)
    reading = asyncio.ensure_future(fetch(http, signed))
    while not (strike.num_struck and sum(entry.bytes_sent for entry in hub.log) == num_first):
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not reading.done() and hub.num_bytes_sent() == num_first
    hub.heal()
    assert (await reading)[1] == BYTES


async def test_hub_ends_though_somebody_is_stalled(http: aiohttp.ClientSession) -> None:
    async with Hub(CONTENT) as hub:
        strike = hub.strike("stall_before_headers")
        reading = asyncio.ensure_future(fetch(http, f"{hub.url}/api/models/{TINY}"))
        while not strike.num_struck:
            await asyncio.sleep(0)
    with pytest.raises(aiohttp.ClientConnectionError):
        await reading


async def test_trickle_is_complete(hub: Hub, http: aiohttp.ClientSession, signed: str) -> None:
    hub.strike("trickle")
    assert (await fetch(http, signed))[1] == BYTES


@pytest.mark.parametrize(
    ("name", "status", "content_range", "body"),
    [
        ("wrong_range_start", 206, f"bytes 107-206/{len(BYTES)}", BYTES[107:207]),
        ("wrong_range_length", 206, f"bytes 100-149/{len(BYTES)}", BYTES[100:150]),
        ("whole_instead_of_range", 200, None, BYTES),
        ("range_refused_416", 416, f"bytes */{len(BYTES)}", b""),
    ],
)
async def test_wrong_ranges(
    hub: Hub, http: aiohttp.ClientSession, signed: str, name: str, status: int, content_range: str | None, body: bytes
) -> None:
    hub.strike(name)
    got = await fetch(http, signed, Range="bytes=100-199")
    assert (got[0], got[1], got[2].headers.get("Content-Range")) == (status, body, content_range)
    assert (await fetch(http, signed))[:2] == (200, BYTES)


async def test_changed_versions(hub: Hub, http: aiohttp.ClientSession, signed: str) -> None:
    for name in ("changed_etag", "changed_content"):
        hub.strike(name)
        _, first, before = await fetch(http, signed)
        status, second, after = await fetch(http, signed, Range="bytes=100-", **{"If-Range": before.headers["ETag"]})
        assert first == BYTES and status == 200 and before.headers["ETag"] != after.headers["ETag"]
        assert (second == BYTES) is (name == "changed_etag") and len(second) == len(BYTES)
        hub.heal()


async def test_lengths_that_lie(hub: Hub, http: aiohttp.ClientSession, signed: str) -> None:
    hub.strike("content_length_too_long")
    assert await read_cut(http, signed) == BYTES
    hub.heal()
    hub.strike("content_length_too_short")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(hub.url.rpartition(":")[2]))
    writer.write(f"GET {signed.removeprefix(hub.url)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert f"Content-Length: {len(BYTES) - 100}".encode() in head and body == BYTES


async def test_oversized_body_goes_on_until_one_leaves(hub: Hub, http: aiohttp.ClientSession, signed: str) -> None:
    hub.strike("oversized_body")
    async with http.get(signed) as answer:
        assert answer.content_length is None and answer.status == 200
        assert await answer.content.readexactly(len(BYTES) + 1000) == BYTES + bytes(1000)
        answer.close()


@pytest.mark.parametrize("name", ["reset_on_connect", "reset_after_request"])
async def test_reset(hub: Hub, http: aiohttp.ClientSession, name: str) -> None:
    strike = hub.strike(name)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(hub.url.rpartition(":")[2]))
    with pytest.raises(ConnectionResetError):
        writer.write(b"GET /api/models HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        await reader.readexactly(1)
    writer.close()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()
    assert strike.num_struck == 1 and len(hub.log) == (name == "reset_after_request")
    async with http.get(f"{hub.url}/api/models") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("redirect_to_private_address", "http://10.11.12.13/secret"),
        ("redirect_to_metadata_service", "http://169.254.169.254/latest/meta-data/"),
        ("redirect_to_local_file", "file:///etc/passwd"),
    ],
)
async def test_redirects_to_where_nobody_should_go(
    hub: Hub, http: aiohttp.ClientSession, signed: str, name: str, target: str
) -> None:
    hub.strike(name)
    for address in (signed, f"{hub.url}/api/models/{TINY}", f"{hub.url}/v2/library/tiny/manifests/latest"):
        status, _, answer = await fetch(http, address)
        assert (status, answer.headers["Location"]) == (302, target)


async def test_redirect_to_other_port_shows_who_sends_credentials_there(hub: Hub, http: aiohttp.ClientSession) -> None:
    hub.strike("redirect_to_other_port")
    async with http.get(f"{hub.url}/api/models/{TINY}", headers={"Cookie": "m_session_id=secret"}) as answer:
        assert (await answer.json())["id"] == TINY
    assert [entry.origin for entry in hub.log] == ["hub", "other"] and hub.log[0].has_credentials


async def test_redirect_with_a_login(hub: Hub, http: aiohttp.ClientSession, signed: str) -> None:
    hub.strike("redirect_with_login")
    status, _, answer = await fetch(http, signed)
    assert (status, answer.headers["Location"]) == (302, hub.url.replace("http://", "http://user:password@"))


@pytest.mark.parametrize(("name", "etag"), [("odd_etag", '"../../etc/passwd"'), ("huge_etag", '"' + "x" * 10_240 + '"')])
async def test_odd_tags(hub: Hub, signed: str, name: str, etag: str) -> None:
    hub.strike(name)
    async with aiohttp.ClientSession(max_field_size=20_000) as patient:
        status, body, answer = await fetch(patient, signed, Range="bytes=5-9")
    assert (status, body, answer.headers["ETag"]) == (206, BYTES[5:10], etag)


async def test_redirect_loop_has_its_hops(hub: Hub, http: aiohttp.ClientSession, signed: str) -> None:
    hub.strike("redirect_loop")
    async with http.get(signed, max_redirects=50) as answer:
        assert await answer.read() == BYTES and len(answer.history) == NUM_HOPS


@pytest.mark.parametrize(
    ("name", "status", "times", "header"),
    [
        ("captive_page", 200, 3, ("Content-Type", "text/html; charset=utf-8")),
        ("too_many_requests_429", 429, 1, ("Retry-After", "1")),
        ("server_error_500", 500, 2, ("Content-Type", "text/plain")),
        ("unavailable_503", 503, 2, ("Retry-After", "1")),
        ("unauthorized_401", 401, 3, ("Content-Type", "text/plain")),
        ("gated_403", 403, 3, ("X-Error-Code", "GatedRepo")),
        ("missing_404", 404, 3, ("X-Error-Code", "EntryNotFound")),
    ],
)
async def test_other_answers(
    hub: Hub, http: aiohttp.ClientSession, signed: str, name: str, status: int, times: int, header: tuple[str, str]
) -> None:
    hub.strike(name)
    for number in range(3):
        got, body, answer = await fetch(http, signed)
        if number < times:
            assert (got, answer.headers[header[0]]) == (status, header[1]) and body != BYTES
        else:
            assert (got, body) == (200, BYTES)


async def test_gzip_encoding_is_real(hub: Hub, http: aiohttp.ClientSession, signed: str) -> None:
    hub.strike("gzip_encoding")
    _, body, answer = await fetch(http, signed)
    assert answer.headers["Content-Encoding"] == "gzip" and gzip.decompress(body) == BYTES


async def test_json_that_is_bad(hub: Hub, http: aiohttp.ClientSession) -> None:
    address = f"{hub.url}/api/models/{TINY}"
    hub.strike("huge_json", times=1)
    assert len((await fetch(http, address))[1]) > HUGE_BYTES
    hub.heal()
    hub.strike("deep_json", times=1)
    with pytest.raises(RecursionError):
        json.loads((await fetch(http, address))[1])
    hub.heal()
    hub.strike("truncated_json", times=1)
    half = (await fetch(http, address))[1]
    hub.heal()
    assert len(half) == len((await fetch(http, address))[1]) // 2
    with pytest.raises(ValueError, match="line 1"):
        json.loads(half)
    hub.strike("mistyped_json")
    for path in (f"api/models/{TINY}", f"api/v1/models/{TINY}/repo/files?Recursive=True", "v2/library/tiny/manifests/latest"):
        told = json.loads((await fetch(http, f"{hub.url}/{path}"))[1])
        assert not any(isinstance(value, (str, list)) and value != ["?"] for value in told.values())


_LISTINGS = {
    "huggingface": f"api/models/{TINY}?blobs=true",
    "modelscope": f"api/v1/models/{TINY}/repo/files?Recursive=True&Revision=master",
    "ollama": "v2/library/tiny/manifests/latest",
}


def listed(told: dict[str, Any], protocol: str) -> dict[str, tuple[int, str]]:
    """Size and digest by name, as a listing has them."""
    if protocol == "huggingface":
        return {one["rfilename"]: (one["size"], one.get("lfs", {}).get("sha256", "")) for one in told["siblings"]}
    if protocol == "modelscope":
        return {one["Path"]: (one["Size"], one["Sha256"]) for one in told["Data"]["Files"]}
    return {one["mediaType"]: (one["size"], one["digest"].removeprefix("sha256:")) for one in told["layers"]}


@pytest.mark.parametrize("protocol", _LISTINGS)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS.values() if fault.change_listing], ids=lambda fault: fault.name)
async def test_listings_that_lie(hub: Hub, http: aiohttp.ClientSession, protocol: str, fault: Fault) -> None:
    address = f"{hub.url}/{_LISTINGS[protocol]}"
    honest = listed(json.loads((await fetch(http, address))[1]), protocol)
    strike = hub.strike(fault)
    lying = listed(json.loads((await fetch(http, address))[1]), protocol)
    assert (lying != honest) is (protocol in fault.hubs) and strike.num_struck == 1
    model = (len(BYTES), sha256(BYTES))
    name = MODEL if protocol in WITH_NAMES else "application/vnd.ollama.image.model"
    expected = {
        "name_climbs": (f"../{name}", model),
        "name_absolute": (f"/tmp/{name}", model),
        "name_with_drive": (f"C:\\{name}", model),
        "name_of_device": (f"con.{name}", model),
        "name_with_control": (f"\x1b[2J{name}", model),
        "name_twins": (name.swapcase(), model),
        "digest_short": (name, (model[0], model[1][:63])),
        "digest_uppercase": (name, (model[0], model[1].upper())),
        "digest_empty": (name, (model[0], "")),
        "digest_of_other_file": (name, (model[0], model[1][::-1])),
        "size_too_large": (name, (model[0] + 1000, model[1])),
        "size_too_small": (name, (model[0] // 2, model[1])),
        "size_negative": (name, (-1, model[1])),
    }[fault.name]
    assert protocol not in fault.hubs or lying[expected[0]] == expected[1]


async def test_strikes_choose_their_requests(hub: Hub, http: aiohttp.ClientSession) -> None:
    hub.strike("server_error_500", first=2, times=1, paths="/api/models/*")
    statuses = [(await fetch(http, f"{hub.url}/api/models/{TINY}"))[0] for _ in range(3)]
    assert statuses == [200, 500, 200] and (await fetch(http, f"{hub.url}/api/models"))[0] == 200
    assert [entry.fault for entry in hub.log] == [None, "server_error_500", None, None]


def test_every_fault_is_shown_above() -> None:
    """A fault that no test names is one that nobody has seen work."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FAULTS if f'"{name}"' not in text] == []
