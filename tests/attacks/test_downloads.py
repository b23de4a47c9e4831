"""Downloads from a server that fails, lies or attacks (D-01 … D-15 of the security research). Nothing wrong is ever visible."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from support.faulty_disk import SmallDisk
from support.hostile_server import HostileServer, Reply, Request, bodies_only, cut_at
from support.models import model_bytes, sha256
from support.pulling import IMPATIENT, QUICK, QUICK_PULL, blobs, parts, pull, pull_events
from zhibei.errors import DigestMismatch, DiskFull, ModelFileError, ModelNotFound, Offline, SourceError
from zhibei.events import Inspected, Notice, Progress, Pulled
from zhibei.refs import ModelName, ModelRef
from zhibei.store import download
from zhibei.store.chunks import Chunk, check_of
from zhibei.store.fetch import Fetcher, Retries
from zhibei.store.journal import chunk_line
from zhibei.store.library import Library
from zhibei.store.options import PullOptions

CONTENT = model_bytes(3000, seed=1)
OTHER = model_bytes(3000, seed=2)


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with HostileServer(CONTENT) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def library(home: Path) -> Library:
    return Library(home, options=QUICK_PULL)


def nothing_visible(library: Library, home: Path) -> bool:
    return library.list() == [] and blobs(home) == []


class TestCuts:
    """D-01, D-05: a connection that ends, stalls or never begins."""

    @pytest.mark.parametrize("percent", [10, 50, 99])
    async def test_a_cut_is_continued_in_the_same_pull(self, server: HostileServer, library: Library, percent: int) -> None:
        position = len(CONTENT) * percent // 100
        server.fault = cut_at(position, times=1)
        model = await pull(library, server.url())
        assert model.model_path.read_bytes() == CONTENT
        assert [request.first for request in server.bodies] == [0, position]

    async def test_cuts_without_end_do_not_matter_while_there_is_headway(self, server: HostileServer, library: Library) -> None:
        def fault(request: Request, reply: Reply) -> Reply:
            return replace(reply, cut_after=1024 * 1024) if len(reply.body) > 1024 * 1024 else reply

        server.content = model_bytes(9000)
        server.fault = bodies_only(fault)
        assert (await pull(library, server.url())).model_path.read_bytes() == server.content
        assert len(server.requests) > QUICK.retries.attempts + 4

    @pytest.mark.parametrize("percent", [0, 10, 50, 99])
    async def test_a_pull_that_failed_is_continued_by_the_next(self, server: HostileServer, home: Path, percent: int) -> None:
        position = len(CONTENT) * percent // 100
        server.fault = cut_at(position)
        with pytest.raises(SourceError, match="cut"):
            await pull(Library(home, options=QUICK_PULL), server.url())
        assert Library(home).list() == []
        assert QUICK.retries.attempts < len(server.bodies) <= 3 * QUICK.retries.attempts
        kept = parts(home)
        assert [(path / "data").stat().st_size for path in kept] == ([position] if position else [])
        server.fault = None
        server.requests.clear()
        model = await pull(Library(home, options=QUICK_PULL), server.url())
        assert model.model_path.read_bytes() == CONTENT
        assert [request.first for request in server.bodies] == [position]
        assert parts(home) == []

    async def test_a_part_of_full_length_needs_no_bytes(self, server: HostileServer, home: Path, library: Library) -> None:
        url = server.url() + "#sha256=" + sha256(CONTENT)
        server.fault = cut_at(len(CONTENT) - 1)
        with pytest.raises(SourceError):
            await pull(library, url)
        (part,) = parts(home)
        (part / "data").write_bytes(CONTENT)
        with (part / "journal").open("ab") as journal:
            journal.write(chunk_line(Chunk(len(CONTENT) - 1, 1, check_of(CONTENT[-1:]))))
        server.fault = bodies_only(lambda request, reply: replace(reply, status=500))
        assert (await pull(library, url)).model_path.read_bytes() == CONTENT

    async def test_no_status_line(self, server: HostileServer, home: Path) -> None:
        library = Library(home, options=PullOptions(fetch=IMPATIENT))
        server.fault = lambda request, reply: replace(reply, hold_after=-1)
        with pytest.raises(SourceError, match="stopped answering"):
            await pull(library, server.url())
        assert len(server.requests) == 1 + IMPATIENT.retries.attempts
        assert nothing_visible(library, home)

    @pytest.mark.parametrize("position", [0, 5000])
    async def test_a_stalled_body(self, server: HostileServer, home: Path, position: int) -> None:
        library = Library(home, options=PullOptions(fetch=IMPATIENT))
        server.fault = bodies_only(lambda request, reply: replace(reply, hold_after=max(0, position - request.first)))
        with pytest.raises(SourceError, match="stopped answering"):
            await pull(library, server.url())
        assert nothing_visible(library, home)

    async def test_a_trickle_is_a_stall(self, server: HostileServer, library: Library) -> None:
        """One byte now and then keeps a plain timer alive for ever."""
        options = replace(QUICK, timers=replace(QUICK.timers, stall_s=0.0, stall_bytes=1 << 30))
        server.fault = bodies_only(lambda request, reply: replace(reply, piece_bytes=1))
        slow = Library(library.home, options=PullOptions(fetch=options))
        with pytest.raises(SourceError, match="stopped answering"):
            await pull(slow, server.url())

    async def test_slow_but_steady_is_never_killed(self, server: HostileServer, library: Library) -> None:
        """As long as enough comes in each stall time, no other timer ends it."""
        server.content = model_bytes(40)
        options = replace(QUICK, timers=replace(QUICK.timers, header_s=0.2, stall_s=5, stall_bytes=1))
        pace = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fault(request: Request, reply: Reply) -> Reply:
            loop.call_later(0.3, pace.set)
            return replace(reply, hold_after=1000, hold=pace, piece_bytes=500)

        server.fault = bodies_only(fault)
        model = await pull(Library(library.home, options=PullOptions(fetch=options)), server.url())
        assert model.model_path.read_bytes() == server.content
        assert len(server.bodies) == 1

    async def test_a_refused_connection(self, library: Library) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(SourceError, match="does not accept"):
            await pull(library, f"http://127.0.0.1:{port}/x.gguf")

    async def test_garbage_instead_of_http(self, server: HostileServer, library: Library) -> None:
        server.fault = lambda request, reply: Reply(raw=b"\x00\x01nonsense\r\n\r\n")
        with pytest.raises(SourceError):
            await pull(library, server.url())

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    async def test_passing_statuses_are_tried_again(self, server: HostileServer, library: Library, status: int) -> None:
        server.fault = lambda request, reply: replace(reply, status=status) if len(server.requests) < 3 else None
        assert (await pull(library, server.url())).problem is None

    @pytest.mark.parametrize(
        ("status", "error"), [(404, ModelNotFound), (410, ModelNotFound), (401, SourceError), (451, SourceError)]
    )
    async def test_lasting_statuses_are_not(
        self, server: HostileServer, library: Library, status: int, error: type[Exception]
    ) -> None:
        server.fault = lambda request, reply: replace(reply, status=status)
        with pytest.raises(error):
            await pull(library, server.url())
        assert len(server.requests) == 1


class TestWrongBytes:
    """D-02, D-03, D-04: what comes is not what was asked for."""

    async def test_a_flipped_byte_never_becomes_visible(self, server: HostileServer, library: Library, home: Path) -> None:
        flipped = bytearray(CONTENT)
        flipped[-5] ^= 1
        seen: list[bool] = []

        def fault(request: Request, reply: Reply) -> Reply:
            watch = lambda: seen.append(nothing_visible(library, home))  # noqa: E731
            return replace(reply, body=bytes(flipped)[request.first :], on_piece=watch)

        server.fault = bodies_only(fault)
        with pytest.raises(DigestMismatch):
            await pull(library, server.url() + "#sha256=" + sha256(CONTENT))
        assert seen and all(seen)
        assert nothing_visible(library, home)
        assert parts(home) == []
        server.fault = None
        model = await pull(library, server.url() + "#sha256=" + sha256(CONTENT))
        assert model.model_path.read_bytes() == CONTENT

    async def test_a_bad_chunk_of_an_older_part_is_fetched_again_and_no_other(
        self, server: HostileServer, library: Library, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "BLOCK_BYTES", 64 * 1024)
        url = server.url() + "#sha256=" + sha256(CONTENT)
        server.fault = cut_at(2_000_000)
        with pytest.raises(SourceError):
            await pull(library, url)
        (part,) = parts(home)
        with (part / "data").open("r+b") as data:
            data.seek(1000)
            data.write(b"XXXX")
        server.fault = None
        server.requests.clear()
        assert (await pull(library, url)).model_path.read_bytes() == CONTENT
        again = [request.headers["range"] for request in server.requests if request.headers["range"].startswith("bytes=0-")]
        assert int(again[-1].partition("-")[2]) < 1024 * 1024
        assert all(request.first == 0 or request.first >= 2_000_000 for request in server.bodies)

    async def test_a_byte_that_was_flipped_on_the_way_is_found_and_replaced(
        self, server: HostileServer, library: Library, home: Path
    ) -> None:
        flipped = bytearray(CONTENT)
        flipped[-5] ^= 1
        server.fault = bodies_only(
            lambda request, reply: replace(reply, body=bytes(flipped)[request.first :]) if len(server.bodies) == 1 else None
        )
        events = await pull_events(library, server.url() + "#sha256=" + sha256(CONTENT))
        assert any(isinstance(event, Notice) and "did not come as promised" in str(event) for event in events)
        assert isinstance(events[-1], Pulled) and events[-1].model.model_path.read_bytes() == CONTENT
        assert parts(home) == []

    @pytest.mark.parametrize("fields", [{"etag": '"two"'}, {"etag": None}, {"etag": 'W/"weak"'}])
    async def test_a_part_of_another_version_is_not_continued(
        self, server: HostileServer, library: Library, fields: dict[str, str | None]
    ) -> None:
        server.fault = cut_at(2_000_000)
        with pytest.raises(SourceError):
            await pull(library, server.url())
        server.fault = None
        server.content, server.etag = OTHER, fields["etag"]
        server.requests.clear()
        assert (await pull(library, server.url())).model_path.read_bytes() == OTHER
        assert [request.first for request in server.bodies] == [0]

    async def test_a_file_that_changes_in_the_middle_is_begun_again(self, server: HostileServer, library: Library) -> None:
        def fault(request: Request, reply: Reply) -> Reply | None:
            if request.number > 1:
                return None
            server.content, server.etag = OTHER, '"two"'
            return replace(reply, cut_after=1_000_000)

        server.fault = bodies_only(fault)
        events = await pull_events(library, server.url())
        assert isinstance(events[-1], Pulled)
        assert events[-1].model.model_path.read_bytes() == OTHER

    async def test_a_file_that_changes_all_the_time_is_given_up(
        self, server: HostileServer, library: Library, home: Path
    ) -> None:
        def fault(request: Request, reply: Reply) -> Reply:
            server.etag = f'"{len(server.requests)}"'
            return replace(reply, cut_after=1_000_000)

        server.fault = bodies_only(fault)
        with pytest.raises(SourceError, match="changes"):
            await pull(library, server.url())
        assert nothing_visible(library, home)
        assert parts(home) == []

    async def test_a_server_that_ignores_ranges(self, server: HostileServer, library: Library) -> None:
        def ignore(request: Request, reply: Reply) -> Reply:
            honest = Reply(200, {"ETag": '"one"'}, CONTENT)
            return replace(honest, cut_after=2_000_000) if request.number == 1 and request.is_body else honest

        server.fault = ignore
        events = await pull_events(library, server.url())
        assert isinstance(events[0], Inspected) and events[0].info is None
        assert isinstance(events[-1], Pulled)
        assert events[-1].model.model_path.read_bytes() == CONTENT
        assert events[-1].model.info is not None

    async def test_a_server_that_ignores_ranges_and_always_cuts_is_given_up(
        self, server: HostileServer, library: Library, home: Path
    ) -> None:
        server.fault = lambda request, reply: Reply(200, {"ETag": '"one"'}, CONTENT, cut_after=2_000_000)
        with pytest.raises(SourceError):
            await pull(library, server.url())
        assert nothing_visible(library, home)
        assert len(server.bodies) < 20

    @pytest.mark.parametrize(
        "range_header",
        [
            "bytes 0-{last}/{size}",
            "bytes {next}-{last}/{size}",
            "bytes {first}-{last}/{more}",
            "items 1-2/3",
            None,
            "bytes */{size}",
        ],
    )
    async def test_a_wrong_content_range_is_never_appended(
        self, server: HostileServer, library: Library, home: Path, range_header: str | None
    ) -> None:
        def fault(request: Request, reply: Reply) -> Reply:
            if reply.status != 206:
                return replace(reply, cut_after=1_000_000)
            size = len(CONTENT)
            values = {"first": request.first, "next": request.first + 1, "last": size - 1, "size": size, "more": size + 1}
            return reply.with_headers(Content_Range=range_header.format(**values) if range_header else None)

        server.fault = bodies_only(fault)
        with pytest.raises(SourceError):
            await pull(library, server.url())
        assert nothing_visible(library, home)

    async def test_416_at_the_end_of_a_file_of_unknown_size_is_its_end(self, server: HostileServer, library: Library) -> None:
        def fault(request: Request, reply: Reply) -> Reply:
            if reply.status == 206:
                return reply.with_headers(Content_Range=reply.headers["Content-Range"].rpartition("/")[0] + "/*")
            return replace(reply, length=-1) if reply.status == 200 else reply

        server.fault = fault
        assert (await pull(library, server.url())).model_path.read_bytes() == CONTENT

    async def test_416_in_the_middle_begins_again(self, server: HostileServer, library: Library) -> None:
        def fault(request: Request, reply: Reply) -> Reply | None:
            if request.first:
                return Reply(416, {"Content-Range": "bytes */5"})
            return replace(reply, cut_after=1_000_000) if request.number == 1 else None

        server.fault = bodies_only(fault)
        assert (await pull(library, server.url())).model_path.read_bytes() == CONTENT

    async def test_more_bytes_than_announced(self, server: HostileServer, library: Library, home: Path) -> None:
        server.fault = bodies_only(lambda request, reply: replace(reply, body=CONTENT + b"x" * 4096, length=-1))
        with pytest.raises(SourceError):
            await pull(library, server.url())
        assert nothing_visible(library, home)

    async def test_a_file_that_is_no_model(self, server: HostileServer, library: Library, home: Path) -> None:
        server.content = b"GGUF" + b"\xff" * 100_000
        with pytest.raises(ModelFileError):
            await pull(library, server.url())
        assert server.bodies == []  # the header was enough
        server.fault = lambda request, reply: Reply(200, {}, server.content)
        with pytest.raises(ModelFileError):
            await pull(library, server.url())
        assert nothing_visible(library, home)
        assert parts(home) == []

    async def test_a_truncated_file_of_unknown_size_is_no_model(
        self, server: HostileServer, library: Library, home: Path
    ) -> None:
        server.fault = lambda request, reply: Reply(200, {}, CONTENT[:2_000_000], length=-1)
        with pytest.raises(ModelFileError):
            await pull(library, server.url())
        assert nothing_visible(library, home)


class TestDiskFull:
    """D-06: a full disk is a state to go on from."""

    async def test_it_is_seen_before_a_byte_is_fetched(self, server: HostileServer, home: Path) -> None:
        library = Library(home, options=QUICK_PULL, disk=SmallDisk(1 << 40, seen=1_000_000))
        with pytest.raises(DiskFull) as caught:
            await pull(library, server.url())
        assert caught.value.values["needed_bytes"] == len(CONTENT)
        assert caught.value.values["free_bytes"] == 1_000_000
        assert server.bodies == []

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    async def test_in_the_middle_the_part_is_kept_and_continued(self, server: HostileServer, home: Path, code: int) -> None:
        disk = SmallDisk(2_000_000, seen=1 << 40, code=code)
        library = Library(home, options=QUICK_PULL, disk=disk)
        with pytest.raises(DiskFull) as caught:
            await pull(library, server.url())
        assert "kept" in (caught.value.hint_text or "")
        assert len(server.bodies) == 1
        assert nothing_visible(library, home)
        disk.room_bytes = 1 << 40
        server.requests.clear()
        assert (await pull(library, server.url())).model_path.read_bytes() == CONTENT
        assert [request.first > 0 for request in server.bodies] == [True]

    async def test_not_even_a_file_can_be_made(self, server: HostileServer, home: Path) -> None:
        library = Library(home, options=QUICK_PULL, disk=SmallDisk(0, seen=1 << 40))
        with pytest.raises(DiskFull):
            await pull(library, server.url())
        assert library.list() == []


class TestRedirects:
    """D-07, D-11: where a redirect may lead."""

    @pytest.mark.parametrize(
        "target",
        [
            "file:///etc/passwd", "ftp://example.com/x", "http://169.254.169.254/latest", "http://0.0.0.0/x", "http://[::]/x",
            "http://10.0.0.1/x", "http://[::ffff:10.0.0.1]/x", "http://2130706433/x", "http://0x7f.1/x", "http://127.1/x", "",
            "http://user:secret@example.com/x", "//", "http://[64:ff9b::7f00:1]/x", "http://localhost:{other}/x", "http://127.0.0.1:{other}/x",
        ],
    )  # fmt: skip
    async def test_no_redirect_leads_to_a_private_place(self, server: HostileServer, library: Library, target: str) -> None:
        async with HostileServer(CONTENT) as other:
            location = target.format(other=other.port)
            server.fault = lambda request, reply: Reply(302, {"Location": location})
            with pytest.raises(SourceError):
                await pull(library, server.url())
            assert other.requests == []

    async def test_a_redirect_on_the_same_private_host_and_port_is_followed(
        self, server: HostileServer, library: Library
    ) -> None:
        server.fault = lambda request, reply: None if request.path == "/real" else Reply(307, {"Location": "/real"})
        assert (await pull(library, server.url("Tiny.gguf"))).name == "tiny:latest"

    async def test_endless_redirects(self, server: HostileServer, library: Library) -> None:
        server.fault = lambda request, reply: Reply(302, {"Location": f"/{len(server.requests)}"})
        with pytest.raises(SourceError, match="more than 10"):
            await pull(library, server.url())
        assert len(server.requests) == 11

    async def test_a_public_host_may_not_redirect_to_a_private_one_nor_become_one(self, server: HostileServer) -> None:
        answers = {
            "public.example": [["93.184.216.34"]],
            "inner.example": [["127.0.0.1"]],
            "mixed.example": [["93.184.216.34", "127.0.0.1"]],
        }
        asked: list[str] = []

        async def lookup(host: str, port: int) -> list[str]:
            asked.append(host)
            return answers[host][0]

        fetcher = Fetcher(f"http://public.example:{server.port}/x", replace(QUICK, lookup=lookup))
        async with fetcher:
            for host in ("inner.example", "mixed.example"):
                with pytest.raises(SourceError, match="not a public"):
                    async with fetcher.get(f"http://{host}:{server.port}/x"):
                        pass
            guard = fetcher._guard
            assert [found["host"] for found in await guard.resolve("public.example", server.port)] == ["93.184.216.34"]
            answers["public.example"] = [["127.0.0.1"]]
            with pytest.raises(SourceError, match="not a public"):
                await guard.resolve("public.example", server.port)
        assert server.requests == []

    async def test_a_typed_private_name_works_but_not_a_link_local_one(self, server: HostileServer) -> None:
        async def lookup(host: str, port: int) -> list[str]:
            return {"mirror.example": ["127.0.0.1"], "metadata.example": ["169.254.169.254"]}[host]

        for host, is_good in (("mirror.example", True), ("metadata.example", False)):
            async with Fetcher(f"http://{host}:{server.port}/x", replace(QUICK, lookup=lookup)) as fetcher:
                if is_good:
                    status, body = await fetcher.read_small(f"http://{host}:{server.port}/x")
                    assert (status, body) == (200, CONTENT)
                else:
                    with pytest.raises(SourceError, match="not a public"):
                        await fetcher.read_small(f"http://{host}:{server.port}/x")

    async def test_https_is_not_left_by_a_redirect(self) -> None:
        from yarl import URL

        from zhibei.store.fetch import _next_hop

        with pytest.raises(SourceError, match="https to http"):
            _next_hop(URL("https://a.example/x"), "http://a.example/x")
        assert str(_next_hop(URL("http://a.example/x"), "https://b.example/y#z")) == "https://b.example/y"

    async def test_credentials_stay_with_the_origin_they_were_given_for(self, server: HostileServer) -> None:
        async def lookup(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        server.fault = lambda request, reply: Reply(302, {"Location": "/second"}) if request.path == "/first" else None
        secret = {"Authorization": "Bearer secret", "X-Api-Key": "secret"}
        async with HostileServer(CONTENT) as elsewhere:
            elsewhere.fault = lambda request, reply: Reply(302, {"Location": server.url("landing", "mirror.example")})
            async with Fetcher(elsewhere.url("x", "a.example"), replace(QUICK, lookup=lookup)) as fetcher:
                fetcher._guard._typed = ("mirror.example", server.port)
                fetcher._guard._typed_is_private = True
                fetcher._guard._check = lambda found, host, port: None  # type: ignore[method-assign]
                async with fetcher.get(elsewhere.url("x", "a.example"), credentials=secret) as answer:
                    assert answer.status == 200
            assert {"authorization", "x-api-key"} <= set(elsewhere.requests[-1].headers)
        assert not {"authorization", "x-api-key", "cookie"} & set(server.requests[-1].headers)
        async with Fetcher(server.url("first"), QUICK) as fetcher, fetcher.get(server.url("first"), credentials=secret):
            assert all("x-api-key" in request.headers for request in server.requests[-2:])

    async def test_a_login_in_the_url_is_used_and_never_recorded(
        self, server: HostileServer, library: Library, home: Path
    ) -> None:
        await pull(library, server.url().replace("http://", "http://me:hunter2@"))
        assert all("authorization" in request.headers for request in server.requests)
        recorded = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
        assert b"hunter2" not in recorded

    async def test_a_challenge_is_not_answered(self, server: HostileServer, library: Library) -> None:
        async with HostileServer(CONTENT) as other:
            challenge = {"WWW-Authenticate": f'Bearer realm="{other.url("token")}"'}
            server.fault = lambda request, reply: Reply(401, challenge)
            with pytest.raises(SourceError):
                await pull(library, server.url().replace("http://", "http://me:hunter2@"))
            assert other.requests == []


class TestStrangeAnswers:
    """D-12, D-14: headers and bodies that are something else."""

    @pytest.mark.parametrize("tag", ['"../../x"', "../../x", '"' + "x" * 7000 + '"', '"a\tb"'])
    async def test_an_odd_etag_names_nothing_on_the_disk(
        self, server: HostileServer, library: Library, home: Path, tag: str
    ) -> None:
        server.etag = tag
        server.fault = cut_at(1_000_000, times=1)
        assert (await pull(library, server.url())).model_path.read_bytes() == CONTENT
        assert all("x" * 100 not in path.name and ".." not in path.name for path in home.parent.rglob("*"))

    async def test_a_login_page_instead_of_a_model(self, server: HostileServer, library: Library) -> None:
        server.fault = lambda request, reply: Reply(200, {"Content-Type": "text/html"}, b"<!doctype html><title>Hotel</title>")
        with pytest.raises(SourceError, match="web page"):
            await pull(library, server.url())

    async def test_something_else_instead_of_a_model(self, server: HostileServer, library: Library) -> None:
        server.content = b'{"error": "no"}'
        with pytest.raises(SourceError, match="not a GGUF"):
            await pull(library, server.url())

    async def test_an_empty_file(self, server: HostileServer, library: Library) -> None:
        server.content = b""
        with pytest.raises(SourceError):
            await pull(library, server.url())

    @pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
    async def test_a_compressed_body_is_refused(self, server: HostileServer, library: Library, encoding: str) -> None:
        packed = gzip.compress(CONTENT)
        server.fault = lambda request, reply: Reply(200, {"Content-Encoding": encoding}, packed)
        with pytest.raises(SourceError, match="compressed"):
            await pull(library, server.url())
        assert server.requests[-1].headers["accept-encoding"] == "identity"

    async def test_a_proxy_that_wants_a_login(self, server: HostileServer, library: Library) -> None:
        server.fault = lambda request, reply: Reply(407)
        options = PullOptions(fetch=replace(QUICK, proxy_for=lambda url: server.url("")))
        with pytest.raises(SourceError, match="proxy"):
            await pull(Library(library.home, options=options), "http://models.example/x.gguf")

    async def test_a_proxy_is_used_where_one_is_set(self, server: HostileServer, library: Library) -> None:
        options = PullOptions(fetch=replace(QUICK, proxy_for=lambda url: server.url("")))
        model = await pull(Library(library.home, options=options), "http://models.example/Tiny.gguf")
        assert model.model_path.read_bytes() == CONTENT
        assert {request.path for request in server.requests} == {"http://models.example/Tiny.gguf"}

    async def test_a_small_answer_has_a_limit(self, server: HostileServer) -> None:
        server.content = bytes(64_000_000)
        async with Fetcher(server.url(), QUICK) as fetcher:
            with pytest.raises(SourceError, match="1000 bytes"):
                await fetcher.read_small(server.url(), limit_bytes=1000)
            assert server.num_body_bytes < len(server.content)

    async def test_huge_headers(self, server: HostileServer, library: Library) -> None:
        server.fault = lambda request, reply: reply.with_headers(X_Filler="x" * 1_000_000)
        with pytest.raises(SourceError):
            await pull(library, server.url())


class TestCancelled:
    """D-13: a pull that is cut off by its own caller."""

    async def test_closing_the_iterator_keeps_the_part(self, server: HostileServer, library: Library, home: Path) -> None:
        server.fault = bodies_only(lambda request, reply: replace(reply, hold_after=2_000_000))
        async with aclosing(library.pull(ModelRef.parse(server.url()))) as events:
            async for event in events:
                if isinstance(event, Progress) and event.done:
                    break
        (part,) = library.leftovers()
        assert part.kind == "part" and part.size_bytes > 0
        assert part.origin == f"{server.url()}"
        server.fault = None
        server.requests.clear()
        assert (await pull(library, server.url())).model_path.read_bytes() == CONTENT
        assert [request.first for request in server.bodies] == [part.size_bytes]
        assert library.leftovers() == ()

    async def test_cancelling_the_task_keeps_the_part_and_prune_discards_it(
        self, server: HostileServer, library: Library, home: Path
    ) -> None:
        started = asyncio.Event()
        server.fault = bodies_only(lambda request, reply: replace(reply, hold_after=2_000_000))

        async def follow() -> None:
            async for event in library.pull(ModelRef.parse(server.url())):
                if isinstance(event, Progress) and event.done:
                    started.set()

        task = asyncio.create_task(follow())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [leftover.kind for leftover in library.leftovers()] == ["part"]
        assert len(library.prune()) == 1
        assert library.leftovers() == () and parts(home) == []

    async def test_cancelling_while_the_header_is_read(self, server: HostileServer, library: Library) -> None:
        asked = asyncio.Event()

        def fault(request: Request, reply: Reply) -> Reply | None:
            if request.range == "bytes=0-4095":
                return None
            asked.set()
            return replace(reply, hold_after=-1)

        server.fault = fault
        task = asyncio.create_task(pull(library, server.url()))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestOffline:
    """D-15: what is here works without a network, and asks none."""

    async def test_what_is_pulled_needs_no_network(
        self, server: HostileServer, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await pull(library, server.url(), name="mine")
        num_requests = len(server.requests)

        def refuse(*args: object, **kwargs: object) -> object:
            raise AssertionError("the network was asked")

        for name in ("getaddrinfo", "gethostbyname", "create_connection"):
            monkeypatch.setattr(socket, name, refuse)
        assert library.get(ModelName.parse("mine")).problem is None
        assert library.resolve("mine").info is not None
        assert [model.name for model in library.list()] == ["mine:latest"]
        library.copy(ModelName.parse("mine"), ModelName.parse("yours"))
        library.remove(ModelName.parse("mine"))
        assert len(server.requests) == num_requests

    async def test_the_error_says_that_there_is_no_network(self, library: Library) -> None:
        async def lookup(host: str, port: int) -> list[str]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        options = PullOptions(fetch=replace(QUICK, lookup=lookup, retries=Retries(connect_attempts=0)))
        with pytest.raises(Offline):
            await pull(Library(library.home, options=options), "https://models.example/x.gguf")


class TestPlantedLinks:
    """D-09: links and special files where the store writes."""

    async def test_a_link_in_a_blobs_place_is_replaced_and_not_followed(
        self, server: HostileServer, library: Library, home: Path
    ) -> None:
        victim = home.parent / "victim"
        victim.write_text("precious")
        digest = sha256(CONTENT)
        target = home / "blobs" / "sha256" / digest[:2] / digest
        target.parent.mkdir(parents=True)
        target.symlink_to(victim)
        model = await pull(library, server.url() + "#sha256=" + digest)
        assert victim.read_text() == "precious"
        assert not model.model_path.is_symlink() and model.model_path.read_bytes() == CONTENT

    async def test_a_dangling_link_and_a_fifo_in_a_blobs_place(self, server: HostileServer, library: Library, home: Path) -> None:
        digest = sha256(CONTENT)
        target = home / "blobs" / "sha256" / digest[:2] / digest
        target.parent.mkdir(parents=True)
        for plant in (lambda: target.symlink_to(home / "nowhere"), lambda: os.mkfifo(target)):
            target.unlink(missing_ok=True)
            plant()
            assert (await pull(library, server.url() + "#sha256=" + digest)).model_path.read_bytes() == CONTENT
        assert not (home / "nowhere").exists()

    async def test_a_link_in_place_of_a_directory_is_refused(self, server: HostileServer, library: Library, home: Path) -> None:
        outside = home.parent / "outside"
        outside.mkdir()
        digest = sha256(CONTENT)
        (home / "blobs" / "sha256").mkdir(parents=True)
        (home / "blobs" / "sha256" / digest[:2]).symlink_to(outside)
        from zhibei.errors import StoreError

        with pytest.raises(StoreError, match="link"):
            await pull(library, server.url())
        assert list(outside.iterdir()) == []

    @pytest.mark.parametrize("name", ["data", "journal"])
    async def test_a_link_inside_a_part_is_not_followed(
        self, server: HostileServer, library: Library, home: Path, name: str
    ) -> None:
        victim = home.parent / "victim"
        victim.write_text("precious")
        server.fault = cut_at(2_000_000)
        with pytest.raises(SourceError):
            await pull(library, server.url())
        (part,) = parts(home)
        (part / name).unlink()
        (part / name).symlink_to(victim)
        server.fault = None
        assert (await pull(library, server.url())).model_path.read_bytes() == CONTENT
        assert victim.read_text() == "precious"

    async def test_a_link_in_place_of_a_part_is_not_followed(self, server: HostileServer, library: Library, home: Path) -> None:
        outside = home.parent / "outside"
        outside.mkdir()
        server.fault = cut_at(2_000_000)
        with pytest.raises(SourceError):
            await pull(library, server.url())
        (part,) = parts(home)
        part.rename(outside / "moved")
        part.symlink_to(outside / "moved")
        before = (outside / "moved" / "data").read_bytes()
        server.fault = None
        assert (await pull(library, server.url())).model_path.read_bytes() == CONTENT
        assert (outside / "moved" / "data").read_bytes() == before
