"""The remote client where the server is not there, is another program, or breaks off. What works is in the service contract."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from support.serving import MODEL, Serving
from zhibei.chat import ChatRequest, CompletionRequest, EmbeddingRequest, Message, TokenLogprob
from zhibei.errors import EngineDied, NotPermitted, SourceError, Unsupported, ZhibeiError
from zhibei.events import Finished, Loading, TextDelta, Usage
from zhibei.options import LoadOptions, Sampling
from zhibei.remote import RemoteService
from zhibei.service import RunOptions

ASK = ChatRequest((Message.of("user", "x"),))
END = Finished(("stop",), Usage(1, 1))


@asynccontextmanager
async def remote(url: str, key: str | None = None) -> AsyncIterator[RemoteService]:
    service = RemoteService(url, key)
    try:
        yield service
    finally:
        await service.close()


@asynccontextmanager
async def other_program(*replies: bytes) -> AsyncIterator[str]:
    """Something that answers every connection with the next of ``replies`` and hangs up."""
    left = list(replies)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def http(body: bytes, status: str = "200 OK", content_type: str = "application/json", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\n\r\n".encode() + body


async def everything(service: RemoteService) -> list[BaseException]:
    """What each verb raises."""
    found = []
    for work in (
        service.list_models(),
        service.show_model("x"),
        service.remove_model("x"),
        service.copy_model("x", "y"),
        service.residents(),
        service.stop_model("x"),
        service.leftovers(),
        service.prune(),
        service.embed("x", EmbeddingRequest(("a",))),
        service.tokenize("x", "a"),
        service.detokenize("x", (1,)),
        anext(service.pull("x")),
        anext(service.verify(["x"])),
        anext(service.repair("x")),
        anext(service.update("x")),
        anext(service.chat("x", ASK)),
        anext(service.complete("x", CompletionRequest("a"))),
    ):
        try:
            await work
        except Exception as error:
            found.append(error)
    return found


async def test_no_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with remote(url) as service:
            raised = await everything(service)
    assert len(raised) == 17 and {type(error) for error in raised} == {SourceError}
    assert url in str(raised[0]) and "zhibei serve" in str(raised[0].hint_text)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "reply",
    [
        http(b"<html>", content_type="text/html"),
        http(b"[5, null]"),
        http(b'{"data": 5}', length=500),
        http(b"\xff\xfe"),
        http(b"nothing here", "404 Not Found", "text/plain"),
        http(b"[]", "500 Oops"),
        b"SSH-2.0-OpenSSH_9\r\n",
        b"",
    ],
)
async def test_another_program(reply: bytes) -> None:
    async with other_program(reply) as url, remote(url) as service:
        for error in await everything(service):
            assert isinstance(error, ZhibeiError), error


async def test_a_key_is_presented_and_a_wrong_one_is_said_to_be_wrong(start: Callable[..., Serving]) -> None:
    server = start(api_key="k")
    async with remote(server.url, "k") as service:
        assert len(await service.list_models()) == 1
    for key in (None, "wrong"):
        async with remote(server.url, key) as service:
            with pytest.raises(NotPermitted):
                await service.list_models()


async def test_loading_is_shown_once_and_only_when_there_is_something_to_load(server: Serving) -> None:
    async with remote(server.url) as service:
        first = [event async for event in service.chat("tiny", ASK)]
        second = [event async for event in service.chat("tiny", ASK)]
    assert [isinstance(event, Loading) for event in first] == [True] + [False] * (len(first) - 1)
    assert not any(isinstance(event, Loading) for event in second)


async def test_a_server_that_breaks_off_is_not_a_success(server: Serving) -> None:
    head = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    for body in (head, head + last):
        async with other_program(http(b"[]"), http(body, content_type="text/event-stream")) as url, remote(url) as service:
            events = []
            with pytest.raises(EngineDied):
                async for event in service.chat("x", ASK):
                    events.append(event)
            assert TextDelta("a") in events


PROGRESS = b'{"event":"progress","what":"x","done":1,"total":2}\n'
CHECKED = b'{"event":"checked","name":"x:latest","problem":null,"bad_files":[]}\n'


@pytest.mark.parametrize("verb", ["pull", "verify", "repair", "update"])
async def test_work_that_breaks_off_is_not_a_success(verb: str) -> None:
    bodies = [b"", PROGRESS, PROGRESS + PROGRESS, CHECKED + PROGRESS]
    for body in bodies if verb == "verify" else [*bodies, CHECKED]:
        async with other_program(http(body, content_type="application/x-ndjson")) as url, remote(url) as service:
            argument = ["x"] if verb == "verify" else "x"
            with pytest.raises(SourceError):
                async for _ in getattr(service, verb)(argument):
                    pass


async def test_a_check_of_all_that_breaks_off_within_a_model_is_not_a_success() -> None:
    for body, is_good in ((b"", True), (CHECKED, True), (CHECKED + PROGRESS, False), (PROGRESS, False)):
        async with other_program(http(body, content_type="application/x-ndjson")) as url, remote(url) as service:
            if is_good:
                assert len([event async for event in service.verify()]) == body.count(b"\n")
                continue
            with pytest.raises(SourceError):
                async for _ in service.verify():
                    pass


@pytest.mark.parametrize(
    "load",
    [
        LoadOptions(lora=(("/a", 1.0),)),
        LoadOptions(mmproj="/a"),
        LoadOptions(draft_model="/a"),
        LoadOptions(chat_template="{{ x }}"),
    ],
)
async def test_files_are_not_named_over_the_network(server: Serving, load: LoadOptions) -> None:
    async with remote(server.url) as service:
        for work in (anext(service.chat(MODEL, ASK, RunOptions(load))), service.tokenize(MODEL, "x", RunOptions(load))):
            with pytest.raises(Unsupported) as caught:
                await work
            assert caught.value.hint_text


async def test_ranges_wider_than_openais_are_for_our_own(server: Serving) -> None:
    async with remote(server.url) as service:
        request = ChatRequest(ASK.messages, Sampling(temperature=3.5))
        assert [event async for event in service.chat(MODEL, request)]
    assert server.script.requests == [request]


async def test_log_probabilities_of_completions_come_whole(server: Serving) -> None:
    top = TokenLogprob("é", -0.5, "é".encode(), 7)
    delta = TextDelta("é", 0, (TokenLogprob("é", -0.5, "é".encode(), 7, (top,)),))
    server.answers((delta, END))
    async with remote(server.url) as service:
        events = [event async for event in service.complete(MODEL, CompletionRequest("x", top_logprobs=1))]
    assert delta in events


async def test_leaving_a_stream_reaches_the_engine(server: Serving) -> None:
    server.answers((TextDelta("a"), server.gate().step, END))
    async with remote(server.url) as service, aclosing(service.chat(MODEL, ASK)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    await asyncio.to_thread(server.until, lambda: server.script.num_abandoned == 1)
