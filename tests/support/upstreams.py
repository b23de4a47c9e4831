"""Servers behind servers: a Zhibei whose settings name others, and small servers that answer as other programs do."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from support.serving import WAIT_S, Serving
from zhibei.engines.echo import EchoScript
from zhibei.settings import ServerSettings, Settings, UpstreamSettings

Reply = tuple[int, Any]


@contextmanager
def serving_others(home: Path, upstreams: Mapping[str, UpstreamSettings], *, port: int = 0) -> Iterator[Serving]:
    """A server with the models of other servers beside its own."""
    own = ServerSettings(port=port)
    settings = replace(Settings(), home=home, engine="echo", server=own, upstreams=dict(upstreams))
    running = Serving(settings, EchoScript(), 5.0)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@dataclass
class Heard:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Fake:
    """A server that answers by a table: ``GET /path`` → status and JSON; a list of texts becomes a stream of events."""

    replies: dict[str, Reply]
    heard: list[Heard] = field(default_factory=list)
    url: str = ""
    gate: asyncio.Event | None = None
    num_left: int = 0

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def bodies(self, path: str) -> list[Any]:
        return [each.body for each in self.heard if each.path == path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.heard.append(Heard(request.method, request.path, dict(request.headers), json.loads(text) if text else None))
        status, body = self.replies.get(f"{request.method} {request.path}", (404, {"error": "no such thing"}))
        if status in (301, 302, 307, 308):
            return web.Response(status=status, headers={"Location": body})
        if isinstance(body, list) and request.method == "POST":
            return await self._stream(request, body)
        return web.json_response(body, status=status)

    async def _stream(self, request: web.Request, chunks: list[Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for chunk in chunks:
                if chunk is None:
                    await asyncio.sleep(WAIT_S)
                    continue
                await response.write(b"data: " + (chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()) + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.num_left += 1
            raise
        return response


@contextmanager
def faking(replies: Mapping[str, Reply]) -> Iterator[Fake]:
    """A server of that table, on a thread of its own."""
    fake = Fake(dict(replies))
    ready = threading.Event()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", fake.answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        end = asyncio.Event()
        ends.append((asyncio.get_running_loop(), end))
        ready.set()
        await end.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(WAIT_S)
    try:
        yield fake
    finally:
        ends[0][0].call_soon_threadsafe(ends[0][1].set)
        thread.join(WAIT_S)


def chunk(text: str | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    """A piece of a chat, as OpenAI streams it."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    """A piece of a completion, as OpenAI streams it."""
    return {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": reason}]}


def usage(prompt: int, generated: int) -> dict[str, Any]:
    """The last piece, with what was counted."""
    counted = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": counted}


def models(*names: str, owner: str = "somebody", **more: Any) -> Reply:
    """A list of models."""
    return 200, {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner, **more} for name in names]}


# What each program answers on the routes it is known by, as its own documentation or source has it.
PROGRAMS: dict[str, dict[str, Reply]] = {
    "ollama": {
        "GET /api/version": (200, {"version": "0.12.6"}),
        "GET /v1/models": models("smollm2:135m", owner="library", created=1700000000),
        "POST /api/show": (200, {"capabilities": ["completion", "tools"], "details": {"family": "llama"}}),
    },
    "lmstudio": {
        "GET /api/v0/models": (
            200,
            {
                "object": "list",
                "data": [
                    {
                        "id": "qwen2-vl-7b-instruct",
                        "object": "model",
                        "type": "vlm",
                        "publisher": "mlx-community",
                        "arch": "qwen2_vl",
                        "compatibility_type": "mlx",
                        "quantization": "4bit",
                        "state": "not-loaded",
                        "max_context_length": 32768,
                    }
                ],
            },
        ),
        "GET /v1/models": models("qwen2-vl-7b-instruct", owner="organization_owner"),
    },
    "koboldcpp": {
        "GET /api/extra/version": (200, {"result": "KoboldCpp", "version": "1.98", "protected": False, "txt2img": False}),
        "GET /api/version": (200, {"version": "0.7.0"}),
        "GET /props": (200, {"chat_template": "", "id": 0, "default_generation_settings": {"n_ctx": 4096}}),
        "GET /v1/models": models("koboldcpp/tiny", owner="koboldcpp"),
        "POST /api/extra/tokencount": (200, {"value": 2, "ids": [5, 6]}),
        "POST /api/extra/detokenize": (200, {"result": "hi there", "success": True}),
    },
    "tabby": {
        "GET /v1/models": models("Qwen3-4B-exl3", owner="tabbyAPI", parameters={"max_seq_len": 8192}),
        "GET /v1/model": (200, {"id": "Qwen3-4B-exl3", "object": "model", "owned_by": "tabbyAPI"}),
        "POST /v1/token/encode": (200, {"tokens": [5, 6], "length": 2}),
        "POST /v1/token/decode": (200, {"text": "hi there"}),
    },
    "textgen": {
        "GET /v1/internal/model/info": (200, {"model_name": "tiny.gguf", "lora_names": []}),
        "GET /v1/models": models("tiny.gguf", owner="user"),
        "POST /v1/internal/encode": (200, {"tokens": [5, 6], "length": 2}),
        "POST /v1/internal/decode": (200, {"text": "hi there"}),
    },
    "vllm": {
        "GET /version": (200, {"version": "0.11.0"}),
        "GET /v1/models": models("Qwen/Qwen3-4B", owner="vllm", max_model_len=40960),
        "POST /tokenize": (200, {"count": 2, "max_model_len": 40960, "tokens": [5, 6]}),
        "POST /detokenize": (200, {"prompt": "hi there"}),
    },
    "aphrodite": {
        "GET /version": (200, {"version": "0.10.0"}),
        "GET /api/extra/version": (200, {"result": "KoboldCpp", "version": "1.60.1"}),
        "GET /v1/models": models("mistralai/Mistral-7B", owner="pygmalionai", max_model_len=8192),
        "POST /tokenize": (200, {"count": 2, "max_model_len": 8192, "tokens": [5, 6]}),
        "POST /detokenize": (200, {"prompt": "hi there"}),
    },
    "llama-server": {
        "GET /props": (
            200,
            {
                "default_generation_settings": {"n_ctx": 4096},
                "build_info": "b6700-abcdef",
                "chat_template_caps": {"supports_tools": False},
                "modalities": {"vision": False, "audio": False},
            },
        ),
        "GET /v1/models": models("tiny.gguf", owner="llamacpp", meta={"n_ctx_train": 2048}),
        "POST /tokenize": (200, {"tokens": [5, 6]}),
        "POST /detokenize": (200, {"content": "hi there"}),
        "POST /apply-template": (200, {"prompt": "<user>hi"}),
    },
    "localai": {
        "GET /system": (200, {"backends": ["llama-cpp"], "loaded_models": []}),
        "GET /version": (200, {"version": "v3.5.0"}),
        "GET /v1/models": (200, {"object": "list", "data": [{"id": "gpt-4", "object": "model"}]}),
    },
    "openai": {"GET /v1/models": models("gpt-x")},
}
