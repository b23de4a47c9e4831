"""A child that misbehaves on demand: ``python fake_worker.py MODE``. Speaks the parent's protocol where the mode lets it.

The mode ``serve`` is an HTTP server like llama.cpp's, as far as an engine asks for it. What it does with a request is in the
request: a prompt, or a last message, that is one of ``BEHAVIOURS`` names it; any other text is said back word by word. Further
words say what is wrong with it from the start: ``stubborn``, ``grandchild``, ``killed``, ``max_ctx=N``,
``loses_device=FILE`` (from its second start on), ``kernels=STATUS`` (what it says of them where they are wanted),
``faults=N`` and ``faults_with_kernels=N`` (the signal that ends it; where they are wanted).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

PROPS = {"chat_template_caps": {}, "modalities": {}}


def main(mode: str) -> None:
    os.setpgid(0, 0)
    answers = os.dup(1)
    order = json.loads(sys.stdin.buffer.readline())
    if mode == "serve":
        burden(sys.argv[2:], order, answers)
        asyncio.run(serve(answers, kernels_told(sys.argv[2:], order)))
        return
    fail(mode, answers)
    if mode == "flood":
        os.write(2, b"x" * 2_000_000 + b"\n" + bytes(range(256)) * 4000 + b"\nlast words\n")
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = 0
    if mode == "grandchild":
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    answer = {
        "address": f"http://127.0.0.1:1/{grandchild}/{order['key']}",
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
    }
    sys.stderr.write(json.dumps(answer) + "\n")
    sys.stderr.flush()
    os.write(answers, json.dumps(answer).encode() + b"\n")
    if mode == "die_later":
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.buffer.read()


def burden(words: list[str], order: dict[str, Any], answers: int) -> None:
    if "killed" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    limits = [int(word.partition("=")[2]) for word in words if word.startswith("max_ctx=")]
    if limits and order["spec"]["ctx_size"] > limits[0]:
        sys.stderr.write("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 1073741824\n")
        sys.stderr.flush()
        os.write(answers, json.dumps({"problem": "Failed to init server"}).encode() + b"\n")
        sys.exit(0)
    faults = {name: int(number) for name, _, number in (word.partition("=") for word in words) if name.startswith("faults")}
    if faults and order["spec"]["kernels"]:
        os.write(2, b"zhibei-kernels 9.9: loading\n" + b"more words\n" * 200)
    if "faults" in faults or (faults and order["spec"]["kernels"]):
        os.kill(os.getpid(), *faults.values())
    lost = next((Path(word.partition("=")[2]) for word in words if word.startswith("loses_device=")), None)
    if lost is not None:
        if lost.exists():
            os.write(2, b"ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n")
        lost.touch()
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "grandchild" in words:
        # It ignores what its parent ignores.
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def fail(mode: str, answers: int) -> None:
    """What never becomes ready."""
    if mode == "crash":
        sys.stderr.write("about to crash\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "exit":
        sys.stderr.write("bad magic in model file\n")
        sys.exit(3)
    if mode == "hang":
        time.sleep(600)
    if mode == "garbage":
        os.write(answers, b"\xff\xfe not json\n")
        sys.exit(0)
    if mode == "garbage_and_stay":
        os.write(answers, b"\xff\xfe not json\n")
        sys.stdin.buffer.read()
    if mode == "endless_answer":
        while True:
            os.write(answers, b"[" * 65536)
    if mode == "missing":
        os.write(
            answers, json.dumps({"missing": "It lacks {what}.", "hint": "Get {what}.", "values": {"what": "libgomp"}}).encode()
        )
        sys.exit(0)


def kernels_told(words: list[str], order: dict[str, Any]) -> dict[str, Any] | None:
    status = next((word.partition("=")[2] for word in words if word.startswith("kernels=")), None)
    if status is None or not order["spec"]["kernels"]:
        return None
    return {"version": "9.9", "status": status, "level": "avx2", "attention": False}


async def serve(answers: int, kernels: dict[str, Any] | None) -> None:
    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    os.write(answers, json.dumps({"address": f"http://127.0.0.1:{port}", "kernels": kernels}).encode() + b"\n")
    await asyncio.to_thread(sys.stdin.buffer.read)
    os._exit(0)


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    path = head.split(" ", 2)[1]
    length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0)
    body = json.loads(await reader.readexactly(length) or b"{}")
    try:
        if path == "/props":
            plain(writer, 200, PROPS)
        elif path == "/infill":
            plain(writer, 501, {"error": {"type": "not_supported_error", "message": "no"}})
        elif path == "/tokenize":
            await BEHAVIOURS.get(body["content"], tokens)(writer, body)
        else:
            await BEHAVIOURS.get(said_in(body), echo)(writer, body)
        await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


def said_in(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"] if "messages" in body else body.get("prompt"))


def plain(writer: asyncio.StreamWriter, status: int, answer: object) -> None:
    data = json.dumps(answer).encode()
    writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(data)))
    writer.write(data)


async def begin(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def send(writer: asyncio.StreamWriter, chunk: object) -> None:
    writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await writer.drain()


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": None, "delta": {"content": text}}]}


async def finish(writer: asyncio.StreamWriter, num_tokens: int = 1) -> None:
    await send(writer, {"choices": [{"index": 0, "finish_reason": "stop", "delta": {}}]})
    await send(writer, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": num_tokens}})
    writer.write(b"data: [DONE]\n\n")


async def echo(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    words = said_in(body).split()
    for word in words:
        await send(writer, delta(word + " "))
    await finish(writer, len(words))


async def tokens(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    plain(writer, 200, {"tokens": list(body["content"].encode())})


async def stall(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    await send(writer, delta("one "))
    time.sleep(600)


async def spin(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    await send(writer, delta("one "))
    while True:
        continue


async def for_ever(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    while True:
        await send(writer, delta("more "))
        await asyncio.sleep(0.005)


async def slow_prompt(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    for done in range(40):
        await send(writer, {**delta(""), "prompt_progress": {"total": 40, "processed": done, "cache": 0, "time_ms": 1}})
        os.write(2, b"batch\n")
        await asyncio.sleep(0.03)
    await send(writer, delta("done"))
    await finish(writer)


async def die(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    await send(writer, delta("one "))
    os.kill(os.getpid(), signal.SIGKILL)


async def device_fault(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    await send(writer, delta("one "))
    os.write(2, b"CUDA error: unspecified launch failure\n  current device: 0, in function x at ggml-cuda.cu:2980\n")
    os.write(2, b"".join(b"#%d 0x7f in ggml_abort\n" % number for number in range(40)))
    os.kill(os.getpid(), signal.SIGABRT)


async def truncated(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    await send(writer, delta("one "))


async def half_an_event(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    writer.write(b'data: {"choices": [{"index"')


async def no_http(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    writer.write(b"\x00\x01 what is this\r\n\r\n")


async def headers(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def no_json(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    writer.write(b"data: {{{\n\n")


async def huge_event(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await begin(writer)
    writer.write(b'data: {"choices": "')
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def huge_answer(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
    while True:
        writer.write(b"1," * 32768)
        await writer.drain()


async def noise(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    piece = bytes(range(256)) * 4096
    for _ in range(100):
        await asyncio.to_thread(os.write, 2, piece)
    os.write(2, b"\n")
    await echo(writer, body)


def wrong(chunk: object) -> Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]:
    async def behave(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        await begin(writer)
        await send(writer, chunk)
        await finish(writer)

    return behave


def first_choice(**fields: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": None, **fields}]}


WRONG: dict[str, object] = {
    "no object": [1, 2],
    "no choices": {"choices": "x"},
    "no choice": {"choices": [17]},
    "no delta": first_choice(delta="text"),
    "no text": first_choice(delta={"content": {"a": 1}}),
    "a huge index": {"choices": [{"index": 10**30, "delta": {"content": "x"}}]},
    "a negative index": {"choices": [{"index": -1, "delta": {"content": "x"}}]},
    "no calls": first_choice(delta={"tool_calls": [{"function": "f"}]}),
    "no name": first_choice(delta={"tool_calls": [{"function": {"name": 5}}]}),
    "no reason": first_choice(delta={}, finish_reason=["stop"]),
    "no usage": {"choices": [], "usage": "much"},
    "a usage without end": {"choices": [], "usage": {"prompt_tokens": 1e400}},
    "no timings": {"choices": [], "timings": [1]},
    "no logprobs": first_choice(delta={"content": "x"}, logprobs={"content": [{"token": "x"}]}),
    "bytes by number": first_choice(
        delta={"content": "x"}, logprobs={"content": [{"token": "x", "logprob": 0, "bytes": 10**12}]}
    ),
}
BEHAVIOURS: dict[str, Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]] = {
    "stall": stall,
    "spin": spin,
    "for ever": for_ever,
    "slow prompt": slow_prompt,
    "die": die,
    "device fault": device_fault,
    "truncated": truncated,
    "half an event": half_an_event,
    "no http": no_http,
    "headers": headers,
    "no json": no_json,
    "huge event": huge_event,
    "huge answer": huge_answer,
    "noise": noise,
} | {name: wrong(chunk) for name, chunk in WRONG.items()}


if __name__ == "__main__":
    main(sys.argv[1])
