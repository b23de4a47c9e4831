"""Sends an answer over an aiohttp connection, as honestly or as badly as its ``Delivery`` says. Knows no hub."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from hubs.answers import Answer, Delivery

_SENDFILE_BYTES = 8 << 20
_HONEST = Delivery()


async def send(
    request: web.BaseRequest, answer: Answer, hold: Callable[[], asyncio.Future[None]], count: Callable[[int], None]
) -> web.StreamResponse:
    """Send it; ``hold`` gives what a stall waits for, ``count`` is told of the body's bytes as they go out."""
    delivery = answer.delivery
    if delivery.stall_after == -1:
        await hold()
    if delivery.is_reset:
        _reset(request)
        return web.Response()
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    size = answer.num_bytes
    announced = size if delivery.announced is None else delivery.announced
    if announced >= 0:
        response.content_length = announced
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        if request.method == "HEAD" or not (size or delivery.surplus):
            await response.write_eof()
        elif isinstance(answer.blob.content, Path) and delivery == _HONEST:
            await _send_file(request, answer.blob.content, answer.first, size, count)
            await response.write_eof()
        else:
            await _send_pieces(request, response, answer, hold, count)
    return response


async def _send_file(request: web.BaseRequest, path: Path, first: int, size: int, count: Callable[[int], None]) -> None:
    """Straight from the disk to the socket, in pieces large enough to cost nothing and small enough to be counted."""
    assert request.transport is not None
    loop = asyncio.get_running_loop()
    with path.open("rb") as file:
        for offset in range(0, size, _SENDFILE_BYTES):
            count(await loop.sendfile(request.transport, file, first + offset, min(_SENDFILE_BYTES, size - offset)))


async def _send_pieces(
    request: web.BaseRequest,
    response: web.StreamResponse,
    answer: Answer,
    hold: Callable[[], asyncio.Future[None]],
    count: Callable[[int], None],
) -> None:
    delivery = answer.delivery
    body = answer.blob.read(answer.first, answer.end)
    stops = {stop for stop in (delivery.cut_after, delivery.stall_after) if stop is not None and stop < len(body)}
    sent = 0
    while sent < len(body):
        if sent == delivery.stall_after:
            await hold()
        if sent == delivery.cut_after:
            _hang_up(request)
        end = min(sent + delivery.piece_bytes, len(body), *(stop for stop in stops if stop > sent))
        await _write(request, response, body[sent:end], delivery)
        count(end - sent)
        sent = end
        if delivery.pause_s:
            await asyncio.sleep(delivery.pause_s)
    for _ in range(0, delivery.surplus, delivery.piece_bytes):
        await _write(request, response, bytes(delivery.piece_bytes), delivery)
        count(delivery.piece_bytes)
    if delivery.announced is not None and delivery.announced != -1:
        _hang_up(request)
    await response.write_eof()


async def _write(request: web.BaseRequest, response: web.StreamResponse, piece: bytes, delivery: Delivery) -> None:
    """Past the end that was announced, the framework sends nothing more: those bytes go straight to the connection."""
    if delivery.announced is None or delivery.announced == -1:
        await response.write(piece)
        return
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError
    request.transport.write(piece)
    await asyncio.sleep(0)


def _hang_up(request: web.BaseRequest) -> NoReturn:
    """Close once all that was written has gone, and leave."""
    if request.transport is not None:
        request.transport.close()
    raise ConnectionResetError


def _reset(request: web.BaseRequest) -> None:
    """Break the connection off, so that the other side sees a reset and no orderly end."""
    if request.transport is not None:
        break_off(request.transport)


def break_off(transport: asyncio.BaseTransport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()
